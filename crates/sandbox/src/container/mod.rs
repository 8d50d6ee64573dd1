//! Container isolation: each task one shim, found again by its directory.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use ferrogate_shim::protocol::{
    Answer, Call, ContainerState, CreateContainer, Exited, Listener, Rootfs, Seccomp, Status, TaskConfig,
    TaskState, TaskStats,
};
use tokio::io::AsyncReadExt;
use tokio::sync::Mutex;

use crate::microvm::{self, Machines};
use crate::{ContainerSpec, Error, Isolation, Made, Sandbox, TaskSandbox, TaskSandboxSpec, spec};

pub(crate) mod client;
pub(crate) mod events;
pub(crate) mod exec;
pub(crate) mod logs;
mod lost;
mod prepare;

use client::{Client, unexpected};
use events::{Events, TaskEvent};
use exec::{Exec, ExecSpec};
use logs::LogFollower;
use prepare::{ETC_DIR, SPEC_FILE, cgroup_paths, prepare, read_json, task_config};

const SHIM_PROGRAM: &str = "ferrogate-shim";
/// Longest a shim may take to say that it listens. One with a machine has tried to restore it before, for 20 s at most.
const SHIM_START_DEADLINE: Duration = Duration::from_secs(30);
/// A shim that holds its lock and does not answer is given this long, and asked this often.
const REATTACH_DEADLINE: Duration = Duration::from_secs(10);
const REATTACH_INTERVAL: Duration = Duration::from_millis(5);
/// A connection that broke is made anew, at growing intervals, as long as the shim lives.
const RECONNECT_MIN: Duration = Duration::from_millis(5);
const RECONNECT_MAX: Duration = Duration::from_secs(1);
/// Longest a process may take to go after SIGKILL, and a shim after `Shutdown`.
const KILL_DEADLINE: Duration = Duration::from_secs(30);
/// Longest a shim may take for what it does at once. One with a machine whose guest does not answer gives that up before.
const ANSWER_DEADLINE: Duration = Duration::from_secs(45);

/// [`Sandbox`] over `ferrogate-shim`.
pub struct ContainerSandbox {
    shim: PathBuf,
    machines: Option<Arc<Machines>>,
}

impl ContainerSandbox {
    /// Removes what an instance has beside its tasks, once none of them is left.
    pub async fn remove_instance(instance: &str) -> Result<(), Error> {
        lost::remove_instance(instance).await
    }

    /// With the `ferrogate-shim` beside the running program.
    pub fn new() -> Result<Self, Error> {
        let io =
            |source| Error::Io { action: "find the running program", path: "/proc/self/exe".into(), source };
        let beside = std::env::current_exe().map_err(io)?.with_file_name(SHIM_PROGRAM);
        ContainerSandbox::with_shim(beside)
    }

    pub fn with_shim(shim: PathBuf) -> Result<Self, Error> {
        if !shim.is_file() {
            return Err(Error::Invalid {
                what: format!("shim program {}", shim.display()),
                why: "there is no such file; it is installed beside the ferrogate program".into(),
            });
        }
        Ok(ContainerSandbox { shim, machines: None })
    }

    /// Gives tasks that ask for it a machine of their own.
    #[must_use]
    pub fn with_machines(self, machines: Arc<Machines>) -> Self {
        ContainerSandbox { machines: Some(machines), ..self }
    }

    /// The machines, for a task that has or wants one.
    fn machines_for(&self, spec: &TaskSandboxSpec) -> Result<Option<Arc<Machines>>, Error> {
        match (spec.isolation, &self.machines) {
            (Isolation::Container, _) => Ok(None),
            (Isolation::MicroVm, Some(machines)) => Ok(Some(Arc::clone(machines))),
            (Isolation::MicroVm, None) => Err(Error::NoMicroVm { task: spec.id.clone() }),
        }
    }

