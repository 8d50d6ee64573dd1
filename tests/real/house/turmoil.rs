//! Services whose world does not keep still: updated again and again, killed in the middle, with targets that are well and
//! unwell by turns.

use std::collections::BTreeSet;

use ferrogate_tests::{TaskRun, eventually, until};
use serde_json::{Value, json};

use super::load::Load;
use super::parts::{House, PORT, Part, grace_seconds, in_vpc, text};
use super::shifts::Shifting;

/// Interfaces of tasks and balancers.
fn interfaces(house: &House) -> usize {
    let answer = house.cluster.boto().ok("ec2", "describe_network_interfaces", json!({}));
    answer["NetworkInterfaces"].as_array().expect("interfaces").len()
}

#[test]
fn the_last_of_three_updates_wins_and_no_request_fails() {
    let house = House::start();
    let definitions: Vec<String> =
        ["1", "2", "3", "4"].map(|revision| house.define("auth", revision, Value::Null)).into();
    let auth = house.open("auth", 2, 1, json!({ "taskDefinition": definitions[0] }));
    auth.settles();
    let before = interfaces(&house);
    let load = Load::start(&house, &house.public_urls("/auth/login?ms=50"));
    assert_eq!(load.revisions(), ["1"]);
    let updates: Vec<String> = definitions[1..]
        .iter()
        .map(|definition| auth.update(json!({ "taskDefinition": definition })))
        .collect();
    auth.settles();
    auth.completes(&updates[2]);
    assert_eq!(load.revisions(), ["4"]);

    let input = json!({ "service": "auth" });
    let listed =
        house.cluster.boto().ok("ecs", "list_service_deployments", input)["serviceDeployments"].take();
    let listed = listed.as_array().expect("deployments");
    let statuses: Vec<&Value> = listed.iter().map(|one| &one["status"]).collect();
    assert_eq!(statuses, ["SUCCESSFUL", "STOPPED", "STOPPED", "SUCCESSFUL"]);
    for superseded in &listed[1..3] {
        assert!(!superseded["finishedAt"].is_null(), "{superseded:#}");
        let reason = text(&superseded["statusReason"]);
        assert!(reason.contains("newer one"), "{reason}");
    }
    let tasks = auth.tasks("RUNNING");
    assert_eq!(tasks.len(), 2);
    assert!(tasks.iter().all(|task| task["taskDefinitionArn"] == json!(definitions[3])), "{tasks:#?}");
    eventually("nothing of the others is left", || auth.targets().len() == 2 && interfaces(&house) == before);
    auth.has_healthy_targets(2);
    load.ends();
}

/// The load comes from a task: the way from the host to public addresses ends with the program, as the API does.
fn load_inside(house: &House) -> Load {
    house.cluster.define_busybox("client");
    let client = house.cluster.run_task(&house.cluster.network(), &TaskRun::of("client"));
    house.cluster.running(&client);
    let command = house.cluster.python_in_task(client.rsplit('/').next().expect("a task id"), "load.py");
    let urls: Vec<String> =
        house.addresses().iter().map(|public| format!("http://{}/auth/login", in_vpc(public))).collect();
    Load::of(command, &urls)
}

