//! `ferrogate explain`: each thing that goes wrong has its cause and a fix, and the fix is one.

use ferrogate_tests::{Cluster, TaskRun, eventually};
use serde_json::{Value, json};

fn explained(cluster: &Cluster, arn: &str) -> Value {
    cluster.ferrogate(&["explain", arn, "--output", "json"]).json()
}

/// The first finding, which has to be a cause.
#[track_caller]
fn cause(cluster: &Cluster, arn: &str) -> Value {
    let explanation = explained(cluster, arn);
    let first = explanation["findings"][0].clone();
    assert_eq!(first["weight"], "cause", "{explanation:#}");
    first
}

fn text<'a>(finding: &'a Value, name: &str) -> &'a str {
    match &finding[name] {
        Value::Array(all) => all[0].as_str().unwrap_or_default(),
        one => one.as_str().unwrap_or_default(),
    }
}

#[test]
fn why_tasks_did_not_start_and_ended() {
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
    let role = json!({ "executionRoleArn": role["Role"]["Arn"] });
    let logs = json!({ "logDriver": "awslogs", "options": {
        "awslogs-group": "/not/there", "awslogs-region": "us-east-1", "awslogs-stream-prefix": "p" }});

    let define = |family: &str, container: Value, more: Value| {
        let mut one = json!({ "name": "app", "image": "busybox" });
        one.as_object_mut().unwrap().extend(container.as_object().unwrap().clone());
        cluster.define(family, json!([one]), more);
    };
    define("absent", json!({ "image": "nobody-made-this:1" }), Value::Null);
    define("logs", json!({ "logConfiguration": logs }), role.clone());
    define("command", json!({ "command": ["/no/such/program"] }), Value::Null);
    define("hungry", json!({ "command": ["tail", "/dev/zero"] }), Value::Null);
    define("fails", json!({ "command": ["sh", "-c", "echo no database >&2; exit 3"] }), Value::Null);
    let run = |family: &str| cluster.run_task(&network, &TaskRun::of(family));
    let arns = ["absent", "logs", "command", "hungry", "fails"].map(run);
    for arn in &arns {
        cluster.stopped(arn);
    }
    let [absent, logs, command, hungry, fails] = &arns;

    let found = cause(&cluster, absent);
    assert_eq!(found["about"], "image", "{found:#}");
    assert!(text(&found, "what").contains("nobody-made-this:1"), "{found:#}");

    // It has no right to write logs either: told as well.
    let explanation = explained(&cluster, logs);
    let all = explanation["findings"].as_array().unwrap();
    assert!(
        all.iter().any(|of| of["about"] == "role" && text(of, "what").contains("logs:")),
        "{explanation:#}"
    );

    assert_eq!(cause(&cluster, command)["about"], "command");
    let found = cause(&cluster, hungry);
    assert_eq!(found["about"], "size", "{found:#}");
    assert!(text(&found, "fix").contains("cpu 256, memory 1024"), "{found:#}");
    let found = cause(&cluster, fails);
    assert!(text(&found, "what").contains("exited with 3"), "{found:#}");
    assert_eq!(text(&found, "evidence"), "no database");

    // The role gets its rights: the group is what is missing now, and the fix is typed as it stands.
    boto.ok(
        "iam",
        "attach_role_policy",
        json!({ "RoleName": "exec",
        "PolicyArn": "arn:aws:iam::aws:policy/service-role/AmazonECSTaskExecutionRolePolicy" }),
    );
    let arn = run("logs");
    cluster.stopped(&arn);
    let found = cause(&cluster, &arn);
    assert_eq!(found["about"], "logs", "{found:#}");
    let fix = text(&found, "fix");
    assert_eq!(fix, "aws logs create-log-group --log-group-name /not/there --region us-east-1");
    let words: Vec<&str> = fix.split(' ').skip(1).collect();
    cluster.aws(&words).ok();
    let arn = run("logs");
    let task = cluster.stopped(&arn);
    assert_eq!(task["containers"][0]["exitCode"], 0, "{task:#}");

    // For people: one screen.
    let screen = cluster.ferrogate(&["explain", absent]).ok();
    assert!(screen.lines().count() <= 24 && screen.contains("✗ image: "), "{screen}");
    assert_eq!(cluster.ferrogate(&["explain", "ffffffff"]).code, Some(1));
}

#[test]
fn why_a_task_that_runs_does_not_answer() {
    let cluster = Cluster::start();
    let network = cluster.network();
    let ports = json!([{ "containerPort": 80 }]);
    cluster.define("web", json!([{ "name": "web", "image": "nginx", "portMappings": ports }]), Value::Null);
    cluster.define(
        "inward",
        json!([{ "name": "web", "image": "busybox", "command": ["httpd", "-f", "-p", "127.0.0.1:80"],
            "portMappings": ports, "stopTimeout": 2 }]),
        Value::Null,
    );
    let web = cluster.run_task(&network, &TaskRun::of("web"));
    let inward = cluster.run_task(&network, &TaskRun::of("inward"));
    let (_, public) = cluster.addresses(&cluster.running(&web));
    let url = format!("http://{}/", public.expect("a public address"));
    cluster.running(&inward);

    let first = || explained(&cluster, &web)["findings"][0].clone();
    eventually("it is the security group, once nginx listens", || first()["about"] == "security-group");
    let found = first();
    assert_eq!(found["weight"], "obstacle", "{found:#}");
    let fix = text(&found, "fix").replace("<who may>", "0.0.0.0/0");
    let words: Vec<&str> = fix.split(' ').skip(1).collect();
    cluster.aws(&words).ok();
    eventually("the page is served", || {
        cluster.curl(&["--connect-timeout", "1", "--max-time", "5", &url]).is_ok()
    });
    let explanation = explained(&cluster, &web);
    let all = explanation["findings"].as_array().unwrap();
    assert!(all.iter().all(|of| of["weight"] == "note"), "{explanation:#}");
    assert!(text(&all[0], "what").contains("open to 0.0.0.0/0"), "{explanation:#}");

    eventually("it listens inward only", || {
        let found = cause(&cluster, &inward);
        found["about"] == "port" && text(&found, "what").contains("127.0.0.1 only")
    });
}
