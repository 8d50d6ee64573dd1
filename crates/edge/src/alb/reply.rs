//! Heads as they go to an HTTP/1 target and as they come back. Pure.
//!
//! A target is believed about its own response only: where its body ends is decided once, here, and the client gets it
//! framed anew.

use bytes::{Buf, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, header, request, response};
use hyper::ext::ReasonPhrase;

use super::head::HEADERS_MAX;

/// Head of a response: ALB takes 32K.
pub(super) const HEAD_BYTES_MAX: usize = 64 * 1024;

/// Where the body of a response ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    Length(u64),
    Chunked,
    /// Where the connection does.
    Close,
}

/// The head of a response.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) parts: response::Parts,
    pub(super) framing: Framing,
    /// The target takes another request on this connection.
    pub(super) keep_alive: bool,
}

/// Why what came is no response.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadReply {
    #[error("its head cannot be read")]
    Head,
    #[error("its head has more than {HEAD_BYTES_MAX} bytes")]
    TooLong,
    #[error("its headers do not say in one way where its body ends")]
    Framing,
}

/// Takes a whole head off the buffer, of which `seen` bytes were looked at before; `None`: it is not whole yet.
pub(super) fn take(
    buffer: &mut BytesMut,
    seen: &mut usize,
    method: &Method,
) -> Result<Option<Reply>, BadReply> {
    if *seen == 0 {
        let blank = buffer.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
        buffer.advance(blank);
    } else if !ends(&buffer[seen.saturating_sub(2)..]) {
        // Not to be read from its beginning with every byte that comes.
        return incomplete(buffer, seen);
    }
    let mut fields = [const { std::mem::MaybeUninit::uninit() }; HEADERS_MAX];
    let mut read = httparse::Response::new(&mut []);
    let parser = httparse::ParserConfig::default();
    let end = match parser.parse_response_with_uninit_headers(&mut read, buffer, &mut fields) {
        Ok(httparse::Status::Complete(end)) if end <= HEAD_BYTES_MAX => end,
        Ok(httparse::Status::Complete(_)) => return Err(BadReply::TooLong),
        Ok(httparse::Status::Partial) => return incomplete(buffer, seen),
        Err(_) => return Err(BadReply::Head),
    };
    let old = read.version == Some(0);
    let mut parts = Response::new(()).into_parts().0;
    parts.status = read.code.and_then(|code| StatusCode::from_u16(code).ok()).ok_or(BadReply::Head)?;
    if read.reason != parts.status.canonical_reason()
        && let Some(Ok(reason)) = read.reason.map(|reason| ReasonPhrase::try_from(reason.as_bytes()))
    {
        parts.extensions.insert(reason);
    }
    let count = read.headers.len();
    let mut places = [Place::default(); HEADERS_MAX];
    for (place, field) in places.iter_mut().zip(read.headers.iter()) {
        *place =
            Place { name: Span::of(field.name.as_bytes(), buffer), value: Span::of(field.value, buffer) };
    }
    *seen = 0;
    let head = buffer.split_to(end).freeze();
    parts.headers.reserve(count + ADDED_HEADERS);
    for Place { name, value } in &places[..count] {
        let name = HeaderName::from_bytes(&head[name.range()]).map_err(|_| BadReply::Head)?;
        // A piece of the head itself: nothing is copied.
        let value = HeaderValue::from_maybe_shared(head.slice(value.range())).map_err(|_| BadReply::Head)?;
        parts.headers.append(name, value);
    }
    let framing = framing(&parts, method, old)?;
    let keep_alive = framing != Framing::Close && keeps_alive(&parts.headers, old);
    Ok(Some(Reply { parts, framing, keep_alive }))
}

/// Where in the buffer a field is.
#[derive(Clone, Copy, Default)]
struct Place {
    name: Span,
    value: Span,
}

#[derive(Clone, Copy, Default)]
struct Span {
    from: u32,
    bytes: u32,
}

