//! One request: an instance is chosen, the request sent, perhaps once more to another, the response relayed.

use std::net::SocketAddrV4;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use ferrogate_nodeapi::AppProtocol;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, Version, header, request, uri,
};
use hyper::body::{Body, Incoming};
use hyper::client::conn::TrySendError;
use hyper_util::rt::TokioIo;
use tokio_util::sync::CancellationToken;

use super::access::Entry;
use super::body::{InstanceBody, Place, RequestBody, ResponseBody, grpc_outcome};
use super::hosts::Outcome;
use super::http::Connection;
use super::page::{Refusal, is_grpc};
use super::pool::{Lease, Sender};
use super::quiet::UnderWay;
use super::retry::{Failure, may_repeat};
use super::routes::Route;
use super::tcp::NEVER;
use crate::alb::headers;
use crate::l4::copy::{Count, copy};

/// Kept connections that turned out to be closed before the request was on its way: after so many, a new one is made.
const STALE_CONNECTIONS_MAX: usize = 3;

pub(super) async fn handle(
    connection: &Connection,
    under_way: UnderWay,
    mut request: Request<Incoming>,
) -> Response<ResponseBody> {
    let route = &connection.route;
    let permit = Arc::clone(&connection.requests).try_acquire_owned().ok();
    let (grpc, overflow) = (is_grpc(request.headers()), permit.is_none());
    let entry = route.access_log.map(|how| Entry::of(how, &request));
    let mut place = Place { entry, _permit: permit, _under_way: under_way };
    if overflow {
        route.cluster.failed(&Refusal::Overflow);
        return Refusal::Overflow.response(grpc, place);
    }
    let upgrade = asks_for_upgrade(&request, route);
    let client = upgrade.then(|| hyper::upgrade::on(&mut request));
    let (mut parts, body) = request.into_parts();
    if let Err(refusal) = prepare(&mut parts, route, upgrade) {
        return refusal.response(grpc, place);
    }
    let received = place.entry.as_ref().map(|entry| entry.received());
    let (body, mut patience) = Patience::begin(route, body, received);
    frame(&mut parts, &body);
    let mut tried = Vec::new();
    match attempts(route, &mut patience, &mut tried, parts, body).await {
        Err(refusal) => {
            route.cluster.failed(&refusal);
            refusal.response(grpc, place)
        }
        Ok((response, (_, address))) if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
            let outcome = if client.is_some() { Outcome::Good } else { Outcome::Failed };
            route.cluster.settle(address, outcome);
            place.answered(StatusCode::SWITCHING_PROTOCOLS, Some(address));
            match client {
                Some(client) => switch(connection, response, client, place),
                None => Refusal::Broken(route.name.clone()).response(grpc, place),
            }
        }
        Ok((response, lease)) => {
            place.answered(response.status(), Some(lease.1));
            relay(route, response, lease, patience, place)
        }
    }
}

/// WebSocket and nothing else, as Envoy is told to.
fn asks_for_upgrade(request: &Request<Incoming>, route: &Route) -> bool {
    request.version() == Version::HTTP_11
        && route.protocol == AppProtocol::Http
        && request
            .headers()
            .get(header::UPGRADE)
            .is_some_and(|to| to.as_bytes().eq_ignore_ascii_case(b"websocket"))
}

/// The request as an instance gets it: with the client's own host, and without what was meant for this hop only.
fn prepare(parts: &mut request::Parts, route: &Route, upgrade: bool) -> Result<(), Refusal> {
    if parts.method == Method::CONNECT {
        return Err(Refusal::Bad("CONNECT is not served here"));
    }
    let asked = upgrade.then(|| parts.headers.get(header::UPGRADE).cloned()).flatten();
    let trailers =
        parts.headers.remove(header::TE).filter(|te| te.as_bytes().eq_ignore_ascii_case(b"trailers"));
    headers::strip_hop_by_hop(&mut parts.headers);
    parts.headers.remove(header::EXPECT);
    if let Some(asked) = asked {
        parts.headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        parts.headers.insert(header::UPGRADE, asked);
    }
    if let Some(trailers) = trailers {
        parts.headers.insert(header::TE, trailers);
    }
    let bad = |_| Refusal::Bad("its host is none");
    let authority = match (parts.uri.authority(), parts.headers.get(header::HOST)) {
        (Some(authority), _) => authority.clone(),
        (None, Some(host)) => uri::Authority::try_from(host.as_bytes()).map_err(bad)?,
        (None, None) => uri::Authority::try_from(route.name.as_str()).map_err(bad)?,
    };
    let path = parts.uri.path_and_query().cloned().unwrap_or(uri::PathAndQuery::from_static("/"));
    if is_http2(route) {
        parts.headers.remove(header::HOST);
        let mut whole = uri::Parts::default();
        whole.scheme = Some(uri::Scheme::HTTP);
        whole.authority = Some(authority);
        whole.path_and_query = Some(path);
        parts.uri = Uri::from_parts(whole).map_err(|_| Refusal::Bad("its URL is none"))?;
        parts.version = Version::HTTP_2;
        return Ok(());
    }
    if parts.version == Version::HTTP_2 {
        headers::join_cookies(&mut parts.headers);
    }
    let host = HeaderValue::from_str(authority.as_str()).map_err(|_| Refusal::Bad("its host is none"))?;
    parts.headers.insert(header::HOST, host);
    parts.uri = Uri::from(path);
    parts.version = Version::HTTP_11;
    Ok(())
}

