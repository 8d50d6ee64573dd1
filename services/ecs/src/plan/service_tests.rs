//! The service scheduler in its simulated world: stories with known ends.

use super::service::{
    Action, ContainerHealth, DeploymentStatus, EarlySuccess, End, Hook, HookAction, HookStatus, Phase,
    RolloutState, ServiceDeploymentStatus, ServiceStatus, Stage, StopRequest, Strategy, plan,
};
use super::service_simulation::{Fate, Simulation, service};
use jiff::SignedDuration;

fn steady(name: &str, desired: u32, groups: &[&str]) -> (Simulation, String) {
    let mut world = Simulation::new(service(name, desired));
    let first = world.deploy(Fate::Good, groups);
    world.settle(200);
    assert!(world.snapshot.service.steady);
    (world, first)
}

fn said(world: &Simulation, what: &str) -> usize {
    world.said.iter().filter(|said| said.contains(what)).count()
}

fn zones(world: &Simulation) -> Vec<usize> {
    ["a", "b", "c"].map(|zone| world.live().filter(|task| task.zone == zone).count()).to_vec()
}

#[test]
fn a_service_comes_up_over_its_zones_and_says_so_once() {
    let (world, first) = steady("web", 7, &["tg"]);
    assert_eq!(world.live().count(), 7);
    assert_eq!(zones(&world), [3, 2, 2]);
    assert_eq!(said(&world, "(service web) has reached a steady state."), 1);
    assert_eq!(said(&world, "(service web) has started 7 tasks: (task "), 1);
    assert_eq!(said(&world, "(service web) registered 7 targets in (target-group tg)"), 1);
    let primary = world.primary();
    assert_eq!(primary.rollout_state, RolloutState::Completed);
    assert_eq!(primary.rollout_reason, format!("ECS deployment {first} completed."));
    assert_eq!(primary.service_deployment, ServiceDeploymentStatus::Successful);
    assert_eq!((primary.desired_count, primary.running_count, primary.pending_count), (7, 7, 0));
}

#[test]
fn a_rolling_update_in_the_order_that_was_seen_on_aws() {
    let (mut world, first) = steady("web", 2, &["tg"]);
    world.said.clear();
    world.deploy(Fate::Good, &["tg"]);
    world.settle(200);
    let kinds: Vec<&str> = world
        .said
        .iter()
        .map(|said| {
            let kinds =
                ["started", "deregistered", "registered", "stopped", "begun draining", "completed", "steady"];
            kinds.into_iter().find(|kind| said.contains(kind)).unwrap_or(said)
        })
        .collect();
    let expected =
        ["started", "registered", "stopped", "begun draining", "deregistered", "completed", "steady"];
    assert_eq!(kinds, expected);
    assert!(
        world.snapshot.deployments.iter().any(|it| it.id == first && it.status == DeploymentStatus::Inactive)
    );
}

#[test]
fn several_updates_in_a_second_leave_only_the_last() {
    let (mut world, _) = steady("web", 3, &["tg"]);
    for _ in 0..3 {
        world.deploy(Fate::Good, &["tg"]);
        world.live_on();
    }
    let last = world.primary().id.clone();
    world.settle(200);
    assert_eq!(world.live_of(&last), 3);
    assert_eq!(world.live().count(), 3);
}

#[test]
fn without_room_to_start_old_tasks_go_first_as_far_as_allowed() {
    let (mut world, _) = steady("web", 4, &[]);
    world.snapshot.service.minimum_healthy_percent = 50;
    world.snapshot.service.maximum_percent = 100;
    let second = world.deploy(Fate::Good, &[]);
    world.act();
    assert_eq!((world.healthy(), world.live_of(&second)), (2, 2));
    world.settle(200);
    assert_eq!(world.live_of(&second), 4);
}

#[test]
fn bounds_that_forbid_every_step_are_said_once() {
    let (mut world, first) = steady("web", 1, &[]);
    world.snapshot.service.maximum_percent = 150;
    let second = world.deploy(Fate::Good, &[]);
    world.settle(50);
    assert_eq!((world.live_of(&first), world.live_of(&second)), (1, 0));
    assert_eq!(said(&world, "was unable to stop or start tasks during a deployment"), 1);
    world.snapshot.service.maximum_percent = 200;
    world.settle(200);
    assert_eq!((world.live_of(&first), world.live_of(&second)), (0, 1));
    assert!(!world.snapshot.service.blocked);
}

