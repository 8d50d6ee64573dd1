//! Sockets towards targets: in the balancer's own name, or in the client's, from its address and port (network load
//! balancers guide, "Client IP preservation").
//!
//! Every address is an own one in a network load balancer's namespace, so this takes no privilege. The VPC's router lets out
//! what is in the name of those who spoke to this balancer, and brings the answers back here.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::net::{TcpSocket, TcpStream, UdpSocket};

pub(super) async fn tcp(target: SocketAddr, client: Option<SocketAddr>) -> io::Result<TcpStream> {
    let Some(client) = client else { return TcpStream::connect(target).await };
    match tcp_from(target, client).await {
        // The target knows the pair already: by another of the client's connections, or by one that has just ended.
        Err(error) if is_taken(&error) => tcp_from(target, SocketAddr::new(client.ip(), 0)).await,
        other => other,
    }
}

async fn tcp_from(target: SocketAddr, client: SocketAddr) -> io::Result<TcpStream> {
    let socket = if target.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // One client's port may lead to several targets.
    socket.set_reuseaddr(true)?;
    socket.bind(client)?;
    socket.connect(target).await
}

pub(super) async fn udp(target: SocketAddr, client: Option<SocketAddr>) -> io::Result<UdpSocket> {
    let own: SocketAddr = match target {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let from = client.unwrap_or(own);
    let socket = match UdpSocket::bind(from).await {
        // By another listener: answers must not be mixed up.
        Err(error) if is_taken(&error) => UdpSocket::bind(SocketAddr::new(from.ip(), 0)).await?,
        other => other?,
    };
    socket.connect(target).await?;
    Ok(socket)
}

fn is_taken(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::AddrInUse | io::ErrorKind::AddrNotAvailable)
}

#[cfg(test)]
mod tests {
    use socket2::{Domain, Socket, Type};
    use tokio::net::TcpListener;

    use super::*;

    /// A client on an address of its own, whose port may be used once more.
    fn client(to: SocketAddr) -> TcpStream {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_reuse_address(true).unwrap();
        socket.bind(&SocketAddr::from(([127, 9, 1, 7], 0)).into()).unwrap();
        socket.connect(&to.into()).unwrap();
        socket.set_nonblocking(true).unwrap();
        TcpStream::from_std(socket.into()).unwrap()
    }

    #[tokio::test]
    async fn a_target_sees_the_clients_address_and_port_or_another_port_of_it() {
        let front = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = target.local_addr().unwrap();
        let client = client(front.local_addr().unwrap()).local_addr().unwrap();
        let _first = tcp(address, Some(client)).await.unwrap();
        assert_eq!(target.accept().await.unwrap().1, client);
        let _second = tcp(address, Some(client)).await.unwrap();
        let seen = target.accept().await.unwrap().1;
        assert!(seen.ip() == client.ip() && seen.port() != client.port(), "{seen}");
        let own = tcp(address, None).await.unwrap();
        assert_eq!(target.accept().await.unwrap().1, own.local_addr().unwrap());
    }

    #[tokio::test]
    async fn datagrams_too() {
        let target = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = target.local_addr().unwrap();
        let client: SocketAddr = ([127, 9, 1, 8], 4000).into();
        let sockets = [udp(address, Some(client)).await.unwrap(), udp(address, Some(client)).await.unwrap()];
        let mut seen = Vec::new();
        for socket in &sockets {
            socket.send(b"x").await.unwrap();
            seen.push(target.recv_from(&mut [0]).await.unwrap().1);
        }
        assert_eq!((seen[0], seen[1].ip()), (client, client.ip()));
        assert_ne!(seen[0], seen[1]);
    }
}
