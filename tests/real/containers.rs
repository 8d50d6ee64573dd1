//! How containers end, what they are given, and what is refused: all tasks of it side by side in one cluster.

use ferrogate_tests::{Cluster, Network, TaskRun, eventually};
use serde_json::{Value, json};

/// Starts it and waits for its end.
fn ended(cluster: &Cluster, network: &Network, run: &TaskRun<'_>) -> (String, Value) {
    let arn = cluster.run_task(network, run);
    let task = cluster.stopped(&arn);
    (arn, task)
}

fn container<'a>(task: &'a Value, name: &str) -> &'a Value {
    let all = task["containers"].as_array().expect("containers");
    all.iter()
        .find(|container| container["name"] == name)
        .unwrap_or_else(|| panic!("no container {name}: {task:#}"))
}

#[test]
fn how_containers_end() {
    let cluster = Cluster::start();
    let network = cluster.network();
    cluster.define_busybox("box");
    let sh =
        |script: &str| cluster.run_task(&network, &TaskRun::of("box").command("app", &["sh", "-c", script]));

    let exits = sh("echo good bye; exit 3");
    let none = cluster.run_task(&network, &TaskRun::of("box").command("app", &["/no/such/program"]));
    let hungry = sh("tail /dev/zero");
    let asked = sh("trap 'echo asked; exit 0' TERM; echo up; while :; do sleep 0.1; done");

    let task = cluster.stopped(&exits);
    assert_eq!(container(&task, "app")["exitCode"], 3);
    assert_eq!(task["stopCode"], "EssentialContainerExited");
    assert_eq!(task["stoppedReason"], "Essential container in task exited");
    assert_eq!(task["desiredStatus"], "STOPPED");
    assert_eq!(cluster.output(&exits), "good bye\n");

    let task = cluster.stopped(&none);
    assert_eq!(task["stopCode"], "TaskFailedToStart", "{task:#}");
    let reason = task["stoppedReason"].as_str().unwrap_or_default();
    assert!(
        reason.starts_with("CannotStartContainerError: ") && reason.contains("/no/such/program"),
        "{reason}"
    );
    assert!(task["startedAt"].is_null(), "{task:#}");

    let task = cluster.stopped(&hungry);
    assert_eq!(container(&task, "app")["exitCode"], 137, "{task:#}");
    assert_eq!(container(&task, "app")["reason"], "OutOfMemoryError: Container killed due to memory usage");
    assert_eq!(task["stopCode"], "EssentialContainerExited");

    eventually("it is up", || cluster.output(&asked).contains("up"));
    cluster.boto().ok("ecs", "stop_task", json!({ "task": asked, "reason": "please" }));
    let task = cluster.stopped(&asked);
    assert_eq!(container(&task, "app")["exitCode"], 0, "{task:#}");
    assert_eq!((&task["stopCode"], &task["stoppedReason"]), (&json!("UserInitiated"), &json!("please")));
    assert_eq!(cluster.output(&asked), "up\nasked\n");
    assert_eq!(cluster.left_of_tasks(), Vec::<String>::new());
}

#[test]
fn what_containers_are_given() {
    let cluster = Cluster::start();
    let network = cluster.network();

    // Who does not hear SIGTERM is killed after stopTimeout.
    let deaf = json!([{ "name": "app", "image": "busybox", "stopTimeout": 2,
        "command": ["sh", "-c", "trap '' TERM; echo deaf; while :; do sleep 1; done"] }]);
    cluster.define("deaf", deaf, Value::Null);
    let deaf = cluster.run_task(&network, &TaskRun::of("deaf"));

    let told = json!([{ "name": "app", "image": "busybox", "entryPoint": ["sh", "-c"],
        "command": ["echo never"], "workingDirectory": "/tmp", "user": "33:33",
        "environment": [{ "name": "KEPT", "value": "kept" }, { "name": "CHANGED", "value": "before" }] }]);
    cluster.define("told", told, Value::Null);
    let overrides = json!({ "containerOverrides": [{ "name": "app",
        "command": ["echo $KEPT $CHANGED $NEW; pwd; id -u; ls -d /proc/1 >/dev/null && echo own; exit 5"],
        "environment": [{ "name": "CHANGED", "value": "after" }, { "name": "NEW", "value": "new" }] }] });
    let (arn, task) =
        ended(&cluster, &network, &TaskRun { definition: "told", overrides: overrides.clone(), groups: &[] });
    assert_eq!(container(&task, "app")["exitCode"], 5, "{task:#}");
    assert_eq!(cluster.output(&arn), "kept after new\n/tmp\n33\nown\n");
    assert_eq!(task["overrides"]["containerOverrides"][0]["name"], "app", "{task:#}");

    // In order, with a shared volume; one that is not essential may end.
    let together = json!([
        { "name": "prepare", "image": "busybox", "essential": false,
          "command": ["sh", "-c", "echo from prepare > /shared/file"],
          "mountPoints": [{ "sourceVolume": "scratch", "containerPath": "/shared" }] },
        { "name": "app", "image": "busybox", "stopTimeout": 2,
          "command": ["sh", "-c", "cat /shared/file; echo $(cat /proc/net/tcp | wc -l) >/dev/null; touch /shared/x || echo read-only; while [ ! -e /tmp/never ]; do sleep 1; done"],
          "dependsOn": [{ "containerName": "prepare", "condition": "SUCCESS" }],
          "mountPoints": [{ "sourceVolume": "scratch", "containerPath": "/shared", "readOnly": true }] },
    ]);
    cluster.define("together", together, json!({ "volumes": [{ "name": "scratch" }] }));
    let together = cluster.run_task(&network, &TaskRun::of("together"));
    let task = cluster.running(&together);
    assert_eq!(
        (&container(&task, "prepare")["lastStatus"], &container(&task, "prepare")["exitCode"]),
        (&json!("STOPPED"), &json!(0))
    );
    assert_eq!(container(&task, "app")["lastStatus"], "RUNNING");
    eventually("it has read the file", || cluster.output(&together).contains("app | from prepare\n"));
    assert!(cluster.ferrogate(&["logs", &together, "--container", "app"]).ok().contains("from prepare"));

    cluster.running(&deaf);
    eventually("it is deaf", || cluster.output(&deaf).contains("deaf"));
    for arn in [&deaf, &together] {
        cluster.boto().ok("ecs", "stop_task", json!({ "task": arn }));
    }
    assert_eq!(container(&cluster.stopped(&deaf), "app")["exitCode"], 137);
    cluster.stopped(&together);
}

