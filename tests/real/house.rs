//! The house with two services behind one load balancer, by real clients: reached, found by name, rolled out, rolled
//! back, repaired and gone on with, under constant load.

mod load;
mod parts;
mod shifts;
mod turmoil;

use std::collections::BTreeMap;

use ferrogate_tests::{TaskRun, eventually, until};
use serde_json::{Value, json};

use load::Load;
use parts::{House, PART, PORT, Part, authorize, group, in_vpc, text, with};

/// How often each host answered, as service `name`.
#[track_caller]
fn hosts(answers: &str, name: &str) -> BTreeMap<String, usize> {
    let mut hosts = BTreeMap::new();
    for line in answers.lines() {
        let who: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {answers}"));
        assert_eq!(who["service"], name, "{who}");
        *hosts.entry(text(&who["host"])).or_default() += 1;
    }
    hosts
}

#[test]
fn two_services_behind_one_balancer() {
    let house = House::start();
    house.define("auth", "1", Value::Null);
    house.define("profiles", "1", Value::Null);
    let auth = house.open("auth", 3, 1, Value::Null);
    let profiles = house.open("profiles", 2, 2, Value::Null);
    house.stable(&["auth", "profiles"]);
    auth.has_healthy_targets(3);
    profiles.has_healthy_targets(2);

    // By its name on the API's port, and by the address it has in each zone.
    let mut ways = vec!["http://house.elb.localhost:4566".to_owned()];
    ways.extend(house.public_urls(""));
    for way in &ways {
        for (part, tasks) in [(&auth, 3), (&profiles, 2)] {
            // One after the other.
            let url = format!("{way}/{}/[1-60]", part.name);
            let answers = house.cluster.curl(&["--fail", "--max-time", "10", &url]);
            let answers = answers.unwrap_or_else(|code| panic!("curl: {code}: {url}"));
            let hosts = hosts(&answers, part.name);
            assert_eq!((hosts.len(), hosts.values().sum::<usize>()), (tasks, 60), "{url}: {hosts:#?}");
            let even = 60 / tasks;
            for count in hosts.values() {
                assert!(count.abs_diff(even) <= 1, "{url}: {hosts:#?}");
            }
        }
        let nobodys =
            house.cluster.curl(&["-w", " %{http_code}", "--max-time", "10", &format!("{way}/nobodys")]);
        assert_eq!(nobodys.as_deref(), Ok("nobody 404"), "{way}");
    }
    // The tasks themselves are the load balancer's alone.
    for task in auth.tasks("RUNNING") {
        let (_, public) = house.cluster.addresses(&task);
        let url = format!("http://{}:{PORT}/", public.expect("a public address"));
        assert!(house.cluster.curl(&["--max-time", "1", &url]).is_err());
    }
}