fn is_http2(route: &Route) -> bool {
    matches!(route.protocol, AppProtocol::Http2 | AppProtocol::Grpc)
}

/// The length is what was understood of the client's framing, and nothing else says one.
fn frame(parts: &mut request::Parts, body: &RequestBody) {
    match body.size_hint().exact() {
        Some(0) if !parts.headers.contains_key(header::CONTENT_LENGTH) => {}
        Some(length) => drop(parts.headers.insert(header::CONTENT_LENGTH, length.into())),
        None => drop(parts.headers.remove(header::CONTENT_LENGTH)),
    }
}

/// How long a response is waited for.
struct Patience {
    /// Ready when it is too late: so long after the request was whole.
    late: Option<BoxFuture<'static, ()>>,
    idle: Duration,
    /// Grows while the request's body moves.
    progress: Arc<AtomicU64>,
}

impl Patience {
    fn begin(route: &Route, body: Incoming, received: Option<Arc<AtomicU64>>) -> (RequestBody, Self) {
        let (progress, whole) = (Arc::<AtomicU64>::default(), CancellationToken::new());
        let late = route.per_request.map(|time| {
            let whole = whole.clone();
            async move {
                whole.cancelled_owned().await;
                tokio::time::sleep(time).await;
            }
            .boxed()
        });
        let guard = whole.drop_guard();
        let body = if body.is_end_stream() {
            drop(guard);
            RequestBody::Empty
        } else {
            RequestBody::Client { body, progress: Arc::clone(&progress), received, _whole: guard }
        };
        (body, Self { late, idle: route.idle.unwrap_or(NEVER), progress })
    }

    /// `None`: it took too long, or nothing has moved for too long.
    async fn wait<T>(&mut self, work: impl Future<Output = T>) -> Option<T> {
        let mut work = std::pin::pin!(work);
        loop {
            let before = self.progress.load(Relaxed);
            let late = async {
                match &mut self.late {
                    Some(late) => late.await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                done = work.as_mut() => return Some(done),
                () = late => {
                    // Not to be asked again.
                    self.late = None;
                    return None;
                }
                () = tokio::time::sleep(self.idle) => {}
            }
            if self.progress.load(Relaxed) == before {
                return None;
            }
        }
    }
}

async fn attempts(
    route: &Arc<Route>,
    patience: &mut Patience,
    tried: &mut Vec<SocketAddrV4>,
    mut parts: request::Parts,
    mut body: RequestBody,
) -> Result<(Response<Incoming>, (Lease, SocketAddrV4)), Refusal> {
    let cluster = &route.cluster;
    let mut refusal = Refusal::NoInstance(route.name.clone());
    let aim = cluster.aim(Some(&parts.headers));
    while tried.len() < route.attempts_max {
        let Some(address) = cluster.pick(&aim, tried).await else { break };
        let (method, empty) = (parts.method.clone(), body.is_empty());
        let kept = empty.then(|| parts.clone());
        let attempt = attempt(route, address, (parts, body));
        let Some(done) = patience.wait(attempt).await else {
            cluster.settle(address, Outcome::Failed);
            return Err(Refusal::Late(route.name.clone()));
        };
        let last = tried.len() >= route.attempts_max;
        let failed = match done {
            Ok((response, lease)) => {
                let unavailable = response.status() == StatusCode::SERVICE_UNAVAILABLE;
                let again = !last && may_repeat(Failure::Unavailable, &method, empty);
                if !(unavailable && again) {
                    return Ok((response, (lease, address)));
                }
                cluster.settle(address, Outcome::Failed);
                Failed { failure: Failure::Unavailable, request: None }
            }
            Err(failed) => failed,
        };
        tracing::debug!(%address, failure = ?failed.failure, service = route.name, "an attempt failed");
        refusal = match failed.failure {
            Failure::Connect => Refusal::NoConnection(route.name.clone()),
            _ => Refusal::Broken(route.name.clone()),
        };
        let here = failed.request.is_some() || empty;
        if !may_repeat(failed.failure, &method, here) {
            break;
        }
        (parts, body) = match (failed.request, kept) {
            (Some(request), _) => request,
            (None, Some(parts)) => (parts, RequestBody::Empty),
            (None, None) => break,
        };
    }
    Err(refusal)
}

type Message = (request::Parts, RequestBody);

struct Failed {
    failure: Failure,
    /// As it was, if nothing of it has left.
    request: Option<Message>,
}

/// With one instance. Failures are settled; a response is by who reads it.
async fn attempt(
    route: &Route,
    address: SocketAddrV4,
    (mut parts, mut body): Message,
) -> Result<(Response<Incoming>, Lease), Failed> {
    let (cluster, http2) = (&route.cluster, is_http2(route));
    for stale in 0.. {
        let kept =
            (stale < STALE_CONNECTIONS_MAX).then(|| cluster.pool.idle(address, http2, route.idle)).flatten();
        let mut lease = match kept {
            Some(lease) => lease,
            None => match fresh(route, address, http2).await {
                Some(lease) => lease,
                None => return Err(Failed { failure: Failure::Connect, request: Some((parts, body)) }),
            },
        };
        let request = Request::from_parts(parts, body);
        let sent = match &mut lease.sender {
            Sender::Http1(sender) => sender.try_send_request(request).await,
            Sender::Http2(sender) => sender.try_send_request(request).await,
        };
        let error = match sent {
            Ok(response) => return Ok((response, lease)),
            Err(error) => error,
        };
        let failed = failed(error);
        match failed.request {
            // Closed by the instance while it was idle: no fault of anybody.
            Some(request) if lease.reused => (parts, body) = request,
            request => {
                cluster.settle(address, Outcome::Failed);
                return Err(Failed { failure: failed.failure, request });
            }
        }
    }
    Err(Failed { failure: Failure::Unsent, request: None })
}

async fn fresh(route: &Route, address: SocketAddrV4, http2: bool) -> Option<Lease> {
    let stream = route.cluster.connect(address).await.ok()?;
    match route.cluster.pool.fresh(address, stream, http2, route.idle).await {
        Ok(lease) => Some(lease),
        Err(error) => {
            tracing::debug!(%address, %error, "an instance does not speak the protocol");
            route.cluster.settle(address, Outcome::Failed);
            None
        }
    }
}

fn failed(mut error: TrySendError<Request<RequestBody>>) -> Failed {
    let request = error.take_message().map(Request::into_parts);
    let failure = match &request {
        Some(_) => Failure::Unsent,
        None if is_refused(error.error()) => Failure::Refused,
        None => Failure::Reset,
    };
    Failed { failure, request }
}

/// HTTP/2: the stream was refused, or the connection was going before it was looked at.
fn is_refused(error: &hyper::Error) -> bool {
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        if let Some(error) = error.downcast_ref::<h2::Error>() {
            let going = error.is_go_away() && error.is_remote();
            return match error.reason() {
                Some(h2::Reason::REFUSED_STREAM) => true,
                Some(h2::Reason::NO_ERROR) => going,
                _ => false,
            };
        }
        source = error.source();
    }
    false
}

