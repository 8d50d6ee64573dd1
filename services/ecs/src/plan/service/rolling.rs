//! ROLLING: old tasks make way for new ones, within the bounds.

use jiff::SignedDuration;

use super::breaker::{percent_down, percent_up};
use super::health::after;
use super::reconcile::{Outcome, Wanted, reconcile};
use super::world::World;
use super::{
    Action, DeploymentStatus, EarlySuccess, RolloutState, Stage, StageRun, backoff, events, rollout,
};

/// What the service's configuration says for a deployment.
pub(super) fn wanted(world: &mut World<'_>, index: usize) -> Wanted {
    let service = world.service;
    let desired = service.desired_count;
    let at_rest = world.deployments[index].rollout_state == RolloutState::Completed;
    Wanted {
        count: desired as usize,
        minimum: percent_up(desired, service.minimum_healthy_percent) as usize,
        maximum: percent_down(desired, service.maximum_percent).max(desired) as usize,
        may_start: may_start(world, index),
        before_former_go: desired as usize,
        rebalance: service.rebalancing && at_rest,
    }
}

fn may_start(world: &mut World<'_>, index: usize) -> bool {
    let deployment = &world.deployments[index];
    if deployment.rollout_state == RolloutState::Failed || world.service.zones.is_empty() {
        return false;
    }
    match backoff::next_start(&deployment.launches) {
        Some(at) if at > world.now => {
            world.out.wake(at);
            false
        }
        _ => true,
    }
}

pub(super) fn roll(world: &mut World<'_>, primary: usize) {
    let former = world.others(primary);
    let early = early_success(world, primary);
    let mut wanted = wanted(world, primary);
    wanted.rebalance &= former.is_empty();
    if early.is_some() {
        wanted.before_former_go = 0;
    }
    let id = world.deployments[primary].id.clone();
    let outcome = reconcile(world, primary, &former, &wanted, &id);
    world.deployments[primary].desired_count = world.service.desired_count;
    say_blocked(world, primary, &former, &outcome);
    if world.deployments[primary].rollout_state != RolloutState::InProgress {
        return;
    }
    let done = match early {
        Some(criteria) => !criteria.after_cleanup || former.is_empty(),
        None => former.is_empty() && is_whole(world, primary),
    };
    if done && baked(world, primary) {
        rollout::complete(world, primary);
    }
}

/// The criteria, where they are met.
fn early_success(world: &World<'_>, primary: usize) -> Option<EarlySuccess> {
    let service = world.service;
    let criteria = service.early_success?;
    let enough = percent_up(service.desired_count, criteria.healthy_percent) as usize;
    (world.groups[primary].healthy.len() >= enough).then_some(criteria)
}

/// All tasks of the deployment are healthy and none is too many.
pub(super) fn is_whole(world: &World<'_>, index: usize) -> bool {
    let group = &world.groups[index];
    group.healthy.len() == group.live() && group.live() == world.service.desired_count as usize
}

/// The one that a zone gets before another one gives its own is no disturbance.
pub(super) fn is_whole_but_rebalancing(world: &World<'_>, index: usize) -> bool {
    let (group, desired) = (&world.groups[index], world.service.desired_count as usize);
    let enough = group.healthy.len() >= desired && group.unhealthy.is_empty() && group.live() <= desired + 1;
    world.service.steady && world.service.rebalancing_now && enough
}

fn baked(world: &mut World<'_>, primary: usize) -> bool {
    let (now, minutes) = (world.now, world.service.bake_time_minutes);
    if minutes == 0 {
        return true;
    }
    let stage = &mut world.deployments[primary].stage;
    let run =
        stage.get_or_insert(StageRun { stage: Stage::BakeTime, step: 0, began_at: now, hooks: Vec::new() });
    let until = after(run.began_at, SignedDuration::from_mins(i64::from(minutes)));
    if until > now {
        world.out.wake(until);
    }
    until <= now
}

/// The bounds can forbid every step, for ever: somebody has to be told.
fn say_blocked(world: &mut World<'_>, primary: usize, former: &[usize], outcome: &Outcome) {
    let own = &world.groups[primary];
    let waits_for_itself = world.deployments[primary].status != DeploymentStatus::Primary
        || world.deployments[primary].rollout_state != RolloutState::InProgress
        || backoff::next_start(&world.deployments[primary].launches).is_some_and(|at| at > world.now)
        || world.service.zones.is_empty();
    let blocked = outcome.missing > 0
        && outcome.started == 0
        && outcome.stopped == 0
        && !outcome.protected
        && own.starting.is_empty()
        && own.unhealthy.is_empty()
        && former.iter().all(|&index| world.groups[index].healthy.len() == world.groups[index].live())
        && !former.is_empty()
        && !waits_for_itself;
    if blocked == world.service.blocked {
        return;
    }
    world.out.last.push(Action::SetBlocked(blocked));
    if blocked {
        world.out.say(events::blocked(&world.service.name));
    }
}
