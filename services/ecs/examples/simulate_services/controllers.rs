//! The controllers themselves, over a store in memory, with an EC2 that always has an address and nodes that do at once
//! what they are told.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ferrogate_api::ecs::{self, Ecs};
use ferrogate_control::Driver;
use ferrogate_ecs::{Config, EcsService, Node};
use ferrogate_model::{Clock, ManualClock};
use ferrogate_nodeapi::{ContainerStatus, DesiredStatus, ObservedStatus, TaskReport};
use ferrogate_store::{MemoryStore, Store};
use jiff::SignedDuration;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::support::{Cloud, CloudInvoke, container_report, context, input, report, sample, services, start};

/// Tasks of one node, as many as a large machine has.
const TASKS_PER_NODE: u32 = 100;
/// Nothing takes longer unless something is broken.
const PATIENCE: Duration = Duration::from_secs(300);
const LOOK_PERIOD: Duration = Duration::from_millis(2);
/// Looked at by an API call, which is not what is measured.
const ASK_PERIOD: Duration = Duration::from_millis(20);
/// What the clock goes on at a look, where time has to pass.
const STEP: SignedDuration = SignedDuration::from_secs(5);
/// So many services are asked for at the same time.
const MADE_AT_ONCE: usize = 64;

/// A whole ECS.
pub(crate) struct World {
    clock: Arc<ManualClock>,
    service: Arc<EcsService>,
    driver: Driver,
    _nodes: JoinSet<()>,
}

impl World {
    /// With nodes for so many tasks.
    pub(crate) async fn new(tasks: u32) -> Self {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
        let clock = Arc::new(ManualClock::new(start()));
        let names: Vec<String> =
            (0..tasks.div_ceil(TASKS_PER_NODE)).map(|number| format!("node-{number:04}")).collect();
        let service = Arc::new(EcsService::new(
            Config { nodes: names.iter().map(|name| Node::here(name, u64::MAX)).collect() },
            Arc::clone(&store),
            Arc::new(CloudInvoke(Arc::<Cloud>::default())),
            Arc::clone(&clock) as Arc<dyn Clock>,
        ));
        let driver = Driver::new(store);
        for controller in service.controllers() {
            driver.spawn(controller);
        }
        let mut nodes = JoinSet::new();
        for name in names {
            nodes.spawn(serve(Arc::clone(&service), Arc::clone(&clock), name));
        }
        nodes.spawn(tick(Arc::clone(&clock)));
        let world = Self { clock, service, driver, _nodes: nodes };
        let cx = context(world.clock.now());
        world.service.create_cluster(&cx, input(json!({}))).await.expect("a cluster");
        world.service.register_task_definition(&cx, input(sample())).await.expect("a task definition");
        world
    }

    pub(crate) async fn create(&self, name: &str, desired: u32) {
        let wanted = services::service(json!({ "serviceName": name, "desiredCount": desired }));
        self.service.create_service(&context(self.clock.now()), input(wanted)).await.expect("a service");
    }

    pub(crate) async fn scale(&self, name: &str, desired: u32) {
        let wanted = input(json!({ "service": name, "desiredCount": desired }));
        self.service.update_service(&context(self.clock.now()), wanted).await.expect("an update");
    }

    async fn describe(&self, name: &str) -> ecs::Service {
        let wanted = input(json!({ "services": [name] }));
        let answer =
            self.service.describe_services(&context(self.clock.now()), wanted).await.expect("services");
        answer.services.expect("services").remove(0)
    }

    async fn running(&self, name: &str) -> i32 {
        self.describe(name).await.running_count.unwrap_or_default()
    }

    async fn says(&self, name: &str, what: &str) -> bool {
        services::messages(&self.describe(name).await).iter().any(|text| text.contains(what))
    }

    /// How long it takes until so many tasks run.
    pub(crate) async fn until_running(&self, name: &str, tasks: u32) -> Duration {
        let began = Instant::now();
        while u32::try_from(self.running(name).await) != Ok(tasks) {
            assert!(
                began.elapsed() < PATIENCE,
                "{tasks} tasks of {name} never run: {:#?}",
                self.driver.statuses()
            );
            tokio::time::sleep(ASK_PERIOD).await;
        }
        began.elapsed()
    }

    /// Time goes on until the deployment is over.
    pub(crate) async fn settle(&self, name: &str) {
        let began = Instant::now();
        loop {
            if services::is_stable(&self.describe(name).await) {
                return;
            }
            assert!(began.elapsed() < PATIENCE, "{name} is never stable");
            self.clock.advance(STEP);
            self.driver.wake("ecs-services");
            tokio::time::sleep(LOOK_PERIOD).await;
        }
    }

    /// One of its tasks is stopped: how long it takes until it is replaced.
    pub(crate) async fn replace_one(&self, name: &str, tasks: u32) -> Duration {
        let cx = context(self.clock.now());
        let listed = input(json!({ "serviceName": name, "maxResults": 1 }));
        let task =
            self.service.list_tasks(&cx, listed).await.expect("tasks").task_arns.expect("tasks").remove(0);
        let began = Instant::now();
        self.service.stop_task(&cx, input(json!({ "task": task }))).await.expect("it is stopped");
        while !self.says(name, " has started 1 tasks: ").await {
            assert!(began.elapsed() < PATIENCE, "{task} is never replaced");
            tokio::time::sleep(LOOK_PERIOD).await;
        }
        self.until_running(name, tasks).await;
        began.elapsed()
    }

