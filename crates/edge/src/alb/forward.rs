//! A forward action: a target is chosen, the request sent, its response relayed.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use ferrogate_nodeapi::{ProtocolVersion, TargetProtocol};
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, Version, header, request, uri,
};
use hyper::body::Incoming;

use super::body::{RequestBody, ResponseBody};
use super::choose::Eligible;
use super::compiled::{Forward, Routed};
use super::head::Class;
use super::headers::{self, Origin};
use super::pool::{ConnectError, Lease, Sender};
use super::record::{Kind, trace_text};
use super::request::{CONNECTION, Exchange, host, now_seconds};
use super::sticky;
use super::upgrade;
use crate::metrics::Metric;
use crate::rules::Transformed;
use crate::state::{Group, TargetEntry, now_ms};

/// Connections that turned out to be closed before the request was on its way: after this many, a new one is made.
const STALE_CONNECTIONS_MAX: usize = 3;

pub(crate) async fn forward(
    mut exchange: Exchange,
    action: &Forward,
    request: Request<Incoming>,
    transformed: Transformed,
) -> Response<ResponseBody> {
    let live = exchange.live.clone();
    let now = now_seconds();
    let Some(routed) = sticky::group(&live.http, action, request.headers(), now) else {
        return exchange.error(503);
    };
    let group = &routed.group;
    if !speaks(&request, exchange.record.kind, group.config.protocol_version) {
        return exchange.error(464);
    }
    let eligible = Eligible::new(group, &live.assignment.availability_zone, now_ms());
    let Some(target) = sticky::target(&live.http, routed, &eligible, request.headers(), now).cloned() else {
        return exchange.error(503);
    };
    exchange.record.target_chosen(&group.counters, target.begin());
    let upgrade = asks_for_upgrade(&request, group);
    let (parts, body, client) =
        match prepare(&mut exchange, group, &target, request, transformed, upgrade, now) {
            Ok(prepared) => prepared,
            Err(status) => return exchange.error(status),
        };
    match send(&mut exchange, group, &target, parts, body).await {
        Err(failure) => exchange.error(failure.status()),
        Ok((response, _)) if response.status() == StatusCode::SWITCHING_PROTOCOLS && client.is_none() => {
            exchange.error(502)
        }
        Ok((response, lease)) => {
            let relay = Relay { action, routed, target: &target, now };
            relay.response(exchange, response, lease, client)
        }
    }
}

/// 464: a request that the target group's protocol version cannot carry.
fn speaks(request: &Request<Incoming>, kind: Kind, version: ProtocolVersion) -> bool {
    let http2 = request.version() == Version::HTTP_2;
    match version {
        ProtocolVersion::Http1 => kind != Kind::Grpc,
        ProtocolVersion::Http2 => http2,
        ProtocolVersion::Grpc => http2 && request.method() == Method::POST,
    }
}

/// WebSocket and nothing else: what is said in a tunnel meets no rule, and h2c in it would be requests.
fn asks_for_upgrade(request: &Request<Incoming>, group: &Group) -> bool {
    request.version() == Version::HTTP_11
        && group.config.protocol_version == ProtocolVersion::Http1
        && request
            .headers()
            .get(header::UPGRADE)
            .is_some_and(|to| to.as_bytes().eq_ignore_ascii_case(b"websocket"))
        && request.headers().get_all(CONNECTION).iter().any(|line| {
            line.as_bytes()
                .split(|byte| *byte == b',')
                .any(|name| name.trim_ascii().eq_ignore_ascii_case(b"upgrade"))
        })
}

type Prepared = (request::Parts, RequestBody, Option<hyper::upgrade::OnUpgrade>);

