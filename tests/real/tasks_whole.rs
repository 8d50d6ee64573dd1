//! Tasks with all that RunTask can say, by boto3 and the aws CLI.

use std::thread;

use ferrogate_tests::{Cluster, Keys, TaskRun};
use serde_json::{Value, json};

fn arns(answer: &Value) -> Vec<String> {
    let tasks = answer["tasks"].as_array().expect("tasks");
    tasks.iter().map(|task| task["taskArn"].as_str().expect("an ARN").to_owned()).collect()
}

fn root(cluster: &Cluster) -> Keys {
    let text = std::fs::read(cluster.data_seen().join("root.json")).expect("the root key");
    let key: Value = serde_json::from_slice(&text).expect("the root key");
    let text = |name: &str| key[name].as_str().expect("a text").to_owned();
    Keys {
        access_key_id: text("access_key_id"),
        secret_access_key: text("secret_access_key"),
        session_token: None,
    }
}

/// Two RunTasks race for a subnet's addresses. Both are answered with tasks; who gets no address stops and says why;
/// no interface and no address is lost.
#[test]
fn the_last_addresses_of_a_subnet() {
    let cluster = Cluster::start();
    let boto = cluster.boto();
    let vpc = cluster.network().vpc;
    let subnet = boto.ok("ec2", "create_subnet", json!({ "VpcId": vpc, "CidrBlock": "172.31.255.240/28" }));
    let subnet = subnet["Subnet"]["SubnetId"].as_str().unwrap().to_owned();
    let free = || {
        let answer = boto.ok("ec2", "describe_subnets", json!({ "SubnetIds": [subnet] }));
        answer["Subnets"][0]["AvailableIpAddressCount"].as_u64().unwrap()
    };
    let interfaces = || {
        let filter = json!({ "Filters": [{ "Name": "subnet-id", "Values": [subnet] }] });
        boto.ok("ec2", "describe_network_interfaces", filter)["NetworkInterfaces"].as_array().unwrap().len()
    };
    assert_eq!(free(), 11, "16, without the first four and the last");
    cluster.define_busybox("box");
    let run = json!({ "taskDefinition": "box", "launchType": "FARGATE", "count": 7,
        "networkConfiguration": { "awsvpcConfiguration": { "subnets": [subnet], "assignPublicIp": "ENABLED" } } });
    let keys = root(&cluster);
    let racers = [cluster.boto_as(&keys), cluster.boto_as(&keys)];
    let tasks: Vec<String> = thread::scope(|scope| {
        let racing: Vec<_> = racers
            .into_iter()
            .map(|racer| {
                let run = run.clone();
                scope.spawn(move || racer.ok("ecs", "run_task", run))
            })
            .collect();
        racing.into_iter().flat_map(|one| arns(&one.join().expect("an answer"))).collect()
    });
    assert_eq!(tasks.len(), 14);
    let mut kept = Vec::new();
    for arn in &tasks {
        let task = ferrogate_tests::until("it runs or has stopped", || {
            let task = cluster.task(arn);
            matches!(task["lastStatus"].as_str(), Some("RUNNING" | "STOPPED")).then_some(task)
        });
        if task["lastStatus"] == "RUNNING" {
            kept.push(arn.clone());
            continue;
        }
        assert_eq!(task["stopCode"], "TaskFailedToStart", "{task:#}");
        assert_eq!(
            task["stoppedReason"],
            format!(
                "Unexpected EC2 error while attempting to Create Network Interface with public IP assignment enabled in \
                 subnet '{subnet}': InsufficientFreeAddressesInSubnet"
            )
        );
        assert_eq!(task["attachments"][0]["status"], "DELETED");
    }
    assert_eq!((kept.len(), interfaces(), free()), (11, 11, 0));
    for arn in &kept {
        boto.ok("ecs", "stop_task", json!({ "task": arn }));
    }
    for arn in &kept {
        cluster.stopped(arn);
    }
    assert_eq!((interfaces(), free()), (0, 11));
    let again = boto.ok("ecs", "run_task", run);
    for arn in arns(&again) {
        cluster.running(&arn);
        boto.ok("ecs", "stop_task", json!({ "task": arn }));
    }
    for arn in arns(&again) {
        cluster.stopped(&arn);
    }
    assert_eq!(cluster.left_of_tasks(), Vec::<String>::new());
    boto.ok("ec2", "delete_subnet", json!({ "SubnetId": subnet }));
}

