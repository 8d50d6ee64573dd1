//! RunTask: what is refused and in which words, what comes back, what happens when a call comes twice.

mod support;

use ferrogate_api::ecs::Ecs;
use ferrogate_api::{ApiError, Value};
use serde_json::{Value as Json, json};
use support::{EXECUTION_ROLE, World, input, run_sample, sample, with, with_container};

fn in_subnets(subnets: &[&str], groups: &[&str]) -> Json {
    let configuration = json!({ "subnets": subnets, "securityGroups": groups });
    with(run_sample(), json!({ "networkConfiguration": { "awsvpcConfiguration": configuration } }))
}

fn refused() -> Vec<(Json, &'static str, &'static str)> {
    let task = |changes| with(run_sample(), changes);
    let invalid = "InvalidParameterException";
    let many = |what: &str, count: usize| (0..count).map(|n| format!("{what}-{n}")).collect::<Vec<String>>();
    let subnets = many("subnet", 17);
    let groups = many("sg", 6);
    let strs = |list: &[String]| list.iter().map(|text| text.to_owned()).collect::<Vec<String>>();
    vec![
        (task(json!({ "taskDefinition": "none" })), "ClientException", "TaskDefinition not found."),
        (
            task(json!({ "taskDefinition": "sample-fargate-app:9" })),
            "ClientException",
            "TaskDefinition not found.",
        ),
        (task(json!({ "taskDefinition": "old:1" })), invalid, "TaskDefinition is inactive"),
        (
            task(json!({ "taskDefinition": "ec2" })),
            invalid,
            "Task definition does not support launch_type FARGATE.",
        ),
        (task(json!({ "cluster": "none" })), "ClusterNotFoundException", "Cluster not found."),
        (task(json!({ "count": 0 })), invalid, "count should be at least 1."),
        (task(json!({ "count": 11 })), invalid, "count can be at most 10."),
        (task(json!({ "launchType": "EC2" })), invalid, "No Container Instances were found in your cluster."),
        (
            task(json!({ "platformVersion": "1.2.0" })),
            "PlatformUnknownException",
            "The specified platform version does not exist.",
        ),
        (
            task(json!({ "platformVersion": "1.3.0" })),
            "UnsupportedFeatureException",
            "This version of Ferrogate does not support the platform version '1.3.0' yet: leave it out.",
        ),
        // Network
        (
            task(json!({ "networkConfiguration": null })),
            invalid,
            "Network Configuration must be provided when networkMode 'awsvpc' is specified.",
        ),
        (in_subnets(&[], &[]), invalid, "subnets can not be empty."),
        (
            in_subnets(&["subnet-x"], &[]),
            invalid,
            "Error retrieving subnet information for [subnet-x]: The subnet ID 'subnet-x' does not exist (ErrorCode: InvalidSubnetID.NotFound)",
        ),
        (
            in_subnets(&["subnet-a"], &["sg-x"]),
            invalid,
            "Error retrieving security group information for [sg-x]: The security group 'sg-x' does not exist (ErrorCode: InvalidGroup.NotFound)",
        ),
        (
            in_subnets(&["subnet-a", "subnet-other"], &[]),
            invalid,
            "The subnets [subnet-a, subnet-other] must be in the same VPC.",
        ),
        (
            in_subnets(&["subnet-a"], &["sg-other"]),
            invalid,
            "Security group sg-other does not appear to belong to the same VPC as the input subnets.",
        ),
        (
            task(json!({ "networkConfiguration": { "awsvpcConfiguration": { "subnets": strs(&subnets) } } })),
            invalid,
            "subnets can have at most 16 items.",
        ),
        (
            task(
                json!({ "networkConfiguration": { "awsvpcConfiguration": { "subnets": ["subnet-a"], "securityGroups": strs(&groups) } } }),
            ),
            invalid,
            "securityGroups can have at most 5 items.",
        ),
        (
            task(
                json!({ "networkConfiguration": { "awsvpcConfiguration": { "subnets": ["subnet-a"], "assignPublicIp": "YES" } } }),
            ),
            invalid,
            "Invalid assignPublicIp 'YES'. Must be one of [ENABLED,DISABLED]",
        ),
        // Overrides
        (
            task(json!({ "overrides": { "containerOverrides": [{ "name": "x" }] } })),
            invalid,
            "Override for container named x is not a container in the TaskDefinition.",
        ),
        (task(json!({ "overrides": { "cpu": "x" } })), invalid, "Invalid 'cpu' setting for task."),
        (
            task(json!({ "overrides": { "cpu": "1024" } })),
            invalid,
            "No Fargate configuration exists for given values.",
        ),
        (
            task(json!({ "overrides": { "containerOverrides": [{ "name": "sample-app", "cpu": 300 }] } })),
            invalid,
            "The sum of all container 'cpu' values cannot be greater than the value of the task 'cpu'.",
        ),
        (
            task(json!({ "overrides": { "containerOverrides": [{ "name": "sample-app", "memory": 600 }] } })),
            invalid,
            "The 'memory' setting for container 'sample-app' is greater than for the task.",
        ),
        (
            task(json!({ "overrides": { "containerOverrides": [{ "name": "sample-app", "memory": 0 }] } })),
            invalid,
            "Invalid 'memory' setting for container 'sample-app': 0. It is between 6 and 2147483647.",
        ),
        (
            task(
                json!({ "overrides": { "containerOverrides": [{ "name": "sample-app", "memoryReservation": 5 }] } }),
            ),
            invalid,
            "Invalid 'memoryReservation' setting for container 'sample-app': 5. It is between 6 and 2147483647.",
        ),
        (
            task(json!({ "overrides": { "containerOverrides": [{ "name": "sample-app", "cpu": -1 }] } })),
            invalid,
            "Invalid 'cpu' setting for container 'sample-app': -1. It is between 0 and 10485760.",
        ),
        // Each by itself would do.
        (
            task(json!({ "taskDefinition": "two", "overrides": { "containerOverrides": [
                { "name": "a", "memory": 300 }, { "name": "b", "memory": 300 }] } })),
            invalid,
            "The sum of all container 'memory' values cannot be greater than the value of the task 'memory'.",
        ),
        (
            task(
                json!({ "overrides": { "containerOverrides": [{ "name": "sample-app", "command": ["x".repeat(9000)] }] } }),
            ),
            invalid,
            "Container Overrides length must be at most 8192",
        ),
        // Roles
        (
            task(json!({ "overrides": { "taskRoleArn": "arn:aws:iam::123456789012:role/no" } })),
            "ClientException",
            "ECS was unable to assume the role 'arn:aws:iam::123456789012:role/no' that was provided for this task. Please verify that the role being passed has the proper trust relationship and permissions and that your IAM user has permissions to pass this role.",
        ),
        // Capacity
        (
            task(json!({ "capacityProviderStrategy": [{ "capacityProvider": "FARGATE", "weight": 1 }] })),
            invalid,
            "Specifying both a launch type and capacity provider strategy is not supported. Remove one and try again.",
        ),
        (
            task(
                json!({ "launchType": null, "capacityProviderStrategy": [{ "capacityProvider": "FARGATE_SPOT", "weight": 1 }] }),
            ),
            "ClientException",
            "This version of Ferrogate does not support the capacity provider 'FARGATE_SPOT' yet: leave it out.",
        ),
        (
            task(
                json!({ "launchType": null, "capacityProviderStrategy": [{ "capacityProvider": "FARGATE", "weight": 0 }] }),
            ),
            invalid,
            "At least one capacity provider of the strategy must have a weight or base greater than 0.",
        ),
        // The rest
        (
            task(json!({ "placementConstraints": [{ "type": "distinctInstance" }] })),
            invalid,
            "Placement constraints are not supported with FARGATE launch type.",
        ),
        (
            task(json!({ "placementStrategy": [{ "type": "random" }] })),
            invalid,
            "Placement strategies are not supported with FARGATE launch type.",
        ),
        (
            task(json!({ "volumeConfigurations": [{ "name": "v" }] })),
            "UnsupportedFeatureException",
            "This version of Ferrogate does not support 'volumeConfigurations' yet: leave it out.",
        ),
        (task(json!({ "group": "service:web" })), invalid, "Invalid namespace for group."),
        (
            task(json!({ "startedBy": "x".repeat(129) })),
            invalid,
            "The startedBy may have up to 128 characters.",
        ),
        (
            task(json!({ "tags": [{ "key": "aws:x", "value": "y" }] })),
            invalid,
            "Invalid tag key 'aws:x': keys that begin with 'aws:' are reserved for AWS.",
        ),
        (
            task(json!({ "clientToken": "x".repeat(65) })),
            invalid,
            "The clientToken may have up to 64 ASCII characters in the range of 33-126.",
        ),
    ]
}

