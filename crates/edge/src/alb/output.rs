//! What goes out to an HTTP/1 client: heads and small pieces in one buffer, a large piece behind it.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use http::{Method, StatusCode, Version, header, response};
use hyper::ext::ReasonPhrase;
use tokio::io::AsyncWrite;

use super::body::ResponseBody;
use super::compiled::HeaderAttributes;
use super::date;
use super::fields::{has_token, title_case};
use super::headers::is_option;

/// A piece of a body that is longer is not copied.
pub(super) const COPY_BYTES_MAX: usize = 16 * 1024;
/// So much waits to be written; more is not taken from the target.
const BYTES_MAX: usize = 32 * 1024;
/// A buffer that grew larger is not kept for the next response.
const KEPT_BYTES_MAX: usize = 8 * 1024;

#[derive(Default)]
pub(super) struct Output {
    buffer: BytesMut,
    large: Bytes,
    /// Behind `large`.
    tail: &'static [u8],
    chunked: bool,
}

impl Output {
    /// A piece of a body.
    pub(super) fn put(&mut self, data: &[u8]) {
        if data.is_empty() {
            return;
        }
        if !self.chunked {
            return self.buffer.extend_from_slice(data);
        }
        self.size(data.len());
        self.buffer.extend_from_slice(data);
        self.buffer.extend_from_slice(b"\r\n");
    }

    /// The same, not copied; there is only one at a time.
    pub(super) fn put_large(&mut self, data: Bytes) {
        if data.len() <= COPY_BYTES_MAX {
            return self.put(&data);
        }
        if self.chunked {
            self.size(data.len());
            self.tail = b"\r\n";
        }
        self.large = data;
    }

    fn size(&mut self, size: usize) {
        self.buffer.extend_from_slice(format!("{size:x}\r\n").as_bytes());
    }

    /// The body is over.
    pub(super) fn end(&mut self) {
        const LAST: &[u8] = b"0\r\n\r\n";
        match (self.chunked, self.tail.is_empty()) {
            (false, _) => {}
            (true, true) => self.buffer.extend_from_slice(LAST),
            (true, false) => self.tail = b"\r\n0\r\n\r\n",
        }
    }

    pub(super) fn is_full(&self) -> bool {
        !self.large.is_empty() || !self.tail.is_empty() || self.buffer.len() >= BYTES_MAX
    }

    pub(super) fn is_empty(&self) -> bool {
        self.buffer.is_empty() && self.large.is_empty() && self.tail.is_empty()
    }

    /// Writes some of it, which there must be; how much.
    pub(super) fn poll_write<S: AsyncWrite>(
        &mut self,
        stream: Pin<&mut S>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let written = if self.large.is_empty() && self.tail.is_empty() {
            ready!(stream.poll_write(cx, &self.buffer))?
        } else if stream.is_write_vectored() {
            let slices = [IoSlice::new(&self.buffer), IoSlice::new(&self.large), IoSlice::new(self.tail)];
            ready!(stream.poll_write_vectored(cx, &slices))?
        } else {
            let parts = [&self.buffer[..], &self.large, self.tail];
            let first = parts.into_iter().find(|part| !part.is_empty()).unwrap_or_default();
            ready!(stream.poll_write(cx, first))?
        };
        if written == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.wrote(written);
        Poll::Ready(Ok(written))
    }

    fn wrote(&mut self, mut bytes: usize) {
        let here = bytes.min(self.buffer.len());
        self.buffer.advance(here);
        bytes -= here;
        let here = bytes.min(self.large.len());
        self.large.advance(here);
        self.tail = &self.tail[bytes - here..];
    }

    /// Between two responses.
    pub(super) fn rest(&mut self) {
        if self.buffer.capacity() > KEPT_BYTES_MAX {
            self.buffer = BytesMut::new();
        }
    }
}

/// What the client's request said of the response to it.
pub(super) struct Asked {
    pub(super) method: Method,
    pub(super) version: Version,
}

impl Asked {
    /// The response has no body, whatever its fields say.
    pub(super) fn gets_no_body(&self, status: StatusCode) -> bool {
        self.method == Method::HEAD
            || status.is_informational()
            || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
    }
}

/// Where a response ends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Framing {
    /// It has no body, or its fields say how long it is.
    Told,
    Length(u64),
    Chunked,
    Close,
}

/// The response's own fields and where they end, as they are written.
struct Written {
    date: bool,
    length: bool,
    close: bool,
}

