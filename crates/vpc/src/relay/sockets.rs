//! Sockets with the options the relay needs.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::AsRawFd;

use socket2::{Domain, Protocol, Socket, Type};

use super::HOST_SOURCE;
use crate::error::{Error, Result};

const BACKLOG: i32 = 1024;

/// TCP and UDP sockets that take what is diverted to `port`, in the calling thread's namespace.
pub(super) fn diverted(port: u16) -> Result<(Socket, Socket)> {
    let address = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port);
    let make = || {
        let listener = tcp()?;
        listener.set_ip_transparent_v4(true)?;
        listener.set_reuse_address(true)?;
        listener.bind(&address.into())?;
        listener.listen(BACKLOG)?;
        let datagrams = udp()?;
        datagrams.set_ip_transparent_v4(true)?;
        datagrams.bind(&address.into())?;
        receive_destination(&datagrams)?;
        Ok((listener, datagrams))
    };
    make().map_err(Error::io(format!("listening on {address} in the uplink's namespace")))
}

/// TCP and UDP sockets on the host; the kernel chooses the port when it is 0.
pub(super) fn listen(address: SocketAddrV4) -> io::Result<(Socket, Socket)> {
    Ok((listen_tcp(address)?, listen_udp(address)?))
}

pub(super) fn listen_tcp(address: SocketAddrV4) -> io::Result<Socket> {
    let listener = tcp()?;
    listener.set_reuse_address(true)?;
    listener.bind(&address.into())?;
    listener.listen(BACKLOG)?;
    Ok(listener)
}

pub(super) fn listen_udp(address: SocketAddrV4) -> io::Result<Socket> {
    let datagrams = udp()?;
    datagrams.set_reuse_address(true)?;
    datagrams.bind(&address.into())?;
    receive_destination(&datagrams)?;
    Ok(datagrams)
}

/// For a connection to a task, made in the uplink's namespace.
pub(super) fn from_host_tcp() -> io::Result<Socket> {
    let socket = tcp()?;
    // Else 28,000 connections to all tasks together use up the ports.
    let on: libc::c_int = 1;
    // SAFETY: the value outlives the call and its size is passed.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_BIND_ADDRESS_NO_PORT,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    socket.bind(&HOST_SOURCE.into())?;
    Ok(socket)
}

/// For datagrams from this host to a task, made in the uplink's namespace.
pub(super) fn from_host_udp(target: SocketAddr) -> io::Result<Socket> {
    connected_udp(&HOST_SOURCE, target)
}

/// For datagrams to the world.
pub(super) fn to_world_udp(target: SocketAddr) -> io::Result<Socket> {
    connected_udp(&SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0), target)
}

fn connected_udp(source: &SocketAddrV4, target: SocketAddr) -> io::Result<Socket> {
    let socket = udp()?;
    socket.bind(&(*source).into())?;
    socket.connect(&target.into())?;
    Ok(socket)
}

/// The socket a session answers its peer from: it has the address the peer wrote to, and being connected it
/// takes the peer's further datagrams. `foreign`: the address is not this namespace's own.
pub(super) fn answering_udp(local: SocketAddrV4, peer: SocketAddrV4, foreign: bool) -> io::Result<Socket> {
    let socket = udp()?;
    socket.set_reuse_address(true)?;
    if foreign {
        socket.set_ip_transparent_v4(true)?;
    }
    socket.bind(&local.into())?;
    socket.connect(&peer.into())?;
    Ok(socket)
}

pub(super) fn tokio_listener(socket: Socket) -> Result<tokio::net::TcpListener> {
    tokio::net::TcpListener::from_std(socket.into()).map_err(Error::io("handing a listener to the runtime"))
}

pub(super) fn tokio_udp(socket: Socket) -> Result<tokio::net::UdpSocket> {
    tokio::net::UdpSocket::from_std(socket.into()).map_err(Error::io("handing a socket to the runtime"))
}

fn tcp() -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn udp() -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn receive_destination(socket: &Socket) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the value outlives the call and its size is passed.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_IP,
            libc::IP_RECVORIGDSTADDR,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A datagram with where it came from and where it was sent to. Does not block.
pub(super) fn receive(
    socket: &impl AsRawFd,
    buffer: &mut [u8],
) -> io::Result<(usize, SocketAddrV4, SocketAddrV4)> {
    // SAFETY: all pointers in the header are to locals and the caller's buffer, live during the call, with
    // their true sizes; the structures are plain data for which zeroes are a value. Control messages are walked
    // with the C library's own macros within what the kernel says it wrote.
    unsafe {
        let mut source: libc::sockaddr_in = std::mem::zeroed();
        let mut control = [0u64; 16];
        let mut vector = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
        let mut header: libc::msghdr = std::mem::zeroed();
        header.msg_name = (&raw mut source).cast();
        header.msg_namelen = size_of::<libc::sockaddr_in>() as libc::socklen_t;
        header.msg_iov = &raw mut vector;
        header.msg_iovlen = 1;
        header.msg_control = control.as_mut_ptr().cast();
        header.msg_controllen = size_of_val(&control);
        let length = libc::recvmsg(socket.as_raw_fd(), &raw mut header, libc::MSG_DONTWAIT);
        if length < 0 {
            return Err(io::Error::last_os_error());
        }
        let mut message = libc::CMSG_FIRSTHDR(&raw const header);
        while !message.is_null() {
            if (*message).cmsg_level == libc::SOL_IP && (*message).cmsg_type == libc::IP_ORIGDSTADDR {
                let destination: libc::sockaddr_in =
                    std::ptr::read_unaligned(libc::CMSG_DATA(message).cast());
                return Ok((length as usize, address(&source), address(&destination)));
            }
            message = libc::CMSG_NXTHDR(&raw const header, message);
        }
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, "a datagram without its destination"))
}

fn address(raw: &libc::sockaddr_in) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::from(u32::from_be(raw.sin_addr.s_addr)), u16::from_be(raw.sin_port))
}
