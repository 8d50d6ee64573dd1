//! Which documents a place has given to whom.
//!
//! What is here is shared by all, but a digest is no secret: it is in task definitions and logs. Before what is here is
//! used for a caller, the source of their reference must have given them the manifest itself, whose digest was computed
//! here. So a registry that merely claims to have an image opens nobody else's.

use std::collections::{HashSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::digest::Digest;

/// Remembered; one that is forgotten is asked for again.
const PROOFS_MAX: usize = 8192;

#[derive(Debug, Default)]
pub(crate) struct Proofs(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    all: HashSet<Digest>,
    /// Oldest first.
    order: VecDeque<Digest>,
}

impl Proofs {
    pub(crate) fn has(&self, proof: &Digest) -> bool {
        self.known().all.contains(proof)
    }

    pub(crate) fn add(&self, proof: Digest) {
        let mut known = self.known();
        if !known.all.insert(proof.clone()) {
            return;
        }
        known.order.push_back(proof);
        if known.order.len() > PROOFS_MAX
            && let Some(oldest) = known.order.pop_front()
        {
            known.all.remove(&oldest);
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_are_forgotten() {
        let proofs = Proofs::default();
        let all: Vec<Digest> = (0..=PROOFS_MAX).map(|n| Digest::of(&n.to_be_bytes())).collect();
        for proof in all.iter().chain(&all[PROOFS_MAX..]) {
            proofs.add(proof.clone());
        }
        assert!(!proofs.has(&all[0]) && all[1..].iter().all(|proof| proofs.has(proof)));
        let known = proofs.known();
        assert_eq!((known.all.len(), known.order.len()), (PROOFS_MAX, PROOFS_MAX));
    }
}
