//! What each node must have, kept current from the store's watch: one record read per change, one list per node and
//! burst of changes.
//!
//! No [`Follower`](ferrogate_control::Follower): a node that begins is shown what is in the store now, and what the follower
//! takes later must not bring it back to what was before.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ferrogate_nodeapi::{Connect, TaskAssignment};
use ferrogate_store::{Change, Json, Kv, Store, Watch, WatchError};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::plan::assignment::{assignment, proxy_logs};
use crate::plan::connect::of_task;
use crate::state::service::{ServiceKey, ServiceRevisionRecord};
use crate::state::{self, TaskKey, TaskRecord};

type List = Arc<Vec<TaskAssignment>>;

/// Changes taken before the lists are given out, so that a flood of them delays nobody for long.
const BURST_MAX: usize = 512;

pub(crate) struct Assignments {
    shared: Arc<Shared>,
    follower: JoinHandle<()>,
}

struct Shared {
    store: Arc<dyn Store>,
    held: Mutex<Held>,
    lists: BTreeMap<String, watch::Sender<List>>,
}

/// In every shape that is asked for, so that a change of one task costs as much as its node is large and no more.
#[derive(Default)]
struct Held {
    /// By node, then by the task's key in the store.
    nodes: BTreeMap<Arc<str>, BTreeMap<Arc<str>, TaskAssignment>>,
    /// The node of each task, by its key.
    places: HashMap<Arc<str>, Arc<str>>,
    /// Keys by task ARN.
    keys: HashMap<String, Arc<str>>,
    /// How many there are by availability zone.
    zones: BTreeMap<String, usize>,
    /// How many there are by node.
    loads: BTreeMap<String, usize>,
}

impl Held {
    fn get_mut(&mut self, key: &str) -> Option<(Arc<str>, &mut TaskAssignment)> {
        let node = self.places.get(key)?;
        Some((Arc::clone(node), self.nodes.get_mut(node)?.get_mut(key)?))
    }

    fn insert(&mut self, key: &Arc<str>, node: &str, assignment: TaskAssignment) {
        self.remove(key);
        let node =
            self.nodes.get_key_value(node).map_or_else(|| Arc::from(node), |(node, _)| Arc::clone(node));
        *self.zones.entry(assignment.availability_zone.clone()).or_default() += 1;
        *self.loads.entry(node.as_ref().to_owned()).or_default() += 1;
        self.keys.insert(assignment.task_arn.clone(), Arc::clone(key));
        self.places.insert(Arc::clone(key), Arc::clone(&node));
        self.nodes.entry(node).or_default().insert(Arc::clone(key), assignment);
    }

    /// `false`: it was not there.
    fn remove(&mut self, key: &str) -> bool {
        let Some(node) = self.places.remove(key) else { return false };
        let Some(task) = self.nodes.get_mut(&node).and_then(|tasks| tasks.remove(key)) else { return false };
        if let Some(count) = self.loads.get_mut(&*node) {
            *count -= 1;
        }
        self.keys.remove(&task.task_arn);
        if let Some(count) = self.zones.get_mut(&task.availability_zone) {
            *count -= 1;
        }
        true
    }
}

/// What a change means for a node.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Effect {
    /// It has to know.
    Tell,
    /// The list is out of date in something that a node only reads when it begins.
    Quiet,
    None,
}

impl Assignments {
    /// Reads the tasks there are and follows their changes on the current Tokio runtime, until dropped.
    pub(crate) fn start<'a>(store: Arc<dyn Store>, nodes: impl Iterator<Item = &'a str>) -> Self {
        let lists = nodes.map(|node| (node.to_owned(), watch::Sender::default())).collect();
        let shared = Arc::new(Shared { store, held: Mutex::default(), lists });
        let after = shared.load();
        let follower = tokio::spawn(Arc::clone(&shared).follow(after));
        Self { shared, follower }
    }

    /// The node's list, current as of now; a node that is not configured has none and never will.
    pub(crate) fn subscribe(&self, node: &str) -> watch::Receiver<List> {
        match self.shared.lists.get(node) {
            Some(list) => {
                let current = self.shared.refreshed(node);
                list.send_if_modified(|list| {
                    let differs = **list != current;
                    if differs {
                        *list = Arc::new(current);
                    }
                    differs
                });
                list.subscribe()
            }
            None => watch::channel(List::default()).1,
        }
    }

    /// Reads a task that is on a node.
    pub(crate) fn with<R>(&self, task_arn: &str, read: impl FnOnce(&TaskAssignment) -> R) -> Option<R> {
        let held = self.shared.held();
        let key = held.keys.get(task_arn)?;
        Some(read(held.nodes.get(held.places.get(key)?)?.get(key)?))
    }

    /// Tasks by availability zone.
    pub(crate) fn zones(&self) -> BTreeMap<String, usize> {
        self.shared.held().zones.clone()
    }

    /// Reads how many tasks each node has.
    pub(crate) fn with_load<R>(&self, read: impl FnOnce(&BTreeMap<String, usize>) -> R) -> R {
        read(&self.shared.held().loads)
    }
}

impl Drop for Assignments {
    fn drop(&mut self) {
        self.follower.abort();
    }
}

