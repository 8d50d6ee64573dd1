//! The snapshot all reads come from, and the store that is nothing else.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::{Arc, Mutex, RwLock};

use tokio::sync::broadcast;

use crate::{Change, Compare, KEY_BYTES_MAX, Kv, Op, Store, StoreError, TXN_OPS_MAX, Txn, TxnResult, VALUE_BYTES_MAX, Watch, WatchError};

/// Commits a watcher may lag behind before it has to range again.
const WATCH_LAG_MAX: usize = 8192;
/// Changes kept for watches that begin in the past.
pub(crate) const LOG_CHANGES_KEPT: usize = 65_536;

/// Current keys and recent changes. The lock is held for memory operations only, never for a disk's.
pub(crate) struct Snapshot {
    state: RwLock<State>,
    live: broadcast::Sender<Arc<[Change]>>,
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) keys: BTreeMap<Arc<str>, Kv>,
    pub(crate) revision: u64,
    pub(crate) log: VecDeque<Change>,
    /// Watches may begin here or later.
    pub(crate) log_after: u64,
}

/// What a transaction does to the keys, before anybody sees it.
pub(crate) struct Effect {
    pub(crate) result: TxnResult,
    pub(crate) changes: Vec<Change>,
}

impl State {
    /// Decides a transaction against this state and the pending changes of the batch before it, and adds its
    /// own changes to them. Pure but for `pending`.
    pub(crate) fn decide(&self, pending: &mut Pending, txn: &Txn) -> Effect {
        let succeeded = txn.compares.iter().all(|compare| self.holds(pending, compare));
        let ops = if succeeded { &txn.then } else { &txn.otherwise };
        let base = pending.revision.max(self.revision);
        let revision = base + 1;
        let mut changes: Vec<Change> = Vec::new();
        for op in ops {
            match op {
                Op::Put(key, value) => {
                    let before = self.find(pending, key);
                    let kv = Kv {
                        key: before.as_ref().map_or_else(|| Arc::from(key.as_str()), |before| Arc::clone(&before.key)),
                        value: Arc::clone(value),
                        create_revision: before.as_ref().map_or(revision, |before| before.create_revision),
                        mod_revision: revision,
                        version: before.as_ref().map_or(1, |before| before.version + 1),
                    };
                    pending.set(revision, Arc::clone(&kv.key), Some(kv), &mut changes);
                }
                Op::Delete(key) => {
                    if let Some(before) = self.find(pending, key) {
                        pending.set(revision, before.key, None, &mut changes);
                    }
                }
                Op::DeletePrefix(prefix) => {
                    for key in self.below(pending, prefix) {
                        pending.set(revision, key, None, &mut changes);
                    }
                }
            }
        }
        if !changes.is_empty() {
            pending.revision = revision;
        }
        let revision = if changes.is_empty() { base } else { revision };
        Effect { result: TxnResult { succeeded, revision }, changes }
    }

    fn find(&self, pending: &Pending, key: &str) -> Option<Kv> {
        match pending.keys.get(key) {
            Some(changed) => changed.clone(),
            None => self.keys.get(key).cloned(),
        }
    }

    fn below(&self, pending: &Pending, prefix: &str) -> Vec<Arc<str>> {
        let mut keys: Vec<Arc<str>> = scan(&self.keys, prefix, None).map(|(key, _)| Arc::clone(key)).collect();
        keys.extend(scan(&pending.keys, prefix, None).map(|(key, _)| Arc::clone(key)));
        keys.sort_unstable();
        keys.dedup();
        keys.retain(|key| self.find(pending, key).is_some());
        keys
    }

    fn holds(&self, pending: &Pending, compare: &Compare) -> bool {
        match compare {
            Compare::Absent(key) => self.find(pending, key).is_none(),
            Compare::Present(key) => self.find(pending, key).is_some(),
            Compare::ModRevision(key, revision) => {
                self.find(pending, key).is_some_and(|kv| kv.mod_revision == *revision)
            }
            Compare::Value(key, value) => self.find(pending, key).is_some_and(|kv| kv.value == *value),
        }
    }

    pub(crate) fn apply(&mut self, changes: &[Change]) {
        for change in changes {
            match &change.kv {
                Some(kv) => drop(self.keys.insert(Arc::clone(&change.key), kv.clone())),
                None => drop(self.keys.remove(&change.key)),
            }
            self.revision = change.revision;
            self.log.push_back(change.clone());
        }
        // Whole revisions leave the log, so that a watch never begins in the middle of one.
        while self.log.len() > LOG_CHANGES_KEPT {
            let Some(oldest) = self.log.pop_front() else { break };
            self.log_after = oldest.revision;
            while self.log.front().is_some_and(|next| next.revision == oldest.revision) {
                self.log.pop_front();
            }
        }
    }
}

