//! What a task definition may ask of its containers' lives: storage, volumes, terminals, order, restarts, health.

use ferrogate_tests::{Cluster, Network, TaskRun, WallClock, eventually, until};
use serde_json::{Value, json};

fn container<'a>(task: &'a Value, name: &str) -> &'a Value {
    let all = task["containers"].as_array().expect("containers");
    all.iter()
        .find(|container| container["name"] == name)
        .unwrap_or_else(|| panic!("no container {name}: {task:#}"))
}

fn shell(name: &str, script: &str, more: Value) -> Value {
    let mut all =
        json!({ "name": name, "image": "busybox", "command": ["sh", "-c", script], "stopTimeout": 2 });
    all.as_object_mut().expect("an object").extend(more.as_object().cloned().unwrap_or_default());
    all
}

/// Defines a task of these containers and starts it.
fn start(cluster: &Cluster, network: &Network, family: &str, containers: Value, more: Value) -> String {
    cluster.define(family, containers, more);
    cluster.run_task(network, &TaskRun::of(family))
}

/// Loop devices over files of this cluster.
fn loops(cluster: &Cluster) -> Vec<String> {
    let data = cluster.data().to_string_lossy().into_owned();
    let blocks = std::fs::read_dir("/sys/block").expect("/sys/block").flatten();
    blocks
        .filter_map(|block| std::fs::read_to_string(block.path().join("loop/backing_file")).ok())
        .filter(|file| file.contains(&data))
        .collect()
}

#[test]
fn storage_and_volumes() {
    let cluster = Cluster::start();
    let network = cluster.network();

    // The disk has the task's size, whatever the host's is; one volume, seen by two containers.
    let disk = "df -k / /vol | tail -2 | while read _ size rest; do echo $(( size / 1048576 )); done; \
        echo here > /vol/file; dd if=/dev/zero of=/vol/big bs=1M seek=30000 count=1 2>/dev/null && echo sparse; \
        fallocate -l 25G /vol/full 2>&1 | grep -o 'No space left on device'";
    let disk = start(
        &cluster,
        &network,
        "disk",
        json!([
            shell("app", disk, json!({ "mountPoints": [{ "sourceVolume": "v", "containerPath": "/vol" }] })),
            shell(
                "reader",
                "cat /vol/file; touch /vol/x || echo read-only",
                json!({ "essential": false,
                "dependsOn": [{ "containerName": "app", "condition": "START" }],
                "mountPoints": [{ "sourceVolume": "v", "containerPath": "/vol", "readOnly": true }] })
            ),
        ]),
        json!({ "volumes": [{ "name": "v" }], "ephemeralStorage": { "sizeInGiB": 21 } }),
    );

    // Nothing of all tasks' disks is mounted on the host; what is in it is gone with the task.
    cluster.define_busybox("box");
    let runs = cluster.run_task(&network, &TaskRun::of("box"));
    cluster.running(&runs);
    // A machine's disk is a file that it has open; it takes no loop device.
    assert!(cluster.has_machines() || !loops(&cluster).is_empty());

    let task = cluster.stopped(&disk);
    let said = cluster.output(&disk);
    assert_eq!(container(&task, "app")["exitCode"], 0, "{said} {task:#}");
    assert!(said.contains("app | 20\napp | 20\n") || said.contains("app | 21\napp | 21\n"), "{said}");
    assert!(said.contains("No space left on device"), "{said}");

    let shim = cluster.shims();
    assert!(!shim.is_empty());
    // kill -9 of the shim: nothing is left to hold its disk.
    for pid in shim {
        assert!(cluster.command("kill").args(["-9", &pid.to_string()]).status().is_ok_and(|s| s.success()));
    }
    let task = cluster.stopped(&runs);
    assert_eq!(task["stopCode"], "EssentialContainerExited", "{task:#}");
    eventually("no loop device is left", || loops(&cluster).is_empty());
    assert_eq!(cluster.left_of_tasks(), Vec::<String>::new());
}