    /// How often any service was looked at.
    pub(crate) fn looked(&self) -> u64 {
        self.driver.statuses()["ecs-services"].detail["looked"].as_u64().unwrap_or_default()
    }
}

/// The clock goes as time does, and further where somebody has it go on.
async fn tick(clock: Arc<ManualClock>) {
    let mut last = Instant::now();
    loop {
        tokio::time::sleep(LOOK_PERIOD * 10).await;
        let now = Instant::now();
        clock.advance(SignedDuration::try_from(now - last).unwrap_or_default());
        last = now;
    }
}

/// A node that does at once what it is told.
async fn serve(service: Arc<EcsService>, clock: Arc<ManualClock>, name: String) {
    let mut list = service.assignments(&name);
    // By task ARN: what it was told to be, and the number of the last report.
    let mut told: HashMap<String, (DesiredStatus, u64)> = HashMap::new();
    loop {
        let now = Arc::clone(&list.borrow_and_update());
        let mut reports = Vec::new();
        for task in now.iter() {
            let last = told.get(&task.task_arn).copied();
            if last.is_some_and(|(desired, _)| desired == task.desired) {
                continue;
            }
            let sequence = last.map_or(1, |(_, sequence)| sequence + 1);
            told.insert(task.task_arn.clone(), (task.desired, sequence));
            reports.push(match task.desired {
                DesiredStatus::Stopped => report(&task.task_arn, sequence, ObservedStatus::Stopped),
                DesiredStatus::Running => TaskReport {
                    started_at: Some(clock.now()),
                    containers: vec![container_report("sample-app", ContainerStatus::Running, None)],
                    ..report(&task.task_arn, sequence, ObservedStatus::Running)
                },
            });
        }
        service.report(reports).await.expect("the store takes reports");
        if list.changed().await.is_err() {
            return;
        }
    }
}

fn seconds(duration: Duration) -> String {
    format!("{:.2} s", duration.as_secs_f64())
}

/// What this process's threads have had of the processors: what else the machine does is not in it.
fn processor_time() -> Duration {
    let threads = std::fs::read_dir("/proc/self/task").expect("Linux");
    let nanos = |thread: std::io::Result<std::fs::DirEntry>| {
        let said = std::fs::read_to_string(thread.ok()?.path().join("schedstat")).ok()?;
        said.split(' ').next()?.parse::<u64>().ok()
    };
    Duration::from_nanos(threads.filter_map(nanos).sum())
}

/// A service that comes up, loses a task and is scaled to nothing: up, its processor time for each task, one replaced, down.
async fn one_service(tasks: u32) -> [Duration; 4] {
    let world = World::new(tasks).await;
    world.create("web", 0).await;
    let before = processor_time();
    world.scale("web", tasks).await;
    let up = world.until_running("web", tasks).await;
    let each = (processor_time() - before) / tasks.max(1);
    world.settle("web").await;
    let replaced = world.replace_one("web", tasks).await;
    world.scale("web", 0).await;
    let down = world.until_running("web", 0).await;
    [up, each, replaced, down]
}

/// Many services of a few tasks each: all up, one of them scaled by one, and how many looks at services that took.
async fn many_services(services: u32, tasks_each: u32) -> (Duration, Duration, u64) {
    let world = Arc::new(World::new(services * (tasks_each + 1)).await);
    let began = Instant::now();
    let mut making = JoinSet::new();
    for number in 0..services {
        let world = Arc::clone(&world);
        while making.len() >= MADE_AT_ONCE {
            making.join_next().await;
        }
        making.spawn(async move { world.create(&format!("service-{number}"), tasks_each).await });
    }
    while let Some(made) = making.join_next().await {
        made.expect("a service");
    }
    for number in 0..services {
        world.until_running(&format!("service-{number}"), tasks_each).await;
    }
    let up = began.elapsed();
    let before = world.looked();
    world.scale("service-0", tasks_each + 1).await;
    let changed = world.until_running("service-0", tasks_each + 1).await;
    (up, changed, world.looked() - before)
}

/// What to print.
pub(crate) fn measure(tasks: u32, services: u32, tasks_each: u32) -> Vec<(String, Value)> {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let [_, each_of_hundredth, ..] = runtime.block_on(one_service(tasks / 100));
    let [_, each_of_tenth, ..] = runtime.block_on(one_service(tasks / 10));
    let [up, each, replaced, down] = runtime.block_on(one_service(tasks));
    let (all, one, looks) = runtime.block_on(many_services(services, tasks_each));
    let processor = [each_of_hundredth, each_of_tenth, each].map(|each| format!("{} µs", each.as_micros()));
    vec![
        (format!("controllers: one service, 0 → {tasks} tasks RUNNING"), json!(seconds(up))),
        (
            format!("… processor time for each of {}, {}, {tasks} tasks", tasks / 100, tasks / 10),
            json!(processor.join(", ")),
        ),
        (format!("… one of {tasks} tasks is stopped and replaced"), json!(seconds(replaced))),
        (format!("… {tasks} → 0"), json!(seconds(down))),
        (
            format!("controllers: {services} services of {tasks_each} tasks, made and RUNNING"),
            json!(seconds(all)),
        ),
        (format!("… one of them scaled by one ({looks} looks)"), json!(seconds(one))),
    ]
}
