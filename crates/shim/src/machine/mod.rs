//! A task whose containers run in a machine of their own: the shim then clones no container. Its one child is the
//! machine's program; calls go on to the guest, whose PID 1 has a shim of its own, and output and exit codes come back.
//!
//! ```text
//! Booting ──Hello──▶ SettingUp ──Ready──▶ Up ──▶ Lost       from each of them to Lost: the program ended, the guest
//!                                                           broke the protocol or did not come up in time
//! ```
//!
//! To the agent it is the shim it knows: same protocol, same files. What the guest says is taken for what a stranger
//! says: it can end its own machine, and fill what its task may fill, and no more.

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::cgroup::Cgroups;
use crate::protocol::{
    Answer, CONNECTIONS_MAX, Call, ContainerState, Event, Exited, Failure, FailureKind, PROTOCOL_VERSION,
    Reply, STATE_FILE, Status, TaskConfig, TaskState,
};
use crate::server::connection::Connection;
use crate::server::container::now_ns;
use config::MachineConfig;
use console::Console;
use streams::Streams;
use tap::Tap;
use vmm::{Started, Vmm};
use wire::{BootStep, Broken};

mod calls;
pub mod config;
mod console;
mod container;
mod guest;
mod jail;
pub mod netlink;
mod qemu;
mod qmp;
pub mod streams;
mod tap;
pub mod template;
mod terminal;
#[cfg(test)]
mod tests;
mod vmm;
pub mod wire;

use calls::{Exec, Pending, What};
use container::Container;

const READ_BYTES: usize = 64 << 10;
/// Frames on their way to the guest; above, no more of the agent's calls are taken.
const LINK_OUTPUT_BYTES_MAX: usize = 2 << 20;
/// Calls that wait for the guest to come up.
const HELD_MAX: usize = 256;
/// A terminal's size is looked at this often: nobody tells who holds its other end.
const TERMINAL_INTERVAL: Duration = Duration::from_millis(200);
/// What became of the boot, for whoever wants to know: [`BootReport`].
pub const BOOT_FILE: &str = "boot.json";
/// Docker's exit code for what was killed: nobody saw the containers end.
const LOST_EXIT_CODE: i32 = 137;

/// How long the machine took, from its start.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct BootReport {
    /// Until the guest spoke, and until it took calls, as the host saw it.
    pub hello_ms: u64,
    pub ready_ms: u64,
    /// By the guest's own clock.
    pub steps: Vec<BootStep>,
}

enum Phase {
    Booting,
    SettingUp,
    Up,
    /// Why.
    Lost(String),
}

pub(crate) struct Machine {
    directory: PathBuf,
    machine: MachineConfig,
    config: TaskConfig,
    cgroups: Cgroups,
    signals: OwnedFd,
    listener: UnixListener,
    connections: Vec<Connection>,
    next_connection: u64,
    vmm: Box<dyn Vmm>,
    link: Option<UnixStream>,
    input: Vec<u8>,
    output: Vec<u8>,
    streams: Streams,
    console: Console,
    phase: Phase,
    began: Instant,
    boot: BootReport,
    containers: Vec<Container>,
    execs: Vec<Exec>,
    /// Calls the guest has not answered, by their id on the link.
    pending: BTreeMap<u64, Pending>,
    /// Calls from before the guest was up, with the connection they came on.
    held: VecDeque<(u64, crate::protocol::Request, Option<[OwnedFd; 3]>)>,
    next_call: u64,
    next_channel: u32,
    /// Layers that are disks of the guest, by the file they are.
    disks: BTreeMap<PathBuf, u32>,
    next_disk: u32,
    /// Until it is in the task's namespace.
    tap: Option<Tap>,
    ending: bool,
}

/// What a shim has before it has a machine.
struct Host {
    directory: PathBuf,
    config: TaskConfig,
    cgroups: Cgroups,
    signals: OwnedFd,
    listener: UnixListener,
}

#[derive(Clone, Copy)]
enum Source {
    Listener,
    Signals,
    Link,
    Console(usize),
    Stream(u32),
    Connection(usize),
}

