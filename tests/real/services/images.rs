//! A service's tasks all have the image its deployment began with, wherever the tag has moved since.

use ferrogate_tests::{Cluster, until};
use serde_json::{Value, json};

use super::Web;
use crate::ecr::{PULL, execution_role, skopeo};

const IMAGE: &str = "123456789012.dkr.ecr.us-east-1.amazonaws.com/team/app:live";

/// Puts busybox behind the tag, in a manifest of this format: what runs is the same, its digest is not.
fn push(cluster: &Cluster, format: &str) -> Value {
    let password = cluster.aws(&["ecr", "get-login-password"]).ok().trim().to_owned();
    let (pushed, said) = skopeo(cluster, &password, &["--format", format], "127.0.0.1:4566/team/app:live");
    assert!(pushed, "{said}");
    let live = ["ecr", "describe-images", "--repository-name", "team/app", "--image-ids", "imageTag=live"];
    cluster.aws(&live).json()["imageDetails"][0]["imageDigest"].take()
}

/// Of the containers that keep to the first image and that go by the tag.
fn digests(task: &Value) -> [&Value; 2] {
    let containers = task["containers"].as_array().expect("containers");
    ["kept", "loose"].map(|name| {
        let found = containers.iter().find(|one| one["name"] == name).expect("a container");
        assert_eq!(found["image"], IMAGE, "{task:#}");
        &found["imageDigest"]
    })
}

#[test]
fn a_tag_that_moves_does_not_change_a_deployment() {
    let cluster = Cluster::start();
    cluster.boto().ok("ecs", "create_cluster", json!({}));
    cluster.aws(&["ecr", "create-repository", "--repository-name", "team/app"]).json();
    let first = push(&cluster, "oci");
    let mut actions = PULL.to_vec();
    actions.push("ecr:GetAuthorizationToken");
    let role = execution_role(&cluster, "puller", &actions);
    let container = |name: &str, consistency: &str| {
        json!({
            "name": name, "image": IMAGE, "command": ["sleep", "3600"], "stopTimeout": 2,
            "versionConsistency": consistency,
        })
    };
    let mut kept = container("kept", "enabled");
    kept.as_object_mut().expect("an object").remove("versionConsistency");
    let containers = json!([kept, container("loose", "disabled")]);
    cluster.define("web", containers, json!({ "executionRoleArn": role }));
    let web = Web(cluster);
    let deployment = |service: &Value| service["deployments"][0]["id"].as_str().expect("an id").to_owned();
    let made = web.create(1, Value::Null);
    web.until_done(&deployment(&made));
    let boto = web.0.boto();
    let revision = || {
        let input = json!({ "service": "web" });
        let listed = boto.ok("ecs", "list_service_deployments", input)["serviceDeployments"].take();
        let arn = &listed[0]["targetServiceRevisionArn"];
        let input = json!({ "serviceRevisionArns": [arn] });
        boto.ok("ecs", "describe_service_revisions", input)["serviceRevisions"][0]["containerImages"].take()
    };
    let established = |digest: &Value| {
        let expected = json!([
            { "containerName": "kept", "image": IMAGE, "imageDigest": digest },
            { "containerName": "loose", "image": IMAGE },
        ]);
        until("the revision's images are known", || (revision() == expected).then_some(()));
    };
    established(&first);

    let second = push(&web.0, "v2s2");
    assert_ne!(first, second);
    web.update(json!({ "desiredCount": 2 }));
    web.until_done(&deployment(&made));
    let tasks = web.tasks("RUNNING");
    let mut seen: Vec<_> = tasks.iter().map(digests).collect();
    seen.sort_by_key(|[_, loose]| **loose != first);
    assert_eq!(seen, [[&first, &first], [&first, &second]]);

    // A deployment of its own looks at the tag again.
    let updated = web.update(json!({ "forceNewDeployment": true }));
    web.until_done(&deployment(&updated));
    established(&second);
    for task in web.tasks("RUNNING") {
        assert_eq!(digests(&task), [&second, &second]);
    }
}
