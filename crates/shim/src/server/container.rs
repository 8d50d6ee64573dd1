//! One container as the shim keeps it.
//!
//! ```text
//! Created ──Start──▶ Running ──its first process ends──▶ Exited
//!    └────Start failed──────────────────────────────────▶ Exited (error says why)
//! Exited ──Start──▶ Running            Created, Exited ──Delete──▶ gone
//! ```

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::pipe::{PipeFlags, pipe_with};

use super::filling::Filling;
use crate::cgroup::Cgroups;
use crate::descriptor;
use crate::launcher::{self, Launched, Place, Plan, Room};
use crate::log::Stream;
use crate::log::writer::LogWriter;
use crate::protocol::{ContainerState, CreateContainer, Failure, FailureKind, Status};
use crate::storage::Storage;

/// Read from a pipe at once: its usual capacity.
pub(crate) const READ_BYTES: usize = 64 << 10;
/// Reads from one pipe before others get their turn.
const READS_PER_TURN_MAX: usize = 4;
/// What Docker reports for a container that could not be set up.
pub(crate) const SET_UP_FAILED: i32 = 128;

pub(super) struct Container {
    pub(super) id: String,
    pub(super) plan: Plan,
    pub(super) directory: PathBuf,
    pub(super) cgroup: PathBuf,
    pub(super) log: LogWriter,
    /// Its stdin stays open.
    interactive: bool,
    /// The other end of a stdin that stays open.
    stdin: Option<OwnedFd>,
    /// Reading ends of stdout and stderr while something may still write; of a terminal the first is all there is.
    pub(super) output: [Option<OwnedFd>; 2],
    pub(super) process: Option<Launched>,
    pub(super) state: ContainerState,
    /// Its volumes are being filled, and then it starts.
    pub(super) filling: Option<Filling>,
    /// The kill counter when it was started.
    oom_kills_before: u64,
}

impl Container {
    pub(super) fn new(
        create: &CreateContainer,
        plan: Plan,
        directory: PathBuf,
        cgroup: PathBuf,
        log: LogWriter,
    ) -> Self {
        let id = create.id.clone();
        let state = ContainerState {
            id: id.clone(),
            status: Status::Created,
            pid: None,
            exit_code: None,
            oom_killed: false,
            error: None,
            starts: 0,
            copied_bytes: None,
            created_at_ns: now_ns(),
            started_at_ns: None,
            exited_at_ns: None,
            log_begin: 0,
            log_end: 0,
        };
        Container {
            id,
            plan,
            directory,
            cgroup,
            log,
            interactive: create.interactive,
            stdin: None,
            output: [None, None],
            process: None,
            state,
            filling: None,
            oom_kills_before: 0,
        }
    }

    pub(super) fn is_running(&self) -> bool {
        self.state.status == Status::Running
    }

    pub(super) fn state(&self) -> ContainerState {
        ContainerState { log_begin: self.log.begin(), log_end: self.log.end(), ..self.state.clone() }
    }

    /// Launches it. On failure the state tells, and the failure is returned.
    pub(super) fn start(
        &mut self,
        cgroups: &Cgroups,
        storage: &Storage,
        pid_namespace: Option<BorrowedFd<'_>>,
        forget: &mut dyn FnMut(),
    ) -> Result<i32, Failure> {
        self.oom_kills_before = cgroups.oom_kills(&self.cgroup);
        self.state.exit_code = None;
        self.state.error = None;
        self.state.exited_at_ns = None;
        self.state.oom_killed = false;
        match self.launch(cgroups, storage, pid_namespace, forget) {
            Ok(launched) => {
                let pid = launched.pid;
                self.process = Some(launched);
                self.state.status = Status::Running;
                self.state.pid = Some(pid);
                self.state.starts += 1;
                self.state.started_at_ns = Some(now_ns());
                Ok(pid)
            }
            Err(failure) => {
                self.fail(&failure);
                Err(failure)
            }
        }
    }

    /// It could not be started.
    pub(super) fn fail(&mut self, failure: &Failure) {
        self.output = [None, None];
        self.stdin = None;
        self.state.status = Status::Exited;
        self.state.exited_at_ns = Some(now_ns());
        self.state.error = Some(failure.message.clone());
        self.state.exit_code = Some(match failure.kind {
            FailureKind::CannotExecute { exit_code } => exit_code,
            _ => SET_UP_FAILED,
        });
    }

