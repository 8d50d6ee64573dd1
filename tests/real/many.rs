//! Two hundred tasks, and nothing of them afterwards.

use std::collections::BTreeSet;

use ferrogate_tests::{Cluster, until};
use serde_json::{Value, json};

const WAVES: usize = 2;
const CALLS_PER_WAVE: usize = 10;
/// RunTask's own bound.
const TASKS_PER_CALL: usize = 10;

/// All of them, described; in calls of a hundred.
fn described(cluster: &Cluster, arns: &[String]) -> Vec<Value> {
    let chunks =
        arns.chunks(100).map(|chunk| cluster.boto().ok("ecs", "describe_tasks", json!({ "tasks": chunk })));
    chunks.flat_map(|answer| answer["tasks"].as_array().cloned().unwrap_or_default()).collect()
}

fn all_are(cluster: &Cluster, arns: &[String], status: &str) -> Vec<Value> {
    until(&format!("all {} tasks are {status}", arns.len()), || {
        let tasks = described(cluster, arns);
        assert_eq!(tasks.len(), arns.len());
        for task in &tasks {
            assert!(status == "STOPPED" || task["lastStatus"] != "STOPPED", "it stopped: {task:#}");
        }
        tasks.iter().all(|task| task["lastStatus"] == status).then_some(tasks)
    })
}

#[test]
fn two_hundred_tasks_leave_nothing() {
    let cluster = Cluster::start();
    let network = cluster.network();
    cluster.define(
        "idle",
        json!([{ "name": "app", "image": "busybox", "stopTimeout": 10,
        "command": ["sh", "-c", "trap 'exit 0' TERM; echo up; while :; do sleep 3600 & wait; done"] }]),
        Value::Null,
    );
    let free = cluster.free_addresses();
    let tasks_per_call = cluster.so_many(TASKS_PER_CALL);
    let mut everything = BTreeSet::new();
    for wave in 0..WAVES {
        let mut arns = Vec::new();
        for _ in 0..CALLS_PER_WAVE {
            let ran = cluster.boto().ok(
                "ecs",
                "run_task",
                json!({
                    "taskDefinition": "idle", "launchType": "FARGATE", "count": tasks_per_call,
                    "networkConfiguration": network.configuration(&[]),
                }),
            );
            assert_eq!(ran["failures"], json!([]), "{ran}");
            arns.extend(
                ran["tasks"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|task| task["taskArn"].as_str().unwrap().to_owned()),
            );
        }
        assert_eq!(arns.len(), CALLS_PER_WAVE * tasks_per_call);
        let tasks = all_are(&cluster, &arns, "RUNNING");
        let addresses: BTreeSet<String> = tasks
            .iter()
            .map(|task| task["containers"][0]["networkInterfaces"][0]["privateIpv4Address"].to_string())
            .collect();
        assert_eq!(addresses.len(), arns.len(), "two tasks have one address in wave {wave}");
        assert_eq!(cluster.free_addresses(), free - arns.len() as i64);
        for arn in &arns {
            // From then on it hears SIGTERM.
            until("it is up", || cluster.output(arn).contains("up").then_some(()));
        }
        for arn in &arns {
            cluster.boto().ok("ecs", "stop_task", json!({ "task": arn }));
        }
        for task in all_are(&cluster, &arns, "STOPPED") {
            assert_eq!(task["containers"][0]["exitCode"], 0, "{task:#}");
        }
        everything.extend(arns);
    }
    assert_eq!(everything.len(), WAVES * CALLS_PER_WAVE * tasks_per_call);
    assert_eq!(cluster.free_addresses(), free);
    let interfaces = cluster.boto().ok("ec2", "describe_network_interfaces", json!({}));
    assert_eq!(interfaces["NetworkInterfaces"], json!([]));
    assert_eq!(cluster.left_of_tasks(), Vec::<String>::new());
    assert_eq!(cluster.shims(), Vec::<u32>::new());
    // Nothing in the routers either: no link, no rule that names an address.
    let open = std::fs::read_dir(format!("/proc/{}/fd", cluster.pid())).unwrap().count();
    assert!(open < 200, "{open} descriptors are open without a task");
}
