//! BLUE_GREEN, LINEAR and CANARY: the new revision ("green") is brought up whole beside the old one ("blue"), gets the
//! test traffic, then the production traffic at once or by steps, and the old one goes.
//!
//! ```text
//!  RECONCILE_SERVICE ─► PRE_SCALE_UP ─► SCALE_UP ─► POST_SCALE_UP ─► TEST_TRAFFIC_SHIFT ─► POST_TEST_TRAFFIC_SHIFT
//!       ┌─────────────────────────────────────────────────────────────────────────────────────────┘
//!       ▼                        (each step of LINEAR and CANARY)
//!  PRE_PRODUCTION_TRAFFIC_SHIFT ◄──────────┐
//!       ▼                                  │
//!  PRODUCTION_TRAFFIC_SHIFT ─(step's bake)─┴─► POST_PRODUCTION_TRAFFIC_SHIFT ─► BAKE_TIME ─► CLEAN_UP ─► COMPLETED
//! ```
//!
//! One stage at a time is entered, each by a write of its own. RECONCILE_SERVICE is for what an interrupted deployment has
//! left. The first deployment of a service has no blue: it gets all traffic and bakes nothing. Percentages of the
//! rolling update hold for each revision by itself.

use jiff::{SignedDuration, Timestamp};

use super::health::after;
use super::reconcile::{Wanted, reconcile};
use super::rollout::{self, Failure};
use super::world::{World, is_open};
use super::{
    Action, DeploymentStatus, HookAction, HookRun, HookStatus, Listener, RolloutState, Stage, StageRun,
    Strategy, rolling,
};

pub(super) fn shift(world: &mut World<'_>, primary: usize) {
    match world.deployments[primary].rollout_state {
        RolloutState::InProgress if world.is_rollback(primary) => roll_back(world, primary),
        RolloutState::InProgress => advance(world, primary),
        RolloutState::Completed => {
            bring(world, primary, Scale::Whole, primary);
            bring_others(world, primary, None, Scale::Nothing);
        }
        // As it was when it failed; who serves goes on serving.
        RolloutState::Failed => {
            bring(world, primary, Scale::Whole, primary);
            bring_others(world, primary, blue_of(world, primary), Scale::Nothing);
        }
    }
    world.deployments[primary].desired_count = world.service.desired_count;
}

/// How many tasks a revision is to have.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Scale {
    Whole,
    /// What it has, without replacement.
    AsItIs,
    Nothing,
}

fn bring(world: &mut World<'_>, index: usize, scale: Scale, initiator: usize) {
    let initiator = world.deployments[initiator].id.clone();
    let nothing =
        Wanted { count: 0, minimum: 0, maximum: 0, may_start: false, before_former_go: 0, rebalance: false };
    let wanted = match scale {
        Scale::Nothing => nothing,
        _ if index >= world.deployments.len() => return,
        Scale::Whole => rolling::wanted(world, index),
        Scale::AsItIs => Wanted { may_start: false, rebalance: false, ..rolling::wanted(world, index) },
    };
    // Only of who is PRIMARY zones are made even, and only it may say that they are.
    if scale == Scale::Whole || world.groups[index].live() > 0 {
        let rebalancing =
            world.deployments.get(index).is_some_and(|it| it.status == DeploymentStatus::Primary);
        let wanted = Wanted { rebalance: wanted.rebalance && rebalancing, ..wanted };
        reconcile(world, index, &[], &wanted, &initiator);
    }
}

/// All but `primary`: `but` stays whole, and who is known to have traffic goes only when it has none.
fn bring_others(world: &mut World<'_>, primary: usize, but: Option<usize>, scale: Scale) {
    for index in (0..world.groups.len()).filter(|&index| index != primary) {
        let serves = world.deployments.get(index).is_some_and(|it| it.production_permille > Some(0));
        let scale = match scale {
            _ if but == Some(index) => Scale::Whole,
            Scale::Nothing if serves => Scale::AsItIs,
            scale => scale,
        };
        bring(world, index, scale, primary);
    }
}

fn minimum(world: &mut World<'_>, index: usize) -> usize {
    rolling::wanted(world, index).minimum
}

fn others_live(world: &World<'_>, but: [Option<usize>; 2]) -> usize {
    let others = (0..world.groups.len()).filter(|&index| !but.contains(&Some(index)));
    others.map(|index| world.groups[index].live()).sum()
}

