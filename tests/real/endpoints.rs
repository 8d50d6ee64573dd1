//! What a task finds at 169.254.170.2.

use ferrogate_tests::{Cluster, TaskRun, until};
use serde_json::{Value, json};

use crate::task_role::role;

/// Prints what it sees once the task is RUNNING, part by part.
const LOOK: &str = r#"
env | sort; echo ---
until wget -qO- $ECS_CONTAINER_METADATA_URI_V4/task | grep -q '"KnownStatus":"RUNNING","Limits":{"CPU":0.25'; do sleep 0.1; done
for path in /v4/ID /v4/ID/task /v4/ID/taskWithTags /v4/ID/stats /v4/ID/task/stats /v3/ID /v3/ID/task; do
  wget -qO- http://169.254.170.2$(echo $path | sed "s/ID/${ECS_CONTAINER_METADATA_URI##*/}/"); echo; echo ---
done
trap 'echo; wget -qO- $ECS_CONTAINER_METADATA_URI_V4; exit 3' TERM
sleep 1
wget -qO- $ECS_CONTAINER_METADATA_URI_V4/stats; echo; echo ---
while :; do sleep 0.1; done
"#;

/// GET of every argument, in python, which shows an error's body too: a line of JSON for each.
const FETCH: &str = r#"
import json, os, sys, urllib.request, urllib.error
BASE = "http://169.254.170.2"
def ask(path, method="GET", body=None):
    request = urllib.request.Request(BASE + path, data=body, method=method)
    try:
        answer = urllib.request.urlopen(request, timeout=20)
    except urllib.error.HTTPError as error:
        answer = error
    text = answer.read().decode()
    try:
        text = json.loads(text)
    except ValueError:
        pass
    return answer.status, text
def say(*what):
    print(json.dumps(what), flush=True)
own = os.environ["ECS_CONTAINER_METADATA_URI_V4"].rsplit("/", 1)[1]
"#;

fn parts(output: &str) -> Vec<&str> {
    output.split("---\n").collect()
}

