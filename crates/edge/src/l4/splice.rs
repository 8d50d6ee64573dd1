//! One way of a connection without TLS: small ones are copied; what has shown to be much goes through a pipe, from socket to
//! socket inside the kernel.

use std::io;
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_getpipe_size, fcntl_setpipe_size, pipe_with, splice};
use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::TcpStream;

use super::copy::{BUFFER_BYTES, Failed, Silence};

/// Copied before a pipe is worth its making.
const COPIED_BYTES_MAX: u64 = 1 << 20;
/// Of one pipe. All balancers of a machine are one user, for whom the kernel makes small ones when they have 64 MiB.
const PIPE_BYTES: usize = 256 << 10;
/// A smaller one is no gain.
const PIPE_BYTES_MIN: usize = 64 << 10;
/// At a time, in the process: 8 MiB at most. Who comes later copies on.
const PIPES_MAX: usize = 32;

static PIPES: AtomicUsize = AtomicUsize::new(0);

/// Until `from` has said all, which `to` is told.
pub(super) async fn one_way(
    from: &TcpStream,
    to: &TcpStream,
    count: &AtomicU64,
    silence: &Silence,
) -> Result<(), Failed> {
    let (mut buffer, mut pipe, mut moved) = (bytes::BytesMut::new(), None, 0);
    loop {
        if moved > COPIED_BYTES_MAX && pipe.is_none() {
            moved = 0;
            pipe = Pipe::new();
            if pipe.is_some() {
                buffer = bytes::BytesMut::new();
            }
        }
        let read = match &pipe {
            Some(pipe) => pipe.fill(from).await,
            None => {
                buffer.clear();
                buffer.reserve(BUFFER_BYTES);
                read(from, &mut buffer).await
            }
        };
        let read = read.map_err(Failed::Read)?;
        if read == 0 {
            // The other side may be gone already, with all it wanted.
            let _ = SockRef::from(to).shutdown(Shutdown::Write);
            return Ok(());
        }
        silence.broken();
        let written = match &pipe {
            Some(pipe) => pipe.drain(to, read).await,
            None => write(to, &buffer).await,
        };
        written.map_err(Failed::Write)?;
        moved += read as u64;
        count.fetch_add(read as u64, Relaxed);
        silence.broken();
    }
}

async fn read(from: &TcpStream, buffer: &mut bytes::BytesMut) -> io::Result<usize> {
    loop {
        from.readable().await?;
        match from.try_read_buf(buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            read => return read,
        }
    }
}

async fn write(to: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        to.writable().await?;
        match to.try_write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Empty between two steps: what is filled in is drained before anything else is.
struct Pipe {
    out: OwnedFd,
    into: OwnedFd,
    bytes: usize,
    _place: Place,
}

/// One of [`PIPES_MAX`].
struct Place;

impl Place {
    fn take() -> Option<Self> {
        let taken = PIPES.fetch_update(Relaxed, Relaxed, |pipes| (pipes < PIPES_MAX).then_some(pipes + 1));
        // Made only where it is one: its end gives a place back.
        taken.is_ok().then(|| Self)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        PIPES.fetch_sub(1, Relaxed);
    }
}

impl Pipe {
    /// `None`: there are enough, or the kernel has no room for more.
    fn new() -> Option<Self> {
        let place = Place::take()?;
        let (out, into) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).ok()?;
        // What it has is looked at: a user with much in pipes gets less than he asks for.
        let _ = fcntl_setpipe_size(&into, PIPE_BYTES);
        let bytes = fcntl_getpipe_size(&into).ok()?;
        (bytes >= PIPE_BYTES_MIN).then_some(Self { out, into, bytes, _place: place })
    }

    async fn fill(&self, from: &TcpStream) -> io::Result<usize> {
        let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
        let fill = || Ok(splice(from, None, &self.into, None, self.bytes, flags)?);
        from.async_io(Interest::READABLE, fill).await
    }

    async fn drain(&self, to: &TcpStream, mut bytes: usize) -> io::Result<()> {
        let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
        while bytes > 0 {
            let drain = || Ok(splice(&self.out, None, to, None, bytes, flags)?);
            match to.async_io(Interest::WRITABLE, drain).await? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                drained => bytes -= drained,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::net::tcp::OwnedWriteHalf;

    use super::super::copy::{Count, End, copy_tcp};
    use super::*;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let far = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (far, listener.accept().await.unwrap().0)
    }

    /// Bytes none of which is where it was before.
    fn much(seed: usize) -> Vec<u8> {
        (0..20 << 20).map(|at: usize| (at.wrapping_mul(2_654_435_761 + seed) >> 13) as u8).collect()
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn much_goes_both_ways_at_once_and_nothing_is_lost_at_the_end() {
        for pipes in [0, PIPES_MAX] {
            // With all pipes in use it is copied.
            let _taken: Vec<Option<Place>> = (0..pipes).map(|_| Place::take()).collect();
            let ((client, near), (far, target)) = (pair().await, pair().await);
            let (asked, answered) = (much(1), much(2));
            let (expected_by_target, expected_by_client) = (asked.clone(), answered.clone());
            let play = |mut stream: OwnedWriteHalf, bytes: Vec<u8>| {
                tokio::spawn(async move {
                    stream.write_all(&bytes).await.unwrap();
                    stream.shutdown().await.unwrap();
                })
            };
            let count = Count::default();
            let copied = copy_tcp(&near, &far, Duration::from_secs(60), &count);
            let ends = async {
                let (mut client_read, client_write) = client.into_split();
                let (mut target_read, target_write) = target.into_split();
                let writing = [play(client_write, asked), play(target_write, answered)];
                let mut heard = [Vec::new(), Vec::new()];
                let [by_client, by_target] = &mut heard;
                tokio::try_join!(client_read.read_to_end(by_client), target_read.read_to_end(by_target))
                    .unwrap();
                for one in writing {
                    one.await.unwrap();
                }
                heard
            };
            let (end, [by_client, by_target]) = tokio::join!(copied, ends);
            assert!(matches!(end, End::Whole), "{end:?}");
            assert!(by_client == expected_by_client && by_target == expected_by_target);
            assert_eq!(count.to_target.into_inner(), 20 << 20);
        }
    }

    #[tokio::test]
    async fn a_side_that_is_reset_is_told_of() {
        let ((mut client, near), (far, target)) = (pair().await, pair().await);
        client.write_all(b"x").await.unwrap();
        SockRef::from(&target).set_linger(Some(Duration::ZERO)).unwrap();
        drop(target);
        let end = copy_tcp(&near, &far, Duration::from_secs(60), &Count::default()).await;
        assert!(matches!(end, End::Target(_)), "{end:?}");
    }

    #[test]
    fn there_are_so_many_pipes_and_those_that_end_are_given_back() {
        for _ in 0..2 {
            let places: Vec<Place> = std::iter::from_fn(Place::take).collect();
            assert_eq!(places.len(), PIPES_MAX);
            for _ in 0..3 {
                assert!(Pipe::new().is_none());
            }
            drop(places);
            assert!(Pipe::new().is_some());
        }
    }
}
