//! How long to wait before starting tasks again after starts that failed. A round is what was started together; a task
//! that comes to RUNNING ends the waiting, and so does a new deployment, which has its own count.

use jiff::{SignedDuration, Timestamp};

use super::health::after;
use super::{Launches, Task};

/// Rounds that may fail before the next one has to wait.
const FREE_ROUNDS: u32 = 2;
const FIRST_GAP: SignedDuration = SignedDuration::from_secs(10);
const LONGEST_GAP: SignedDuration = SignedDuration::from_mins(15);

/// A task that never came to RUNNING has ended; `true`: it is the first of its round.
pub(super) fn failed(launches: &mut Launches, task: &Task, now: Timestamp) -> bool {
    let first = launches.failed_at.is_none_or(|failed_at| task.created_at >= failed_at);
    if first {
        launches.failed_rounds = launches.failed_rounds.saturating_add(1);
        launches.failed_at = Some(now);
    }
    first
}

/// A task is RUNNING since `started_at`.
pub(super) fn started(launches: &mut Launches, started_at: Timestamp) {
    if launches.failed_at.is_some_and(|failed_at| started_at >= failed_at) {
        *launches = Launches::default();
    }
}

/// Whether the last failure made the next start wait.
pub(super) fn delays(launches: &Launches) -> bool {
    launches.failed_rounds > FREE_ROUNDS
}

/// Not before then.
pub(super) fn next_start(launches: &Launches) -> Option<Timestamp> {
    let failed_at = launches.failed_at.filter(|_| delays(launches))?;
    let doublings = (launches.failed_rounds - FREE_ROUNDS - 1).min(16);
    let gap = SignedDuration::from_secs(FIRST_GAP.as_secs() << doublings);
    Some(after(failed_at, gap.min(LONGEST_GAP)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gap(failed_rounds: u32) -> Option<i64> {
        let failed_at = Timestamp::from_second(1_800_000_000).unwrap();
        let launches = Launches { failed_rounds, failed_at: Some(failed_at) };
        next_start(&launches).map(|at| at.duration_since(failed_at).as_secs())
    }

    #[test]
    fn the_gap_grows_to_a_quarter_of_an_hour() {
        let gaps: Vec<Option<i64>> = (0..=10).map(gap).collect();
        let expected =
            [0, 0, 0, 10, 20, 40, 80, 160, 320, 640, 900].map(|gap| Some(gap).filter(|&gap| gap > 0));
        assert_eq!(gaps, expected);
        assert_eq!(gap(u32::MAX), Some(900));
    }
}
