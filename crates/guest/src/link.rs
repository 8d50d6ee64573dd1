//! PID 1's one loop: the link to the host, the guest's shim, streams between the two, disks that come, processes that end.

use std::convert::Infallible;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use ferrogate_shim::descriptor;
use ferrogate_shim::machine::streams::Streams;
use ferrogate_shim::machine::wire::{
    self, Broken, Down, FRAME_BYTES_MAX, Frame, Kind, LINK_VERSION, Up, encode_json,
};
use ferrogate_shim::protocol::{
    Answer, Call, Event, Exec, Failure, FailureKind, PROTOCOL_VERSION, Reply, Request, WindowSize,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::termios::{Winsize, tcsetwinsize};
use serde_json::value::RawValue;

use crate::boot::Steps;
use crate::disks::Disks;
use crate::output::Outputs;
use crate::setup::{self, Own};
use crate::{interface, timer};

const READ_BYTES: usize = 64 << 10;
/// Ids of PID 1's own calls; the host's are below.
const OWN_IDS: u64 = 1 << 63;
/// While a disk is on its way: how often it is looked for.
const DISK_INTERVAL: Duration = Duration::from_millis(1);

/// What only a guest that is a task's has.
struct Task {
    outputs: Outputs,
    /// Containers whose disks are not all there.
    arriving: Vec<Arriving>,
    execs: Vec<Running>,
    /// Started execs the shim has not answered for: their terminals' own ends come with the answer.
    consoles: Vec<Console>,
    own_id: u64,
}

impl Task {
    fn new() -> Task {
        Task {
            outputs: Outputs::default(),
            arriving: Vec::new(),
            execs: Vec::new(),
            consoles: Vec::new(),
            own_id: OWN_IDS,
        }
    }
}

struct Arriving {
    id: u64,
    container: String,
    disks: Vec<u32>,
    request: Box<RawValue>,
}

struct Running {
    /// Of the call that asked for it.
    id: u64,
    exec: String,
    channel: u32,
    /// Its terminal's own end, to change its size.
    terminal: Option<OwnedFd>,
    /// It has ended; told once all it wrote is on its way.
    exit: Option<Event>,
}

struct Console {
    id: u64,
    socket: UnixStream,
}

struct Link {
    port: File,
    input: Vec<u8>,
    output: Vec<u8>,
    streams: Streams,
    disks: Disks,
    signals: OwnedFd,
    steps: Steps,
    own: Own,
    task: Option<Task>,
    /// It could not be set up: its host ends it, if it does not end with its shim; what was said to it before that is for nobody.
    failed: bool,
}

pub(crate) fn serve(port: File, steps: Steps, own: Own) -> Result<Infallible, String> {
    let signals = child_signals().map_err(|error| format!("cannot take signals: {error}"))?;
    let mut link = Link {
        port,
        input: Vec::new(),
        output: Vec::new(),
        streams: Streams::default(),
        disks: Disks::default(),
        signals,
        steps,
        own,
        task: None,
        failed: false,
    };
    match timer::check() {
        Ok(()) => link.hello()?,
        // The host ends it.
        Err(why) => {
            eprintln!("ferrogate-guest: {why}");
            link.up(&Up::Unfit { why })?;
        }
    }
    loop {
        link.turn()?;
    }
}

fn child_signals() -> io::Result<OwnedFd> {
    // SAFETY: the set is valid before it is used; the returned descriptor is ours alone.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGCHLD);
        if libc::sigprocmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut()) != 0 {
            return Err(io::Error::last_os_error());
        }
        match libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) {
            fd if fd >= 0 => Ok(OwnedFd::from_raw_fd(fd)),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

impl Link {
    fn up(&mut self, message: &Up) -> Result<(), String> {
        encode_json(Kind::Control, message, &mut self.output).map_err(words)
    }

    fn hello(&mut self) -> Result<(), String> {
        self.steps.done("hello");
        let steps = self.steps.take();
        self.up(&Up::Hello { version: LINK_VERSION, steps })
    }

    fn reply(&mut self, reply: &Reply) -> Result<(), String> {
        encode_json(Kind::Call, reply, &mut self.output).map_err(words)
    }

    /// Waits until something is ready, and moves it.
    fn turn(&mut self) -> Result<(), String> {
        self.flush()?;
        let mut port_wanted = PollFlags::IN;
        if !self.output.is_empty() {
            port_wanted |= PollFlags::OUT;
        }
        let mut polled =
            vec![PollFd::new(&self.port, port_wanted), PollFd::new(&self.signals, PollFlags::IN)];
        polled.push(PollFd::from_borrowed_fd(self.own.shim.as_fd(), self.own.shim.wanted()));
        let fixed = polled.len();
        let mut channels = Vec::new();
        for (channel, fd, flags) in self.streams.sources() {
            channels.push(channel);
            polled.push(PollFd::from_borrowed_fd(fd, flags));
        }
        let waits = self.task.as_ref().is_some_and(|task| !task.arriving.is_empty());
        let soon = Timespec { tv_sec: 0, tv_nsec: DISK_INTERVAL.as_nanos() as i64 };
        match poll(&mut polled, waits.then_some(&soon)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(format!("cannot wait: {error}")),
        }
        let seen: Vec<PollFlags> = polled.iter().map(PollFd::revents).collect();
        drop(polled);
        for (channel, seen) in channels.into_iter().zip(&seen[fixed..]) {
            if !seen.is_empty() {
                self.streams.ready(channel, *seen, &mut self.output);
            }
        }
        if !seen[1].is_empty() {
            self.reap()?;
        }
        if !seen[2].is_empty() {
            self.hear_shim(seen[2])?;
        }
        if seen[0].intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
            self.hear_host()?;
        }
        self.disks_arrive()?;
        self.tell_exec_ends()
    }

    fn flush(&mut self) -> Result<(), String> {
        while !self.output.is_empty() {
            match self.port.write(&self.output) {
                Ok(count) => {
                    self.output.drain(..count);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(format!("cannot write to the host: {error}")),
            }
        }
        Ok(())
    }

    fn hear_host(&mut self) -> Result<(), String> {
        let start = self.input.len();
        self.input.resize(start + READ_BYTES, 0);
        let read = self.port.read(&mut self.input[start..]);
        self.input.truncate(start + *read.as_ref().unwrap_or(&0));
        match read {
            Ok(0) => return Err("the host closed the link".into()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(format!("cannot read from the host: {error}")),
        }
        let input = std::mem::take(&mut self.input);
        let mut used = 0;
        while let Some((frame, length)) = wire::decode(&input[used..]).map_err(words)? {
            self.take(frame)?;
            used += length;
        }
        self.input = input;
        self.input.drain(..used);
        debug_assert!(self.input.len() <= FRAME_BYTES_MAX + 4);
        Ok(())
    }

    fn take(&mut self, frame: Frame<'_>) -> Result<(), String> {
        if self.failed {
            return Ok(());
        }
        match frame.kind {
            Kind::Control => {
                let down = serde_json::from_slice(frame.payload).map_err(|error| error.to_string())?;
                self.obey(down)
            }
            Kind::Call => {
                let request: Request =
                    serde_json::from_slice(frame.payload).map_err(|error| error.to_string())?;
                if let Call::AbandonExec { exec } = &request.call {
                    self.forget_execs(|running| running.exec == *exec)?;
                }
                self.task()?;
                self.own.shim.call(&request, Vec::new())
            }
            Kind::Output => Err("the host has no output".into()),
            _ => self.streams.frame(frame, &mut self.output).map_err(words),
        }
    }

    /// A call of PID 1's own, whose answer is nobody else's.
    fn own_call(&mut self, call: Call) -> Result<(), String> {
        let task = self.task()?;
        task.own_id += 1;
        let id = task.own_id;
        self.own.shim.call(&Request { id, call }, Vec::new())
    }

    fn task(&mut self) -> Result<&mut Task, String> {
        self.task.as_mut().ok_or_else(|| "a call before the set-up".to_owned())
    }

    fn obey(&mut self, down: Down) -> Result<(), String> {
        match down {
            Down::Hello if self.task.is_some() => Err("a hello to a guest that is a task's".into()),
            Down::Hello => {
                self.hello()?;
                // Its set-up may be here already, and takes a while.
                self.flush()
            }
            Down::Setup(_) if self.task.is_some() => Err("a second set-up".into()),
            Down::Setup(task) => self.set_up(&task),
            Down::CreateContainer { id, container, disks, request } => {
                self.task()?.arriving.push(Arriving { id, container, disks, request });
                Ok(())
            }
            Down::Exec { id, channel, exec } => self.exec(id, channel, *exec),
            Down::Resize { channel, size } => {
                let terminal = self.task()?.execs.iter().find(|exec| exec.channel == channel);
                if let Some(terminal) = terminal.and_then(|exec| exec.terminal.as_ref()) {
                    // It may have ended this moment.
                    let _ = tcsetwinsize(terminal, winsize(size));
                }
                Ok(())
            }
            Down::Acknowledge { container, offset } => {
                let task = self.task()?;
                task.outputs.acknowledged(&container, offset);
                self.own_call(Call::AckLogs { container, offset })?;
                self.send_output()
            }
            Down::Clock { now_ns } => {
                setup::correct_clock(now_ns)?;
                self.up(&Up::Clock)
            }
            Down::Interface(wanted) => interface::configure(&wanted)
                .map_err(|error| format!("cannot set up the network interface: {error}")),
        }
    }

    fn set_up(&mut self, setup: &wire::Setup) -> Result<(), String> {
        match setup::make(setup, &mut self.own, &mut self.steps) {
            Ok(()) => {
                self.task = Some(Task::new());
                self.own_call(Call::Hello { version: PROTOCOL_VERSION })?;
                self.own_call(Call::Subscribe)?;
                self.steps.done("ready");
                let steps = self.steps.take();
                self.up(&Up::Ready { steps })?;
                // What it was told meanwhile may take a while.
                self.flush()
            }
            Err(why) => {
                eprintln!("ferrogate-guest: {why}");
                self.failed = true;
                self.up(&Up::Failed { why })
            }
        }
    }

    fn exec(&mut self, id: u64, channel: u32, exec: Exec) -> Result<(), String> {
        let running = Running { id, exec: exec.id.clone(), channel, terminal: None, exit: None };
        self.task()?.execs.push(running);
        match self.stdio(id, channel, exec.terminal.is_some()) {
            Ok(descriptors) => {
                let call = Call::Exec(Box::new(exec));
                self.own.shim.call(&Request { id, call }, descriptors)
            }
            // Too many files are open: that is no reason to end.
            Err(error) => {
                self.forget_execs(|running| running.id == id)?;
                let failure = Failure::new(FailureKind::System, format!("cannot make stdio: {error}"));
                self.reply(&Reply::Response { id, result: Err(failure) })
            }
        }
    }

    /// What an exec begins with; the other ends are this one's.
    fn stdio(&mut self, id: u64, channel: u32, terminal: bool) -> io::Result<Vec<OwnedFd>> {
        if terminal {
            let (ours, theirs) = UnixStream::pair()?;
            let null = || File::options().read(true).write(true).open("/dev/null").map(OwnedFd::from);
            let descriptors = vec![theirs.into(), null()?, null()?];
            if let Some(task) = &mut self.task {
                task.consoles.push(Console { id, socket: ours });
            }
            return Ok(descriptors);
        }
        let pipe = || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(io::Error::from);
        let ((stdin, typed), (shown, stdout), (complained, stderr)) = (pipe()?, pipe()?, pipe()?);
        self.streams.receive(channel, typed)?;
        self.streams.send(channel + 1, shown)?;
        self.streams.send(channel + 2, complained)?;
        Ok(vec![stdin, stdout, stderr])
    }

    /// Lets go of what execs have here, that nobody waits for any more or that never were.
    fn forget_execs(&mut self, which: impl Fn(&Running) -> bool) -> Result<(), String> {
        for gone in self.task()?.execs.extract_if(.., |running| which(running)).collect::<Vec<_>>() {
            (gone.channel..=gone.channel + 2).for_each(|channel| self.streams.forget(channel));
        }
        Ok(())
    }

    fn hear_shim(&mut self, seen: PollFlags) -> Result<(), String> {
        if seen.contains(PollFlags::OUT) {
            self.own.shim.flush().map_err(|error| error.to_string())?;
        }
        for reply in self.own.shim.receive()? {
            self.pass_on(reply)?;
        }
        self.send_output()
    }

    fn pass_on(&mut self, reply: Reply) -> Result<(), String> {
        let task = self.task()?;
        match reply {
            Reply::Response { id, result } if id >= OWN_IDS => {
                // A container that is gone has no log to acknowledge.
                if let Ok(Answer::Hello { version, .. }) = result
                    && version != PROTOCOL_VERSION
                {
                    return Err(format!("the guest's shim speaks protocol {version}"));
                }
                Ok(())
            }
            Reply::Response { id, result } => {
                let result = self.exec_answered(id, result)?;
                self.reply(&Reply::Response { id, result })
            }
            Reply::Event(Event::Output { container, end }) => {
                task.outputs.grown(&container, end);
                Ok(())
            }
            Reply::Event(Event::Exited(exited)) => {
                task.outputs.grown(&exited.container, exited.log_end);
                // At once: a host whose log is full takes the output before it only then.
                self.reply(&Reply::Event(Event::Exited(exited)))
            }
            Reply::Event(event @ Event::ExecExited { .. }) => {
                let Event::ExecExited { exec, .. } = &event else { return Ok(()) };
                match task.execs.iter_mut().find(|running| running.exec == *exec) {
                    Some(running) => running.exit = Some(event),
                    None => self.reply(&Reply::Event(event))?,
                }
                Ok(())
            }
            Reply::Event(event @ Event::Started { .. }) => self.reply(&Reply::Event(event)),
        }
    }

    /// Of an exec: its terminal is there, or its stdio is nobody's.
    fn exec_answered(
        &mut self,
        id: u64,
        result: Result<Answer, Failure>,
    ) -> Result<Result<Answer, Failure>, String> {
        let Some(task) = &mut self.task else { return Ok(result) };
        let console = task.consoles.iter().position(|console| console.id == id);
        let console = console.map(|index| task.consoles.swap_remove(index));
        if result.is_err() {
            self.forget_execs(|running| running.id == id)?;
            return Ok(result);
        }
        let running = task.execs.iter_mut().find(|running| running.id == id);
        let (Some(running), Some(console)) = (running, console) else { return Ok(result) };
        let (channel, exec) = (running.channel, running.exec.clone());
        let opened = || -> io::Result<[OwnedFd; 3]> {
            let terminal = descriptor::receive(&console.socket)?;
            Ok([terminal.try_clone()?, terminal.try_clone()?, terminal])
        };
        let taken = opened().and_then(|[typed, shown, own]| {
            running.terminal = Some(own);
            self.streams.receive(channel, typed)?;
            self.streams.send(channel + 1, shown)
        });
        match taken {
            Ok(()) => Ok(result),
            Err(error) => {
                self.forget_execs(|running| running.id == id)?;
                self.own_call(Call::AbandonExec { exec })?;
                let why = format!("cannot take a terminal: {error}");
                Ok(Err(Failure::new(FailureKind::System, why)))
            }
        }
    }

    fn send_output(&mut self) -> Result<(), String> {
        if let Some(task) = &mut self.task {
            task.outputs.send(&mut self.output)?;
        }
        Ok(())
    }

    /// Execs that ended, once everything they wrote is on its way.
    fn tell_exec_ends(&mut self) -> Result<(), String> {
        let Some(task) = &mut self.task else { return Ok(()) };
        let mut told = Vec::new();
        let (streams, output) = (&mut self.streams, &mut self.output);
        task.execs.retain_mut(|running| {
            let channels = [running.channel + 1, running.channel + 2];
            if running.exit.is_none() || !channels.into_iter().all(|channel| streams.drain(channel, output)) {
                return true;
            }
            streams.forget(running.channel);
            told.extend(running.exit.take());
            false
        });
        for event in told {
            self.reply(&Reply::Event(event))?;
        }
        Ok(())
    }

    /// Containers whose disks are all there are made.
    fn disks_arrive(&mut self) -> Result<(), String> {
        let Some(task) = &mut self.task else { return Ok(()) };
        let mut refused = Vec::new();
        let mut waiting = Vec::new();
        for arriving in std::mem::take(&mut task.arriving) {
            match self.disks.mount_layers(&arriving.disks) {
                Ok(false) => waiting.push(arriving),
                Ok(true) => {
                    task.outputs.forget(&arriving.container);
                    self.own.shim.call(&arriving.request, Vec::new())?;
                }
                Err(why) => refused.push((arriving.id, why)),
            }
        }
        task.arriving = waiting;
        for (id, why) in refused {
            let failure = Failure::new(FailureKind::System, why);
            self.reply(&Reply::Response { id, result: Err(failure) })?;
        }
        Ok(())
    }

    /// Collects orphans; the end of the shim is the end of the machine.
    fn reap(&mut self) -> Result<(), String> {
        let mut buffer = [0u8; size_of::<libc::signalfd_siginfo>()];
        while rustix::io::read(self.signals.as_fd(), &mut buffer).is_ok_and(|count| count == buffer.len()) {}
        loop {
            let mut status = 0;
            // SAFETY: the status outlives the call.
            let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) };
            if pid <= 0 {
                return Ok(());
            }
            if self.own.shim.pid == pid {
                return Err(format!("the guest's shim ended (status {status:#x})"));
            }
        }
    }
}

