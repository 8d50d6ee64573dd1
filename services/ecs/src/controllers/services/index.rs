//! Which tasks a service has, and which services have to be looked at: kept current from the store's watch, so that a
//! change of one task costs nothing to the other services, and one record read to its own.
//!
//! No [`Follower`](ferrogate_control::Follower): a look has to see what the look before it has written, and so takes the
//! changes itself when it begins.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ferrogate_store::{Change, Json, Kv, Store, Watch, WatchError};
use jiff::Timestamp;
use serde::Deserialize;

use super::seen::SeenTask;
use crate::state::service::ServiceKey;
use crate::state::{PREFIX, Scope};

#[derive(Default)]
pub(super) struct Index {
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    /// `None`: everything has to be read.
    watch: Option<Watch>,
    /// The store is: there is nothing to come.
    is_closed: bool,
    members: HashMap<ServiceKey, Members>,
    /// By the task's key in the store.
    services: HashMap<Arc<str>, ServiceKey>,
    /// To be looked at.
    dirty: HashSet<ServiceKey>,
    /// In which order: all that are dirty, and some that are not any more.
    queue: VecDeque<ServiceKey>,
    /// Not to be looked at before then.
    rests: HashMap<ServiceKey, Instant>,
    due: BTreeSet<(Timestamp, ServiceKey)>,
    due_at: HashMap<ServiceKey, Timestamp>,
}

/// By task id.
pub(super) type Seen = BTreeMap<String, Arc<SeenTask>>;

/// The tasks of one service.
#[derive(Default)]
struct Members {
    /// As they were read last.
    tasks: Arc<Seen>,
    /// What has to be read again.
    changed: HashSet<String>,
}

/// As much of a task as says whose it is.
#[derive(Deserialize)]
struct Grouped {
    group: String,
}

impl Index {
    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what has been committed since the last time.
    pub(super) fn drain(&self, store: &dyn Store) {
        let mut held = self.held();
        while !held.is_closed {
            match held.watch.as_mut().map(Watch::try_next) {
                None => held.load(store),
                Some(Ok(Some(change))) => held.take(&change),
                Some(Ok(None)) => return,
                Some(Err(WatchError::Compacted { .. })) => held.watch = None,
                Some(Err(WatchError::Closed)) => held.is_closed = true,
            }
        }
    }

    /// What has to be looked at now and `may` be, up to so many; what may not stays.
    pub(super) fn to_do(
        &self,
        now: Timestamp,
        max: usize,
        mut may: impl FnMut(&ServiceKey) -> bool,
    ) -> Vec<ServiceKey> {
        let mut held = self.held();
        while let Some((at, key)) = held.due.first().cloned().filter(|(at, _)| *at <= now) {
            held.due.remove(&(at, key.clone()));
            held.due_at.remove(&key);
            held.set_dirty(&key);
        }
        let instant = Instant::now();
        held.rests.retain(|_, until| *until > instant);
        let mut ready = Vec::new();
        for _ in 0..held.queue.len() {
            if ready.len() == max {
                break;
            }
            let Some(key) = held.queue.pop_front() else { break };
            if !held.dirty.contains(&key) {
                continue;
            }
            if held.rests.contains_key(&key) || !may(&key) {
                held.queue.push_back(key);
            } else {
                held.dirty.remove(&key);
                ready.push(key);
            }
        }
        ready
    }

    /// `true`: it has to be looked at again, and whoever asks does it.
    pub(super) fn take_dirty(&self, key: &ServiceKey) -> bool {
        let mut held = self.held();
        !held.rests.contains_key(key) && held.dirty.remove(key)
    }

    pub(super) fn set_dirty(&self, key: &ServiceKey) {
        self.held().set_dirty(key);
    }

    /// It was looked at: what changes in the meantime is seen by one look.
    pub(super) fn rest(&self, key: &ServiceKey, pause: Duration) {
        if !pause.is_zero() {
            self.held().rests.insert(key.clone(), Instant::now() + pause);
        }
    }

    /// How long until one that has to be looked at may be.
    pub(super) fn next_rested(&self) -> Option<Duration> {
        let held = self.held();
        let until =
            held.rests.iter().filter(|(key, _)| held.dirty.contains(*key)).map(|(_, until)| *until).min();
        until.map(|until| until.saturating_duration_since(Instant::now()))
    }

