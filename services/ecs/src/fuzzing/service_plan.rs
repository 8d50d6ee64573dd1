//! Services in any state that a snapshot can have, whether the planner could have brought them there or not.

use std::collections::HashSet;

use jiff::{SignedDuration, Timestamp};

use crate::plan::service::{
    Accounted, Action, Alarms, CircuitBreaker, ContainerHealth, Controller, Deployment, DeploymentStatus,
    EarlySuccess, End, Endpoints, Hook, HookAction, HookRun, HookStatus, Instance, Launches, Listener, Phase,
    RolloutState, Service, ServiceDeploymentStatus, ServiceStatus, Snapshot, Stability, Stage, StageRun,
    StopRequest, Strategy, Target, TargetState, Task, Threshold, plan,
};

const DEPLOYMENTS_MAX: u8 = 6;
const TASKS_MAX: u8 = 40;
const GROUPS: [&str; 4] = ["tg-a", "tg-b", "tg-c", "tg-d"];
const ZONES: [&str; 4] = ["a", "b", "c", "d"];
const STAGES: [Stage; 11] = [
    Stage::ReconcileService,
    Stage::PreScaleUp,
    Stage::ScaleUp,
    Stage::PostScaleUp,
    Stage::TestTrafficShift,
    Stage::PostTestTrafficShift,
    Stage::PreProductionTrafficShift,
    Stage::ProductionTrafficShift,
    Stage::PostProductionTrafficShift,
    Stage::BakeTime,
    Stage::CleanUp,
];

/// Plans for the service that the bytes stand for; panics when the plan touches what it must leave alone.
pub fn service_plan(bytes: &[u8]) {
    let now = Timestamp::from_second(1_800_000_000).expect("a time");
    let snapshot = Bytes(bytes, now).snapshot();
    let made = plan(&snapshot, now);
    assert_eq!(made, plan(&snapshot, now), "the same service, another plan");
    let mut stopped = HashSet::new();
    for action in &made.actions {
        check(&snapshot, action, &stopped);
        if let Action::StopTasks { tasks, .. } = action {
            for task in tasks {
                assert!(stopped.insert(task), "{task} is stopped twice: {snapshot:?}");
            }
        }
    }
}

/// Nothing is asked of a task that is over but that its end be cleared away, and nothing of what nobody knows. `stopped`:
/// by what stands before in the plan.
fn check(snapshot: &Snapshot, action: &Action, stopped: &HashSet<&String>) {
    let task = |id: &String| {
        let found = snapshot.tasks.iter().find(|task| task.id == *id);
        found.unwrap_or_else(|| panic!("no task {id}: {action:?} of {snapshot:?}"))
    };
    let deployment = |id: &String| {
        let found = snapshot.deployments.iter().find(|it| it.id == *id);
        found.unwrap_or_else(|| panic!("no deployment {id}: {action:?} of {snapshot:?}"))
    };
    let live = |task: &Task| task.end.is_none() && task.phase <= Phase::Running;
    match action {
        Action::StartTasks { deployment: id, zones, .. } => {
            deployment(id);
            assert!(zones.iter().any(|(_, count)| *count > 0), "a start of nothing: {action:?}");
            assert!(zones.iter().all(|(zone, _)| snapshot.service.zones.contains(zone)), "{action:?}");
            assert_eq!(snapshot.service.status, ServiceStatus::Active, "{action:?}");
        }
        Action::StopTasks { tasks, .. } => {
            assert!(!tasks.is_empty());
            tasks.iter().for_each(|id| assert!(live(task(id)), "stopped again: {:?}", task(id)));
        }
        Action::RegisterTargets { tasks, .. } => {
            assert!(!tasks.is_empty());
            tasks.iter().for_each(|id| assert!(live(task(id)), "joins: {:?}", task(id)));
        }
        Action::RegisterInstance { task: id, .. }
        | Action::SetInstanceHealth { task: id, .. }
        | Action::RegisterEndpoints { task: id } => {
            assert!(live(task(id)), "joins: {:?}", task(id));
        }
        Action::ReleaseTasks { tasks } => tasks.iter().map(task).for_each(|task| {
            let ends = task.end.is_some() || stopped.contains(&task.id);
            assert!(ends && task.phase < Phase::Stopped && !task.released, "{task:?}");
        }),
        Action::DeregisterTargets { group, tasks, .. } => tasks.iter().map(task).for_each(|task| {
            let there = |target: &Target| target.group == *group && target.state != TargetState::Draining;
            assert!(task.targets.iter().any(there), "{task:?} is not in {group}");
        }),
        Action::DeregisterInstance { task: id } => assert!(task(id).instance != Instance::None),
        Action::DeregisterEndpoints { task: id } => assert!(task(id).endpoints != Endpoints::None),
        Action::Account { tasks, as_ } => {
            tasks.iter().for_each(|id| assert!(task(id).accounted < *as_, "{:?}", task(id)));
        }
        Action::SetDeployment { deployment: id, .. }
        | Action::BeginStage { deployment: id, .. }
        | Action::ExpireHook { deployment: id, .. } => {
            deployment(id);
        }
        Action::ShiftTraffic { listener: Listener::Production | Listener::Test, permille } => {
            for (id, _) in permille {
                deployment(id);
            }
            assert_eq!(permille.iter().map(|(_, permille)| permille).sum::<u32>(), 1000, "{action:?}");
        }
        Action::SetSteady(_) | Action::SetRebalancing(_) | Action::SetBlocked(_) | Action::Event { .. } => {}
        Action::EndService => assert_eq!(snapshot.service.status, ServiceStatus::Draining),
    }
}

