//! Services without load balancers: kept, rolled out, rolled back, deleted.

mod support;

use ferrogate_api::ecs::Ecs;
use ferrogate_nodeapi::{ObservedStatus, TaskReport};
use jiff::SignedDuration;
use serde_json::{Value as Json, json};
use support::services::{Cluster, Nature, is_stable, messages};
use support::{cause, context, input, report, sample, start, with};

#[tokio::test]
async fn kept_at_its_count() {
    let cluster = Cluster::new().await;
    let made = cluster
        .create(json!({ "enableECSManagedTags": true, "propagateTags": "SERVICE",
        "tags": [{ "key": "team", "value": "a" }] }))
        .await
        .unwrap();
    assert_eq!(made.service_arn.as_deref(), Some("arn:aws:ecs:us-east-1:123456789012:service/default/web"));
    assert_eq!(
        (made.status.as_deref(), made.desired_count, made.running_count),
        (Some("ACTIVE"), Some(2), Some(0))
    );
    let deployment = &made.deployments.as_ref().unwrap()[0];
    assert_eq!(
        (deployment.status.as_deref(), deployment.rollout_state.as_deref()),
        (Some("PRIMARY"), Some("IN_PROGRESS"))
    );
    let id = deployment.id.clone().unwrap();
    let digits = id.strip_prefix("ecs-svc/").unwrap();
    assert!(digits.len() == 19 && digits.bytes().all(|byte| byte.is_ascii_digit()));

    let stable = cluster.until_stable().await;
    let events = messages(&stable);
    let tasks = cluster.tasks("RUNNING").await;
    assert_eq!(tasks.len(), 2);
    let zones: std::collections::BTreeSet<_> =
        tasks.iter().map(|task| task.availability_zone.clone()).collect();
    assert_eq!(zones.len(), 2, "one in each zone");
    for task in &tasks {
        assert_eq!(task.started_by.as_ref(), Some(&id));
        assert_eq!(task.group.as_deref(), Some("service:web"));
        let tags: Vec<(String, String)> = task
            .tags
            .iter()
            .flatten()
            .map(|tag| (tag.key.clone().unwrap(), tag.value.clone().unwrap()))
            .collect();
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        assert_eq!(
            tags,
            [pair("aws:ecs:clusterName", "default"), pair("aws:ecs:serviceName", "web"), pair("team", "a")]
        );
    }
    assert!(events[0].starts_with("(service web) has started 2 tasks: (task "), "{events:?}");
    assert!(events.contains(&format!("(service web) (deployment {id}) deployment completed.")), "{events:?}");
    assert!(events.contains(&"(service web) has reached a steady state.".to_owned()), "{events:?}");

    // One dies: it is replaced, by the same deployment.
    let victim = tasks[0].task_arn.clone().unwrap();
    cluster
        .0
        .report(TaskReport {
            stop: cause("EssentialContainerExited", "Essential container in task exited"),
            ..report(&victim, 9, ObservedStatus::Stopped)
        })
        .await;
    cluster
        .until(
            "replaced",
            |_| Nature::Runs,
            |service| {
                service.running_count == Some(2)
                    && messages(service)
                        .iter()
                        .any(|text| text.starts_with("(service web) has started 1 tasks"))
            },
        )
        .await;
    let tasks = cluster.tasks("RUNNING").await;
    assert_eq!(tasks.len(), 2);
    assert!(tasks.iter().all(|task| task.task_arn.as_ref() != Some(&victim)));

    // EventBridge hears of all of it.
    let told: Vec<Json> = cluster
        .0
        .store
        .range("/events/")
        .iter()
        .map(|kv| serde_json::from_slice(&kv.value).unwrap())
        .collect();
    let of = |kind: &str| told.iter().filter(|event| event["detail-type"] == kind).count();
    assert!(of("ECS Task State Change") >= 3 * 3);
    assert!(of("ECS Deployment State Change") >= 2);
    assert!(told.iter().any(|event| event["detail"]["eventName"] == "SERVICE_STEADY_STATE"));
}