#[test]
fn a_killed_task_is_replaced_in_its_zone() {
    let (mut world, _) = steady("web", 3, &["tg"]);
    let gone = world.snapshot.tasks[1].zone.clone();
    world.snapshot.tasks[1].end = Some(End::Failed);
    world.snapshot.tasks[1].phase = Phase::Stopped;
    world.act();
    let new = world.live().find(|task| task.phase == Phase::Pending).unwrap();
    assert_eq!(new.zone, gone);
    assert_eq!(world.primary().failed_tasks, 0, "a deployment that is COMPLETED counts no failures");
    world.settle(200);
    assert!(world.snapshot.service.steady);
    assert_eq!(said(&world, "has reached a steady state"), 2);
}

#[test]
fn an_unhealthy_task_goes_when_its_replacement_is_healthy() {
    let (mut world, _) = steady("web", 2, &["tg"]);
    let sick = world.snapshot.tasks[0].id.clone();
    world.sicken(&sick);
    world.act();
    assert_eq!(world.live().count(), 3, "the replacement first");
    assert!(world.live().any(|task| task.id == sick));
    world.settle(100);
    assert!(!world.live().any(|task| task.id == sick));
    assert_eq!(
        said(
            &world,
            "(service web) (port 80) is unhealthy in (target-group tg) due to (reason Health checks failed with these codes: [502])."
        ),
        1
    );
}

#[test]
fn why_a_task_is_stopped_by_its_container() {
    let (mut world, _) = steady("web", 2, &[]);
    let sick = world.snapshot.tasks[0].id.clone();
    world.sicken(&sick);
    let stops = |action: &Action| match action {
        Action::StopTasks { tasks, reason, unhealthy, .. } => {
            Some((tasks.clone(), reason.clone(), *unhealthy))
        }
        _ => None,
    };
    let mut stopped = Vec::new();
    while stopped.is_empty() {
        let next = plan(&world.snapshot, world.now);
        stopped.extend(next.actions.iter().filter_map(stops));
        if next.actions.is_empty() {
            assert!(world.go_on(next.wake_at), "the replacement comes, and then it is stopped");
        } else {
            world.apply(&next);
        }
    }
    assert_eq!(stopped, [(vec![sick.clone()], "Task failed container health checks".to_owned(), true)]);
    assert_eq!(said(&world, &format!("(service web) (task {sick}) failed container health checks.")), 1);
}

#[test]
fn without_room_unhealthy_tasks_go_one_at_a_time() {
    let (mut world, _) = steady("web", 4, &[]);
    world.snapshot.service.maximum_percent = 100;
    world.snapshot.service.minimum_healthy_percent = 50;
    for task in &mut world.snapshot.tasks {
        task.health = ContainerHealth::Unhealthy;
    }
    world.act();
    let ending = world.snapshot.tasks.iter().filter(|task| task.end.is_some()).count();
    assert_eq!((ending, world.live().count()), (1, 4));
    assert_eq!(world.snapshot.tasks[0].end, Some(End::Unhealthy));
}

#[test]
fn scaling_in_keeps_zones_even_and_leaves_the_protected() {
    let (mut world, _) = steady("web", 9, &[]);
    let kept: Vec<String> =
        world.live().filter(|task| task.zone == "a").map(|task| task.id.clone()).collect();
    let until = world.now + SignedDuration::from_mins(5);
    for task in world.snapshot.tasks.iter_mut().filter(|task| task.zone == "a") {
        task.protected_until = Some(until);
    }
    world.snapshot.service.desired_count = 3;
    world.act();
    assert_eq!(zones(&world), [3, 0, 0]);
    assert!(world.live().all(|task| kept.contains(&task.id)));
    let (mut world, _) = steady("web", 9, &[]);
    world.snapshot.service.desired_count = 4;
    world.act();
    assert_eq!(zones(&world), [1, 1, 2]);
}