impl Output {
    /// Writes the head. Whether the connection is to go on behind the response: `keep` at most.
    pub(super) fn head(
        &mut self,
        asked: &Asked,
        parts: &response::Parts,
        body: &mut ResponseBody,
        keep: bool,
    ) -> bool {
        let old = asked.version == Version::HTTP_10;
        let bodiless = asked.gets_no_body(parts.status);
        let length = body.length();
        self.chunked = false;
        let small = length.unwrap_or_default().min(COPY_BYTES_MAX as u64) as usize;
        self.buffer.reserve(HEAD_BYTES + small);
        self.buffer.extend_from_slice(if old { b"HTTP/1.0 " } else { b"HTTP/1.1 " });
        self.buffer.extend_from_slice(parts.status.as_str().as_bytes());
        self.buffer.extend_from_slice(b" ");
        let usual = || parts.status.canonical_reason().unwrap_or("<none>").as_bytes();
        let own = parts.extensions.get::<ReasonPhrase>().map(ReasonPhrase::as_bytes);
        let came = body.relayed().and_then(|relayed| relayed.head.reason(relayed.input));
        self.buffer.extend_from_slice(own.or(came).unwrap_or_else(usual));
        self.buffer.extend_from_slice(b"\r\n");

        let drop_length = parts.status == StatusCode::NO_CONTENT || (!bodiless && length.is_none());
        let mut written = self.fields(parts, drop_length);
        if let Some(relayed) = body.relayed() {
            self.relay(&relayed, drop_length, &mut written);
        }
        body.head_is_out();

        let switching = parts.status == StatusCode::SWITCHING_PROTOCOLS;
        let framing = match length {
            _ if bodiless || written.length => Framing::Told,
            Some(length) => Framing::Length(length),
            None if old => Framing::Close,
            None => Framing::Chunked,
        };
        let keep = keep && !written.close && framing != Framing::Close;
        match framing {
            Framing::Told | Framing::Close => {}
            Framing::Length(length) => {
                self.field(b"Content-Length", length.to_string().as_bytes());
            }
            Framing::Chunked => {
                self.chunked = true;
                self.field(b"Transfer-Encoding", b"chunked");
            }
        }
        if !keep && !written.close && !old && !switching {
            self.field(b"Connection", b"close");
        } else if keep && old {
            self.field(b"Connection", b"keep-alive");
        }
        if !written.date {
            date::with(|now| self.field(b"Date", now));
        }
        self.buffer.extend_from_slice(b"\r\n");
        keep
    }

    fn field(&mut self, name: &[u8], value: &[u8]) {
        self.buffer.extend_from_slice(name);
        self.buffer.extend_from_slice(b": ");
        self.buffer.extend_from_slice(value);
        self.buffer.extend_from_slice(b"\r\n");
    }

    /// The fields that the library holds.
    fn fields(&mut self, parts: &response::Parts, drop_length: bool) -> Written {
        let mut written = Written { date: false, length: false, close: false };
        for (name, value) in &parts.headers {
            if name == header::CONTENT_LENGTH {
                if drop_length || written.length {
                    continue;
                }
                written.length = true;
            }
            written.date |= name == header::DATE;
            written.close |= name == header::CONNECTION && has_token(value.as_bytes(), b"close");
            let start = self.buffer.len();
            self.buffer.extend_from_slice(name.as_str().as_bytes());
            title_case(&mut self.buffer[start..]);
            self.buffer.extend_from_slice(b": ");
            self.buffer.extend_from_slice(value.as_bytes());
            self.buffer.extend_from_slice(b"\r\n");
        }
        written
    }

    /// The target's fields, as they came, but for those that are not for the client.
    fn relay(&mut self, relayed: &Relayed<'_>, drop_length: bool, written: &mut Written) {
        let Relayed { head, input, attributes } = *relayed;
        // What `Connection` names is for this hop only; hardly anybody names anything.
        let named = |name: &[u8]| {
            let mut lines = head.fields(input).filter(|(field, _)| field.eq_ignore_ascii_case(b"connection"));
            lines.any(|(_, list)| has_token(list, name))
        };
        let lists_names = head.fields(input).any(|(name, list)| {
            name.len() == 10 && name.eq_ignore_ascii_case(b"connection") && lists_more_than_options(list)
        });
        for place in head.places() {
            let name = place.name(input);
            match kind(name) {
                Kind::Hop => continue,
                Kind::Length if drop_length || written.length => continue,
                Kind::Server if !attributes.server => continue,
                Kind::Length => written.length = true,
                Kind::Date => written.date = true,
                Kind::Server | Kind::Other => {}
            }
            let ours =
                |(ours, _): &(http::HeaderName, _)| name.eq_ignore_ascii_case(ours.as_str().as_bytes());
            if attributes.response.iter().any(ours) {
                continue;
            }
            if lists_names && may_be_named(name) && named(name) {
                continue;
            }
            match place.line(input) {
                Some(line) => self.buffer.extend_from_slice(line),
                None => self.field(name, place.value(input)),
            }
        }
    }
}