#[test]
fn a_third_service_calls_profiles_by_name_if_its_group_may() {
    let house = House::start();
    let boto = house.cluster.boto();
    let vpc = house.cluster.network().vpc;
    let made = boto.ok(
        "servicediscovery",
        "create_private_dns_namespace",
        json!({ "Name": "example.local", "Vpc": vpc }),
    );
    let operation = json!({ "OperationId": made["OperationId"] });
    let done = until("the namespace is there", || {
        let answer = boto.ok("servicediscovery", "get_operation", operation.clone());
        assert_ne!(answer["Operation"]["Status"], "FAIL", "{answer:#}");
        (answer["Operation"]["Status"] == "SUCCESS").then_some(answer)
    });
    let registry = json!({
        "Name": "profiles", "NamespaceId": done["Operation"]["Targets"]["NAMESPACE"],
        "DnsConfig": { "DnsRecords": [{ "Type": "A", "TTL": 1 }] }, "HealthCheckCustomConfig": { "FailureThreshold": 1 },
    });
    let registry = boto.ok("servicediscovery", "create_service", registry)["Service"].take();
    house.define("profiles", "1", Value::Null);
    let registries = json!({ "serviceRegistries": [{ "registryArn": registry["Arn"] }] });
    let profiles = house.open("profiles", 2, 1, registries);
    let command = json!({ "command": ["python3", "-c", PART, "call", "profiles.example.local"] });
    house.define("orders", "1", command);
    let group = group(&house.cluster, "orders");
    house.create("orders", 1, &group, Value::Null);
    house.stable(&["profiles", "orders"]);

    let private = |tasks: &[Value]| -> Vec<String> {
        let mut all: Vec<String> = tasks.iter().map(|task| house.cluster.addresses(task).0).collect();
        all.sort();
        all
    };
    let there = private(&profiles.tasks("RUNNING"));
    assert_eq!(there.len(), 2);
    let input = json!({ "NamespaceName": "example.local", "ServiceName": "profiles" });
    let found = boto.ok("servicediscovery", "discover_instances", input);
    let mut found: Vec<String> = found["Instances"]
        .as_array()
        .expect("instances")
        .iter()
        .map(|one| text(&one["Attributes"]["AWS_INSTANCE_IPV4"]))
        .collect();
    found.sort();
    assert_eq!(found, there);

    let orders = Part { house: &house, name: "orders", target_group: String::new() };
    let caller = text(&orders.tasks("RUNNING")[0]["taskArn"]);
    // What it is told after `from`: who it found, and what each of them said.
    let calls = |from: usize| -> Vec<Value> {
        let output = house.cluster.output(&caller);
        output.lines().skip(from).map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
    };
    let addresses = |call: &Value| -> Vec<String> {
        call["addresses"].as_array().expect("addresses").iter().map(text).collect()
    };
    let answered = |call: &Value| {
        call["answers"].as_object().expect("answers").values().all(|said| said["service"] == "profiles")
    };
    let refused = |call: &Value| {
        call["answers"].as_object().expect("answers").values().all(|said| *said == "timed out")
    };
    eventually("it finds both and reaches none", || {
        calls(0).iter().rev().take(2).filter(|call| addresses(call) == there && refused(call)).count() == 2
    });
    assert!(!calls(0).iter().any(|call| addresses(call) == there && answered(call)));

    let allowed = json!({ "UserIdGroupPairs": [{ "GroupId": group }] });
    authorize(&house.cluster, &house.back, PORT, &allowed);
    eventually("it reaches both", || {
        calls(0).iter().rev().take(2).filter(|call| addresses(call) == there && answered(call)).count() == 2
    });

    let permission = with(json!({ "IpProtocol": "tcp", "FromPort": PORT, "ToPort": PORT }), allowed);
    let input = json!({ "GroupId": house.back, "IpPermissions": [permission] });
    boto.ok("ec2", "revoke_security_group_ingress", input);
    eventually("it reaches none", || {
        calls(0).iter().rev().take(2).filter(|call| addresses(call) == there && refused(call)).count() == 2
    });

    // A task that is replaced is another address of the same name.
    let victim = profiles.tasks("RUNNING")[0].clone();
    boto.ok("ecs", "stop_task", json!({ "task": victim["taskArn"] }));
    house.stable(&["profiles"]);
    let now = private(&profiles.tasks("RUNNING"));
    assert_ne!(now, there);
    eventually("it finds the new one", || calls(0).last().is_some_and(|call| addresses(call) == now));
}

