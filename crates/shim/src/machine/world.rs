//! A shim with a machine that is none, for a guest that says whatever it likes: to tests and to fuzzing.
#![allow(dead_code, reason = "each of them uses its part")]

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::rc::Rc;
use std::time::Duration;

use super::begin::Begun;
use super::boot::{Boot, RESTORED_STEP};
use super::calls::PENDING_MAX;
use super::config::{Accelerator, MachineConfig, VmmConfig};
use super::guest::OUTPUT_LEFT_MAX;
use super::vmm::{Started, Vmm, VmmError};
use super::wire::{
    FRAME_BYTES_MAX, Kind, LINK_VERSION, OUTPUT_WINDOW_BYTES, Output, Up, encode_json, encode_output,
};
use super::{Host, LINK_OUTPUT_BYTES_LIMIT, Machine, Phase};
use crate::cgroup::Cgroups;
use crate::log::Stream;
use crate::protocol::{
    Answer, CONTAINERS_MAX, Call, CreateContainer, EXECS_MAX, Event, Exec, Exited, Failure, LogLimits,
    PROTOCOL_VERSION, Reply, Request, Resources, Rootfs, Seccomp, Status, TaskConfig, WhenFull,
};
use crate::server::connection::Connection;

pub(super) struct NoMachine {
    pub(super) killed: Rc<Cell<bool>>,
    /// Its program answers what nobody asked.
    pub(super) broken: bool,
}

impl Vmm for NoMachine {
    fn pid(&self) -> i32 {
        i32::MAX
    }

    fn attach(&mut self, _: u32, _: File) -> Result<(), VmmError> {
        match self.broken {
            true => Err(VmmError::Broken { command: "blockdev-add", why: "it makes no sense".into() }),
            false => Ok(()),
        }
    }

    fn first_word(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn hear_first_word(&mut self) -> Result<(), VmmError> {
        Ok(())
    }

    fn save(&mut self, _: File) -> Result<(), VmmError> {
        Ok(())
    }

    fn kill(&mut self) {
        self.killed.set(true);
    }
}

pub(super) struct World {
    pub(super) machine: Machine,
    pub(super) killed: Rc<Cell<bool>>,
    pub(super) layer: std::path::PathBuf,
    /// Kept open: the agent's end of its connection, the guest's of the link, the far ends of execs.
    pub(super) ends: (UnixStream, UnixStream),
    pub(super) pipes: Vec<OwnedFd>,
    _home: tempfile::TempDir,
}

impl World {
    pub(super) fn new() -> World {
        World::begun(None, Boot::begin())
    }

    /// With a guest that began from a snapshot, knows its set-up, and has said this since its hello.
    pub(super) fn restored(said: &[u8]) -> World {
        let mut boot = Boot::begin();
        boot.done(RESTORED_STEP);
        boot.hello(&[]);
        World::begun(Some(said.to_vec()), boot)
    }

