//! The head of an HTTP/1 request as bytes: is it whole, may it pass, where does its body end. Pure.
//!
//! It is read once, here, and what goes to a target is written anew from what was understood; so target and balancer never
//! see two different requests in the same bytes. The classes and reasons are those of ELB's access logs ("Classification
//! reasons").

use std::fmt;
use std::mem::MaybeUninit;
use std::sync::LazyLock;

use bytes::BytesMut;
use http::{Method, Request, Uri, Version, request};
use memchr::memmem::Finder;

use super::fields::{self, Place, Span, has_token};

/// ALB quotas: 16K a request line, 16K a header, 64K all headers.
pub const REQUEST_LINE_BYTES_MAX: usize = 16 * 1024;
pub const HEADER_BYTES_MAX: usize = 16 * 1024;
pub const HEAD_BYTES_MAX: usize = 64 * 1024;
pub const HEADERS_MAX: usize = 100;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    Compliant,
    Acceptable,
    Ambiguous,
    Severe,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    AmbiguousUri,
    BadContentLength,
    BadHeader,
    BadMethod,
    BadTransferEncoding,
    BadUri,
    BadVersion,
    BothTeClPresent,
    DuplicateContentLength,
    EmptyHeader,
    GetHeadZeroContentLength,
    MultipleContentLength,
    MultipleTransferEncodingChunked,
    NonCompliantHeader,
    NonCompliantVersion,
    SuspiciousHeader,
    SuspiciousTeClPresent,
    UndefinedContentLengthSemantics,
    UndefinedTransferEncodingSemantics,
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// How the request is classed, and why when it is not compliant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub class: Class,
    pub reason: Option<Reason>,
}

impl Default for Verdict {
    fn default() -> Self {
        Verdict::COMPLIANT
    }
}

impl Verdict {
    pub const COMPLIANT: Verdict = Verdict { class: Class::Compliant, reason: None };

    /// The worst finding counts; of two as bad, the first.
    fn found(&mut self, class: Class, reason: Reason) {
        if class > self.class {
            *self = Verdict { class, reason: Some(reason) };
        }
    }
}

/// Where the body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    None,
    Length(u64),
    Chunked,
}

/// A head that may pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// With the empty line that ends it.
    pub bytes: usize,
    pub framing: Framing,
    pub verdict: Verdict,
    /// The client wants another answer on this connection.
    pub keep_alive: bool,
    /// The client waits for a word before it sends the body.
    pub expects: bool,
}

/// A head that is answered here and goes nowhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// 400, 408, 414, 501, 505
    pub status: u16,
    pub verdict: Verdict,
    /// As far as it came, for the log.
    pub request_line: String,
}

/// What of a request line that cannot be read goes into the log.
const FAULT_LINE_BYTES_MAX: usize = 1024;

impl Fault {
    pub(crate) fn new(status: u16, class: Class, reason: Option<Reason>, bytes: &[u8]) -> Fault {
        let line = bytes.split(|byte| *byte == b'\r' || *byte == b'\n').find(|line| !line.is_empty());
        let line = line.unwrap_or_default();
        let line = String::from_utf8_lossy(&line[..line.len().min(FAULT_LINE_BYTES_MAX)]).into_owned();
        Fault { status, verdict: Verdict { class, reason }, request_line: line }
    }
}

/// `None`: not whole yet. `seen` bytes of it were looked at before.
pub fn read(bytes: &[u8], seen: usize) -> Result<Option<Head>, Fault> {
    let Some(end) = end(bytes, seen)? else { return Ok(None) };
    let mut fields = [const { MaybeUninit::uninit() }; HEADERS_MAX];
    parse(&bytes[..end], &mut fields).map(|(head, _)| Some(head))
}

/// Room for what the balancer adds to most requests.
const ADDED_HEADERS: usize = 5;

