//! Bytes both ways, until both ends have said all, or nothing has been said for too long.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::splice;

/// For each way of a flow, from its first byte on.
pub(super) const BUFFER_BYTES: usize = 64 << 10;

/// How a flow ended.
#[derive(Debug)]
pub(crate) enum End {
    /// Both sides, one after the other.
    Whole,
    Idle,
    /// The client's side failed: reset, most likely.
    Client(io::Error),
    Target(io::Error),
}

/// What went through.
#[derive(Debug, Default)]
pub(crate) struct Count {
    pub(crate) to_target: AtomicU64,
    pub(crate) to_client: AtomicU64,
}

/// A side that ends is ended on the other; the other goes on. Counts as it goes.
pub(crate) async fn copy<C, T>(client: C, target: T, idle: Duration, count: &Count) -> End
where
    C: AsyncRead + AsyncWrite,
    T: AsyncRead + AsyncWrite,
{
    let silence = Silence::new();
    let (mut client_read, mut client_write) = tokio::io::split(client);
    let (mut target_read, mut target_write) = tokio::io::split(target);
    let forth = one_way(&mut client_read, &mut target_write, &count.to_target, &silence);
    let back = one_way(&mut target_read, &mut client_write, &count.to_client, &silence);
    silence.of_both(idle, forth, back).await
}

/// The same of two connections without TLS: much is moved without a look at it.
pub(crate) async fn copy_tcp(client: &TcpStream, target: &TcpStream, idle: Duration, count: &Count) -> End {
    let silence = Silence::new();
    let forth = splice::one_way(client, target, &count.to_target, &silence);
    let back = splice::one_way(target, client, &count.to_client, &silence);
    silence.of_both(idle, forth, back).await
}

/// When something was said last.
pub(super) struct Silence {
    start: Instant,
    /// Milliseconds from the start.
    since: AtomicU64,
}

impl Silence {
    fn new() -> Self {
        Self { start: Instant::now(), since: AtomicU64::new(0) }
    }

    pub(super) fn broken(&self) {
        self.since.store(self.start.elapsed().as_millis() as u64, Relaxed);
    }

    async fn lasts(&self, idle: Duration) {
        loop {
            let quiet_since = self.start + Duration::from_millis(self.since.load(Relaxed));
            if quiet_since.elapsed() >= idle {
                return;
            }
            tokio::time::sleep_until(quiet_since + idle).await;
        }
    }

    async fn of_both(
        &self,
        idle: Duration,
        forth: impl Future<Output = Result<(), Failed>>,
        back: impl Future<Output = Result<(), Failed>>,
    ) -> End {
        let forth = async {
            forth.await.map_err(|failed| match failed {
                Failed::Read(error) => End::Client(error),
                Failed::Write(error) => End::Target(error),
            })
        };
        let back = async {
            back.await.map_err(|failed| match failed {
                Failed::Read(error) => End::Target(error),
                Failed::Write(error) => End::Client(error),
            })
        };
        tokio::select! {
            both = async { tokio::try_join!(forth, back) } => match both {
                Ok(_) => End::Whole,
                Err(end) => end,
            },
            () = self.lasts(idle) => End::Idle,
        }
    }
}

pub(super) enum Failed {
    Read(io::Error),
    Write(io::Error),
}

async fn one_way<R, W>(from: &mut R, to: &mut W, count: &AtomicU64, silence: &Silence) -> Result<(), Failed>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut buffer = bytes::BytesMut::new();
    loop {
        buffer.clear();
        buffer.reserve(BUFFER_BYTES);
        let read = from.read_buf(&mut buffer).await.map_err(Failed::Read)?;
        if read == 0 {
            // The other side may be gone already, with all it wanted.
            let _ = to.shutdown().await;
            return Ok(());
        }
        silence.broken();
        to.write_all(&buffer).await.map_err(Failed::Write)?;
        count.fetch_add(read as u64, Relaxed);
        silence.broken();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_side_may_end_before_the_other() {
        let (mut client, near) = tokio::io::duplex(1024);
        let (far, mut target) = tokio::io::duplex(1024);
        let count = Count::default();
        let ends = async {
            client.write_all(b"question").await.unwrap();
            client.shutdown().await.unwrap();
            let mut heard = String::new();
            target.read_to_string(&mut heard).await.unwrap();
            assert_eq!(heard, "question");
            target.write_all(b"answer").await.unwrap();
            target.shutdown().await.unwrap();
            heard.clear();
            client.read_to_string(&mut heard).await.unwrap();
            heard
        };
        let (end, heard) = tokio::join!(copy(near, far, Duration::from_secs(60), &count), ends);
        assert!(matches!(end, End::Whole), "{end:?}");
        assert_eq!(heard, "answer");
        assert_eq!((count.to_target.into_inner(), count.to_client.into_inner()), (8, 6));
    }

    #[tokio::test]
    async fn a_silent_flow_ends() {
        let (mut client, near) = tokio::io::duplex(1024);
        let (far, mut target) = tokio::io::duplex(1024);
        client.write_all(b"x").await.unwrap();
        let count = Count::default();
        let copied = copy(near, far, Duration::from_millis(20), &count);
        let mut byte = [0];
        let (end, read) = tokio::join!(copied, target.read_exact(&mut byte));
        read.unwrap();
        assert!(matches!(end, End::Idle), "{end:?}");
    }
}
