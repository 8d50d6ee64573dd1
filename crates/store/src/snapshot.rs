//! The snapshot that all reads come from. Its lock is held for memory operations only, never for a disk's.

use std::sync::{Arc, PoisonError, RwLock};

use tokio::sync::watch;

use crate::state::State;
use crate::{Change, Kv, Listing, Watch, WatchError};

pub(crate) struct Snapshot {
    state: Arc<RwLock<State>>,
    /// The newest revision: what watchers wait for. Gone with the store, which ends their waiting.
    newest: watch::Sender<u64>,
}

impl Snapshot {
    pub(crate) fn new(state: State) -> Self {
        let newest = watch::Sender::new(state.revision);
        Self { state: Arc::new(RwLock::new(state)), newest }
    }

    pub(crate) fn read<R>(&self, read: impl FnOnce(&State) -> R) -> R {
        read(&self.state.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Makes committed changes visible, then wakes the watchers.
    pub(crate) fn publish(&self, changes: Vec<Change>) {
        let Some(revision) = changes.last().map(|change| change.revision) else { return };
        self.state.write().unwrap_or_else(PoisonError::into_inner).apply(changes);
        self.newest.send_replace(revision);
    }

    pub(crate) fn get(&self, key: &str) -> Option<Kv> {
        self.read(|state| state.keys.get(key).cloned())
    }

    pub(crate) fn range(&self, prefix: &str, start_after: Option<&str>, limit: usize) -> Listing {
        self.read(|state| state.range(prefix, start_after, limit))
    }

    pub(crate) fn revision(&self) -> u64 {
        self.read(|state| state.revision)
    }

    pub(crate) fn watch(&self, prefix: &str, after: u64) -> Result<Watch, WatchError> {
        self.read(|state| match state.log_after {
            oldest if after < oldest => Err(WatchError::Compacted { after, oldest: oldest + 1 }),
            _ => Ok(()),
        })?;
        Ok(Watch::new(prefix, Arc::clone(&self.state), self.newest.subscribe(), after))
    }
}
