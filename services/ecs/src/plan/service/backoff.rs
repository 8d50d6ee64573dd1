//! How long to wait before starting tasks again after starts that failed. A round is what was started together; a task
//! that comes to RUNNING ends the waiting, and so does a new deployment, which has its own count.

use jiff::{SignedDuration, Timestamp};

use super::health::after;
use super::{Launches, Task};

/// Rounds that may fail before the next one has to wait.
const FREE_ROUNDS: u32 = 2;
const AFTER_REFUSAL: SignedDuration = SignedDuration::from_secs(5);
const FIRST_GAP: SignedDuration = SignedDuration::from_secs(10);
const LONGEST_GAP: SignedDuration = SignedDuration::from_mins(15);

/// A task that never came to RUNNING has ended; `true`: it is the first of its round.
pub(super) fn failed(launches: &mut Launches, task: &Task, now: Timestamp) -> bool {
    let first = launches.failed_at.is_none_or(|failed_at| task.created_at >= failed_at);
    if first {
        launches.failed_rounds = launches.failed_rounds.saturating_add(1);
        launches.failed_at = Some(now);
        launches.refused = false;
    }
    first
}

/// Tasks could not even be made: a round of its own.
pub(crate) fn refused(launches: &Launches, now: Timestamp) -> Launches {
    Launches { failed_rounds: launches.failed_rounds.saturating_add(1), failed_at: Some(now), refused: true }
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

/// Not before then. What was refused is at once refused again, so that it waits from the beginning.
pub(super) fn next_start(launches: &Launches) -> Option<Timestamp> {
    let failed_at = launches.failed_at?;
    let gap = match launches.failed_rounds.checked_sub(FREE_ROUNDS + 1) {
        Some(doublings) => SignedDuration::from_secs(FIRST_GAP.as_secs() << doublings.min(16)),
        None if launches.refused => AFTER_REFUSAL,
        None => return None,
    };
    Some(after(failed_at, gap.min(LONGEST_GAP)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gap(failed_rounds: u32) -> Option<i64> {
        let failed_at = Timestamp::from_second(1_800_000_000).unwrap();
        let launches = Launches { failed_rounds, failed_at: Some(failed_at), refused: false };
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

    #[test]
    fn what_was_refused_waits_from_the_beginning() {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let mut launches = Launches::default();
        let gaps: Vec<i64> = std::iter::repeat_with(|| {
            launches = refused(&launches, now);
            next_start(&launches).unwrap().duration_since(now).as_secs()
        })
        .take(5)
        .collect();
        assert_eq!(gaps, [5, 5, 10, 20, 40]);
    }
}
