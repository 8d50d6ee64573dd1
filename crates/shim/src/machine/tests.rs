//! A guest that says whatever it likes, to a shim with a machine that is none.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::rc::Rc;

use proptest::prelude::*;

use super::config::{Accelerator, MachineConfig, VmmConfig};
use super::vmm::{Started, Vmm, VmmError};
use super::wire::{
    FRAME_BYTES_MAX, Kind, LINK_VERSION, OUTPUT_WINDOW_BYTES, Output, Up, encode, encode_json, encode_output,
};
use super::{Host, LINK_OUTPUT_BYTES_MAX, Machine, Phase};
use crate::cgroup::Cgroups;
use crate::log::Stream;
use crate::protocol::{
    Answer, CONTAINERS_MAX, Call, CreateContainer, EXECS_MAX, Event, Exec, Exited, Failure, FailureKind,
    LogLimits, PROTOCOL_VERSION, Reply, Request, Resources, Rootfs, Seccomp, Status, TaskConfig, TaskStats,
    WhenFull,
};
use crate::server::connection::Connection;

struct NoMachine(Rc<Cell<bool>>);

impl Vmm for NoMachine {
    fn pid(&self) -> i32 {
        i32::MAX
    }

    fn attach(&mut self, _: u32, _: File, _: bool) -> Result<(), VmmError> {
        Ok(())
    }

    fn kill(&mut self) {
        self.0.set(true);
    }
}

struct World {
    machine: Machine,
    killed: Rc<Cell<bool>>,
    layer: std::path::PathBuf,
    /// Kept open: the agent's end of its connection, the guest's of the link, the far ends of execs.
    _ends: (UnixStream, UnixStream),
    pipes: Vec<OwnedFd>,
    _home: tempfile::TempDir,
}

static SEQUENCE: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);

impl Drop for World {
    fn drop(&mut self) {
        let (cgroups, cgroup) = (&self.machine.cgroups, &self.machine.config.cgroup);
        let _ = cgroups.remove(cgroup, std::time::Duration::from_secs(5));
        cgroups.remove_empty_ancestors(cgroup);
    }
}

impl World {
    fn new() -> World {
        let home = tempfile::tempdir().unwrap();
        let instance = format!(
            "test-machine-{}-{}",
            std::process::id(),
            SEQUENCE.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
        );
        let pair = || UnixStream::pair().unwrap();
        let ((agent, ours), (link, guest)) = (pair(), pair());
        let ((console, _), (words, _)) = (pair(), pair());
        let (signals, _) = rustix::pipe::pipe().unwrap();
        let killed = Rc::new(Cell::new(false));
        let config = TaskConfig {
            version: PROTOCOL_VERSION,
            cgroup: format!("ferrogate/{instance}/task").into(),
            shim_cgroup: format!("ferrogate/{instance}/.shims").into(),
            resources: Resources::default(),
            shared_pid_namespace: false,
            ephemeral_storage: false,
            storage_device: None,
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
            hostname: "guest".into(),
            limits: Resources::default(),
            files: BTreeMap::new(),
            resources: Resources::default(),
            network_namespace: None,
            storage: None,
        };
        let host = Host {
            directory: home.path().to_owned(),
            config,
            cgroups: Cgroups::detect().unwrap(),
            signals,
            listener: UnixListener::bind(home.path().join("socket")).unwrap(),
        };
        let started = Started {
            vmm: Box::new(NoMachine(Rc::clone(&killed))),
            link,
            console: [console.into(), words.into()],
        };
        let layer = home.path().join("layer");
        std::fs::write(&layer, "layer").unwrap();
        let mut machine = Machine::around(host, wanted, started, None).unwrap();
        machine.connections.push(Connection::new(ours, 1).unwrap());
        World { machine, killed, layer, _ends: (agent, guest), pipes: Vec::new(), _home: home }
    }

    fn up() -> World {
        let mut world = World::new();
        world.hears(&control(&Up::Hello { version: LINK_VERSION, steps: Vec::new() }));
        world.hears(&control(&Up::Ready { steps: Vec::new() }));
        assert!(matches!(world.machine.phase, Phase::Up));
        world
    }

