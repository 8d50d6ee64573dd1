//! The embedded store: redb on disk, the snapshot in memory, one writer that commits in groups.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;

use ::redb::{Database, DatabaseError, ReadableDatabase, ReadableTable, TableDefinition};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

use crate::memory::{LOG_CHANGES_KEPT, Pending, Snapshot, State, check};
use crate::{Change, Kv, Store, StoreError, Txn, TxnResult, Watch, WatchError};

/// Transactions waiting for the writer.
const QUEUE_MAX: usize = 4096;
/// Transactions of one commit.
const BATCH_MAX: usize = 256;
/// redb's page cache. All reads come from the snapshot, so that little is needed.
const CACHE_BYTES: usize = 4 << 20;

/// Key → (create, mod, version, value).
const KEYS: TableDefinition<&str, (u64, u64, u64, &[u8])> = TableDefinition::new("keys");
/// Revision → its changes, as JSON: what watches that begin in the past are given.
const LOG: TableDefinition<u64, &[u8]> = TableDefinition::new("log");
const META: TableDefinition<&str, u64> = TableDefinition::new("meta");
const REVISION: &str = "revision";
const FORMAT: &str = "format";
const FORMAT_NOW: u64 = 1;

struct Job {
    txn: Txn,
    answer: oneshot::Sender<Result<TxnResult, StoreError>>,
}

pub struct RedbStore {
    snapshot: Arc<Snapshot>,
    queue: Option<mpsc::Sender<Job>>,
    writer: Option<JoinHandle<()>>,
    revision: Arc<AtomicU64>,
}

/// One change as it is kept in the log.
#[derive(Serialize, Deserialize)]
struct Logged {
    key: String,
    /// (create, version, value); absent: deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    put: Option<(u64, u64, String)>,
}

impl RedbStore {
    /// Opens or makes the store. One process at a time.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let damaged = |why: String| StoreError::Damaged { path: path.to_owned(), why };
        let database = Database::builder().set_cache_size(CACHE_BYTES).create(path).map_err(|error| match error {
            DatabaseError::DatabaseAlreadyOpen => StoreError::InUse { path: path.to_owned() },
            other => damaged(other.to_string()),
        })?;
        let state = load(&database, path)?;
        let revision = Arc::new(AtomicU64::new(state.revision));
        let snapshot = Arc::new(Snapshot::new(state));
        let (queue, jobs) = mpsc::channel(QUEUE_MAX);
        let mut writer = Writer { database, snapshot: Arc::clone(&snapshot), revision: Arc::clone(&revision) };
        let writer = std::thread::Builder::new()
            .name("store".into())
            .spawn(move || writer.run(jobs))
            .map_err(|error| StoreError::Write(error.to_string()))?;
        Ok(Self { snapshot, queue: Some(queue), writer: Some(writer), revision })
    }
}

impl Drop for RedbStore {
    /// What was asked for before is committed.
    fn drop(&mut self) {
        self.queue.take();
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}

fn load(database: &Database, path: &Path) -> Result<State, StoreError> {
    let damaged = |why: String| StoreError::Damaged { path: path.to_owned(), why };
    let make = || -> Result<(), ::redb::Error> {
        let write = database.begin_write()?;
        write.open_table(KEYS)?;
        write.open_table(LOG)?;
        write.open_table(META)?;
        write.commit()?;
        Ok(())
    };
    make().map_err(|error| damaged(error.to_string()))?;
    let read = || -> Result<(State, u64, Vec<(u64, Vec<u8>)>), ::redb::Error> {
        let read = database.begin_read()?;
        let mut state = State::default();
        for entry in read.open_table(KEYS)?.iter()? {
            let (key, value) = entry?;
            let (create_revision, mod_revision, version, bytes) = value.value();
            let key: Arc<str> = key.value().into();
            let kv = Kv { key: Arc::clone(&key), value: bytes.into(), create_revision, mod_revision, version };
            state.keys.insert(key, kv);
        }
        let meta = read.open_table(META)?;
        state.revision = meta.get(REVISION)?.map_or(0, |value| value.value());
        let format = meta.get(FORMAT)?.map_or(FORMAT_NOW, |value| value.value());
        let mut log = Vec::new();
        for entry in read.open_table(LOG)?.iter()? {
            let (revision, changes) = entry?;
            log.push((revision.value(), changes.value().to_vec()));
        }
        Ok((state, format, log))
    };
    let (mut state, format, log) = read().map_err(|error| damaged(error.to_string()))?;
    if format != FORMAT_NOW {
        return Err(damaged(format!("its format is {format}, this version reads {FORMAT_NOW}")));
    }
    state.log_after = log.first().map_or(state.revision, |(revision, _)| revision - 1);
    for (revision, json) in log {
        let logged: Vec<Logged> = serde_json::from_slice(&json).map_err(|error| damaged(error.to_string()))?;
        for Logged { key, put } in logged {
            let key: Arc<str> = key.into();
            let kv = put.map(|(create_revision, version, value)| Kv {
                key: Arc::clone(&key),
                value: value.into_bytes().into(),
                create_revision,
                mod_revision: revision,
                version,
            });
            state.log.push_back(Change { revision, key, kv });
        }
    }
    Ok(state)
}

struct Writer {
    database: Database,
    snapshot: Arc<Snapshot>,
    revision: Arc<AtomicU64>,
}

impl Writer {
    fn run(&mut self, mut jobs: mpsc::Receiver<Job>) {
        while let Some(first) = jobs.blocking_recv() {
            let mut batch = vec![first];
            while batch.len() < BATCH_MAX
                && let Ok(next) = jobs.try_recv()
            {
                batch.push(next);
            }
            self.commit(batch);
        }
    }

