//! Clusters, lists, stops, tags, settings, rights.

mod support;

use ferrogate_api::Value;
use ferrogate_api::ecs::Ecs;
use serde_json::{Value as Json, json};
use support::{EXECUTION_ROLE, World, input, run_sample, sample, with};

#[tokio::test]
async fn clusters() {
    let world = World::new();
    let (service, cx) = (&world.service, world.cx());
    let none = service.describe_clusters(&cx, input(json!({}))).await.unwrap();
    let failure = none.failures.unwrap().remove(0);
    assert_eq!(
        (failure.arn.as_deref(), failure.reason.as_deref()),
        (Some("arn:aws:ecs:us-east-1:123456789012:cluster/default"), Some("MISSING"))
    );
    let web = json!({ "clusterName": "web", "tags": [{ "key": "a", "value": "b" }], "capacityProviders": ["FARGATE"] });
    let made = service.create_cluster(&cx, input(web.clone())).await.unwrap().cluster.unwrap();
    assert_eq!(
        serde_json::to_value(&made).unwrap(),
        json!({
            "clusterArn": "arn:aws:ecs:us-east-1:123456789012:cluster/web", "clusterName": "web", "status": "ACTIVE",
            "registeredContainerInstancesCount": 0, "runningTasksCount": 0, "pendingTasksCount": 0,
            "activeServicesCount": 0, "statistics": [], "tags": [{ "key": "a", "value": "b" }],
            "settings": [{ "name": "containerInsights", "value": "disabled" }], "capacityProviders": ["FARGATE"],
            "defaultCapacityProviderStrategy": [],
        })
    );
    assert!(service.create_cluster(&cx, input(web)).await.is_ok(), "again");
    let other = service
        .create_cluster(&cx, input(json!({ "clusterName": "web", "tags": [{ "key": "x", "value": "y" }] })))
        .await
        .unwrap_err();
    assert_eq!(
        other.message,
        "Arguments on this idempotent request are inconsistent with arguments used in previous request(s)."
    );
    for (request, message) in [
        (
            json!({ "clusterName": "a b" }),
            "Invalid cluster name 'a b'. Up to 255 letters (uppercase and lowercase), numbers, underscores, and hyphens are allowed.",
        ),
        (
            json!({ "capacityProviders": ["x"] }),
            "The specified capacity provider 'x' was not found. Specify a valid name or ARN and try again.",
        ),
        (
            json!({ "settings": [{ "name": "containerInsights", "value": "enabled" }] }),
            "This version of Ferrogate does not support the cluster setting 'containerInsights=enabled' yet: leave it out.",
        ),
        (
            json!({ "configuration": { "managedStorageConfiguration": {} } }),
            "This version of Ferrogate does not support 'configuration.managedStorageConfiguration' yet: leave it out.",
        ),
    ] {
        assert_eq!(service.create_cluster(&cx, input(request)).await.unwrap_err().message, message);
    }
    service.create_cluster(&cx, input(json!({ "clusterName": "api" }))).await.unwrap();
    let list = service.list_clusters(&cx, input(json!({ "maxResults": 1 }))).await.unwrap();
    assert_eq!(list.cluster_arns.unwrap(), ["arn:aws:ecs:us-east-1:123456789012:cluster/api"]);
    assert!(list.next_token.is_some());
    let of = async |request: Json| {
        let answer = service.describe_capacity_providers(&cx, input(request)).await.unwrap();
        assert_eq!(answer.failures, Some(Vec::new()));
        answer.capacity_providers.unwrap().into_iter().filter_map(|one| one.name).collect::<Vec<String>>()
    };
    assert_eq!(of(json!({ "cluster": "api" })).await, Vec::<String>::new());
    let put = json!({ "cluster": "api", "capacityProviders": ["FARGATE"], "defaultCapacityProviderStrategy": [{ "capacityProvider": "FARGATE", "weight": 1 }] });
    let put = service.put_cluster_capacity_providers(&cx, input(put)).await.unwrap().cluster.unwrap();
    assert_eq!(put.capacity_providers.unwrap(), ["FARGATE"]);
    assert_eq!(of(json!({ "cluster": "api" })).await, ["FARGATE"]);
    assert_eq!(
        of(json!({ "cluster": "api", "capacityProviders": ["FARGATE_SPOT"] })).await,
        Vec::<String>::new()
    );
    assert_eq!(of(json!({ "capacityProviders": ["FARGATE_SPOT"] })).await, ["FARGATE_SPOT"]);
    let gone =
        service.delete_cluster(&cx, input(json!({ "cluster": "api" }))).await.unwrap().cluster.unwrap();
    assert_eq!(gone.status.as_deref(), Some("INACTIVE"));
    let list = service.list_clusters(&cx, input(json!({}))).await.unwrap();
    assert_eq!(list.cluster_arns.unwrap(), ["arn:aws:ecs:us-east-1:123456789012:cluster/web"]);
    let unknown = service.delete_cluster(&cx, input(json!({ "cluster": "none" }))).await.unwrap_err();
    assert_eq!(
        (unknown.code.as_str(), unknown.message.as_str()),
        ("ClusterNotFoundException", "Cluster not found.")
    );
    let again =
        service.create_cluster(&cx, input(json!({ "clusterName": "api" }))).await.unwrap().cluster.unwrap();
    assert_eq!(again.status.as_deref(), Some("ACTIVE"));
}

