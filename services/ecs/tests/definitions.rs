//! Registering task definitions: what is refused and in which words, what comes back, how families count.

mod support;

use ferrogate_api::ecs::Ecs;
use serde_json::{Value as Json, json};
use support::{EXECUTION_ROLE, World, input, sample, with, with_container};

fn awslogs(options: Json) -> Json {
    let options = with(
        json!({ "awslogs-group": "/ecs/app", "awslogs-region": "us-east-1", "awslogs-stream-prefix": "ecs" }),
        options,
    );
    let definition =
        with_container(json!({ "logConfiguration": { "logDriver": "awslogs", "options": options } }));
    with(definition, json!({ "executionRoleArn": EXECUTION_ROLE }))
}

/// Two containers: `a`, and `b` with these members.
fn two(changes: Json) -> Json {
    let base = |name: &str| json!({ "name": name, "image": "busybox" });
    with(sample(), json!({ "containerDefinitions": [base("a"), with(base("b"), changes)] }))
}

fn depends(on: &str, condition: &str) -> Json {
    two(json!({ "essential": false, "dependsOn": [{ "containerName": on, "condition": condition }] }))
}

/// Every one of these is a ClientException.
fn refused() -> Vec<(Json, &'static str)> {
    let task = |changes| with(sample(), changes);
    vec![
        // Size
        (
            task(json!({ "cpu": "256", "memory": "4096" })),
            "No Fargate configuration exists for given values.",
        ),
        (task(json!({ "cpu": "300" })), "No Fargate configuration exists for given values."),
        (task(json!({ "cpu": "x" })), "Invalid 'cpu' setting for task."),
        (task(json!({ "memory": "1 TB" })), "Invalid 'memory' setting for task."),
        (task(json!({ "cpu": null })), "Fargate requires that 'cpu' be defined at the task level."),
        (task(json!({ "memory": null })), "Fargate requires that 'memory' be defined at the task level."),
        // Network
        (task(json!({ "networkMode": "bridge" })), "Fargate only supports network mode ‘awsvpc’."),
        (task(json!({ "networkMode": null })), "Fargate only supports network mode ‘awsvpc’."),
        (
            with_container(json!({ "portMappings": [{ "containerPort": 80, "hostPort": 8080 }] })),
            "When networkMode=awsvpc, the host ports and container ports in port mappings must match.",
        ),
        (
            with_container(json!({ "portMappings": [{ "containerPort": 0 }] })),
            "Invalid 'containerPort' setting for container 'sample-app': 0. It is between 1 and 65535.",
        ),
        (
            with_container(json!({ "portMappings": [{ "containerPort": 80 }, { "containerPort": 80 }] })),
            "Invalid port mapping of container 'sample-app': port 80 is mapped twice.",
        ),
        // Roles
        (task(json!({ "taskRoleArn": "arn:aws:iam::123456789012:user/x" })), "Role is not valid"),
        (
            with(awslogs(json!({})), json!({ "executionRoleArn": null })),
            "Fargate requires task definition to have execution role ARN to support log driver awslogs.",
        ),
        (
            with_container(json!({ "image": "123456789012.dkr.ecr.us-east-1.amazonaws.com/app:1" })),
            "Fargate requires task definition to have execution role ARN to support ECR images.",
        ),
        // Logs
        (awslogs(json!({ "log_key": "log" })), "Log driver awslogs disallows options: log_key"),
        (
            awslogs(json!({ "awslogs-group": null, "awslogs-region": null })),
            "Log driver awslogs requires options: awslogs-region, awslogs-group",
        ),
        (
            awslogs(json!({ "awslogs-stream-prefix": null })),
            "Log driver awslogs requires options: awslogs-stream-prefix",
        ),
        (
            awslogs(json!({ "awslogs-create-group": "false" })),
            "Log driver awslogs option 'awslogs-create-group' should only be set to 'true', else omit option.",
        ),
        (
            awslogs(json!({ "mode": "x" })),
            "Log driver awslogs option 'mode' should be 'blocking' or 'non-blocking'.",
        ),
        (
            awslogs(json!({ "max-buffer-size": "x" })),
            "Log driver awslogs option 'max-buffer-size' should be a size such as '4m' or '512k', and at most 100m.",
        ),
        (
            with_container(json!({ "logConfiguration": { "logDriver": "journald" } })),
            "journald is not a valid log driver. Must be one of [awslogs,splunk,awsfirelens]",
        ),
        (
            with_container(json!({ "logConfiguration": { "logDriver": "splunk" } })),
            "This version of Ferrogate does not support the log driver 'splunk' yet: leave it out.",
        ),
        // Containers
        (task(json!({ "containerDefinitions": [] })), "Container list cannot be empty."),
        (
            task(json!({ "containerDefinitions": vec![json!({ "name": "a", "image": "b" }); 11] })),
            "Too many containers.",
        ),
        (with_container(json!({ "name": null })), "Container.name should not be null or empty."),
        (with_container(json!({ "image": "" })), "Container.image should not be null or empty."),
        (with_container(json!({ "name": "a.b" })), "Container.name contains invalid characters."),
        (task(json!({ "family": "a b" })), "Family contains invalid characters."),
        (two(json!({ "name": "a" })), "Container names should be unique: 'a' is there twice."),
        (
            with_container(json!({ "essential": false })),
            "A task definition must have at least one essential container.",
        ),
        (
            with_container(json!({ "cpu": 257 })),
            "The sum of all container 'cpu' values cannot be greater than the value of the task 'cpu'.",
        ),
        (
            with_container(json!({ "memory": 513 })),
            "The 'memory' setting for container 'sample-app' is greater than for the task.",
        ),
        (
            task(
                json!({ "containerDefinitions": [{ "name": "a", "image": "b", "memory": 300 }, { "name": "b", "image": "b", "memory": 300 }] }),
            ),
            "The sum of all container 'memory' values cannot be greater than the value of the task 'memory'.",
        ),
        (
            with_container(json!({ "memory": 100, "memoryReservation": 200 })),
            "Invalid setting for container 'sample-app'. 'memory' must be greater than 'memoryReservation'.",
        ),
        (
            with_container(json!({ "memory": 4 })),
            "Invalid 'memory' setting for container 'sample-app': 4. It is between 6 and 2147483647.",
        ),
        (
            with_container(json!({ "environment": [{ "name": "A=B", "value": "x" }] })),
            "Invalid environment variable 'A=B' of container 'sample-app': its name must not be empty nor hold '='.",
        ),
        (
            with_container(json!({ "ulimits": [{ "name": "nofile", "softLimit": 2, "hardLimit": 1 }] })),
            "Invalid ulimit 'nofile' of container 'sample-app': the soft limit 2 must not be greater than the hard limit 1.",
        ),
        (
            with_container(json!({ "stopTimeout": 121 })),
            "Invalid 'stopTimeout' setting for container 'sample-app': 121. On Fargate it is between 2 and 120 seconds.",
        ),
        (
            with_container(json!({ "startTimeout": 1 })),
            "Invalid 'startTimeout' setting for container 'sample-app': 1. On Fargate it is between 2 and 120 seconds.",
        ),
        (
            with_container(json!({ "mountPoints": [{ "sourceVolume": "v", "containerPath": "/v" }] })),
            "Unknown volume 'v'.",
        ),
        (
            with_container(json!({ "healthCheck": { "command": ["CMD", "true"], "interval": 4 } })),
            "Invalid 'healthCheck.interval' setting for container 'sample-app': 4. It is between 5 and 300.",
        ),
        (
            with_container(json!({ "healthCheck": { "command": ["CMD", "true"], "timeout": 61 } })),
            "Invalid 'healthCheck.timeout' setting for container 'sample-app': 61. It is between 2 and 60.",
        ),
        (
            with_container(json!({ "healthCheck": { "command": ["CMD", "true"], "retries": 0 } })),
            "Invalid 'healthCheck.retries' setting for container 'sample-app': 0. It is between 1 and 10.",
        ),
        (
            with_container(json!({ "healthCheck": { "command": ["CMD", "true"], "startPeriod": 301 } })),
            "Invalid 'healthCheck.startPeriod' setting for container 'sample-app': 301. It is between 0 and 300.",
        ),
        (
            with_container(json!({ "healthCheck": { "command": ["curl", "localhost"] } })),
            "Invalid 'healthCheck' setting for container 'sample-app': 'command' must begin with CMD or CMD-SHELL and say what to run.",
        ),
        // Order
        (depends("c", "START"), "Cannot depend on container + 'c' because it does not exist"),
        (
            depends("a", "SUCCESS"),
            "A dependency container with SUCCESS or COMPLETE condition cannot be an essential container",
        ),
        (
            depends("a", "HEALTHY"),
            "A dependency container with HEALTHY condition must have a health check: 'a' has none",
        ),
        (
            depends("a", "READY"),
            "Invalid dependency condition 'READY' on container 'a'. Must be one of [START,COMPLETE,SUCCESS,HEALTHY]",
        ),
        (depends("b", "START"), "Container dependencies must not form a cycle: 'b' waits for itself"),
        // What Fargate has not
        (
            with_container(json!({ "privileged": true })),
            "Fargate compatible task definitions do not support privileged",
        ),
        (
            with_container(json!({ "linuxParameters": { "devices": [{ "hostPath": "/dev/x" }] } })),
            "Fargate compatible task definitions do not support devices",
        ),
        (
            with_container(json!({ "linuxParameters": { "maxSwap": 1 } })),
            "Fargate compatible task definitions do not support maxSwap",
        ),
        (
            with_container(json!({ "linuxParameters": { "swappiness": 1 } })),
            "Fargate compatible task definitions do not support swappiness",
        ),
        (
            with_container(json!({ "linuxParameters": { "sharedMemorySize": 1 } })),
            "Fargate compatible task definitions do not support sharedMemorySize",
        ),
        (
            with_container(json!({ "linuxParameters": { "capabilities": { "add": ["NET_ADMIN"] } } })),
            "Fargate compatible task definitions do not support adding the capability NET_ADMIN. Only SYS_PTRACE can be added.",
        ),
        (
            with_container(json!({ "links": ["x"] })),
            "Fargate compatible task definitions do not support links",
        ),
        (
            with_container(json!({ "extraHosts": [{ "hostname": "a", "ipAddress": "1.2.3.4" }] })),
            "Fargate compatible task definitions do not support extraHosts",
        ),
        (
            with_container(json!({ "dnsServers": ["1.2.3.4"] })),
            "Fargate compatible task definitions do not support dnsServers",
        ),
        (
            with_container(json!({ "dockerSecurityOptions": ["x"] })),
            "Fargate compatible task definitions do not support dockerSecurityOptions",
        ),
        (
            task(json!({ "placementConstraints": [{ "type": "memberOf", "expression": "x" }] })),
            "Fargate compatible task definitions do not support placementConstraints",
        ),
        (
            task(json!({ "volumes": [{ "name": "v", "host": { "sourcePath": "/x" } }] })),
            "Fargate compatible task definitions do not support sourcePath",
        ),
        (
            task(json!({ "pidMode": "host" })),
            "Tasks using the Fargate launch type do not support pidMode 'host'. The supported value for pidMode is 'task'.",
        ),
        (task(json!({ "ipcMode": "task" })), "Tasks using the Fargate launch type do not support ipcMode."),
        // What a later version has
        (
            task(json!({ "proxyConfiguration": { "containerName": "a" } })),
            "This version of Ferrogate does not support 'proxyConfiguration' yet: leave it out.",
        ),
        (
            task(json!({ "enableFaultInjection": true })),
            "This version of Ferrogate does not support 'enableFaultInjection' yet: leave it out.",
        ),
        (
            task(json!({ "inferenceAccelerators": [{ "deviceName": "a" }] })),
            "This version of Ferrogate does not support 'inferenceAccelerators' yet: leave it out.",
        ),
        (
            task(
                json!({ "volumes": [{ "name": "v", "efsVolumeConfiguration": { "fileSystemId": "fs-1" } }] }),
            ),
            "This version of Ferrogate does not support 'efsVolumeConfiguration' yet: leave it out.",
        ),
        (
            task(json!({ "runtimePlatform": { "operatingSystemFamily": "WINDOWS_SERVER_2022_CORE" } })),
            "This version of Ferrogate does not support runtimePlatform.operatingSystemFamily 'WINDOWS_SERVER_2022_CORE' yet: leave it out.",
        ),
        (
            with_container(json!({ "environmentFiles": [{ "value": "a", "type": "s3" }] })),
            "This version of Ferrogate does not support 'environmentFiles' yet: leave it out.",
        ),
        (
            with_container(json!({ "firelensConfiguration": { "type": "fluentbit" } })),
            "This version of Ferrogate does not support 'firelensConfiguration' yet: leave it out.",
        ),
        (
            with_container(json!({ "resourceRequirements": [{ "type": "GPU", "value": "1" }] })),
            "This version of Ferrogate does not support 'resourceRequirements' yet: leave it out.",
        ),
    ]
}