#[tokio::test]
async fn a_new_revision_takes_over() {
    let cluster = Cluster::new().await;
    let first = cluster.create(json!({})).await.unwrap().deployments.unwrap().remove(0);
    cluster.until_stable().await;
    cluster.0.register(sample()).await.unwrap();
    let updated = cluster.update(json!({ "taskDefinition": "sample-fargate-app:2" })).await.unwrap();
    let deployments = updated.deployments.unwrap();
    assert_eq!(deployments.len(), 2);
    assert_eq!(
        (deployments[0].status.as_deref(), deployments[1].status.as_deref()),
        (Some("PRIMARY"), Some("ACTIVE"))
    );
    assert_eq!(deployments[1].id, first.id);
    let stable = cluster.until_stable().await;
    assert_eq!(
        stable.task_definition.as_deref(),
        Some("arn:aws:ecs:us-east-1:123456789012:task-definition/sample-fargate-app:2")
    );
    for task in cluster.tasks("RUNNING").await {
        assert!(task.task_definition_arn.unwrap().ends_with(":2"));
    }
    let reason =
        format!("Scaling activity initiated by (deployment {})", deployments[0].id.as_ref().unwrap());
    let stopped = cluster.tasks("STOPPED").await;
    assert_eq!(stopped.len(), 2);
    for task in stopped {
        assert_eq!(task.stop_code.as_deref(), Some("ServiceSchedulerInitiated"));
        assert_eq!(task.stopped_reason.as_ref(), Some(&reason));
    }

    // What was brought out, and how.
    let request = json!({ "service": "web" });
    let listed = cluster.0.service.list_service_deployments(&cluster.0.cx(), input(request)).await.unwrap();
    let listed = listed.service_deployments.unwrap();
    let statuses: Vec<_> = listed.iter().map(|one| one.status.as_deref().unwrap()).collect();
    assert_eq!(statuses, ["SUCCESSFUL", "SUCCESSFUL"]);
    assert!(listed[0].created_at > listed[1].created_at, "the newest first");
    let page =
        |token: Option<String>| input(json!({ "service": "web", "maxResults": 1, "nextToken": token }));
    let first = cluster.0.service.list_service_deployments(&cluster.0.cx(), page(None)).await.unwrap();
    let second =
        cluster.0.service.list_service_deployments(&cluster.0.cx(), page(first.next_token)).await.unwrap();
    assert_eq!(
        second.service_deployments.unwrap()[0].service_deployment_arn,
        listed[1].service_deployment_arn
    );
    assert_eq!(second.next_token, None);
    let request = json!({ "serviceDeploymentArns": [listed[0].service_deployment_arn] });
    let described =
        cluster.0.service.describe_service_deployments(&cluster.0.cx(), input(request)).await.unwrap();
    let described = described.service_deployments.unwrap().remove(0);
    assert_eq!(described.source_service_revisions.unwrap().len(), 1);
    assert!(described.finished_at.is_some() && described.started_at.is_some());
    let revision = described.target_service_revision.unwrap();
    assert_eq!(revision.running_task_count, Some(2));
    let request = json!({ "serviceRevisionArns": [revision.arn] });
    let revisions =
        cluster.0.service.describe_service_revisions(&cluster.0.cx(), input(request)).await.unwrap();
    let revision = revisions.service_revisions.unwrap().remove(0);
    assert_eq!(revision.task_definition, stable.task_definition);
    assert_eq!(revision.platform_version.as_deref(), Some("1.4.0"));

    // Nothing new to bring out: no deployment. By force there is one.
    let same =
        cluster.update(json!({ "taskDefinition": "sample-fargate-app:2", "desiredCount": 1 })).await.unwrap();
    assert_eq!(same.deployments.unwrap().len(), 1);
    cluster.until_stable().await;
    let forced = cluster.update(json!({ "forceNewDeployment": true })).await.unwrap();
    assert_eq!(forced.deployments.unwrap().len(), 2);
    cluster.until_stable().await;
}

