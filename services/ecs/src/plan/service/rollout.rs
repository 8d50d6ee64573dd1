//! How a deployment ends: COMPLETED, or FAILED with or without a way back.
//!
//! ```text
//!  IN_PROGRESS ──(steady)──► COMPLETED ──(another one fails and comes back to it)──► IN_PROGRESS
//!       └──(breaker, alarm, hook, StopServiceDeployment)──► FAILED: starts no more tasks
//! ```
//!
//! The way back is the newest COMPLETED deployment: it is PRIMARY again under its own id. While it is IN_PROGRESS there
//! is no further way back.

use super::breaker;
use super::world::World;
use super::{DeploymentStatus, RolloutState, ServiceDeploymentStatus, StopRequest, events};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    Breaker,
    Alarms,
    /// StopServiceDeployment or ContinueServiceDeployment asked for it.
    Requested,
    Aborted,
    HookTimedOut,
}

impl Failure {
    /// Of "deployment failed: ….".
    fn said(self) -> &'static str {
        match self {
            Self::Breaker => "tasks failed to start",
            Self::Alarms => "alarm detected",
            Self::Requested => "rollback requested",
            Self::Aborted => "stop requested",
            Self::HookTimedOut => "lifecycle hook timed out",
        }
    }

    fn rollout_reason(self) -> &'static str {
        match self {
            Self::Breaker => events::ROLLOUT_TASKS_FAILED,
            Self::Alarms => "ECS deployment alarms: alarm detected.",
            Self::Requested => "ECS deployment: rollback requested.",
            Self::Aborted => "ECS deployment: stop requested.",
            Self::HookTimedOut => "ECS deployment: lifecycle hook timed out.",
        }
    }

    /// `serviceDeployments[].statusReason`, after "Service deployment rolled back" or "… stopped".
    fn because(self) -> &'static str {
        match self {
            Self::Breaker => "because the circuit breaker threshold was exceeded.",
            Self::Alarms => "because of alarm(s) in ALARM state.",
            Self::Requested => "because a rollback was requested.",
            Self::Aborted => "because a stop was requested.",
            Self::HookTimedOut => "because a lifecycle hook timed out.",
        }
    }
}

/// Whether the deployment has failed.
pub(super) fn failure(world: &World<'_>, index: usize) -> Option<Failure> {
    let (deployment, service) = (&world.deployments[index], world.service);
    if deployment.rollout_state != RolloutState::InProgress {
        return None;
    }
    let breaker = &service.circuit_breaker;
    match deployment.stop_request {
        Some(StopRequest::Rollback) => return Some(Failure::Requested),
        Some(StopRequest::Abort) => return Some(Failure::Aborted),
        None => {}
    }
    if breaker.enabled && deployment.failed_tasks >= breaker::threshold(breaker, service.desired_count) {
        return Some(Failure::Breaker);
    }
    let alarmed = service.alarms.enabled && !service.alarms.triggered.is_empty();
    (alarmed && !world.is_rollback(index)).then_some(Failure::Alarms)
}

