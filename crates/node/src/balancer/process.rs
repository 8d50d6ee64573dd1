//! One `ferrogate-edge` process, of a balancer or of a task: where it is, how it begins and how it ends.

use std::fs;
use std::io;
use std::net::SocketAddrV4;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use ferrogate_edge::control::{FromEdge, Link, ToEdge, VERSION};
use ferrogate_shim::cgroup::Cgroups;
use ferrogate_shim::protocol::Resources;
use ferrogate_vpc::VpcFabric;
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::time::Instant;

use super::BalancerError;

/// Below the run directory.
const DIR: &str = "edge";
pub(super) const SOCKET_FILE: &str = "control.sock";
const LOG_FILE: &str = "edge.log";
/// Of its log, shown when it ended.
const SAID_BYTES_MAX: usize = 2000;
/// Cgroups of balancers' processes, beside those of tasks.
const CGROUP: &str = ".edges";
/// Of one process: 50,000 connections at 20 KiB, and its certificates and rules.
const MEMORY_BYTES_MAX: u64 = 1 << 30;
const THREADS_MAX: u64 = 256;
/// As much as a task of one vCPU when the machine is short of it.
const CPU_SHARES: u64 = 1024;
/// Of a task's, beside its containers: what AWS says to add to the task's size for it.
const TASK_CPU_SHARES: u64 = 256;
/// From its start to its first word.
const START_PATIENCE: Duration = Duration::from_secs(10);
const CONNECT_RETRY: Duration = Duration::from_millis(5);
/// From SIGKILL to the end.
const KILL_PATIENCE: Duration = Duration::from_secs(30);

/// The agent's end of the connection.
pub(crate) type EdgeLink = Link<ToEdge, FromEdge>;

/// Below a task's sandbox, and below its cgroup: gone with them.
const TASK_DIR: &str = "connect";
const TASK_CGROUP: &str = ".connect";

/// What of a former process's log stays in front of the next one's.
const LOG_KEPT_BYTES_MAX: u64 = 1 << 20;

/// What a task's proxy says of itself.
pub(crate) fn task_log(sandbox_dir: &Path) -> PathBuf {
    sandbox_dir.join(TASK_DIR).join(LOG_FILE)
}

/// A process that has not answered yet. It joins its cgroup by itself, and where nobody waits for it any more it would
/// do so behind the back of who removes that.
struct Unclaimed(Option<Child>);

impl Unclaimed {
    fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        self.0.as_mut().map_or(Ok(None), Child::try_wait)
    }

    fn claim(mut self) -> Child {
        self.0.take().expect("claimed once: by value")
    }
}

impl Drop for Unclaimed {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            // It may have ended.
            let _ = child.start_kill();
        }
    }
}

/// Where one process is, whether it runs or not.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// Root's alone.
    dir: PathBuf,
    cgroup: PathBuf,
    resources: Resources,
    /// What a former process said is kept: somebody reads it.
    keeps_log: bool,
    pub(crate) netns: String,
    /// Of the interface, or of the task.
    pub(crate) id: String,
}

impl Place {
    pub(super) fn of_balancer(run_dir: &Path, instance: &str, eni_id: &str) -> Result<Self, BalancerError> {
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
        if eni_id.is_empty() || !eni_id.chars().all(plain) {
            let path = run_dir.join(eni_id);
            let source = io::Error::other("a network interface's id has letters, digits and '-'");
            return Err(BalancerError::Io { what: "use the name", path, source });
        }
        Ok(Self {
            dir: run_dir.join(DIR).join(format!("{instance}.{eni_id}")),
            cgroup: cgroup_root(instance).join(eni_id),
            resources: Resources {
                cpu_shares: Some(CPU_SHARES),
                memory_max_bytes: Some(MEMORY_BYTES_MAX),
                pids_max: Some(THREADS_MAX),
                ..Resources::default()
            },
            keeps_log: false,
            netns: format!("lb-{eni_id}"),
            id: eni_id.to_owned(),
        })
    }