impl Machine {
    pub(crate) fn start(
        directory: &Path,
        machine: MachineConfig,
        config: TaskConfig,
        cgroups: Cgroups,
        signals: OwnedFd,
        listener: UnixListener,
    ) -> Result<Machine, String> {
        let tap = machine.network_namespace.as_ref().map(|_| Tap::make()).transpose();
        let tap = tap.map_err(|error| format!("cannot make a tap: {error}"))?;
        let tap_end = tap.as_ref().map(|tap| tap.fd.as_fd());
        let started = qemu::start(&machine, directory, &cgroups, &config.cgroup, tap_end)
            .map_err(|error| error.to_string())?;
        let host = Host { directory: directory.to_owned(), config, cgroups, signals, listener };
        Machine::around(host, machine, started, tap).map_err(|error| error.to_string())
    }

    fn around(host: Host, machine: MachineConfig, started: Started, tap: Option<Tap>) -> io::Result<Machine> {
        let Started { vmm, link, console } = started;
        let Host { directory, config, cgroups, signals, listener } = host;
        link.set_nonblocking(true)?;
        let console = Console::open(&directory, console)?;
        Ok(Machine {
            directory,
            machine,
            config,
            cgroups,
            signals,
            listener,
            connections: Vec::new(),
            next_connection: 0,
            vmm,
            link: Some(link),
            input: Vec::new(),
            output: Vec::new(),
            streams: Streams::default(),
            console,
            phase: Phase::Booting,
            began: Instant::now(),
            boot: BootReport::default(),
            containers: Vec::new(),
            execs: Vec::new(),
            pending: BTreeMap::new(),
            held: VecDeque::new(),
            next_call: 1,
            next_channel: 1,
            disks: BTreeMap::new(),
            next_disk: 0,
            tap,
            ending: false,
        })
    }

    pub(crate) fn run(&mut self) -> io::Result<()> {
        self.persist();
        while !self.ending {
            for (source, ready) in self.wait()? {
                match source {
                    Source::Listener => self.accept(),
                    Source::Signals => {
                        if self.drain_signals() {
                            self.ending = true;
                        }
                        self.reap();
                    }
                    Source::Console(index) => self.console.read(index),
                    Source::Stream(channel) => self.streams.ready(channel, ready, &mut self.output),
                    Source::Link => self.hear_guest(ready),
                    Source::Connection(index) => self.serve(index, ready),
                }
                // A call may have changed what the other indices mean.
                if matches!(source, Source::Connection(_)) {
                    break;
                }
            }
            self.look_at_clock();
            self.tell_exec_ends();
            self.flush_link();
            self.hint();
        }
        self.vmm.kill();
        for connection in &mut self.connections {
            connection.finish();
        }
        Ok(())
    }

