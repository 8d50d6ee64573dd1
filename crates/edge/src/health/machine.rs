//! From outcomes of checks to a target's state; pure.
//!
//! ```text
//!             one success                      unhealthy threshold failures in a row
//!  initial ───────────────▶ healthy ◀────────────────────────────────────────▶ unhealthy
//!     └────────────────── unhealthy threshold failures ──────────────────────────▲
//!                           (back: healthy threshold successes in a row)
//! ```

use ferrogate_nodeapi::{TargetHealthCheck, TargetState};

/// Why a check failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// An HTTP or gRPC status that is not asked for.
    Code(u16),
    Timeout,
    /// No connection, or an answer that is none.
    Failed,
}

/// What ELB says of a target (ELBv2 API reference, TargetHealth).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) state: TargetState,
    pub(crate) reason: Option<String>,
    pub(crate) description: Option<String>,
}

impl Verdict {
    fn of(state: TargetState, reason: &str, description: impl Into<String>) -> Self {
        Self { state, reason: Some(reason.into()), description: Some(description.into()) }
    }

    pub(crate) fn registering() -> Self {
        Self::of(TargetState::Initial, "Elb.RegistrationInProgress", "Target registration is in progress")
    }

    pub(crate) fn checking() -> Self {
        Self::of(TargetState::Initial, "Elb.InitialHealthChecking", "Initial health checks in progress")
    }

    pub(crate) fn healthy() -> Self {
        Self { state: TargetState::Healthy, reason: None, description: None }
    }

    pub(crate) fn unchecked() -> Self {
        Self::of(TargetState::Unavailable, "Target.HealthCheckDisabled", "Health checks are disabled")
    }

    pub(crate) fn draining() -> Self {
        Self::of(
            TargetState::Draining,
            "Target.DeregistrationInProgress",
            "Target deregistration is in progress",
        )
    }

    fn failing(failure: Failure) -> Self {
        let (reason, description) = match failure {
            Failure::Code(code) => {
                ("Target.ResponseCodeMismatch", format!("Health checks failed with these codes: [{code}]"))
            }
            Failure::Timeout => ("Target.Timeout", "Request timed out".to_owned()),
            Failure::Failed => ("Target.FailedHealthChecks", "Health checks failed".to_owned()),
        };
        Self::of(TargetState::Unhealthy, reason, description)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Initial,
    Healthy,
    Unhealthy,
}

/// One target in one group.
#[derive(Debug)]
pub(crate) struct Machine {
    state: State,
    /// Outcomes in a row that speak against the state.
    against: u32,
}

impl Machine {
    pub(crate) fn new() -> Self {
        Self { state: State::Initial, against: 0 }
    }

    pub(crate) fn observe(&mut self, outcome: Result<(), Failure>, check: &TargetHealthCheck) -> Verdict {
        match (outcome, self.state) {
            (Ok(()), State::Initial | State::Healthy) => {
                *self = Self { state: State::Healthy, against: 0 };
                Verdict::healthy()
            }
            (Ok(()), State::Unhealthy) => {
                self.against += 1;
                if self.against >= check.healthy_threshold {
                    *self = Self { state: State::Healthy, against: 0 };
                    return Verdict::healthy();
                }
                // It is still what it was; the last failure's reason stays with it.
                Verdict { state: TargetState::Unhealthy, reason: None, description: None }
            }
            (Err(failure), State::Unhealthy) => {
                self.against = 0;
                Verdict::failing(failure)
            }
            (Err(failure), before) => {
                self.against += 1;
                if self.against >= check.unhealthy_threshold {
                    *self = Self { state: State::Unhealthy, against: 0 };
                    return Verdict::failing(failure);
                }
                if before == State::Healthy { Verdict::healthy() } else { Verdict::checking() }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferrogate_nodeapi::TargetProtocol;
    use proptest::prelude::*;

    fn check(healthy_threshold: u32, unhealthy_threshold: u32) -> TargetHealthCheck {
        TargetHealthCheck {
            enabled: true,
            protocol: TargetProtocol::Http,
            port: None,
            path: "/".into(),
            matcher: "200".into(),
            interval_seconds: 30,
            timeout_seconds: 5,
            healthy_threshold,
            unhealthy_threshold,
        }
    }

    fn states(outcomes: &[bool], healthy: u32, unhealthy: u32) -> Vec<TargetState> {
        let (mut machine, check) = (Machine::new(), check(healthy, unhealthy));
        let of = |ok: &bool| if *ok { Ok(()) } else { Err(Failure::Timeout) };
        outcomes.iter().map(|ok| machine.observe(of(ok), &check).state).collect()
    }

    #[test]
    fn a_new_target_needs_one_success() {
        use TargetState::{Healthy, Initial, Unhealthy};
        assert_eq!(states(&[true], 5, 2), [Healthy]);
        assert_eq!(states(&[false, true], 5, 2), [Initial, Healthy]);
        assert_eq!(
            states(&[false, false, true, true, true], 3, 2),
            [Initial, Unhealthy, Unhealthy, Unhealthy, Healthy]
        );
    }

    #[test]
    fn failures_count_only_in_a_row() {
        use TargetState::{Healthy, Unhealthy};
        assert_eq!(
            states(&[true, false, true, false, false, true, false, true, true], 2, 2),
            [Healthy, Healthy, Healthy, Healthy, Unhealthy, Unhealthy, Unhealthy, Unhealthy, Healthy]
        );
    }

    #[test]
    fn elbs_own_words() {
        let mut machine = Machine::new();
        let verdict = machine.observe(Err(Failure::Code(502)), &check(2, 1));
        assert_eq!(verdict.reason.as_deref(), Some("Target.ResponseCodeMismatch"));
        assert_eq!(verdict.description.as_deref(), Some("Health checks failed with these codes: [502]"));
        let verdict = machine.observe(Err(Failure::Timeout), &check(2, 1));
        assert_eq!(
            (verdict.reason.as_deref(), verdict.description.as_deref()),
            (Some("Target.Timeout"), Some("Request timed out"))
        );
        let verdict = machine.observe(Err(Failure::Failed), &check(2, 1));
        assert_eq!(
            (verdict.reason.as_deref(), verdict.description.as_deref()),
            (Some("Target.FailedHealthChecks"), Some("Health checks failed"))
        );
    }

    proptest! {
        /// A state changes only by so many outcomes in a row that speak against it.
        #[test]
        fn thresholds_hold(outcomes in prop::collection::vec(any::<bool>(), 1..60), healthy in 2u32..6, unhealthy in 2u32..6) {
            let states = states(&outcomes, healthy, unhealthy);
            for (at, pair) in states.windows(2).enumerate() {
                let last = |count: u32, ok: bool| {
                    let end = at + 2;
                    end >= count as usize && outcomes[end - count as usize..end].iter().all(|one| *one == ok)
                };
                match (pair[0], pair[1]) {
                    (TargetState::Healthy, TargetState::Unhealthy) => prop_assert!(last(unhealthy, false)),
                    (TargetState::Unhealthy, TargetState::Healthy) => prop_assert!(last(healthy, true)),
                    (_, TargetState::Initial) => prop_assert_eq!(pair[0], TargetState::Initial),
                    _ => {}
                }
            }
        }
    }
}
