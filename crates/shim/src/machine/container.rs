//! One container of a machine, as the host keeps it: its state and its output. The rest of it is in the guest.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::{LOST_EXIT_CODE, exited};
use crate::log::Stream;
use crate::log::writer::LogWriter;
use crate::protocol::{
    CONTAINERS_DIR, ContainerState, Exited, Failure, FailureKind, LOG_DIR, LogLimits, Status,
};
use crate::server::container::{SET_UP_FAILED, now_ns};

/// Longest an end waits for output that does not come: below what the agent gives a kill. (Output that comes by drops keeps it
/// waiting; the agent's own time ends that.)
pub(super) const OUTPUT_DEADLINE: Duration = Duration::from_secs(20);

pub(super) struct Container {
    pub(super) state: ContainerState,
    pub(super) directory: PathBuf,
    pub(super) log: LogWriter,
    /// Of the guest's log: what is on the host's disk, and what the guest was told of it.
    pub(super) taken: u64,
    pub(super) acknowledged: u64,
    /// Of the guest's log: output before this is late, and nobody's.
    pub(super) given_up: u64,
    /// The guest was asked to start it, and has not said that it did.
    pub(super) start_asked: bool,
    /// It has ended, and its output up to the guest's offset is not all here.
    pub(super) ended: Option<Ended>,
}

pub(super) struct Ended {
    pub(super) exit_code: i32,
    pub(super) oom_killed: bool,
    pub(super) log_end: u64,
    /// When output came last.
    pub(super) heard: Instant,
}

impl Ended {
    /// Until it is told without the rest of its output.
    pub(super) fn left(&self) -> Duration {
        OUTPUT_DEADLINE.saturating_sub(self.heard.elapsed())
    }
}

impl Container {
    pub(super) fn new(task: &Path, id: &str, limits: LogLimits) -> io::Result<Self> {
        let directory = task.join(CONTAINERS_DIR).join(id);
        std::fs::create_dir_all(&directory)?;
        let state = ContainerState {
            id: id.to_owned(),
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
        let log = LogWriter::open(directory.join(LOG_DIR), limits)?;
        Ok(Container {
            state,
            directory,
            log,
            taken: 0,
            acknowledged: 0,
            given_up: 0,
            start_asked: false,
            ended: None,
        })
    }

    pub(super) fn is_running(&self) -> bool {
        self.state.status == Status::Running
    }

    pub(super) fn state(&self) -> ContainerState {
        ContainerState { log_begin: self.log.begin(), log_end: self.log.end(), ..self.state.clone() }
    }

    pub(super) fn started(&mut self, pid: i32) {
        self.start_asked = false;
        self.state.status = Status::Running;
        self.state.pid = Some(pid);
        self.state.starts = self.state.starts.saturating_add(1);
        self.state.started_at_ns = Some(now_ns());
        self.state.exit_code = None;
        self.state.error = None;
        self.state.exited_at_ns = None;
        self.state.oom_killed = false;
    }

    /// It could not be started.
    pub(super) fn fail(&mut self, failure: &Failure) {
        self.state.status = Status::Exited;
        self.state.exited_at_ns = Some(now_ns());
        self.state.error = Some(failure.message.clone());
        self.state.exit_code = Some(match failure.kind {
            FailureKind::CannotExecute { exit_code } => exit_code,
            _ => SET_UP_FAILED,
        });
    }

    pub(super) fn output(&mut self, stream: Stream, bytes: &[u8], end: u64) {
        if end > self.given_up {
            self.note(|log| log.output(stream, bytes, now_ns()));
        }
        if let Some(ended) = self.ended.as_mut().filter(|_| end > self.taken) {
            ended.heard = Instant::now();
        }
        self.taken = end;
    }

    /// How far the guest may be told that its output is safe: not at all while the log makes its container wait. Of one that
    /// has ended the rest is taken whatever the log's bound says.
    pub(super) fn next_acknowledgement(&mut self) -> Option<u64> {
        let waits = self.log.is_blocked() && self.ended.is_none() && self.is_running();
        if waits || self.taken == self.acknowledged {
            return None;
        }
        self.acknowledged = self.taken;
        Some(self.taken)
    }

    /// The last of it is on disk.
    pub(super) fn finish(&mut self, exit_code: i32, oom_killed: bool) -> Exited {
        self.ended = None;
        self.note(|log| log.finish(now_ns()));
        self.state.status = Status::Exited;
        self.state.pid = None;
        self.state.exit_code = Some(exit_code);
        self.state.exited_at_ns = Some(now_ns());
        self.state.oom_killed = oom_killed;
        exited(&self.state, self.log.end())
    }

    /// Its machine is gone. An end that waited for output is told as it was.
    pub(super) fn lose(&mut self, why: &str) -> Exited {
        if let Some(Ended { exit_code, oom_killed, .. }) = self.ended {
            return self.finish(exit_code, oom_killed);
        }
        self.state.error = Some(why.to_owned());
        self.finish(LOST_EXIT_CODE, false)
    }

    /// The log counts what it lost and says so in itself; here only the reason is kept.
    fn note(&mut self, write: impl FnOnce(&mut LogWriter) -> io::Result<()>) {
        if let Err(error) = write(&mut self.log) {
            complain!("container {}: output lost: {error}", self.state.id);
        }
    }
}
