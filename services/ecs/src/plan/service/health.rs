//! What counts as healthy (ECS API reference, DeploymentConfiguration, `minimumHealthyPercent`).
//!
//! Without load balancer: a task with health checks when they pass, one without 40 seconds after it is RUNNING. With
//! load balancer: when all its targets are healthy, and its health checks pass if it has any. In the grace period
//! nothing makes a task unhealthy.

use jiff::{SignedDuration, Timestamp};

use super::{ContainerHealth, Phase, TargetState, Task};

/// How long a task without any check has to run.
pub(crate) const UNCHECKED: SignedDuration = SignedDuration::from_secs(40);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Health<'a> {
    /// Not healthy so far, or nobody can say; `until`: when time alone changes that.
    Starting {
        until: Option<Timestamp>,
    },
    Healthy,
    Unhealthy(Cause<'a>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause<'a> {
    Container,
    Target { group: &'a str, port: u16, reason: &'a str },
}

/// Of a task that is not ending. `groups`: the target groups of its deployment.
pub(super) fn of<'a>(task: &'a Task, groups: &[String], grace: SignedDuration, now: Timestamp) -> Health<'a> {
    let starting = Health::Starting { until: None };
    let (Phase::Running, Some(started_at)) = (task.phase, task.started_at) else { return starting };
    if let Some(cause) = failing(task, groups) {
        let until = after(started_at, grace);
        return if now < until { Health::Starting { until: Some(until) } } else { Health::Unhealthy(cause) };
    }
    if task.health == ContainerHealth::Unknown {
        return starting;
    }
    if groups.is_empty() {
        let until = after(started_at, UNCHECKED);
        let waits = task.health == ContainerHealth::None && now < until;
        return if waits { Health::Starting { until: Some(until) } } else { Health::Healthy };
    }
    let passes = |group: &String| {
        task.targets.iter().any(|target| target.group == *group && target.state == TargetState::Healthy)
    };
    if groups.iter().all(passes) { Health::Healthy } else { starting }
}

fn failing<'a>(task: &'a Task, groups: &[String]) -> Option<Cause<'a>> {
    if task.health == ContainerHealth::Unhealthy {
        return Some(Cause::Container);
    }
    let target = task
        .targets
        .iter()
        .find(|target| target.state == TargetState::Unhealthy && groups.contains(&target.group))?;
    let reason = target.reason.as_deref().unwrap_or("Health checks failed");
    Some(Cause::Target { group: &target.group, port: target.port, reason })
}

/// Never past the end of time: grace periods reach to 68 years.
pub(super) fn after(from: Timestamp, by: SignedDuration) -> Timestamp {
    from.checked_add(by).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::{Accounted, Endpoints, Instance, Target};
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    fn running() -> Task {
        Task {
            id: "t".into(),
            deployment: "d".into(),
            zone: "a".into(),
            created_at: at(-20),
            phase: Phase::Running,
            end: None,
            started_at: Some(at(0)),
            health: ContainerHealth::None,
            targets: Vec::new(),
            instance: Instance::None,
            endpoints: Endpoints::None,
            protected_until: None,
            accounted: Accounted::New,
            released: false,
        }
    }

    fn seen(task: &Task, groups: &[&str], grace: i64, now: i64) -> &'static str {
        let groups: Vec<String> = groups.iter().map(|&group| group.to_owned()).collect();
        match of(task, &groups, SignedDuration::from_secs(grace), at(now)) {
            Health::Starting { until: None } => "starting",
            Health::Starting { until: Some(until) } => {
                assert!(until > at(now), "time alone has to change it");
                "starting for a time"
            }
            Health::Healthy => "healthy",
            Health::Unhealthy(Cause::Container) => "container",
            Health::Unhealthy(Cause::Target { .. }) => "target",
        }
    }

    fn with_target(state: TargetState) -> Task {
        Task { targets: vec![Target { group: "tg".into(), port: 80, state, reason: None }], ..running() }
    }

    #[test]
    fn without_any_check_after_forty_seconds() {
        assert_eq!(seen(&running(), &[], 0, 39), "starting for a time");
        assert_eq!(seen(&running(), &[], 0, 40), "healthy");
        let pending = Task { phase: Phase::Pending, started_at: None, ..running() };
        assert_eq!(seen(&pending, &[], 0, 400), "starting");
    }

    #[test]
    fn with_a_container_check_when_it_passes() {
        let with = |health| Task { health, ..running() };
        assert_eq!(seen(&with(ContainerHealth::Unknown), &[], 0, 400), "starting");
        assert_eq!(seen(&with(ContainerHealth::Healthy), &[], 0, 1), "healthy");
        assert_eq!(seen(&with(ContainerHealth::Unhealthy), &[], 0, 1), "container");
    }

    #[test]
    fn with_a_load_balancer_when_all_groups_say_so() {
        assert_eq!(seen(&running(), &["tg"], 0, 400), "starting");
        assert_eq!(seen(&with_target(TargetState::Initial), &["tg"], 0, 400), "starting");
        assert_eq!(seen(&with_target(TargetState::Unused), &["tg"], 0, 400), "starting");
        assert_eq!(seen(&with_target(TargetState::Healthy), &["tg"], 0, 1), "healthy");
        assert_eq!(seen(&with_target(TargetState::Healthy), &["tg", "other"], 0, 400), "starting");
        assert_eq!(seen(&with_target(TargetState::Unhealthy), &["tg"], 0, 400), "target");
        assert_eq!(seen(&with_target(TargetState::Unhealthy), &["other"], 0, 400), "starting");
        let both = Task { health: ContainerHealth::Unknown, ..with_target(TargetState::Healthy) };
        assert_eq!(seen(&both, &["tg"], 0, 400), "starting");
    }

    #[test]
    fn the_grace_period_is_counted_from_running() {
        assert_eq!(seen(&with_target(TargetState::Unhealthy), &["tg"], 60, 59), "starting for a time");
        assert_eq!(seen(&with_target(TargetState::Unhealthy), &["tg"], 60, 60), "target");
        assert_eq!(seen(&with_target(TargetState::Healthy), &["tg"], 60, 1), "healthy");
        assert_eq!(
            seen(&with_target(TargetState::Unhealthy), &["tg"], 2_147_483_647, 60),
            "starting for a time"
        );
    }
}
