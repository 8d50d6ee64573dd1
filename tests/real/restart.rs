//! kill -9 of `ferrogate up`: its tasks do not notice, and nothing of theirs is lost.

use std::os::unix::process::ExitStatusExt;

use ferrogate_tests::{Cluster, TaskRun, eventually, until};
use serde_json::{Value, json};

const LINES: usize = 600;

#[test]
fn tasks_outlive_the_program() {
    let mut cluster = Cluster::start();
    let network = cluster.network();
    let trust = json!({ "Version": "2012-10-17", "Statement": [
        { "Effect": "Allow", "Principal": { "Service": "ecs-tasks.amazonaws.com" }, "Action": "sts:AssumeRole" },
    ]});
    let boto = cluster.boto();
    let role = boto.ok(
        "iam",
        "create_role",
        json!({ "RoleName": "exec", "AssumeRolePolicyDocument": trust.to_string() }),
    );
    boto.ok(
        "iam",
        "attach_role_policy",
        json!({ "RoleName": "exec",
        "PolicyArn": "arn:aws:iam::aws:policy/service-role/AmazonECSTaskExecutionRolePolicy" }),
    );
    boto.ok("logs", "create_log_group", json!({ "logGroupName": "lines" }));
    boto.ok(
        "ec2",
        "authorize_security_group_ingress",
        json!({ "GroupId": network.group, "IpPermissions": [
            { "IpProtocol": "tcp", "FromPort": 80, "ToPort": 80, "IpRanges": [{ "CidrIp": "0.0.0.0/0" }] },
        ]}),
    );

    let count =
        format!("i=0; while [ $i -lt {LINES} ]; do echo line $i; i=$((i+1)); usleep 10000; done; exit 7");
    let logs = json!({ "logDriver": "awslogs", "options": {
        "awslogs-group": "lines", "awslogs-region": "us-east-1", "awslogs-stream-prefix": "p" }});
    let counts = json!([{ "name": "app", "image": "busybox", "command": ["sh", "-c", count], "logConfiguration": logs }]);
    cluster.define("counts", counts, json!({ "executionRoleArn": role["Role"]["Arn"] }));
    cluster.define(
        "kept",
        json!([{ "name": "app", "image": "busybox", "command": ["sh", "-c", count] }]),
        Value::Null,
    );
    cluster.define("web", json!([{ "name": "web", "image": "nginx" }]), Value::Null);
    let web = cluster.run_task(&network, &TaskRun::of("web"));
    let (_, public) = cluster.addresses(&cluster.running(&web));
    let url = format!("http://{}/", public.expect("a public address"));
    let fetch = |cluster: &Cluster| cluster.curl(&["--connect-timeout", "1", "--max-time", "5", &url]);
    eventually("the page is served", || fetch(&cluster).is_ok());
    let web_before = cluster.task(&web);

    let counting = cluster.run_task(&network, &TaskRun::of("counts"));
    let kept = cluster.run_task(&network, &TaskRun::of("kept"));
    cluster.running(&counting);
    cluster.running(&kept);
    eventually("it counts", || cluster.output(&kept).contains("line 20\n"));
    let id = |arn: &str| arn.rsplit('/').next().expect("an id").to_owned();
    let web_processes = cluster.task_processes(&id(&web));
    let shims = cluster.shims();
    assert_eq!(shims.len(), 3, "one shim for each task: {shims:?}");

    cluster.kill();
    assert_eq!(cluster.running_containers(&counting), 1, "it has to be counting yet");
    assert_eq!(cluster.task_processes(&id(&web)), web_processes);
    // One ends while nobody looks, one may go on.
    eventually("it has counted to its end", || cluster.running_containers(&counting) == 0);
    cluster.up();

    // What goes on is as it was.
    let web_after = cluster.task(&web);
    for same in ["lastStatus", "startedAt", "createdAt", "attachments"] {
        assert_eq!(web_after[same], web_before[same], "{same}");
    }
    assert_eq!(cluster.task_processes(&id(&web)), web_processes);
    assert!(cluster.shims().contains(&shims[0]) || cluster.shims().iter().any(|shim| shims.contains(shim)));
    eventually("the page is served again", || fetch(&cluster).is_ok());

    // What ended is told as it was: the exit code, and every line.
    let all: Vec<String> = (0..LINES).map(|line| format!("line {line}")).collect();
    for arn in [&counting, &kept] {
        let task = cluster.stopped(arn);
        assert_eq!(task["containers"][0]["exitCode"], 7, "{task:#}");
        assert_eq!(task["stoppedReason"], "Essential container in task exited");
        let output = cluster.output(arn);
        let mut lines: Vec<&str> = output.lines().collect();
        // A batch that was given to CloudWatch Logs in the moment of the kill may be given again.
        lines.dedup();
        let first: Vec<&str> = all.iter().map(String::as_str).filter(|line| lines.contains(line)).collect();
        assert_eq!(first.len(), LINES, "lines were lost: {output}");
    }
    let exact = cluster.output(&kept);
    assert_eq!(exact.lines().collect::<Vec<_>>(), all, "what the node keeps is exact");

    // New tasks start, and old ones are stopped as ever.
    let more = cluster.run_task(&network, &TaskRun::of("web"));
    let (_, public) = cluster.addresses(&cluster.running(&more));
    let other = format!("http://{}/", public.expect("a public address"));
    // Before it serves it may not hear that it is to end.
    eventually("the other serves too", || cluster.curl(&["--max-time", "5", &other]).is_ok());
    for arn in [&web, &more] {
        cluster.boto().ok("ecs", "stop_task", json!({ "task": arn }));
        assert_eq!(cluster.stopped(arn)["containers"][0]["exitCode"], 0);
    }
    assert_eq!(cluster.left_of_tasks(), Vec::<String>::new());
}