#[test]
fn what_cannot_be() {
    let cluster = Cluster::start();
    let network = cluster.network();
    let boto = cluster.boto();

    cluster.define("absent", json!([{ "name": "app", "image": "no-such-image:latest" }]), Value::Null);
    let (_, task) = ended(&cluster, &network, &TaskRun::of("absent"));
    assert_eq!(task["stopCode"], "TaskFailedToStart", "{task:#}");
    let reason = task["stoppedReason"].as_str().unwrap_or_default();
    assert!(reason.starts_with("CannotPullContainerError: ") && reason.contains("no-such-image"), "{reason}");
    let of_container = container(&task, "app")["reason"].as_str().unwrap_or_default();
    assert!(of_container.starts_with("CannotPullContainerError: "), "{task:#}");
    assert!(container(&task, "app")["exitCode"].is_null() && task["startedAt"].is_null(), "{task:#}");

    let register = |change: Value| {
        let mut input = json!({ "family": "bad", "networkMode": "awsvpc", "requiresCompatibilities": ["FARGATE"],
            "cpu": "256", "memory": "512", "containerDefinitions": [{ "name": "app", "image": "nginx" }] });
        input.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        input.as_object_mut().unwrap().retain(|_, value| !value.is_null());
        boto.refused("ecs", "register_task_definition", input)
    };
    for (change, says) in [
        (json!({ "memory": "4096" }), "No Fargate configuration exists for given values."),
        (json!({ "cpu": "300" }), "No Fargate configuration exists for given values."),
        (json!({ "cpu": "much" }), "Invalid 'cpu' setting for task."),
        (json!({ "networkMode": "bridge" }), "Fargate only supports network mode"),
        (json!({ "memory": null }), "Fargate requires that 'memory' be defined at the task level."),
        (
            json!({ "containerDefinitions": [{ "name": "app", "image": "nginx", "privileged": true }] }),
            "privileged",
        ),
    ] {
        let refused = register(change.clone());
        assert_eq!(
            (refused.code.as_str(), refused.status),
            ("ClientException", 400),
            "{change}: {refused:?}"
        );
        assert!(refused.message.contains(says), "{change}: {refused:?}");
    }

    cluster.define_busybox("box");
    let run = |change: Value| {
        let mut input = json!({ "taskDefinition": "box", "launchType": "FARGATE", "networkConfiguration": network.configuration(&[]) });
        input.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        input.as_object_mut().unwrap().retain(|_, value| !value.is_null());
        boto.refused("ecs", "run_task", input)
    };
    for (change, code, says) in [
        (
            json!({ "networkConfiguration": null }),
            "InvalidParameterException",
            "Network Configuration must be provided when networkMode 'awsvpc' is specified.",
        ),
        (json!({ "taskDefinition": "nothing" }), "ClientException", "TaskDefinition not found."),
        (json!({ "cluster": "nowhere" }), "ClusterNotFoundException", "Cluster not found."),
        (json!({ "count": 11 }), "InvalidParameterException", "count"),
        (json!({ "platformVersion": "9.9.9" }), "PlatformUnknownException", ""),
        (json!({ "launchType": "EC2" }), "", ""),
    ] {
        let refused = run(change.clone());
        assert!(code.is_empty() || refused.code == code, "{change}: {refused:?}");
        assert!(refused.message.contains(says) && refused.status == 400, "{change}: {refused:?}");
    }
    let missing = boto.ok("ecs", "describe_tasks", json!({ "tasks": ["0123456789abcdef0123456789abcdef"] }));
    assert_eq!(missing["failures"][0]["reason"], "MISSING");
    assert_eq!(cluster.left_of_tasks(), Vec::<String>::new());
}

ferrogate_tests::machines!(how_containers_end, what_containers_are_given);
