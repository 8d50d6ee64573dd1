//! What each call does.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::container::{Container, now_ns};
use super::{ExecProcess, Shim};
use crate::launcher::{self, Place, Plan};
use crate::log::writer::LogWriter;
use crate::protocol::{
    Answer, CONTAINERS_DIR, CONTAINERS_MAX, Call, ContainerUsage, CreateContainer, EXECS_MAX, Event, Exec,
    ExecState, Failure, FailureKind, LOG_DIR, PROTOCOL_VERSION, Status, TRASH_DIR, TaskStats, valid_id,
};
use crate::storage::container_directory;

/// The holder of the shared PID namespace.
const HOLDER_CGROUP: &str = "pause";
/// Longest wait for a tracing container to come to rest.
const FREEZE_DEADLINE: Duration = Duration::from_secs(5);
pub(super) const KILL_DEADLINE: Duration = Duration::from_secs(20);

impl Shim {
    /// `stdio` are the descriptors that came with an `Exec`, `connection` is where it came from.
    pub(super) fn answer(
        &mut self,
        call: Call,
        stdio: Option<[OwnedFd; 3]>,
        connection: u64,
    ) -> Result<Answer, Failure> {
        match call {
            Call::Hello { version: PROTOCOL_VERSION } => {
                Ok(Answer::Hello { version: PROTOCOL_VERSION, pid: std::process::id() as i32 })
            }
            Call::Hello { version } => Err(Failure::new(
                FailureKind::Unsupported,
                format!("protocol version {version}: this shim speaks {PROTOCOL_VERSION}"),
            )),
            Call::CreateContainer(create) => self.create(&create).map(|()| Answer::Done),
            Call::Start { container } => self.start(&container).map(|pid| Answer::Started { pid }),
            Call::CancelStart { container } => self.cancel_start(&container).map(|()| Answer::Done),
            Call::Signal { container, signal } => self.signal(&container, signal).map(|()| Answer::Done),
            Call::Kill { container } => self.kill(container.as_deref()).map(|()| Answer::Done),
            Call::Exec(exec) => self.exec(&exec, stdio, connection).map(|pid| Answer::Started { pid }),
            Call::SignalExec { exec, signal } => self.signal_exec(&exec, signal).map(|()| Answer::Done),
            Call::DeleteExec { exec } => self.delete_exec(&exec).map(|()| Answer::Done),
            Call::AbandonExec { exec } => {
                self.abandon_execs(|known| known.state.id == exec);
                Ok(Answer::Done)
            }
            Call::ReserveStorage { bytes } => self.storage.reserve(bytes).map(|()| Answer::Done),
            Call::State | Call::Subscribe => Ok(Answer::State(self.state())),
            Call::Stats => Ok(Answer::Stats(self.stats())),
            Call::Listeners => Ok(Answer::Listeners(self.listeners())),
            Call::AckLogs { container, offset } => {
                self.find(&container)?.log.acknowledge(offset);
                Ok(Answer::Done)
            }
            Call::Delete { container } => self.delete(&container).map(|()| Answer::Done),
            Call::Shutdown { kill } => self.shut_down(kill).map(|()| Answer::Done),
        }
    }

    pub(super) fn find(&mut self, id: &str) -> Result<&mut Container, Failure> {
        self.containers.iter_mut().find(|container| container.id == id).ok_or_else(|| no_container(id))
    }

