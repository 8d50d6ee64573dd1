//! UpdateService where it changes what a service's tasks are behind, are known by, and run in.

mod support;

use std::collections::BTreeSet;

use ferrogate_api::ecs;
use ferrogate_nodeapi::{ContainerStatus, Health, ObservedStatus, TaskReport};
use serde_json::{Value as Json, json};
use support::balancing::{BLUE, GREEN, LONELY, REGISTRY};
use support::services::{Cluster, is_stable};
use support::{container_report, report, with_container};

fn behind(group: &str) -> Json {
    json!([{ "targetGroupArn": group, "containerName": "sample-app", "containerPort": 80 }])
}

/// Brings the changes out by a deployment of their own, to its end.
async fn bring(cluster: &Cluster, changes: Json) -> ecs::Service {
    let updated = cluster.update(changes.clone()).await.unwrap();
    let new = updated.deployments.as_ref().unwrap();
    assert_eq!(new.len(), 2, "{changes} is a new deployment");
    let stable = cluster.until_stable().await;
    assert_eq!(stable.deployments.as_ref().unwrap()[0].id, new[0].id);
    for task in cluster.tasks("RUNNING").await {
        assert_eq!(task.started_by, new[0].id, "{changes}");
    }
    stable
}

#[tokio::test]
async fn load_balancers() {
    let cluster = Cluster::new().await;
    let balancing = &cluster.0.cloud.balancing;
    let made = cluster.create(json!({ "healthCheckGracePeriodSeconds": 30 })).await.unwrap();
    assert_eq!(made.health_check_grace_period_seconds, Some(30), "with a balancer or without");
    cluster.until_stable().await;
    // Added, as Terraform does it: with the period in one call.
    let added =
        bring(&cluster, json!({ "loadBalancers": behind(BLUE), "healthCheckGracePeriodSeconds": 60 })).await;
    assert_eq!(added.health_check_grace_period_seconds, Some(60));
    assert_eq!(balancing.states(BLUE), ["healthy", "healthy"]);
    // What is so already is no deployment.
    let same = cluster.update(json!({ "loadBalancers": behind(BLUE) })).await.unwrap();
    assert_eq!(same.deployments.unwrap().len(), 1);
    for group in [LONELY, "arn:none"] {
        let error = cluster.update(json!({ "loadBalancers": behind(group) })).await.unwrap_err();
        assert_eq!(error.code, "InvalidParameterException", "{}", error.message);
    }
    assert_eq!(cluster.describe().await.deployments.unwrap().len(), 1);

    let replaced = bring(&cluster, json!({ "loadBalancers": behind(GREEN) })).await;
    assert_eq!(replaced.load_balancers.unwrap()[0].target_group_arn.as_deref(), Some(GREEN));
    assert_eq!((balancing.states(BLUE).len(), balancing.states(GREEN).len()), (0, 2));
    let removed = bring(&cluster, json!({ "loadBalancers": [] })).await;
    assert_eq!(removed.load_balancers, Some(Vec::new()));
    assert!(balancing.targets.lock().unwrap().is_empty());
}

#[tokio::test]
async fn service_registries() {
    let cluster = Cluster::new().await;
    let balancing = &cluster.0.cloud.balancing;
    let known = || balancing.instances.lock().unwrap().keys().cloned().collect::<BTreeSet<String>>();
    let made = cluster.create(json!({ "loadBalancers": behind(BLUE) })).await.unwrap();
    assert_eq!(made.health_check_grace_period_seconds, Some(0));
    cluster.until_stable().await;
    let added = bring(&cluster, json!({ "serviceRegistries": [{ "registryArn": REGISTRY }] })).await;
    assert_eq!(added.load_balancers.unwrap().len(), 1, "what is not named stays");
    let ids: BTreeSet<String> = cluster
        .tasks("RUNNING")
        .await
        .iter()
        .map(|task| task.task_arn.as_ref().unwrap().rsplit('/').next().unwrap().to_owned())
        .collect();
    assert_eq!(known(), ids);
    let error =
        cluster.update(json!({ "serviceRegistries": [{ "registryArn": "arn:x" }] })).await.unwrap_err();
    assert_eq!(error.code, "InvalidParameterException", "{}", error.message);
    let removed = bring(&cluster, json!({ "serviceRegistries": [] })).await;
    assert_eq!(removed.service_registries, Some(Vec::new()));
    assert_eq!((known().len(), balancing.states(BLUE).len()), (0, 2));
}

