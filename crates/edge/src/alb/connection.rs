//! One connection of a client: TLS, HTTP/1.1 or HTTP/2, until it ends, is idle, too old, or its listener goes.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use http::HeaderValue;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use jiff::Timestamp;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::alarms::Alarm;
use super::body::ClientBody;
use super::client::{ClientStream, Io};
use super::compiled::HttpListener;
use super::guard::Guard;
use super::head::HEAD_BYTES_MAX;
use super::lazy::Lazy;
use super::record::time;
use super::server::{self, DRAIN_TIME_MAX, Term};
use super::wire::Wire;
use super::workers::Worker;
use super::{random, request};
use crate::logs::LogKind;
use crate::metrics::Metric;
use crate::tls;

/// A TLS handshake must be over by then.
const TLS_TIME_MAX: Duration = Duration::from_secs(10);
/// ALB: 128 streams of one HTTP/2 connection at a time.
const HTTP2_STREAMS_MAX: u32 = 128;
/// What HTTP/2 may buffer of one response that its client does not take.
const HTTP2_SEND_BYTES_MAX: usize = 256 * 1024;
/// How much a client may send ahead on HTTP/2; back-pressure of a slow target begins here.
const HTTP2_STREAM_WINDOW: u32 = 256 * 1024;
const HTTP2_CONNECTION_WINDOW: u32 = 1024 * 1024;

/// What all requests of a connection know of it.
pub(crate) struct Connection {
    pub(crate) worker: Arc<Worker>,
    pub(crate) wire: Wire,
    /// For all that is waited for on HTTP/1.
    pub(crate) alarm: Arc<Alarm>,
    /// Of the listener.
    pub(crate) port: u16,
    pub(crate) peer: SocketAddr,
    /// The peer's address as a header's value, once a request needed it.
    client_ip: OnceLock<HeaderValue>,
    pub(crate) tls: Option<Tls>,
    /// The same in the connection log and in the access log.
    pub(crate) trace_id: TraceId,
}

/// `TID_…`
pub(crate) struct TraceId([u64; 2]);

impl std::fmt::Display for TraceId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TID_{:016x}{:016x}", self.0[0], self.0[1])
    }
}

/// The address as text; every connection needs it, so no formatter is asked.
fn dotted(ip: Ipv4Addr, text: &mut [u8; 15]) -> &[u8] {
    let mut end = 0;
    let mut put = |byte| {
        text[end] = byte;
        end += 1;
    };
    for (at, octet) in ip.octets().into_iter().enumerate() {
        if at > 0 {
            put(b'.');
        }
        if octet >= 100 {
            put(b'0' + octet / 100);
        }
        if octet >= 10 {
            put(b'0' + octet / 10 % 10);
        }
        put(b'0' + octet % 10);
    }
    &text[..end]
}

/// What was agreed on in the handshake.
pub(crate) struct Tls {
    pub(crate) version: &'static str,
    pub(crate) cipher: &'static str,
    pub(crate) sni: Option<String>,
    pub(crate) certificate_arn: String,
    /// What the client has shown, where it was asked (mutual TLS).
    pub(crate) client_certificates: Option<HeaderValue>,
    http2: bool,
}

impl Connection {
    pub(crate) fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }

    pub(crate) fn client_ip(&self) -> &HeaderValue {
        let text = || match self.peer.ip() {
            IpAddr::V4(ip) => HeaderValue::from_bytes(dotted(ip, &mut [0; 15])),
            IpAddr::V6(ip) => HeaderValue::try_from(ip.to_string()),
        };
        self.client_ip.get_or_init(|| text().unwrap_or(HeaderValue::from_static("unknown")))
    }

    pub(crate) fn is_http2(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.http2)
    }
}

/// `stop` turns true when the listener goes: no new request, those under way are finished.
pub(crate) async fn serve(
    worker: Arc<Worker>,
    tcp: Lazy,
    peer: SocketAddr,
    port: u16,
    stop: watch::Receiver<bool>,
) {
    let counters = worker.edge.metrics.balancer.clone();
    let _open = counters.connection();
    counters.add(Metric::NewConnections, 1);
    let live = worker.live();
    let Some(listener) = live.http.listener(port) else { return };
    let connection = Connection {
        worker: worker.clone(),
        wire: Wire::default(),
        alarm: Arc::new(worker.alarms.alarm()),
        port,
        peer: SocketAddr::new(peer.ip().to_canonical(), peer.port()),
        client_ip: OnceLock::new(),
        tls: None,
        trace_id: TraceId([random::next(), random::next()]),
    };
    let logged = live.assignment.attributes.connection_logs.is_some();
    if listener.tls.is_some() {
        let listener = listener.clone();
        drop(live);
        return Box::pin(handshake(connection, listener, logged, tcp, stop)).await;
    }
    if logged {
        log(&connection, None, Ok(()));
    }
    drop(live);
    requests(connection, tcp, stop).await;
}

