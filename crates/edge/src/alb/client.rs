//! The socket of an HTTP/1 client: heads and bodies come from it, answers go to it, and it is known how long it has been silent.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes, BytesMut};
use http::request;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::io::poll_read_buf;

use super::alarms::{Alarm, Moment, TICK};
use super::body::{ClientError, Source};
use super::chunks::{Chunks, Piece};
use super::head::{self, Class, Fault, Framing, Head};
use super::output::Output;
use super::server::Term;
use crate::metrics::{Counters, Metric};

/// A head must be whole this long after its first byte, however slowly its bytes drip.
const HEAD_TIME_MAX: Duration = Duration::from_secs(60);
/// A client that has closed its side behind a request waits for the answer, or it has gone altogether, which looks the same: for
/// this long the one is believed, then the other.
const HALF_CLOSED_TIME_MAX: Duration = Duration::from_secs(2);
/// After a fault, what the client still sends is read and dropped, so that the answer is not lost to a reset.
const LINGER_TIME_MAX: Duration = Duration::from_secs(2);
const LINGER_BYTES_MAX: usize = 256 * 1024;
/// What is read at once: heads are small, bodies are not.
const HEAD_READ_BYTES: usize = 4 * 1024;
const BODY_READ_BYTES: usize = 64 * 1024;
/// Of a buffer, between two requests.
const INPUT_KEPT_BYTES_MAX: usize = 8 * 1024;

const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// A client's connection, plain or TLS.
pub(crate) trait ClientStream: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    /// The runtime knows of it.
    fn is_watched(&self) -> bool {
        true
    }

    /// It says no farewell of its own: dropping it is all there is to its end, and a call less.
    fn ends_by_drop(&self) -> bool {
        false
    }
}

/// What comes next of a client.
#[expect(clippy::large_enum_variant, reason = "made once a request, and taken apart at once")]
pub(super) enum Next {
    Head(Head, request::Parts, Instant),
    /// A head that may not pass, how many bytes of it came, and when the first did.
    Fault(Fault, u64, Instant),
    /// Nothing.
    End,
}

/// Shared by the connection's task and by whoever takes the body of its request.
pub(crate) struct Io<S> {
    inner: Mutex<Inner<S>>,
    alarm: Arc<Alarm>,
    counters: Arc<Counters>,
    idle: Duration,
}

struct Inner<S> {
    stream: S,
    /// Read, and not looked at.
    input: BytesMut,
    /// Of `input`, what was searched for the end of a head.
    seen: usize,
    /// When the first byte of a head came, and until when the last must have.
    head: Option<(Instant, Moment)>,
    body: Body,
    /// What has to be said before the client sends the body, until it is said.
    first: &'static [u8],
    /// Who waits for the body.
    reader: Option<Waker>,
    /// Until when the client may be silent, now that it is.
    silent: Option<Moment>,
    /// Until when it may take nothing, now that it does.
    stalled: Option<Moment>,
    /// The client has closed its side.
    ended: bool,
    half_closed: Option<Moment>,
    /// When somebody should begin to look whether the client goes away.
    unwatched: Option<Moment>,
    /// Nothing more is to be had of the client.
    broken: bool,
    /// A fault was found: what follows is not read.
    refused: bool,
}

/// Of the request under way, what has not come.
enum Body {
    None,
    Length(u64),
    Chunked(Chunks),
}

impl<S: ClientStream> Io<S> {
    pub(crate) fn new(stream: S, alarm: Arc<Alarm>, counters: Arc<Counters>, idle: Duration) -> Arc<Io<S>> {
        let inner = Inner {
            stream,
            input: BytesMut::new(),
            seen: 0,
            head: None,
            body: Body::None,
            first: &[],
            reader: None,
            silent: None,
            stalled: None,
            ended: false,
            half_closed: None,
            unwatched: None,
            broken: false,
            refused: false,
        };
        Arc::new(Io { inner: Mutex::new(inner), alarm, counters, idle })
    }

    pub(super) fn alarm(&self) -> &Alarm {
        &self.alarm
    }