#[test]
fn processes_terminals_and_kernel_parameters() {
    let cluster = Cluster::start();
    let network = cluster.network();

    let terminal = start(
        &cluster,
        &network,
        "terminal",
        json!([shell(
            "app",
            "test -t 0 && test -t 1 && echo a terminal; read line; echo got $line",
            json!({
            "pseudoTerminal": true, "interactive": true })
        )]),
        Value::Null,
    );
    let open = start(
        &cluster,
        &network,
        "open",
        json!([shell("app", "echo up; cat; echo end of input", json!({ "interactive": true }))]),
        Value::Null,
    );
    // One namespace of processes, so that one container sees and ends the other's.
    let together = start(
        &cluster,
        &network,
        "together",
        json!([
            shell("other", "exec sleep 4321", json!({ "essential": false })),
            shell(
                "app",
                "while :; do for p in /proc/[0-9]*; do if [ \"$(tr '\\0' ' ' < $p/cmdline)\" = 'sleep 4321 ' ]; then kill -9 ${p#/proc/} && exit 0; fi; done 2>/dev/null; sleep 0.1; done",
                json!({
                "dependsOn": [{ "containerName": "other", "condition": "START" }] })
            ),
        ]),
        json!({ "pidMode": "task" }),
    );
    let given = start(
        &cluster,
        &network,
        "given",
        json!([shell(
            "app",
            "cat /proc/sys/net/core/somaxconn; ulimit -n; ulimit -Hn; grep -c ' /scratch tmpfs .*noexec.*size=8192k' /proc/mounts; \
             touch /x 2>/dev/null || echo read-only; cat /proc/1/comm; pwd",
            json!({
                "systemControls": [{ "namespace": "net.core.somaxconn", "value": "321" }],
                "ulimits": [{ "name": "nofile", "softLimit": 1000, "hardLimit": 2000 }],
                "linuxParameters": { "initProcessEnabled": true,
                    "tmpfs": [{ "containerPath": "/scratch", "size": 8, "mountOptions": ["noexec"] }] },
                "readonlyRootFilesystem": false, "workingDirectory": "/made/up",
            })
        )]),
        Value::Null,
    );
    eventually("the terminal is there", || cluster.output(&terminal).contains("a terminal"));
    eventually("its input is open", || cluster.output(&open).contains("up"));

    let task = cluster.stopped(&together);
    assert_eq!(container(&task, "app")["exitCode"], 0, "{task:#}");
    assert_eq!(container(&task, "other")["exitCode"], 137, "{task:#}");
    let task = cluster.stopped(&given);
    assert_eq!(container(&task, "app")["exitCode"], 0, "{task:#}");
    let said = cluster.output(&given);
    assert!(said.starts_with("321\n1000\n2000\n1\n") && said.ends_with("/made/up\n"), "{said}");

    for arn in [&terminal, &open] {
        assert_eq!(cluster.task(arn)["lastStatus"], "RUNNING");
        cluster.boto().ok("ecs", "stop_task", json!({ "task": arn }));
        let task = cluster.stopped(arn);
        assert_eq!(task["stopCode"], "UserInitiated", "{task:#}");
    }
    assert!(!cluster.output(&open).contains("end of input"));
    assert_eq!(cluster.left_of_tasks(), Vec::<String>::new());
}

