//! The shim's one loop: clients, containers' output, ended processes. One thread, nothing waits longer than a
//! container takes to start; what may take longer ([`filling`]) is a process of its own.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, poll};

use crate::cgroup::Cgroups;
use crate::launcher::{self, Launched};
use crate::protocol::{
    Call, Event, ExecState, Exited, Failure, FailureKind, PROTOCOL_VERSION, STATE_FILE, TaskConfig, TaskState,
};
use crate::seccomp::Filter;
use crate::storage::Storage;
use connections::{Asked, Client, Connections};
use container::{Container, now_ns};

mod calls;
pub(crate) mod connection;
pub(crate) mod connections;
pub(crate) mod container;
mod filling;
mod sockets;
pub mod start;

struct Shim {
    directory: PathBuf,
    config: TaskConfig,
    cgroups: Cgroups,
    /// Compiled when first needed.
    filter: Option<Filter>,
    signals: OwnedFd,
    storage: Storage,
    connections: Connections,
    containers: Vec<Container>,
    execs: Vec<ExecProcess>,
    /// First process of the shared PID namespace.
    holder: Option<Launched>,
    ending: bool,
}

struct ExecProcess {
    state: ExecState,
    /// While it runs.
    process: Option<Launched>,
    /// Where it was asked for; it lives no longer than that.
    connection: u64,
    /// Nobody waits for its end.
    abandoned: bool,
}

/// What a descriptor that became ready belongs to.
#[derive(Clone, Copy)]
enum Source {
    Signals,
    Client(Client),
    Output { container: usize, stream: usize },
    Filling(usize),
}

impl Shim {
    fn new(
        directory: &Path,
        config: TaskConfig,
        cgroups: Cgroups,
        signals: OwnedFd,
        listener: UnixListener,
        storage: Storage,
    ) -> Self {
        Shim {
            directory: directory.to_owned(),
            config,
            cgroups,
            filter: None,
            signals,
            storage,
            connections: Connections::new(listener),
            containers: Vec::new(),
            execs: Vec::new(),
            holder: None,
            ending: false,
        }
    }

    fn run(&mut self) -> io::Result<()> {
        self.persist();
        while !self.ending {
            for (source, ready) in self.wait()? {
                match source {
                    Source::Signals => {
                        if self.drain_signals() {
                            self.end_all();
                        }
                        self.reap();
                    }
                    Source::Output { container, stream } => self.containers[container].read(stream),
                    Source::Filling(index) => self.read_filling(index),
                    Source::Client(Client::New) => self.connections.accept(),
                    Source::Client(Client::Known(index)) => self.serve(index, ready),
                }
                // A call may have changed what the other indices mean.
                if matches!(source, Source::Client(Client::Known(_))) {
                    break;
                }
            }
            self.hint();
        }
        self.connections.finish();
        Ok(())
    }

