//! The guest's clock goes by the host's. A guest does not see its host sleep, nor that its clock is set, and one that is
//! emulated runs at a rate that was measured in a moment. So it is told the time: at once when the host's clock jumps, and
//! now and then; it sets its own when that is off by more than a little, and says that it heard it: so a guest that stands still is
//! noticed while nobody wants anything of it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

/// As many intervals without an answer, after the one in which it was asked, and a guest is one that stands still.
const SILENT_MAX: u32 = 3;
/// The timer itself never comes: the year 2200, which every kernel can say.
const NEVER_SECONDS: i64 = 7_258_118_400;

pub(super) struct Clock {
    /// Ready when the host's clock was set, as it is after a sleep.
    jumps: OwnedFd,
    /// When the guest was last due to be told.
    due: Instant,
    interval: Duration,
    /// Times that were told and not answered.
    unanswered: u32,
    /// Intervals that passed without an answer.
    silent: u32,
}

impl Clock {
    pub(super) fn new(interval: Duration) -> io::Result<Clock> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let jumps = timerfd_create(TimerfdClockId::Realtime, flags)?;
        let clock = Clock { jumps, due: Instant::now(), interval, unanswered: 0, silent: 0 };
        clock.arm()?;
        Ok(clock)
    }

    fn arm(&self) -> io::Result<()> {
        let never = Timespec { tv_sec: NEVER_SECONDS, tv_nsec: 0 };
        let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: never };
        let flags = TimerfdTimerFlags::ABSTIME | TimerfdTimerFlags::CANCEL_ON_SET;
        timerfd_settime(&self.jumps, flags, &once)?;
        Ok(())
    }

    /// Ready when it may have jumped.
    pub(super) fn source(&self) -> BorrowedFd<'_> {
        self.jumps.as_fd()
    }

    pub(super) fn has_jumped(&self) -> bool {
        let mut count = [0; 8];
        match rustix::io::read(&self.jumps, &mut count) {
            // It stands as it was: what was set again was not the timer.
            Err(Errno::CANCELED) => true,
            Err(_) => false,
            Ok(_) => self.arm().is_ok(),
        }
    }

    /// Until the guest is to be told again.
    pub(super) fn left(&self) -> Duration {
        self.interval.saturating_sub(self.due.elapsed())
    }

    /// Another interval is over: whether the guest stands still. Intervals count, and not the time since it was heard: of a
    /// shim that stood still with its guest only one has passed.
    pub(super) fn is_silent_again(&mut self) -> bool {
        self.due = Instant::now();
        self.silent = if self.unanswered == 0 { 0 } else { self.silent + 1 };
        self.silent >= SILENT_MAX
    }

    /// How long that is.
    pub(super) fn silence(&self) -> Duration {
        self.interval * SILENT_MAX
    }

    pub(super) fn told(&mut self) {
        self.unanswered = self.unanswered.saturating_add(1);
    }

    /// Whether there was something to answer.
    pub(super) fn answered(&mut self) -> bool {
        self.silent = 0;
        let left = self.unanswered.checked_sub(1);
        self.unanswered = left.unwrap_or(0);
        left.is_some()
    }

    #[cfg(test)]
    pub(super) fn is_due_now(&mut self) {
        self.interval = Duration::ZERO;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_nobody_sets_does_not_jump() {
        let mut clock = Clock::new(Duration::from_secs(60)).unwrap();
        assert!(!clock.has_jumped() && !clock.left().is_zero());
        clock.is_due_now();
        assert!(clock.left().is_zero());
    }

    #[test]
    fn a_guest_is_silent_when_it_left_several_times_unanswered() {
        let mut clock = Clock::new(Duration::from_secs(60)).unwrap();
        // Nothing was asked.
        assert!((0..9).all(|_| !clock.is_silent_again()));
        for _ in 0..9 {
            // Set twice by the host between two that are due: still one answer shows that it lives.
            (0..3).for_each(|_| clock.told());
            assert!((1..SILENT_MAX).all(|_| !clock.is_silent_again()));
            assert!(clock.answered());
        }
        assert!((1..SILENT_MAX).all(|_| !clock.is_silent_again()) && clock.is_silent_again());
        while clock.answered() {}
        assert!(!clock.is_silent_again() && !clock.answered());
    }
}