    /// Decides each transaction in turn, commits all of them at once, then answers.
    fn commit(&self, batch: Vec<Job>) {
        let mut pending = Pending::default();
        let mut changes: Vec<Change> = Vec::new();
        let mut answers = Vec::with_capacity(batch.len());
        self.snapshot.read(|state| {
            for job in batch {
                let effect = state.decide(&mut pending, &job.txn);
                changes.extend(effect.changes);
                answers.push((job.answer, effect.result));
            }
        });
        let written = if changes.is_empty() { Ok(()) } else { self.write(&changes) };
        match written {
            Ok(()) => {
                if let Some(last) = changes.last() {
                    self.revision.store(last.revision, Ordering::Release);
                }
                self.snapshot.publish(changes);
                for (answer, result) in answers {
                    let _ = answer.send(Ok(result));
                }
            }
            Err(error) => {
                tracing::error!(%error, "a commit failed: nothing of it is kept");
                for (answer, _) in answers {
                    let _ = answer.send(Err(StoreError::Write(error.to_string())));
                }
            }
        }
    }

    fn write(&self, changes: &[Change]) -> Result<(), ::redb::Error> {
        let write = self.database.begin_write()?;
        {
            let mut keys = write.open_table(KEYS)?;
            let mut log = write.open_table(LOG)?;
            for of_revision in changes.chunk_by(|a, b| a.revision == b.revision) {
                let mut logged = Vec::with_capacity(of_revision.len());
                for change in of_revision {
                    match &change.kv {
                        Some(kv) => {
                            keys.insert(&*change.key, (kv.create_revision, kv.mod_revision, kv.version, &*kv.value))?;
                            let text = String::from_utf8_lossy(&kv.value).into_owned();
                            logged.push(Logged { key: change.key.to_string(), put: Some((kv.create_revision, kv.version, text)) });
                        }
                        None => {
                            keys.remove(&*change.key)?;
                            logged.push(Logged { key: change.key.to_string(), put: None });
                        }
                    }
                }
                let json = serde_json::to_vec(&logged).unwrap_or_default();
                log.insert(of_revision[0].revision, json.as_slice())?;
            }
            let newest = changes.last().map_or(0, |change| change.revision);
            // A revision has at least one change, so this keeps no more than the snapshot does.
            let kept_from = newest.saturating_sub(LOG_CHANGES_KEPT as u64 / 8);
            let old: Vec<u64> = {
                let mut old = Vec::new();
                for entry in log.range(..kept_from)? {
                    old.push(entry?.0.value());
                }
                old
            };
            for revision in old {
                log.remove(revision)?;
            }
            let mut meta = write.open_table(META)?;
            meta.insert(REVISION, newest)?;
            meta.insert(FORMAT, FORMAT_NOW)?;
        }
        write.commit()?;
        Ok(())
    }
}

#[async_trait::async_trait]
impl Store for RedbStore {
    async fn txn(&self, txn: Txn) -> Result<TxnResult, StoreError> {
        check(&txn)?;
        let (answer, result) = oneshot::channel();
        let queue = self.queue.as_ref().ok_or(StoreError::Closed)?;
        queue.send(Job { txn, answer }).await.map_err(|_| StoreError::Closed)?;
        result.await.map_err(|_| StoreError::Closed)?
    }

    fn get(&self, key: &str) -> Option<Kv> {
        self.snapshot.get(key)
    }

    fn range_from(&self, prefix: &str, start_after: Option<&str>, limit: usize) -> Vec<Kv> {
        self.snapshot.range_from(prefix, start_after, limit)
    }

    fn revision(&self) -> u64 {
        self.revision.load(Ordering::Acquire)
    }

    fn watch(&self, prefix: &str, after_revision: u64) -> Result<Watch, WatchError> {
        self.snapshot.watch(prefix, after_revision)
    }
}