/// The request as the target gets it.
fn prepare(
    exchange: &mut Exchange,
    group: &Group,
    target: &TargetEntry,
    mut request: Request<Incoming>,
    transformed: Transformed,
    upgrade: bool,
    now: u64,
) -> Result<Prepared, u16> {
    let client = upgrade.then(|| hyper::upgrade::on(&mut request));
    let (mut parts, body) = request.into_parts();
    let asked = upgrade.then(|| parts.headers.get(header::UPGRADE).cloned()).flatten();
    let attributes = &exchange.live.assignment.attributes;
    let to_http1 = group.config.protocol_version == ProtocolVersion::Http1;

    let trailers =
        parts.headers.remove(header::TE).is_some_and(|te| te.as_bytes().eq_ignore_ascii_case(b"trailers"));
    headers::strip_hop_by_hop(&mut parts.headers);
    parts.headers.remove(header::EXPECT);
    if let Some(asked) = asked {
        parts.headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        parts.headers.insert(header::UPGRADE, asked);
    }
    let tls = exchange.connection.tls.as_ref().map(|tls| (tls.version, tls.cipher));
    let origin = Origin {
        client: exchange.connection.peer,
        listener_port: exchange.listener.port,
        tls,
        names: &exchange.listener.headers,
    };
    headers::add_forwarded(&mut parts.headers, attributes, &origin);
    let trace = headers::trace(&mut parts.headers, now);
    if let Some(line) = exchange.record.line() {
        line.trace_id = trace_text(&trace);
    }
    let authority = target_authority(exchange, &parts, target, transformed.host)?;
    let path = target_path(&parts.uri, transformed.path_and_query)?;
    if to_http1 {
        if parts.version == Version::HTTP_2 {
            headers::join_cookies(&mut parts.headers);
        }
        parts.headers.insert(header::HOST, authority);
        parts.uri = Uri::from(path);
        parts.version = Version::HTTP_11;
    } else {
        parts.headers.remove(header::HOST);
        if trailers {
            parts.headers.insert(header::TE, HeaderValue::from_static("trailers"));
        }
        let mut whole = uri::Parts::default();
        let https = group.config.protocol == TargetProtocol::Https;
        whole.scheme = Some(if https { uri::Scheme::HTTPS } else { uri::Scheme::HTTP });
        whole.authority = Some(uri::Authority::try_from(authority.as_bytes()).map_err(|_| 400_u16)?);
        whole.path_and_query = Some(path);
        parts.uri = Uri::from_parts(whole).map_err(|_| 400_u16)?;
        parts.version = Version::HTTP_2;
    }
    let body = RequestBody::new(body, &exchange.connection.wire, &exchange.record.request_body_bytes);
    frame(&mut parts, &body);
    Ok((parts, body, client))
}

/// The length is what was understood of the client's framing, and nothing else says one.
fn frame(parts: &mut request::Parts, body: &RequestBody) {
    use hyper::body::Body as _;
    let length = body.size_hint().exact();
    match length {
        Some(0) if !parts.headers.contains_key(header::CONTENT_LENGTH) => {}
        Some(length) => {
            parts.headers.insert(header::CONTENT_LENGTH, length.into());
        }
        None => {
            parts.headers.remove(header::CONTENT_LENGTH);
        }
    }
}

fn target_authority(
    exchange: &Exchange,
    parts: &request::Parts,
    target: &TargetEntry,
    transformed: Option<String>,
) -> Result<HeaderValue, u16> {
    let preserve = exchange.live.assignment.attributes.preserve_host_header;
    if let Some(transformed) = transformed {
        return HeaderValue::try_from(transformed).map_err(|_| 500);
    }
    // Preserved is what the Host header says, even beside an absolute URL; on HTTP/2 the authority is that header.
    if preserve
        && parts.version != Version::HTTP_2
        && let Some(host) = parts.headers.get(header::HOST)
    {
        return Ok(host.clone());
    }
    let host = host(&parts.uri, &parts.headers).unwrap_or_default();
    if host.is_empty() {
        return HeaderValue::try_from(target.address().to_string()).map_err(|_| 400);
    }
    let changed = if preserve { None } else { headers::target_host(host, exchange.listener.port) };
    match (changed, parts.uri.authority(), parts.headers.get(header::HOST)) {
        (Some(changed), _, _) => HeaderValue::try_from(changed).map_err(|_| 400),
        (None, None, Some(came)) => Ok(came.clone()),
        (None, _, _) => HeaderValue::from_str(host).map_err(|_| 400),
    }
}

fn target_path(uri: &Uri, transformed: Option<String>) -> Result<uri::PathAndQuery, u16> {
    match transformed {
        Some(path) => uri::PathAndQuery::try_from(path).map_err(|_| 500),
        None => Ok(uri.path_and_query().cloned().unwrap_or(uri::PathAndQuery::from_static("/"))),
    }
}

/// Why a target gave no response.
enum Failure {
    Connect(ConnectError),
    /// Nothing came for as long as the idle timeout.
    Timeout,
    /// It closed, reset, or sent what is no response.
    Broken,
}

impl Failure {
    fn status(&self) -> u16 {
        match self {
            Failure::Connect(ConnectError::Timeout) | Failure::Timeout => 504,
            Failure::Connect(_) | Failure::Broken => 502,
        }
    }
}