    /// Of a task whose sandbox stands. What it takes is the task's: it has no limit of its own.
    pub(crate) fn of_task(sandbox_dir: &Path, instance: &str, task_id: &str) -> Self {
        Self {
            dir: sandbox_dir.join(TASK_DIR),
            cgroup: Path::new("ferrogate").join(instance).join(task_id).join(TASK_CGROUP),
            resources: Resources { cpu_shares: Some(TASK_CPU_SHARES), ..Resources::default() },
            keeps_log: true,
            netns: task_id.to_owned(),
            id: task_id.to_owned(),
        }
    }

    /// To the process that runs there; `None`: none does.
    pub(crate) async fn connect(&self) -> Result<Option<(EdgeLink, u64)>, BalancerError> {
        match UnixStream::connect(self.dir.join(SOCKET_FILE)).await {
            Ok(stream) => greet(stream).await.map(Some),
            Err(error)
                if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) =>
            {
                Ok(None)
            }
            Err(source) => Err(self.io("connect to", SOCKET_FILE, source)),
        }
    }

    /// Starts one in its namespace, which stands; a task's listens there and nowhere else. None may run.
    pub(crate) async fn start(
        &self,
        program: &Path,
        fabric: &VpcFabric,
        listens: &[SocketAddrV4],
    ) -> Result<(Child, EdgeLink, u64), BalancerError> {
        let joins = self.prepare().await?;
        let socket = self.dir.join(SOCKET_FILE);
        // Appended to, so that the process can cut its own log.
        let log = fs::OpenOptions::new().create(true).append(true).mode(0o600).open(self.dir.join(LOG_FILE));
        let log = log.and_then(|log| {
            if !self.keeps_log || log.metadata()?.len() > LOG_KEPT_BYTES_MAX {
                log.set_len(0)?;
            }
            Ok(log)
        });
        let log = log.map_err(|source| self.io("write", LOG_FILE, source))?;
        let mut command = Command::new(program);
        command
            .arg("--socket")
            .arg(&socket)
            .args(joins.iter().flat_map(|file| [Path::new("--join"), file.as_path()]))
            .args(listens.iter().flat_map(|address| ["--listen".to_owned(), address.to_string()]))
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            // A terminal's signals are the agent's; this process outlives it.
            .process_group(0)
            .kill_on_drop(false);
        let runtime = tokio::runtime::Handle::current();
        let spawned = fabric.run_in(&self.netns, move || {
            let _inside = runtime.enter();
            command.spawn().map(|child| Unclaimed(Some(child)))
        });
        let mut starting = spawned.await?.map_err(|source| BalancerError::Io {
            what: "start",
            path: program.to_owned(),
            source,
        })?;
        let deadline = Instant::now() + START_PATIENCE;
        loop {
            if let Some(status) = starting.ended().map_err(|source| self.io("wait for", "", source))? {
                return Err(BalancerError::Ended { status: status.to_string(), said: self.said() });
            }
            match self.connect().await {
                Ok(Some((link, generation))) => return Ok((starting.claim(), link, generation)),
                Ok(None) if Instant::now() < deadline => tokio::time::sleep(CONNECT_RETRY).await,
                Ok(None) => return Err(BalancerError::Silent("it does not listen".into())),
                Err(error) => return Err(error),
            }
        }
    }

    /// The files it joins its cgroup by.
    async fn prepare(&self) -> Result<Vec<PathBuf>, BalancerError> {
        let place = self.clone();
        blocking(move || {
            let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&place.dir);
            made.map_err(|source| place.io("make", "", source))?;
            remove_file(&place.dir.join(SOCKET_FILE))?;
            let cgroups = cgroups()?;
            cgroups.create(&place.cgroup, &place.resources).map_err(|source| BalancerError::Io {
                what: "make the cgroup",
                path: place.cgroup.clone(),
                source,
            })?;
            Ok(cgroups.join_files(&place.cgroup))
        })
        .await
    }

    /// Ends the process, if there is one; returns when it is gone. Namespace and files stay.
    pub(crate) async fn kill(&self) -> Result<(), BalancerError> {
        let place = self.clone();
        blocking(move || {
            cgroups()?.kill_tree(&place.cgroup, KILL_PATIENCE).map_err(|source| BalancerError::Io {
                what: "end what is in the cgroup",
                path: place.cgroup.clone(),
                source,
            })
        })
        .await
    }

    /// Ends a balancer's and removes all that is of it.
    pub(super) async fn end(&self, fabric: &VpcFabric) -> Result<(), BalancerError> {
        self.kill().await?;
        fabric.detach(&self.id).await?;
        fabric.delete_netns(&self.netns).await?;
        let place = self.clone();
        blocking(move || {
            cgroups()?.remove(&place.cgroup, KILL_PATIENCE).map_err(|source| BalancerError::Io {
                what: "remove the cgroup",
                path: place.cgroup.clone(),
                source,
            })?;
            match fs::remove_dir_all(&place.dir) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    Err(place.io("remove", "", source))
                }
                _ => Ok(()),
            }
        })
        .await
    }

    /// The end of what it wrote.
    pub(crate) fn said(&self) -> String {
        let text = fs::read(self.dir.join(LOG_FILE)).unwrap_or_default();
        let from = text.len().saturating_sub(SAID_BYTES_MAX);
        String::from_utf8_lossy(&text[from..]).trim().to_owned()
    }

    fn io(&self, what: &'static str, file: &str, source: io::Error) -> BalancerError {
        BalancerError::Io { what, path: self.dir.join(file), source }
    }
}

