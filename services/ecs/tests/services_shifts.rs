//! BLUE_GREEN, LINEAR and CANARY: traffic shifted between two revisions, and what becomes of it where that is refused.

mod support;

use ferrogate_api::ecs::{self, Ecs};
use ferrogate_nodeapi::{ObservedStatus, TaskReport};
use serde_json::{Value as Json, json};
use support::balancing::{BLUE, DEFAULT_RULE, GREEN, ROLE, RULE, SIDE_BLUE, SIDE_GREEN, SIDE_RULE};
use support::services::{Cluster, Nature, is_stable, messages};
use support::{cause, input, report, sample};

/// Between two groups, by a rule.
fn between([blue, green]: [&str; 2], rule: &str) -> Json {
    let advanced =
        json!({ "alternateTargetGroupArn": green, "productionListenerRule": rule, "roleArn": ROLE });
    json!({ "targetGroupArn": blue, "containerName": "sample-app", "containerPort": 80,
        "advancedConfiguration": advanced })
}

fn blue_green(balancers: &[Json], bake_minutes: u32, hooks: Json) -> Json {
    let configuration =
        json!({ "strategy": "BLUE_GREEN", "bakeTimeInMinutes": bake_minutes, "lifecycleHooks": hooks });
    json!({ "loadBalancers": balancers, "deploymentConfiguration": configuration })
}

/// What its rule gives the group now.
fn weight_of(cluster: &Cluster, group: &str) -> i32 {
    let weights = cluster.0.cloud.balancing.weights.lock().unwrap();
    let newest = weights.iter().rev().find_map(|rule| rule.iter().find(|(of, _)| of == group));
    newest.map_or(0, |(_, weight)| *weight)
}

#[tokio::test]
async fn traffic_goes_over_to_the_new_revision() {
    let cluster = Cluster::new().await;
    let balancing = &cluster.0.cloud.balancing;
    let hooks = json!([{ "targetType": "PAUSE", "lifecycleStages": ["POST_SCALE_UP"] }]);
    cluster.create(blue_green(&[between([BLUE, GREEN], RULE)], 1, hooks)).await.unwrap();
    go_on(&cluster).await;
    assert_eq!(balancing.states(BLUE).len(), 2);
    cluster.0.register(sample()).await.unwrap();
    cluster.update(json!({ "taskDefinition": "sample-fargate-app:2" })).await.unwrap();
    // It waits for a word; both stand, the old one has the traffic.
    let hook = cluster_hook(&cluster).await;
    assert_eq!((balancing.states(BLUE).len(), balancing.states(GREEN).len()), (2, 2));
    assert_eq!(weight_of(&cluster, GREEN), 0);
    resume(&cluster, &hook).await;
    cluster.until("shifted", |_| Nature::Runs, |_| weight_of(&cluster, GREEN) > 0).await;
    assert_eq!(weight_of(&cluster, BLUE), 0);
    cluster.until_stable().await;
    assert_eq!((balancing.states(BLUE).len(), balancing.states(GREEN).len()), (0, 2));

    // The next one goes back to blue.
    cluster.0.register(sample()).await.unwrap();
    cluster.update(json!({ "taskDefinition": "sample-fargate-app:3" })).await.unwrap();
    go_on(&cluster).await;
    assert_eq!((balancing.states(BLUE).len(), balancing.states(GREEN).len()), (2, 0));
}

async fn current_deployment(cluster: &Cluster) -> Option<ecs::ServiceDeployment> {
    let arn = cluster.describe().await.current_service_deployment?;
    let request = json!({ "serviceDeploymentArns": [arn] });
    let answer =
        cluster.0.service.describe_service_deployments(&cluster.0.cx(), input(request)).await.unwrap();
    answer.service_deployments.unwrap().pop()
}

async fn waiting_hook(cluster: &Cluster) -> Option<(String, String)> {
    let deployment = current_deployment(cluster).await?;
    let hooks = deployment.lifecycle_hook_details.unwrap_or_default();
    let hook = hooks.into_iter().find(|hook| hook.status.as_deref() == Some("AWAITING_ACTION"))?;
    Some((deployment.service_deployment_arn?, hook.hook_id?))
}

async fn cluster_hook(cluster: &Cluster) -> (String, String) {
    cluster
        .0
        .until("it waits", async |world| {
            cluster.step(world, |_| Nature::Runs).await;
            waiting_hook(cluster).await.is_some()
        })
        .await;
    waiting_hook(cluster).await.unwrap()
}

async fn resume(cluster: &Cluster, (arn, hook): &(String, String)) {
    let request = json!({ "serviceDeploymentArn": arn, "hookId": hook, "action": "CONTINUE" });
    cluster.0.service.continue_service_deployment(&cluster.0.cx(), input(request)).await.unwrap();
}

/// Says yes wherever it is asked, until it is done.
async fn go_on(cluster: &Cluster) {
    cluster
        .0
        .until("done", async |world| {
            cluster.step(world, |_| Nature::Runs).await;
            if let Some(hook) = waiting_hook(cluster).await {
                resume(cluster, &hook).await;
            }
            is_stable(&cluster.describe().await)
        })
        .await;
}

