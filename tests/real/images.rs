//! Images over the task's own network: what AWS could not reach is not reached, with AWS's words, and one change mends it.

use ferrogate_tests::Cluster;
use serde_json::{Value, json};

const NO_WAY: &str = "CannotPullContainerError: pull image manifest has been retried 5 time(s): failed to resolve ref \
                      docker.io/library/busybox:latest: failed to do request: Head \
                      \"https://registry-1.docker.io/v2/library/busybox/manifests/latest\": dial tcp: i/o timeout";

/// Runs one task there, and gives its ARN.
#[track_caller]
fn run(cluster: &Cluster, definition: &str, subnet: &str, groups: &[&str], public: bool) -> String {
    let mut awsvpc =
        json!({ "subnets": [subnet], "assignPublicIp": if public { "ENABLED" } else { "DISABLED" } });
    if !groups.is_empty() {
        awsvpc["securityGroups"] = json!(groups);
    }
    let input = json!({ "taskDefinition": definition, "launchType": "FARGATE",
        "networkConfiguration": { "awsvpcConfiguration": awsvpc } });
    let answer = cluster.boto().ok("ecs", "run_task", input);
    assert_eq!(answer["failures"], json!([]), "{answer}");
    answer["tasks"][0]["taskArn"].as_str().expect("a taskArn").to_owned()
}

/// It never started, for this reason.
#[track_caller]
fn failed(cluster: &Cluster, arn: &str, reason: &str) -> Value {
    let task = cluster.stopped(arn);
    assert_eq!(
        (&task["stopCode"], &task["stoppedReason"]),
        (&json!("TaskFailedToStart"), &json!(reason)),
        "{task:#}"
    );
    assert!(task["startedAt"].is_null(), "{task:#}");
    task
}

/// The first that `ferrogate explain` finds, which has to be a cause.
#[track_caller]
fn cause(cluster: &Cluster, arn: &str) -> Value {
    let explanation = cluster.ferrogate(&["explain", arn, "--output", "json"]).json();
    let first = explanation["findings"][0].clone();
    assert_eq!(first["weight"], "cause", "{explanation:#}");
    first
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}")).to_owned()
}

#[test]
fn without_a_way_out_there_is_no_image() {
    let cluster = Cluster::start();
    let network = cluster.network();
    cluster.define_busybox("box");
    let boto = cluster.boto();

    // Three ways to have none, at the same time.
    let closed = boto.ok(
        "ec2",
        "create_security_group",
        json!({ "GroupName": "closed", "Description": "nothing out", "VpcId": network.vpc }),
    );
    let closed = text(&closed["GroupId"]);
    let everything = json!([{ "IpProtocol": "-1", "IpRanges": [{ "CidrIp": "0.0.0.0/0" }] }]);
    boto.ok("ec2", "revoke_security_group_egress", json!({ "GroupId": closed, "IpPermissions": everything }));
    let table = boto.ok("ec2", "create_route_table", json!({ "VpcId": network.vpc }));
    let table = text(&table["RouteTable"]["RouteTableId"]);
    let subnet =
        boto.ok("ec2", "create_subnet", json!({ "VpcId": network.vpc, "CidrBlock": "172.31.240.0/24" }));
    let subnet = text(&subnet["Subnet"]["SubnetId"]);
    boto.ok("ec2", "associate_route_table", json!({ "RouteTableId": table, "SubnetId": subnet }));

    let no_address = run(&cluster, "box", &network.subnet, &[], false);
    let no_egress = run(&cluster, "box", &network.subnet, &[&closed], true);
    let no_route = run(&cluster, "box", &subnet, &[], true);
    for arn in [&no_address, &no_egress, &no_route] {
        let task = failed(&cluster, arn, NO_WAY);
        assert_eq!(task["containers"][0]["reason"], NO_WAY, "{task:#}");
    }

    // Each is mended by what was missing; the route by what `ferrogate explain` says, as it stands.
    let found = cause(&cluster, &no_route);
    assert_eq!(found["about"], "route", "{found:#}");
    let what = format!(
        "Subnet {subnet} has no way to the internet: its route table {table} has no route for 0.0.0.0/0."
    );
    assert_eq!(found["what"], what);
    let fixes = found["fix"].as_array().expect("fixes").iter().filter_map(Value::as_str);
    let fix = fixes.filter_map(|fix| fix.strip_prefix("aws ")).next().expect("a command");
    cluster.aws(&fix.split(' ').collect::<Vec<_>>()).ok();
    let https = json!([{ "IpProtocol": "tcp", "FromPort": 443, "ToPort": 443, "IpRanges": [{ "CidrIp": "0.0.0.0/0" }] }]);
    boto.ok("ec2", "authorize_security_group_egress", json!({ "GroupId": closed, "IpPermissions": https }));
    let mended = [
        run(&cluster, "box", &network.subnet, &[], true),
        run(&cluster, "box", &network.subnet, &[&closed], true),
        run(&cluster, "box", &subnet, &[], true),
    ];
    for arn in &mended {
        cluster.running(arn);
    }

    // What runs goes on without a way out, over a restart of ferrogate too: nothing is pulled twice.
    boto.ok("ec2", "delete_route", json!({ "RouteTableId": table, "DestinationCidrBlock": "0.0.0.0/0" }));
    let mut cluster = cluster;
    cluster.kill();
    cluster.up();
    let late = run(&cluster, "box", &subnet, &[], true);
    failed(&cluster, &late, NO_WAY);
    for arn in &mended {
        assert_eq!(cluster.task(arn)["lastStatus"], "RUNNING");
        cluster.boto().ok("ecs", "stop_task", json!({ "task": arn, "reason": "the end" }));
    }
    for arn in &mended {
        assert_eq!(cluster.stopped(arn)["stoppedReason"], "the end");
    }
    assert_eq!(cluster.left_of_tasks(), Vec::<String>::new());
}

