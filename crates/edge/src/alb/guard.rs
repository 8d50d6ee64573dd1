//! Stands between a client's socket and the HTTP/2 library: counts bytes, and ends a connection that is silent, or takes
//! nothing, for too long.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use super::connection::Connection;
use crate::metrics::Metric;

/// With requests under way, both directions are silent at most while a target is connected to (10 s, 10 s more for TLS) and
/// then for the idle timeout, after which there is an answer. Longer: the client takes nothing (HTTP/2 windows).
const BUSY_TIME_MORE: Duration = Duration::from_secs(30);
/// The timer looks this often at most.
const LOOK_PERIOD: Duration = Duration::from_secs(60);

pub(crate) struct Guard<S> {
    io: S,
    connection: Arc<Connection>,
    /// One timer, looked at only when nothing moves.
    sleep: Pin<Box<Sleep>>,
    idle: Duration,
    /// Since when the client has sent nothing although it was asked.
    silent_since: Option<Instant>,
    /// Since when the client takes nothing.
    stalled_since: Option<Instant>,
    wrote: Instant,
}

impl<S> Guard<S> {
    pub(crate) fn new(io: S, connection: Arc<Connection>, idle: Duration) -> Guard<S> {
        Guard {
            io,
            connection,
            sleep: Box::pin(tokio::time::sleep(idle.min(LOOK_PERIOD))),
            idle,
            silent_since: None,
            stalled_since: None,
            wrote: Instant::now(),
        }
    }

    fn count(&self, bytes: usize) {
        self.connection.worker.edge.metrics.balancer.add(Metric::ProcessedBytes, bytes as u64);
    }

    /// The client is silent: is it so for too long? `Ready`: it is.
    fn poll_silence(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let now = Instant::now();
        let silent_since = *self.silent_since.get_or_insert(now);
        ready!(self.sleep.as_mut().poll(cx));
        let more = if self.connection.wire.is_busy() { BUSY_TIME_MORE } else { Duration::ZERO };
        let deadline = silent_since.max(self.wrote) + self.idle + more;
        if deadline <= now {
            return Poll::Ready(());
        }
        self.sleep.as_mut().reset(deadline.min(now + LOOK_PERIOD).into());
        self.sleep.as_mut().poll(cx)
    }

    /// The client takes nothing: is it so for too long?
    fn poll_stall(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let now = Instant::now();
        let since = *self.stalled_since.get_or_insert(now);
        ready!(self.sleep.as_mut().poll(cx));
        if since + self.idle <= now {
            return Poll::Ready(io::ErrorKind::TimedOut.into());
        }
        self.sleep.as_mut().reset((since + self.idle).into());
        self.sleep.as_mut().poll(cx).map(|()| io::ErrorKind::TimedOut.into())
    }

    fn written(&mut self, cx: &mut Context<'_>, done: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match done {
            Poll::Ready(Ok(bytes)) => {
                self.wrote = Instant::now();
                self.stalled_since = None;
                self.count(bytes);
                done
            }
            Poll::Ready(Err(_)) => done,
            Poll::Pending => self.poll_stall(cx).map(Err),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guard<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = out.filled().len();
        match Pin::new(&mut this.io).poll_read(cx, out) {
            Poll::Ready(done) => {
                this.silent_since = None;
                this.count(out.filled().len() - before);
                Poll::Ready(done)
            }
            // Nothing read is the end.
            Poll::Pending => this.poll_silence(cx).map(Ok),
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guard<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let done = Pin::new(&mut this.io).poll_write(cx, bytes);
        this.written(cx, done)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let done = Pin::new(&mut this.io).poll_write_vectored(cx, slices);
        this.written(cx, done)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        match Pin::new(&mut this.io).poll_flush(cx) {
            Poll::Pending => this.poll_stall(cx).map(Err),
            done @ Poll::Ready(_) => done,
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}
