//! One connection of a client: HTTP/1.1 or HTTP/2, as it begins, until it ends or is idle.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::forward;
use super::quiet::{Quiet, Watched};
use super::routes::Route;

/// Of requests and responses.
pub(super) const HEAD_BYTES_MAX: usize = 64 * 1024;
/// How much may be sent ahead on HTTP/2; back-pressure begins here.
pub(super) const HTTP2_STREAM_WINDOW: u32 = 256 * 1024;
pub(super) const HTTP2_CONNECTION_WINDOW: u32 = 1024 * 1024;
/// Requests at a time on one HTTP/2 connection.
const HTTP2_STREAMS_MAX: u32 = 256;
/// What HTTP/2 may buffer of one response that its client does not take.
const HTTP2_SEND_BYTES_MAX: usize = 256 * 1024;
/// A request that gets no answer in the idle time is told so within this time; then its connection is cut.
const IDLE_TIME_MORE: Duration = Duration::from_secs(5);

/// What the requests of a connection need.
pub(super) struct Connection {
    pub(super) route: Arc<Route>,
    /// Under way, of all connections.
    pub(super) requests: Arc<Semaphore>,
    /// Among all connections; one that became something else than HTTP has it to its end.
    pub(super) place: Arc<OwnedSemaphorePermit>,
}

pub(super) async fn serve(connection: Connection, client: TcpStream) {
    let quiet = Quiet::new();
    let io = TokioIo::new(Watched { io: client, quiet: Arc::clone(&quiet) });
    let connection = Arc::new(connection);
    let idle = connection.route.idle;
    let service = service_fn({
        let quiet = Arc::clone(&quiet);
        move |request| {
            let (connection, under_way) = (Arc::clone(&connection), quiet.begin());
            async move {
                let answered = Box::pin(forward::handle(&connection, under_way, request)).await;
                Ok::<_, Infallible>(answered)
            }
        }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().max_buf_size(HEAD_BYTES_MAX).header_read_timeout(None);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(HTTP2_STREAMS_MAX)
        .max_header_list_size(HEAD_BYTES_MAX as u32)
        .max_send_buf_size(HTTP2_SEND_BYTES_MAX)
        .initial_stream_window_size(HTTP2_STREAM_WINDOW)
        .initial_connection_window_size(HTTP2_CONNECTION_WINDOW);
    let mut serving = std::pin::pin!(builder.serve_connection_with_upgrades(io, service));
    let result = tokio::select! {
        result = serving.as_mut() => result,
        () = idle_end(&quiet, idle) => {
            serving.as_mut().graceful_shutdown();
            // Nothing is under way: the last words take no time.
            tokio::time::timeout(IDLE_TIME_MORE, serving).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = result {
        tracing::debug!(error, "a client's connection ended early");
    }
}

/// Returns when the connection has been quiet for too long.
async fn idle_end(quiet: &Quiet, idle: Option<Duration>) {
    let Some(idle) = idle else { return std::future::pending().await };
    quiet.for_long(idle).await;
    if quiet.is_busy() {
        quiet.for_long(idle + IDLE_TIME_MORE).await;
    }
}
