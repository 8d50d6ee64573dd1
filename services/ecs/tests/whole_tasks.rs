//! Tasks with all that RunTask can say: overrides, ECS Exec, protection, tags, the last address of a subnet, the end.

mod support;

use std::collections::BTreeMap;

use ferrogate_api::ecs::{self, Ecs};
use ferrogate_nodeapi::{ContainerStatus, Health, ManagedAgentStatus, ObservedStatus, TaskReport};
use ferrogate_store::Txn;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value as Json, json};
use support::{
    EXECUTION_ROLE, World, cause, container_report, input, report, run_sample, sample, start, with,
    with_container,
};

const APP_ROLE: &str = "arn:aws:iam::123456789012:role/app";
const INVALID: &str = "InvalidParameterException";

fn secret_app() -> Json {
    let app = with_container(
        json!({ "secrets": [{ "name": "PASSWORD", "valueFrom": "/app/password" }], "memory": 256 }),
    );
    with(app, json!({ "executionRoleArn": EXECUTION_ROLE, "ephemeralStorage": { "sizeInGiB": 30 } }))
}

fn over(changes: Json) -> Json {
    with(run_sample(), json!({ "overrides": changes }))
}

fn over_container(changes: Json) -> Json {
    over(json!({ "containerOverrides": [with(json!({ "name": "sample-app" }), changes)] }))
}

async fn run_one(world: &World, request: Json) -> ecs::Task {
    world.run_task(request).await.unwrap().remove(0)
}

#[tokio::test]
async fn overrides_refused() {
    let world = World::new();
    world.register(secret_app()).await.unwrap();
    let later =
        |what: &str| format!("This version of Ferrogate does not support '{what}' yet: leave it out.");
    for (request, code, message) in [
        (
            over_container(json!({ "environment": [{ "name": "PASSWORD", "value": "x" }] })),
            INVALID,
            "The secret name must be unique and not shared with any new or existing environment variables set on the container, such as 'PASSWORD'.".to_owned(),
        ),
        (
            over(json!({ "ephemeralStorage": { "sizeInGiB": 20 } })),
            INVALID,
            "EphemeralStorage size should be at least 21".into(),
        ),
        (
            over(json!({ "ephemeralStorage": { "sizeInGiB": 201 } })),
            INVALID,
            "EphemeralStorage size should be at most 200".into(),
        ),
        (over(json!({ "taskRoleArn": "a b" })), INVALID, "Role is not valid".into()),
        (
            over(json!({ "executionRoleArn": "arn:aws:iam::999999999999:role/x" })),
            "AccessDeniedException",
            "Cross-account pass role is not allowed.".into(),
        ),
        (
            over_container(json!({ "memoryReservation": 300 })),
            INVALID,
            "Invalid setting for container 'sample-app'. 'memory' must be greater than 'memoryReservation'.".into(),
        ),
        (
            over_container(json!({ "environmentFiles": [{ "value": "arn:aws:s3:::b/f.env", "type": "s3" }] })),
            "ClientException",
            later("containerOverrides.environmentFiles"),
        ),
        (
            over_container(json!({ "resourceRequirements": [{ "type": "GPU", "value": "1" }] })),
            "ClientException",
            later("containerOverrides.resourceRequirements"),
        ),
        (
            with(run_sample(), json!({ "enableExecuteCommand": true })),
            INVALID,
            "The execute command failed because a valid task role is not being used. Specify a valid task role in your task definition or as a task override and try again.".into(),
        ),
        (
            with(run_sample(), json!({ "referenceId": "x".repeat(1025) })),
            INVALID,
            "The referenceId may have up to 1024 characters.".into(),
        ),
        (
            with(run_sample(), json!({ "propagateTags": "SERVICE" })),
            INVALID,
            "Invalid propagateTags 'SERVICE': a task that no service starts gets its tags from TASK_DEFINITION.".into(),
        ),
        (
            with(run_sample(), json!({ "launchType": null, "capacityProviderStrategy": [{ "capacityProvider": "FARGATE", "weight": 1001 }] })),
            INVALID,
            "The weight is between 0 and 1000 and the base between 0 and 100000.".into(),
        ),
        (
            with(run_sample(), json!({ "launchType": null, "cluster": "bare", "capacityProviderStrategy": [{ "capacityProvider": "FARGATE", "weight": 1 }] })),
            INVALID,
            "The specified capacity provider strategy cannot contain a capacity provider that is not associated with the cluster. Associate the capacity provider with the cluster or specify a valid capacity provider and try again.".into(),
        ),
    ] {
        let bare = json!({ "clusterName": "bare" });
        world.service.create_cluster(&world.cx(), input(bare)).await.unwrap();
        let error = world.run_task(request.clone()).await.expect_err(&message);
        assert_eq!((error.code.as_str(), error.message), (code, message), "{request}");
    }
    assert!(world.store.range("/ecs/123456789012/us-east-1/task/").is_empty());
}

