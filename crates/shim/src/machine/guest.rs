//! What the guest says. All of it is checked: an answer to what was not asked, an event of what is not there and output
//! beyond what was granted break the protocol, and end the machine.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use super::boot::{BOOT_FILE, FIRST_STEP};
use super::calls::{GUEST_LOG, Pending, What};
use super::config::{MachineConfig, Snapshot};
use super::container::{Ended, OUTPUT_DEADLINE};
use super::terminal::Terminal;
use super::wire::{
    self, Broken, Down, Frame, GUEST_CGROUP, GUEST_SHIM_CGROUP, Kind, LINK_VERSION, OUTPUT_WINDOW_BYTES,
    Output, Setup, Up,
};
use super::{Machine, Phase};
use crate::descriptor;
use crate::log::{HEADER_BYTES, LINE_BYTES_MAX};
use crate::protocol::{
    Answer, Event, Exited, Failure, FailureKind, Reply, SOCKETS_MAX, TaskConfig, TaskStats, WindowSize,
};
use crate::server::container::{READ_BYTES as PIPE_READ_BYTES, now_ns};

const ENTROPY_BYTES: usize = 64;
/// The guest sends whole records, the last of them begun within its window.
const OUTPUT_UNDER_WAY_MAX: u64 = OUTPUT_WINDOW_BYTES + (HEADER_BYTES + LINE_BYTES_MAX) as u64;
/// What a pipe holds that its container made as large as it may.
const PIPE_BYTES_MAX: usize = 1 << 20;
/// What the guest may still have when a container has ended: its log, with what was read last, what both pipes held as empty
/// lines, and a begun line of each.
pub(super) const OUTPUT_LEFT_MAX: u64 = GUEST_LOG.bytes_max
    + (HEADER_BYTES * (PIPE_READ_BYTES + 2 * PIPE_BYTES_MAX) + 3 * (HEADER_BYTES + LINE_BYTES_MAX)) as u64;
/// Of what it says in words, for people.
const LETTERS_MAX: usize = 1000;

impl Machine {
    /// Words of the error may be the guest's own: a name it made up.
    pub(super) fn lose_to(&mut self, broken: &Broken) {
        self.lose(&format!("the guest broke the protocol: {}", words(&broken.to_string())));
    }

    pub(super) fn take_frame(&mut self, frame: Frame<'_>) -> Result<(), Broken> {
        match frame.kind {
            Kind::Control => self.take_control(serde_json::from_slice(frame.payload)?),
            Kind::Call if matches!(self.phase, Phase::Up) => match serde_json::from_slice(frame.payload)? {
                Reply::Response { id, result } => self.take_response(id, result),
                Reply::Event(event) => self.take_event(event),
            },
            Kind::Output if matches!(self.phase, Phase::Up) => {
                self.take_output(wire::decode_output(frame.payload)?)
            }
            Kind::Call | Kind::Output => Err(message("a guest that is not set up has nothing to say")),
            _ => self.streams.frame(frame, &mut self.output),
        }
    }

    fn take_control(&mut self, up: Up) -> Result<(), Broken> {
        match (up, &self.phase) {
            (Up::Hello { version: LINK_VERSION, steps }, Phase::Booting) => {
                self.boot.hello(&steps);
                match self.machine.snapshot.clone() {
                    Some(Snapshot::Make(files)) => self.become_snapshot(&files),
                    _ => self.greeted(),
                }
                Ok(())
            }
            (Up::Hello { version, .. }, Phase::Booting) => {
                Err(message(&format!("it speaks version {version} of the link, this shim {LINK_VERSION}")))
            }
            (Up::Unfit { why }, Phase::Booting) => {
                self.phase = Phase::Unfit(words(&why));
                Ok(())
            }
            (Up::Clock, Phase::Up) if self.clock.answered() => Ok(()),
            (Up::Ready { steps }, Phase::SettingUp) => {
                self.boot.ready(&steps);
                if let Err(error) = self.cgroups.create(&self.config.cgroup, &self.machine.limits) {
                    self.lose(&format!("its limits cannot be set: {error}"));
                    return Ok(());
                }
                self.phase = Phase::Up;
                self.unread = None;
                self.write_boot();
                if self.boot.time_was_old {
                    // A message of this size is never too long.
                    let _ = self.say(&Down::Clock { now_ns: now_ns() });
                    self.clock.told();
                }
                self.take_held();
                Ok(())
            }
            (Up::Failed { why }, Phase::SettingUp) => {
                self.lose(&format!("the guest could not be set up: {}", words(&why)));
                Ok(())
            }
            _ => Err(message("a message out of its order")),
        }
    }

