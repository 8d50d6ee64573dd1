//! Containers from start to end: exit codes, users, directories, signals, memory, restarts.

mod common;

use std::time::Duration;

use common::{DEADLINE, Task};
use ferrogate_sandbox::{
    BindMount, ContainerSpec, Error, ExecSpec, Isolation, Sandbox, Status, TaskEvent, Tmpfs, Ulimit,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test]
async fn output_and_exit_code_arrive() {
    let task = Task::new().await;
    let (code, output) = task.run(&task.script("a", "echo out; echo err >&2; exit 3")).await;
    assert_eq!(code, 3);
    assert!(output.contains("out\n") && output.contains("err\n"), "{output:?}");
    assert_eq!(task.run(&task.program("b", &["true"])).await.0, 0);
    task.task.destroy().await.unwrap();
    assert!(!task.dir.exists());
}

#[tokio::test]
async fn what_cannot_be_executed_is_said_as_docker_says_it() {
    let task = Task::new().await;
    for (program, code, words) in [
        ("nope", 127, "exec: \"nope\": executable file not found in $PATH"),
        ("/bin/nope", 127, "exec: \"/bin/nope\": stat /bin/nope: no such file or directory"),
        ("/etc/not-executable", 126, "exec: \"/etc/not-executable\": permission denied"),
        ("/etc", 126, "exec: \"/etc\": is a directory"),
        ("no-format", 126, "exec: \"/bin/no-format\": exec format error"),
        ("no-interpreter", 127, "interpreter or loader is missing"),
    ] {
        let id = program.replace('/', "_");
        task.task.create_container(&task.program(&id, &[program])).await.unwrap();
        match task.task.start(&id).await {
            Err(Error::CannotExecute { message, exit_code }) => {
                assert!(message.contains(words), "{message:?} lacks {words:?}");
                assert_eq!(exit_code, code, "{program}");
            }
            other => panic!("{program}: {other:?}"),
        }
        assert_eq!(task.exit_code(&id).await, code);
    }
}

#[tokio::test]
async fn users_are_the_images() {
    let task = Task::new().await;
    let show = "id -u; id -g; id -G; echo $HOME; umask";
    for (index, (user, expected)) in [
        ("", "0\n0\n0\n/root\n0022\n"),
        ("app", "1000\n1001\n1001 2000\n/home/app\n0022\n"),
        ("1000:2000", "1000\n2000\n2000\n/home/app\n0022\n"),
        ("4242", "4242\n0\n0\n/\n0022\n"),
    ]
    .into_iter()
    .enumerate()
    {
        let spec = ContainerSpec { user: Some(user.into()), ..task.script(&format!("u{index}"), show) };
        assert_eq!(task.run(&spec).await, (0, expected.into()), "{user:?}");
    }
    let spec = ContainerSpec { user: Some("nobody".into()), ..task.program("unknown", &["true"]) };
    task.task.create_container(&spec).await.unwrap();
    let error = task.task.start("unknown").await.unwrap_err().to_string();
    assert_eq!(error, "unable to find user nobody: no matching entries in passwd file");
}

#[tokio::test]
async fn the_container_sees_what_it_was_given() {
    let task = Task::new().await;
    let volume = task.dir.join("volume");
    std::fs::create_dir(&volume).unwrap();
    std::fs::write(volume.join("data"), "from outside\n").unwrap();
    let script = "pwd; hostname; echo $KEY; cat /etc/resolv.conf /etc/hostname /vol/data; \
        ulimit -n; cat /proc/sys/net/core/somaxconn; echo x > /vol/data || echo read-only; \
        echo y > /new || echo root read-only; touch /scratch/f && echo scratch; ip -o link | grep -c LOOPBACK,UP";
    let spec = ContainerSpec {
        working_directory: Some("/made/up".into()),
        environment: [("KEY".to_owned(), "a b=c".to_owned())].into(),
        readonly_root_filesystem: true,
        ulimits: vec![Ulimit { name: "nofile".into(), soft: 123, hard: u64::MAX }],
        system_controls: [("net.core.somaxconn".to_owned(), "77".to_owned())].into(),
        mounts: vec![BindMount { source: volume, container_path: "/vol".into(), read_only: true }],
        tmpfs: vec![Tmpfs { container_path: "/scratch".into(), size_bytes: 1 << 20, mount_options: vec![] }],
        ..task.script("a", script)
    };
    let (code, output) = task.run(&spec).await;
    let said: Vec<&str> = output.lines().filter(|line| !line.contains("can't create")).collect();
    assert_eq!(
        said,
        [
            "/made/up",
            "ip-10-0-0-4",
            "a b=c",
            "nameserver 10.0.0.2",
            "ip-10-0-0-4",
            "from outside",
            "123",
            "77",
            "read-only",
            "root read-only",
            "scratch",
            "1"
        ]
    );
    assert_eq!(code, 0);
}

