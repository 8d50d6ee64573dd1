//! What goes wrong around a task: registries, disks, clocks, and a killer. Afterwards nothing is left, and what is
//! recorded of every task is true.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};

use ferrogate_tests::{Cluster, Network, Setup, TaskRun, WallClock, eventually, until};
use serde_json::{Value, json};

const MIB: u64 = 1 << 20;

fn reason(task: &Value) -> &str {
    task["stoppedReason"].as_str().unwrap_or_default()
}

/// Layers that are here already are not asked for, and one download serves all who wait: what is to fail has layers
/// of its own.
fn repository(wrong: &str) -> &'static str {
    match wrong {
        "once" | "flaky" => "busybox",
        "hang" => "nginx",
        _ => "python3-boto3",
    }
}

struct BadRegistry(Child);

impl BadRegistry {
    const ADDRESS: &'static str = "127.0.0.1:5001";

    /// Arguments that make `registry.test/*` its images.
    fn setup() -> Setup {
        let mirror = format!("registry.test/*=http://{}/*", Self::ADDRESS);
        Setup { arguments: vec!["--registry-mirror".into(), mirror], ..Default::default() }
    }

    fn start(cluster: &Cluster) -> Self {
        let mut command = cluster.python_command("bad_registry.py", &["5001", "127.0.0.1:5000"]);
        let mut child = command.stdout(Stdio::piped()).spawn().expect("python");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("its output is piped");
        BufReader::new(stdout).read_line(&mut line).expect("its first line");
        assert_eq!(line.trim(), "ready");
        Self(child)
    }
}

impl Drop for BadRegistry {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn registries_that_lie_break_off_and_hang() {
    let cluster = Cluster::start_with(BadRegistry::setup());
    let registry = BadRegistry::start(&cluster);
    let network = cluster.network();
    let run = |wrong: &str| {
        let image = format!("registry.test/{wrong}/{}:latest", repository(wrong));
        cluster.define(
            wrong,
            json!([{ "name": "app", "image": image, "command": ["echo", "here"] }]),
            Value::Null,
        );
        cluster.run_task(&network, &TaskRun::of(wrong))
    };
    // They run side by side: each failure takes its retries' time.
    let failing = [
        ("truncate", "unexpected EOF"),
        ("lie", "unexpected commit digest sha256:"),
        ("garbage", "invalid manifest"),
        ("huge", "1099511627776 bytes"),
        ("denied", "pull access denied"),
    ]
    .map(|(wrong, told)| (wrong, told, run(wrong)));
    let hanging = run("hang");
    let good: Vec<(&str, String)> = ["once", "flaky"].into_iter().map(|wrong| (wrong, run(wrong))).collect();