    /// The guest is there and nobody's: it becomes this task's.
    pub(super) fn greeted(&mut self) {
        match setup(&self.machine, &self.config).and_then(|setup| self.say(&setup)) {
            Ok(()) => self.told(),
            Err(failure) => self.lose(&failure.message),
        }
    }

    /// It knows its set-up.
    pub(super) fn told(&mut self) {
        self.phase = Phase::SettingUp;
        self.take_held();
    }

    pub(super) fn take_held(&mut self) {
        for (connection, request, stdio) in std::mem::take(&mut self.held) {
            self.take_call(connection, request, stdio);
        }
    }

    pub(super) fn write_boot(&self) {
        if let Err(error) = self.boot.write(&self.directory) {
            complain!("cannot write {BOOT_FILE}: {error}");
        }
    }

    fn take_response(&mut self, id: u64, result: Result<Answer, Failure>) -> Result<(), Broken> {
        let Some(Pending { connection, request, what, joined, .. }) = self.pending.remove(&id) else {
            return Err(message(&format!("an answer to call {id}, which was not asked")));
        };
        let result = result.map_err(|failure| Failure { message: words(&failure.message), ..failure });
        let mut kept = Ok(());
        let result = match (what, result) {
            (What::Nobody, _) => return Ok(()),
            (What::Create(container), Ok(Answer::Done)) => {
                self.containers.push(*container);
                self.persist();
                if self.boot.first_done(FIRST_STEP) {
                    self.write_boot();
                }
                Ok(Answer::Done)
            }
            (What::Create(container), Err(failure)) => {
                let _ = std::fs::remove_dir_all(&container.directory);
                Err(failure)
            }
            (What::Start(_), Ok(answer @ Answer::Started { .. })) => Ok(answer),
            (What::Start(id), Err(failure)) => {
                self.start_failed(&id, &failure);
                Err(failure)
            }
            (What::Delete(id), Ok(Answer::Done)) => self.deleted(&id).map(|()| Answer::Done),
            (What::Exec { exec, console }, Ok(Answer::Started { pid })) => {
                self.exec_started(&exec, pid, console).map(|()| Answer::Started { pid })
            }
            (What::Exec { exec, .. }, Err(failure)) => {
                // The guest has none: it is forgotten here, with its streams.
                for gone in self.execs.extract_if(.., |known| known.id == exec) {
                    gone.channels().for_each(|channel| self.streams.forget(channel));
                }
                Err(failure)
            }
            (What::Stats, Ok(Answer::Stats(mut stats))) => {
                let mut known: Vec<&str> =
                    self.containers.iter().map(|container| container.state.id.as_str()).collect();
                // Each once.
                stats.containers.retain(|usage| {
                    let place = known.iter().position(|id| *id == usage.id);
                    place.map(|place| known.swap_remove(place)).is_some()
                });
                Ok(Answer::Stats(TaskStats { at_ns: now_ns(), ..stats }))
            }
            (What::Listeners, Ok(Answer::Listeners(mut all))) => {
                all.truncate(SOCKETS_MAX);
                Ok(Answer::Listeners(all))
            }
            (What::State, Ok(Answer::State(state))) => {
                for theirs in state.containers {
                    let known = self.containers.iter_mut().find(|known| known.state.id == theirs.id);
                    if let Some(known) = known {
                        known.state.copied_bytes = theirs.copied_bytes;
                    }
                }
                Ok(Answer::State(self.state()))
            }
            (What::Plain, Ok(Answer::Done)) => Ok(Answer::Done),
            (_, Err(failure)) => Err(failure),
            (_, Ok(_)) => {
                // Who asked is told before the machine goes: nobody knows of the call any more.
                let why = format!("call {id} has an answer of another kind");
                kept = Err(message(&why));
                Err(Failure::new(FailureKind::System, format!("the guest broke the protocol: {why}")))
            }
        };
        for (connection, request) in joined {
            self.answer(connection, request, result.clone());
        }
        self.answer(connection, request, result);
        kept
    }

