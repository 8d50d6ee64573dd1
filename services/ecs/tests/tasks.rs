//! A task's whole life: controllers, reports, stops, races, crashes.

mod support;

use std::sync::Arc;

use ferrogate_api::ApiError;
use ferrogate_api::ecs::Ecs;
use ferrogate_nodeapi::{ContainerStatus, DesiredStatus, Health, ObservedStatus, TaskReport};
use jiff::SignedDuration;
use serde_json::json;
use support::{
    EXECUTION_ROLE, NODE, World, cause, container_report, input, report, run_sample, sample, start, with,
    with_container,
};

fn running(arn: &str, sequence: u64) -> TaskReport {
    TaskReport {
        pull_started_at: Some(start()),
        pull_stopped_at: Some(start()),
        started_at: Some(start()),
        containers: vec![container_report("sample-app", ContainerStatus::Running, None)],
        ..report(arn, sequence, ObservedStatus::Running)
    }
}

fn stopped(arn: &str, sequence: u64) -> TaskReport {
    TaskReport {
        execution_stopped_at: Some(start()),
        containers: vec![container_report("sample-app", ContainerStatus::Stopped, Some(143))],
        ..report(arn, sequence, ObservedStatus::Stopped)
    }
}

#[tokio::test]
async fn from_run_task_to_stopped() {
    let world = World::running();
    let before = world.store.revision();
    let task = world.run_sample().await;
    let arn = task.task_arn.unwrap();
    let list = world.until_assigned(|list| list.len() == 1).await;
    // The definition, the task, its placement; its interface is EC2's own transaction.
    assert_eq!(world.store.revision(), before + 3);
    let assignment = &list[0];
    assert_eq!(
        (assignment.task_arn.as_str(), assignment.desired, assignment.reported_sequence),
        (arn.as_str(), DesiredStatus::Running, 0)
    );
    let network = &assignment.network;
    assert_eq!(
        (network.subnet_cidr.to_string().as_str(), network.gateway.to_string().as_str()),
        ("10.0.1.0/24", "10.0.1.1")
    );
    assert_eq!(
        (network.dns_servers[0].to_string().as_str(), network.dns_search[0].as_str()),
        ("10.0.0.2", "ec2.internal")
    );
    let container = &assignment.containers[0];
    let environment: Vec<(&str, &str)> =
        container.environment.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(
        environment,
        [
            ("AWS_DEFAULT_REGION", "us-east-1"),
            ("AWS_EXECUTION_ENV", "AWS_ECS_FARGATE"),
            ("AWS_REGION", "us-east-1")
        ]
    );
    assert_eq!(
        (container.ulimits[0].soft, container.ulimits[0].hard, container.stop_timeout_seconds),
        (65_535, 65_535, 30)
    );
    assert_eq!(container.logs, None);

    let pending = world.describe(&arn).await;
    assert_eq!((pending.last_status.as_deref(), pending.version), (Some("PENDING"), Some(2)));
    let eni = world.cloud.enis().remove(0);
    let attachment = pending.attachments.as_ref().unwrap()[0].clone();
    assert_eq!(attachment.status.as_deref(), Some("ATTACHING"));
    assert_eq!(
        eni.description,
        format!("arn:aws:ecs:us-east-1:123456789012:attachment/{}", attachment.id.unwrap())
    );
    assert_eq!((eni.groups, eni.public), (vec!["sg-1".to_owned()], false));
    let names: Vec<String> =
        attachment.details.unwrap().into_iter().filter_map(|detail| detail.name).collect();
    assert_eq!(
        names,
        ["subnetId", "networkInterfaceId", "macAddress", "privateDnsName", "privateIPv4Address"]
    );

    world.report(report(&arn, 1, ObservedStatus::Activating)).await;
    world.clock.advance(SignedDuration::from_secs(1));
    world.report(running(&arn, 2)).await;
    let now = world.describe(&arn).await;
    assert_eq!(
        (now.last_status.as_deref(), now.connectivity.as_deref(), now.version),
        (Some("RUNNING"), Some("CONNECTED"), Some(4))
    );
    assert_eq!(now.started_at, Some(start()));
    let container = now.containers.unwrap().remove(0);
    assert_eq!(
        (container.last_status.as_deref(), container.image_digest.as_deref()),
        (Some("RUNNING"), Some("sha256:0123"))
    );
    assert!(container.runtime_id.is_some());

    let answer = world.stop(&arn).await;
    assert_eq!(
        (answer.desired_status.as_deref(), answer.last_status.as_deref()),
        (Some("STOPPED"), Some("RUNNING"))
    );
    assert_eq!(
        (answer.stop_code.as_deref(), answer.stopped_reason.as_deref()),
        (Some("UserInitiated"), Some("Task stopped by user"))
    );
    assert!(answer.stopping_at.is_some());
    world
        .until_assigned(|list| list.first().is_some_and(|task| task.desired == DesiredStatus::Stopped))
        .await;
    world.report(report(&arn, 3, ObservedStatus::Stopping)).await;
    assert_eq!(world.describe(&arn).await.last_status.as_deref(), Some("STOPPING"));
    world.report(stopped(&arn, 4)).await;
    world.until_assigned(|list| list.is_empty()).await;
    let over = world.until_status(&arn, "STOPPED").await;
    assert!(world.cloud.enis().is_empty());
    assert_eq!((over.stop_code.as_deref(), over.stopped_at.is_some()), (Some("UserInitiated"), true));
    assert_eq!(over.attachments.unwrap()[0].status.as_deref(), Some("DELETED"));
    assert_eq!(over.containers.unwrap()[0].exit_code, Some(143));
    // A node that has not heard it yet.
    world.report(stopped(&arn, 5)).await;
    assert_eq!(world.describe(&arn).await.version, over.version);
}

