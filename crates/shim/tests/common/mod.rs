//! A task of a test's own: directory, cgroup and shim, gone when it is dropped, also after a failure.
#![allow(dead_code, reason = "each test binary uses its part")]

pub(crate) mod machines;

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use ferrogate_sandbox::microvm::{MachineAccelerator, MachineOptions, Machines};
use ferrogate_sandbox::{
    ContainerSandbox, ContainerSpec, ImageDefaults, Isolation, LogRecord, Sandbox, TaskSandbox,
    TaskSandboxSpec,
};
use ferrogate_shim::cgroup::Cgroups;
use tempfile::TempDir;

/// No step of a test takes longer on any machine that is not broken.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

const APPLETS: &[&str] = &[
    "[", "awk", "cat", "chmod", "dd", "echo", "env", "false", "find", "grep", "head", "hostname", "id", "ip",
    "kill", "ln", "ls", "mkdir", "mkfifo", "mknod", "mount", "nproc", "od", "ps", "pwd", "readlink", "rm",
    "sed", "seq", "setsid", "sh", "sleep", "sort", "stat", "stty", "tail", "test", "touch", "tr", "true",
    "umount", "unshare", "wc", "yes",
];

pub(crate) fn shim() -> PathBuf {
    env!("CARGO_BIN_EXE_ferrogate-shim").into()
}

pub(crate) fn sandbox() -> ContainerSandbox {
    ContainerSandbox::with_shim(shim()).unwrap()
}

const ISOLATION: &str = "FERROGATE_TEST_ISOLATION";
/// Of `.cache/kernel`; `None`: the minimal one where it was built, as it boots faster, else the distribution's.
/// FERROGATE_TEST_KERNEL=cloud has that one anyway.
pub(crate) fn kernel(name: Option<&str>) -> PathBuf {
    let kernels = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap().join(".cache/kernel");
    let usual = || match std::env::var("FERROGATE_TEST_KERNEL") {
        Ok(name) => name,
        Err(_) if kernels.join("minimal").exists() => "minimal".into(),
        Err(_) => "cloud".into(),
    };
    let kernel = kernels.join(name.map_or_else(usual, str::to_owned));
    assert!(kernel.exists(), "{} is missing: cargo xtask kernel --cloud", kernel.display());
    kernel
}

/// What a machine of a test boots, emulated: scripts/deps test, `cargo xtask kernel --cloud`, `cargo xtask guest`.
pub(crate) fn machine_options(dir: &Path) -> MachineOptions {
    MachineOptions {
        kernel: kernel(None),
        guest: Some(shim().with_file_name("ferrogate-guest")),
        accelerator: MachineAccelerator::Tcg,
        dir: dir.to_owned(),
        boot_deadline: None,
    }
}

/// The same tests, with every task in a machine: `FERROGATE_TEST_ISOLATION=microvm cargo nextest run -p ferrogate-shim`.
fn in_machines() -> bool {
    std::env::var_os(ISOLATION).is_some_and(|isolation| isolation == "microvm")
}

