//! What becomes of a task whose machine, guest, host or memory fails.

mod common;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use common::machines::{home, machine_pid, next_exit, sandbox, small};
use common::{DEADLINE, Task};
use ferrogate_sandbox::microvm::{MachineOptions, Machines};
use ferrogate_sandbox::{
    ContainerSandbox, ContainerSpec, EphemeralStorage, ExecSpec, LogLimits, Sandbox, Status, WhenFull,
};
use tempfile::TempDir;

const MIB: u64 = 1 << 20;

#[tokio::test]
async fn a_machine_that_is_killed_is_told_of_and_its_output_kept() {
    let (_home, options) = home();
    let task = Task::of(&sandbox(options).await, small).await;
    let app = task.script("app", "echo first; sleep 1000");
    task.task.create_container(&app).await.unwrap();
    task.task.start("app").await.unwrap();
    task.wait_for_line("app", "first").await;
    let events = task.task.events();
    common::kill(machine_pid(&task), 9);
    let exited = next_exit(events).await;
    assert_eq!(exited.exit_code, 137);
    assert_eq!(task.output("app").await, "first\n");
    let state = task.task.state().await.unwrap();
    let why = state.containers[0].error.clone().unwrap();
    assert!(why.starts_with("the task's machine was lost: "), "{why}");
    let refused = task.task.start("app").await.unwrap_err();
    assert!(refused.to_string().contains("machine was lost"), "{refused}");
    task.task.destroy().await.unwrap();
    assert!(!task.dir.exists());
}

#[tokio::test]
async fn a_guest_that_panics_or_never_comes_up_says_why() {
    let (home, options) = home();
    let no_program = home.path().join("no-program");
    std::fs::write(&no_program, "text").unwrap();
    let busybox =
        ["/bin/busybox", "/usr/bin/busybox"].into_iter().map(PathBuf::from).find(|path| path.exists());
    let busybox = busybox.unwrap();
    let no_kernel = home.path().join("no-kernel");
    std::fs::create_dir(&no_kernel).unwrap();
    std::fs::copy(&busybox, no_kernel.join("vmlinux")).unwrap();
    let (kernel, program) = (options.kernel.clone(), options.guest.clone().unwrap());
    let cases = [
        (&kernel, no_program, None, "Kernel panic - not syncing: "),
        // A program that is none of ours, and says nothing, however often it is booted again.
        (&kernel, busybox, Some(Duration::from_secs(4)), "not up within 4000 ms"),
        (&no_kernel, program, None, "qemu-system-x86_64: "),
    ];
    for (kernel, guest, boot_deadline, expected) in cases {
        let options =
            MachineOptions { kernel: kernel.clone(), guest: Some(guest), boot_deadline, ..options.clone() };
        let task = Task::of(&sandbox(options).await, small).await;
        let refused = task.task.create_container(&task.script("app", "true")).await.unwrap_err();
        assert!(refused.to_string().contains(expected), "{refused}");
        task.task.destroy().await.unwrap();
    }
}