/// Sends, again only when that cannot make the target act twice: the request never left, or it asked for nothing that
/// changes anything, had no body, and met a connection that the target was closing while idle.
async fn send(
    exchange: &mut Exchange,
    group: &Group,
    target: &Arc<TargetEntry>,
    mut parts: request::Parts,
    mut body: RequestBody,
) -> Result<(Response<Incoming>, Lease), Failure> {
    let worker = exchange.connection.worker.clone();
    let ambiguous = exchange.record.verdict.class >= Class::Ambiguous;
    let mut fresh = ambiguous;
    for attempt in 0.. {
        let mut lease =
            match Lease::get(&worker, group, target, fresh || attempt >= STALE_CONNECTIONS_MAX).await {
                Ok(lease) => lease,
                Err(error) => return Err(not_connected(exchange, target, error)),
            };
        lease.last.store(ambiguous, Relaxed);
        let repeatable = lease.reused
            && body.is_empty()
            && matches!(parts.method, Method::GET | Method::HEAD | Method::OPTIONS);
        let again = repeatable.then(|| parts.clone());
        exchange.record.request_left();
        match send_once(exchange, &mut lease, Request::from_parts(parts, body)).await {
            Sent::Answered(response) => return Ok((response, lease)),
            Sent::NeverLeft(request) if lease.reused => (parts, body) = request.into_parts(),
            Sent::Broken if again.is_some() => {
                (parts, body) =
                    (again.unwrap_or_else(|| Request::new(()).into_parts().0), RequestBody::Empty);
                fresh = true;
            }
            Sent::Timeout => return Err(Failure::Timeout),
            Sent::NeverLeft(_) | Sent::Broken => {
                exchange.record.count(Metric::TargetConnectionErrors);
                return Err(Failure::Broken);
            }
        }
    }
    Err(Failure::Broken)
}

fn not_connected(exchange: &Exchange, target: &TargetEntry, error: ConnectError) -> Failure {
    tracing::debug!(target = %target.address(), %error, "no connection to a target");
    exchange.record.count(match error {
        ConnectError::Tls(_) => Metric::TargetTlsErrors,
        _ => Metric::TargetConnectionErrors,
    });
    Failure::Connect(error)
}

enum Sent {
    Answered(Response<Incoming>),
    /// The connection was closed before a byte of it was written.
    NeverLeft(Request<RequestBody>),
    Broken,
    Timeout,
}

async fn send_once(exchange: &Exchange, lease: &mut Lease, request: Request<RequestBody>) -> Sent {
    let idle = exchange.idle_timeout();
    let result = match &mut lease.sender {
        Sender::Http1(sender) => answer(exchange, idle, sender.try_send_request(request)).await,
        Sender::Http2(sender) => answer(exchange, idle, sender.try_send_request(request)).await,
    };
    match result {
        None => Sent::Timeout,
        Some(Ok(response)) => Sent::Answered(response),
        Some(Err(mut error)) => match error.take_message() {
            Some(request) => Sent::NeverLeft(request),
            None => {
                tracing::debug!(error = %error.error(), "a target broke off");
                Sent::Broken
            }
        },
    }
}

/// Waits for the response's head, as long as the request's body still moves or the target has been silent for less than
/// the idle timeout.
async fn answer<T>(exchange: &Exchange, idle: Duration, sending: impl Future<Output = T>) -> Option<T> {
    let wire = &exchange.connection.wire;
    let mut sending = std::pin::pin!(sending);
    loop {
        let before = wire.progress();
        match tokio::time::timeout(idle, sending.as_mut()).await {
            Ok(result) => return Some(result),
            Err(_) if wire.progress() != before => {}
            Err(_) => return None,
        }
    }
}

struct Relay<'a> {
    action: &'a Forward,
    routed: &'a Routed,
    target: &'a TargetEntry,
    now: u64,
}

impl Relay<'_> {
    /// The target's response as the client gets it.
    fn response(
        &self,
        mut exchange: Exchange,
        mut response: Response<Incoming>,
        lease: Lease,
        client: Option<hyper::upgrade::OnUpgrade>,
    ) -> Response<ResponseBody> {
        exchange.record.target_answered(response.status().as_u16(), response.headers());
        if response.status() == StatusCode::SWITCHING_PROTOCOLS
            && let Some(client) = client
        {
            return upgrade::accept(exchange, response, client);
        }
        let idle = exchange.idle_timeout();
        let upgraded = response.headers_mut();
        headers::strip_hop_by_hop(upgraded);
        let https = exchange.listener.is_https();
        sticky::set(&exchange.live.http, self.action, self.routed, self.target, https, self.now, upgraded);
        let (mut parts, body) = response.into_parts();
        frame_response(&mut parts.headers, &body, &parts.status);
        parts.version = Version::HTTP_11;
        // AWS: after an ambiguous request both connections are closed.
        if exchange.record.verdict.class >= Class::Ambiguous && !exchange.connection.is_http2() {
            parts.headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        Response::from_parts(parts, ResponseBody::target(body, lease, idle, exchange.record))
    }
}

/// A body whose end only its framing tells has no length; a HEAD's or 304's length is the target's word.
fn frame_response(headers: &mut HeaderMap, body: &Incoming, status: &StatusCode) {
    use hyper::body::Body as _;
    if !body.is_end_stream() && body.size_hint().exact().is_none() {
        headers.remove(header::CONTENT_LENGTH);
    }
    if *status == StatusCode::NO_CONTENT {
        headers.remove(header::CONTENT_LENGTH);
    }
}
