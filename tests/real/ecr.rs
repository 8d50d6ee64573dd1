//! ECR: an image is pushed by an ordinary client and run by a task, as far as its execution role lets it.

use ferrogate_tests::{Cluster, Keys, TaskRun, eventually};
use serde_json::{Value, json};

use crate::task_role::role;

const IMAGE: &str = "123456789012.dkr.ecr.us-east-1.amazonaws.com/team/app:1";
pub(crate) const PULL: [&str; 3] =
    ["ecr:BatchCheckLayerAvailability", "ecr:GetDownloadUrlForLayer", "ecr:BatchGetImage"];

pub(crate) fn skopeo(cluster: &Cluster, password: &str, more: &[&str], to: &str) -> (bool, String) {
    let output = cluster
        .command("skopeo")
        .args([
            "--insecure-policy",
            "copy",
            "--src-tls-verify=false",
            "--dest-tls-verify=false",
            "--dest-creds",
        ])
        .arg(format!("AWS:{password}"))
        .args(more)
        .args(["docker://127.0.0.1:5000/library/busybox:latest", &format!("docker://{to}")])
        .output()
        .expect("skopeo: scripts/deps test");
    (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
}

pub(crate) fn execution_role(cluster: &Cluster, name: &str, actions: &[&str]) -> Value {
    role(cluster, name, json!({ "Effect": "Allow", "Action": actions, "Resource": "*" }))
}

#[test]
fn an_image_is_pushed_and_run() {
    let cluster = Cluster::start();
    let made = cluster.aws(&["ecr", "create-repository", "--repository-name", "team/app"]).json();
    let uri = made["repository"]["repositoryUri"].as_str().expect("a repositoryUri").to_owned();
    assert_eq!(uri, "123456789012.dkr.ecr.us-east-1.localhost:4566/team/app");
    let again = cluster.aws(&["ecr", "create-repository", "--repository-name", "team/app"]);
    assert!(
        again.stderr.contains(
            "(RepositoryAlreadyExistsException) when calling the CreateRepository operation: The repository with name \
             'team/app' already exists in the registry with id '123456789012'"
        ),
        "{}",
        again.stderr
    );
    let password = cluster.aws(&["ecr", "get-login-password"]).ok().trim().to_owned();
    let (pushed, said) = skopeo(&cluster, "v1.forged", &[], "127.0.0.1:4566/team/app:1");
    assert!(!pushed && said.contains("authentication required") || said.contains("nauthorized"), "{said}");
    let (pushed, said) = skopeo(&cluster, &password, &[], "127.0.0.1:4566/none:1");
    assert!(!pushed && said.contains("The repository with name 'none' does not exist"), "{said}");
    let (pushed, said) = skopeo(&cluster, &password, &[], "127.0.0.1:4566/team/app:1");
    assert!(pushed, "{said}");
    let images = cluster.aws(&["ecr", "describe-images", "--repository-name", "team/app"]).json();
    assert_eq!(images["imageDetails"][0]["imageTags"], json!(["1"]), "{images:#}");

    let mut pull = PULL.to_vec();
    pull.push("ecr:GetAuthorizationToken");
    let whole = execution_role(&cluster, "whole", &pull);
    let no_token = execution_role(&cluster, "no-token", &PULL);
    let no_image = execution_role(
        &cluster,
        "no-image",
        &pull[..2].iter().chain(&pull[3..]).copied().collect::<Vec<_>>(),
    );
    let define = |family: &str, image: &str, role: &Value| {
        let container = json!([{ "name": "app", "image": image, "command": ["echo", "from ECR"] }]);
        cluster.define(family, container, json!({ "executionRoleArn": role }));
    };
    define("whole", IMAGE, &whole);
    define("by-uri", &format!("{uri}:1"), &whole);
    define("missing", &IMAGE.replace(":1", ":2"), &whole);
    define("no-token", IMAGE, &no_token);
    define("no-image", IMAGE, &no_image);

    let network = cluster.network();
    let families = ["whole", "by-uri", "missing", "no-token", "no-image"];
    let tasks = families.map(|family| cluster.run_task(&network, &TaskRun::of(family)));
    for arn in &tasks[..2] {
        let task = cluster.stopped(arn);
        assert_eq!(task["containers"][0]["exitCode"], 0, "{task:#}");
        assert_eq!(cluster.output(arn), "from ECR\n");
    }
    let reason = |arn: &str| cluster.stopped(arn)["stoppedReason"].as_str().unwrap_or_default().to_owned();
    for (arn, parts) in [
        (&tasks[2], &["CannotPullContainerError: ", "team/app:2: not found"][..]),
        (
            &tasks[3],
            &[
                "ResourceInitializationError: unable to pull secrets or registry auth: execution resource retrieval failed",
                "assumed-role/no-token/",
                "is not authorized to perform: ecr:GetAuthorizationToken on resource: *",
            ],
        ),
        // Who asked by HEAD is told no more than that; what exactly was denied is in the trail.
        (
            &tasks[4],
            &[
                "CannotPullContainerError: pull image manifest has been retried ",
                "pull access denied, repository does not exist or may require authorization",
            ],
        ),
    ] {
        let reason = reason(arn);
        assert!(parts.iter().all(|part| reason.contains(part)), "{reason}\nhas not all of {parts:?}");
    }
    let records = std::fs::read_dir(cluster.data_seen().join("trail")).expect("the trail");
    let records: String = records
        .map(|entry| std::fs::read_to_string(entry.expect("a segment").path()).expect("text"))
        .collect();
    let denied = records.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()).find(|record| {
        record["eventName"] == "BatchGetImage" && record["errorCode"] == "AccessDeniedException"
    });
    let denied = denied.expect("a denied BatchGetImage")["errorMessage"].to_string();
    for part in [
        "assumed-role/no-image/",
        "is not authorized to perform: ecr:BatchGetImage on resource: \
         arn:aws:ecr:us-east-1:123456789012:repository/team/app because no identity-based policy allows",
    ] {
        assert!(denied.contains(part), "{denied}");
    }
}