    /// As what the link brings is taken.
    fn hears(&mut self, bytes: &[u8]) {
        if matches!(self.machine.phase, Phase::Lost(_)) {
            return;
        }
        self.machine.input.extend_from_slice(bytes);
        if let Err(broken) = self.machine.take_frames() {
            self.machine.lose(&broken.to_string());
        }
        self.machine.tell_exec_ends();
        self.is_sound();
    }

    fn asks(&mut self, call: Call) {
        let stdio = matches!(call, Call::Exec(_)).then(|| {
            let pipe = || rustix::pipe::pipe().unwrap();
            let ((stdin, a), (b, stdout), (c, stderr)) = (pipe(), pipe(), pipe());
            self.pipes.extend([a, b, c]);
            [stdin, stdout, stderr]
        });
        self.machine.take_call(1, Request { id: 7, call }, stdio);
        self.is_sound();
    }

    fn create(&mut self, id: &str) {
        self.asks(Call::CreateContainer(Box::new(CreateContainer {
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
        })));
    }

    /// A container that runs.
    fn run(&mut self, id: &str) {
        let call = self.machine.next_call;
        self.create(id);
        self.hears(&reply(&Reply::Response { id: call, result: Ok(Answer::Done) }));
        self.hears(&reply(&Reply::Event(Event::Started { container: id.into(), pid: 5, at_ns: 0 })));
        assert_eq!(self.machine.containers.last().unwrap().state.status, Status::Running);
    }

    fn is_sound(&self) {
        let machine = &self.machine;
        assert!(machine.containers.len() <= CONTAINERS_MAX && machine.execs.len() <= EXECS_MAX);
        assert!(machine.input.len() <= FRAME_BYTES_MAX + 4);
        assert!(machine.output.len() <= 2 * LINK_OUTPUT_BYTES_MAX);
        for container in &machine.containers {
            // A guest that sends what nobody takes stays within its window and its log's bound.
            let bound = (64 << 10) + 3 * OUTPUT_WINDOW_BYTES + 8 * (1 << 20);
            assert!(container.log.end() - container.log.begin() <= bound);
        }
        if matches!(machine.phase, Phase::Lost(_)) {
            assert!(self.killed.get() && machine.link.is_none() && machine.pending.is_empty());
            assert!(machine.containers.iter().all(|container| !container.is_running()));
        }
    }
}

fn control(up: &Up) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_json(Kind::Control, up, &mut bytes).unwrap();
    bytes
}

fn reply(reply: &Reply) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_json(Kind::Call, reply, &mut bytes).unwrap();
    bytes
}

fn output(container: &str, end: u64, bytes: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    encode_output(&Output { container, stream: Stream::Stdout, end, bytes }, &mut frame);
    frame
}

fn exited(container: &str, log_end: u64) -> Vec<u8> {
    let exited = Exited { container: container.into(), exit_code: 3, oom_killed: false, at_ns: 0, log_end };
    reply(&Reply::Event(Event::Exited(exited)))
}

