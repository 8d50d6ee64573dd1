//! Service Connect: tasks call services by name, through the proxies of their node.

use std::collections::BTreeMap;

use ferrogate_tests::{Cluster, eventually, until};
use serde_json::{Value, json};

/// Answers with the id of its task; `/exit` ends it without a word.
const SERVER: &str = r#"
import http.server, json, os, signal, urllib.request
task = json.load(urllib.request.urlopen(os.environ["ECS_CONTAINER_METADATA_URI_V4"] + "/task"))["TaskARN"].split("/")[-1]
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        if self.path == "/exit":
            os._exit(1)
        self.send_response(200)
        self.send_header("Content-Length", str(len(task)))
        self.end_headers()
        self.wfile.write(task.encode())
    def log_message(self, *_):
        pass
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
http.server.ThreadingHTTPServer(("", 8080), Handler).serve_forever()
"#;
/// Asks each URL again and again, every time by a new connection, and says who answered.
const CLIENT: &str = r#"
import os, signal, sys, time, urllib.error, urllib.request
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
while True:
    for url in sys.argv[1:]:
        try:
            said = urllib.request.urlopen(url, timeout=4).read().decode()
        except urllib.error.HTTPError as error:
            said = str(error.code)
        except OSError as error:
            said = type(getattr(error, "reason", error)).__name__
        print(url, said, flush=True)
    time.sleep(0.02)
"#;
/// A server that does not listen yet would be left out by the proxies for half a minute: it is registered when it does.
const CHECK: &str = "import socket; socket.create_connection(('127.0.0.1', 8080), 2)";
const WEB: &str = "http://web";
const FRONT: &str = "http://front.shop:81";
/// Answers that are looked at together.
const SAMPLE: usize = 24;

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("a text, not {value}")).to_owned()
}

struct Shop {
    cluster: Cluster,
    subnets: Vec<String>,
}

impl Shop {
    fn start() -> Self {
        let cluster = Cluster::start();
        let answer = cluster.boto().ok("ec2", "describe_subnets", json!({}));
        let zones: BTreeMap<String, String> = answer["Subnets"]
            .as_array()
            .expect("subnets")
            .iter()
            .map(|subnet| (text(&subnet["AvailabilityZone"]), text(&subnet["SubnetId"])))
            .collect();
        Self { cluster, subnets: zones.into_values().take(2).collect() }
    }

    fn group(&self, name: &str) -> String {
        let input = json!({ "GroupName": name, "Description": name, "VpcId": self.cluster.network().vpc });
        text(&self.cluster.boto().ok("ec2", "create_security_group", input)["GroupId"])
    }

    fn let_in(&self, group: &str, port: u16, from: &str) {
        let rule = json!({
            "IpProtocol": "tcp", "FromPort": port, "ToPort": port, "UserIdGroupPairs": [{ "GroupId": from }],
        });
        let input = json!({ "GroupId": group, "IpPermissions": [rule] });
        self.cluster.boto().ok("ec2", "authorize_security_group_ingress", input);
    }

    fn define(&self, family: &str, command: &[&str], more: Value) {
        let mut line = vec!["python3", "-c"];
        line.extend(command);
        let mut container =
            json!({ "name": "app", "image": "python3-boto3", "command": line, "stopTimeout": 2 });
        if let Value::Object(more) = more {
            container.as_object_mut().expect("an object").extend(more);
        }
        self.cluster.define(family, json!([container]), Value::Null);
    }

    fn create(&self, name: &str, count: u32, group: &str, endpoints: &Value) -> Value {
        let network = json!({ "awsvpcConfiguration": {
            "subnets": self.subnets, "securityGroups": [group], "assignPublicIp": "ENABLED",
        }});
        let input = json!({
            "serviceName": name, "taskDefinition": name, "desiredCount": count, "launchType": "FARGATE",
            "networkConfiguration": network,
            "serviceConnectConfiguration": { "enabled": true, "services": endpoints },
        });
        self.cluster.boto().ok("ecs", "create_service", input)["service"].take()
    }