/// Takes a whole head off the buffer; `None` and `seen` as with [`read`].
pub fn take(buffer: &mut BytesMut, seen: &mut usize) -> Result<Option<(Head, request::Parts)>, Fault> {
    let Some(end) = end(buffer, *seen)? else {
        *seen = buffer.len();
        return Ok(None);
    };
    *seen = 0;
    let bytes = &buffer[..end];
    let mut fields = [const { MaybeUninit::uninit() }; HEADERS_MAX];
    let (head, read) = parse(bytes, &mut fields)?;
    let mut places = [Place::default(); HEADERS_MAX];
    let count = read.headers.len();
    for (place, field) in places.iter_mut().zip(read.headers.iter()) {
        *place = Place::of(field, bytes);
    }
    let bad = |reason, bytes: &[u8]| Fault::new(400, Class::Ambiguous, Some(reason), bytes);
    let method = Method::from_bytes(read.method.unwrap_or_default().as_bytes())
        .map_err(|_| bad(Reason::BadMethod, bytes))?;
    let path = Span::of(read.path.unwrap_or_default().as_bytes(), bytes);
    let version = if read.version == Some(0) { Version::HTTP_10 } else { Version::HTTP_11 };
    let bytes = buffer.split_to(end).freeze();
    let mut parts = Request::new(()).into_parts().0;
    parts.method = method;
    parts.version = version;
    parts.uri = Uri::from_maybe_shared(bytes.slice(path.range())).map_err(|_| bad(Reason::BadUri, &bytes))?;
    parts.headers =
        fields::map(&bytes, &places[..count], ADDED_HEADERS).ok_or_else(|| bad(Reason::BadHeader, &bytes))?;
    Ok(Some((head, parts)))
}

static END: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\r\n\r\n"));

/// Where the head ends, if it is whole; its lines are those of a head.
fn end(bytes: &[u8], seen: usize) -> Result<Option<usize>, Fault> {
    let fault = |status, class, reason| Fault::new(status, class, Some(reason), bytes);
    let start = bytes.iter().take(4).take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
    if let Some(first) = bytes.get(start)
        && !first.is_ascii_alphabetic()
        && !b"!#$%&'*+-.^_`|~0123456789".contains(first)
    {
        return Err(fault(400, Class::Ambiguous, Reason::BadMethod));
    }
    let from = seen.saturating_sub(3).max(start);
    let Some(end) = END.find(&bytes[from.min(bytes.len())..]) else {
        return incomplete(&bytes[start..]).map(|()| None);
    };
    let end = from + end + 4;
    if end > HEAD_BYTES_MAX {
        return Err(Fault::new(400, Class::Compliant, None, bytes));
    }
    line_ends(&bytes[start..end]).map_err(|()| fault(400, Class::Ambiguous, Reason::BadHeader))?;
    Ok(Some(end))
}

/// How far a head may get without being whole.
fn incomplete(bytes: &[u8]) -> Result<(), Fault> {
    if bytes.len() > REQUEST_LINE_BYTES_MAX
        && memchr::memchr(b'\n', &bytes[..REQUEST_LINE_BYTES_MAX]).is_none()
    {
        return Err(Fault::new(414, Class::Compliant, None, bytes));
    }
    if bytes.len() > HEAD_BYTES_MAX {
        return Err(Fault::new(400, Class::Compliant, None, bytes));
    }
    // A line that ends in a lone LF will never become one that may pass.
    if let Some(at) = memchr::memchr(b'\n', bytes)
        && (at == 0 || bytes[at - 1] != b'\r')
    {
        return Err(Fault::new(400, Class::Ambiguous, Some(Reason::BadHeader), bytes));
    }
    Ok(())
}

/// Every line ends in CR LF, and neither stands anywhere else: parsers differ on all else.
fn line_ends(head: &[u8]) -> Result<(), ()> {
    let mut from = 0;
    for at in memchr::memchr_iter(b'\n', head) {
        // The line's only CR is its last byte.
        let last = at.checked_sub(from + 1);
        if last.is_none() || memchr::memchr(b'\r', &head[from..at]) != last {
            return Err(());
        }
        from = at + 1;
    }
    Ok(())
}

type Fields<'a> = [MaybeUninit<httparse::Header<'a>>; HEADERS_MAX];