/// A root directory with busybox, users and an unexecutable file.
pub(crate) fn make_rootfs(root: &Path) {
    let busybox = ["/bin/busybox", "/usr/bin/busybox"].into_iter().map(Path::new).find(|path| path.exists());
    let busybox = busybox.expect("busybox is needed: apt-get install busybox-static");
    for directory in ["bin", "etc", "tmp", "proc", "sys", "dev", "root", "home/app"] {
        std::fs::create_dir_all(root.join(directory)).unwrap();
    }
    std::fs::copy(busybox, root.join("bin/busybox")).unwrap();
    for applet in APPLETS {
        symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
    std::fs::write(
        root.join("etc/passwd"),
        "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001::/home/app:/bin/sh\n",
    )
    .unwrap();
    std::fs::write(root.join("etc/group"), "root:x:0:\napp:x:1001:\nextra:x:2000:app\n").unwrap();
    std::fs::write(root.join("etc/not-executable"), "text\n").unwrap();
    std::fs::write(root.join("bin/no-format"), "text without an interpreter\n").unwrap();
    std::fs::write(root.join("bin/no-interpreter"), "#!/nowhere/sh\n").unwrap();
    for file in ["bin/no-format", "bin/no-interpreter"] {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(root.join(file), std::fs::Permissions::from_mode(0o755)).unwrap();
    }
}

pub(crate) struct Task {
    pub(crate) task: Arc<dyn TaskSandbox>,
    pub(crate) dir: PathBuf,
    pub(crate) instance: String,
    pub(crate) layer: PathBuf,
    _home: TempDir,
}

static SEQUENCE: AtomicU32 = AtomicU32::new(0);

pub(crate) fn instance() -> String {
    format!("test-{}-{}", std::process::id(), SEQUENCE.fetch_add(1, Ordering::Relaxed))
}

impl Task {
    pub(crate) async fn new() -> Task {
        Task::with(|_| {}).await
    }

    pub(crate) async fn with(change: impl FnOnce(&mut TaskSandboxSpec)) -> Task {
        if !in_machines() {
            return Task::of(&sandbox(), change).await;
        }
        let dir = std::env::temp_dir().join("ferrogate-test-machines");
        let options = machine_options(&dir);
        let machines = tokio::task::spawn_blocking(move || Machines::new(&options)).await.unwrap().unwrap();
        Task::of(&sandbox().with_machines(Arc::new(machines)), |spec| {
            spec.isolation = Isolation::MicroVm;
            change(spec);
        })
        .await
    }

    pub(crate) async fn of(sandbox: &ContainerSandbox, change: impl FnOnce(&mut TaskSandboxSpec)) -> Task {
        Task::at(TempDir::with_prefix("ferrogate-shim-test-").unwrap(), sandbox, change).await
    }

    pub(crate) async fn at(
        home: TempDir,
        sandbox: &ContainerSandbox,
        change: impl FnOnce(&mut TaskSandboxSpec),
    ) -> Task {
        let layer = home.path().join("layer");
        make_rootfs(&layer);
        let dir = home.path().join("task");
        let instance = instance();
        let mut spec = TaskSandboxSpec {
            id: "task".into(),
            instance: instance.clone(),
            dir: dir.clone(),
            isolation: Isolation::Container,
            cpu_units: 0,
            memory_bytes: 0,
            pids_max: None,
            shared_pid_namespace: false,
            network_namespace: None,
            hostname: "ip-10-0-0-4".into(),
            hosts: "127.0.0.1 localhost\n".into(),
            resolv_conf: "nameserver 10.0.0.2\n".into(),
            ephemeral_storage: None,
        };
        change(&mut spec);
        let task = sandbox.create(spec).await.unwrap();
        Task { task, dir, instance, layer, _home: home }
    }

    /// A container that runs a shell script.
    pub(crate) fn script(&self, id: &str, script: &str) -> ContainerSpec {
        self.program(id, &["/bin/sh", "-c", script])
    }

    pub(crate) fn program(&self, id: &str, argv: &[&str]) -> ContainerSpec {
        ContainerSpec {
            id: id.into(),
            layers: vec![self.layer.clone()],
            image: ImageDefaults::default(),
            command: Some(argv.iter().map(|word| (*word).to_owned()).collect()),
            ..ContainerSpec::default()
        }
    }

    /// Runs it to its end: exit code and output.
    pub(crate) async fn run(&self, spec: &ContainerSpec) -> (i32, String) {
        self.task.create_container(spec).await.unwrap();
        self.task.start(&spec.id).await.unwrap();
        let output = self.output(&spec.id).await;
        (self.exit_code(&spec.id).await, output)
    }

    /// Everything it wrote; waits for its end.
    pub(crate) async fn output(&self, id: &str) -> String {
        let read = async {
            let mut all = String::new();
            let mut logs = self.task.logs(id, 0).await.unwrap();
            while let Some(record) = logs.next().await.unwrap() {
                if let LogRecord::Line { bytes, partial, .. } = record {
                    all.push_str(&String::from_utf8_lossy(&bytes));
                    if !partial {
                        all.push('\n');
                    }
                }
            }
            all
        };
        tokio::time::timeout(DEADLINE, read).await.expect("the container does not end")
    }

    /// Waits for a line that contains this.
    pub(crate) async fn wait_for_line(&self, id: &str, text: &str) {
        let find = async {
            let mut logs = self.task.logs(id, 0).await.unwrap();
            while let Some(record) = logs.next().await.unwrap() {
                if let LogRecord::Line { bytes, .. } = record
                    && String::from_utf8_lossy(&bytes).contains(text)
                {
                    return;
                }
            }
            panic!("{id} ended without saying {text:?}");
        };
        tokio::time::timeout(DEADLINE, find).await.unwrap_or_else(|_| panic!("{id} does not say {text:?}"));
    }

    pub(crate) async fn exit_code(&self, id: &str) -> i32 {
        let state = self.task.state().await.unwrap();
        let container = state.containers.into_iter().find(|container| container.id == id).unwrap();
        container.exit_code.unwrap_or_else(|| panic!("{id} has not exited: {:?}", container.status))
    }

    pub(crate) fn shim_pid(&self) -> i32 {
        shim_pid(&self.dir).expect("there is no shim")
    }
}

pub(crate) fn shim_pid(dir: &Path) -> Option<i32> {
    std::fs::read_to_string(dir.join("shim.pid")).ok()?.trim().parse().ok()
}

impl Drop for Task {
    fn drop(&mut self) {
        clean(&self.dir, &self.instance);
    }
}

/// Ends what a test left, whatever state it is in.
pub(crate) fn clean(dir: &Path, instance: &str) {
    let config = std::fs::read(dir.join("task.json")).ok();
    if config.is_some()
        && let Some(pid) = shim_pid(dir)
        && std::fs::read_to_string(format!("/proc/{pid}/cmdline"))
            .is_ok_and(|line| line.contains(dir.to_str().unwrap_or("/nowhere")))
    {
        kill(pid, 9);
    }
    let Ok(cgroups) = Cgroups::detect() else { return };
    let root = Path::new("ferrogate").join(instance);
    let _ = cgroups.kill_tree(&root, DEADLINE);
    let _ = cgroups.remove(&root, DEADLINE);
    cgroups.remove_empty_ancestors(&root);
    // crun and runc also use hierarchies that ours leaves alone.
    for hierarchy in std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
        for runtime in ["crun", "runc", ""] {
            let _ = std::fs::remove_dir(hierarchy.path().join(&root).join(runtime));
        }
        let _ = std::fs::remove_dir(hierarchy.path().join("ferrogate"));
    }
}

pub(crate) fn kill(pid: i32, signal: i32) {
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    let signal = rustix::process::Signal::from_named_raw(signal).unwrap();
    let _ = rustix::process::kill_process(pid, signal);
}

pub(crate) fn is_alive(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or("").trim_start().starts_with('Z'))
}

pub(crate) async fn sandbox_create(spec: TaskSandboxSpec) -> Arc<dyn TaskSandbox> {
    sandbox().create(spec).await.unwrap()
}