/// Room for most heads.
const HEAD_BYTES: usize = 512;

/// A target's response of which the head is still in the target's own words.
pub(super) struct Relayed<'a> {
    pub(super) head: &'a super::reply::Head,
    pub(super) input: &'a [u8],
    pub(super) attributes: &'a HeaderAttributes,
}

enum Kind {
    /// Meant for the hop between target and balancer.
    Hop,
    Length,
    Date,
    Server,
    Other,
}

fn kind(name: &[u8]) -> Kind {
    let is = |text: &str| name.eq_ignore_ascii_case(text.as_bytes());
    match name.len() {
        4 if is("date") => Kind::Date,
        6 if is("server") => Kind::Server,
        7 if is("upgrade") || is("trailer") => Kind::Hop,
        10 if is("connection") || is("keep-alive") => Kind::Hop,
        14 if is("content-length") => Kind::Length,
        16 if is("proxy-connection") => Kind::Hop,
        17 if is("transfer-encoding") => Kind::Hop,
        _ => Kind::Other,
    }
}

fn lists_more_than_options(list: &[u8]) -> bool {
    !list.split(|byte| *byte == b',').all(|word| is_option(word.trim_ascii()))
}

/// What frames the message is not taken away by a word.
fn may_be_named(name: &[u8]) -> bool {
    !name.eq_ignore_ascii_case(b"content-length")
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use proptest::prelude::*;

    use super::super::chunks::{Chunks, Piece};
    use super::*;

    /// Takes a few bytes at a time.
    struct Narrow {
        taken: Vec<u8>,
        step: usize,
        vectored: bool,
    }

    impl AsyncWrite for Narrow {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            let count = bytes.len().min(self.step);
            self.taken.extend_from_slice(&bytes[..count]);
            Poll::Ready(Ok(count))
        }

        fn poll_write_vectored(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            slices: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            let all: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
            let count = all.len().min(self.step);
            self.taken.extend_from_slice(&all[..count]);
            Poll::Ready(Ok(count))
        }

        fn is_write_vectored(&self) -> bool {
            self.vectored
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    fn data_of(mut bytes: &[u8]) -> Vec<u8> {
        let (mut chunks, mut data) = (Chunks::default(), Vec::new());
        while !chunks.is_over() {
            let used = match chunks.piece(bytes).unwrap() {
                Piece::Framing(count) => count,
                Piece::Data(count) => {
                    data.extend_from_slice(&bytes[..count]);
                    count
                }
            };
            bytes = &bytes[used..];
        }
        assert!(bytes.is_empty());
        data
    }

    proptest! {
        #[test]
        fn a_body_is_written_as_it_came(
            pieces in proptest::collection::vec(0usize..3 * COPY_BYTES_MAX, 0..6),
            (chunked, vectored) in any::<(bool, bool)>(),
            step in 1usize..70_000,
        ) {
            let mut output = Output { chunked, ..Output::default() };
            let mut narrow = Narrow { taken: Vec::new(), step, vectored };
            let mut write = |output: &mut Output| {
                let done = output.poll_write(Pin::new(&mut narrow), &mut Context::from_waker(Waker::noop()));
                assert!(matches!(done, Poll::Ready(Ok(1..))));
            };
            let mut body = Vec::new();
            for (at, bytes) in pieces.into_iter().enumerate() {
                while output.is_full() {
                    write(&mut output);
                }
                let piece = vec![at as u8; bytes];
                body.extend_from_slice(&piece);
                output.put_large(piece.into());
            }
            output.end();
            while !output.is_empty() {
                write(&mut output);
            }
            let came = if chunked { data_of(&narrow.taken) } else { narrow.taken };
            prop_assert!(came == body);
        }
    }
}
