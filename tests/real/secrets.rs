//! Secrets and parameters in a task's environment, got as its execution role.

use ferrogate_tests::{Cluster, Setup, TaskRun};
use serde_json::{Value, json};

/// Found nowhere but where they belong.
const PLAIN: &str = "kX7-plain-secret-of-the-test";
const PLAIN_PARAMETER: &str = "kX7-plain-parameter-of-the-test";
const PREFIX: &str = "ResourceInitializationError: unable to pull secrets or registry auth: execution resource retrieval failed: ";

fn execution_role(cluster: &Cluster, name: &str, statements: &Value) -> String {
    let boto = cluster.boto();
    let trust = json!({ "Version": "2012-10-17", "Statement": [
        { "Effect": "Allow", "Principal": { "Service": "ecs-tasks.amazonaws.com" }, "Action": "sts:AssumeRole" },
    ]});
    let role = boto.ok(
        "iam",
        "create_role",
        json!({ "RoleName": name, "AssumeRolePolicyDocument": trust.to_string() }),
    );
    let managed = "arn:aws:iam::aws:policy/service-role/AmazonECSTaskExecutionRolePolicy";
    boto.ok("iam", "attach_role_policy", json!({ "RoleName": name, "PolicyArn": managed }));
    let policy = json!({ "Version": "2012-10-17", "Statement": statements });
    boto.ok(
        "iam",
        "put_role_policy",
        json!({ "RoleName": name, "PolicyName": "secrets", "PolicyDocument": policy.to_string() }),
    );
    role["Role"]["Arn"].as_str().expect("an ARN").to_owned()
}

fn container(secrets: &Value) -> Value {
    let options = json!({
        "awslogs-group": "/secrets", "awslogs-region": "us-east-1", "awslogs-stream-prefix": "app",
    });
    json!([{
        "name": "app", "image": "busybox", "secrets": secrets,
        // Each value's digest, for values must not be in the logs of a test that greps for them.
        "command": ["sh", "-c", "for v in WHOLE KEY OLD BARE BY_ARN; do eval \"x=\\$$v\"; printf '%s ' $v; printf %s \"$x\" | md5sum; done"],
        "logConfiguration": { "logDriver": "awslogs", "options": options },
    }])
}

fn md5(cluster: &Cluster, text: &str) -> String {
    let script = "import hashlib,sys; print(hashlib.md5(sys.argv[1].encode()).hexdigest())";
    let output = cluster.command("python3").args(["-c", script, text]).output().expect("python3");
    String::from_utf8(output.stdout).expect("hex").trim().to_owned()
}

