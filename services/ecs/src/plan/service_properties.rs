//! The service scheduler in worlds where anything happens: `service_simulation.rs` holds every plan to its promises, and
//! when the world is calm again all is as it was asked for.

use jiff::SignedDuration;
use proptest::prelude::*;

use super::service::{
    Controller, DeploymentStatus, EarlySuccess, End, Hook, HookAction, HookStatus, RolloutState, Stability,
    Stage, StopRequest, Strategy as Rollout, TargetState,
};
use super::service_simulation::{Fate, Simulation, service};

#[derive(Clone, Debug)]
enum Step {
    Live,
    Clock {
        seconds: i64,
    },
    Kill {
        task: usize,
    },
    /// StopTask by somebody.
    Stop {
        task: usize,
    },
    Sicken {
        task: usize,
    },
    Heal,
    /// ELB does not know for a moment.
    Flap {
        task: usize,
    },
    Protect {
        task: usize,
    },
    Update {
        fate: Fate,
    },
    Scale {
        desired: u32,
    },
    Bounds {
        minimum: u32,
        maximum: u32,
    },
    Rebalance {
        on: bool,
    },
    /// All tasks of one zone are somewhere else.
    Crowd {
        zone: usize,
    },
    Alarm {
        on: bool,
    },
    StopDeployment {
        request: StopRequest,
    },
    Continue {
        with: HookStatus,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let task = 0usize..40;
    let fate = prop_oneof![
        3 => Just(Fate::Good),
        1 => Just(Fate::NeverRuns),
        1 => Just(Fate::Crashes),
        1 => Just(Fate::FailsTarget),
        1 => Just(Fate::FailsContainer),
    ];
    let bounds = prop_oneof![
        Just((100, 200)),
        Just((50, 100)),
        Just((50, 150)),
        Just((0, 100)),
        Just((75, 125)),
        Just((100, 110)),
    ];
    prop_oneof![
        12 => Just(Step::Live),
        3 => prop_oneof![Just(1i64), Just(41), Just(600), Just(3600)].prop_map(|seconds| Step::Clock { seconds }),
        3 => task.clone().prop_map(|task| Step::Kill { task }),
        1 => task.clone().prop_map(|task| Step::Stop { task }),
        3 => task.clone().prop_map(|task| Step::Sicken { task }),
        1 => Just(Step::Heal),
        2 => task.clone().prop_map(|task| Step::Flap { task }),
        1 => task.prop_map(|task| Step::Protect { task }),
        2 => fate.prop_map(|fate| Step::Update { fate }),
        2 => (0u32..12).prop_map(|desired| Step::Scale { desired }),
        1 => bounds.prop_map(|(minimum, maximum)| Step::Bounds { minimum, maximum }),
        1 => any::<bool>().prop_map(|on| Step::Rebalance { on }),
        1 => (0usize..3).prop_map(|zone| Step::Crowd { zone }),
        1 => any::<bool>().prop_map(|on| Step::Alarm { on }),
        1 => prop_oneof![Just(StopRequest::Rollback), Just(StopRequest::Abort)]
            .prop_map(|request| Step::StopDeployment { request }),
        2 => prop_oneof![2 => Just(HookStatus::Succeeded), 1 => Just(HookStatus::Failed)]
            .prop_map(|with| Step::Continue { with }),
    ]
}

fn rollout() -> impl Strategy<Value = Rollout> {
    prop_oneof![
        4 => Just(Rollout::Rolling),
        1 => Just(Rollout::BlueGreen),
        1 => Just(Rollout::Linear { step_permille: 300, bake_minutes: 2 }),
        1 => Just(Rollout::Canary { permille: 100, bake_minutes: 3 }),
    ]
}

fn take(world: &mut Simulation, step: &Step, groups: [&str; 2]) {
    let id_of = |world: &Simulation, task: usize| {
        let live: Vec<&str> = world.live().map(|task| task.id.as_str()).collect();
        (!live.is_empty()).then(|| live[task % live.len()].to_owned())
    };
    match *step {
        Step::Live => drop(world.live_on()),
        Step::Clock { seconds } => world.now += SignedDuration::from_secs(seconds),
        Step::Kill { task } | Step::Stop { task } => {
            let end = if matches!(step, Step::Kill { .. }) { End::Failed } else { End::Other };
            let Some(id) = id_of(world, task) else { return };
            world.task(&id).end = Some(end);
        }
        Step::Sicken { task } => {
            if let Some(id) = id_of(world, task) {
                world.sicken(&id);
            }
        }
        Step::Heal => world.sick.clear(),
        Step::Flap { task } => {
            let Some(id) = id_of(world, task) else { return };
            for target in &mut world.task(&id).targets {
                if target.state != TargetState::Draining {
                    target.state = TargetState::Initial;
                }
            }
        }
        Step::Protect { task } => {
            let until = world.now + SignedDuration::from_mins(20);
            let Some(id) = id_of(world, task) else { return };
            world.task(&id).protected_until = Some(until);
        }
        Step::Update { fate } => update(world, fate, groups),
        Step::Scale { desired } => world.snapshot.service.desired_count = desired,
        Step::Bounds { minimum, maximum } => {
            world.snapshot.service.minimum_healthy_percent = minimum;
            world.snapshot.service.maximum_percent = maximum;
        }
        Step::Rebalance { on } => world.snapshot.service.rebalancing = on,
        Step::Crowd { zone } => {
            let zone = world.snapshot.service.zones[zone].clone();
            world.snapshot.tasks.iter_mut().for_each(|task| task.zone.clone_from(&zone));
        }
        Step::Alarm { on } => {
            world.snapshot.service.alarms.triggered = if on { vec!["alarm".into()] } else { Vec::new() };
        }
        Step::StopDeployment { request } => {
            let id = world.primary().id.clone();
            world.deployment(&id).stop_request = Some(request);
        }
        Step::Continue { with } => {
            let id = world.primary().id.clone();
            let hooks = world.deployment(&id).stage.iter_mut().flat_map(|run| &mut run.hooks);
            for hook in hooks.filter(|hook| hook.status == HookStatus::AwaitingAction) {
                hook.status = with;
            }
        }
    }
}

/// The new one uses the group that the one to come back to does not.
fn update(world: &mut Simulation, fate: Fate, groups: [&str; 2]) {
    let shifts = world.snapshot.service.strategy != Rollout::Rolling;
    let completed = |it: &&super::service::Deployment| it.rollout_state == RolloutState::Completed;
    let blue = world.snapshot.deployments.iter().filter(completed).max_by_key(|it| it.created_at);
    let used = blue.and_then(|it| it.target_groups.first().cloned());
    let group = if shifts && used.as_deref() == Some(groups[0]) { groups[1] } else { groups[0] };
    let with_balancer = !groups[0].is_empty();
    world.deploy(fate, if with_balancer { std::slice::from_ref(&group) } else { &[] });
}

/// Nothing fails any more; what was given up is asked for again.
fn calm(world: &mut Simulation, groups: [&str; 2]) {
    world.sick.clear();
    world.fates.values_mut().for_each(|fate| *fate = Fate::Good);
    world.snapshot.service.alarms.triggered.clear();
    world.snapshot.service.maximum_percent = 200;
    world.snapshot.service.hooks.clear();
    let (id, failed) = (world.primary().id.clone(), world.primary().rollout_state == RolloutState::Failed);
    world.deployment(&id).stop_request = None;
    if failed {
        update(world, Fate::Good, groups);
    }
    world.settle(3000);
    if world.primary().rollout_state == RolloutState::Failed {
        // Failures from before were still to be counted.
        update(world, Fate::Good, groups);
        world.settle(3000);
    }
}

fn check_calm(world: &Simulation) {
    let service = &world.snapshot.service;
    let desired = service.desired_count as usize;
    let primary = world.primary();
    assert_eq!(primary.rollout_state, RolloutState::Completed, "{:?}", world.snapshot);
    assert_eq!((world.healthy(), world.live().count()), (desired, desired), "{:?}", world.snapshot);
    assert_eq!(world.live_of(&primary.id), desired);
    assert!(service.steady && !service.rebalancing_now, "{service:?}");
    assert!(world.snapshot.tasks.iter().all(|task| task.end.is_none()), "every end came to its end");
    for other in world.snapshot.deployments.iter().filter(|it| it.id != primary.id) {
        assert_eq!(other.status, DeploymentStatus::Inactive);
        assert!(other.service_deployment.is_final(), "{other:?}");
    }
    if service.rebalancing && service.maximum_percent > 100 && desired > 1 {
        let load = service.zones.iter().map(|zone| world.live().filter(|task| task.zone == *zone).count());
        let load: Vec<usize> = load.collect();
        assert!(load.iter().max().unwrap() - load.iter().min().unwrap() <= 1, "{load:?}");
    }
    if !primary.target_groups.is_empty()
        && service.strategy != Rollout::Rolling
        && !world.production.is_empty()
    {
        let serving: u32 =
            world.production.iter().filter(|(id, _)| *id == primary.id).map(|(_, it)| *it).sum();
        assert_eq!(serving, 1000, "{:?}", world.production);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_the_promises_hold_and_in_the_end_all_is_as_asked(
        rollout in rollout(),
        balanced in any::<bool>(),
        breaker in any::<bool>(),
        hook in any::<bool>(),
        bake_time_minutes in 0u32..3,
        early in proptest::option::of((50u32..=100, any::<bool>())),
        grace_period_seconds in prop_oneof![Just(0u32), Just(60)],
        desired in 0u32..10,
        steps in proptest::collection::vec(step(), 0..120),
    ) {
        let groups = if balanced { ["tg-1", "tg-2"] } else { ["", ""] };
        let mut service = service("web", desired);
        service.strategy = rollout;
        service.bake_time_minutes = bake_time_minutes;
        service.grace_period_seconds = grace_period_seconds;
        service.circuit_breaker.enabled = breaker;
        service.circuit_breaker.rollback = breaker;
        service.alarms.enabled = true;
        service.alarms.rollback = true;
        if rollout == Rollout::Rolling {
            service.early_success =
                early.map(|(healthy_percent, after_cleanup)| EarlySuccess { healthy_percent, after_cleanup });
        } else if hook {
            let stages = vec![Stage::PreScaleUp, Stage::PreProductionTrafficShift];
            service.hooks = vec![Hook { stages, timeout_minutes: 30, timeout_action: HookAction::Continue }];
        }
        let mut world = Simulation::new(service);
        update(&mut world, Fate::Good, groups);
        for step in &steps {
            take(&mut world, step, groups);
            world.act();
        }
        calm(&mut world, groups);
        check_calm(&world);
    }

    #[test]
    fn task_sets_come_to_their_scale(
        desired in 0u32..20,
        scales in proptest::collection::vec(0u32..=1000, 1..4),
        kills in proptest::collection::vec(0usize..20, 0..10),
    ) {
        let mut service = service("web", desired);
        service.controller = Controller::External;
        let mut world = Simulation::new(service);
        for scale in &scales {
            let id = world.deploy(Fate::Good, &["tg"]);
            world.deployment(&id).scale_permille = *scale;
        }
        for kill in kills {
            world.live_on();
            let live: Vec<String> = world.live().map(|task| task.id.clone()).collect();
            if !live.is_empty() {
                world.task(&live[kill % live.len()]).end = Some(End::Failed);
            }
        }
        world.settle(200);
        for (set, scale) in world.snapshot.deployments.iter().zip(&scales) {
            let count = (u64::from(desired) * u64::from(*scale)).div_ceil(1000);
            prop_assert_eq!(world.live_of(&set.id) as u64, count);
            prop_assert_eq!(set.stability, Stability::SteadyState);
        }
        prop_assert!(world.snapshot.service.steady);
        let first = world.snapshot.deployments[0].id.clone();
        world.deployment(&first).status = DeploymentStatus::Draining;
        world.settle(200);
        prop_assert!(world.snapshot.tasks.iter().all(|task| task.deployment != first));
        prop_assert!(world.snapshot.deployments.iter().all(|set| set.id != first), "it is INACTIVE");
    }
}
