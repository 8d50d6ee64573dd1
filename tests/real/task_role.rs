//! A task with a role of its own calls the API that runs it.

use ferrogate_tests::{Cluster, TaskRun, WallClock, until};
use serde_json::{Value, json};

/// As application code: no key and no address in it. This boto3 is older than AWS_ENDPOINT_URL, so that is handed on.
const SCRIPT: &str = r#"
import os, boto3
from botocore.exceptions import ClientError
def client(name):
    return boto3.client(name, region_name="us-east-1", endpoint_url=os.environ["AWS_ENDPOINT_URL"])
print("arn", client("sts").get_caller_identity()["Arn"])
print("clusters", client("ecs").list_clusters()["clusterArns"])
try:
    client("ecs").create_cluster(clusterName="mine")
    print("created")
except ClientError as error:
    print("refused", error.response["Error"]["Code"])
"#;

#[test]
fn a_task_uses_its_role() {
    let cluster = Cluster::start();
    let network = cluster.network();
    let role =
        role(&cluster, "app", json!({ "Effect": "Allow", "Action": "ecs:ListClusters", "Resource": "*" }));
    let script = json!([{ "name": "app", "image": "python3-boto3", "command": ["python3", "-c", SCRIPT] }]);
    let definition = cluster.define("app", script.clone(), json!({ "taskRoleArn": role }));
    cluster.define("none", script, Value::Null);

    let with = cluster.run_task(&network, &TaskRun::of("app"));
    let without = cluster.run_task(&network, &TaskRun::of("none"));
    let task = cluster.stopped(&with);
    let output = cluster.output(&with);
    assert_eq!(task["containers"][0]["exitCode"], 0, "{task:#}\n{output}");
    let id = with.rsplit('/').next().unwrap();
    let expected = format!(
        "arn arn:aws:sts::123456789012:assumed-role/app/{id}\n\
         clusters ['arn:aws:ecs:us-east-1:123456789012:cluster/default']\nrefused AccessDeniedException\n"
    );
    assert_eq!(output, expected);
    assert_eq!(definition["taskRoleArn"], role);

    // Without a role there are no credentials to be had.
    let task = cluster.stopped(&without);
    assert_eq!(task["containers"][0]["exitCode"], 1, "{task:#}");
    assert!(cluster.output(&without).contains("NoCredentialsError"), "{}", cluster.output(&without));
}

/// SDKs that know AWS_ENDPOINT_URL (those of the tests' own environment) need nothing but the environment of a
/// container: here in a task's network with what its container has told of its environment.
#[test]
fn sdks_find_all_they_need_in_the_environment() {
    let cluster = Cluster::start();
    let network = cluster.network();
    let role =
        role(&cluster, "app", json!({ "Effect": "Allow", "Action": "ecs:ListClusters", "Resource": "*" }));
    let tells = ["sh", "-c", "env; echo told; sleep 3600"];
    let container = json!([{ "name": "app", "image": "busybox", "command": tells, "stopTimeout": 2 }]);
    cluster.define("app", container, json!({ "taskRoleArn": role }));
    let arn = cluster.run_task(&network, &TaskRun::of("app"));
    cluster.running(&arn);
    let told = until("its environment", || {
        let output = cluster.output(&arn);
        output.lines().any(|line| line == "told").then_some(output)
    });
    let id = arn.rsplit('/').next().expect("an id");
    let mut command = cluster.python_in_task(id, "bare_sdk.py");
    command
        .envs(told.lines().filter(|line| line.starts_with("AWS_")).filter_map(|line| line.split_once('=')));
    let output = command.output().expect("python");
    let me = format!("arn:aws:sts::123456789012:assumed-role/app/{id}\n");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(String::from_utf8_lossy(&output.stdout), me.repeat(2), "{errors}");
}

/// Fetches with the credentials URI that it is told, and says code and body.
const STEAL: &str = r#"
import json, os, urllib.request, urllib.error
def ask(path):
    try:
        answer = urllib.request.urlopen("http://169.254.170.2" + path, timeout=20)
    except urllib.error.HTTPError as error:
        answer = error
    return answer.status, json.loads(answer.read())
print(os.environ["AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"], flush=True)
if "OTHER" in os.environ:
    status, body = ask(os.environ["OTHER"])
    print(status, body["code"])
    print(ask(os.environ["AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"])[0], flush=True)
else:
    import time
    time.sleep(3600)
"#;

