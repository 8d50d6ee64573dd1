//! Waiting with an end.

use std::time::{Duration, Instant};

/// No step of a test takes longer on any machine that is not broken.
pub const DEADLINE: Duration = Duration::from_secs(90);
const LOOK_PERIOD: Duration = Duration::from_millis(30);

/// Looks until there is something to see.
///
/// # Panics
/// When [`DEADLINE`] has passed.
pub fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + DEADLINE;
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(Instant::now() < end, "did not happen within {} s: {what}", DEADLINE.as_secs());
        std::thread::sleep(LOOK_PERIOD);
    }
}

/// Looks until it is so.
///
/// # Panics
/// When [`DEADLINE`] has passed.
pub fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    until(what, || is_so().then_some(()));
}