    for (wrong, arn) in &good {
        let task = cluster.stopped(arn);
        assert_eq!(task["containers"][0]["exitCode"], 0, "{wrong}: {task:#}");
        assert_eq!(cluster.output(arn), "here\n", "{wrong}");
    }
    for (wrong, told, arn) in &failing {
        let task = cluster.stopped(arn);
        assert_eq!(task["stopCode"], "TaskFailedToStart", "{wrong}: {task:#}");
        let why = reason(&task);
        assert!(why.starts_with("CannotPullContainerError: ") && why.contains(told), "{wrong}: {why}");
        assert!(
            task["startedAt"].is_null() && task["containers"][0]["exitCode"].is_null(),
            "{wrong}: {task:#}"
        );
        assert_eq!(task["containers"][0]["reason"], task["stoppedReason"], "{wrong}");
    }
    // A pull that never ends does not hold a task that is to stop.
    eventually("it is pulling", || !cluster.task(&hanging)["pullStartedAt"].is_null());
    cluster.boto().ok("ecs", "stop_task", json!({ "task": hanging }));
    let task = cluster.stopped(&hanging);
    assert_eq!((&task["stopCode"], reason(&task)), (&json!("UserInitiated"), "Task stopped by user"));
    assert_eq!(cluster.left_of_tasks(), Vec::<String>::new());
    drop(registry);
}

#[test]
fn a_full_disk_fails_what_needs_it_and_nothing_else() {
    let cluster = Cluster::start_with(Setup { data_bytes: Some(96 * MIB), ..Default::default() });
    let network = cluster.network();
    cluster.define_busybox("box");
    cluster.define("web", json!([{ "name": "web", "image": "nginx" }]), Value::Null);
    let chatty = json!([{ "name": "app", "image": "busybox",
        "command": ["sh", "-c", "while :; do echo a line that goes on and on; usleep 20000; done"] }]);
    cluster.define("chatty", chatty, Value::Null);
    let before = cluster.run_task(&network, &TaskRun::of("box"));
    let chatty = cluster.run_task(&network, &TaskRun::of("chatty"));
    cluster.running(&before);
    cluster.running(&chatty);
    eventually("it talks", || cluster.output(&chatty).contains("a line"));

    // All but four megabytes: enough for records, too little for an image.
    let filler = cluster.data().join("filler").to_string_lossy().into_owned();
    let free = "df --output=avail -B1 \"$1\" | tail -1";
    let fill = format!("head -c $(( $({free}) - {} )) /dev/zero > \"$2\"", 4 * MIB);
    let data = cluster.data().to_string_lossy().into_owned();
    assert!(cluster.command("bash").args(["-c", &fill, "fill", &data, &filler]).status().unwrap().success());

    let web = cluster.run_task(&network, &TaskRun::of("web"));
    let task = cluster.stopped(&web);
    assert_eq!(task["stopCode"], "TaskFailedToStart", "{task:#}");
    assert!(
        reason(&task).starts_with("CannotPullContainerError: ")
            && reason(&task).contains("no space left on device"),
        "{}",
        reason(&task)
    );
    // What ran goes on.
    assert_eq!(cluster.task(&before)["lastStatus"], "RUNNING");
    assert_eq!(cluster.task(&chatty)["lastStatus"], "RUNNING");

    // Nothing at all: the API may refuse, and must say so; nothing it said before is lost.
    let rest = format!("head -c $({free}) /dev/zero >> \"$2\" || true");
    assert!(cluster.command("bash").args(["-c", &rest, "fill", &data, &filler]).status().unwrap().success());
    for number in 0..20 {
        let tag = json!([{ "key": format!("k{number}"), "value": "x".repeat(200) }]);
        let answer =
            cluster.boto().call("ecs", "tag_resource", json!({ "resourceArn": before, "tags": tag }));
        if let Err(error) = answer {
            assert!(error.status >= 500, "{error:?}");
        }
    }
    assert_eq!(cluster.task(&before)["lastStatus"], "RUNNING");

    assert!(cluster.command("rm").arg(&filler).status().unwrap().success());
    let web = cluster.run_task(&network, &TaskRun::of("web"));
    cluster.running(&web);
    for arn in [&before, &chatty, &web] {
        cluster.boto().ok("ecs", "stop_task", json!({ "task": arn, "reason": "the end" }));
    }
    for arn in [&before, &chatty, &web] {
        let task = cluster.stopped(arn);
        assert_eq!((&task["stopCode"], reason(&task)), (&json!("UserInitiated"), "the end"));
    }
    assert_eq!(cluster.left_of_tasks(), Vec::<String>::new());
}

#[test]
fn the_clock_jumps() {
    let clock = WallClock::new();
    let mut cluster = Cluster::start_with(clock.setup());
    let network = cluster.network();
    cluster.define_busybox("box");
    let mut arns = vec![cluster.run_task(&network, &TaskRun::of("box"))];
    cluster.running(&arns[0]);
    // Half an hour on, an hour and a half back, over a restart too.
    for (number, seconds) in ["+1800", "-3600", "-3600", "+60"].into_iter().enumerate() {
        clock.jump(seconds);
        if number == 2 {
            cluster.kill();
            cluster.up();
        }
        let arn = cluster.run_task(&network, &TaskRun::of("box"));
        let task = cluster.running(&arn);
        // The jump is a jump: between the first task and this one.
        let created = |task: &Value| task["createdAt"].as_f64().expect("seconds");
        let jumped = created(&task) - created(&cluster.task(&arns[0]));
        let meant: f64 = seconds.parse().expect("seconds");
        assert!((meant..meant + 300.0).contains(&jumped), "{seconds} made it {jumped} s");
        for known in &arns {
            assert_eq!(cluster.task(known)["lastStatus"], "RUNNING", "after {seconds}");
        }
        arns.push(arn);
    }
    clock.jump("-1800");
    for arn in &arns {
        cluster.boto().ok("ecs", "stop_task", json!({ "task": arn, "reason": "the end" }));
    }
    for arn in &arns {
        let task = cluster.stopped(arn);
        assert_eq!(reason(&task), "the end");
        assert_eq!(task["containers"][0]["exitCode"], 137, "{task:#}");
    }
    assert_eq!(cluster.left_of_tasks(), Vec::<String>::new());
}

/// What was done to a task.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Done {
    Nothing,
    ContainerKilled,
    ShimKilled,
}

/// A small generator: the same run for the same seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % sides as u64).expect("small")
    }
}

const ROUNDS: usize = 50;
const TASKS_PER_ROUND: usize = 10;
/// Rounds of tasks that run at the same time.
const ROUNDS_ALIVE: usize = 4;

