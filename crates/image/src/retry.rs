//! Trying again, a bounded number of times and for a bounded while.

use std::time::Duration;

use crate::config::Retry;
use crate::error::{Cause, CauseKind};
use crate::flights::Failure;

/// Downloads of wrong bytes in a row before they are believed to be what the registry has.
const CORRUPT_ATTEMPTS_MAX: u32 = 2;

/// Counts attempts at one thing.
pub(crate) struct Attempts {
    pub(crate) retry: Retry,
    pub(crate) made: u32,
    corrupt: u32,
}

impl Attempts {
    pub(crate) fn new(retry: Retry) -> Self {
        Attempts { retry, made: 0, corrupt: 0 }
    }

    /// Something was won: what comes now is a new try.
    pub(crate) fn progress(&mut self) {
        self.made = 0;
    }

    /// Waits before the next attempt, or says that there is none.
    pub(crate) async fn failed(&mut self, cause: Cause) -> Result<(), Failure> {
        self.made += 1;
        self.corrupt += u32::from(cause.kind == CauseKind::Corrupt);
        let over = self.made >= self.retry.attempts_max.max(1) || self.corrupt >= CORRUPT_ATTEMPTS_MAX;
        if over || !cause.kind.may_pass() {
            return Err(Failure { attempts: self.made, cause });
        }
        tracing::debug!(attempt = self.made, cause = %cause, "trying again");
        tokio::time::sleep(self.delay()).await;
        Ok(())
    }

    fn delay(&self) -> Duration {
        self.retry.delay.saturating_mul(1 << (self.made - 1).min(16)).min(self.retry.delay_max)
    }
}
