//! Connections to targets. Each worker has its own and shares none: a connection is used on the thread that polls it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ferrogate_nodeapi::{ProtocolVersion, TargetProtocol};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::body::RequestBody;
use super::reply::HEAD_BYTES_MAX;
use super::target::{Connection, Stream};
use super::workers::{WORKERS_MAX, Worker};
use crate::metrics::Metric;
use crate::state::{Group, TargetEntry};

/// ALB: 504 when a target does not take the connection in this time.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(10);
/// Idle connections kept of one target by one worker.
const IDLE_MAX: usize = 1024;
/// HTTP/2 connections to one target of one worker; each carries many requests.
const HTTP2_CONNECTIONS_MAX: usize = 8;

/// The idle connections of one target, by worker.
pub(crate) struct IdleConnections {
    by_worker: [Mutex<Idle>; WORKERS_MAX],
}

/// Threads do not share a cache line.
#[derive(Default)]
#[repr(align(128))]
struct Idle {
    http1: Vec<(Box<Connection>, Instant)>,
    http2: Vec<http2::SendRequest<RequestBody>>,
}

impl Default for IdleConnections {
    fn default() -> Self {
        IdleConnections {
            by_worker: [const { Mutex::new(Idle { http1: Vec::new(), http2: Vec::new() }) }; WORKERS_MAX],
        }
    }
}

impl IdleConnections {
    fn of(&self, worker: usize) -> std::sync::MutexGuard<'_, Idle> {
        self.by_worker[worker].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes what was idle too long or is closed already.
    pub(crate) fn sweep(&self, worker: usize, idle: Duration) {
        let mut all = self.of(worker);
        all.http1.retain_mut(|(connection, since)| since.elapsed() < idle && connection.is_usable());
        all.http2.retain(|sender| !sender.is_closed());
    }
}

/// Why no connection could be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error("the target refused the connection: {0}")]
    Refused(std::io::Error),
    #[error("the target did not take the connection in time")]
    Timeout,
    #[error("the TLS handshake with the target failed: {0}")]
    Tls(std::io::Error),
    #[error("the target broke the protocol: {0}")]
    Protocol(hyper::Error),
}

/// A connection to a target for one request.
pub(crate) struct Lease {
    worker: Arc<Worker>,
    target: Arc<TargetEntry>,
    pub(super) carrier: Carrier,
    /// It carried a request before: the target may have closed it in this very moment.
    pub(super) reused: bool,
    /// Not to be used again, whatever the target says.
    pub(super) last: bool,
}

/// What takes a request to the target and brings the response.
pub(super) enum Carrier {
    Http1(Box<Connection>),
    /// One of many streams, and the body of its response once there is one.
    Http2(http2::SendRequest<RequestBody>, Option<Incoming>),
}

impl Lease {
    /// An idle connection, or a new one. `fresh`: only a new one.
    pub(crate) async fn get(
        worker: &Arc<Worker>,
        group: &Group,
        target: &Arc<TargetEntry>,
        fresh: bool,
    ) -> Result<Lease, ConnectError> {
        let lease = |carrier, reused| Lease {
            worker: worker.clone(),
            target: target.clone(),
            carrier,
            reused,
            last: false,
        };
        let http2 = group.config.protocol_version != ProtocolVersion::Http1;
        if !fresh && let Some(carrier) = idle(worker, target, http2) {
            return Ok(lease(carrier, true));
        }
        Box::pin(connect(worker, group, target, http2)).await.map(|carrier| lease(carrier, false))
    }

    /// The response is over: the next request may have the connection.
    pub(super) fn give_back(self) {
        let Carrier::Http1(mut connection) = self.carrier else { return };
        if self.last || !connection.is_free() || self.target.is_draining() {
            return;
        }
        connection.rest();
        let mut idle = self.target.idle.of(self.worker.index);
        if idle.http1.len() < IDLE_MAX {
            idle.http1.push((connection, Instant::now()));
        }
    }
}

fn idle(worker: &Worker, target: &TargetEntry, http2: bool) -> Option<Carrier> {
    let mut idle = target.idle.of(worker.index);
    if http2 {
        idle.http2.retain(|sender| !sender.is_closed());
        let at = super::random::below(idle.http2.len() as u64) as usize;
        return idle.http2.get(at).cloned().map(|sender| Carrier::Http2(sender, None));
    }
    // The newest first: the others grow old and go.
    while let Some((mut connection, since)) = idle.http1.pop() {
        if since.elapsed() < worker.idle_timeout() && connection.is_usable() {
            return Some(Carrier::Http1(connection));
        }
    }
    None
}

async fn connect(
    worker: &Arc<Worker>,
    group: &Group,
    target: &Arc<TargetEntry>,
    http2: bool,
) -> Result<Carrier, ConnectError> {
    let connected = tokio::time::timeout(CONNECT_TIME_MAX, TcpStream::connect(target.address()));
    let tcp = connected.await.map_err(|_| ConnectError::Timeout)?.map_err(ConnectError::Refused)?;
    tcp.set_nodelay(true).map_err(ConnectError::Refused)?;
    let stream = if group.config.protocol == TargetProtocol::Https {
        let config = if http2 { &worker.target_tls_http2 } else { &worker.target_tls };
        let name = crate::l4::tls::server_name(target.key.ip);
        let tls = TlsConnector::from(config.clone()).connect(name, tcp);
        // ALB: 502 for a handshake that fails or takes too long.
        let late = |_| ConnectError::Tls(std::io::ErrorKind::TimedOut.into());
        let tls = tokio::time::timeout(CONNECT_TIME_MAX, tls).await.map_err(late)?;
        Stream::Tls(Box::new(tls.map_err(ConnectError::Tls)?))
    } else {
        Stream::Tcp(tcp)
    };
    let open = worker.edge.metrics.balancer.connection();
    worker.edge.metrics.balancer.add(Metric::NewConnections, 1);
    if !http2 {
        return Ok(Carrier::Http1(Box::new(Connection::new(stream, open))));
    }
    let (sender, connection) = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_header_list_size(HEAD_BYTES_MAX as u32)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(ConnectError::Protocol)?;
    tokio::spawn(async move {
        let _open = open;
        connection.await.ok();
    });
    let mut idle = target.idle.of(worker.index);
    if idle.http2.len() < HTTP2_CONNECTIONS_MAX {
        idle.http2.push(sender.clone());
    }
    Ok(Carrier::Http2(sender, None))
}
