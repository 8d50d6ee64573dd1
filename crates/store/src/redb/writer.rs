//! The writer: one thread that decides transactions in turn, commits many at once, then publishes and answers.
//!
//! ```text
//!   queue ─► batch ─► decide each ─► one durable commit ─► publish ─► answer each
//!                                        ├ disk full: Write, nothing is kept; the file is reopened
//!                                        └ disk broken: Failed, and no commit any more until the next start
//! ```

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};

use super::disk::{Commit, Disk, LeaseChange, is_full};
use crate::lease::Leases;
use crate::snapshot::Snapshot;
use crate::state::{Pending, State};
use crate::{LeaseId, StoreError, Txn, TxnResult};

/// Transactions waiting for the writer; callers wait when there are more.
pub(crate) const QUEUE_MAX: usize = 4096;
/// Transactions of one commit.
const BATCH_MAX: usize = 256;
/// Keys and values of one commit, over which the transaction that passes it may go.
const BATCH_BYTES_MAX: usize = 8 << 20;

type Answer<T> = oneshot::Sender<Result<T, StoreError>>;

pub(crate) enum Job {
    Txn { txn: Txn, answer: Answer<TxnResult> },
    Grant { ttl: Duration, answer: Answer<LeaseId> },
    Revoke { lease: LeaseId, answer: Answer<()> },
}

pub(crate) struct Writer {
    disk: Disk,
    snapshot: Arc<Snapshot>,
    leases: Arc<Leases>,
    /// Why nothing is written any more.
    failed: Option<String>,
}

impl Writer {
    pub(crate) fn new(disk: Disk, snapshot: Arc<Snapshot>, leases: Arc<Leases>) -> Self {
        Self { disk, snapshot, leases, failed: None }
    }

    /// Until the store is dropped and its queue is empty.
    pub(crate) async fn run(&mut self, mut jobs: mpsc::Receiver<Job>) {
        loop {
            let due = self.next_due();
            let next = tokio::select! {
                next = jobs.recv() => Some(next),
                () = until(due) => None,
            };
            match next {
                Some(Some(first)) => self.batch(first, &mut jobs),
                Some(None) => return,
                None => {}
            }
            self.end_due();
        }
    }

    /// Everything that waits, in order; transactions next to each other as one commit.
    fn batch(&mut self, first: Job, jobs: &mut mpsc::Receiver<Job>) {
        let (mut batch, mut bytes) = (VecDeque::new(), 0);
        let mut next = Some(first);
        while let Some(job) = next.take() {
            match job {
                Job::Txn { txn, answer } => {
                    bytes += txn.bytes();
                    batch.push_back((txn, answer));
                    if batch.len() < BATCH_MAX && bytes < BATCH_BYTES_MAX {
                        next = jobs.try_recv().ok();
                    }
                }
                Job::Grant { ttl, answer } => {
                    self.commit_txns(std::mem::take(&mut batch));
                    drop(answer.send(self.grant(ttl)));
                }
                Job::Revoke { lease, answer } => {
                    self.commit_txns(std::mem::take(&mut batch));
                    drop(answer.send(self.revoke(lease)));
                }
            }
        }
        self.commit_txns(batch);
    }

    fn commit_txns(&mut self, batch: VecDeque<(Txn, Answer<TxnResult>)>) {
        let mut pending = Pending::default();
        let leases = Arc::clone(&self.leases);
        let decide = |state: &State| {
            let mut decided = Vec::with_capacity(batch.len());
            for (txn, answer) in batch {
                decided.push((state.decide(&mut pending, &txn, |lease| leases.is_live(lease)), answer));
            }
            decided
        };
        let decided = self.snapshot.read(decide);
        let committed = self.commit(pending, None);
        for (result, answer) in decided {
            // Nobody may wait for it any more; it is committed all the same.
            drop(answer.send(committed.clone().and(result)));
        }
    }

    fn grant(&mut self, ttl: Duration) -> Result<LeaseId, StoreError> {
        let lease = self.leases.next_id(ttl)?;
        self.commit(Pending::default(), Some(LeaseChange::Granted(lease, ttl)))?;
        self.leases.add(lease, ttl, Instant::now());
        Ok(lease)
    }

    fn revoke(&mut self, lease: LeaseId) -> Result<(), StoreError> {
        self.leases.end(lease)?;
        self.delete_leased(lease)
    }

    /// None once nothing is written any more: no lease can be ended then.
    fn next_due(&self) -> Option<Instant> {
        if self.failed.is_some() { None } else { self.leases.next_due() }
    }

    fn end_due(&mut self) {
        if self.failed.is_some() {
            return;
        }
        for lease in self.leases.end_due(Instant::now()) {
            if let Err(error) = self.delete_leased(lease) {
                tracing::error!(%error, %lease, "the keys of an ended lease are not deleted yet");
            }
        }
    }

    fn delete_leased(&mut self, lease: LeaseId) -> Result<(), StoreError> {
        let mut pending = Pending::default();
        self.snapshot.read(|state| state.decide_end(&mut pending, lease));
        match self.commit(pending, Some(LeaseChange::Ended(lease))) {
            Ok(()) => self.leases.forget(lease),
            Err(error) => {
                self.leases.postpone(lease, Instant::now());
                return Err(error);
            }
        }
        Ok(())
    }

    /// Durable and visible when it returns, or not there at all ([`StoreError::Failed`]: nobody knows).
    fn commit(&mut self, pending: Pending, lease: Option<LeaseChange>) -> Result<(), StoreError> {
        if pending.changes.is_empty() && lease.is_none() {
            return Ok(());
        }
        if let Some(why) = &self.failed {
            return Err(StoreError::Failed { why: why.clone() });
        }
        if self.disk.is_closed() {
            self.reopen("the disk was full")?;
        }
        let log_after = self.snapshot.read(|state| state.log_after);
        if let Err(error) = self.disk.write(&Commit { changes: &pending.changes, log_after, lease }) {
            return Err(self.after_failure(&error));
        }
        self.snapshot.publish(pending.changes);
        Ok(())
    }

    /// A full disk may have room again, and then the store goes on. After any other error it does not: when a flush
    /// fails, Linux keeps showing pages that never reached the disk, so that reading them back proves nothing.
    fn after_failure(&mut self, error: &::redb::Error) -> StoreError {
        let why = format!("{}: {error}", self.disk.path().display());
        tracing::error!(why, "a commit failed");
        if !is_full(error) {
            return self.fail(why);
        }
        match self.reopen(&why) {
            Ok(()) => StoreError::Write { why },
            Err(error) => error,
        }
    }

    /// Goes on with what is on disk, if that is what everybody was told.
    fn reopen(&mut self, why: &str) -> Result<(), StoreError> {
        match self.disk.reopen().and_then(|()| self.disk.revision()) {
            Ok(found) if found == self.snapshot.revision() => Ok(()),
            Ok(found) => {
                Err(self.fail(format!("{why}; the disk has revision {found}, which was not acknowledged")))
            }
            // The next commit tries again.
            Err(error) if is_full(&error) => Err(StoreError::Failed { why: why.to_owned() }),
            Err(error) => Err(self.fail(format!("{why}; then: {error}"))),
        }
    }

    fn fail(&mut self, why: String) -> StoreError {
        tracing::error!(why, "the store takes no more transactions until the next start");
        self.failed = Some(why.clone());
        StoreError::Failed { why }
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}
