//! The seam under a task: what a node asks of the thing that runs containers, whatever that thing is.
//!
//! [`Sandbox`] makes and finds again [`TaskSandbox`]es. One implementation stands: [`ContainerSandbox`], namespaces
//! and cgroups through one `ferrogate-shim` process per task; with [`microvm::Machines`] in a machine of the task's own.
//! Asking for a micro-VM where there are none is an error, never a silent downgrade.
//!
//! Invariants
//! - Everything of a task lives below its directory, its cgroup and its shim; [`TaskSandbox::destroy`] leaves
//!   none of the three.
//! - An exit code and an output line exist on disk before anybody is told of them, so an agent that dies and
//!   reattaches loses neither.
//! - Nothing here decides: stop timeouts, restarts and health belong to the agent.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

mod clock;
mod container;
mod kept;
pub mod microvm;
mod signals;
pub mod spec;
mod storage;
mod warm;

pub use clock::{HostClock, host_clock};
pub use container::ContainerSandbox;
pub use container::events::{Events, TaskEvent};
pub use container::exec::{Exec, ExecInput, ExecOutput, ExecSpec};
pub use container::logs::{LogFollower, LogRecord, Stream};
pub use ferrogate_shim::protocol::{
    ContainerState, ContainerUsage, Exited, Listener, LogLimits, Status, StorageUsage, TaskState, TaskStats,
    Transport, Usage, WhenFull, WindowSize,
};
pub use kept::{log_dir, read_logs};
pub use signals::parse_signal;
pub use storage::{EphemeralStorage, missing_for_storage};

/// What a task runs in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Isolation {
    Container,
    MicroVm,
}

/// A task as its sandbox must know it before the first container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskSandboxSpec {
    /// The task id: names the cgroup. Letters, digits, `-`, `_`, `.`.
    pub id: String,
    /// The agent's instance name: cgroups are `ferrogate/<instance>/<id>`, so two agents never meet.
    pub instance: String,
    /// The task's directory; made if absent, removed by [`TaskSandbox::destroy`].
    pub dir: PathBuf,
    pub isolation: Isolation,
    /// Hard limit of the whole task; 1024 units are one vCPU. 0: none.
    pub cpu_units: u32,
    /// Hard limit of the whole task. 0: none.
    pub memory_bytes: u64,
    /// Processes and threads of the whole task.
    pub pids_max: Option<u64>,
    /// `pidMode: task`.
    pub shared_pid_namespace: bool,
    /// Joined by every container. `None`: each gets an empty one.
    pub network_namespace: Option<PathBuf>,
    pub hostname: String,
    /// Contents of `/etc/hosts`.
    pub hosts: String,
    /// Contents of `/etc/resolv.conf`.
    pub resolv_conf: String,
    /// Bounds everything containers write. `None`: only the disk of the task's directory does.
    #[serde(default)]
    pub ephemeral_storage: Option<EphemeralStorage>,
}

/// One container: the image's defaults and what the task definition says over them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerSpec {
    /// The container's name in its task.
    pub id: String,
    /// Unpacked image layers, topmost first.
    pub layers: Vec<PathBuf>,
    pub image: ImageDefaults,
    /// `None`: the image's. Given, it also discards the image's command, as Docker does.
    pub entry_point: Option<Vec<String>>,
    pub command: Option<Vec<String>>,
    /// Wins over the image's.
    pub environment: BTreeMap<String, String>,
    /// `name`, `uid`, `name:group`, `uid:gid`; resolved in the container's root.
    pub user: Option<String>,
    pub working_directory: Option<String>,
    /// Relative share inside the task; 0: the least.
    pub cpu_units: u32,
    /// Hard limit.
    pub memory_bytes: Option<u64>,
    /// Soft limit.
    pub memory_reservation_bytes: Option<u64>,
    pub readonly_root_filesystem: bool,
    pub ulimits: Vec<Ulimit>,
    /// With or without `CAP_`.
    pub capabilities_add: Vec<String>,
    /// With or without `CAP_`, or `ALL`.
    pub capabilities_drop: Vec<String>,
    pub tmpfs: Vec<Tmpfs>,
    pub system_controls: BTreeMap<String, String>,
    pub mounts: Vec<BindMount>,
    pub volumes: Vec<VolumeMount>,
    /// `initProcessEnabled`.
    pub init: bool,
    /// Leaves set-uid programs of the image (sudo, su) their power; otherwise `no_new_privs` takes it.
    pub allow_new_privileges: bool,
    /// Its stdio is a terminal, and what that shows is its output.
    pub pseudo_terminal: bool,
    /// Its stdin stays open; nothing ever comes.
    pub interactive: bool,
    pub logs: LogLimits,
}

/// What the image config says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageDefaults {
    pub entry_point: Vec<String>,
    pub command: Vec<String>,
    /// `KEY=value`
    pub environment: Vec<String>,
    pub user: String,
    pub working_directory: String,
    /// Paths (`VOLUME`). Each is a volume: the task's that is mounted there, or one of the container's own.
    pub volumes: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ulimit {
    /// `nofile`, `core`, …
    pub name: String,
    pub soft: u64,
    pub hard: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tmpfs {
    pub container_path: String,
    pub size_bytes: u64,
    pub mount_options: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BindMount {
    pub source: PathBuf,
    pub container_path: String,
    pub read_only: bool,
}

/// A task's volume: empty at first, or with what the image has there if it declares the path as a `VOLUME` (ECS developer
/// guide, bind mounts).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeMount {
    /// Letters, digits, `-`, `_`, `.`. Containers that name the same share it.
    pub volume: String,
    pub container_path: String,
    pub read_only: bool,
}

/// A step of [`Sandbox::create`], or of a machine that came up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Made {
    pub step: Cow<'static, str>,
    pub began: SystemTime,
    pub ended: SystemTime,
}

