//! Which tasks a service has, and which services have to be looked at: kept current from the store's watch, so that a
//! change of one task costs nothing to the other services.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

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
    /// By task id; `None`: not read so far.
    members: HashMap<ServiceKey, BTreeMap<String, Option<Arc<SeenTask>>>>,
    /// By the task's key in the store.
    services: HashMap<Arc<str>, ServiceKey>,
    dirty: HashSet<ServiceKey>,
    due: BTreeSet<(Timestamp, ServiceKey)>,
    due_at: HashMap<ServiceKey, Timestamp>,
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

    /// What has to be looked at now.
    pub(super) fn to_do(&self, now: Timestamp) -> Vec<ServiceKey> {
        let mut held = self.held();
        while let Some((at, key)) = held.due.first().cloned().filter(|(at, _)| *at <= now) {
            held.due.remove(&(at, key.clone()));
            held.due_at.remove(&key);
            held.dirty.insert(key);
        }
        held.dirty.iter().cloned().collect()
    }

    /// `true`: it had to be looked at, and whoever asks does it.
    pub(super) fn take_dirty(&self, key: &ServiceKey) -> bool {
        self.held().dirty.remove(key)
    }

    pub(super) fn set_dirty(&self, key: &ServiceKey) {
        self.held().dirty.insert(key.clone());
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

    /// A task that this service has from now on; the watch will say so later.
    pub(super) fn add(&self, service: &ServiceKey, id: &str) {
        self.held().members.entry(service.clone()).or_default().entry(id.to_owned()).or_default();
    }

    /// The service's tasks as they are now, without those that are over and done with.
    pub(super) fn tasks(&self, store: &dyn Store, service: &ServiceKey) -> Vec<Arc<SeenTask>> {
        let known = self.held().members.get(service).cloned().unwrap_or_default();
        let mut seen = Vec::with_capacity(known.len());
        let mut over = Vec::new();
        let prefix = service.scope.tasks(&service.cluster);
        for (id, before) in known {
            let Some(kv) = store.get(&format!("{prefix}{id}")) else {
                over.push(id);
                continue;
            };
            let task = match before {
                Some(before) if before.mod_revision == kv.mod_revision => before,
                _ => match SeenTask::of(&kv) {
                    Some(task) => Arc::new(task),
                    None => continue,
                },
            };
            if task.is_over() { over.push(id) } else { seen.push(task) }
        }
        let mut held = self.held();
        if let Some(members) = held.members.get_mut(service) {
            for task in &seen {
                members.insert(task.id.clone(), Some(Arc::clone(task)));
            }
            for id in &over {
                members.remove(id);
            }
        }
        seen
    }

    /// The service is no more.
    pub(super) fn forget(&self, service: &ServiceKey) {
        self.set_due(service, None);
        let mut held = self.held();
        held.members.remove(service);
        held.dirty.remove(service);
    }
}

impl Held {
    fn load(&mut self, store: &dyn Store) {
        let listing = store.range(PREFIX);
        let watch = store.watch(PREFIX, listing.revision);
        self.members.clear();
        self.services.clear();
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
                    self.dirty.insert(service);
                } else if let Some(service) = ServiceKey::of_record(&change.key) {
                    self.dirty.insert(service);
                }
            }
        }
    }

    fn put(&mut self, kv: &Kv) {
        if let Some(service) = ServiceKey::of_record(&kv.key) {
            self.dirty.insert(service);
            return;
        }
        let Some((scope, cluster, id)) = task_of(&kv.key) else { return };
        if let Some(service) = self.services.get(&kv.key) {
            self.dirty.insert(service.clone());
            return;
        }
        let Some(Json { record: Grouped { group }, .. }) = Json::<Grouped>::parse(kv) else { return };
        let Some(name) = group.strip_prefix("service:") else { return };
        let service = ServiceKey::new(&scope, cluster, name);
        self.services.insert(Arc::clone(&kv.key), service.clone());
        self.members.entry(service.clone()).or_default().entry(id.to_owned()).or_default();
        self.dirty.insert(service);
    }
}

/// Of `/ecs/<account>/<region>/task/<cluster>/<id>`.
fn task_of(key: &str) -> Option<(Scope, &str, &str)> {
    let mut parts = key.strip_prefix(PREFIX)?.split('/');
    let (account, region, kind) = (parts.next()?, parts.next()?, parts.next()?);
    let (cluster, id) = (parts.next()?, parts.next()?);
    (kind == "task").then(|| (Scope::new(account, region), cluster, id))
}