/// Network interfaces whose balancers an agent of this instance left here.
pub(super) fn leftovers(run_dir: &Path, instance: &str) -> Vec<String> {
    let entries = fs::read_dir(run_dir.join(DIR)).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let ours = names.filter_map(|name| {
        let (of, eni_id) = name.split_once('.')?;
        (of == instance).then(|| eni_id.to_owned())
    });
    ours.collect()
}

/// What all balancers of an instance share, once none is left.
pub(super) async fn remove_parents(run_dir: &Path, instance: &str) -> Result<(), BalancerError> {
    let (root, dir) = (cgroup_root(instance), run_dir.join(DIR));
    blocking(move || {
        cgroups()?.remove(&root, KILL_PATIENCE).map_err(|source| BalancerError::Io {
            what: "remove the cgroup",
            path: root.clone(),
            source,
        })?;
        // Another instance's may be in it.
        let _ = fs::remove_dir(dir);
        Ok(())
    })
    .await
}

fn cgroup_root(instance: &str) -> PathBuf {
    Path::new("ferrogate").join(instance).join(CGROUP)
}

fn cgroups() -> Result<Cgroups, BalancerError> {
    Cgroups::detect().map_err(|source| BalancerError::Io { what: "find", path: "cgroups".into(), source })
}

fn remove_file(path: &Path) -> Result<(), BalancerError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(BalancerError::Io { what: "remove", path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}

/// The first words, both ways.
async fn greet(stream: UnixStream) -> Result<(EdgeLink, u64), BalancerError> {
    let mut link = EdgeLink::new(stream);
    let greeting = async {
        link.send(&ToEdge::Hello { version: VERSION }).await?;
        match link.receive().await? {
            FromEdge::Hello { version: VERSION, generation, .. } => Ok(generation),
            FromEdge::Hello { version, .. } => Err(BalancerError::Version(version)),
            FromEdge::Report { .. } | FromEdge::Lines { .. } => {
                Err(BalancerError::Silent("its first word is no greeting".into()))
            }
        }
    };
    let generation = tokio::time::timeout(START_PATIENCE, greeting).await;
    let silent = || BalancerError::Silent(format!("no greeting within {} s", START_PATIENCE.as_secs()));
    let generation = generation.map_err(|_| silent())??;
    Ok((link, generation))
}

async fn blocking<T: Send + 'static>(
    action: impl FnOnce() -> Result<T, BalancerError> + Send + 'static,
) -> Result<T, BalancerError> {
    match tokio::task::spawn_blocking(action).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(BalancerError::Silent("the runtime ends".into())),
        },
    }
}
