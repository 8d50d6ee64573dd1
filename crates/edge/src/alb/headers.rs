//! Headers on their way to a target and back (ELB user guide, "HTTP headers and Application Load Balancers").

use std::fmt::Write as _;
use std::net::SocketAddr;

use ferrogate_nodeapi::{BalancerAttributes, XffProcessing};
use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::compiled::HeaderAttributes;
use super::random;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
pub(crate) const X_AMZN_TRACE_ID: HeaderName = HeaderName::from_static("x-amzn-trace-id");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// More addresses than this in `X-Forwarded-For`: 463.
pub(crate) const FORWARDED_FOR_MAX: usize = 30;
/// A trace header that is longer is not gone on with.
const TRACE_BYTES_MAX: usize = 1024;

/// The connection a request came by.
pub(crate) struct Origin<'a> {
    pub(crate) client: SocketAddr,
    /// Its address as a header's value.
    pub(crate) client_ip: &'a HeaderValue,
    pub(crate) listener_port: &'a HeaderValue,
    /// Version and cipher suite, on HTTPS.
    pub(crate) tls: Option<(&'static str, &'static str)>,
    /// Mutual TLS, passthrough: what the client has shown.
    pub(crate) certificates: Option<&'a HeaderValue>,
    pub(crate) names: &'a HeaderAttributes,
}

pub(crate) fn too_many_forwarders(headers: &HeaderMap) -> bool {
    let lines = headers.get_all(X_FORWARDED_FOR).into_iter();
    let addresses = lines.map(|line| line.as_bytes().iter().filter(|byte| **byte == b',').count() + 1);
    addresses.sum::<usize>() > FORWARDED_FOR_MAX
}

const HOPS: usize = 6;
/// Meant for this hop only.
static HOP_BY_HOP: [HeaderName; HOPS] = [
    header::CONNECTION,
    KEEP_ALIVE,
    PROXY_CONNECTION,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::TRAILER,
];

/// Removes what is meant for this hop only, and what the `Connection` header says is.
pub(crate) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    // Most messages have none or one of them: a look at the names there are is cheaper than a search for each.
    let mut found = [false; HOPS];
    for name in headers.keys() {
        if let Some(at) = HOP_BY_HOP.iter().position(|hop| hop == name) {
            found[at] = true;
        }
    }
    if found[0] {
        let named: Vec<HeaderName> = headers
            .get_all(header::CONNECTION)
            .into_iter()
            .flat_map(|line| line.as_bytes().split(|byte| *byte == b','))
            .map(<[u8]>::trim_ascii)
            .filter(|name| !is_option(name))
            .filter_map(|name| HeaderName::from_bytes(name).ok())
            .filter(may_be_named)
            .collect();
        for name in named {
            headers.remove(name);
        }
    }
    for (hop, found) in HOP_BY_HOP.iter().zip(found) {
        if found {
            headers.remove(hop);
        }
    }
}

/// What `Connection` says of the connection, and no header's name.
pub(super) fn is_option(word: &[u8]) -> bool {
    word.eq_ignore_ascii_case(b"close") || word.eq_ignore_ascii_case(b"keep-alive")
}

/// A client must not take away what the balancer adds, or what frames the message.
fn may_be_named(name: &HeaderName) -> bool {
    ![
        header::HOST,
        header::CONTENT_LENGTH,
        X_FORWARDED_FOR,
        X_FORWARDED_PROTO,
        X_FORWARDED_PORT,
        X_AMZN_TRACE_ID,
    ]
    .contains(name)
}

/// `routing.http.drop_invalid_header_fields.enabled`: names of letters, digits and hyphens stay. Whether one went.
pub(crate) fn drop_invalid(headers: &mut HeaderMap) -> bool {
    let valid =
        |name: &HeaderName| name.as_str().bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    let bad: Vec<HeaderName> = headers.keys().filter(|name| !valid(name)).cloned().collect();
    for name in &bad {
        headers.remove(name);
    }
    !bad.is_empty()
}

