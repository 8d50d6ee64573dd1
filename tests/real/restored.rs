//! Tasks in micro-VMs that begin from a snapshot of one that has booted: facts of the starts, not their times.

use ferrogate_tests::{Cluster, Setup, TaskRun, in_machines, until, with_machines};
use serde_json::{Value, json};

/// What a machine is called that has a task of 1 GB.
const SIZE: &str = "1 vCPU, 1170 MiB";
/// … of 2 GB.
const GROWN: &str = "1 vCPU, 2212 MiB";

/// Runs a task of that size to its end: what it said, and what is known of its start.
fn run(cluster: &Cluster) -> (String, Value) {
    let script = "cat /proc/sys/kernel/random/boot_id; hostname";
    let mut run = TaskRun::of("machine").command("app", &["sh", "-c", script]);
    run.overrides["memory"] = json!("1024");
    let arn = cluster.run_task(&cluster.network(), &run);
    let ended = cluster.stopped(&arn);
    assert_eq!(ended["containers"][0]["exitCode"], 0, "{ended:#}");
    (cluster.output(&arn), timing(cluster, &arn))
}

fn timing(cluster: &Cluster, arn: &str) -> Value {
    cluster.ferrogate(&["ps", "--timing", arn, "--output", "json"]).json()[0].clone()
}

fn is_ready(cluster: &Cluster, size: &str) {
    until("there is a snapshot of the size", || {
        let status = cluster.ferrogate(&["status", "--output", "json"]).json();
        let ready = status["snapshots"]["ready"].as_array().expect("sizes").clone();
        ready.contains(&json!(size)).then_some(())
    });
}

#[test]
fn a_second_task_of_a_size_begins_where_the_boot_ends() {
    with_machines(second_task);
}

fn second_task() {
    let mut cluster = Cluster::start_with(Setup { arguments: in_machines(), ..Setup::default() });
    cluster.define_busybox("machine");
    let (first, start) = run(&cluster);
    assert_eq!(start["restored"], false, "nothing of the size was there: {start:#}");
    let has = |start: &Value, step: &str| {
        start["steps"].as_array().expect("steps").iter().any(|known| known["step"] == step)
    };
    for step in [
        "VMM started",
        "kernel started",
        "init",
        "hello",
        "disks attached",
        "ready",
        "first container created",
    ] {
        assert!(has(&start, &format!("machine: {step}")), "{step}: {start:#}");
    }
    is_ready(&cluster, SIZE);
    let (second, start) = run(&cluster);
    assert_eq!(start["restored"], true, "{start:#}");
    assert!(
        has(&start, "machine: snapshot restored") && !has(&start, "machine: kernel started"),
        "{start:#}"
    );
    let table = cluster.ferrogate(&["ps", "--all", "--timing", ""]).ok();
    assert!(
        table.contains("machine restored from a snapshot") && table.contains("machine booted"),
        "{table}"
    );

    // What is registered is expected: its first task begins from a snapshot, too.
    let app = json!([{ "name": "app", "image": "busybox:latest", "command": ["uname", "-r"] }]);
    cluster.define("grown", app, json!({ "cpu": "512", "memory": "2048" }));
    is_ready(&cluster, GROWN);
    let arn = cluster.run_task(&cluster.network(), &TaskRun::of("grown"));
    assert_eq!(cluster.stopped(&arn)["containers"][0]["exitCode"], 0);
    assert_eq!(timing(&cluster, &arn)["restored"], true);

    // A later program takes what the former one made.
    cluster.kill();
    cluster.up();
    is_ready(&cluster, SIZE);
    let (third, start) = run(&cluster);
    assert_eq!(start["restored"], true, "{start:#}");
    let boot_id = |said: &String| said.lines().next().expect("a boot id").to_owned();
    let ids = [&first, &second, &third].map(boot_id);
    assert!(ids[0] != ids[1] && ids[1] != ids[2] && ids[0] != ids[2], "{ids:?}");
    assert!(third.contains("ip-172-31-"), "its own host name: {third}");
    let words = cluster.ferrogate(&["status"]).ok();
    assert!(words.contains(SIZE), "{words}");
    assert_eq!(cluster.down(), Vec::<String>::new());
}

#[test]
fn who_wants_no_snapshots_has_none() {
    with_machines(without);
}

fn without() {
    let mut arguments = in_machines();
    arguments.push("--no-snapshots".into());
    let mut cluster = Cluster::start_with(Setup { arguments, ..Setup::default() });
    let status = cluster.ferrogate(&["status", "--output", "json"]).json();
    assert_eq!(status["snapshots"], Value::Null);
    cluster.define_busybox("machine");
    for _ in 0..2 {
        assert_eq!(run(&cluster).1["restored"], false);
    }
    assert!(!cluster.data().join("machines/snapshots").exists());
    assert_eq!(cluster.down(), Vec::<String>::new());
}

#[test]
fn what_a_kill_leaves_of_one_under_way_is_ended() {
    with_machines(killed_while_making);
}

fn killed_while_making() {
    let mut cluster = Cluster::start_with(Setup { arguments: in_machines(), ..Setup::default() });
    let making = cluster.data().join("machines/snapshots/making");
    until("the first of the smallest size is under way", || making.join("task").exists().then_some(()));
    cluster.kill();
    assert!(making.exists());
    // `down` makes no snapshots, and runs no machine.
    assert_eq!(cluster.down(), Vec::<String>::new());
    assert!(!making.exists());
}