#[tokio::test]
async fn overrides_count() {
    let world = World::running();
    world.register(secret_app()).await.unwrap();
    let task = run_one(&world, run_sample()).await;
    assert_eq!(task.ephemeral_storage.unwrap().size_in_gib, Some(30), "the definition's");
    world.until_assigned(|list| list.len() == 1).await;
    world.stop(&task.task_arn.unwrap()).await;

    let all = json!({
        "cpu": "1 vCPU", "memory": "2 GB", "ephemeralStorage": { "sizeInGiB": 200 },
        "taskRoleArn": "app", "executionRoleArn": "arn:aws:iam::123456789012:role/other",
        "containerOverrides": [{
            "name": "sample-app", "command": ["serve"], "environment": [{ "name": "A", "value": "1" }],
            "cpu": 512, "memory": 1024, "memoryReservation": 512,
        }],
    });
    let request = with(
        over(all),
        json!({
            "launchType": null, "group": "batch", "startedBy": "cron", "referenceId": "r-1",
            "capacityProviderStrategy": [{ "capacityProvider": "FARGATE", "weight": 1, "base": 1 }],
        }),
    );
    let task = run_one(&world, request).await;
    let arn = task.task_arn.clone().unwrap();
    assert_eq!(task.capacity_provider_name.as_deref(), Some("FARGATE"));
    assert_eq!((task.cpu.as_deref(), task.memory.as_deref()), (Some("1024"), Some("2048")));
    assert_eq!(task.ephemeral_storage.unwrap().size_in_gib, Some(200));
    let shown = task.overrides.unwrap();
    assert_eq!(shown.ephemeral_storage.unwrap().size_in_gib, Some(200));
    let container = task.containers.unwrap().remove(0);
    assert_eq!(
        (container.cpu.as_deref(), container.memory.as_deref(), container.memory_reservation.as_deref()),
        (Some("512"), Some("1024"), Some("512"))
    );
    let list = world.until_assigned(|list| list.iter().any(|task| task.task_arn == arn)).await;
    let assignment = list.iter().find(|task| task.task_arn == arn).unwrap();
    assert_eq!(
        (assignment.cpu_units, assignment.memory_mib, assignment.ephemeral_storage_gib),
        (1024, 2048, 200)
    );
    assert!(assignment.has_task_role);
    assert_eq!(assignment.group, "batch");
    let container = &assignment.containers[0];
    assert_eq!(
        (container.cpu_units, container.memory_mib, container.memory_reservation_mib),
        (512, Some(1024), Some(512))
    );
    assert_eq!(container.command.as_deref(), Some(&["serve".to_owned()][..]));
    assert_eq!(container.environment["A"], "1");
    let roles = world.service.task_roles(&arn).unwrap();
    assert_eq!(roles.task_role_arn.as_deref(), Some(APP_ROLE));
    assert_eq!(roles.execution_role_arn.as_deref(), Some("arn:aws:iam::123456789012:role/other"));
}

