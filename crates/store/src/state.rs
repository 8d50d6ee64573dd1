//! The keys, the log of recent changes, and what a transaction does to them. Pure: no lock, no disk, no clock.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use crate::{Change, Compare, Kv, LeaseId, Listing, Op, StoreError, Txn, TxnResult};

/// Changes kept for watches that begin in the past or lag behind.
pub const LOG_CHANGES_KEPT: usize = 32_768;
/// The same changes, by what they take in memory.
pub const LOG_BYTES_KEPT: usize = 8 << 20;
/// What a change takes beside its key and value, about.
const CHANGE_BYTES: usize = 160;

#[derive(Default)]
pub(crate) struct State {
    pub(crate) keys: BTreeMap<Arc<str>, Kv>,
    pub(crate) revision: u64,
    /// By revision; whole revisions only.
    pub(crate) log: VecDeque<Change>,
    log_bytes: usize,
    /// Watches may begin here or later.
    pub(crate) log_after: u64,
}

/// Changes decided in this batch and not yet committed.
#[derive(Default)]
pub(crate) struct Pending {
    /// What the key is now, and the revision that last changed it.
    keys: BTreeMap<Arc<str>, (u64, Option<Kv>)>,
    pub(crate) changes: Vec<Change>,
}

impl State {
    /// Nothing yet of a state at a revision, with a log that begins after `log_after`.
    pub(crate) fn at(revision: u64, log_after: u64) -> Self {
        Self { revision, log_after, ..Self::default() }
    }

    /// Decides a transaction against this state and the batch's transactions before it, and adds its changes to
    /// `pending`; not when it is refused.
    pub(crate) fn decide(
        &self,
        pending: &mut Pending,
        txn: &Txn,
        is_live: impl Fn(LeaseId) -> bool,
    ) -> Result<TxnResult, StoreError> {
        let succeeded = txn.compares.iter().all(|compare| self.holds(pending, compare));
        let ops = if succeeded { &txn.then } else { &txn.otherwise };
        for op in ops {
            if let Op::Put { lease: Some(lease), .. } = op
                && !is_live(*lease)
            {
                return Err(StoreError::LeaseNotFound { lease: *lease });
            }
        }
        let mut writing =
            Writing { state: self, revision: self.after(pending) + 1, first: pending.changes.len(), pending };
        for op in ops {
            match op {
                Op::Put { key, value, lease } => writing.put(key, value, *lease),
                Op::Delete(key) => writing.delete(key),
                Op::DeletePrefix(prefix) => writing.delete_prefix(prefix),
            }
        }
        Ok(TxnResult { succeeded, revision: self.after(pending) })
    }

    /// Deletes the keys of a lease, as one revision.
    pub(crate) fn decide_end(&self, pending: &mut Pending, lease: LeaseId) {
        let leased = self.keys.values().filter(|kv| kv.lease == Some(lease));
        let keys: Vec<Arc<str>> = leased.map(|kv| Arc::clone(&kv.key)).collect();
        let mut writing =
            Writing { state: self, revision: self.after(pending) + 1, first: pending.changes.len(), pending };
        for key in keys {
            writing.delete(&key);
        }
    }

    /// The revision once the batch so far is committed.
    fn after(&self, pending: &Pending) -> u64 {
        pending.changes.last().map_or(self.revision, |change| change.revision)
    }

    fn find<'a>(&'a self, pending: &'a Pending, key: &str) -> Option<&'a Kv> {
        match pending.keys.get(key) {
            Some((_, changed)) => changed.as_ref(),
            None => self.keys.get(key),
        }
    }

    fn holds(&self, pending: &Pending, compare: &Compare) -> bool {
        let kv = self.find(pending, compare.key());
        match compare {
            Compare::Absent(_) => kv.is_none(),
            Compare::Present(_) => kv.is_some(),
            Compare::CreateRevision(_, revision) => kv.map_or(0, |kv| kv.create_revision) == *revision,
            Compare::ModRevision(_, revision) => kv.map_or(0, |kv| kv.mod_revision) == *revision,
            Compare::Version(_, version) => kv.map_or(0, |kv| kv.version) == *version,
            Compare::Value(_, value) => kv.is_some_and(|kv| kv.value == *value),
        }
    }

    /// Enters what is committed.
    pub(crate) fn apply(&mut self, changes: Vec<Change>) {
        for change in changes {
            match &change.kv {
                Some(kv) => drop(self.keys.insert(Arc::clone(&change.key), kv.clone())),
                None => drop(self.keys.remove(&change.key)),
            }
            self.revision = change.revision;
            self.push_log(change);
        }
        self.trim_log();
    }

    pub(crate) fn push_log(&mut self, change: Change) {
        self.log_bytes += bytes(&change);
        self.log.push_back(change);
    }

    /// Whole revisions leave the log, so that a watch never begins in the middle of one.
    pub(crate) fn trim_log(&mut self) {
        while self.log.len() > LOG_CHANGES_KEPT || self.log_bytes > LOG_BYTES_KEPT {
            let Some(oldest) = self.log.front().map(|change| change.revision) else { break };
            while let Some(change) = self.log.pop_front_if(|change| change.revision == oldest) {
                self.log_bytes -= bytes(&change);
            }
            self.log_after = oldest;
        }
    }

    pub(crate) fn range(&self, prefix: &str, start_after: Option<&str>, limit: usize) -> Listing {
        let mut found = scan(&self.keys, prefix, start_after);
        let kvs = found.by_ref().take(limit).map(|(_, kv)| kv.clone()).collect();
        Listing { revision: self.revision, kvs, more: found.next().is_some() }
    }
}

