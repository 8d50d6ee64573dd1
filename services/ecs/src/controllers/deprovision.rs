//! DEPROVISIONING tasks give their network interface back and are STOPPED.
//!
//! A task that has none recorded may have one all the same (it was given up, or the program died, between making and
//! recording it): those are looked for by their description.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ferrogate_api::Invoke;
use ferrogate_control::{Activation, Controller};
use ferrogate_model::Clock;
use ferrogate_store::{Store, StoreError, Txn, get_json};
use serde_json::json;

use super::{ATTEMPTS_MAX, Jobs, interfaces};
use crate::EcsService;
use crate::lifecycle::Event;
use crate::state::{Queue, Scope, TaskKey, TaskRecord};

const PERIOD: Duration = Duration::from_secs(30);
/// While there is work that may have failed.
const AGAIN: Duration = Duration::from_secs(1);

pub(super) struct Deprovision {
    worker: Arc<Worker>,
    jobs: Jobs,
}

struct Worker {
    store: Arc<dyn Store>,
    invoke: Arc<dyn Invoke>,
    clock: Arc<dyn Clock>,
}

impl Deprovision {
    pub(super) fn new(service: &EcsService) -> Self {
        let worker = Worker {
            store: Arc::clone(&service.store),
            invoke: Arc::clone(&service.invoke),
            clock: Arc::clone(&service.clock),
        };
        Self { worker: Arc::new(worker), jobs: Jobs::new() }
    }
}

#[async_trait::async_trait]
impl Controller for Deprovision {
    fn name(&self) -> &'static str {
        "ecs-deprovision"
    }

    fn prefixes(&self) -> Vec<String> {
        vec![Queue::Deprovision.prefix().into()]
    }

    fn period(&self) -> Duration {
        PERIOD
    }

    async fn activate(&self) -> Activation {
        let mut unrecorded: BTreeMap<Scope, Vec<TaskKey>> = BTreeMap::new();
        let queue = Queue::Deprovision.prefix();
        let (next, waiting) = self.jobs.next_of(&*self.worker.store, queue);
        for kv in next {
            let Some(key) = kv.key.strip_prefix(queue).and_then(TaskKey::of_path) else { continue };
            let task = get_json::<TaskRecord>(&*self.worker.store, &key.record()).map(|found| found.record);
            match task.and_then(|task| task.eni) {
                Some(eni) => {
                    let worker = Arc::clone(&self.worker);
                    self.jobs.begin(kv.key.to_string(), async move {
                        worker.release(&key, vec![eni.eni_id]).await
                    });
                }
                None => unrecorded.entry(key.scope.clone()).or_default().push(key),
            }
        }
        let mut outcome = Ok(());
        for (scope, tasks) in unrecorded {
            outcome = outcome.and(self.look_for(&scope, tasks).await);
        }
        let detail = json!({ "at_work": self.jobs.count() });
        let activation = Activation { outcome, detail, again_in: None };
        if waiting { activation.again_in(AGAIN) } else { activation }
    }
}

impl Deprovision {
    async fn look_for(&self, scope: &Scope, tasks: Vec<TaskKey>) -> Result<(), String> {
        let read = |key: &TaskKey| {
            get_json::<TaskRecord>(&*self.worker.store, &key.record()).map(|found| found.record)
        };
        let attachments: Vec<(TaskKey, String)> = tasks
            .into_iter()
            .filter_map(|key| Some((read(&key)?.attachment_arn(), key)))
            .map(|(arn, key)| (key, arn))
            .collect();
        let descriptions: Vec<String> = attachments.iter().map(|(_, arn)| arn.clone()).collect();
        let found = interfaces::find(&self.worker.invoke, scope, &descriptions)
            .await
            .map_err(|error| format!("the interfaces of {} cannot be listed: {error}", scope.region))?;
        for (key, attachment) in attachments {
            let own =
                found.iter().filter(|(description, _)| *description == attachment).map(|(_, id)| id.clone());
            let (worker, own) = (Arc::clone(&self.worker), own.collect());
            self.jobs.begin(Queue::Deprovision.task(&key), async move { worker.release(&key, own).await });
        }
        Ok(())
    }
}

impl Worker {
    async fn release(&self, key: &TaskKey, eni_ids: Vec<String>) {
        for eni_id in eni_ids {
            if let Err(error) = interfaces::delete(&self.invoke, &key.scope, &eni_id).await {
                tracing::warn!(task = key.arn(), eni_id, %error, "the task's interface could not be deleted; trying again");
                return;
            }
        }
        if let Err(error) = self.record(key).await {
            tracing::warn!(task = key.arn(), %error, "the end of a task could not be recorded; trying again");
        }
    }

    async fn record(&self, key: &TaskKey) -> Result<(), StoreError> {
        for _ in 0..ATTEMPTS_MAX {
            let Some(found) = get_json::<TaskRecord>(&*self.store, &key.record()) else {
                let orphan = Txn::new().when_absent(key.record()).delete(Queue::Deprovision.task(key));
                return self.store.txn(orphan).await.map(drop);
            };
            let was = found.record;
            let mut task = was.clone();
            if let Err(illegal) = task.lifecycle.apply(Event::Released, self.clock.now()) {
                tracing::warn!(task = key.arn(), %illegal, "deprovisioning came too late");
                return Ok(());
            }
            let txn = task.put(Txn::new().when_revision(&*found.key, found.mod_revision), Some(&was));
            if self.store.txn(txn).await?.succeeded {
                return Ok(());
            }
        }
        // The queue still holds it: the next activation begins again.
        Ok(())
    }
}