#[tokio::test]
async fn refusals() {
    let world = World::new();
    for (definition, message) in refused() {
        let error = world.register(definition.clone()).await.expect_err(message);
        assert_eq!(
            (error.code.as_str(), error.message.as_str()),
            ("ClientException", message),
            "{definition}"
        );
    }
    let listed = world
        .service
        .list_task_definition_families(&world.cx(), input(json!({ "status": "ALL" })))
        .await
        .unwrap();
    assert_eq!(listed.families, Some(Vec::new()), "nothing was kept");
}

#[tokio::test]
async fn accepted() {
    let world = World::new();
    for definition in [
        sample(),
        awslogs(json!({})),
        awslogs(json!({ "awslogs-create-group": "true", "mode": "non-blocking", "max-buffer-size": "25m" })),
        awslogs(json!({ "awslogs-datetime-format": "%Y-%m-%d" })),
        awslogs(json!({ "awslogs-multiline-pattern": "^\\d+" })),
        with(sample(), json!({ "cpu": ".25 vCPU", "memory": "0.5 GB" })),
        with(
            sample(),
            json!({ "runtimePlatform": { "cpuArchitecture": "ARM64", "operatingSystemFamily": "LINUX" } }),
        ),
        with(
            with_container(json!({ "mountPoints": [{ "sourceVolume": "v", "containerPath": "/v" }] })),
            json!({ "volumes": [{ "name": "v" }] }),
        ),
        with_container(
            json!({ "linuxParameters": { "capabilities": { "add": ["SYS_PTRACE"], "drop": ["ALL"] }, "initProcessEnabled": true, "tmpfs": [{ "containerPath": "/t", "size": 1, "mountOptions": ["noexec", "mode=1777"] }] } }),
        ),
        with_container(json!({ "systemControls": [{ "namespace": "net.core.somaxconn", "value": "1024" }] })),
        with_container(
            json!({ "user": "1000:1000", "workingDirectory": "/srv", "readonlyRootFilesystem": true, "pseudoTerminal": true, "interactive": true, "dockerLabels": { "a": "b" }, "stopTimeout": 120 }),
        ),
        two(json!({ "dependsOn": [{ "containerName": "a", "condition": "START" }] })),
        // For EC2: kept, though nothing here runs it.
        json!({ "family": "ec2", "networkMode": "bridge", "containerDefinitions": [{ "name": "a", "image": "b", "memory": 64, "privileged": true, "links": ["x"] }] }),
    ] {
        world.register(definition.clone()).await.unwrap_or_else(|error| panic!("{error}: {definition}"));
    }
    let without_memory = json!({ "family": "ec2", "containerDefinitions": [{ "name": "a", "image": "b" }] });
    assert_eq!(
        world.register(without_memory).await.unwrap_err().message,
        "Invalid setting for container 'a'. At least one of 'memory' or 'memoryReservation' must be specified."
    );
}