    fn inner(&self) -> MutexGuard<'_, Inner<S>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next request's head, or the end of the connection.
    pub(super) fn poll_head(&self, cx: &mut Context<'_>, term: &Term) -> Poll<Next> {
        let inner = &mut *self.inner();
        loop {
            if !inner.input.is_empty() {
                let (began, _) =
                    *inner.head.get_or_insert_with(|| (Instant::now(), self.alarm.after(HEAD_TIME_MAX)));
                match head::take(&mut inner.input, &mut inner.seen) {
                    Ok(None) => {}
                    Ok(Some((head, parts))) => {
                        inner.begin(&head);
                        return Poll::Ready(Next::Head(head, parts, began));
                    }
                    Err(fault) => return Poll::Ready(inner.refuse(fault, began)),
                }
            }
            if inner.ended || (inner.input.is_empty() && term.is_over(&self.alarm)) {
                return Poll::Ready(Next::End);
            }
            match inner.poll_read(cx, HEAD_READ_BYTES, &self.counters) {
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(_)) => return Poll::Ready(Next::End),
                Poll::Pending => return self.poll_silence(inner, term),
            }
        }
    }

    fn poll_silence(&self, inner: &mut Inner<S>, term: &Term) -> Poll<Next> {
        let silent = *inner.silent.get_or_insert_with(|| self.alarm.after(self.idle));
        let until = inner.head.map_or(silent, |(_, whole)| whole.min(silent));
        if self.alarm.now() < until {
            self.alarm.set(until.min(term.end()));
            return Poll::Pending;
        }
        match inner.head {
            Some((began, _)) => {
                let fault = Fault::new(408, Class::Compliant, None, &inner.input);
                Poll::Ready(inner.refuse(fault, began))
            }
            None => Poll::Ready(Next::End),
        }
    }

    /// Whether the client is gone, while a request of its is under way. `waiting`: for the answer to begin.
    pub(super) fn poll_gone(&self, cx: &mut Context<'_>, waiting: bool) -> Poll<()> {
        let inner = &mut *self.inner();
        if inner.broken {
            return Poll::Ready(());
        }
        if !matches!(inner.body, Body::None) {
            // Who takes the body sees what comes.
            return self.is_over(inner.silent);
        }
        if inner.ended {
            return if waiting { self.poll_half_closed(inner) } else { Poll::Pending };
        }
        if !inner.input.is_empty() {
            return Poll::Pending;
        }
        if !inner.stream.is_watched() {
            // Most requests are answered before it is worth it.
            let from = *inner.unwatched.get_or_insert_with(|| self.alarm.after(TICK));
            if self.alarm.now() < from {
                self.alarm.set(from);
                return Poll::Pending;
            }
        }
        match inner.poll_read(cx, HEAD_READ_BYTES, &self.counters) {
            Poll::Ready(Ok(0)) if waiting => self.poll_half_closed(inner),
            Poll::Ready(Ok(_)) | Poll::Pending => Poll::Pending,
            Poll::Ready(Err(_)) => Poll::Ready(()),
        }
    }

    fn poll_half_closed(&self, inner: &mut Inner<S>) -> Poll<()> {
        let until = *inner.half_closed.get_or_insert_with(|| self.alarm.after(HALF_CLOSED_TIME_MAX));
        self.is_over(Some(until))
    }

    /// `Ready` when this time is over.
    fn is_over(&self, until: Option<Moment>) -> Poll<()> {
        let Some(until) = until else { return Poll::Pending };
        if self.alarm.now() >= until {
            return Poll::Ready(());
        }
        self.alarm.set(until);
        Poll::Pending
    }

    /// From here on nothing else is said.
    pub(super) fn answer_begins(&self) {
        let inner = &mut *self.inner();
        if inner.first.len() == CONTINUE.len() {
            inner.first = &[];
        }
    }

    /// Writes some of the output, which must not be empty.
    pub(super) fn poll_write(&self, cx: &mut Context<'_>, output: &mut Output) -> Poll<io::Result<()>> {
        let inner = &mut *self.inner();
        let written = match inner.poll_first(cx) {
            Poll::Ready(Ok(())) => output.poll_write(Pin::new(&mut inner.stream), cx),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => Poll::Pending,
        };
        match written {
            Poll::Ready(Ok(bytes)) => {
                inner.stalled = None;
                // Idle is who neither says nor takes anything.
                inner.silent = inner.silent.map(|_| self.alarm.after(self.idle));
                self.counters.add(Metric::ProcessedBytes, bytes as u64);
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => self.poll_stall(inner).map(Err),
        }
    }

    pub(super) fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let inner = &mut *self.inner();
        match Pin::new(&mut inner.stream).poll_flush(cx) {
            Poll::Pending => self.poll_stall(inner).map(Err),
            Poll::Ready(done) => {
                inner.stalled = None;
                Poll::Ready(done)
            }
        }
    }

    /// The client takes nothing: is it so for too long?
    fn poll_stall(&self, inner: &mut Inner<S>) -> Poll<io::Error> {
        let until = *inner.stalled.get_or_insert_with(|| self.alarm.after(self.idle));
        self.is_over(Some(until)).map(|()| io::ErrorKind::TimedOut.into())
    }

    /// The answer is written. Whether another request may follow: not behind a body of which something is to come.
    pub(super) fn end_request(&self) -> bool {
        let inner = &mut *self.inner();
        let whole = inner.skip_rest();
        inner.silent = None;
        if inner.input.is_empty() && inner.input.capacity() > INPUT_KEPT_BYTES_MAX {
            inner.input = BytesMut::new();
        }
        whole && !inner.refused && !inner.broken
    }

    /// Of the request's body, what has come. Whether that is all of it.
    pub(super) fn skip_rest(&self) -> bool {
        self.inner().skip_rest()
    }

    /// Whoever still waits for the body waits for nothing.
    pub(super) fn break_off(&self) {
        let inner = &mut *self.inner();
        inner.broken = true;
        if let Some(reader) = inner.reader.take() {
            reader.wake();
        }
    }

    /// The last words, and time for the client to hear them.
    pub(super) async fn farewell(&self) {
        let unread = {
            let inner = &mut *self.inner();
            inner.broken = true;
            inner.silent = None;
            inner.reader.take().into_iter().for_each(Waker::wake);
            let unread = inner.refused || !matches!(inner.body, Body::None) || !inner.input.is_empty();
            if !unread && inner.stream.ends_by_drop() {
                return;
            }
            unread && !inner.ended
        };
        let until = self.alarm.after(LINGER_TIME_MAX);
        let late = || {
            self.alarm.set(until);
            self.alarm.now() >= until
        };
        std::future::poll_fn(|cx| match Pin::new(&mut self.inner().stream).poll_shutdown(cx) {
            Poll::Pending if !late() => Poll::Pending,
            _ => Poll::Ready(()),
        })
        .await;
        let mut taken = 0;
        std::future::poll_fn(|cx| {
            while unread && taken < LINGER_BYTES_MAX {
                let mut scratch = [std::mem::MaybeUninit::uninit(); HEAD_READ_BYTES];
                let mut scratch = ReadBuf::uninit(&mut scratch);
                match Pin::new(&mut self.inner().stream).poll_read(cx, &mut scratch) {
                    Poll::Ready(Ok(())) if !scratch.filled().is_empty() => taken += scratch.filled().len(),
                    Poll::Ready(_) => return Poll::Ready(()),
                    Poll::Pending if late() => return Poll::Ready(()),
                    Poll::Pending => return Poll::Pending,
                }
            }
            Poll::Ready(())
        })
        .await;
    }
}

