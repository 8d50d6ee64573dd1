//! Task definitions as teams have them, by the aws CLI and boto3: taken, run, handed round, ended.

use ferrogate_tests::{Cluster, TaskRun, eventually};
use serde_json::{Value, json};

/// What DescribeTaskDefinition adds to what was registered; every deploy script takes these away.
const ADDED: [&str; 7] = [
    "taskDefinitionArn",
    "revision",
    "status",
    "requiresAttributes",
    "compatibilities",
    "registeredAt",
    "registeredBy",
];

/// Two containers that share volumes and see each other's processes.
fn whole() -> Value {
    json!({
        "family": "whole", "networkMode": "awsvpc", "requiresCompatibilities": ["FARGATE"],
        "cpu": ".25 vCPU", "memory": "0.5 GB", "pidMode": "task", "ephemeralStorage": { "sizeInGiB": 21 },
        "runtimePlatform": { "operatingSystemFamily": "LINUX", "cpuArchitecture": "X86_64" },
        "volumes": [{ "name": "work" }, { "name": "notes" }],
        "tags": [{ "key": "team", "value": "blue" }],
        "containerDefinitions": [
            {
                "name": "writer", "image": "busybox:latest", "essential": true, "stopTimeout": 2, "cpu": 64,
                "memory": 128, "memoryReservation": 64,
                "command": ["sh", "-c", "echo from writer > /desk/file; echo note > /notes/file; exec sleep 7777"],
                "mountPoints": [
                    { "sourceVolume": "work", "containerPath": "/desk" },
                    { "sourceVolume": "notes", "containerPath": "/notes", "readOnly": false },
                ],
                "healthCheck": { "command": ["CMD-SHELL", "test -e /desk/file"], "interval": 5, "retries": 5 },
                "portMappings": [{ "containerPort": 8080, "name": "web", "appProtocol": "http" },
                                 { "containerPortRange": "9000-9009" }],
                "dockerLabels": { "com.example.team": "blue" },
            },
            {
                "name": "reader", "image": "busybox:latest", "essential": false, "stopTimeout": 2,
                "restartPolicy": { "enabled": true, "ignoredExitCodes": [0], "restartAttemptPeriod": 60 },
                "dependsOn": [{ "containerName": "writer", "condition": "HEALTHY" }],
                "command": ["sh", "-c", "cat /desk/file /notes/file; touch /desk/x || echo kept; ps | grep -c '[s]leep 7777'; echo over"],
                "volumesFrom": [{ "sourceContainer": "writer", "readOnly": true }],
            },
        ],
    })
}

#[test]
fn a_whole_definition() {
    let cluster = Cluster::start();
    let network = cluster.network();
    let file = cluster.folder().join("whole.json");
    std::fs::write(&file, whole().to_string()).unwrap();
    let from_file = format!("file://{}", file.display());
    let registered = cluster.aws(&["ecs", "register-task-definition", "--cli-input-json", &from_file]).json();
    let definition = &registered["taskDefinition"];
    assert_eq!((&definition["cpu"], &definition["memory"]), (&json!("256"), &json!("512")));
    assert_eq!(definition["pidMode"], "task");
    assert_eq!(definition["ephemeralStorage"]["sizeInGiB"], 21);
    assert_eq!(registered["tags"], json!([{ "key": "team", "value": "blue" }]));

    // What is described can be registered again, as it is.
    let describe = ["ecs", "describe-task-definition", "--task-definition", "whole", "--include", "TAGS"];
    let described = cluster.aws(&describe).json();
    assert_eq!(described["tags"], registered["tags"]);
    let mut again = described["taskDefinition"].clone();
    assert_eq!(again, *definition);
    again.as_object_mut().unwrap().retain(|name, _| !ADDED.contains(&name.as_str()));
    let copy =
        cluster.aws(&["ecs", "register-task-definition", "--cli-input-json", &again.to_string()]).json();
    assert_eq!(copy["taskDefinition"]["revision"], 2);
    assert_eq!(copy["taskDefinition"]["containerDefinitions"], definition["containerDefinitions"]);

    let arn = cluster.run_task(&network, &TaskRun::of("whole:1"));
    let task = cluster.running(&arn);
    assert_eq!(task["ephemeralStorage"]["sizeInGiB"], 21);
    assert_eq!(task["healthStatus"], "HEALTHY", "the reader waits for it: {task:#}");
    let output = || cluster.ferrogate(&["logs", &arn, "--container", "reader"]).ok();
    eventually("the reader is over", || output().contains("over"));
    let said = output();
    for line in ["from writer", "note", "kept", "1", "over"] {
        assert!(said.lines().any(|one| one.ends_with(line)), "no {line:?} in {said}");
    }
    eventually("0 is an exit code that its policy lets be", || {
        let containers = cluster.task(&arn)["containers"].clone();
        let reader =
            containers.as_array().unwrap().iter().find(|one| one["name"] == "reader").unwrap().clone();
        reader["lastStatus"] == "STOPPED" && reader["exitCode"] == 0
    });
    assert_eq!(cluster.task(&arn)["lastStatus"], "RUNNING");
    cluster.boto().ok("ecs", "stop_task", json!({ "task": arn }));
    cluster.stopped(&arn);
    assert_eq!(cluster.left_of_tasks(), Vec::<String>::new());
}