#[tokio::test]
async fn too_large() {
    let world = World::new();
    let large = with_container(json!({ "environment": [{ "name": "A", "value": "x".repeat(65_536) }] }));
    let message = world.register(large).await.unwrap_err().message;
    assert!(
        message.starts_with("Actual length: '") && message.ends_with("Max allowed length is '65536' bytes."),
        "{message}"
    );
}

#[tokio::test]
async fn the_answer_is_as_aws_gives_it() {
    let world = World::new();
    let definition = world.register(sample()).await.unwrap();
    assert_eq!(
        serde_json::to_value(&definition).unwrap(),
        json!({
            "taskDefinitionArn": "arn:aws:ecs:us-east-1:123456789012:task-definition/sample-fargate-app:1",
            "containerDefinitions": [{
                "name": "sample-app", "image": "nginx:latest", "cpu": 0,
                "portMappings": [{ "containerPort": 80, "hostPort": 80, "protocol": "tcp" }],
                "essential": true, "environment": [], "mountPoints": [], "volumesFrom": [], "systemControls": [],
            }],
            "family": "sample-fargate-app", "networkMode": "awsvpc", "revision": 1, "volumes": [], "status": "ACTIVE",
            "requiresAttributes": [
                { "name": "com.amazonaws.ecs.capability.docker-remote-api.1.18" }, { "name": "ecs.capability.task-eni" },
            ],
            "placementConstraints": [], "compatibilities": ["EC2", "FARGATE"], "requiresCompatibilities": ["FARGATE"],
            "cpu": "256", "memory": "512", "registeredAt": "2026-11-21T05:00:00Z",
            "registeredBy": "arn:aws:iam::123456789012:user/alice",
        })
    );
    let units = world.register(with(sample(), json!({ "cpu": "1 vCPU", "memory": "2 GB" }))).await.unwrap();
    assert_eq!(
        (units.cpu.as_deref(), units.memory.as_deref(), units.revision),
        (Some("1024"), Some("2048"), Some(2))
    );
    let logs = world.register(awslogs(json!({}))).await.unwrap();
    let attributes: Vec<String> =
        logs.requires_attributes.unwrap().into_iter().filter_map(|one| one.name).collect();
    assert_eq!(
        attributes,
        [
            "com.amazonaws.ecs.capability.docker-remote-api.1.18",
            "com.amazonaws.ecs.capability.docker-remote-api.1.19",
            "com.amazonaws.ecs.capability.logging-driver.awslogs",
            "ecs.capability.execution-role-awslogs",
            "ecs.capability.task-eni",
        ]
    );
    let by_name = world.register(with(sample(), json!({ "taskRoleArn": "app" }))).await.unwrap();
    assert_eq!(by_name.task_role_arn.as_deref(), Some("arn:aws:iam::123456789012:role/app"));
}

