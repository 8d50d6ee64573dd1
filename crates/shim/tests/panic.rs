//! The kernel of a task that is under way panics: with `ferrogate-guest-panics` for its PID 1, which `cargo xtask guest` builds
//! beside the real one.

mod common;

use std::path::{Path, PathBuf};

use common::Task;
use common::machines::{home, machine_pid, next_exit, sandbox, small};
use ferrogate_sandbox::ExecSpec;
use ferrogate_sandbox::microvm::MachineOptions;

#[tokio::test]
async fn a_kernel_that_panics_under_a_task_ends_it_with_its_words() {
    let (_home, options) = home();
    let guest = common::shim().with_file_name("ferrogate-guest-panics");
    assert!(guest.exists(), "{} is missing: cargo xtask guest", guest.display());
    let options = MachineOptions { guest: Some(guest), ..options };
    let task = Task::of(&sandbox(options).await, small).await;
    let app = task.script("panic", "echo first; echo second >&2; sleep 1000");
    task.task.create_container(&app).await.unwrap();
    task.task.start("panic").await.unwrap();
    task.wait_for_line("panic", "second").await;
    let pid = machine_pid(&task);
    let events = task.task.events();
    let argv = ["/bin/touch", "/panic"].map(str::to_owned).to_vec();
    // It may have no answer any more.
    let _ = task.task.exec("panic", ExecSpec { argv, ..ExecSpec::default() }).await;
    let exited = next_exit(events).await;
    assert_eq!((exited.container.as_str(), exited.exit_code, exited.oom_killed), ("panic", 137, false));

    let state = task.task.state().await.unwrap();
    let why = state.containers[0].error.clone().unwrap();
    let expected = "the task's machine was lost: Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000100";
    assert_eq!(why, expected);
    let mut lines: Vec<String> = task.output("panic").await.lines().map(str::to_owned).collect();
    lines.sort();
    assert_eq!(lines, ["first", "second"]);
    for refused in [
        task.task.start("panic").await.unwrap_err(),
        task.task.exec("panic", ExecSpec::default()).await.err().unwrap(),
    ] {
        assert!(refused.to_string().contains("Kernel panic - not syncing"), "{refused}");
    }
    assert!(!common::is_alive(pid), "its program ended");

    task.task.destroy().await.unwrap();
    assert!(!task.dir.exists());
    let cgroups = ferrogate_shim::cgroup::Cgroups::detect().unwrap();
    let left: Vec<PathBuf> = cgroups.join_files(&Path::new("ferrogate").join(&task.instance).join("task"));
    assert!(left.iter().all(|file| !file.exists()), "{left:?}");
}
