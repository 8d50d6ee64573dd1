//! PROVISIONING tasks get their network interface and a node.
//!
//! Only this controller moves a task out of PROVISIONING, and it works on a task once at a time: while an interface is
//! being made nobody else decides that there is none. A crash between making and recording it leaves the task
//! PROVISIONING; the client token then finds the same interface again.

use std::sync::Arc;
use std::time::Duration;

use ferrogate_api::Invoke;
use ferrogate_control::{Activation, Controller};
use ferrogate_model::Clock;
use ferrogate_store::{Store, StoreError, Txn, get_json};
use serde_json::json;

use super::{ATTEMPTS_MAX, Jobs, interfaces};
use crate::assignments::Assignments;
use crate::lifecycle::{Event, Status};
use crate::plan::placement::{self, Needs};
use crate::plan::provision::{Step, reason_to_give_up, step};
use crate::state::{EniRecord, Queue, TaskKey, TaskRecord};
use crate::{EcsService, Node};

const PERIOD: Duration = Duration::from_secs(30);
/// While there is work that may have failed.
const AGAIN: Duration = Duration::from_secs(1);

pub(super) struct Provision {
    worker: Arc<Worker>,
    jobs: Jobs,
}

struct Worker {
    store: Arc<dyn Store>,
    invoke: Arc<dyn Invoke>,
    clock: Arc<dyn Clock>,
    nodes: Arc<[Node]>,
    assignments: Arc<Assignments>,
}

impl Provision {
    pub(super) fn new(service: &EcsService) -> Self {
        let worker = Worker {
            store: Arc::clone(&service.store),
            invoke: Arc::clone(&service.invoke),
            clock: Arc::clone(&service.clock),
            nodes: Arc::clone(&service.nodes),
            assignments: Arc::clone(&service.assignments),
        };
        Self { worker: Arc::new(worker), jobs: Jobs::new() }
    }
}

#[async_trait::async_trait]
impl Controller for Provision {
    fn name(&self) -> &'static str {
        "ecs-provision"
    }

    fn prefixes(&self) -> Vec<String> {
        vec![Queue::Provision.prefix().into()]
    }

    fn period(&self) -> Duration {
        PERIOD
    }

    async fn activate(&self) -> Activation {
        let queue = Queue::Provision.prefix();
        let (next, waiting) = self.jobs.next_of(&*self.worker.store, queue);
        for kv in next {
            let Some(task) = kv.key.strip_prefix(queue).and_then(TaskKey::of_path) else { continue };
            let worker = Arc::clone(&self.worker);
            self.jobs.begin(kv.key.to_string(), async move { worker.provision(&task).await });
        }
        let activation = Activation::done(json!({ "at_work": self.jobs.count() }));
        if waiting { activation.again_in(AGAIN) } else { activation }
    }
}

impl Worker {
    async fn provision(&self, key: &TaskKey) {
        let Some(found) = get_json::<TaskRecord>(&*self.store, &key.record()) else {
            // The queue holds nothing but what follows from a record.
            let orphan = Txn::new().when_absent(key.record()).delete(Queue::Provision.task(key));
            if let Err(error) = self.store.txn(orphan).await {
                tracing::warn!(%error, "a queue's key could not be removed");
            }
            return;
        };
        let task = found.record;
        if task.lifecycle.status() != Status::Provisioning {
            // Done since the queue was read: making another interface now would be one too many.
            return;
        }
        let outcome = match step(&task, self.clock.now()) {
            Step::Abandon => Outcome::Event(Event::Abandoned),
            Step::GiveUp(reason) => Outcome::Event(Event::NotProvisioned { reason }),
            Step::Create => match interfaces::create(&self.invoke, &task).await {
                Ok(eni) => Outcome::Made(eni),
                Err(error) => match reason_to_give_up(&task, &error) {
                    Some(reason) => Outcome::Event(Event::NotProvisioned { reason }),
                    None => {
                        tracing::warn!(task = task.arn(), %error, "the task's interface could not be made; trying again");
                        return;
                    }
                },
            },
        };
        if let Err(error) = self.record(key, &outcome).await {
            tracing::warn!(task = key.arn(), %error, "provisioning could not be recorded; trying again");
        }
    }

    async fn record(&self, key: &TaskKey, outcome: &Outcome) -> Result<(), StoreError> {
        for _ in 0..ATTEMPTS_MAX {
            let Some(found) = get_json::<TaskRecord>(&*self.store, &key.record()) else { return Ok(()) };
            let was = found.record;
            let mut task = was.clone();
            let event = match outcome {
                Outcome::Event(event) => event.clone(),
                Outcome::Made(eni) => {
                    task.eni = Some(eni.clone());
                    match self.node_for(&task) {
                        Some(node) => {
                            task.node = Some(node);
                            Event::Placed
                        }
                        None => Event::NotProvisioned { reason: crate::operations::NO_CAPACITY.into() },
                    }
                }
            };
            if let Err(illegal) = task.lifecycle.apply(event, self.clock.now()) {
                // Only a second control plane could have been here before.
                tracing::warn!(task = key.arn(), %illegal, "provisioning came too late");
                return Ok(());
            }
            if task.lifecycle.status() == Status::Deprovisioning {
                task.node = None;
            }
            let txn = task.put(Txn::new().when_revision(&*found.key, found.mod_revision), Some(&was));
            if self.store.txn(txn).await?.succeeded {
                return Ok(());
            }
        }
        // The queue still holds it: the next activation begins again.
        Ok(())
    }

    fn node_for(&self, task: &TaskRecord) -> Option<String> {
        let needs = Needs::new(&task.architecture, task.memory_mib);
        let node = self.assignments.with_load(|load| placement::node(&self.nodes, load, needs));
        node.map(|node| node.id.clone())
    }
}

enum Outcome {
    Made(EniRecord),
    Event(Event<'static>),
}