async fn handshake(
    connection: Connection,
    listener: Arc<HttpListener>,
    logged: bool,
    tcp: Lazy,
    stop: watch::Receiver<bool>,
) {
    let Some(tls) = &listener.tls else { return };
    let began = Instant::now();
    let accepting = TlsAcceptor::from(tls.config.clone()).accept(tcp);
    let accepted = match tokio::time::timeout(TLS_TIME_MAX, Box::pin(accepting)).await {
        Ok(accepted) => accepted,
        Err(_) => Err(std::io::ErrorKind::TimedOut.into()),
    };
    match accepted {
        Ok(stream) => {
            let agreed = agreed(tls, &stream);
            let connection = Connection { tls: Some(agreed), ..connection };
            if logged {
                log(&connection, Some(began.elapsed()), Ok(()));
            }
            drop(listener);
            requests(connection, stream, stop).await;
        }
        Err(error) => {
            tracing::debug!(%error, "a TLS handshake failed");
            connection.worker.edge.metrics.balancer.add(Metric::ClientTlsErrors, 1);
            if logged {
                log(&connection, Some(began.elapsed()), Err(tls::HANDSHAKE_FAILED));
            }
        }
    }
}

fn agreed(listener: &tls::TlsListener, stream: &TlsStream<Lazy>) -> Tls {
    let session = stream.get_ref().1;
    let resumed = session.handshake_kind() == Some(rustls::HandshakeKind::Resumed);
    let certificate_arn =
        if resumed { "session-reused" } else { listener.certificate_arn(session.server_name()) };
    Tls {
        version: tls::version_name(session.protocol_version()),
        cipher: tls::cipher_name(session.negotiated_cipher_suite()),
        sni: session.server_name().map(str::to_owned),
        certificate_arn: certificate_arn.to_owned(),
        client_certificates: tls::client::shown(session),
        http2: session.alpn_protocol() == Some(b"h2"),
    }
}

/// ELB user guide, "Connection log entries".
fn log(connection: &Connection, handshake: Option<Duration>, result: Result<(), &str>) {
    let tls = connection.tls.as_ref();
    let seconds = handshake
        .filter(|_| tls.is_some())
        .map_or_else(|| "-".to_owned(), |time| format!("{:.3}", time.as_secs_f64()));
    let verified = match result {
        Ok(()) => "-",
        Err(failure) => failure,
    };
    let line = format!(
        "{} {} {} {} {} {} {seconds} \"-\" - - {verified} {} -",
        time(Timestamp::now()),
        connection.peer.ip(),
        connection.peer.port(),
        connection.port,
        tls.map_or("-", |tls| tls.version),
        tls.map_or("-", |tls| tls.cipher),
        connection.trace_id,
    );
    connection.worker.edge.logs.push(LogKind::Connection, line);
}

/// Boxed, so that it is in place once and for all.
fn requests<S: ClientStream>(
    connection: Connection,
    stream: S,
    stop: watch::Receiver<bool>,
) -> BoxFuture<'static, ()> {
    let connection = Arc::new(connection);
    let (idle, age) = {
        let live = connection.worker.live();
        let attributes = &live.assignment.attributes;
        let seconds = |seconds: u32| Duration::from_secs(u64::from(seconds.max(1)));
        (seconds(attributes.idle_timeout_seconds), seconds(attributes.client_keep_alive_seconds))
    };
    if connection.is_http2() {
        let guard = Guard::new(stream, connection.clone(), idle);
        return Box::pin(http2(connection, TokioIo::new(guard), age, stop));
    }
    let counters = connection.worker.edge.metrics.balancer.clone();
    let term = Term::new(&connection.alarm, age, stop);
    let io = Io::new(stream, connection.alarm.clone(), counters, idle);
    Box::pin(server::serve(io, term, move |request, arrival| {
        request::handle(connection.clone(), request, Some(arrival))
    }))
}

async fn http2<S: ClientStream>(
    connection: Arc<Connection>,
    io: TokioIo<Guard<S>>,
    age: Duration,
    mut stop: watch::Receiver<bool>,
) {
    let service = service_fn(move |request: http::Request<Incoming>| {
        let handling = request::handle(connection.clone(), request.map(ClientBody::Http2), None);
        async move { Ok::<_, Infallible>(handling.await) }
    });
    let serving = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(HTTP2_STREAMS_MAX)
        .max_header_list_size(HEAD_BYTES_MAX as u32)
        .max_send_buf_size(HTTP2_SEND_BYTES_MAX)
        .initial_stream_window_size(HTTP2_STREAM_WINDOW)
        .initial_connection_window_size(HTTP2_CONNECTION_WINDOW)
        .serve_connection(io, service);
    let mut serving = std::pin::pin!(serving);
    let result = tokio::select! {
        biased;
        result = serving.as_mut() => Some(result),
        () = ended(&mut stop, age) => None,
    };
    let result = match result {
        Some(result) => result,
        None => {
            serving.as_mut().graceful_shutdown();
            // What is not over by then is cut.
            tokio::time::timeout(DRAIN_TIME_MAX, serving.as_mut()).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "a client's connection ended early");
    }
}

/// The listener is going, or the connection has lived as long as a client may keep one.
async fn ended(stop: &mut watch::Receiver<bool>, age: Duration) {
    tokio::select! {
        // The sender going away is the same as a stop.
        _ = stop.wait_for(|stop| *stop) => {}
        () = tokio::time::sleep(age) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_as_text() {
        for text in ["0.0.0.0", "1.20.100.255", "203.0.113.9"] {
            assert_eq!(dotted(text.parse().unwrap(), &mut [0; 15]), text.as_bytes());
        }
    }
}
