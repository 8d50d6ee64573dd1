//! Leases: who must be heard of from time to time, lest its keys go.
//!
//! ```text
//!          keep_alive
//!            ┌──┐
//!  grant ─► live ── deadline passed, or revoked ──► ended ── its keys are deleted on disk ──► forgotten
//! ```
//!
//! The table is shared by callers (who keep leases alive without waiting for a commit) and the writer, which alone
//! ends leases: once one is ended, nobody can keep it alive or put a key under it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::StoreError;

/// Shorter ones would end by a slow disk alone (etcd counts whole seconds, too).
pub const LEASE_TTL_MIN: Duration = Duration::from_secs(1);
pub const LEASE_TTL_MAX: Duration = Duration::from_hours(24);
/// Leases at one time: one for each node and some for controllers.
pub const LEASES_MAX: usize = 16_384;
/// Pause before the keys of an ended lease are deleted again, when that failed.
const ENDED_PAUSE: Duration = Duration::from_secs(1);

/// Names a lease; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LeaseId(pub(crate) u64);

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "lease {}", self.0)
    }
}

#[derive(Clone, Copy)]
struct Lease {
    ttl: Duration,
    /// When it ends; of an ended one, when its keys are to be deleted.
    deadline: Instant,
    ended: bool,
}

#[derive(Default)]
struct Table {
    leases: BTreeMap<LeaseId, Lease>,
    last_id: u64,
}

#[derive(Default)]
pub(crate) struct Leases(Mutex<Table>);

impl Leases {
    /// Leases from an earlier run begin anew: how long nobody could keep them alive is not known.
    pub(crate) fn restore(
        last_id: u64,
        kept: impl IntoIterator<Item = (LeaseId, Duration)>,
        now: Instant,
    ) -> Self {
        let lease = |ttl| Lease { ttl, deadline: now + ttl, ended: false };
        let leases = kept.into_iter().map(|(id, ttl)| (id, lease(ttl))).collect();
        Self(Mutex::new(Table { leases, last_id }))
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The id of the next lease, which is not there before [`Leases::add`].
    pub(crate) fn next_id(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        if !(LEASE_TTL_MIN..=LEASE_TTL_MAX).contains(&ttl) {
            return Err(StoreError::LeaseTtl { ttl });
        }
        let mut table = self.table();
        if table.leases.len() >= LEASES_MAX {
            return Err(StoreError::TooLarge { what: "leases", found: LEASES_MAX + 1, max: LEASES_MAX });
        }
        table.last_id += 1;
        Ok(LeaseId(table.last_id))
    }

    pub(crate) fn add(&self, id: LeaseId, ttl: Duration, now: Instant) {
        self.table().leases.insert(id, Lease { ttl, deadline: now + ttl, ended: false });
    }

    pub(crate) fn keep_alive(&self, id: LeaseId, now: Instant) -> Result<Duration, StoreError> {
        let mut table = self.table();
        match table.leases.get_mut(&id) {
            // Late is late, even if the writer did not come to it yet.
            Some(lease) if !lease.ended && now < lease.deadline => {
                lease.deadline = now + lease.ttl;
                Ok(lease.ttl)
            }
            _ => Err(StoreError::LeaseNotFound { lease: id }),
        }
    }

    pub(crate) fn is_live(&self, id: LeaseId) -> bool {
        self.table().leases.get(&id).is_some_and(|lease| !lease.ended)
    }

    /// Ends one before its time.
    pub(crate) fn end(&self, id: LeaseId) -> Result<(), StoreError> {
        match self.table().leases.get_mut(&id) {
            Some(lease) if !lease.ended => {
                lease.ended = true;
                Ok(())
            }
            _ => Err(StoreError::LeaseNotFound { lease: id }),
        }
    }

    /// Ends all whose time has come, and gives those whose keys are to be deleted now.
    pub(crate) fn end_due(&self, now: Instant) -> Vec<LeaseId> {
        let mut due = Vec::new();
        for (id, lease) in &mut self.table().leases {
            if lease.deadline <= now {
                lease.ended = true;
                due.push(*id);
            }
        }
        due
    }

    /// Its keys are deleted.
    pub(crate) fn forget(&self, id: LeaseId) {
        self.table().leases.remove(&id);
    }

    /// Its keys could not be deleted.
    pub(crate) fn postpone(&self, id: LeaseId, now: Instant) {
        if let Some(lease) = self.table().leases.get_mut(&id) {
            lease.deadline = now + ENDED_PAUSE;
        }
    }

    /// When [`Leases::end_due`] has something to do.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.table().leases.values().map(|lease| lease.deadline).min()
    }

    pub(crate) fn deadline(&self, id: LeaseId) -> Option<Instant> {
        self.table().leases.get(&id).map(|lease| lease.deadline)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(10);

    #[test]
    fn a_lease_ends_once_it_was_not_kept_alive_for_its_ttl() {
        let (leases, start) = (Leases::default(), Instant::now());
        let id = leases.next_id(TTL).unwrap();
        leases.add(id, TTL, start);
        assert_eq!(leases.keep_alive(id, start + TTL / 2), Ok(TTL));
        assert_eq!(leases.end_due(start + TTL), []);
        assert_eq!(leases.next_due(), Some(start + TTL / 2 + TTL));
        assert_eq!(leases.end_due(start + TTL * 2), [id]);
        assert!(!leases.is_live(id));
        assert_eq!(leases.keep_alive(id, start + TTL * 2), Err(StoreError::LeaseNotFound { lease: id }));
        leases.forget(id);
        assert_eq!(leases.next_due(), None);
    }

    #[test]
    fn an_ended_lease_stays_until_its_keys_are_deleted() {
        let (leases, start) = (Leases::default(), Instant::now());
        let id = leases.next_id(TTL).unwrap();
        leases.add(id, TTL, start);
        leases.end(id).unwrap();
        leases.postpone(id, start);
        assert_eq!(leases.end(id), Err(StoreError::LeaseNotFound { lease: id }));
        assert_eq!(leases.end_due(start + ENDED_PAUSE), [id]);
    }

    #[test]
    fn a_lease_that_came_too_late_is_not_revived() {
        let (leases, start) = (Leases::default(), Instant::now());
        let id = leases.next_id(TTL).unwrap();
        leases.add(id, TTL, start);
        assert_eq!(leases.keep_alive(id, start + TTL), Err(StoreError::LeaseNotFound { lease: id }));
    }

    #[test]
    fn ids_are_not_used_again_after_a_restart() {
        let leases = Leases::restore(7, [(LeaseId(3), TTL)], Instant::now());
        assert!(leases.is_live(LeaseId(3)));
        assert_eq!(leases.next_id(TTL), Ok(LeaseId(8)));
        assert_eq!(leases.next_id(Duration::ZERO), Err(StoreError::LeaseTtl { ttl: Duration::ZERO }));
    }
}
