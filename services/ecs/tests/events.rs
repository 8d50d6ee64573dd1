//! What EventBridge is told, read as it will be read: from the store, below `/events/`.

mod support;

use std::collections::BTreeSet;

use jiff::SignedDuration;
use serde_json::{Value as Json, json};
use support::services::{Cluster, Nature, is_stable};
use support::{sample, with};

/// In the order of their keys, which is that of time; what is told of one moment has none.
fn told(cluster: &Cluster) -> Vec<Json> {
    let all = cluster.0.store.range("/events/123456789012/us-east-1/");
    assert_eq!(all.kvs.len(), cluster.0.store.range("/events/").kvs.len(), "all of this region");
    all.iter().map(|kv| serde_json::from_slice(&kv.value).unwrap()).collect()
}

fn members(value: &Json) -> BTreeSet<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

/// Developer Guide, "Amazon ECS events": what all have in common.
fn check_envelope(event: &Json) {
    let expected =
        ["version", "id", "detail-type", "source", "account", "time", "region", "resources", "detail"];
    assert_eq!(members(event), BTreeSet::from(expected), "{event:#}");
    assert_eq!((&event["version"], &event["source"]), (&json!("0"), &json!("aws.ecs")));
    assert_eq!((&event["account"], &event["region"]), (&json!("123456789012"), &json!("us-east-1")));
    assert_eq!(event["id"].as_str().map(str::len), Some(36), "{event:#}");
    assert_eq!(event["time"].as_str().map(str::len), Some("2026-11-21T05:00:00Z".len()), "{event:#}");
    assert_eq!(event["resources"].as_array().map(Vec::len), Some(1));
}

/// `2026-11-21T05:00:00.000Z`
#[track_caller]
fn check_time(value: &Json) {
    let text = value.as_str().unwrap_or_else(|| panic!("{value} is no time"));
    assert!(text.len() == 24 && text.ends_with('Z') && text.as_bytes()[19] == b'.', "{text}");
}

fn of<'a>(events: &'a [Json], kind: &str) -> Vec<&'a Json> {
    events.iter().filter(|event| event["detail-type"] == kind).collect()
}

fn named<'a>(events: &'a [Json], name: &str) -> Vec<&'a Json> {
    events.iter().filter(|event| event["detail"]["eventName"] == name).collect()
}

#[tokio::test]
async fn of_a_task() {
    let cluster = Cluster::new().await;
    cluster.0.clock.advance(SignedDuration::from_nanos(123_456_789));
    cluster.create(json!({ "desiredCount": 1 })).await.unwrap();
    cluster.until_stable().await;
    let task = cluster.tasks("RUNNING").await.remove(0);
    cluster.update(json!({ "desiredCount": 0 })).await.unwrap();
    let stopped = async || cluster.tasks("STOPPED").await.len() == 1;
    cluster
        .0
        .until("stopped", async |world| {
            cluster.step(world, |_| Nature::Runs).await;
            stopped().await
        })
        .await;
    cluster
        .0
        .until("over", async |world| {
            cluster.step(world, |_| Nature::Runs).await;
            cluster.tasks("STOPPED").await[0].last_status.as_deref() == Some("STOPPED")
        })
        .await;
    let events = told(&cluster);
    events.iter().for_each(check_envelope);
    let mut own = of(&events, "ECS Task State Change");
    // Each change is told once, with a version that grows.
    let version = |event: &&Json| event["detail"]["version"].as_u64().unwrap();
    own.sort_by_key(version);
    let versions: Vec<u64> = own.iter().map(version).collect();
    assert!(versions.is_sorted_by(|one, other| one < other), "{versions:?}");
    let mut statuses: Vec<&str> =
        own.iter().map(|event| event["detail"]["lastStatus"].as_str().unwrap()).collect();
    statuses.dedup();
    assert_eq!(statuses, ["PROVISIONING", "PENDING", "RUNNING", "DEPROVISIONING", "STOPPED"]);
    for event in &own {
        assert_eq!(event["resources"][0], json!(task.task_arn), "{event:#}");
        let detail = &event["detail"];
        for member in [
            "clusterArn",
            "taskArn",
            "taskDefinitionArn",
            "group",
            "startedBy",
            "launchType",
            "cpu",
            "memory",
            "desiredStatus",
            "lastStatus",
            "overrides",
            "containers",
            "attachments",
            "availabilityZone",
            "platformVersion",
            "createdAt",
            "updatedAt",
            "version",
        ] {
            assert!(!detail[member].is_null(), "{member}: {event:#}");
        }
        assert!(detail["tags"].is_null(), "{event:#}");
        for (name, value) in detail.as_object().unwrap() {
            if name.ends_with("At") {
                check_time(value);
            }
        }
        assert_eq!(detail["attachments"][0]["type"], "eni");
    }
    let running = &own.iter().find(|event| event["detail"]["lastStatus"] == "RUNNING").unwrap()["detail"];
    assert_eq!(
        (&running["desiredStatus"], &running["connectivity"]),
        (&json!("RUNNING"), &json!("CONNECTED"))
    );
    assert_eq!(running["group"], "service:web");
    let attachment = &running["attachments"][0];
    assert_eq!(attachment["status"], "ATTACHED");
    let details: BTreeSet<&str> =
        attachment["details"].as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap()).collect();
    let expected = ["subnetId", "networkInterfaceId", "macAddress", "privateDnsName", "privateIPv4Address"];
    assert_eq!(details, BTreeSet::from(expected));
    let container = &running["containers"][0];
    assert_eq!((&container["name"], &container["lastStatus"]), (&json!("sample-app"), &json!("RUNNING")));
    for member in ["containerArn", "taskArn", "image", "imageDigest", "runtimeId", "networkInterfaces", "cpu"]
    {
        assert!(!container[member].is_null(), "{member}: {container:#}");
    }
    let over = &own.last().unwrap()["detail"];
    assert_eq!(
        (&over["desiredStatus"], &over["stopCode"]),
        (&json!("STOPPED"), &json!("ServiceSchedulerInitiated"))
    );
    for member in ["stoppedReason", "stoppingAt", "stoppedAt", "executionStoppedAt"] {
        assert!(!over[member].is_null(), "{member}: {over:#}");
    }
}