    /// To be looked at then at the latest, and no longer when it was said before.
    pub(super) fn set_due(&self, key: &ServiceKey, at: Option<Timestamp>) {
        let mut held = self.held();
        if let Some(before) = held.due_at.remove(key) {
            held.due.remove(&(before, key.clone()));
        }
        if let Some(at) = at {
            held.due.insert((at, key.clone()));
            held.due_at.insert(key.clone(), at);
        }
    }

    pub(super) fn next_due(&self) -> Option<Timestamp> {
        self.held().due.first().map(|(at, _)| *at)
    }

    pub(super) fn counts(&self) -> (usize, usize) {
        let held = self.held();
        (held.members.len(), held.dirty.len())
    }

    /// The service's tasks as they are now, without those that are over and done with. Only what has changed is read.
    pub(super) fn tasks(&self, store: &dyn Store, service: &ServiceKey) -> Arc<Seen> {
        let changed =
            self.held().members.get_mut(service).map(|members| std::mem::take(&mut members.changed));
        let prefix = service.scope.tasks(&service.cluster);
        let read = |id: String| {
            let task = store.get(&format!("{prefix}{id}")).and_then(|kv| SeenTask::of(&kv));
            (id, task.filter(|task| !task.is_over()).map(Arc::new))
        };
        let read: Vec<_> = changed.unwrap_or_default().into_iter().map(read).collect();
        let mut held = self.held();
        let members = held.members.entry(service.clone()).or_default();
        if !read.is_empty() {
            // Nobody else has them: who looked at them before is done.
            let tasks = Arc::make_mut(&mut members.tasks);
            for (id, task) in read {
                match task {
                    Some(task) => drop(tasks.insert(id, task)),
                    None => drop(tasks.remove(&id)),
                }
            }
        }
        Arc::clone(&members.tasks)
    }

    /// The service is no more.
    pub(super) fn forget(&self, service: &ServiceKey) {
        self.set_due(service, None);
        let mut held = self.held();
        held.members.remove(service);
        held.rests.remove(service);
        held.dirty.remove(service);
    }
}

impl Held {
    fn set_dirty(&mut self, key: &ServiceKey) {
        if !self.dirty.contains(key) {
            self.dirty.insert(key.clone());
            self.queue.push_back(key.clone());
        }
    }

    fn load(&mut self, store: &dyn Store) {
        let listing = store.range(PREFIX);
        let watch = store.watch(PREFIX, listing.revision);
        self.services.clear();
        for members in self.members.values_mut() {
            members.changed.extend(members.tasks.keys().cloned());
        }
        for kv in &listing.kvs {
            self.put(kv);
        }
        match watch {
            Ok(watch) => self.watch = Some(watch),
            Err(WatchError::Compacted { .. }) => {}
            Err(WatchError::Closed) => self.is_closed = true,
        }
    }

    fn take(&mut self, change: &Change) {
        match &change.kv {
            Some(kv) => self.put(kv),
            None => {
                if let Some(service) = self.services.remove(&change.key) {
                    self.has_changed(&service, &change.key);
                } else if let Some(service) = ServiceKey::of_record(&change.key) {
                    self.set_dirty(&service);
                }
            }
        }
    }

    fn put(&mut self, kv: &Kv) {
        if let Some(service) = ServiceKey::of_record(&kv.key) {
            self.set_dirty(&service);
            return;
        }
        let Some((scope, cluster, _)) = task_of(&kv.key) else { return };
        if let Some(service) = self.services.get(&kv.key).cloned() {
            self.has_changed(&service, &kv.key);
            return;
        }
        let Some(Json { record: Grouped { group }, .. }) = Json::<Grouped>::parse(kv) else { return };
        let Some(name) = group.strip_prefix("service:") else { return };
        let service = ServiceKey::new(&scope, cluster, name);
        self.services.insert(Arc::clone(&kv.key), service.clone());
        self.has_changed(&service, &kv.key);
    }

    /// The task of this key.
    fn has_changed(&mut self, service: &ServiceKey, key: &str) {
        let Some((_, _, id)) = task_of(key) else { return };
        self.set_dirty(service);
        self.members.entry(service.clone()).or_default().changed.insert(id.to_owned());
    }
}

/// Of `/ecs/<account>/<region>/task/<cluster>/<id>`.
fn task_of(key: &str) -> Option<(Scope, &str, &str)> {
    let mut parts = key.strip_prefix(PREFIX)?.split('/');
    let (account, region, kind) = (parts.next()?, parts.next()?, parts.next()?);
    let (cluster, id) = (parts.next()?, parts.next()?);
    (kind == "task").then(|| (Scope::new(account, region), cluster, id))
}
