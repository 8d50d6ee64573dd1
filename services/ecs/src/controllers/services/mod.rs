//! The service scheduler: keeps each service's tasks as its deployments want them.
//!
//! ```text
//!  a change in the store ─► index: which services ─► one job each: observe → plan (pure) → act
//!                                ▲                                            │
//!                                └── due: the plan's own time, or ELB's ──────┘
//! ```
//!
//! A change of one task has one service looked at. A service is looked at by one job at a time; what changes meanwhile
//! has it looked at again. ELB and Cloud Map say nothing of themselves: what is behind a load balancer is asked for from
//! time to time.

mod act;
mod attach;
mod endpoints;
mod index;
mod launch;
pub(crate) mod observe;
mod seen;
mod shift;
mod writes;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use ferrogate_api::Invoke;
use ferrogate_control::{Activation, Controller};
use ferrogate_model::Clock;
use ferrogate_store::{Json, Store, get_json};
use jiff::{SignedDuration, Timestamp};
use serde_json::json;

use self::act::AFTER_REFUSAL;
use self::index::Index;
use self::writes::{ActError, Writes};
use super::Jobs;
use crate::plan::service::{Action, DeploymentStatus, RolloutState, plan};
use crate::state::PREFIX;
use crate::state::service::{ServiceKey, ServiceRecord, ServiceStatus};
use crate::{EcsService, Node};

const PERIOD: Duration = Duration::from_secs(30);
/// While a service waits for its job.
const AGAIN: Duration = Duration::from_millis(200);
/// How often a job looks at its service before others have their turn.
const LOOKS_MAX: usize = 16;
/// ELB is asked about targets that change, and about those that do not.
const TARGETS_SOON: SignedDuration = SignedDuration::from_secs(2);
const TARGETS_LATER: SignedDuration = SignedDuration::from_secs(10);

pub(super) struct Services {
    worker: Arc<Worker>,
    jobs: Jobs,
}

pub(super) struct Worker {
    store: Arc<dyn Store>,
    invoke: Arc<dyn Invoke>,
    clock: Arc<dyn Clock>,
    nodes: Arc<[Node]>,
    index: Index,
    /// Where the next tasks begin among subnets that are equal: a hint, nothing depends on it.
    cursor: AtomicUsize,
    /// How often a service was looked at.
    looked: AtomicU64,
    /// See [`EcsService::close_services`].
    closing: Arc<AtomicBool>,
}

impl Services {
    pub(super) fn new(service: &EcsService) -> Self {
        let worker = Worker {
            store: Arc::clone(&service.store),
            invoke: Arc::clone(&service.invoke),
            clock: Arc::clone(&service.clock),
            nodes: Arc::clone(&service.nodes),
            index: Index::default(),
            cursor: AtomicUsize::new(0),
            looked: AtomicU64::new(0),
            closing: Arc::clone(&service.closing),
        };
        Self { worker: Arc::new(worker), jobs: Jobs::new() }
    }
}

#[async_trait::async_trait]
impl Controller for Services {
    fn name(&self) -> &'static str {
        "ecs-services"
    }

    fn prefixes(&self) -> Vec<String> {
        vec![PREFIX.into()]
    }

    fn period(&self) -> Duration {
        PERIOD
    }

    async fn activate(&self) -> Activation {
        let worker = &self.worker;
        worker.index.drain(&*worker.store);
        let now = worker.clock.now();
        let mut waiting = false;
        for key in worker.index.to_do(now) {
            let name = key.record();
            if self.jobs.is_at_work(&name) {
                waiting = true;
                continue;
            }
            let worker = Arc::clone(worker);
            self.jobs.begin(name, async move { Box::pin(worker.work(&key)).await });
        }
        let (services, dirty) = worker.index.counts();
        let detail = json!({
            "services": services, "to_do": dirty, "at_work": self.jobs.count(),
            "looked": worker.looked.load(Ordering::Relaxed),
        });
        let activation = Activation::done(detail);
        // A job that is at work sets when its service is due after this, and wakes nobody unless it writes.
        if waiting || self.jobs.count() > 0 {
            return activation.again_in(AGAIN);
        }
        match worker.index.next_due() {
            Some(due) => activation.again_in(until(now, due)),
            None => activation,
        }
    }
}

fn until(now: Timestamp, due: Timestamp) -> Duration {
    Duration::try_from(due.duration_since(now)).unwrap_or_default().max(Duration::from_millis(1))
}

impl Worker {
    async fn work(&self, key: &ServiceKey) {
        for _ in 0..LOOKS_MAX {
            if !self.index.take_dirty(key) {
                return;
            }
            let Some(found) = get_json::<ServiceRecord>(&*self.store, &key.record()) else {
                return self.index.forget(key);
            };
            if found.record.status == ServiceStatus::Inactive {
                return self.index.forget(key);
            }
            let now = self.clock.now();
            match self.look(found, now).await {
                Ok(due) => self.index.set_due(key, due),
                Err(ActError::Changed) => self.index.set_dirty(key),
                Err(ActError::Refused(why)) => {
                    tracing::warn!(
                        service = key.arn(),
                        why,
                        "a service is not as it should be; trying again"
                    );
                    self.index.set_due(key, Some(now + AFTER_REFUSAL));
                    return;
                }
                Err(ActError::Store(error)) => {
                    tracing::warn!(service = key.arn(), %error, "a service's change was not committed; trying again");
                    self.index.set_due(key, Some(now + AFTER_REFUSAL));
                    return;
                }
            }
            self.index.drain(&*self.store);
        }
    }

    /// Once. Gives when to look again though nothing has changed.
    async fn look(&self, found: Json<ServiceRecord>, now: Timestamp) -> Result<Option<Timestamp>, ActError> {
        self.looked.fetch_add(1, Ordering::Relaxed);
        let observed = Box::pin(self.observe(&found.record))
            .await
            .map_err(|error| ActError::Refused(format!("its targets cannot be seen: {error}")))?;
        let mut plan = plan(&observed.snapshot, now);
        if self.closing.load(Ordering::Relaxed) {
            plan.actions.retain(|action| !matches!(action, Action::StartTasks { .. }));
            let ending =
                observed.tasks.values().filter(|task| task.end.is_some() && !task.scheduling.released);
            plan.actions.push(Action::ReleaseTasks { tasks: ending.map(|task| task.id.clone()).collect() });
        }
        let mut writes = Writes::new(found, now);
        Box::pin(self.act(&mut writes, &observed, &plan.actions, now)).await?;
        let polled = self.next_poll(&writes.service, observed.unsettled, now);
        Ok([plan.wake_at, polled].into_iter().flatten().min())
    }

    fn next_poll(&self, service: &ServiceRecord, unsettled: bool, now: Timestamp) -> Option<Timestamp> {
        let shown = || service.deployments.iter().filter(|one| one.status != DeploymentStatus::Inactive);
        if !shown().any(|one| !one.target_groups.is_empty()) {
            return None;
        }
        let moving = unsettled || shown().any(|one| one.rollout_state == RolloutState::InProgress);
        Some(now + if moving { TARGETS_SOON } else { TARGETS_LATER })
    }
}
