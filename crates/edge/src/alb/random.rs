//! Random numbers for choices and trace ids: fast, of each thread its own; never for a secret.

use std::cell::Cell;
use std::hash::{BuildHasher, RandomState};

thread_local! {
    // The hasher's keys are random; zero is the one state that this generator must not have.
    static STATE: Cell<u64> = Cell::new(RandomState::new().hash_one(0x9e37_79b9_u64) | 1);
}

pub(crate) fn next() -> u64 {
    STATE.with(|state| {
        let mut x = state.get();
        x ^= x >> 12;
        x ^= x << 25;
        x ^= x >> 27;
        state.set(x);
        x.wrapping_mul(0x2545_f491_4f6c_dd1d)
    })
}

/// Even over `0..limit`, but for what 64 bits cannot show; 0 when the limit is 0.
pub(crate) fn below(limit: u64) -> u64 {
    ((u128::from(next()) * u128::from(limit)) >> 64) as u64
}
