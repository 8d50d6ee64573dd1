//! ECS Exec, by a client of its own and by `ferrogate exec`.

use std::io::Write;
use std::process::Stdio;

use ferrogate_tests::{Cluster, Keys, Network, eventually, until};
use serde_json::{Value, json};

use crate::task_role::role;

const AGENT_RIGHTS: [&str; 4] = [
    "ssmmessages:CreateControlChannel",
    "ssmmessages:CreateDataChannel",
    "ssmmessages:OpenControlChannel",
    "ssmmessages:OpenDataChannel",
];

fn start(cluster: &Cluster, network: &Network, definition: &str, enabled: bool) -> String {
    let input = json!({
        "taskDefinition": definition, "launchType": "FARGATE", "enableExecuteCommand": enabled,
        "networkConfiguration": network.configuration(&[]),
    });
    let answer = cluster.boto().ok("ecs", "run_task", input);
    assert_eq!(answer["failures"], json!([]), "{answer}");
    let arn = answer["tasks"][0]["taskArn"].as_str().expect("a taskArn").to_owned();
    cluster.running(&arn);
    arn
}

/// A busybox task with ECS Exec whose agent runs.
fn with_exec(cluster: &Cluster) -> String {
    let network = cluster.network();
    let role = role(cluster, "exec", json!({ "Effect": "Allow", "Action": AGENT_RIGHTS, "Resource": "*" }));
    let containers = json!([
        {
            "name": "app", "image": "busybox:latest", "command": ["sleep", "3600"], "stopTimeout": 2,
            "user": "1000", "environment": [{ "name": "COLOUR", "value": "blue" }],
        },
    ]);
    cluster.define("exec", containers, json!({ "taskRoleArn": role }));
    let arn = start(cluster, &network, "exec", true);
    until("the agent runs", || {
        let task = cluster.task(&arn);
        let agent = task["containers"][0]["managedAgents"][0].clone();
        assert_eq!(agent["name"], "ExecuteCommandAgent", "{task:#}");
        (agent["lastStatus"] == "RUNNING").then_some(())
    });
    arn
}

fn open(cluster: &Cluster, arn: &str, command: &str) -> Value {
    let input = json!({ "task": arn, "command": command, "interactive": true });
    cluster.boto().ok("ecs", "execute_command", input)
}

/// What the client says in the end, its output as text in `"text"`.
fn talk(cluster: &Cluster, session: &Value, steps: Value) -> Value {
    let url = session["streamUrl"].as_str().expect("a streamUrl");
    let token = session["tokenValue"].as_str().expect("a tokenValue");
    cluster.python("session_client.py", &[url, token, &steps.to_string()]).json()
}

fn bytes(said: &Value) -> Vec<u8> {
    let text = said["output"].as_str().expect("output").trim_end_matches('=');
    let mut all = Vec::new();
    let (mut bits, mut count) = (0_u32, 0);
    for letter in text.bytes() {
        let value = match letter {
            b'A'..=b'Z' => letter - b'A',
            b'a'..=b'z' => letter - b'a' + 26,
            b'0'..=b'9' => letter - b'0' + 52,
            b'+' => 62,
            _ => 63,
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            all.push((bits >> count) as u8);
        }
    }
    all
}

fn text(said: &Value) -> String {
    String::from_utf8_lossy(&bytes(said)).into_owned()
}