#[tokio::test]
async fn a_machine_outlives_its_agent() {
    let (_home, options) = home();
    let sandbox = sandbox(options).await;
    let task = Task::of(&sandbox, small).await;
    let app = task.script("app", "for i in $(seq 200); do echo line $i; sleep 0.05; done; exit 4");
    task.task.create_container(&app).await.unwrap();
    task.task.start("app").await.unwrap();
    task.wait_for_line("app", "line 2").await;
    let before = machine_pid(&task);
    // Nothing of the first agent's is used from here on.
    let again = sandbox.reattach(&task.dir).await.unwrap();
    assert_eq!(again.state().await.unwrap().containers[0].status, Status::Running);
    assert_eq!(machine_pid(&task), before);
    again.kill(Some("app")).await.unwrap();
    assert!(task.output("app").await.starts_with("line 1\nline 2\n"));
    again.delete_container("app").await.unwrap();
    // Its shim killed, the machine goes with it.
    common::kill(task.shim_pid(), 9);
    let gone = async {
        while common::is_alive(before) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(DEADLINE, gone).await.unwrap();
}

/// A program that does nothing any more, as on a host that has no time for it.
#[tokio::test]
async fn a_machine_that_stands_still_can_be_ended() {
    let (_home, options) = home();
    let task = Task::of(&sandbox(options).await, small).await;
    task.task.create_container(&task.script("app", "echo up; sleep 1000")).await.unwrap();
    task.task.start("app").await.unwrap();
    task.wait_for_line("app", "up").await;
    let pid = machine_pid(&task);
    common::kill(pid, libc::SIGSTOP);
    tokio::time::timeout(DEADLINE, task.task.destroy()).await.unwrap().unwrap();
    assert!(!common::is_alive(pid) && !task.dir.exists());
}

/// One that only runs, and wants nothing, is told the time and says that it heard it.
#[tokio::test]
async fn a_machine_that_stands_still_is_noticed() {
    let (_home, options) = home();
    let machines = tokio::task::spawn_blocking(move || Machines::new(&options)).await.unwrap().unwrap();
    let machines = machines.with_clock_interval(Duration::from_secs(2));
    let sandbox = ContainerSandbox::with_shim(common::shim()).unwrap().with_machines(Arc::new(machines));
    let task = Task::of(&sandbox, small).await;
    task.task
        .create_container(&task.script("app", "echo up; sleep 10; echo later; sleep 1000"))
        .await
        .unwrap();
    task.task.start("app").await.unwrap();
    let events = task.task.events();
    // As long as it answers it lives.
    task.wait_for_line("app", "later").await;
    let pid = machine_pid(&task);
    common::kill(pid, libc::SIGSTOP);
    let exited = next_exit(events).await;
    assert_eq!(exited.exit_code, 137);
    let state = task.task.state().await.unwrap();
    let why = state.containers[0].error.clone().unwrap();
    assert!(why.contains("the guest has not answered for 6 s"), "{why}");
    task.task.destroy().await.unwrap();
    assert!(!common::is_alive(pid));
}

/// As a guest whose timer was measured on a busy host, and which waits for ever.
#[tokio::test]
async fn a_guest_that_does_not_come_up_is_booted_again() {
    let (_home, options) = home();
    let options = MachineOptions { boot_deadline: Some(Duration::from_secs(60)), ..options };
    let task = Task::of(&sandbox(options).await, small).await;
    let first = machine_pid(&task);
    common::kill(first, libc::SIGSTOP);
    let (code, output) = task.run(&task.script("app", "echo ran")).await;
    assert_eq!((code, output.as_str()), (0, "ran\n"));
    assert_ne!(machine_pid(&task), first);
    assert!(!common::is_alive(first));
    let steps = task.task.booted().await;
    let (again, rest) = steps.split_first().unwrap();
    assert_eq!(again.step, "machine: booted again, the guest said nothing within 15000 ms");
    assert!(again.ended.duration_since(again.began).unwrap() >= Duration::from_secs(15));
    assert!(rest.iter().any(|step| step.step == "machine: ready"), "{steps:?}");
    let log = std::fs::read_to_string(task.dir.join("console.log")).unwrap();
    assert!(log.contains("the machine is booted again"), "{log}");
}

/// Nobody takes its output, of which more is left in the guest than may be under way.
#[tokio::test]
async fn a_full_log_holds_back_no_end() {
    // Not so many that the guest's own log makes it wait.
    const LINES: usize = 12 << 10;
    let (_home, options) = home();
    let task = Task::of(&sandbox(options).await, small).await;
    let line = "x".repeat(63);
    let noise = task.script("noise", &format!("yes {line} | head -n {LINES}; exit 3"));
    let logs = LogLimits { bytes_max: 64 << 10, when_full: WhenFull::Block };
    task.task.create_container(&ContainerSpec { logs, ..noise }).await.unwrap();
    let events = task.task.events();
    task.task.start("noise").await.unwrap();
    assert_eq!(next_exit(events).await.exit_code, 3);
    assert_eq!(task.output("noise").await, format!("{line}\n").repeat(LINES));
    task.task.destroy().await.unwrap();
}

/// What a kernel keeps of its pages grows with them. A machine's memory is only taken when it is used.
#[tokio::test]
async fn a_larger_task_has_all_of_its_memory_too() {
    const TASK: u64 = 4096 * MIB;
    let (_home, options) = home();
    let sandbox = sandbox(options).await;
    let task = Task::of(&sandbox, |spec| {
        small(spec);
        spec.memory_bytes = TASK;
    });
    let task = task.await;
    let (code, output) = task.run(&task.script("app", "grep MemTotal /proc/meminfo")).await;
    assert_eq!(code, 0, "{output}");
    let total: u64 = output.split_whitespace().nth(1).unwrap().parse().unwrap();
    assert!(total * 1024 >= TASK, "{output}");
}

/// All of a task's memory is its containers': the guest's own is beside it. What they want more ends a container, and
/// neither the shim in the guest nor its PID 1.
#[tokio::test]
async fn a_task_has_all_of_its_memory_and_no_more() {
    const TASK: u64 = 192 * MIB;
    const USED: u64 = TASK - 12 * MIB;
    let (_home, options) = home();
    let sandbox = sandbox(options).await;
    let task = Task::of(&sandbox, |spec| {
        small(spec);
        spec.memory_bytes = TASK;
    });
    let task = task.await;
    let keeper = task.script("keeper", "cat /proc/1/oom_score_adj; sleep 1000");
    task.task.create_container(&keeper).await.unwrap();
    task.task.start("keeper").await.unwrap();
    task.wait_for_line("keeper", "0").await;
    // It holds all that it was given before it gives any of it away.
    let hold = |bytes: u64| format!("exec dd if=/dev/zero of=/dev/null bs={bytes} count=1");
    let (code, output) = task.run(&task.script("holder", &hold(USED))).await;
    assert_eq!(code, 0, "{output}");
    assert_eq!(task.run(&task.script("hog", &hold(TASK + MIB))).await.0, 137);
    let state = task.task.state().await.unwrap();
    let of = |id: &str| state.containers.iter().find(|container| container.id == id).unwrap().clone();
    assert!(of("hog").oom_killed, "{:?}", of("hog"));
    assert_eq!(of("keeper").status, Status::Running);
    let argv = vec!["/bin/true".to_owned()];
    let mut exec = task.task.exec("keeper", ExecSpec { argv, ..ExecSpec::default() }).await.unwrap();
    assert_eq!(exec.wait().await.unwrap(), 0, "the guest's shim lives");
}

/// A disk of this size at a directory, for as long as this lives.
struct Disk(PathBuf);

impl Disk {
    fn mount(at: &Path, bytes: u64) -> Disk {
        use rustix::mount::{MountFlags, mount};
        let options = std::ffi::CString::new(format!("size={bytes}")).unwrap();
        mount("tmpfs", at, "tmpfs", MountFlags::empty(), options.as_c_str()).unwrap();
        Disk(at.to_owned())
    }

    fn free_bytes(&self) -> u64 {
        let stat = rustix::fs::statvfs(&self.0).unwrap();
        stat.f_bavail * stat.f_frsize
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH);
        let _ = std::fs::remove_dir(&self.0);
    }
}

