//! What each call does: here, in the guest, or once the guest is up.

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::value::to_raw_value;

use super::boot::DISKS_STEP;
use super::container::Container;
use super::terminal::Terminal;
use super::wire::{Down, GUEST_LAYERS_DIR, Kind, encode_json};
use super::{ACKNOWLEDGE_BYTES_MAX, Machine, Phase};
use crate::protocol::{
    self, Answer, CONTAINERS_MAX, Call, CreateContainer, EXECS_MAX, ExecState, Failure, FailureKind,
    LogLimits, PROTOCOL_VERSION, Request, Rootfs, TRASH_DIR, WhenFull, WindowSize, valid_id,
};
use crate::server::container::now_ns;

/// SCSI targets of one bus.
const DISKS_MAX: u32 = 255;
/// Channels of one exec: stdin, stdout, stderr.
const CHANNELS: u32 = 3;
/// What the guest keeps of a container's output until the host has it.
pub(super) const GUEST_LOG: LogLimits = LogLimits { bytes_max: 1 << 20, when_full: WhenFull::Block };
/// Those who may wait for one answer: one per connection, and one that asks again on the next.
const JOINED_MAX: usize = 64;
const KILL_DEADLINE: Duration = Duration::from_secs(20);
/// Longest a guest may take to do what is done at once, to tell its figures, and its state, which the host has but for
/// how far volumes are filled. Plenty for an emulated one on a busy host.
const DONE_DEADLINE: Duration = Duration::from_secs(30);
const FIGURES_DEADLINE: Duration = Duration::from_secs(30);
const STATE_DEADLINE: Duration = Duration::from_secs(5);
/// Calls a guest may have left unanswered.
pub(super) const PENDING_MAX: usize = 4096;

/// A call the guest is to answer.
pub(super) struct Pending {
    pub(super) connection: u64,
    pub(super) request: u64,
    pub(super) what: What,
    /// Those who asked for the same meanwhile: connection and request.
    pub(super) joined: Vec<(u64, u64)>,
    pub(super) asked: Instant,
}

impl Pending {
    /// Until it is overdue; `None`: it may take as long as it takes.
    pub(super) fn left(&self) -> Option<Duration> {
        let deadline = match self.what {
            What::Plain => DONE_DEADLINE,
            What::Stats | What::Listeners => FIGURES_DEADLINE,
            What::State => STATE_DEADLINE,
            What::Create(_) | What::Start(_) | What::Delete(_) | What::Exec { .. } | What::Nobody => {
                return None;
            }
        };
        Some(deadline.saturating_sub(self.asked.elapsed()))
    }

    /// A start may be waited for by many; a second container of one name is an error, unless it is the first again.
    fn joins(&self) -> bool {
        matches!(self.what, What::Start(_))
    }

    fn is_of(&self, call: &Call) -> bool {
        match (&self.what, call) {
            (What::Create(container), Call::CreateContainer(create)) => container.state.id == create.id,
            (What::Start(id), Call::Start { container }) => id == container,
            _ => false,
        }
    }
}

pub(super) enum What {
    Create(Box<Container>),
    Start(String),
    Delete(String),
    /// With where a terminal's outer end goes, and its size.
    Exec {
        exec: String,
        console: Option<(OwnedFd, WindowSize)>,
    },
    Stats,
    Listeners,
    /// Of the guest's own state only what the host does not see: how far volumes are filled.
    State,
    /// Answered by `Done`.
    Plain,
    /// Nobody waits for it.
    Nobody,
}

pub(super) struct Exec {
    pub(super) id: String,
    pub(super) container: String,
    /// Where it was asked for; it lives no longer than that.
    pub(super) connection: u64,
    pub(super) channel: u32,
    pub(super) pid: Option<i32>,
    pub(super) terminal: Option<Terminal>,
    /// As the guest says; told to the agent when what it wrote before is delivered.
    pub(super) exit_code: Option<i32>,
    pub(super) told: bool,
}

impl Exec {
    pub(super) fn has_terminal(&self) -> bool {
        self.terminal.is_some()
    }

    pub(super) fn state(&self) -> ExecState {
        ExecState {
            id: self.id.clone(),
            container: self.container.clone(),
            pid: self.pid.filter(|_| self.exit_code.is_none()),
            exit_code: self.exit_code,
        }
    }

    pub(super) fn channels(&self) -> impl Iterator<Item = u32> + use<> {
        self.channel..self.channel + CHANNELS
    }
}