#[tokio::test]
async fn stop_asks_first_and_kills_then() {
    let task = Task::new().await;
    let polite = "trap 'echo bye; exit 7' TERM; echo ready; while true; do sleep 0.01; done";
    task.task.create_container(&task.script("polite", polite)).await.unwrap();
    task.task.start("polite").await.unwrap();
    task.wait_for_line("polite", "ready").await;
    assert_eq!(task.task.stop("polite", 15, DEADLINE).await.unwrap().exit_code, 7);

    let deaf = "trap '' TERM; echo ready; while true; do sleep 0.01; done";
    task.task.create_container(&task.script("deaf", deaf)).await.unwrap();
    task.task.start("deaf").await.unwrap();
    task.wait_for_line("deaf", "ready").await;
    let exited = task.task.stop("deaf", 15, Duration::from_millis(50)).await.unwrap();
    assert_eq!((exited.exit_code, exited.oom_killed), (137, false));
    // And once more says the same.
    assert_eq!(task.task.stop("deaf", 15, DEADLINE).await.unwrap(), exited);

    // Behind an init process the default action works, as it would not for a first process.
    let spec = ContainerSpec { init: true, ..task.script("init", "echo ready; sleep 1000") };
    task.task.create_container(&spec).await.unwrap();
    task.task.start("init").await.unwrap();
    task.wait_for_line("init", "ready").await;
    assert_eq!(task.task.stop("init", 15, DEADLINE).await.unwrap().exit_code, 143);
    assert_eq!(task.output("polite").await, "ready\nbye\n");
}

#[tokio::test]
async fn no_descriptor_of_ours_is_inherited() {
    let task = Task::new().await;
    // 3 is the directory that is being listed.
    for init in [false, true] {
        let spec = ContainerSpec { init, ..task.program(&format!("init-{init}"), &["ls", "/proc/self/fd"]) };
        assert_eq!(task.run(&spec).await, (0, "0\n1\n2\n3\n".into()));
    }
    // Also the reaper lets go of all but its stdio, a moment after the program has begun.
    let script = "while ls /proc/1/fd | grep -qv '^[012]$'; do sleep 0.01; done; echo ready; sleep 1000";
    let spec = ContainerSpec { init: true, ..task.script("a", script) };
    task.task.create_container(&spec).await.unwrap();
    task.task.start("a").await.unwrap();
    task.wait_for_line("a", "ready").await;
    let argv = vec!["ls".into(), "/proc/self/fd".into()];
    let mut exec = task.task.exec("a", ExecSpec { argv, ..ExecSpec::default() }).await.unwrap();
    let mut out = String::new();
    exec.stdout.read_to_string(&mut out).await.unwrap();
    assert_eq!(out, "0\n1\n2\n3\n");
    assert_eq!(exec.wait().await.unwrap(), 0);
}

#[tokio::test]
async fn too_much_memory_is_told() {
    let task = Task::with(|spec| spec.memory_bytes = 64 << 20).await;
    let hog = "x=x; while true; do x=$x$x; done";
    let own = ContainerSpec { memory_bytes: Some(16 << 20), ..task.script("own", hog) };
    assert_eq!(task.run(&own).await.0, 137);
    assert_eq!(task.run(&task.script("tasks", hog)).await.0, 137);
    assert_eq!(task.run(&task.program("fine", &["true"])).await.0, 0);
    let state = task.task.state().await.unwrap();
    let killed: Vec<_> = state.containers.iter().map(|c| (c.id.as_str(), c.oom_killed)).collect();
    assert_eq!(killed, [("own", true), ("tasks", true), ("fine", false)]);
}

