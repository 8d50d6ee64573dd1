//! What has become of tasks since the last plan: each first health and each end is counted once.

use super::backoff;
use super::world::World;
use super::{Accounted, DeploymentStatus, End, RolloutState, Task, events};

pub(super) fn account(world: &mut World<'_>) {
    healthy(world);
    started(world);
    ended(world);
}

/// Before the ends: failures that are seen together with a success still count.
fn healthy(world: &mut World<'_>) {
    let reset = world.service.circuit_breaker.reset_on_healthy_task;
    for (deployment, group) in world.deployments.iter_mut().zip(&world.groups) {
        let new = group.healthy.iter().filter(|task| task.accounted == Accounted::New);
        let before = world.out.account_healthy.len();
        world.out.account_healthy.extend(new.map(|task| task.id.clone()));
        if reset && world.out.account_healthy.len() > before {
            deployment.failed_tasks = 0;
        }
    }
}

fn started(world: &mut World<'_>) {
    for task in world.tasks {
        if let (Some(started_at), Some(&index)) =
            (task.started_at, world.indexes.get(task.deployment.as_str()))
        {
            backoff::started(&mut world.deployments[index].launches, started_at);
        }
    }
}

fn ended(world: &mut World<'_>) {
    for task in world.tasks.iter().filter(|task| task.accounted != Accounted::Ended) {
        let Some(end) = task.end else { continue };
        world.out.account_ended.push(task.id.clone());
        let Some(&index) = world.indexes.get(task.deployment.as_str()) else { continue };
        let deployment = &mut world.deployments[index];
        if end == End::Failed
            && task.started_at.is_none()
            && backoff::failed(&mut deployment.launches, task, world.now)
            && backoff::delays(&deployment.launches)
            && deployment.status == DeploymentStatus::Primary
        {
            world.out.news.push(events::launches_delayed(&world.service.name));
        }
        if deployment.rollout_state == RolloutState::InProgress && is_failure(task, end) {
            deployment.failed_tasks = deployment.failed_tasks.saturating_add(1);
        }
    }
}

/// It never was of any use, or it failed its checks.
fn is_failure(task: &Task, end: End) -> bool {
    match end {
        End::Unhealthy => true,
        End::Failed => task.accounted == Accounted::New,
        End::Scaled | End::Other => false,
    }
}