impl Machine {
    pub(super) fn take_call(&mut self, connection: u64, request: Request, stdio: Option<[OwnedFd; 3]>) {
        let Request { id, call } = request;
        let answered = match &call {
            Call::Hello { version: PROTOCOL_VERSION } => {
                Ok(Answer::Hello { version: PROTOCOL_VERSION, pid: std::process::id() as i32 })
            }
            Call::Hello { version } => Err(Failure::new(
                FailureKind::Unsupported,
                format!("protocol version {version}: this shim speaks {PROTOCOL_VERSION}"),
            )),
            // While a container is on its way only the guest knows how far it is.
            Call::State if self.starts() => return self.pass_on(connection, id, call, stdio),
            Call::State => Ok(Answer::State(self.state())),
            Call::Subscribe => {
                let state = self.state();
                self.connections.subscribe(connection);
                Ok(Answer::State(state))
            }
            Call::AckLogs { container, offset } => {
                self.acknowledge(container, *offset).map(|()| Answer::Done)
            }
            Call::Shutdown { kill } => self.shut_down(*kill).map(|()| Answer::Done),
            Call::AbandonExec { exec } => {
                self.abandon_execs(|known| known.id == *exec);
                Ok(Answer::Done)
            }
            Call::DeleteExec { exec } => self.delete_exec(exec).map(|()| Answer::Done),
            _ => match &self.phase {
                Phase::Up => return self.pass_on(connection, id, call, stdio),
                // The guest comes to it when it is set up; nothing waits for its word that it is.
                Phase::SettingUp if matches!(call, Call::CreateContainer(_)) => {
                    return self.pass_on(connection, id, call, stdio);
                }
                Phase::Booting | Phase::Unfit(_) | Phase::SettingUp => {
                    self.held.push_back((connection, Request { id, call }, stdio));
                    return self.attach_ahead();
                }
                Phase::Lost(why) => self.without_guest(&call, why.clone()),
            },
        };
        self.answer(connection, id, answered);
    }

    /// What can be done for a task whose machine is gone.
    fn without_guest(&mut self, call: &Call, why: String) -> Result<Answer, Failure> {
        match call {
            // Nothing runs any more.
            Call::Kill { .. } => Ok(Answer::Done),
            Call::Delete { container } => {
                self.find(container)?;
                self.deleted(container).map(|()| Answer::Done)
            }
            _ => Err(Failure::new(FailureKind::System, why)),
        }
    }

    /// To the guest, whose answer is the call's.
    fn pass_on(&mut self, connection: u64, request: u64, call: Call, stdio: Option<[OwnedFd; 3]>) {
        // Who asks again after a connection that broke waits for the first answer: nothing is made twice.
        let gone = |pending: &Pending| !self.connections.is_known(pending.connection);
        let again = |pending: &&mut Pending| pending.is_of(&call) && (gone(pending) || pending.joins());
        if let Some(pending) = self.pending.values_mut().find(again) {
            if pending.joined.len() < JOINED_MAX {
                pending.joined.push((connection, request));
                return;
            }
            let why = format!("{JOINED_MAX} wait for the same already");
            return self.answer(connection, request, Err(Failure::new(FailureKind::Limit, why)));
        }
        let id = self.next_call;
        self.next_call += 1;
        let sent = match call {
            Call::CreateContainer(create) => self.create(id, *create),
            Call::Exec(exec) => self.exec(id, connection, *exec, stdio),
            Call::Start { ref container } => {
                let what = What::Start(container.clone());
                self.may_start(container).and_then(|()| self.send(id, call)).map(|()| what)
            }
            Call::Delete { ref container } => {
                let what = What::Delete(container.clone());
                self.may_delete(container).and_then(|()| self.send(id, call)).map(|()| what)
            }
            Call::Stats => self.send(id, call).map(|()| What::Stats),
            Call::Listeners => self.send(id, call).map(|()| What::Listeners),
            Call::State => self.send(id, call).map(|()| What::State),
            _ => self.send(id, call).map(|()| What::Plain),
        };
        match sent {
            Ok(what) => {
                let (joined, asked) = (Vec::new(), Instant::now());
                self.pending.insert(id, Pending { connection, request, what, joined, asked });
            }
            Err(failure) => self.answer(connection, request, Err(failure)),
        }
    }