async fn prepared() -> World {
    let world = World::new();
    world.register(sample()).await.unwrap();
    world.register(with(sample(), json!({ "family": "old" }))).await.unwrap();
    world
        .service
        .deregister_task_definition(&world.cx(), input(json!({ "taskDefinition": "old:1" })))
        .await
        .unwrap();
    world
        .register(with(
            sample(),
            json!({ "family": "ec2", "requiresCompatibilities": null, "networkMode": "host" }),
        ))
        .await
        .unwrap();
    let two = ["a", "b"].map(|name| json!({ "name": name, "image": "busybox", "memory": 100 }));
    world.register(with(sample(), json!({ "family": "two", "containerDefinitions": two }))).await.unwrap();
    world.cloud.refused_roles.lock().unwrap().insert("arn:aws:iam::123456789012:role/no".into());
    world
}

#[tokio::test]
async fn refusals() {
    let world = prepared().await;
    for (request, code, message) in refused() {
        let error = world.run_task(request.clone()).await.expect_err(message);
        assert_eq!((error.code.as_str(), error.message.as_str()), (code, message), "{request}");
    }
    assert!(world.store.range("/ecs/123456789012/us-east-1/task/").is_empty());
    assert!(world.store.range("/ecs-work/provision/").is_empty());
}

#[tokio::test]
async fn the_answer_is_as_aws_gives_it() {
    let world = World::new();
    let before = world.store.revision();
    world.register(sample()).await.unwrap();
    let task = world.run_task(run_sample()).await.unwrap().remove(0);
    assert_eq!(world.store.revision(), before + 2, "one transaction each");
    let (arn, container) = (task.task_arn.clone().unwrap(), task.containers.clone().unwrap().remove(0));
    let id = arn.rsplit('/').next().unwrap();
    assert_eq!(id.len(), 32);
    let container_arn = container.container_arn.unwrap();
    assert!(
        container_arn.starts_with(&format!("arn:aws:ecs:us-east-1:123456789012:container/default/{id}/"))
    );
    let attachment = task.attachments.as_ref().unwrap()[0].id.clone().unwrap();
    assert_eq!(
        serde_json::to_value(&task).unwrap(),
        json!({
            "attachments": [{
                "id": attachment, "type": "ElasticNetworkInterface", "status": "PRECREATED",
                "details": [{ "name": "subnetId", "value": "subnet-a" }],
            }],
            "attributes": [{ "name": "ecs.cpu-architecture", "value": "x86_64" }],
            "availabilityZone": "us-east-1a",
            "clusterArn": "arn:aws:ecs:us-east-1:123456789012:cluster/default",
            "containers": [{
                "containerArn": container_arn, "taskArn": arn, "name": "sample-app", "image": "nginx:latest",
                "lastStatus": "PENDING", "networkBindings": [], "networkInterfaces": [], "healthStatus": "UNKNOWN",
                "cpu": "0",
            }],
            "cpu": "256", "createdAt": "2026-11-21T05:00:00Z", "desiredStatus": "RUNNING",
            "enableExecuteCommand": false, "group": "family:sample-fargate-app", "healthStatus": "UNKNOWN",
            "lastStatus": "PROVISIONING", "launchType": "FARGATE", "memory": "512",
            "overrides": { "containerOverrides": [{ "name": "sample-app" }], "inferenceAcceleratorOverrides": [] },
            "platformVersion": "1.4.0", "platformFamily": "Linux", "tags": [],
            "taskArn": format!("arn:aws:ecs:us-east-1:123456789012:task/default/{id}"),
            "taskDefinitionArn": "arn:aws:ecs:us-east-1:123456789012:task-definition/sample-fargate-app:1",
            "version": 1, "ephemeralStorage": { "sizeInGiB": 20 }, "fargateEphemeralStorage": { "sizeInGiB": 20 },
        })
    );
}

