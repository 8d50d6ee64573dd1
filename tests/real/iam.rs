//! Who may do what: users, policies, roles.

use ferrogate_tests::{Cluster, Keys};
use serde_json::{Value, json};

const ACCOUNT: &str = "123456789012";

fn policy(statements: Value) -> Value {
    json!({ "Version": "2012-10-17", "Statement": statements }).to_string().into()
}

#[test]
fn a_narrow_policy() {
    let cluster = Cluster::start();
    let root = cluster.boto();
    let user_arn = format!("arn:aws:iam::{ACCOUNT}:user/ann");
    root.ok("iam", "create_user", json!({ "UserName": "ann" }));
    let keys = Keys::of(&root.ok("iam", "create_access_key", json!({ "UserName": "ann" }))["AccessKey"]);

    // Without a policy: nothing, but who one is.
    let denied = cluster.aws_as(&keys, &["ecs", "list-clusters"]);
    assert!(denied.code != Some(0) && denied.stderr.contains("AccessDeniedException"), "{denied:?}");
    let caller = cluster.aws_as(&keys, &["sts", "get-caller-identity"]).json();
    assert_eq!((&caller["Arn"], &caller["Account"]), (&json!(user_arn), &json!(ACCOUNT)));

    root.ok("iam", "put_user_policy", json!({ "UserName": "ann", "PolicyName": "narrow", "PolicyDocument": policy(json!([
        { "Effect": "Allow", "Action": ["ecs:ListClusters", "ecs:RegisterTaskDefinition", "ecs:RunTask"], "Resource": "*" },
        { "Effect": "Allow", "Action": "sts:AssumeRole", "Resource": format!("arn:aws:iam::{ACCOUNT}:role/reader") },
    ])) }));
    let ann = cluster.boto_as(&keys);
    cluster.aws_as(&keys, &["ecs", "list-clusters"]).ok();
    for (service, operation, input) in [
        ("ecs", "create_cluster", json!({ "clusterName": "no" })),
        ("ecs", "list_tasks", json!({})),
        ("logs", "describe_log_groups", json!({})),
    ] {
        let refused = ann.refused(service, operation, input);
        assert_eq!((refused.code.as_str(), refused.status), ("AccessDeniedException", 400), "{refused:?}");
        let says = format!("User: {user_arn} is not authorized to perform: {service}:");
        assert!(refused.message.starts_with(&says), "{refused:?}");
    }
    assert_eq!(ann.refused("ec2", "describe_vpcs", json!({})).code, "UnauthorizedOperation");
    let refused = ann.refused("iam", "list_users", json!({}));
    assert_eq!((refused.code.as_str(), refused.status), ("AccessDenied", 403), "{refused:?}");

    roles_are_passed_by_right(&cluster, &ann, &user_arn);
    a_role_is_assumed(&cluster, &ann);

    // A key that is no more is refused at once; so is a wrong secret.
    let wrong = Keys { secret_access_key: "wrong".repeat(8), ..keys.clone() };
    let refused = cluster.boto_as(&wrong).refused("ecs", "list_clusters", json!({}));
    assert!(refused.code.contains("Signature"), "{refused:?}");
    root.ok("iam", "delete_access_key", json!({ "UserName": "ann", "AccessKeyId": keys.access_key_id }));
    let refused = ann.refused("ecs", "list_clusters", json!({}));
    assert_eq!(refused.code, "UnrecognizedClientException", "{refused:?}");
}

