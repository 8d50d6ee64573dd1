//! Changes as they are committed.
//!
//! A watch keeps a place in the store's log and nothing of its own but the few changes it read last: however many
//! watchers there are and however slow, memory is bounded by the log. One that falls behind the log's beginning is
//! told so.

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError, RwLock};

use tokio::sync::watch;

use crate::Kv;
use crate::state::State;

/// Changes read from the log at once; more only to finish a revision.
const READ_AHEAD: usize = 64;

/// One key's change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub revision: u64,
    pub key: Arc<str>,
    /// `None`: deleted.
    pub kv: Option<Kv>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WatchError {
    /// The log no longer reaches back so far, or the watcher was too slow: range again and watch from there.
    #[error("changes after revision {after} are no longer kept; the oldest kept is {oldest}: range again")]
    Compacted { after: u64, oldest: u64 },
    #[error("the store is closed")]
    Closed,
}

/// Every change below a prefix, once and in order.
pub struct Watch {
    prefix: String,
    state: Arc<RwLock<State>>,
    newest: watch::Receiver<u64>,
    /// Read from the log and not given yet.
    ahead: VecDeque<Change>,
    /// The log is read up to here.
    seen: u64,
}

impl Watch {
    pub(crate) fn new(
        prefix: &str,
        state: Arc<RwLock<State>>,
        newest: watch::Receiver<u64>,
        after: u64,
    ) -> Self {
        Self { prefix: prefix.to_owned(), state, newest, ahead: VecDeque::new(), seen: after }
    }

    /// The next change; waits for it. Cancel-safe.
    pub async fn next(&mut self) -> Result<Change, WatchError> {
        loop {
            if let Some(change) = self.try_next()? {
                return Ok(change);
            }
            self.newest.changed().await.map_err(|_| WatchError::Closed)?;
        }
    }

    /// The next change if one has been committed already.
    pub fn try_next(&mut self) -> Result<Option<Change>, WatchError> {
        if self.ahead.is_empty() {
            let closed = self.newest.has_changed().is_err();
            // Before the log is read: what comes after is announced again.
            self.newest.mark_unchanged();
            self.read_ahead()?;
            if closed && self.ahead.is_empty() {
                return Err(WatchError::Closed);
            }
        }
        Ok(self.ahead.pop_front())
    }

    fn read_ahead(&mut self) -> Result<(), WatchError> {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        if self.seen < state.log_after {
            return Err(WatchError::Compacted { after: self.seen, oldest: state.log_after + 1 });
        }
        let first = state.log.partition_point(|change| change.revision <= self.seen);
        for change in state.log.range(first..) {
            if self.ahead.len() >= READ_AHEAD && change.revision != self.seen {
                return Ok(());
            }
            self.seen = change.revision;
            if change.key.starts_with(&self.prefix) {
                self.ahead.push_back(change.clone());
            }
        }
        self.seen = self.seen.max(state.revision);
        Ok(())
    }
}