/// The ephemeral disk is a sparse file: it may be promised more than the host's disk has. The guest then has errors of its
/// disk; the machine does not stand still, and the task can be ended.
#[tokio::test]
async fn a_full_disk_of_the_hosts_is_an_error_in_the_guest() {
    const DISK: u64 = 24 * MIB;
    let (machines, options) = home();
    let home = TempDir::with_prefix("ferrogate-shim-test-").unwrap();
    let disk = Disk::mount(home.path(), DISK);
    let storage = EphemeralStorage { size_bytes: 20 << 30, templates: machines.path().join("templates") };
    let sandbox = sandbox(options).await;
    let task = Task::at(home, &sandbox, |spec| {
        small(spec);
        spec.ephemeral_storage = Some(storage);
    });
    let task = task.await;
    // Its output would not be kept either.
    let write =
        format!("dd if=/dev/zero of=/file bs=1M count={} conv=fsync && exit 7; exit 9", 2 * DISK / MIB);
    let writer: ContainerSpec = task.script("writer", &write);
    let keeper = task.script("keeper", "sleep 1000");
    for container in [&keeper, &writer] {
        task.task.create_container(container).await.unwrap();
    }
    task.task.start("keeper").await.unwrap();
    let events = task.task.events();
    task.task.start("writer").await.unwrap();
    let ended = next_exit(events).await;
    assert_eq!((ended.container.as_str(), ended.exit_code), ("writer", 9));
    assert!(disk.free_bytes() < MIB, "{} bytes are free: it was not full", disk.free_bytes());
    assert!(task.task.stats().await.unwrap().task.memory_bytes > 0, "the guest answers");
    task.task.destroy().await.unwrap();
    assert!(!task.dir.exists());
    drop(task);
    drop(disk);
}