/// What green takes the place of: what it could be rolled back to, else one that serves although it was never COMPLETED.
pub(super) fn blue_of(world: &World<'_>, green: usize) -> Option<usize> {
    let serves = |&index: &usize| {
        let it = &world.deployments[index];
        let group = &world.groups[index];
        let can = group.live() > 0 || it.rollout_state == RolloutState::InProgress;
        // Of one that was rolled out nothing is said: it serves with what is healthy.
        let has_traffic = it.production_permille.map_or(!group.healthy.is_empty(), |permille| permille > 0);
        index != green && can && has_traffic && it.status != DeploymentStatus::Inactive
    };
    let best = |&index: &usize| {
        let permille = world.deployments[index].production_permille;
        (permille.is_some(), world.groups[index].healthy.len(), permille)
    };
    let serving = (0..world.deployments.len()).filter(serves);
    world.source(green).or_else(|| serving.max_by_key(best))
}

fn advance(world: &mut World<'_>, green: usize) {
    let blue = blue_of(world, green);
    let Some(run) = world.deployments[green].stage.clone() else {
        let interrupted = others_live(world, [Some(green), blue]) > 0;
        let first = if interrupted { Stage::ReconcileService } else { Stage::PreScaleUp };
        begin(world, green, first, 0);
        return;
    };
    let cleaning = run.stage == Stage::CleanUp;
    let production = match (blue, run.stage) {
        (None, _) => 1000,
        (_, stage) if stage > Stage::ProductionTrafficShift => 1000,
        (_, Stage::ProductionTrafficShift) => weight(world.service.strategy, run.step),
        (_, Stage::PreProductionTrafficShift) => weight(world.service.strategy, run.step.saturating_sub(1)),
        _ => 0,
    };
    let test = if blue.is_none() || run.stage >= Stage::TestTrafficShift { 1000 } else { 0 };
    let produced = shifted(world, Listener::Production, green, production, blue);
    let tested = shifted(world, Listener::Test, green, test, blue);
    bring(world, green, if run.stage >= Stage::ScaleUp { Scale::Whole } else { Scale::AsItIs }, green);
    // What an interrupted deployment has left serves until blue does.
    let left = if run.stage == Stage::ReconcileService && !produced { Scale::AsItIs } else { Scale::Nothing };
    bring_others(world, green, blue.filter(|_| !cleaning), left);
    let hooks = match hooks(world, green, &run) {
        Ok(done) => done,
        Err(failure) => return rollout::fail(world, green, failure),
    };
    if !(produced && tested && hooks) {
        return;
    }
    if cleaning {
        if others_live(world, [Some(green), None]) == 0 {
            rollout::complete(world, green);
        }
    } else if let Some((stage, step)) = next(world, green, blue, &run) {
        begin(world, green, stage, step);
    }
}

/// What follows when the traffic is where it should be and the hooks have passed; `None`: not yet.
fn next(world: &mut World<'_>, green: usize, blue: Option<usize>, run: &StageRun) -> Option<(Stage, u32)> {
    let healthy = world.groups[green].healthy.len();
    let can_serve = healthy >= minimum(world, green);
    let step = run.step;
    match run.stage {
        Stage::ReconcileService => {
            (others_live(world, [Some(green), blue]) == 0).then_some((Stage::PreScaleUp, step))
        }
        Stage::PreScaleUp => Some((Stage::ScaleUp, step)),
        Stage::ScaleUp => {
            (healthy >= world.service.desired_count as usize).then_some((Stage::PostScaleUp, step))
        }
        Stage::PostScaleUp => Some((Stage::TestTrafficShift, step)),
        Stage::TestTrafficShift => Some((Stage::PostTestTrafficShift, step)),
        Stage::PostTestTrafficShift => Some((Stage::PreProductionTrafficShift, 1)),
        Stage::PreProductionTrafficShift => can_serve.then_some((Stage::ProductionTrafficShift, step)),
        Stage::ProductionTrafficShift => {
            if blue.is_none() || weight(world.service.strategy, step) == 1000 {
                return Some((Stage::PostProductionTrafficShift, step));
            }
            let minutes = step_bake_minutes(world.service.strategy);
            is_past(world, run.began_at, minutes).then_some((Stage::PreProductionTrafficShift, step + 1))
        }
        Stage::PostProductionTrafficShift if blue.is_some() => Some((Stage::BakeTime, step)),
        Stage::PostProductionTrafficShift => can_serve.then_some((Stage::CleanUp, step)),
        Stage::BakeTime => {
            let minutes = world.service.bake_time_minutes;
            (is_past(world, run.began_at, minutes) && can_serve).then_some((Stage::CleanUp, step))
        }
        Stage::CleanUp => None,
    }
}

fn begin(world: &mut World<'_>, green: usize, stage: Stage, step: u32) {
    let now = world.now;
    let of_stage = world.service.hooks.iter().enumerate().filter(|(_, hook)| hook.stages.contains(&stage));
    let hooks = of_stage.map(|(index, hook)| HookRun {
        index,
        status: HookStatus::AwaitingAction,
        expires_at: minutes_after(now, hook.timeout_minutes),
        timeout_action: hook.timeout_action,
    });
    let hooks = hooks.collect();
    world.deployments[green].stage = Some(StageRun { stage, step, began_at: now, hooks });
}