    async fn start_shim(&self, directory: &Path) -> Result<(), Error> {
        let failed = |why: String| Error::ShimStart { dir: directory.to_owned(), why };
        let mut child = tokio::process::Command::new(&self.shim)
            .arg("--dir")
            .arg(directory)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| failed(format!("{}: {error}", self.shim.display())))?;
        let mut complaint = String::new();
        let ended = tokio::time::timeout(SHIM_START_DEADLINE, async {
            // Closed when the shim has become a daemon: it opens its own.
            if let Some(stderr) = &mut child.stderr {
                stderr.read_to_string(&mut complaint).await?;
            }
            child.wait().await
        })
        .await;
        match ended {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(status)) => Err(failed(format!("{status}: {}", complaint.trim()))),
            Ok(Err(error)) => Err(failed(error.to_string())),
            Err(_) => Err(failed(format!("not ready within {} s", SHIM_START_DEADLINE.as_secs()))),
        }
    }
}

#[async_trait]
impl Sandbox for ContainerSandbox {
    fn isolation(&self) -> Isolation {
        match self.machines {
            Some(_) => Isolation::MicroVm,
            None => Isolation::Container,
        }
    }

    async fn create(&self, spec: TaskSandboxSpec) -> Result<Arc<dyn TaskSandbox>, Error> {
        let machines = self.machines_for(&spec)?;
        let mut config = task_config(&spec)?;
        let directory = spec.dir.clone();
        if directory.join(SPEC_FILE).exists() {
            return Err(Error::Invalid {
                what: format!("directory {}", directory.display()),
                why: "it belongs to a task already: reattach to that one, or destroy it first".into(),
            });
        }
        let made = async {
            crate::warm::keep();
            let mut made = Vec::new();
            let began = SystemTime::now();
            prepare(&spec, &mut config, machines.clone()).await?;
            made.push(Made::done("files and storage", began));
            let began = SystemTime::now();
            self.start_shim(&directory).await?;
            let client = Client::connect(&directory).await?;
            made.push(Made::done("shim up", began));
            Ok((client, made))
        };
        match made.await {
            Ok((client, made)) => {
                Ok(ContainerTask::shared(spec, config, machines, Shim::Alive(client), made))
            }
            Err(error) => {
                // Whatever stands of it must not stay; the first error is the one to report.
                let _ = lost::remove(&directory, &config.cgroup, &config.shim_cgroup).await;
                Err(error)
            }
        }
    }

    async fn reattach(&self, dir: &Path) -> Result<Arc<dyn TaskSandbox>, Error> {
        let spec: TaskSandboxSpec = read_json(&dir.join(SPEC_FILE)).await?;
        let spec = TaskSandboxSpec { dir: dir.to_owned(), ..spec };
        // A machine that runs goes on, also under an agent that makes none.
        let machines = self.machines_for(&spec).ok().flatten();
        let config = task_config(&spec)?;
        let deadline = tokio::time::Instant::now() + REATTACH_DEADLINE;
        let shim = loop {
            match Client::connect(dir).await {
                Ok(client) => break Shim::Alive(client),
                Err(_) if !lost::shim_is_alive(dir) => break Shim::Lost(lost::recover(dir, &config).await?),
                // It answers and speaks another protocol: no wait makes it ours.
                Err(error @ Error::Refused(_)) => return Err(error),
                // Starting, or on its way out: soon it is the one or the other.
                Err(error) if tokio::time::Instant::now() > deadline => return Err(error),
                Err(_) => tokio::time::sleep(REATTACH_INTERVAL).await,
            }
        };
        Ok(ContainerTask::shared(spec, config, machines, shim, Vec::new()))
    }

    async fn discard(&self, dir: &Path, instance: &str, task_id: &str) -> Result<(), Error> {
        let (cgroup, shim_cgroup) = cgroup_paths(instance, task_id)?;
        lost::discard(dir, &cgroup, &shim_cgroup).await
    }
}

struct ContainerTask {
    spec: TaskSandboxSpec,
    /// Its containers are in a machine.
    machines: Option<Arc<Machines>>,
    made: Vec<Made>,
    link: Arc<Link>,
}

/// The way to a task's shim, whatever becomes of one connection. Shared with what follows events and output.
pub(crate) struct Link {
    directory: PathBuf,
    config: TaskConfig,
    shim: Mutex<Shim>,
}

enum Shim {
    Alive(Arc<Client>),
    /// Gone; this is what became of the containers.
    Lost(TaskState),
    /// Ended with all its task had.
    Destroyed,
}

