//! Which containers may start now, and in which order they stop. Pure.

use std::collections::{BTreeMap, BTreeSet};

use ferrogate_nodeapi::{ContainerAssignment, ContainerStatus, DependencyCondition, Health, RestartPolicy};
use jiff::SignedDuration;

/// What a dependency looks at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) started: bool,
    pub(crate) exit_code: Option<i32>,
    pub(crate) stopped: bool,
    pub(crate) health: Health,
}

impl Seen {
    pub(crate) fn of(status: ContainerStatus, started: bool, exit_code: Option<i32>, health: Health) -> Self {
        Self { started, exit_code, stopped: status == ContainerStatus::Stopped, health }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Gate {
    Open,
    /// On the named container.
    Waiting(String),
    /// Never: the named container ended so that the condition cannot come true any more.
    Shut(String),
}

/// Whether `container` may start, given what is seen of the others.
pub(crate) fn gate(container: &ContainerAssignment, seen: &BTreeMap<String, Seen>) -> Gate {
    let mut waiting = None;
    for dependency in &container.depends_on {
        let on = seen.get(&dependency.container).copied().unwrap_or_default();
        let (fulfilled, impossible) = match dependency.condition {
            DependencyCondition::Start => (on.started, on.stopped && !on.started),
            DependencyCondition::Complete => (on.stopped && on.started, on.stopped && !on.started),
            DependencyCondition::Success => {
                (on.stopped && on.exit_code == Some(0), on.stopped && on.exit_code != Some(0))
            }
            // An unhealthy one may still become healthy; how long that is waited for is its startTimeout.
            DependencyCondition::Healthy => (!on.stopped && on.health == Health::Healthy, on.stopped),
        };
        if impossible {
            return Gate::Shut(dependency.container.clone());
        }
        if !fulfilled {
            waiting.get_or_insert_with(|| dependency.container.clone());
        }
    }
    waiting.map_or(Gate::Open, Gate::Waiting)
}

/// Whether a container that ended by itself is started again: not for an exit code that is ignored, and not when it ran for
/// less than the attempt period since its last start (ECS API reference, ContainerRestartPolicy).
pub(crate) fn restarts(policy: &RestartPolicy, exit_code: i32, ran: SignedDuration) -> bool {
    let period = SignedDuration::from_secs(i64::from(policy.attempt_period_seconds));
    !policy.ignored_exit_codes.contains(&exit_code) && ran >= period
}

/// Groups of containers to stop one after the other: whoever depends on another stops before it.
pub(crate) fn stop_order(containers: &[ContainerAssignment]) -> Vec<Vec<&ContainerAssignment>> {
    let mut left: Vec<&ContainerAssignment> = containers.iter().collect();
    let mut groups = Vec::new();
    while !left.is_empty() {
        let needed: BTreeSet<&str> =
            left.iter().flat_map(|c| &c.depends_on).map(|d| d.container.as_str()).collect();
        let (later, now): (Vec<_>, Vec<_>) = left.iter().partition(|c| needed.contains(c.name.as_str()));
        if now.is_empty() {
            // A cycle; registration refuses those, and stopping must go on regardless.
            groups.push(later);
            break;
        }
        groups.push(now);
        left = later;
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferrogate_nodeapi::Dependency;

    fn container(name: &str, on: &[(&str, DependencyCondition)]) -> ContainerAssignment {
        let depends_on = on
            .iter()
            .map(|(name, condition)| Dependency { container: (*name).into(), condition: *condition })
            .collect();
        ContainerAssignment { name: name.into(), depends_on, ..Default::default() }
    }

    fn seen(of: Seen) -> BTreeMap<String, Seen> {
        BTreeMap::from([("a".to_owned(), of)])
    }

    #[test]
    fn conditions() {
        use DependencyCondition::*;
        let running = Seen { started: true, ..Seen::default() };
        let healthy = Seen { health: Health::Healthy, ..running };
        let sick = Seen { health: Health::Unhealthy, ..running };
        let ended = |code| Seen { started: true, stopped: true, exit_code: Some(code), ..Seen::default() };
        let never = Seen { stopped: true, ..Seen::default() };
        let wait = || Gate::Waiting("a".into());
        let shut = || Gate::Shut("a".into());
        for (condition, of, expected) in [
            (Start, Seen::default(), wait()),
            (Start, running, Gate::Open),
            (Start, ended(1), Gate::Open),
            (Start, never, shut()),
            (Complete, running, wait()),
            (Complete, ended(1), Gate::Open),
            (Success, ended(0), Gate::Open),
            (Success, ended(1), shut()),
            (Success, running, wait()),
            (Healthy, running, wait()),
            (Healthy, healthy, Gate::Open),
            (Healthy, sick, wait()),
            (Healthy, ended(0), shut()),
        ] {
            assert_eq!(
                gate(&container("b", &[("a", condition)]), &seen(of)),
                expected,
                "{condition:?} {of:?}"
            );
        }
    }

    #[test]
    fn what_ran_long_enough_is_restarted() {
        let policy = RestartPolicy { ignored_exit_codes: vec![0, 42], attempt_period_seconds: 60 };
        for (exit_code, ran, expected) in [
            (1, 60, true),
            (137, 3600, true),
            (1, 59, false),
            (0, 3600, false),
            (42, 3600, false),
            // The clock was set back meanwhile.
            (1, -5, false),
        ] {
            let ran = SignedDuration::from_secs(ran);
            assert_eq!(restarts(&policy, exit_code, ran), expected, "{exit_code} after {ran:?}");
        }
    }

    #[test]
    fn dependents_stop_first() {
        use DependencyCondition::Start;
        let all = [
            container("a", &[]),
            container("b", &[("a", Start)]),
            container("c", &[("b", Start)]),
            container("d", &[]),
        ];
        let names: Vec<Vec<&str>> =
            stop_order(&all).iter().map(|group| group.iter().map(|c| c.name.as_str()).collect()).collect();
        assert_eq!(names, [vec!["c", "d"], vec!["b"], vec!["a"]]);
    }
}