/// Whether all hooks of the stage have passed.
fn hooks(world: &mut World<'_>, green: usize, run: &StageRun) -> Result<bool, Failure> {
    let mut passed = true;
    for hook in &run.hooks {
        let expired = is_open(hook.status) && hook.expires_at <= world.now;
        if expired {
            let deployment = world.deployments[green].id.clone();
            world.out.expired_hooks.push(Action::ExpireHook { deployment, index: hook.index });
        } else if is_open(hook.status) {
            world.out.wake(hook.expires_at);
            passed = false;
            continue;
        }
        match (hook.status, hook.timeout_action) {
            (HookStatus::Succeeded, _) => {}
            (HookStatus::Failed, _) => return Err(Failure::Requested),
            (_, HookAction::Continue) => {}
            (_, HookAction::Rollback) => return Err(Failure::HookTimedOut),
        }
    }
    Ok(passed)
}

/// What green gets in the step.
fn weight(strategy: Strategy, step: u32) -> u32 {
    match (strategy, step) {
        (_, 0) => 0,
        (Strategy::Linear { step_permille, .. }, step) => step_permille.saturating_mul(step).clamp(1, 1000),
        (Strategy::Canary { permille, .. }, 1) => permille.clamp(1, 1000),
        _ => 1000,
    }
}

fn step_bake_minutes(strategy: Strategy) -> u32 {
    match strategy {
        Strategy::Linear { bake_minutes, .. } | Strategy::Canary { bake_minutes, .. } => bake_minutes,
        Strategy::Rolling | Strategy::BlueGreen => 0,
    }
}

fn minutes_after(from: Timestamp, minutes: u32) -> Timestamp {
    after(from, SignedDuration::from_mins(i64::from(minutes)))
}

fn is_past(world: &mut World<'_>, from: Timestamp, minutes: u32) -> bool {
    let until = minutes_after(from, minutes);
    if until > world.now {
        world.out.wake(until);
    }
    until <= world.now
}

/// Whether the listener sends `permille` to `index` and the rest to `other`; asks for it where it does not. Production
/// traffic is taken from who has it for none but those that can take it.
fn shifted(
    world: &mut World<'_>,
    listener: Listener,
    index: usize,
    permille: u32,
    other: Option<usize>,
) -> bool {
    let mut wanted = vec![(index, permille)];
    wanted.extend(other.map(|other| (other, 1000 - permille)));
    let seen = |world: &World<'_>, index: usize| match listener {
        Listener::Production => world.deployments[index].production_permille,
        Listener::Test => world.deployments[index].test_permille,
    };
    if wanted.iter().all(|&(index, permille)| seen(world, index) == Some(permille)) {
        return true;
    }
    let takes = |index| wanted.iter().any(|&(it, permille)| it == index && permille > 0);
    let serves = |index: usize| match seen(world, index) {
        Some(permille) => permille > 0 && world.groups[index].live() > 0,
        // It was rolled out, and would lose what it has.
        None => !world.groups[index].healthy.is_empty() && !takes(index),
    };
    let is_served = (0..world.deployments.len()).any(serves);
    if listener == Listener::Production && is_served {
        for &(index, permille) in &wanted {
            let grows = permille > seen(world, index).unwrap_or(0);
            // One that failed will never have more than now.
            let can_grow = world.deployments[index].rollout_state != RolloutState::Failed;
            if grows && can_grow && world.groups[index].healthy.len() < minimum(world, index) {
                return false;
            }
        }
    }
    let permille =
        wanted.into_iter().map(|(index, permille)| (world.deployments[index].id.clone(), permille)).collect();
    world.out.shifts.push(Action::ShiftTraffic { listener, permille });
    false
}

/// A deployment has failed; `blue` is PRIMARY again. Traffic goes back when `blue` can take it, then the others go.
fn roll_back(world: &mut World<'_>, blue: usize) {
    bring(world, blue, Scale::Whole, blue);
    let can_serve = world.groups[blue].healthy.len() >= minimum(world, blue);
    let failed = world.others(blue).into_iter().rfind(|&index| index < world.deployments.len());
    let back = can_serve && {
        let produced = shifted(world, Listener::Production, blue, 1000, failed);
        let tested = shifted(world, Listener::Test, blue, 1000, failed);
        produced && tested
    };
    for index in world.others(blue) {
        bring(world, index, if back { Scale::Nothing } else { Scale::AsItIs }, blue);
    }
    if back && world.others(blue).is_empty() && rolling::is_whole(world, blue) {
        rollout::complete(world, blue);
    }
}
