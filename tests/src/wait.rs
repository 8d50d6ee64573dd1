//! Waiting with an end.

use std::time::{Duration, Instant};

use crate::isolation::machines_wanted;

/// No step of a test takes longer on any machine that is not broken.
const DEADLINE: Duration = Duration::from_secs(90);
/// … where what tasks do is done by an emulated processor, or all of it is (tests/host/run).
const DEADLINE_EMULATED: Duration = Duration::from_secs(240);
const LOOK_PERIOD: Duration = Duration::from_millis(30);

/// Looks until there is something to see.
///
/// # Panics
/// When there is nothing for longer than any step takes.
pub fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let emulated = machines_wanted() || std::env::var_os("FERROGATE_TEST_EMULATED").is_some();
    let deadline = if emulated { DEADLINE_EMULATED } else { DEADLINE };
    let end = Instant::now() + deadline;
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(Instant::now() < end, "did not happen within {} s: {what}", deadline.as_secs());
        std::thread::sleep(LOOK_PERIOD);
    }
}

/// Looks until it is so.
///
/// # Panics
/// As [`until`].
pub fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    until(what, || is_so().then_some(()));
}