#[tokio::test]
async fn ten_are_one_transaction_and_spread_over_zones() {
    let world = World::new();
    world.register(sample()).await.unwrap();
    let before = world.store.revision();
    let request = with(in_subnets(&["subnet-a", "subnet-b", "subnet-c"], &[]), json!({ "count": 10 }));
    let tasks = world.run_task(request).await.unwrap();
    assert_eq!((tasks.len(), world.store.revision()), (10, before + 1));
    let mut zones = std::collections::BTreeMap::new();
    for task in &tasks {
        *zones.entry(task.availability_zone.clone().unwrap()).or_insert(0) += 1;
    }
    let counts: Vec<i32> = zones.into_values().collect();
    assert!(counts.len() == 3 && counts.iter().all(|count| (3..=4).contains(count)), "{counts:?}");
    assert_eq!(world.cloud.count("DescribeSubnets"), 1);
}

#[tokio::test]
async fn overrides_group_and_tags() {
    let world = World::new();
    let definition =
        with(sample(), json!({ "tags": [{ "key": "team", "value": "a" }, { "key": "kept", "value": "b" }] }));
    world.register(with(definition, json!({ "executionRoleArn": EXECUTION_ROLE }))).await.unwrap();
    let request = with(
        run_sample(),
        json!({
            "launchType": null, "group": "mine", "startedBy": "me", "propagateTags": "TASK_DEFINITION",
            "enableECSManagedTags": true, "tags": [{ "key": "team", "value": "c" }],
            "overrides": {
                "cpu": "512", "memory": "1 GB", "taskRoleArn": "arn:aws:iam::123456789012:role/app",
                "containerOverrides": [{ "name": "sample-app", "command": ["x"], "environment": [{ "name": "A", "value": "1" }], "cpu": 10, "memory": 100 }],
            },
        }),
    );
    let task = world.run_task(request).await.unwrap().remove(0);
    assert_eq!((task.cpu.as_deref(), task.memory.as_deref()), (Some("512"), Some("1024")));
    assert_eq!(
        (task.group.as_deref(), task.started_by.as_deref(), task.launch_type.as_deref()),
        (Some("mine"), Some("me"), Some("FARGATE"))
    );
    assert_eq!(
        serde_json::to_value(task.tags.as_ref().unwrap()).unwrap(),
        json!([{ "key": "aws:ecs:clusterName", "value": "default" }, { "key": "kept", "value": "b" }, { "key": "team", "value": "c" }])
    );
    assert_eq!(
        serde_json::to_value(task.overrides.as_ref().unwrap()).unwrap(),
        json!({
            "containerOverrides": [{ "name": "sample-app", "command": ["x"], "environment": [{ "name": "A", "value": "1" }], "cpu": 10, "memory": 100 }],
            "cpu": "512", "inferenceAcceleratorOverrides": [], "memory": "1 GB",
            "taskRoleArn": "arn:aws:iam::123456789012:role/app",
        })
    );
    let roles = world.service.task_roles(task.task_arn.as_ref().unwrap()).unwrap();
    assert_eq!(roles.execution_role_arn.as_deref(), Some(EXECUTION_ROLE));
    assert_eq!(roles.task_role_arn.as_deref(), Some("arn:aws:iam::123456789012:role/app"));
    assert_eq!(world.cloud.count("GetCallerIdentity"), 2);
}

