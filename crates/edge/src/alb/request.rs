//! One request, from its head to the action of the rule it meets.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ferrogate_nodeapi::DesyncMitigation;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Uri, header};

use super::body::{ClientBody, ResponseBody};
use super::compiled::{HttpAction, HttpListener, HttpRule};
use super::connection::Connection;
use super::forward;
use super::head::{Class, Fault};
use super::headers;
use super::page::{self, After};
use super::record::{Kind, Record};
use super::server::Arrival;
use super::workers::Current;
use crate::metrics::Metric;
use crate::rules::{Redirect, RedirectSource, RequestView, Transformed};

/// "The redirect URL is too long": 507.
const REDIRECT_BYTES_MAX: usize = 8 * 1024;
const GRPC: &[u8] = b"application/grpc";

/// A request on its way through the balancer, with the configuration it began with.
pub(crate) struct Exchange {
    pub(crate) connection: Arc<Connection>,
    pub(crate) live: Current,
    pub(crate) listener: Arc<HttpListener>,
    pub(crate) record: Box<Record>,
}

impl Exchange {
    pub(crate) fn error(self, status: u16) -> Response<ResponseBody> {
        page::error(status, After::KeepAlive, self.record)
    }

    fn close(self, status: u16) -> Response<ResponseBody> {
        let after = if self.connection.is_http2() { After::KeepAlive } else { After::Close };
        page::error(status, after, self.record)
    }

    pub(crate) fn idle_timeout(&self) -> Duration {
        self.record.idle_timeout()
    }
}

/// The record begins at once, not with the first poll: a client that closed behind its request is counted, too. On HTTP/2 a
/// request has no arrival.
pub(crate) fn handle(
    connection: Arc<Connection>,
    request: Request<ClientBody>,
    arrival: Option<Arrival>,
) -> impl Future<Output = Response<ResponseBody>> {
    let live = connection.worker.live();
    connection.wire.begin();
    let record = Record::begin(&connection, &live, &request, arrival.as_ref());
    let fault = arrival.and_then(|arrival| arrival.fault);
    async move {
        let Some(listener) = live.http.listener(connection.port).cloned() else {
            // The listener was removed a moment ago; this connection is about to be closed.
            let after = if connection.is_http2() { After::KeepAlive } else { After::Close };
            return page::error(503, after, record);
        };
        let exchange = Exchange { connection, live, listener: listener.clone(), record };
        let mut response = match screen(&exchange, &request, fault.as_ref()) {
            Err(status) => exchange.close(status),
            Ok(()) => route(exchange, request).await,
        };
        finish(&listener, &mut response);
        response
    }
}

/// What every response gets from the listener's attributes.
fn finish(listener: &HttpListener, response: &mut Response<ResponseBody>) {
    if !listener.headers.server {
        response.headers_mut().remove(header::SERVER);
    }
    for (name, value) in &listener.headers.response {
        response.headers_mut().insert(name.clone(), value.clone());
    }
}

/// What is answered without looking at rules.
fn screen(exchange: &Exchange, request: &Request<ClientBody>, fault: Option<&Fault>) -> Result<(), u16> {
    let record = &exchange.record;
    if record.verdict.class != Class::Compliant {
        record.count(Metric::DesyncNonCompliant);
    }
    if let Some(fault) = fault {
        return Err(fault.status);
    }
    let strict = exchange.live.assignment.attributes.desync_mitigation == DesyncMitigation::Strictest;
    if strict && record.verdict.class != Class::Compliant {
        return Err(400);
    }
    if matches!(*request.method(), Method::TRACE | Method::CONNECT) {
        return Err(405);
    }
    if headers::too_many_forwarders(request.headers()) {
        return Err(463);
    }
    host(request.uri(), request.headers()).ok_or(400).map(|_| ())
}

/// The authority of the URL, else the Host header; `Some("")` for HTTP/1.0 without one.
pub(crate) fn host<'a>(uri: &'a Uri, headers: &'a HeaderMap) -> Option<&'a str> {
    match uri.authority() {
        Some(authority) => Some(authority.as_str()),
        None => headers.get(header::HOST).map_or(Some(""), |host| host.to_str().ok()),
    }
}