/// Adds what ALB adds.
pub(crate) fn add_forwarded(headers: &mut HeaderMap, attributes: &BalancerAttributes, origin: &Origin<'_>) {
    match attributes.xff_header_processing {
        XffProcessing::Append if attributes.xff_client_port || headers.contains_key(X_FORWARDED_FOR) => {
            append_client(headers, attributes.xff_client_port, origin.client);
        }
        XffProcessing::Append => {
            headers.insert(X_FORWARDED_FOR, origin.client_ip.clone());
        }
        XffProcessing::Preserve => {}
        XffProcessing::Remove => {
            headers.remove(X_FORWARDED_FOR);
        }
    }
    let proto = if origin.tls.is_some() { "https" } else { "http" };
    headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static(proto));
    headers.insert(X_FORWARDED_PORT, origin.listener_port.clone());
    // What a client says about its TLS is never believed.
    for name in &*origin.names.claimed {
        headers.remove(name);
    }
    if let Some(certificates) = origin.certificates {
        headers.insert(origin.names.mtls_certificates.clone(), certificates.clone());
    }
    if attributes.tls_version_and_cipher_headers
        && let Some((version, cipher)) = origin.tls
    {
        headers.insert(origin.names.tls_version.clone(), HeaderValue::from_static(version));
        headers.insert(origin.names.tls_cipher_suite.clone(), HeaderValue::from_static(cipher));
    }
}

fn append_client(headers: &mut HeaderMap, with_port: bool, client: SocketAddr) {
    let mut text = String::with_capacity(64);
    for line in headers.get_all(X_FORWARDED_FOR) {
        if let Ok(line) = line.to_str() {
            text.push_str(line);
            text.push_str(", ");
        }
    }
    let ip = client.ip().to_canonical();
    let written = match (with_port, ip.is_ipv6()) {
        (false, _) => write!(text, "{ip}"),
        (true, false) => write!(text, "{ip}:{}", client.port()),
        (true, true) => write!(text, "[{ip}]:{}", client.port()),
    };
    if written.is_ok()
        && let Ok(value) = HeaderValue::try_from(text)
    {
        headers.insert(X_FORWARDED_FOR, value);
    }
}

/// A new trace, or the client's with our own hop in front (ELB user guide, "Request tracing").
pub(crate) fn trace(headers: &mut HeaderMap, now_seconds: u64) -> HeaderValue {
    let id = TraceId::new(now_seconds);
    let came = headers.get(X_AMZN_TRACE_ID).and_then(|value| value.to_str().ok());
    let value = match came.filter(|text| !text.is_empty() && text.len() <= TRACE_BYTES_MAX) {
        None => {
            let mut root = *b"Root=1-00000000-000000000000000000000000";
            root[5..].copy_from_slice(&id.text());
            HeaderValue::from_bytes(&root)
        }
        Some(came) => HeaderValue::try_from(continued(came, &id)),
    };
    let value = value.unwrap_or(HeaderValue::from_static("Root=-"));
    headers.insert(X_AMZN_TRACE_ID, value.clone());
    value
}

fn continued(came: &str, id: &TraceId) -> String {
    let mut text = String::with_capacity(came.len() + 48);
    let fields = || came.split(';').map(str::trim).filter(|field| !field.is_empty());
    let own = if fields().any(|field| field.starts_with("Root=")) { "Self" } else { "Root" };
    text.push_str(own);
    text.push('=');
    text.extend(id.text().map(char::from));
    for field in fields().filter(|field| !field.starts_with("Self=")) {
        text.push(';');
        text.push_str(field);
    }
    text
}

struct TraceId {
    seconds: u32,
    high: u32,
    low: u64,
}

impl TraceId {
    fn new(seconds: u64) -> TraceId {
        TraceId { seconds: seconds as u32, high: random::next() as u32, low: random::next() }
    }

    /// `1-67891233-` and 24 digits more; every request has one, so no formatter is asked.
    fn text(&self) -> [u8; 35] {
        let mut text = *b"1-00000000-000000000000000000000000";
        put_hex(&mut text[2..10], self.seconds.into());
        put_hex(&mut text[11..19], self.high.into());
        put_hex(&mut text[19..], self.low);
        text
    }
}

fn put_hex(digits: &mut [u8], mut number: u64) {
    for digit in digits.iter_mut().rev() {
        *digit = b"0123456789abcdef"[(number & 15) as usize];
        number >>= 4;
    }
}

