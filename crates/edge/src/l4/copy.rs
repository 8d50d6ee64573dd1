//! Bytes both ways, until both ends have said all, or nothing has been said for too long.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::Instant;

/// For each way of a flow, from its first byte on.
const BUFFER_BYTES: usize = 64 << 10;

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
    let start = Instant::now();
    let last = AtomicU64::new(0);
    let touch = || last.store(start.elapsed().as_millis() as u64, Relaxed);
    let (mut client_read, mut client_write) = tokio::io::split(client);
    let (mut target_read, mut target_write) = tokio::io::split(target);
    let forth = async {
        match one_way(&mut client_read, &mut target_write, &count.to_target, touch).await {
            Ok(()) => Ok(()),
            Err(Failed::Read(error)) => Err(End::Client(error)),
            Err(Failed::Write(error)) => Err(End::Target(error)),
        }
    };
    let back = async {
        match one_way(&mut target_read, &mut client_write, &count.to_client, touch).await {
            Ok(()) => Ok(()),
            Err(Failed::Read(error)) => Err(End::Target(error)),
            Err(Failed::Write(error)) => Err(End::Client(error)),
        }
    };
    let silence = async {
        loop {
            let quiet_since = start + Duration::from_millis(last.load(Relaxed));
            if quiet_since.elapsed() >= idle {
                return;
            }
            tokio::time::sleep_until(quiet_since + idle).await;
        }
    };
    tokio::select! {
        both = async { tokio::try_join!(forth, back) } => match both {
            Ok(_) => End::Whole,
            Err(end) => end,
        },
        () = silence => End::Idle,
    }
}

enum Failed {
    Read(io::Error),
    Write(io::Error),
}

async fn one_way<R, W>(from: &mut R, to: &mut W, count: &AtomicU64, touch: impl Fn()) -> Result<(), Failed>
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
        touch();
        to.write_all(&buffer).await.map_err(Failed::Write)?;
        count.fetch_add(read as u64, Relaxed);
        touch();
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
