//! Changes as they are committed.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::broadcast;

use crate::Kv;

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
    #[error("changes after revision {after} are no longer kept; the oldest kept is {oldest}")]
    Compacted { after: u64, oldest: u64 },
    #[error("the store is closed")]
    Closed,
}

/// Every change below a prefix, once and in order.
pub struct Watch {
    prefix: String,
    /// Committed before the watch began.
    backlog: VecDeque<Change>,
    live: broadcast::Receiver<Arc<[Change]>>,
    /// Changes up to here have been given or were in the backlog.
    seen: u64,
}

impl Watch {
    pub(crate) fn new(prefix: &str, backlog: VecDeque<Change>, live: broadcast::Receiver<Arc<[Change]>>, seen: u64) -> Self {
        Self { prefix: prefix.to_owned(), backlog, live, seen }
    }

    /// The next change; waits for it. Cancel-safe.
    pub async fn next(&mut self) -> Result<Change, WatchError> {
        loop {
            if let Some(change) = self.backlog.pop_front() {
                return Ok(change);
            }
            match self.live.recv().await {
                Ok(changes) => self.take(&changes),
                Err(broadcast::error::RecvError::Lagged(_)) => return Err(self.lagged()),
                Err(broadcast::error::RecvError::Closed) => return Err(WatchError::Closed),
            }
        }
    }

    /// The next change if one has been committed already.
    pub fn try_next(&mut self) -> Result<Option<Change>, WatchError> {
        loop {
            if let Some(change) = self.backlog.pop_front() {
                return Ok(Some(change));
            }
            match self.live.try_recv() {
                Ok(changes) => self.take(&changes),
                Err(broadcast::error::TryRecvError::Empty) => return Ok(None),
                Err(broadcast::error::TryRecvError::Lagged(_)) => return Err(self.lagged()),
                Err(broadcast::error::TryRecvError::Closed) => return Err(WatchError::Closed),
            }
        }
    }

    fn take(&mut self, changes: &[Change]) {
        let fresh = changes.iter().filter(|change| change.revision > self.seen && change.key.starts_with(&self.prefix));
        self.backlog.extend(fresh.cloned());
        if let Some(last) = changes.last() {
            self.seen = self.seen.max(last.revision);
        }
    }

    fn lagged(&self) -> WatchError {
        WatchError::Compacted { after: self.seen, oldest: self.seen + 1 }
    }
}