    fn start_failed(&mut self, id: &str, failure: &Failure) {
        let untouched = matches!(failure.kind, FailureKind::WrongState | FailureKind::Limit);
        let found = self.containers.iter_mut().find(|container| container.state.id == id);
        let Some(container) = found else { return };
        container.start_asked = false;
        if !container.is_running() && !untouched {
            container.fail(failure);
            self.persist();
        }
    }

    fn exec_started(
        &mut self,
        id: &str,
        pid: i32,
        console: Option<(OwnedFd, WindowSize)>,
    ) -> Result<(), Failure> {
        // Abandoned meanwhile: the guest hears of that next.
        let Some(exec) = self.execs.iter_mut().find(|exec| exec.id == id) else { return Ok(()) };
        exec.pid = Some(pid);
        let Some((console, size)) = console else { return Ok(()) };
        let channel = exec.channel;
        let mut opened = || -> std::io::Result<Terminal> {
            let (terminal, outer) = Terminal::open(size)?;
            let (typed, shown) = terminal.ends()?;
            self.streams.send(channel, typed)?;
            self.streams.receive(channel + 1, shown)?;
            descriptor::send(console.as_fd(), outer.as_fd())?;
            Ok(terminal)
        };
        match opened() {
            Ok(terminal) => {
                exec.terminal = Some(terminal);
                Ok(())
            }
            Err(error) => {
                self.abandon_execs(|exec| exec.id == id);
                Err(Failure::new(FailureKind::System, format!("cannot open a terminal: {error}")))
            }
        }
    }

    fn take_event(&mut self, event: Event) -> Result<(), Broken> {
        match event {
            Event::Started { container, pid, .. } => {
                let known = self.known(&container)?;
                if !known.start_asked {
                    return Err(message(&format!("container {container:?} started, which nobody asked for")));
                }
                known.started(pid);
                self.persist();
                self.publish(Event::Started { container, pid, at_ns: now_ns() });
                Ok(())
            }
            Event::Exited(Exited { container, exit_code, oom_killed, log_end, .. }) => {
                let known = self.known(&container)?;
                if !known.is_running() || known.ended.is_some() {
                    return Err(message(&format!("container {container:?} ended twice")));
                }
                if log_end.saturating_sub(known.taken.max(known.given_up)) > OUTPUT_LEFT_MAX {
                    return Err(message("more output than a guest can have"));
                }
                known.ended = Some(Ended { exit_code, oom_killed, log_end, heard: Instant::now() });
                self.finish(&container);
                Ok(())
            }
            Event::ExecExited { exec, exit_code, .. } => {
                if let Some(known) = self.execs.iter_mut().find(|known| known.id == exec) {
                    known.exit_code = Some(exit_code);
                }
                Ok(())
            }
            Event::Output { .. } => Err(message("output is not told of, it comes")),
        }
    }

    fn known(&mut self, id: &str) -> Result<&mut super::Container, Broken> {
        let found = self.containers.iter_mut().find(|container| container.state.id == id);
        found.ok_or_else(|| message(&format!("an event of container {id:?}, which is not there")))
    }

    fn take_output(&mut self, output: Output<'_>) -> Result<(), Broken> {
        let Output { container, stream, end, bytes } = output;
        let known = self.known(container)?;
        let all_there = end.checked_sub(known.taken).is_some_and(|more| more >= log_bytes(bytes));
        let most = match &known.ended {
            Some(ended) => ended.log_end,
            None if known.is_running() => known.acknowledged + OUTPUT_UNDER_WAY_MAX,
            None => known.given_up,
        };
        if !all_there || end > most {
            return Err(message(&format!("output of container {container:?} beyond what was granted")));
        }
        known.output(stream, bytes, end);
        self.finish(container);
        Ok(())
    }