#[tokio::test]
async fn the_agent_for_sessions_is_shown() {
    let world = World::running();
    world.register(sample()).await.unwrap();
    let request = with(over(json!({ "taskRoleArn": APP_ROLE })), json!({ "enableExecuteCommand": true }));
    let task = run_one(&world, request).await;
    assert_eq!(task.enable_execute_command, Some(true));
    let arn = task.task_arn.unwrap();
    let agent = async || {
        let container = world.describe(&arn).await.containers.unwrap().remove(0);
        serde_json::to_value(container.managed_agents.unwrap()).unwrap()
    };
    assert_eq!(agent().await, json!([{ "name": "ExecuteCommandAgent", "lastStatus": "PENDING" }]));
    world.until_assigned(|list| list.first().is_some_and(|task| task.exec_enabled)).await;
    let mut up = container_report("sample-app", ContainerStatus::Running, None);
    up.exec_agent = Some(ManagedAgentStatus {
        status: ContainerStatus::Running,
        reason: None,
        last_started_at: Some(start()),
    });
    let running = TaskReport { containers: vec![up], ..report(&arn, 1, ObservedStatus::Running) };
    world.report(running).await;
    assert_eq!(
        agent().await,
        json!([{ "lastStartedAt": "2026-11-21T05:00:00Z", "name": "ExecuteCommandAgent", "lastStatus": "RUNNING" }])
    );
    let ended = container_report("sample-app", ContainerStatus::Stopped, Some(0));
    let stopped = TaskReport { containers: vec![ended], ..report(&arn, 2, ObservedStatus::Stopped) };
    world.report(stopped).await;
    assert_eq!(agent().await[0]["lastStatus"], "STOPPED");

    let plain = run_one(&world, run_sample()).await;
    assert_eq!(
        (plain.enable_execute_command, plain.containers.unwrap()[0].managed_agents.clone()),
        (Some(false), None)
    );
}

/// What ECS shows at each step, and when it says that it was.
#[tokio::test]
async fn every_state_with_its_times() {
    let world = World::running();
    world.register(sample()).await.unwrap();
    let arn = run_one(&world, run_sample()).await.task_arn.unwrap();
    let at = |seconds: i64| -> Timestamp { start() + SignedDuration::from_secs(seconds) };
    world.until_status(&arn, "PENDING").await;
    let report_at = async |seconds: i64, report: TaskReport| {
        world.clock.advance(SignedDuration::from_secs(seconds));
        world.report(report).await;
    };
    let of = |sequence, status| report(&arn, sequence, status);
    report_at(4, of(1, ObservedStatus::Pending)).await;
    report_at(1, TaskReport { pull_started_at: Some(at(5)), ..of(2, ObservedStatus::Activating) }).await;
    let running = TaskReport {
        pull_stopped_at: Some(at(8)),
        started_at: Some(at(9)),
        containers: vec![container_report("sample-app", ContainerStatus::Running, None)],
        ..of(3, ObservedStatus::Running)
    };
    report_at(4, running).await;
    let task = world.describe(&arn).await;
    let version = task.version.unwrap();
    assert_eq!(
        (task.last_status.as_deref(), task.desired_status.as_deref()),
        (Some("RUNNING"), Some("RUNNING"))
    );
    assert_eq!(task.attachments.unwrap()[0].status.as_deref(), Some("ATTACHED"));
    assert_eq!(
        [task.created_at, task.connectivity_at, task.pull_started_at, task.pull_stopped_at, task.started_at],
        [0, 4, 5, 8, 9].map(|seconds| Some(at(seconds)))
    );
    assert_eq!([task.stopping_at, task.execution_stopped_at, task.stopped_at], [None; 3]);
    let container = task.containers.unwrap().remove(0);
    assert_eq!(container.network_bindings, Some(Vec::new()));
    let interface = container.network_interfaces.unwrap().remove(0);
    assert_eq!(interface.private_ipv4_address, Some(world.cloud.enis()[0].ip.clone()));

    world.clock.advance(SignedDuration::from_secs(11));
    let stopping = world.stop(&arn).await;
    assert_eq!((stopping.stopping_at, stopping.version), (Some(at(20)), Some(version + 1)));
    report_at(1, of(4, ObservedStatus::Stopping)).await;
    let task = world.describe(&arn).await;
    assert_eq!(
        (task.last_status.as_deref(), task.desired_status.as_deref()),
        (Some("STOPPING"), Some("STOPPED"))
    );
    let mut ended = container_report("sample-app", ContainerStatus::Stopped, Some(143));
    ended.reason = Some("OutOfMemoryError: Container killed due to memory usage".into());
    let over = TaskReport {
        execution_stopped_at: Some(at(22)),
        containers: vec![ended],
        ..of(5, ObservedStatus::Stopped)
    };
    report_at(2, over).await;
    let task = world.until_status(&arn, "STOPPED").await;
    assert_eq!(
        [task.stopping_at, task.execution_stopped_at, task.stopped_at],
        [20, 22, 23].map(|seconds| Some(at(seconds)))
    );
    assert_eq!(task.attachments.unwrap()[0].status.as_deref(), Some("DELETED"));
    let container = task.containers.unwrap().remove(0);
    assert_eq!(
        (container.exit_code, container.reason.as_deref()),
        (Some(143), Some("OutOfMemoryError: Container killed due to memory usage"))
    );
    assert!(task.version.unwrap() > version + 2);
    // Still there just before the hour is over, and then not.
    world.clock.advance(SignedDuration::from_mins(59));
    world.wake("ecs-sweep");
    assert!(world.find(&arn).await.is_some());
    world.clock.advance(SignedDuration::from_mins(2));
    world.wake("ecs-sweep");
    world.until("it is forgotten", async |world| world.find(&arn).await.is_none()).await;
}