#[test]
fn a_deployment_waits_for_protected_tasks() {
    let (mut world, first) = steady("web", 2, &[]);
    let until = world.now + SignedDuration::from_mins(30);
    world.snapshot.tasks[0].protected_until = Some(until);
    world.deploy(Fate::Good, &[]);
    while world.now < until {
        assert_eq!(world.primary().rollout_state, RolloutState::InProgress);
        assert!(world.live_on(), "it wakes when the protection ends");
        assert!(world.live_of(&first) > 0 || world.now >= until);
    }
    world.settle(100);
    assert_eq!(world.live_of(&first), 0);
    assert!(world.snapshot.service.steady);
}

#[test]
fn the_breaker_trips_and_rolls_back() {
    for fate in [Fate::NeverRuns, Fate::Crashes, Fate::FailsTarget, Fate::FailsContainer] {
        let (mut world, first) = steady("web", 3, &["tg"]);
        let breaker = &mut world.snapshot.service.circuit_breaker;
        (breaker.enabled, breaker.rollback) = (true, true);
        let second = world.deploy(fate, &["tg"]);
        world.settle(2000);
        assert_eq!(world.primary().id, first, "{fate:?}");
        assert_eq!(world.primary().rollout_state, RolloutState::Completed);
        assert_eq!((world.live_of(&first), world.live_of(&second)), (3, 0));
        assert_eq!(
            said(
                &world,
                &format!("(service web) (deployment {second}) deployment failed: tasks failed to start.")
            ),
            1
        );
        assert_eq!(said(&world, &format!("(service web) rolling back to deployment {first}.")), 1);
        assert_eq!(world.healthy(), 3);
    }
}

#[test]
fn an_alarm_fails_a_deployment_that_goes_well_and_brings_the_former_one_back() {
    for strategy in [Strategy::Rolling, Strategy::BlueGreen] {
        let (mut world, first) = steady("web", 3, &["tg-1"]);
        world.snapshot.service.strategy = strategy;
        world.snapshot.service.bake_time_minutes = 60;
        let alarms = &mut world.snapshot.service.alarms;
        (alarms.enabled, alarms.rollback) = (true, true);
        let second = world.deploy(Fate::Good, &["tg-2"]);
        // It bakes: nothing but the alarm is wrong with it.
        while world.deployment(&second).stage.as_ref().is_none_or(|run| run.stage != Stage::BakeTime) {
            assert!(world.live_on());
        }
        assert_eq!(world.live_of(&second), 3);
        world.snapshot.service.alarms.triggered = vec!["errors".into()];
        world.settle(2000);
        assert_eq!(world.primary().id, first, "{strategy:?}");
        assert_eq!(
            world.primary().rollout_state,
            RolloutState::Completed,
            "the way back is not stopped by it"
        );
        assert_eq!((world.live_of(&first), world.live_of(&second)), (3, 0));
        let failed = format!("(service web) (deployment {second}) deployment failed: alarm detected.");
        assert_eq!(said(&world, &failed), 1);
    }
}

#[test]
fn an_alarm_stops_a_deployment_that_may_not_go_back() {
    let (mut world, _) = steady("web", 2, &["tg"]);
    world.snapshot.service.alarms.enabled = true;
    world.snapshot.service.alarms.triggered = vec!["errors".into()];
    let second = world.deploy(Fate::Good, &["tg"]);
    world.settle(200);
    assert_eq!(world.primary().id, second);
    assert_eq!(world.primary().rollout_state, RolloutState::Failed);
    assert_eq!(world.primary().rollout_reason, "ECS deployment alarms: alarm detected.");
    // One that is configured and not enabled says nothing.
    let (mut world, _) = steady("web", 2, &["tg"]);
    world.snapshot.service.alarms.triggered = vec!["errors".into()];
    world.deploy(Fate::Good, &["tg"]);
    world.settle(200);
    assert_eq!(world.primary().rollout_state, RolloutState::Completed);
}