    /// What is overdue: a guest that does not even pass on a signal is no machine to wait for; the rest is answered without
    /// it.
    pub(super) fn look_for_answers(&mut self) {
        if self.pending.len() > PENDING_MAX {
            return self.lose(&format!("the guest left more than {PENDING_MAX} calls unanswered"));
        }
        let overdue = |pending: &Pending| pending.left().is_some_and(|left| left.is_zero());
        while let Some((&id, _)) = self.pending.iter().find(|(_, pending)| overdue(pending)) {
            let Some(pending) = self.pending.get_mut(&id) else { return };
            let (connection, request) = (pending.connection, pending.request);
            let result = match std::mem::replace(&mut pending.what, What::Nobody) {
                What::State => Ok(Answer::State(self.state())),
                What::Stats | What::Listeners => {
                    let why = format!("the guest did not answer within {} s", FIGURES_DEADLINE.as_secs());
                    Err(Failure::new(FailureKind::System, why))
                }
                what => {
                    pending.what = what;
                    let why = format!("the guest did not answer within {} s", DONE_DEADLINE.as_secs());
                    return self.lose(&why);
                }
            };
            self.answer(connection, request, result);
        }
    }

    fn starts(&self) -> bool {
        matches!(self.phase, Phase::Up)
            && self.pending.values().any(|pending| matches!(pending.what, What::Start(_)))
    }

    fn send(&mut self, id: u64, call: Call) -> Result<(), Failure> {
        encode_json(Kind::Call, &Request { id, call }, &mut self.output).map_err(too_long)
    }

    pub(super) fn say(&mut self, message: &Down) -> Result<(), Failure> {
        encode_json(Kind::Control, message, &mut self.output).map_err(too_long)
    }

    fn find(&mut self, id: &str) -> Result<&mut Container, Failure> {
        let found = self.containers.iter_mut().find(|container| container.state.id == id);
        found.ok_or_else(|| Failure::new(FailureKind::NotFound, format!("the task has no container {id:?}")))
    }

    fn create(&mut self, id: u64, mut create: CreateContainer) -> Result<What, Failure> {
        let name = create.id.clone();
        valid_id(&name)?;
        if self.find(&name).is_ok() {
            return Err(Failure::new(
                FailureKind::AlreadyExists,
                format!("container {name:?} exists already"),
            ));
        }
        if self.containers.len() >= CONTAINERS_MAX {
            let why = format!("a task has at most {CONTAINERS_MAX} containers");
            return Err(Failure::new(FailureKind::Limit, why));
        }
        let Rootfs::Layers(layers) = &create.rootfs else {
            let why = "a directory of the host cannot be the root of a container in a machine: use layers";
            return Err(Failure::new(FailureKind::Unsupported, why));
        };
        let disks = layers.iter().map(|layer| self.layer(layer)).collect::<Result<Vec<u32>, Failure>>()?;
        self.boot.done(DISKS_STEP);
        if create.network_namespace.is_some() {
            self.connect()?;
        }
        let place = |disk: &u32| Path::new(GUEST_LAYERS_DIR).join(disk.to_string());
        create.rootfs = Rootfs::Layers(disks.iter().map(place).collect());
        let limits = std::mem::replace(&mut create.logs, GUEST_LOG);
        let container = Container::new(&self.directory, &name, limits).map_err(|error| {
            Failure::new(FailureKind::System, format!("cannot create container {name:?}: {error}"))
        })?;
        let request = Request { id, call: Call::CreateContainer(Box::new(create)) };
        let request = to_raw_value(&request).map_err(|error| too_long(error.into()))?;
        self.say(&Down::CreateContainer { id, container: name, disks, request })?;
        Ok(What::Create(Box::new(container)))
    }

    /// Gives the guest the task's network interface, once.
    fn connect(&mut self) -> Result<(), Failure> {
        let Some(tap) = self.tap.take() else { return Ok(()) };
        let Some(namespace) = &self.machine.network_namespace else { return Ok(()) };
        match tap.connect(namespace) {
            Ok(interface) => self.say(&Down::Interface(interface)),
            Err(error) => {
                let why = format!("cannot give the guest the interface in {}: {error}", namespace.display());
                self.boot.acquit_snapshot();
                // There is no second tap, and no container is to run without.
                self.lose(&why);
                Err(Failure::new(FailureKind::System, why))
            }
        }
    }

    /// The disk that is this layer; a new one if the guest has not seen it yet.
    fn layer(&mut self, path: &Path) -> Result<u32, Failure> {
        if let Some(disk) = self.disks.get(path) {
            return Ok(*disk);
        }
        let disk = self.attach(path)?;
        self.disks.insert(path.to_owned(), disk);
        Ok(disk)
    }