/// What a guest may say, sensible or not.
fn says() -> impl Strategy<Value = Vec<u8>> {
    let name = prop_oneof![Just("a"), Just("b"), Just("nobody")];
    let kind = prop_oneof![
        Just(Kind::Data),
        Just(Kind::Credit),
        Just(Kind::End),
        Just(Kind::Closed),
        Just(Kind::Output),
        Just(Kind::Call),
        Just(Kind::Control)
    ];
    let answer = prop_oneof![
        Just(Ok(Answer::Done)),
        Just(Ok(Answer::Started { pid: -1 })),
        Just(Ok(Answer::Stats(TaskStats::default()))),
        Just(Err(Failure::new(FailureKind::WrongState, "no"))),
        Just(Err(Failure::new(FailureKind::CannotExecute { exit_code: 127 }, "no"))),
    ];
    let exec = prop_oneof![Just("exec-1"), Just("exec-2")];
    prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..40),
        (kind, 0u32..12, proptest::collection::vec(any::<u8>(), 0..64)).prop_map(
            |(kind, channel, payload)| {
                let mut bytes = Vec::new();
                encode(kind, channel, &payload, &mut bytes);
                bytes
            }
        ),
        (0u64..12, answer).prop_map(|(id, result)| reply(&Reply::Response { id, result })),
        (name.clone(), any::<i32>()).prop_map(|(container, pid)| reply(&Reply::Event(Event::Started {
            container: container.into(),
            pid,
            at_ns: i64::MIN
        }))),
        (name.clone(), prop_oneof![Just(u64::MAX), 0u64..5000]).prop_map(|(name, end)| exited(name, end)),
        (name, any::<u32>(), 0usize..4000).prop_map(|(name, end, bytes)| output(
            name,
            end.into(),
            &vec![b'x'; bytes]
        )),
        (exec, any::<i32>()).prop_map(|(exec, exit_code)| reply(&Reply::Event(Event::ExecExited {
            exec: exec.into(),
            exit_code,
            at_ns: 0
        }))),
        Just(control(&Up::Hello { version: LINK_VERSION, steps: Vec::new() })),
        Just(control(&Up::Failed { why: "\u{1b}[2J".into() })),
    ]
}

fn exec(id: &str) -> Call {
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

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn nothing_a_guest_says_confuses_the_host(said in proptest::collection::vec(says(), 0..30), booted in any::<bool>()) {
        let mut world = if booted { World::up() } else { World::new() };
        if booted {
            world.run("a");
            world.create("b");
        }
        for (turn, bytes) in said.iter().enumerate() {
            match turn {
                3 => world.asks(exec("exec-1")),
                6 => world.asks(Call::Start { container: "a".into() }),
                9 => world.asks(Call::AckLogs { container: "a".into(), offset: u64::MAX }),
                12 => world.asks(Call::AbandonExec { exec: "exec-1".into() }),
                15 => world.asks(Call::Delete { container: "b".into() }),
                18 => world.asks(Call::Stats),
                _ => {}
            }
            world.hears(bytes);
        }
        world.machine.lose("the test is over");
        world.is_sound();
    }
}

#[test]
fn output_beyond_what_was_granted_ends_the_machine() {
    let mut world = World::up();
    world.run("a");
    let line = vec![b'x'; 32 << 10];
    let mut end = 0;
    // Nobody takes the output: the log blocks, and the guest is told nothing of it being safe.
    while !matches!(world.machine.phase, Phase::Lost(_)) {
        end += line.len() as u64 + 16;
        world.hears(&output("a", end, &line));
        assert!(end < 4 << 20, "it is still listened to");
    }
    let container = &world.machine.containers[0];
    assert_eq!(container.state.exit_code, Some(137));
    assert!(container.state.error.as_ref().unwrap().contains("beyond what was granted"));
}

#[test]
fn an_end_waits_for_the_output_before_it() {
    let mut world = World::up();
    world.run("a");
    world.hears(&exited("a", 38));
    assert!(world.machine.containers[0].is_running());
    world.hears(&output("a", 19, b"one\n"));
    assert!(world.machine.containers[0].is_running());
    world.hears(&output("a", 38, b"two\n"));
    let state = world.machine.containers[0].state();
    assert_eq!((state.status, state.exit_code), (Status::Exited, Some(3)));
    assert!(state.log_end > 0 && matches!(world.machine.phase, Phase::Up));
}

#[test]
fn answers_to_what_was_not_asked_end_the_machine() {
    for said in [
        reply(&Reply::Response { id: 99, result: Ok(Answer::Done) }),
        reply(&Reply::Event(Event::Started { container: "nobody".into(), pid: 1, at_ns: 0 })),
        exited("a", u64::MAX),
        control(&Up::Ready { steps: Vec::new() }),
        vec![0xff; 16],
    ] {
        let mut world = World::up();
        world.run("a");
        world.hears(&said);
        assert!(matches!(world.machine.phase, Phase::Lost(_)), "{}", String::from_utf8_lossy(&said));
    }
}