#[tokio::test]
async fn a_call_that_comes_twice_starts_once() {
    let world = World::new();
    world.register(sample()).await.unwrap();
    let request = with(run_sample(), json!({ "clientToken": "once", "count": 2 }));
    let all = futures_util::future::join_all((0..8).map(|_| world.run_task(request.clone()))).await;
    let arns = |tasks: &[ferrogate_api::ecs::Task]| {
        tasks.iter().filter_map(|task| task.task_arn.clone()).collect::<Vec<String>>()
    };
    let first = arns(all[0].as_ref().unwrap());
    assert_eq!(first.len(), 2);
    for tasks in &all {
        assert_eq!(arns(tasks.as_ref().unwrap()), first);
    }
    assert_eq!(world.store.range("/ecs/123456789012/us-east-1/task/").len(), 2);
    let error: ApiError = world.run_task(with(request, json!({ "count": 3 }))).await.unwrap_err();
    assert_eq!(error.code, "ConflictException");
    let ids: Vec<Value> = first.into_iter().map(Value::String).collect();
    assert_eq!(error.members, [("resourceIds", Value::List(ids))]);
}

#[tokio::test]
async fn by_strategy_of_the_cluster() {
    let world = World::new();
    world.register(sample()).await.unwrap();
    let cluster = json!({
        "clusterName": "web", "capacityProviders": ["FARGATE"],
        "defaultCapacityProviderStrategy": [{ "capacityProvider": "FARGATE", "weight": 1 }],
    });
    world.service.create_cluster(&world.cx(), input(cluster)).await.unwrap();
    let by_default = with(run_sample(), json!({ "cluster": "web", "launchType": null }));
    let task = world.run_task(by_default).await.unwrap().remove(0);
    assert_eq!(
        (task.capacity_provider_name.as_deref(), task.launch_type.as_deref()),
        (Some("FARGATE"), Some("FARGATE"))
    );
    let by_type = world.run_task(with(run_sample(), json!({ "cluster": "web" }))).await.unwrap().remove(0);
    assert_eq!(by_type.capacity_provider_name, None);
}