/// Changes decided in this batch and not yet committed.
#[derive(Default)]
pub(crate) struct Pending {
    keys: BTreeMap<Arc<str>, Option<Kv>>,
    revision: u64,
}

impl Pending {
    fn set(&mut self, revision: u64, key: Arc<str>, kv: Option<Kv>, changes: &mut Vec<Change>) {
        self.keys.insert(Arc::clone(&key), kv.clone());
        // One change per key and revision: the last word of the transaction.
        changes.retain(|change| change.key != key);
        changes.push(Change { revision, key, kv });
    }
}

fn scan<'a, V>(
    keys: &'a BTreeMap<Arc<str>, V>,
    prefix: &'a str,
    start_after: Option<&'a str>,
) -> impl Iterator<Item = (&'a Arc<str>, &'a V)> {
    let from = match start_after {
        Some(after) if after >= prefix => Bound::Excluded(after),
        _ => Bound::Included(prefix),
    };
    keys.range::<str, _>((from, Bound::Unbounded)).take_while(move |(key, _)| key.starts_with(prefix))
}

impl Snapshot {
    pub(crate) fn new(state: State) -> Self {
        Self { state: RwLock::new(state), live: broadcast::channel(WATCH_LAG_MAX).0 }
    }

    pub(crate) fn read<R>(&self, read: impl FnOnce(&State) -> R) -> R {
        read(&self.state.read().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    /// Makes committed changes visible, and tells the watchers in the same order.
    pub(crate) fn publish(&self, changes: Vec<Change>) {
        if changes.is_empty() {
            return;
        }
        let mut state = self.state.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        state.apply(&changes);
        // Under the lock, so that a watch that begins now sees each change exactly once. No watcher: no matter.
        let _ = self.live.send(changes.into());
    }

    pub(crate) fn get(&self, key: &str) -> Option<Kv> {
        self.read(|state| state.keys.get(key).cloned())
    }

    pub(crate) fn range_from(&self, prefix: &str, start_after: Option<&str>, limit: usize) -> Vec<Kv> {
        self.read(|state| scan(&state.keys, prefix, start_after).take(limit).map(|(_, kv)| kv.clone()).collect())
    }

    pub(crate) fn watch(&self, prefix: &str, after: u64) -> Result<Watch, WatchError> {
        let state = self.state.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        if after < state.log_after {
            return Err(WatchError::Compacted { after, oldest: state.log_after + 1 });
        }
        let first = state.log.partition_point(|change| change.revision <= after);
        let backlog = state.log.range(first..).filter(|change| change.key.starts_with(prefix)).cloned().collect();
        Ok(Watch::new(prefix, backlog, self.live.subscribe(), state.revision.max(after)))
    }
}

/// Refuses what no store takes.
pub(crate) fn check(txn: &Txn) -> Result<(), StoreError> {
    let ops = txn.then.len().max(txn.otherwise.len()).max(txn.compares.len());
    if ops > TXN_OPS_MAX {
        return Err(StoreError::TooLarge { what: "a transaction", found: ops, max: TXN_OPS_MAX });
    }
    for op in txn.then.iter().chain(&txn.otherwise) {
        if let Op::Put(key, value) = op {
            if key.is_empty() || key.len() > KEY_BYTES_MAX {
                return Err(StoreError::TooLarge { what: "a key", found: key.len(), max: KEY_BYTES_MAX });
            }
            if value.len() > VALUE_BYTES_MAX {
                return Err(StoreError::TooLarge { what: "a value", found: value.len(), max: VALUE_BYTES_MAX });
            }
        }
    }
    Ok(())
}

/// All of the store but the disk: for tests and simulations.
pub struct MemoryStore {
    snapshot: Snapshot,
    writer: Mutex<()>,
}

impl MemoryStore {
    pub fn new() -> Self {
        Self { snapshot: Snapshot::new(State::default()), writer: Mutex::new(()) }
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait::async_trait]
impl Store for MemoryStore {
    async fn txn(&self, txn: Txn) -> Result<TxnResult, StoreError> {
        check(&txn)?;
        let _one_at_a_time = self.writer.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let effect = self.snapshot.read(|state| state.decide(&mut Pending::default(), &txn));
        self.snapshot.publish(effect.changes);
        Ok(effect.result)
    }

    fn get(&self, key: &str) -> Option<Kv> {
        self.snapshot.get(key)
    }

    fn range_from(&self, prefix: &str, start_after: Option<&str>, limit: usize) -> Vec<Kv> {
        self.snapshot.range_from(prefix, start_after, limit)
    }

    fn revision(&self) -> u64 {
        self.snapshot.read(|state| state.revision)
    }

    fn watch(&self, prefix: &str, after_revision: u64) -> Result<Watch, WatchError> {
        self.snapshot.watch(prefix, after_revision)
    }
}
