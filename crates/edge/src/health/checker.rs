//! One target in one group, asked again and again.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::machine::{Failure, Machine, Verdict};
use super::probe;
use super::{Shared, Way, part, set};
use crate::state::TargetEntry;

/// The first checks of targets that are registered together are spread over this.
const FIRST_SPREAD: Duration = Duration::from_millis(200);

pub(super) async fn run(entry: Arc<TargetEntry>, mut ways: watch::Receiver<Way>, shared: Shared) {
    let mut machine = Machine::new();
    let mut next = Instant::now() + part(FIRST_SPREAD);
    let mut first = true;
    loop {
        tokio::select! {
            () = tokio::time::sleep_until(next) => {}
            changed = ways.changed() => {
                if changed.is_err() {
                    return;
                }
                // Asked in the new way soon, not after the old interval.
                next = next.min(Instant::now() + part(FIRST_SPREAD));
                continue;
            }
        }
        // As many as are due at a time; who waits here is asked later, and on from then.
        let Ok(slot) = shared.slots.acquire().await else { return };
        let way = ways.borrow_and_update().clone();
        if first {
            set(&entry, Verdict::checking(), &shared.changed);
        }
        let began = Instant::now();
        let timeout = Duration::from_secs(way.check.timeout_seconds.max(1).into());
        let port = way.check.port.unwrap_or(entry.key.port);
        let probing = probe::probe(SocketAddr::new(entry.key.ip, port), &way.check, way.version);
        let outcome = tokio::time::timeout(timeout, Box::pin(probing)).await;
        drop(slot);
        let verdict = machine.observe(outcome.unwrap_or(Err(Failure::Timeout)), &way.check);
        set(&entry, verdict, &shared.changed);
        let interval = Duration::from_secs(way.check.interval_seconds.max(1).into());
        next = began + if first { interval / 2 + part(interval / 2) } else { interval };
        first = false;
    }
}