    fn create(&mut self, create: &CreateContainer) -> Result<(), Failure> {
        let id = &create.id;
        valid_id(id)?;
        if self.containers.iter().any(|container| container.id == *id) {
            return Err(Failure::new(FailureKind::AlreadyExists, format!("container {id:?} exists already")));
        }
        if self.containers.len() >= CONTAINERS_MAX {
            return Err(Failure::new(
                FailureKind::Limit,
                format!("a task has at most {CONTAINERS_MAX} containers"),
            ));
        }
        let filter = self.filter()?.clone();
        let plan = Plan::new(create, &filter)?;
        let directory = self.directory.join(CONTAINERS_DIR).join(id);
        // Prefixed: a cgroup directory has files of its own, `tasks` among them.
        let cgroup = self.config.cgroup.join(format!("c-{id}"));
        let made = || -> io::Result<LogWriter> {
            fs::create_dir_all(&directory)?;
            self.storage.make_directory(&container_directory(id))?;
            for volume in &create.volumes {
                self.storage.make_directory(&volume.path)?;
            }
            self.cgroups.create(&cgroup, &plan.resources)?;
            if let Some(rules) = &plan.device_rules {
                self.cgroups.limit_devices(&cgroup, rules)?;
            }
            LogWriter::open(directory.join(LOG_DIR), create.logs)
        };
        match made() {
            Ok(log) => {
                self.containers.push(Container::new(create, plan, directory, cgroup, log));
                self.persist();
                Ok(())
            }
            Err(error) => {
                let _ = self.cgroups.remove(&cgroup, Duration::ZERO);
                let _ = fs::remove_dir_all(&directory);
                let _ = self.storage.remove_container(id);
                Err(Failure::new(FailureKind::System, format!("cannot create container {id:?}: {error}")))
            }
        }
    }

    pub(super) fn start(&mut self, id: &str) -> Result<i32, Failure> {
        if self.find(id)?.is_running() {
            return Err(Failure::new(
                FailureKind::WrongState,
                format!("container {id:?} is running already"),
            ));
        }
        if self.config.shared_pid_namespace {
            self.hold_pid_namespace()?;
        }
        let tracers = if self.config.shared_pid_namespace { self.tracers() } else { Vec::new() };
        let namespace = self.holder.as_ref().map(|holder| duplicate(holder.pidfd.as_fd())).transpose()?;
        let cgroups = self.cgroups.clone();
        let Shim { containers, storage, connections, .. } = self;
        let index =
            containers.iter().position(|container| container.id == id).ok_or_else(|| no_container(id))?;
        // Apart from the others, which a child of it lets go of.
        let mut container = containers.remove(index);
        let mut forget = || {
            containers.clear();
            connections.clear();
        };
        let started = while_frozen(&cgroups, &tracers, || {
            container.start(&cgroups, storage, namespace.as_ref().map(AsFd::as_fd), &mut forget)
        });
        self.containers.insert(index, container);
        self.persist();
        let pid = started?;
        self.publish(Event::Started { container: id.to_owned(), pid, at_ns: now_ns() });
        Ok(pid)
    }

    /// cgroups of running containers whose processes may trace others.
    fn tracers(&self) -> Vec<PathBuf> {
        let traces = |container: &&Container| container.is_running() && container.plan.may_trace();
        self.containers.iter().filter(traces).map(|container| container.cgroup.clone()).collect()
    }

    fn hold_pid_namespace(&mut self) -> Result<(), Failure> {
        if self.holder.is_some() {
            return Ok(());
        }
        let cgroup = self.config.cgroup.join(HOLDER_CGROUP);
        self.cgroups.create(&cgroup, &Default::default()).map_err(|error| {
            Failure::new(FailureKind::System, format!("cannot make cgroup {}: {error}", cgroup.display()))
        })?;
        let filter = self.filter()?.clone();
        let Shim { containers, connections, cgroups, directory, .. } = self;
        let mut forget = || {
            containers.clear();
            connections.clear();
        };
        let holder = launcher::hold_pid_namespace(cgroups, &cgroup, directory, &filter, &mut forget)?;
        self.holder = Some(holder);
        Ok(())
    }

    fn signal(&mut self, id: &str, signal: i32) -> Result<(), Failure> {
        let container = self.find(id)?;
        match &container.process {
            Some(process) => send_signal(process.pidfd.as_fd(), signal),
            None => Err(not_running(container)),
        }
    }

    fn kill(&mut self, id: Option<&str>) -> Result<(), Failure> {
        let cgroup = match id {
            Some(id) => self.find(id)?.cgroup.clone(),
            None => self.config.cgroup.clone(),
        };
        self.cgroups.kill_once(&cgroup).map_err(|error| {
            Failure::new(FailureKind::System, format!("cannot kill {}: {error}", cgroup.display()))
        })
    }

