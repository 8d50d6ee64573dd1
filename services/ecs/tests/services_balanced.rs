//! Services behind load balancers and in Cloud Map; task sets.

mod support;

use ferrogate_api::ecs::{self, Ecs};
use ferrogate_api::{ApiError, Value};
use ferrogate_nodeapi::DesiredStatus;
use serde_json::{Value as Json, json};
use support::balancing::{BLUE, GREEN, INSTANCES, LONELY, REGISTRY, ROLE};
use support::services::{Cluster, Nature, is_stable, messages};
use support::{NODE, input, sample, with};

fn behind(group: &str) -> Json {
    json!({ "targetGroupArn": group, "containerName": "sample-app", "containerPort": 80 })
}

fn ids(tasks: &[ecs::Task]) -> Vec<String> {
    let id = |task: &ecs::Task| task.task_arn.as_ref().unwrap().rsplit('/').next().unwrap().to_owned();
    tasks.iter().map(id).collect()
}

#[tokio::test]
async fn registered_and_let_go() {
    let cluster = Cluster::new().await;
    let balancing = &cluster.0.cloud.balancing;
    *balancing.begins.lock().unwrap() = Some("initial");
    *balancing.drains.lock().unwrap() = true;
    cluster
        .create(
            json!({ "loadBalancers": [behind(BLUE)], "serviceRegistries": [{ "registryArn": REGISTRY }] }),
        )
        .await
        .unwrap();
    // Running is not enough: the targets have to be healthy.
    let registered = |_: &ecs::Service| balancing.states(BLUE).len() == 2;
    cluster.until("registered", |_| Nature::Runs, registered).await;
    let service = cluster.describe().await;
    assert_eq!(service.deployments.as_ref().unwrap()[0].rollout_state.as_deref(), Some("IN_PROGRESS"));
    assert!(
        messages(&service).contains(&format!("(service web) registered 2 targets in (target-group {BLUE})"))
    );
    balancing.targets.lock().unwrap().values_mut().for_each(|state| *state = "healthy".into());
    cluster.until_stable().await;
    assert_eq!(cluster.describe().await.health_check_grace_period_seconds, Some(0));
    let tasks = cluster.tasks("RUNNING").await;
    let instances = balancing.instances.lock().unwrap().clone();
    assert_eq!(instances.len(), 2);
    for id in ids(&tasks) {
        let instance = &instances[&id];
        assert_eq!(instance["ECS_SERVICE_NAME"], "web");
        assert_eq!(instance["ECS_CLUSTER_NAME"], "default");
        assert_eq!(instance["ECS_TASK_DEFINITION_FAMILY"], "sample-fargate-app");
        assert!(instance["AWS_INSTANCE_IPV4"].starts_with("10.0."));
        assert_eq!(instance["AWS_INIT_HEALTH_STATUS"], "HEALTHY");
    }

    // One less: the node hears of it when nobody sends it anything any more.
    cluster.update(json!({ "desiredCount": 1 })).await.unwrap();
    let draining = |_: &ecs::Service| balancing.states(BLUE).iter().any(|state| state == "draining");
    cluster.until("draining", |_| Nature::Runs, draining).await;
    let ending = cluster.tasks("STOPPED").await.remove(0);
    assert_eq!(ending.last_status.as_deref(), Some("DEACTIVATING"));
    let arn = ending.task_arn.clone().unwrap();
    let told = |world: &support::World| {
        let list = world.service.assignments(NODE).borrow().clone();
        list.iter().any(|task| task.task_arn == arn && task.desired == DesiredStatus::Stopped)
    };
    assert!(!told(&cluster.0));
    balancing.drained();
    cluster
        .0
        .until("it is STOPPED", async |world| {
            cluster.step(world, |_| Nature::Runs).await;
            world.describe(&arn).await.last_status.as_deref() == Some("STOPPED")
        })
        .await;
    cluster.until_stable().await;
    assert_eq!(balancing.instances.lock().unwrap().len(), 1);
    let events = messages(&cluster.describe().await);
    assert!(
        events.contains(&format!("(service web) deregistered 1 targets in (target-group {BLUE})")),
        "{events:?}"
    );
    assert!(
        events.iter().any(|text| text.ends_with("has begun draining connections on 1 tasks.")),
        "{events:?}"
    );

    // A user's stop is no other: first it is let go.
    let last = cluster.tasks("RUNNING").await.remove(0).task_arn.unwrap();
    *balancing.begins.lock().unwrap() = None;
    assert_eq!(cluster.0.stop(&last).await.last_status.as_deref(), Some("DEACTIVATING"));
    cluster
        .0
        .until("replaced", async |world| {
            cluster.step(world, |_| Nature::Runs).await;
            is_stable(&cluster.describe().await)
                && balancing.states(BLUE) == ["healthy"]
                && cluster.tasks("RUNNING").await.iter().any(|task| task.task_arn.as_ref() != Some(&last))
                && world.describe(&last).await.last_status.as_deref() == Some("STOPPED")
        })
        .await;
}

