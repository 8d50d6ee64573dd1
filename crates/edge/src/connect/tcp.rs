//! Connections as they are: one of the client's, one of an instance's.

use std::net::{SocketAddr, SocketAddrV4};
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use socket2::SockRef;
use tokio::net::TcpStream;

use super::access;
use super::hosts::Outcome;
use super::routes::Route;
use crate::l4::copy::{Count, End, copy};

/// Ten years.
pub(super) const NEVER: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// To its end. Without an instance that takes it, it is closed.
pub(super) async fn serve(route: &Route, client: TcpStream) {
    let peer = client.peer_addr().ok().and_then(|at| match at {
        SocketAddr::V4(at) => Some(at),
        SocketAddr::V6(_) => None,
    });
    let line = route.access_log.map(|how| access::Connection::of(how, peer));
    let count = Count::default();
    let why = relay(route, client, &count).await;
    if let Some(line) = line {
        line.over(count.to_target.load(Relaxed), count.to_client.load(Relaxed), why);
    }
}

/// Why it was not the two sides that ended it.
async fn relay(route: &Route, mut client: TcpStream, count: &Count) -> Option<&'static str> {
    let Some(mut target) = connect(route).await else {
        route.cluster.failed(&"no instance took a connection");
        return Some("no instance took the connection");
    };
    let idle = route.idle.unwrap_or(NEVER);
    match copy(&mut client, &mut target, idle, count).await {
        End::Whole => None,
        End::Idle => {
            reset([&client, &target]);
            Some("idle for too long")
        }
        End::Client(error) | End::Target(error) => {
            tracing::debug!(%error, service = route.name, "a connection broke off");
            reset([&client, &target]);
            Some("broken off")
        }
    }
}

async fn connect(route: &Route) -> Option<TcpStream> {
    let (mut tried, aim): (Vec<SocketAddrV4>, _) = (Vec::new(), route.cluster.aim(None));
    while tried.len() < route.attempts_max {
        let address = route.cluster.pick(&aim, &mut tried).await?;
        if let Ok(target) = route.cluster.connect(address).await {
            route.cluster.settle(address, Outcome::Good);
            return Some(target);
        }
    }
    None
}

/// Neither side may take this for the whole of it.
fn reset(streams: [&TcpStream; 2]) {
    for stream in streams {
        let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
    }
}