#[test]
fn a_rolling_update_fails_no_request() {
    let house = House::start();
    house.define("auth", "1", Value::Null);
    let auth = house.open("auth", 3, 1, Value::Null);
    house.stable(&["auth"]);
    // Some of them are on their way when their task is taken out.
    let fast = house.public_urls("/auth/login");
    let mut urls: Vec<String> = fast.iter().cycle().take(30).cloned().collect();
    urls.extend(house.public_urls("/auth/login?ms=700"));
    let load = Load::start(&house, &urls);
    assert_eq!(load.revisions(), ["1"]);
    let before = load.told()["requests"].as_u64();
    let old = auth.targets();
    let first = text(&auth.describe()["deployments"][0]["id"]);

    house.define("auth", "2", Value::Null);
    let deployment = auth.update(json!({ "taskDefinition": "auth" }));
    house.stable(&["auth"]);
    auth.completes(&deployment);
    let told = load.goes_on(1);
    let during = told["requests"].as_u64().zip(before).map(|(now, before)| now - before);
    assert!(during > Some(500), "no load to speak of: {during:?}: {told:#}");
    assert_eq!(load.revisions(), ["2"]);
    eventually("the old targets are gone", || auth.targets().len() == 3);
    auth.has_healthy_targets(3);
    assert!(auth.targets().keys().all(|address| !old.contains_key(address)));

    // Those that say the same again are hidden, as ECS does it: no count of all.
    let events = auth.events();
    let group = &auth.target_group;
    let old = format!("(service auth, taskSet {first}) has begun draining connections on ");
    for (begin, end) in [
        ("(service auth) has started ", "."),
        ("(service auth) registered ", &*format!(" targets in (target-group {group})")),
        (&*old, " tasks."),
        ("(service auth) deregistered ", &*format!(" targets in (target-group {group})")),
        ("(service auth) has stopped ", "."),
        (&*format!("(service auth) (deployment {deployment}) deployment completed."), ""),
        ("(service auth) has reached a steady state.", ""),
    ] {
        let is_there = events.iter().any(|said| said.starts_with(begin) && said.ends_with(end));
        assert!(is_there, "{begin}…{end}: {events:#?}");
    }
    load.ends();
}

#[test]
fn a_broken_image_is_rolled_back() {
    let house = House::start();
    house.define("auth", "1", Value::Null);
    // One task at a time: the way back is one that takes a while, and can be seen.
    let configuration = json!({
        "deploymentCircuitBreaker": { "enable": true, "rollback": true },
        "minimumHealthyPercent": 50, "maximumPercent": 100,
    });
    let auth = house.open("auth", 2, 1, json!({ "deploymentConfiguration": configuration }));
    house.stable(&["auth"]);
    let first = text(&auth.describe()["deployments"][0]["id"]);
    let load = Load::start(&house, &house.public_urls("/auth/login"));
    assert_eq!(load.revisions(), ["1"]);

    house.define("auth", "2", json!({ "image": "python3-boto3:none" }));
    let second = auth.update(json!({ "taskDefinition": "auth" }));
    // Every state that a client who looks all the time sees, in order.
    let mut seen: Vec<(String, String, String)> = Vec::new();
    until("it is rolled back", || {
        let service = auth.describe();
        let deployments = service["deployments"].as_array().expect("deployments");
        for one in deployments {
            let state = (text(&one["id"]), text(&one["rolloutState"]), text(&one["rolloutStateReason"]));
            if !seen.contains(&state) {
                seen.push(state);
            }
        }
        let back = seen.iter().any(|(id, state, _)| *id == second && state == "FAILED");
        let primary = &deployments[0];
        (back
            && deployments.len() == 1
            && primary["id"] == json!(first)
            && primary["rolloutState"] == "COMPLETED")
            .then_some(())
    });
    let state = |id: &str, state: &str, reason: String| (id.to_owned(), state.to_owned(), reason);
    for expected in [
        state(&second, "IN_PROGRESS", format!("ECS deployment {second} in progress.")),
        state(&second, "FAILED", "ECS deployment circuit breaker: tasks failed to start.".into()),
        state(
            &first,
            "IN_PROGRESS",
            format!("ECS deployment circuit breaker: rolling back to deploymentId {first}."),
        ),
        state(&first, "COMPLETED", format!("ECS deployment {first} completed.")),
    ] {
        assert!(seen.contains(&expected), "{expected:?}: {seen:#?}");
    }

    house.stable(&["auth"]);
    assert_eq!(load.revisions(), ["1"]);
    auth.has_healthy_targets(2);
    let service = auth.describe();
    assert!(text(&service["taskDefinition"]).ends_with("auth:1"), "{service:#}");
    let events = auth.events();
    for said in [
        format!("(service auth) (deployment {second}) deployment failed: tasks failed to start."),
        format!("(service auth) rolling back to deployment {first}."),
        "(service auth) has reached a steady state.".to_owned(),
    ] {
        assert!(events.contains(&said), "{said}: {events:#?}");
    }
    let stopped = auth.tasks("STOPPED");
    let failed: Vec<&Value> = stopped.iter().filter(|task| task["startedBy"] == json!(second)).collect();
    assert_eq!(failed.len(), 3, "the threshold: {stopped:#?}");
    for task in failed {
        let reason = text(&task["stoppedReason"]);
        assert_eq!(task["stopCode"], "TaskFailedToStart", "{task:#}");
        assert!(reason.starts_with("CannotPullContainerError: "), "{reason}");
    }
    let listed = house.cluster.aws(&["ecs", "list-service-deployments", "--service", "auth"]).json();
    assert_eq!(listed["serviceDeployments"][0]["status"], "ROLLBACK_SUCCESSFUL", "{listed:#}");
    load.ends();
}

