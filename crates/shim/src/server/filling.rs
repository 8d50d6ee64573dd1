//! A first start whose volumes get what the image has: a process of its own copies while the loop goes on.
//!
//! ```text
//! Start ──volumes to fill?──▶ filler runs ──ended well──▶ launch ─▶ answer
//!                                │ failed, cancelled ──────────────▶ answer
//! ```

use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;

use super::Shim;
use super::container::Container;
use crate::launcher::{self, Filler, Room};
use crate::protocol::{Answer, Failure, FailureKind};

/// Longest text a filler may send without an end of line: a failure.
const LINE_BYTES_MAX: usize = 64 << 10;
/// Those who may wait for one start: one per connection, and one that asks again on the next.
const WAITING_MAX: usize = 64;

/// Who is to be answered.
pub(super) struct Waiting {
    pub(super) connection: u64,
    pub(super) request: u64,
}

/// A container's volumes being filled.
pub(super) struct Filling {
    filler: Filler,
    volumes: Vec<PathBuf>,
    /// Of what it says, what has no end yet.
    begun: Vec<u8>,
    waiting: Vec<Waiting>,
    cancelled: bool,
}

impl Filling {
    pub(super) fn is(&self, pid: i32) -> bool {
        self.filler.pid == pid
    }

    pub(super) fn progress(&self) -> Option<&File> {
        self.filler.progress.as_ref()
    }

    /// Takes what the filler says; how much it has copied, if that is it.
    fn read(&mut self) -> Option<u64> {
        let mut buffer = [0; 4096];
        let mut copied = None;
        while let Some(progress) = &mut self.filler.progress {
            match progress.read(&mut buffer) {
                Ok(count) if count > 0 && self.begun.len() < LINE_BYTES_MAX => {
                    self.begun.extend_from_slice(&buffer[..count]);
                    while let Some(end) = self.begun.iter().position(|byte| *byte == b'\n') {
                        let line: Vec<u8> = self.begun.drain(..=end).collect();
                        let number =
                            std::str::from_utf8(&line[..end]).ok().and_then(|text| text.parse().ok());
                        copied = number.or(copied);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                _ => self.filler.progress = None,
            }
        }
        copied
    }

    fn failure(&self, container: &str, code: i32) -> Failure {
        if self.cancelled {
            return Failure::new(
                FailureKind::WrongState,
                format!("the start of container {container:?} was cancelled"),
            );
        }
        serde_json::from_slice(&self.begun).unwrap_or_else(|_| {
            Failure::new(
                FailureKind::System,
                format!(
                    "container {container:?}: the process that filled its volumes ended with exit code {code}"
                ),
            )
        })
    }
}

impl Shim {
    /// Begins to fill what is to be filled before a container is started, or waits with others; `false`: nothing is.
    pub(super) fn fill(&mut self, id: &str, waiting: Waiting) -> Result<bool, Failure> {
        let Some(index) = self.containers.iter().position(|container| container.id == *id) else {
            return Ok(false);
        };
        let Shim { containers, storage, cgroups, .. } = self;
        let container = &mut containers[index];
        if let Some(filling) = &mut container.filling {
            if filling.waiting.len() >= WAITING_MAX {
                let why = format!("{WAITING_MAX} wait for the start of container {id:?} already");
                return Err(Failure::new(FailureKind::Limit, why));
            }
            filling.waiting.push(waiting);
            return Ok(true);
        }
        if container.is_running() || container.state.starts > 0 {
            return Ok(false);
        }
        let system = |error: io::Error| {
            Failure::new(FailureKind::System, format!("container {id:?}: cannot fill its volumes: {error}"))
        };
        let mut volumes = Vec::new();
        for volume in container.plan.filled() {
            if storage.wants_filling(volume).map_err(system)? {
                volumes.push(volume.clone());
            }
        }
        if volumes.is_empty() {
            return Ok(false);
        }
        let taken = |other: &Container| {
            other.filling.as_ref().is_some_and(|filling| filling.volumes.iter().any(|v| volumes.contains(v)))
        };
        if let Some(other) = containers.iter().find(|other| taken(other)) {
            let why = format!("container {:?} is just filling a volume of {id:?}: start it later", other.id);
            return Err(Failure::new(FailureKind::WrongState, why));
        }
        for volume in &volumes {
            storage.begin_filling(volume).map_err(system)?;
        }
        let container = &mut containers[index];
        let null = File::open("/dev/null").map_err(system)?;
        let room = Room { id: &container.id, storage };
        let filler = launcher::fill(&container.plan, &container.bare_place(cgroups, &null), &room, &volumes)?;
        container.state.copied_bytes = Some(0);
        container.filling =
            Some(Filling { filler, volumes, begun: Vec::new(), waiting: vec![waiting], cancelled: false });
        Ok(true)
    }

    pub(super) fn read_filling(&mut self, index: usize) {
        let container = &mut self.containers[index];
        if let Some(copied) = container.filling.as_mut().and_then(Filling::read) {
            container.state.copied_bytes = Some(copied);
        }
    }

    /// The filler has ended: the container starts, or does not.
    pub(super) fn filled(&mut self, index: usize, code: i32) {
        self.read_filling(index);
        let container = &mut self.containers[index];
        let Some(filling) = container.filling.take() else { return };
        let id = container.id.clone();
        let result = if code == 0 && !filling.cancelled {
            let storage = &self.storage;
            let ended = filling.volumes.iter().try_for_each(|volume| storage.end_filling(volume));
            ended
                .map_err(|error| {
                    let why = format!("container {id:?}: its volumes cannot be counted as filled: {error}");
                    Failure::new(FailureKind::System, why)
                })
                .and_then(|()| self.start(&id))
        } else {
            let failure = filling.failure(&id, code);
            if !filling.cancelled {
                container.fail(&failure);
            }
            self.persist();
            Err(failure)
        };
        self.answer_waiting(filling.waiting, &result.map(|pid| Answer::Started { pid }));
    }

    pub(super) fn cancel_start(&mut self, id: &str) -> Result<(), Failure> {
        let container = self.find(id)?;
        if let Some(filling) = &mut container.filling {
            filling.cancelled = true;
            // It may have ended this moment.
            let _ = rustix::process::pidfd_send_signal(&filling.filler.pidfd, rustix::process::Signal::KILL);
        }
        Ok(())
    }

    fn answer_waiting(&mut self, waiting: Vec<Waiting>, result: &Result<Answer, Failure>) {
        for Waiting { connection, request } in waiting {
            self.connections.answer(connection, request, result.clone());
        }
    }

    /// Of a container that is deleted: nobody fills its volumes any more when this returns.
    pub(super) fn abandon_filling(&mut self, id: &str) -> Result<(), Failure> {
        let container = self.find(id)?;
        let Some(filling) = container.filling.take() else { return Ok(()) };
        let cgroup = container.cgroup.clone();
        let killed = self.cgroups.kill_tree(&cgroup, super::calls::KILL_DEADLINE);
        let failure = Failure::new(FailureKind::WrongState, format!("container {id:?} was deleted"));
        self.answer_waiting(filling.waiting, &Err(failure));
        killed.map_err(|error| {
            let why =
                format!("container {id:?}: the process that fills its volumes cannot be ended: {error}");
            Failure::new(FailureKind::System, why)
        })
    }
}
