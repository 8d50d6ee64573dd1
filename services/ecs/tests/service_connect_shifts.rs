//! Endpoints of Service Connect while one revision takes another's place: what their proxies are told.

mod support;

use ferrogate_api::ecs::Ecs;
use ferrogate_nodeapi::{REVISION_ATTRIBUTE, SPLIT_ATTRIBUTE, Split};
use serde_json::{Value as Json, json};
use support::services::{Cluster, Nature};
use support::{input, with, with_container};

const RULES: &str = "x-version";

fn asked(strategy: &Json) -> Json {
    let rules = json!({ "header": { "name": RULES, "value": { "exact": "next" } } });
    let alias = json!({ "port": 80, "dnsName": "web", "testTrafficRules": rules });
    json!({
        "deploymentConfiguration": strategy,
        "serviceConnectConfiguration": {
            "enabled": true, "namespace": "shop",
            "services": [{ "portName": "http", "clientAliases": [alias] }],
        },
    })
}

fn blue_green() -> Json {
    let hook = |stage: &str| json!({ "targetType": "PAUSE", "lifecycleStages": [stage] });
    let hooks = json!([hook("POST_TEST_TRAFFIC_SHIFT"), hook("POST_PRODUCTION_TRAFFIC_SHIFT")]);
    json!({ "strategy": "BLUE_GREEN", "bakeTimeInMinutes": 0, "lifecycleHooks": hooks })
}

struct Shop(Cluster);

impl Shop {
    async fn with(strategy: &Json) -> Self {
        let cluster = Cluster::new().await;
        let port = json!([{ "containerPort": 80, "name": "http", "appProtocol": "http" }]);
        cluster.0.register(with_container(json!({ "portMappings": port }))).await.unwrap();
        cluster.0.cloud.cloud_map.namespace("shop");
        cluster.create(asked(strategy)).await.unwrap();
        let shop = Self(cluster);
        if strategy.get("lifecycleHooks").is_some() {
            // The first one waits as well.
            shop.go_on().await;
            shop.go_on().await;
        }
        shop.0.until_stable().await;
        assert!(shop.is_done() && shop.revisions().len() == 1);
        shop
    }

    fn is_done(&self) -> bool {
        self.split().is_some_and(|split| split.production.values().eq(&[1000]) && split.test.is_none())
    }

    fn split(&self) -> Option<Split> {
        let (_, service) = self.0.0.cloud.cloud_map.by_name("http")?;
        service.attributes.get(SPLIT_ATTRIBUTE).map(|split| serde_json::from_str(split).expect("a split"))
    }

    /// Of its instances, each once.
    fn revisions(&self) -> Vec<String> {
        let instances = self.0.0.cloud.cloud_map.instances("http");
        let mut revisions: Vec<String> =
            instances.values().map(|one| one[REVISION_ATTRIBUTE].clone()).collect();
        revisions.sort();
        revisions.dedup();
        revisions
    }

    /// Says yes where the deployment waits.
    async fn go_on(&self) {
        let cluster = &self.0;
        let waiting = async || {
            let arn = cluster.describe().await.current_service_deployment?;
            let request = input(json!({ "serviceDeploymentArns": [arn] }));
            let service = &cluster.0.service;
            let answer = service.describe_service_deployments(&cluster.0.cx(), request).await.unwrap();
            let hooks = answer.service_deployments?.pop()?.lifecycle_hook_details?;
            let hook = hooks.into_iter().find(|hook| hook.status.as_deref() == Some("AWAITING_ACTION"))?;
            Some(json!({ "serviceDeploymentArn": arn, "hookId": hook.hook_id?, "action": "CONTINUE" }))
        };
        let step = async |world: &support::World| {
            cluster.step(world, |_| Nature::Runs).await;
            waiting().await.is_some()
        };
        cluster.0.until("it waits", step).await;
        let request = input(waiting().await.unwrap());
        cluster.0.service.continue_service_deployment(&cluster.0.cx(), request).await.unwrap();
    }

    async fn until(&self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let step = async |world: &support::World| {
            self.0.step(world, |_| Nature::Runs).await;
            is_so(self)
        };
        self.0.0.until(what, step).await;
    }
}

#[tokio::test]
async fn green_is_tested_before_it_gets_anything() {
    let shop = Shop::with(&blue_green()).await;
    let blue = shop.revisions().remove(0);
    shop.0.update(json!({ "forceNewDeployment": true })).await.unwrap();
    shop.until("green has tests", |shop| shop.split().is_some_and(|split| split.test.is_some())).await;
    let split = shop.split().unwrap();
    let test = split.test.unwrap();
    assert_eq!((test.header.as_str(), test.value.as_deref()), (RULES, Some("next")));
    assert_ne!(test.revision, blue);
    assert_eq!(split.production.get(&blue), Some(&1000));
    assert_eq!(split.production.get(&test.revision), Some(&0));
    assert_eq!(shop.revisions().len(), 2, "both are there");

    shop.go_on().await;
    shop.until("green has all", |shop| {
        shop.split().is_some_and(|split| split.production.get(&test.revision) == Some(&1000))
    })
    .await;
    assert_eq!(shop.split().unwrap().production.get(&blue), Some(&0));
    assert_eq!(shop.split().unwrap().test, None, "who has all of it has the tests");
    shop.go_on().await;
    shop.until("blue is gone", |shop| shop.revisions() == [test.revision.clone()]).await;

    // Who rolls has one kind of traffic.
    let rolling = json!({ "deploymentConfiguration": { "strategy": "ROLLING", "lifecycleHooks": [] } });
    shop.0.update(with(rolling, json!({ "forceNewDeployment": true }))).await.unwrap();
    shop.until("the split is gone", |shop| shop.split().is_none()).await;
    shop.until("another revision is there", |shop| shop.revisions() != [test.revision.clone()]).await;
}

#[tokio::test]
async fn a_canary_gets_its_share_first() {
    let canary = json!({ "canaryPercent": 12.5, "canaryBakeTimeInMinutes": 1 });
    let shop = Shop::with(&json!({ "strategy": "CANARY", "canaryConfiguration": canary })).await;
    let blue = shop.revisions().remove(0);
    shop.0.update(json!({ "forceNewDeployment": true })).await.unwrap();
    shop.until("the canary has its share", |shop| {
        shop.split().is_some_and(|split| split.production.values().any(|share| *share == 125))
    })
    .await;
    assert_eq!(shop.split().unwrap().production.get(&blue), Some(&875));
    let all = |split: Split| split.production.iter().any(|(of, share)| *of != blue && *share == 1000);
    shop.until("then all", |shop| shop.split().is_some_and(all)).await;
    shop.until("blue is gone", |shop| !shop.revisions().contains(&blue)).await;
    assert_eq!(shop.revisions().len(), 1);
}