/// The instance's response as the client gets it.
fn relay(
    route: &Arc<Route>,
    mut response: Response<Incoming>,
    (lease, address): (Lease, SocketAddrV4),
    patience: Patience,
    place: Place,
) -> Response<ResponseBody> {
    let status = response.status();
    let judged = is_grpc(response.headers()) && status == StatusCode::OK;
    let outcome = match grpc_outcome(response.headers()).filter(|_| judged) {
        Some(outcome) => Some(outcome),
        None if judged => None,
        None if status.is_server_error() => Some(Outcome::Failed),
        None => Some(Outcome::Good),
    };
    if let Some(outcome) = outcome {
        route.cluster.settle(address, outcome);
    }
    let judged = outcome.is_none().then(|| (Arc::clone(&route.cluster), address));
    headers::strip_hop_by_hop(response.headers_mut());
    let (mut parts, body) = response.into_parts();
    frame_response(&mut parts.headers, &body, status);
    parts.version = Version::HTTP_11;
    let body = InstanceBody { body, lease: Some(lease), late: patience.late, judged };
    Response::from_parts(parts, ResponseBody::instance(body, place))
}

/// A body whose end only its framing tells has no length; a HEAD's or 304's length is the instance's word.
fn frame_response(headers: &mut HeaderMap, body: &Incoming, status: StatusCode) {
    let unknown = !body.is_end_stream() && body.size_hint().exact().is_none();
    if unknown || status == StatusCode::NO_CONTENT {
        headers.remove(header::CONTENT_LENGTH);
    }
}

/// 101: from here on two streams of bytes, until one side ends or nothing has moved for the idle time.
fn switch(
    connection: &Connection,
    mut response: Response<Incoming>,
    client: hyper::upgrade::OnUpgrade,
    place: Place,
) -> Response<ResponseBody> {
    let instance = hyper::upgrade::on(&mut response);
    let protocol = response.headers().get(header::UPGRADE).cloned();
    let (mut parts, _) = response.into_parts();
    headers::strip_hop_by_hop(&mut parts.headers);
    parts.headers.remove(header::CONTENT_LENGTH);
    parts.headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    if let Some(protocol) = protocol {
        parts.headers.insert(header::UPGRADE, protocol);
    }
    let (idle, kept) = (connection.route.idle.unwrap_or(NEVER), Arc::clone(&connection.place));
    tokio::spawn(async move {
        let (Ok(client), Ok(instance)) = tokio::join!(client, instance) else { return };
        copy(TokioIo::new(client), TokioIo::new(instance), idle, &Count::default()).await;
        drop(kept);
    });
    Response::from_parts(parts, ResponseBody::nothing(place))
}