async fn route(mut exchange: Exchange, mut request: Request<ClientBody>) -> Response<ResponseBody> {
    let attributes = &exchange.live.assignment.attributes;
    if attributes.drop_invalid_header_fields && headers::drop_invalid(request.headers_mut()) {
        exchange.record.count(Metric::DroppedInvalidHeader);
    }
    if is_grpc(request.headers()) {
        exchange.record.kind = Kind::Grpc;
    }
    let listener = exchange.listener.clone();
    let (rule, evaluated) = listener.route(&view(&exchange.connection, &request));
    exchange.connection.worker.edge.metrics.balancer.add(Metric::RuleEvaluations, evaluated as u64);
    if let Some(line) = exchange.record.line() {
        line.priority = Some(rule.priority.unwrap_or(0));
        line.actions = match &rule.action {
            HttpAction::Forward(_) => "forward",
            HttpAction::Redirect(_) => "redirect",
            HttpAction::Fixed { .. } => "fixed-response",
        };
    }
    match &rule.action {
        HttpAction::Forward(action) => match transform(rule, &mut exchange, &request) {
            Ok(transformed) => forward::forward(exchange, action, request, transformed).await,
            Err(status) => exchange.error(status),
        },
        HttpAction::Redirect(redirect) => redirected(exchange, redirect, &request),
        HttpAction::Fixed { status, content_type, body } => {
            exchange.record.count(Metric::FixedResponses);
            page::fixed(*status, content_type.clone(), body.clone(), exchange.record)
        }
    }
}

pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(GRPC))
}

fn view<'a>(connection: &Connection, request: &'a Request<ClientBody>) -> RequestView<'a> {
    let uri = request.uri();
    let host = host(uri, request.headers()).unwrap_or_default();
    RequestView {
        method: request.method(),
        host: headers::split_port(host).0,
        path: uri.path(),
        query: uri.query(),
        headers: request.headers(),
        source: connection.peer.ip(),
    }
}

/// The URL and host that the rule's transforms make; the log tells of it.
fn transform(
    rule: &HttpRule,
    exchange: &mut Exchange,
    request: &Request<ClientBody>,
) -> Result<Transformed, u16> {
    if rule.transforms.is_empty() {
        return Ok(Transformed::default());
    }
    let url = request.uri().path_and_query().map_or("/", |path| path.as_str());
    let host = host(request.uri(), request.headers()).unwrap_or_default();
    let result = rule.transforms.apply(url, headers::split_port(host).0);
    if let Some(line) = exchange.record.line() {
        match &result {
            Ok(transformed) => {
                line.transform_status = "TransformSuccess";
                line.transformed_host = transformed.host.clone().unwrap_or_default();
                line.transformed_uri = transformed.path_and_query.clone().unwrap_or_default();
            }
            Err(error) => {
                line.transform_status = match error {
                    crate::rules::TransformError::BufferTooSmall => "TransformBufferTooSmall",
                    crate::rules::TransformError::InvalidHost => "TransformInvalidHost",
                    crate::rules::TransformError::InvalidPath => "TransformInvalidPath",
                };
            }
        }
    }
    result.map_err(|_| 500)
}

fn redirected(
    mut exchange: Exchange,
    redirect: &Redirect,
    request: &Request<ClientBody>,
) -> Response<ResponseBody> {
    let uri = request.uri();
    let host = host(uri, request.headers()).unwrap_or_default();
    let location = redirect.location(&RedirectSource {
        protocol: exchange.connection.scheme(),
        host: headers::split_port(host).0,
        port: exchange.listener.port,
        path: uri.path(),
        query: uri.query().unwrap_or_default(),
    });
    if location.len() > REDIRECT_BYTES_MAX {
        exchange.record.count(Metric::RedirectUrlLimitExceeded);
        return exchange.error(507);
    }
    let Ok(value) = HeaderValue::from_str(&location) else { return exchange.error(400) };
    exchange.record.count(Metric::Redirects);
    if let Some(line) = exchange.record.line() {
        line.redirect_url = location;
    }
    page::redirect(redirect.status, value, exchange.record)
}

pub(crate) fn now_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Set by hand where the library must not choose.
pub(crate) const CONNECTION: HeaderName = header::CONNECTION;