#[test]
fn from_active_to_gone() {
    let cluster = Cluster::start();
    let network = cluster.network();
    let boto = cluster.boto();
    for _ in 0..3 {
        cluster.define_busybox("box");
    }
    cluster.define_busybox("other");
    let short = |answer: &Value| -> Vec<String> {
        let arns = answer["taskDefinitionArns"].as_array().unwrap().iter();
        arns.map(|arn| arn.as_str().unwrap().rsplit('/').next().unwrap().to_owned()).collect()
    };
    let list = |input: Value| short(&boto.ok("ecs", "list_task_definitions", input));
    assert_eq!(list(json!({})), ["box:1", "box:2", "box:3", "other:1"]);
    assert_eq!(list(json!({ "familyPrefix": "box", "sort": "DESC" })), ["box:3", "box:2", "box:1"]);
    let pages =
        boto.ok("ecs", "pages:list_task_definitions", json!({ "PaginationConfig": { "PageSize": 1 } }));
    assert_eq!(short(&pages).len(), 4);
    let families = |status: &str| {
        boto.ok("ecs", "list_task_definition_families", json!({ "status": status }))["families"].clone()
    };
    assert_eq!(families("ACTIVE"), json!(["box", "other"]));

    let arn = cluster.run_task(&network, &TaskRun::of("box:3"));
    let aws = |line: &str| cluster.aws(&line.split_whitespace().collect::<Vec<_>>());
    let gone = aws("ecs deregister-task-definition --task-definition box:3").json();
    assert_eq!(gone["taskDefinition"]["status"], "INACTIVE");
    assert!(!gone["taskDefinition"]["deregisteredAt"].is_null());
    aws("ecs deregister-task-definition --task-definition other:1").ok();
    assert_eq!((families("ACTIVE"), families("INACTIVE")), (json!(["box"]), json!(["other"])));
    assert_eq!(list(json!({ "status": "INACTIVE" })), ["box:3", "other:1"]);
    let latest = aws("ecs describe-task-definition --task-definition box").json();
    assert_eq!(latest["taskDefinition"]["revision"], 2);
    // Its task goes on; a new one is refused.
    cluster.running(&arn);
    let run = json!({ "taskDefinition": "box:3", "launchType": "FARGATE", "networkConfiguration": network.configuration(&[]) });
    let refused = boto.refused("ecs", "run_task", run);
    assert_eq!(
        (refused.code.as_str(), refused.message.as_str()),
        ("InvalidParameterException", "TaskDefinition is inactive")
    );

    let delete = json!({ "taskDefinitions": ["box:2", "box:3", "other:1", "none:1"] });
    let answer = boto.ok("ecs", "delete_task_definitions", delete);
    let deleted = answer["taskDefinitions"].as_array().unwrap();
    assert_eq!(deleted.len(), 2, "{answer:#}");
    assert!(deleted.iter().all(|one| one["status"] == "DELETE_IN_PROGRESS"), "{answer:#}");
    let reasons: Vec<&str> =
        answer["failures"].as_array().unwrap().iter().map(|one| one["reason"].as_str().unwrap()).collect();
    assert_eq!(
        reasons,
        [
            "The specified task definition is still in ACTIVE status. Please deregister the target and try again.",
            "The specified task definition does not exist. Specify a valid account, family, revision and try again.",
        ]
    );
    // One that nothing refers to goes; the task keeps the other.
    eventually("the one that nobody has is gone", || {
        boto.call("ecs", "describe_task_definition", json!({ "taskDefinition": "other:1" })).is_err()
    });
    let kept = boto.ok("ecs", "describe_task_definition", json!({ "taskDefinition": "box:3" }));
    assert_eq!(kept["taskDefinition"]["status"], "DELETE_IN_PROGRESS");
    cluster.define_busybox("other");
    let other = boto.ok("ecs", "describe_task_definition", json!({ "taskDefinition": "other" }));
    assert_eq!(other["taskDefinition"]["revision"], 2, "no number is given twice");
    boto.ok("ecs", "stop_task", json!({ "task": arn }));
    cluster.stopped(&arn);
}