    fn exec(&mut self, exec: &Exec, stdio: Option<[OwnedFd; 3]>, connection: u64) -> Result<i32, Failure> {
        valid_id(&exec.id)?;
        let stdio = stdio.ok_or_else(|| {
            Failure::new(FailureKind::Invalid, "an exec comes with three descriptors: stdin, stdout, stderr")
        })?;
        if self.execs.iter().any(|known| known.state.id == exec.id) {
            return Err(Failure::new(
                FailureKind::AlreadyExists,
                format!("exec {:?} exists already", exec.id),
            ));
        }
        if self.execs.len() >= EXECS_MAX {
            // An agent that died never collects: the oldest exit nobody asked for makes room.
            let Some(oldest) = self.execs.iter().position(|exec| exec.process.is_none()) else {
                return Err(Failure::new(
                    FailureKind::Limit,
                    format!("{EXECS_MAX} execs are running: the most there may be"),
                ));
            };
            self.execs.remove(oldest);
        }
        let cgroups = self.cgroups.clone();
        let container = self.find(&exec.container)?;
        let Some(process) = &container.process else { return Err(not_running(container)) };
        let plan = container.plan.execution(exec)?;
        let entrance = duplicate(process.pidfd.as_fd())?;
        let (directory, cgroup) = (container.directory.clone(), container.cgroup.clone());
        let place = Place {
            directory: &directory,
            cgroups: &cgroups,
            cgroup: &cgroup,
            pid_namespace: None,
            stdio: [stdio[0].as_fd(), stdio[1].as_fd(), stdio[2].as_fd()],
            console: exec.terminal.map(|_| stdio[0].as_fd()),
        };
        let Shim { containers, connections, .. } = self;
        let mut forget = || {
            containers.clear();
            connections.clear();
        };
        let launched = launcher::execute(&plan, entrance.as_fd(), &place, &mut forget)?;
        let pid = launched.pid;
        let state = ExecState {
            id: exec.id.clone(),
            container: exec.container.clone(),
            pid: Some(pid),
            exit_code: None,
        };
        self.execs.push(ExecProcess { state, process: Some(launched), connection, abandoned: false });
        Ok(pid)
    }

    fn signal_exec(&mut self, id: &str, signal: i32) -> Result<(), Failure> {
        let exec = self.execs.iter().find(|exec| exec.state.id == id).ok_or_else(|| no_exec(id))?;
        match &exec.process {
            Some(process) => send_signal(process.pidfd.as_fd(), signal),
            None => Err(Failure::new(FailureKind::WrongState, format!("exec {id:?} has exited"))),
        }
    }

    fn delete_exec(&mut self, id: &str) -> Result<(), Failure> {
        let index = self.execs.iter().position(|exec| exec.state.id == id).ok_or_else(|| no_exec(id))?;
        if self.execs[index].process.is_some() {
            return Err(Failure::new(FailureKind::WrongState, format!("exec {id:?} is still running")));
        }
        self.execs.remove(index);
        Ok(())
    }

    /// Kills these and forgets them; nobody waits for their end.
    pub(super) fn abandon_execs(&mut self, which: impl Fn(&ExecProcess) -> bool) {
        for exec in self.execs.iter_mut().filter(|exec| which(exec)) {
            exec.abandoned = true;
            if let Some(process) = &exec.process {
                // It may have ended this moment.
                let _ = send_signal(process.pidfd.as_fd(), libc::SIGKILL);
            }
        }
        self.execs.retain(|exec| !exec.abandoned || exec.process.is_some());
    }

    fn stats(&self) -> TaskStats {
        let containers: Vec<ContainerUsage> = self
            .containers
            .iter()
            .map(|container| ContainerUsage {
                id: container.id.clone(),
                usage: self.cgroups.usage(&container.cgroup),
            })
            .collect();
        let mut task = self.cgroups.usage(&self.config.cgroup);
        // v1 counts kills where they happened only.
        task.oom_kills =
            task.oom_kills.max(containers.iter().map(|container| container.usage.oom_kills).sum());
        TaskStats { at_ns: now_ns(), task, containers, storage: self.storage.usage() }
    }

