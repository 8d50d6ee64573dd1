//! A guest that says whatever it likes, to a shim with a machine that is none.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::rc::Rc;
use std::time::Duration;

use proptest::prelude::*;

use super::boot::Boot;
use super::calls::PENDING_MAX;
use super::config::{Accelerator, MachineConfig, VmmConfig};
use super::vmm::{Started, Vmm, VmmError};
use super::wire::{
    Down, FRAME_BYTES_MAX, Kind, LINK_VERSION, OUTPUT_WINDOW_BYTES, Output, Up, decode, encode, encode_json,
    encode_output,
};
use super::{
    ACKNOWLEDGE_BYTES_MAX, Host, LINK_OUTPUT_BYTES_LIMIT, LINK_OUTPUT_BYTES_MAX, Machine, Phase,
    UNREAD_DEADLINE,
};
use crate::cgroup::Cgroups;
use crate::log::Stream;
use crate::protocol::{
    Answer, CONTAINERS_MAX, Call, ContainerUsage, CreateContainer, EXECS_MAX, Event, Exec, Exited, Failure,
    FailureKind, LogLimits, PROTOCOL_VERSION, Reply, Request, Resources, Rootfs, Seccomp, Status, TaskConfig,
    TaskStats, Usage, WhenFull,
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
        self.0.set(true);
    }
}

struct World {
    machine: Machine,
    killed: Rc<Cell<bool>>,
    layer: std::path::PathBuf,
    /// Kept open: the agent's end of its connection, the guest's of the link, the far ends of execs.
    ends: (UnixStream, UnixStream),
    pipes: Vec<OwnedFd>,
    _home: tempfile::TempDir,
}

static SEQUENCE: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);

impl Drop for World {
    fn drop(&mut self) {
        let (cgroups, cgroup) = (&self.machine.cgroups, &self.machine.config.cgroup);
        let _ = cgroups.remove(cgroup, Duration::from_secs(5));
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
            snapshot: None,
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
        let mut machine = Machine::around(host, wanted, started, None, Boot::begin()).unwrap();
        machine.connections.add(Connection::new(ours, 1).unwrap());
        World { machine, killed, layer, ends: (agent, guest), pipes: Vec::new(), _home: home }
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
        self.machine.acknowledge_guest();
        self.is_sound();
    }

    /// What the shim's next turn makes of what the guest leaves undone.
    fn turns(&mut self) {
        self.machine.look_at_clock();
        self.machine.flush_link();
        self.is_sound();
    }

    /// All that waits for an answer has waited for so long.
    fn ages(&mut self, by: Duration) {
        for pending in self.machine.pending.values_mut() {
            pending.asked = pending.asked.checked_sub(by).unwrap();
        }
        self.machine.unread = self.machine.unread.map(|since| since.checked_sub(by).unwrap());
    }

    fn is_lost(&self) -> bool {
        matches!(self.machine.phase, Phase::Lost(_))
    }

    /// What the agent hears: an answer, to the call it makes in every test.
    fn answered(&mut self) -> Result<Answer, Failure> {
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
        self.asks(Call::Start { container: id.into() });
        self.hears(&started(id));
        self.hears(&reply(&Reply::Response { id: call + 1, result: Ok(Answer::Started { pid: 5 }) }));
        assert_eq!(self.machine.containers.last().unwrap().state.status, Status::Running);
    }

