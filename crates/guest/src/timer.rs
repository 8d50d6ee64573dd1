//! Whether this kernel's timer keeps time. Where the timer's rate was measured against the clock counter, by a processor that
//! stood still in that moment, all that waits waits too long, by the same factor for ever; and so would every guest that
//! begins from a snapshot of this one. The counter's own rate is the host's word: the clock that is read by it shows it.

use std::time::{Duration, Instant};

/// How long is slept, and how often at most. On a busy host a sleep ends late too, but not each of them, nor by a factor.
const SLEEPS: [(Duration, u32); 2] = [(Duration::from_millis(5), 10), (Duration::from_millis(100), 5)];
/// One sleep of no more than as many times its length, and the timer is right.
const FACTOR_MAX: u32 = 3;

pub(crate) fn check() -> Result<(), String> {
    judge(|length| {
        let began = Instant::now();
        std::thread::sleep(length);
        began.elapsed()
    })
}

/// `sleep` says how long it took.
fn judge(mut sleep: impl FnMut(Duration) -> Duration) -> Result<(), String> {
    let mut late = Vec::new();
    for (length, times) in SLEEPS {
        let mut shortest = Duration::MAX;
        for _ in 0..times {
            shortest = shortest.min(sleep(length));
            if shortest <= length * FACTOR_MAX {
                return Ok(());
            }
        }
        late.push(format!("{} ms took {} ms", length.as_millis(), shortest.as_millis()));
    }
    Err(format!("the kernel's timer is late: {} or more", late.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timer_that_is_right_is_asked_once() {
        let mut asked = Vec::new();
        let judged = judge(|length| {
            asked.push(length);
            length + Duration::from_millis(2)
        });
        assert_eq!((judged, asked), (Ok(()), vec![SLEEPS[0].0]));
    }

    #[test]
    fn a_busy_host_is_no_late_timer() {
        // Whatever comes between a timer and its reader is beside it.
        let mut slept = 0;
        let judged = judge(|length| {
            slept += 1;
            length + Duration::from_millis(if slept % 4 == 0 { 9 } else { 400 })
        });
        assert_eq!((judged, slept), (Ok(()), 4));
        assert_eq!(judge(|length| length + Duration::from_millis(150)), Ok(()));
    }

    #[test]
    fn a_timer_that_is_late_by_a_factor_is_found() {
        for factor in [4, 10, 1000] {
            let why = judge(|length| length * factor).unwrap_err();
            assert!(why.contains(&format!("5 ms took {} ms, 100 ms took", 5 * factor)), "{why}");
        }
    }
}
