//! Connections to instances that wait for the next request.

use std::collections::HashMap;
use std::net::SocketAddrV4;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::TcpStream;

use super::body::RequestBody;
use super::http::{HEAD_BYTES_MAX, HTTP2_CONNECTION_WINDOW, HTTP2_STREAM_WINDOW};

/// Idle ones of one instance.
const IDLE_MAX: usize = 256;
/// HTTP/2 connections to one instance; each carries many requests.
const HTTP2_CONNECTIONS_MAX: usize = 4;

/// By instance; those that are gone have no entry.
#[derive(Default)]
pub(super) struct Pool(Mutex<HashMap<SocketAddrV4, Idle>>);

#[derive(Default)]
struct Idle {
    http1: Vec<Kept<http1::SendRequest<RequestBody>>>,
    http2: Vec<Kept<http2::SendRequest<RequestBody>>>,
    /// The HTTP/2 connection for the next request.
    next: usize,
}

struct Kept<S> {
    sender: S,
    /// `None`: as long as it stands.
    until: Option<Instant>,
}

impl<S> Kept<S> {
    fn new(sender: S, idle: Option<Duration>) -> Self {
        Self { sender, until: idle.map(|idle| Instant::now() + idle) }
    }

    fn is_late(&self) -> bool {
        self.until.is_some_and(|until| Instant::now() >= until)
    }
}

impl Idle {
    fn sweep(&mut self) {
        self.http1.retain(|kept| !kept.sender.is_closed() && !kept.is_late());
        self.http2.retain(|kept| !kept.sender.is_closed() && !kept.is_late());
    }

    /// The newest first: the others grow old and go.
    fn http1(&mut self) -> Option<Sender> {
        let at = self.http1.iter().rposition(|kept| kept.sender.is_ready() && !kept.is_late())?;
        Some(Sender::Http1(self.http1.swap_remove(at).sender))
    }

    fn http2(&mut self, idle: Option<Duration>) -> Option<Sender> {
        self.http2.retain(|kept| !kept.sender.is_closed());
        self.next = (self.next + 1) % self.http2.len().max(1);
        let kept = self.http2.get_mut(self.next)?;
        // In use: it is not idle.
        *kept = Kept::new(kept.sender.clone(), idle);
        Some(Sender::Http2(kept.sender.clone()))
    }
}

impl Pool {
    /// Connections to others are closed as soon as nothing is under way on them.
    pub(super) fn keep(&self, addresses: &[SocketAddrV4]) {
        let mut all = self.all();
        all.retain(|address, _| addresses.contains(address));
        for address in addresses {
            all.entry(*address).or_default();
        }
    }

    /// Closes what was idle for too long or is closed already.
    pub(super) fn sweep(&self) {
        self.all().values_mut().for_each(Idle::sweep);
    }

    pub(super) fn idle(
        self: &Arc<Self>,
        address: SocketAddrV4,
        http2: bool,
        idle: Option<Duration>,
    ) -> Option<Lease> {
        let mut all = self.all();
        let kept = all.get_mut(&address)?;
        let sender = if http2 { kept.http2(idle) } else { kept.http1() }?;
        Some(Lease { pool: Arc::clone(self), address, sender, reused: true, idle })
    }

    /// A connection that was just made becomes one of HTTP.
    pub(super) async fn fresh(
        self: &Arc<Self>,
        address: SocketAddrV4,
        stream: TcpStream,
        http2: bool,
        idle: Option<Duration>,
    ) -> hyper::Result<Lease> {
        let io = TokioIo::new(stream);
        let sender = if http2 {
            let (sender, connection) = http2::Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .max_header_list_size(HEAD_BYTES_MAX as u32)
                .initial_stream_window_size(HTTP2_STREAM_WINDOW)
                .initial_connection_window_size(HTTP2_CONNECTION_WINDOW)
                .handshake(io)
                .await?;
            tokio::spawn(connection);
            if let Some(kept) = self.all().get_mut(&address)
                && kept.http2.len() < HTTP2_CONNECTIONS_MAX
            {
                kept.http2.push(Kept::new(sender.clone(), idle));
            }
            Sender::Http2(sender)
        } else {
            let (sender, connection) =
                http1::Builder::new().max_buf_size(HEAD_BYTES_MAX).handshake(io).await?;
            tokio::spawn(connection.with_upgrades());
            Sender::Http1(sender)
        };
        Ok(Lease { pool: Arc::clone(self), address, sender, reused: false, idle })
    }

    fn all(&self) -> MutexGuard<'_, HashMap<SocketAddrV4, Idle>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) enum Sender {
    Http1(http1::SendRequest<RequestBody>),
    Http2(http2::SendRequest<RequestBody>),
}

/// A connection for one request.
pub(super) struct Lease {
    pool: Arc<Pool>,
    address: SocketAddrV4,
    pub(super) sender: Sender,
    /// It carried a request before: the instance may have closed it in this very moment.
    pub(super) reused: bool,
    idle: Option<Duration>,
}

impl Lease {
    /// The response is over: the next request may have the connection.
    pub(super) fn give_back(self) {
        let Sender::Http1(sender) = self.sender else { return };
        if sender.is_closed() {
            return;
        }
        if let Some(kept) = self.pool.all().get_mut(&self.address)
            && kept.http1.len() < IDLE_MAX
        {
            kept.http1.push(Kept::new(sender, self.idle));
        }
    }
}