#[tokio::test]
async fn limits_and_use_are_seen() {
    let task = Task::with(|spec| {
        spec.memory_bytes = 256 << 20;
        spec.cpu_units = 256;
        spec.pids_max = Some(64);
    })
    .await;
    let spec = ContainerSpec { memory_bytes: Some(32 << 20), ..task.script("a", "echo ready; sleep 1000") };
    task.task.create_container(&spec).await.unwrap();
    task.task.start("a").await.unwrap();
    task.wait_for_line("a", "ready").await;
    let stats = task.task.stats().await.unwrap();
    assert_eq!(stats.task.memory_max_bytes, Some(256 << 20));
    assert_eq!(stats.containers[0].usage.memory_max_bytes, Some(32 << 20));
    assert!(stats.containers[0].usage.memory_bytes > 0 && stats.containers[0].usage.cpu_ns > 0);
    assert!(stats.containers[0].usage.pids >= 1);
}

#[tokio::test]
async fn exec_runs_beside_with_its_own_stdio() {
    let task = Task::new().await;
    let spec = ContainerSpec {
        environment: [("KEY".to_owned(), "container".to_owned())].into(),
        user: Some("app".into()),
        ..task.script("a", "echo ready; touch /tmp/mark; sleep 1000")
    };
    task.task.create_container(&spec).await.unwrap();
    assert!(matches!(task.task.exec("a", exec("true")).await, Err(Error::WrongState(_))));
    task.task.start("a").await.unwrap();
    task.wait_for_line("a", "ready").await;
    let script = "cat; echo $KEY $MORE; id -u; echo err >&2; grep -c . /proc/1/cmdline; \
        grep -E 'Seccomp:|NoNewPrivs' /proc/self/status; exit 5";
    let mut running = task
        .task
        .exec(
            "a",
            ExecSpec {
                stdin: true,
                environment: [("MORE".to_owned(), "exec".to_owned())].into(),
                ..exec(script)
            },
        )
        .await
        .unwrap();
    let mut stdin = running.stdin.take().unwrap();
    stdin.write_all(b"typed\n").await.unwrap();
    drop(stdin);
    let (mut out, mut err) = (String::new(), String::new());
    running.stdout.read_to_string(&mut out).await.unwrap();
    running.stderr.read_to_string(&mut err).await.unwrap();
    assert_eq!(running.wait().await.unwrap(), 5);
    assert_eq!(out, "typed\ncontainer exec\n1000\n1\nNoNewPrivs:\t1\nSeccomp:\t2\n");
    assert_eq!(err, "err\n");

    let error = task.task.exec("a", ExecSpec { argv: vec!["nope".into()], ..ExecSpec::default() }).await;
    assert!(matches!(error, Err(Error::CannotExecute { exit_code: 127, .. })), "{:?}", error.err());
    let mut endless = task.task.exec("a", exec("sleep 1000")).await.unwrap();
    endless.signal(9).await.unwrap();
    assert_eq!(endless.wait().await.unwrap(), 137);
    assert!(task.task.state().await.unwrap().execs.is_empty());
}

fn exec(script: &str) -> ExecSpec {
    ExecSpec { argv: vec!["sh".into(), "-c".into(), script.into()], ..ExecSpec::default() }
}

#[tokio::test]
async fn a_restarted_container_keeps_its_files_and_its_log() {
    let task = Task::new().await;
    let mut events = task.task.events();
    let spec = task.script("a", "echo run >> /count; wc -l < /count; exit 1");
    assert_eq!(task.run(&spec).await, (1, "1\n".into()));
    task.task.start("a").await.unwrap();
    loop {
        if let Some(TaskEvent::Exited(_)) = events.next().await
            && task.task.state().await.unwrap().containers[0].starts == 2
            && task.task.state().await.unwrap().containers[0].status == Status::Exited
        {
            break;
        }
    }
    assert_eq!(task.output("a").await, "1\n2\n");
    task.task.delete_container("a").await.unwrap();
    assert!(matches!(task.task.start("a").await, Err(Error::NotFound(_))));
    assert_eq!(task.run(&spec).await, (1, "1\n".into()));
}