impl<S: ClientStream> Inner<S> {
    fn begin(&mut self, head: &Head) {
        self.head = None;
        self.silent = None;
        self.unwatched = None;
        self.half_closed = None;
        self.first = if head.expects { CONTINUE } else { &[] };
        self.body = match head.framing {
            Framing::None | Framing::Length(0) => Body::None,
            Framing::Length(length) => Body::Length(length),
            Framing::Chunked => Body::Chunked(Chunks::default()),
        };
    }

    fn refuse(&mut self, fault: Fault, began: Instant) -> Next {
        self.refused = true;
        let came = self.input.len() as u64;
        self.input.clear();
        Next::Fault(fault, came, began)
    }

    /// More into `input`; 0: the client has closed its side.
    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        room: usize,
        counters: &Counters,
    ) -> Poll<io::Result<usize>> {
        // Not a new buffer for the few bytes that the last head took of this one.
        if self.input.capacity() - self.input.len() < room / 4 {
            self.input.reserve(room);
        }
        let count = ready!(poll_read_buf(Pin::new(&mut self.stream), cx, &mut self.input))?;
        self.ended |= count == 0;
        self.silent = None;
        counters.add(Metric::ProcessedBytes, count as u64);
        Poll::Ready(Ok(count))
    }

    /// Of what came, the next piece of the body; nothing: more has to come, or it is over.
    fn take_piece(&mut self) -> io::Result<Bytes> {
        loop {
            let bytes = match &mut self.body {
                _ if self.input.is_empty() => return Ok(Bytes::new()),
                Body::None => return Ok(Bytes::new()),
                Body::Length(left) => {
                    let bytes = usize::try_from(*left).unwrap_or(usize::MAX).min(self.input.len());
                    *left -= bytes as u64;
                    if *left == 0 {
                        self.body = Body::None;
                    }
                    bytes
                }
                Body::Chunked(chunks) => {
                    let piece = chunks.piece(&self.input);
                    let piece = piece.map_err(|bad| io::Error::new(io::ErrorKind::InvalidData, bad))?;
                    if let Piece::Framing(bytes) = piece {
                        self.input.advance(bytes);
                        if chunks.is_over() {
                            self.body = Body::None;
                        }
                        continue;
                    }
                    let Piece::Data(bytes) = piece else { continue };
                    bytes
                }
            };
            return Ok(self.input.split_to(bytes).freeze());
        }
    }

    fn skip_rest(&mut self) -> bool {
        while !matches!(self.body, Body::None) && !self.input.is_empty() {
            if self.take_piece().is_err() {
                return false;
            }
        }
        matches!(self.body, Body::None)
    }

    fn poll_first(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.first.is_empty() {
            match ready!(Pin::new(&mut self.stream).poll_write(cx, self.first))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.first = &self.first[written..],
            }
            if self.first.is_empty() {
                ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
            }
        }
        Poll::Ready(Ok(()))
    }

    /// How much may come at once.
    fn room(&self) -> usize {
        match self.body {
            Body::Length(left) => {
                usize::try_from(left).unwrap_or(usize::MAX).clamp(HEAD_READ_BYTES, BODY_READ_BYTES)
            }
            _ => BODY_READ_BYTES,
        }
    }

    fn poll_body(&mut self, cx: &mut Context<'_>, counters: &Counters) -> Poll<io::Result<Option<Bytes>>> {
        loop {
            let piece = self.take_piece()?;
            if !piece.is_empty() {
                return Poll::Ready(Ok(Some(piece)));
            }
            if matches!(self.body, Body::None) {
                return Poll::Ready(Ok(None));
            }
            if self.ended {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            ready!(self.poll_first(cx))?;
            let room = self.room();
            ready!(self.poll_read(cx, room, counters))?;
        }
    }
}