#[tokio::test]
async fn an_unhealthy_target_is_replaced() {
    let cluster = Cluster::new().await;
    let balancing = &cluster.0.cloud.balancing;
    cluster.create(json!({ "loadBalancers": [behind(BLUE)] })).await.unwrap();
    cluster.until_stable().await;
    let before = ids(&cluster.tasks("RUNNING").await);
    *balancing.targets.lock().unwrap().values_mut().next().unwrap() = "unhealthy".into();
    let reason = format!("Task failed ELB health checks in (target-group {BLUE})");
    cluster
        .until(
            "replaced",
            |_| Nature::Runs,
            |service| is_stable(service) && balancing.states(BLUE) == ["healthy", "healthy"],
        )
        .await;
    let stopped = cluster.tasks("STOPPED").await;
    assert_eq!(stopped.len(), 1);
    assert_eq!(stopped[0].stopped_reason.as_ref(), Some(&reason));
    assert_eq!(stopped[0].stop_code.as_deref(), Some("ServiceSchedulerInitiated"));
    assert!(before.contains(&ids(&stopped)[0]));
    let events = messages(&cluster.describe().await);
    assert!(
        events.iter().any(|text| text.contains("(port 80) is unhealthy in (target-group ")),
        "{events:?}"
    );
}

#[tokio::test]
async fn what_balancers_refuse_is_tried_again() {
    let cluster = Cluster::new().await;
    let balancing = &cluster.0.cloud.balancing;
    *balancing.errors.lock().unwrap() =
        vec![ApiError::new("TooManyTargets", "too many"), ApiError::internal()];
    cluster
        .create(
            json!({ "loadBalancers": [behind(BLUE)], "serviceRegistries": [{ "registryArn": REGISTRY }] }),
        )
        .await
        .unwrap();
    cluster.until_stable().await;
    let events = messages(&cluster.describe().await);
    let said =
        format!("(service web) failed to register targets in (target-group {BLUE}) with (error too many).");
    assert!(events.contains(&said), "{events:?}");
    assert_eq!(balancing.states(BLUE).len(), 2);
    assert_eq!(balancing.instances.lock().unwrap().len(), 2);

    // What somebody else has taken away comes back.
    balancing.targets.lock().unwrap().clear();
    cluster.until("registered", |_| Nature::Runs, |_| balancing.states(BLUE).len() == 2).await;
}