#[test]
fn network_acls_have_to_let_the_answers_in() {
    let cluster = Cluster::start();
    let network = cluster.network();
    cluster.define_busybox("box");
    let boto = cluster.boto();
    let filters = json!({ "Filters": [{ "Name": "vpc-id", "Values": [network.vpc] }] });
    let acls = boto.ok("ec2", "describe_network_acls", filters);
    let acl = text(&acls["NetworkAcls"][0]["NetworkAclId"]);
    let deny = |number: u32, from: u32, to: u32| {
        json!({ "NetworkAclId": acl, "RuleNumber": number, "Protocol": "6", "RuleAction": "deny", "Egress": false,
            "CidrBlock": "0.0.0.0/0", "PortRange": { "From": from, "To": to } })
    };
    boto.ok("ec2", "create_network_acl_entry", deny(50, 1024, 65535));
    let refused = run(&cluster, "box", &network.subnet, &[], true);
    failed(&cluster, &refused, NO_WAY);
    let found = cause(&cluster, &refused);
    let what = format!("Network ACL {acl} of subnet {} refuses tcp 32768 in (rule 50).", network.subnet);
    assert_eq!((&found["about"], &found["what"]), (&json!("network-acl"), &json!(what)), "{found:#}");
    boto.ok(
        "ec2",
        "delete_network_acl_entry",
        json!({ "NetworkAclId": acl, "RuleNumber": 50, "Egress": false }),
    );
    boto.ok("ec2", "create_network_acl_entry", deny(50, 1, 1023));
    cluster.running(&run(&cluster, "box", &network.subnet, &[], true));
}

/// The registry is reached, CloudWatch Logs and Secrets Manager are not: they are on other ports.
#[test]
fn logs_and_secrets_go_the_same_way() {
    let cluster = Cluster::start();
    let network = cluster.network();
    let boto = cluster.boto();
    let trust = json!({ "Version": "2012-10-17", "Statement": [
        { "Effect": "Allow", "Principal": { "Service": "ecs-tasks.amazonaws.com" }, "Action": "sts:AssumeRole" },
    ]});
    let role = boto.ok(
        "iam",
        "create_role",
        json!({ "RoleName": "exec", "AssumeRolePolicyDocument": trust.to_string() }),
    );
    boto.ok(
        "iam",
        "attach_role_policy",
        json!({ "RoleName": "exec",
            "PolicyArn": "arn:aws:iam::aws:policy/service-role/AmazonECSTaskExecutionRolePolicy" }),
    );
    boto.ok("logs", "create_log_group", json!({ "logGroupName": "/there" }));
    let options =
        json!({ "awslogs-group": "/there", "awslogs-region": "us-east-1", "awslogs-stream-prefix": "p" });
    let container = json!([{ "name": "app", "image": "127.0.0.1:5000/library/busybox:latest",
        "command": ["echo", "here"], "logConfiguration": { "logDriver": "awslogs", "options": options } }]);
    let role = json!({ "executionRoleArn": role["Role"]["Arn"] });
    cluster.define("logs", container, role.clone());
    let secret =
        json!([{ "name": "KEY", "valueFrom": "arn:aws:secretsmanager:us-east-1:000000000000:secret:key" }]);
    let container =
        json!([{ "name": "app", "image": "127.0.0.1:5000/library/busybox:latest", "secrets": secret }]);
    cluster.define("secret", container, role);

    let group = boto.ok(
        "ec2",
        "create_security_group",
        json!({ "GroupName": "registry", "Description": "to the registry", "VpcId": network.vpc }),
    );
    let group = text(&group["GroupId"]);
    let to = |port: u16| json!([{ "IpProtocol": "tcp", "FromPort": port, "ToPort": port, "IpRanges": [{ "CidrIp": "0.0.0.0/0" }] }]);
    let everything = json!([{ "IpProtocol": "-1", "IpRanges": [{ "CidrIp": "0.0.0.0/0" }] }]);
    boto.ok("ec2", "revoke_security_group_egress", json!({ "GroupId": group, "IpPermissions": everything }));
    boto.ok("ec2", "authorize_security_group_egress", json!({ "GroupId": group, "IpPermissions": to(5000) }));
    let arn = run(&cluster, "logs", &network.subnet, &[&group], true);
    let reason = "ResourceInitializationError: failed to validate logger args: create stream has been retried 5 times: \
                  failed to create Cloudwatch log stream: RequestError: send request failed caused by: Post \
                  \"https://logs.us-east-1.amazonaws.com/\": dial tcp: i/o timeout : exit status 1";
    failed(&cluster, &arn, reason);
    let arn = run(&cluster, "secret", &network.subnet, &[&group], true);
    let reason = "ResourceInitializationError: unable to pull secrets or registry auth: execution resource retrieval \
                  failed: unable to retrieve secret from asm: service call has been retried 5 time(s): \
                  RequestCanceled: request context canceled caused by: context deadline exceeded";
    failed(&cluster, &arn, reason);

    boto.ok("ec2", "authorize_security_group_egress", json!({ "GroupId": group, "IpPermissions": to(443) }));
    let arn = run(&cluster, "logs", &network.subnet, &[&group], true);
    let task = cluster.stopped(&arn);
    assert_eq!(task["containers"][0]["exitCode"], 0, "{task:#}");
    assert_eq!(cluster.output(&arn), "here\n");
}