#[tokio::test]
async fn health_of_several() {
    let world = World::running();
    let check = json!({ "command": ["CMD", "true"] });
    let container = |name: &str, essential: bool, check: Option<&Json>| {
        let container = json!({ "name": name, "image": "busybox", "essential": essential });
        check.map_or(container.clone(), |check| with(container, json!({ "healthCheck": check })))
    };
    let definition = with(
        sample(),
        json!({ "containerDefinitions": [container("a", true, Some(&check)), container("b", true, Some(&check)), container("c", false, Some(&check))] }),
    );
    world.register(definition).await.unwrap();
    let arn = run_one(&world, run_sample()).await.task_arn.unwrap();
    world.until_status(&arn, "PENDING").await;
    let (ok, bad, open) = (Health::Healthy, Health::Unhealthy, Health::Unknown);
    for (sequence, healths, expected) in [
        (1, [ok, ok, open], "HEALTHY"),
        (2, [ok, ok, bad], "HEALTHY"),
        (3, [ok, open, ok], "UNKNOWN"),
        (4, [bad, open, ok], "UNHEALTHY"),
        (5, [bad, ok, ok], "UNHEALTHY"),
    ] {
        let containers = ["a", "b", "c"].into_iter().zip(healths).map(|(name, health)| {
            let mut container = container_report(name, ContainerStatus::Running, None);
            container.health = health;
            container
        });
        let report = TaskReport {
            containers: containers.collect(),
            ..report(&arn, sequence, ObservedStatus::Running)
        };
        world.report(report).await;
        assert_eq!(world.describe(&arn).await.health_status.as_deref(), Some(expected), "{healths:?}");
    }
    // An essential container without a check is never known to be well.
    let definition = with(
        sample(),
        json!({ "containerDefinitions": [container("a", true, Some(&check)), container("b", true, None)] }),
    );
    world.register(definition).await.unwrap();
    let arn = run_one(&world, run_sample()).await.task_arn.unwrap();
    world.until_status(&arn, "PENDING").await;
    let mut well = container_report("a", ContainerStatus::Running, None);
    well.health = ok;
    world.report(TaskReport { containers: vec![well], ..report(&arn, 1, ObservedStatus::Running) }).await;
    assert_eq!(world.describe(&arn).await.health_status.as_deref(), Some("UNKNOWN"));
}