#[tokio::test]
async fn a_deployment_that_is_stopped_goes_back() {
    let cluster = Cluster::new().await;
    cluster.create(json!({ "loadBalancers": [behind(BLUE)] })).await.unwrap();
    let first = cluster.until_stable().await.deployments.unwrap().remove(0).id;
    *cluster.0.cloud.balancing.begins.lock().unwrap() = Some("initial");
    cluster.0.register(sample()).await.unwrap();
    let updated = cluster.update(json!({ "taskDefinition": "sample-fargate-app:2" })).await.unwrap();
    let arn = updated.current_service_deployment.unwrap();
    let both = |_: &ecs::Service| cluster.0.cloud.balancing.states(BLUE).len() == 4;
    cluster.until("both stand", |_| Nature::Runs, both).await;
    let stop = |arn: &str| input(json!({ "serviceDeploymentArn": arn, "stopType": "ROLLBACK" }));
    cluster.0.service.stop_service_deployment(&cluster.0.cx(), stop(&arn)).await.unwrap();
    cluster
        .until(
            "back",
            |_| Nature::Runs,
            |service| is_stable(service) && service.deployments.as_ref().unwrap()[0].id == first,
        )
        .await;
    let service = cluster.describe().await;
    assert!(service.task_definition.unwrap().ends_with(":1"));
    let error = cluster.0.service.stop_service_deployment(&cluster.0.cx(), stop(&arn)).await.unwrap_err();
    assert_eq!(error.code, "ConflictException");
    let unknown = "arn:aws:ecs:us-east-1:123456789012:service-deployment/default/web/none";
    let error = cluster.0.service.stop_service_deployment(&cluster.0.cx(), stop(unknown)).await.unwrap_err();
    assert_eq!(error.code, "ServiceDeploymentNotFoundException");
}

#[tokio::test]
async fn what_cannot_be_put_behind_a_balancer() {
    let cluster = Cluster::new().await;
    let lb = |group: &str| json!({ "loadBalancers": [behind(group)] });
    let mut advanced = behind(BLUE);
    advanced["advancedConfiguration"] = json!({ "alternateTargetGroupArn": GREEN });
    for (changes, words) in [
        (
            lb(LONELY),
            format!(
                "The target group with targetGroupArn {LONELY} does not have an associated load balancer."
            ),
        ),
        (
            lb(INSTANCES),
            format!(
                "The provided target group {INSTANCES} has target type instance, which is incompatible with the awsvpc network \
             mode specified in the task definition."
            ),
        ),
        (lb("arn:none"), "The target group with targetGroupArn arn:none does not exist.".to_owned()),
        (json!({ "loadBalancers": [behind(BLUE), behind(BLUE)] }), "is named twice".to_owned()),
        (json!({ "loadBalancers": [advanced] }), "advancedConfiguration is supported with".to_owned()),
        (
            json!({ "loadBalancers": [behind(BLUE)],
            "deploymentConfiguration": { "strategy": "BLUE_GREEN", "bakeTimeInMinutes": 1 } }),
            "advancedConfiguration.alternateTargetGroupArn is required".to_owned(),
        ),
        (
            json!({ "serviceRegistries": [{ "registryArn": REGISTRY, "port": 80 }] }),
            "has no SRV records".to_owned(),
        ),
        (
            json!({ "serviceRegistries": [{ "registryArn": "arn:x" }] }),
            "is not the ARN of a Cloud Map service".to_owned(),
        ),
    ] {
        let error = cluster.create(changes.clone()).await.expect_err(&changes.to_string());
        assert_eq!(error.code, "InvalidParameterException", "{changes}");
        assert!(error.message.contains(&words), "{}", error.message);
    }
    assert!(cluster.0.store.range("/ecs/123456789012/us-east-1/service").is_empty());
}