/// After this another deployment may be PRIMARY.
pub(super) fn fail(world: &mut World<'_>, index: usize, failure: Failure) {
    let rolls_back = match failure {
        Failure::Breaker => world.service.circuit_breaker.rollback,
        Failure::Alarms => world.service.alarms.rollback,
        Failure::Requested | Failure::HookTimedOut => true,
        Failure::Aborted => false,
    };
    let was_rollback = world.is_rollback(index);
    let target = world.source(index).filter(|_| rolls_back && !was_rollback);
    let service = &world.service.name;
    let target_id = target.map(|target| world.deployments[target].id.clone());
    let failed = &mut world.deployments[index];
    failed.rollout_state = RolloutState::Failed;
    failed.rollout_reason = failure.rollout_reason().to_owned();
    failed.stop_request = None;
    failed.stage = None;
    world.out.news.push(events::failed(service, &failed.id, failure.said()));
    let done = if target.is_some() { "rolled back" } else { "stopped" };
    if !failed.service_deployment.is_final() {
        failed.service_deployment_reason = Some(format!("Service deployment {done} {}", failure.because()));
    }
    let Some((target, target_id)) = target.zip(target_id) else {
        if !failed.service_deployment.is_final() {
            failed.service_deployment = ServiceDeploymentStatus::Stopped;
        }
        let id = failed.id.clone();
        settle_rollbacks(world, &id, ServiceDeploymentStatus::RollbackFailed);
        return;
    };
    failed.status = DeploymentStatus::Active;
    failed.service_deployment = ServiceDeploymentStatus::RollbackInProgress;
    failed.rolling_back_to = Some(target_id.clone());
    world.out.news.push(events::rolling_back(service, &target_id));
    let back = &mut world.deployments[target];
    back.status = DeploymentStatus::Primary;
    back.rollout_state = RolloutState::InProgress;
    back.rollout_reason = match failure {
        Failure::Breaker => events::rollout_breaker_rolls_back(&target_id),
        _ => events::rollout_rolls_back(&target_id),
    };
    back.failed_tasks = 0;
    back.launches = super::Launches::default();
    back.stage = None;
}

pub(super) fn complete(world: &mut World<'_>, index: usize) {
    let deployment = &mut world.deployments[index];
    deployment.rollout_state = RolloutState::Completed;
    deployment.rollout_reason = events::rollout_completed(&deployment.id);
    deployment.failed_tasks = 0;
    deployment.stage = None;
    if !deployment.service_deployment.is_final() {
        deployment.service_deployment = ServiceDeploymentStatus::Successful;
    }
    let id = deployment.id.clone();
    world.out.say(events::completed(&world.service.name, &id));
    settle_rollbacks(world, &id, ServiceDeploymentStatus::RollbackSuccessful);
}

/// Of the deployments for which `id` has come back.
fn settle_rollbacks(world: &mut World<'_>, id: &str, status: ServiceDeploymentStatus) {
    for deployment in &mut world.deployments {
        if deployment.rolling_back_to.as_deref() == Some(id) && !deployment.service_deployment.is_final() {
            deployment.service_deployment = status;
        }
    }
}

/// What follows for all deployments from which one is PRIMARY and which have tasks. `needed` is not over even if it has
/// none for a moment.
pub(super) fn settle(world: &mut World<'_>, primary: usize, needed: Option<usize>) {
    let primary_id = world.deployments[primary].id.clone();
    for (index, deployment) in world.deployments.iter_mut().enumerate() {
        if deployment.rollout_state != RolloutState::InProgress {
            deployment.stop_request = None;
        }
        if index == primary {
            if deployment.service_deployment == ServiceDeploymentStatus::Pending {
                deployment.service_deployment = ServiceDeploymentStatus::InProgress;
            }
            continue;
        }
        deployment.stop_request = None;
        deployment.stage = None;
        deployment.desired_count = deployment.running_count + deployment.pending_count;
        if !deployment.service_deployment.is_final() {
            match &deployment.rolling_back_to {
                Some(target) if *target == primary_id => {}
                // A newer deployment has come between.
                Some(_) => deployment.service_deployment = ServiceDeploymentStatus::RollbackFailed,
                None => {
                    deployment.service_deployment = ServiceDeploymentStatus::Stopped;
                    deployment.service_deployment_reason =
                        Some("Service deployment stopped because a newer one was started.".to_owned());
                }
            }
        }
        let replaced = world.groups[index].live() == 0 && needed != Some(index);
        // An INACTIVE one is forgotten: not before it is known whether the rollback came to its end.
        let over = replaced && deployment.service_deployment.is_final();
        deployment.status = if over { DeploymentStatus::Inactive } else { DeploymentStatus::Active };
    }
}