#[test]
fn a_client_of_the_protocol_has_a_shell() {
    let cluster = Cluster::start();
    let arn = with_exec(&cluster);
    let opened = open(&cluster, &arn, "/bin/sh");
    let task = cluster.task(&arn);
    assert_eq!(opened["containerArn"], task["containers"][0]["containerArn"]);
    let parts = (&opened["taskArn"], &opened["clusterArn"], &opened["containerName"], &opened["interactive"]);
    assert_eq!(parts, (&task["taskArn"], &task["clusterArn"], &json!("app"), &json!(true)));
    let session = &opened["session"];
    let id = session["sessionId"].as_str().expect("a sessionId");
    assert!(id.starts_with("ecs-execute-command-"), "{id}");

    // Root, whoever the container runs as; the container's environment; a terminal that changes its size.
    let said = talk(
        &cluster,
        session,
        json!([
            { "size": [101, 33] },
            { "send": "id -u; echo \"<$COLOUR $TERM>\"; stty size; echo e''nd\r" }, { "expect": "end" },
            { "size": [60, 20] },
            { "send": "stty size; echo l''ast\r" }, { "expect": "last" },
            { "send": "exit\r" },
        ]),
    );
    let shown = text(&said);
    for part in ["0\r\n<blue xterm-256color>\r\n33 101\r\nend", "20 60\r\nlast"] {
        assert!(shown.contains(part), "no {part:?} in {shown:?}");
    }
    assert_eq!((&said["closed"], &said["refused"]), (&json!(""), &Value::Null), "{said}");

    // The token was for once, and nobody gets in by another.
    for token in [session["tokenValue"].clone(), json!("0".repeat(64))] {
        let said =
            talk(&cluster, &json!({ "streamUrl": session["streamUrl"], "tokenValue": token }), json!([]));
        assert_eq!(said["refused"], "the token is not valid for this session", "{said}");
    }
}

#[test]
fn much_output_arrives_whole_though_acknowledgements_are_lost() {
    let cluster = Cluster::start();
    let arn = with_exec(&cluster);
    let command = "sh -c 'stty raw; seq 1 170000; printf \"\\000\\377\\200\"'";
    let session = open(&cluster, &arn, command)["session"].take();
    let said = talk(&cluster, &session, json!([{ "deaf": 3 }]));
    let mut expected: Vec<u8> =
        (1..=170_000).flat_map(|number: u32| format!("{number}\n").into_bytes()).collect();
    expected.extend([0, 0xff, 0x80]);
    let seen = bytes(&said);
    assert!(seen == expected, "{} bytes of {}: {}", seen.len(), expected.len(), said["closed"]);
    assert!(expected.len() > 1_000_000);
    assert_eq!(said["closed"], "");
}

#[test]
fn who_leaves_takes_the_process_along_and_a_stop_ends_the_session() {
    let cluster = Cluster::start();
    let arn = with_exec(&cluster);
    let id = arn.rsplit('/').next().unwrap();
    let before = cluster.task_processes(id).len();
    for leave in [json!({ "vanish": true }), json!({ "flag": 2 })] {
        let session = open(&cluster, &arn, "/bin/sh")["session"].take();
        let steps = json!([{ "send": "echo o''n; sleep 1234\r" }, { "expect": "on" }, leave]);
        assert!(text(&talk(&cluster, &session, steps)).contains("on"));
        eventually("nothing of the session is left", || cluster.task_processes(id).len() == before);
    }

    // Two at once, and both end with the task.
    let sessions: Vec<Value> = (0..2).map(|_| open(&cluster, &arn, "/bin/sh")["session"].take()).collect();
    let clients = sessions.iter().map(|session| {
        let url = session["streamUrl"].as_str().unwrap();
        let steps = r#"[{"send": "echo o''n\r"}, {"expect": "on"}]"#;
        let token = session["tokenValue"].as_str().unwrap();
        let mut command = cluster.python_command("session_client.py", &[url, token, steps]);
        command.stdout(Stdio::piped()).spawn().expect("python")
    });
    let clients: Vec<_> = clients.collect();
    eventually("both shells run", || cluster.task_processes(id).len() == before + 2);
    cluster.boto().ok("ecs", "stop_task", json!({ "task": arn }));
    for client in clients {
        let output = client.wait_with_output().expect("it ends");
        assert!(output.status.success());
    }
    cluster.stopped(&arn);
}