/// What is left of the input, and the time; where nothing is left, it goes on with zeros.
struct Bytes<'a>(&'a [u8], Timestamp);

impl Bytes<'_> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[usize::from(self.byte()) % of.len()]
    }

    fn yes(&mut self) -> bool {
        self.byte() & 1 == 1
    }

    fn maybe<T>(&mut self, then: impl FnOnce(&mut Self) -> T) -> Option<T> {
        if self.yes() { Some(then(self)) } else { None }
    }

    /// Mostly small, sometimes all that the API lets through.
    fn count(&mut self) -> u32 {
        match self.byte() {
            255 => 10_000,
            254 => 501,
            small => u32::from(small % 32),
        }
    }

    /// Around now, from seconds to years.
    fn time(&mut self) -> Timestamp {
        let amount = i64::from(self.byte());
        let seconds = self.one(&[-1, -20, -600, -86_400, 0, 1, 60, 86_400]);
        self.1 + SignedDuration::from_secs(amount * seconds)
    }

    fn some(&mut self, of: &[&str]) -> Vec<String> {
        let mask = self.byte();
        let chosen = of.iter().enumerate().filter(|(at, _)| mask >> at & 1 == 1);
        chosen.map(|(_, name)| (*name).to_owned()).collect()
    }

    fn snapshot(mut self) -> Snapshot {
        let service = self.service();
        let deployments: Vec<Deployment> =
            (0..self.byte() % (DEPLOYMENTS_MAX + 1)).map(|at| self.deployment(at, &service)).collect();
        let tasks = (0..self.byte() % (TASKS_MAX + 1)).map(|at| self.task(at)).collect();
        Snapshot { service, deployments, tasks }
    }

    fn service(&mut self) -> Service {
        let minutes = [0, 1, 30, 1440];
        Service {
            name: "web".into(),
            status: self.one(&[ServiceStatus::Active, ServiceStatus::Active, ServiceStatus::Draining]),
            controller: self.one(&[Controller::Ecs, Controller::Ecs, Controller::External]),
            desired_count: self.count(),
            minimum_healthy_percent: self.one(&[100, 0, 50, 1, 99, 200]),
            maximum_percent: self.one(&[200, 100, 101, 150, 1000]),
            strategy: match self.byte() % 4 {
                0 => Strategy::Rolling,
                1 => Strategy::BlueGreen,
                2 => Strategy::Linear {
                    step_permille: self.one(&[30, 100, 333, 1000]),
                    bake_minutes: self.one(&minutes),
                },
                _ => Strategy::Canary {
                    permille: self.one(&[1, 50, 999, 1000]),
                    bake_minutes: self.one(&minutes),
                },
            },
            bake_time_minutes: self.one(&minutes),
            hooks: (0..self.byte() % 3).map(|_| self.hook()).collect(),
            circuit_breaker: CircuitBreaker {
                enabled: self.yes(),
                rollback: self.yes(),
                reset_on_healthy_task: self.yes(),
                threshold: match self.byte() % 3 {
                    0 => Threshold::Count(self.count()),
                    1 => Threshold::BoundedPercent(u32::from(self.byte())),
                    _ => Threshold::UnboundedPercent(u32::from(self.byte())),
                },
            },
            alarms: Alarms {
                enabled: self.yes(),
                rollback: self.yes(),
                triggered: self.some(&["one", "two"]),
            },
            early_success: self.maybe(|bytes| EarlySuccess {
                healthy_percent: bytes.one(&[0, 1, 50, 100]),
                after_cleanup: bytes.yes(),
            }),
            grace_period_seconds: self.one(&[0, 60, 600, i32::MAX as u32]),
            rebalancing: self.yes(),
            zones: {
                let zones = self.some(&ZONES);
                if zones.is_empty() { vec![ZONES[0].to_owned()] } else { zones }
            },
            steady: self.yes(),
            rebalancing_now: self.yes(),
            blocked: self.yes(),
        }
    }

    fn hook(&mut self) -> Hook {
        Hook {
            stages: (0..self.byte() % 4).map(|_| self.one(&STAGES)).collect(),
            timeout_minutes: self.one(&[1, 60, 20_160]),
            timeout_action: self.one(&[HookAction::Continue, HookAction::Rollback]),
        }
    }

    fn deployment(&mut self, at: u8, service: &Service) -> Deployment {
        use ServiceDeploymentStatus as Is;
        let created_at = self.time();
        Deployment {
            status: self.one(&[
                DeploymentStatus::Primary,
                DeploymentStatus::Active,
                DeploymentStatus::Draining,
                DeploymentStatus::Inactive,
            ]),
            target_groups: self.some(&GROUPS),
            has_registry: self.yes(),
            has_endpoints: self.yes(),
            scale_permille: self.one(&[1000, 0, 1, 500]),
            stop_request: self.maybe(|bytes| bytes.one(&[StopRequest::Rollback, StopRequest::Abort])),
            rollout_state: self.one(&[
                RolloutState::InProgress,
                RolloutState::Completed,
                RolloutState::Failed,
            ]),
            service_deployment: self.one(&[
                Is::Pending,
                Is::InProgress,
                Is::Successful,
                Is::StopRequested,
                Is::Stopped,
                Is::RollbackRequested,
                Is::RollbackInProgress,
                Is::RollbackSuccessful,
                Is::RollbackFailed,
            ]),
            rolling_back_to: self.maybe(|bytes| id(bytes.byte() % (DEPLOYMENTS_MAX + 2))),
            failed_tasks: self.count(),
            launches: Launches {
                failed_rounds: self.count(),
                failed_at: self.maybe(Self::time),
                refused: self.yes(),
            },
            stage: self.maybe(|bytes| bytes.stage(service)),
            production_permille: self.maybe(|bytes| bytes.one(&[1000, 0, 1, 500])),
            test_permille: self.maybe(|bytes| bytes.one(&[1000, 0])),
            desired_count: self.count(),
            running_count: self.count(),
            pending_count: self.count(),
            stability: self.one(&[Stability::SteadyState, Stability::Stabilizing]),
            ..Deployment::new(id(at), created_at)
        }
    }

    fn stage(&mut self, service: &Service) -> StageRun {
        let hooks = service.hooks.len();
        StageRun {
            stage: self.one(&STAGES),
            step: u32::from(self.byte()),
            began_at: self.time(),
            // A service may have been given fewer hooks meanwhile.
            hooks: (0..usize::from(self.byte()) % (hooks + 2)).map(|index| self.hook_run(index)).collect(),
        }
    }

    fn hook_run(&mut self, index: usize) -> HookRun {
        HookRun {
            index,
            status: self.one(&[
                HookStatus::AwaitingAction,
                HookStatus::InProgress,
                HookStatus::Succeeded,
                HookStatus::Failed,
                HookStatus::TimedOut,
            ]),
            expires_at: self.time(),
            timeout_action: self.one(&[HookAction::Continue, HookAction::Rollback]),
        }
    }

    fn task(&mut self, at: u8) -> Task {
        let phase = self.one(&[Phase::Running, Phase::Pending, Phase::Ending, Phase::Stopped]);
        let ends = self.yes() || phase >= Phase::Ending;
        Task {
            id: format!("task-{at}"),
            // One of them nobody knows.
            deployment: id(self.byte() % (DEPLOYMENTS_MAX + 1)),
            zone: self.one(&ZONES).to_owned(),
            created_at: self.time(),
            phase,
            end: ends.then(|| self.one(&[End::Scaled, End::Unhealthy, End::Failed, End::Other])),
            started_at: self.maybe(Self::time),
            health: self.one(&[
                ContainerHealth::None,
                ContainerHealth::Unknown,
                ContainerHealth::Healthy,
                ContainerHealth::Unhealthy,
            ]),
            targets: self.some(&GROUPS).into_iter().map(|group| self.target(group)).collect(),
            instance: match self.byte() % 3 {
                0 => Instance::None,
                healthy => Instance::Registered { healthy: healthy == 1 },
            },
            endpoints: self.one(&[Endpoints::None, Endpoints::Partly, Endpoints::Registered]),
            protected_until: self.maybe(Self::time),
            accounted: self.one(&[Accounted::New, Accounted::Healthy, Accounted::Ended]),
            released: self.yes(),
        }
    }

    fn target(&mut self, group: String) -> Target {
        Target {
            group,
            port: 80,
            state: self.one(&[
                TargetState::Initial,
                TargetState::Healthy,
                TargetState::Unhealthy,
                TargetState::Unused,
                TargetState::Draining,
            ]),
            reason: self.maybe(|_| "Health checks failed".to_owned()),
        }
    }
}

fn id(at: u8) -> String {
    format!("ecs-svc/{at}")
}