#[tokio::test]
async fn containers_of_a_task_can_share_their_processes() {
    let task = Task::with(|spec| spec.shared_pid_namespace = true).await;
    task.task.create_container(&task.script("a", "echo ready; exec sleep 4321")).await.unwrap();
    task.task.start("a").await.unwrap();
    task.wait_for_line("a", "ready").await;
    let tracer = ContainerSpec {
        capabilities_add: vec!["SYS_PTRACE".into()],
        ..task.script("b", "ps | grep -c '[s]leep 4321'; cat /proc/1/status | grep CapPrm; echo x > /proc/1/exe && echo wrote; echo ready; sleep 1000")
    };
    task.task.create_container(&tracer).await.unwrap();
    task.task.start("b").await.unwrap();
    task.wait_for_line("b", "ready").await;
    // With one that may trace there, a third still starts.
    assert_eq!(task.run(&task.program("c", &["true"])).await.0, 0);
    let mut inside = task.task.exec("b", exec("true")).await.unwrap();
    assert_eq!(inside.wait().await.unwrap(), 0);
    assert_eq!(task.task.stop("a", 9, DEADLINE).await.unwrap().exit_code, 137);
    assert_eq!(task.task.stop("b", 9, DEADLINE).await.unwrap().exit_code, 137);
    let said = task.output("b").await;
    assert!(said.starts_with("1\nCapPrm:\t0000000000000000\n"), "{said}");
    assert!(!said.contains("wrote"), "{said}");
    task.task.destroy().await.unwrap();
}

#[tokio::test]
async fn the_network_namespace_is_the_tasks() {
    let mut holder = std::process::Command::new("unshare")
        .args(["--net", "sh", "-c", "echo ready; exec sleep 1000"])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Read::read_exact(&mut holder.stdout.take().unwrap(), &mut [0; 5]).unwrap();
    let path = std::path::PathBuf::from(format!("/proc/{}/ns/net", holder.id()));
    let expected = std::fs::read_link(&path).unwrap();
    let task = Task::with(|spec| spec.network_namespace = Some(path.clone())).await;
    let results = [
        task.run(&task.program("a", &["readlink", "/proc/self/ns/net"])).await,
        task.run(&task.program("b", &["readlink", "/proc/self/ns/net"])).await,
    ];
    holder.kill().unwrap();
    holder.wait().unwrap();
    for result in results {
        assert_eq!(result, (0, format!("{}\n", expected.display())));
    }
    // Gone by now, and the error says so.
    task.task.create_container(&task.program("c", &["true"])).await.unwrap();
    let error = task.task.start("c").await.unwrap_err().to_string();
    assert!(error.contains(path.to_str().unwrap()), "{error}");
}

#[tokio::test]
async fn a_micro_vm_is_not_silently_a_container() {
    let task = Task::new().await;
    let spec = ferrogate_sandbox::TaskSandboxSpec {
        isolation: Isolation::MicroVm,
        dir: task.dir.with_file_name("vm"),
        ..task.task.spec().clone()
    };
    assert!(matches!(common::sandbox().create(spec).await.err(), Some(Error::NoMicroVm { .. })));
    assert!(!task.dir.with_file_name("vm").exists());
}

#[tokio::test]
async fn a_directory_has_one_task() {
    let task = Task::new().await;
    assert!(common::sandbox().create(task.task.spec().clone()).await.is_err());
    let second = std::process::Command::new(common::shim()).arg("--dir").arg(&task.dir).output().unwrap();
    assert!(!second.status.success());
    let words = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(words.contains("a shim runs for"), "{words}");
    assert_eq!(task.run(&task.program("still", &["true"])).await.0, 0);
}

/// Secrets come as environment: whoever reads the node's disk must not find them, and whoever comes after the agent
/// must still execute with them.
#[tokio::test]
async fn the_environment_stays_off_the_disk() {
    let task = Task::new().await;
    let secret = "hush-5c1b7e";
    let spec = ContainerSpec {
        environment: [("SECRET".to_owned(), secret.to_owned())].into(),
        ..task.script("a", "[ -n \"$SECRET\" ] && echo ready; sleep 1000")
    };
    task.task.create_container(&spec).await.unwrap();
    task.task.start("a").await.unwrap();
    task.wait_for_line("a", "ready").await;
    let found = std::process::Command::new("grep").args(["-rl", secret]).arg(&task.dir).output().unwrap();
    assert_eq!((found.status.code(), String::from_utf8_lossy(&found.stdout).as_ref()), (Some(1), ""));
    let again = common::sandbox().reattach(&task.dir).await.unwrap();
    let mut exec = again
        .exec(
            "a",
            ExecSpec { environment: [("B".to_owned(), "b".to_owned())].into(), ..exec("echo $SECRET $B") },
        )
        .await
        .unwrap();
    let mut output = Vec::new();
    assert_eq!(exec.wait_output(&mut output, 100).await.unwrap(), 0);
    assert_eq!(String::from_utf8(output).unwrap(), format!("{secret} b\n"));
}