#[tokio::test]
async fn a_broken_image_is_rolled_back() {
    let cluster = Cluster::new().await;
    let breaker = json!({ "deploymentCircuitBreaker": { "enable": true, "rollback": true } });
    cluster.create(json!({ "deploymentConfiguration": breaker })).await.unwrap();
    let good = cluster.until_stable().await.deployments.unwrap().remove(0).id.unwrap();
    let mut broken = sample();
    broken["containerDefinitions"][0]["image"] = json!("broken:1");
    cluster.0.register(broken).await.unwrap();
    let bad = cluster.update(json!({ "taskDefinition": "sample-fargate-app" })).await.unwrap();
    let bad = bad.deployments.unwrap().remove(0).id.unwrap();
    let nature = |image: &str| if image.contains("broken") { Nature::Fails } else { Nature::Runs };
    cluster
        .until("rolled back", nature, |service| {
            is_stable(service) && service.deployments.as_ref().unwrap()[0].id.as_ref() == Some(&good)
        })
        .await;
    let service = cluster.describe().await;
    let events = messages(&service);
    assert!(events.contains(&format!("(service web) rolling back to deployment {good}.")), "{events:?}");
    assert_eq!(cluster.tasks("RUNNING").await.len(), 2);
    let request = json!({ "service": "web", "status": ["ROLLBACK_SUCCESSFUL"] });
    let listed = cluster.0.service.list_service_deployments(&cluster.0.cx(), input(request)).await.unwrap();
    let arn = listed.service_deployments.unwrap().remove(0).service_deployment_arn;
    let request = json!({ "serviceDeploymentArns": [arn] });
    let described =
        cluster.0.service.describe_service_deployments(&cluster.0.cx(), input(request)).await.unwrap();
    let described = described.service_deployments.unwrap().remove(0);
    assert!(described.rollback.unwrap().service_revision_arn.is_some());
    assert_eq!(described.deployment_circuit_breaker.unwrap().status.as_deref(), Some("TRIGGERED"));
    let told = cluster.0.store.range("/events/");
    let failed = told.iter().find(|kv| {
        let event: Json = serde_json::from_slice(&kv.value).unwrap();
        event["detail"]["eventName"] == "SERVICE_DEPLOYMENT_FAILED"
            && event["detail"]["deploymentId"] == bad.as_str()
    });
    assert!(failed.is_some());
}

#[tokio::test]
async fn deleted() {
    let cluster = Cluster::new().await;
    cluster.create(json!({})).await.unwrap();
    cluster.until_stable().await;
    let error = cluster.delete(json!({})).await.unwrap_err();
    assert_eq!(
        (error.code.as_str(), error.message.as_str()),
        ("InvalidParameterException", "The service cannot be stopped while it is scaled above 0.")
    );
    let error = cluster
        .0
        .service
        .delete_cluster(&cluster.0.cx(), input(json!({ "cluster": "default" })))
        .await
        .unwrap_err();
    assert_eq!(
        (error.code.as_str(), error.message.as_str()),
        ("ClusterContainsServicesException", "The Cluster cannot be deleted while Services are active.")
    );
    let request = json!({ "clusters": ["default"] });
    let clusters = cluster.0.service.describe_clusters(&cluster.0.cx(), input(request)).await.unwrap();
    let described = clusters.clusters.unwrap().remove(0);
    assert_eq!((described.active_services_count, described.running_tasks_count), (Some(1), Some(2)));

    let deleted = cluster.delete(json!({ "force": true })).await.unwrap();
    assert_eq!(deleted.status.as_deref(), Some("DRAINING"));
    let error = cluster.create(json!({})).await.unwrap_err();
    assert_eq!(error.message, "Unable to Start a service that is still Draining.");
    let error = cluster.update(json!({ "desiredCount": 1 })).await.unwrap_err();
    assert_eq!(
        (error.code.as_str(), error.message.as_str()),
        ("ServiceNotActiveException", "Service was not ACTIVE.")
    );
    cluster
        .until("inactive", |_| Nature::Runs, |service| service.status.as_deref() == Some("INACTIVE"))
        .await;
    assert!(cluster.tasks("RUNNING").await.is_empty());
    let listed = cluster.0.service.list_services(&cluster.0.cx(), input(json!({}))).await.unwrap();
    assert_eq!(listed.service_arns, Some(Vec::new()));
    assert_eq!(cluster.delete(json!({})).await.unwrap_err().code, "ServiceNotFoundException");

    // Its name is free again; after an hour nothing of it is left.
    let again = cluster.create(json!({ "desiredCount": 0 })).await.unwrap();
    assert_eq!(again.events, Some(Vec::new()));
    cluster.delete(json!({})).await.unwrap();
    cluster
        .until("inactive", |_| Nature::Runs, |service| service.status.as_deref() == Some("INACTIVE"))
        .await;
    cluster.0.clock.advance(SignedDuration::from_hours(2));
    cluster
        .0
        .until("forgotten", async |world| {
            world.wake("ecs-sweep");
            world.store.range("/ecs/123456789012/us-east-1/service").is_empty()
        })
        .await;
}