/// Killed and not started again: `down` ends what it left.
#[test]
fn down_ends_what_a_killed_program_left() {
    let mut cluster = Cluster::start();
    let network = cluster.network();
    cluster.define_busybox("box");
    let arns: Vec<String> = (0..3).map(|_| cluster.run_task(&network, &TaskRun::of("box"))).collect();
    for arn in &arns {
        cluster.running(arn);
    }
    cluster.kill();
    let status = cluster.ferrogate(&["status"]);
    assert!(status.code == Some(1) && status.stderr.contains("no Ferrogate runs"), "{status:?}");
    assert!(!cluster.left_of_tasks().is_empty());
    assert_eq!(cluster.down(), Vec::<String>::new());
    cluster.up();
    for arn in &arns {
        let task = cluster.task(arn);
        assert_eq!(task["lastStatus"], "STOPPED", "{task:#}");
    }
}

/// kill -9 in the midst of starting and of stopping: every task still comes to its end, once, and nothing leaks.
#[test]
fn killed_at_every_step() {
    let mut cluster = Cluster::start();
    let count = cluster.so_many(10);
    // Of the first four moments; nobody stops these before the kill.
    let started = 4 * count;
    let network = cluster.network();
    cluster.define_busybox("box");
    let run = json!({ "taskDefinition": "box", "launchType": "FARGATE", "count": count,
        "networkConfiguration": network.configuration(&[]) });
    let mut arns: Vec<String> = Vec::new();
    // What the program is doing to the newest tasks when it is killed.
    for moment in ["accepted", "ACTIVATING", "a process runs", "RUNNING", "stop asked for", "STOPPED"] {
        let ran = cluster.boto().ok("ecs", "run_task", run.clone());
        let tasks = ran["tasks"].as_array().expect("tasks").iter();
        let new: Vec<String> =
            tasks.map(|task| task["taskArn"].as_str().expect("an ARN").to_owned()).collect();
        let any_is = |cluster: &Cluster, statuses: &[&str]| {
            let answer = cluster.boto().ok("ecs", "describe_tasks", json!({ "tasks": new }));
            let tasks = answer["tasks"].as_array().expect("tasks");
            tasks.iter().any(|task| statuses.iter().any(|status| task["lastStatus"] == *status))
        };
        match moment {
            "accepted" => {}
            "ACTIVATING" => eventually("one is ACTIVATING", || any_is(&cluster, &["ACTIVATING", "RUNNING"])),
            // Before most of it is reported.
            "a process runs" => eventually("a process runs", || {
                new.iter()
                    .any(|arn| !cluster.task_processes(arn.rsplit('/').next().expect("an id")).is_empty())
            }),
            "RUNNING" => eventually("one is RUNNING", || any_is(&cluster, &["RUNNING"])),
            stopping => {
                for arn in &new {
                    cluster.running(arn);
                }
                for arn in &new {
                    cluster.boto().ok("ecs", "stop_task", json!({ "task": arn }));
                }
                if stopping == "STOPPED" {
                    eventually("one is STOPPED", || any_is(&cluster, &["STOPPED"]));
                }
            }
        }
        cluster.kill();
        cluster.up();
        arns.extend(new);
    }
    for (number, arn) in arns.iter().enumerate() {
        if number < started {
            // Nobody stopped it: it was started, and once.
            let task = cluster.running(arn);
            assert_eq!(cluster.task_processes(arn.rsplit('/').next().expect("an id")).len(), 1, "{task:#}");
            cluster.boto().ok("ecs", "stop_task", json!({ "task": arn, "reason": "the end" }));
        }
    }
    for (number, arn) in arns.iter().enumerate() {
        let task = cluster.stopped(arn);
        assert_eq!(task["stopCode"], "UserInitiated", "{task:#}");
        assert_eq!(task["containers"][0]["exitCode"], 137, "{task:#}");
        assert_eq!(task["stoppedReason"], if number < started { "the end" } else { "Task stopped by user" });
    }
    assert_eq!(cluster.left_of_tasks(), Vec::<String>::new());
    let interfaces = cluster.boto().ok("ec2", "describe_network_interfaces", json!({}));
    assert_eq!(interfaces["NetworkInterfaces"], json!([]));
}