/// Who gives a task a role needs iam:PassRole on it.
fn roles_are_passed_by_right(cluster: &Cluster, ann: &ferrogate_tests::Boto, user_arn: &str) {
    let root = cluster.boto();
    let trust = policy(json!([
        { "Effect": "Allow", "Principal": { "Service": "ecs-tasks.amazonaws.com" }, "Action": "sts:AssumeRole" },
    ]));
    let role = root.ok("iam", "create_role", json!({ "RoleName": "app", "AssumeRolePolicyDocument": trust }));
    let role = role["Role"]["Arn"].as_str().unwrap().to_owned();
    let with_role = json!({ "family": "roles", "networkMode": "awsvpc", "requiresCompatibilities": ["FARGATE"],
        "cpu": "256", "memory": "512", "taskRoleArn": role,
        "containerDefinitions": [{ "name": "app", "image": "busybox", "command": ["true"] }] });
    let refused = ann.refused("ecs", "register_task_definition", with_role.clone());
    assert_eq!(refused.code, "AccessDeniedException");
    let says = format!("User: {user_arn} is not authorized to perform: iam:PassRole on resource: {role}");
    assert!(refused.message.starts_with(&says), "{refused:?}");
    // What somebody else registered is run by right too.
    root.ok("ecs", "register_task_definition", with_role.clone());
    let run = json!({ "taskDefinition": "roles", "launchType": "FARGATE",
        "networkConfiguration": cluster.network().configuration(&[]) });
    let refused = ann.refused("ecs", "run_task", run.clone());
    assert!(
        refused.code == "AccessDeniedException" && refused.message.contains("iam:PassRole"),
        "{refused:?}"
    );
    root.ok(
        "iam",
        "put_user_policy",
        json!({ "UserName": "ann", "PolicyName": "pass", "PolicyDocument": policy(json!([
        { "Effect": "Allow", "Action": "iam:PassRole", "Resource": role,
          "Condition": { "StringEquals": { "iam:PassedToService": "ecs-tasks.amazonaws.com" } } },
    ])) }),
    );
    ann.ok("ecs", "register_task_definition", with_role);
    let ran = ann.ok("ecs", "run_task", run);
    let task = cluster.stopped(ran["tasks"][0]["taskArn"].as_str().unwrap());
    assert_eq!(task["containers"][0]["exitCode"], 0, "{task:#}");
}

fn a_role_is_assumed(cluster: &Cluster, ann: &ferrogate_tests::Boto) {
    let root = cluster.boto();
    let trust = policy(json!([
        { "Effect": "Allow", "Principal": { "AWS": format!("arn:aws:iam::{ACCOUNT}:root") }, "Action": "sts:AssumeRole" },
    ]));
    for name in ["reader", "other"] {
        root.ok("iam", "create_role", json!({ "RoleName": name, "AssumeRolePolicyDocument": trust }));
    }
    root.ok(
        "iam",
        "put_role_policy",
        json!({ "RoleName": "reader", "PolicyName": "read", "PolicyDocument": policy(json!([
        { "Effect": "Allow", "Action": ["ecs:List*", "ecs:Describe*"], "Resource": "*" },
    ])) }),
    );
    let role = |name: &str| format!("arn:aws:iam::{ACCOUNT}:role/{name}");
    let refused =
        ann.refused("sts", "assume_role", json!({ "RoleArn": role("other"), "RoleSessionName": "work" }));
    assert_eq!(refused.code, "AccessDenied", "{refused:?}");
    let assumed =
        ann.ok("sts", "assume_role", json!({ "RoleArn": role("reader"), "RoleSessionName": "work" }));
    let keys = Keys::of(&assumed["Credentials"]);
    assert!(keys.access_key_id.starts_with("ASIA") && keys.session_token.is_some());
    let session = cluster.boto_as(&keys);
    let arn = format!("arn:aws:sts::{ACCOUNT}:assumed-role/reader/work");
    assert_eq!(session.ok("sts", "get_caller_identity", json!({}))["Arn"], arn.as_str());
    session.ok("ecs", "list_tasks", json!({}));
    let refused = session.refused("ecs", "create_cluster", json!({ "clusterName": "no" }));
    assert!(
        refused.message.starts_with(&format!("User: {arn} is not authorized to perform: ecs:CreateCluster")),
        "{refused:?}"
    );
    // A session's key is nothing without its token.
    let tokenless = Keys { session_token: None, ..keys };
    let refused = cluster.boto_as(&tokenless).refused("ecs", "list_tasks", json!({}));
    assert!(
        ["UnrecognizedClientException", "InvalidClientTokenId"].contains(&refused.code.as_str()),
        "{refused:?}"
    );
}
