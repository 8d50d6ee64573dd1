//! Stands between a client's socket and the HTTP library: counts bytes, keeps the times, and on HTTP/1 lets through
//! only heads that [`head`](super::head) passed, one whole head at a time.
//!
//! A head that may not pass is replaced by a harmless one, and the fault waits in [`Wire`] for the request handler, which
//! answers as ALB does, logs it and closes. So answers are written in one place and in order.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;
use tokio_util::io::poll_read_buf;

use super::chunks::{BadChunk, Chunks};
use super::head::{self, Class, Fault, Framing, Verdict};
use super::wire::{Arrival, Upgrade, Wire};
use crate::metrics::{Counters, Metric};

/// A head must be whole this long after its first byte, however slowly its bytes drip.
const HEAD_TIME_MAX: Duration = Duration::from_secs(60);
/// With requests under way, both directions are silent at most while a target is connected to (10 s, 10 s more for TLS) and
/// then for the idle timeout, after which there is an answer. Longer: the client takes nothing (HTTP/2 windows).
const BUSY_TIME_MORE: Duration = Duration::from_secs(30);
/// After a fault, what the client still sends is read and dropped, so that the answer is not lost to a reset.
const LINGER_TIME_MAX: Duration = Duration::from_secs(2);
const LINGER_BYTES_MAX: usize = 256 * 1024;
/// What is read at once: heads are small, bodies are not.
const HEAD_READ_BYTES: usize = 4 * 1024;
const BODY_READ_BYTES: usize = 64 * 1024;
/// Bytes that wait for an upgrade to be decided.
const UNDECIDED_BYTES_MAX: usize = 64 * 1024;

/// Stands for a head that may not pass.
const HARMLESS: &[u8] = b"GET / HTTP/1.1\r\nHost: -\r\nConnection: close\r\n\r\n";

enum State {
    Head,
    /// A request asked for another protocol; what follows is a head or it is not.
    Undecided,
    Body(u64),
    Chunked(Chunks),
    /// Not HTTP/1: everything passes.
    Tunnel,
    /// A fault was found: nothing more is read.
    Refused,
}

pub(crate) struct Guard<S> {
    io: S,
    wire: Arc<Wire>,
    counters: Arc<Counters>,
    state: State,
    /// Read, and not given to the library; the first `cleared` bytes may go.
    pending: BytesMut,
    cleared: usize,
    /// Of `pending`, what was searched for the end of the head.
    seen: usize,
    ended: bool,
    /// The stream says no farewell of its own: dropping it is all there is to its end, and a call less.
    drop_ends: bool,
    times: Times,
}

/// One timer a connection, looked at only when nothing moves.
struct Times {
    sleep: Pin<Box<Sleep>>,
    idle: Duration,
    head_began: Option<Instant>,
    /// Since when the client has sent nothing although it was asked.
    silent_since: Option<Instant>,
    /// Since when the client takes nothing.
    stalled_since: Option<Instant>,
    wrote: Instant,
    linger: Option<(Instant, usize)>,
}

impl<S> Guard<S> {
    pub(crate) fn http1(io: S, wire: Arc<Wire>, counters: Arc<Counters>, idle: Duration) -> Guard<S> {
        Guard::new(io, wire, counters, idle, State::Head)
    }

    /// For HTTP/2: bytes are counted, and a connection without streams is closed in time.
    pub(crate) fn http2(io: S, wire: Arc<Wire>, counters: Arc<Counters>, idle: Duration) -> Guard<S> {
        Guard::new(io, wire, counters, idle, State::Tunnel)
    }

    /// For a stream whose end needs no more than to be dropped: TCP without TLS.
    pub(crate) fn ended_by_drop(self) -> Guard<S> {
        Guard { drop_ends: true, ..self }
    }

    fn new(io: S, wire: Arc<Wire>, counters: Arc<Counters>, idle: Duration, state: State) -> Guard<S> {
        let now = Instant::now();
        let times = Times {
            sleep: Box::pin(tokio::time::sleep(idle.min(HEAD_TIME_MAX))),
            idle,
            head_began: None,
            silent_since: None,
            stalled_since: None,
            wrote: now,
            linger: None,
        };
        let pending = BytesMut::new();
        let (cleared, seen, ended, drop_ends) = (0, 0, false, false);
        Guard { io, wire, counters, state, pending, cleared, seen, ended, drop_ends, times }
    }

