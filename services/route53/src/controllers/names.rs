//! Keeps the published names beside the records: observe (watch), plan (pure), publish. It writes nothing.

use std::sync::Arc;

use ferrogate_nodeapi::Names;
use ferrogate_store::{Change, Store, Watch, WatchError};
use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::plan::names::NamesIndex;
use crate::state::PREFIX;

/// Changes taken into one value: a burst costs one, and still none waits long.
const CHANGES_PER_PLAN_MAX: usize = 1024;

pub(crate) struct NamesController {
    published: watch::Receiver<Arc<Names>>,
    task: AbortHandle,
}

impl NamesController {
    pub(crate) fn start(store: Arc<dyn Store>) -> Self {
        let (index, revision) = load(&*store);
        let (publisher, published) = watch::channel(Arc::new(index.plan(revision)));
        let task = tokio::spawn(run(store, index, revision, publisher)).abort_handle();
        Self { published, task }
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<Arc<Names>> {
        self.published.clone()
    }

    /// The revision that resolvers have.
    pub(crate) fn revision(&self) -> u64 {
        self.published.borrow().revision
    }
}

impl Drop for NamesController {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// All records; changes after the revision come by the watch (some of them for the second time, to no harm).
fn load(store: &dyn Store) -> (NamesIndex, u64) {
    let revision = store.revision();
    let mut index = NamesIndex::default();
    for kv in store.range(PREFIX) {
        put(&mut index, &kv.key, &kv.value);
    }
    (index, revision)
}

fn put(index: &mut NamesIndex, key: &str, value: &[u8]) {
    // What was known of it stays.
    if let Err(error) = index.put(key, value) {
        tracing::error!(%error, key, "a record cannot be read");
    }
}

async fn run(
    store: Arc<dyn Store>,
    mut index: NamesIndex,
    mut revision: u64,
    publisher: watch::Sender<Arc<Names>>,
) {
    loop {
        let ended = match store.watch(PREFIX, revision) {
            Ok(mut changes) => follow(&mut changes, &mut index, &mut revision, &publisher).await,
            Err(error) => error,
        };
        match ended {
            WatchError::Closed => return,
            WatchError::Compacted { .. } => {
                tracing::warn!(revision, "the names' watch fell behind; reading all records again");
                (index, revision) = load(&*store);
                publisher.send_replace(Arc::new(index.plan(revision)));
            }
        }
    }
}

async fn follow(
    changes: &mut Watch,
    index: &mut NamesIndex,
    revision: &mut u64,
    publisher: &watch::Sender<Arc<Names>>,
) -> WatchError {
    let mut held_back: Option<Change> = None;
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
                // A value never shows half of a revision.
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

/// Whether the names may be others now.
fn apply(index: &mut NamesIndex, revision: &mut u64, change: &Change) -> bool {
    *revision = change.revision;
    if !NamesIndex::concerns(&change.key) {
        return false;
    }
    match &change.kv {
        Some(kv) => put(index, &change.key, &kv.value),
        None => index.delete(&change.key),
    }
    true
}
