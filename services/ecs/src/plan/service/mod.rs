//! The service scheduler: a service as it is wanted, as it is seen, and the time → what to do. Pure.
//!
//! The planner is told all and does nothing; `controllers/` acts. What it has to remember between two plans is in the
//! snapshot, because its own actions have put it there: a plan that is lost or done by half is followed by another one
//! that says the rest.

mod accounting;
mod action;
mod backoff;
mod breaker;
pub(crate) mod events;
mod health;
mod reconcile;
mod registration;
mod rolling;
mod rollout;
mod snapshot;
mod states;
mod task_sets;
mod traffic;
mod world;
mod zones;

pub(crate) use action::{Action, DeploymentChange, Listener, Plan};
pub(crate) use backoff::refused as refused_launch;
pub(crate) use breaker::threshold;
pub(crate) use snapshot::{
    Accounted, Alarms, CircuitBreaker, ContainerHealth, Controller, Deployment, EarlySuccess, End, Endpoints,
    Hook, Instance, Phase, Service, ServiceStatus, Snapshot, Strategy, Target, TargetState, Task, Threshold,
};
pub(crate) use states::{
    DeploymentStatus, HookAction, HookRun, HookStatus, Launches, RolloutState, ServiceDeploymentStatus,
    Stability, Stage, StageRun, StopRequest,
};

use world::World;

/// What to do now. Near linear in tasks.
pub(crate) fn plan(snapshot: &Snapshot, now: jiff::Timestamp) -> Plan {
    let mut world = World::new(snapshot, now);
    accounting::account(&mut world);
    match (snapshot.service.status, snapshot.service.controller) {
        (ServiceStatus::Draining, _) => drain(&mut world),
        (ServiceStatus::Active, Controller::External) => {
            task_sets::bring(&mut world);
            let steady = task_sets::are_steady(&world);
            set_steady(&mut world, steady);
        }
        (ServiceStatus::Active, Controller::Ecs) => deploy(&mut world),
    }
    world.into_plan()
}

fn deploy(world: &mut World<'_>) {
    let Some(failing) = world.primary() else { return };
    if let Some(failure) = rollout::failure(world, failing) {
        rollout::fail(world, failing, failure);
        if world.primary() != Some(failing) {
            // What comes back may be whole at once. That it came back is written first, so that both are told.
            return set_steady(world, false);
        }
    }
    let Some(primary) = world.primary() else { return };
    match world.service.strategy {
        Strategy::Rolling => rolling::roll(world, primary),
        Strategy::BlueGreen | Strategy::Linear { .. } | Strategy::Canary { .. } => {
            traffic::shift(world, primary)
        }
    }
    // A hook may have failed the deployment.
    let Some(primary) = world.primary() else { return };
    let at_rest = world.deployments[primary].rollout_state == RolloutState::Completed;
    let shifts = world.service.strategy != Strategy::Rolling;
    let needed = traffic::blue_of(world, primary).filter(|_| shifts && !at_rest);
    rollout::settle(world, primary, needed);
    let whole = rolling::is_whole(world, primary) || rolling::is_whole_but_rebalancing(world, primary);
    let completed = world.deployments[primary].rollout_state == RolloutState::Completed;
    let steady = completed && whole && world.others(primary).is_empty();
    set_steady(world, steady);
}

fn set_steady(world: &mut World<'_>, steady: bool) {
    if steady == world.service.steady {
        return;
    }
    world.out.last.push(Action::SetSteady(steady));
    if steady {
        world.out.say(events::steady(&world.service.name));
    }
}

/// DeleteService: protection and bounds do not hold any more.
fn drain(world: &mut World<'_>) {
    for index in 0..world.groups.len() {
        let tasks: Vec<&Task> = world.groups[index].tasks().collect();
        for task in tasks {
            world.out.stop(task, events::scaling(&task.deployment));
        }
        if let Some(deployment) = world.deployments.get_mut(index) {
            deployment.desired_count = 0;
        }
    }
    if world.tasks.iter().all(|task| task.phase == Phase::Stopped && task.is_nowhere()) {
        for deployment in &mut world.deployments {
            deployment.status = DeploymentStatus::Inactive;
        }
        world.out.last.push(Action::EndService);
    }
}