#[test]
fn a_failed_deployment_without_way_back_starts_no_more() {
    let mut world = Simulation::new(service("web", 2));
    let breaker = &mut world.snapshot.service.circuit_breaker;
    (breaker.enabled, breaker.rollback) = (true, true);
    world.deploy(Fate::NeverRuns, &[]);
    world.settle(2000);
    let primary = world.primary();
    assert_eq!(primary.rollout_state, RolloutState::Failed);
    assert_eq!(primary.rollout_reason, "ECS deployment circuit breaker: tasks failed to start.");
    assert_eq!(primary.service_deployment, ServiceDeploymentStatus::Stopped);
    assert_eq!(world.live().count(), 0);
    let started = said(&world, "has started");
    world.settle(50);
    assert_eq!(said(&world, "has started"), started);
    world.deploy(Fate::Good, &[]);
    world.settle(200);
    assert!(world.snapshot.service.steady);
}

#[test]
fn starts_that_fail_wait_longer_and_longer() {
    let mut world = Simulation::new(service("web", 1));
    world.deploy(Fate::NeverRuns, &[]);
    let began = world.now;
    let mut starts = Vec::new();
    while world.now.duration_since(began).as_hours() < 3 {
        let before = said(&world, "has started");
        assert!(world.live_on());
        if said(&world, "has started") > before {
            starts.push(world.now);
        }
    }
    let last = starts.len() - 1;
    let gap = starts[last].duration_since(starts[last - 1]).as_secs();
    assert!((880..=920).contains(&gap), "{gap}");
    assert!((15..25).contains(&starts.len()), "{}", starts.len());
    assert!(said(&world, "(service web) is unable to consistently start tasks successfully.") > 0);
    let id = world.primary().id.clone();
    world.fates.insert(id, Fate::Good);
    world.settle(100);
    assert!(world.snapshot.service.steady);
    assert_eq!(world.primary().launches.failed_rounds, 0);
}

#[test]
fn zones_are_made_even_by_starting_before_stopping() {
    let (mut world, _) = steady("web", 6, &["tg"]);
    for task in &mut world.snapshot.tasks {
        task.zone = "a".into();
    }
    world.snapshot.service.rebalancing = true;
    let mut least = 6;
    while world.live_on() {
        least = least.min(world.healthy());
    }
    assert_eq!(zones(&world), [2, 2, 2]);
    assert_eq!(least, 6, "one is started before one is stopped");
    assert_eq!(
        said(
            &world,
            "(service web) is not AZ balanced with 6 tasks in a, 0 tasks in b, and 0 tasks in c. AZ Rebalancing in progress."
        ),
        1
    );
    assert_eq!(
        said(&world, "(service web) is AZ balanced with 2 tasks in a, 2 tasks in b, and 2 tasks in c."),
        1
    );
    assert_eq!(said(&world, "to AZ Rebalance"), 4);
    assert_eq!(said(&world, "due to AZ rebalancing"), 4);
}

#[test]
fn a_draining_service_stops_all_and_ends() {
    let (mut world, _) = steady("web", 3, &["tg"]);
    world.snapshot.tasks[0].protected_until = Some(world.now + SignedDuration::from_hours(1));
    world.snapshot.service.status = ServiceStatus::Draining;
    world.snapshot.service.desired_count = 0;
    for _ in 0..20 {
        if world.ended {
            break;
        }
        let plan = super::service::plan(&world.snapshot, world.now);
        world.apply(&plan);
        world.go_on(None);
    }
    assert!(world.ended);
    assert_eq!(said(&world, "begun draining connections on 3 tasks"), 1);
    assert!(world.snapshot.deployments.iter().all(|it| it.status == DeploymentStatus::Inactive));
}

#[test]
fn early_success() {
    let (mut world, first) = steady("web", 4, &[]);
    let criteria = EarlySuccess { healthy_percent: 100, after_cleanup: false };
    world.snapshot.service.early_success = Some(criteria);
    world.snapshot.tasks[0].protected_until = Some(world.now + SignedDuration::from_mins(50));
    world.deploy(Fate::Good, &[]);
    while world.primary().rollout_state == RolloutState::InProgress {
        assert!(world.live_on());
    }
    assert!(world.live_of(&first) > 0, "DEFERRED: the former go afterwards");
    world.settle(100);
    assert_eq!(world.live_of(&first), 0);
}