impl Link {
    /// A connection that stands. One that broke says nothing of the shim, which ends only with its process: it is made
    /// anew, and what happened meanwhile is in the state.
    pub(crate) async fn client(&self) -> Result<Arc<Client>, Error> {
        let mut shim = self.shim.lock().await;
        let mut pause = RECONNECT_MIN;
        loop {
            match &*shim {
                Shim::Alive(client) if !client.is_lost() => return Ok(Arc::clone(client)),
                Shim::Alive(_) => {}
                Shim::Lost(_) | Shim::Destroyed => return Err(self.lost()),
            }
            match Client::connect(&self.directory).await {
                Ok(client) => *shim = Shim::Alive(client),
                Err(_) if !lost::shim_is_alive(&self.directory) => {
                    *shim = Shim::Lost(lost::recover(&self.directory, &self.config).await?);
                }
                Err(_) => {
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(RECONNECT_MAX);
                }
            }
        }
    }

    /// What became of a task whose shim is gone.
    pub(crate) async fn remains(&self) -> Option<TaskState> {
        match &*self.shim.lock().await {
            Shim::Lost(state) => Some(state.clone()),
            Shim::Alive(_) | Shim::Destroyed => None,
        }
    }

    /// The connection there is, whether it still stands or not.
    fn current(&self) -> Option<Arc<Client>> {
        match self.shim.try_lock().as_deref() {
            Ok(Shim::Alive(client)) => Some(Arc::clone(client)),
            _ => None,
        }
    }

    fn lost(&self) -> Error {
        Error::ShimLost { dir: self.directory.clone(), why: lost::REASON.into() }
    }

    /// A call that may be made twice, whatever connection it takes.
    async fn call(&self, call: Call) -> Result<Answer, Error> {
        loop {
            let client = self.client().await?;
            match client.call(call.clone(), Vec::new()).await {
                // Either it stands again, or the shim is gone, which ends this.
                Err(Error::ShimLost { .. }) => {}
                answer => return answer,
            }
        }
    }