#[test]
fn one_task_does_not_get_anothers_credentials() {
    let cluster = Cluster::start();
    let network = cluster.network();
    let role =
        role(&cluster, "app", json!({ "Effect": "Allow", "Action": "ecs:ListClusters", "Resource": "*" }));
    let script = json!([{ "name": "app", "image": "python3-boto3", "command": ["python3", "-c", STEAL], "stopTimeout": 2 }]);
    cluster.define("app", script, json!({ "taskRoleArn": role }));
    let victim = cluster.run_task(&network, &TaskRun::of("app"));
    let uri = until("the credentials' address", || {
        cluster.task(&victim)["lastStatus"].as_str().filter(|status| *status == "RUNNING")?;
        cluster.output(&victim).lines().next().map(str::to_owned)
    });
    let mut thief = TaskRun::of("app");
    thief.overrides = json!({ "containerOverrides": [
        { "name": "app", "environment": [{ "name": "OTHER", "value": uri }] },
    ]});
    let thief = cluster.run_task(&network, &thief);
    cluster.stopped(&thief);
    let output = cluster.output(&thief);
    let lines: Vec<&str> = output.lines().collect();
    assert_ne!(lines[0], uri);
    assert_eq!(lines[1..], ["400 InvalidIdInRequest", "200"], "{output}");
    cluster.boto().ok("ecs", "stop_task", json!({ "task": victim }));
    cluster.stopped(&victim);
}

/// Waits for other credentials than the first, then uses both.
const ROTATE: &str = r#"
import json, os, time, urllib.request, boto3
from botocore.exceptions import ClientError
def fetch():
    url = "http://169.254.170.2" + os.environ["AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"]
    while True:
        try:
            return json.load(urllib.request.urlopen(url, timeout=20))
        except urllib.error.HTTPError as error:
            assert error.status == 429, error.read()
            time.sleep(1)
def use(keys):
    client = boto3.client(
        "sts", region_name="us-east-1", endpoint_url=os.environ["AWS_ENDPOINT_URL"],
        aws_access_key_id=keys["AccessKeyId"], aws_secret_access_key=keys["SecretAccessKey"], aws_session_token=keys["Token"],
    )
    return client.get_caller_identity()["Arn"].split(":")[-1].split("/")[1]
first = fetch()
again = fetch()
print("kept", first["AccessKeyId"] == again["AccessKeyId"], use(first), flush=True)
while (second := fetch())["AccessKeyId"] == first["AccessKeyId"]:
    time.sleep(0.2)
print("renewed", second["Expiration"] > first["Expiration"], flush=True)
while True:
    try:
        print("used", use(first), use(second), flush=True)
        break
    except ClientError:  # The clock is still ahead.
        time.sleep(0.2)
"#;

#[test]
fn credentials_are_renewed_an_hour_before_they_end() {
    let clock = WallClock::new();
    let cluster = Cluster::start_with(clock.setup());
    let network = cluster.network();
    let role =
        role(&cluster, "app", json!({ "Effect": "Allow", "Action": "ecs:ListClusters", "Resource": "*" }));
    let script = json!([{ "name": "app", "image": "python3-boto3", "command": ["python3", "-c", ROTATE] }]);
    cluster.define("app", script, json!({ "taskRoleArn": role }));
    let arn = cluster.run_task(&network, &TaskRun::of("app"));
    let says = |what: &str| {
        until(what, || {
            let output = cluster.output(&arn);
            let task = cluster.task(&arn);
            let ended = task["lastStatus"] == "STOPPED" && task["containers"][0]["exitCode"] != 0;
            assert!(!ended, "{task:#}\n{output}");
            output.lines().find(|line| line.starts_with(what)).map(str::to_owned)
        })
    };
    assert_eq!(says("kept"), "kept True app");
    // Six hours they live; now fifty minutes are left.
    clock.jump("+18600");
    assert_eq!(says("renewed"), "renewed True");
    clock.jump("+0");
    assert_eq!(says("used"), "used app app");
    let task = cluster.stopped(&arn);
    assert_eq!(task["containers"][0]["exitCode"], 0, "{task:#}");
}

/// A role that tasks may take, with one policy.
pub(crate) fn role(cluster: &Cluster, name: &str, statement: Value) -> Value {
    let document =
        |statement: Value| json!({ "Version": "2012-10-17", "Statement": [statement] }).to_string();
    let trust = json!({
        "Effect": "Allow", "Principal": { "Service": "ecs-tasks.amazonaws.com" }, "Action": "sts:AssumeRole",
    });
    let input = json!({ "RoleName": name, "AssumeRolePolicyDocument": document(trust) });
    let role = cluster.boto().ok("iam", "create_role", input);
    let input = json!({ "RoleName": name, "PolicyName": "own", "PolicyDocument": document(statement) });
    cluster.boto().ok("iam", "put_role_policy", input);
    role["Role"]["Arn"].clone()
}

ferrogate_tests::machines!(a_task_uses_its_role);
