//! What the planner is told: one service, its deployments or task sets, its tasks.

use jiff::Timestamp;

use super::states::{
    DeploymentStatus, HookAction, Launches, RolloutState, ServiceDeploymentStatus, Stability, Stage,
    StageRun, StopRequest,
};

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Snapshot {
    pub service: Service,
    /// All that are not INACTIVE, and the newest INACTIVE one that is COMPLETED: what the service can be rolled back to. Any
    /// order.
    pub deployments: Vec<Deployment>,
    /// All tasks of the service but those that are STOPPED, whose end was accounted for ([`Accounted::Ended`]) and that
    /// are registered nowhere any more. Any order.
    pub tasks: Vec<Task>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Service {
    /// As events call it: `(service <name>)`.
    pub name: String,
    pub status: ServiceStatus,
    pub controller: Controller,
    pub desired_count: u32,
    /// Percent of `desired_count`, rounded up.
    pub minimum_healthy_percent: u32,
    /// Percent of `desired_count`, rounded down; at least 100.
    pub maximum_percent: u32,
    pub strategy: Strategy,
    /// For BLUE_GREEN, LINEAR and CANARY after all traffic is shifted; for ROLLING before it is COMPLETED.
    pub bake_time_minutes: u32,
    pub hooks: Vec<Hook>,
    pub circuit_breaker: CircuitBreaker,
    pub alarms: Alarms,
    pub early_success: Option<EarlySuccess>,
    /// From when a task is RUNNING: how long what its health checks say is ignored.
    pub grace_period_seconds: u32,
    pub rebalancing: bool,
    /// Zones its tasks can be in: those of its subnets. Never empty for a service that can start tasks.
    pub zones: Vec<String>,
    /// As written by [`super::Action::SetSteady`].
    pub steady: bool,
    /// As written by [`super::Action::SetRebalancing`].
    pub rebalancing_now: bool,
    /// A rolling update can do nothing and its event was said: as written by [`super::Action::SetBlocked`].
    pub blocked: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ServiceStatus {
    Active,
    /// DeleteService: all tasks are stopped, then it is INACTIVE.
    Draining,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Controller {
    Ecs,
    /// EXTERNAL: `deployments` are task sets.
    External,
}

/// Percents of traffic are in tenths: 25 is 2.5 %.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Strategy {
    Rolling,
    BlueGreen,
    Linear { step_permille: u32, bake_minutes: u32 },
    Canary { permille: u32, bake_minutes: u32 },
}

/// A hook that pauses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hook {
    pub stages: Vec<Stage>,
    pub timeout_minutes: u32,
    pub timeout_action: HookAction,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CircuitBreaker {
    pub enabled: bool,
    pub rollback: bool,
    pub reset_on_healthy_task: bool,
    pub threshold: Threshold,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Threshold {
    Count(u32),
    /// Of the desired count, held between 3 and 200.
    BoundedPercent(u32),
    UnboundedPercent(u32),
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Alarms {
    pub enabled: bool,
    pub rollback: bool,
    /// Those of the service's alarms that are in ALARM now.
    pub triggered: Vec<String>,
}

/// `earlySuccessCriteria`, where it is enabled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EarlySuccess {
    /// Of the desired count, rounded up.
    pub healthy_percent: u32,
    /// `sourceServiceRevisionCleanup` is BLOCKING: the former tasks have to be gone as well.
    pub after_cleanup: bool,
}

/// A deployment with its service revision and service deployment, or a task set. What is not configuration
/// (`id`, `created_at`, `target_groups`, `scale_permille`, `stop_request`, `has_registry`, `has_endpoints`) is as the planner's own
/// [`super::Action::SetDeployment`] and [`super::Action::BeginStage`] wrote it; [`Deployment::new`] is how it begins.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Deployment {
    /// `ecs-svc/<19 digits>`
    pub id: String,
    pub created_at: Timestamp,
    pub status: DeploymentStatus,
    /// Target groups its tasks are registered with. Under BLUE_GREEN, LINEAR and CANARY: of each load balancer the
    /// one that the revision before does not use.
    pub target_groups: Vec<String>,
    /// Whether its tasks are registered with Cloud Map.
    pub has_registry: bool,
    /// Whether its tasks are endpoints of Service Connect.
    pub has_endpoints: bool,
    /// Of a task set: its scale.
    pub scale_permille: u32,
    /// StopServiceDeployment.
    pub stop_request: Option<StopRequest>,

    pub rollout_state: RolloutState,
    pub rollout_reason: String,
    pub service_deployment: ServiceDeploymentStatus,
    pub service_deployment_reason: Option<String>,
    /// The deployment that takes the place of this failed one.
    pub rolling_back_to: Option<String>,
    /// `failedTasks`
    pub failed_tasks: u32,
    pub launches: Launches,
    pub stage: Option<StageRun>,
    /// Of production traffic, 0..=1000. `None`: the production listener's rule does not name its target groups. As
    /// written when [`super::Action::ShiftTraffic`] was done.
    pub production_permille: Option<u32>,
    /// Of test traffic, likewise.
    pub test_permille: Option<u32>,
    /// `desiredCount`, of a task set `computedDesiredCount`.
    pub desired_count: u32,
    pub running_count: u32,
    pub pending_count: u32,
    /// Of task sets.
    pub stability: Stability,
}

impl Deployment {
    /// As it begins, PRIMARY: whoever makes it turns the former PRIMARY into an ACTIVE one in the same transaction.
    pub(crate) fn new(id: impl Into<String>, created_at: Timestamp) -> Self {
        let id = id.into();
        Self {
            rollout_reason: super::events::rollout_in_progress(&id),
            id,
            created_at,
            status: DeploymentStatus::Primary,
            target_groups: Vec::new(),
            has_registry: false,
            has_endpoints: false,
            scale_permille: 1000,
            stop_request: None,
            rollout_state: RolloutState::InProgress,
            service_deployment: ServiceDeploymentStatus::Pending,
            service_deployment_reason: None,
            rolling_back_to: None,
            failed_tasks: 0,
            launches: Launches::default(),
            stage: None,
            production_permille: None,
            test_permille: None,
            desired_count: 0,
            running_count: 0,
            pending_count: 0,
            stability: Stability::Stabilizing,
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Task {
    pub id: String,
    /// [`Deployment::id`]
    pub deployment: String,
    pub zone: String,
    pub created_at: Timestamp,
    pub phase: Phase,
    /// Why its `desiredStatus` is STOPPED; `None` while that is RUNNING.
    pub end: Option<End>,
    /// Since when it is RUNNING; stays after its end.
    pub started_at: Option<Timestamp>,
    /// Worst of its essential containers with a health check.
    pub health: ContainerHealth,
    /// Where it is registered or being deregistered. What is gone from its group is not here.
    pub targets: Vec<Target>,
    pub instance: Instance,
    pub endpoints: Endpoints,
    pub protected_until: Option<Timestamp>,
    /// As written by [`super::Action::Account`].
    pub accounted: Accounted,
    /// [`super::Action::ReleaseTasks`] was done: its node has been told to end it.
    pub released: bool,
}

impl Task {
    /// Nobody can send it new connections.
    pub(crate) fn is_nowhere(&self) -> bool {
        self.targets.is_empty() && self.instance == Instance::None && self.endpoints == Endpoints::None
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// ServiceSchedulerInitiated by [`super::Action::StopTasks`].
    Scaled,
    /// The same with [`super::Action::StopTasks::unhealthy`].
    Unhealthy,
    /// TaskFailedToStart, EssentialContainerExited.
    Failed,
    /// UserInitiated and all the rest.
    Other,
}

/// `lastStatus`, as coarse as the scheduler sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// PROVISIONING, PENDING, ACTIVATING
    Pending,
    Running,
    /// DEACTIVATING, STOPPING, DEPROVISIONING
    Ending,
    Stopped,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ContainerHealth {
    /// No essential container has a health check.
    None,
    Unknown,
    Healthy,
    Unhealthy,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// ARN of the target group.
    pub group: String,
    pub port: u16,
    pub state: TargetState,
    /// What ELB says of it (`TargetHealth.Description`).
    pub reason: Option<String>,
}

/// As `DescribeTargetHealth` says. A target that is in no group is not listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TargetState {
    /// Registered by us, not seen in `DescribeTargetHealth` so far, or `initial`, or `unavailable`.
    Initial,
    Healthy,
    Unhealthy,
    /// The group is used by no load balancer.
    Unused,
    /// Deregistered, its connections are being finished.
    Draining,
}

/// In Cloud Map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Instance {
    None,
    /// With what custom health.
    Registered {
        healthy: bool,
    },
}

/// In Cloud Map, for Service Connect. They have no health of their own: what is unhealthy is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Endpoints {
    None,
    /// Some of them, or nobody knows.
    Partly,
    Registered,
}

/// How far the planner has taken account of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub(crate) enum Accounted {
    New,
    /// It was healthy once.
    Healthy,
    /// Its end is counted.
    Ended,
}