/// RunTask answers with tasks, as on AWS; those that get no address stop and say why, and nothing of them is left.
#[tokio::test]
async fn the_last_address_of_a_subnet() {
    let world = World::running();
    *world.cloud.addresses.lock().unwrap() = Some(1);
    world.register(sample()).await.unwrap();
    let (one, two) = tokio::join!(run_one(&world, run_sample()), run_one(&world, run_sample()));
    let arns = [one.task_arn.unwrap(), two.task_arn.unwrap()];
    let mut ends = BTreeMap::new();
    for arn in &arns {
        world
            .until("it has an address or not", async |world| {
                let task = world.describe(arn).await;
                matches!(task.last_status.as_deref(), Some("PENDING" | "STOPPED"))
            })
            .await;
        let task = world.describe(arn).await;
        ends.insert(task.last_status.clone().unwrap(), task);
    }
    let stopped = &ends["STOPPED"];
    assert!(ends.contains_key("PENDING"), "one each");
    assert_eq!(
        (stopped.stop_code.as_deref(), stopped.stopped_reason.as_deref()),
        (
            Some("TaskFailedToStart"),
            Some(
                "Unexpected EC2 error while attempting to Create Network Interface in subnet 'subnet-a': InsufficientFreeAddressesInSubnet"
            )
        )
    );
    assert_eq!(stopped.containers.as_ref().unwrap()[0].last_status.as_deref(), Some("STOPPED"));
    assert_eq!(world.cloud.enis().len(), 1);
    // The address of the one that ends is free for the next.
    let pending = ends["PENDING"].task_arn.clone().unwrap();
    world.report(report(&pending, 1, ObservedStatus::Stopped)).await;
    world.until_status(&pending, "STOPPED").await;
    assert_eq!(world.cloud.enis(), []);
    let third = run_one(&world, run_sample()).await.task_arn.unwrap();
    world.until_status(&third, "PENDING").await;
    world.stop(&third).await;
    world.report(TaskReport { stop: cause("x", "y"), ..report(&third, 1, ObservedStatus::Stopped) }).await;
    world.until_status(&third, "STOPPED").await;
    assert_eq!(world.cloud.enis(), []);
}

#[tokio::test]
async fn tags_have_limits() {
    let world = World::new();
    let many = |from: usize, to: usize| -> Vec<Json> {
        (from..to).map(|n| json!({ "key": format!("k{n}"), "value": "v" })).collect()
    };
    world.register(with(sample(), json!({ "tags": many(0, 30) }))).await.unwrap();
    let request = |tags: Vec<Json>, propagate: &str| {
        with(run_sample(), json!({ "tags": tags, "propagateTags": propagate, "enableECSManagedTags": true }))
    };
    let task = run_one(&world, request(many(0, 50), "TASK_DEFINITION")).await;
    assert_eq!(task.tags.unwrap().len(), 51, "and the one of ECS");
    for (tags, propagate, count) in [(many(0, 51), "NONE", 51), (many(30, 60), "TASK_DEFINITION", 60)] {
        let error = world.run_task(request(tags, propagate)).await.unwrap_err();
        assert_eq!(error.message, format!("A resource can have at most 50 tags; these are {count}."));
    }
    let twice = json!({ "tags": [{ "key": "a", "value": "1" }, { "key": "a", "value": "2" }] });
    let error = world.run_task(with(run_sample(), twice)).await.unwrap_err();
    assert_eq!(error.message, "Duplicate tag keys found: 'a'. Tag keys must be unique.");
    let described =
        world.service.describe_tasks(&world.cx(), input(json!({ "tasks": [task.task_arn] }))).await;
    assert_eq!(described.unwrap().tasks.unwrap()[0].tags, Some(Vec::new()), "only when asked for");
}