#[test]
fn who_pushes_comes_from_where_they_are() {
    let cluster = Cluster::start();
    cluster.aws(&["ecr", "create-repository", "--repository-name", "team/app"]).json();
    let boto = cluster.boto();
    for (name, addresses, may) in [("near", "127.0.0.0/8", true), ("far", "203.0.113.0/24", false)] {
        let policy = json!({ "Version": "2012-10-17", "Statement": [
            { "Effect": "Allow", "Action": "ecr:GetAuthorizationToken", "Resource": "*" },
            { "Effect": "Allow", "Action": "ecr:*", "Resource": "*",
              "Condition": { "IpAddress": { "aws:SourceIp": addresses } } },
        ]});
        boto.ok("iam", "create_user", json!({ "UserName": name }));
        let input = json!({ "UserName": name, "PolicyName": "p", "PolicyDocument": policy.to_string() });
        boto.ok("iam", "put_user_policy", input);
        let keys = boto.ok("iam", "create_access_key", json!({ "UserName": name }));
        let keys = Keys::of(&keys["AccessKey"]);
        let password = cluster.aws_as(&keys, &["ecr", "get-login-password", "--region", "us-east-1"]);
        let (pushed, said) = skopeo(&cluster, password.ok().trim(), &[], "127.0.0.1:4566/team/app:1");
        assert_eq!(pushed, may, "{name}: {said}");
        assert!(may || said.contains("403 (Forbidden)"), "{said}");
    }
}

#[test]
fn a_repository_policy_lets_a_role_pull() {
    let cluster = Cluster::start();
    cluster.aws(&["ecr", "create-repository", "--repository-name", "team/app"]).json();
    let password = cluster.aws(&["ecr", "get-login-password"]).ok().trim().to_owned();
    let (pushed, said) = skopeo(&cluster, &password, &[], "127.0.0.1:4566/team/app:1");
    assert!(pushed, "{said}");
    let role = execution_role(&cluster, "guest", &["ecr:GetAuthorizationToken"]);
    let policy = json!({ "Version": "2012-10-17", "Statement": [
        { "Effect": "Allow", "Principal": { "AWS": role }, "Action": PULL },
    ]});
    let input = json!({ "repositoryName": "team/app", "policyText": policy.to_string() });
    cluster.boto().ok("ecr", "set_repository_policy", input);
    let container = json!([{ "name": "app", "image": IMAGE, "command": ["echo", "as a guest"] }]);
    cluster.define("guest", container, json!({ "executionRoleArn": role }));
    let arn = cluster.run_task(&cluster.network(), &TaskRun::of("guest"));
    let task = cluster.stopped(&arn);
    assert_eq!(task["containers"][0]["exitCode"], 0, "{task:#}");
    assert_eq!(cluster.output(&arn), "as a guest\n");
}

