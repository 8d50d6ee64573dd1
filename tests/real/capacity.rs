//! What the machine has no room for, and what it lends more than once.

use ferrogate_tests::{Cluster, TaskRun};
use serde_json::{Value, json};

/// The largest size there is.
const LARGEST_MIB: u64 = 122_880;

/// `MemTotal`
fn machine_mib() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").expect("/proc/meminfo");
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:")).expect("MemTotal");
    let kib: u64 = total.trim().trim_end_matches("kB").trim_end().parse().expect("kB");
    kib / 1024
}

#[test]
fn a_task_larger_than_the_machine() {
    let cluster = Cluster::start();
    let network = cluster.network();
    cluster.define_busybox("app");
    let size = json!({ "cpu": "16384", "memory": LARGEST_MIB.to_string() });
    if machine_mib() >= LARGEST_MIB {
        let arn = cluster.run_task(&network, &TaskRun { overrides: size, ..TaskRun::of("app") });
        assert_eq!(cluster.running(&arn)["memory"], LARGEST_MIB.to_string());
        return;
    }
    let answer = cluster.boto().ok(
        "ecs",
        "run_task",
        json!({
            "taskDefinition": "app", "launchType": "FARGATE", "overrides": size,
            "networkConfiguration": network.configuration(&[]),
        }),
    );
    let (tasks, failure) = (&answer["tasks"], &answer["failures"][0]);
    assert_eq!(tasks, &Value::Array(Vec::new()), "{answer:#}");
    assert_eq!(
        failure["reason"],
        "Capacity is unavailable at this time. Please try again later or in a different availability zone",
        "{answer:#}"
    );
    let detail = format!(
        "The task has {LARGEST_MIB} MiB of memory and the largest node of its architecture {} MiB.",
        machine_mib()
    );
    assert_eq!(failure["detail"], json!(detail), "{answer:#}");
    // CPUs the machine may have fewer of.
    let size = json!({ "cpu": "4096", "memory": "8192" });
    if machine_mib() >= 8192 {
        let arn = cluster.run_task(&network, &TaskRun { overrides: size, ..TaskRun::of("app") });
        assert_eq!(cluster.running(&arn)["cpu"], "4096");
    }
}