#[tokio::test]
async fn reasons() {
    let world = World::running();
    world.register(sample()).await.unwrap();
    let pull = "CannotPullContainerError: pull image manifest has been retried 1 time(s): failed to resolve ref docker.io/library/x:latest";
    for (cause, code, reason) in [
        (
            cause("EssentialContainerExited", "Essential container in task exited"),
            "EssentialContainerExited",
            "Essential container in task exited",
        ),
        (cause("TaskFailedToStart", pull), "TaskFailedToStart", pull),
        (None, "TaskFailedToStart", "Task failed to start"),
    ] {
        let arn = world.run_task(run_sample()).await.unwrap().remove(0).task_arn.unwrap();
        world.until_status(&arn, "PENDING").await;
        world.report(TaskReport { stop: cause, ..report(&arn, 1, ObservedStatus::Stopped) }).await;
        let over = world.until_status(&arn, "STOPPED").await;
        assert_eq!((over.stop_code.as_deref(), over.stopped_reason.as_deref()), (Some(code), Some(reason)));
        assert_eq!(over.desired_status.as_deref(), Some("STOPPED"));
        assert!(over.containers.unwrap()[0].runtime_id.is_none());
    }
}

#[tokio::test]
async fn health_is_that_of_the_essential_containers() {
    let world = World::running();
    let check = json!({ "command": ["CMD-SHELL", "curl -f localhost"] });
    world.register(with_container(json!({ "healthCheck": check }))).await.unwrap();
    let arn = world.run_task(run_sample()).await.unwrap().remove(0).task_arn.unwrap();
    let list = world.until_assigned(|list| list.len() == 1).await;
    let check = list[0].containers[0].health_check.clone().unwrap();
    assert_eq!(check.argv, ["/bin/sh", "-c", "curl -f localhost"]);
    assert_eq!(
        (check.interval_seconds, check.timeout_seconds, check.retries, check.start_period_seconds),
        (30, 5, 3, 0)
    );
    for (sequence, health, expected) in [
        (1, Health::Unknown, "UNKNOWN"),
        (2, Health::Healthy, "HEALTHY"),
        (3, Health::Unhealthy, "UNHEALTHY"),
    ] {
        let mut report = running(&arn, sequence);
        report.containers[0].health = health;
        world.report(report).await;
        let task = world.describe(&arn).await;
        assert_eq!(task.health_status.as_deref(), Some(expected));
        assert_eq!(task.containers.unwrap()[0].health_status.as_deref(), Some(expected));
    }
}