#[test]
fn an_image_comes_through_a_cache_rule() {
    let cluster = Cluster::start();
    // Docker Hub is the test's own registry here, by the mirror that every test has.
    let rule = ["--ecr-repository-prefix", "hub", "--upstream-registry-url", "registry-1.docker.io"];
    cluster.aws(&[&["ecr", "create-pull-through-cache-rule"], &rule[..]].concat()).json();
    let mut actions = PULL.to_vec();
    actions.extend(["ecr:GetAuthorizationToken", "ecr:BatchImportUpstreamImage", "ecr:CreateRepository"]);
    let role = execution_role(&cluster, "cache", &actions);
    let image = "123456789012.dkr.ecr.us-east-1.amazonaws.com/hub/library/busybox:latest";
    let container = json!([{ "name": "app", "image": image, "command": ["echo", "cached"] }]);
    cluster.define("cache", container, json!({ "executionRoleArn": role }));
    let arn = cluster.run_task(&cluster.network(), &TaskRun::of("cache"));
    let task = cluster.stopped(&arn);
    assert_eq!(task["containers"][0]["exitCode"], 0, "{task:#}");
    assert_eq!(cluster.output(&arn), "cached\n");
    let found = cluster.aws(&["ecr", "list-images", "--repository-name", "hub/library/busybox"]).json();
    assert!(found["imageIds"].as_array().is_some_and(|ids| !ids.is_empty()), "{found}");
}

/// Of an image in a folder, as skopeo writes it: one more volume.
const ADD_VOLUME: &str = r#"
import hashlib, json, pathlib, sys
folder = pathlib.Path(sys.argv[1])
manifest = json.loads((folder / "manifest.json").read_text())
config = json.loads((folder / manifest["config"]["digest"].split(":")[1]).read_text())
config.setdefault("config", {})["Volumes"] = {"/shared": {}}
text = json.dumps(config).encode()
name = hashlib.sha256(text).hexdigest()
(folder / name).write_bytes(text)
manifest["config"].update(digest="sha256:" + name, size=len(text))
(folder / "manifest.json").write_text(json.dumps(manifest))
"#;

#[test]
fn volumes_of_an_image_are_taken_along() {
    let cluster = Cluster::start();
    cluster.aws(&["ecr", "create-repository", "--repository-name", "team/app"]).json();
    let password = cluster.aws(&["ecr", "get-login-password"]).ok().trim().to_owned();
    let folder = cluster.folder().join("image");
    let run = |program: &str, arguments: &[&str]| {
        let output = cluster.command(program).args(arguments).output().expect(program);
        assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    };
    let (path, login) = (folder.to_str().expect("a plain path"), format!("AWS:{password}"));
    let (here, from) = (format!("dir:{path}"), "docker://127.0.0.1:5000/library/busybox:latest");
    run("skopeo", &["--insecure-policy", "copy", "--src-tls-verify=false", from, &here]);
    run("python3", &["-c", ADD_VOLUME, path]);
    let to = ["--dest-tls-verify=false", "--dest-creds", &login, &here, "docker://127.0.0.1:4566/team/app:1"];
    run("skopeo", &[&["--insecure-policy", "copy"], &to[..]].concat());

    let mut actions = PULL.to_vec();
    actions.push("ecr:GetAuthorizationToken");
    let role = execution_role(&cluster, "exec", &actions);
    let reading = |from: &str| {
        format!("until cat /shared/file; do sleep 0.1; done; touch /shared/{from} 2>/dev/null || echo kept")
    };
    let taker = |name: &str, from: &str, read_only: bool| {
        json!({ "name": name, "image": "busybox:latest", "essential": false, "stopTimeout": 2,
            "command": ["sh", "-c", reading(name)],
            "volumesFrom": [{ "sourceContainer": from, "readOnly": read_only }] })
    };
    let until_both =
        "echo of the source > /shared/file; until [ -e /shared/writer ]; do sleep 0.1; done; exec sleep 3600";
    let containers = json!([
        { "name": "source", "image": IMAGE, "stopTimeout": 2, "command": ["sh", "-c", until_both] },
        taker("reader", "source", true), taker("chained", "reader", false), taker("writer", "source", false),
        { "name": "alone", "image": IMAGE, "stopTimeout": 2, "essential": false,
          "command": ["sh", "-c", "ls -a /shared | wc -l"] },
    ]);
    cluster.define("volumes", containers, json!({ "executionRoleArn": role }));
    let arn = cluster.run_task(&cluster.network(), &TaskRun::of("volumes"));
    cluster.running(&arn);
    let says = |container: &str, expected: &str| {
        let output = || cluster.ferrogate(&["logs", &arn, "--container", container]).ok();
        eventually(&format!("{container} says {expected:?}"), || output().ends_with(expected));
    };
    // Read-only stays so for who takes it from there; a container that names no other has its own, which is empty.
    says("reader", "of the source\nkept\n");
    says("chained", "of the source\nkept\n");
    says("writer", "of the source\n");
    says("alone", "2\n");
    cluster.boto().ok("ecs", "stop_task", json!({ "task": arn }));
    cluster.stopped(&arn);
    assert_eq!(cluster.left_of_tasks(), Vec::<String>::new());
}