#[test]
fn all_that_can_be_said() {
    let cluster = Cluster::start();
    let network = cluster.network();
    let boto = cluster.boto();
    let tags = json!({ "tags": [{ "key": "team", "value": "blue" }, { "key": "cost", "value": "7" }] });
    cluster.define(
        "box",
        json!([{ "name": "app", "image": "busybox", "command": ["sleep", "3600"], "stopTimeout": 2 }]),
        tags,
    );
    let run = json!({
        "taskDefinition": "box", "count": 2, "clientToken": "once", "group": "nightly", "startedBy": "cron",
        "launchType": "FARGATE", "enableECSManagedTags": true, "propagateTags": "TASK_DEFINITION",
        "tags": [{ "key": "team", "value": "green" }], "networkConfiguration": network.configuration(&[]),
        "overrides": {
            "cpu": "512", "memory": "1024", "ephemeralStorage": { "sizeInGiB": 25 },
            "containerOverrides": [{
                "name": "app", "cpu": 100, "memory": 256, "memoryReservation": 128,
                "command": ["sh", "-c", "echo $WHO; exec sleep 3600"], "environment": [{ "name": "WHO", "value": "me" }],
            }],
        },
    });
    let first = arns(&boto.ok("ecs", "run_task", run.clone()));
    assert_eq!(arns(&boto.ok("ecs", "run_task", run.clone())), first, "the same call, the same tasks");
    let mut other = run.clone();
    other["count"] = json!(1);
    let refused = boto.refused("ecs", "run_task", other);
    assert_eq!((refused.code.as_str(), refused.status), ("ConflictException", 400), "{refused:?}");
    assert_eq!(
        boto.ok("ecs", "list_tasks", json!({ "startedBy": "cron" }))["taskArns"].as_array().unwrap().len(),
        2
    );

    let task = cluster.running(&first[0]);
    assert_eq!((&task["cpu"], &task["memory"]), (&json!("512"), &json!("1024")));
    assert_eq!((&task["group"], &task["startedBy"]), (&json!("nightly"), &json!("cron")));
    assert_eq!(task["ephemeralStorage"]["sizeInGiB"], 25);
    assert_eq!(task["overrides"]["containerOverrides"][0]["environment"][0]["value"], "me");
    let container = &task["containers"][0];
    assert_eq!(
        (&container["cpu"], &container["memory"], &container["memoryReservation"]),
        (&json!("100"), &json!("256"), &json!("128"))
    );
    ferrogate_tests::eventually("it says who", || cluster.output(&first[0]).contains("me"));
    let described = boto.ok("ecs", "describe_tasks", json!({ "tasks": [first[0]], "include": ["TAGS"] }));
    assert_eq!(
        described["tasks"][0]["tags"],
        json!([{ "key": "aws:ecs:clusterName", "value": "default" }, { "key": "cost", "value": "7" },
               { "key": "team", "value": "green" }])
    );
    assert_eq!(task["tags"], json!([]), "only when asked for");

    let aws = |line: &str| cluster.aws(&line.split_whitespace().collect::<Vec<_>>()).json();
    let plain = cluster.run_task(&network, &TaskRun::of("box"));
    let listed = |line: &str| aws(&format!("ecs list-tasks {line}"))["taskArns"].as_array().unwrap().len();
    assert_eq!(
        [
            listed(""),
            listed("--family box"),
            listed("--launch-type FARGATE"),
            listed("--started-by cron"),
            listed("--launch-type EC2"),
            listed("--desired-status STOPPED"),
            listed("--page-size 1")
        ],
        [3, 3, 3, 2, 0, 0, 3]
    );

    let refused = boto.refused("ecs", "list_tasks", json!({ "serviceName": "web" }));
    assert_eq!(
        (refused.code.as_str(), refused.message.as_str()),
        ("ServiceNotFoundException", "Service not found.")
    );

    // Nobody would end a standalone task but its owner.
    let protect = json!({ "cluster": "default", "tasks": [plain], "protectionEnabled": true });
    let answer = boto.ok("ecs", "update_task_protection", protect);
    assert_eq!(
        (&answer["protectedTasks"], &answer["failures"][0]["reason"]),
        (&json!([]), &json!("TASK_NOT_VALID"))
    );
    let answer = boto.ok("ecs", "get_task_protection", json!({ "cluster": "default", "tasks": [plain] }));
    assert_eq!(answer["failures"][0], json!({ "arn": plain, "reason": "TASK_NOT_VALID" }));

    let mut version = cluster.running(&plain)["version"].as_u64().unwrap();
    aws(&format!("ecs stop-task --task {plain} --reason enough"));
    for arn in &first {
        boto.ok("ecs", "stop_task", json!({ "task": arn }));
    }
    for arn in first.iter().chain([&plain]) {
        let task = cluster.stopped(arn);
        assert_eq!((&task["desiredStatus"], &task["stopCode"]), (&json!("STOPPED"), &json!("UserInitiated")));
        if *arn == plain {
            assert_eq!(task["stoppedReason"], "enough");
            assert!(task["version"].as_u64().unwrap() > std::mem::take(&mut version), "{task:#}");
        }
    }
    assert_eq!(listed("--desired-status STOPPED"), 3, "to be seen for an hour");
    assert_eq!(listed(""), 0);
}

