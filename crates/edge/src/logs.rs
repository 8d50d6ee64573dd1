//! Log lines on their way out: bounded, and never in the way of a request.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;

/// Lines that wait for the node. When it does not take them, the newest are dropped and counted.
const LOG_LINES_WAITING_MAX: usize = 50_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogKind {
    /// One line a request.
    Access,
    /// One line a TLS handshake or connection.
    Connection,
}

#[derive(Default)]
struct Waiting {
    access: Vec<String>,
    connection: Vec<String>,
}

/// Lines of the access and the connection log that wait to be taken.
#[derive(Default)]
pub struct AccessLog {
    waiting: Mutex<Waiting>,
    dropped: AtomicU64,
    arrived: Notify,
}

impl AccessLog {
    pub fn push(&self, kind: LogKind, line: String) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let lines = match kind {
            LogKind::Access => &mut waiting.access,
            LogKind::Connection => &mut waiting.connection,
        };
        if lines.len() >= LOG_LINES_WAITING_MAX {
            self.dropped.fetch_add(1, Relaxed);
            return;
        }
        lines.push(line);
        let first = lines.len() == 1;
        drop(waiting);
        if first {
            self.arrived.notify_one();
        }
    }

    /// All lines that wait, the oldest first.
    pub fn take(&self, kind: LogKind) -> Vec<String> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        match kind {
            LogKind::Access => std::mem::take(&mut waiting.access),
            LogKind::Connection => std::mem::take(&mut waiting.connection),
        }
    }

    /// Returns when a line has come since the last take.
    pub async fn arrived(&self) {
        self.arrived.notified().await;
    }

    /// Lines that found no room since the last call.
    pub fn take_dropped(&self) -> u64 {
        self.dropped.swap(0, Relaxed)
    }
}