    /// What waits for the guest has its disks while that boots: it looks for one when it is told of it. What fails here fails
    /// again when it is needed, and is told then.
    pub(super) fn attach_ahead(&mut self) {
        // Before its first word the program is asked nothing: it may not be there yet.
        if !matches!(self.phase, Phase::Booting) || self.vmm.first_word().is_some() {
            return;
        }
        let layers_of = |call: &Call| match call {
            Call::CreateContainer(create) => match &create.rootfs {
                Rootfs::Layers(layers) => layers.clone(),
                Rootfs::Directory(_) => Vec::new(),
            },
            _ => Vec::new(),
        };
        let layers: Vec<PathBuf> =
            self.held.iter().flat_map(|(_, request, _)| layers_of(&request.call)).collect();
        let _ = layers.iter().try_for_each(|layer| self.layer(layer).map(drop));
    }

    fn attach(&mut self, path: &Path) -> Result<u32, Failure> {
        let failed = |why: String| {
            Failure::new(FailureKind::System, format!("cannot give the machine {}: {why}", path.display()))
        };
        let disk = self.next_disk;
        if disk >= DISKS_MAX {
            return Err(Failure::new(FailureKind::Limit, format!("a machine has at most {DISKS_MAX} disks")));
        }
        let file = File::open(path);
        let file = file.map_err(|error| failed(error.to_string()))?;
        // Also where it fails: half of it may stand.
        self.next_disk += 1;
        if let Err(error) = self.vmm.attach(disk, file) {
            let why = error.to_string();
            // Whatever it says next may answer another question.
            match self.phase {
                Phase::Booting if error.is_fatal() => self.phase = Phase::Unfit(why.clone()),
                _ if error.is_fatal() => self.lose(&why),
                _ => {}
            }
            return Err(failed(why));
        }
        Ok(disk)
    }

    fn exec(
        &mut self,
        id: u64,
        connection: u64,
        exec: protocol::Exec,
        stdio: Option<[OwnedFd; 3]>,
    ) -> Result<What, Failure> {
        valid_id(&exec.id)?;
        let stdio = stdio.ok_or_else(|| {
            Failure::new(FailureKind::Invalid, "an exec comes with three descriptors: stdin, stdout, stderr")
        })?;
        if self.execs.iter().any(|known| known.id == exec.id) {
            let why = format!("exec {:?} exists already", exec.id);
            return Err(Failure::new(FailureKind::AlreadyExists, why));
        }
        if self.execs.len() >= EXECS_MAX {
            // An agent that died never collects: the oldest exit nobody asked for makes room.
            let Some(oldest) = self.execs.iter().position(|exec| exec.told) else {
                let why = format!("{EXECS_MAX} execs are running: the most there may be");
                return Err(Failure::new(FailureKind::Limit, why));
            };
            self.execs.remove(oldest);
        }
        self.find(&exec.container)?;
        let channel = self.next_channel;
        self.next_channel += CHANNELS;
        let [stdin, stdout, stderr] = stdio;
        let console = if let Some(size) = exec.terminal {
            Some((stdin, size))
        } else {
            let streams = &mut self.streams;
            let joined = streams.send(channel, stdin).and_then(|()| {
                streams.receive(channel + 1, stdout)?;
                streams.receive(channel + 2, stderr)
            });
            joined
                .map_err(|error| Failure::new(FailureKind::System, format!("stdio of an exec: {error}")))?;
            None
        };
        let name = exec.id.clone();
        self.execs.push(Exec {
            id: name.clone(),
            container: exec.container.clone(),
            connection,
            channel,
            pid: None,
            terminal: None,
            exit_code: None,
            told: false,
        });
        self.say(&Down::Exec { id, channel, exec: Box::new(exec) })?;
        Ok(What::Exec { exec: name, console })
    }

    fn delete_exec(&mut self, id: &str) -> Result<(), Failure> {
        let index = self
            .execs
            .iter()
            .position(|exec| exec.id == id)
            .ok_or_else(|| Failure::new(FailureKind::NotFound, format!("the task has no exec {id:?}")))?;
        if !self.execs[index].told {
            return Err(Failure::new(FailureKind::WrongState, format!("exec {id:?} is still running")));
        }
        self.execs.remove(index);
        self.tell_guest(Call::DeleteExec { exec: id.to_owned() });
        Ok(())
    }

