//! A task whose containers run in a machine of their own: the shim then clones no container. Its one child is the
//! machine's program; calls go on to the guest, whose PID 1 has a shim of its own, and output and exit codes come back.
//!
//! ```text
//! Booting ──Hello──▶ SettingUp ──Ready──▶ Up ──▶ Lost       from each of them to Lost: the program ended, the guest
//!  ▲   └──Unfit──▶ Unfit  (or its program broke)            broke the protocol, did not come up in time or fell silent
//!  └─ again: ───────┘
//!     no Hello in time
//! ```
//!
//! To the agent it is the shim it knows: same protocol, same files. What the guest says is taken for what a stranger
//! says: it can end its own machine, and fill what its task may fill, and no more.

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::cgroup::Cgroups;
use crate::protocol::{
    Answer, ContainerState, Event, Exited, Failure, FailureKind, PROTOCOL_VERSION, Resources, STATE_FILE,
    Status, TaskConfig, TaskState,
};
use crate::server::connections::{Asked, Client, Connections};
use crate::server::container::now_ns;
use begin::{Begin, Begun};
use boot::{Boot, VMM_STEP};
use config::MachineConfig;
use console::Console;
use qemu::Place;
use streams::Streams;
use tap::Tap;
use vmm::{Started, Vmm};
use wire::{Broken, Down};

mod begin;
pub mod boot;
mod calls;
mod clock;
pub mod config;
mod console;
mod container;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod guest;
mod jail;
pub mod netlink;
mod opener;
mod pin;
mod qemu;
mod qmp;
mod restore;
mod snapshot;
pub mod streams;
pub mod tap;
pub mod template;
mod terminal;
#[cfg(test)]
mod tests;
mod vmm;
pub mod wire;
#[cfg(any(test, feature = "fuzzing"))]
mod world;

use calls::{Exec, Pending, What};
use clock::Clock;
use container::Container;

const READ_BYTES: usize = 64 << 10;
/// Frames on their way to the guest; above, no more of the agent's calls are taken.
const LINK_OUTPUT_BYTES_MAX: usize = 2 << 20;
/// … with what one more call and the stdin of all execs add. What is above is the guest's own doing, who reads none of it.
const LINK_OUTPUT_BYTES_LIMIT: usize = 4 * LINK_OUTPUT_BYTES_MAX;
/// No output is acknowledged while more than this waits for the guest.
const ACKNOWLEDGE_BYTES_MAX: usize = 64 << 10;
/// Longest a guest that is up may take nothing of what waits for it.
const UNREAD_DEADLINE: Duration = Duration::from_secs(30);
/// Reads from the link before others get their turn; and of what a program that has ended left in it.
const READS_PER_TURN_MAX: usize = 4;
const LAST_READS_MAX: usize = 64;
/// Of the machine's program, below the task's, which other processes may be beside it in: v2 has processes in leaves only.
const MACHINE_CGROUP: &str = ".machine";
/// Calls that wait for the guest to come up.
const HELD_MAX: usize = 256;
/// A terminal's size is looked at this often: nobody tells who holds its other end.
const TERMINAL_INTERVAL: Duration = Duration::from_millis(200);
/// Docker's exit code for what was killed: nobody saw the containers end.
const LOST_EXIT_CODE: i32 = 137;

enum Phase {
    Booting,
    /// Why nothing can be made of this guest, which nobody has used: it is booted again.
    Unfit(String),
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
    connections: Connections,
    vmm: Box<dyn Vmm>,
    link: Option<UnixStream>,
    input: Vec<u8>,
    output: Vec<u8>,
    /// Since when the guest has taken nothing of the output.
    unread: Option<Instant>,
    streams: Streams,
    console: Console,
    clock: Clock,
    phase: Phase,
    boot: Boot,
    begin: Begin,
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
    begin: Begin,
}