    /// Blocks until something is ready. Connections come last, one at a time.
    fn wait(&self) -> io::Result<Vec<(Source, PollFlags)>> {
        let mut sources = vec![Source::Signals];
        let mut polled = vec![PollFd::new(&self.signals, PollFlags::IN)];
        for (index, container) in self.containers.iter().enumerate() {
            if let Some(progress) = container.filling.as_ref().and_then(filling::Filling::progress) {
                sources.push(Source::Filling(index));
                polled.push(PollFd::new(progress, PollFlags::IN));
            }
            // Not looked at while the log is full: the container waits in its write.
            if container.log.is_blocked() {
                continue;
            }
            for (stream, pipe) in container.output.iter().enumerate() {
                if let Some(pipe) = pipe {
                    sources.push(Source::Output { container: index, stream });
                    polled.push(PollFd::new(pipe, PollFlags::IN));
                }
            }
        }
        for (client, fd, wanted) in self.connections.sources(true) {
            sources.push(Source::Client(client));
            polled.push(PollFd::from_borrowed_fd(fd, wanted));
        }
        match poll(&mut polled, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let ready = sources.into_iter().zip(polled.iter().map(PollFd::revents));
        Ok(ready.filter(|(_, events)| !events.is_empty()).collect())
    }

    fn serve(&mut self, index: usize, ready: PollFlags) {
        let served = self.connections.serve(index, ready).and_then(|()| self.take_calls(index));
        if let Err(gone) = served {
            self.abandon_execs(|exec| exec.connection == gone);
        }
    }

    fn take_calls(&mut self, index: usize) -> Result<(), u64> {
        while let Some(Asked { connection, request, stdio }) = self.connections.next_call(index)? {
            let subscribes = request.call == Call::Subscribe;
            if let Call::Start { container } = &request.call {
                let waiting = filling::Waiting { connection, request: request.id };
                match self.fill(container, waiting) {
                    // Answered when it has started.
                    Ok(true) => continue,
                    Ok(false) => {}
                    Err(failure) => {
                        self.connections.answer(connection, request.id, Err(failure));
                        continue;
                    }
                }
            }
            let result = self.answer(request.call, stdio, connection);
            // What happened before the answer is told before it, to everybody; what the subscriber gets as
            // state already is not told to it again.
            if subscribes {
                self.connections.subscribe(connection);
            }
            self.connections.answer(connection, request.id, result);
        }
        Ok(())
    }

    fn publish(&mut self, event: Event) {
        self.connections.publish(event);
    }

    fn hint(&mut self) {
        for container in &self.containers {
            self.connections.hint(&container.id, container.log.end());
        }
    }

    /// Empties the signal descriptor; true if the shim was asked to end (SIGTERM: the machine goes down).
    fn drain_signals(&self) -> bool {
        let mut asked = false;
        let mut buffer = [0u8; size_of::<libc::signalfd_siginfo>()];
        while let Ok(count) = rustix::io::read(&self.signals, &mut buffer) {
            if count < buffer.len() {
                break;
            }
            let number = u32::from_ne_bytes([buffer[0], buffer[1], buffer[2], buffer[3]]);
            asked |= number == libc::SIGTERM as u32;
        }
        asked
    }

    fn end_all(&mut self) {
        if let Err(error) = self.cgroups.kill_tree(&self.config.cgroup, calls::KILL_DEADLINE) {
            complain!("cannot end the containers: {error}");
        }
        self.ending = true;
    }

    /// Collects every process that has ended: containers, execs, orphans.
    fn reap(&mut self) {
        loop {
            let mut status = 0;
            // SAFETY: the status outlives the call.
            let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) };
            if pid <= 0 {
                return;
            }
            let code = launcher::exit_code(status);
            let is = |process: &Option<Launched>| process.as_ref().is_some_and(|process| process.pid == pid);
            if let Some(index) = self.containers.iter().position(|container| is(&container.process)) {
                self.container_ended(index, code);
            } else if let Some(exec) = self.execs.iter_mut().find(|exec| is(&exec.process)) {
                exec.process = None;
                exec.state.pid = None;
                exec.state.exit_code = Some(code);
                let id = exec.state.id.clone();
                self.execs.retain(|exec| !exec.abandoned || exec.process.is_some());
                self.persist();
                self.publish(Event::ExecExited { exec: id, exit_code: code, at_ns: now_ns() });
            } else if let Some(index) = self
                .containers
                .iter()
                .position(|container| container.filling.as_ref().is_some_and(|filling| filling.is(pid)))
            {
                self.filled(index, code);
            } else if is(&self.holder) {
                self.holder = None;
            }
        }
    }

    fn container_ended(&mut self, index: usize, code: i32) {
        // With a namespace of its own all its processes are gone by now; in a shared one they are not.
        if self.config.shared_pid_namespace
            && let Err(error) = self.cgroups.kill_tree(&self.containers[index].cgroup, calls::KILL_DEADLINE)
        {
            complain!("container {}: {error}", self.containers[index].id);
        }
        let container = &mut self.containers[index];
        container.finish(code, &self.cgroups);
        let exited = Exited {
            container: container.id.clone(),
            exit_code: code,
            oom_killed: container.state.oom_killed,
            at_ns: container.state.exited_at_ns.unwrap_or_default(),
            log_end: container.log.end(),
        };
        self.persist();
        self.publish(Event::Exited(exited));
    }

    fn filter(&mut self) -> Result<&Filter, Failure> {
        if self.filter.is_none() {
            let compiled = Filter::default_filter().map_err(|error| {
                Failure::new(
                    FailureKind::System,
                    format!("cannot compile the default seccomp profile: {error}"),
                )
            })?;
            self.filter = Some(compiled);
        }
        self.filter.as_ref().ok_or_else(|| Failure::new(FailureKind::System, "no seccomp filter"))
    }

    fn state(&self) -> TaskState {
        TaskState {
            version: PROTOCOL_VERSION,
            shim_pid: std::process::id() as i32,
            containers: self.containers.iter().map(Container::state).collect(),
            execs: self.execs.iter().map(|exec| exec.state.clone()).collect(),
        }
    }

    /// Writes the state where a crash of the shim leaves it. A failure (full disk) must not end the task; the
    /// state lives on in memory.
    fn persist(&self) {
        let path = self.directory.join(STATE_FILE);
        let fresh = self.directory.join(format!("{STATE_FILE}.new"));
        let written = serde_json::to_vec(&self.state())
            .map_err(io::Error::from)
            .and_then(|text| fs::write(&fresh, text))
            .and_then(|()| fs::rename(&fresh, &path));
        if let Err(error) = written {
            complain!("cannot write {}: {error}", path.display());
        }
    }
}
