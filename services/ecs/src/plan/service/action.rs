//! What the planner wants done.

use jiff::Timestamp;

use super::events;
use super::states::{DeploymentStatus, Launches, RolloutState, ServiceDeploymentStatus, Stability, StageRun};

/// More tasks are named by more events.
const TASKS_IN_EVENT_MAX: usize = 50;

/// In order: what stands first is done first. [`Action::Account`] and [`Action::SetDeployment`] of one plan go
/// into one transaction, so that nothing is counted twice or not at all. An action that fails is not retried: the next plan says it again. An
/// action whose world has changed meanwhile (the task is stopped) is left out.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Plan {
    pub actions: Vec<Action>,
    /// When to plan again though nothing has changed.
    pub wake_at: Option<Timestamp>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Action {
    /// How many in which zone. One action is one event.
    StartTasks {
        deployment: String,
        zones: Vec<(String, u32)>,
        /// The one zone gets one because it has too few of them.
        rebalancing: bool,
    },
    /// `desiredStatus` becomes STOPPED, `stopCode` ServiceSchedulerInitiated. The node is told by
    /// [`Action::ReleaseTasks`], after the load balancer has let go.
    StopTasks {
        tasks: Vec<String>,
        /// `stoppedReason`
        reason: String,
        /// A health check is why: [`super::End::Unhealthy`], otherwise [`super::End::Scaled`].
        unhealthy: bool,
        /// All of them in this zone, which has too many.
        rebalancing: Option<String>,
    },
    /// The node may end them: they are registered nowhere any more.
    ReleaseTasks {
        tasks: Vec<String>,
    },
    RegisterTargets {
        group: String,
        tasks: Vec<String>,
    },
    DeregisterTargets {
        group: String,
        deployment: String,
        tasks: Vec<String>,
    },
    RegisterInstance {
        task: String,
        healthy: bool,
    },
    SetInstanceHealth {
        task: String,
        healthy: bool,
    },
    DeregisterInstance {
        task: String,
    },
    /// With all endpoints of Service Connect that its deployment has.
    RegisterEndpoints {
        task: String,
    },
    /// Of all endpoints it is registered with.
    DeregisterEndpoints {
        task: String,
    },
    /// Goes to the tasks as [`super::Task::accounted`].
    Account {
        tasks: Vec<String>,
        as_: super::Accounted,
    },
    SetDeployment {
        deployment: String,
        change: DeploymentChange,
    },
    /// The deployment's stage is this one; hooks get their identifiers.
    BeginStage {
        deployment: String,
        run: StageRun,
    },
    /// The hook with this index in the current stage took too long.
    ExpireHook {
        deployment: String,
        index: usize,
    },
    /// The rules of this listener send this much to the target groups of each deployment (permille, sum 1000), and name
    /// those that get 0 as well: ELB checks the health of their targets then. When it is done, `production_permille` or
    /// `test_permille` of the named deployments is written, that of all others becomes `None`. Without load balancers,
    /// and without a test listener, only that is done.
    ShiftTraffic {
        listener: Listener,
        permille: Vec<(String, u32)>,
    },
    /// [`super::Service::steady`]
    SetSteady(bool),
    /// [`super::Service::rebalancing_now`]
    SetRebalancing(bool),
    /// [`super::Service::blocked`]
    SetBlocked(bool),
    /// A service event.
    Event {
        text: String,
    },
    /// A draining service has no task any more: it is INACTIVE.
    EndService,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Listener {
    Production,
    Test,
}

/// `None`: as it is.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct DeploymentChange {
    pub status: Option<DeploymentStatus>,
    pub rollout_state: Option<RolloutState>,
    pub rollout_reason: Option<String>,
    pub service_deployment: Option<ServiceDeploymentStatus>,
    pub service_deployment_reason: Option<String>,
    pub rolling_back_to: Option<String>,
    pub failed_tasks: Option<u32>,
    pub launches: Option<Launches>,
    pub desired_count: Option<u32>,
    pub running_count: Option<u32>,
    pub pending_count: Option<u32>,
    pub stability: Option<Stability>,
    /// The deployment has no stage any more.
    pub leave_stage: bool,
    /// A [`super::StopRequest`] was answered: there is none any more.
    pub clear_stop_request: bool,
}

impl Action {
    /// The service events that follow from the action, to be written when it is done and not before. `started`: the
    /// tasks that [`Action::StartTasks`] has made. [`Action::Event`] is its own.
    pub(crate) fn events(&self, service: &str, started: &[String]) -> Vec<String> {
        fn each(tasks: &[String], say: impl Fn(&[String]) -> String) -> Vec<String> {
            tasks.chunks(TASKS_IN_EVENT_MAX).map(say).collect()
        }
        match self {
            Self::StartTasks { zones, rebalancing: true, .. } => {
                let zone = zones.first().map_or("", |(zone, _)| zone);
                each(started, |tasks| events::started_to_rebalance(service, zone, tasks))
            }
            Self::StartTasks { .. } => each(started, |tasks| events::started(service, tasks)),
            Self::StopTasks { tasks, rebalancing: Some(zone), .. } => {
                each(tasks, |tasks| events::stopped_to_rebalance(service, zone, tasks))
            }
            Self::StopTasks { tasks, .. } => each(tasks, |tasks| events::stopped(service, tasks)),
            Self::RegisterTargets { group, tasks } => vec![events::registered(service, tasks.len(), group)],
            Self::DeregisterTargets { group, deployment, tasks } => vec![
                events::draining(service, deployment, tasks.len()),
                events::deregistered(service, tasks.len(), group),
            ],
            Self::Event { text } => vec![text.clone()],
            _ => Vec::new(),
        }
    }
}