#[tokio::test]
async fn task_sets() {
    let cluster = Cluster::new().await;
    let external = json!({ "deploymentController": { "type": "EXTERNAL" }, "taskDefinition": null,
        "networkConfiguration": null, "launchType": null, "desiredCount": 4 });
    let made = cluster.create(external).await.unwrap();
    assert_eq!((made.deployments, made.task_sets), (Some(Vec::new()), Some(Vec::new())));
    let create = |scale: u8| {
        let request = json!({ "cluster": "default", "service": "web", "taskDefinition": "sample-fargate-app",
            "launchType": "FARGATE", "externalId": "x", "scale": { "value": scale, "unit": "PERCENT" },
            "tags": [{ "key": "set", "value": "a" }], "networkConfiguration": { "awsvpcConfiguration": {
                "subnets": ["subnet-a"] } } });
        let world = &cluster.0;
        async move {
            world
                .service
                .create_task_set(&world.cx(), input(request))
                .await
                .map(|answer| answer.task_set.unwrap())
        }
    };
    let first = create(50).await.unwrap();
    assert_eq!(first.status.as_deref(), Some("ACTIVE"));
    let steady = |count: i32| {
        move |service: &ecs::Service| {
            let sets = service.task_sets.as_ref().unwrap();
            service.running_count == Some(count)
                && sets.iter().all(|set| set.stability_status.as_deref() == Some("STEADY_STATE"))
        }
    };
    cluster.until("half of it runs", |_| Nature::Runs, steady(2)).await;
    let id = first.id.clone().unwrap();
    let name = |set: &str| json!({ "cluster": "default", "service": "web", "taskSet": set });
    let primary = json!({ "cluster": "default", "service": "web", "primaryTaskSet": id });
    let answer =
        cluster.0.service.update_service_primary_task_set(&cluster.0.cx(), input(primary)).await.unwrap();
    assert_eq!(answer.task_set.unwrap().status.as_deref(), Some("PRIMARY"));
    let service = cluster.describe().await;
    assert_eq!(
        service.task_definition.as_deref(),
        Some("arn:aws:ecs:us-east-1:123456789012:task-definition/sample-fargate-app:1")
    );

    let second = create(100).await.unwrap();
    cluster.until("all of it runs", |_| Nature::Runs, steady(6)).await;
    let listed = cluster
        .0
        .service
        .describe_task_sets(
            &cluster.0.cx(),
            input(json!({ "cluster": "default", "service": "web", "include": ["TAGS"] })),
        )
        .await
        .unwrap();
    let sets = listed.task_sets.unwrap();
    assert_eq!(sets.len(), 2);
    assert_eq!((sets[0].computed_desired_count, sets[1].computed_desired_count), (Some(2), Some(4)));
    assert_eq!(sets[0].tags.as_ref().unwrap()[0].key.as_deref(), Some("set"));

    let mut scale = name(second.task_set_arn.as_ref().unwrap());
    scale["scale"] = json!({ "value": 25, "unit": "PERCENT" });
    cluster.0.service.update_task_set(&cluster.0.cx(), input(scale)).await.unwrap();
    cluster.until("less of it runs", |_| Nature::Runs, steady(3)).await;
    // A call that comes twice, and another one by its token.
    let again = async |changes: Json| {
        let request = json!({ "cluster": "default", "service": "web", "taskDefinition": "sample-fargate-app",
            "launchType": "FARGATE", "clientToken": "once", "networkConfiguration": { "awsvpcConfiguration": {
                "subnets": ["subnet-a"] } } });
        let world = &cluster.0;
        world.service.create_task_set(&world.cx(), input(with(request, changes))).await
    };
    let made = again(json!({})).await.unwrap().task_set.unwrap().id;
    assert_eq!(again(json!({})).await.unwrap().task_set.unwrap().id, made);
    let error = again(json!({ "externalId": "y" })).await.unwrap_err();
    assert_eq!(
        (error.code.as_str(), error.message.as_str()),
        (
            "InvalidParameterException",
            "Arguments on this idempotent request are inconsistent with arguments used in previous request(s)."
        )
    );
    assert_eq!(cluster.describe().await.task_sets.unwrap().len(), 3);
    let request = json!({ "cluster": "default", "service": "web", "taskSet": made });
    cluster.0.service.delete_task_set(&cluster.0.cx(), input(request)).await.unwrap();
    let delete = |force: bool| {
        let mut request = name(second.id.as_ref().unwrap());
        request["force"] = json!(force);
        let world = &cluster.0;
        async move {
            world
                .service
                .delete_task_set(&world.cx(), input(request))
                .await
                .map(|answer| answer.task_set.unwrap())
        }
    };
    assert_eq!(delete(false).await.unwrap_err().code, "InvalidParameterException");
    assert_eq!(delete(true).await.unwrap().status.as_deref(), Some("DRAINING"));
    let one = |service: &ecs::Service| {
        service.task_sets.as_ref().unwrap().len() == 1 && service.running_count == Some(2)
    };
    cluster.until("it is gone", |_| Nature::Runs, one).await;
    assert_eq!(delete(true).await.unwrap_err().code, "TaskSetNotFoundException");
    let error = cluster.update(json!({ "taskDefinition": "sample-fargate-app:1" })).await.unwrap_err();
    assert!(error.message.contains("EXTERNAL"), "{}", error.message);
    let told = cluster.0.store.range("/events/");
    let steady = told.iter().filter(|kv| {
        let event: Json = serde_json::from_slice(&kv.value).unwrap();
        event["detail"]["eventName"] == "TASKSET_STEADY_STATE"
    });
    assert!(steady.count() >= 2);
    cluster.delete(json!({ "force": true })).await.unwrap();
    cluster.until("over", |_| Nature::Runs, |service| service.status.as_deref() == Some("INACTIVE")).await;
}