/// kill -9 of tasks' shims at the same moments: what they held goes with them, and each task is told to be over as it is.
#[test]
fn a_task_whose_shim_is_killed_is_stopped() {
    let cluster = Cluster::start();
    let network = cluster.network();
    cluster.define_busybox("box");
    // One runs, and the other waits for it without end: ACTIVATING, with a container that was never started.
    let first = json!({ "name": "first", "image": "busybox", "essential": false, "command": ["sleep", "3600"],
        "healthCheck": { "command": ["CMD", "true"], "interval": 5 } });
    let app = json!({ "name": "app", "image": "busybox",
        "dependsOn": [{ "containerName": "first", "condition": "COMPLETE" }] });
    cluster.define("waits", json!([first, app]), Value::Null);
    // Its stop is not over before its shim is killed.
    let stubborn =
        json!([{ "name": "app", "image": "busybox", "command": ["sleep", "3600"], "stopTimeout": 120 }]);
    cluster.define("stubborn", stubborn, Value::Null);
    let exited = ("EssentialContainerExited", "Essential container in task exited");
    let not_started = ("TaskFailedToStart", "Task failed to start");
    for moment in ["made", "a process runs", "ACTIVATING", "RUNNING", "stop asked for"] {
        let family = match moment {
            "ACTIVATING" => "waits",
            "stop asked for" => "stubborn",
            _ => "box",
        };
        let arns: Vec<String> = (0..2).map(|_| cluster.run_task(&network, &TaskRun::of(family))).collect();
        for arn in &arns {
            let id = arn.rsplit('/').next().expect("an id");
            let shim = until("its shim is there", || cluster.shim_of(id));
            match moment {
                "made" => {}
                "a process runs" => {
                    eventually("a process runs", || !cluster.task_processes(id).is_empty());
                }
                // By its health it is known to be running.
                "ACTIVATING" => eventually("the first one runs", || {
                    let task = cluster.task(arn);
                    let healthy = task["containers"][0]["healthStatus"] == "HEALTHY";
                    assert!(!healthy || task["lastStatus"] == "ACTIVATING", "{task:#}");
                    healthy
                }),
                _ => drop(cluster.running(arn)),
            }
            if moment == "stop asked for" {
                cluster.boto().ok("ecs", "stop_task", json!({ "task": arn, "reason": "the end" }));
            }
            let killed = cluster.command("kill").args(["-9", &shim.to_string()]).status().expect("kill");
            assert!(killed.success() && killed.signal().is_none(), "{moment}: {killed}");
        }
        for arn in &arns {
            let task = cluster.stopped(arn);
            let told =
                (task["stopCode"].as_str().unwrap_or(""), task["stoppedReason"].as_str().unwrap_or(""));
            let codes: Vec<&Value> =
                task["containers"].as_array().expect("containers").iter().map(|of| &of["exitCode"]).collect();
            match moment {
                "RUNNING" => assert_eq!((told, codes), (exited, vec![&json!(137)]), "{task:#}"),
                "stop asked for" => {
                    assert_eq!((told, codes), (("UserInitiated", "the end"), vec![&json!(137)]), "{task:#}");
                }
                "ACTIVATING" => {
                    assert_eq!((told, codes), (not_started, vec![&json!(137), &Value::Null]), "{task:#}");
                }
                // It may have been started in the moment before.
                _ => assert!(
                    told == exited && codes == [&json!(137)] || told.0 == not_started.0 && !told.1.is_empty(),
                    "{task:#}"
                ),
            }
        }
        eventually("nothing is left", || cluster.left_of_tasks().is_empty());
        assert_eq!(cluster.shims(), Vec::<u32>::new());
    }
    let interfaces = cluster.boto().ok("ec2", "describe_network_interfaces", json!({}));
    assert_eq!(interfaces["NetworkInterfaces"], json!([]));
}