    async fn done(&self, call: Call) -> Result<(), Error> {
        match self.call(call).await? {
            Answer::Done => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    async fn create(&self, container: &str, call: Call) -> Result<(), Error> {
        match self.client().await?.done(call.clone()).await {
            Err(Error::ShimLost { .. }) => {}
            done => return done,
        }
        // Whether it came through is to be seen.
        match self.find(container).await {
            Ok(_) => Ok(()),
            Err(Error::NotFound(_)) => self.done(call).await,
            Err(error) => Err(error),
        }
    }

    async fn state(&self) -> Result<TaskState, Error> {
        match self.call(Call::State).await {
            Ok(Answer::State(state)) => Ok(state),
            Ok(other) => Err(unexpected(&other)),
            Err(error) => self.remains().await.ok_or(error),
        }
    }

    pub(crate) async fn find(&self, container: &str) -> Result<ContainerState, Error> {
        let found = self.state().await?.containers.into_iter().find(|state| state.id == container);
        found.ok_or_else(|| {
            Error::NotFound(format!("{} has no container {container:?}", self.config.cgroup.display()))
        })
    }
}

impl ContainerTask {
    fn shared(
        spec: TaskSandboxSpec,
        config: TaskConfig,
        machines: Option<Arc<Machines>>,
        shim: Shim,
        made: Vec<Made>,
    ) -> Arc<dyn TaskSandbox> {
        let link = Link { directory: spec.dir.clone(), config, shim: Mutex::new(shim) };
        Arc::new(ContainerTask { spec, machines, made, link: Arc::new(link) })
    }

    fn container_dir(&self, container: &str) -> Result<PathBuf, Error> {
        ferrogate_shim::protocol::valid_id(container)
            .map_err(|failure| Error::Invalid { what: "container name".into(), why: failure.message })?;
        Ok(self.spec.dir.join(ferrogate_shim::protocol::CONTAINERS_DIR).join(container))
    }
}

#[async_trait]
impl TaskSandbox for ContainerTask {
    fn spec(&self) -> &TaskSandboxSpec {
        &self.spec
    }

    fn made(&self) -> &[Made] {
        &self.made
    }

    async fn booted(&self) -> Vec<Made> {
        if self.spec.isolation == Isolation::Container {
            return Vec::new();
        }
        let (machines, spec) = (self.machines.clone(), self.spec.clone());
        lost::blocking(move || Ok(microvm::booted(machines.as_deref(), &spec))).await.unwrap_or_default()
    }

    async fn create_container(&self, container: &ContainerSpec) -> Result<(), Error> {
        crate::warm::keep();
        self.container_dir(&container.id)?;
        // What the shim sees: of a machine's containers it is the guest's.
        let (task, layers) = match (self.spec.isolation, &self.machines) {
            (Isolation::Container, _) => (self.spec.clone(), container.layers.clone()),
            (Isolation::MicroVm, None) => return Err(Error::NoMicroVm { task: self.spec.id.clone() }),
            (Isolation::MicroVm, Some(machines)) => {
                microvm::check(container)?;
                let (machines, wanted) = (Arc::clone(machines), container.clone());
                let disks = lost::blocking(move || machines.disks(&wanted)).await?;
                (microvm::guest_view(&self.spec), disks)
            }
        };
        let oci = spec::oci_spec(&task, container, &task.dir.join(ETC_DIR))?;
        let call = Call::CreateContainer(Box::new(CreateContainer {
            id: container.id.clone(),
            spec: oci,
            rootfs: Rootfs::Layers(layers),
            user: spec::user(container),
            seccomp: Seccomp::Default,
            init: container.init,
            interactive: container.interactive,
            volumes: spec::volumes(&task, container)?.into_iter().map(|volume| volume.made).collect(),
            network_namespace: task.network_namespace,
            logs: container.logs,
        }));
        let created = self.link.create(&container.id, call).await;
        if created.is_err() {
            // A snapshot that failed its machine is to fail no other.
            self.booted().await;
        }
        created
    }

    async fn start(&self, container: &str) -> Result<i32, Error> {
        let call = Call::Start { container: container.into() };
        let began = lost::now_ns();
        loop {
            match self.link.client().await?.started(call.clone(), Vec::new()).await {
                Err(Error::ShimLost { .. }) => {}
                started => return started,
            }
            // Whether it came through before the connection broke is to be seen: it must not be started twice.
            let found = self.link.find(container).await?;
            if found.started_at_ns.is_some_and(|at| at >= began) {
                return Ok(found.pid.unwrap_or_default());
            }
            if found.status == Status::Exited && found.exited_at_ns.is_some_and(|at| at >= began) {
                return Err(Error::Refused(found.error.unwrap_or_else(|| lost::REASON.into())));
            }
        }
    }

    async fn cancel_start(&self, container: &str) -> Result<(), Error> {
        self.soon(self.link.done(Call::CancelStart { container: container.into() })).await?
    }

    async fn signal(&self, container: &str, signal: i32) -> Result<(), Error> {
        self.soon(self.link.done(Call::Signal { container: container.into(), signal })).await?
    }

    async fn kill(&self, container: Option<&str>) -> Result<(), Error> {
        self.soon(self.link.done(Call::Kill { container: container.map(str::to_owned) })).await?
    }

    async fn stop(&self, container: &str, signal: i32, timeout: Duration) -> Result<Exited, Error> {
        let mut events = self.events();
        let state = self.soon(self.link.find(container)).await??;
        match state.status {
            Status::Exited => return Ok(exited(state)),
            Status::Created => {
                return Err(Error::WrongState(format!("container {container:?} has not been started")));
            }
            Status::Running => {}
        }
        match self.signal(container, signal).await {
            // It may have ended between the look and the signal; then the event is on its way.
            Ok(()) | Err(Error::WrongState(_)) => {}
            Err(error) => return Err(error),
        }
        if let Ok(ended) = tokio::time::timeout(timeout, self.wait_exit(container, &mut events)).await {
            return ended;
        }
        self.kill(Some(container)).await?;
        match tokio::time::timeout(KILL_DEADLINE, self.wait_exit(container, &mut events)).await {
            Ok(ended) => ended,
            Err(_) => Err(Error::Refused(format!(
                "container {container:?} still runs {} s after SIGKILL; a process of it hangs in the kernel",
                KILL_DEADLINE.as_secs()
            ))),
        }
    }

    async fn exec(&self, container: &str, exec: ExecSpec) -> Result<Exec, Error> {
        Exec::start(self.link.client().await?, container, exec).await
    }

    async fn state(&self) -> Result<TaskState, Error> {
        self.link.state().await
    }

    async fn stats(&self) -> Result<TaskStats, Error> {
        match self.link.call(Call::Stats).await? {
            Answer::Stats(stats) => Ok(stats),
            other => Err(unexpected(&other)),
        }
    }

    async fn listeners(&self) -> Result<Vec<Listener>, Error> {
        match self.link.call(Call::Listeners).await? {
            Answer::Listeners(all) => Ok(all),
            other => Err(unexpected(&other)),
        }
    }

    async fn reserve_storage(&self, bytes: u64) -> Result<(), Error> {
        self.link.done(Call::ReserveStorage { bytes }).await
    }

    fn events(&self) -> Events {
        Events::new(Arc::clone(&self.link), self.link.current())
    }

    async fn logs(&self, container: &str, from_offset: u64) -> Result<LogFollower, Error> {
        let directory = self.container_dir(container)?.join(ferrogate_shim::protocol::LOG_DIR);
        LogFollower::new(Arc::clone(&self.link), container, directory, from_offset).await
    }

    async fn ack_logs(&self, container: &str, offset: u64) -> Result<(), Error> {
        self.link.done(Call::AckLogs { container: container.into(), offset }).await
    }

    async fn delete_container(&self, container: &str) -> Result<(), Error> {
        self.link.done(Call::Delete { container: container.into() }).await?;
        self.link.client().await?.forget(container);
        lost::remove_trash(&self.spec.dir).await
    }

    async fn destroy(&self) -> Result<(), Error> {
        // Where that takes too long, the caller discards it.
        if let Ok(client) = self.soon(self.link.client()).await? {
            // From now on nobody looks for a shim that is meant to end.
            *self.link.shim.lock().await = Shim::Destroyed;
            let ended = tokio::time::timeout(KILL_DEADLINE, client.done(Call::Shutdown { kill: true })).await;
            let failed = match ended {
                Ok(Ok(()) | Err(Error::ShimLost { .. })) => None,
                Ok(Err(error)) => Some(error),
                Err(_) => Some(Error::Refused(format!(
                    "the shim in {} did not end within {} s",
                    self.spec.dir.display(),
                    KILL_DEADLINE.as_secs()
                ))),
            };
            if let Some(error) = failed {
                *self.link.shim.lock().await = Shim::Alive(client);
                return Err(error);
            }
        }
        let TaskConfig { cgroup, shim_cgroup, .. } = &self.link.config;
        lost::remove(&self.spec.dir, cgroup, shim_cgroup).await
    }
}

impl ContainerTask {
    /// What needs no more than a shim that listens. Whatever hangs, a task can be stopped.
    async fn soon<T>(&self, work: impl Future<Output = T>) -> Result<T, Error> {
        tokio::time::timeout(ANSWER_DEADLINE, work).await.map_err(|_| {
            let (dir, seconds) = (self.spec.dir.display(), ANSWER_DEADLINE.as_secs());
            Error::Refused(format!("the shim in {dir} did not answer within {seconds} s"))
        })
    }

    async fn wait_exit(&self, container: &str, events: &mut Events) -> Result<Exited, Error> {
        loop {
            match events.next().await {
                Some(TaskEvent::Exited(exited)) if exited.container == container => return Ok(exited),
                Some(TaskEvent::Missed) => {
                    let state = self.link.find(container).await?;
                    if state.status == Status::Exited {
                        return Ok(exited(state));
                    }
                }
                Some(_) => {}
                None => return Err(self.link.lost()),
            }
        }
    }
}

fn exited(state: ContainerState) -> Exited {
    Exited {
        container: state.id,
        exit_code: state.exit_code.unwrap_or(LOST_EXIT_CODE),
        oom_killed: state.oom_killed,
        at_ns: state.exited_at_ns.unwrap_or_default(),
        log_end: state.log_end,
    }
}

/// 128 + SIGKILL: what a container has when nobody saw it end.
const LOST_EXIT_CODE: i32 = 137;