#[test]
fn a_revision_that_fails_its_checks_is_rolled_back() {
    let house = House::start();
    house.define("auth", "1", Value::Null);
    let breaker = json!({ "deploymentCircuitBreaker": { "enable": true, "rollback": true } });
    let auth = house.open("auth", 2, 1, json!({ "deploymentConfiguration": breaker }));
    house.stable(&["auth"]);
    let first = text(&auth.describe()["deployments"][0]["id"]);
    let load = Load::start(&house, &house.public_urls("/auth/login"));
    assert_eq!(load.revisions(), ["1"]);

    let environment = ["SERVICE=auth", "REVISION=2", "BROKEN=1"].map(|text| {
        let (name, value) = text.split_once('=').expect("an assignment");
        json!({ "name": name, "value": value })
    });
    house.define("auth", "2", json!({ "environment": environment }));
    let second = auth.update(json!({ "taskDefinition": "auth" }));
    // Requests go to those that are well all the time.
    eventually("it is rolled back", || {
        assert_eq!(load.revisions(), ["1"]);
        auth.events().contains(&format!("(service auth) rolling back to deployment {first}."))
    });
    auth.completes(&first);
    house.stable(&["auth"]);
    assert_eq!(load.revisions(), ["1"]);
    eventually("only the old ones are there", || auth.targets().len() == 2);
    auth.has_healthy_targets(2);
    let reason = format!("Task failed ELB health checks in (target-group {})", auth.target_group);
    let stopped = auth.tasks("STOPPED");
    let failed = |task: &&Value| task["startedBy"] == json!(second) && task["stoppedReason"] == json!(reason);
    assert!(stopped.iter().filter(failed).count() >= 2, "{stopped:#?}");
    let listed = house.cluster.aws(&["ecs", "list-service-deployments", "--service", "auth"]).json();
    assert_eq!(listed["serviceDeployments"][0]["status"], "ROLLBACK_SUCCESSFUL", "{listed:#}");
    load.ends();
}