fn words(error: Broken) -> String {
    format!("the link: {error}")
}

fn winsize(size: WindowSize) -> Winsize {
    Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 }
}

#[cfg(test)]
mod tests {
    use ferrogate_shim::protocol::Exited;

    use super::*;
    use crate::shim::Shim;

    /// Of a guest whose host and whose shim are the other ends.
    fn link() -> (Link, [UnixStream; 2]) {
        let [(port, host), (shim, far)] = [UnixStream::pair().unwrap(), UnixStream::pair().unwrap()];
        let link = Link {
            port: OwnedFd::from(port).into(),
            input: Vec::new(),
            output: Vec::new(),
            streams: Streams::default(),
            disks: Disks::default(),
            signals: File::open("/dev/null").unwrap().into(),
            steps: Steps::default(),
            own: Own::of(Shim::of(shim)),
            task: None,
            failed: false,
        };
        (link, [host, far])
    }

    fn told(link: &mut Link, kind: Kind, payload: &str) -> Result<(), String> {
        link.take(Frame { kind, channel: 0, payload: payload.as_bytes() })
    }

    #[test]
    fn a_guest_that_is_nobodys_takes_no_calls_and_one_that_failed_hears_nothing() {
        let container = r#"{"CreateContainer":{"id":1,"container":"app","disks":[],"request":{}}}"#;
        let (mut link, _others) = link();
        let before = told(&mut link, Kind::Control, container).unwrap_err();
        assert_eq!(before, "a call before the set-up");
        // The host passes on what it has while the guest is set up.
        link.failed = true;
        for (kind, payload) in [(Kind::Control, container), (Kind::Call, "{}"), (Kind::Output, "")] {
            told(&mut link, kind, payload).unwrap();
        }
        assert!(link.output.is_empty(), "it has said that it failed");
    }

    /// Its host takes no output while its log is full, and so would never hear of the end behind it.
    #[test]
    fn an_end_is_told_before_the_output_that_is_left() {
        let (mut link, _others) = link();
        link.task = Some(Task::new());
        let end = Exited {
            container: "app".into(),
            exit_code: 3,
            oom_killed: false,
            at_ns: 0,
            log_end: 2 * wire::OUTPUT_WINDOW_BYTES,
        };
        let end = Reply::Event(Event::Exited(end));
        link.pass_on(end.clone()).unwrap();
        let (frame, _) = wire::decode(&link.output).unwrap().expect("it is told");
        assert_eq!(serde_json::from_slice::<Reply>(frame.payload).unwrap(), end);
    }
}