    /// Looks at what came; more of it may be cleared after that.
    fn examine(&mut self) -> io::Result<()> {
        if let State::Undecided = self.state {
            match self.wire.upgrade() {
                Upgrade::Undecided => return Ok(()),
                Upgrade::Accepted => self.state = State::Tunnel,
                Upgrade::Refused => self.state = State::Head,
            }
        }
        if self.pending.is_empty() {
            return Ok(());
        }
        match &mut self.state {
            State::Head => self.examine_head(),
            State::Body(left) => {
                self.cleared = usize::try_from(*left).unwrap_or(usize::MAX).min(self.pending.len());
                *left -= self.cleared as u64;
                if *left == 0 {
                    self.state = State::Head;
                }
            }
            State::Chunked(chunks) => {
                let (used, end) = chunks.pass(&self.pending).map_err(bad_chunk)?;
                self.cleared = used;
                if end {
                    self.state = State::Head;
                }
            }
            State::Tunnel => self.cleared = self.pending.len(),
            State::Undecided | State::Refused => {}
        }
        Ok(())
    }

    fn examine_head(&mut self) {
        let began = *self.times.head_began.get_or_insert_with(Instant::now);
        match head::read(&self.pending, self.seen) {
            Ok(None) => self.seen = self.pending.len(),
            Ok(Some(head)) => {
                self.state = match head.framing {
                    Framing::None if head.upgrade => {
                        self.wire.upgrade_asked();
                        State::Undecided
                    }
                    Framing::None => State::Head,
                    Framing::Length(length) => State::Body(length),
                    Framing::Chunked => State::Chunked(Chunks::default()),
                };
                self.cleared = head.bytes;
                self.arrived(head.verdict, None, head.bytes, began);
            }
            Err(fault) => self.refuse(fault, began),
        }
    }

    fn refuse(&mut self, fault: Fault, began: Instant) {
        let came = self.pending.len();
        self.pending.clear();
        self.pending.extend_from_slice(HARMLESS);
        self.cleared = HARMLESS.len();
        self.state = State::Refused;
        self.arrived(fault.verdict, Some(fault), came, began);
    }

    fn arrived(&mut self, verdict: Verdict, fault: Option<Fault>, bytes: usize, began: Instant) {
        self.seen = 0;
        self.times.head_began = None;
        self.wire.arrived(Arrival { verdict, fault, head_bytes: bytes as u64, began });
    }

    /// The client is silent: is it so for too long? `Ready` when something was done about it.
    fn poll_silence(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let now = Instant::now();
        let silent_since = *self.times.silent_since.get_or_insert(now);
        ready!(self.times.sleep.as_mut().poll(cx));
        let idle_since = silent_since.max(self.times.wrote);
        let deadline = match (&self.state, self.times.head_began) {
            (State::Head, Some(began)) => (began + HEAD_TIME_MAX).min(idle_since + self.times.idle),
            (State::Body(_) | State::Chunked(_), _) => idle_since + self.times.idle,
            _ if self.wire.is_busy() => idle_since + self.times.idle + BUSY_TIME_MORE,
            _ => idle_since + self.times.idle,
        };
        if deadline > now {
            let next = deadline.min(now + HEAD_TIME_MAX);
            self.times.sleep.as_mut().reset(next.into());
            return self.times.sleep.as_mut().poll(cx).map(|()| Ok(()));
        }
        match (&self.state, self.times.head_began) {
            (State::Head, Some(began)) => {
                let fault = Fault::new(408, Class::Compliant, None, &self.pending);
                self.refuse(fault, began);
            }
            (State::Body(_) | State::Chunked(_), _) => {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            _ => self.ended = true,
        }
        Poll::Ready(Ok(()))
    }

    /// The client takes nothing: is it so for too long?
    fn poll_stall(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let now = Instant::now();
        let since = *self.times.stalled_since.get_or_insert(now);
        ready!(self.times.sleep.as_mut().poll(cx));
        if since + self.times.idle <= now {
            return Poll::Ready(io::ErrorKind::TimedOut.into());
        }
        self.times.sleep.as_mut().reset((since + self.times.idle).into());
        self.times.sleep.as_mut().poll(cx).map(|()| io::ErrorKind::TimedOut.into())
    }

    fn wrote(&mut self, bytes: usize) {
        self.times.wrote = Instant::now();
        self.times.stalled_since = None;
        self.counters.add(Metric::ProcessedBytes, bytes as u64);
    }
}

fn bad_chunk(error: BadChunk) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

impl<S: AsyncRead + AsyncWrite + Unpin> Guard<S> {
    /// More bytes into `pending`; `Ready` when there are some, the stream ended, or time did something.
    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let State::Undecided = self.state
            && self.pending.len() >= UNDECIDED_BYTES_MAX
        {
            return Poll::Pending;
        }
        let room = match self.state {
            State::Body(_) | State::Chunked(_) => BODY_READ_BYTES,
            _ => HEAD_READ_BYTES,
        };
        self.pending.reserve(room);
        match poll_read_buf(Pin::new(&mut self.io), cx, &mut self.pending) {
            Poll::Ready(Ok(0)) => self.ended = true,
            Poll::Ready(Ok(bytes)) => {
                self.times.silent_since = None;
                self.counters.add(Metric::ProcessedBytes, bytes as u64);
            }
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            Poll::Pending => return self.poll_silence(cx),
        }
        Poll::Ready(Ok(()))
    }

