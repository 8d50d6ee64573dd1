//! Keeps the fabric's plan beside the records: observe (watch), plan (pure), publish. It writes nothing.

use std::sync::Arc;

use ferrogate_nodeapi::Fabric;
use ferrogate_store::{Change, Store, Watch, WatchError};
use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::plan::fabric::{FabricIndex, FabricRecord};
use crate::state::PREFIX;

/// Changes taken into one plan: a burst costs one, and still none waits long.
const CHANGES_PER_PLAN_MAX: usize = 1024;

pub(crate) struct FabricController {
    published: watch::Receiver<Arc<Fabric>>,
    task: AbortHandle,
}

impl FabricController {
    pub(crate) fn start(store: Arc<dyn Store>) -> Self {
        let (index, revision) = load(&*store);
        let (publisher, published) = watch::channel(Arc::new(index.plan(revision)));
        let task = tokio::spawn(run(store, index, revision, publisher)).abort_handle();
        Self { published, task }
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<Arc<Fabric>> {
        self.published.clone()
    }
}

impl Drop for FabricController {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// All records; changes after the revision come by the watch (some of them for the second time, to no harm).
fn load(store: &dyn Store) -> (FabricIndex, u64) {
    let revision = store.revision();
    let mut index = FabricIndex::default();
    for kv in store.range(PREFIX) {
        put(&mut index, &kv.key, &kv.value);
    }
    (index, revision)
}

fn put(index: &mut FabricIndex, key: &str, value: &[u8]) {
    match FabricRecord::parse(key, value) {
        Ok(Some(record)) => index.put(key, record),
        Ok(None) => {}
        // What was known of it stays: a network that works is better than none.
        Err(error) => tracing::error!(%error, key, "a record cannot be read"),
    }
}

async fn run(
    store: Arc<dyn Store>,
    mut index: FabricIndex,
    mut revision: u64,
    publisher: watch::Sender<Arc<Fabric>>,
) {
    loop {
        let mut changes = match store.watch(PREFIX, revision) {
            Ok(changes) => changes,
            Err(WatchError::Closed) => return,
            Err(WatchError::Compacted { .. }) => {
                (index, revision) = load(&*store);
                publisher.send_replace(Arc::new(index.plan(revision)));
                continue;
            }
        };
        match follow(&mut changes, &mut index, &mut revision, &publisher).await {
            WatchError::Closed => return,
            WatchError::Compacted { .. } => {
                tracing::warn!(revision, "the fabric's watch fell behind; reading all records again");
                (index, revision) = load(&*store);
                publisher.send_replace(Arc::new(index.plan(revision)));
            }
        }
    }
}

async fn follow(
    changes: &mut Watch,
    index: &mut FabricIndex,
    revision: &mut u64,
    publisher: &watch::Sender<Arc<Fabric>>,
) -> WatchError {
    let mut held_back = None;
    loop {
        let first = match held_back.take() {
            Some(change) => change,
            None => match changes.next().await {
                Ok(change) => change,
                Err(error) => return error,
            },
        };
        let mut concerned = apply(index, revision, &first);
        let mut taken = 1;
        let failed = loop {
            match changes.try_next() {
                // A plan never shows half of a revision.
                Ok(Some(change)) if taken >= CHANGES_PER_PLAN_MAX && change.revision != *revision => {
                    held_back = Some(change);
                    break None;
                }
                Ok(Some(change)) => concerned |= apply(index, revision, &change),
                Ok(None) => break None,
                Err(error) => break Some(error),
            }
            taken += 1;
        };
        if concerned {
            publisher.send_replace(Arc::new(index.plan(*revision)));
        }
        if let Some(error) = failed {
            return error;
        }
    }
}

/// Whether the plan may be another one now.
fn apply(index: &mut FabricIndex, revision: &mut u64, change: &Change) -> bool {
    *revision = change.revision;
    if !FabricIndex::concerns(&change.key) {
        return false;
    }
    match &change.kv {
        Some(kv) => put(index, &change.key, &kv.value),
        None => index.delete(&change.key),
    }
    true
}
