//! Terminals and stdin of containers and of processes executed in them.

mod common;

use common::{DEADLINE, Task};
use ferrogate_sandbox::{ContainerSpec, Error, Exec, ExecSpec, Sandbox, WindowSize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const SIZE: WindowSize = WindowSize { rows: 30, columns: 100 };

fn shell(script: &str) -> ExecSpec {
    let argv = vec!["sh".into(), "-c".into(), script.into()];
    ExecSpec { argv, terminal: Some(SIZE), ..ExecSpec::default() }
}

/// Reads until this was seen; what came so far.
async fn until(exec: &mut Exec, text: &str) -> String {
    let mut all = String::new();
    let read = async {
        let mut buffer = [0; 1024];
        while !all.contains(text) {
            let count = exec.stdout.read(&mut buffer).await.unwrap();
            assert!(count > 0, "the end came before {text:?}: {all:?}");
            all.push_str(&String::from_utf8_lossy(&buffer[..count]));
        }
    };
    if tokio::time::timeout(DEADLINE, read).await.is_err() {
        panic!("{text:?} does not come: {all:?}");
    }
    all
}

async fn sleeping() -> Task {
    let task = Task::new().await;
    task.task.create_container(&task.script("a", "echo ready; sleep 1000")).await.unwrap();
    task.task.start("a").await.unwrap();
    task.wait_for_line("a", "ready").await;
    task
}

#[tokio::test]
async fn a_container_with_a_terminal() {
    for init in [false, true] {
        let task = Task::new().await;
        let spec = ContainerSpec {
            pseudo_terminal: true,
            init,
            user: Some("app".into()),
            ..task.script(
                "a",
                "test -t 0 && test -t 1 && test -t 2 && echo all; stat -c '%F %u' /dev/console; echo to the console > /dev/console; readlink /proc/self/fd/1; echo $TERM; \
                 stat -c %u /proc/self/fd/0 -L; echo err >&2; exit 3",
            )
        };
        let (code, output) = task.run(&spec).await;
        assert_eq!(
            output,
            "all\r\ncharacter special file 1000\r\nto the console\r\n/dev/pts/0\r\nxterm\r\n1000\r\nerr\r\n",
            "init {init}"
        );
        assert_eq!(code, 3);
    }
}

#[tokio::test]
async fn a_terminal_comes_again_with_a_restart() {
    let task = Task::new().await;
    let spec = ContainerSpec { pseudo_terminal: true, ..task.script("a", "test -t 1 && echo yes") };
    assert_eq!(task.run(&spec).await, (0, "yes\r\n".into()));
    let mut events = task.task.events();
    task.task.start("a").await.unwrap();
    while !matches!(events.next().await, Some(ferrogate_sandbox::TaskEvent::Exited(_))) {}
    assert_eq!(task.output("a").await, "yes\r\nyes\r\n");
}

#[tokio::test]
async fn stdin_is_empty_or_open() {
    let task = Task::new().await;
    assert_eq!(task.run(&task.script("empty", "cat; echo end")).await, (0, "end\n".into()));
    let spec = ContainerSpec { interactive: true, ..task.script("open", "echo ready; cat; echo end") };
    task.task.create_container(&spec).await.unwrap();
    task.task.start("open").await.unwrap();
    task.wait_for_line("open", "ready").await;
    assert_eq!(task.task.stop("open", 9, DEADLINE).await.unwrap().exit_code, 137);
    assert_eq!(task.output("open").await, "ready\n");
}

#[tokio::test]
async fn an_exec_with_a_terminal() {
    let task = sleeping().await;
    let mut exec = task
        .task
        .exec(
            "a",
            ExecSpec {
                user: Some("app".into()),
                working_directory: Some("/home/app".into()),
                environment: [("MORE".to_owned(), "more".to_owned())].into(),
                ..shell(
                    "trap 'echo size changed' WINCH; id -u; pwd; echo $MORE; \
                     read line; echo got $line; until [ \"$line\" = x ]; do read line || true; done; \
                     echo next $line; cat; exit 7",
                )
            },
        )
        .await
        .unwrap();
    let mut stdin = exec.stdin.take().unwrap();
    until(&mut exec, "more\r\n").await;
    stdin.write_all(b"typed\n").await.unwrap();
    // The echo of the terminal, and what the program made of it.
    let said = until(&mut exec, "got typed\r\n").await;
    assert!(said.contains("typed\r\n"), "{said:?}");
    exec.resize(WindowSize { rows: 40, columns: 120 }).unwrap();
    until(&mut exec, "size changed\r\n").await;
    stdin.write_all(b"x\n").await.unwrap();
    until(&mut exec, "next x\r\n").await;
    // End of file, as typed.
    stdin.write_all(b"\x04").await.unwrap();
    assert_eq!(exec.wait().await.unwrap(), 7);
    let mut rest = Vec::new();
    exec.stdout.read_to_end(&mut rest).await.unwrap();
    exec.stderr.read_to_end(&mut rest).await.unwrap();
    assert!(task.task.state().await.unwrap().execs.is_empty());
}

#[tokio::test]
async fn control_c_reaches_the_program_and_sizes_are_told() {
    let task = sleeping().await;
    let mut exec = task.task.exec("a", shell("echo $(busybox stty size); exec sleep 1000")).await.unwrap();
    until(&mut exec, "30 100\r\n").await;
    let mut stdin = exec.stdin.take().unwrap();
    stdin.write_all(b"\x03").await.unwrap();
    assert_eq!(exec.wait().await.unwrap(), 130);
    let mut plain = task.task.exec("a", ExecSpec { terminal: None, ..shell("true") }).await.unwrap();
    assert!(matches!(plain.resize(SIZE), Err(Error::Invalid { .. })));
    assert_eq!(plain.wait().await.unwrap(), 0);
}

#[tokio::test]
async fn much_output_waits_for_its_reader() {
    let task = sleeping().await;
    let mut exec = task.task.exec("a", shell("seq 1 100000")).await.unwrap();
    let mut all = Vec::new();
    exec.stdout.read_to_end(&mut all).await.unwrap();
    assert_eq!(all.iter().filter(|byte| **byte == b'\n').count(), 100_000);
    assert!(all.ends_with(b"\r\n100000\r\n"));
    assert_eq!(exec.wait().await.unwrap(), 0);

    let mut output = Vec::new();
    let mut plain =
        task.task.exec("a", ExecSpec { terminal: None, ..shell("seq 1 100000; exit 4") }).await.unwrap();
    assert_eq!(plain.wait_output(&mut output, 10).await.unwrap(), 4);
    assert_eq!(output, b"1\n2\n3\n4\n5\n");
}

#[tokio::test]
async fn a_dropped_exec_is_killed_and_forgotten() {
    let task = sleeping().await;
    for terminal in [None, Some(SIZE)] {
        let exec = task.task.exec("a", ExecSpec { terminal, ..shell("sleep 4321") }).await.unwrap();
        let pid = exec.pid;
        assert!(common::is_alive(pid));
        drop(exec);
        gone(&task, pid).await;
    }
}

#[tokio::test]
async fn an_exec_ends_with_its_agent() {
    let task = sleeping().await;
    let dir = task.dir.clone();
    // An agent of its own runtime, which ends without a word: its connection closes, nothing is dropped in order.
    let agent = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let other = common::sandbox().reattach(&dir).await.unwrap();
            let exec = other.exec("a", shell("sleep 4321")).await.unwrap();
            let pid = exec.pid;
            assert!(common::is_alive(pid));
            std::mem::forget((exec, other));
            pid
        })
    });
    let pid = agent.join().unwrap();
    gone(&task, pid).await;
    let mut exec = task.task.exec("a", ExecSpec { terminal: None, ..shell("true") }).await.unwrap();
    assert_eq!(exec.wait().await.unwrap(), 0);
}