fn of_json(text: &str) -> Value {
    serde_json::from_str(text.trim()).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// Lines of JSON.
fn lines(output: &str) -> Vec<Value> {
    output.lines().map(of_json).collect()
}

/// What a container of `python3-boto3` prints that runs `script`; it must succeed.
fn printed(cluster: &Cluster, definition: &str, script: &str) -> Vec<Value> {
    let network = cluster.network();
    let script = format!("{FETCH}{script}");
    let run = TaskRun::of(definition).command("app", &["python3", "-c", &script]);
    let arn = cluster.run_task(&network, &run);
    let task = cluster.stopped(&arn);
    let output = cluster.output(&arn);
    assert_eq!(task["containers"][0]["exitCode"], 0, "{task:#}\n{output}");
    lines(&output)
}

#[test]
fn a_container_reads_about_itself_and_its_task() {
    let cluster = Cluster::start();
    let network = cluster.network();
    let containers = json!([
        {
            "name": "app", "image": "busybox:latest", "command": ["sh", "-c", LOOK], "cpu": 64, "memory": 128,
            "portMappings": [{ "containerPort": 8080 }], "dockerLabels": { "team": "web" },
            "environment": [
                { "name": "AWS_REGION", "value": "eu-north-1" }, { "name": "HOSTNAME", "value": "mine" },
                { "name": "ECS_AGENT_URI", "value": "http://elsewhere" },
                { "name": "ECS_CONTAINER_METADATA_URI_V4", "value": "http://elsewhere" },
                { "name": "AWS_EXECUTION_ENV", "value": "MINE" },
            ],
            "logConfiguration": { "logDriver": "awslogs", "options": {
                "awslogs-group": "/ecs/look", "awslogs-region": "us-east-1", "awslogs-stream-prefix": "ecs",
                "awslogs-create-group": "true",
            }},
            "healthCheck": { "command": ["CMD-SHELL", "true"], "interval": 5 },
        },
        { "name": "side", "image": "busybox:latest", "command": ["sleep", "3600"], "essential": false, "stopTimeout": 2 },
    ]);
    let role = role(&cluster, "execution", json!({ "Effect": "Allow", "Action": "logs:*", "Resource": "*" }));
    cluster.define("look", containers, json!({ "executionRoleArn": role }));
    let arn = cluster.run_task(&network, &TaskRun::of("look"));
    let task = cluster.running(&arn);
    let output = until("the container has looked", || {
        let output = cluster.output(&arn);
        let output: Vec<&str> = output.lines().filter_map(|line| line.strip_prefix("app | ")).collect();
        (output.iter().filter(|line| **line == "---").count() == 9).then(|| output.join("\n") + "\n")
    });
    let parts = parts(&output);

    // What the definition says wins, but for what leads to the endpoints.
    let variable = |name: &str| {
        let line = parts[0].lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        line.unwrap_or_else(|| panic!("no {name} in {}", parts[0])).to_owned()
    };
    let container = of_json(parts[1]);
    let id = container["DockerId"].as_str().unwrap();
    assert_eq!(variable("ECS_CONTAINER_METADATA_URI"), format!("http://169.254.170.2/v3/{id}"));
    assert_eq!(variable("ECS_CONTAINER_METADATA_URI_V4"), format!("http://169.254.170.2/v4/{id}"));
    assert_eq!(variable("ECS_AGENT_URI"), format!("http://169.254.170.2/api/{id}"));
    assert_eq!(variable("AWS_EXECUTION_ENV"), "AWS_ECS_FARGATE");
    assert_eq!(
        (variable("AWS_REGION"), variable("AWS_DEFAULT_REGION")),
        ("eu-north-1".into(), "us-east-1".into())
    );
    assert_eq!(variable("HOSTNAME"), "mine");
    assert!(variable("AWS_ENDPOINT_URL").starts_with("http://"));
    assert!(!parts[0].contains("AWS_CONTAINER_CREDENTIALS"), "there is no task role:\n{}", parts[0]);

    // As DescribeTasks has it.
    let described = |name: &str| {
        let containers = task["containers"].as_array().unwrap();
        containers.iter().find(|container| container["name"] == name).unwrap().clone()
    };
    let app = described("app");
    assert_eq!(container["DockerId"], app["runtimeId"]);
    assert_eq!(container["ContainerARN"], app["containerArn"]);
    assert_eq!(container["ImageID"], app["imageDigest"]);
    assert_eq!(container["Image"], app["image"]);
    assert_eq!(container["KnownStatus"], "RUNNING");
    assert_eq!(container["Limits"], json!({ "CPU": 64, "Memory": 128 }));
    assert_eq!(container["Ports"], json!([{ "ContainerPort": 8080, "Protocol": "tcp", "HostPort": 8080 }]));
    assert_eq!(container["LogDriver"], "awslogs");
    assert_eq!(container["LogOptions"]["awslogs-group"], "/ecs/look");
    assert!(container["Health"]["status"].is_string(), "{container:#}");
    assert_eq!(container["Labels"]["com.amazonaws.ecs.task-arn"], json!(arn));
    assert_eq!(container["Labels"]["team"], "web");
    let interface = &container["Networks"][0];
    assert_eq!(interface["IPv4Addresses"][0], app["networkInterfaces"][0]["privateIpv4Address"]);
    let subnets = cluster.boto().ok("ec2", "describe_subnets", json!({ "SubnetIds": [network.subnet] }));
    assert_eq!(interface["IPv4SubnetCIDRBlock"], subnets["Subnets"][0]["CidrBlock"]);

    let whole = of_json(parts[2]);
    assert_eq!(whole["TaskARN"], task["taskArn"]);
    assert_eq!(whole["Cluster"], task["clusterArn"]);
    assert_eq!(whole["AvailabilityZone"], task["availabilityZone"]);
    assert_eq!(whole["LaunchType"], task["launchType"]);
    assert_eq!((whole["Family"].as_str(), whole["Revision"].as_str()), (Some("look"), Some("1")));
    assert_eq!(whole["Limits"], json!({ "CPU": 0.25, "Memory": 512 }));
    assert_eq!(
        (whole["DesiredStatus"].as_str(), whole["KnownStatus"].as_str()),
        (Some("RUNNING"), Some("RUNNING"))
    );
    let names: Vec<&Value> = whole["Containers"].as_array().unwrap().iter().map(|c| &c["Name"]).collect();
    assert_eq!(names, ["app", "side"]);
    assert_eq!(of_json(parts[3])["TaskARN"], task["taskArn"]);

    let stats = of_json(parts[4]);
    assert_eq!((stats["name"].as_str(), stats["id"].as_str()), (Some("app"), Some(id)));
    assert!(stats["memory_stats"]["usage"].as_u64().unwrap() > 0, "{stats:#}");
    assert_eq!(stats["memory_stats"]["limit"], 128 << 20);
    assert!(stats["pids_stats"]["current"].as_u64().unwrap() >= 1);
    let side = described("side");
    let all = of_json(parts[5]);
    assert_eq!(all[side["runtimeId"].as_str().unwrap()]["name"], "side", "{all:#}");
    assert_eq!(of_json(parts[6]).get("ContainerARN"), None);
    assert_eq!(of_json(parts[7]).get("LaunchType"), None);
    // A second later there is something to compare with.
    let later = of_json(parts[8]);
    assert_eq!(later["precpu_stats"]["online_cpus"], stats["cpu_stats"]["online_cpus"]);
    assert!(
        later["cpu_stats"]["cpu_usage"]["total_usage"].as_u64()
            > stats["cpu_stats"]["cpu_usage"]["total_usage"].as_u64()
    );
    assert!(later["network_rate_stats"]["rx_bytes_per_sec"].is_f64(), "{later:#}");

    // While it stops the endpoints are there.
    cluster.boto().ok("ecs", "stop_task", json!({ "task": arn }));
    let task = cluster.stopped(&arn);
    let containers = task["containers"].as_array().unwrap();
    let app = containers.iter().find(|container| container["name"] == "app").unwrap();
    assert_eq!(app["exitCode"], 3, "{task:#}");
    let output = cluster.output(&arn);
    let last = output.lines().filter_map(|line| line.strip_prefix("app | ")).next_back().unwrap();
    assert_eq!(of_json(last)["DesiredStatus"], "STOPPED");
}

#[test]
fn what_is_wrong_is_said_as_the_agent_says_it() {
    let cluster = Cluster::start();
    cluster.define("ask", json!([{ "name": "app", "image": "python3-boto3" }]), Value::Null);
    let said = printed(
        &cluster,
        "ask",
        r#"
for path in ["/", "/v4/x", "/v4/x/task/stats", "/v3/x", "/v2/credentials/", "/v2/credentials/x"]:
    say(*ask(path))
say(*ask(f"/api/{own}/task-protection/v1/state"))
say(*ask(f"/api/{own}/task-protection/v1/state", "PUT", b"{"))
say(*ask("//v4//" + own)[:1])
import re, socket
# All at once on one connection: no processor is too slow to ask faster than is allowed.
with socket.create_connection(("169.254.170.2", 80), 20) as agent:
    request = f"GET /v4/{own} HTTP/1.1\r\nHost: agent\r\n"
    agent.sendall(((request + "\r\n") * 399 + request + "Connection: close\r\n\r\n").encode())
    answers = b"".join(iter(lambda: agent.recv(65536), b""))
codes = [int(code) for code in re.findall(rb"HTTP/1.1 ([0-9]+)", answers)]
say(len(codes), sorted(set(codes)))
"#,
    );
    let words = "unable to get docker ID from v3 endpoint ID: x";
    let task_words = "unable to get task arn from request: unable to get task Arn from v3 endpoint ID: x";
    assert_eq!(said[0], json!([404, "404 page not found\n"]));
    assert_eq!(
        said[1],
        json!([
            404,
            format!("V4 container metadata handler: unable to get container ID from request: {words}")
        ])
    );
    assert_eq!(said[2], json!([404, format!("V4 task stats handler: {task_words}")]));
    assert_eq!(
        said[3],
        json!([
            400,
            format!("V3 container metadata handler: unable to get container ID from request: {words}")
        ])
    );
    assert_eq!((&said[4][0], &said[4][1]["code"]), (&json!(400), &json!("NoIdInRequest")));
    assert_eq!((&said[5][0], &said[5][1]["code"]), (&json!(400), &json!("InvalidIdInRequest")));
    assert_eq!((&said[6][0], &said[6][1]["error"]["Code"]), (&json!(403), &json!("AccessDeniedException")));
    assert_eq!(
        (&said[7][0], &said[7][1]["error"]["Code"]),
        (&json!(400), &json!("InvalidParameterException"))
    );
    assert_eq!(said[8], json!([200]), "the client follows to the clean path");
    let codes = said[9][1].as_array().unwrap();
    assert_eq!(said[9][0], 400);
    assert!(codes.contains(&json!(200)) && codes.contains(&json!(429)) && codes.len() == 2, "{codes:?}");
}

/// Every step of a start is in the table, in an order that can be.
#[test]
fn a_start_is_timed_step_by_step() {
    let cluster = Cluster::start();
    let network = cluster.network();
    let container = json!([{ "name": "app", "image": "busybox:latest", "command": ["echo", "here"] }]);
    cluster.define("timed", container, Value::Null);
    let arn = cluster.run_task(&network, &TaskRun::of("timed"));
    cluster.stopped(&arn);
    let told = cluster.ferrogate(&["ps", "--timing", &arn, "--output", "json"]).json();
    let steps = told[0]["steps"].as_array().unwrap();
    let at = |name: &str| {
        let step = steps.iter().find(|step| step["step"] == name);
        let step = step.unwrap_or_else(|| panic!("no step {name:?} in {told:#}"));
        let began = step["beganMs"].as_f64().unwrap();
        (began, began + step["tookMs"].as_f64().unwrap())
    };
    for step in
        ["image resolved", "layers ready", "network namespace", "interface attached", "sandbox created"]
    {
        assert!(at("placed").1 <= at(step).0, "{step}: {told:#}");
        assert!(at(step).1 <= at("endpoints served").0, "{step}: {told:#}");
    }
    // Sums of fractions: a nanosecond here or there.
    let in_order = |first: f64, second: f64| assert!(first <= second + 0.001, "{told:#}");
    in_order(at("endpoints served").1, at("container created").0);
    in_order(at("container created").1, at("container started").0);
    in_order(at("container started").1, at("first output").1);
    in_order(at("first output").1, told[0]["totalMs"].as_f64().unwrap());
    let id = arn.rsplit('/').next().unwrap();
    let table = cluster.ferrogate(&["ps", "--timing", &id[..8]]).ok();
    assert!(table.contains("sandbox created") && table.contains('█'), "{table}");
    assert_ne!(cluster.ferrogate(&["ps", "--timing", "nosuchtask"]).code, Some(0));
}

/// Asks for protection, as the task role, and says what comes.
const PROTECT: &str = r#"
path = f"/api/{own}/task-protection/v1/state"
say(*ask(path))
say(*ask(path, "PUT", json.dumps({"ProtectionEnabled": True, "ExpiresInMinutes": 60}).encode()))
say(*ask(path, "PUT", json.dumps({"ProtectionEnabled": True, "ExpiresInMinutes": 3000}).encode()))
say(*ask(path, "PUT", b'{"ExpiresInMinutes": 60}'))
"#;

#[test]
fn task_protection_is_asked_for_as_the_task_role() {
    let cluster = Cluster::start();
    let container = json!([{ "name": "app", "image": "python3-boto3" }]);
    let nothing = role(
        &cluster,
        "nothing",
        json!({ "Effect": "Allow", "Action": "ecs:ListClusters", "Resource": "*" }),
    );
    cluster.define("refused", container.clone(), json!({ "taskRoleArn": nothing }));
    let said = printed(&cluster, "refused", PROTECT);
    for (index, action) in ["ecs:GetTaskProtection", "ecs:UpdateTaskProtection"].into_iter().enumerate() {
        assert_eq!(said[index][0], 400, "{said:?}");
        let error = &said[index][1]["error"];
        assert_eq!(error["Code"], "AccessDeniedException", "{error}");
        let words = error["Message"].as_str().unwrap();
        assert!(words.contains("assumed-role/nothing/") && words.contains(action), "{words}");
        assert!(error["Arn"].as_str().unwrap().contains(":task/default/"), "{error}");
    }

    let protector = role(
        &cluster,
        "protector",
        json!({ "Effect": "Allow", "Action": "ecs:*TaskProtection", "Resource": "*" }),
    );
    cluster.define("allowed", container, json!({ "taskRoleArn": protector }));
    let said = printed(&cluster, "allowed", PROTECT);
    // No service keeps the task: there is nothing to protect it from.
    for answer in &said[..2] {
        assert_eq!(answer[0], 200, "{answer}");
        assert_eq!(answer[1]["failure"]["Reason"], "TASK_NOT_VALID", "{answer}");
    }
    assert_eq!(
        (&said[2][0], &said[2][1]["error"]["Code"]),
        (&json!(400), &json!("InvalidParameterException"))
    );
    let words = "Invalid request: does not contain 'ProtectionEnabled' field";
    assert_eq!((&said[3][0], &said[3][1]["error"]["Message"]), (&json!(400), &json!(words)));
}

ferrogate_tests::machines!(a_container_reads_about_itself_and_its_task);