#[test]
fn blue_green_by_its_stages() {
    let (mut world, blue) = steady("web", 2, &["tg-1"]);
    world.snapshot.service.strategy = Strategy::BlueGreen;
    world.snapshot.service.bake_time_minutes = 5;
    let green = world.deploy(Fate::Good, &["tg-2"]);
    while world.primary().stage.as_ref().is_none_or(|run| run.stage < Stage::BakeTime) {
        assert!(world.live_on());
        assert_eq!(world.live_of(&blue), 2);
    }
    assert_eq!(world.production, [(green.clone(), 1000), (blue.clone(), 0)]);
    let baking = world.now;
    world.settle(200);
    assert!(world.now.duration_since(baking) >= SignedDuration::from_secs(290));
    assert_eq!((world.live_of(&blue), world.live_of(&green)), (0, 2));
    let stages = [
        "PRE_SCALE_UP",
        "SCALE_UP",
        "POST_SCALE_UP",
        "TEST_TRAFFIC_SHIFT",
        "POST_TEST_TRAFFIC_SHIFT",
        "PRE_PRODUCTION_TRAFFIC_SHIFT",
        "PRODUCTION_TRAFFIC_SHIFT",
        "POST_PRODUCTION_TRAFFIC_SHIFT",
        "BAKE_TIME",
        "CLEAN_UP",
    ];
    assert_eq!(world.stages, stages);
    assert_eq!(world.primary().service_deployment, ServiceDeploymentStatus::Successful);
    assert!(world.snapshot.service.steady);
}

/// What a rolling deployment has brought out serves until what it replaces is whole again.
#[test]
fn blue_green_in_the_middle_of_a_roll_takes_traffic_from_nobody_for_too_few() {
    let (mut world, blue) = steady("web", 8, &["tg-1"]);
    world.snapshot.service.minimum_healthy_percent = 75;
    world.snapshot.service.maximum_percent = 100;
    let green = world.deploy(Fate::Good, &["tg-2"]);
    while world.live_of(&blue) > 4 {
        assert!(world.live_on());
    }
    assert!(world.healthy() > 4, "some of it serve");
    let service = &mut world.snapshot.service;
    (service.strategy, service.minimum_healthy_percent, service.maximum_percent) =
        (Strategy::BlueGreen, 100, 200);
    while world.production.is_empty() {
        assert!(world.live_on());
    }
    assert_eq!(world.production, [(green.clone(), 0), (blue.clone(), 1000)]);
    assert_eq!(world.live_of(&blue), 8);
    world.settle(400);
    assert_eq!((world.live_of(&blue), world.live_of(&green)), (0, 8));
}

#[test]
fn linear_and_canary_by_their_steps() {
    let weights = |strategy| {
        let (mut world, _) = steady("web", 2, &["tg-1"]);
        world.snapshot.service.strategy = strategy;
        let green = world.deploy(Fate::Good, &["tg-2"]);
        let began = world.now;
        let mut seen = Vec::new();
        while world.live_on() {
            let share = world.deployment(&green).production_permille.unwrap_or(0);
            if seen.last() != Some(&share) {
                seen.push(share);
            }
        }
        assert!(world.snapshot.service.steady);
        (seen, world.now.duration_since(began).as_mins())
    };
    let linear = Strategy::Linear { step_permille: 300, bake_minutes: 6 };
    assert_eq!(weights(linear), (vec![0, 300, 600, 900, 1000], 18));
    assert_eq!(weights(Strategy::Canary { permille: 50, bake_minutes: 10 }), (vec![0, 50, 1000], 10));
}

fn paused(timeout_action: HookAction) -> (Simulation, String, String) {
    let (mut world, blue) = steady("web", 2, &["tg-1"]);
    world.snapshot.service.strategy = Strategy::BlueGreen;
    world.snapshot.service.hooks =
        vec![Hook { stages: vec![Stage::PostTestTrafficShift], timeout_minutes: 60, timeout_action }];
    let green = world.deploy(Fate::Good, &["tg-2"]);
    while world.primary().stage.as_ref().is_none_or(|run| run.hooks.is_empty()) {
        assert!(world.live_on());
    }
    (world, blue, green)
}

