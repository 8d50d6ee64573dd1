//! Connections: how many, how long, and how they end.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};

use crate::dispatch::Front;

/// What clients may take of us.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The largest body of one request.
    pub body_bytes_max: usize,
    /// The bodies of all requests under way, together; beyond that requests are turned away.
    pub bodies_bytes_max: usize,
    pub connections_max: usize,
    /// For the request head, and again for the body; and how long a connection may be silent.
    pub receive_timeout: Duration,
    /// What takes longer is given up, and answered as a failure of ours.
    pub call_timeout: Duration,
    /// How long a stop waits for the calls under way.
    pub stop_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body_bytes_max: 32 << 20,
            bodies_bytes_max: 512 << 20,
            connections_max: 4096,
            receive_timeout: Duration::from_secs(30),
            call_timeout: Duration::from_secs(60),
            stop_timeout: Duration::from_secs(5),
        }
    }
}

/// A request head; beyond it HTTP/1 answers 431. Session tokens and presigned queries are long.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// Requests on one HTTP/2 connection at the same time.
const STREAMS_MAX: u32 = 128;
/// When no connection can be taken.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

impl Front {
    /// Serves until `stop` says so; calls under way are finished, for as long as the limits allow.
    pub async fn serve(self: Arc<Self>, listener: TcpListener, mut stop: watch::Receiver<bool>) {
        let slots = Arc::new(Semaphore::new(self.limits.connections_max));
        let graceful = GracefulShutdown::new();
        loop {
            let slot = tokio::select! {
                slot = Arc::clone(&slots).acquire_owned() => slot.expect("the semaphore is never closed"),
                () = stopped(&mut stop) => break,
            };
            let (stream, peer) = tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok(accepted) => accepted,
                    Err(error) => {
                        // Out of descriptors, most likely: others have to close first.
                        tracing::warn!(%error, "no connection could be taken");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                        continue;
                    }
                },
                () = stopped(&mut stop) => break,
            };
            let (front, watcher) = (Arc::clone(&self), graceful.watcher());
            tokio::spawn(async move {
                front.connection(stream, peer, watcher).await;
                drop(slot);
            });
        }
        drop(listener);
        if tokio::time::timeout(self.limits.stop_timeout, graceful.shutdown()).await.is_err() {
            tracing::warn!("connections were still busy when the time to stop was over");
        }
    }

    async fn connection(self: Arc<Self>, stream: TcpStream, peer: SocketAddr, watcher: Watcher) {
        let _ = stream.set_nodelay(true);
        let limits = self.limits;
        let activity = Arc::new(Activity::default());
        let service = service_fn(|request| {
            let (front, under_way) = (Arc::clone(&self), UnderWay::begin(&activity));
            async move { Ok::<_, Infallible>(front.answer(request, peer, under_way).await) }
        });
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.receive_timeout)
            .max_buf_size(HEAD_BYTES_MAX);
        builder
            .http2()
            .timer(TokioTimer::new())
            .keep_alive_interval(Some(limits.receive_timeout))
            .keep_alive_timeout(limits.receive_timeout)
            .max_concurrent_streams(STREAMS_MAX)
            .max_header_list_size(HEAD_BYTES_MAX as u32);
        let connection =
            watcher.watch(builder.serve_connection_with_upgrades(TokioIo::new(stream), service).into_owned());
        tokio::select! {
            ended = connection => {
                if let Err(error) = ended {
                    tracing::debug!(%error, %peer, "a connection ended early");
                }
            }
            () = activity.silence(limits.receive_timeout) => {
                tracing::debug!(%peer, "a silent connection was closed");
            }
        }
    }
}

/// Whether anything happens on a connection. hyper has deadlines for a request head, but none for a client that
/// sends half of HTTP/2's preface, nor for one that never reads its answer.
#[derive(Default)]
struct Activity {
    under_way: AtomicUsize,
    /// Requests begun and answered.
    events: AtomicU64,
}

impl Activity {
    /// Ends once nothing was begun, answered or under way for `patience`, or at most twice as long.
    async fn silence(&self, patience: Duration) {
        loop {
            let before = self.events.load(Ordering::Acquire);
            tokio::time::sleep(patience).await;
            if self.under_way.load(Ordering::Acquire) == 0 && self.events.load(Ordering::Acquire) == before {
                return;
            }
        }
    }
}

/// A request between its head and its answer.
pub(crate) struct UnderWay(Arc<Activity>);

impl UnderWay {
    fn begin(activity: &Arc<Activity>) -> Self {
        activity.under_way.fetch_add(1, Ordering::AcqRel);
        activity.events.fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(activity))
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.events.fetch_add(1, Ordering::AcqRel);
        self.0.under_way.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The guard that `wait_for` gives must not live across an await.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}
