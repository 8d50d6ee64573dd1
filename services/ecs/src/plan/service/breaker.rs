//! When a deployment has failed (ECS API reference, DeploymentCircuitBreaker, ThresholdConfiguration).

use super::{CircuitBreaker, Threshold};

const BOUNDS: (u32, u32) = (3, 200);

/// How many failed tasks fail a deployment.
pub(crate) fn threshold(breaker: &CircuitBreaker, desired_count: u32) -> u32 {
    match breaker.threshold {
        Threshold::Count(count) => count.max(1),
        Threshold::BoundedPercent(percent) => percent_up(desired_count, percent).clamp(BOUNDS.0, BOUNDS.1),
        Threshold::UnboundedPercent(percent) => percent_up(desired_count, percent).max(1),
    }
}

/// Rounded up.
pub(super) fn percent_up(of: u32, percent: u32) -> u32 {
    let tasks = (u64::from(of) * u64::from(percent)).div_ceil(100);
    u32::try_from(tasks).unwrap_or(u32::MAX)
}

/// Rounded down.
pub(super) fn percent_down(of: u32, percent: u32) -> u32 {
    let tasks = u64::from(of) * u64::from(percent) / 100;
    u32::try_from(tasks).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(threshold_: Threshold, desired: u32) -> u32 {
        let breaker = CircuitBreaker {
            enabled: true,
            rollback: true,
            reset_on_healthy_task: true,
            threshold: threshold_,
        };
        threshold(&breaker, desired)
    }

    #[test]
    fn half_of_the_desired_count_between_three_and_two_hundred() {
        let bounded = |desired| of(Threshold::BoundedPercent(50), desired);
        assert_eq!([0, 1, 6, 7, 25, 400, 401, 5000].map(bounded), [3, 3, 3, 4, 13, 200, 200, 200]);
        assert_eq!(of(Threshold::UnboundedPercent(50), 1000), 500);
        assert_eq!(of(Threshold::UnboundedPercent(50), 0), 1);
        assert_eq!(of(Threshold::Count(7), 1000), 7);
    }
}