#[test]
fn order_and_health() {
    let cluster = Cluster::start();
    let network = cluster.network();
    let after = |name: &str, condition: &str| json!([{ "containerName": name, "condition": condition }]);
    let check = |command: &str| json!({ "command": ["CMD-SHELL", command], "interval": 5, "timeout": 2, "retries": 1 });

    // Started in order, stopped in reverse; the last one waits for health.
    let said = json!([{ "sourceVolume": "v", "containerPath": "/v" }]);
    let ordered = start(
        &cluster,
        &network,
        "ordered",
        json!([
            shell(
                "base",
                "trap 'echo base ends >> /v/said; cat /v/said; exit 0' TERM; echo base begins > /v/said; while :; do sleep 0.1; done",
                json!({ "healthCheck": check("test -e /v/said"), "mountPoints": said })
            ),
            shell(
                "app",
                "trap 'echo app ends >> /v/said; exit 3' TERM; echo app begins >> /v/said; while :; do sleep 0.1; done",
                json!({ "dependsOn": after("base", "HEALTHY"), "mountPoints": said })
            ),
        ]),
        json!({ "volumes": [{ "name": "v" }] }),
    );
    // The condition can never come true.
    let hopeless = start(
        &cluster,
        &network,
        "hopeless",
        json!([
            shell("first", "exit 4", json!({ "essential": false })),
            shell("app", "echo never", json!({ "dependsOn": after("first", "SUCCESS") })),
        ]),
        Value::Null,
    );
    // It does not come true in time.
    let late = start(
        &cluster,
        &network,
        "late",
        json!([
            shell("first", "while :; do sleep 1; done", json!({ "essential": false, "startTimeout": 2 })),
            shell("app", "echo never", json!({ "dependsOn": after("first", "COMPLETE") })),
        ]),
        Value::Null,
    );
    // An essential one ends while others are still to come.
    let early = start(
        &cluster,
        &network,
        "early",
        json!([
            shell("slow", "while :; do sleep 1; done", json!({ "essential": false })),
            shell("app", "exit 9", json!({})),
            shell(
                "after",
                "echo never",
                json!({ "essential": false, "dependsOn": after("slow", "COMPLETE") })
            ),
        ]),
        Value::Null,
    );
    let sick = start(
        &cluster,
        &network,
        "sick",
        json!([shell(
            "app",
            "while :; do sleep 1; done",
            json!({ "healthCheck": check("echo no; exit 1") })
        )]),
        Value::Null,
    );

    let task = cluster.stopped(&hopeless);
    let unresolved = |task: &Value, why: &str| {
        assert_eq!(
            (&task["stopCode"], &task["stoppedReason"]),
            (&json!("TaskFailedToStart"), &json!("Task failed to start")),
            "{task:#}"
        );
        let app = container(task, "app");
        let reason = format!("TaskDependencyError: container app depends on first, which {why}");
        assert_eq!((&app["reason"], &app["exitCode"]), (&json!(reason), &Value::Null), "{task:#}");
        assert!(container(task, "first")["reason"].is_null(), "{task:#}");
    };
    unresolved(&task, "ended without meeting the condition");
    assert_eq!(container(&task, "first")["exitCode"], 4, "{task:#}");

    let task = cluster.stopped(&late);
    unresolved(&task, "did not meet the condition within its startTimeout");
    assert_eq!(container(&task, "first")["exitCode"], 137, "{task:#}");
    assert!(!cluster.output(&late).contains("never"));

    let task = cluster.stopped(&early);
    assert_eq!(
        (&task["stopCode"], &container(&task, "app")["exitCode"]),
        (&json!("EssentialContainerExited"), &json!(9))
    );
    assert!(!cluster.output(&early).contains("never"));

    let task = cluster.running(&ordered);
    assert_eq!(container(&task, "base")["healthStatus"], "HEALTHY", "{task:#}");
    cluster.boto().ok("ecs", "stop_task", json!({ "task": ordered }));
    let task = cluster.stopped(&ordered);
    assert_eq!(
        (&container(&task, "app")["exitCode"], &container(&task, "base")["exitCode"]),
        (&json!(3), &json!(0))
    );
    let said = cluster.output(&ordered);
    assert!(said.contains("base begins") && said.ends_with("base ends\n"), "{said}");
    let lines: Vec<&str> = said.lines().map(|line| line.trim_start_matches("base | ")).collect();
    assert_eq!(lines, ["base begins", "app begins", "app ends", "base ends"]);

    until("the sick one is told", || {
        let task = cluster.task(&sick);
        (container(&task, "app")["healthStatus"] == "UNHEALTHY" && task["healthStatus"] == "UNHEALTHY")
            .then_some(())
    });
    // A task that nobody's service watches goes on.
    assert_eq!(cluster.task(&sick)["lastStatus"], "RUNNING");
    let explanation = cluster.ferrogate(&["explain", &sick, "--output", "json"]).json();
    let found = &explanation["findings"][0];
    assert_eq!((&found["weight"], &found["about"]), (&json!("cause"), &json!("health")), "{explanation:#}");
    assert!(
        found["what"].as_str().is_some_and(|what| what.starts_with("Container app is UNHEALTHY")),
        "{found:#}"
    );
    assert_eq!(found["evidence"], json!([r#"healthCheck.command ["CMD-SHELL", "echo no; exit 1"]"#]));
    cluster.boto().ok("ecs", "stop_task", json!({ "task": sick }));
    cluster.stopped(&sick);
    assert_eq!(cluster.left_of_tasks(), Vec::<String>::new());
}

/// An execution role that may write logs, and a group to write to: the log configuration and the role's ARN.
fn logs(cluster: &Cluster) -> (Value, Value) {
    let trust = json!({ "Version": "2012-10-17", "Statement": [{ "Effect": "Allow",
        "Principal": { "Service": "ecs-tasks.amazonaws.com" }, "Action": "sts:AssumeRole" }] });
    let boto = cluster.boto();
    let role = json!({ "RoleName": "execution", "AssumeRolePolicyDocument": trust.to_string() });
    let role = boto.ok("iam", "create_role", role)["Role"]["Arn"].take();
    boto.ok(
        "iam",
        "attach_role_policy",
        json!({ "RoleName": "execution",
        "PolicyArn": "arn:aws:iam::aws:policy/service-role/AmazonECSTaskExecutionRolePolicy" }),
    );
    boto.ok("logs", "create_log_group", json!({ "logGroupName": "/lives" }));
    let options =
        json!({ "awslogs-group": "/lives", "awslogs-region": "us-east-1", "awslogs-stream-prefix": "p" });
    (json!({ "logDriver": "awslogs", "options": options }), role)
}

#[test]
fn a_restart_policy() {
    // Sixty seconds are the least that AWS takes, and nobody waits for them: where the agent's clock was a minute back when a
    // container was started, the container has run for a minute by the time it ends. (Shims have the machine's clock.)
    let clock = WallClock::new();
    let mut cluster = Cluster::start_with(clock.setup());
    let network = cluster.network();
    let policy =
        |ignored: Value| json!({ "enabled": true, "restartAttemptPeriod": 60, "ignoredExitCodes": ignored });
    let short = start(
        &cluster,
        &network,
        "short",
        json!([shell("app", "echo run; exit 7", json!({ "restartPolicy": policy(json!([])) }))]),
        Value::Null,
    );
    let task = cluster.stopped(&short);
    assert_eq!(
        (&task["stopCode"], &container(&task, "app")["exitCode"]),
        (&json!("EssentialContainerExited"), &json!(7))
    );
    assert_eq!(cluster.output(&short), "run\n");

    clock.jump("-61");
    // Counts its runs in its own layer. The second lasts until there is no agent, which alone answers at that address.
    let script = "echo x >> /runs; echo run $(wc -l < /runs); \
                  [ $(wc -l < /runs) = 2 ] && while nc 169.254.170.2 80 < /dev/null 2> /dev/null; do usleep 10000; done; exit 7";
    let (logs, role) = logs(&cluster);
    let again = start(
        &cluster,
        &network,
        "again",
        json!([shell(
            "app",
            script,
            json!({ "restartPolicy": policy(json!([0])), "logConfiguration": logs })
        )]),
        json!({ "executionRoleArn": role }),
    );
    let asked = start(
        &cluster,
        &network,
        "asked",
        json!([shell(
            "app",
            "trap 'exit 7' TERM; echo up; while :; do sleep 0.1; done",
            json!({ "restartPolicy": policy(json!([])) })
        )]),
        Value::Null,
    );
    let ignored = start(
        &cluster,
        &network,
        "ignored",
        json!([shell("app", "exit 7", json!({ "restartPolicy": policy(json!([7])) }))]),
        Value::Null,
    );
    let task = cluster.stopped(&ignored);
    assert_eq!(
        (&task["stopCode"], &container(&task, "app")["exitCode"]),
        (&json!("EssentialContainerExited"), &json!(7))
    );

    // Who is asked to stop is not restarted, however long it ran.
    eventually("it hears", || cluster.output(&asked).contains("up"));
    cluster.boto().ok("ecs", "stop_task", json!({ "task": asked }));
    let task = cluster.stopped(&asked);
    assert_eq!(
        (&task["stopCode"], &container(&task, "app")["exitCode"]),
        (&json!("UserInitiated"), &json!(7))
    );
    assert_eq!(cluster.output(&asked), "up\n");

    eventually("it runs a second time", || cluster.output(&again).contains("run 2"));
    assert_eq!(cluster.task(&again)["lastStatus"], "RUNNING");
    // The second run ends without an agent; the next one does what is due. From here on the clocks agree.
    cluster.kill();
    clock.jump("+0");
    eventually("the second run is over", || cluster.running_containers(&again) == 0);
    cluster.up();
    eventually("it runs a third time", || cluster.output(&again).contains("run 3"));
    // Too short a run: this end is the task's.
    let task = cluster.stopped(&again);
    assert_eq!(
        (&task["stopCode"], &container(&task, "app")["exitCode"]),
        (&json!("EssentialContainerExited"), &json!(7))
    );
    assert_eq!(cluster.output(&again), "run 1\nrun 2\nrun 3\n");
    // The log driver was there for all three, across its own restart, and said nothing twice.
    let stream = format!("p/app/{}", again.rsplit('/').next().expect("a task id"));
    let events = cluster.boto().ok(
        "logs",
        "get_log_events",
        json!({ "logGroupName": "/lives",
        "logStreamName": stream, "startFromHead": true }),
    );
    let lines: Vec<&str> = events["events"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|event| event["message"].as_str())
        .collect();
    assert_eq!(lines, ["run 1", "run 2", "run 3"]);
    assert_eq!(cluster.left_of_tasks(), Vec::<String>::new());
}

ferrogate_tests::machines!(storage_and_volumes, processes_terminals_and_kernel_parameters, order_and_health);
