//! Connections as they are: one of the client's, one of an instance's.

use std::net::SocketAddrV4;
use std::time::Duration;

use socket2::SockRef;
use tokio::net::TcpStream;

use super::hosts::Outcome;
use super::routes::Route;
use crate::l4::copy::{Count, End, copy};

/// Ten years.
pub(super) const NEVER: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// To its end. Without an instance that takes it, it is closed.
pub(super) async fn serve(route: &Route, client: TcpStream) {
    let Some(target) = connect(route).await else {
        route.cluster.failed(&"no instance took a connection");
        return;
    };
    let (mut client, mut target) = (client, target);
    let idle = route.idle.unwrap_or(NEVER);
    match copy(&mut client, &mut target, idle, &Count::default()).await {
        End::Whole => {}
        End::Idle => reset([&client, &target]),
        End::Client(error) | End::Target(error) => {
            tracing::debug!(%error, service = route.name, "a connection broke off");
            reset([&client, &target]);
        }
    }
}

async fn connect(route: &Route) -> Option<TcpStream> {
    let mut tried: Vec<SocketAddrV4> = Vec::new();
    while tried.len() < route.attempts_max {
        let address = route.cluster.pick(&mut tried).await?;
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
