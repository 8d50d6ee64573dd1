//! A forward action: a target is chosen, the request sent, its response relayed.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use ferrogate_nodeapi::{ProtocolVersion, Stickiness, TargetProtocol};
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, Version, header, request, response,
    uri,
};
use hyper::body::Incoming;
use hyper::client::conn::http2;

use super::alarms::Moment;
use super::body::{ClientBody, RequestBody, ResponseBody};
use super::choose::Eligible;
use super::compiled::{Forward, Routed};
use super::head::Class;
use super::headers::{self, Origin};
use super::pool::{Carrier, ConnectError, Lease};
use super::record::{Kind, bytes_of, trace_text};
use super::reply::Reply;
use super::request::{CONNECTION, Exchange, host, now_seconds};
use super::sticky;
use super::target::Connection;
use super::upgrade;
use crate::metrics::Metric;
use crate::rules::Transformed;
use crate::state::{Group, TargetEntry, now_ms};

/// Connections that turned out to be closed before the request was on its way: after this many, a new one is made.
const STALE_CONNECTIONS_MAX: usize = 3;

pub(crate) async fn forward(
    mut exchange: Exchange,
    action: &Forward,
    request: Request<ClientBody>,
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
    let prepared = prepare(&mut exchange, group, &target, request, transformed, upgrade, now);
    let (parts, body) = match prepared {
        Ok(prepared) => prepared,
        Err(status) => return exchange.error(status),
    };
    match send(&mut exchange, group, &target, parts, body).await {
        Err(failure) => exchange.error(failure.status()),
        Ok((answered, lease)) => {
            let relay = Relay { action, routed, target: &target, now };
            relay.response(exchange, answered, lease, upgrade)
        }
    }
}

/// 464: a request that the target group's protocol version cannot carry.
fn speaks(request: &Request<ClientBody>, kind: Kind, version: ProtocolVersion) -> bool {
    let http2 = request.version() == Version::HTTP_2;
    match version {
        ProtocolVersion::Http1 => kind != Kind::Grpc,
        ProtocolVersion::Http2 => http2,
        ProtocolVersion::Grpc => http2 && request.method() == Method::POST,
    }
}

