//! A connection to an HTTP/1 target: one request goes out, its response comes in, both at once if need be. It has no task
//! of its own; whoever waits for the response drives it, so that a request wakes nobody but its own connection.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, Bytes, BytesMut};
use http::{Method, StatusCode, request, response};
use hyper::body::Body as _;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_util::io::{poll_read_buf, poll_write_buf};

use super::body::RequestBody;
use super::chunks::{Chunks, Piece};
use super::output::{COPY_BYTES_MAX, Output};
use super::reply::{self, Framing, Reply};
use crate::metrics::OpenConnection;

/// What is read at once: most responses are small, long ones are not.
const READ_BYTES: usize = 8 * 1024;
const LONG_READ_BYTES: usize = 64 * 1024;
/// Of a request's body, what waits to be written; more is not taken from the client.
const OUT_BYTES_MAX: usize = 64 * 1024;
/// `100 Continue` and its like before one response.
const INFORMATIONAL_MAX: u32 = 32;

/// TCP, or TLS over it.
pub(super) enum Stream {
    Tcp(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

pub(super) struct Connection {
    stream: Stream,
    /// What came and was not taken.
    input: BytesMut,
    /// The response is one of many bytes.
    long: bool,
    /// Of `input`, what was searched for the end of a head.
    seen: usize,
    /// The response's, at the front of `input` until the client has it; the body is not touched before.
    head: reply::Head,
    output: BytesMut,
    request: Sending,
    response: Receiving,
    /// The target, or something that happened, wants no further request here.
    last: bool,
    /// What broke the response off, until it is told.
    failed: Option<Broken>,
    open: OpenConnection,
}

/// A request on its way out.
#[derive(Default)]
struct Sending {
    method: Method,
    body: Option<RequestBody>,
    chunked: bool,
    /// All of it has been written.
    over: bool,
    written: u64,
    /// Responses that came before the one that counts.
    informational: u32,
}

/// How far the response is.
enum Receiving {
    Head,
    Length(u64),
    Chunked(Chunks),
    Close,
    Over,
}

/// Why there is no response.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    #[error("it could not be written to: {0}")]
    Write(io::Error),
    #[error("it could not be read from: {0}")]
    Read(io::Error),
    #[error("it closed the connection before its response was whole")]
    Closed,
    #[error(transparent)]
    Reply(#[from] reply::BadReply),
    #[error("its chunks are none")]
    Chunk,
    #[error("it sent more than {INFORMATIONAL_MAX} informational responses")]
    Informational,
    #[error("the client broke its request off: {0}")]
    Client(super::body::ClientError),
}

impl Connection {
    pub(super) fn new(stream: Stream, open: OpenConnection) -> Connection {
        Connection {
            stream,
            input: BytesMut::new(),
            long: false,
            seen: 0,
            head: reply::Head::default(),
            output: BytesMut::new(),
            request: Sending { over: true, ..Sending::default() },
            response: Receiving::Over,
            last: false,
            failed: None,
            open,
        }
    }

    /// Idle, open, and silent: what a target says unasked, its farewell too, ends the connection.
    pub(super) fn is_usable(&mut self) -> bool {
        if !self.is_free() {
            return false;
        }
        let mut byte = [std::mem::MaybeUninit::uninit(); 1];
        let mut byte = ReadBuf::uninit(&mut byte);
        // The kernel is asked only when something has come.
        Pin::new(&mut self.stream).poll_read(&mut Context::from_waker(Waker::noop()), &mut byte).is_pending()
    }

    /// The last response is over, and another request may follow.
    pub(super) fn is_free(&self) -> bool {
        self.is_over() && self.request.over && !self.last && self.input.is_empty()
    }

    /// Idle connections are many: one keeps no large buffer.
    pub(super) fn rest(&mut self) {
        if self.long {
            self.input = BytesMut::new();
            self.long = false;
        }
        if self.output.capacity() > READ_BYTES {
            self.output = BytesMut::new();
        }
    }

    pub(super) fn is_over(&self) -> bool {
        matches!(self.response, Receiving::Over)
    }

    /// How many bytes of the response's body are to come, if that is known.
    pub(super) fn length(&self) -> Option<u64> {
        match self.response {
            Receiving::Length(left) => Some(left),
            Receiving::Over => Some(0),
            _ => None,
        }
    }

    /// Nothing of the request has left.
    pub(super) fn is_untouched(&self) -> bool {
        self.request.written == 0
    }

    /// Takes a request; [`poll_reply`](Self::poll_reply) sends it.
    pub(super) fn begin(&mut self, parts: &request::Parts, body: RequestBody) {
        let body = Some(body).filter(|body| !body.is_empty());
        let chunked = body.as_ref().is_some_and(|body| body.size_hint().exact().is_none());
        self.output.clear();
        reply::write(parts, chunked, &mut self.output);
        self.request = Sending { method: parts.method.clone(), body, chunked, ..Sending::default() };
        self.response = Receiving::Head;
    }

    /// The body of a request of which nothing has left.
    pub(super) fn take_back(&mut self) -> RequestBody {
        self.request.body.take().unwrap_or(RequestBody::Empty)
    }

    /// Sends the request and waits for the head of its response.
    pub(super) fn poll_reply(&mut self, cx: &mut Context<'_>) -> Poll<Result<Reply, Broken>> {
        match self.poll_send(cx) {
            // A target may refuse a body and close; what it said before that counts.
            Poll::Ready(Err(Broken::Write(_))) if !self.is_untouched() => {}
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            _ => {}
        }
        loop {
            while !self.input.is_empty()
                && let Some(reply) =
                    reply::read(&mut self.input, &mut self.seen, &self.request.method, &mut self.head)?
            {
                if self.replied(&reply)? {
                    return Poll::Ready(Ok(reply));
                }
                self.head.drop_from(&mut self.input);
            }
            match ready!(self.poll_more(cx, READ_BYTES)) {
                Ok(0) => return Poll::Ready(Err(Broken::Closed)),
                Ok(_) => {}
                Err(error) => return Poll::Ready(Err(Broken::Read(error))),
            }
        }
    }

    /// Whether it is the one that counts; else another one follows.
    fn replied(&mut self, reply: &Reply) -> Result<bool, Broken> {
        let upgraded = reply.status == StatusCode::SWITCHING_PROTOCOLS;
        if reply.status.is_informational() && !upgraded {
            self.request.informational += 1;
            let enough = self.request.informational > INFORMATIONAL_MAX;
            return if enough { Err(Broken::Informational) } else { Ok(false) };
        }
        self.last |= !reply.keep_alive || upgraded;
        self.response = match reply.framing {
            Framing::Length(0) => Receiving::Over,
            Framing::Length(length) => Receiving::Length(length),
            Framing::Chunked => Receiving::Chunked(Chunks::of_target()),
            Framing::Close => Receiving::Close,
        };
        Ok(true)
    }

    /// The response's head as it came, until [`drop_head`](Self::drop_head).
    pub(super) fn head(&self) -> Option<(&reply::Head, &[u8])> {
        self.head.is_there().then_some((&self.head, &self.input[..]))
    }

    pub(super) fn drop_head(&mut self) {
        self.head.drop_from(&mut self.input);
    }

    /// The response's head as the HTTP library has it.
    pub(super) fn take_head(&mut self, reply: &Reply) -> response::Parts {
        self.head.take_from(&mut self.input, reply)
    }

    /// A piece of the response's body; `None` when it is over. The request's body goes on meanwhile.
    pub(super) fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Broken>>> {
        self.poll_piece(cx).map(|piece| Some(piece?.map(|bytes| self.input.split_to(bytes).freeze())))
    }

    /// The same, put out at once; how many bytes it was.
    pub(super) fn poll_body_into(
        &mut self,
        cx: &mut Context<'_>,
        out: &mut Output,
    ) -> Poll<Option<Result<usize, Broken>>> {
        let piece = ready!(self.poll_piece(cx));
        if let Some(Ok(bytes)) = piece {
            if bytes <= COPY_BYTES_MAX {
                out.put(&self.input[..bytes]);
                self.input.advance(bytes);
            } else {
                out.put_large(self.input.split_to(bytes).freeze());
            }
        }
        Poll::Ready(piece)
    }

    /// How many bytes at the front of `input` are the body's and to be taken now.
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<usize, Broken>>> {
        if let Some(error) = self.failed.take() {
            self.response = Receiving::Over;
            return Poll::Ready(Some(Err(error)));
        }
        if let Poll::Ready(Err(error @ Broken::Client(_))) = self.poll_send(cx) {
            return self.fail(cx, error);
        }
        loop {
            match self.take_body() {
                Ok(0) if self.is_over() => return Poll::Ready(None),
                Ok(0) => {}
                Ok(bytes) => return Poll::Ready(Some(Ok(bytes))),
                Err(error) => return self.fail(cx, error),
            }
            let room = match self.response {
                Receiving::Length(left) => usize::try_from(left).unwrap_or(usize::MAX).min(LONG_READ_BYTES),
                _ if self.long => LONG_READ_BYTES,
                _ => READ_BYTES,
            };
            match ready!(self.poll_more(cx, room.max(READ_BYTES))) {
                Ok(0) if matches!(self.response, Receiving::Close) => {
                    self.response = Receiving::Over;
                    return Poll::Ready(None);
                }
                Ok(0) => return self.fail(cx, Broken::Closed),
                Ok(_) => {}
                Err(error) => return self.fail(cx, Broken::Read(error)),
            }
        }
    }

    /// Told the next time: whoever asks writes what came before that first, and drops it all on an error.
    fn fail(&mut self, cx: &Context<'_>, error: Broken) -> Poll<Option<Result<usize, Broken>>> {
        self.last = true;
        self.failed = Some(error);
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Of what came, how much is the next piece of the body.
    fn take_body(&mut self) -> Result<usize, Broken> {
        Ok(match &mut self.response {
            _ if self.input.is_empty() => 0,
            Receiving::Head | Receiving::Over => 0,
            Receiving::Close => self.input.len(),
            Receiving::Length(left) => {
                let bytes = usize::try_from(*left).unwrap_or(usize::MAX).min(self.input.len());
                *left -= bytes as u64;
                if *left == 0 {
                    self.response = Receiving::Over;
                }
                bytes
            }
            Receiving::Chunked(chunks) => {
                let data = loop {
                    match chunks.piece(&self.input).map_err(|_| Broken::Chunk)? {
                        Piece::Data(bytes) => break bytes,
                        Piece::Framing(bytes) => self.input.advance(bytes),
                    }
                    if self.input.is_empty() || chunks.is_over() {
                        break 0;
                    }
                };
                if chunks.is_over() {
                    self.response = Receiving::Over;
                }
                data
            }
        })
    }

    fn poll_more(&mut self, cx: &mut Context<'_>, room: usize) -> Poll<io::Result<usize>> {
        self.input.reserve(room);
        let bytes = ready!(poll_read_buf(Pin::new(&mut self.stream), cx, &mut self.input))?;
        self.long |= bytes >= READ_BYTES;
        Poll::Ready(Ok(bytes))
    }

    /// `Ready` when all of the request has been written, or it cannot be.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        if self.request.over {
            return Poll::Ready(Ok(()));
        }
        let result = ready!(self.poll_write_all(cx));
        self.request.over = true;
        if result.is_err() {
            self.last = true;
            // One that never left may go elsewhere.
            self.request.body.take_if(|_| self.request.written > 0);
        }
        Poll::Ready(result)
    }

    fn poll_write_all(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        loop {
            while self.output.has_remaining() {
                match ready!(poll_write_buf(Pin::new(&mut self.stream), cx, &mut self.output)) {
                    Ok(0) => return Poll::Ready(Err(Broken::Write(io::ErrorKind::WriteZero.into()))),
                    Ok(bytes) => self.request.written += bytes as u64,
                    Err(error) => return Poll::Ready(Err(Broken::Write(error))),
                }
            }
            if !self.poll_client(cx)? {
                ready!(Pin::new(&mut self.stream).poll_flush(cx)).map_err(Broken::Write)?;
                return if self.request.body.is_some() { Poll::Pending } else { Poll::Ready(Ok(())) };
            }
        }
    }

    /// From the client into `output`, as much as there is and may be; whether that is anything.
    fn poll_client(&mut self, cx: &mut Context<'_>) -> Result<bool, Broken> {
        while self.output.len() < OUT_BYTES_MAX
            && let Some(body) = &mut self.request.body
        {
            let Poll::Ready(frame) = Pin::new(body).poll_frame(cx) else { break };
            match frame.transpose().map_err(Broken::Client)?.map(|frame| frame.into_data().ok()) {
                // Trailers are not for a target.
                Some(None) => {}
                Some(Some(data)) => self.put(&data),
                None => {
                    self.request.body = None;
                    if self.request.chunked {
                        self.output.extend_from_slice(b"0\r\n\r\n");
                    }
                }
            }
        }
        Ok(!self.output.is_empty())
    }

    fn put(&mut self, data: &[u8]) {
        // A chunk of nothing would be the last one.
        if !self.request.chunked || data.is_empty() {
            return self.output.extend_from_slice(data);
        }
        self.output.extend_from_slice(format!("{:x}\r\n", data.len()).as_bytes());
        self.output.extend_from_slice(data);
        self.output.extend_from_slice(b"\r\n");
    }

    /// After 101: the bytes that came already, and the stream.
    pub(super) fn into_tunnel(self) -> Tunnel {
        Tunnel { first: self.input.freeze(), stream: self.stream, _open: self.open }
    }
}

/// A connection that is HTTP no more.
pub(super) struct Tunnel {
    first: Bytes,
    stream: Stream,
    _open: OpenConnection,
}

impl AsyncRead for Tunnel {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.first.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, out);
        }
        let bytes = self.first.len().min(out.remaining());
        out.put_slice(&self.first.split_to(bytes));
        Poll::Ready(Ok(()))
    }
}

/// What both kinds of stream do alike.
macro_rules! of_either {
    ($stream:expr, $io:ident => $done:expr) => {
        match $stream {
            Stream::Tcp(io) => {
                let $io = Pin::new(io);
                $done
            }
            Stream::Tls(io) => {
                let $io = Pin::new(&mut **io);
                $done
            }
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        of_either!(&mut *self, io => io.poll_read(cx, out))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        of_either!(&mut *self, io => io.poll_write(cx, bytes))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        of_either!(&mut *self, io => io.poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        of_either!(&mut *self, io => io.poll_shutdown(cx))
    }
}

impl AsyncWrite for Tunnel {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
