use proptest::prelude::*;

use super::*;

fn head(text: &str) -> Result<Head, (u16, Option<Reason>)> {
    match read(text.as_bytes(), 0) {
        Ok(head) => Ok(head.expect("is whole")),
        Err(fault) => Err((fault.status, fault.verdict.reason)),
    }
}

fn verdict(text: &str) -> (Class, Option<Reason>, Framing) {
    let head = head(text).unwrap_or_else(|fault| panic!("{text:?}: {fault:?}"));
    (head.verdict.class, head.verdict.reason, head.framing)
}

#[test]
fn ordinary_requests_are_compliant() {
    for (text, framing) in [
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", Framing::None),
        ("GET / HTTP/1.0\r\n\r\n", Framing::None),
        ("\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", Framing::None),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n", Framing::Length(5)),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:  Chunked \r\n\r\n", Framing::Chunked),
        ("GET http://b/c?d HTTP/1.1\r\nHost: a\r\n\r\n", Framing::None),
        ("GET /a|b^{c}\"?[d] HTTP/1.1\r\nHost: a\r\n\r\n", Framing::None),
        ("OPTIONS * HTTP/1.1\r\nHost: a\r\nX: \t y\r\nEmpty:\r\n\r\n", Framing::None),
    ] {
        assert_eq!(verdict(text), (Class::Compliant, None, framing), "{text:?}");
    }
}

#[test]
fn what_is_not_compliant_is_classed_as_elb_does() {
    use Class::{Acceptable, Ambiguous};
    use Reason::*;
    let start = "HTTP/1.1\r\nHost: a\r\n";
    for (method, headers, class, reason) in [
        ("GET", "Content-Length: 0\r\n", Acceptable, GetHeadZeroContentLength),
        ("GET", "Content-Length: 4\r\n", Ambiguous, UndefinedContentLengthSemantics),
        ("HEAD", "Transfer-Encoding: chunked\r\n", Ambiguous, UndefinedTransferEncodingSemantics),
        ("POST", "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n", Ambiguous, BothTeClPresent),
        ("POST", "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n", Ambiguous, BothTeClPresent),
        ("POST", "Content-Length: 4\r\nContent-Length: 4\r\n", Ambiguous, DuplicateContentLength),
        ("POST", "Content_Length: 4\r\n", Ambiguous, SuspiciousHeader),
        ("POST", "Transfer.Encoding: chunked\r\n", Ambiguous, SuspiciousHeader),
        ("POST", "X: \u{e9}\r\n", Acceptable, NonCompliantHeader),
    ] {
        let text = format!("{method} / {start}{headers}\r\n");
        let (got, why, _) = verdict(&text);
        assert_eq!((got, why), (class, Some(reason)), "{text:?}");
    }
}

/// Each one made two servers disagree somewhere (CVE lists; "HTTP Desync Attacks"; RFC 9112, 6.1).
#[test]
fn smuggling_heads_are_refused() {
    use Reason::*;
    let post = "POST / HTTP/1.1\r\nHost: a\r\n";
    for (headers, status, reason) in [
        ("Content-Length: 4\r\nContent-Length: 5\r\n", 400, Some(MultipleContentLength)),
        ("Content-Length: 4, 4\r\n", 400, Some(BadContentLength)),
        ("Content-Length: +4\r\n", 400, Some(BadContentLength)),
        ("Content-Length: -1\r\n", 400, Some(BadContentLength)),
        ("Content-Length: 0x4\r\n", 400, Some(BadContentLength)),
        ("Content-Length: \r\n", 400, Some(BadContentLength)),
        ("Content-Length: 4 4\r\n", 400, Some(BadContentLength)),
        ("Content-Length: 18446744073709551620\r\n", 400, Some(BadContentLength)),
        ("Transfer-Encoding: xchunked\r\n", 400, Some(BadTransferEncoding)),
        ("Transfer-Encoding: chunked, identity\r\n", 400, Some(BadTransferEncoding)),
        ("Transfer-Encoding: identity\r\n", 400, Some(BadTransferEncoding)),
        ("Transfer-Encoding: \"chunked\"\r\n", 400, Some(BadTransferEncoding)),
        ("Transfer-Encoding: chunked;q=1\r\n", 400, Some(BadTransferEncoding)),
        ("Transfer-Encoding:\r\n", 400, Some(BadTransferEncoding)),
        (
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            400,
            Some(MultipleTransferEncodingChunked),
        ),
        (
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n",
            400,
            Some(MultipleTransferEncodingChunked),
        ),
        ("Transfer-Encoding: gzip, chunked\r\n", 501, None),
        ("Content-Length: 4\r\nTransfer_Encoding: chunked\r\n", 400, Some(SuspiciousTeClPresent)),
        (
            "Content-Length: 4\r\nContent-Length: 4\r\nTransfer_Encoding: chunked\r\n",
            400,
            Some(SuspiciousTeClPresent),
        ),
        ("Transfer-Encoding : chunked\r\n", 400, Some(BadHeader)),
        ("Transfer-Encoding\x0b: chunked\r\n", 400, Some(BadHeader)),
        ("Transfer-Encoding: \x0bchunked\r\n", 400, Some(BadHeader)),
        (" Transfer-Encoding: chunked\r\n", 400, Some(BadHeader)),
        ("X: y\r\n Transfer-Encoding: chunked\r\n", 400, Some(BadHeader)),
        ("X: y\nTransfer-Encoding: chunked\r\n", 400, Some(BadHeader)),
        ("X: y\rTransfer-Encoding: chunked\r\n", 400, Some(BadHeader)),
        ("X: y\0z\r\n", 400, Some(BadHeader)),
        (": empty\r\n", 400, Some(BadHeader)),
        ("no colon\r\n", 400, Some(BadHeader)),
        ("Host: b\r\n", 400, Some(BadHeader)),
    ] {
        assert_eq!(head(&format!("{post}{headers}\r\n")), Err((status, reason)), "{headers:?}");
    }
}

