//! What must survive, and what must not happen: dead agents, dead shims, attempts to get out, things left behind.

mod common;

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

use common::{DEADLINE, Task, is_alive};
use ferrogate_sandbox::{
    ContainerSandbox, ContainerSpec, Error, LogLimits, LogRecord, Sandbox, Status, TaskEvent, WhenFull,
};
use ferrogate_shim::cgroup::Cgroups;

/// Set for the process that plays the agent: the directory of its task.
const AGENT_OF: &str = "FERROGATE_TEST_AGENT_OF";
const LINES: usize = 3000;

/// Not a test of its own: the agent that is killed below.
#[tokio::test]
async fn agent_process() {
    let Ok(text) = std::env::var(AGENT_OF) else { return };
    let (spec, container) = serde_json::from_str(&text).unwrap();
    let task = common::sandbox().create(spec).await.unwrap();
    let container: ContainerSpec = container;
    task.create_container(&container).await.unwrap();
    task.start(&container.id).await.unwrap();
    let mut logs = task.logs(&container.id, 0).await.unwrap();
    for _ in 0..10 {
        logs.next().await.unwrap().unwrap();
    }
    println!("agent is ready");
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn a_killed_agent_loses_nothing() {
    // Only for its directory, layer and clean-up; the agent process makes the task.
    let task = Task::new().await;
    let mut spec = task.task.spec().clone();
    task.task.destroy().await.unwrap();
    spec.id = "orphan".into();
    let script = format!(
        "for i in $(seq 1 {LINES}); do echo line $i; done; while [ ! -e /go ]; do sleep 0.01; done; echo last; exit 9"
    );
    let container = task.script("a", &script);
    let mut agent = Command::new(std::env::current_exe().unwrap())
        .args(["agent_process", "--exact", "--nocapture"])
        .env(AGENT_OF, serde_json::to_string(&(&spec, &container)).unwrap())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(agent.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("agent is ready")));
    agent.kill().unwrap();
    agent.wait().unwrap();

    let found = common::sandbox().reattach(&spec.dir).await.unwrap();
    let state = found.state().await.unwrap();
    assert_eq!(state.containers[0].status, Status::Running);
    assert!(is_alive(state.shim_pid) && is_alive(state.containers[0].pid.unwrap()));
    let mut logs = found.logs("a", 0).await.unwrap();
    let mut exec = found
        .exec(
            "a",
            ferrogate_sandbox::ExecSpec { argv: vec!["touch".into(), "/go".into()], ..Default::default() },
        )
        .await
        .unwrap();
    assert_eq!(exec.wait().await.unwrap(), 0);
    let mut said = Vec::new();
    while let Some(record) = logs.next().await.unwrap() {
        let LogRecord::Line { bytes, .. } = record else { panic!("{record:?}") };
        said.push(String::from_utf8(bytes).unwrap());
    }
    let expected: Vec<String> = (1..=LINES).map(|n| format!("line {n}")).chain(["last".into()]).collect();
    assert_eq!(said, expected);
    // And once more, by an agent that comes when all is over.
    let again = common::sandbox().reattach(&spec.dir).await.unwrap();
    assert_eq!(again.state().await.unwrap().containers[0].exit_code, Some(9));
    again.destroy().await.unwrap();
}

#[tokio::test]
async fn a_killed_shim_takes_its_containers_along() {
    let task = Task::new().await;
    assert_eq!(task.run(&task.script("done", "echo early; exit 4")).await.0, 4);
    // Another user, as the kernel forgets whose death is to be followed when the user changes; and a reaper between.
    let spec = ContainerSpec {
        user: Some("app".into()),
        init: true,
        ..task.script("a", "echo ready; sleep 1000 & sleep 1000")
    };
    task.task.create_container(&spec).await.unwrap();
    let pid = task.task.start("a").await.unwrap();
    task.wait_for_line("a", "ready").await;
    let mut events = task.task.events();
    let mut following = task.task.logs("a", 0).await.unwrap();
    following.next().await.unwrap().unwrap();
    common::kill(task.shim_pid(), 9);
    // By itself, before anybody comes to clean up.
    let gone = async {
        while is_alive(pid) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, gone).await.unwrap();
    assert_eq!(tokio::time::timeout(DEADLINE, following.next()).await.unwrap().unwrap(), None);
    assert_eq!(tokio::time::timeout(DEADLINE, events.next()).await.unwrap(), None);
    assert_eq!(task.task.state().await.unwrap().shim_pid, 0);
    assert!(matches!(task.task.stats().await, Err(Error::ShimLost { .. })));
    let found = common::sandbox().reattach(&task.dir).await.unwrap();
    let state = found.state().await.unwrap();
    let ended: Vec<_> =
        state.containers.iter().map(|c| (c.id.as_str(), c.exit_code, c.error.as_deref())).collect();
    assert_eq!(ended, [("done", Some(4), None), ("a", Some(137), Some("the shim was lost"))]);
    for (container, expected) in [("done", &b"early"[..]), ("a", b"ready")] {
        let mut logs = found.logs(container, 0).await.unwrap();
        let Some(LogRecord::Line { bytes, .. }) = logs.next().await.unwrap() else { panic!() };
        assert_eq!(bytes, expected);
        assert_eq!(logs.next().await.unwrap(), None);
    }
    assert!(matches!(found.start("a").await, Err(Error::ShimLost { .. })));
    found.destroy().await.unwrap();
    assert!(!task.dir.exists());
}