async fn gone(task: &Task, pid: i32) {
    let wait = async {
        while common::is_alive(pid) {
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
        while !task.task.state().await.unwrap().execs.is_empty() {
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(DEADLINE, wait).await.expect("the exec stays");
}

/// As with the agent of AWS, which closes the terminal and leaves the rest to the kernel: a hang-up for what is in the
/// terminal's foreground. Without a terminal nothing is hung up.
#[tokio::test]
async fn background_jobs_end_with_their_terminal_unless_they_do_not_care() {
    let task = sleeping().await;
    let script = |number: u32| {
        format!(
            "sleep {number}1 & (trap '' HUP; exec sleep {number}2) & setsid sleep {number}3 & \
             for n in 1 2 3; do until ps -o args | grep -q \"^sleep {number}$n\"; do :; done; done; \
             echo all; cat; echo cat ended"
        )
    };
    for (number, terminal, first) in [(432, Some(SIZE), 1), (987, None, 0)] {
        let spec = ExecSpec { terminal, stdin: true, ..shell(&script(number)) };
        let mut exec = task.task.exec("a", spec).await.unwrap();
        until(&mut exec, "all").await;
        match terminal {
            Some(_) => exec.stdin.as_mut().unwrap().write_all(&[4]).await.unwrap(),
            None => exec.stdin = None,
        }
        // Cancelled again and again, it loses nothing and says nothing twice. Those in the background have its stdout.
        let mut output = Vec::new();
        let wait = async {
            loop {
                let tick = std::time::Duration::from_micros(50);
                if let Ok(code) = tokio::time::timeout(tick, exec.wait_output(&mut output, 1000)).await {
                    return code.unwrap();
                }
            }
        };
        assert_eq!(tokio::time::timeout(DEADLINE, wait).await.expect("the exec hangs"), 0);
        assert_eq!(exec.wait_output(&mut output, 1000).await.unwrap(), 0);
        let said = String::from_utf8(output).unwrap().replace('\r', "");
        assert_eq!(said.matches("cat ended\n").count(), 1, "{said:?}");

        let alive = async |which: u32| {
            let look = format!("ps -o args | grep -q '^sleep {number}{which}'");
            let mut look = task.task.exec("a", ExecSpec { terminal: None, ..shell(&look) }).await.unwrap();
            look.wait().await.unwrap()
        };
        // The signal was sent before the end was told; the end of who got it may take a moment.
        let ended = async {
            while alive(1).await != first {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(DEADLINE, ended).await.expect("the first job is not as it should be");
        assert_eq!((alive(2).await, alive(3).await), (0, 0), "terminal {terminal:?}");
    }
}