#[tokio::test]
async fn made_twice() {
    let cluster = Cluster::new().await;
    let token = json!({ "clientToken": "t-1" });
    let made = cluster.create(token.clone()).await.unwrap();
    let again = cluster.create(token).await.unwrap();
    assert_eq!(made.created_at, again.created_at);
    for changes in [json!({ "clientToken": "t-1", "desiredCount": 3 }), json!({ "clientToken": "t-2" })] {
        let error = cluster.create(changes).await.unwrap_err();
        assert_eq!(
            (error.code.as_str(), error.message.as_str()),
            ("InvalidParameterException", "Creation of service was not idempotent.")
        );
    }
}

#[tokio::test]
async fn three_updates_at_once() {
    let cluster = Cluster::new().await;
    cluster.create(json!({})).await.unwrap();
    cluster.until_stable().await;
    for _ in 0..3 {
        cluster.0.register(sample()).await.unwrap();
    }
    let update =
        |revision: u8| cluster.update(json!({ "taskDefinition": format!("sample-fargate-app:{revision}") }));
    let (a, b, c) = tokio::join!(update(2), update(3), update(4));
    a.unwrap();
    b.unwrap();
    c.unwrap();
    let last = cluster.describe().await.task_definition.unwrap();
    cluster.until_stable().await;
    for task in cluster.tasks("RUNNING").await {
        assert_eq!(task.task_definition_arn.as_ref(), Some(&last));
    }
    let request = json!({ "service": "web" });
    let listed = cluster.0.service.list_service_deployments(&cluster.0.cx(), input(request)).await.unwrap();
    let mut statuses: Vec<_> =
        listed.service_deployments.unwrap().into_iter().map(|one| one.status.unwrap()).collect();
    statuses.sort();
    assert_eq!(statuses, ["STOPPED", "STOPPED", "SUCCESSFUL", "SUCCESSFUL"]);
}