#[test]
fn tasks_that_die_or_fail_their_checks_are_replaced() {
    let house = House::start();
    house.define("auth", "1", Value::Null);
    let auth = house.open("auth", 3, 1, Value::Null);
    house.stable(&["auth"]);
    let deployment = text(&auth.describe()["deployments"][0]["id"]);
    let healthy_again = |without: &str| {
        eventually("three targets are healthy", || {
            let targets = auth.targets();
            targets.len() == 3
                && !targets.contains_key(without)
                && targets.values().all(|state| state == "healthy")
        });
    };

    let victim = auth.tasks("RUNNING")[0].clone();
    let arn = text(&victim["taskArn"]);
    let (address, _) = house.cluster.addresses(&victim);
    let processes = house.cluster.task_processes(arn.rsplit('/').next().expect("a task id"));
    assert!(!processes.is_empty());
    for pid in processes {
        let killed = house.cluster.command("kill").args(["-9", &pid.to_string()]).status();
        assert!(killed.is_ok_and(|status| status.success()));
    }
    let ended = house.cluster.stopped(&arn);
    assert_eq!(ended["stopCode"], "EssentialContainerExited", "{ended:#}");
    assert_eq!(ended["containers"][0]["exitCode"], 137, "{ended:#}");
    healthy_again(&address);

    // One that says itself that it is not well: the one that gets the request.
    let said = house.cluster.curl(&["--fail", "--max-time", "10", &house.public_urls("/auth/break")[0]]);
    let said: Value = serde_json::from_str(&said.expect("an answer")).expect("who it is");
    let victim = auth.task_at(&text(&said["host"]));
    let arn = text(&victim["taskArn"]);
    let (address, _) = house.cluster.addresses(&victim);
    let ended = house.cluster.stopped(&arn);
    let group = &auth.target_group;
    assert_eq!(
        ended["stoppedReason"],
        json!(format!("Task failed ELB health checks in (target-group {group})"))
    );
    assert_eq!(ended["stopCode"], "ServiceSchedulerInitiated", "{ended:#}");
    healthy_again(&address);
    let events = auth.events();
    let said = format!(
        "(service auth) (port {PORT}) is unhealthy in (target-group {group}) due to (reason Health checks failed with these codes: [503])."
    );
    assert!(events.contains(&said), "{said}: {events:#?}");
    house.stable(&["auth"]);
    let service = auth.describe();
    assert_eq!(service["deployments"][0]["id"], json!(deployment));
    assert_eq!(auth.tasks("RUNNING").len(), 3);
}

#[test]
fn a_deployment_goes_on_after_kill_9_and_fails_no_request() {
    let mut house = House::start();
    house.define("auth", "1", Value::Null);
    house.cluster.define_busybox("client");
    house.open("auth", 3, 1, Value::Null);
    house.stable(&["auth"]);
    // The load comes from a task: the way from the host to public addresses ends with the program, as the API does.
    let client = house.cluster.run_task(&house.cluster.network(), &TaskRun::of("client"));
    house.cluster.running(&client);
    let command = house.cluster.python_in_task(client.rsplit('/').next().expect("a task id"), "load.py");
    let urls: Vec<String> =
        house.addresses().iter().map(|public| format!("http://{}/auth/login", in_vpc(public))).collect();
    let load = Load::of(command, &urls);
    assert_eq!(load.revisions(), ["1"]);

    house.define("auth", "2", Value::Null);
    let part = |house: &House| -> Value {
        let answer = house.cluster.boto().ok("ecs", "describe_services", json!({ "services": ["auth"] }));
        answer["services"][0].clone()
    };
    let update = json!({ "service": "auth", "taskDefinition": "auth" });
    let answer = house.cluster.boto().ok("ecs", "update_service", update);
    let deployment = text(&answer["service"]["deployments"][0]["id"]);
    until("it is in the middle", || {
        let service = part(&house);
        let new = &service["deployments"][0];
        assert_eq!(
            (&new["id"], &new["rolloutState"]),
            (&json!(deployment), &json!("IN_PROGRESS")),
            "{service:#}"
        );
        (new["runningCount"].as_u64() > Some(0)).then_some(())
    });
    house.cluster.kill();
    load.goes_on(200);
    house.cluster.up();
    // The way from the host is there again.
    for url in house.public_urls("/auth/login") {
        eventually("it is reached from the host", || {
            house.cluster.curl(&["--fail", "--max-time", "5", &url]).is_ok()
        });
    }
    house.stable(&["auth"]);
    eventually("the deployment is completed", || {
        let deployments = part(&house)["deployments"].take();
        assert_eq!(deployments[0]["id"], json!(deployment), "{deployments:#}");
        deployments.as_array().is_some_and(|all| all.len() == 1)
            && deployments[0]["rolloutState"] == "COMPLETED"
    });
    assert_eq!(load.revisions(), ["2"]);
    load.ends();
}