    fn is_sound(&self) {
        let machine = &self.machine;
        assert!(machine.containers.len() <= CONTAINERS_MAX && machine.execs.len() <= EXECS_MAX);
        assert!(machine.input.len() <= FRAME_BYTES_MAX + 4);
        assert!(machine.output.len() <= LINK_OUTPUT_BYTES_LIMIT);
        assert!(machine.pending.len() <= PENDING_MAX);
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

fn started(container: &str) -> Vec<u8> {
    reply(&Reply::Event(Event::Started { container: container.into(), pid: 5, at_ns: 0 }))
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

/// What the guest would read next, of the messages that only the two know.
fn told(world: &World) -> Vec<Down> {
    let mut rest = world.machine.output.as_slice();
    let mut all = Vec::new();
    while let Some((frame, used)) = decode(rest).unwrap() {
        if frame.kind == Kind::Control {
            all.push(serde_json::from_slice(frame.payload).unwrap());
        }
        rest = &rest[used..];
    }
    all
}

#[test]
fn a_guest_that_is_up_is_told_the_time() {
    let mut world = World::new();
    world.machine.clock.is_due_now();
    world.machine.look_at_clock();
    assert_eq!(told(&world), [], "it is not up");

    let mut world = World::up();
    world.machine.output.clear();
    world.machine.look_at_clock();
    assert_eq!(told(&world), [], "it was told a moment ago");
    world.machine.clock.is_due_now();
    let before = crate::server::container::now_ns();
    world.machine.look_at_clock();
    let after = crate::server::container::now_ns();
    let messages = told(&world);
    let [Down::Clock { now_ns }] = messages[..] else { panic!("{messages:?}") };
    assert!((before..=after).contains(&now_ns), "{before} {now_ns} {after}");
    // One that does not listen hears no times that are none any more.
    world.machine.look_at_clock();
    assert_eq!(told(&world).len(), 1);
}

#[test]
fn answers_to_what_was_not_asked_end_the_machine() {
    for said in [
        reply(&Reply::Response { id: 99, result: Ok(Answer::Done) }),
        started("nobody"),
        started("a"),
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

/// The answer may be heard before the event, but the event never without the question.
#[test]
fn only_what_was_asked_for_starts() {
    let mut world = World::up();
    let call = world.machine.next_call;
    world.create("a");
    world.hears(&reply(&Reply::Response { id: call, result: Ok(Answer::Done) }));
    world.asks(Call::Start { container: "a".into() });
    world.hears(&reply(&Reply::Response { id: call + 1, result: Ok(Answer::Started { pid: 5 }) }));
    world.hears(&started("a"));
    assert_eq!(world.machine.containers[0].state.starts, 1);
    world.hears(&exited("a", 0));
    assert_eq!(world.machine.containers[0].state.status, Status::Exited);

    // A start that the guest says failed is over.
    world.asks(Call::Start { container: "a".into() });
    let failure = Failure::new(FailureKind::System, "no");
    world.hears(&reply(&Reply::Response { id: call + 2, result: Err(failure) }));
    assert!(!world.is_lost());
    world.hears(&started("a"));
    assert!(world.is_lost());
}

/// Frames of nothing, each of which would be acknowledged.
#[test]
fn acknowledgements_that_nobody_reads_do_not_pile_up() {
    let mut world = World::up();
    world.run("a");
    let before = world.machine.output.len();
    for turn in 0..200u64 {
        let frames: Vec<u8> = (0..500).flat_map(|frame| output("a", turn * 500 + frame + 1, b"")).collect();
        world.hears(&frames);
    }
    assert!(!world.is_lost(), "it is within its bounds");
    assert_eq!(world.machine.containers[0].taken, 100_000);
    let most = before.max(ACKNOWLEDGE_BYTES_MAX) + 200;
    assert!(world.machine.output.len() <= most, "{} bytes", world.machine.output.len());
}

/// One byte that comes has a credit go back.
#[test]
fn a_guest_that_has_more_said_to_it_than_it_reads_is_lost() {
    let mut world = World::up();
    world.run("a");
    let channel = world.machine.next_channel + 1;
    world.asks(exec("exec-1"));
    let mut frames = Vec::new();
    (0..4096).for_each(|_| encode(Kind::Data, channel, b"x", &mut frames));
    let stdout = world.pipes[1].try_clone().unwrap();
    let mut turns = 0;
    while !world.is_lost() {
        world.hears(&frames);
        turns += 1;
        assert!(turns * 4096 < LINK_OUTPUT_BYTES_LIMIT, "it is still listened to");
        assert_eq!(rustix::io::read(&stdout, &mut [0; 4096]).unwrap(), 4096);
    }
    assert!(turns > 10 && world.machine.output.is_empty());
}

#[test]
fn a_guest_that_does_not_do_what_is_done_at_once_is_lost() {
    for call in [
        Call::Signal { container: "a".into(), signal: 15 },
        Call::Kill { container: None },
        Call::CancelStart { container: "a".into() },
    ] {
        let mut world = World::up();
        world.run("a");
        let _ = world.answered();
        world.asks(call);
        world.turns();
        world.ages(Duration::from_secs(29));
        world.turns();
        assert!(!world.is_lost(), "it has the time it has");
        assert!(world.machine.timeout().unwrap() <= Duration::from_secs(1));
        world.ages(Duration::from_secs(1));
        world.turns();
        assert!(world.is_lost());
        assert!(world.answered().unwrap_err().message.contains("did not answer within 30 s"));
        assert_eq!(world.machine.containers[0].state.exit_code, Some(137));
    }
}

#[test]
fn figures_and_state_are_answered_without_a_guest_that_is_silent() {
    let mut world = World::up();
    world.run("a");
    let _ = world.answered();
    let call = world.machine.next_call;
    world.asks(Call::Stats);
    world.ages(Duration::from_secs(30));
    world.turns();
    assert!(world.answered().is_err());
    world.asks(Call::Start { container: "a".into() });
    world.asks(Call::State);
    world.ages(Duration::from_secs(5));
    world.turns();
    assert!(matches!(world.answered(), Ok(Answer::State(state)) if state.containers.len() == 1));
    // Its late answers are nobody's.
    world.hears(&reply(&Reply::Response { id: call, result: Ok(Answer::Stats(TaskStats::default())) }));
    assert!(!world.is_lost());
    for _ in 0..PENDING_MAX {
        world.machine.take_call(1, Request { id: 7, call: Call::Listeners }, None);
        world.machine.look_at_clock();
    }
    assert!(world.is_lost(), "calls do not pile up for ever");
}

#[test]
fn a_guest_that_reads_nothing_is_lost() {
    let mut world = World::up();
    world.machine.output.extend(vec![0; LINK_OUTPUT_BYTES_MAX]);
    world.turns();
    let left = world.machine.output.len();
    assert!(left > 0 && world.machine.unread.is_some(), "more than the socket takes");
    world.ages(UNREAD_DEADLINE - Duration::from_secs(5));
    // It takes some.
    world.ends.1.set_nonblocking(true).unwrap();
    let mut read = vec![0; 1 << 20];
    while world.ends.1.read(&mut read).is_ok() {}
    world.turns();
    assert!(world.machine.output.len() < left);
    assert!(world.machine.unread.is_some_and(|since| since.elapsed() < UNREAD_DEADLINE / 2));
    world.ages(UNREAD_DEADLINE);
    world.turns();
    assert!(world.is_lost());
}

#[test]
fn a_guest_that_never_stops_talking_is_heard_in_turns() {
    let mut world = World::up();
    let mut guest = world.ends.1.try_clone().unwrap();
    guest.set_nonblocking(true).unwrap();
    // Of a channel that is not there: passed over.
    let mut frames = Vec::new();
    (0..80_000).for_each(|_| encode(Kind::Credit, 9, &[0; 4], &mut frames));
    let written = std::io::Write::write(&mut guest, &frames).unwrap();
    world.machine.hear_guest(rustix::event::PollFlags::IN, 1);
    let mut left = vec![0; written];
    let left = world.machine.link.as_mut().unwrap().read(&mut left).unwrap();
    assert_eq!(left, written - super::READ_BYTES, "one read, and no more");
}

#[test]
fn what_a_guest_says_in_words_is_bounded() {
    let mut world = World::up();
    world.run("a");
    let _ = world.answered();
    let call = world.machine.next_call;
    world.asks(Call::Stats);
    let failure = Failure::new(FailureKind::System, format!("\u{1b}[2J{}", "x".repeat(1 << 20)));
    world.hears(&reply(&Reply::Response { id: call, result: Err(failure) }));
    let heard = world.answered().unwrap_err().message;
    assert!(heard.starts_with("[2Jx") && heard.len() == 1000, "{} letters", heard.len());

    world.asks(Call::Stats);
    let usage = |id: &str| ContainerUsage { id: id.into(), usage: Usage::default() };
    let containers = vec![usage("a"), usage("nobody"), usage("a")];
    let stats = TaskStats { containers, ..TaskStats::default() };
    world.hears(&reply(&Reply::Response { id: call + 1, result: Ok(Answer::Stats(stats)) }));
    let Ok(Answer::Stats(stats)) = world.answered() else { panic!("no figures") };
    assert_eq!(stats.containers, [usage("a")]);
}