#[test]
fn a_blue_green_deployment_goes_on_after_kill_9() {
    let mut house = House::start();
    let hook = json!({ "targetType": "PAUSE", "lifecycleStages": ["POST_SCALE_UP"] });
    let configuration = json!({ "strategy": "BLUE_GREEN", "bakeTimeInMinutes": 0, "lifecycleHooks": [hook] });
    let auth = Shifting::open(&house, configuration);
    let groups = auth.groups();
    let load = load_inside(&house);
    assert_eq!(load.revisions(), ["1"]);
    let deployment = auth.update("2");
    let hook = auth.waits_at(&deployment, "POST_SCALE_UP");
    let arns = |auth: &Shifting<'_>| -> BTreeSet<String> {
        auth.part.tasks("RUNNING").iter().map(|task| text(&task["taskArn"])).collect()
    };
    let there = arns(&auth);
    assert_eq!(there.len(), 4);
    drop(auth);

    house.cluster.kill();
    load.goes_on(200);
    house.cluster.up();
    let auth = Shifting::again(&house, groups.clone());
    assert_eq!(auth.waits_at(&deployment, "POST_SCALE_UP"), hook, "it waits at the same hook");
    assert_eq!(arns(&auth), there);
    assert_eq!(load.revisions(), ["1"]);
    auth.goes_on(&deployment, &hook);
    drop(auth);
    // Wherever it is now.
    house.cluster.kill();
    load.goes_on(50);
    house.cluster.up();
    let auth = Shifting::again(&house, groups);
    let done = auth.ends_as(&deployment, "SUCCESSFUL");
    assert!(done["rollback"].is_null(), "{done:#}");
    auth.part.settles();
    assert_eq!((auth.tasks_of("1"), auth.tasks_of("2")), (0, 2));
    assert_eq!(load.revisions(), ["2"]);
    load.ends();
}

/// Health checks that are answered, of both kinds together, before it is enough.
const CHECKS: usize = 12;
/// Between the first check of a target and its second: half of the interval the house asks for, and more by chance.
const TWO_CHECKS_SECONDS: f64 = 2.5;

#[test]
fn targets_that_are_well_by_turns_are_no_reason_to_hang_or_to_thrash() {
    let house = House::start();
    house.define("auth", "1", Value::Null);
    let auth = house.open("auth", 2, 1, Value::Null);
    auth.settles();
    let load = Load::start(&house, &house.public_urls("/auth/login"));
    let environment = ["SERVICE=auth", "REVISION=2", "FLAPPING=1"].map(|text| {
        let (name, value) = text.split_once('=').expect("an assignment");
        json!({ "name": name, "value": value })
    });
    house.define("auth", "2", json!({ "environment": environment }));
    let flapping = auth.update(json!({ "taskDefinition": "auth" }));
    let of_flapping =
        |tasks: Vec<Value>| tasks.into_iter().filter(|task| task["startedBy"] == json!(flapping));
    let (mut well, mut unwell) = (0, 0);
    until("it was checked often enough", || {
        let live = auth.tasks("RUNNING");
        // Twice what is desired is the most there may be.
        assert!(live.len() <= 4, "{live:#?}");
        let (mut yes, mut no) = (0, 0);
        for task in of_flapping(live).chain(of_flapping(auth.tasks("STOPPED"))) {
            let said = house.cluster.output(&text(&task["taskArn"]));
            yes += said.lines().filter(|line| *line == "200").count();
            no += said.lines().filter(|line| *line == "503").count();
        }
        (well, unwell) = (yes, no);
        (well + unwell >= CHECKS).then_some(())
    });
    assert!(well > 0 && unwell > 0, "{well} and {unwell}");
    // Each that was ended was so for its checks, and none of them soon: a task has to fail several first.
    let ended: Vec<Value> = of_flapping(auth.tasks("STOPPED")).collect();
    let reason = format!("Task failed ELB health checks in (target-group {})", auth.target_group);
    assert!(ended.iter().all(|task| task["stoppedReason"] == json!(reason)), "{ended:#?}");
    for task in &ended {
        let at = |when: &str| task[when].as_f64().expect("a time");
        // It is a target once its containers have been started, which is after their images.
        let lived = at("stoppingAt") - at("pullStoppedAt");
        assert!(lived >= TWO_CHECKS_SECONDS, "two checks in a row are further apart: {lived} s, {task:#}");
    }
    // Of checks that a busy machine leaves unanswered nothing was said.
    assert!(ended.len() < CHECKS, "{} tasks ended after {well} and {unwell} checks", ended.len());

    // And the way out is open.
    house.define("auth", "3", Value::Null);
    let calm = auth.update(json!({ "taskDefinition": "auth" }));
    auth.settles();
    auth.completes(&calm);
    assert_eq!(load.revisions(), ["3"]);
    eventually("only the new ones are there", || auth.targets().len() == 2);
    auth.has_healthy_targets(2);
    load.ends();
}

