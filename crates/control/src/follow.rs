//! Keeps something derived from records current: read all, then follow the store's watch.
//!
//! ```text
//!  start ─► read all ─► publish ─► watch ─┬─► a burst of changes ─► publish ─┐
//!              ▲                          │◄──────────────────────────────────┘
//!              └── the watch fell behind ─┘
//! ```

use std::sync::Arc;

use ferrogate_store::{Change, Store, Watch, WatchError};
use tokio::task::AbortHandle;

/// Changes taken into one value: a burst costs one, and still none waits long. More only to finish a revision.
pub const CHANGES_PER_PUBLISH_MAX: usize = 1024;

/// What is derived from records. It reads and writes no store.
pub trait View: Send + 'static {
    /// Whether the value depends on the record of this key; no other is put or deleted.
    fn concerns(&self, key: &str) -> bool;

    /// All records are read again: what is not put from now on is not there.
    fn clear(&mut self);

    /// Also of a record that is known, and then maybe the same again.
    ///
    /// # Errors
    /// The record cannot be read, which is logged; what was known of it stays.
    fn put(&mut self, key: &str, value: &[u8]) -> Result<(), serde_json::Error>;

    /// Also of a record that was never put, or could not be read.
    fn delete(&mut self, key: &str);

    /// The records are whole as of `revision`, and are not those that they were.
    fn publish(&mut self, revision: u64);
}

/// Keeps a [`View`] current until it is dropped, or the store is closed.
#[derive(Debug)]
pub struct Follower {
    task: AbortHandle,
}

impl Follower {
    /// Reads all records below `prefix` and publishes them before it returns; then follows their changes. `what` is
    /// kept current, in the words of a log line: `the fabric`.
    ///
    /// # Panics
    /// Outside of a Tokio runtime.
    pub fn start(store: Arc<dyn Store>, prefix: &'static str, what: &'static str, view: impl View) -> Self {
        let mut run = Run { store, prefix, what, view, revision: 0 };
        run.read_all();
        Self { task: tokio::spawn(run.run()).abort_handle() }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Run<V> {
    store: Arc<dyn Store>,
    prefix: &'static str,
    what: &'static str,
    view: V,
    /// The view is as of here.
    revision: u64,
}

impl<V: View> Run<V> {
    fn read_all(&mut self) {
        let listing = self.store.range(self.prefix);
        self.view.clear();
        for kv in &listing {
            if self.view.concerns(&kv.key) {
                self.put(&kv.key, &kv.value);
            }
        }
        self.revision = listing.revision;
        self.view.publish(self.revision);
    }

    fn put(&mut self, key: &str, value: &[u8]) {
        if let Err(error) = self.view.put(key, value) {
            tracing::error!(what = self.what, key, %error, "a record cannot be read");
        }
    }

    async fn run(mut self) {
        loop {
            let ended = match self.store.watch(self.prefix, self.revision) {
                Ok(watch) => self.follow(watch).await,
                Err(error) => error,
            };
            match ended {
                WatchError::Closed => return,
                WatchError::Compacted { .. } => {
                    tracing::warn!(
                        what = self.what,
                        self.revision,
                        "the watch fell behind; reading all records again"
                    );
                    self.read_all();
                }
            }
        }
    }

    async fn follow(&mut self, mut watch: Watch) -> WatchError {
        let mut held_back = None;
        loop {
            let first = match held_back.take() {
                Some(change) => Ok(change),
                None => watch.next().await,
            };
            let mut concerned = match first {
                Ok(change) => self.apply(&change),
                Err(error) => return error,
            };
            let mut taken = 1;
            let failed = loop {
                match watch.try_next() {
                    // Half of a revision is never published.
                    Ok(Some(change))
                        if taken >= CHANGES_PER_PUBLISH_MAX && change.revision != self.revision =>
                    {
                        held_back = Some(change);
                        break None;
                    }
                    Ok(Some(change)) => concerned |= self.apply(&change),
                    Ok(None) => break None,
                    Err(error) => break Some(error),
                }
                taken += 1;
            };
            if concerned {
                self.view.publish(self.revision);
            }
            if let Some(error) = failed {
                return error;
            }
            // A watch that always has a change waits for nothing: the others get their turn.
            if held_back.is_some() {
                tokio::task::yield_now().await;
            }
        }
    }

    /// Whether the value may be another one now.
    fn apply(&mut self, change: &Change) -> bool {
        self.revision = change.revision;
        if !self.view.concerns(&change.key) {
            return false;
        }
        match &change.kv {
            Some(kv) => self.put(&change.key, &kv.value),
            None => self.view.delete(&change.key),
        }
        true
    }
}