#[tokio::test]
async fn network_configuration() {
    let cluster = Cluster::new().await;
    let network = |subnet: &str, more: Json| {
        let vpc = support::with(json!({ "subnets": [subnet], "securityGroups": ["sg-2"] }), more);
        json!({ "networkConfiguration": { "awsvpcConfiguration": vpc } })
    };
    cluster.create(json!({ "loadBalancers": behind(BLUE) })).await.unwrap();
    cluster.until_stable().await;
    let moved = bring(&cluster, network("subnet-c", json!({}))).await;
    let shown = moved.network_configuration.unwrap().awsvpc_configuration.unwrap();
    assert_eq!(shown.subnets, Some(vec!["subnet-c".to_owned()]));
    assert_eq!(shown.assign_public_ip.as_deref(), Some("DISABLED"));
    assert_eq!(moved.load_balancers.unwrap().len(), 1, "what is not named stays");
    for task in cluster.tasks("RUNNING").await {
        assert_eq!(task.availability_zone.as_deref(), Some("us-east-1c"));
    }
    cluster.0.until("the former interfaces are gone", async |world| world.cloud.enis().len() == 2).await;
    for eni in cluster.0.cloud.enis() {
        assert_eq!((eni.subnet.as_str(), eni.groups.as_slice()), ("subnet-c", &["sg-2".to_owned()][..]));
        assert!(!eni.public);
    }
    bring(&cluster, network("subnet-c", json!({ "assignPublicIp": "ENABLED" }))).await;
    for wrong in [network("subnet-none", json!({})), network("subnet-other", json!({}))] {
        let error = cluster.update(wrong.clone()).await.expect_err(&wrong.to_string());
        assert_eq!(error.code, "InvalidParameterException", "{}", error.message);
    }
    assert_eq!(cluster.describe().await.deployments.unwrap().len(), 1);
}

/// The period holds for containers' checks too: the instance is unhealthy in Cloud Map, the task is left alone.
#[tokio::test]
async fn a_grace_period_without_a_load_balancer() {
    let cluster = Cluster::new().await;
    let check = json!({ "healthCheck": { "command": ["CMD-SHELL", "true"] } });
    cluster.0.register(with_container(check)).await.unwrap();
    cluster
        .create(json!({ "taskDefinition": "sample-fargate-app:2", "desiredCount": 1,
            "healthCheckGracePeriodSeconds": 600, "serviceRegistries": [{ "registryArn": REGISTRY }] }))
        .await
        .unwrap();
    let arn = cluster.0.until_assigned(|list| list.len() == 1).await[0].task_arn.clone();
    let started = cluster.0.clock_now();
    let says = |sequence, health| {
        let container = ferrogate_nodeapi::ContainerReport {
            health,
            ..container_report("sample-app", ContainerStatus::Running, None)
        };
        cluster.0.report(TaskReport {
            started_at: Some(started),
            containers: vec![container],
            ..report(&arn, sequence, ObservedStatus::Running)
        })
    };
    let health = || {
        let instances = cluster.0.cloud.balancing.instances.lock().unwrap();
        instances.values().next().map(|one| one["AWS_INIT_HEALTH_STATUS"].clone())
    };
    says(1, Health::Healthy).await;
    cluster
        .0
        .until("it is known, and stable", async |_| {
            health().as_deref() == Some("HEALTHY") && is_stable(&cluster.describe().await)
        })
        .await;
    says(2, Health::Unhealthy).await;
    cluster.0.until("it is unhealthy", async |_| health().as_deref() == Some("UNHEALTHY")).await;
    let named = |name: &str| {
        let events = cluster.0.store.range("/events/");
        let all = events.iter().map(|kv| serde_json::from_slice::<Json>(&kv.value).unwrap());
        all.filter(|event| event["detail"]["eventName"] == name).collect::<Vec<_>>()
    };
    cluster.0.until("it is told", async |_| !named("SERVICE_DISCOVERY_INSTANCE_UNHEALTHY").is_empty()).await;
    let told = named("SERVICE_DISCOVERY_INSTANCE_UNHEALTHY");
    assert_eq!((told.len(), &told[0]["detail"]["eventType"]), (1, &json!("WARN")));
    assert_eq!(told[0]["detail-type"], "ECS Service Action");

    // When the period is over it is no task to keep.
    assert_eq!(cluster.tasks("STOPPED").await.len(), 0);
    cluster.0.clock.advance(jiff::SignedDuration::from_secs(601));
    cluster.0.wake("ecs-services");
    cluster.0.until("another one is started", async |_| cluster.tasks("RUNNING").await.len() == 2).await;
}