    /// A container whose end is known and whose output is all here has ended, on disk and then to everybody.
    fn finish(&mut self, id: &str) {
        let Some(container) = self.containers.iter_mut().find(|container| container.state.id == id) else {
            return;
        };
        let Some(Ended { exit_code, oom_killed, log_end, .. }) = container.ended else { return };
        if container.taken.max(container.given_up) < log_end {
            return;
        }
        let exited = container.finish(exit_code, oom_killed);
        self.persist();
        self.publish(Event::Exited(exited));
    }

    /// Until an end is told without the rest of its output.
    pub(super) fn ends_left(&self) -> Option<Duration> {
        self.containers.iter().filter_map(|container| container.ended.as_ref().map(Ended::left)).min()
    }

    /// Ends whose output stays away.
    pub(super) fn look_for_ends(&mut self) {
        let mut overdue = Vec::new();
        for container in &mut self.containers {
            let Some(ended) = container.ended.as_ref().filter(|ended| ended.left().is_zero()) else {
                continue;
            };
            container.given_up = ended.log_end;
            overdue.push(container.state.id.clone());
        }
        for id in overdue {
            complain!("container {id}: output lost: none came within {} s", OUTPUT_DEADLINE.as_secs());
            self.finish(&id);
        }
    }

    /// Execs that have ended, once what they wrote is where it was to go.
    pub(super) fn tell_exec_ends(&mut self) {
        let mut told = Vec::new();
        for exec in &mut self.execs {
            let Some(exit_code) = exec.exit_code.filter(|_| !exec.told) else { continue };
            if exec.channels().all(|channel| self.streams.is_delivered(channel)) {
                exec.told = true;
                exec.terminal = None;
                exec.channels().for_each(|channel| self.streams.forget(channel));
                told.push(Event::ExecExited { exec: exec.id.clone(), exit_code, at_ns: now_ns() });
            }
        }
        if told.is_empty() {
            return;
        }
        self.persist();
        for event in told {
            self.publish(event);
        }
    }

    pub(super) fn resize_terminals(&mut self) {
        let mut resized = Vec::new();
        for exec in &mut self.execs {
            let size = exec.terminal.as_mut().and_then(Terminal::resized);
            resized.extend(size.map(|size| Down::Resize { channel: exec.channel, size }));
        }
        for message in resized {
            // A message of this size is never too long.
            let _ = self.say(&message);
        }
    }
}

/// What makes a machine this task's.
pub(super) fn setup(machine: &MachineConfig, config: &TaskConfig) -> Result<Down, Failure> {
    let mut entropy = vec![0; ENTROPY_BYTES];
    let filled = rustix::rand::getrandom(&mut entropy[..], rustix::rand::GetRandomFlags::empty());
    if filled != Ok(ENTROPY_BYTES) {
        return Err(Failure::new(FailureKind::System, "cannot get random bytes for the guest"));
    }
    Ok(Down::Setup(Box::new(Setup {
        now_ns: now_ns(),
        entropy,
        hostname: machine.hostname.clone(),
        task: TaskConfig {
            cgroup: GUEST_CGROUP.into(),
            shim_cgroup: GUEST_SHIM_CGROUP.into(),
            resources: machine.resources.clone(),
            ephemeral_storage: false,
            machine: None,
            ..config.clone()
        },
        files: machine.files.clone(),
        has_storage: machine.storage.is_some(),
    })))
}

/// What this is in the guest's log, at least: each line has a header there, and no newline.
fn log_bytes(output: &[u8]) -> u64 {
    let lines = output.iter().filter(|byte| **byte == b'\n').count();
    (output.len() + lines * (HEADER_BYTES - 1)) as u64
}

/// A stranger's, as text of bounded length.
pub(super) fn words(text: &str) -> String {
    text.chars().filter(|letter| !letter.is_control()).take(LETTERS_MAX).collect()
}

fn message(text: &str) -> Broken {
    Broken::Message(text.to_owned())
}