#[tokio::test]
async fn a_cluster_with_tasks_stays() {
    let world = World::new();
    world.run_sample().await;
    let (service, cx) = (&world.service, world.cx());
    let error = service.delete_cluster(&cx, input(json!({ "cluster": "default" }))).await.unwrap_err();
    assert_eq!(
        (error.code.as_str(), error.message.as_str()),
        ("ClusterContainsTasksException", "The Cluster cannot be deleted while Tasks are active.")
    );
    let found = service
        .describe_clusters(&cx, input(json!({ "include": ["STATISTICS"] })))
        .await
        .unwrap()
        .clusters
        .unwrap()
        .remove(0);
    assert_eq!((found.status.as_deref(), found.pending_tasks_count), (Some("ACTIVE"), Some(1)));
    let statistics = serde_json::to_value(found.statistics.unwrap()).unwrap();
    assert!(
        statistics.as_array().unwrap().contains(&json!({ "name": "pendingFargateTasksCount", "value": "1" }))
    );
}

#[tokio::test]
async fn tasks_are_found_and_filtered() {
    let world = World::new();
    world.register(with(sample(), json!({ "family": "other" }))).await.unwrap();
    let arn = world.run_sample().await.task_arn.unwrap();
    let other = with(run_sample(), json!({ "taskDefinition": "other", "startedBy": "me" }));
    let other = world.run_task(other).await.unwrap().remove(0).task_arn.unwrap();
    let (service, cx) = (&world.service, world.cx());
    let id = arn.rsplit('/').next().unwrap();
    for identifier in [id.to_owned(), arn.clone(), format!("arn:aws:ecs:us-east-1:123456789012:task/{id}")] {
        let found = service.describe_tasks(&cx, input(json!({ "tasks": [identifier] }))).await.unwrap();
        assert_eq!(found.tasks.unwrap()[0].task_arn.as_ref(), Some(&arn));
    }
    for (request, message) in [
        (json!({ "tasks": [] }), "Tasks cannot be empty."),
        (json!({ "tasks": vec!["x"; 101] }), "Tasks can have at most 100 items."),
        (json!({ "tasks": ["x"] }), "taskId length should be one of [32,36]"),
        (
            json!({ "tasks": [format!("arn:aws:ecs:us-east-1:123456789012:task/web/{id}")] }),
            "Invalid identifier: Identifier is for cluster web. Your cluster is default",
        ),
    ] {
        let error = service.describe_tasks(&cx, input(request)).await.unwrap_err();
        assert_eq!((error.code.as_str(), error.message.as_str()), ("InvalidParameterException", message));
    }
    let missing = "0123456789abcdef0123456789abcdef";
    let answer = service.describe_tasks(&cx, input(json!({ "tasks": [missing, id] }))).await.unwrap();
    assert_eq!(
        (answer.tasks.unwrap().len(), answer.failures.unwrap()[0].reason.as_deref()),
        (1, Some("MISSING"))
    );

    let list =
        async |request: Json| service.list_tasks(&cx, input(request)).await.unwrap().task_arns.unwrap();
    assert_eq!(list(json!({})).await.len(), 2);
    assert_eq!(list(json!({ "family": "other" })).await, std::slice::from_ref(&other));
    assert_eq!(list(json!({ "startedBy": "me" })).await, std::slice::from_ref(&other));
    assert_eq!(list(json!({ "launchType": "FARGATE" })).await.len(), 2);
    for none in [
        json!({ "launchType": "EC2" }),
        json!({ "desiredStatus": "STOPPED" }),
        json!({ "containerInstance": "x" }),
    ] {
        assert_eq!(list(none).await, Vec::<String>::new());
    }
    let error =
        service.list_tasks(&cx, input(json!({ "startedBy": "me", "family": "x" }))).await.unwrap_err();
    assert_eq!(error.message, "startedBy must be the only filter: it cannot be used with family.");
    let error = service.list_tasks(&cx, input(json!({ "cluster": "none" }))).await.unwrap_err();
    assert_eq!(error.code, "ClusterNotFoundException");
    assert_eq!(
        service.list_tasks(&cx, input(json!({ "maxResults": 101 }))).await.unwrap_err().message,
        "maxResults should be between 1 and 100."
    );

    let stopped =
        service.stop_task(&cx, input(json!({ "task": id, "reason": "enough" }))).await.unwrap().task.unwrap();
    assert_eq!((stopped.stopped_reason.as_deref(), stopped.version), (Some("enough"), Some(2)));
    let again = world.stop(&arn).await;
    assert_eq!((again.stopped_reason.as_deref(), again.version), (Some("enough"), Some(2)));
    assert_eq!(list(json!({ "desiredStatus": "STOPPED" })).await, [arn]);
    assert_eq!(list(json!({})).await, [other]);
    let error = service.stop_task(&cx, input(json!({ "task": missing }))).await.unwrap_err();
    assert_eq!(
        (error.code.as_str(), error.message.as_str()),
        ("InvalidParameterException", "The referenced task was not found.")
    );
}

