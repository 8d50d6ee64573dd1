//! Tasks that may not be ended, and zones that are made even again.

use std::collections::BTreeMap;

use ferrogate_tests::eventually;
use serde_json::{Value, json};

use super::{Web, id, text};

/// Tasks that run, by zone.
fn zones(web: &Web) -> BTreeMap<String, Vec<String>> {
    let mut zones: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for task in web.tasks("RUNNING").iter().filter(|task| task["lastStatus"] == "RUNNING") {
        zones.entry(text(&task["availabilityZone"])).or_default().push(text(&task["taskArn"]));
    }
    zones.values_mut().for_each(|tasks| tasks.sort());
    zones
}

fn protect(web: &Web, tasks: &[String], enabled: bool) {
    let input = json!({ "cluster": "default", "tasks": tasks, "protectionEnabled": enabled });
    let answer = web.0.boto().ok("ecs", "update_task_protection", input);
    assert_eq!(answer["failures"], json!([]), "{answer:#}");
    assert_eq!(answer["protectedTasks"].as_array().map(Vec::len), Some(tasks.len()), "{answer:#}");
}

#[test]
fn protected_tasks_stay_and_zones_are_made_even() {
    let web = Web(ferrogate_tests::Cluster::start());
    let boto = web.0.boto();
    boto.ok("ecs", "create_cluster", json!({}));
    // With a check it is healthy when that passes; without one only after 40 seconds.
    let container = json!([{
        "name": "app", "image": "busybox:latest", "command": ["sleep", "3600"], "stopTimeout": 2,
        "healthCheck": { "command": ["CMD-SHELL", "exit 0"], "interval": 5, "timeout": 5, "retries": 3 },
    }]);
    web.0.define("web", container, Value::Null);
    let subnets = crate::balancers::subnets(&web.0);
    let network = json!({ "awsvpcConfiguration": { "subnets": subnets, "assignPublicIp": "ENABLED" } });
    let made =
        web.create(4, json!({ "networkConfiguration": network, "availabilityZoneRebalancing": "ENABLED" }));
    web.until_done(&id(&made["deployments"][0]));
    let there = zones(&web);
    assert!(there.len() == 2 && there.values().all(|tasks| tasks.len() == 2), "{there:#?}");
    let (full, kept) = there.into_iter().next().expect("two zones");

    // All of one zone stay, so that the service is uneven: a third task is started in the other one.
    protect(&web, &kept, true);
    web.update(json!({ "desiredCount": 2 }));
    eventually("the other zone has one, and those that are protected stay", || {
        let now = zones(&web);
        now.len() == 2
            && now[&full] == kept
            && now.values().map(Vec::len).sum::<usize>() == 3
            && web.messages().iter().any(|text| text.contains("is not AZ balanced with"))
    });
    let started = web.messages();
    assert!(
        started
            .iter()
            .any(|text| text.contains("has started 1 tasks in") && text.contains("to AZ Rebalance")),
        "{started:#?}"
    );
    // As soon as one of them may go, it goes.
    protect(&web, &kept[..1], false);
    eventually("both zones have one", || {
        let now = zones(&web);
        now.len() == 2 && now[&full] == kept[1..] && now.values().all(|tasks| tasks.len() == 1)
    });
    eventually("it is said", || {
        let said = web.messages();
        said.iter().any(|text| text.contains("due to AZ rebalancing"))
            && said.iter().any(|text| text.contains("is AZ balanced with 1 tasks in"))
    });
    let ended = web.0.task(&kept[0]);
    assert_eq!(ended["stopCode"], "ServiceSchedulerInitiated", "{ended:#}");
}
