//! Where the proxies of Service Connect say what they have to say.

mod support;

use ferrogate_api::ecs::Ecs;
use serde_json::{Value as Json, json};
use support::services::{Cluster, Nature};
use support::{EXECUTION_ROLE, NODE, input, with, with_container};

fn options(changes: Json) -> Json {
    let base =
        json!({ "awslogs-group": "proxies", "awslogs-region": "us-east-1", "awslogs-stream-prefix": "sc" });
    json!({ "options": with(base, changes) })
}

fn connect(logs: Json) -> Json {
    let logs = with(with(json!({ "logDriver": "awslogs" }), options(json!({}))), logs);
    let endpoint = json!({ "portName": "http", "clientAliases": [{ "port": 80, "dnsName": "web" }] });
    json!({ "serviceConnectConfiguration": {
        "enabled": true, "namespace": "shop", "services": [endpoint], "logConfiguration": logs } })
}

/// With a port that has a name.
async fn world(role: Json) -> Cluster {
    let cluster = Cluster::new().await;
    let port = json!([{ "containerPort": 80, "name": "http", "appProtocol": "http" }]);
    let definition =
        with(with_container(json!({ "portMappings": port })), json!({ "executionRoleArn": role }));
    cluster.0.register(definition).await.unwrap();
    cluster.0.cloud.cloud_map.namespace("shop");
    cluster
}

#[tokio::test]
async fn a_proxy_has_a_stream_of_its_own() {
    let cluster = world(json!(EXECUTION_ROLE)).await;
    let service = &cluster.0.service;
    let asked = connect(json!({}));
    let made = cluster.create(asked.clone()).await.unwrap();
    let deployment = made.deployments.unwrap().remove(0);
    let shown = serde_json::to_value(deployment.service_connect_configuration).unwrap();
    assert_eq!(shown, asked["serviceConnectConfiguration"]);
    let revision = made.current_service_revisions.unwrap().remove(0).arn.unwrap();
    let request = input(json!({ "serviceRevisionArns": [revision] }));
    let revisions = service.describe_service_revisions(&cluster.0.cx(), request).await.unwrap();
    let shown = revisions.service_revisions.unwrap().remove(0).service_connect_configuration;
    assert_eq!(serde_json::to_value(shown).unwrap(), asked["serviceConnectConfiguration"]);

    let tasks = || service.assignments(NODE).borrow().clone();
    let until = async |what: &str, is_so: &dyn Fn() -> bool| {
        let step = async |world: &support::World| {
            cluster.step(world, |_| Nature::Runs).await;
            is_so()
        };
        cluster.0.until(what, step).await;
    };
    until("a task runs", &|| !tasks().is_empty()).await;
    let task = tasks()[0].clone();
    let told = task.connect.unwrap().logs.unwrap();
    assert!(told.container.starts_with("ecs-service-connect-"), "{}", told.container);
    assert_eq!(told.to.stream, format!("sc/{}/{}", told.container, task.task_id));
    assert_eq!((&*told.to.group, told.to.non_blocking), ("proxies", true));
    let known = |container: &str| service.log_configuration(&task.task_arn, container);
    assert_eq!(known(&told.container), Some(told.to.clone()));
    assert_eq!(known("ecs-service-connect-00000"), None);

    // Its last words may come after the task has left its node.
    cluster.update(json!({ "desiredCount": 0 })).await.unwrap();
    until("the task is over", &|| tasks().is_empty()).await;
    assert_eq!(known(&told.container), Some(told.to));
}

#[tokio::test]
async fn refused_as_a_containers() {
    let roleless = world(Json::Null).await;
    for (logs, words) in [
        (
            options(json!({ "awslogs-stream-prefix": null })),
            "Log driver awslogs requires options: awslogs-stream-prefix",
        ),
        (options(json!({ "awslogs-group": null })), "Log driver awslogs requires options: awslogs-group"),
        (options(json!({ "awslogs-x": "1" })), "Log driver awslogs disallows options: awslogs-x"),
        (
            options(json!({ "mode": "blocking" })),
            "the mode 'blocking' in 'serviceConnectConfiguration.logConfiguration'",
        ),
        (json!({ "logDriver": "splunk" }), "the log driver 'splunk'"),
        (json!({ "logDriver": "syslog" }), "syslog is not a valid log driver"),
        (json!({ "secretOptions": [{ "name": "x", "valueFrom": "y" }] }), "'secretOptions'"),
        (json!({}), "to have execution role ARN to support log driver awslogs."),
    ] {
        let error = roleless.create(connect(logs.clone())).await.unwrap_err();
        assert_eq!(error.code, "ClientException", "{logs}");
        assert!(error.message.contains(words), "{logs}: {}", error.message);
    }
}
