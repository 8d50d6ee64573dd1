//! Who uses what: pinned digests are never removed.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::digest::Digest;

#[derive(Debug, Default)]
pub(crate) struct Pins(Mutex<HashMap<Digest, usize>>);

impl Pins {
    pub(crate) fn pin(self: &Arc<Self>, digests: Vec<Digest>) -> Pin {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for digest in &digests {
            *counts.entry(digest.clone()).or_insert(0) += 1;
        }
        drop(counts);
        Pin(Arc::new(Guard { pins: Arc::clone(self), digests }))
    }

    pub(crate) fn count(&self, digest: &Digest) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(digest).copied().unwrap_or(0)
    }
}

/// Holds its digests until the last clone is gone.
#[derive(Clone, Debug)]
pub(crate) struct Pin(#[allow(dead_code, reason = "held for its Drop")] Arc<Guard>);

#[derive(Debug)]
struct Guard {
    pins: Arc<Pins>,
    digests: Vec<Digest>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        let mut counts = self.pins.0.lock().unwrap_or_else(PoisonError::into_inner);
        for digest in &self.digests {
            if let Some(count) = counts.get_mut(digest) {
                *count -= 1;
                if *count == 0 {
                    counts.remove(digest);
                }
            }
        }
    }
}