impl Span {
    /// A piece of a head, of which none has more than [`HEAD_BYTES_MAX`].
    fn of(piece: &[u8], head: &[u8]) -> Span {
        let from = piece.as_ptr().addr() - head.as_ptr().addr();
        Span { from: from as u32, bytes: piece.len() as u32 }
    }

    fn range(self) -> std::ops::Range<usize> {
        self.from as usize..self.from as usize + self.bytes as usize
    }
}

fn incomplete(buffer: &BytesMut, seen: &mut usize) -> Result<Option<Reply>, BadReply> {
    *seen = buffer.len();
    if buffer.len() > HEAD_BYTES_MAX { Err(BadReply::TooLong) } else { Ok(None) }
}

/// Whether there is an empty line; its lines may end in LF alone, as RFC 9112, 2.2 lets them.
fn ends(bytes: &[u8]) -> bool {
    memchr::memchr_iter(b'\n', bytes).any(|at| matches!(bytes[at + 1..], [b'\n', ..] | [b'\r', b'\n', ..]))
}

/// Room for what the balancer adds to most responses.
const ADDED_HEADERS: usize = 2;

/// RFC 9112, 6.3; but a coding other than chunked, which the client was never told of, is refused.
fn framing(parts: &response::Parts, method: &Method, old: bool) -> Result<Framing, BadReply> {
    let (headers, status) = (&parts.headers, parts.status);
    if status.is_informational() || *method == Method::HEAD || matches!(status.as_u16(), 204 | 304) {
        return Ok(Framing::Length(0));
    }
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    if let Some(coding) = codings.next() {
        let chunked = coding.as_bytes().eq_ignore_ascii_case(b"chunked") && codings.next().is_none() && !old;
        return if chunked { Ok(Framing::Chunked) } else { Err(BadReply::Framing) };
    }
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    let Some(length) = lengths.next() else { return Ok(Framing::Close) };
    if lengths.any(|other| other != length) {
        return Err(BadReply::Framing);
    }
    super::head::content_length(length.as_bytes()).map(Framing::Length).ok_or(BadReply::Framing)
}

fn keeps_alive(headers: &HeaderMap, old: bool) -> bool {
    let says = |token: &[u8]| {
        let mut lines = headers.get_all(header::CONNECTION).iter();
        lines.any(|line| {
            line.as_bytes()
                .split(|byte| *byte == b',')
                .any(|word| word.trim_ascii().eq_ignore_ascii_case(token))
        })
    };
    if old { says(b"keep-alive") && !says(b"close") } else { !says(b"close") }
}