/// Which only the listener's own default actions change.
#[tokio::test]
async fn traffic_of_a_default_rule() {
    let cluster = Cluster::new().await;
    let balancing = &cluster.0.cloud.balancing;
    cluster.create(blue_green(&[between([BLUE, GREEN], DEFAULT_RULE)], 0, json!([]))).await.unwrap();
    cluster.until_stable().await;
    assert!(weight_of(&cluster, BLUE) > 0);
    cluster.0.register(sample()).await.unwrap();
    cluster.update(json!({ "taskDefinition": "sample-fargate-app:2" })).await.unwrap();
    cluster.until_stable().await;
    assert!(weight_of(&cluster, GREEN) > 0);
    assert_eq!((weight_of(&cluster, BLUE), balancing.states(BLUE).len()), (0, 0));
    assert_eq!(balancing.states(GREEN).len(), 2);
    assert_eq!(cluster.0.cloud.count("ModifyRule"), 0);
}

async fn stop(cluster: &Cluster, arn: &str) {
    let request = json!({ "serviceDeploymentArn": arn, "stopType": "ROLLBACK" });
    cluster.0.service.stop_service_deployment(&cluster.0.cx(), input(request)).await.unwrap();
}

/// The rule is gone, or the role may not change it: the service is kept all the same, and what is brought out can be stopped.
#[tokio::test]
async fn a_refused_shift_keeps_nothing_else() {
    let cluster = Cluster::new().await;
    let balancing = &cluster.0.cloud.balancing;
    cluster.create(blue_green(&[between([BLUE, GREEN], RULE)], 0, json!([]))).await.unwrap();
    let first = cluster.until_stable().await.deployments.unwrap().remove(0).id;
    balancing.refused.lock().unwrap().insert("ModifyRule".into());
    cluster.0.register(sample()).await.unwrap();
    let updated = cluster.update(json!({ "taskDefinition": "sample-fargate-app:2" })).await.unwrap();
    let said = format!("(service web) failed to shift traffic of {RULE} with (error ModifyRule is refused).");
    let is_said = |service: &ecs::Service| messages(service).contains(&said);
    cluster.until("the shift is refused", |_| Nature::Runs, is_said).await;

    let dead = cluster.tasks("RUNNING").await.remove(0).task_arn.unwrap();
    cluster
        .0
        .report(TaskReport {
            stop: cause("EssentialContainerExited", "Essential container in task exited"),
            ..report(&dead, 9, ObservedStatus::Stopped)
        })
        .await;
    cluster
        .0
        .until("replaced, and let go", async |world| {
            cluster.step(world, |_| Nature::Runs).await;
            balancing.states(BLUE) == ["healthy", "healthy"]
                && cluster.describe().await.running_count == Some(2)
                && world.describe(&dead).await.last_status.as_deref() == Some("STOPPED")
        })
        .await;

    stop(&cluster, &updated.current_service_deployment.unwrap()).await;
    let is_back =
        |service: &ecs::Service| is_stable(service) && service.deployments.as_ref().unwrap()[0].id == first;
    cluster.until("back", |_| Nature::Runs, is_back).await;
    assert!(balancing.refused.lock().unwrap().contains("ModifyRule"));
}

/// One rule sends traffic to green and the other one could not be changed: nobody goes before all is back.
#[tokio::test]
async fn half_a_shift_is_taken_back() {
    let cluster = Cluster::new().await;
    let balancing = &cluster.0.cloud.balancing;
    let hooks = json!([{ "targetType": "PAUSE", "lifecycleStages": ["POST_SCALE_UP"] }]);
    let doors = [between([BLUE, GREEN], RULE), between([SIDE_BLUE, SIDE_GREEN], SIDE_RULE)];
    cluster.create(blue_green(&doors, 0, hooks)).await.unwrap();
    go_on(&cluster).await;
    let first = cluster.describe().await.deployments.unwrap().remove(0).id;
    cluster.0.register(sample()).await.unwrap();
    let updated = cluster.update(json!({ "taskDefinition": "sample-fargate-app:2" })).await.unwrap();
    let hook = cluster_hook(&cluster).await;
    balancing.refused.lock().unwrap().insert(SIDE_RULE.into());
    resume(&cluster, &hook).await;
    cluster.until("half of it", |_| Nature::Runs, |_| weight_of(&cluster, GREEN) > 0).await;
    assert_eq!(weight_of(&cluster, SIDE_GREEN), 0);

    stop(&cluster, &updated.current_service_deployment.unwrap()).await;
    cluster.until("taken back", |_| Nature::Runs, |_| weight_of(&cluster, GREEN) == 0).await;
    assert!(weight_of(&cluster, BLUE) > 0);
    assert_eq!(balancing.states(GREEN).len(), 2, "the other door may still lead to it");
    balancing.refused.lock().unwrap().clear();
    let is_back =
        |service: &ecs::Service| is_stable(service) && service.deployments.as_ref().unwrap()[0].id == first;
    cluster.until("back", |_| Nature::Runs, is_back).await;
    assert!(weight_of(&cluster, SIDE_BLUE) > 0);
}