#[tokio::test]
async fn a_public_address_when_asked() {
    let world = World::running();
    world.register(sample()).await.unwrap();
    let network = json!({ "awsvpcConfiguration": { "subnets": ["subnet-b"], "assignPublicIp": "ENABLED" } });
    let arn = world
        .run_task(with(run_sample(), json!({ "networkConfiguration": network })))
        .await
        .unwrap()
        .remove(0)
        .task_arn
        .unwrap();
    world.until_status(&arn, "PENDING").await;
    let eni = world.cloud.enis().remove(0);
    assert!(eni.public && eni.groups.is_empty() && eni.subnet == "subnet-b");
}

#[tokio::test]
async fn stopped_while_its_interface_is_being_made() {
    let world = World::running();
    world.cloud.held_subnets.lock().unwrap().insert("subnet-a".into());
    let arn = world.run_sample().await.task_arn.unwrap();
    world.until("it is being made", async |world| world.cloud.count("CreateNetworkInterface") == 1).await;
    let answer = world.stop(&arn).await;
    assert_eq!(
        (answer.last_status.as_deref(), answer.desired_status.as_deref()),
        (Some("PROVISIONING"), Some("STOPPED"))
    );
    world.cloud.gate.add_permits(10);
    let over = world.until_status(&arn, "STOPPED").await;
    assert_eq!(over.stop_code.as_deref(), Some("UserInitiated"));
    assert!(world.cloud.enis().is_empty(), "the interface was given back");
    assert!(world.service.assignments(NODE).borrow().is_empty());
}

#[tokio::test]
async fn stopped_before_anything_was_begun() {
    let mut world = World::new();
    let arn = world.run_sample().await.task_arn.unwrap();
    world.stop(&arn).await;
    world.run();
    let over = world.until_status(&arn, "STOPPED").await;
    assert_eq!(
        (over.stopped_reason.as_deref(), world.cloud.count("CreateNetworkInterface")),
        (Some("Task stopped by user"), 0)
    );
}

#[tokio::test]
async fn one_slow_interface_does_not_keep_others_waiting() {
    let world = World::running();
    world.cloud.held_subnets.lock().unwrap().insert("subnet-a".into());
    let slow = world.run_sample().await.task_arn.unwrap();
    world.until("it is being made", async |world| world.cloud.count("CreateNetworkInterface") == 1).await;
    let network = json!({ "awsvpcConfiguration": { "subnets": ["subnet-b"] } });
    let quick = world
        .run_task(with(run_sample(), json!({ "networkConfiguration": network })))
        .await
        .unwrap()
        .remove(0)
        .task_arn
        .unwrap();
    world.until_status(&quick, "PENDING").await;
    assert_eq!(world.describe(&slow).await.last_status.as_deref(), Some("PROVISIONING"));
    world.cloud.gate.add_permits(1);
    world.until_status(&slow, "PENDING").await;
}

#[tokio::test]
async fn an_interface_that_cannot_be_had() {
    let world = World::running();
    let full = "The specified subnet does not have enough free addresses to satisfy the request.";
    *world.cloud.create_errors.lock().unwrap() = vec![
        // Passes: it is tried again.
        ApiError::internal(),
        ApiError::new("InsufficientFreeAddressesInSubnet", full),
    ];
    let arn = world.run_sample().await.task_arn.unwrap();
    let over = world.until_status(&arn, "STOPPED").await;
    assert_eq!(
        (over.stop_code.as_deref(), over.stopped_reason.as_deref()),
        (
            Some("TaskFailedToStart"),
            Some(
                "Unexpected EC2 error while attempting to Create Network Interface in subnet 'subnet-a': InsufficientFreeAddressesInSubnet"
            )
        )
    );
}