#[tokio::test]
async fn no_node_of_the_architecture() {
    let world = World::new();
    let other = if cfg!(target_arch = "aarch64") { "X86_64" } else { "ARM64" };
    world.register(with(sample(), json!({ "runtimePlatform": { "cpuArchitecture": other } }))).await.unwrap();
    let answer =
        world.service.run_task(&world.cx(), input(with(run_sample(), json!({ "count": 2 })))).await.unwrap();
    let failures = answer.failures.unwrap();
    assert_eq!((answer.tasks, failures.len()), (Some(Vec::new()), 2));
    assert!(failures[0].reason.as_ref().unwrap().starts_with("Capacity is unavailable at this time."));
}

/// What counts is what the task gets in the end.
#[tokio::test]
async fn no_node_that_is_large_enough() {
    let world = World::new();
    let large = json!({ "cpu": "4096", "memory": "16384" });
    world.register(with(sample(), large)).await.unwrap();
    let run = async |changes: Json| {
        world.service.run_task(&world.cx(), input(with(run_sample(), changes))).await.unwrap()
    };
    let answer = run(json!({ "count": 2 })).await;
    let failures = answer.failures.unwrap();
    assert_eq!((answer.tasks, failures.len()), (Some(Vec::new()), 2));
    assert!(failures[0].reason.as_ref().unwrap().starts_with("Capacity is unavailable at this time."));
    assert_eq!(
        failures[0].detail.as_deref(),
        Some("The task has 16384 MiB of memory and the largest node of its architecture 16000 MiB.")
    );
    assert!(world.store.range("/ecs-work/provision/").is_empty());
    // Nodes are lent more than once.
    let answer = run(json!({ "count": 10, "overrides": { "memory": "15360" } })).await;
    assert_eq!((answer.tasks.unwrap().len(), answer.failures), (10, Some(Vec::new())));
}