#[tokio::test]
async fn refused() {
    let cluster = Cluster::new().await;
    let lb = |lb: Json| json!({ "loadBalancers": [lb] });
    for (changes, code, words) in [
        (json!({ "serviceName": "a b" }), "InvalidParameterException", "Invalid service name 'a b'"),
        (json!({ "cluster": "nowhere" }), "ClusterNotFoundException", "Cluster not found."),
        (json!({ "taskDefinition": "nothing" }), "ClientException", "TaskDefinition not found."),
        (json!({ "taskDefinition": null }), "InvalidParameterException", "TaskDefinition can not be blank."),
        (json!({ "desiredCount": null }), "InvalidParameterException", "desiredCount is required"),
        (json!({ "desiredCount": -1 }), "InvalidParameterException", "Invalid desiredCount -1"),
        (
            json!({ "networkConfiguration": null }),
            "InvalidParameterException",
            "Network Configuration must be provided when networkMode 'awsvpc' is specified.",
        ),
        (
            json!({ "schedulingStrategy": "DAEMON" }),
            "InvalidParameterException",
            "daemon scheduling strategy",
        ),
        (json!({ "launchType": "EC2" }), "InvalidParameterException", "No Container Instances"),
        (json!({ "platformVersion": "1.3.9" }), "PlatformUnknownException", "does not exist"),
        (
            json!({ "role": "arn:aws:iam::123456789012:role/x" }),
            "InvalidParameterException",
            "You cannot specify an IAM role for services that require a service linked role.",
        ),
        (
            json!({ "healthCheckGracePeriodSeconds": -1 }),
            "InvalidParameterException",
            "Invalid healthCheckGracePeriodSeconds -1",
        ),
        (
            json!({ "enableExecuteCommand": true }),
            "InvalidParameterException",
            "The service couldn't be created because a valid taskRoleArn is not being used.",
        ),
        (
            json!({ "deploymentController": { "type": "CODE_DEPLOY" } }),
            "UnsupportedFeatureException",
            "CODE_DEPLOY",
        ),
        (
            json!({ "deploymentController": { "type": "EXTERNAL" } }),
            "InvalidParameterException",
            "taskDefinition cannot be specified on a service with the deployment controller EXTERNAL.",
        ),
        (
            json!({ "serviceConnectConfiguration": { "enabled": true } }),
            "InvalidParameterException",
            "A namespace is required to use Service Connect",
        ),
        (json!({ "volumeConfigurations": [{ "name": "v" }] }), "ClientException", "'volumeConfigurations'"),
        (
            json!({ "vpcLatticeConfigurations": [{ "roleArn": "r", "targetGroupArn": "t", "portName": "p" }] }),
            "ClientException",
            "'vpcLatticeConfigurations'",
        ),
        (
            lb(json!({ "loadBalancerName": "classic", "containerName": "sample-app", "containerPort": 80 })),
            "InvalidParameterException",
            "Classic Load Balancers are not supported",
        ),
        (
            lb(json!({ "targetGroupArn": "arn:t", "containerName": "other", "containerPort": 80 })),
            "InvalidParameterException",
            "The container other does not exist in the task definition.",
        ),
        (
            lb(json!({ "targetGroupArn": "arn:t", "containerName": "sample-app", "containerPort": 81 })),
            "InvalidParameterException",
            "The container sample-app did not have a container port 81 defined.",
        ),
        (
            lb(json!({ "targetGroupArn": "arn:t", "containerPort": 80 })),
            "InvalidParameterException",
            "Container Name can not be blank.",
        ),
        (
            json!({ "availabilityZoneRebalancing": "ENABLED", "deploymentConfiguration": { "maximumPercent": 100,
            "minimumHealthyPercent": 50 } }),
            "InvalidParameterException",
            "Availability Zone rebalancing requires",
        ),
    ] {
        let error = cluster.create(changes.clone()).await.expect_err(&changes.to_string());
        assert_eq!(error.code, code, "{changes}: {}", error.message);
        assert!(error.message.contains(words), "{changes}: {}", error.message);
    }
    assert_eq!(
        cluster.update(json!({ "desiredCount": 1 })).await.unwrap_err().code,
        "ServiceNotFoundException"
    );
    let request = json!({ "services": ["web"] });
    let answer = cluster.0.service.describe_services(&cluster.0.cx(), input(request)).await.unwrap();
    let failure = answer.failures.unwrap().remove(0);
    assert_eq!(
        (failure.reason.as_deref(), failure.arn.as_deref()),
        (Some("MISSING"), Some("arn:aws:ecs:us-east-1:123456789012:service/default/web"))
    );
    cluster
        .0
        .service
        .deregister_task_definition(
            &context(start()),
            input(json!({ "taskDefinition": "sample-fargate-app:1" })),
        )
        .await
        .unwrap();
    let error = cluster.create(json!({ "taskDefinition": "sample-fargate-app:1" })).await.unwrap_err();
    assert_eq!(
        (error.code.as_str(), error.message.as_str()),
        ("InvalidParameterException", "TaskDefinition is inactive")
    );
}

#[tokio::test]
async fn a_role_that_cannot_be_had() {
    let cluster = Cluster::new().await;
    let role = "arn:aws:iam::123456789012:role/app";
    cluster.0.register(with(sample(), json!({ "taskRoleArn": role }))).await.unwrap();
    cluster.0.cloud.refused_roles.lock().unwrap().insert(role.to_owned());
    cluster.create(json!({ "taskDefinition": "sample-fargate-app:2" })).await.unwrap();
    let said = |service: &ferrogate_api::ecs::Service| {
        messages(service).iter().any(|text| {
            text.starts_with(
                "(service web) failed to launch a task with (error ECS was unable to assume the role",
            )
        })
    };
    cluster.until("it is said", |_| Nature::Runs, said).await;
    assert!(cluster.tasks("RUNNING").await.is_empty());
    cluster.0.cloud.refused_roles.lock().unwrap().clear();
    let stable = cluster.until_stable().await;
    assert_eq!(messages(&stable).iter().filter(|text| text.contains("failed to launch")).count(), 1);
}