/// One transaction at its revision.
struct Writing<'a> {
    state: &'a State,
    pending: &'a mut Pending,
    revision: u64,
    /// Where its changes begin.
    first: usize,
}

impl Writing<'_> {
    fn put(&mut self, key: &str, value: &Arc<[u8]>, lease: Option<LeaseId>) {
        let before = self.state.find(self.pending, key);
        let kv = Kv {
            key: before.map_or_else(|| Arc::from(key), |before| Arc::clone(&before.key)),
            value: Arc::clone(value),
            create_revision: before.map_or(self.revision, |before| before.create_revision),
            mod_revision: self.revision,
            version: before.map_or(1, |before| before.version + 1),
            lease,
        };
        self.set(Arc::clone(&kv.key), Some(kv));
    }

    fn delete(&mut self, key: &str) {
        let before = self.state.find(self.pending, key).map(|before| Arc::clone(&before.key));
        if let Some(key) = before {
            self.set(key, None);
        }
    }

    fn delete_prefix(&mut self, prefix: &str) {
        let mut keys: Vec<Arc<str>> =
            scan(&self.state.keys, prefix, None).map(|(key, _)| Arc::clone(key)).collect();
        keys.extend(scan(&self.pending.keys, prefix, None).map(|(key, _)| Arc::clone(key)));
        keys.sort_unstable();
        keys.dedup();
        for key in keys {
            self.delete(&key);
        }
    }

    fn set(&mut self, key: Arc<str>, kv: Option<Kv>) {
        let change = Change { revision: self.revision, key: Arc::clone(&key), kv: kv.clone() };
        let before = self.pending.keys.insert(key, (self.revision, kv));
        let changes = &mut self.pending.changes;
        // One change for each key and revision: the last word.
        if before.is_some_and(|(revision, _)| revision == self.revision)
            && let Some(at) = changes[self.first..].iter().position(|other| other.key == change.key)
        {
            changes.remove(self.first + at);
        }
        changes.push(change);
    }
}

pub(crate) fn scan<'a, V>(
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

fn bytes(change: &Change) -> usize {
    CHANGE_BYTES + change.key.len() + change.kv.as_ref().map_or(0, |kv| kv.value.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commit(state: &mut State, txn: &Txn) -> TxnResult {
        let mut pending = Pending::default();
        let result = state.decide(&mut pending, txn, |_| true).unwrap();
        state.apply(pending.changes);
        result
    }

    #[test]
    fn a_transaction_sees_the_batch_before_it() {
        let (state, mut pending) = (State::default(), Pending::default());
        let make = Txn::new().when_absent("a").put("a", *b"1");
        assert!(state.decide(&mut pending, &make, |_| true).unwrap().succeeded);
        let again = state.decide(&mut pending, &make, |_| true).unwrap();
        assert_eq!(again, TxnResult { succeeded: false, revision: 1 });
        let change = Txn::new().when_revision("a", 1).put("a", *b"2").put("b", *b"2");
        assert_eq!(
            state.decide(&mut pending, &change, |_| true).unwrap(),
            TxnResult { succeeded: true, revision: 2 }
        );
        let revisions: Vec<u64> = pending.changes.iter().map(|change| change.revision).collect();
        assert_eq!(revisions, [1, 2, 2]);
    }

    #[test]
    fn watchers_see_the_last_word_of_a_transaction_on_a_key() {
        let mut state = State::default();
        commit(&mut state, &Txn::new().put("a", *b"0"));
        commit(&mut state, &Txn::new().put("a", *b"1").put("b", *b"1").delete_prefix("a").put("a", *b"2"));
        let last: Vec<_> =
            state.log.iter().filter(|change| change.revision == 2).map(|change| &*change.key).collect();
        assert_eq!(last, ["b", "a"]);
        let a = &state.keys["a"];
        assert_eq!((a.create_revision, a.version, &*a.value), (2, 1, &b"2"[..]), "deleted and made again");
    }

    #[test]
    fn a_transaction_under_an_ended_lease_leaves_the_batch_as_it_was() {
        let (state, mut pending) = (State::default(), Pending::default());
        let txn = Txn::new().put("a", *b"1").put_leased("b", *b"1", LeaseId(9));
        let refused = state.decide(&mut pending, &txn, |_| false);
        assert_eq!(refused, Err(StoreError::LeaseNotFound { lease: LeaseId(9) }));
        assert!(pending.changes.is_empty() && pending.keys.is_empty());
    }

    #[test]
    fn the_log_is_bounded_by_changes_and_bytes_and_loses_whole_revisions() {
        let mut state = State::default();
        let pair = Txn::new().put("a", *b"1").put("b", *b"1").put("c", *b"1");
        for _ in 0..LOG_CHANGES_KEPT {
            commit(&mut state, &pair);
        }
        assert!(state.log.len() <= LOG_CHANGES_KEPT && state.log.len() > LOG_CHANGES_KEPT - 3);
        assert_eq!(state.log.len() % 3, 0);
        assert_eq!(state.log[0].revision, state.log_after + 1);

        commit(&mut state, &Txn::new().put("big", vec![b' '; LOG_BYTES_KEPT]));
        assert!(state.log.is_empty(), "a change larger than the whole log is not kept in it");
        assert_eq!((state.log_after, state.log_bytes), (state.revision, 0));
    }
}
