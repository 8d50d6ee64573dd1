//! The guest's clock goes by the host's. A guest does not see its host sleep, nor that its clock is set, and one that is
//! emulated runs at a rate that was measured in a moment. So it is told the time: at once when the host's clock jumps, and
//! now and then; it sets its own when that is off by more than a little.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

/// Between two times that the guest is told the time.
const INTERVAL: Duration = Duration::from_secs(60);
/// The timer itself never comes: the year 2200, which every kernel can say.
const NEVER_SECONDS: i64 = 7_258_118_400;

pub(super) struct Clock {
    /// Ready when the host's clock was set, as it is after a sleep.
    jumps: OwnedFd,
    told: Instant,
    interval: Duration,
}

impl Clock {
    pub(super) fn new() -> io::Result<Clock> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let jumps = timerfd_create(TimerfdClockId::Realtime, flags)?;
        let clock = Clock { jumps, told: Instant::now(), interval: INTERVAL };
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
        self.interval.saturating_sub(self.told.elapsed())
    }

    pub(super) fn told(&mut self) {
        self.told = Instant::now();
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
        let mut clock = Clock::new().unwrap();
        assert!(!clock.has_jumped() && !clock.left().is_zero());
        clock.is_due_now();
        assert!(clock.left().is_zero());
    }
}