impl Shared {
    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Everything anew; the revision from which to follow.
    fn load(&self) -> u64 {
        let listing = self.store.range(state::PREFIX);
        let revision = listing.revision;
        let mut held = self.held();
        *held = Held::default();
        for kv in listing {
            if is_task(&kv.key) {
                self.put(&mut held, &kv);
            }
        }
        for node in self.lists.keys() {
            self.publish(&held, node);
        }
        revision
    }

    async fn follow(self: Arc<Self>, mut after: u64) {
        loop {
            match self.store.watch(state::PREFIX, after) {
                Ok(mut watch) => {
                    if let Err(WatchError::Closed) = self.take_all(&mut watch).await {
                        return;
                    }
                }
                Err(WatchError::Closed) => return,
                Err(WatchError::Compacted { .. }) => {}
            }
            after = self.load();
        }
    }

    async fn take_all(&self, watch: &mut Watch) -> Result<(), WatchError> {
        loop {
            let mut next = Some(watch.next().await?);
            let mut told: HashSet<Arc<str>> = HashSet::new();
            let mut taken = 0;
            {
                let mut held = self.held();
                while let Some(change) = next {
                    if is_task(&change.key) {
                        self.take(&mut held, &change, &mut told);
                    }
                    taken += 1;
                    next = if taken < BURST_MAX { watch.try_next()? } else { None };
                }
                for node in &told {
                    self.publish(&held, node);
                }
            }
            if taken == BURST_MAX {
                tokio::task::yield_now().await;
            }
        }
    }

    fn take(&self, held: &mut Held, change: &Change, told: &mut HashSet<Arc<str>>) {
        // Something newer is on its way: nobody has to see this any more.
        let newest = self.store.get(&change.key).map(|kv| kv.mod_revision);
        if newest != change.kv.as_ref().map(|kv| kv.mod_revision) {
            return;
        }
        let before = held.places.get(&change.key).cloned();
        let effect = match &change.kv {
            Some(kv) => self.put(held, kv),
            None => forget(held, &change.key),
        };
        if effect == Effect::Tell {
            told.extend(before);
            told.extend(held.places.get(&change.key).cloned());
        }
    }

    fn put(&self, held: &mut Held, kv: &Kv) -> Effect {
        let Some(Json { record: task, .. }) = Json::<TaskRecord>::parse(kv) else { return Effect::None };
        let Some(node) = task.node.as_ref().filter(|_| task.lifecycle.status().is_on_a_node()) else {
            return forget(held, &kv.key);
        };
        if let Some((place, known)) = held.get_mut(&kv.key)
            && *place == **node
        {
            let (desired, sequence) = (task.node_desired().into(), task.lifecycle.reported_sequence());
            let tell = known.desired != desired;
            let quiet = known.reported_sequence != sequence;
            known.desired = desired;
            known.reported_sequence = sequence;
            return match (tell, quiet) {
                (true, _) => Effect::Tell,
                (false, true) => Effect::Quiet,
                (false, false) => Effect::None,
            };
        }
        let definition = state::get_definition(&*self.store, &task.scope(), &task.family, task.revision);
        let connect = connect(&*self.store, &task);
        let Some(assignment) = definition.and_then(|definition| assignment(&task, &definition, connect))
        else {
            tracing::error!(
                task = task.arn(),
                definition = task.definition_arn(),
                "a task's definition is gone"
            );
            return Effect::None;
        };
        held.insert(&kv.key, node, assignment);
        Effect::Tell
    }

    /// The list with what the follower may not have seen yet: a node that begins trusts its reported sequences.
    fn refreshed(&self, node: &str) -> Vec<TaskAssignment> {
        let mut held = self.held();
        let keys: Vec<Arc<str>> =
            held.nodes.get(node).into_iter().flat_map(BTreeMap::keys).cloned().collect();
        for kv in keys.iter().filter_map(|key| self.store.get(key)) {
            self.put(&mut held, &kv);
        }
        self.list(&held, node)
    }

    fn list(&self, held: &Held, node: &str) -> Vec<TaskAssignment> {
        held.nodes.get(node).into_iter().flat_map(BTreeMap::values).cloned().collect()
    }

    fn publish(&self, held: &Held, node: &str) {
        if let Some(list) = self.lists.get(node) {
            list.send_replace(Arc::new(self.list(held, node)));
        }
    }
}

/// Of the task's service revision, which never changes.
pub(crate) fn connect(store: &dyn Store, task: &TaskRecord) -> Option<Connect> {
    let revision = &task.connect.as_ref()?.revision;
    let key = ServiceKey::new(&task.scope(), &task.cluster, task.service_name()?).revision(revision);
    let Some(Json { record, .. }) = ferrogate_store::get_json::<ServiceRevisionRecord>(store, &key) else {
        tracing::error!(task = task.arn(), revision, "a task's service revision is gone");
        return None;
    };
    of_task(&record.spec, &record.clients, proxy_logs(task, &record.spec))
}

fn forget(held: &mut Held, key: &str) -> Effect {
    if held.remove(key) { Effect::Tell } else { Effect::None }
}

/// `/ecs/<account>/<region>/task/…`
fn is_task(key: &str) -> bool {
    key.strip_prefix(state::PREFIX).and_then(|rest| rest.split('/').nth(2)) == Some("task")
}

/// For the tasks that are on no node any more.
pub(crate) fn read_task(store: &dyn Store, task_arn: &str) -> Option<Json<TaskRecord>> {
    ferrogate_store::get_json(store, &TaskKey::of_arn(task_arn)?.record())
}