#[tokio::test]
async fn tasks_that_no_node_has_the_memory_for() {
    let cluster = Cluster::new().await;
    cluster.0.register(with(sample(), json!({ "cpu": "4096", "memory": "16384" }))).await.unwrap();
    cluster.create(json!({ "taskDefinition": "sample-fargate-app:2" })).await.unwrap();
    let text = "(service web) was unable to place a task. Reason: Capacity is unavailable at this time. Please try again \
                later or in a different availability zone.";
    let said = |service: &ferrogate_api::ecs::Service| messages(service).iter().any(|said| said == text);
    cluster.until("it is said", |_| Nature::Runs, said).await;
    assert!(cluster.tasks("RUNNING").await.is_empty());
}

/// A launch that is refused before there is a task is a failed task.
#[tokio::test]
async fn launches_that_are_refused_trip_the_breaker() {
    let cluster = Cluster::new().await;
    let breaker = json!({ "deploymentCircuitBreaker": { "enable": true, "rollback": true } });
    cluster.create(json!({ "deploymentConfiguration": breaker })).await.unwrap();
    let first = cluster.until_stable().await.deployments.unwrap().remove(0).id;
    let role = "arn:aws:iam::123456789012:role/app";
    cluster.0.register(with(sample(), json!({ "taskRoleArn": role }))).await.unwrap();
    cluster.0.cloud.refused_roles.lock().unwrap().insert(role.to_owned());
    cluster.update(json!({ "taskDefinition": "sample-fargate-app:2" })).await.unwrap();
    cluster
        .until(
            "back",
            |_| Nature::Runs,
            |service| is_stable(service) && service.deployments.as_ref().unwrap()[0].id == first,
        )
        .await;
    let events = messages(&cluster.describe().await);
    let launch = "(service web) failed to launch a task with (error ECS was unable to assume the role";
    assert_eq!(events.iter().filter(|text| text.starts_with(launch)).count(), 1, "{events:#?}");
    assert!(
        events.iter().any(|text| text.ends_with("deployment failed: tasks failed to start.")),
        "{events:#?}"
    );
    let request = input(json!({ "service": "web" }));
    let listed = cluster.0.service.list_service_deployments(&cluster.0.cx(), request).await.unwrap();
    let arn = listed.service_deployments.unwrap().remove(0).service_deployment_arn.unwrap();
    let request = input(json!({ "serviceDeploymentArns": [arn] }));
    let described = cluster.0.service.describe_service_deployments(&cluster.0.cx(), request).await.unwrap();
    let deployment = described.service_deployments.unwrap().remove(0);
    assert_eq!(deployment.status.as_deref(), Some("ROLLBACK_SUCCESSFUL"));
    let breaker = deployment.deployment_circuit_breaker.unwrap();
    assert_eq!((breaker.status.as_deref(), breaker.threshold), (Some("TRIGGERED"), Some(3)));
    // Two tasks each time.
    assert_eq!(breaker.failure_count, Some(4));
}

/// As AWS does it: there is a task, and it stops.
#[tokio::test]
async fn without_an_address_the_others_stay() {
    let cluster = Cluster::new().await;
    cluster.create(json!({})).await.unwrap();
    cluster.until_stable().await;
    let there = cluster.tasks("RUNNING").await.len();
    *cluster.0.cloud.addresses.lock().unwrap() = Some(there);
    cluster.update(json!({ "desiredCount": there + 1 })).await.unwrap();
    let delayed = |service: &ferrogate_api::ecs::Service| {
        let said = messages(service);
        said.contains(&"(service web) is unable to consistently start tasks successfully.".to_owned())
    };
    cluster.until("it is said", |_| Nature::Runs, delayed).await;
    for task in cluster.tasks("STOPPED").await {
        let reason = task.stopped_reason.unwrap();
        assert_eq!(task.stop_code.as_deref(), Some("TaskFailedToStart"));
        assert!(reason.ends_with(": InsufficientFreeAddressesInSubnet"), "{reason}");
    }
    assert_eq!(cluster.describe().await.running_count, i32::try_from(there).ok());
    *cluster.0.cloud.addresses.lock().unwrap() = None;
    cluster.until_stable().await;
    assert_eq!(cluster.tasks("RUNNING").await.len(), there + 1);
}

