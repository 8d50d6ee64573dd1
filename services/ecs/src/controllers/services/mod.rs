//! The service scheduler: keeps each service's tasks as its deployments want them.
//!
//! ```text
//!  a change in the store ─► index: which services ─► one job each: observe → plan (pure) → act
//!                                ▲                                            │
//!                                └── due: the plan's own time, or ELB's ──────┘
//! ```
//!
//! A change of one task has one service looked at. A service is looked at by one job at a time; what changes meanwhile
//! has it looked at again, a large one not before it has rested: a look costs as much as the service is large, so that
//! what changes in between is seen by one look. ELB and Cloud Map say nothing of themselves: what is behind a load balancer is asked for from
//! time to time.

mod act;
mod attach;
mod endpoints;
mod images;
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
/// While there are jobs at work.
const AGAIN: Duration = Duration::from_millis(200);
/// While services wait for a job, or rest.
const WAITING_AGAIN: Duration = Duration::from_millis(20);
/// How long a service rests after a look, for each of its tasks: several times what the look took.
const REST_PER_TASK: Duration = Duration::from_micros(20);
/// Less is not worth waiting for.
const REST_MIN: Duration = Duration::from_millis(2);
/// After a refusal: what was noted of it is a change too, and would have the service looked at again at once.
const REST_AFTER_REFUSAL: Duration = Duration::from_millis(500);
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
        let room = self.jobs.room();
        for key in worker.index.to_do(now, room, |key| !self.jobs.is_at_work(&key.record())) {
            let worker = Arc::clone(worker);
            self.jobs.begin(key.record(), async move { Box::pin(worker.work(&key)).await });
        }
        let (services, dirty) = worker.index.counts();
        let detail = json!({
            "services": services, "to_do": dirty, "at_work": self.jobs.count(),
            "looked": worker.looked.load(Ordering::Relaxed),
        });
        let activation = Activation::done(detail);
        // A job that is at work sets when its service is due after this, and wakes nobody unless it writes.
        let at_work = match (dirty, self.jobs.count()) {
            (0, 0) => None,
            (0, _) => Some(AGAIN),
            _ => Some(WAITING_AGAIN),
        };
        let due = worker.index.next_due().map(|due| until(now, due));
        match [at_work, due, worker.index.next_rested()].into_iter().flatten().min() {
            Some(pause) => activation.again_in(pause.max(Duration::from_millis(1))),
            None => activation,
        }
    }
}

fn until(now: Timestamp, due: Timestamp) -> Duration {
    Duration::try_from(due.duration_since(now)).unwrap_or_default()
}

impl Worker {
    async fn work(&self, key: &ServiceKey) {
        for _ in 0..LOOKS_MAX {
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
                    self.index.rest(key, REST_AFTER_REFUSAL);
                    return;
                }
                Err(ActError::Store(error)) => {
                    tracing::warn!(service = key.arn(), %error, "a service's change was not committed; trying again");
                    self.index.set_due(key, Some(now + AFTER_REFUSAL));
                    return;
                }
            }
            self.index.drain(&*self.store);
            if !self.index.take_dirty(key) {
                return;
            }
        }
        // Others have their turn.
        self.index.set_dirty(key);
    }

    /// Once. Gives when to look again though nothing has changed.
    async fn look(&self, found: Json<ServiceRecord>, now: Timestamp) -> Result<Option<Timestamp>, ActError> {
        self.looked.fetch_add(1, Ordering::Relaxed);
        // With all that was written so far, by the look before this one too.
        self.index.drain(&*self.store);
        let mut observed = Box::pin(self.observe(&found.record))
            .await
            .map_err(|error| ActError::Refused(format!("its targets cannot be seen: {error}")))?;
        let mut plan = plan(&observed.snapshot, now);
        let tasks = u32::try_from(observed.tasks.len()).unwrap_or(u32::MAX);
        let rest = REST_PER_TASK.saturating_mul(tasks);
        self.index.rest(&found.record.key(), if rest < REST_MIN { Duration::ZERO } else { rest });
        if self.closing.load(Ordering::Relaxed) {
            plan.actions.retain(|action| !matches!(action, Action::StartTasks { .. }));
            let ending =
                observed.tasks.values().filter(|task| task.end.is_some() && !task.scheduling.released);
            plan.actions.push(Action::ReleaseTasks { tasks: ending.map(|task| task.id.clone()).collect() });
        }
        let mut writes = Writes::new(found, now);
        self.establish_images(&mut writes, &mut observed);
        Box::pin(self.act(&mut writes, &observed, &plan.actions, now)).await?;
        Box::pin(self.end_split(&mut writes, &observed)).await?;
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