fn parse<'a, 'b>(
    head: &'a [u8],
    fields: &'b mut Fields<'a>,
) -> Result<(Head, httparse::Request<'b, 'a>), Fault> {
    let fault = |status, class, reason| Fault::new(status, class, Some(reason), head);
    let mut request = httparse::Request::new(&mut []);
    match request.parse_with_uninit_headers(head, fields) {
        Ok(httparse::Status::Complete(bytes)) if bytes == head.len() => {}
        Ok(_) => return Err(fault(400, Class::Ambiguous, Reason::EmptyHeader)),
        Err(httparse::Error::Version) if looks_like_version(head) => {
            return Err(fault(505, Class::Acceptable, Reason::NonCompliantVersion));
        }
        Err(httparse::Error::Version) => return Err(fault(400, Class::Ambiguous, Reason::BadVersion)),
        Err(httparse::Error::Token) => return Err(fault(400, Class::Ambiguous, Reason::BadUri)),
        Err(httparse::Error::TooManyHeaders) => return Err(Fault::new(400, Class::Compliant, None, head)),
        Err(_) => return Err(fault(400, Class::Ambiguous, Reason::BadHeader)),
    }
    let path = request.path.unwrap_or_default();
    if path.len() > REQUEST_LINE_BYTES_MAX {
        return Err(Fault::new(414, Class::Compliant, None, head));
    }
    if !path.is_ascii() {
        return Err(fault(400, Class::Ambiguous, Reason::AmbiguousUri));
    }
    if !is_target(request.method.unwrap_or_default(), path) {
        return Err(fault(400, Class::Ambiguous, Reason::BadUri));
    }
    let seen = Findings::of(request.headers, head)?;
    let get_or_head = matches!(request.method, Some("GET" | "HEAD"));
    let old = request.version == Some(0);
    if seen.hosts > 1 || (seen.hosts == 0 && !old) {
        return Err(fault(400, Class::Ambiguous, Reason::BadHeader));
    }
    let (framing, verdict) = seen.framing(get_or_head);
    if old && framing == Framing::Chunked {
        return Err(fault(400, Class::Severe, Reason::BadTransferEncoding));
    }
    let head = Head {
        bytes: head.len(),
        framing,
        verdict,
        keep_alive: !seen.close && (!old || seen.keep_alive),
        expects: seen.expects && !old && framing != Framing::None,
    };
    Ok((head, request))
}

/// A request target in the form that its method has (RFC 9112, 3.2), and that the library takes.
fn is_target(method: &str, target: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/?&=%-._~+,;:@!$'()*".contains(&byte);
    match (method, target.as_bytes()) {
        (_, [b'/', rest @ ..]) if rest.iter().all(|byte| plain(*byte)) => true,
        ("OPTIONS", b"*") => true,
        ("CONNECT", _) => true,
        (_, [b'/', ..]) => http::Uri::try_from(target).is_ok(),
        _ => http::Uri::try_from(target).is_ok_and(|uri| uri.scheme().is_some()),
    }
}

/// `HTTP/` digit `.` digit: a version, but none of ours.
fn looks_like_version(head: &[u8]) -> bool {
    let line = head.split(|byte| *byte == b'\r').find(|line| !line.is_empty() && *line != b"\n");
    // A space too many makes another mistake.
    let mut words = line.unwrap_or_default().split(|byte| *byte == b' ').skip(2);
    let version = words.next().filter(|_| words.next().is_none()).unwrap_or_default();
    matches!(version, [b'H', b'T', b'T', b'P', b'/', major, b'.', minor] if major.is_ascii_digit() && minor.is_ascii_digit())
}

/// What the headers say about the message and its connection.
#[derive(Default)]
struct Findings {
    verdict: Verdict,
    length: Option<u64>,
    chunked: bool,
    hosts: usize,
    close: bool,
    keep_alive: bool,
    expects: bool,
    /// A name that some take for another's.
    suspicious: bool,
}

