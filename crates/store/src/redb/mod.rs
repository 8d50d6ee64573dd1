//! The embedded store: redb on disk, the snapshot in memory, one writer that commits in groups.
//!
//! `lock.rs` — one process at a time; `disk.rs` — the tables and what is read and written there; `writer.rs` — the
//! thread that decides, commits and publishes.

mod disk;
mod lock;
mod writer;

use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};

use self::disk::Disk;
use self::lock::Lock;
use self::writer::{Job, QUEUE_MAX, Writer};
use crate::lease::Leases;
use crate::snapshot::Snapshot;
use crate::{Kv, LeaseId, Listing, Store, StoreError, Txn, TxnResult, Watch, WatchError};

pub struct RedbStore {
    snapshot: Arc<Snapshot>,
    leases: Arc<Leases>,
    /// Taken when the store is dropped, which ends the writer.
    queue: Option<mpsc::Sender<Job>>,
    writer: Option<JoinHandle<()>>,
}

impl RedbStore {
    /// Opens the store in the file, or makes it. `<path>.lock`, beside it, names the process that has it open.
    ///
    /// # Errors
    /// [`StoreError::InUse`], [`StoreError::Open`], [`StoreError::Damaged`], [`StoreError::Format`].
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let lock = Lock::take(path)?;
        let disk = Disk::open(path)?;
        Self::start(disk, Some(lock))
    }

    fn start(disk: Disk, lock: Option<Lock>) -> Result<Self, StoreError> {
        let kept = disk.load()?;
        let leases = Arc::new(Leases::restore(kept.last_lease, kept.leases, Instant::now()));
        let snapshot = Arc::new(Snapshot::new(kept.state));
        let (queue, jobs) = mpsc::channel(QUEUE_MAX);
        let open =
            |why: std::io::Error| StoreError::Open { path: disk.path().to_owned(), why: why.to_string() };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().map_err(open)?;
        let path = disk.path().to_owned();
        let mut writer = Writer::new(disk, Arc::clone(&snapshot), Arc::clone(&leases));
        let run = move || {
            runtime.block_on(writer.run(jobs));
            // The file is closed before the next process may have it.
            drop(writer);
            drop(lock);
        };
        let writer = std::thread::Builder::new()
            .name("store".into())
            .spawn(run)
            .map_err(|error| StoreError::Open { path, why: error.to_string() })?;
        Ok(Self { snapshot, leases, queue: Some(queue), writer: Some(writer) })
    }

    async fn ask<T>(
        &self,
        job: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> Job,
    ) -> Result<T, StoreError> {
        let (answer, answered) = oneshot::channel();
        let queue = self.queue.as_ref().ok_or(StoreError::Closed)?;
        queue.send(job(answer)).await.map_err(|_| StoreError::Closed)?;
        answered.await.map_err(|_| StoreError::Closed)?
    }
}

impl Drop for RedbStore {
    /// What was asked for before is committed.
    fn drop(&mut self) {
        self.queue.take();
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            tracing::error!("the store's writer had panicked");
        }
    }
}

#[async_trait::async_trait]
impl Store for RedbStore {
    async fn txn(&self, txn: Txn) -> Result<TxnResult, StoreError> {
        txn.check()?;
        self.ask(|answer| Job::Txn { txn, answer }).await
    }

    fn get(&self, key: &str) -> Option<Kv> {
        self.snapshot.get(key)
    }

    fn range_from(&self, prefix: &str, start_after: Option<&str>, limit: usize) -> Listing {
        self.snapshot.range(prefix, start_after, limit)
    }

    fn revision(&self) -> u64 {
        self.snapshot.revision()
    }

    fn watch(&self, prefix: &str, after_revision: u64) -> Result<Watch, WatchError> {
        self.snapshot.watch(prefix, after_revision)
    }

    async fn lease_grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        self.ask(|answer| Job::Grant { ttl, answer }).await
    }

    async fn lease_keep_alive(&self, lease: LeaseId) -> Result<Duration, StoreError> {
        self.leases.keep_alive(lease, Instant::now())
    }

    async fn lease_revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.ask(|answer| Job::Revoke { lease, answer }).await
    }
}

#[cfg(test)]
mod tests;