#[test]
fn values_reach_the_container_and_nothing_else() {
    let cluster = Cluster::start();
    let boto = cluster.boto();
    let network = cluster.network();
    boto.ok("logs", "create_log_group", json!({ "logGroupName": "/secrets" }));
    let whole = json!({ "user": "admin", "password": PLAIN }).to_string();
    let secret =
        boto.ok("secretsmanager", "create_secret", json!({ "Name": "app/db", "SecretString": "kX7-older" }));
    let arn = secret["ARN"].as_str().unwrap();
    // The aws CLI has its own way of writing it.
    cluster
        .aws(&["secretsmanager", "put-secret-value", "--secret-id", "app/db", "--secret-string", &whole])
        .ok();
    let parameter = json!({ "Name": "/app/token", "Type": "SecureString", "Value": PLAIN_PARAMETER });
    boto.ok("ssm", "put_parameter", parameter);
    let parameter_arn = "arn:aws:ssm:us-east-1:123456789012:parameter/app/token";
    let role = execution_role(
        &cluster,
        "exec",
        &json!([
            { "Effect": "Allow", "Action": "secretsmanager:GetSecretValue", "Resource": arn },
            { "Effect": "Allow", "Action": "ssm:GetParameters", "Resource": parameter_arn },
        ]),
    );
    let secrets = json!([
        { "name": "WHOLE", "valueFrom": arn },
        { "name": "KEY", "valueFrom": format!("{arn}:password::") },
        { "name": "OLD", "valueFrom": format!("{arn}::AWSPREVIOUS:") },
        { "name": "BARE", "valueFrom": "/app/token" },
        { "name": "BY_ARN", "valueFrom": parameter_arn },
    ]);
    cluster.define("app", container(&secrets), json!({ "executionRoleArn": role }));
    let task = cluster.run_task(&network, &TaskRun::of("app"));
    let stopped = cluster.stopped(&task);
    assert_eq!(stopped["containers"][0]["exitCode"], 0, "{stopped:#}");
    let expected: String = [
        ("WHOLE", whole.as_str()),
        ("KEY", PLAIN),
        ("OLD", "kX7-older"),
        ("BARE", PLAIN_PARAMETER),
        ("BY_ARN", PLAIN_PARAMETER),
    ]
    .map(|(name, value)| format!("{name} {}  -\n", md5(&cluster, value)))
    .concat();
    assert_eq!(cluster.output(&task), expected);

    // The values as their owner gets them.
    let got = boto.ok("secretsmanager", "get_secret_value", json!({ "SecretId": "app/db" }));
    assert_eq!(got["SecretString"], whole);
    let got = cluster.aws(&["ssm", "get-parameter", "--name", "/app/token", "--with-decryption"]).json();
    assert_eq!(got["Parameter"]["Value"], PLAIN_PARAMETER);

    // Nowhere in the data folder (store, trail, logs, tasks) nor in what ferrogate said; the look itself works.
    assert_ne!(holding(&cluster, "/app/token"), "");
    for value in [PLAIN, PLAIN_PARAMETER, "kX7-"] {
        assert_eq!(holding(&cluster, value), "", "{value}");
    }
    // The trail has the calls.
    let trail = cluster.data_seen().join("trail");
    let calls: String = std::fs::read_dir(trail)
        .expect("the trail")
        .map(|entry| std::fs::read_to_string(entry.expect("an entry").path()).expect("text"))
        .collect();
    assert!(calls.contains("GetSecretValue") && calls.contains("GetParameters"));
}