#[tokio::test]
async fn attempts_to_get_out_are_refused() {
    let attempts = [
        "mount -t tmpfs none /tmp",
        "mount -o remount,rw /proc/sys",
        "mount -o bind / /tmp",
        "umount /proc/sys",
        "umount /sys",
        "unshare -U true",
        "unshare -m true",
        "unshare -n true",
        "mknod /tmp/disk b 254 0",
        "mknod /tmp/mem c 1 1",
        "mknod /tmp/kmsg c 1 11",
        "echo b > /proc/sysrq-trigger",
        "echo x > /proc/sys/kernel/core_pattern",
        "echo x > /proc/sys/kernel/hostname",
        "hostname other",
        "head -c 1 /proc/kcore | grep -q .",
        "head -c 1 /proc/keys | grep -q .",
        "ls /sys/firmware | grep -q .",
        "mkdir /sys/fs/cgroup/memory/x",
        "echo a > /sys/fs/cgroup/devices/devices.allow",
        "echo 1 > /sys/fs/cgroup/memory/memory.limit_in_bytes",
        "touch /sys/x",
        "ip link add x type veth",
        "ip addr add 10.9.9.9/32 dev lo",
        "cat /proc/1/root/etc/shadow",
        "echo x > /proc/1/exe",
        "kill -9 1",
    ];
    let script =
        attempts.map(|attempt| format!("({attempt}) 2>/dev/null && echo 'DONE: {attempt}'\n")).concat();
    let task = Task::new().await;
    for (id, init, tracing) in [("plain", false, false), ("init", true, true)] {
        let mut spec = ContainerSpec {
            init,
            allow_new_privileges: tracing,
            ..task.script(id, &format!("{script} echo end"))
        };
        if tracing {
            spec.capabilities_add = vec!["SYS_PTRACE".into()];
        }
        let (_, output) = task.run(&spec).await;
        // The signal to a first process is taken and ignored.
        let output = output.replace("DONE: kill -9 1\n", "");
        assert_eq!(output, "end\n", "{id}");
    }
}

#[tokio::test]
async fn a_full_log_holds_the_container_or_drops() {
    let task = Task::new().await;
    let bytes_max = 1 << 20;
    let noise = "i=0; while [ $i -lt 4000 ]; do echo \"$i 0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789\"; i=$((i+1)); done; echo end";
    let logs = |when_full| LogLimits { bytes_max, when_full };

    let blocking = ContainerSpec { logs: logs(WhenFull::Block), ..task.script("blocking", noise) };
    task.task.create_container(&blocking).await.unwrap();
    task.task.start("blocking").await.unwrap();
    let mut follower = task.task.logs("blocking", 0).await.unwrap();
    let mut count = 0;
    while let Some(record) = tokio::time::timeout(DEADLINE, follower.next()).await.unwrap().unwrap() {
        count += 1;
        if count % 500 == 0 {
            let state = task.task.state().await.unwrap().containers.remove(0);
            assert!(state.log_end - state.log_begin <= bytes_max + bytes_max / 4, "{state:?}");
            task.task.ack_logs("blocking", record.next_offset()).await.unwrap();
        }
    }
    assert_eq!(count, 4001);

    let dropping = ContainerSpec { logs: logs(WhenFull::DropNewest), ..task.script("dropping", noise) };
    task.run(&dropping).await;
    let mut follower = task.task.logs("dropping", 0).await.unwrap();
    let (mut lines, mut dropped) = (0, 0);
    while let Some(record) = follower.next().await.unwrap() {
        match record {
            LogRecord::Line { .. } => lines += 1,
            LogRecord::Dropped { bytes, .. } => dropped += bytes,
        }
    }
    assert!(lines < 4001 && dropped > 400_000, "{lines} lines, {dropped} bytes dropped");

    let ring = ContainerSpec { logs: logs(WhenFull::DropOldest), ..task.script("ring", noise) };
    assert!(task.run(&ring).await.1.ends_with("end\n"));
    let mut follower = task.task.logs("ring", 0).await.unwrap();
    assert!(matches!(follower.next().await.unwrap(), Some(LogRecord::Dropped { bytes: 1.., .. })));
}

