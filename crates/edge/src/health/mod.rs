//! Health checks: every target of every group this zone's balancer sends to is asked by itself, however many groups
//! it is in.
//!
//! One task per target in a group. The first check comes at once, spread a little; the second after a random part
//! of the interval, so that targets registered together are not asked together for ever after.

mod checker;
mod machine;
mod matcher;
mod probe;

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use ferrogate_nodeapi::{
    Anomaly, BalancerAssignment, BalancerKind, ProtocolVersion, Target, TargetGroup, TargetHealthCheck,
    TargetObservation,
};
use tokio::sync::{Semaphore, watch};
use tokio::task::{AbortHandle, JoinSet};

use crate::state::{Edge, Live, TargetEntry, TargetKey};

use machine::Verdict;

/// Checks under way at a time, all groups together.
const CHECKS_MAX: usize = 256;

/// Keeps every target of the process checked; dropped, it stops.
pub struct Health {
    edge: Arc<Edge>,
    running: HashMap<TargetKey, Running>,
    checks: JoinSet<()>,
    shared: Shared,
}

#[derive(Clone)]
struct Shared {
    slots: Arc<Semaphore>,
    changed: watch::Sender<u64>,
}

/// How a target is checked: another one begins anew, but for its state.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Way {
    check: TargetHealthCheck,
    version: ProtocolVersion,
}

struct Running {
    way: watch::Sender<Way>,
    task: AbortHandle,
    entry: Arc<TargetEntry>,
}

impl Health {
    /// `changed` is bumped whenever a target's state, reason or description is another one.
    pub fn new(edge: Arc<Edge>, changed: watch::Sender<u64>) -> Self {
        let shared = Shared { slots: Arc::new(Semaphore::new(CHECKS_MAX)), changed };
        Self { edge, running: HashMap::new(), checks: JoinSet::new(), shared }
    }

    /// Until it is dropped.
    pub async fn run(mut self) {
        let mut changes = self.edge.changes();
        loop {
            changes.borrow_and_update();
            self.reconcile();
            if changes.changed().await.is_err() {
                return;
            }
            while self.checks.try_join_next().is_some() {}
        }
    }

    fn reconcile(&mut self) {
        let live = self.edge.live();
        let mut wanted: HashMap<&TargetKey, (Way, &Arc<TargetEntry>)> = HashMap::new();
        for group in live.groups.values() {
            let way =
                Way { check: group.config.health_check.clone(), version: group.config.protocol_version };
            for (target, entry) in &group.targets {
                if !sees(&live.assignment, &group.config, target) || target.draining_since.is_some() {
                    continue;
                }
                if way.check.enabled {
                    wanted.insert(&entry.key, (way.clone(), entry));
                } else {
                    set(entry, Verdict::unchecked(), &self.shared.changed);
                }
            }
        }
        self.running.retain(|key, running| {
            // An entry of that key that went and came again is a new target.
            let same = |(_, entry): &(Way, &Arc<TargetEntry>)| Arc::ptr_eq(entry, &running.entry);
            let stays = wanted.get(key).is_some_and(same);
            if !stays {
                running.task.abort();
            }
            stays
        });
        for (key, (way, entry)) in wanted {
            if let Some(running) = self.running.get(key) {
                running.way.send_if_modified(|now| {
                    let other = *now != way;
                    *now = way;
                    other
                });
                continue;
            }
            set(entry, Verdict::registering(), &self.shared.changed);
            let (way, receiver) = watch::channel(way);
            let checker = checker::run(Arc::clone(entry), receiver, self.shared.clone());
            let task = self.checks.spawn(checker);
            self.running.insert(key.clone(), Running { way, task, entry: Arc::clone(entry) });
        }
    }
}

/// Whether this zone's balancer sends to that target, and so checks it.
pub(crate) fn sees(assignment: &BalancerAssignment, group: &TargetGroup, target: &Target) -> bool {
    let balancer = assignment.kind == BalancerKind::Application || assignment.attributes.cross_zone;
    let everywhere = group.cross_zone.unwrap_or(balancer);
    everywhere || target.availability_zone.as_ref().is_none_or(|zone| *zone == assignment.availability_zone)
}

/// All that this zone's balancer has to say of its targets.
pub fn observations(live: &Live) -> Vec<TargetObservation> {
    let mut all = Vec::new();
    for group in live.groups.values() {
        for (target, entry) in &group.targets {
            if !sees(&live.assignment, &group.config, target) {
                continue;
            }
            let verdict = if target.draining_since.is_some() {
                Verdict::draining()
            } else {
                let (reason, description) = entry.why();
                Verdict { state: entry.health(), reason, description }
            };
            all.push(TargetObservation {
                target_group_arn: entry.key.target_group_arn.clone(),
                ip: entry.key.ip,
                port: entry.key.port,
                state: verdict.state,
                reason: verdict.reason,
                description: verdict.description,
                anomaly: match (entry.is_anomalous(), group.config.anomaly_mitigation) {
                    (false, _) => Anomaly::None,
                    (true, false) => Anomaly::Seen,
                    (true, true) => Anomaly::Mitigated,
                },
            });
        }
    }
    all
}

fn set(entry: &TargetEntry, verdict: Verdict, changed: &watch::Sender<u64>) {
    let Verdict { state, reason, description } = verdict;
    let before = (entry.health(), entry.why());
    // Between two failures a success says nothing new of why.
    let (reason, description) = match (&reason, before.0 == state) {
        (None, true) => before.1.clone(),
        _ => (reason, description),
    };
    if before == (state, (reason.clone(), description.clone())) {
        return;
    }
    entry.set_health(state, reason, description);
    changed.send_modify(|count| *count += 1);
}

/// A random part of `most`: no two processes or targets have the same.
fn part(most: Duration) -> Duration {
    let random = RandomState::new().hash_one(0u8);
    most.mul_f64((random >> 11) as f64 / (1u64 << 53) as f64)
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
