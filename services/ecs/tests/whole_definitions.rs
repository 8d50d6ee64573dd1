//! Task definitions with all that Fargate takes: what is kept, what reaches the node, what is refused and how.

mod support;

use ferrogate_api::ecs::Ecs;
use ferrogate_ecs::RegisteredImage;
use ferrogate_nodeapi::{Dependency, DependencyCondition, MountPoint, RestartPolicy};
use serde_json::{Value as Json, json};
use support::{EXECUTION_ROLE, World, input, run_sample, sample, with, with_container};

const SECRET: &str = "arn:aws:secretsmanager:us-east-1:123456789012:secret:app-AbCdEf";

fn with_role(definition: Json) -> Json {
    with(definition, json!({ "executionRoleArn": EXECUTION_ROLE }))
}

fn secrets(secrets: Json) -> Json {
    with_role(with_container(json!({ "secrets": secrets, "environment": [{ "name": "A", "value": "1" }] })))
}

/// Containers `a`, `b`, … with these members each.
fn containers(changes: &[Json]) -> Json {
    let names = ["a", "b", "c"];
    let all: Vec<Json> = changes
        .iter()
        .zip(names)
        .map(|(changes, name)| with(json!({ "name": name, "image": "busybox" }), changes.clone()))
        .collect();
    with(sample(), json!({ "containerDefinitions": all, "volumes": [{ "name": "v" }, { "name": "w" }] }))
}

fn from(sources: &[&str]) -> Json {
    let from: Vec<Json> = sources.iter().map(|source| json!({ "sourceContainer": source })).collect();
    json!({ "volumesFrom": from })
}

