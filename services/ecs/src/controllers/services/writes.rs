//! What a plan changes in the store: collected, and committed together as long as the service is what was planned for.

use std::collections::BTreeMap;

use ferrogate_store::{Json, StoreError, Txn, get_json};
use jiff::Timestamp;

use super::Worker;
use crate::controllers::ATTEMPTS_MAX;
use crate::lifecycle::{Desired, SERVICE_SCHEDULER_INITIATED};
use crate::plan::service::Accounted;
use crate::state::connect::EndpointInstance;
use crate::state::service::{
    InstanceRecord, Scheduling, ServiceEventRecord, ServiceKey, ServiceRecord, TargetRecord,
};
use crate::state::{TaskKey, TaskRecord};

/// Tasks of one transaction. The largest task's record is some 20 KB, what is told of its change as much again, and the
/// store takes 1.4 MB at once.
pub(super) const TASKS_PER_TXN_MAX: usize = 25;

#[derive(Debug, thiserror::Error)]
pub(super) enum ActError {
    /// Whoever changed it wakes the controller.
    #[error("the service changed meanwhile")]
    Changed,
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{0}")]
    Refused(String),
}

/// What becomes of one task.
#[derive(Clone, Debug)]
pub(super) enum TaskChange {
    Stop {
        reason: String,
        unhealthy: bool,
    },
    Release,
    Account(Accounted),
    Registering {
        group: String,
        port: u16,
    },
    /// It could not be registered.
    NotRegistered {
        group: String,
    },
    Draining {
        group: String,
    },
    Instance(Option<InstanceRecord>),
    Endpoints(Vec<EndpointInstance>),
}

impl TaskChange {
    /// `false`: there is nothing to write.
    fn apply(&self, task: &mut TaskRecord, now: Timestamp) -> bool {
        let scheduling = task.scheduling.get_or_insert_with(Scheduling::new);
        let before = scheduling.clone();
        match self {
            Self::Stop { reason, unhealthy } => {
                if task.lifecycle.desired() == Desired::Stopped {
                    return false;
                }
                scheduling.ended_unhealthy = *unhealthy;
                return task.stop(SERVICE_SCHEDULER_INITIATED, reason.clone(), now);
            }
            Self::Release => {
                scheduling.released = true;
                scheduling.targets.clear();
            }
            Self::Account(accounted) => scheduling.accounted = *accounted,
            Self::Registering { group, port } => {
                if task.lifecycle.desired() == Desired::Stopped {
                    return false;
                }
                scheduling.targets.retain(|target| target.group != *group);
                scheduling.targets.push(TargetRecord { group: group.clone(), port: *port, draining: false });
            }
            Self::NotRegistered { group } => scheduling.targets.retain(|target| target.group != *group),
            Self::Draining { group } => {
                for target in scheduling.targets.iter_mut().filter(|target| target.group == *group) {
                    target.draining = true;
                }
            }
            Self::Instance(instance) => scheduling.instance.clone_from(instance),
            Self::Endpoints(endpoints) => scheduling.endpoints.clone_from(endpoints),
        }
        *scheduling != before
    }
}

/// The service as the plan's actions leave it, and what goes with it.
pub(super) struct Writes {
    pub service: ServiceRecord,
    key: ServiceKey,
    /// As it was read or last written.
    stored: ServiceRecord,
    mod_revision: u64,
    said: Vec<String>,
    tasks: BTreeMap<String, Vec<TaskChange>>,
    /// New tasks, and whatever else goes into the next transaction.
    txn: Txn,
    new_tasks: usize,
    now: Timestamp,
}

impl Writes {
    pub(super) fn new(found: Json<ServiceRecord>, now: Timestamp) -> Self {
        Self {
            key: found.record.key(),
            stored: found.record.clone(),
            service: found.record,
            mod_revision: found.mod_revision,
            said: Vec::new(),
            tasks: BTreeMap::new(),
            txn: Txn::new(),
            new_tasks: 0,
            now,
        }
    }

    pub(super) fn key(&self) -> &ServiceKey {
        &self.key
    }

    pub(super) fn say(&mut self, events: impl IntoIterator<Item = String>) {
        self.said.extend(events);
    }

    pub(super) fn change_task(&mut self, id: &str, change: TaskChange) {
        self.tasks.entry(id.to_owned()).or_default().push(change);
    }

    pub(super) fn new_task(&mut self, task: &TaskRecord) {
        self.txn = task.put(std::mem::take(&mut self.txn), None);
        self.new_tasks += 1;
    }

    pub(super) fn also(&mut self, add: impl FnOnce(Txn) -> Txn) {
        self.txn = add(std::mem::take(&mut self.txn));
    }

    /// No more tasks fit into one transaction.
    pub(super) fn is_full(&self) -> bool {
        self.tasks.len() + self.new_tasks >= TASKS_PER_TXN_MAX
    }
}

impl Worker {
    /// Commits what is collected.
    pub(super) async fn flush(&self, writes: &mut Writes) -> Result<(), ActError> {
        let changes = std::mem::take(&mut writes.tasks);
        let rest = std::mem::take(&mut writes.txn);
        let said = std::mem::take(&mut writes.said);
        writes.new_tasks = 0;
        for _ in 0..ATTEMPTS_MAX {
            let key = writes.key.record();
            let mut txn = rest.clone();
            for (id, changes) in &changes {
                txn = self.with_task(txn, &writes.key, id, changes, writes.now);
            }
            if !said.is_empty() {
                txn = ServiceEventRecord::say(&*self.store, &writes.key, &said, writes.now, txn);
            }
            let changed = writes.service != writes.stored;
            if changed {
                txn = txn.put_json(&key, &writes.service);
            }
            if txn.then.is_empty() {
                return Ok(());
            }
            let result = self.store.txn(txn.when_revision(&key, writes.mod_revision)).await?;
            if result.succeeded {
                if changed {
                    writes.mod_revision = result.revision;
                    writes.stored = writes.service.clone();
                }
                return Ok(());
            }
            if self.store.get(&key).is_none_or(|kv| kv.mod_revision != writes.mod_revision) {
                return Err(ActError::Changed);
            }
            // One of the tasks changed meanwhile.
        }
        Err(ActError::Changed)
    }

    fn with_task(
        &self,
        txn: Txn,
        service: &ServiceKey,
        id: &str,
        changes: &[TaskChange],
        now: Timestamp,
    ) -> Txn {
        let key =
            TaskKey { scope: service.scope.clone(), cluster: service.cluster.clone(), id: id.to_owned() };
        let Some(found) = get_json::<TaskRecord>(&*self.store, &key.record()) else { return txn };
        let mut task = found.record.clone();
        let mut changed = false;
        for change in changes {
            changed |= change.apply(&mut task, now);
        }
        if !changed {
            return txn;
        }
        task.put(txn.when_revision(&*found.key, found.mod_revision), Some(&found.record))
    }
}