#[tokio::test]
async fn protection() {
    let world = World::new();
    let standalone = world.run_sample().await.task_arn.unwrap();
    let (service, cx) = (&world.service, world.cx());
    let update = async |changes: Json| {
        let request = with(json!({ "cluster": "default", "protectionEnabled": true }), changes);
        service.update_task_protection(&world.cx(), input(request)).await
    };
    for (changes, message) in [
        (json!({ "tasks": [] }), "Tasks cannot be empty."),
        (json!({ "tasks": vec![&standalone; 11] }), "Tasks can have at most 10 items."),
        (
            json!({ "tasks": [standalone], "expiresInMinutes": 0 }),
            "expiresInMinutes should be between 1 and 2880.",
        ),
        (
            json!({ "tasks": [standalone], "expiresInMinutes": 2881 }),
            "expiresInMinutes should be between 1 and 2880.",
        ),
        (json!({ "tasks": ["x"] }), "taskId length should be one of [32,36]"),
    ] {
        let error = update(changes).await.unwrap_err();
        assert_eq!((error.code.as_str(), error.message.as_str()), (INVALID, message));
    }
    let missing = "0123456789abcdef0123456789abcdef";
    let failures = update(json!({ "tasks": [standalone, missing] })).await.unwrap().failures.unwrap();
    let reasons: Vec<Option<String>> = failures.iter().map(|failure| failure.reason.clone()).collect();
    assert_eq!(reasons, [Some("TASK_NOT_VALID".to_owned()), Some("MISSING".to_owned())]);
    let get = json!({ "cluster": "default", "tasks": [standalone] });
    let answer = service.get_task_protection(&cx, input(get)).await.unwrap();
    assert_eq!(answer.protected_tasks, Some(Vec::new()));
    assert_eq!(answer.failures.unwrap()[0].reason.as_deref(), Some("TASK_NOT_VALID"));

    // As if a service had started it.
    let arn = run_one(&world, run_sample()).await.task_arn.unwrap();
    let key = format!("/ecs/123456789012/us-east-1/{}", arn.splitn(6, ':').nth(5).unwrap());
    let mut record: Json = serde_json::from_slice(&world.store.get(&key).unwrap().value).unwrap();
    record["group"] = json!("service:web");
    world.store.txn(Txn::new().put_json(key, &record)).await.unwrap();
    let now = async || {
        let get = json!({ "cluster": "default", "tasks": [arn] });
        let answer = service.get_task_protection(&world.cx(), input(get)).await.unwrap();
        assert_eq!(answer.failures, Some(Vec::new()));
        let task = answer.protected_tasks.unwrap().remove(0);
        (task.protection_enabled.unwrap(), task.expiration_date)
    };
    let after = |minutes: i64| Some(start() + SignedDuration::from_mins(minutes));
    assert_eq!(now().await, (false, None));
    update(json!({ "tasks": [arn] })).await.unwrap();
    assert_eq!(now().await, (true, after(120)), "two hours, unless said");
    let answer = update(json!({ "tasks": [arn], "expiresInMinutes": 5 })).await.unwrap();
    assert_eq!(answer.protected_tasks.unwrap()[0].expiration_date, after(5));
    world.clock.advance(SignedDuration::from_mins(5));
    assert_eq!(now().await, (false, None), "it has ended by itself");
    update(json!({ "tasks": [arn] })).await.unwrap();
    assert_eq!(now().await, (true, after(125)));
    update(json!({ "tasks": [arn], "protectionEnabled": false })).await.unwrap();
    assert_eq!(now().await, (false, None));
    world.stop(&arn).await;
    let failures = update(json!({ "tasks": [arn] })).await.unwrap().failures.unwrap();
    assert_eq!(failures[0].reason.as_deref(), Some("TASK_NOT_VALID"), "it is being stopped");
}

#[tokio::test]
async fn lists_refuse_what_they_do_not_know() {
    let world = World::new();
    let arn = world.run_sample().await.task_arn.unwrap();
    let (service, cx) = (&world.service, world.cx());
    for (request, message) in [
        (
            json!({ "desiredStatus": "GONE" }),
            "Invalid desiredStatus 'GONE'. Must be one of [RUNNING,PENDING,STOPPED]",
        ),
        (
            json!({ "launchType": "MOON" }),
            "Invalid launchType 'MOON'. Must be one of [EC2,FARGATE,EXTERNAL,MANAGED_INSTANCES]",
        ),
        (json!({ "nextToken": "!" }), "Invalid token."),
        (json!({ "family": "a.b" }), r"family must match ^[a-zA-Z0-9\-_]+$"),
        (json!({ "maxResults": 0 }), "maxResults should be between 1 and 100."),
    ] {
        let error = service.list_tasks(&cx, input(request)).await.unwrap_err();
        assert_eq!((error.code.as_str(), error.message.as_str()), (INVALID, message));
    }
    let error = service.list_tasks(&cx, input(json!({ "serviceName": "web" }))).await.unwrap_err();
    assert_eq!(
        (error.code.as_str(), error.message.as_str()),
        ("ServiceNotFoundException", "Service not found.")
    );
    let error =
        service.describe_tasks(&cx, input(json!({ "tasks": [arn], "include": ["ALL"] }))).await.unwrap_err();
    assert_eq!(error.message, "Invalid include 'ALL'. Must be one of [TAGS]");
    for _ in 0..4 {
        run_one(&world, run_sample()).await;
    }
    let (mut all, mut token) = (Vec::new(), None);
    loop {
        let request = json!({ "maxResults": 2, "nextToken": token });
        let answer = service.list_tasks(&cx, input(request)).await.unwrap();
        all.extend(answer.task_arns.unwrap());
        token = answer.next_token;
        if token.is_none() {
            break;
        }
    }
    all.sort();
    all.dedup();
    assert_eq!(all.len(), 5);
}