    pub(super) fn begun(heard: Option<Vec<u8>>, boot: Boot) -> World {
        let home = tempfile::tempdir().unwrap();
        let pair = || UnixStream::pair().unwrap();
        let ((agent, ours), (link, guest)) = (pair(), pair());
        let ((console, _), (words, _)) = (pair(), pair());
        let (signals, _) = rustix::pipe::pipe().unwrap();
        let killed = Rc::new(Cell::new(false));
        let config = TaskConfig {
            version: PROTOCOL_VERSION,
            cgroup: "ferrogate/world/task".into(),
            shim_cgroup: "ferrogate/world/.shims".into(),
            resources: Resources::default(),
            shared_pid_namespace: false,
            ephemeral_storage: false,
            machine: None,
        };
        let vmm = VmmConfig {
            program: "none".into(),
            files: Vec::new(),
            kernel: "none".into(),
            initramfs: "none".into(),
            acpi: false,
            accelerator: Accelerator::Tcg,
            tsc_khz: None,
        };
        let wanted = MachineConfig {
            vmm,
            vcpus: 1,
            memory_mib: 128,
            boot_deadline_ms: 60_000,
            hello_deadline_ms: Some(20_000),
            clock_interval_ms: 60_000,
            hostname: "guest".into(),
            limits: Resources::default(),
            files: BTreeMap::new(),
            resources: Resources::default(),
            network_namespace: None,
            storage: None,
            snapshot: None,
        };
        let host = Host {
            directory: home.path().to_owned(),
            config,
            cgroups: Cgroups::none(),
            signals,
            listener: UnixListener::bind(home.path().join("socket")).unwrap(),
            begin: Box::new(|_, _, _| Err("there is no other machine".into())),
        };
        let started = Started {
            vmm: Box::new(NoMachine { killed: Rc::clone(&killed), broken: false }),
            link,
            console: [console.into(), words.into()],
        };
        let begun = Begun { started, tap: None, heard };
        let layer = home.path().join("layer");
        std::fs::write(&layer, "layer").unwrap();
        let mut machine = Machine::around(host, wanted, begun, boot).unwrap();
        machine.connections.add(Connection::new(ours, 1).unwrap());
        World { machine, killed, layer, ends: (agent, guest), pipes: Vec::new(), _home: home }
    }

    pub(super) fn up() -> World {
        let mut world = World::new();
        world.hears(&control_hello());
        world.hears(&control_ready());
        assert!(matches!(world.machine.phase, Phase::Up));
        world
    }

    /// As what the link brings is taken.
    pub(super) fn hears(&mut self, bytes: &[u8]) {
        if self.is_lost() {
            return;
        }
        self.takes(bytes);
        self.machine.tell_exec_ends();
        self.machine.acknowledge_guest();
        self.is_sound();
    }

    /// The same, but for what comes after it.
    pub(super) fn takes(&mut self, bytes: &[u8]) {
        if self.is_lost() {
            return;
        }
        self.machine.input.extend_from_slice(bytes);
        if let Err(broken) = self.machine.take_frames() {
            self.machine.lose_to(&broken);
        }
    }

    /// What the shim's next turn makes of what the guest leaves undone.
    pub(super) fn turns(&mut self) {
        self.machine.look_at_clock();
        self.machine.flush_link();
        self.is_sound();
    }

    /// All that waits for an answer has waited for so long.
    pub(super) fn ages(&mut self, by: Duration) {
        for pending in self.machine.pending.values_mut() {
            pending.asked = pending.asked.checked_sub(by).unwrap();
        }
        for ended in self.machine.containers.iter_mut().filter_map(|container| container.ended.as_mut()) {
            ended.heard = ended.heard.checked_sub(by).unwrap();
        }
        self.machine.unread = self.machine.unread.map(|since| since.checked_sub(by).unwrap());
    }

    pub(super) fn is_lost(&self) -> bool {
        matches!(self.machine.phase, Phase::Lost(_))
    }

    /// What the agent hears: an answer, to the call it makes in every test.
    pub(super) fn answered(&mut self) -> Result<Answer, Failure> {
        self.ends.0.set_nonblocking(true).unwrap();
        let mut heard = Vec::new();
        let _ = self.ends.0.read_to_end(&mut heard);
        let mut rest = heard.as_slice();
        while let Some((reply, used)) = crate::protocol::decode::<Reply>(rest).unwrap() {
            rest = &rest[used..];
            if let Reply::Response { id: 7, result } = reply {
                return result;
            }
        }
        panic!("no answer")
    }

    pub(super) fn asks(&mut self, call: Call) {
        self.asks_as(7, call);
    }

    pub(super) fn asks_as(&mut self, id: u64, call: Call) {
        let stdio =
            if let Call::Exec(exec) = &call { Some(self.stdio(exec.terminal.is_some())) } else { None };
        self.machine.take_call(1, Request { id, call }, stdio);
        self.is_sound();
    }