#[tokio::test]
async fn revisions_are_never_given_twice() {
    let world = World::new();
    let (service, cx) = (&world.service, world.cx());
    for _ in 0..3 {
        world.register(sample()).await.unwrap();
    }
    let by = |name: &str| json!({ "taskDefinition": name });
    let latest = |world: &World| {
        let (service, cx) = (world.service.clone(), world.cx());
        async move {
            service
                .describe_task_definition(&cx, input(by("sample-fargate-app")))
                .await
                .map(|answer| answer.task_definition.unwrap().revision.unwrap())
        }
    };
    assert_eq!(latest(&world).await, Ok(3));
    let gone = service
        .deregister_task_definition(&cx, input(by("sample-fargate-app:3")))
        .await
        .unwrap()
        .task_definition
        .unwrap();
    assert_eq!((gone.status.as_deref(), gone.deregistered_at), (Some("INACTIVE"), Some(cx.now)));
    assert_eq!(latest(&world).await, Ok(2));
    for (name, message) in [
        (
            "sample-fargate-app:3",
            "The specified task definition is inactive. You are not able to deregister an inactive task definition.",
        ),
        ("sample-fargate-app:9", "The specified task definition does not exist."),
        (
            "sample-fargate-app",
            "Invalid revision number. Name the revision: 'sample-fargate-app' is all of a family.",
        ),
        ("sample-fargate-app:x", "Invalid revision number. Number: x"),
    ] {
        let error = service.deregister_task_definition(&cx, input(by(name))).await.unwrap_err();
        assert_eq!((error.code.as_str(), error.message.as_str()), ("ClientException", message));
    }
    let delete = json!({ "taskDefinitions": ["sample-fargate-app:1", "sample-fargate-app:3", "none:1"] });
    let answer = service.delete_task_definitions(&cx, input(delete)).await.unwrap();
    let deleted = answer.task_definitions.unwrap();
    assert_eq!(deleted.len(), 1);
    assert_eq!((deleted[0].revision, deleted[0].status.as_deref()), (Some(3), Some("DELETE_IN_PROGRESS")));
    let reasons: Vec<String> =
        answer.failures.unwrap().into_iter().filter_map(|failure| failure.reason).collect();
    assert_eq!(
        reasons,
        [
            "The specified task definition is still in ACTIVE status. Please deregister the target and try again.",
            "The specified task definition does not exist. Specify a valid account, family, revision and try again.",
        ]
    );
    let unknown = service.describe_task_definition(&cx, input(by("none"))).await.unwrap_err();
    assert_eq!(
        (unknown.code.as_str(), unknown.message.as_str()),
        ("ClientException", "Unable to describe task definition.")
    );
    let mut world = world;
    world.run();
    world
        .until("the revision is gone", async |world| {
            world
                .service
                .describe_task_definition(&world.cx(), input(by("sample-fargate-app:3")))
                .await
                .is_err()
        })
        .await;
    assert_eq!(world.register(sample()).await.unwrap().revision, Some(4));
}

