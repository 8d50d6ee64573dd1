//! `aws ecs execute-command`. Real: the aws CLI, with all that it does before and after (the look for the plugin, the
//! calls, the arguments it hands over). Ours: the plugin, for the public one is no part of the CLI; a stand-in of its
//! name (`tests/python/bin`) speaks its protocol by the client that the other tests of ECS Exec have.

use ferrogate_tests::{Cluster, Setup};
use serde_json::json;

use crate::exec::{text, with_exec};

const PLUGINS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/python/bin");

#[test]
fn the_aws_cli_hands_its_plugin_a_session() {
    let steps = json!([
        { "size": [101, 33] },
        { "send": "stty size; echo \"<$COLOUR>\"; exit\r" },
    ]);
    let environment = vec![
        (
            "PATH".to_owned(),
            format!("{PLUGINS}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
        ),
        ("SESSION_STEPS".to_owned(), steps.to_string()),
    ];
    let cluster = Cluster::start_with(Setup { environment, ..Default::default() });
    let arn = with_exec(&cluster);
    let id = arn.rsplit('/').next().expect("an id");
    let execute = |task: &str| {
        cluster.aws(&[
            "ecs",
            "execute-command",
            "--cluster",
            "default",
            "--task",
            task,
            "--container",
            "app",
            "--interactive",
            "--command",
            "/bin/sh",
        ])
    };
    let told = execute(id).json();
    let runtime = cluster.task(&arn)["containers"][0]["runtimeId"].clone();
    let target = format!("ecs:default_{id}_{}", runtime.as_str().expect("a runtimeId"));
    let [session, rest @ ..] = told["arguments"].as_array().expect("arguments").as_slice() else {
        panic!("{told}")
    };
    assert!(session["sessionId"].as_str().is_some_and(|id| id.starts_with("ecs-execute-command-")), "{told}");
    // Region, operation, profile (none is named), parameters, endpoint.
    let expected = [
        json!("us-east-1"),
        json!("StartSession"),
        json!(""),
        json!({ "Target": target }),
        json!("http://127.0.0.1:4566"),
    ];
    assert_eq!(rest, expected);
    let shown = text(&told["said"]);
    assert!(shown.contains("33 101\r\n<blue>\r\n"), "{shown:?}");
    assert_eq!((&told["said"]["closed"], &told["said"]["refused"]), (&json!(""), &json!(null)), "{told}");

    // What is refused the CLI says itself, and no plugin hears of it.
    let refused = execute(&"0".repeat(32));
    assert_eq!((refused.code, refused.stdout.trim()), (Some(255), ""), "{refused:?}");
    let words = "An error occurred (InvalidParameterException) when calling the ExecuteCommand operation: The referenced \
                 task was not found.";
    assert!(refused.stderr.contains(words), "{}", refused.stderr);
}