    fn poll_through(&mut self, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = out.filled().len();
        match Pin::new(&mut self.io).poll_read(cx, out) {
            Poll::Ready(done) => {
                self.times.silent_since = None;
                self.counters.add(Metric::ProcessedBytes, (out.filled().len() - before) as u64);
                Poll::Ready(done)
            }
            Poll::Pending => {
                ready!(self.poll_silence(cx))?;
                Poll::Ready(Ok(()))
            }
        }
    }

    fn is_unread(&self) -> bool {
        matches!(self.state, State::Refused | State::Body(_) | State::Chunked(_))
    }

    /// Reads and drops what a refused client still sends.
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.is_unread() || self.ended {
            return Poll::Ready(());
        }
        let times = &mut self.times;
        let (until, taken) = times.linger.get_or_insert_with(|| {
            let until = Instant::now() + LINGER_TIME_MAX;
            times.sleep.as_mut().reset(until.into());
            (until, 0)
        });
        loop {
            let mut scratch = [std::mem::MaybeUninit::uninit(); HEAD_READ_BYTES];
            let mut scratch = ReadBuf::uninit(&mut scratch);
            match Pin::new(&mut self.io).poll_read(cx, &mut scratch) {
                Poll::Ready(Ok(())) if !scratch.filled().is_empty() => *taken += scratch.filled().len(),
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => return times.sleep.as_mut().poll(cx),
            }
            if *taken >= LINGER_BYTES_MAX || Instant::now() >= *until {
                return Poll::Ready(());
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Guard<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if this.cleared == 0 {
                this.examine()?;
            }
            if this.cleared > 0 {
                let bytes = this.cleared.min(out.remaining());
                out.put_slice(&this.pending[..bytes]);
                this.pending.advance(bytes);
                this.cleared -= bytes;
                return Poll::Ready(Ok(()));
            }
            match this.state {
                State::Refused => return Poll::Pending,
                _ if this.ended => return Poll::Ready(Ok(())),
                State::Tunnel => return this.poll_through(cx, out),
                _ => ready!(this.poll_more(cx))?,
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Guard<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        match Pin::new(&mut this.io).poll_write(cx, bytes) {
            Poll::Ready(Ok(written)) => {
                this.wrote(written);
                Poll::Ready(Ok(written))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => this.poll_stall(cx).map(Err),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        match Pin::new(&mut this.io).poll_write_vectored(cx, slices) {
            Poll::Ready(Ok(written)) => {
                this.wrote(written);
                Poll::Ready(Ok(written))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => this.poll_stall(cx).map(Err),
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        match Pin::new(&mut this.io).poll_flush(cx) {
            Poll::Pending => this.poll_stall(cx).map(Err),
            done => done,
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let drop_is_enough = this.drop_ends && !this.is_unread() && !matches!(this.state, State::Tunnel);
        if this.times.linger.is_none() && !drop_is_enough {
            ready!(Pin::new(&mut this.io).poll_shutdown(cx))?;
        }
        this.poll_linger(cx).map(Ok)
    }
}
