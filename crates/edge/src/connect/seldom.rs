//! What may happen at every request is said now and then, with how often it was. Pure: the time is given, as in `hosts`.

use std::time::Duration;

/// Between two lines that say the same.
const SILENCE: Duration = Duration::from_secs(30);

#[derive(Debug, Default)]
pub(super) struct Seldom {
    said: Option<Duration>,
    since: u64,
}

impl Seldom {
    /// It happened. How often since it was said last, if it is to be said now.
    pub(super) fn happened(&mut self, now: Duration) -> Option<u64> {
        self.since += 1;
        self.due(now)
    }

    /// What was kept back, when it has been long enough.
    pub(super) fn due(&mut self, now: Duration) -> Option<u64> {
        let silent = self.said.is_some_and(|said| now.saturating_sub(said) < SILENCE);
        if silent || self.since == 0 {
            return None;
        }
        self.said = Some(now);
        Some(std::mem::take(&mut self.since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_time_at_once_and_then_by_number() {
        let at = Duration::from_secs;
        let mut seldom = Seldom::default();
        assert_eq!(seldom.due(at(0)), None);
        assert_eq!(seldom.happened(at(1)), Some(1));
        assert_eq!(seldom.happened(at(2)), None);
        assert_eq!(seldom.happened(at(30)), None);
        assert_eq!(seldom.due(at(31)), Some(2));
        assert_eq!(seldom.due(at(99)), None);
        assert_eq!(seldom.happened(at(99)), Some(1));
    }
}
