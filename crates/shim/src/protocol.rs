//! What the agent and a shim say to each other over `<task dir>/shim.sock`.
//!
//! A frame is a 4-byte big-endian length and that many bytes of JSON. The client sends [`Request`]s, the shim
//! answers each with one [`Reply::Response`] of the same id, in order but for a `Start` that has volumes to fill first,
//! and, on a connection that subscribed, pushes [`Reply::Event`]s in between. `Exec` carries three file descriptors (stdin, stdout, stderr) as
//! `SCM_RIGHTS` with the first byte of its frame. With a terminal the first of them is a socket, over which the
//! terminal's own end comes back the same way before `Exec` is answered.

use std::path::PathBuf;

use oci_spec::runtime::Spec;
use serde::{Deserialize, Serialize};

use crate::machine::config::MachineConfig;

/// Raised when a request or a reply changes its meaning. Additions do not raise it.
pub const PROTOCOL_VERSION: u32 = 2;
/// The longest frame either side takes. A container's spec is a few KiB; a hundred long mounts still fit.
pub const FRAME_BYTES_MAX: usize = 1 << 20;
/// Containers of one task: ECS allows ten, the rest is for sidecars of our own.
pub const CONTAINERS_MAX: usize = 16;
/// Processes started by `Exec` in one task: all that run, and the latest whose exit nobody has collected.
pub const EXECS_MAX: usize = 64;
/// Connections at one time: the agent, the agent's successor, a person with a debug tool.
pub const CONNECTIONS_MAX: usize = 16;
/// Length of a container's or an exec's id.
pub const ID_BYTES_MAX: usize = 255;

pub const SOCKET_FILE: &str = "shim.sock";
pub const LOCK_FILE: &str = "shim.lock";
pub const PID_FILE: &str = "shim.pid";
/// What the shim reads when it starts: [`TaskConfig`].
pub const CONFIG_FILE: &str = "task.json";
/// What the shim leaves for whoever comes after it: [`TaskState`].
pub const STATE_FILE: &str = "state.json";
/// The shim's own stderr: empty unless something is wrong.
pub const DIAGNOSTICS_FILE: &str = "shim.log";
/// Directory of the containers' directories: nothing a container is called collides with the names above.
pub const CONTAINERS_DIR: &str = "containers";
/// Where a deleted container's files go in one rename; the client removes them, which may take a while.
pub const TRASH_DIR: &str = "trash";
/// A container's output segments, below its own directory.
pub const LOG_DIR: &str = "log";
/// Everything containers write: their writable layers and the task's volumes. With [`TaskConfig::ephemeral_storage`] it is
/// where the task's own file system is mounted, seen by its containers alone.
pub const STORAGE_DIR: &str = "storage";
/// The task's own file system, a sparse file made by the agent.
pub const STORAGE_IMAGE_FILE: &str = "storage.img";
/// Below [`STORAGE_DIR`]: a volume is a directory of its name in here.
pub const VOLUMES_DIR: &str = "volumes";

/// The task as the shim must know it before the first container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskConfig {
    pub version: u32,
    /// Below the root of each hierarchy: `ferrogate/<instance>/<task>`.
    pub cgroup: PathBuf,
    /// Where the shim puts itself, so that it dies neither with the agent's cgroup nor on the task's account:
    /// `ferrogate/<instance>/.shims`.
    pub shim_cgroup: PathBuf,
    /// Hard limits of the whole task.
    #[serde(default)]
    pub resources: Resources,
    /// One PID namespace for all containers (`pidMode: task`), held by a process of the shim's own.
    #[serde(default)]
    pub shared_pid_namespace: bool,
    /// [`STORAGE_IMAGE_FILE`] holds what the containers write, and so bounds it.
    #[serde(default)]
    pub ephemeral_storage: bool,
    /// The containers run in a machine of the task's own; the cgroup and its limits are the machine's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<Box<MachineConfig>>,
}

/// Limits of one cgroup. `None` leaves the kernel's default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resources {
    /// cgroup v1's scale, 2..=262144; on v2 converted to `cpu.weight`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_shares: Option<u64>,
    /// CPU time per period; with 100 ms a quarter of a vCPU is 25000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_quota_us: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_period_us: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_max_bytes: Option<u64>,
    /// Soft limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_reservation_bytes: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pids_max: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Request {
    pub id: u64,
    pub call: Call,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "call", deny_unknown_fields)]