    /// ARNs of those that run.
    fn running(&self, service: &str) -> Vec<String> {
        let boto = self.cluster.boto();
        let arns = boto.ok("ecs", "list_tasks", json!({ "serviceName": service }))["taskArns"].take();
        if arns == json!([]) {
            return Vec::new();
        }
        let tasks = boto.ok("ecs", "describe_tasks", json!({ "tasks": arns }))["tasks"].take();
        let all = tasks.as_array().expect("tasks").iter();
        all.filter(|task| task["lastStatus"] == "RUNNING" && task["desiredStatus"] == "RUNNING")
            .map(|task| text(&task["taskArn"]))
            .collect()
    }

    /// `stoppedReason`
    fn ended(&self, service: &str) -> Vec<String> {
        let boto = self.cluster.boto();
        let input = json!({ "serviceName": service, "desiredStatus": "STOPPED" });
        let arns = boto.ok("ecs", "list_tasks", input)["taskArns"].take();
        if arns == json!([]) {
            return Vec::new();
        }
        let tasks = boto.ok("ecs", "describe_tasks", json!({ "tasks": arns }))["tasks"].take();
        let all = tasks.as_array().expect("tasks").iter();
        all.map(|task| format!("{} {}", task["taskArn"], task["stoppedReason"])).collect()
    }

    fn runs(&self, service: &str, count: usize) -> Vec<String> {
        until(&format!("{service} has {count} tasks that run"), || {
            let running = self.running(service);
            (running.len() == count).then_some(running)
        })
    }

    /// Instances of the Cloud Map service of this name.
    fn instances(&self, name: &str) -> Vec<String> {
        let input = json!({ "NamespaceName": "shop", "ServiceName": name });
        let answer = self.cluster.boto().ok("servicediscovery", "discover_instances", input);
        let all = answer["Instances"].as_array().expect("instances").iter();
        all.map(|one| text(&one["InstanceId"])).collect()
    }

    /// What the task was told by `url` since it had said so many lines.
    fn heard(&self, task: &str, url: &str, since: usize) -> Vec<String> {
        let output = self.cluster.output(task);
        let lines = output.lines().skip(since).filter_map(|line| line.split_once(' '));
        lines.filter(|(of, _)| *of == url).map(|(_, said)| said.to_owned()).collect()
    }

    fn lines(&self, task: &str) -> usize {
        self.cluster.output(task).lines().count()
    }

    /// Looks until the last answers come from these tasks and nobody else, from each about as often.
    #[track_caller]
    fn evenly(&self, client: &str, url: &str, servers: &[String]) {
        let mut last = BTreeMap::new();
        let is_even = |counts: &BTreeMap<String, usize>| {
            let fair = SAMPLE / servers.len();
            let ids = servers.iter().map(|arn| arn.rsplit('/').next().expect("an id"));
            counts.len() == servers.len()
                && ids
                    .into_iter()
                    .all(|id| counts.get(id).is_some_and(|count| count.abs_diff(fair) <= fair / 2))
        };
        let what = format!("{url} is answered evenly by {servers:?}");
        eventually(&what, || {
            let heard = self.heard(client, url, 0);
            last.clear();
            for said in heard.into_iter().rev().take(SAMPLE) {
                *last.entry(said).or_insert(0) += 1;
            }
            is_even(&last)
        });
    }
}

impl Drop for Shop {
    /// What a failed test wants to know.
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        let services = self.cluster.boto().ok("ecs", "list_services", json!({}))["serviceArns"].take();
        for service in services.as_array().into_iter().flatten().map(text) {
            let service = service.as_str();
            for task in self.running(service) {
                let output = self.cluster.output(&task);
                let last: Vec<&str> = output.lines().rev().take(10).collect();
                eprintln!("{service} {task}: {last:#?}");
            }
            for why in self.ended(service) {
                eprintln!("{service}: {why}");
            }
        }
    }
}

