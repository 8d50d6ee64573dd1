//! The canonical request: one spelling for all the ways a client may write the same request.

use http::{HeaderMap, HeaderName};

const HEX: &[u8; 16] = b"0123456789ABCDEF";

/// Services whose path is encoded once and never normalised: a key may contain `//` and `..`.
pub(crate) fn is_s3(service: &str) -> bool {
    matches!(service, "s3" | "s3express" | "s3-outposts" | "s3-object-lambda")
}

/// Percent-encodes all but the unreserved characters (RFC 3986), and `/` where asked.
pub(crate) fn encode(bytes: &[u8], keep: Option<u8>, out: &mut Vec<u8>) {
    for &byte in bytes {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') || Some(byte) == keep {
            out.push(byte);
        } else {
            out.extend_from_slice(&[b'%', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
        }
    }
}

/// Undoes percent-encoding. A `%` that starts no valid escape stands for itself, as form decoders read it.
pub(crate) fn decode(text: &str, plus_is_space: bool) -> Vec<u8> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escape = match bytes[at] {
            b'%' => bytes.get(at + 1..at + 3).and_then(|pair| hex::decode(pair).ok()),
            _ => None,
        };
        match escape {
            Some(byte) => {
                out.extend_from_slice(&byte);
                at += 3;
            }
            None => {
                out.push(if plus_is_space && bytes[at] == b'+' { b' ' } else { bytes[at] });
                at += 1;
            }
        }
    }
    out
}

/// Drops empty and `.` segments and resolves `..`; a final `/` stays.
pub(crate) fn normalize_path(path: &str) -> String {
    let mut segments: Vec<&str> = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => {
                segments.pop();
            }
            other => segments.push(other),
        }
    }
    let mut out = String::with_capacity(path.len() + 1);
    for segment in &segments {
        out.push('/');
        out.push_str(segment);
    }
    if segments.is_empty() || path.ends_with('/') {
        out.push('/');
    }
    out
}

/// A query as (name, value) pairs, both canonically encoded, sorted as the signature wants them.
pub(crate) fn query_pairs(query_raw: &str) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut pairs: Vec<(Vec<u8>, Vec<u8>)> = query_raw
        .split('&')
        .filter(|part| !part.is_empty())
        .map(|part| {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            (encode_component(name), encode_component(value))
        })
        .collect();
    pairs.sort();
    pairs
}

fn encode_component(text: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    encode(&decode(text, true), None, &mut out);
    out
}

/// `name=value&…`.
pub(crate) fn join_pairs<'a>(pairs: impl Iterator<Item = &'a (Vec<u8>, Vec<u8>)>, out: &mut Vec<u8>) {
    for (index, (name, value)) in pairs.enumerate() {
        if index > 0 {
            out.push(b'&');
        }
        out.extend_from_slice(name);
        out.push(b'=');
        out.extend_from_slice(value);
    }
}

/// The canonical request up to the payload hash, which the caller appends.
///
/// `signed_headers` are lower-case and sorted. `Err` names a signed header that the request does not have.
pub(crate) fn head<'h>(
    method: &str,
    path_raw: &str,
    pairs: &[(Vec<u8>, Vec<u8>)],
    headers: &HeaderMap,
    signed_headers: &'h [String],
    service: &str,
) -> Result<Vec<u8>, &'h str> {
    let mut out = Vec::with_capacity(512);
    out.extend_from_slice(method.as_bytes());
    out.push(b'\n');
    if is_s3(service) {
        let path = if path_raw.is_empty() { "/" } else { path_raw };
        encode(&decode(path, false), Some(b'/'), &mut out);
    } else {
        encode(normalize_path(path_raw).as_bytes(), Some(b'/'), &mut out);
    }
    out.push(b'\n');
    join_pairs(pairs.iter().filter(|(name, _)| name != b"X-Amz-Signature"), &mut out);
    out.push(b'\n');
    for name in signed_headers {
        header_line(name, headers, &mut out).ok_or(name.as_str())?;
    }
    out.push(b'\n');
    out.extend_from_slice(signed_headers.join(";").as_bytes());
    out.push(b'\n');
    Ok(out)
}

/// `name:value,value\n`: values trimmed, runs of spaces collapsed to one.
fn header_line(name: &str, headers: &HeaderMap, out: &mut Vec<u8>) -> Option<()> {
    let key = HeaderName::from_bytes(name.as_bytes()).ok()?;
    if !headers.contains_key(&key) {
        return None;
    }
    out.extend_from_slice(name.as_bytes());
    out.push(b':');
    for (index, value) in headers.get_all(&key).iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        let mut words = value.as_bytes().split(|b| matches!(b, b' ' | b'\t')).filter(|word| !word.is_empty());
        if let Some(first) = words.next() {
            out.extend_from_slice(first);
        }
        for word in words {
            out.push(b' ');
            out.extend_from_slice(word);
        }
    }
    out.push(b'\n');
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn paths_normalise_as_botocore_does() {
        for (raw, normal) in [
            ("", "/"),
            ("/", "/"),
            ("//", "/"),
            ("/a/./b//c", "/a/b/c"),
            ("/a/../../b/", "/b/"),
            ("/..", "/"),
            ("/a/b/..", "/a"),
        ] {
            assert_eq!(normalize_path(raw), normal, "{raw}");
        }
    }

    #[test]
    fn queries_have_one_spelling() {
        let canonical = |raw| {
            let mut out = Vec::new();
            join_pairs(query_pairs(raw).iter(), &mut out);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(canonical("b=2&a=1&a=0&flag&&e="), "a=0&a=1&b=2&e=&flag=");
        assert_eq!(canonical("x=a+b&y=a%2Bb&z=%7e%2a"), "x=a%20b&y=a%2Bb&z=~%2A");
        assert_eq!(canonical("a-b=1&a=2"), "a=2&a-b=1");
        assert_eq!(canonical("p=100%&q=%zz"), "p=100%25&q=%25zz");
        assert_eq!(canonical("k=a=b"), "k=a%3Db");
    }

    #[test]
    fn headers_collapse_and_join() {
        let mut headers = HeaderMap::new();
        headers.append("my-header", HeaderValue::from_static("  a   b "));
        headers.append("my-header", HeaderValue::from_static("\"c  d\""));
        headers.append("my-header", HeaderValue::from_static(""));
        let mut out = Vec::new();
        header_line("my-header", &headers, &mut out).unwrap();
        assert_eq!(out, b"my-header:a b,\"c d\",\n");
        assert!(header_line("absent", &headers, &mut out).is_none());
        assert!(header_line("not a name", &headers, &mut out).is_none());
    }
}