/// The head of a request, with names as `Title-Case`, which old servers and people expect. `chunked`: so is its body.
pub(super) fn write(parts: &request::Parts, chunked: bool, out: &mut BytesMut) {
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    let fields: usize = parts.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    out.reserve(parts.method.as_str().len() + path.len() + fields + 64);
    out.extend_from_slice(parts.method.as_str().as_bytes());
    out.extend_from_slice(b" ");
    out.extend_from_slice(path.as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\n");
    for (name, value) in &parts.headers {
        let start = out.len();
        out.extend_from_slice(name.as_str().as_bytes());
        title_case(&mut out[start..]);
        out.extend_from_slice(b": ");
        out.extend_from_slice(value.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(if chunked { b"Transfer-Encoding: chunked\r\n\r\n" } else { b"\r\n" });
}

fn title_case(name: &mut [u8]) {
    let mut first = true;
    for byte in name {
        if first {
            byte.make_ascii_uppercase();
        }
        first = *byte == b'-';
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str, method: &Method) -> Result<Option<(Reply, usize)>, BadReply> {
        let mut buffer = BytesMut::from(text);
        Ok(take(&mut buffer, &mut 0, method)?.map(|reply| (reply, buffer.len())))
    }

    fn framing_of(text: &str) -> Result<(Framing, bool), BadReply> {
        let (reply, _) = read(text, &Method::GET)?.expect("a whole head");
        Ok((reply.framing, reply.keep_alive))
    }

    #[test]
    fn where_a_body_ends() {
        use Framing::{Chunked, Close, Length};
        let cases = [
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", Ok((Length(5), true))),
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: x, Close\r\n\r\n", Ok((Length(5), false))),
            ("HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\n", Ok((Length(5), false))),
            ("HTTP/1.0 200 OK\r\nContent-Length: 5\r\nConnection: keep-alive\r\n\r\n", Ok((Length(5), true))),
            ("HTTP/1.1 200\r\nTransfer-Encoding: Chunked\r\nContent-Length: 5\r\n\r\n", Ok((Chunked, true))),
            ("HTTP/1.1 200 OK\n\n", Ok((Close, false))),
            ("\r\nHTTP/1.1 204 None\r\nContent-Length: 5\r\n\r\n", Ok((Length(0), true))),
            ("HTTP/1.1 304 Same\r\nContent-Length: 5\r\n\r\n", Ok((Length(0), true))),
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n", Err(BadReply::Framing)),
            ("HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\n", Err(BadReply::Framing)),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", Err(BadReply::Framing)),
            ("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", Err(BadReply::Framing)),
            ("HTTP/1.1 200 OK\r\nNo colon\r\n\r\n", Err(BadReply::Head)),
            ("HTTP/1.1 20 OK\r\n\r\n", Err(BadReply::Head)),
            ("ICY 200 OK\r\n\r\n", Err(BadReply::Head)),
        ];
        for (text, expected) in cases {
            assert_eq!(framing_of(text), expected, "{text:?}");
        }
        let head = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n";
        assert_eq!(read(head, &Method::HEAD).unwrap().unwrap().0.framing, Length(0));
    }

    #[test]
    fn a_reason_of_its_own_is_kept() {
        let (reply, _) = read("HTTP/1.1 200 Fine\r\n\r\n", &Method::GET).unwrap().unwrap();
        assert_eq!(reply.parts.extensions.get::<ReasonPhrase>().unwrap().as_bytes(), b"Fine");
        let (reply, _) = read("HTTP/1.1 200 OK\r\n\r\n", &Method::GET).unwrap().unwrap();
        assert!(reply.parts.extensions.get::<ReasonPhrase>().is_none());
    }

    #[test]
    fn a_head_without_end_is_given_up() {
        let mut buffer = BytesMut::from("HTTP/1.1 200 OK\r\n");
        let mut seen = 0;
        while buffer.len() <= HEAD_BYTES_MAX {
            assert!(take(&mut buffer, &mut seen, &Method::GET).unwrap().is_none());
            buffer.extend_from_slice(b"X-Y: 0123456789\r\n");
        }
        assert_eq!(take(&mut buffer, &mut seen, &Method::GET).unwrap_err(), BadReply::TooLong);
    }

    #[test]
    fn a_request_as_a_target_gets_it() {
        let request =
            http::Request::put("/a?b").header("x-amzn-trace-id", "Root=1").header("host", "a").body(());
        let mut out = BytesMut::new();
        write(&request.unwrap().into_parts().0, true, &mut out);
        let expected =
            "PUT /a?b HTTP/1.1\r\nX-Amzn-Trace-Id: Root=1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert_eq!(&out[..], expected.as_bytes());
    }

    proptest! {
        #[test]
        fn pieces_make_no_difference(
            text in "\r?\n?HTTP/1.[01] 20[04] \r?\n(Content-Length: [0-9]\r?\n)?(a: b\r?\n){0,3}\r?\n[a-z\n]{0,9}",
            cut in 1usize..9,
        ) {
            let whole = read(&text, &Method::GET);
            let (mut buffer, mut seen) = (BytesMut::new(), 0);
            let mut pieces = Ok(None);
            for piece in text.as_bytes().chunks(cut) {
                buffer.extend_from_slice(piece);
                if let Ok(None) = pieces {
                    pieces = take(&mut buffer, &mut seen, &Method::GET);
                }
            }
            let pieces = pieces.map(|reply| reply.map(|reply| (reply.framing, buffer.len())));
            prop_assert_eq!(whole.map(|reply| reply.map(|(reply, left)| (reply.framing, left))), pieces);
        }
    }
}
