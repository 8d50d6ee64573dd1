//! Heads as they go to an HTTP/1 target and as they come back. Pure.
//!
//! A target is believed about its own response only: where its body ends is decided once, here, and the client gets it
//! framed anew.

use bytes::{Buf, BytesMut};
use http::{Method, Response, StatusCode, request, response};
use hyper::ext::ReasonPhrase;

use super::fields::{self, Place, Span, has_token, title_case};
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

/// What the head of a response says of its message; the fields stay where they are until they are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) framing: Framing,
    /// The target takes another request on this connection.
    pub(super) keep_alive: bool,
}

/// Where the head of a response stands in what came, until the client was given it.
#[derive(Default)]
pub(super) struct Head {
    /// 0: there is none.
    bytes: usize,
    reason: Option<Span>,
    /// Never freed: the next response has as many.
    places: Vec<Place>,
}

impl Head {
    pub(super) fn is_there(&self) -> bool {
        self.bytes > 0
    }

    /// Names and values, as they came.
    pub(super) fn fields<'a>(&'a self, input: &'a [u8]) -> impl Iterator<Item = (&'a [u8], &'a [u8])> {
        self.places.iter().map(|place| (place.name(input), place.value(input)))
    }

    pub(super) fn places(&self) -> &[Place] {
        &self.places
    }

    /// The target's own word for the status, if it is not the usual one.
    pub(super) fn reason<'a>(&self, input: &'a [u8]) -> Option<&'a [u8]> {
        self.reason.map(|reason| &input[reason.range()])
    }

    /// The client has it: the body follows.
    pub(super) fn drop_from(&mut self, input: &mut BytesMut) {
        input.advance(std::mem::take(&mut self.bytes));
    }

    /// As the HTTP library has it.
    pub(super) fn take_from(&mut self, input: &mut BytesMut, reply: &Reply) -> response::Parts {
        let head = input.split_to(std::mem::take(&mut self.bytes)).freeze();
        let mut parts = Response::new(()).into_parts().0;
        parts.status = reply.status;
        if let Some(Ok(reason)) = self.reason(&head).map(ReasonPhrase::try_from) {
            parts.extensions.insert(reason);
        }
        // The parser has seen that they are fields.
        parts.headers = fields::map(&head, &self.places, ADDED_HEADERS).unwrap_or_default();
        parts
    }
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