    fn launch(
        &mut self,
        cgroups: &Cgroups,
        storage: &Storage,
        pid_namespace: Option<BorrowedFd<'_>>,
        forget: &mut dyn FnMut(),
    ) -> Result<Launched, Failure> {
        let system = |what: &str, error: io::Error| {
            Failure::new(FailureKind::System, format!("container {:?}: cannot {what}: {error}", self.id))
        };
        let room = Room { id: &self.id, storage };
        if self.plan.has_terminal() {
            let null = File::open("/dev/null").map_err(|error| system("open /dev/null", error))?;
            let (console, inner) =
                std::os::unix::net::UnixStream::pair().map_err(|error| system("make a socket", error))?;
            let stdio = [null.as_fd(), null.as_fd(), null.as_fd()];
            let place = self.place(cgroups, pid_namespace, stdio, Some(inner.as_fd()));
            let launched = launcher::launch(&self.plan, &place, &room, forget)?;
            let terminal = descriptor::receive(&console)
                .and_then(|terminal| {
                    rustix::fs::fcntl_setfl(&terminal, rustix::fs::OFlags::NONBLOCK)?;
                    Ok(terminal)
                })
                .map_err(|error| {
                    let _ =
                        rustix::process::pidfd_send_signal(&launched.pidfd, rustix::process::Signal::KILL);
                    system("take its terminal", error)
                })?;
            self.output = [Some(terminal), None];
            return Ok(launched);
        }
        let (stdin, held) = if self.interactive {
            let (reader, writer) =
                pipe_with(PipeFlags::CLOEXEC).map_err(|error| system("make a pipe", error.into()))?;
            (reader, Some(writer))
        } else {
            let null = File::open("/dev/null").map_err(|error| system("open /dev/null", error))?;
            (null.into(), None)
        };
        let pipe = || -> io::Result<(OwnedFd, OwnedFd)> {
            let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
            // Ours only: the container's end stays blocking.
            rustix::fs::fcntl_setfl(&reader, rustix::fs::OFlags::NONBLOCK)?;
            Ok((reader, writer))
        };
        let (stdout, stdout_writer) = pipe().map_err(|error| system("make a pipe", error))?;
        let (stderr, stderr_writer) = pipe().map_err(|error| system("make a pipe", error))?;
        self.output = [Some(stdout), Some(stderr)];
        self.stdin = held;
        let stdio = [stdin.as_fd(), stdout_writer.as_fd(), stderr_writer.as_fd()];
        launcher::launch(&self.plan, &self.place(cgroups, pid_namespace, stdio, None), &room, forget)
    }

    /// For a process beside the container that has nothing to read and nothing to say.
    pub(super) fn bare_place<'a>(&'a self, cgroups: &'a Cgroups, null: &'a File) -> Place<'a> {
        self.place(cgroups, None, [null.as_fd(), null.as_fd(), null.as_fd()], None)
    }

    fn place<'a>(
        &'a self,
        cgroups: &'a Cgroups,
        pid_namespace: Option<BorrowedFd<'a>>,
        stdio: [BorrowedFd<'a>; 3],
        console: Option<BorrowedFd<'a>>,
    ) -> Place<'a> {
        Place { directory: &self.directory, cgroups, cgroup: &self.cgroup, pid_namespace, stdio, console }
    }

    /// Takes over what has come from one of its streams. Closes it at its end.
    pub(super) fn read(&mut self, stream: usize) {
        for _ in 0..READS_PER_TURN_MAX {
            if self.log.is_blocked() || !self.read_once(stream) {
                return;
            }
        }
    }

    /// The first process has ended: the last output, then the facts.
    pub(super) fn finish(&mut self, exit_code: i32, cgroups: &Cgroups) {
        for stream in 0..2 {
            // At most what the pipe holds, whatever the log's bound says.
            while self.read_once(stream) {}
            self.output[stream] = None;
        }
        let now = now_ns();
        note(&self.id, self.log.finish(now));
        self.process = None;
        self.stdin = None;
        self.state.status = Status::Exited;
        self.state.pid = None;
        self.state.exit_code = Some(exit_code);
        self.state.exited_at_ns = Some(now);
        self.state.oom_killed = cgroups.oom_kills(&self.cgroup) > self.oom_kills_before;
    }

    /// Whether there may be more.
    fn read_once(&mut self, stream: usize) -> bool {
        let Some(pipe) = &self.output[stream] else { return false };
        // Not on the stack, where it would be left for whoever is cloned from here: see `memory`.
        let mut buffer = vec![0u8; READ_BYTES];
        match rustix::io::read(pipe, &mut buffer) {
            Ok(0) => {
                self.output[stream] = None;
                false
            }
            Ok(count) => {
                let kind = if stream == 0 { Stream::Stdout } else { Stream::Stderr };
                note(&self.id, self.log.output(kind, &buffer[..count], now_ns()));
                true
            }
            Err(rustix::io::Errno::INTR) => true,
            Err(rustix::io::Errno::AGAIN) => false,
            Err(_) => {
                self.output[stream] = None;
                false
            }
        }
    }
}

/// The log counts what it lost and says so in itself; here only the reason is kept.
fn note(container: &str, written: io::Result<()>) {
    if let Err(error) = written {
        complain!("container {container}: output lost: {error}");
    }
}

pub(crate) fn now_ns() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_nanos()).unwrap_or(i64::MAX)
}