    /// By way of its stdin an exec with a terminal has that.
    fn stdio(&mut self, terminal: bool) -> [OwnedFd; 3] {
        let pipe = || rustix::pipe::pipe().unwrap();
        let ((stdin, a), (b, stdout), (c, stderr)) = (pipe(), pipe(), pipe());
        let (stdin, a) = if terminal {
            let (ours, theirs) = UnixStream::pair().unwrap();
            (ours.into(), theirs.into())
        } else {
            (stdin, a)
        };
        self.pipes.extend([a, b, c]);
        [stdin, stdout, stderr]
    }

    pub(super) fn create(&mut self, id: &str) {
        let call = self.create_call(id);
        self.asks(call);
    }

    pub(super) fn create_call(&self, id: &str) -> Call {
        Call::CreateContainer(Box::new(CreateContainer {
            id: id.into(),
            spec: oci_spec::runtime::Spec::default(),
            rootfs: Rootfs::Layers(vec![self.layer.clone()]),
            user: None,
            seccomp: Seccomp::Default,
            init: false,
            interactive: false,
            volumes: Vec::new(),
            network_namespace: None,
            logs: LogLimits { bytes_max: 64 << 10, when_full: WhenFull::Block },
        }))
    }

    /// A container that runs.
    pub(super) fn run(&mut self, id: &str) {
        let call = self.machine.next_call;
        self.create(id);
        self.hears(&reply(&Reply::Response { id: call, result: Ok(Answer::Done) }));
        self.asks(Call::Start { container: id.into() });
        self.hears(&started(id));
        self.hears(&reply(&Reply::Response { id: call + 1, result: Ok(Answer::Started { pid: 5 }) }));
        assert_eq!(self.machine.containers.last().unwrap().state.status, Status::Running);
    }

    pub(super) fn is_sound(&self) {
        let machine = &self.machine;
        assert!(machine.containers.len() <= CONTAINERS_MAX && machine.execs.len() <= EXECS_MAX);
        assert!(machine.input.len() <= FRAME_BYTES_MAX + 4);
        assert!(machine.output.len() <= LINK_OUTPUT_BYTES_LIMIT);
        assert!(machine.pending.len() <= PENDING_MAX);
        for container in &machine.containers {
            // A guest that sends what nobody takes stays within its window and its log's bound.
            let bound = (64 << 10) + 3 * OUTPUT_WINDOW_BYTES + 2 * OUTPUT_LEFT_MAX;
            assert!(container.log.end() - container.log.begin() <= bound);
        }
        if matches!(machine.phase, Phase::Lost(_)) {
            assert!(self.killed.get() && machine.link.is_none() && machine.pending.is_empty());
            assert!(machine.containers.iter().all(|container| !container.is_running()));
        }
    }
}

pub(super) fn control(up: &Up) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_json(Kind::Control, up, &mut bytes).unwrap();
    bytes
}

pub(super) fn control_hello() -> Vec<u8> {
    control(&Up::Hello { version: LINK_VERSION, steps: Vec::new() })
}

pub(super) fn control_ready() -> Vec<u8> {
    control(&Up::Ready { steps: Vec::new() })
}

pub(super) fn reply(reply: &Reply) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_json(Kind::Call, reply, &mut bytes).unwrap();
    bytes
}

pub(super) fn output(container: &str, end: u64, bytes: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    encode_output(&Output { container, stream: Stream::Stdout, end, bytes }, &mut frame);
    frame
}

pub(super) fn started(container: &str) -> Vec<u8> {
    reply(&Reply::Event(Event::Started { container: container.into(), pid: 5, at_ns: 0 }))
}

pub(super) fn exited(container: &str, log_end: u64) -> Vec<u8> {
    let exited = Exited { container: container.into(), exit_code: 3, oom_killed: false, at_ns: 0, log_end };
    reply(&Reply::Event(Event::Exited(exited)))
}

pub(super) fn exec(id: &str) -> Call {
    Call::Exec(Box::new(Exec {
        id: id.into(),
        container: "a".into(),
        arguments: vec!["true".into()],
        environment: Vec::new(),
        directory: None,
        user: None,
        terminal: None,
    }))
}