#[tokio::test]
async fn many_at_once_get_a_number_each() {
    let world = World::new();
    let all = futures_util::future::join_all((0..20).map(|_| world.register(sample()))).await;
    let mut numbers: Vec<i32> = all.into_iter().map(|one| one.unwrap().revision.unwrap()).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=20).collect::<Vec<i32>>());
}

#[tokio::test]
async fn lists() {
    let world = World::new();
    let (service, cx) = (&world.service, world.cx());
    for family in ["b", "a", "a-b", "a", "gone"] {
        world.register(with(sample(), json!({ "family": family }))).await.unwrap();
    }
    service.deregister_task_definition(&cx, input(json!({ "taskDefinition": "gone:1" }))).await.unwrap();
    for (request, expected) in [
        (json!({}), vec!["a", "a-b", "b"]),
        (json!({ "familyPrefix": "a" }), vec!["a", "a-b"]),
        (json!({ "status": "INACTIVE" }), vec!["gone"]),
        (json!({ "status": "ALL" }), vec!["a", "a-b", "b", "gone"]),
    ] {
        let answer = service.list_task_definition_families(&cx, input(request)).await.unwrap();
        assert_eq!(answer.families.unwrap(), expected);
    }
    let list = async |request: Json| {
        let answer = service.list_task_definitions(&cx, input(request)).await.unwrap();
        let short = |arn: &String| arn.rsplit('/').next().unwrap().to_owned();
        (answer.task_definition_arns.unwrap().iter().map(short).collect::<Vec<String>>(), answer.next_token)
    };
    assert_eq!(list(json!({})).await.0, ["a:1", "a:2", "a-b:1", "b:1"]);
    assert_eq!(list(json!({ "sort": "DESC" })).await.0, ["b:1", "a-b:1", "a:2", "a:1"]);
    assert_eq!(list(json!({ "familyPrefix": "a" })).await.0, ["a:1", "a:2"]);
    assert_eq!(list(json!({ "status": "INACTIVE" })).await.0, ["gone:1"]);
    let (first, token) = list(json!({ "maxResults": 3, "sort": "DESC" })).await;
    assert_eq!(first.len(), 3);
    let (rest, token) = list(json!({ "maxResults": 3, "sort": "DESC", "nextToken": token.unwrap() })).await;
    assert_eq!((rest.as_slice(), token), (&["a:1".to_owned()][..], None));
    let error = service.list_task_definitions(&cx, input(json!({ "nextToken": "!" }))).await.unwrap_err();
    assert_eq!(
        (error.code.as_str(), error.message.as_str()),
        ("InvalidParameterException", "Invalid token.")
    );
}
