//! What the guard of a connection and the requests on it tell each other.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use super::head::{Fault, Verdict};

/// A head that passed the guard, or the fault of one that did not; in the order of the requests.
pub(crate) struct Arrival {
    pub(crate) verdict: Verdict,
    pub(crate) fault: Option<Fault>,
    pub(crate) head_bytes: u64,
    /// The first byte of the head.
    pub(crate) began: Instant,
}

#[derive(Default)]
pub(crate) struct Wire {
    arrivals: Mutex<VecDeque<Arrival>>,
    /// Requests whose responses are not over.
    in_flight: AtomicU32,
    upgrade: AtomicU8,
    /// Grows when a piece of a request's body went on to the target.
    progress: AtomicU64,
}

/// Whether the request that asked for another protocol got it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Upgrade {
    Undecided,
    Accepted,
    Refused,
}

impl Wire {
    pub(crate) fn arrived(&self, arrival: Arrival) {
        self.begin();
        self.arrivals.lock().unwrap_or_else(PoisonError::into_inner).push_back(arrival);
    }

    /// `None` on HTTP/2: its frames need no guard.
    pub(crate) fn take_arrival(&self) -> Option<Arrival> {
        self.arrivals.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    pub(crate) fn begin(&self) {
        self.in_flight.fetch_add(1, Relaxed);
    }

    pub(crate) fn end(&self) {
        self.in_flight.fetch_sub(1, Relaxed);
    }

    pub(crate) fn is_busy(&self) -> bool {
        self.in_flight.load(Relaxed) > 0
    }

    pub(crate) fn upgrade_asked(&self) {
        self.upgrade.store(0, Relaxed);
    }

    pub(crate) fn decide_upgrade(&self, accepted: bool) {
        self.upgrade.store(if accepted { 1 } else { 2 }, Relaxed);
    }

    pub(crate) fn upgrade(&self) -> Upgrade {
        match self.upgrade.load(Relaxed) {
            0 => Upgrade::Undecided,
            1 => Upgrade::Accepted,
            _ => Upgrade::Refused,
        }
    }

    pub(crate) fn body_moved(&self) {
        self.progress.fetch_add(1, Relaxed);
    }

    pub(crate) fn progress(&self) -> u64 {
        self.progress.load(Relaxed)
    }
}
