//! What the requests on a connection and the connection itself tell each other.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

#[derive(Default)]
pub(crate) struct Wire {
    /// Requests whose responses are not over.
    in_flight: AtomicU32,
    /// Grows when a piece of a request's body went on to the target.
    progress: AtomicU64,
}

impl Wire {
    pub(crate) fn begin(&self) {
        self.in_flight.fetch_add(1, Relaxed);
    }

    pub(crate) fn end(&self) {
        self.in_flight.fetch_sub(1, Relaxed);
    }

    pub(crate) fn is_busy(&self) -> bool {
        self.in_flight.load(Relaxed) > 0
    }

    pub(crate) fn body_moved(&self) {
        self.progress.fetch_add(1, Relaxed);
    }

    pub(crate) fn progress(&self) -> u64 {
        self.progress.load(Relaxed)
    }
}
