//! What tests of machines share.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ferrogate_sandbox::microvm::{MachineOptions, Machines};
use ferrogate_sandbox::{ContainerSandbox, Isolation, TaskSandboxSpec};
use tempfile::TempDir;

use super::Task;

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