#[tokio::test]
async fn tags() {
    let world = World::new();
    let arn = world.run_sample().await.task_arn.unwrap();
    let (service, cx) = (&world.service, world.cx());
    for resource in [
        arn.as_str(),
        "arn:aws:ecs:us-east-1:123456789012:cluster/default",
        "arn:aws:ecs:us-east-1:123456789012:task-definition/sample-fargate-app:1",
    ] {
        let tags = json!([{ "key": "a", "value": "1" }, { "key": "b", "value": "2" }]);
        service.tag_resource(&cx, input(json!({ "resourceArn": resource, "tags": tags }))).await.unwrap();
        service
            .untag_resource(&cx, input(json!({ "resourceArn": resource, "tagKeys": ["a", "z"] })))
            .await
            .unwrap();
        let tags = service
            .list_tags_for_resource(&cx, input(json!({ "resourceArn": resource })))
            .await
            .unwrap()
            .tags
            .unwrap();
        assert_eq!(serde_json::to_value(tags).unwrap(), json!([{ "key": "b", "value": "2" }]));
    }
    let described = service
        .describe_task_definition(
            &cx,
            input(json!({ "taskDefinition": "sample-fargate-app", "include": ["TAGS"] })),
        )
        .await
        .unwrap();
    assert_eq!(described.tags.unwrap().len(), 1);
    let many: Vec<Json> = (0..50).map(|n| json!({ "key": format!("k{n}"), "value": "" })).collect();
    let id = arn.rsplit('/').next().unwrap();
    for (resource, tags, message) in [
        (arn.clone(), json!(many), "A resource can have at most 50 tags; these are 51.".to_owned()),
        (
            arn.clone(),
            json!([{ "key": "aws:a", "value": "" }]),
            "Invalid tag key 'aws:a': keys that begin with 'aws:' are reserved for AWS.".into(),
        ),
        (
            format!("arn:aws:ecs:us-east-1:123456789012:task/{id}"),
            json!([]),
            "Long arn format must be used for tagging operations".into(),
        ),
        ("arn:aws:ecs:us-east-1:123456789012:cluster/none".into(), json!([]), "Cluster not found.".into()),
        (
            "arn:aws:ecs:us-east-1:123456789012:task-definition/none:1".into(),
            json!([]),
            "The specified task definition is not found.".into(),
        ),
    ] {
        let error = service
            .tag_resource(&cx, input(json!({ "resourceArn": resource, "tags": tags })))
            .await
            .unwrap_err();
        assert_eq!(error.message, message);
    }
}

