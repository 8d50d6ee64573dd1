//! ECS Exec, by a client of its own and by `ferrogate exec`.

use std::io::Write;
use std::process::{Child, Stdio};

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
pub(crate) fn with_exec(cluster: &Cluster) -> String {
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
    let [url, token, id] = parts(session);
    cluster.python("session_client.py", &[url, token, &steps.to_string(), id]).json()
}

fn parts(session: &Value) -> [&str; 3] {
    ["streamUrl", "tokenValue", "sessionId"].map(|name| session[name].as_str().expect(name))
}

/// A client that talks on its own.
fn talking(cluster: &Cluster, session: &Value, steps: &Value) -> Child {
    let [url, token, id] = parts(session);
    let mut command = cluster.python_command("session_client.py", &[url, token, &steps.to_string(), id]);
    command.stdout(Stdio::piped()).spawn().expect("python")
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

pub(crate) fn text(said: &Value) -> String {
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
        let mut session = session.clone();
        session["tokenValue"] = token;
        let said = talk(&cluster, &session, json!([]));
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
    let before = cluster.inside(&arn);
    // Who only vanishes might come back, for a while.
    for leave in [json!({ "flag": 2 }), json!({ "vanish": true })] {
        let session = open(&cluster, &arn, "/bin/sh")["session"].take();
        let steps = json!([{ "send": "echo o''n; sleep 1234\r" }, { "expect": "on" }, leave]);
        assert!(text(&talk(&cluster, &session, steps)).contains("on"));
        eventually("nothing of the session is left", || cluster.inside(&arn) == before);
    }

    // Two at once, and both end with the task.
    let sessions: Vec<Value> = (0..2).map(|_| open(&cluster, &arn, "/bin/sh")["session"].take()).collect();
    let steps = json!([{ "send": "echo o''n\r" }, { "expect": "on" }]);
    let clients: Vec<Child> = sessions.iter().map(|session| talking(&cluster, session, &steps)).collect();
    eventually("both shells run", || cluster.inside(&arn).len() == before.len() + 2);
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

/// What Session Manager says of a session, in the state `Active` or `History`.
fn described(cluster: &Cluster, state: &str, session: &Value) -> Option<Value> {
    let filters = json!([{ "key": "SessionId", "value": session["sessionId"] }]);
    let answer = cluster.boto().ok("ssm", "describe_sessions", json!({ "State": state, "Filters": filters }));
    answer["Sessions"].as_array().expect("Sessions").first().cloned()
}

#[test]
fn a_session_goes_on_after_its_connection_broke() {
    let cluster = Cluster::start();
    let arn = with_exec(&cluster);
    let session = open(&cluster, &arn, "/bin/sh")["session"].take();
    // More output than is kept for who is away; what is typed meanwhile comes too, and all of it once.
    let steps = json!([
        { "send": "stty -echo; echo fir''st\r" }, { "expect": "first" },
        { "send": "seq 1 100000; echo e''nd\r" }, { "break": true },
        { "send": "echo typed''-away\r" }, { "resume": true }, { "expect": "typed-away" },
        { "break": true }, { "resume": true },
        { "send": "exit\r" },
    ]);
    let said = talk(&cluster, &session, steps);
    let shown = text(&said);
    let expected: String =
        (1..=100_000).map(|number| format!("{number}\r\n")).chain(["end".into()]).collect();
    assert!(shown.contains(&expected), "{} bytes, {said:.200}", shown.len());
    assert_eq!((shown.matches("typed-away").count(), &said["closed"]), (1, &json!("")));

    // It has ended: there is nothing to go back to.
    let input = json!({ "SessionId": session["sessionId"] });
    let error = cluster.boto().refused("ssm", "resume_session", input.clone());
    assert_eq!(error.code, "DoesNotExistException");
    let ended = until("it is remembered", || described(&cluster, "History", &session));
    assert_eq!(
        (&ended["Status"], &ended["Owner"]),
        (&json!("Terminated"), &json!("arn:aws:iam::123456789012:root"))
    );
    assert_eq!(described(&cluster, "Active", &session), None);
    // To resume is a right of its own.
    let keys = cluster.boto().ok("iam", "create_user", json!({ "UserName": "u" }));
    assert!(keys["User"]["Arn"].is_string());
    let keys = cluster.boto().ok("iam", "create_access_key", json!({ "UserName": "u" }));
    let error = cluster.boto_as(&Keys::of(&keys["AccessKey"])).refused("ssm", "resume_session", input);
    let id = session["sessionId"].as_str().unwrap();
    let resource = format!("ssm:ResumeSession on resource: arn:aws:ssm:us-east-1:123456789012:session/{id}");
    assert!(error.code == "AccessDeniedException" && error.message.contains(&resource), "{error:?}");
}

#[test]
fn a_session_is_seen_and_terminated() {
    let cluster = Cluster::start();
    let arn = with_exec(&cluster);
    let id = arn.rsplit('/').next().unwrap();
    let before = cluster.inside(&arn);
    let session = open(&cluster, &arn, "/bin/sh")["session"].take();
    let seen = described(&cluster, "Active", &session).expect("it is there");
    let runtime = cluster.task(&arn)["containers"][0]["runtimeId"].clone();
    let target = format!("ecs:default_{id}_{}", runtime.as_str().expect("a runtimeId"));
    assert_eq!((&seen["Status"], &seen["Target"]), (&json!("Connecting"), &json!(target)));

    let steps = json!([{ "send": "echo o''n\r" }, { "expect": "on" }]);
    let client = talking(&cluster, &session, &steps);
    eventually("its shell runs", || cluster.inside(&arn).len() == before.len() + 1);
    assert_eq!(described(&cluster, "Active", &session).expect("it is open")["Status"], "Connected");
    let input = json!({ "SessionId": session["sessionId"] });
    let answer = cluster.boto().ok("ssm", "terminate_session", input);
    assert_eq!(answer["SessionId"], session["sessionId"]);
    let output = client.wait_with_output().expect("it ends");
    let said: Value = serde_json::from_slice(&output.stdout).expect("what it says");
    assert_eq!(said["closed"], "The session was terminated.", "{said}");
    eventually("nothing of the session is left", || cluster.inside(&arn) == before);

    // One that nobody has opened yet.
    let session = open(&cluster, &arn, "/bin/sh")["session"].take();
    cluster.boto().ok("ssm", "terminate_session", json!({ "SessionId": session["sessionId"] }));
    let said = talk(&cluster, &session, json!([]));
    assert_eq!(said["refused"], "the token is not valid for this session", "{said}");
}

#[test]
fn who_calls_by_another_name_is_answered_by_it() {
    let cluster = Cluster::start();
    let arn = with_exec(&cluster);
    let ask = json!({
        "service": "ecs", "operation": "execute_command",
        "arguments": { "task": arn, "command": "echo by name", "interactive": true },
    });
    let mut child = cluster
        .python_command("driver.py", &[])
        .env("AWS_ENDPOINT_URL", "http://localhost:4566")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python");
    writeln!(child.stdin.take().expect("piped"), "{ask}").expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    let answer: Value = serde_json::from_slice(&output.stdout).expect("an answer");
    let session = &answer["ok"]["session"];
    let url = session["streamUrl"].as_str().expect("a streamUrl");
    assert!(url.starts_with("ws://localhost:4566/v1/data-channel/"), "{answer}");
    let said = talk(&cluster, session, json!([]));
    assert!(text(&said).contains("by name"), "{said}");
}

/// What a person at a terminal sees of `ferrogate exec`.
fn at_a_terminal(cluster: &Cluster, id: &str, script: &str, steps: &Value) -> Child {
    let program = cluster.ferrogate_program();
    let (steps, program) = (steps.to_string(), program.to_str().expect("a plain path"));
    let arguments = [&*steps, program, "exec", id, "--", "sh", "-c", script];
    let mut command = cluster.python_command("pty_exec.py", &arguments);
    command.env("FERROGATE_DATA_DIR", cluster.data());
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("python")
}

fn seen(person: Child) -> Value {
    let output = person.wait_with_output().expect("it ends");
    let errors = String::from_utf8_lossy(&output.stderr);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {errors}"))
}

#[test]
fn ferrogate_exec_at_a_terminal() {
    let mut cluster = Cluster::start();
    let arn = with_exec(&cluster);
    let id = arn.rsplit('/').next().unwrap().to_owned();
    let before = cluster.inside(&arn);
    // The size as it is and becomes; ctrl-C is for the program inside, and its exit code comes out.
    let script = "trap 'echo caught; exit 7' INT; while :; do stty size; sleep 0.1; done";
    let steps = json!([
        { "expect": "33 101\r\n" }, { "size": [60, 20] }, { "expect": "20 60\r\n" },
        { "type": "\u{3}" }, { "expect": "caught" },
    ]);
    let said = seen(at_a_terminal(&cluster, &id, script, &steps));
    let ended = |said: &Value| (said["code"].as_i64(), said["raw"].as_bool(), said["restored"].as_bool());
    assert_eq!(ended(&said), (Some(7), Some(true), Some(true)), "{said:#}");

    // Ended by a signal, the terminal is as it was, and nobody waits for it inside.
    let script = "echo rea''dy; sleep 1234";
    for signal in [15, 1] {
        let steps = json!([{ "expect": "ready" }, { "signal": signal }]);
        let said = seen(at_a_terminal(&cluster, &id, script, &steps));
        assert_eq!(ended(&said), (Some(1), Some(true), Some(true)), "{said:#}");
        eventually("nothing of the session is left", || cluster.inside(&arn) == before);
    }
    // As when the other end dies.
    let here = cluster.folder().join("ready");
    let steps = json!([{ "expect": "ready" }, { "create": here }]);
    let person = at_a_terminal(&cluster, &id, script, &steps);
    eventually("it is there", || here.exists());
    cluster.kill();
    let said = seen(person);
    assert_eq!(ended(&said), (Some(1), Some(true), Some(true)), "{said:#}");
    assert!(said["shown"].as_str().unwrap().contains("the session"), "{said:#}");
    cluster.up();
}

/// What a session left in its log: `None`, if it has no stream there.
fn logged(cluster: &Cluster, group: &str, session: &Value) -> Option<String> {
    let input =
        json!({ "logGroupName": group, "logStreamName": session["sessionId"], "startFromHead": true });
    match cluster.boto().call("logs", "get_log_events", input) {
        Ok(answer) => {
            let events = answer["events"].as_array().expect("events").iter();
            Some(events.map(|event| event["message"].as_str().unwrap()).collect::<Vec<_>>().join("\n"))
        }
        Err(error) if error.code == "ResourceNotFoundException" => None,
        Err(error) => panic!("{error:?}"),
    }
}

#[test]
fn a_session_is_logged_as_the_cluster_says() {
    let cluster = Cluster::start();
    let network = cluster.network();
    let boto = cluster.boto();
    for group in ["/own", "/named"] {
        boto.ok("logs", "create_log_group", json!({ "logGroupName": group }));
    }
    let may_log = ["logs:CreateLogStream", "logs:PutLogEvents"];
    let rights: Vec<&str> = AGENT_RIGHTS.into_iter().chain(may_log).collect();
    let logs = role(&cluster, "logs", json!({ "Effect": "Allow", "Action": rights, "Resource": "*" }));
    let bare = role(&cluster, "bare", json!({ "Effect": "Allow", "Action": AGENT_RIGHTS, "Resource": "*" }));
    // The container's own output is the execution role's business.
    let execution =
        role(&cluster, "execution", json!({ "Effect": "Allow", "Action": may_log, "Resource": "*" }));
    let containers = json!([{
        "name": "app", "image": "busybox:latest", "command": ["sleep", "3600"], "stopTimeout": 2,
        "logConfiguration": { "logDriver": "awslogs", "options": {
            "awslogs-group": "/own", "awslogs-region": "us-east-1", "awslogs-stream-prefix": "p" } },
    }]);
    let [with, without] = [("with", logs), ("without", bare)].map(|(family, role)| {
        let more = json!({ "taskRoleArn": role, "executionRoleArn": execution });
        cluster.define(family, containers.clone(), more);
        let arn = start(&cluster, &network, family, true);
        until("the agent runs", || {
            (cluster.task(&arn)["containers"][0]["managedAgents"][0]["lastStatus"] == "RUNNING").then_some(())
        });
        arn
    });
    let run = |arn: &str| {
        let session = open(&cluster, arn, "sh -c 'seq 1 3000; printf \"the e\"; echo nd'")["session"].take();
        (talk(&cluster, &session, json!([])), session)
    };
    let configure = |exec: Value| {
        let input =
            json!({ "cluster": "default", "configuration": { "executeCommandConfiguration": exec.clone() } });
        boto.ok("ecs", "update_cluster", input);
        let input = json!({ "clusters": ["default"], "include": ["CONFIGURATIONS"] });
        let shown = boto.ok("ecs", "describe_clusters", input);
        assert_eq!(shown["clusters"][0]["configuration"]["executeCommandConfiguration"], exec, "{shown:#}");
    };
    let expected: String = (1..=3000).map(|number| format!("{number}\n")).chain(["the end".into()]).collect();
    let whole = |group: &str, session: &Value| {
        // More than a page of GetLogEvents' would not come at once: 3001 short lines are less.
        eventually("the log is whole", || logged(&cluster, group, session).as_deref() == Some(&*expected));
    };

    // Nothing is configured, or DEFAULT: the container's own group.
    let (said, session) = run(&with);
    assert!(text(&said).contains("the end"), "{said}");
    whole("/own", &session);
    configure(json!({ "logging": "DEFAULT" }));
    let (said, session) = run(&without);
    assert!(text(&said).contains("the end"), "without the right nothing is logged, no more: {said}");
    assert_eq!(logged(&cluster, "/own", &session), None);

    let to_named =
        json!({ "logging": "OVERRIDE", "logConfiguration": { "cloudWatchLogGroupName": "/named" } });
    configure(to_named);
    let (said, session) = run(&with);
    assert!(text(&said).contains("the end"), "{said}");
    whole("/named", &session);
    assert_eq!(logged(&cluster, "/own", &session), None);
    let (said, session) = run(&without);
    let words = said["closed"].as_str().expect("words");
    for part in ["We couldn't start the session", "/named", "AccessDeniedException", "logs:CreateLogStream"] {
        assert!(words.contains(part), "no {part:?} in {said}");
    }
    assert_eq!((text(&said), logged(&cluster, "/named", &session)), (String::new(), None));

    // The log of a session that goes on loses its group.
    let session = open(&cluster, &with, "sh -c 'while sleep 0.1; do seq 1 3000; done'")["session"].take();
    let (url, token) = (session["streamUrl"].as_str().unwrap(), session["tokenValue"].as_str().unwrap());
    let mut client = cluster.python_command("session_client.py", &[url, token, "[]"]);
    let client = client.stdout(Stdio::piped()).spawn().expect("python");
    eventually("it is logged", || logged(&cluster, "/named", &session).is_some_and(|text| !text.is_empty()));
    boto.ok("logs", "delete_log_group", json!({ "logGroupName": "/named" }));
    let output = client.wait_with_output().expect("it ends");
    let said: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let words = said["closed"].as_str().expect("words");
    assert!(words.contains("can no longer be logged") && words.contains("/named"), "{words}");

    configure(json!({ "logging": "NONE" }));
    let (said, session) = run(&with);
    assert!(text(&said).contains("the end"), "{said}");
    assert_eq!(logged(&cluster, "/own", &session), None);

    let wrong = json!({ "clusterName": "wrong", "configuration": { "executeCommandConfiguration": {
        "kmsKeyId": "alias/mine" } } });
    let error = boto.call("ecs", "create_cluster", wrong).expect_err("refused");
    assert!(error.message.contains("kmsKeyId"), "{error:?}");
}

#[test]
fn what_a_session_leaves_in_the_background_ends_with_the_task() {
    let cluster = Cluster::start();
    let arn = with_exec(&cluster);
    let id = arn.rsplit('/').next().unwrap();
    let before = cluster.inside(&arn).len();
    let session = open(&cluster, &arn, "/bin/sh")["session"].take();
    // As with AWS's agent, a terminal that closes hangs up what is in its foreground, and nothing more.
    let steps = json!([
        { "send": "(trap '' HUP; sleep 4321) & echo o''n\r" }, { "expect": "on" }, { "send": "exit\r" },
    ]);
    let said = talk(&cluster, &session, steps);
    assert!(text(&said).contains("on"), "{said}");
    eventually("the shell is gone, its job is not", || {
        let left = cluster.inside(&arn).len();
        left > before && left <= before + 2
    });
    assert_eq!(cluster.task(&arn)["lastStatus"], "RUNNING");
    cluster.aws(&["ecs", "stop-task", "--task", &arn]).json();
    eventually("nothing of the task is left", || cluster.task_processes(id).is_empty());
}

ferrogate_tests::machines!(
    a_client_of_the_protocol_has_a_shell,
    ferrogate_exec_passes_input_output_and_exit_code
);
