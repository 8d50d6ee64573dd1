//! A guest that says whatever it likes.

use std::io::Read;
use std::time::Duration;

use proptest::prelude::*;

use super::calls::PENDING_MAX;
use super::wire::{Kind, LINK_VERSION, Up, encode};
use super::world::{World, control, control_hello, control_ready, exec, exited, output, reply, started};
use super::{ACKNOWLEDGE_BYTES_MAX, LINK_OUTPUT_BYTES_LIMIT, LINK_OUTPUT_BYTES_MAX, Phase, UNREAD_DEADLINE};
use crate::protocol::{
    Answer, Call, ContainerUsage, Event, Failure, FailureKind, Reply, Request, Status, TaskStats, Usage,
};

mod alive;
mod ends;

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
        Just(control(&Up::Unfit { why: "\u{1b}[2J".into() })),
        Just(control(&Up::Clock)),
    ]
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
        started("nobody"),
        started("a"),
        exited("a", u64::MAX),
        control(&Up::Ready { steps: Vec::new() }),
        control(&Up::Unfit { why: "too late".into() }),
        control(&Up::Clock),
        vec![0xff; 16],
    ] {
        let mut world = World::up();
        world.run("a");
        world.hears(&said);
        assert!(matches!(world.machine.phase, Phase::Lost(_)), "{}", String::from_utf8_lossy(&said));
    }
}

#[test]
fn what_waits_for_the_guest_has_its_disks_already() {
    let mut world = World::new();
    world.create("a");
    world.create("b");
    assert!(matches!(world.machine.phase, Phase::Booting));
    assert_eq!((world.machine.disks.len(), world.machine.next_disk), (1, 1), "one layer");
    world.hears(&control_hello());
    world.hears(&control_ready());
    assert_eq!((world.machine.pending.len(), world.machine.next_disk), (2, 1));
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

#[test]
fn a_name_that_a_guest_made_up_is_shown_as_text() {
    let mut world = World::up();
    world.run("a");
    let mut frame = Vec::new();
    let said = format!(r#"{{"up":"Ready","steps":[],"\u001b[2J{}":1}}"#, "x".repeat(1 << 16));
    encode(Kind::Control, 0, said.as_bytes(), &mut frame);
    world.hears(&frame);
    let why = world.machine.containers[0].state.error.clone().unwrap();
    assert!(why.contains("the guest broke the protocol: ") && why.contains("`[2Jxx"), "{why:.200}");
    assert!(why.len() < 2000 && !why.contains('\u{1b}'), "{} bytes", why.len());
}

#[test]
fn a_call_with_an_answer_of_another_kind_is_answered() {
    let mut world = World::up();
    world.run("a");
    let _ = world.answered();
    let call = world.machine.next_call;
    world.asks(Call::Stats);
    world.hears(&reply(&Reply::Response { id: call, result: Ok(Answer::Done) }));
    assert!(world.is_lost());
    assert!(world.answered().unwrap_err().message.contains("an answer of another kind"));
}

#[test]
fn who_was_answered_without_the_guest_is_not_answered_again() {
    let mut world = World::up();
    world.run("a");
    world.asks(Call::Stats);
    world.ages(Duration::from_secs(30));
    world.turns();
    let _ = world.answered();
    world.machine.lose("the test is over");
    let mut heard = Vec::new();
    let _ = world.ends.0.read_to_end(&mut heard);
    assert!(heard.is_empty(), "{}", String::from_utf8_lossy(&heard));
}