#[tokio::test]
async fn settings() {
    let world = World::new();
    let (service, cx) = (&world.service, world.cx());
    let effective = async |name: &str| {
        let request = json!({ "name": name, "effectiveSettings": true });
        service
            .list_account_settings(&cx, input(request))
            .await
            .unwrap()
            .settings
            .unwrap()
            .remove(0)
            .value
            .unwrap()
    };
    assert_eq!(effective("defaultLogDriverMode").await, "non-blocking");
    service
        .put_account_setting_default(
            &cx,
            input(json!({ "name": "fargateTaskRetirementWaitPeriod", "value": "14" })),
        )
        .await
        .unwrap();
    assert_eq!(effective("fargateTaskRetirementWaitPeriod").await, "14");
    let put = service
        .put_account_setting(&cx, input(json!({ "name": "fargateTaskRetirementWaitPeriod", "value": "0" })))
        .await
        .unwrap()
        .setting
        .unwrap();
    assert_eq!(put.principal_arn.as_deref(), Some("arn:aws:iam::123456789012:user/alice"));
    assert_eq!(effective("fargateTaskRetirementWaitPeriod").await, "0");
    let own = service.list_account_settings(&cx, input(json!({}))).await.unwrap().settings.unwrap();
    assert_eq!(own.len(), 1);
    service
        .delete_account_setting(&cx, input(json!({ "name": "fargateTaskRetirementWaitPeriod" })))
        .await
        .unwrap();
    assert_eq!(effective("fargateTaskRetirementWaitPeriod").await, "14");
    for (name, value, message) in [
        ("x", "enabled", "Invalid setting name 'x'."),
        (
            "awsvpcTrunking",
            "x",
            "Invalid value 'x' for the setting awsvpcTrunking. Must be one of [disabled,enabled]",
        ),
        (
            "containerInsights",
            "enhanced",
            "This version of Ferrogate does not support the account setting 'containerInsights=enhanced' yet: leave it out.",
        ),
    ] {
        let error = service
            .put_account_setting(&cx, input(json!({ "name": name, "value": value })))
            .await
            .unwrap_err();
        assert_eq!(error.message, message);
    }
}

#[tokio::test]
async fn what_there_is_none_of() {
    let world = World::new();
    let arn = world.run_sample().await.task_arn.unwrap();
    let (service, cx) = (&world.service, world.cx());
    assert_eq!(
        service.list_container_instances(&cx, input(json!({}))).await.unwrap().container_instance_arns,
        Some(Vec::new())
    );
    assert_eq!(service.list_services(&cx, input(json!({}))).await.unwrap().service_arns, Some(Vec::new()));
    assert_eq!(
        service
            .list_attributes(&cx, input(json!({ "targetType": "container-instance" })))
            .await
            .unwrap()
            .attributes,
        Some(Vec::new())
    );
    let services = service
        .describe_services(&cx, input(json!({ "services": ["web"] })))
        .await
        .unwrap()
        .failures
        .unwrap();
    assert_eq!(
        serde_json::to_value(services).unwrap(),
        json!([{ "arn": "arn:aws:ecs:us-east-1:123456789012:service/default/web", "reason": "MISSING" }])
    );
    let protection = service
        .get_task_protection(&cx, input(json!({ "cluster": "default", "tasks": [arn] })))
        .await
        .unwrap();
    assert_eq!(protection.failures.unwrap()[0].reason.as_deref(), Some("TASK_NOT_VALID"));
    let providers =
        service.describe_capacity_providers(&cx, input(json!({}))).await.unwrap().capacity_providers.unwrap();
    let names: Vec<String> = providers.into_iter().filter_map(|provider| provider.name).collect();
    assert_eq!(names, ["FARGATE", "FARGATE_SPOT"]);
}

