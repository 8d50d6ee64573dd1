//! What the kernel says of its clock.

/// `adjtimex`'s answer where nothing keeps the clock right.
const TIME_ERROR: libc::c_int = 5;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostClock {
    /// Something (NTP, PTP) keeps it right.
    pub synchronized: bool,
    /// It is at most so far off.
    pub error_bound_us: u64,
}

/// `None` where the kernel does not say.
pub fn host_clock() -> Option<HostClock> {
    // SAFETY: zeroes are a value of the plain structure; with no mode set adjtimex only reads the clock and fills
    // it in.
    let (state, clock) = unsafe {
        let mut clock: libc::timex = std::mem::zeroed();
        let state = libc::adjtimex(&raw mut clock);
        (state, clock)
    };
    if state < 0 {
        return None;
    }
    let error_bound_us = u64::try_from(clock.maxerror).unwrap_or_default();
    Some(HostClock { synchronized: state != TIME_ERROR, error_bound_us })
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_clock_can_be_read() {
        assert!(super::host_clock().is_some());
    }
}