/// A definition need not ask for Fargate to run on it.
#[tokio::test]
async fn what_fits_fargate_runs_there() {
    let world = World::new();
    for required in [json!(null), json!(["EC2"])] {
        let made =
            world.register(with(sample(), json!({ "requiresCompatibilities": required }))).await.unwrap();
        assert_eq!(made.compatibilities.unwrap(), ["EC2", "FARGATE"]);
        for launch_type in [json!("FARGATE"), json!(null)] {
            let task = world
                .run_task(with(run_sample(), json!({ "launchType": launch_type })))
                .await
                .unwrap()
                .remove(0);
            assert_eq!(task.task_definition_arn, made.task_definition_arn);
        }
    }
}

#[tokio::test]
async fn a_cluster_that_ends_takes_no_tasks() {
    let world = World::new();
    world.register(sample()).await.unwrap();
    world.service.create_cluster(&world.cx(), input(json!({ "clusterName": "web" }))).await.unwrap();
    let in_web = with(run_sample(), json!({ "cluster": "web" }));
    let deleting =
        async { world.service.delete_cluster(&world.cx(), input(json!({ "cluster": "web" }))).await };
    let (ran, deleted) = tokio::join!(world.run_task(in_web.clone()), deleting);
    assert!(ran.is_ok() != deleted.is_ok(), "{ran:?} {deleted:?}");
    if deleted.is_ok() {
        let error = world.run_task(in_web).await.unwrap_err();
        assert_eq!(
            (error.code.as_str(), error.message.as_str()),
            ("ClusterNotFoundException", "The referenced cluster was inactive.")
        );
    }
}

#[tokio::test]
async fn log_modes() {
    let world = World::new();
    let options = json!({ "awslogs-group": "/ecs/app", "awslogs-region": "eu-west-1", "awslogs-stream-prefix": "ecs", "awslogs-datetime-format": "%Y" });
    let definition =
        with_container(json!({ "logConfiguration": { "logDriver": "awslogs", "options": options } }));
    world.register(with(definition, json!({ "executionRoleArn": EXECUTION_ROLE }))).await.unwrap();
    let run = async || world.run_task(run_sample()).await.unwrap().remove(0).task_arn.unwrap();
    let arn = run().await;
    let logs = world.service.log_configuration(&arn, "sample-app").unwrap();
    let id = arn.rsplit('/').next().unwrap();
    assert_eq!((logs.group.as_str(), logs.region.as_str()), ("/ecs/app", "eu-west-1"));
    assert_eq!(logs.stream, format!("ecs/sample-app/{id}"));
    assert_eq!(
        (logs.non_blocking, logs.max_buffer_bytes, logs.multiline_pattern.as_deref()),
        (true, 10 << 20, Some(r"\d{4}"))
    );
    let setting = json!({ "name": "defaultLogDriverMode", "value": "blocking" });
    world.service.put_account_setting(&world.cx(), input(setting)).await.unwrap();
    assert!(!world.service.log_configuration(&run().await, "sample-app").unwrap().non_blocking);
    assert_eq!(world.service.container_image(&arn, "sample-app").as_deref(), Some("nginx:latest"));
    assert_eq!(world.service.log_configuration(&arn, "x"), None);
    assert_eq!(world.service.task_roles("arn:aws:ecs:us-east-1:123456789012:task/default/x"), None);
}