#[tokio::test]
async fn rights() {
    let cluster = Cluster::new().await;
    cluster.create(json!({ "tags": [{ "key": "team", "value": "a" }], "desiredCount": 0 })).await.unwrap();
    let demands = |operation: &'static str, input: Json| {
        let input: Value = to_value(&input);
        let all = Ecs::demands(&*cluster.0.service, &cluster.0.cx(), operation, &input);
        let of = |demand: ferrogate_api::Demand| (demand.action, demand.resource, demand.context);
        all.into_iter().map(of).collect::<Vec<_>>()
    };
    let arn = "arn:aws:ecs:us-east-1:123456789012:service/default/web";
    let has = |context: &[(String, Vec<String>)], key: &str, value: &str| {
        context.iter().any(|(name, values)| name == key && values.iter().any(|one| one == value))
    };
    let update =
        demands("UpdateService", json!({ "service": "web", "taskDefinition": "sample-fargate-app" }));
    let (action, resource, context) = &update[0];
    assert_eq!((action.as_str(), resource.as_str()), ("ecs:UpdateService", arn));
    assert!(has(context, "aws:ResourceTag/team", "a"));
    assert!(has(context, "ecs:cluster", "arn:aws:ecs:us-east-1:123456789012:cluster/default"));
    assert!(has(
        context,
        "ecs:task-definition",
        "arn:aws:ecs:us-east-1:123456789012:task-definition/sample-fargate-app:1"
    ));
    let mut balancer = behind(BLUE);
    balancer["advancedConfiguration"] = json!({ "roleArn": ROLE });
    let create = demands(
        "CreateService",
        json!({ "serviceName": "b", "loadBalancers": [balancer],
        "tags": [{ "key": "k", "value": "v" }] }),
    );
    let actions: Vec<&str> = create.iter().map(|(action, ..)| action.as_str()).collect();
    assert_eq!(actions, ["ecs:CreateService", "iam:PassRole", "ecs:TagResource"]);
    assert!(has(&create[1].2, "iam:PassedToService", "ecs.amazonaws.com"));
    assert!(has(&create[0].2, "aws:RequestTag/k", "v"));
    let part = "arn:aws:ecs:us-east-1:123456789012:service-deployment/default/web/x";
    let stop = demands("StopServiceDeployment", json!({ "serviceDeploymentArn": part }));
    assert_eq!(stop[0].1, part);
    assert!(has(&stop[0].2, "ecs:service", arn));
    let sets = demands("DescribeTaskSets", json!({ "cluster": "default", "service": "web" }));
    assert_eq!(sets[0].1, "arn:aws:ecs:us-east-1:123456789012:task-set/default/web/*");
}

/// As the codec would make it.
fn to_value(json: &Json) -> Value {
    match json {
        Json::Null => Value::Null,
        Json::Bool(value) => Value::Bool(*value),
        Json::Number(number) => Value::Int(number.as_i64().expect("an integer")),
        Json::String(text) => Value::String(text.clone()),
        Json::Array(items) => Value::List(items.iter().map(to_value).collect()),
        Json::Object(members) => {
            Value::Map(members.iter().map(|(name, value)| (name.clone(), to_value(value))).collect())
        }
    }
}