#[derive(Clone, Copy)]
enum Source {
    /// The program's first word.
    Vmm,
    Signals,
    Link,
    Clock,
    Console(usize),
    Stream(u32),
    Client(Client),
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
        let cgroup = config.cgroup.join(MACHINE_CGROUP);
        let made = cgroups.create(&cgroup, &Resources::default());
        made.map_err(|error| format!("cannot make the cgroup {}: {error}", cgroup.display()))?;
        let place = Place { directory, cgroups: &cgroups, cgroup: &cgroup };
        let mut boot = Boot::begin();
        let begun = begin::begin(&machine, &config, &place, &mut boot)?;
        let begin: Begin = Box::new(begin::boot);
        let host = Host { directory: directory.to_owned(), config, cgroups, signals, listener, begin };
        Machine::around(host, machine, begun, boot).map_err(|error| error.to_string())
    }

    fn around(host: Host, machine: MachineConfig, begun: Begun, boot: Boot) -> io::Result<Machine> {
        let Begun { started: Started { vmm, link, console }, tap, heard } = begun;
        let Host { directory, config, cgroups, signals, listener, begin } = host;
        link.set_nonblocking(true)?;
        let console = Console::open(&directory, console)?;
        let clock = Clock::new(Duration::from_millis(machine.clock_interval_ms))?;
        let restored = heard.is_some();
        let mut machine = Machine {
            directory,
            machine,
            config,
            cgroups,
            signals,
            connections: Connections::new(listener),
            vmm,
            link: Some(link),
            input: heard.unwrap_or_default(),
            output: Vec::new(),
            unread: None,
            streams: Streams::default(),
            console,
            clock,
            phase: Phase::Booting,
            boot,
            begin,
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
        };
        if restored {
            machine.told();
            // What it said since then is here, and no descriptor tells of it.
            if let Err(broken) = machine.take_frames() {
                machine.lose_to(&broken);
            }
        }
        Ok(machine)
    }

    pub(crate) fn run(&mut self) -> io::Result<()> {
        self.persist();
        while !self.ending {
            for (source, ready) in self.wait()? {
                match source {
                    Source::Signals => {
                        if self.drain_signals() {
                            self.ending = true;
                        }
                        self.reap();
                    }
                    Source::Clock => {
                        if self.clock.has_jumped() {
                            self.tell_time();
                        }
                    }
                    Source::Console(index) => self.console.read(index),
                    Source::Stream(channel) => self.streams.ready(channel, ready, &mut self.output),
                    Source::Link => {
                        self.flush_link();
                        self.hear_guest(ready, READS_PER_TURN_MAX);
                    }
                    Source::Vmm => self.hear_vmm(),
                    Source::Client(Client::New) => self.connections.accept(),
                    Source::Client(Client::Known(index)) => self.serve(index, ready),
                }
                // A call may have changed what the other indices mean.
                if matches!(source, Source::Client(Client::Known(_))) {
                    break;
                }
            }
            self.look_at_clock();
            self.tell_exec_ends();
            self.flush_link();
            if self.acknowledge_guest() {
                self.flush_link();
            }
            self.hint();
        }
        self.vmm.kill();
        self.connections.finish();
        Ok(())
    }

    /// Blocks until something is ready. Connections come last, one at a time.
    fn wait(&self) -> io::Result<Vec<(Source, PollFlags)>> {
        let mut sources = vec![Source::Signals, Source::Clock];
        let mut polled = vec![
            PollFd::new(&self.signals, PollFlags::IN),
            PollFd::from_borrowed_fd(self.clock.source(), PollFlags::IN),
        ];
        if let Some(program) = self.vmm.first_word() {
            sources.push(Source::Vmm);
            polled.push(PollFd::from_borrowed_fd(program, PollFlags::IN));
        }
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
        for (client, fd, wanted) in self.connections.sources(takes_calls) {
            sources.push(Source::Client(client));
            polled.push(PollFd::from_borrowed_fd(fd, wanted));
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
        let known = match self.phase {
            Phase::Booting | Phase::SettingUp => {
                Some(self.boot_deadline().saturating_sub(self.boot.up_since.elapsed()))
            }
            Phase::Unfit(_) => Some(Duration::ZERO),
            Phase::Up => Some(self.clock.left()),
            Phase::Lost(_) => None,
        };
        let terminals = self.execs.iter().any(Exec::has_terminal).then_some(TERMINAL_INTERVAL);
        let answers = self.pending.values().filter_map(Pending::left);
        known
            .into_iter()
            .chain(terminals)
            .chain(answers)
            .chain(self.unread_left())
            .chain(self.ends_left())
            .chain(self.hello_left())
            .min()
    }

    fn boot_deadline(&self) -> Duration {
        Duration::from_millis(self.machine.boot_deadline_ms)
    }

    fn unread_left(&self) -> Option<Duration> {
        let since = self.unread.filter(|_| matches!(self.phase, Phase::Up))?;
        Some(UNREAD_DEADLINE.saturating_sub(since.elapsed()))
    }

    fn look_at_clock(&mut self) {
        self.look_at_boot();
        if matches!(self.phase, Phase::Booting | Phase::SettingUp)
            && self.boot.up_since.elapsed() >= self.boot_deadline()
        {
            let why = format!("it was not up within {} ms", self.machine.boot_deadline_ms);
            self.lose(&why);
        }
        if self.unread_left().is_some_and(|left| left.is_zero()) {
            let why = format!("the guest took nothing of its link for {} s", UNREAD_DEADLINE.as_secs());
            self.lose(&why);
        }
        self.look_for_answers();
        self.look_for_ends();
        if self.clock.left().is_zero() {
            if self.clock.is_silent_again() {
                let why = format!("the guest has not answered for {} s", self.clock.silence().as_secs());
                self.lose(&why);
            }
            self.tell_time();
        }
        self.resize_terminals();
    }

    /// A guest that is not up learns it by its set-up; to one that does not listen it would come too late to be true.
    fn tell_time(&mut self) {
        if matches!(self.phase, Phase::Up) && self.output.is_empty() {
            // A message of this size is never too long.
            let _ = self.say(&Down::Clock { now_ns: now_ns() });
            self.clock.told();
        }
    }

    fn serve(&mut self, index: usize, ready: PollFlags) {
        let served = self.connections.serve(index, ready).and_then(|()| self.take_calls(index));
        if let Err(gone) = served {
            self.abandon_execs(|exec| exec.connection == gone);
        }
    }

    fn take_calls(&mut self, index: usize) -> Result<(), u64> {
        while let Some(Asked { connection, request, stdio }) = self.connections.next_call(index)? {
            self.take_call(connection, request, stdio);
        }
        Ok(())
    }

    fn answer(&mut self, connection: u64, id: u64, result: Result<Answer, Failure>) {
        self.connections.answer(connection, id, result);
    }

    fn publish(&mut self, event: Event) {
        self.connections.publish(event);
    }

    fn hint(&mut self) {
        for container in &self.containers {
            self.connections.hint(&container.state.id, container.log.end());
        }
    }

    /// The program is there. One that is not any more is heard of by its end.
    fn hear_vmm(&mut self) {
        if self.vmm.hear_first_word().is_ok() {
            self.boot.done(VMM_STEP);
            self.attach_ahead();
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
                self.hear_guest(PollFlags::IN, LAST_READS_MAX);
                let why = self.why_ended(status);
                self.lose(&why);
            }
        }
    }

    fn why_ended(&mut self, status: i32) -> String {
        if self.cgroups.oom_kills(&self.config.cgroup.join(MACHINE_CGROUP)) > 0 {
            return "it took more memory than the guest's and what is meant for its program".into();
        }
        let code = crate::launcher::exit_code(status);
        self.console.last_words().unwrap_or_else(|| format!("it ended with exit code {code}"))
    }

    fn hear_guest(&mut self, ready: PollFlags, reads_max: usize) {
        // One that is ended next is not listened to any more.
        let ends = matches!(self.phase, Phase::Unfit(_));
        if ends || !ready.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
            return;
        }
        for _ in 0..reads_max {
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
                        self.lose_to(&broken);
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
        if self.output.len() > LINK_OUTPUT_BYTES_LIMIT {
            let why = format!("it has {} bytes said to it and reads none of them", self.output.len());
            return Err(Broken::Message(why));
        }
        Ok(())
    }

    fn flush_link(&mut self) {
        let before = self.output.len();
        self.write_link();
        // Who takes little by little, and so keeps the agent's calls out, takes nothing.
        let taken = self.output.len() < before && self.output.len() < LINK_OUTPUT_BYTES_MAX;
        if self.output.is_empty() {
            self.unread = None;
        } else if taken || self.unread.is_none() {
            self.unread = Some(Instant::now());
        }
    }

    fn write_link(&mut self) {
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
        // Before anybody learns of it, who then looks for the reason.
        if self.boot.lost(why) {
            self.write_boot();
        }
        let why = format!("the task's machine was lost: {why}");
        complain!("{why}");
        self.phase = Phase::Lost(why.clone());
        self.vmm.kill();
        self.link = None;
        self.output.clear();
        self.unread = None;
        self.streams = Streams::default();
        let running = self.containers.iter_mut().filter(|container| container.is_running());
        let ended: Vec<Exited> = running.map(|container| container.lose(&why)).collect();
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
                // Answered without the guest, or asked by nobody.
                What::Nobody => continue,
                What::State => Ok(Answer::State(self.state())),
                _ => Err(failure.clone()),
            };
            for (connection, request) in
                pending.joined.into_iter().chain([(pending.connection, pending.request)])
            {
                self.answer(connection, request, result.clone());
            }
        }
        self.take_held();
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
            complain!("cannot write {STATE_FILE}: {error}");
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