#[tokio::test]
async fn a_protected_task_stays() {
    let cluster = Cluster::new().await;
    cluster.create(json!({})).await.unwrap();
    cluster.until_stable().await;
    let kept = cluster.tasks("RUNNING").await.remove(0).task_arn.unwrap();
    let request = json!({ "cluster": "default", "tasks": [kept], "protectionEnabled": true });
    let answer = cluster.0.service.update_task_protection(&cluster.0.cx(), input(request)).await.unwrap();
    assert_eq!(answer.failures, Some(Vec::new()));
    cluster.update(json!({ "desiredCount": 1 })).await.unwrap();
    cluster.until_stable().await;
    let left = cluster.tasks("RUNNING").await;
    assert_eq!(left.iter().map(|task| task.task_arn.clone().unwrap()).collect::<Vec<_>>(), [kept]);
}

#[tokio::test]
async fn a_restart_goes_on_where_it_was() {
    let cluster = Cluster::new().await;
    cluster.create(json!({ "desiredCount": 3 })).await.unwrap();
    cluster.until_stable().await;
    cluster.0.register(sample()).await.unwrap();
    cluster.update(json!({ "taskDefinition": "sample-fargate-app:2" })).await.unwrap();
    let both = |service: &ferrogate_api::ecs::Service| {
        service.deployments.as_ref().unwrap().iter().all(|one| one.running_count > Some(0))
    };
    cluster.until("both run", |_| Nature::Runs, both).await;
    let (store, cloud, clock) = cluster.0.kill();
    let mut world = support::World::over(store, cloud, clock);
    world.run();
    let cluster = Cluster(world);
    cluster.until_stable().await;
    let tasks = cluster.tasks("RUNNING").await;
    assert_eq!(tasks.len(), 3);
    assert!(tasks.iter().all(|task| task.task_definition_arn.as_ref().unwrap().ends_with(":2")));
}

#[tokio::test]
async fn services_that_are_closed_start_nothing() {
    let cluster = Cluster::new().await;
    cluster.create(json!({})).await.unwrap();
    cluster.until_stable().await;
    cluster.0.service.close_services();
    for task in cluster.tasks("RUNNING").await {
        cluster.0.stop(&task.task_arn.unwrap()).await;
    }
    cluster.until("nothing runs", |_| Nature::Runs, |service| service.running_count == Some(0)).await;
    for _ in 0..20 {
        cluster.step(&cluster.0, |_| Nature::Runs).await;
        tokio::task::yield_now().await;
    }
    assert!(cluster.tasks("RUNNING").await.is_empty());
}

#[tokio::test]
async fn a_change_of_one_service_leaves_the_others_alone() {
    const OTHERS: usize = 300;
    let cluster = Cluster::new().await;
    for number in 0..OTHERS {
        let name = format!("other-{number}");
        cluster.create(json!({ "serviceName": name, "desiredCount": 0 })).await.unwrap();
    }
    let looked = || {
        cluster.0.wake("ecs-services");
        let detail = cluster.0.detail("ecs-services");
        (detail["looked"].as_u64().unwrap_or_default(), detail["at_work"] == 0 && detail["to_do"] == 0)
    };
    let last = std::cell::Cell::new(0);
    let settled = async |_: &support::World| {
        let (now, idle) = looked();
        let before = last.replace(now);
        idle && before == now && now >= OTHERS as u64
    };
    cluster.0.until("all are looked at", settled).await;
    let before = last.get();
    cluster.create(json!({ "desiredCount": 1 })).await.unwrap();
    cluster.until_stable().await;
    cluster.0.until("nothing is to do", settled).await;
    let looks = last.get() - before;
    assert!((1..60).contains(&looks), "{looks} looks for one service of {OTHERS}");
}