pub enum Call {
    Hello {
        version: u32,
    },
    CreateContainer(Box<CreateContainer>),
    /// Clones, sets up, execs; answered when the exec has happened or failed. A container that exited may be
    /// started again: it keeps its writable layer.
    Start {
        container: String,
    },
    /// Ends a `Start` that still fills volumes; the container counts as never started. Otherwise nothing happens.
    CancelStart {
        container: String,
    },
    /// To the container's first process.
    Signal {
        container: String,
        signal: i32,
    },
    /// SIGKILL to every process of one container, or of the task.
    Kill {
        container: Option<String>,
    },
    /// The process is killed when the connection it was asked for on ends.
    Exec(Box<Exec>),
    /// To the process an `Exec` started.
    SignalExec {
        exec: String,
        signal: i32,
    },
    /// Forgets an exec that has exited.
    DeleteExec {
        exec: String,
    },
    /// Kills an exec if it runs, and forgets it. Unknown ones are forgotten already.
    AbandonExec {
        exec: String,
    },
    /// Takes this much of the task's ephemeral storage for what lies elsewhere but counts: the images. Replaces what was
    /// taken before. Without ephemeral storage nothing happens.
    ReserveStorage {
        bytes: u64,
    },
    State,
    Stats,
    /// What the task's processes listen on.
    Listeners,
    /// From now on events are pushed on this connection. The answer is the state at that moment, so nothing
    /// falls between the two.
    Subscribe,
    /// Everything before `offset` is safe elsewhere and may be dropped.
    AckLogs {
        container: String,
        offset: u64,
    },
    /// Forgets a container that is not running, removes its cgroup and puts its files aside ([`TRASH_DIR`]).
    Delete {
        container: String,
    },
    /// Ends the shim. Refused while a container runs, unless `kill`.
    Shutdown {
        kill: bool,
    },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateContainer {
    pub id: String,
    pub spec: Spec,
    pub rootfs: Rootfs,
    /// As in an image config or a task definition: `name`, `uid`, `name:group`, `uid:gid`. Resolved inside the
    /// container's root; wins over the user in `spec`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    pub seccomp: Seccomp,
    /// The container's first process is a reaper of ours that forwards signals and ends with the program's exit
    /// code (`initProcessEnabled`).
    #[serde(default)]
    pub init: bool,
    /// Its stdin stays open, and nothing ever comes (Docker's `-i` with nobody attached); otherwise it is empty.
    #[serde(default)]
    pub interactive: bool,
    /// Directories to make in the storage before the container; mounts of `spec` have them as their sources.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<Volume>,
    /// A joined network namespace. `None`: an empty one of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network_namespace: Option<PathBuf>,
    pub logs: LogLimits,
}

/// A directory below [`STORAGE_DIR`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Volume {
    /// Relative, without `..`.
    pub path: PathBuf,
    /// At the container's first start, if still empty, it gets what the image has at the place it is mounted at, with owner
    /// and mode.
    pub copy_image: bool,
}

