//! Connections as they come, each by the route of where it was meant to go.

use std::net::{SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::time::Duration;

use ferrogate_nodeapi::AppProtocol;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};

use super::cluster::now;
use super::http::{self, Connection};
use super::routes::Routes;
use super::seldom::Seldom;
use super::tcp;

/// Of one task, in both directions; one more is closed.
pub(super) const CONNECTIONS_MAX: usize = 4096;
/// A peer that is gone without a word is found by probes.
const KEEPALIVE: TcpKeepalive = TcpKeepalive::new()
    .with_time(Duration::from_secs(60))
    .with_interval(Duration::from_secs(15))
    .with_retries(4);
/// After an error of accept itself (no descriptors left): a pause, not a spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What all listeners share.
#[derive(Clone)]
pub(super) struct Shared {
    /// `None`: not configured yet; connections wait to be accepted.
    pub(super) routes: watch::Receiver<Option<Arc<Routes>>>,
    pub(super) places: Arc<Semaphore>,
    /// Requests under way.
    pub(super) requests: Arc<Semaphore>,
}

/// Until it is dropped.
pub(super) async fn serve(mut shared: Shared, listener: TcpListener) {
    if shared.routes.wait_for(Option::is_some).await.is_err() {
        return;
    }
    let (mut full, mut none) = (Seldom::default(), Seldom::default());
    loop {
        let client = match listener.accept().await {
            Ok((client, _)) => client,
            Err(error) => {
                if let Some(times) = none.happened(now()) {
                    tracing::warn!(%error, times, "no connection can be taken");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(place) = Arc::clone(&shared.places).try_acquire_owned() else {
            if let Some(times) = full.happened(now()) {
                tracing::warn!(times, most = CONNECTIONS_MAX, "too many connections: closed");
            }
            continue;
        };
        let meant = meant_for(&client);
        let routes = shared.routes.borrow().clone();
        let Some(route) = meant.and_then(|meant| routes?.get(&meant).cloned()) else {
            tracing::debug!(?meant, "a connection to nowhere is closed");
            continue;
        };
        prepare(&client);
        let (requests, place) = (Arc::clone(&shared.requests), Arc::new(place));
        tokio::spawn(async move {
            match route.protocol {
                AppProtocol::Tcp => {
                    Box::pin(tcp::serve(&route, client)).await;
                    drop(place);
                }
                AppProtocol::Http | AppProtocol::Http2 | AppProtocol::Grpc => {
                    Box::pin(http::serve(Connection { route, requests, place }, client)).await;
                }
            }
        });
    }
}

pub(super) fn prepare(stream: &TcpStream) {
    // Options of a socket that may be gone already.
    let _ = stream.set_nodelay(true);
    let _ = SockRef::from(stream).set_tcp_keepalive(&KEEPALIVE);
}

/// Where the client wanted to go: what it was led away from, or the listener itself.
fn meant_for(client: &TcpStream) -> Option<SocketAddrV4> {
    let led = SockRef::from(client).original_dst_v4().ok().and_then(|address| address.as_socket_ipv4());
    led.or(match client.local_addr() {
        Ok(SocketAddr::V4(address)) => Some(address),
        _ => None,
    })
}