impl Findings {
    fn of(headers: &[httparse::Header<'_>], head: &[u8]) -> Result<Findings, Fault> {
        let mut fields = Findings::default();
        for header in headers {
            fields.take(header).map_err(|(status, class, reason)| Fault::new(status, class, reason, head))?;
        }
        if fields.suspicious && (fields.chunked || fields.length.is_some()) {
            let (class, reason) = (Class::Severe, Some(Reason::SuspiciousTeClPresent));
            return Err(Fault::new(400, class, reason, head));
        }
        Ok(fields)
    }

    fn take(&mut self, header: &httparse::Header<'_>) -> Result<(), (u16, Class, Option<Reason>)> {
        let severe = |reason| (400, Class::Severe, Some(reason));
        let (name, value) = (header.name, header.value);
        if name.len() + value.len() > HEADER_BYTES_MAX {
            return Err((400, Class::Compliant, None));
        }
        if name.eq_ignore_ascii_case("content-length") {
            let length = content_length(value).ok_or(severe(Reason::BadContentLength))?;
            match self.length {
                Some(before) if before != length => return Err(severe(Reason::MultipleContentLength)),
                Some(_) => self.verdict.found(Class::Ambiguous, Reason::DuplicateContentLength),
                None => self.length = Some(length),
            }
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            if self.chunked {
                return Err(severe(Reason::MultipleTransferEncodingChunked));
            }
            match value.trim_ascii() {
                value if value.eq_ignore_ascii_case(b"chunked") => self.chunked = true,
                value if known_coding(value) => return Err((501, Class::Compliant, None)),
                _ => return Err(severe(Reason::BadTransferEncoding)),
            }
        } else if name.eq_ignore_ascii_case("host") {
            self.hosts += 1;
        } else if name.eq_ignore_ascii_case("connection") {
            self.close |= has_token(value, b"close");
            self.keep_alive |= has_token(value, b"keep-alive");
        } else if name.eq_ignore_ascii_case("expect") {
            self.expects = value.eq_ignore_ascii_case(b"100-continue");
        } else if suspicious(name) {
            self.suspicious = true;
            self.verdict.found(Class::Ambiguous, Reason::SuspiciousHeader);
        }
        if !value.is_ascii() {
            self.verdict.found(Class::Acceptable, Reason::NonCompliantHeader);
        }
        Ok(())
    }

    fn framing(&self, get_or_head: bool) -> (Framing, Verdict) {
        let mut verdict = self.verdict;
        match (self.chunked, self.length) {
            (true, length) => {
                if length.is_some() {
                    verdict.found(Class::Ambiguous, Reason::BothTeClPresent);
                }
                if get_or_head {
                    verdict.found(Class::Ambiguous, Reason::UndefinedTransferEncodingSemantics);
                }
                (Framing::Chunked, verdict)
            }
            (false, Some(0)) => {
                if get_or_head {
                    verdict.found(Class::Acceptable, Reason::GetHeadZeroContentLength);
                }
                (Framing::None, verdict)
            }
            (false, Some(length)) => {
                if get_or_head {
                    verdict.found(Class::Ambiguous, Reason::UndefinedContentLengthSemantics);
                }
                (Framing::Length(length), verdict)
            }
            (false, None) => (Framing::None, verdict),
        }
    }
}

/// Digits only: no sign, no list, no number that wraps.
pub(super) fn content_length(value: &[u8]) -> Option<u64> {
    let value = value.trim_ascii();
    if value.is_empty() || value.len() > 18 || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(value).ok()?.parse().ok()
}

/// Codings that exist and that ALB does not do: 501. All else is an attempt at something: 400.
fn known_coding(value: &[u8]) -> bool {
    let Ok(value) = std::str::from_utf8(value) else { return false };
    let codings = || value.split(',').map(|coding| coding.trim().to_ascii_lowercase());
    let known =
        |coding: String| matches!(coding.as_str(), "gzip" | "deflate" | "compress" | "br" | "chunked");
    codings().all(known) && codings().any(|coding| coding != "chunked")
}

/// A name that a lenient server could take for one that frames the body.
fn suspicious(name: &str) -> bool {
    if !(12..=24).contains(&name.len()) {
        return false;
    }
    let plain = name.bytes().filter(u8::is_ascii_alphanumeric).map(|byte| byte.to_ascii_lowercase());
    plain.clone().eq(*b"contentlength") || plain.eq(*b"transferencoding")
}

#[cfg(test)]
#[path = "head_tests.rs"]
mod tests;