/// The files that hold the text. Images hold what their makers put there, and templates of disks are empty (and large).
fn holding(cluster: &Cluster, text: &str) -> String {
    let mut grep = cluster.command("grep");
    grep.args([
        "-rlaF",
        "--devices=skip",
        "--exclude-dir=images",
        "--exclude-dir=storage-templates",
        "-e",
        text,
    ]);
    let output = grep.arg(cluster.data()).arg(cluster.log()).output().expect("grep");
    // 1: in none.
    assert!(matches!(output.status.code(), Some(0 | 1)), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("names")
}

#[test]
fn what_cannot_be_had_is_said_in_awss_words() {
    let cluster = Cluster::start();
    let boto = cluster.boto();
    let network = cluster.network();
    boto.ok("logs", "create_log_group", json!({ "logGroupName": "/secrets" }));
    let secret =
        boto.ok("secretsmanager", "create_secret", json!({ "Name": "app", "SecretString": "{\"a\":1}" }));
    let arn = secret["ARN"].as_str().unwrap();
    let other = boto.ok("secretsmanager", "create_secret", json!({ "Name": "other", "SecretString": "x" }));
    let other = other["ARN"].as_str().unwrap();
    let role = execution_role(
        &cluster,
        "exec",
        &json!([
            { "Effect": "Allow", "Action": "secretsmanager:GetSecretValue", "Resource": format!("{arn}*") },
            { "Effect": "Allow", "Action": "ssm:GetParameters", "Resource": "arn:aws:ssm:*:*:parameter/known" },
        ]),
    );
    let run = |family: &str, value_from: &str| {
        let secrets = json!([{ "name": "WHOLE", "valueFrom": value_from }]);
        cluster.define(family, container(&secrets), json!({ "executionRoleArn": role }));
        cluster.run_task(&network, &TaskRun::of(family))
    };
    let gone = format!("{arn}:::00000000-0000-4000-a000-000000000000");
    let tasks = [
        run("denied", other),
        run("key", &format!("{arn}:password::")),
        run("version", &gone),
        run("parameter", "known"),
        run("parameter-denied", "unknown"),
    ];
    let mut private = container(&json!([]));
    private[0]["repositoryCredentials"] = json!({ "credentialsParameter": other });
    cluster.define("private", private, json!({ "executionRoleArn": role }));
    let private = cluster.run_task(&network, &TaskRun::of("private"));

    let who = |task: &str| {
        let id = task.rsplit('/').next().unwrap();
        format!("User: arn:aws:sts::123456789012:assumed-role/exec/{id} is not authorized to perform")
    };
    let asm = "unable to retrieve secret from asm: service call has been retried 1 time(s): ";
    let ssm = "unable to retrieve secrets from ssm: service call has been retried 1 time(s): ";
    let denied = |task: &str| {
        format!(
            "{asm}failed to fetch secret {other} from secrets manager: AccessDeniedException: {}: \
             secretsmanager:GetSecretValue on resource: {other} because no identity-based policy allows the \
             secretsmanager:GetSecretValue action",
            who(task)
        )
    };
    let expected = [
        denied(&tasks[0]),
        format!("{asm}retrieved secret from Secrets Manager did not contain json key password"),
        format!(
            "{asm}failed to fetch secret {arn} from secrets manager: ResourceNotFoundException: Secrets Manager can't find \
             the specified secret value for VersionId: 00000000-0000-4000-a000-000000000000"
        ),
        format!("{ssm}invalid ssm parameters: known"),
        format!(
            "{ssm}AccessDeniedException: {}: ssm:GetParameters on resource: \
             arn:aws:ssm:us-east-1:123456789012:parameter/unknown because no identity-based policy allows the \
             ssm:GetParameters action",
            who(&tasks[4])
        ),
    ];
    for (task, expected) in tasks.iter().zip(expected) {
        let stopped = cluster.stopped(task);
        assert_eq!(stopped["stoppedReason"], format!("{PREFIX}{expected}"));
        assert_eq!(stopped["stopCode"], "TaskFailedToStart");
    }
    // And `ferrogate explain` says which of it is missing: a right, a key, a version, a parameter.
    let not_there = "A secret or parameter of the task definition is not there.";
    let may_not = format!("The execution role exec may not secretsmanager:GetSecretValue on {other}.");
    for (task, about, what) in [
        (&tasks[0], "role", &*may_not),
        (&tasks[1], "secret", "The secret has no such JSON key."),
        (&tasks[2], "secret", not_there),
        (&tasks[3], "secret", not_there),
    ] {
        let explanation = cluster.ferrogate(&["explain", task, "--output", "json"]).json();
        let found = &explanation["findings"][0];
        let told = (&found["weight"], &found["about"], &found["what"]);
        assert_eq!(told, (&json!("cause"), &json!(about), &json!(what)), "{explanation:#}");
        let reason = found["evidence"][0].as_str().unwrap_or_default();
        assert!(reason.starts_with(PREFIX) && found["fix"][0].is_string(), "{found:#}");
    }
    let stopped = cluster.stopped(&private);
    assert_eq!(stopped["stoppedReason"], format!("{PREFIX}{}", denied(&private)));
}

#[test]
fn a_secrets_own_policy_is_judged() {
    let cluster = Cluster::start();
    let boto = cluster.boto();
    boto.ok("secretsmanager", "create_secret", json!({ "Name": "mine", "SecretString": "x" }));
    let user = boto.ok("iam", "create_user", json!({ "UserName": "reader" }))["User"]["Arn"].clone();
    let key = boto.ok("iam", "create_access_key", json!({ "UserName": "reader" }));
    let reader = cluster.boto_as(&ferrogate_tests::Keys::of(&key["AccessKey"]));
    let get = json!({ "SecretId": "mine" });
    assert_eq!(
        reader.refused("secretsmanager", "get_secret_value", get.clone()).code,
        "AccessDeniedException"
    );
    let policy = json!({ "Version": "2012-10-17", "Statement": [
        { "Effect": "Allow", "Principal": { "AWS": user }, "Action": "secretsmanager:GetSecretValue", "Resource": "*" },
    ]});
    let put = json!({ "SecretId": "mine", "ResourcePolicy": policy.to_string(), "BlockPublicPolicy": true });
    boto.ok("secretsmanager", "put_resource_policy", put);
    assert_eq!(reader.ok("secretsmanager", "get_secret_value", get)["SecretString"], "x");
    // A batch judges each secret by itself.
    let batch =
        boto.ok("secretsmanager", "batch_get_secret_value", json!({ "SecretIdList": ["mine", "none"] }));
    assert_eq!(batch["SecretValues"][0]["SecretString"], "x");
    assert_eq!(batch["Errors"][0]["ErrorCode"], "ResourceNotFoundException");
}

/// `puller` with the password `kX7-registry-password`, by bcrypt.
const HTPASSWD: &str = "puller:$2y$05$abcdefghijklmnopqrstuuDCNmmx8YbxFdhNu/hX9iR4hf5a5uRyS\n";

#[test]
fn a_private_registry_is_told_who_asks() {
    const ADDRESS: &str = "127.0.0.1:5002";
    let mirror = format!("private.test/*=http://{ADDRESS}/*");
    let arguments = vec!["--registry-mirror".into(), mirror];
    let cluster = Cluster::start_with(Setup { arguments, ..Default::default() });
    let _registry = cluster.private_registry(ADDRESS, HTPASSWD);
    let secret = |name: &str, password: &str| {
        let value = json!({ "username": "puller", "password": password }).to_string();
        let input = json!({ "Name": name, "SecretString": value });
        cluster.boto().ok("secretsmanager", "create_secret", input)["ARN"].clone()
    };
    let (right, wrong) = (secret("right", "kX7-registry-password"), secret("wrong", "kX7-another"));
    let role = execution_role(
        &cluster,
        "exec",
        &json!([{ "Effect": "Allow", "Action": "secretsmanager:GetSecretValue", "Resource": "*" }]),
    );
    let network = cluster.network();
    let run = |family: &str, credentials: Option<&Value>| {
        let image = "private.test/library/busybox:latest";
        let mut container = json!([{ "name": "app", "image": image, "command": ["echo", "let in"] }]);
        if let Some(secret) = credentials {
            container[0]["repositoryCredentials"] = json!({ "credentialsParameter": secret });
        }
        cluster.define(family, container, json!({ "executionRoleArn": role }));
        cluster.run_task(&network, &TaskRun::of(family))
    };
    let let_in = run("right", Some(&right));
    let task = cluster.stopped(&let_in);
    assert_eq!(task["containers"][0]["exitCode"], 0, "{task:#}");
    assert_eq!(cluster.output(&let_in), "let in\n");
    // The image is here now, which opens it to nobody else.
    for task in [run("wrong", Some(&wrong)), run("nobody", None)] {
        let task = cluster.stopped(&task);
        let reason = task["stoppedReason"].as_str().unwrap_or_default();
        assert!(
            reason.starts_with(
                "CannotPullContainerError: pull image manifest has been retried 1 time(s): failed to resolve ref \
                 private.test/library/busybox:latest: pull access denied, repository does not exist or may require \
                 authorization"
            ),
            "{reason}"
        );
        assert_eq!(task["stopCode"], "TaskFailedToStart");
    }
    for password in ["kX7-registry-password", "kX7-another"] {
        assert_eq!(holding(&cluster, password), "", "{password}");
    }
}