fn run_some(cluster: &Cluster, network: &Network) -> Vec<String> {
    let run = json!({ "taskDefinition": "box", "launchType": "FARGATE", "count": cluster.so_many(TASKS_PER_ROUND),
        "networkConfiguration": network.configuration(&[]) });
    let ran = cluster.boto().ok("ecs", "run_task", run);
    assert_eq!(ran["failures"], json!([]), "{ran}");
    let tasks = ran["tasks"].as_array().expect("tasks").iter();
    tasks.map(|task| task["taskArn"].as_str().expect("an ARN").to_owned()).collect()
}

fn id(arn: &str) -> &str {
    arn.rsplit('/').next().expect("an id")
}

/// All of them once they have stopped.
fn all_stopped(cluster: &Cluster, arns: &[String]) -> Vec<Value> {
    until("all have stopped", || {
        let answer = cluster.boto().ok("ecs", "describe_tasks", json!({ "tasks": arns }));
        let tasks = answer["tasks"].as_array().expect("tasks").clone();
        assert_eq!(tasks.len(), arns.len(), "{}", answer["failures"]);
        tasks.iter().all(|task| task["lastStatus"] == "STOPPED").then_some(tasks)
    })
}

#[test]
fn five_hundred_tasks_and_a_killer() {
    let seed = 0x5eed_0003;
    let mut dice = Dice(seed);
    let mut cluster = Cluster::start();
    let network = cluster.network();
    cluster.define_busybox("box");
    let free = cluster.free_addresses();
    let mut done: BTreeMap<String, Done> = BTreeMap::new();
    let mut alive: Vec<Vec<String>> = Vec::new();
    for round in 0..ROUNDS {
        let new = run_some(&cluster, &network);
        done.extend(new.iter().map(|arn| (arn.clone(), Done::Nothing)));
        alive.push(new);
        let newest = alive.last().expect("just pushed").clone();
        match dice.roll(5) {
            // The program, in the middle of starting them.
            0 => {
                cluster.kill();
                cluster.up();
            }
            // A container's process, or a task's shim: of one that runs.
            kind @ (1 | 2) => {
                let victim = newest[dice.roll(newest.len())].clone();
                cluster.running(&victim);
                let (pids, what) = if kind == 1 {
                    (cluster.task_processes(id(&victim)), Done::ContainerKilled)
                } else {
                    (cluster.shim_of(id(&victim)).into_iter().collect(), Done::ShimKilled)
                };
                assert!(!pids.is_empty(), "{victim} runs and has no process");
                let pids: Vec<String> = pids.iter().map(u32::to_string).collect();
                assert!(cluster.command("kill").arg("-9").args(&pids).status().expect("kill").success());
                if round + 1 == ROUNDS {
                    // It is to have ended by this, and not by the StopTask that comes next.
                    cluster.stopped(&victim);
                }
                done.insert(victim, what);
            }
            _ => {}
        }
        if alive.len() > ROUNDS_ALIVE || round + 1 == ROUNDS {
            let ending = if round + 1 == ROUNDS { alive.concat() } else { alive.remove(0) };
            for arn in &ending {
                cluster.boto().ok("ecs", "stop_task", json!({ "task": arn, "reason": "the end" }));
            }
            if dice.roll(4) == 0 {
                cluster.kill();
                cluster.up();
            }
        }
    }
    let arns: Vec<String> = done.keys().cloned().collect();
    assert_eq!(arns.len(), ROUNDS * cluster.so_many(TASKS_PER_ROUND));
    for chunk in arns.chunks(100) {
        for task in all_stopped(&cluster, chunk) {
            let what = done[task["taskArn"].as_str().expect("an ARN")];
            let container = &task["containers"][0];
            match what {
                Done::Nothing => {
                    assert_eq!(
                        (&task["stopCode"], reason(&task)),
                        (&json!("UserInitiated"), "the end"),
                        "{task:#}"
                    );
                    // Stopped before it ran, or killed, for busybox's sleep hears no SIGTERM as PID 1.
                    let code = &container["exitCode"];
                    assert!(*code == 137 || task["startedAt"].is_null(), "{task:#}");
                }
                Done::ContainerKilled => {
                    assert_eq!(task["stopCode"], "EssentialContainerExited", "{task:#}");
                    assert_eq!(container["exitCode"], 137, "{task:#}");
                }
                Done::ShimKilled => assert_eq!(task["stopCode"], "EssentialContainerExited", "{task:#}"),
            }
        }
    }
    let killed = done.values().filter(|what| **what != Done::Nothing).count();
    assert!(killed > 10, "{killed}: the seed is to be one with which something happens");
    assert_eq!(cluster.left_of_tasks(), Vec::<String>::new());
    assert_eq!(cluster.shims(), Vec::<u32>::new());
    assert_eq!(cluster.free_addresses(), free);
    let interfaces = cluster.boto().ok("ec2", "describe_network_interfaces", json!({}));
    assert_eq!(interfaces["NetworkInterfaces"], json!([]));
}