impl Made {
    /// Ended now.
    fn done(step: &'static str, began: SystemTime) -> Self {
        Self { step: step.into(), began, ended: SystemTime::now() }
    }
}

/// Makes task sandboxes.
#[async_trait]
pub trait Sandbox: Send + Sync {
    fn isolation(&self) -> Isolation;

    /// Directory, files, cgroup and shim of a new task. On error nothing is left.
    async fn create(&self, spec: TaskSandboxSpec) -> Result<Arc<dyn TaskSandbox>, Error>;

    /// A task that was there before this agent. Where its shim is gone, its remains are killed and the state
    /// says of every container that ran: exit code 137, error "the shim was lost".
    async fn reattach(&self, dir: &Path) -> Result<Arc<dyn TaskSandbox>, Error>;

    /// Ends and removes a task's sandbox whatever state it is in, also one that cannot be reattached: kills its
    /// shim and its processes, removes its cgroup and `dir`. Idempotent; on success nothing of the task runs.
    async fn discard(&self, dir: &Path, instance: &str, task_id: &str) -> Result<(), Error>;
}

/// One task. All methods may be called concurrently.
#[async_trait]
pub trait TaskSandbox: Send + Sync {
    fn spec(&self) -> &TaskSandboxSpec;

    /// What making it took; nothing of one that was there before.
    fn made(&self) -> &[Made];

    /// How the task's machine came up, once it has a container; nothing of a task without one. Names begin with
    /// [`microvm::MACHINE_STEP`].
    async fn booted(&self) -> Vec<Made>;

    async fn create_container(&self, spec: &ContainerSpec) -> Result<(), Error>;

    /// Returns when the program has been executed, with the host's pid of the container's first process. A
    /// container that exited may be started again and keeps what it wrote.
    async fn start(&self, container: &str) -> Result<i32, Error>;

    /// Ends a [`TaskSandbox::start`] that still copies what the image has into volumes; that start then fails. Of a
    /// container that is not being started, or whose program is about to run, nothing is ended.
    async fn cancel_start(&self, container: &str) -> Result<(), Error>;

    async fn signal(&self, container: &str, signal: i32) -> Result<(), Error>;

    /// SIGKILL to every process of the container, or of the whole task.
    async fn kill(&self, container: Option<&str>) -> Result<(), Error>;

    /// `signal`, then SIGKILL after `timeout`; returns how it ended. At once if it had ended before.
    async fn stop(&self, container: &str, signal: i32, timeout: Duration) -> Result<Exited, Error>;

    /// Another process in a running container, with its own stdio. It ends with the value this returns.
    async fn exec(&self, container: &str, exec: ExecSpec) -> Result<Exec, Error>;

    async fn state(&self) -> Result<TaskState, Error>;

    async fn stats(&self) -> Result<TaskStats, Error>;

    /// What the task's processes listen on; nothing while none runs.
    async fn listeners(&self) -> Result<Vec<Listener>, Error>;

    /// Takes this much of the task's ephemeral storage for its images. Replaces what was taken before.
    /// [`Error::NoSpace`] if it is not there.
    async fn reserve_storage(&self, bytes: u64) -> Result<(), Error>;

    /// What happens from now on. Call before [`TaskSandbox::state`] and nothing is missed.
    fn events(&self) -> Events;

    /// Output from `from_offset` on (0: whatever is still kept), until the container has exited and all is read.
    async fn logs(&self, container: &str, from_offset: u64) -> Result<LogFollower, Error>;

    /// Everything before `offset` is safe elsewhere and may be dropped here.
    async fn ack_logs(&self, container: &str, offset: u64) -> Result<(), Error>;

    /// Forgets a container that is not running, with its files.
    async fn delete_container(&self, container: &str) -> Result<(), Error>;

    /// Kills what runs, ends the shim, removes cgroup and directory. Idempotent.
    async fn destroy(&self) -> Result<(), Error>;
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "task {task} asks for a micro-VM, which this sandbox cannot give: ask for container isolation, or use a node that offers micro-VMs"
    )]
    NoMicroVm { task: String },
    #[error("{what} is not allowed: {why}")]
    Invalid { what: String, why: String },
    /// The program cannot be executed. `message` is as Docker's: `exec: "foo": executable file not found in $PATH`.
    #[error("{message}")]
    CannotExecute { message: String, exit_code: i32 },
    #[error("{0}")]
    NotFound(String),
    #[error("{0}")]
    WrongState(String),
    /// The task's ephemeral storage is too small for it.
    #[error("{0}")]
    NoSpace(String),
    /// The shim or the kernel refused.
    #[error("{0}")]
    Refused(String),
    /// There is no shim any more: the state says what became of the task. (Of an exec: its connection is gone, and it
    /// with it.)
    #[error("the shim of the task in {} does not answer: {why}", dir.display())]
    ShimLost { dir: PathBuf, why: String },
    #[error("cannot start a shim for {}: {why}", dir.display())]
    ShimStart { dir: PathBuf, why: String },
    #[error("cannot {action} {}", path.display())]
    Io { action: &'static str, path: PathBuf, source: std::io::Error },
}
