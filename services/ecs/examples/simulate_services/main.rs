//! What services cost: one of 10,000 tasks and 5,000 of a few, once for the planner alone in a simulated world (held to its
//! promises on the way), once with all controllers over a store in memory and simulated nodes. Prints one line of JSON:
//! pairs of what was measured and how much it is.
//!
//! `simulate_services [TASKS [SERVICES]]`. It compiles the planner by itself, which shows that there is nothing else in it.

#![allow(dead_code, unused_imports, reason = "what only the service uses of its planner")]

#[path = "../../src/plan/service/mod.rs"]
mod service;
#[path = "../../src/plan/service_simulation.rs"]
mod service_simulation;
#[path = "../../tests/support/mod.rs"]
mod support;

mod controllers;

use std::time::{Duration, Instant};

use serde_json::json;
use service::{Plan, plan};
use service_simulation::{Fate, Simulation};

const TASKS: u32 = 10_000;
const SERVICES: u32 = 5_000;
/// So many tasks has each of the many services.
const TASKS_EACH: u32 = 2;
/// More would mean that a world does not come to rest.
const STEPS_MAX: usize = 10_000;

/// What plans cost, without what the simulated world costs.
#[derive(Default)]
struct Cost {
    plans: u32,
    sum: Duration,
    most: Duration,
}

impl Cost {
    fn plan(&mut self, world: &Simulation) -> Plan {
        let began = Instant::now();
        let plan = plan(&world.snapshot, world.now);
        let took = began.elapsed();
        self.plans += 1;
        self.sum += took;
        self.most = self.most.max(took);
        plan
    }

    fn mean(&self) -> Duration {
        self.sum / self.plans.max(1)
    }
}

/// Until the world is at rest; how many steps that took.
fn settle(world: &mut Simulation, cost: &mut Cost) -> usize {
    for step in 0..STEPS_MAX {
        let mut wake_at = None;
        loop {
            world.forget_ended_tasks();
            let plan = cost.plan(world);
            if plan.actions.is_empty() {
                wake_at = plan.wake_at.or(wake_at);
                break;
            }
            world.apply(&plan);
        }
        if !world.go_on(wake_at) {
            return step;
        }
    }
    panic!("not at rest after {STEPS_MAX} steps");
}

fn micros(duration: Duration) -> String {
    format!("{:.1} µs", duration.as_secs_f64() * 1e6)
}

fn millis(duration: Duration) -> String {
    format!("{:.2} ms", duration.as_secs_f64() * 1e3)
}

/// A service that comes up, is updated and scaled to nothing.
fn whole_life(name: &str, tasks: u32) -> (Cost, usize) {
    let mut cost = Cost::default();
    let mut world = Simulation::new(service_simulation::service(name, tasks));
    world.deploy(Fate::Good, &["tg"]);
    let mut steps = settle(&mut world, &mut cost);
    assert_eq!(world.healthy(), tasks as usize);
    world.deploy(Fate::Good, &["tg"]);
    steps += settle(&mut world, &mut cost);
    assert_eq!(world.healthy(), tasks as usize);
    world.snapshot.service.desired_count = 0;
    steps += settle(&mut world, &mut cost);
    assert_eq!(world.live().count(), 0);
    (cost, steps)
}

/// Nothing has to be done, which is what a planner finds most of the time.
fn at_rest(tasks: u32) -> Cost {
    let mut world = Simulation::new(service_simulation::service("web", tasks));
    world.deploy(Fate::Good, &["tg"]);
    settle(&mut world, &mut Cost::default());
    let mut cost = Cost::default();
    for _ in 0..50 {
        assert!(cost.plan(&world).actions.is_empty());
    }
    cost
}

fn main() {
    let mut sizes = std::env::args().skip(1).map(|size| size.parse::<u32>().expect("a number"));
    let tasks = sizes.next().unwrap_or(TASKS);
    let services = sizes.next().unwrap_or(SERVICES);
    let (large, steps) = whole_life("large", tasks);
    let (rest, tenth) = (at_rest(tasks), at_rest(tasks / 10));
    let mut many = Cost::default();
    for index in 0..services {
        let (cost, _) = whole_life(&format!("service-{index}"), TASKS_EACH);
        many.plans += cost.plans;
        many.sum += cost.sum;
        many.most = many.most.max(cost.most);
    }
    let mut said = vec![
        (
            format!("planner: one service, {tasks} tasks: up, updated, down ({steps} steps), a plan"),
            json!(format!("{} (at most {})", millis(large.mean()), millis(large.most))),
        ),
        (format!("planner: one service, {tasks} tasks at rest, a plan"), json!(millis(rest.mean()))),
        (
            "… against a tenth of the tasks".into(),
            json!(format!("{:.1}×", rest.mean().as_secs_f64() / tenth.mean().as_secs_f64())),
        ),
        (
            format!(
                "planner: {services} services of {TASKS_EACH} tasks: up, updated, down, all {} plans",
                many.plans
            ),
            json!(format!("{:.2} s", many.sum.as_secs_f64())),
        ),
        ("… a plan".into(), json!(micros(many.mean()))),
    ];
    said.extend(controllers::measure(tasks, services, TASKS_EACH));
    println!("{}", json!(said));
}
