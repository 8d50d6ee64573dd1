//! A connection that breaks is not a shim that is gone.

mod common;

use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

use common::{DEADLINE, Task};
use ferrogate_sandbox::{Error, ExecSpec, LogRecord, Status};
use rustix::net::sockopt::socket_peercred;

/// Shuts every connection of this process to that shim, as a fault between the two would.
fn break_connections(task: &Task) {
    let shim = rustix::process::Pid::from_raw(task.shim_pid()).unwrap();
    let mut broken = 0;
    for entry in std::fs::read_dir("/proc/self/fd").unwrap().flatten() {
        let Some(fd) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        // SAFETY: at worst it was closed since it was listed, and then the calls below say so.
        let fd = unsafe { BorrowedFd::borrow_raw(fd) };
        if socket_peercred(fd).is_ok_and(|peer| peer.pid == shim) {
            rustix::net::shutdown(fd, rustix::net::Shutdown::Both).unwrap();
            broken += 1;
        }
        let _ = fd.as_raw_fd();
    }
    assert!(broken > 0, "there was no connection to break");
}

async fn go(task: &Task, file: &str) {
    let argv = vec!["touch".into(), file.into()];
    let mut exec = task.task.exec("a", ExecSpec { argv, ..ExecSpec::default() }).await.unwrap();
    assert_eq!(exec.wait().await.unwrap(), 0);
}

#[tokio::test]
async fn a_task_goes_on_over_broken_connections() {
    let task = Task::new().await;
    let script = "for i in 1 2 3; do echo line $i; until [ -e /go$i ]; do sleep 0.01; done; done; exit 9";
    task.task.create_container(&task.script("a", script)).await.unwrap();
    let pid = task.task.start("a").await.unwrap();
    let mut events = task.task.events();
    let mut logs = task.task.logs("a", 0).await.unwrap();
    let mut exec = {
        let argv = vec!["sleep".into(), "1000".into()];
        task.task.exec("a", ExecSpec { argv, ..ExecSpec::default() }).await.unwrap()
    };
    for number in 1..=3 {
        let next = tokio::time::timeout(DEADLINE, logs.next()).await.unwrap().unwrap();
        let Some(LogRecord::Line { bytes, .. }) = next else { panic!("{next:?}") };
        assert_eq!(bytes, format!("line {number}").into_bytes());
        break_connections(&task);
        if number == 1 {
            // An exec is its connection's.
            let ended = tokio::time::timeout(DEADLINE, exec.wait()).await.unwrap();
            assert!(matches!(ended, Err(Error::ShimLost { .. })), "{ended:?}");
            assert!(matches!(exec.wait().await, Err(Error::ShimLost { .. })), "asked twice");
        }
        let state = task.task.state().await.unwrap();
        assert_eq!((state.containers[0].status, state.containers[0].pid), (Status::Running, Some(pid)));
        if number == 3 {
            // While nobody is connected it ends.
            go(&task, "/go3").await;
            break_connections(&task);
        } else {
            go(&task, &format!("/go{number}")).await;
        }
    }
    assert_eq!(tokio::time::timeout(DEADLINE, logs.next()).await.unwrap().unwrap(), None);
    // Whoever follows events learns that some passed it by, or hears them; never that the shim is gone.
    let ended = async {
        loop {
            assert!(events.next().await.is_some(), "the shim is said to be gone");
            let container = task.task.state().await.unwrap().containers.remove(0);
            if container.status == Status::Exited {
                return container.exit_code;
            }
        }
    };
    assert_eq!(tokio::time::timeout(DEADLINE, ended).await.unwrap(), Some(9));
}

#[tokio::test]
async fn calls_that_a_connection_breaks_under_are_made_once() {
    let task = Task::new().await;
    let stopped = task.shim_pid();
    for round in 0..3 {
        let id = format!("c{round}");
        // The shim stands still with the call unanswered, or not even read, when the connection breaks.
        let spec = task.script(&id, "echo once >> /count; sleep 1000");
        common::kill(stopped, 19);
        let create = async {
            task.task.create_container(&spec).await.unwrap();
        };
        let fault = async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            break_connections(&task);
            common::kill(stopped, 18);
        };
        tokio::join!(create, fault);
        common::kill(stopped, 19);
        let start = async { task.task.start(&id).await.unwrap() };
        let (pid, ()) = tokio::join!(start, async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            break_connections(&task);
            common::kill(stopped, 18);
        });
        let state = task.task.state().await.unwrap();
        let container = state.containers.iter().find(|container| container.id == id).unwrap();
        assert_eq!((container.starts, container.pid), (1, Some(pid)));
    }
    task.task.destroy().await.unwrap();
    assert!(!task.dir.exists());
}

/// A shim that stands still is alive, however long it takes.
#[tokio::test]
async fn a_shim_that_stands_still_is_waited_for() {
    let task = Task::new().await;
    task.task.create_container(&task.script("a", "sleep 1000")).await.unwrap();
    task.task.start("a").await.unwrap();
    let shim = task.shim_pid();
    common::kill(shim, 19);
    break_connections(&task);
    let mut events = task.task.events();
    let waited = tokio::time::timeout(Duration::from_millis(300), events.next()).await;
    assert!(waited.is_err(), "{waited:?}");
    common::kill(shim, 18);
    assert!(tokio::time::timeout(DEADLINE, events.next()).await.unwrap().is_some());
    assert_eq!(task.task.state().await.unwrap().containers[0].status, Status::Running);
}