impl<S: ClientStream> Source for Io<S> {
    fn poll_piece(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, ClientError>>> {
        let inner = &mut *self.inner();
        if inner.broken {
            return Poll::Ready(Some(Err(ClientError::Http1)));
        }
        match inner.poll_body(cx, &self.counters) {
            Poll::Ready(Ok(piece)) => return Poll::Ready(piece.map(Ok)),
            Poll::Ready(Err(error)) => {
                // Whoever answers is not told: the connection's task ends it, and tells the reader if there is another.
                tracing::debug!(%error, "a client broke its request off");
                inner.broken = true;
                self.alarm.ring();
            }
            Poll::Pending => {
                let until = *inner.silent.get_or_insert_with(|| self.alarm.after(self.idle));
                self.alarm.set(until);
            }
        }
        match &mut inner.reader {
            Some(reader) => reader.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        Poll::Pending
    }
}

/// The connection once it is no longer HTTP.
pub(super) struct Pipe<S>(pub(super) Arc<Io<S>>);

impl<S: ClientStream> AsyncRead for Pipe<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let inner = &mut *self.0.inner();
        if !inner.input.is_empty() {
            let bytes = inner.input.len().min(out.remaining());
            out.put_slice(&inner.input[..bytes]);
            inner.input.advance(bytes);
            return Poll::Ready(Ok(()));
        }
        if inner.ended {
            return Poll::Ready(Ok(()));
        }
        let before = out.filled().len();
        ready!(Pin::new(&mut inner.stream).poll_read(cx, out))?;
        self.0.counters.add(Metric::ProcessedBytes, (out.filled().len() - before) as u64);
        Poll::Ready(Ok(()))
    }
}

impl<S: ClientStream> AsyncWrite for Pipe<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.0.inner().stream).poll_write(cx, bytes))?;
        self.0.counters.add(Metric::ProcessedBytes, written as u64);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.inner().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.inner().stream).poll_shutdown(cx)
    }
}