#[tokio::test]
async fn an_interface_that_never_comes() {
    let world = World::running();
    *world.cloud.lose_answers.lock().unwrap() = true;
    let arn = world.run_sample().await.task_arn.unwrap();
    world.until("it was tried", async |world| world.cloud.count("CreateNetworkInterface") >= 1).await;
    world.clock.advance(SignedDuration::from_mins(4));
    let over = world.until_status(&arn, "STOPPED").await;
    assert_eq!(
        over.stopped_reason.as_deref(),
        Some("Timeout waiting for network interface provisioning to complete.")
    );
    assert!(world.cloud.enis().is_empty(), "made, never recorded, found by its description");
}

#[tokio::test]
async fn a_crash_between_making_and_recording() {
    let world = World::running();
    *world.cloud.lose_answers.lock().unwrap() = true;
    let arn = world.run_sample().await.task_arn.unwrap();
    world.until("it was made", async |world| world.cloud.enis().len() == 1).await;
    let (store, cloud, clock) = world.kill();
    *cloud.lose_answers.lock().unwrap() = false;
    let mut again = World::over(store, cloud, clock);
    again.run();
    again.until_status(&arn, "PENDING").await;
    assert_eq!(again.cloud.enis().len(), 1, "the same one");
}

#[tokio::test]
async fn a_crash_and_then_a_stop() {
    let world = World::running();
    *world.cloud.lose_answers.lock().unwrap() = true;
    let arn = world.run_sample().await.task_arn.unwrap();
    world.until("it was made", async |world| world.cloud.enis().len() == 1).await;
    let (store, cloud, clock) = world.kill();
    let mut again = World::over(store, cloud, clock);
    again.stop(&arn).await;
    again.run();
    again.until_status(&arn, "STOPPED").await;
    assert!(again.cloud.enis().is_empty());
}

#[tokio::test]
async fn a_restart_gives_the_node_what_it_had() {
    let world = World::running();
    let arn = world.run_sample().await.task_arn.unwrap();
    world.until_status(&arn, "PENDING").await;
    world.report(running(&arn, 7)).await;
    let (store, cloud, clock) = world.kill();
    let again = World::over(store, cloud, clock);
    let list = again.service.assignments(NODE).borrow().clone();
    assert_eq!((list.len(), list[0].reported_sequence), (1, 7));
}

#[tokio::test]
async fn reports_that_cross() {
    let world = World::running();
    let arn = world.run_sample().await.task_arn.unwrap();
    world.until_status(&arn, "PENDING").await;
    // Old and new in any order, together with a stop: the newest counts, nothing goes back.
    let stop = async { world.stop(&arn).await };
    let reports = (1..=20).rev().map(|sequence| {
        world
            .service
            .report(vec![running(&arn, sequence), report(&arn, sequence, ObservedStatus::Activating)])
    });
    let (_, reported) = tokio::join!(stop, futures_util::future::try_join_all(reports));
    reported.unwrap();
    let task = world.describe(&arn).await;
    assert_eq!(
        (task.last_status.as_deref(), task.desired_status.as_deref()),
        (Some("RUNNING"), Some("STOPPED"))
    );
    world
        .report(report(
            "arn:aws:ecs:us-east-1:123456789012:task/default/0123456789abcdef0123456789abcdef",
            1,
            ObservedStatus::Running,
        ))
        .await;
    let list = world.service.assignments(NODE).borrow().clone();
    assert_eq!((list.len(), list[0].reported_sequence), (1, 20));
}

