//! A client's TCP connection that the runtime hears of only when there is something to wait for: a short one is read, answered
//! and closed without being entered into the poller and taken out of it.

use std::io::{self, IoSlice, Read as _, Write as _};
use std::net::Shutdown;
use std::pin::Pin;
use std::task::{Context, Poll};

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use super::client::ClientStream;

/// What is read before the runtime is asked: a head, not a body.
const READ_BYTES: usize = 1024;

/// And so often: the runtime sees to it that nobody who always has something to say keeps the others waiting.
const READS_MAX: u8 = 8;

pub(crate) struct Lazy {
    stream: Stream,
    reads: u8,
}

enum Stream {
    /// Not waited for yet. It does not block.
    Unwatched(std::net::TcpStream),
    Watched(TcpStream),
    /// The runtime would not take it.
    Lost,
}

impl Lazy {
    /// `stream` does not block.
    pub(crate) fn new(stream: std::net::TcpStream) -> Lazy {
        Lazy { stream: Stream::Unwatched(stream), reads: 0 }
    }

    /// From here on the runtime tells when it is ready.
    fn watched(&mut self) -> io::Result<Pin<&mut TcpStream>> {
        if let Stream::Unwatched(_) = self.stream
            && let Stream::Unwatched(stream) = std::mem::replace(&mut self.stream, Stream::Lost)
        {
            self.stream = Stream::Watched(TcpStream::from_std(stream)?);
        }
        match &mut self.stream {
            Stream::Watched(stream) => Ok(Pin::new(stream)),
            _ => Err(io::ErrorKind::NotConnected.into()),
        }
    }
}

impl ClientStream for Lazy {
    fn is_watched(&self) -> bool {
        !matches!(self.stream, Stream::Unwatched(_))
    }

    fn ends_by_drop(&self) -> bool {
        true
    }
}

impl ClientStream for TlsStream<Lazy> {
    fn is_watched(&self) -> bool {
        self.get_ref().0.is_watched()
    }
}

/// `None`: it is for the runtime to wait.
fn ready<T>(result: io::Result<T>) -> Option<io::Result<T>> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
        result => Some(result),
    }
}

impl AsyncRead for Lazy {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if let Stream::Unwatched(stream) = &mut this.stream
            && this.reads < READS_MAX
        {
            this.reads += 1;
            let room = out.initialize_unfilled_to(READ_BYTES.min(out.remaining()));
            match ready(stream.read(room)) {
                // Where so much comes, more does.
                Some(Ok(READ_BYTES)) => {
                    out.advance(READ_BYTES);
                    return Poll::Ready(self.watched().map(|_| ()));
                }
                Some(result) => return Poll::Ready(result.map(|count| out.advance(count))),
                None => {}
            }
        }
        self.watched()?.poll_read(cx, out)
    }
}

impl AsyncWrite for Lazy {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if let Stream::Unwatched(stream) = &mut self.stream
            && let Some(result) = ready(stream.write(bytes))
        {
            return Poll::Ready(result);
        }
        self.watched()?.poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let Stream::Unwatched(stream) = &mut self.stream
            && let Some(result) = ready(stream.write_vectored(slices))
        {
            return Poll::Ready(result);
        }
        self.watched()?.poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let done = match &self.stream {
            Stream::Unwatched(stream) => stream.shutdown(Shutdown::Write),
            Stream::Watched(stream) => SockRef::from(stream).shutdown(Shutdown::Write),
            Stream::Lost => Ok(()),
        };
        // Who went away first needs no farewell.
        Poll::Ready(done.or_else(|error| match error.kind() {
            io::ErrorKind::NotConnected => Ok(()),
            _ => Err(error),
        }))
    }
}