#[test]
fn refused_in_the_words_of_aws() {
    let cluster = Cluster::start();
    let arn = with_exec(&cluster);
    let network = cluster.network();
    let ask = |task: &str, more: Value| {
        let mut input = json!({ "task": task, "command": "sh", "interactive": true });
        input.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let error = cluster.boto().call("ecs", "execute_command", input).expect_err("refused");
        (error.code, error.message)
    };
    let invalid = "InvalidParameterException".to_owned();
    let interactive = "Interactive is the only mode supported currently.".to_owned();
    assert_eq!(ask(&arn, json!({ "interactive": false })), (invalid.clone(), interactive));
    assert_eq!(ask(&arn, json!({ "container": "other" })).0, invalid);
    assert_eq!(ask(&arn, json!({ "command": "'open" })).0, invalid);
    assert_eq!(ask(&arn, json!({ "cluster": "none" })).0, "ClusterNotFoundException");
    assert_eq!(
        ask(&"0".repeat(32), json!({})),
        (invalid.clone(), "The referenced task was not found.".into())
    );

    let off = start(&cluster, &network, "exec", false);
    let (code, message) = ask(&off, json!({}));
    assert!(
        message.starts_with("The execute command failed because execute command was not enabled"),
        "{message}"
    );
    assert_eq!(code, invalid);

    // A role without the rights: the agent does not run, and says why.
    let bare =
        role(&cluster, "bare", json!({ "Effect": "Allow", "Action": "ecs:ListClusters", "Resource": "*" }));
    let containers =
        json!([{ "name": "app", "image": "busybox:latest", "command": ["sleep", "3600"], "stopTimeout": 2 }]);
    cluster.define("bare", containers, json!({ "taskRoleArn": bare }));
    let arn_bare = start(&cluster, &network, "bare", true);
    let agent = cluster.task(&arn_bare)["containers"][0]["managedAgents"][0].take();
    assert_eq!(agent["lastStatus"], "STOPPED", "{agent}");
    assert!(agent["reason"].as_str().unwrap().contains("ssmmessages:OpenDataChannel"), "{agent}");
    let not_connected = "The execute command failed due to an internal error. Try again later.".to_owned();
    assert_eq!(ask(&arn_bare, json!({})), ("TargetNotConnectedException".into(), not_connected));

    // A caller needs ecs:ExecuteCommand, and may have it for some containers only.
    let user = |name: &str, condition: Value| {
        let boto = cluster.boto();
        boto.ok("iam", "create_user", json!({ "UserName": name }));
        let policy = json!({ "Version": "2012-10-17", "Statement": [
            { "Effect": "Allow", "Action": "ecs:ExecuteCommand", "Resource": "*", "Condition": condition },
        ]});
        let input = json!({ "UserName": name, "PolicyName": "p", "PolicyDocument": policy.to_string() });
        boto.ok("iam", "put_user_policy", input);
        let keys = boto.ok("iam", "create_access_key", json!({ "UserName": name }));
        cluster.boto_as(&Keys::of(&keys["AccessKey"]))
    };
    let input = json!({ "task": arn, "command": "sh", "interactive": true });
    let other = user("other", json!({ "StringEquals": { "ecs:container-name": "other" } }));
    let error = other.call("ecs", "execute_command", input.clone()).expect_err("denied");
    assert_eq!(error.code, "AccessDeniedException");
    let app = user("app", json!({ "StringEquals": { "ecs:container-name": "app" } }));
    assert!(app.call("ecs", "execute_command", input).is_ok());
}

#[test]
fn ferrogate_exec_passes_input_output_and_exit_code() {
    let cluster = Cluster::start();
    let arn = with_exec(&cluster);
    let id = &arn.rsplit('/').next().unwrap()[..12];
    let mut child = cluster
        .ferrogate_command(&["exec", id, "--", "sh", "-c", "cat; echo oh >&2; exit 7"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("ferrogate");
    let sent: Vec<u8> = (0..300_000_u32).map(|at| (at % 251) as u8).collect();
    let mut stdin = child.stdin.take().unwrap();
    let to_send = sent.clone();
    let writer = std::thread::spawn(move || stdin.write_all(&to_send));
    let output = child.wait_with_output().expect("it ends");
    writer.join().unwrap().expect("it reads all");
    assert_eq!(output.status.code(), Some(7), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stdout == sent, "{} bytes came back", output.stdout.len());
    assert_eq!(String::from_utf8_lossy(&output.stderr), "oh\n");

    let said = cluster.ferrogate(&["exec", id, "--", "/no/such/program"]);
    assert_eq!(said.code, Some(126), "{said:?}");
}