#[test]
fn services_call_each_other_by_name() {
    let shop = Shop::start();
    let boto = shop.cluster.boto();
    let defaults = json!({ "clusterName": "default", "serviceConnectDefaults": { "namespace": "shop" } });
    let made = boto.ok("ecs", "create_cluster", defaults);
    let namespaces = boto.ok("servicediscovery", "list_namespaces", json!({}))["Namespaces"].take();
    assert_eq!(
        made["cluster"]["serviceConnectDefaults"]["namespace"], namespaces[0]["Arn"],
        "{namespaces:#}"
    );
    assert_eq!((&namespaces[0]["Name"], &namespaces[0]["Type"]), (&json!("shop"), &json!("HTTP")));

    let (front, back, other) = (shop.group("front"), shop.group("back"), shop.group("other"));
    shop.let_in(&back, 8080, &front);
    shop.let_in(&back, 9000, &front);
    let server = json!({
        "portMappings": [{ "containerPort": 8080, "name": "http", "appProtocol": "http" }],
        "healthCheck": { "command": ["CMD", "python3", "-c", CHECK], "interval": 5, "timeout": 60 },
    });
    shop.define("web", &[SERVER], server);
    shop.define("client", &[CLIENT, WEB, FRONT], Value::Null);
    shop.define("stranger", &[CLIENT, WEB], Value::Null);
    let endpoints = json!([
        { "portName": "http", "discoveryName": "web", "clientAliases": [{ "port": 80, "dnsName": "web" }] },
        {
            "portName": "http", "discoveryName": "front", "ingressPortOverride": 9000,
            "clientAliases": [{ "port": 81 }],
        },
    ]);
    let service = shop.create("web", 2, &back, &endpoints);
    let resources = &service["deployments"][0]["serviceConnectResources"];
    assert_eq!(
        (&resources[0]["discoveryName"], &resources[1]["discoveryName"]),
        (&json!("web"), &json!("front"))
    );
    shop.create("client", 1, &front, &json!([]));
    shop.create("stranger", 1, &other, &json!([]));

    // Directly, and through the proxies of the servers.
    let servers = shop.runs("web", 2);
    let client = shop.runs("client", 1).remove(0);
    shop.evenly(&client, WEB, &servers);
    shop.evenly(&client, FRONT, &servers);

    // Whom the servers' group does not let in gets no further than its own proxy.
    let stranger = shop.runs("stranger", 1).remove(0);
    eventually("the stranger has asked", || shop.lines(&stranger) > 0);
    let heard = shop.heard(&stranger, WEB, 0);
    assert!(heard.iter().all(|said| ["503", "504", "TimeoutError"].contains(&said.as_str())), "{heard:?}");

    // One dies. What it was being asked may be lost, and nothing else: the proxy asks another one.
    let before = shop.lines(&client);
    let (killed, left) = (servers[0].clone(), servers[1].clone());
    let id = killed.rsplit('/').next().expect("an id").to_owned();
    let processes = shop.cluster.task_processes(&id);
    assert!(!processes.is_empty());
    let processes = processes.iter().map(ToString::to_string);
    assert!(shop.cluster.command("kill").arg("-9").args(processes).status().expect("kill").success());
    let replaced = until("another one runs", || {
        let running = shop.running("web");
        (running.len() == 2 && !running.contains(&killed)).then_some(running)
    });
    assert!(replaced.contains(&left));
    eventually("it is no instance any more", || !shop.instances("web").contains(&id));
    shop.evenly(&client, WEB, &replaced);
    shop.evenly(&client, FRONT, &replaced);
    let lost: Vec<String> = shop
        .heard(&client, WEB, before)
        .into_iter()
        .filter(|said| replaced.iter().chain([&killed]).all(|arn| !arn.ends_with(said.as_str())))
        .collect();
    assert!(lost.len() <= 1, "{lost:?}");

    // One more.
    boto.ok("ecs", "update_service", json!({ "service": "web", "desiredCount": 3 }));
    let servers = shop.runs("web", 3);
    shop.evenly(&client, WEB, &servers);
    shop.evenly(&client, FRONT, &servers);

    let listed = boto.ok("ecs", "list_services_by_namespace", json!({ "namespace": "shop" }));
    assert_eq!(listed["serviceArns"].as_array().map(Vec::len), Some(3), "{listed}");
    for service in ["client", "stranger", "web"] {
        boto.ok("ecs", "delete_service", json!({ "service": service, "force": true }));
    }
    eventually("ECS has deleted what it made in Cloud Map", || {
        boto.ok("servicediscovery", "list_services", json!({}))["Services"] == json!([])
    });
}