#[tokio::test]
async fn a_thousand() {
    const TASKS: usize = 1000;
    let world = World::running();
    world.register(sample()).await.unwrap();
    let subnets = json!({ "awsvpcConfiguration": { "subnets": ["subnet-a", "subnet-b", "subnet-c"] } });
    let request = with(run_sample(), json!({ "count": 10, "networkConfiguration": subnets }));
    for _ in 0..TASKS / 10 {
        world.run_task(request.clone()).await.unwrap();
    }
    let list = world.until_assigned(|list| list.len() == TASKS).await;
    assert_eq!(world.cloud.enis().len(), TASKS);
    let arns: Vec<String> = list.iter().map(|task| task.task_arn.clone()).collect();
    world.service.report(arns.iter().map(|arn| running(arn, 1)).collect()).await.unwrap();
    let cluster = async |world: &World| {
        world
            .service
            .describe_clusters(&world.cx(), input(json!({})))
            .await
            .unwrap()
            .clusters
            .unwrap()
            .remove(0)
    };
    let now = cluster(&world).await;
    assert_eq!((now.running_tasks_count, now.pending_tasks_count), (Some(1000), Some(0)));
    // Every page of the list.
    let (mut seen, mut token) = (std::collections::BTreeSet::new(), None::<String>);
    loop {
        let page = world.service.list_tasks(&world.cx(), input(json!({ "nextToken": token }))).await.unwrap();
        seen.extend(page.task_arns.unwrap());
        token = page.next_token;
        if token.is_none() {
            break;
        }
    }
    assert_eq!(seen.len(), TASKS);
    futures_util::future::join_all(arns.iter().map(|arn| world.stop(arn))).await;
    world.until_assigned(|list| list.iter().all(|task| task.desired == DesiredStatus::Stopped)).await;
    world.service.report(arns.iter().map(|arn| stopped(arn, 2)).collect()).await.unwrap();
    world.until_assigned(|list| list.is_empty()).await;
    world.until("all interfaces are gone", async |world| world.cloud.enis().is_empty()).await;
    world
        .until("nothing is left to do", async |world| world.store.range("/ecs-work/deprovision/").is_empty())
        .await;
    // An hour later nothing of them is left.
    world.clock.advance(SignedDuration::from_mins(61));
    world.wake("ecs-sweep");
    world
        .until("all are forgotten", async |world| {
            world.store.range("/ecs/123456789012/us-east-1/task/").is_empty()
        })
        .await;
    assert!(world.store.range("/ecs-work/").is_empty());
}

#[tokio::test]
async fn the_sweep() {
    let world = World::running();
    world.register(with(sample(), json!({ "executionRoleArn": EXECUTION_ROLE }))).await.unwrap();
    let arn = world
        .run_task(with(run_sample(), json!({ "clientToken": "t" })))
        .await
        .unwrap()
        .remove(0)
        .task_arn
        .unwrap();
    world.until_status(&arn, "PENDING").await;
    // An interface that nobody knows.
    let orphan = support::Eni {
        id: "eni-orphan".into(),
        description: "arn:aws:ecs:us-east-1:123456789012:attachment/0-0-0-0-0".into(),
        subnet: "subnet-a".into(),
        ip: "10.0.1.200".into(),
        groups: Vec::new(),
        public: false,
    };
    world.cloud.enis.lock().unwrap().insert(orphan.id.clone(), orphan);
    // A definition in use is not deleted.
    let (service, cx) = (Arc::clone(&world.service), world.cx());
    let name = "sample-fargate-app:1";
    service.deregister_task_definition(&cx, input(json!({ "taskDefinition": name }))).await.unwrap();
    service.delete_task_definitions(&cx, input(json!({ "taskDefinitions": [name] }))).await.unwrap();
    world.clock.advance(SignedDuration::from_mins(11));
    world.wake("ecs-sweep");
    world.until("the unknown interface is gone", async |world| world.cloud.enis().len() == 1).await;
    assert!(service.describe_task_definition(&cx, input(json!({ "taskDefinition": name }))).await.is_ok());
    world.report(stopped(&arn, 1)).await;
    world.until_status(&arn, "STOPPED").await;
    world.clock.advance(SignedDuration::from_hours(25));
    world.wake("ecs-sweep");
    world.until("the task is gone", async |world| world.find(&arn).await.is_none()).await;
    world
        .until("the token is gone", async |world| {
            world.store.range("/ecs/123456789012/us-east-1/client-token/").is_empty()
        })
        .await;
    world.wake("ecs-sweep");
    world
        .until("the definition is gone", async |world| {
            world.store.range("/ecs/123456789012/us-east-1/definition/").is_empty()
        })
        .await;
    let describe = json!({ "tasks": [arn] });
    let failures = service.describe_tasks(&cx, input(describe)).await.unwrap().failures.unwrap();
    assert_eq!((failures[0].arn.as_ref(), failures[0].reason.as_deref()), (Some(&arn), Some("MISSING")));
}