    /// Blocks until something is ready. Connections come last, one at a time.
    fn wait(&self) -> io::Result<Vec<(Source, PollFlags)>> {
        let mut sources = vec![Source::Signals];
        let mut polled = vec![PollFd::new(&self.signals, PollFlags::IN)];
        if let Some(link) = &self.link {
            let wanted = if self.output.is_empty() { PollFlags::IN } else { PollFlags::IN | PollFlags::OUT };
            sources.push(Source::Link);
            polled.push(PollFd::new(link, wanted));
        }
        for (index, end) in self.console.sources() {
            sources.push(Source::Console(index));
            polled.push(PollFd::from_borrowed_fd(end, PollFlags::IN));
        }
        for (channel, fd, flags) in self.streams.sources() {
            sources.push(Source::Stream(channel));
            polled.push(PollFd::from_borrowed_fd(fd, flags));
        }
        let takes_calls = self.output.len() < LINK_OUTPUT_BYTES_MAX && self.held.len() < HELD_MAX;
        for (index, connection) in self.connections.iter().enumerate() {
            let mut wanted = if takes_calls { PollFlags::IN } else { PollFlags::empty() };
            if connection.wants_to_write() {
                wanted |= PollFlags::OUT;
            }
            sources.push(Source::Connection(index));
            polled.push(PollFd::from_borrowed_fd(connection.as_fd(), wanted));
        }
        if self.connections.len() < CONNECTIONS_MAX {
            sources.push(Source::Listener);
            polled.push(PollFd::new(&self.listener, PollFlags::IN));
        }
        let timeout = self
            .timeout()
            .map(|left| Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) });
        match poll(&mut polled, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let ready = sources.into_iter().zip(polled.iter().map(PollFd::revents));
        Ok(ready.filter(|(_, events)| !events.is_empty()).collect())
    }

    /// Until something is to be done that no descriptor tells of.
    fn timeout(&self) -> Option<Duration> {
        let boot = match self.phase {
            Phase::Booting | Phase::SettingUp => {
                Some(self.boot_deadline().saturating_sub(self.began.elapsed()))
            }
            Phase::Up | Phase::Lost(_) => None,
        };
        let terminals = self.execs.iter().any(Exec::has_terminal).then_some(TERMINAL_INTERVAL);
        boot.into_iter().chain(terminals).min()
    }

    fn boot_deadline(&self) -> Duration {
        Duration::from_millis(self.machine.boot_deadline_ms)
    }

    fn look_at_clock(&mut self) {
        if matches!(self.phase, Phase::Booting | Phase::SettingUp)
            && self.began.elapsed() >= self.boot_deadline()
        {
            let why = format!("it was not up within {} ms", self.machine.boot_deadline_ms);
            self.lose(&why);
        }
        self.resize_terminals();
    }

    fn accept(&mut self) {
        // A client that is gone again already is none.
        if let Ok((stream, _)) = self.listener.accept()
            && let Ok(connection) = Connection::new(stream, self.next_connection)
        {
            self.next_connection += 1;
            self.connections.push(connection);
        }
    }

    fn serve(&mut self, index: usize, ready: PollFlags) {
        let mut result = Ok(());
        if ready.contains(PollFlags::OUT) {
            result = self.connections[index].flush();
        }
        if result.is_ok() && ready.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
            result = self.connections[index].receive().and_then(|()| self.serve_requests(index));
        }
        if result.is_err() {
            let gone = self.connections.remove(index).id;
            self.abandon_execs(|exec| exec.connection == gone);
        }
    }

    fn serve_requests(&mut self, index: usize) -> io::Result<()> {
        while let Some(request) = self.connections[index].next_request()? {
            let stdio = match request.call {
                Call::Exec(_) => self.connections[index].take_stdio(),
                _ => None,
            };
            let connection = self.connections[index].id;
            self.take_call(connection, request, stdio);
        }
        Ok(())
    }

    /// To whoever asked; who is gone asks again, or looks at the state.
    fn answer(&mut self, connection: u64, id: u64, result: Result<Answer, Failure>) {
        let Some(connection) = self.connections.iter_mut().find(|known| known.id == connection) else {
            return;
        };
        if connection.send(&Reply::Response { id, result }).is_err() {
            connection.close();
        }
    }

    /// Pushes an event to whoever subscribed. A client that cannot take it is let go by its next poll.
    fn publish(&mut self, event: Event) {
        let reply = Reply::Event(event);
        for connection in self.connections.iter_mut().filter(|connection| connection.subscribed) {
            if connection.send(&reply).is_err() {
                connection.close();
            }
        }
    }

    fn hint(&mut self) {
        for container in &self.containers {
            let end = container.log.end();
            for connection in &mut self.connections {
                if connection.hint(&container.state.id, end).is_err() {
                    connection.close();
                }
            }
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

    fn reap(&mut self) {
        loop {
            let mut status = 0;
            // SAFETY: the status outlives the call.
            let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) };
            if pid <= 0 {
                return;
            }
            if pid == self.vmm.pid() {
                // What the guest said at last is in the link still.
                self.hear_guest(PollFlags::IN);
                let code = crate::launcher::exit_code(status);
                let why =
                    self.console.last_words().unwrap_or_else(|| format!("it ended with exit code {code}"));
                self.lose(&why);
            }
        }
    }

    fn hear_guest(&mut self, ready: PollFlags) {
        if !ready.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
            return;
        }
        loop {
            let Some(link) = &mut self.link else { return };
            let mut buffer = vec![0; READ_BYTES];
            match link.read(&mut buffer) {
                // The machine is about to end; its process will say how.
                Ok(0) => {
                    self.link = None;
                    self.vmm.kill();
                    return;
                }
                Ok(count) => {
                    self.input.extend_from_slice(&buffer[..count]);
                    if let Err(broken) = self.take_frames() {
                        self.lose(&format!("the guest broke the protocol: {broken}"));
                        return;
                    }
                    if count < buffer.len() {
                        return;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => {
                    self.link = None;
                    self.vmm.kill();
                    return;
                }
            }
        }
    }

    fn take_frames(&mut self) -> Result<(), Broken> {
        let input = std::mem::take(&mut self.input);
        let mut used = 0;
        while let Some((frame, length)) = wire::decode(&input[used..])? {
            self.take_frame(frame)?;
            used += length;
        }
        self.input = input;
        self.input.drain(..used);
        self.input.shrink_to(READ_BYTES);
        Ok(())
    }

    fn flush_link(&mut self) {
        while let Some(link) = &mut self.link
            && !self.output.is_empty()
        {
            match link.write(&self.output) {
                Ok(count) => {
                    self.output.drain(..count);
                    self.output.shrink_to(READ_BYTES);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // Its process ends, and says how.
                Err(_) => {
                    self.link = None;
                    self.vmm.kill();
                }
            }
        }
    }

    /// There is no machine any more: its containers are, and everybody who waits learns it.
    fn lose(&mut self, why: &str) {
        if matches!(self.phase, Phase::Lost(_)) {
            return;
        }
        let why = format!("the task's machine was lost: {why}");
        eprintln!("{why}");
        self.phase = Phase::Lost(why.clone());
        self.vmm.kill();
        self.link = None;
        self.output.clear();
        self.streams = Streams::default();
        let mut ended = Vec::new();
        for container in self.containers.iter_mut().filter(|container| container.is_running()) {
            container.state.error = Some(why.clone());
            ended.push(container.finish(LOST_EXIT_CODE, false));
        }
        let gone: Vec<String> = self.execs.drain(..).map(|exec| exec.id).collect();
        self.persist();
        for exited in ended {
            self.publish(Event::Exited(exited));
        }
        for exec in gone {
            self.publish(Event::ExecExited { exec, exit_code: LOST_EXIT_CODE, at_ns: now_ns() });
        }
        let failure = Failure::new(FailureKind::System, why);
        for (_, pending) in std::mem::take(&mut self.pending) {
            let result = match pending.what {
                What::State => Ok(Answer::State(self.state())),
                _ => Err(failure.clone()),
            };
            for (connection, request) in
                pending.joined.into_iter().chain([(pending.connection, pending.request)])
            {
                self.answer(connection, request, result.clone());
            }
        }
        for (connection, request, stdio) in std::mem::take(&mut self.held) {
            self.take_call(connection, request, stdio);
        }
    }

    fn state(&self) -> TaskState {
        TaskState {
            version: PROTOCOL_VERSION,
            shim_pid: std::process::id() as i32,
            containers: self.containers.iter().map(Container::state).collect(),
            execs: self.execs.iter().map(Exec::state).collect(),
        }
    }

    /// Writes the state where a crash of the shim leaves it. A failure (full disk) must not end the task; the
    /// state lives on in memory.
    fn persist(&self) {
        let text = serde_json::to_vec(&self.state()).map_err(io::Error::from);
        if let Err(error) = text.and_then(|text| replace(&self.directory.join(STATE_FILE), &text)) {
            eprintln!("cannot write {STATE_FILE}: {error}");
        }
    }
}

fn replace(path: &Path, text: &[u8]) -> io::Result<()> {
    let fresh = path.with_extension("json.new");
    fs::write(&fresh, text)?;
    fs::rename(&fresh, path)
}

/// A container that is not running, as the agent learns of it.
fn exited(state: &ContainerState, log_end: u64) -> Exited {
    debug_assert_eq!(state.status, Status::Exited);
    Exited {
        container: state.id.clone(),
        exit_code: state.exit_code.unwrap_or(LOST_EXIT_CODE),
        oom_killed: state.oom_killed,
        at_ns: state.exited_at_ns.unwrap_or_default(),
        log_end,
    }
}
