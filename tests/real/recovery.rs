//! What breaks between the program and its tasks' shims, and what it makes of that.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use ferrogate_tests::{Cluster, Network, TaskRun, eventually};
use rustix::net::sockopt::socket_peercred;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use serde_json::{Value, json};

fn id(arn: &str) -> &str {
    arn.rsplit('/').next().expect("a task id")
}

/// Shuts every connection of the program to this shim, as a fault between the two would.
fn break_connections(program: u32, shim: u32) {
    let pid = |number: u32| Pid::from_raw(number.try_into().expect("a pid")).expect("a pid");
    let process = pidfd_open(pid(program), PidfdFlags::empty()).expect("the program runs");
    let mut broken = 0;
    let listed = std::fs::read_dir(format!("/proc/{program}/fd")).expect("the program's descriptors");
    for number in listed.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok()) {
        // Closed since it was listed: not one of those that are looked for.
        let Ok(descriptor) = pidfd_getfd(&process, number, PidfdGetfdFlags::empty()) else { continue };
        if socket_peercred(&descriptor).is_ok_and(|peer| peer.pid == pid(shim)) {
            rustix::net::shutdown(&descriptor, rustix::net::Shutdown::Both).expect("to shut it");
            broken += 1;
        }
    }
    assert!(broken > 0, "there was no connection to break");
}

/// A definition whose container writes numbered lines, and says so to CloudWatch Logs too.
fn define_lines(cluster: &Cluster, lines: usize) {
    let boto = cluster.boto();
    let trust = json!({ "Version": "2012-10-17", "Statement": [
        { "Effect": "Allow", "Principal": { "Service": "ecs-tasks.amazonaws.com" }, "Action": "sts:AssumeRole" },
    ]});
    let role = json!({ "RoleName": "exec", "AssumeRolePolicyDocument": trust.to_string() });
    let role = boto.ok("iam", "create_role", role);
    let policy = "arn:aws:iam::aws:policy/service-role/AmazonECSTaskExecutionRolePolicy";
    boto.ok("iam", "attach_role_policy", json!({ "RoleName": "exec", "PolicyArn": policy }));
    boto.ok("logs", "create_log_group", json!({ "logGroupName": "lines" }));
    let script = format!(
        "i=0; while [ $i -lt {lines} ]; do echo line $i; i=$((i+1)); [ $((i % 10)) = 0 ] && usleep 20000; done; exit 7"
    );
    let logs = json!({ "logDriver": "awslogs", "options": {
        "awslogs-group": "lines", "awslogs-region": "us-east-1", "awslogs-stream-prefix": "p" }});
    let container = json!({ "name": "app", "image": "busybox", "command": ["sh", "-c", script], "logConfiguration": logs });
    cluster.define("lines", json!([container]), json!({ "executionRoleArn": role["Role"]["Arn"] }));
}

/// How often CloudWatch Logs has each line.
fn delivered(cluster: &Cluster, arn: &str) -> BTreeMap<usize, usize> {
    let stream = format!("p/app/{}", id(arn));
    let mut lines = BTreeMap::new();
    let mut token = Value::Null;
    loop {
        let mut asked = json!({ "logGroupName": "lines", "logStreamName": stream, "startFromHead": true });
        if token.is_string() {
            asked["nextToken"] = token.clone();
        }
        let page = cluster.boto().ok("logs", "get_log_events", asked);
        for event in page["events"].as_array().expect("events") {
            let number = event["message"].as_str().and_then(|text| text.strip_prefix("line ")?.parse().ok());
            *lines.entry(number.expect("a line of the script")).or_insert(0) += 1;
        }
        if page["nextForwardToken"] == token {
            return lines;
        }
        token = page["nextForwardToken"].clone();
    }
}

fn all(lines: usize) -> Vec<String> {
    (0..lines).map(|line| format!("line {line}")).collect()
}

#[test]
fn a_broken_connection_ends_no_task() {
    const LINES: usize = 1500;
    let cluster = Cluster::start();
    let network = cluster.network();
    define_lines(&cluster, LINES);
    let arn = cluster.run_task(&network, &TaskRun::of("lines"));
    let before = cluster.running(&arn);
    let shim = cluster.shim_of(id(&arn)).expect("a shim");
    for line in ["line 100\n", "line 400\n", "line 700\n"] {
        eventually("it writes", || cluster.output(&arn).contains(line));
        break_connections(cluster.pid(), shim);
    }
    let now = cluster.task(&arn);
    assert_eq!((&now["lastStatus"], &now["startedAt"]), (&json!("RUNNING"), &before["startedAt"]));
    assert_eq!(cluster.shim_of(id(&arn)), Some(shim));
    let task = cluster.stopped(&arn);
    assert_eq!(
        (&task["stopCode"], &task["containers"][0]["exitCode"], &task["containers"][0]["reason"]),
        (&json!("EssentialContainerExited"), &json!(7), &Value::Null),
        "{task:#}"
    );
    assert_eq!(
        cluster.output(&arn).lines().collect::<Vec<_>>(),
        all(LINES),
        "all of them, once and in order"
    );
    let delivered = delivered(&cluster, &arn);
    assert_eq!(delivered.len(), LINES, "lines were lost");
    let twice: Vec<_> = delivered.iter().filter(|(_, times)| **times != 1).collect();
    assert!(twice.is_empty(), "{twice:?}");
    assert_eq!(cluster.left_of_tasks(), Vec::<String>::new());
}