/// Through the front and back: boto3 has to make the same exception of it as of AWS's.
#[test]
fn refused_as_aws_refuses() {
    let cluster = Cluster::start();
    let boto = cluster.boto();
    let container = |change: Value| {
        let mut one = json!({ "name": "app", "image": "busybox" });
        one.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        json!({ "containerDefinitions": [one] })
    };
    let later =
        |what: &str| format!("This version of Ferrogate does not support '{what}' yet: leave it out.");
    for (change, message) in [
        (
            container(json!({ "secrets": [{ "name": "A", "valueFrom": "/a" }] })),
            "When you are specifying container secrets, you must also specify a value for 'executionRoleArn'.".to_owned(),
        ),
        (
            container(json!({ "repositoryCredentials": { "credentialsParameter": "a" } })),
            "Private repository authentication requires that the task definition specify a value for executionRoleArn.".into(),
        ),
        (json!({ "ephemeralStorage": { "sizeInGiB": 20 } }), "EphemeralStorage size should be at least 21".into()),
        (json!({ "ephemeralStorage": { "sizeInGiB": 201 } }), "EphemeralStorage size should be at most 200".into()),
        (
            json!({ "pidMode": "host" }),
            "Tasks using the Fargate launch type do not support pidMode 'host'. The supported value for pidMode is 'task'.".into(),
        ),
        (json!({ "ipcMode": "task" }), "Tasks using the Fargate launch type do not support ipcMode.".into()),
        (container(json!({ "image": "busy box" })), "Container.image contains invalid characters.".into()),
        (
            container(json!({ "volumesFrom": [{ "sourceContainer": "none" }] })),
            "Invalid 'volumesFrom' setting. Unknown container: 'none'.".into(),
        ),
        (
            container(json!({ "dependsOn": [{ "containerName": "none", "condition": "START" }] })),
            "Cannot depend on container + 'none' because it does not exist".into(),
        ),
        (
            container(json!({ "linuxParameters": { "sharedMemorySize": 64 } })),
            "Fargate compatible task definitions do not support sharedMemorySize".into(),
        ),
        (
            json!({ "volumes": [{ "name": "v", "host": { "sourcePath": "/etc" } }] }),
            "Fargate compatible task definitions do not support sourcePath".into(),
        ),
        (
            container(json!({ "logConfiguration": { "logDriver": "json-file" } })),
            "json-file is not a valid log driver. Must be one of [awslogs,splunk,awsfirelens]".into(),
        ),
        (container(json!({ "environmentFiles": [{ "type": "s3", "value": "arn:aws:s3:::b/f" }] })), later("environmentFiles")),
        (json!({ "volumes": [{ "name": "v", "efsVolumeConfiguration": { "fileSystemId": "fs-1" } }] }), later("efsVolumeConfiguration")),
        (container(json!({ "firelensConfiguration": { "type": "fluentbit" } })), later("firelensConfiguration")),
        (json!({ "enableFaultInjection": true }), later("enableFaultInjection")),
        (json!({ "proxyConfiguration": { "containerName": "app" } }), later("proxyConfiguration")),
    ] {
        let mut input = json!({ "family": "bad", "networkMode": "awsvpc", "requiresCompatibilities": ["FARGATE"],
            "cpu": "256", "memory": "512", "containerDefinitions": [{ "name": "app", "image": "busybox" }] });
        input.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let refused = boto.refused("ecs", "register_task_definition", input);
        assert_eq!(
            (refused.code.as_str(), refused.message, refused.status),
            ("ClientException", message, 400),
            "{change}"
        );
    }
    let listed = boto.ok("ecs", "list_task_definition_families", json!({ "status": "ALL" }));
    assert_eq!(listed["families"], json!([]), "nothing was kept");
}