/// The same as [`CLIENT`] of one name, now with the header of a test and now without.
const TESTER: &str = r#"
import os, signal, time, urllib.error, urllib.request
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
while True:
    for kind, headers in (("plain", {}), ("test", {"X-Version": "next"})):
        try:
            said = urllib.request.urlopen(urllib.request.Request("http://web", headers=headers), timeout=4).read().decode()
        except urllib.error.HTTPError as error:
            said = str(error.code)
        except OSError as error:
            said = type(getattr(error, "reason", error)).__name__
        print(kind, said, flush=True)
    time.sleep(0.02)
"#;

#[test]
fn a_revision_is_tested_by_name_before_it_serves() {
    let shop = Shop::start();
    let boto = shop.cluster.boto();
    let defaults = json!({ "clusterName": "default", "serviceConnectDefaults": { "namespace": "shop" } });
    boto.ok("ecs", "create_cluster", defaults);
    let (front, back) = (shop.group("front"), shop.group("back"));
    shop.let_in(&back, 8080, &front);
    let server = json!({
        "portMappings": [{ "containerPort": 8080, "name": "http", "appProtocol": "http" }],
        "healthCheck": { "command": ["CMD", "python3", "-c", CHECK], "interval": 5, "timeout": 60 },
    });
    shop.define("web", &[SERVER], server);
    shop.define("client", &[TESTER], Value::Null);
    let rules = json!({ "header": { "name": "X-Version", "value": { "exact": "next" } } });
    let alias = json!({ "port": 80, "dnsName": "web", "testTrafficRules": rules });
    shop.create("web", 1, &back, &json!([{ "portName": "http", "clientAliases": [alias] }]));
    shop.create("client", 1, &front, &json!([]));
    let blue = shop.runs("web", 1);
    let client = shop.runs("client", 1).remove(0);
    // Nothing is being tested.
    shop.evenly(&client, "plain", &blue);
    shop.evenly(&client, "test", &blue);

    let hook = json!({ "targetType": "PAUSE", "lifecycleStages": ["POST_TEST_TRAFFIC_SHIFT"] });
    boto.ok(
        "ecs",
        "update_service",
        json!({ "service": "web", "forceNewDeployment": true, "deploymentConfiguration": {
            "strategy": "BLUE_GREEN", "bakeTimeInMinutes": 0, "lifecycleHooks": [hook],
        }}),
    );
    let both = shop.runs("web", 2);
    let green: Vec<String> = both.iter().filter(|arn| !blue.contains(arn)).cloned().collect();
    let deployment = || {
        let service =
            boto.ok("ecs", "describe_services", json!({ "services": ["web"] }))["services"][0].take();
        let arn = service["currentServiceDeployment"].clone();
        let input = json!({ "serviceDeploymentArns": [arn] });
        let found = boto.ok("ecs", "describe_service_deployments", input)["serviceDeployments"][0].take();
        (arn, found)
    };
    let (arn, hook) = until("the deployment waits", || {
        let (arn, found) = deployment();
        let hooks = found["lifecycleHookDetails"].as_array()?.iter();
        let hook = hooks.into_iter().find(|hook| hook["status"] == "AWAITING_ACTION")?;
        Some((arn, hook["hookId"].clone()))
    });
    shop.evenly(&client, "test", &green);
    shop.evenly(&client, "plain", &blue);

    let input = json!({ "serviceDeploymentArn": arn, "hookId": hook, "action": "CONTINUE" });
    boto.ok("ecs", "continue_service_deployment", input);
    shop.evenly(&client, "plain", &green);
    eventually("the former revision is gone", || shop.running("web") == green);
    shop.evenly(&client, "test", &green);
    // Once somebody was there, no request was lost, and none went to the new revision before its time.
    let heard = shop.heard(&client, "plain", 0);
    let heard: Vec<String> = heard.into_iter().skip_while(|said| !blue[0].ends_with(said.as_str())).collect();
    let of = |said: &String, tasks: &[String]| tasks.iter().any(|arn| arn.ends_with(said.as_str()));
    let lost: Vec<&String> = heard.iter().filter(|said| !of(said, &both)).collect();
    assert!(lost.is_empty(), "{lost:?}");
    let shifted = heard.iter().position(|said| of(said, &green)).expect("it was shifted");
    assert!(heard[shifted..].iter().all(|said| of(said, &green)), "traffic went back");
}