#[test]
fn smuggling_by_the_request_line_is_refused() {
    for (line, status) in [
        ("GET /a b HTTP/1.1", 400),
        ("GET  / HTTP/1.1", 400),
        ("GET /\t HTTP/1.1", 400),
        ("GET admin HTTP/1.1", 400),
        ("GET * HTTP/1.1", 400),
        ("GET a:80 HTTP/1.1", 400),
        ("GET http:// HTTP/1.1", 400),
        ("GET /<a> HTTP/1.1", 400),
        ("GET /\u{e9} HTTP/1.1", 400),
        ("GET / HTTP/1.2", 505),
        ("GET / HTTP/2.0", 505),
        ("GET / HTTP/1.10", 400),
        ("GET / http/1.1", 400),
        ("GET /", 400),
        ("G(T / HTTP/1.1", 400),
        ("\x16\x03\x01\x02", 400),
    ] {
        let refused = head(&format!("{line}\r\nHost: a\r\n\r\n"));
        assert_eq!(refused.map_err(|(status, _)| status).unwrap_err(), status, "{line:?}");
    }
    assert!(head("GET / HTTP/1.1\r\n\r\n").is_err(), "HTTP/1.1 has a Host");
    let old = "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert_eq!(head(old), Err((400, Some(Reason::BadTransferEncoding))));
}

#[test]
fn limits_have_their_status() {
    let long = |bytes: usize| "a".repeat(bytes);
    let status = |text: &str| read(text.as_bytes(), 0).map_err(|fault| fault.status);
    assert_eq!(status(&format!("GET /{}", long(REQUEST_LINE_BYTES_MAX))).unwrap_err(), 414);
    assert_eq!(
        head(&format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", long(REQUEST_LINE_BYTES_MAX))),
        Err((414, None))
    );
    assert_eq!(
        head(&format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", long(HEADER_BYTES_MAX))),
        Err((400, None))
    );
    let many = "X: y\r\n".repeat(HEADERS_MAX);
    assert_eq!(head(&format!("GET / HTTP/1.1\r\nHost: a\r\n{many}\r\n")), Err((400, None)));
    let endless = format!("GET / HTTP/1.1\r\nHost: a\r\n{}", format!("X: {}\r\n", long(4000)).repeat(17));
    assert_eq!(status(&endless).unwrap_err(), 400);
    assert_eq!(status("GET / HTTP/1.1\r\nHost: a\r\n"), Ok(None));
}

proptest! {
    /// Fed byte by byte the verdict is the same as at once.
    #[test]
    fn pieces_make_no_difference(text in "(GET|POST) /[a-z]{0,5} HTTP/1.[01]\r\n(Host: a\r\n)?(Content-Length: [0-9]{1,3}\r\n)?[ -~\r\n]{0,20}\r\n\r\n") {
        let bytes = text.as_bytes();
        let whole = read(bytes, 0);
        let mut seen = 0;
        let mut piecewise = Ok(None);
        for end in 1..=bytes.len() {
            piecewise = read(&bytes[..end], seen);
            seen = end;
            if !matches!(piecewise, Ok(None)) {
                break;
            }
        }
        prop_assert_eq!(whole.is_ok(), piecewise.is_ok());
        prop_assert_eq!(whole.ok(), piecewise.ok());
    }

    #[test]
    fn any_bytes_are_read(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(Some(head)) = read(&bytes, 0) {
            prop_assert!(head.bytes <= bytes.len());
        }
    }
}
