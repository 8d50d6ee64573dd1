//! Relayed connections.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::{Direction, Shared, sockets};

/// How long the other side may take to answer; then the first is reset.
const CONNECT_TIMEOUT_SECONDS: u64 = 10;
/// AWS forgets an established connection that says nothing after five days (Amazon EC2 user guide, "Connection
/// tracking timeouts").
const IDLE_SECONDS: u64 = 432_000;
/// A peer that is gone without a word is found by probes long before that.
const KEEPALIVE: TcpKeepalive = TcpKeepalive::new()
    .with_time(Duration::from_secs(60))
    .with_interval(Duration::from_secs(15))
    .with_retries(4);
const BUFFER_BYTES: usize = 16 * 1024;
/// After an error of accept itself (no descriptors left): a pause, not a spin.
const ACCEPT_PAUSE_MILLISECONDS: u64 = 100;

/// Accepts until it is aborted; its sessions end with it.
pub(super) async fn serve(shared: Arc<Shared>, direction: Direction, listener: TcpListener) {
    let mut sessions = JoinSet::new();
    loop {
        tokio::select! {
            Some(_) = sessions.join_next(), if !sessions.is_empty() => {}
            accepted = listener.accept() => match accepted {
                Ok((near, _)) => {
                    let Ok(permit) = shared.tcp_sessions.clone().try_acquire_owned() else {
                        reset(near);
                        continue;
                    };
                    let shared = shared.clone();
                    sessions.spawn(async move {
                        session(&shared, direction, near).await;
                        drop(permit);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, ?direction, "the relay cannot accept");
                    sleep(Duration::from_millis(ACCEPT_PAUSE_MILLISECONDS)).await;
                }
            }
        }
    }
}

async fn session(shared: &Shared, direction: Direction, near: TcpStream) {
    // The address the peer wrote to, not ours.
    let Ok(SocketAddr::V4(destination)) = near.local_addr() else { return reset(near) };
    let Some(target) = shared.target(direction, destination, true) else { return reset(near) };
    let connecting = connect(shared, direction, target);
    let far = match timeout(Duration::from_secs(CONNECT_TIMEOUT_SECONDS), connecting).await {
        Ok(Ok(far)) => far,
        Ok(Err(error)) => {
            tracing::debug!(%target, %error, ?direction, "no connection");
            return reset(near);
        }
        Err(_) => {
            tracing::debug!(%target, ?direction, "no connection in time");
            return reset(near);
        }
    };
    for stream in [&near, &far] {
        // Options of a socket that may be gone already.
        let _ = stream.set_nodelay(true);
        let _ = SockRef::from(stream).set_tcp_keepalive(&KEEPALIVE);
    }
    copy(near, far).await;
}

async fn connect(shared: &Shared, direction: Direction, target: SocketAddr) -> io::Result<TcpStream> {
    match direction {
        Direction::Outward => TcpStream::connect(target).await,
        Direction::Inward => {
            let socket = shared.worker.run(sockets::from_host_tcp).await?;
            TcpSocket::from_std_stream(socket.into()).connect(target).await
        }
    }
}

/// Bytes both ways; a side that ends is ended on the other, an error on one side resets both.
async fn copy(mut near: TcpStream, mut far: TcpStream) {
    let start = Instant::now();
    let last = AtomicU64::new(0);
    let done = {
        let (mut near_read, mut near_write) = near.split();
        let (mut far_read, mut far_write) = far.split();
        let both = async {
            tokio::try_join!(
                pump(&mut near_read, &mut far_write, start, &last),
                pump(&mut far_read, &mut near_write, start, &last)
            )
        };
        tokio::select! {
            done = both => done.map(|_| ()),
            () = idle(start, &last) => Err(io::ErrorKind::TimedOut.into()),
        }
    };
    if done.is_err() {
        reset(near);
        reset(far);
    }
}

async fn pump(
    reader: &mut tokio::net::tcp::ReadHalf<'_>,
    writer: &mut tokio::net::tcp::WriteHalf<'_>,
    start: Instant,
    last: &AtomicU64,
) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let length = reader.read(&mut buffer).await?;
        if length == 0 {
            return writer.shutdown().await;
        }
        last.store(start.elapsed().as_secs(), Ordering::Relaxed);
        writer.write_all(&buffer[..length]).await?;
    }
}

async fn idle(start: Instant, last: &AtomicU64) {
    loop {
        let silent = start.elapsed().as_secs().saturating_sub(last.load(Ordering::Relaxed));
        match IDLE_SECONDS.checked_sub(silent) {
            None | Some(0) => return,
            Some(rest) => sleep(Duration::from_secs(rest)).await,
        }
    }
}

/// The peer sees its connection reset, as if nobody had been there.
fn reset(stream: TcpStream) {
    // A socket that is gone needs no reset.
    let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
}