#[tokio::test]
async fn fifty_tasks_leave_nothing() {
    let mut shims = Vec::new();
    for round in 0..50 {
        let task = Task::new().await;
        shims.push(task.shim_pid());
        assert_eq!(
            task.run(&task.script("a", "echo hello; sleep 1000 & exit 0")).await,
            (0, "hello\n".into()),
            "round {round}"
        );
        let mut running = task.script("b", "sleep 1000");
        running.init = round % 2 == 0;
        task.task.create_container(&running).await.unwrap();
        shims.push(task.task.start("b").await.unwrap());
        task.task.destroy().await.unwrap();
        assert!(!task.dir.exists());
        let cgroup = format!("ferrogate/{}", task.instance);
        let gone = |cgroup: &str| {
            for file in Cgroups::detect().unwrap().join_files(cgroup.as_ref()) {
                assert!(!file.exists(), "{}", file.display());
            }
        };
        gone(&format!("{cgroup}/task"));
        // Its shim may be a moment more in the cgroup of all the instance's shims.
        ContainerSandbox::remove_instance(&task.instance).await.unwrap();
        gone(&cgroup);
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(task.dir.to_str().unwrap()));
    }
    for pid in shims {
        assert!(!is_alive(pid), "{pid}");
    }
}

#[tokio::test]
async fn events_tell_starts_and_ends() {
    let task = Task::new().await;
    let mut events = task.task.events();
    task.run(&task.script("a", "exit 2")).await;
    let started = tokio::time::timeout(DEADLINE, events.next()).await.unwrap().unwrap();
    assert!(matches!(&started, TaskEvent::Started { container, .. } if container == "a"), "{started:?}");
    let TaskEvent::Exited(exited) = tokio::time::timeout(DEADLINE, events.next()).await.unwrap().unwrap()
    else {
        panic!("no exit");
    };
    assert_eq!((exited.exit_code, exited.container.as_str()), (2, "a"));
    assert!(matches!(task.task.signal("a", 15).await, Err(Error::WrongState(_))));
    let never = tokio::time::timeout(Duration::from_millis(1), events.next()).await;
    assert!(never.is_err());
}

/// Answers every first request as a shim of another version does.
fn of_another_version(dir: &std::path::Path) {
    use std::io::{Read, Write};
    let socket = dir.join("shim.sock");
    std::fs::rename(&socket, dir.join("shim.sock.old")).unwrap();
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut length = [0; 4];
            stream.read_exact(&mut length).unwrap();
            let mut request = vec![0; u32::from_be_bytes(length) as usize];
            stream.read_exact(&mut request).unwrap();
            let answer = br#"{"Response":{"id":1,"result":{"Err":{"kind":"Unsupported","message":"protocol version 2: this shim speaks 99"}}}}"#;
            stream.write_all(&(answer.len() as u32).to_be_bytes()).unwrap();
            stream.write_all(answer).unwrap();
        }
    });
}

#[tokio::test]
async fn a_shim_of_another_version_is_refused_and_can_be_discarded() {
    let task = Task::new().await;
    task.task.create_container(&task.script("a", "trap '' TERM; sleep 1000 & sleep 1000")).await.unwrap();
    let pid = task.task.start("a").await.unwrap();
    let shim = task.shim_pid();
    of_another_version(&task.dir);
    let refused = common::sandbox().reattach(&task.dir).await.map(|_| ()).unwrap_err();
    assert!(refused.to_string().contains("this shim speaks 99"), "{refused}");
    assert!(is_alive(pid) && is_alive(shim), "a look must end nothing");
    for round in 0..2 {
        common::sandbox().discard(&task.dir, &task.instance, "task").await.unwrap();
        assert!(!is_alive(pid) && !is_alive(shim), "round {round}");
        assert!(!task.dir.exists());
        let cgroup = format!("ferrogate/{}", task.instance);
        for file in Cgroups::detect().unwrap().join_files(cgroup.as_ref()) {
            assert!(!file.exists(), "{}", file.display());
        }
    }
}

/// Whatever is left or missing of a task that cannot be taken over, it goes, and no other task with it.
#[tokio::test]
async fn what_cannot_be_reattached_is_discarded() {
    type Damage = fn(&std::path::Path);
    let damages: [(&str, Damage); 4] = [
        ("no specification", |dir| std::fs::remove_file(dir.join("sandbox.json")).unwrap()),
        ("a broken specification", |dir| std::fs::write(dir.join("sandbox.json"), "{").unwrap()),
        ("no lock", |dir| std::fs::remove_file(dir.join("shim.lock")).unwrap()),
        ("no directory", |dir| std::fs::remove_dir_all(dir).unwrap()),
    ];
    let other = Task::new().await;
    other.task.create_container(&other.script("a", "sleep 1000")).await.unwrap();
    let others = other.task.start("a").await.unwrap();
    for (what, damage) in damages {
        let task = Task::new().await;
        task.task.create_container(&task.script("a", "sleep 1000")).await.unwrap();
        let pid = task.task.start("a").await.unwrap();
        let shim = task.shim_pid();
        damage(&task.dir);
        let reattached = common::sandbox().reattach(&task.dir).await;
        assert!(what == "no lock" || reattached.is_err(), "{what}");
        drop(reattached);
        common::sandbox().discard(&task.dir, &task.instance, "task").await.unwrap();
        assert!(!is_alive(pid), "{what}: the container runs");
        assert!(!is_alive(shim), "{what}: the shim runs");
        assert!(!task.dir.exists(), "{what}");
    }
    assert!(is_alive(others) && is_alive(other.shim_pid()));
}