/// Every one of these is a ClientException but where another code is said.
fn refused() -> Vec<(Json, &'static str)> {
    let task = |changes| with(sample(), changes);
    let unique = "The secret name must be unique and not shared with any new or existing environment variables set on the container, such as 'A'.";
    let place = "The Systems Manager parameter name specified for secret B is invalid. The parameter name can be up to 2048 characters and include the following letters and symbols: a-zA-Z0-9_.-";
    vec![
        // Secrets
        (
            with(secrets(json!([{ "name": "B", "valueFrom": SECRET }])), json!({ "executionRoleArn": null })),
            "When you are specifying container secrets, you must also specify a value for 'executionRoleArn'.",
        ),
        (secrets(json!([{ "name": "A", "valueFrom": SECRET }])), unique),
        (
            with_role(with_container(
                json!({ "secrets": [{ "name": "A", "valueFrom": "x" }, { "name": "A", "valueFrom": "y" }] }),
            )),
            "Duplicate secret names found: A. Each secret name must be unique.",
        ),
        (secrets(json!([{ "name": "B", "valueFrom": "${DB}" }])), place),
        (secrets(json!([{ "name": "B", "valueFrom": "arn:aws:s3:::bucket/key" }])), place),
        (
            secrets(json!([{ "name": "B=C", "valueFrom": SECRET }])),
            "Invalid secret name 'B=C' of container 'sample-app': it must not be empty nor hold '='.",
        ),
        (
            with_container(json!({ "repositoryCredentials": { "credentialsParameter": SECRET } })),
            "Private repository authentication requires that the task definition specify a value for executionRoleArn.",
        ),
        (
            with_role(with_container(json!({ "repositoryCredentials": { "credentialsParameter": "" } }))),
            "Container.repositoryCredentials.credentialsParameter should not be null or empty.",
        ),
        // Storage
        (
            task(json!({ "ephemeralStorage": { "sizeInGiB": 20 } })),
            "EphemeralStorage size should be at least 21",
        ),
        (
            task(json!({ "ephemeralStorage": { "sizeInGiB": 201 } })),
            "EphemeralStorage size should be at most 200",
        ),
        (
            task(json!({ "volumes": [{ "name": "v", "dockerVolumeConfiguration": { "driver": "x" } }] })),
            "Fargate compatible task definitions do not support dockerVolumeConfiguration",
        ),
        (
            task(json!({ "volumes": [{ "name": "v", "fsxWindowsFileServerVolumeConfiguration": {} }] })),
            "Fargate compatible task definitions do not support fsxWindowsFileServerVolumeConfiguration",
        ),
        (
            task(json!({ "volumes": [{ "name": "v", "configuredAtLaunch": true }] })),
            "This version of Ferrogate does not support 'configuredAtLaunch' yet: leave it out.",
        ),
        (
            task(json!({ "volumes": [{ "name": "v" }, { "name": "v" }] })),
            "Volume names should be unique: 'v' is there twice.",
        ),
        (containers(&[from(&["x"])]), "Invalid 'volumesFrom' setting. Unknown container: 'x'."),
        (
            containers(&[from(&["a"])]),
            "Invalid 'volumesFrom' setting. Container 'a' takes its volumes from itself, if by way of others.",
        ),
        (
            containers(&[from(&["b"]), from(&["c"]), from(&["a"])]),
            "Invalid 'volumesFrom' setting. Container 'a' takes its volumes from itself, if by way of others.",
        ),
        (
            containers(&[
                json!({ "dependsOn": [{ "containerName": "b", "condition": "START" }] }),
                from(&["a"]),
            ]),
            "Container dependencies must not form a cycle: 'a' waits for itself",
        ),
        (
            containers(&[json!({}), from(&["a", "a"])]),
            "Invalid 'volumesFrom' setting. Container 'b' names 'a' twice.",
        ),
        (
            containers(&[json!({ "mountPoints": [
                { "sourceVolume": "v", "containerPath": "/x" }, { "sourceVolume": "w", "containerPath": "/x/" },
            ] })]),
            "Invalid mount point '/x/' of container 'a': it is there twice.",
        ),
        (
            containers(&[json!({ "mountPoints": [{ "sourceVolume": "v", "containerPath": "//" }] })]),
            "Invalid mount point '//' of container 'a': 'containerPath' must be below the container's root and not in /proc or /sys, without '..'.",
        ),
        (
            containers(&[json!({ "mountPoints": [{ "sourceVolume": "v", "containerPath": "/x/../../y" }] })]),
            "Invalid mount point '/x/../../y' of container 'a': 'containerPath' must be below the container's root and not in /proc or /sys, without '..'.",
        ),
        (
            containers(&[json!({
                "mountPoints": [{ "sourceVolume": "v", "containerPath": "/x" }],
                "linuxParameters": { "tmpfs": [{ "containerPath": "/x", "size": 1 }] },
            })]),
            "Invalid tmpfs '/x' of container 'a': something is mounted there already.",
        ),
        // Behaviour
        (
            with_container(json!({ "restartPolicy": { "enabled": true, "restartAttemptPeriod": 59 } })),
            "Invalid 'restartPolicy.restartAttemptPeriod' setting for container 'sample-app': 59. It is between 60 and 1800.",
        ),
        (
            with_container(
                json!({ "restartPolicy": { "enabled": true, "ignoredExitCodes": (0..51).collect::<Vec<i32>>() } }),
            ),
            "Invalid 'restartPolicy.ignoredExitCodes' setting for container 'sample-app': 51 exit codes. At most 50 can be ignored.",
        ),
        (
            containers(&[
                json!({ "healthCheck": { "command": ["NONE"] } }),
                json!({ "dependsOn": [{ "containerName": "a", "condition": "HEALTHY" }] }),
            ]),
            "A dependency container with HEALTHY condition must have a health check: 'a' has none",
        ),
        (
            with_container(json!({ "ulimits": [{ "name": "files", "softLimit": 1, "hardLimit": 1 }] })),
            "Invalid ulimit 'files' of container 'sample-app'. Must be one of [core,cpu,data,fsize,locks,memlock,msgqueue,nice,nofile,nproc,rss,rtprio,rttime,sigpending,stack]",
        ),
        (
            with_container(json!({ "systemControls": [
                { "namespace": "net.core.somaxconn", "value": "1" }, { "namespace": "net.core.somaxconn", "value": "2" },
            ] })),
            "Invalid system control 'net.core.somaxconn' of container 'sample-app': it is there twice.",
        ),
        (
            with_container(json!({ "systemControls": [{ "namespace": "kernel.hostname", "value": "x" }] })),
            "Invalid system control 'kernel.hostname' for container 'sample-app'. On Fargate those of the task's own network and IPC can be set: net.*, fs.mqueue.*, kernel.msg*, kernel.sem, kernel.shm*.",
        ),
        (
            with_container(
                json!({ "systemControls": [{ "namespace": "net.../../kernel/panic", "value": "1" }] }),
            ),
            "Invalid system control 'net.../../kernel/panic' of container 'sample-app': it is letters, numbers, underscores and hyphens with dots between.",
        ),
        (
            with_container(
                json!({ "portMappings": [{ "containerPort": 80, "protocol": "udp", "appProtocol": "http" }] }),
            ),
            "Invalid appProtocol 'http' of container 'sample-app': it goes with the protocol tcp only.",
        ),
        (
            with_container(json!({ "versionConsistency": "maybe" })),
            "Invalid versionConsistency 'maybe' of container 'sample-app'. Must be one of [enabled,disabled]",
        ),
        // Names
        (with_container(json!({ "image": "busy box" })), "Container.image contains invalid characters."),
        (with_container(json!({ "image": "$IMAGE" })), "Container.image contains invalid characters."),
        (with_container(json!({ "image": "x".repeat(256) })), "Container.image contains invalid characters."),
        (
            with_container(json!({ "portMappings": [{ "containerPort": 80, "protocol": "sctp" }] })),
            "Invalid protocol 'sctp' of container 'sample-app'. Must be one of [tcp,udp]",
        ),
        (
            with_container(
                json!({ "portMappings": [{ "containerPort": 80, "name": "web", "appProtocol": "ftp" }] }),
            ),
            "Invalid appProtocol 'ftp' of container 'sample-app'. Must be one of [http,http2,grpc]",
        ),
        (
            with_container(json!({ "portMappings": [{ "containerPortRange": "90-80" }] })),
            "Invalid containerPortRange '90-80' of container 'sample-app': it is two ports between 1 and 65535 with a hyphen between, the lower one first.",
        ),
        (
            with_container(
                json!({ "portMappings": [{ "containerPortRange": "80-90", "containerPort": 80 }] }),
            ),
            "Invalid containerPortRange '80-90' of container 'sample-app': it goes with neither 'containerPort' nor 'hostPort'.",
        ),
        (
            with_container(
                json!({ "portMappings": [{ "containerPortRange": "80-90" }, { "containerPort": 85 }] }),
            ),
            "Invalid port mapping of container 'sample-app': port 85 is mapped twice.",
        ),
        (
            task(json!({ "requiresCompatibilities": ["FARGATE", "MOON"] })),
            "Invalid requiresCompatibilities 'MOON'. Must be one of [EC2,FARGATE,EXTERNAL,MANAGED_INSTANCES]",
        ),
        (
            task(json!({ "runtimePlatform": { "cpuArchitecture": "RISCV" } })),
            "Invalid cpuArchitecture 'RISCV' in runtimePlatform. Must be one of [X86_64,ARM64]",
        ),
        (
            task(json!({ "runtimePlatform": { "operatingSystemFamily": "BEOS" } })),
            "Invalid operatingSystemFamily 'BEOS' in runtimePlatform.",
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
    let foreign = with(sample(), json!({ "taskRoleArn": "arn:aws:iam::999999999999:role/app" }));
    let error = world.register(foreign).await.unwrap_err();
    assert_eq!(
        (error.code.as_str(), error.message.as_str()),
        ("AccessDeniedException", "Cross-account pass role is not allowed.")
    );
    assert!(world.store.range("/ecs/123456789012/us-east-1/definition/").is_empty(), "nothing was kept");
}

#[tokio::test]
async fn all_of_it_reaches_the_node() {
    let mut world = World::new();
    world.run();
    let app = json!({
        "repositoryCredentials": { "credentialsParameter": SECRET },
        "secrets": [
            { "name": "PASSWORD", "valueFrom": format!("{SECRET}:password:AWSCURRENT:") },
            { "name": "URL", "valueFrom": "/app/url" },
        ],
        "restartPolicy": { "enabled": true, "ignoredExitCodes": [0, 7], "restartAttemptPeriod": 60 },
        "dockerLabels": { "team": "a" }, "pseudoTerminal": true, "interactive": true,
        "mountPoints": [{ "sourceVolume": "v", "containerPath": "/data" }],
    });
    let side = json!({
        "essential": false, "restartPolicy": { "enabled": true },
        "volumesFrom": [{ "sourceContainer": "a", "readOnly": true }],
        "mountPoints": [{ "sourceVolume": "w", "containerPath": "/own" }],
        "portMappings": [{ "containerPortRange": "8000-8010" }, { "containerPort": 8005, "protocol": "udp" }],
    });
    let off = json!({ "restartPolicy": { "enabled": false }, "volumesFrom": [{ "sourceContainer": "b" }] });
    let definition = with(
        with_role(containers(&[app, side, off])),
        json!({ "pidMode": "task", "ephemeralStorage": { "sizeInGiB": 42 }, "taskRoleArn": "app" }),
    );
    let kept = world.register(definition).await.unwrap();
    assert_eq!(kept.pid_mode.as_deref(), Some("task"));
    assert_eq!(kept.ephemeral_storage.unwrap().size_in_gib, Some(42));
    let attributes: Vec<String> =
        kept.requires_attributes.unwrap().into_iter().filter_map(|one| one.name).collect();
    for name in [
        "ecs.capability.secrets.asm.environment-variables",
        "ecs.capability.secrets.ssm.environment-variables",
        "ecs.capability.private-registry-authentication.secretsmanager",
        "ecs.capability.container-restart-policy",
        "ecs.capability.pid-ipc-namespace-sharing",
    ] {
        assert!(attributes.iter().any(|one| one == name), "{name} {attributes:?}");
    }

    let task =
        world.run_task(with(run_sample(), json!({ "enableExecuteCommand": true }))).await.unwrap().remove(0);
    let arn = task.task_arn.unwrap();
    let list = world.until_assigned(|list| list.len() == 1).await;
    let assignment = &list[0];
    assert_eq!((assignment.ephemeral_storage_gib, assignment.shared_pid_namespace), (42, true));
    assert!(assignment.exec_enabled);
    assert_eq!(
        (
            assignment.group.as_str(),
            assignment.service_name.as_deref(),
            assignment.availability_zone_id.as_str()
        ),
        ("family:sample-fargate-app", None, "use1-az1")
    );
    let [a, b, c] = &assignment.containers[..] else { panic!("{:?}", assignment.containers) };
    assert_eq!(a.secret_names, ["PASSWORD", "URL"]);
    assert!(!a.environment.contains_key("PASSWORD"));
    assert_eq!((a.labels["team"].as_str(), a.pseudo_terminal, a.interactive), ("a", true, true));
    let policy = |codes: &[i32], seconds| {
        Some(RestartPolicy { ignored_exit_codes: codes.to_vec(), attempt_period_seconds: seconds })
    };
    assert_eq!(
        (&a.restart_policy, &b.restart_policy, &c.restart_policy),
        (&policy(&[0, 7], 60), &policy(&[], 300), &None)
    );
    let mount = |volume: &str, path: &str, read_only| MountPoint {
        volume: volume.into(),
        container_path: path.into(),
        read_only,
    };
    assert_eq!(a.mount_points, [mount("v", "/data", false)]);
    assert_eq!(b.mount_points, [mount("v", "/data", true), mount("w", "/own", false)]);
    assert_eq!(c.mount_points, b.mount_points);
    let after =
        |name: &str| vec![Dependency { container: name.into(), condition: DependencyCondition::Start }];
    assert_eq!((&a.depends_on, &b.depends_on, &c.depends_on), (&Vec::new(), &after("a"), &after("b")));

    let service = &world.service;
    let secret = |name: &str, from: &str| (name.to_owned(), from.to_owned());
    assert_eq!(
        service.container_secrets(&arn, "a").unwrap(),
        [secret("PASSWORD", &format!("{SECRET}:password:AWSCURRENT:")), secret("URL", "/app/url")]
    );
    assert_eq!(service.container_secrets(&arn, "b"), Some(Vec::new()));
    assert_eq!(service.container_secrets(&arn, "x"), None);
    assert_eq!(service.repository_credentials(&arn, "a").as_deref(), Some(SECRET));
    assert_eq!(service.repository_credentials(&arn, "b"), None);
}

#[tokio::test]
async fn definitions_are_told_of_as_they_are_registered() {
    let world = World::new();
    world.register(sample()).await.unwrap();
    let mut told = world.service.registered_definitions();
    world
        .register(with(
            sample(),
            json!({ "requiresCompatibilities": null, "networkMode": "host", "family": "ec2" }),
        ))
        .await
        .unwrap();
    assert!(world.register(with(sample(), json!({ "cpu": "x" }))).await.is_err());
    let definition = containers(&[
        json!({ "repositoryCredentials": { "credentialsParameter": SECRET }, "image": "registry.example/app:1" }),
        json!({}),
        json!({}),
    ]);
    let unasked = json!({ "requiresCompatibilities": null });
    world.register(with(with_role(definition), unasked)).await.unwrap();
    let registered = told.try_recv().unwrap();
    assert_eq!(
        registered.task_definition_arn,
        "arn:aws:ecs:us-east-1:123456789012:task-definition/sample-fargate-app:2"
    );
    assert_eq!(registered.execution_role_arn.as_deref(), Some(EXECUTION_ROLE));
    assert_eq!((registered.cpu_units, registered.memory_mib), (256, 512));
    assert_eq!(
        registered.images,
        [
            RegisteredImage {
                image: "registry.example/app:1".into(),
                credentials_parameter: Some(SECRET.into())
            },
            RegisteredImage { image: "busybox".into(), credentials_parameter: None },
        ]
    );
    assert!(told.try_recv().is_err(), "once, and of what fits Fargate only");
}

#[tokio::test]
async fn what_lists_do_not_know() {
    let world = World::new();
    let (service, cx) = (&world.service, world.cx());
    world.register(sample()).await.unwrap();
    let error = service.list_task_definitions(&cx, input(json!({ "status": "OLD" }))).await.unwrap_err();
    assert_eq!(error.message, "Invalid status 'OLD'. Must be one of [ACTIVE,INACTIVE,DELETE_IN_PROGRESS]");
    let error = service.list_task_definitions(&cx, input(json!({ "sort": "UP" }))).await.unwrap_err();
    assert_eq!(error.message, "Invalid sort 'UP'. Must be one of [ASC,DESC]");
    let error =
        service.list_task_definition_families(&cx, input(json!({ "status": "OLD" }))).await.unwrap_err();
    assert_eq!(error.message, "Invalid status 'OLD'. Must be one of [ACTIVE,INACTIVE,ALL]");
    let include = json!({ "taskDefinition": "sample-fargate-app", "include": ["ALL"] });
    let error = service.describe_task_definition(&cx, input(include)).await.unwrap_err();
    assert_eq!(
        (error.code.as_str(), error.message.as_str()),
        ("InvalidParameterException", "Invalid include 'ALL'. Must be one of [TAGS]")
    );
    for request in [json!({ "maxResults": 0 }), json!({ "maxResults": 101 })] {
        let error = service.list_task_definitions(&cx, input(request)).await.unwrap_err();
        assert_eq!(error.message, "maxResults should be between 1 and 100.");
    }
}

/// A revision that is being deleted can be looked at and starts nothing; its number is not given again.
#[tokio::test]
async fn the_end_of_a_revision() {
    let world = World::new();
    let (service, cx) = (&world.service, world.cx());
    let arn = world.run_sample().await.task_arn.unwrap();
    let by = |name: &str| json!({ "taskDefinition": name });
    service.deregister_task_definition(&cx, input(by("sample-fargate-app:1"))).await.unwrap();
    let error = world.run_task(with(run_sample(), by("sample-fargate-app:1"))).await.unwrap_err();
    assert_eq!(
        (error.code.as_str(), error.message.as_str()),
        ("InvalidParameterException", "TaskDefinition is inactive")
    );
    // Without a number the latest active one is meant, and there is none.
    let error = world.run_task(run_sample()).await.unwrap_err();
    assert_eq!(
        (error.code.as_str(), error.message.as_str()),
        ("ClientException", "TaskDefinition not found.")
    );
    let delete = json!({ "taskDefinitions": ["sample-fargate-app:1"] });
    for _ in 0..2 {
        let answer = service.delete_task_definitions(&cx, input(delete.clone())).await.unwrap();
        let deleted = answer.task_definitions.unwrap().remove(0);
        assert_eq!(deleted.status.as_deref(), Some("DELETE_IN_PROGRESS"));
        assert!(deleted.delete_requested_at.is_some());
    }
    let error = world.run_task(with(run_sample(), by("sample-fargate-app:1"))).await.unwrap_err();
    assert_eq!(error.message, "TaskDefinition is inactive");
    let listed =
        service.list_task_definitions(&cx, input(json!({ "status": "DELETE_IN_PROGRESS" }))).await.unwrap();
    assert_eq!(
        listed.task_definition_arns.unwrap(),
        ["arn:aws:ecs:us-east-1:123456789012:task-definition/sample-fargate-app:1"]
    );
    // Its task keeps it there.
    let mut world = world;
    world.run();
    world.until_assigned(|list| list.len() == 1).await;
    assert!(world.find(&arn).await.is_some());
    let described =
        world.service.describe_task_definition(&world.cx(), input(by("sample-fargate-app:1"))).await.unwrap();
    assert_eq!(described.task_definition.unwrap().status.as_deref(), Some("DELETE_IN_PROGRESS"));
    assert_eq!(world.register(sample()).await.unwrap().revision, Some(2));
}