    fn delete(&mut self, id: &str) -> Result<(), Failure> {
        let container = self.find(id)?;
        if container.state.status == Status::Running {
            return Err(Failure::new(
                FailureKind::WrongState,
                format!("container {id:?} is running: stop it first"),
            ));
        }
        self.abandon_filling(id)?;
        let container = self.find(id)?;
        let (directory, cgroup) = (container.directory.clone(), container.cgroup.clone());
        let failed = |what: &str, error: io::Error| {
            Failure::new(FailureKind::System, format!("cannot {what} of container {id:?}: {error}"))
        };
        self.cgroups.remove(&cgroup, KILL_DEADLINE).map_err(|error| failed("remove the cgroup", error))?;
        let trash = self.directory.join(TRASH_DIR);
        put_aside(&directory, &trash, id).map_err(|error| failed("put aside the files", error))?;
        self.storage.remove_container(id).map_err(|error| failed("remove the writable layer", error))?;
        self.containers.retain(|container| container.id != id);
        self.connections.forget(id);
        self.persist();
        Ok(())
    }

    fn shut_down(&mut self, kill: bool) -> Result<(), Failure> {
        if let Some(running) = self.containers.iter().find(|container| container.is_running())
            && !kill
        {
            return Err(Failure::new(
                FailureKind::WrongState,
                format!("container {:?} is running: stop it first, or shut down with kill", running.id),
            ));
        }
        let failed = |what: &str, error: io::Error| {
            Failure::new(FailureKind::System, format!("cannot {what} of the task: {error}"))
        };
        self.cgroups
            .kill_tree(&self.config.cgroup, KILL_DEADLINE)
            .map_err(|error| failed("end the processes", error))?;
        self.reap();
        self.cgroups
            .remove(&self.config.cgroup, KILL_DEADLINE)
            .map_err(|error| failed("remove the cgroup", error))?;
        self.ending = true;
        Ok(())
    }
}

/// Runs `work` while the processes of these cgroups stand still: they may trace, and a process on its way into
/// their PID namespace still has the shim's rights.
fn while_frozen<T>(
    cgroups: &crate::cgroup::Cgroups,
    frozen: &[PathBuf],
    work: impl FnOnce() -> Result<T, Failure>,
) -> Result<T, Failure> {
    let set = |path: &Path, value: bool| cgroups.freeze(path, value, FREEZE_DEADLINE);
    let stopped = frozen.iter().try_for_each(|path| set(path, true));
    let result = match stopped {
        Ok(()) => work(),
        Err(error) => Err(Failure::new(
            FailureKind::System,
            format!("cannot freeze a container that may trace: {error}"),
        )),
    };
    for path in frozen {
        if let Err(error) = set(path, false) {
            complain!("cannot thaw {}: {error}", path.display());
        }
    }
    result
}

fn put_aside(directory: &Path, trash: &Path, id: &str) -> io::Result<()> {
    fs::create_dir_all(trash)?;
    match fs::rename(directory, trash.join(format!("{id}-{}", now_ns()))) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn duplicate(fd: BorrowedFd<'_>) -> Result<OwnedFd, Failure> {
    fd.try_clone_to_owned()
        .map_err(|error| Failure::new(FailureKind::System, format!("cannot copy a descriptor: {error}")))
}

fn send_signal(process: BorrowedFd<'_>, signal: i32) -> Result<(), Failure> {
    // SAFETY: no information on the signal is passed; the kernel checks the number.
    let done = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            process.as_raw_fd(),
            signal,
            std::ptr::null::<libc::c_void>(),
            0,
        )
    };
    if done == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::ESRCH) => Err(Failure::new(FailureKind::WrongState, "the process has exited")),
        Some(libc::EINVAL) => {
            Err(Failure::new(FailureKind::Invalid, format!("{signal} is no signal: 1 to 64 are")))
        }
        _ => Err(Failure::new(FailureKind::System, format!("cannot send signal {signal}: {error}"))),
    }
}

fn no_container(id: &str) -> Failure {
    Failure::new(FailureKind::NotFound, format!("the task has no container {id:?}"))
}

fn no_exec(id: &str) -> Failure {
    Failure::new(FailureKind::NotFound, format!("the task has no exec {id:?}"))
}

fn not_running(container: &Container) -> Failure {
    let status = match container.state.status {
        Status::Created => "has not been started",
        _ => "has exited",
    };
    Failure::new(FailureKind::WrongState, format!("container {:?} {status}", container.id))
}
