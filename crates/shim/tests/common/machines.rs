//! What tests of machines share.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ferrogate_sandbox::microvm::{MachineOptions, Machines};
use ferrogate_sandbox::{ContainerSandbox, Events, Exited, Isolation, TaskEvent, TaskSandboxSpec};
use tempfile::TempDir;

use super::{DEADLINE, Task};

pub(crate) fn home() -> (TempDir, MachineOptions) {
    let home = TempDir::with_prefix("ferrogate-microvm-test-").unwrap();
    let options = super::machine_options(&home.path().join("machines"));
    (home, options)
}

pub(crate) async fn sandbox(options: MachineOptions) -> ContainerSandbox {
    let machines = tokio::task::spawn_blocking(move || Machines::new(&options)).await.unwrap().unwrap();
    ContainerSandbox::with_shim(super::shim()).unwrap().with_machines(Arc::new(machines))
}

pub(crate) fn small(spec: &mut TaskSandboxSpec) {
    spec.isolation = Isolation::MicroVm;
    spec.memory_bytes = 128 << 20;
}

/// The machine's program, by its cgroup.
pub(crate) fn machine_pid(task: &Task) -> i32 {
    pid_of(&task.instance, "task").expect("it has a program")
}

/// … of the task of that id; `None`: there is none yet.
pub(crate) fn pid_of(instance: &str, id: &str) -> Option<i32> {
    let cgroups = ferrogate_shim::cgroup::Cgroups::detect().unwrap();
    let cgroup = Path::new("ferrogate").join(instance).join(id).join(".machine");
    let files: Vec<PathBuf> = cgroups.join_files(&cgroup);
    let members = files.into_iter().filter_map(|file| std::fs::read_to_string(file).ok());
    let pids: Vec<i32> =
        members.flat_map(|text| text.lines().map(|pid| pid.parse().unwrap()).collect::<Vec<i32>>()).collect();
    assert!(pids.iter().all(|pid| *pid == pids[0]), "one process: {pids:?}");
    pids.first().copied()
}

/// The next container that ends.
pub(crate) async fn next_exit(mut events: Events) -> Exited {
    let exited = async {
        loop {
            match events.next().await.expect("its shim lives") {
                TaskEvent::Exited(exited) => return exited,
                TaskEvent::Missed => panic!("events passed by"),
                _ => {}
            }
        }
    };
    tokio::time::timeout(DEADLINE, exited).await.unwrap()
}