/// Account settings say what is true, and one of them is a right that is demanded.
#[test]
fn settings_count() {
    let cluster = Cluster::start();
    let root = cluster.boto();
    let all = root.ok("ecs", "list_account_settings", json!({ "effectiveSettings": true }));
    let more = root.ok("ecs", "pages:list_account_settings", json!({ "effectiveSettings": true }));
    assert!(!all["settings"].as_array().unwrap().is_empty());
    let value = |name: &str| {
        let settings = more["settings"].as_array().unwrap().iter();
        settings.into_iter().find(|one| one["name"] == name).map_or(Value::Null, |one| one["value"].clone())
    };
    for (name, expected) in [
        ("serviceLongArnFormat", "enabled"),
        ("taskLongArnFormat", "enabled"),
        ("containerInstanceLongArnFormat", "enabled"),
        ("awsvpcTrunking", "disabled"),
        ("containerInsights", "disabled"),
        ("fargateFIPSMode", "disabled"),
        ("tagResourceAuthorization", "on"),
        ("fargateTaskRetirementWaitPeriod", "7"),
        ("guardDutyActivate", "off"),
        ("defaultLogDriverMode", "non-blocking"),
        ("fargateEventWindows", "disabled"),
    ] {
        assert_eq!(value(name), expected, "{name}");
    }

    root.ok("iam", "create_user", json!({ "UserName": "ann" }));
    let keys = Keys::of(&root.ok("iam", "create_access_key", json!({ "UserName": "ann" }))["AccessKey"]);
    let policy = json!({ "Version": "2012-10-17", "Statement": [
        { "Effect": "Allow", "Action": "ecs:CreateCluster", "Resource": "*" }] });
    root.ok(
        "iam",
        "put_user_policy",
        json!({ "UserName": "ann", "PolicyName": "p", "PolicyDocument": policy.to_string() }),
    );
    let ann = cluster.boto_as(&keys);
    let tagged = json!({ "clusterName": "tagged", "tags": [{ "key": "a", "value": "b" }] });
    let refused = ann.refused("ecs", "create_cluster", tagged.clone());
    assert!(
        refused.code == "AccessDeniedException" && refused.message.contains("ecs:TagResource"),
        "{refused:?}"
    );
    ann.ok("ecs", "create_cluster", json!({ "clusterName": "plain" }));
    root.ok(
        "ecs",
        "put_account_setting_default",
        json!({ "name": "tagResourceAuthorization", "value": "off" }),
    );
    ann.ok("ecs", "create_cluster", tagged);
}