/// Of a terminal, in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowSize {
    pub rows: u16,
    pub columns: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Rootfs {
    /// A directory that is the root as it stands.
    Directory(PathBuf),
    /// Overlay of read-only layers, topmost first. `upper` and `work` live in the container's directory.
    Layers(Vec<PathBuf>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Seccomp {
    /// Our allow list, compiled once per shim.
    Default,
    /// `linux.seccomp` of the spec; absent means none.
    FromSpec,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogLimits {
    /// Bytes of unacknowledged output kept on disk.
    pub bytes_max: u64,
    pub when_full: WhenFull,
}

impl Default for LogLimits {
    fn default() -> Self {
        LogLimits { bytes_max: 64 << 20, when_full: WhenFull::DropOldest }
    }
}

/// What happens to output when nobody has taken what was written before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum WhenFull {
    /// awslogs `mode=blocking`: the container waits in `write`.
    Block,
    /// awslogs `mode=non-blocking`: new lines are dropped and counted in a record of their own.
    DropNewest,
    /// No log driver: a ring for `ferrogate logs`.
    DropOldest,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exec {
    /// Chosen by the client, unique within the task.
    pub id: String,
    pub container: String,
    pub arguments: Vec<String>,
    /// `KEY=value`, over the container's own.
    #[serde(default)]
    pub environment: Vec<String>,
    /// `None`, here and below: the container's. Rights and limits always are the container's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directory: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// With a controlling terminal of this size, made in the container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terminal: Option<WindowSize>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Reply {
    Response { id: u64, result: Result<Answer, Failure> },
    Event(Event),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Answer {
    Done,
    Hello { version: u32, pid: i32 },
    Started { pid: i32 },
    State(TaskState),
    Stats(TaskStats),
    Listeners(Vec<Listener>),
}

/// Why a call was refused or failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    pub kind: FailureKind,
    pub message: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FailureKind {
    /// No such container or exec.
    NotFound,
    AlreadyExists,
    /// Not in this state: start of a running container, signal to one that has exited.
    WrongState,
    /// The request itself cannot be carried out, whatever the state.
    Invalid,
    /// A feature of the OCI specification this launcher does not have.
    Unsupported,
    /// A named limit is reached.
    Limit,
    /// The program cannot be executed; `message` is what Docker would say, the exit code 126 or 127.
    CannotExecute {
        exit_code: i32,
    },
    /// The task's ephemeral storage has no room for it.
    NoSpace,
    /// The kernel refused a step of the set-up.
    System,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Event {
    Started {
        container: String,
        pid: i32,
        at_ns: i64,
    },
    Exited(Exited),
    ExecExited {
        exec: String,
        exit_code: i32,
        at_ns: i64,
    },
    /// There is output up to `end`. A hint: several may be folded into one.
    Output {
        container: String,
        end: u64,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exited {
    pub container: String,
    /// 128 + signal when one ended it.
    pub exit_code: i32,
    /// The kernel's out-of-memory killer took at least one of its processes.
    pub oom_killed: bool,
    pub at_ns: i64,
    /// Every byte the container wrote lies before this log offset.
    pub log_end: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskState {
    pub version: u32,
    /// 0 when no shim is alive (state recovered from disk).
    pub shim_pid: i32,
    pub containers: Vec<ContainerState>,
    pub execs: Vec<ExecState>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerState {
    pub id: String,
    pub status: Status,
    /// As seen by the host; only while running.
    pub pid: Option<i32>,
    pub exit_code: Option<i32>,
    pub oom_killed: bool,
    /// Why the last start failed, or that the shim was lost.
    pub error: Option<String>,
    /// How often it has been started.
    pub starts: u32,
    /// What its first start has copied so far from the image into its volumes; `None`: there was nothing to copy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copied_bytes: Option<u64>,
    /// Nanoseconds since 1970.
    pub created_at_ns: i64,
    pub started_at_ns: Option<i64>,
    pub exited_at_ns: Option<i64>,
    /// First offset still on disk.
    pub log_begin: u64,
    pub log_end: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Status {
    Created,
    Running,
    Exited,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecState {
    pub id: String,
    pub container: String,
    pub pid: Option<i32>,
    pub exit_code: Option<i32>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskStats {
    /// When they were read, nanoseconds since 1970.
    pub at_ns: i64,
    /// The task's own cgroup: all containers.
    pub task: Usage,
    pub containers: Vec<ContainerUsage>,
    /// `None`: the task has no ephemeral storage of its own.
    #[serde(default)]
    pub storage: Option<StorageUsage>,
}

/// Told of a task that listens on more.
pub const SOCKETS_MAX: usize = 1024;

/// A socket that takes connections, or datagrams from anybody.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listener {
    pub transport: Transport,
    pub address: std::net::IpAddr,
    pub port: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Transport {
    Tcp,
    Udp,
}

/// Ephemeral storage of the task, now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StorageUsage {
    /// Images, writable layers and volumes.
    pub used_bytes: u64,
    pub size_bytes: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerUsage {
    pub id: String,
    pub usage: Usage,
}

/// Counters since the cgroup was made, except where said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    pub cpu_ns: u64,
    pub cpu_user_ns: u64,
    pub cpu_system_ns: u64,
    pub cpu_throttled_ns: u64,
    /// Periods of the CPU limit, and in how many of them it was reached.
    #[serde(default)]
    pub cpu_periods: u64,
    #[serde(default)]
    pub cpu_throttled_periods: u64,
    /// Now.
    pub memory_bytes: u64,
    /// Now, of which page cache that could be dropped at once.
    pub memory_inactive_file_bytes: u64,
    pub memory_peak_bytes: u64,
    /// `None`: no limit.
    pub memory_max_bytes: Option<u64>,
    /// Now.
    pub pids: u64,
    pub io_read_bytes: u64,
    pub io_write_bytes: u64,
    pub oom_kills: u64,
}

impl Failure {
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Failure { kind, message: message.into() }
    }
}

/// Why a byte stream is not (or not yet) a frame.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    #[error("frame of {length} bytes; at most {FRAME_BYTES_MAX} are taken")]
    TooLong { length: usize },
    #[error("frame is not a valid message: {0}")]
    Json(#[from] serde_json::Error),
}

/// Appends `message` to `out` as one frame.
pub fn encode<T: Serialize>(message: &T, out: &mut Vec<u8>) -> Result<(), FrameError> {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    serde_json::to_writer(&mut *out, message)?;
    let length = out.len() - start - 4;
    if length > FRAME_BYTES_MAX {
        out.truncate(start);
        return Err(FrameError::TooLong { length });
    }
    out[start..start + 4].copy_from_slice(&(length as u32).to_be_bytes());
    Ok(())
}

/// The first whole frame in `input` with the number of bytes it took; `None` when more bytes are needed.
pub fn decode<T: for<'de> Deserialize<'de>>(input: &[u8]) -> Result<Option<(T, usize)>, FrameError> {
    let Some(header) = input.first_chunk::<4>() else { return Ok(None) };
    let length = u32::from_be_bytes(*header) as usize;
    if length > FRAME_BYTES_MAX {
        return Err(FrameError::TooLong { length });
    }
    let Some(body) = input.get(4..4 + length) else { return Ok(None) };
    Ok(Some((serde_json::from_slice(body)?, 4 + length)))
}

/// Ids become directory and cgroup names.
pub fn valid_id(id: &str) -> Result<(), Failure> {
    let ok = !id.is_empty()
        && id.len() <= ID_BYTES_MAX
        && id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        && !id.starts_with('.');
    if ok {
        return Ok(());
    }
    Err(Failure::new(
        FailureKind::Invalid,
        format!(
            "id {id:?} is not allowed: 1 to {ID_BYTES_MAX} letters, digits, '-', '_' or '.', not starting with '.'"
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_request_survives_the_wire() {
        let request = Request {
            id: 7,
            call: Call::CreateContainer(Box::new(CreateContainer {
                id: "web".into(),
                spec: Spec::default(),
                rootfs: Rootfs::Layers(vec!["/a".into()]),
                user: Some("1000:1000".into()),
                seccomp: Seccomp::Default,
                init: false,
                interactive: false,
                volumes: Vec::new(),
                network_namespace: None,
                logs: LogLimits::default(),
            })),
        };
        let mut bytes = Vec::new();
        encode(&request, &mut bytes).unwrap();
        let (back, used) = decode::<Request>(&bytes).unwrap().unwrap();
        assert_eq!((back, used), (request, bytes.len()));
        for cut in 0..bytes.len() {
            assert!(decode::<Request>(&bytes[..cut]).unwrap().is_none(), "cut at {cut}");
        }
    }

    #[test]
    fn an_oversized_frame_is_refused_before_its_body_arrives() {
        let header = ((FRAME_BYTES_MAX + 1) as u32).to_be_bytes();
        assert!(matches!(decode::<Request>(&header), Err(FrameError::TooLong { .. })));
    }

    #[test]
    fn ids_cannot_leave_their_directory() {
        for bad in ["", ".", "..", "../x", "a/b", ".hidden", "a b", "a\0b", &"x".repeat(256)] {
            assert!(valid_id(bad).is_err(), "{bad:?}");
        }
        valid_id("sample-app_1.2").unwrap();
    }

    proptest! {
        #[test]
        fn any_bytes_decode_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
            let _ = decode::<Request>(&bytes);
        }

        #[test]
        fn any_body_decodes_without_panic(body in ".{0,200}") {
            let mut bytes = (body.len() as u32).to_be_bytes().to_vec();
            bytes.extend_from_slice(body.as_bytes());
            let _ = decode::<Request>(&bytes);
            let _ = decode::<Reply>(&bytes);
        }

        #[test]
        fn a_damaged_frame_never_panics(at in 0usize..60, value in any::<u8>()) {
            let request = Request { id: 1, call: Call::Signal { container: "web".into(), signal: 15 } };
            let mut bytes = Vec::new();
            encode(&request, &mut bytes).unwrap();
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
            let _ = decode::<Request>(&bytes);
        }
    }
}
