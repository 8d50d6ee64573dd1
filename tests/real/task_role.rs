//! A task with a role of its own calls the API that runs it.

use ferrogate_tests::{Cluster, TaskRun};
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
    let boto = cluster.boto();
    let document = |statement: Value| {
        Value::from(json!({ "Version": "2012-10-17", "Statement": [statement] }).to_string())
    };
    let trust = document(
        json!({ "Effect": "Allow", "Principal": { "Service": "ecs-tasks.amazonaws.com" }, "Action": "sts:AssumeRole" }),
    );
    let role = boto.ok("iam", "create_role", json!({ "RoleName": "app", "AssumeRolePolicyDocument": trust }));
    let allow = document(json!({ "Effect": "Allow", "Action": "ecs:ListClusters", "Resource": "*" }));
    boto.ok(
        "iam",
        "put_role_policy",
        json!({ "RoleName": "app", "PolicyName": "list", "PolicyDocument": allow }),
    );
    let script = json!([{ "name": "app", "image": "python3-boto3", "command": ["python3", "-c", SCRIPT] }]);
    let definition = cluster.define("app", script.clone(), json!({ "taskRoleArn": role["Role"]["Arn"] }));
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
    assert_eq!(definition["taskRoleArn"], role["Role"]["Arn"]);

    // Without a role there are no credentials to be had.
    let task = cluster.stopped(&without);
    assert_eq!(task["containers"][0]["exitCode"], 1, "{task:#}");
    assert!(cluster.output(&without).contains("NoCredentialsError"), "{}", cluster.output(&without));
}