#[tokio::test]
async fn of_a_service() {
    let cluster = Cluster::new().await;
    let breaker = json!({ "deploymentCircuitBreaker": { "enable": true, "rollback": true } });
    cluster.create(json!({ "deploymentConfiguration": breaker })).await.unwrap();
    let service = cluster.until_stable().await;
    let first = service.deployments.unwrap().remove(0).id.unwrap();
    cluster.update(json!({ "desiredCount": 3 })).await.unwrap();
    cluster.until_stable().await;
    // One that cannot be: it fails, and the first is begun again.
    let role = "arn:aws:iam::123456789012:role/app";
    cluster.0.register(with(sample(), json!({ "taskRoleArn": role }))).await.unwrap();
    cluster.0.cloud.refused_roles.lock().unwrap().insert(role.to_owned());
    let updated = cluster.update(json!({ "taskDefinition": "sample-fargate-app:2" })).await.unwrap();
    let second = updated.deployments.unwrap().remove(0).id.unwrap();
    let back = |service: &ferrogate_api::ecs::Service| {
        is_stable(service) && service.deployments.as_ref().unwrap()[0].id.as_ref() == Some(&first)
    };
    cluster.until("back", |_| Nature::Runs, back).await;

    let events = told(&cluster);
    let arn = service.service_arn.unwrap();
    let cluster_arn = service.cluster_arn.unwrap();
    for event in of(&events, "ECS Service Action") {
        check_envelope(event);
        assert_eq!(event["resources"], json!([arn]));
        let detail = &event["detail"];
        assert_eq!(detail["clusterArn"], json!(cluster_arn));
        check_time(&detail["createdAt"]);
        let usual = BTreeSet::from(["eventType", "eventName", "clusterArn", "createdAt"]);
        let more: Vec<&str> = members(detail).difference(&usual).copied().collect();
        let (kind, expected): (&str, &[&str]) = match detail["eventName"].as_str().unwrap() {
            "SERVICE_STEADY_STATE" => ("INFO", &[]),
            "SERVICE_DESIRED_COUNT_UPDATED" => ("INFO", &["desiredCount"]),
            "SERVICE_TASK_CONFIGURATION_FAILURE" => ("ERROR", &["reason"]),
            other => panic!("{other}: {event:#}"),
        };
        assert_eq!((detail["eventType"].as_str(), more.as_slice()), (Some(kind), expected), "{event:#}");
    }
    assert!(named(&events, "SERVICE_STEADY_STATE").len() >= 2);
    assert_eq!(named(&events, "SERVICE_DESIRED_COUNT_UPDATED")[0]["detail"]["desiredCount"], 3);
    assert_eq!(named(&events, "SERVICE_TASK_CONFIGURATION_FAILURE").len(), 1);

    let told: Vec<(&str, &str, &str)> = of(&events, "ECS Deployment State Change")
        .into_iter()
        .map(|event| {
            check_envelope(event);
            assert_eq!(event["resources"], json!([arn]));
            let detail = &event["detail"];
            let expected = ["eventType", "eventName", "deploymentId", "updatedAt", "reason"];
            assert_eq!(members(detail), BTreeSet::from(expected), "{event:#}");
            check_time(&detail["updatedAt"]);
            let text = |name: &str| detail[name].as_str().unwrap();
            let kind = if text("eventName").ends_with("_FAILED") { "ERROR" } else { "INFO" };
            assert_eq!(text("eventType"), kind);
            (text("eventName"), text("deploymentId"), text("reason"))
        })
        .collect();
    let (first, second) = (first.as_str(), second.as_str());
    let progress = |id: &str| format!("ECS deployment {id} in progress.");
    let completed = format!("ECS deployment {first} completed.");
    let back = format!("ECS deployment circuit breaker: rolling back to deploymentId {first}.");
    // What one commit tells has one time.
    let (mut told, mut expected) = (
        told,
        vec![
            ("SERVICE_DEPLOYMENT_IN_PROGRESS", first, progress(first)),
            ("SERVICE_DEPLOYMENT_COMPLETED", first, completed.clone()),
            ("SERVICE_DEPLOYMENT_IN_PROGRESS", second, progress(second)),
            (
                "SERVICE_DEPLOYMENT_FAILED",
                second,
                "ECS deployment circuit breaker: tasks failed to start.".into(),
            ),
            ("SERVICE_DEPLOYMENT_IN_PROGRESS", first, back),
            ("SERVICE_DEPLOYMENT_COMPLETED", first, completed),
        ],
    );
    told.sort_unstable();
    expected.sort_unstable();
    let expected: Vec<(&str, &str, &str)> =
        expected.iter().map(|(name, id, reason)| (*name, *id, reason.as_str())).collect();
    assert_eq!(told, expected);
}