#[test]
fn no_line_is_lost_however_often_the_program_is_killed() {
    const LINES: usize = 2000;
    let mut cluster = Cluster::start();
    let network = cluster.network();
    define_lines(&cluster, LINES);
    let arn = cluster.run_task(&network, &TaskRun::of("lines"));
    cluster.running(&arn);
    let kills = ["line 100\n", "line 500\n", "line 1000\n"];
    for line in kills {
        eventually("it writes", || cluster.output(&arn).contains(line));
        cluster.kill();
        cluster.up();
    }
    let task = cluster.stopped(&arn);
    assert_eq!(task["containers"][0]["exitCode"], 7, "{task:#}");
    let said = cluster.output(&arn);
    let mut seen = BTreeSet::new();
    let first: Vec<&str> = said.lines().filter(|line| seen.insert(*line)).collect();
    assert_eq!(first, all(LINES), "all of them, for the first time in order");
    let delivered = delivered(&cluster, &arn);
    assert_eq!(delivered.len(), LINES, "lines were lost");
    // PutLogEvents has no way to say that a batch was given before: the one that was on its way may come again.
    let most = delivered.values().max().copied().unwrap_or_default();
    assert!(most <= 1 + kills.len(), "a line was delivered {most} times");
    let twice = delivered.values().filter(|times| **times > 1).count();
    assert!(twice < LINES / 2, "{twice} lines were delivered twice: what was delivered is not remembered");
}

/// Answers as a shim of another version would, in the place of the real one.
struct OtherVersion(std::path::PathBuf);

impl OtherVersion {
    fn instead_of(sandbox: &Path) -> Self {
        let socket = sandbox.join("shim.sock");
        std::fs::remove_file(&socket).expect("the shim's socket");
        // The path is too long for an address.
        let handle = std::fs::File::open(sandbox).expect("the sandbox's folder");
        let number = std::os::fd::AsRawFd::as_raw_fd(&handle);
        let listener = UnixListener::bind(format!("/proc/self/fd/{number}/shim.sock")).expect("a socket");
        std::thread::spawn(move || listener.incoming().flatten().for_each(|stream| drop(refuse(stream))));
        Self(socket)
    }
}

fn refuse(mut stream: UnixStream) -> std::io::Result<()> {
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    stream.read_exact(&mut vec![0; u32::from_be_bytes(length) as usize])?;
    let failure = json!({ "kind": "Unsupported", "message": "protocol version 2: this shim speaks 99" });
    let answer = json!({ "Response": { "id": 1, "result": { "Err": failure } } }).to_string();
    stream.write_all(&u32::try_from(answer.len()).unwrap_or_default().to_be_bytes())?;
    stream.write_all(answer.as_bytes())
}

fn sleeping(cluster: &Cluster, network: &Network) -> String {
    let arn = cluster.run_task(network, &TaskRun::of("sleeps"));
    cluster.running(&arn);
    arn
}

#[test]
fn a_task_that_cannot_be_taken_over_is_ended_and_said_to_be() {
    let mut cluster = Cluster::start();
    let network = cluster.network();
    let container =
        json!({ "name": "app", "image": "busybox", "command": ["sleep", "100000"], "stopTimeout": 2 });
    cluster.define("sleeps", json!([container]), Value::Null);
    let (other, own) = (sleeping(&cluster, &network), sleeping(&cluster, &network));
    let processes = cluster.task_processes(id(&own));
    let shim = cluster.shim_of(id(&other)).expect("a shim");
    cluster.kill();
    let found = std::process::Command::new("find")
        .arg(cluster.data())
        .args(["-path", &format!("*{}*/shim.sock", id(&other))])
        .output()
        .expect("find");
    let socket = String::from_utf8(found.stdout).expect("a path");
    let fake = OtherVersion::instead_of(Path::new(socket.trim()).parent().expect("a folder"));
    cluster.up();
    let task = cluster.stopped(&other);
    assert_eq!(task["stopCode"], "InfrastructureHealth", "{task:#}");
    let reason = task["stoppedReason"].as_str().expect("a reason");
    assert!(reason.contains("this shim speaks 99"), "{reason}");
    // Nobody saw how it ended.
    assert_eq!(task["containers"][0]["exitCode"], Value::Null, "{task:#}");
    assert!(cluster.task_processes(id(&other)).is_empty(), "it runs");
    assert!(!cluster.shims().contains(&shim), "its shim runs");
    assert!(!fake.0.exists(), "its folder is there");
    assert_eq!(cluster.task(&own)["lastStatus"], "RUNNING");
    assert_eq!(cluster.task_processes(id(&own)), processes);
}