/// The Host a target sees unless it is preserved: without the listener's default port, with any other.
pub(crate) fn target_host(host: &str, listener_port: u16) -> Option<String> {
    let (name, port) = split_port(host);
    match (listener_port, port) {
        (80 | 443, None) => None,
        (80 | 443, Some(_)) => Some(name.to_owned()),
        (_, None) => Some(format!("{name}:{listener_port}")),
        (_, Some(_)) => None,
    }
}

/// `[::1]:80` too.
pub(crate) fn split_port(host: &str) -> (&str, Option<&str>) {
    match host.rsplit_once(':') {
        Some((name, port)) if !name.is_empty() && (!name.contains(':') || name.ends_with(']')) => {
            if port.bytes().all(|byte| byte.is_ascii_digit()) { (name, Some(port)) } else { (host, None) }
        }
        _ => (host, None),
    }
}

/// HTTP/2 sends cookies in pieces; HTTP/1 servers know one header (RFC 9113, 8.2.3).
pub(crate) fn join_cookies(headers: &mut HeaderMap) {
    let mut lines = headers.get_all(header::COOKIE).iter();
    if lines.nth(1).is_none() {
        return;
    }
    let all: Vec<&[u8]> = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if let Ok(joined) = HeaderValue::from_bytes(&all.join(&b"; "[..])) {
        headers.insert(header::COOKIE, joined);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        let line =
            |(name, value): &(&'static str, &str)| (HeaderName::from_static(name), value.parse().unwrap());
        lines.iter().map(line).collect()
    }

    #[test]
    fn a_trace_begins_here_or_goes_on() {
        let root = trace(&mut HeaderMap::new(), 0x6789_1234);
        let root = root.to_str().unwrap();
        assert!(
            root.starts_with("Root=1-67891234-") && root.len() == "Root=1-67891234-".len() + 24,
            "{root}"
        );
        let mut came = headers(&[("x-amzn-trace-id", "Self=1-0-0; Root=1-67891233-abc;CalledFrom=app")]);
        let on = trace(&mut came, 1);
        let on = on.to_str().unwrap();
        assert!(
            on.starts_with("Self=1-00000001-") && on.ends_with(";Root=1-67891233-abc;CalledFrom=app"),
            "{on}"
        );
        let mut fields = headers(&[("x-amzn-trace-id", "CalledFrom=app")]);
        assert!(trace(&mut fields, 1).to_str().unwrap().starts_with("Root=1-00000001-"));
    }

    #[test]
    fn hop_by_hop_headers_end_here() {
        let mut came = headers(&[
            ("connection", "close, X-Secret, host"),
            ("x-secret", "1"),
            ("host", "a"),
            ("keep-alive", "timeout=5"),
            ("upgrade", "h2c"),
            ("transfer-encoding", "chunked"),
            ("x-stays", "1"),
        ]);
        strip_hop_by_hop(&mut came);
        let mut names: Vec<&str> = came.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["host", "x-stays"]);
    }

    #[test]
    fn hosts_as_the_user_guide_has_them() {
        assert_eq!(target_host("example.com", 80), None);
        assert_eq!(target_host("example.com:80", 80).as_deref(), Some("example.com"));
        assert_eq!(target_host("example.com", 8080).as_deref(), Some("example.com:8080"));
        assert_eq!(target_host("example.com:8080", 8080), None);
        assert_eq!(target_host("[::1]", 8080).as_deref(), Some("[::1]:8080"));
        assert_eq!(split_port("[::1]:80"), ("[::1]", Some("80")));
    }

    #[test]
    fn invalid_names_go_and_cookies_are_joined() {
        let mut came = headers(&[("x_bad", "1"), ("x-good", "1"), ("cookie", "a=1")]);
        came.append(header::COOKIE, "b=2".parse().unwrap());
        assert!(drop_invalid(&mut came) && !came.contains_key("x_bad") && came.contains_key("x-good"));
        join_cookies(&mut came);
        assert_eq!(came.get_all(header::COOKIE).iter().collect::<Vec<_>>(), ["a=1; b=2"]);
        let many = headers(&[("x-forwarded-for", &["1.1.1.1"; 31].join(","))]);
        assert!(too_many_forwarders(&many));
    }
}