#[tokio::test]
async fn rights() {
    let world = World::new();
    let definition = with(
        sample(),
        json!({ "executionRoleArn": EXECUTION_ROLE, "taskRoleArn": "app", "tags": [{ "key": "team", "value": "a" }] }),
    );
    world.register(definition.clone()).await.unwrap();
    let demands = |operation: &'static str, request: Json| {
        let input: Value = serde_json::from_value(request).unwrap();
        let all = world.service.demands(&world.cx(), operation, &input);
        all.into_iter().map(|demand| (demand.action, demand.resource, demand.context)).collect::<Vec<_>>()
    };
    let key = |name: &str, value: &str| (name.to_owned(), vec![value.to_owned()]);
    let passed = key("iam:PassedToService", "ecs-tasks.amazonaws.com");
    let arn = |rest: &str| format!("arn:aws:ecs:us-east-1:123456789012:{rest}");
    let app = "arn:aws:iam::123456789012:role/app";
    let all = demands("RegisterTaskDefinition", definition);
    let named: Vec<(&str, &str)> =
        all.iter().map(|(action, resource, _)| (action.as_str(), resource.as_str())).collect();
    let family = arn("task-definition/sample-fargate-app:*");
    assert_eq!(
        named,
        [
            ("ecs:RegisterTaskDefinition", family.as_str()),
            ("iam:PassRole", EXECUTION_ROLE),
            ("iam:PassRole", app),
            ("ecs:TagResource", &family)
        ]
    );
    assert_eq!(
        all[0].2,
        [
            key("ecs:task-cpu", "256"),
            key("ecs:task-memory", "512"),
            key("ecs:compute-compatibility", "FARGATE"),
            key("aws:RequestTag/team", "a"),
            key("aws:TagKeys", "team")
        ]
    );
    assert_eq!(all[1].2, [passed]);

    let run = with(
        run_sample(),
        json!({ "cluster": "web", "overrides": { "taskRoleArn": "arn:aws:iam::123456789012:role/over" }, "tags": [{ "key": "k", "value": "v" }] }),
    );
    let all = demands("RunTask", run);
    let named: Vec<(&str, &str)> =
        all.iter().map(|(action, resource, _)| (action.as_str(), resource.as_str())).collect();
    let (revision, tasks) = (arn("task-definition/sample-fargate-app:1"), arn("task/web/*"));
    assert_eq!(
        named,
        [
            ("ecs:RunTask", revision.as_str()),
            ("iam:PassRole", EXECUTION_ROLE),
            ("iam:PassRole", "arn:aws:iam::123456789012:role/over"),
            ("ecs:TagResource", &tasks),
        ]
    );
    let web = key("ecs:cluster", &arn("cluster/web"));
    assert!(all[0].2.contains(&key("aws:ResourceTag/team", "a")) && all[0].2.contains(&web));
    for (name, value) in [
        ("ecs:enable-execute-command", "false"),
        ("ecs:enable-ecs-managed-tags", "false"),
        ("ecs:auto-assign-public-ip", "false"),
        ("ecs:subnet", "subnet-a"),
    ] {
        assert!(all[0].2.contains(&key(name, value)), "{name} {:?}", all[0].2);
    }
    assert!(all[0].2.contains(&key("aws:RequestTag/k", "v")) && all[0].2.contains(&key("aws:TagKeys", "k")));
    assert_eq!(all[3].2[0], key("ecs:CreateAction", "RunTask"));

    let id = "0123456789abcdef0123456789abcdef";
    for (operation, request, resource) in [
        ("StopTask", json!({ "cluster": "web", "task": id }), arn(&format!("task/web/{id}"))),
        ("DescribeTasks", json!({ "cluster": "web", "tasks": [id] }), arn(&format!("task/web/{id}"))),
        ("ListTasks", json!({ "cluster": "web" }), arn("container-instance/web/*")),
    ] {
        assert_eq!(demands(operation, request), [(format!("ecs:{operation}"), resource, vec![web.clone()])]);
    }
    assert_eq!(
        demands("DescribeClusters", json!({})),
        [(
            "ecs:DescribeClusters".into(),
            arn("cluster/default"),
            vec![key("ecs:cluster", &arn("cluster/default"))]
        )]
    );
    assert_eq!(demands("ListClusters", json!({})), [("ecs:ListClusters".into(), "*".into(), vec![])]);
    world
        .service
        .put_account_setting(
            &world.cx(),
            input(json!({ "name": "tagResourceAuthorization", "value": "off" })),
        )
        .await
        .unwrap();
    assert_eq!(
        demands("CreateCluster", json!({ "clusterName": "x", "tags": [{ "key": "k", "value": "v" }] })).len(),
        1
    );
}
