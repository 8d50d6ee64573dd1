//! Flows that end because of their target: it is no longer healthy, or its deregistration is over, and the group's
//! attributes say that its flows end then.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use ferrogate_nodeapi::{Target, TargetGroup, TargetState};

use crate::state::{Edge, Live, TargetEntry, TargetKey};

/// A deregistration's end comes without a word.
const LOOK_PERIOD: Duration = Duration::from_secs(1);

/// One token per target that has, or had, flows.
#[derive(Default)]
pub(crate) struct Cutter {
    tokens: Mutex<HashMap<TargetKey, CancellationToken>>,
}

impl Cutter {
    /// Cancelled when the target's flows end.
    pub(crate) fn token(&self, target: &TargetKey) -> CancellationToken {
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        tokens.entry(target.clone()).or_default().clone()
    }

    /// Looks at all targets, again and again, until it is dropped.
    pub(crate) async fn run(self: Arc<Self>, edge: Arc<Edge>, mut health: watch::Receiver<u64>) {
        let mut changes = edge.changes();
        let mut before = edge.live();
        let mut period = tokio::time::interval(LOOK_PERIOD);
        loop {
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return },
                changed = health.changed() => if changed.is_err() { return },
                _ = period.tick() => {}
            }
            let now = edge.live();
            self.look(&before, &now, Timestamp::now());
            before = now;
        }
    }

    /// A token is cancelled once; flows that are made after that get another one.
    fn look(&self, before: &Live, live: &Live, now: Timestamp) {
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        tokens.retain(|key, token| {
            let found = live.groups.get(&key.target_group_arn).and_then(|group| {
                let (target, entry) = group.targets.iter().find(|(_, entry)| entry.key == *key)?;
                Some(ends(&group.config, target, entry, now))
            });
            let ends = match found {
                Some(ends) => ends,
                // Deregistered, and its delay is over: by the rules it had.
                None => before
                    .groups
                    .get(&key.target_group_arn)
                    .is_none_or(|group| group.config.connection_termination),
            };
            if ends {
                token.cancel();
            }
            !ends && found.is_some()
        });
    }
}

fn ends(group: &TargetGroup, target: &Target, entry: &TargetEntry, now: Timestamp) -> bool {
    let delay = jiff::SignedDuration::from_secs(group.deregistration_delay_seconds.into());
    let over = target.draining_since.is_some_and(|since| now.duration_since(since) >= delay);
    let unhealthy = entry.health() == TargetState::Unhealthy;
    (over && group.connection_termination) || (unhealthy && group.terminate_unhealthy_connections)
}