/// Reads a whole head, of which `seen` bytes were looked at before; `None`: it is not whole yet.
pub(super) fn read(
    buffer: &mut BytesMut,
    seen: &mut usize,
    method: &Method,
    head: &mut Head,
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
    *seen = 0;
    let status = read.code.and_then(|code| StatusCode::from_u16(code).ok()).ok_or(BadReply::Head)?;
    // An empty one is the parser's own, and nowhere in the buffer.
    let reason =
        read.reason.filter(|reason| !reason.is_empty() && Some(*reason) != status.canonical_reason());
    let mut findings = Findings::default();
    head.places.clear();
    for field in read.headers.iter() {
        findings.take(field);
        head.places.push(Place::of(field, buffer));
    }
    head.reason = reason.map(|reason| Span::of(reason.as_bytes(), buffer));
    head.bytes = end;
    let old = read.version == Some(0);
    let framing = findings.framing(status, method, old)?;
    let keep_alive = framing != Framing::Close && findings.keeps_alive(old);
    Ok(Some(Reply { status, framing, keep_alive }))
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

/// What the fields say about where the body ends, and the connection.
#[derive(Default)]
struct Findings {
    length: Option<u64>,
    /// `Some(false)`: another coding, or more than one.
    chunked: Option<bool>,
    close: bool,
    keep_alive: bool,
}

impl Findings {
    fn take(&mut self, field: &httparse::Header<'_>) {
        match field.name.len() {
            14 if field.name.eq_ignore_ascii_case("content-length") => {
                let length = super::head::content_length(field.value);
                let length = length.filter(|length| self.length.is_none_or(|before| before == *length));
                // That of a chunked body, or of none, is nobody's business: it is looked at when it counts.
                self.length = Some(length.unwrap_or(BAD_LENGTH));
            }
            17 if field.name.eq_ignore_ascii_case("transfer-encoding") => {
                let alone = self.chunked.is_none();
                self.chunked = Some(alone && field.value.eq_ignore_ascii_case(b"chunked"));
            }
            10 if field.name.eq_ignore_ascii_case("connection") => {
                self.close |= has_token(field.value, b"close");
                self.keep_alive |= has_token(field.value, b"keep-alive");
            }
            _ => {}
        }
    }

    /// RFC 9112, 6.3; but a coding other than chunked, which the client was never told of, is refused.
    fn framing(&self, status: StatusCode, method: &Method, old: bool) -> Result<Framing, BadReply> {
        if status.is_informational() || *method == Method::HEAD || matches!(status.as_u16(), 204 | 304) {
            return Ok(Framing::Length(0));
        }
        match (self.chunked, self.length) {
            (Some(true), _) if !old => Ok(Framing::Chunked),
            (Some(_), _) | (None, Some(BAD_LENGTH)) => Err(BadReply::Framing),
            (None, Some(length)) => Ok(Framing::Length(length)),
            (None, None) => Ok(Framing::Close),
        }
    }

    fn keeps_alive(&self, old: bool) -> bool {
        !self.close && (!old || self.keep_alive)
    }
}

/// More digits than a length may have.
const BAD_LENGTH: u64 = u64::MAX;

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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn whole(text: &str, method: &Method) -> Result<Option<(Reply, usize)>, BadReply> {
        let (mut buffer, mut head) = (BytesMut::from(text), Head::default());
        let reply = read(&mut buffer, &mut 0, method, &mut head)?;
        head.drop_from(&mut buffer);
        Ok(reply.map(|reply| (reply, buffer.len())))
    }

    fn framing_of(text: &str) -> Result<(Framing, bool), BadReply> {
        let (reply, _) = whole(text, &Method::GET)?.expect("a whole head");
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
        assert_eq!(whole(head, &Method::HEAD).unwrap().unwrap().0.framing, Length(0));
    }

    #[test]
    fn a_reason_of_its_own_is_kept() {
        for (reason, kept) in [(" Fine", Some("Fine")), (" OK", None), (" ", None), ("", None)] {
            let mut buffer = BytesMut::from(&*format!("HTTP/1.1 200{reason}\r\nA: b\r\n\r\nrest"));
            let mut head = Head::default();
            let reply = read(&mut buffer, &mut 0, &Method::GET, &mut head).unwrap().unwrap();
            assert_eq!(head.reason(&buffer), kept.map(str::as_bytes));
            let parts = head.take_from(&mut buffer, &reply);
            assert_eq!(parts.extensions.get().map(ReasonPhrase::as_bytes), kept.map(str::as_bytes));
            assert_eq!((&parts.headers["a"], &buffer[..]), (&"b".parse().unwrap(), &b"rest"[..]));
        }
    }

    #[test]
    fn a_head_without_end_is_given_up() {
        let mut buffer = BytesMut::from("HTTP/1.1 200 OK\r\n");
        let (mut seen, mut head) = (0, Head::default());
        while buffer.len() <= HEAD_BYTES_MAX {
            assert!(read(&mut buffer, &mut seen, &Method::GET, &mut head).unwrap().is_none());
            buffer.extend_from_slice(b"X-Y: 0123456789\r\n");
        }
        assert_eq!(read(&mut buffer, &mut seen, &Method::GET, &mut head), Err(BadReply::TooLong));
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
            let whole = whole(&text, &Method::GET);
            let (mut buffer, mut seen, mut head) = (BytesMut::new(), 0, Head::default());
            let mut pieces = Ok(None);
            for piece in text.as_bytes().chunks(cut) {
                buffer.extend_from_slice(piece);
                if let Ok(None) = pieces {
                    pieces = read(&mut buffer, &mut seen, &Method::GET, &mut head);
                }
            }
            head.drop_from(&mut buffer);
            let pieces = pieces.map(|reply| reply.map(|reply| (reply.framing, buffer.len())));
            prop_assert_eq!(whole.map(|reply| reply.map(|(reply, left)| (reply.framing, left))), pieces);
        }
    }
}