#[test]
fn task_sets_share_a_balancer() {
    let house = House::start();
    let boto = house.cluster.boto();
    let definitions = ["1", "2"].map(|revision| house.define("auth", revision, Value::Null));
    let groups = ["blue", "green"].map(|name| house.target_group(name, "HTTP"));
    let rule = house.rule("auth", 1, &groups[0]);
    let shift = |weights: [u32; 2]| {
        let both = json!([{ "TargetGroupArn": groups[0], "Weight": weights[0] },
            { "TargetGroupArn": groups[1], "Weight": weights[1] }]);
        let action = json!({ "Type": "forward", "ForwardConfig": { "TargetGroups": both } });
        boto.ok("elbv2", "modify_rule", json!({ "RuleArn": rule, "Actions": [action] }));
    };
    shift([1, 0]);
    let input = json!({ "serviceName": "auth", "desiredCount": 2, "deploymentController": { "type": "EXTERNAL" },
        "healthCheckGracePeriodSeconds": grace_seconds() });
    boto.ok("ecs", "create_service", input);
    let network = json!({ "awsvpcConfiguration": {
        "subnets": house.subnets, "securityGroups": [house.back], "assignPublicIp": "ENABLED",
    }});
    let create = |number: usize, percent: u32| {
        let balanced =
            json!([{ "targetGroupArn": groups[number], "containerName": "app", "containerPort": PORT }]);
        let input = json!({
            "cluster": "default", "service": "auth", "taskDefinition": definitions[number], "launchType": "FARGATE",
            "networkConfiguration": network, "loadBalancers": balanced,
            "scale": { "value": percent, "unit": "PERCENT" },
        });
        text(&boto.ok("ecs", "create_task_set", input)["taskSet"]["id"])
    };
    let sets = || {
        let input = json!({ "cluster": "default", "service": "auth" });
        boto.ok("ecs", "describe_task_sets", input)["taskSets"].as_array().expect("task sets").clone()
    };
    let steady = |id: &str, count: u32| {
        eventually(&format!("{id} has {count} tasks and is steady"), || {
            let all = sets();
            let set = all.iter().find(|set| set["id"] == json!(id)).expect("it is there");
            set["stabilityStatus"] == "STEADY_STATE"
                && set["computedDesiredCount"] == count
                && set["runningCount"] == count
        });
    };
    let primary = |id: &str| {
        let input = json!({ "cluster": "default", "service": "auth", "primaryTaskSet": id });
        boto.ok("ecs", "update_service_primary_task_set", input);
    };
    let parts = groups.clone().map(|target_group| Part { house: &house, name: "auth", target_group });

    let first = create(0, 100);
    steady(&first, 2);
    primary(&first);
    parts[0].has_healthy_targets(2);
    let load = Load::start(&house, &house.public_urls("/auth/login"));
    assert_eq!(load.revisions(), ["1"]);
    let second = create(1, 50);
    steady(&second, 1);
    parts[1].has_healthy_targets(1);
    assert_eq!(load.revisions(), ["1"], "whoever made the sets shifts the traffic");
    shift([1, 1]);
    eventually("both answer", || load.revisions() == ["1", "2"]);
    let input = json!({ "cluster": "default", "service": "auth", "taskSet": second,
        "scale": { "value": 100, "unit": "PERCENT" } });
    boto.ok("ecs", "update_task_set", input);
    steady(&second, 2);
    shift([0, 1]);
    eventually("the second answers", || load.revisions() == ["2"]);
    primary(&second);
    boto.ok(
        "ecs",
        "delete_task_set",
        json!({ "cluster": "default", "service": "auth", "taskSet": first, "force": true }),
    );
    eventually("the first is gone", || sets().len() == 1 && parts[0].targets().is_empty());
    let left = sets().remove(0);
    assert_eq!((&left["id"], &left["status"]), (&json!(second), &json!("PRIMARY")), "{left:#}");
    parts[1].has_healthy_targets(2);
    assert_eq!(load.revisions(), ["2"]);
    load.ends();
}