#[test]
fn a_pause_is_continued_rolled_back_or_times_out() {
    let (mut world, blue, green) = paused(HookAction::Rollback);
    for _ in 0..5 {
        world.act();
    }
    assert_eq!(world.deployment(&green).test_permille, Some(1000));
    assert_eq!(world.deployment(&green).production_permille, Some(0));
    world.deployment(&green).stage.as_mut().unwrap().hooks[0].status = HookStatus::Succeeded;
    world.settle(200);
    assert_eq!((world.live_of(&blue), world.live_of(&green)), (0, 2));

    let (mut world, blue, green) = paused(HookAction::Rollback);
    world.deployment(&green).stage.as_mut().unwrap().hooks[0].status = HookStatus::Failed;
    world.settle(200);
    assert_eq!((world.live_of(&blue), world.live_of(&green)), (2, 0));
    assert_eq!(world.primary().id, blue);

    let (mut world, blue, green) = paused(HookAction::Rollback);
    world.settle(200);
    assert_eq!((world.live_of(&blue), world.live_of(&green)), (2, 0));
    assert_eq!(world.deployment(&blue).test_permille, Some(1000));

    let (mut world, blue, green) = paused(HookAction::Continue);
    world.settle(200);
    assert_eq!((world.live_of(&blue), world.live_of(&green)), (0, 2));
}

#[test]
fn a_stop_request_brings_traffic_back_even_when_all_was_shifted() {
    let (mut world, blue) = steady("web", 3, &["tg-1"]);
    world.snapshot.service.strategy = Strategy::BlueGreen;
    world.snapshot.service.bake_time_minutes = 60;
    let green = world.deploy(Fate::Good, &["tg-2"]);
    while world.deployment(&green).production_permille != Some(1000) {
        assert!(world.live_on());
    }
    world.deployment(&green).stop_request = Some(StopRequest::Rollback);
    world.act();
    assert_eq!(world.production, [(blue.clone(), 1000), (green.clone(), 0)]);
    world.settle(200);
    assert_eq!((world.live_of(&blue), world.live_of(&green)), (3, 0));
    assert_eq!(world.primary().id, blue);
    assert!(world.snapshot.service.steady);
}

#[test]
fn an_update_in_the_middle_of_a_shift_first_goes_back_to_blue() {
    let (mut world, blue) = steady("web", 2, &["tg-1"]);
    world.snapshot.service.strategy = Strategy::Linear { step_permille: 250, bake_minutes: 5 };
    let first = world.deploy(Fate::Good, &["tg-2"]);
    while world.deployment(&first).production_permille != Some(500) {
        assert!(world.live_on());
    }
    let second = world.deploy(Fate::Good, &["tg-2"]);
    world.stages.clear();
    world.settle(300);
    assert_eq!(world.stages[0], "RECONCILE_SERVICE");
    assert_eq!((world.live_of(&blue), world.live_of(&first), world.live_of(&second)), (0, 0, 2));
}

/// Nobody shifts anything any more: who has traffic goes on serving.
#[test]
fn an_abort_in_the_middle_of_a_shift_stops_nobody_that_serves() {
    let (mut world, blue) = steady("web", 2, &["tg-1"]);
    world.snapshot.service.strategy = Strategy::Linear { step_permille: 250, bake_minutes: 5 };
    let first = world.deploy(Fate::Good, &["tg-2"]);
    while world.deployment(&first).production_permille != Some(500) {
        assert!(world.live_on());
    }
    let second = world.deploy(Fate::Good, &["tg-2"]);
    world.deployment(&second).stop_request = Some(StopRequest::Abort);
    world.settle(300);
    assert_eq!(world.production, [(first.clone(), 500), (blue.clone(), 500)]);
    assert_eq!((world.live_of(&blue), world.live_of(&first), world.live_of(&second)), (2, 2, 0));
}
