//! Relayed datagrams: a session per peer and address it writes to.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddrV4;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use super::{Direction, Shared, sockets};

/// AWS: a UDP stream that says nothing is forgotten after 180 seconds (Amazon EC2 user guide, "Connection
/// tracking timeouts").
const IDLE_SECONDS: u64 = 180;
/// Datagrams that may wait while a session is being made; more are dropped, as networks do.
const QUEUE: usize = 32;
const DATAGRAM_BYTES_MAX: usize = 65_535;
const ERROR_PAUSE_MILLISECONDS: u64 = 100;

/// Source and destination as the peer sees them.
type Pair = (SocketAddrV4, SocketAddrV4);

/// Receives until it is aborted; its sessions end with it.
pub(super) async fn serve(shared: Arc<Shared>, direction: Direction, socket: UdpSocket) {
    let mut open: HashMap<Pair, mpsc::Sender<Vec<u8>>> = HashMap::new();
    let mut sessions: JoinSet<Pair> = JoinSet::new();
    let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
    loop {
        tokio::select! {
            ended = sessions.join_next(), if !sessions.is_empty() => {
                if let Some(Ok(pair)) = ended {
                    open.remove(&pair);
                }
            }
            received = socket.async_io(Interest::READABLE, || sockets::receive(&socket, &mut buffer)) => {
                let (length, source, destination) = match received {
                    Ok(received) => received,
                    Err(error) => {
                        tracing::warn!(%error, ?direction, "the relay cannot receive");
                        sleep(Duration::from_millis(ERROR_PAUSE_MILLISECONDS)).await;
                        continue;
                    }
                };
                let pair = (source, destination);
                let datagram = buffer[..length].to_vec();
                if let Some(session) = open.get(&pair).filter(|session| !session.is_closed()) {
                    // Full: dropped.
                    let _ = session.try_send(datagram);
                    continue;
                }
                let Ok(permit) = shared.udp_sessions.clone().try_acquire_owned() else { continue };
                let (sender, queue) = mpsc::channel(QUEUE);
                // The queue is new and has room.
                let _ = sender.try_send(datagram);
                open.insert(pair, sender);
                let shared = shared.clone();
                sessions.spawn(async move {
                    if let Err(error) = session(&shared, direction, pair, queue).await {
                        tracing::debug!(source = %pair.0, destination = %pair.1, %error, "a UDP session ended");
                    }
                    drop(permit);
                    pair
                });
            }
        }
    }
}

async fn session(
    shared: &Shared,
    direction: Direction,
    (source, destination): Pair,
    mut queue: mpsc::Receiver<Vec<u8>>,
) -> io::Result<()> {
    let Some(target) = shared.target(direction, destination, false) else { return Ok(()) };
    let (near, far) = match direction {
        Direction::Inward => (
            sockets::answering_udp(destination, source, false)?,
            shared.worker.run(move || sockets::from_host_udp(target)).await?,
        ),
        Direction::Outward => (
            shared.worker.run(move || sockets::answering_udp(destination, source, true)).await?,
            sockets::to_world_udp(target)?,
        ),
    };
    let (near, far) = (UdpSocket::from_std(near.into())?, UdpSocket::from_std(far.into())?);
    let mut deadline = Instant::now() + Duration::from_secs(IDLE_SECONDS);
    loop {
        tokio::select! {
            datagram = queue.recv() => match datagram {
                Some(datagram) => { far.send(&datagram).await?; }
                None => return Ok(()),
            },
            ready = near.readable() => { ready?; forward(&near, &far).await?; }
            ready = far.readable() => { ready?; forward(&far, &near).await?; }
            () = sleep_until(deadline) => return Ok(()),
        }
        deadline = Instant::now() + Duration::from_secs(IDLE_SECONDS);
    }
}

/// Everything that has arrived. The buffer lives no longer than that: thousands of silent sessions cost little.
async fn forward(from: &UdpSocket, to: &UdpSocket) -> io::Result<()> {
    let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
    for _ in 0..QUEUE {
        match from.try_recv(&mut buffer) {
            Ok(length) => drop(to.send(&buffer[..length]).await?),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