    /// Kills these and forgets them; nobody waits for their end.
    pub(super) fn abandon_execs(&mut self, which: impl Fn(&Exec) -> bool) {
        let (gone, kept) = std::mem::take(&mut self.execs).into_iter().partition(|exec| which(exec));
        self.execs = kept;
        let gone: Vec<Exec> = gone;
        for exec in gone {
            for channel in exec.channels() {
                self.streams.forget(channel);
            }
            self.tell_guest(Call::AbandonExec { exec: exec.id });
        }
    }

    /// A call nobody waits for.
    fn tell_guest(&mut self, call: Call) {
        if !matches!(self.phase, Phase::Up) {
            return;
        }
        let id = self.next_call;
        self.next_call += 1;
        if self.send(id, call).is_ok() {
            let (what, joined, asked) = (What::Nobody, Vec::new(), Instant::now());
            self.pending.insert(id, Pending { connection: 0, request: 0, what, joined, asked });
        }
    }

    fn acknowledge(&mut self, id: &str, offset: u64) -> Result<(), Failure> {
        self.find(id)?.log.acknowledge(offset);
        Ok(())
    }

    /// Lets the guest drop what is on disk here, and so send more: one message for each container in a turn, and none to
    /// who reads none. Whether there was anything to say.
    pub(super) fn acknowledge_guest(&mut self) -> bool {
        if !matches!(self.phase, Phase::Up) || self.output.len() > ACKNOWLEDGE_BYTES_MAX {
            return false;
        }
        let next = |container: &mut Container| {
            let offset = container.next_acknowledgement()?;
            Some(Down::Acknowledge { container: container.state.id.clone(), offset })
        };
        let messages: Vec<Down> = self.containers.iter_mut().filter_map(next).collect();
        for message in &messages {
            // A message of this size is never too long.
            let _ = self.say(message);
        }
        !messages.is_empty()
    }

    fn may_start(&mut self, id: &str) -> Result<(), Failure> {
        let container = self.find(id)?;
        if container.ended.is_some() {
            let why = format!("container {id:?} is running: the last of its output is on its way");
            return Err(Failure::new(FailureKind::WrongState, why));
        }
        container.start_asked = true;
        Ok(())
    }

    fn may_delete(&mut self, id: &str) -> Result<(), Failure> {
        if self.find(id)?.is_running() {
            let why = format!("container {id:?} is running: stop it first");
            return Err(Failure::new(FailureKind::WrongState, why));
        }
        Ok(())
    }

    /// The guest has forgotten it: so does the host. Its output is put aside, for the agent to remove.
    pub(super) fn deleted(&mut self, id: &str) -> Result<(), Failure> {
        let directory: PathBuf = self.find(id)?.directory.clone();
        put_aside(&directory, &self.directory.join(TRASH_DIR), id).map_err(|error| {
            let why = format!("cannot put aside the files of container {id:?}: {error}");
            Failure::new(FailureKind::System, why)
        })?;
        self.containers.retain(|container| container.state.id != id);
        self.connections.forget(id);
        self.persist();
        Ok(())
    }

    fn shut_down(&mut self, kill: bool) -> Result<(), Failure> {
        if let Some(running) = self.containers.iter().find(|container| container.is_running())
            && !kill
        {
            let id = &running.state.id;
            let why = format!("container {id:?} is running: stop it first, or shut down with kill");
            return Err(Failure::new(FailureKind::WrongState, why));
        }
        self.boot.acquit_snapshot();
        self.vmm.kill();
        let failed = |what: &str, error: io::Error| {
            Failure::new(FailureKind::System, format!("cannot {what} of the task: {error}"))
        };
        self.cgroups
            .kill_tree(&self.config.cgroup, KILL_DEADLINE)
            .map_err(|error| failed("end the machine", error))?;
        self.reap();
        self.cgroups
            .remove(&self.config.cgroup, KILL_DEADLINE)
            .map_err(|error| failed("remove the cgroup", error))?;
        self.ending = true;
        Ok(())
    }
}

fn too_long(error: super::wire::Broken) -> Failure {
    Failure::new(FailureKind::Limit, format!("the call is too long for the guest: {error}"))
}

fn put_aside(directory: &Path, trash: &Path, id: &str) -> io::Result<()> {
    fs::create_dir_all(trash)?;
    match fs::rename(directory, trash.join(format!("{id}-{}", now_ns()))) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