/// WebSocket and nothing else: what is said in a tunnel meets no rule, and h2c in it would be requests.
fn asks_for_upgrade(request: &Request<ClientBody>, group: &Group) -> bool {
    request.version() == Version::HTTP_11
        && request.body().is_over()
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

/// The request as the target gets it.
fn prepare(
    exchange: &mut Exchange,
    group: &Group,
    target: &TargetEntry,
    request: Request<ClientBody>,
    transformed: Transformed,
    upgrade: bool,
    now: u64,
) -> Result<(request::Parts, RequestBody), u16> {
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
        client_ip: exchange.connection.client_ip(),
        listener_port: &exchange.listener.port_text,
        tls,
        certificates: exchange.connection.tls.as_ref().and_then(|tls| tls.client_certificates.as_ref()),
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
    let body = RequestBody::new(body, &mut exchange.record);
    frame(&mut parts, &body);
    Ok((parts, body))
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
) -> Result<(Answered, Lease), Failure> {
    let worker = exchange.connection.worker.clone();
    let ambiguous = exchange.record.verdict.class >= Class::Ambiguous;
    let safe = matches!(parts.method, Method::GET | Method::HEAD | Method::OPTIONS);
    let mut fresh = ambiguous;
    for attempt in 0.. {
        let mut lease =
            match Lease::get(&worker, group, target, fresh || attempt >= STALE_CONNECTIONS_MAX).await {
                Ok(lease) => lease,
                Err(error) => return Err(not_connected(exchange, target, error)),
            };
        lease.last = ambiguous;
        let repeatable = lease.reused && safe && body.is_empty();
        exchange.record.request_left();
        let sent = match &mut lease.carrier {
            Carrier::Http1(connection) => send_http1(exchange, connection, parts, body).await,
            Carrier::Http2(sender, answered) => {
                send_http2(exchange, sender, answered, parts, body, repeatable).await
            }
        };
        match sent {
            Sent::Answered(answered) => return Ok((answered, lease)),
            Sent::NeverLeft(again) if lease.reused => (parts, body) = again,
            Sent::Broken(Some(again)) if repeatable => {
                (parts, body) = (again, RequestBody::Empty);
                fresh = true;
            }
            Sent::Timeout => return Err(Failure::Timeout),
            Sent::NeverLeft(_) | Sent::Broken(_) => {
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

/// The head of a target's response.
enum Answered {
    /// Still with its connection.
    Http1(Reply),
    Http2(response::Parts),
}

enum Sent {
    Answered(Answered),
    /// The connection was closed before a byte of it was written.
    NeverLeft((request::Parts, RequestBody)),
    /// With the request's head, if it is still there.
    Broken(Option<request::Parts>),
    Timeout,
}

async fn send_http1(
    exchange: &Exchange,
    connection: &mut Connection,
    parts: request::Parts,
    body: RequestBody,
) -> Sent {
    connection.begin(&parts, body);
    match answer(exchange, poll_fn(|cx| connection.poll_reply(cx))).await {
        None => Sent::Timeout,
        Some(Ok(reply)) => Sent::Answered(Answered::Http1(reply)),
        Some(Err(error)) => {
            tracing::debug!(%error, "a target broke off");
            if connection.is_untouched() {
                return Sent::NeverLeft((parts, connection.take_back()));
            }
            Sent::Broken(Some(parts))
        }
    }
}

async fn send_http2(
    exchange: &Exchange,
    sender: &mut http2::SendRequest<RequestBody>,
    answered: &mut Option<Incoming>,
    parts: request::Parts,
    body: RequestBody,
    repeatable: bool,
) -> Sent {
    let again = repeatable.then(|| parts.clone());
    match answer(exchange, sender.try_send_request(Request::from_parts(parts, body))).await {
        None => Sent::Timeout,
        Some(Ok(response)) => {
            let (head, body) = response.into_parts();
            *answered = Some(body);
            Sent::Answered(Answered::Http2(head))
        }
        Some(Err(mut error)) => match error.take_message() {
            Some(request) => Sent::NeverLeft(request.into_parts()),
            None => {
                tracing::debug!(error = %error.error(), "a target broke off");
                Sent::Broken(again)
            }
        },
    }
}

/// Waits for the response's head, as long as the request's body still moves or the target has been silent for less than
/// the idle timeout.
async fn answer<T>(exchange: &Exchange, sending: impl Future<Output = T>) -> Option<T> {
    let (wire, idle) = (&exchange.connection.wire, exchange.idle_timeout());
    let mut sending = std::pin::pin!(sending);
    if !exchange.connection.is_http2() {
        // The connection's task is this one.
        let alarm = &exchange.connection.alarm;
        let mut silent: Option<(Moment, u64)> = None;
        return poll_fn(|cx| {
            if let Poll::Ready(result) = sending.as_mut().poll(cx) {
                return Poll::Ready(Some(result));
            }
            let progress = wire.progress();
            let until = match silent {
                Some((until, before)) if before == progress => until,
                _ => alarm.after(idle),
            };
            silent = Some((until, progress));
            if alarm.now() >= until {
                return Poll::Ready(None);
            }
            alarm.set(until);
            Poll::Pending
        })
        .await;
    }
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
    /// The target's response as the client gets it. `upgrade`: it asked for one.
    fn response(
        &self,
        mut exchange: Exchange,
        answered: Answered,
        mut lease: Lease,
        upgrade: bool,
    ) -> Response<ResponseBody> {
        let head = match (answered, &mut lease.carrier) {
            (Answered::Http1(reply), Carrier::Http1(connection)) => {
                if self.may_relay(&exchange, &reply) {
                    return self.relay(exchange, &reply, lease);
                }
                connection.take_head(&reply)
            }
            (Answered::Http2(head), _) => head,
            (Answered::Http1(_), Carrier::Http2(..)) => return exchange.error(502),
        };
        let head_bytes = fields_bytes(&exchange, &head.headers);
        if head.status == StatusCode::SWITCHING_PROTOCOLS {
            return match lease.carrier {
                Carrier::Http1(connection) if upgrade => {
                    exchange.record.target_answered(head.status.as_u16(), head_bytes);
                    upgrade::accept(exchange, head, connection.into_tunnel())
                }
                // Nobody asked for it.
                _ => exchange.error(502),
            };
        }
        exchange.record.target_answered(head.status.as_u16(), head_bytes);
        self.translated(exchange, head, lease)
    }

    /// Nobody needs to know the head's fields.
    fn may_relay(&self, exchange: &Exchange, reply: &Reply) -> bool {
        let by_cookie = matches!(self.routed.group.config.stickiness, Some(Stickiness::AppCookie { .. }));
        reply.status != StatusCode::SWITCHING_PROTOCOLS && !by_cookie && !exchange.connection.is_http2()
    }

    /// From an HTTP/1 target to an HTTP/1 client: the head goes through as it came, but for what is of its hop.
    fn relay(&self, mut exchange: Exchange, reply: &Reply, lease: Lease) -> Response<ResponseBody> {
        let bytes = match &lease.carrier {
            Carrier::Http1(connection) if exchange.record.is_logged() => {
                connection.head().map_or(0, |(head, input)| bytes_of(head.fields(input)))
            }
            _ => 0,
        };
        exchange.record.target_answered(reply.status.as_u16(), bytes);
        let idle = exchange.idle_timeout();
        let mut head = Response::new(()).into_parts().0;
        head.status = reply.status;
        self.add(&exchange, &mut head);
        let body = ResponseBody::relay(lease, idle, exchange.listener, exchange.record);
        Response::from_parts(head, body)
    }

    fn translated(
        &self,
        exchange: Exchange,
        mut head: response::Parts,
        lease: Lease,
    ) -> Response<ResponseBody> {
        let idle = exchange.idle_timeout();
        headers::strip_hop_by_hop(&mut head.headers);
        frame_response(&mut head, &lease);
        head.version = Version::HTTP_11;
        self.add(&exchange, &mut head);
        Response::from_parts(head, ResponseBody::target(lease, idle, exchange.record))
    }

    fn add(&self, exchange: &Exchange, head: &mut response::Parts) {
        let https = exchange.listener.is_https();
        let (http, now) = (&exchange.live.http, self.now);
        sticky::set(http, self.action, self.routed, self.target, https, now, &mut head.headers);
        // AWS: after an ambiguous request both connections are closed.
        if exchange.record.verdict.class >= Class::Ambiguous && !exchange.connection.is_http2() {
            head.headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
    }
}

fn fields_bytes(exchange: &Exchange, headers: &HeaderMap) -> u64 {
    if !exchange.record.is_logged() {
        return 0;
    }
    bytes_of(headers.iter().map(|(name, value)| (name.as_str().as_bytes(), value.as_bytes())))
}

/// A body whose end only its framing tells has no length; a HEAD's or 304's length is the target's word.
fn frame_response(head: &mut response::Parts, lease: &Lease) {
    let unknown = !lease.is_over() && lease.size_hint().exact().is_none();
    if unknown || head.status == StatusCode::NO_CONTENT {
        head.headers.remove(header::CONTENT_LENGTH);
    }
}
