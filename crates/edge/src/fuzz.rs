//! What the fuzz targets call, and what must hold beyond "no panic". The seeds of `fuzz/corpus` run as tests here.

use std::net::{IpAddr, Ipv4Addr};

use bytes::BytesMut;
use ferrogate_nodeapi::{Condition, Transform};
use http::{HeaderMap, Method};

use crate::alb::{head, pass_chunks, read_reply};
use crate::rules::{Conditions, Redirect, RedirectSource, RequestView, Transforms};

/// A connection's first bytes: the verdict does not depend on how they were cut into packets, and what passes is read
/// in the same way by the parser behind.
pub fn requests(input: &[u8]) {
    let Some((cut, bytes)) = input.split_first() else { return };
    let cut = usize::from(*cut) % (bytes.len() + 1);
    let whole = head::read(bytes, 0);
    let pieces = match head::read(&bytes[..cut], 0) {
        Ok(None) => head::read(bytes, cut),
        early => early,
    };
    match (&whole, &pieces) {
        (Ok(whole), Ok(pieces)) => assert_eq!(whole, pieces),
        (Err(whole), Err(pieces)) => assert_eq!(whole.status / 100, pieces.status / 100),
        // A head that is refused early would have been refused late.
        (whole, pieces) => panic!("{whole:?} at once, {pieces:?} in pieces"),
    }
    taken(bytes, &whole);
    let Ok(Some(head)) = whole else { return };
    let mut headers = [httparse::EMPTY_HEADER; head::HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    assert_eq!(request.parse(bytes), Ok(httparse::Status::Complete(head.bytes)));
    let has = |name: &str| request.headers.iter().any(|header| header.name.eq_ignore_ascii_case(name));
    match head.framing {
        head::Framing::Chunked => assert!(has("transfer-encoding")),
        head::Framing::Length(_) => assert!(has("content-length") && !has("transfer-encoding")),
        head::Framing::None => assert!(!has("transfer-encoding")),
    }
    chunks(&bytes[head.bytes..], cut);
}

/// What is taken off a connection is what was looked at.
fn taken(bytes: &[u8], whole: &Result<Option<head::Head>, head::Fault>) {
    let mut buffer = BytesMut::from(bytes);
    match (whole, head::take(&mut buffer, &mut 0)) {
        (Ok(Some(head)), Ok(Some((taken, parts)))) => {
            assert_eq!((head, &bytes[head.bytes..]), (&taken, &buffer[..]));
            assert!(parts.headers.len() <= head::HEADERS_MAX);
        }
        // Whatever it wants to connect to, it will not.
        (Ok(Some(_)), Err(fault)) => assert!(fault.request_line.starts_with("CONNECT "), "{fault:?}"),
        (Ok(None), Ok(None)) => assert_eq!(bytes, buffer),
        (Err(fault), Err(taken)) => assert_eq!(*fault, taken),
        (whole, taken) => panic!("{whole:?} looked at, {taken:?} taken"),
    }
}

/// What a target says: however it was cut into packets, it is one response with one body, or none.
pub fn replies(input: &[u8]) {
    let Some((cut, bytes)) = input.split_first() else { return };
    let (first, second) = bytes.split_at(usize::from(*cut) % (bytes.len() + 1));
    assert_eq!(read_reply(&[bytes]), read_reply(&[first, second]));
}

/// However a chunked body is cut, it ends at the same byte.
fn chunks(bytes: &[u8], cut: usize) {
    let cut = cut.min(bytes.len());
    assert_eq!(pass_chunks(&[bytes]), pass_chunks(&[&bytes[..cut], &bytes[cut..]]));
}

/// A line of JSON: a condition, a transform, or a redirect's path; then a request line to try it on.
pub fn rules(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let mut lines = text.lines();
    let (rule, target) = (lines.next().unwrap_or_default(), lines.next().unwrap_or("/"));
    let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
    if let Ok(condition) = serde_json::from_str::<Condition>(rule)
        && let Ok(conditions) = Conditions::new(&[condition])
    {
        let mut headers = HeaderMap::new();
        if let Ok(value) = target.parse() {
            headers.insert("user-agent", value);
        }
        let view = RequestView {
            method: &Method::GET,
            host: path,
            path,
            query,
            headers: &headers,
            source: IpAddr::V4(Ipv4Addr::LOCALHOST),
        };
        assert_eq!(conditions.hold(&view), conditions.hold(&view));
    }
    if let Ok(transform) = serde_json::from_str::<Transform>(rule)
        && let Ok(transforms) = Transforms::new(&[transform])
        && let Ok(made) = transforms.apply(target, path)
    {
        // Nothing that a rule makes of a stranger's words breaks a line.
        let made = made.path_and_query.into_iter().chain(made.host);
        made.for_each(|made| assert!(made.bytes().all(|byte| byte.is_ascii_graphic()), "{made:?}"));
    }
    let redirect = Redirect {
        protocol: "HTTPS".to_owned(),
        host: "#{host}".to_owned(),
        port: "443".to_owned(),
        path: rule.to_owned(),
        query: rule.to_owned(),
        status: 301,
    };
    let source =
        RedirectSource { protocol: "http", host: "h", port: 80, path, query: query.unwrap_or_default() };
    assert!(redirect.location(&source).starts_with("https://h:443/"));
}

#[cfg(test)]
mod tests {
    fn seeds(target: &str) -> Vec<Vec<u8>> {
        let folder = format!("{}/../../fuzz/corpus/{target}", env!("CARGO_MANIFEST_DIR"));
        let files = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{folder}: {error}"));
        let seeds: Vec<_> = files.map(|file| std::fs::read(file.unwrap().path()).unwrap()).collect();
        assert!(seeds.len() > 5, "{folder}: {} seeds", seeds.len());
        seeds
    }

    /// Each seed, and each with one byte changed or cut off.
    fn around(seed: &[u8], run: fn(&[u8])) {
        run(seed);
        for at in 0..seed.len() {
            run(&seed[..at]);
            for byte in [b'\r', b'\n', b' ', 0, b':', b'0', 0xff] {
                let mut changed = seed.to_vec();
                changed[at] = byte;
                run(&changed);
            }
        }
    }

    #[test]
    fn seeds_of_requests_and_what_is_near_them() {
        seeds("edge_requests").iter().for_each(|seed| around(seed, super::requests));
    }

    #[test]
    fn seeds_of_connections_and_what_is_near_them() {
        seeds("edge_connection").iter().for_each(|seed| around(seed, crate::alb::fuzzing::connection));
    }

    #[test]
    fn seeds_of_replies_and_what_is_near_them() {
        seeds("edge_replies").iter().for_each(|seed| around(seed, super::replies));
    }

    #[test]
    fn seeds_of_rules_and_what_is_near_them() {
        seeds("edge_rules").iter().for_each(|seed| around(seed, super::rules));
    }
}
