//! All of the store but the disk: for tests and simulations.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::time::Instant;

use crate::lease::Leases;
use crate::snapshot::Snapshot;
use crate::state::{Pending, State};
use crate::{Kv, LeaseId, Listing, Store, StoreError, Txn, TxnResult, Watch, WatchError};

/// No thread and no clock but tokio's: in a paused runtime all that it does depends on the callers alone.
pub struct MemoryStore(Arc<Inner>);

struct Inner {
    snapshot: Snapshot,
    leases: Leases,
    writer: Mutex<()>,
}

impl MemoryStore {
    pub fn new() -> Self {
        let snapshot = Snapshot::new(State::default());
        Self(Arc::new(Inner { snapshot, leases: Leases::default(), writer: Mutex::new(()) }))
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl Inner {
    fn one_at_a_time(&self) -> MutexGuard<'_, ()> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn delete_leased(&self, lease: LeaseId) {
        let mut pending = Pending::default();
        self.snapshot.read(|state| state.decide_end(&mut pending, lease));
        self.snapshot.publish(pending.changes);
        self.leases.forget(lease);
    }

    fn end_due(&self) {
        let _writer = self.one_at_a_time();
        for lease in self.leases.end_due(Instant::now().into_std()) {
            self.delete_leased(lease);
        }
    }
}

/// Ends the lease when its time has come. Ends itself with the store or the lease.
async fn expire(inner: Weak<Inner>, lease: LeaseId) {
    loop {
        let Some(deadline) = inner.upgrade().and_then(|inner| inner.leases.deadline(lease)) else { return };
        tokio::time::sleep_until(deadline.into()).await;
        if let Some(inner) = inner.upgrade() {
            inner.end_due();
        }
    }
}

#[async_trait::async_trait]
impl Store for MemoryStore {
    async fn txn(&self, txn: Txn) -> Result<TxnResult, StoreError> {
        txn.check()?;
        let inner = &*self.0;
        let _writer = inner.one_at_a_time();
        let mut pending = Pending::default();
        let decide = |state: &State| state.decide(&mut pending, &txn, |lease| inner.leases.is_live(lease));
        let result = inner.snapshot.read(decide)?;
        inner.snapshot.publish(pending.changes);
        Ok(result)
    }

    fn get(&self, key: &str) -> Option<Kv> {
        self.0.snapshot.get(key)
    }

    fn range_from(&self, prefix: &str, start_after: Option<&str>, limit: usize) -> Listing {
        self.0.snapshot.range(prefix, start_after, limit)
    }

    fn revision(&self) -> u64 {
        self.0.snapshot.revision()
    }

    fn watch(&self, prefix: &str, after_revision: u64) -> Result<Watch, WatchError> {
        self.0.snapshot.watch(prefix, after_revision)
    }

    async fn lease_grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        let lease = self.0.leases.next_id(ttl)?;
        self.0.leases.add(lease, ttl, Instant::now().into_std());
        tokio::spawn(expire(Arc::downgrade(&self.0), lease));
        Ok(lease)
    }

    async fn lease_keep_alive(&self, lease: LeaseId) -> Result<Duration, StoreError> {
        self.0.leases.keep_alive(lease, Instant::now().into_std())
    }

    async fn lease_revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        let _writer = self.0.one_at_a_time();
        self.0.leases.end(lease)?;
        self.0.delete_leased(lease);
        Ok(())
    }
}
