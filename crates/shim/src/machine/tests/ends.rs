//! Ends of containers that come before their last output.

use std::time::Duration;

use super::super::calls::GUEST_LOG;
use super::super::container::OUTPUT_DEADLINE;
use super::super::guest::OUTPUT_LEFT_MAX;
use super::super::wire::Down;
use super::super::world::{World, exited, output, started};
use super::alive::told;
use crate::log::writer::LogWriter;
use crate::log::{LINE_BYTES_MAX, Stream};
use crate::protocol::{Call, ContainerState, FailureKind, Status};

const LINE_BYTES: u64 = 32 << 10;
/// Of such a line in the guest's log.
const RECORD_BYTES: u64 = LINE_BYTES + 16;

/// The guest says so many lines more.
fn says(world: &mut World, lines: u64) {
    let line = [vec![b'x'; LINE_BYTES as usize], vec![b'\n']].concat();
    for _ in 0..lines {
        let end = world.machine.containers[0].taken + RECORD_BYTES;
        world.hears(&output("a", end, &line));
    }
}

fn acknowledged(world: &World) -> Option<u64> {
    told(world).into_iter().rev().find_map(|said| match said {
        Down::Acknowledge { offset, .. } => Some(offset),
        _ => None,
    })
}

fn state(world: &World) -> ContainerState {
    world.machine.containers[0].state()
}

/// A container whose log is full and whose guest has sent all that its window lets it.
fn held_back() -> World {
    let mut world = World::up();
    world.run("a");
    says(&mut world, 10);
    assert!(world.machine.containers[0].log.is_blocked());
    world
}

#[test]
fn a_full_log_holds_back_a_container_but_not_its_end() {
    let mut world = held_back();
    let before = acknowledged(&world);
    assert!(before.unwrap_or(0) < 10 * RECORD_BYTES, "it waits");
    world.hears(&exited("a", 40 * RECORD_BYTES));
    assert_eq!(acknowledged(&world), Some(10 * RECORD_BYTES), "the guest may send what it has");
    says(&mut world, 29);
    assert_eq!(state(&world).status, Status::Running);
    says(&mut world, 1);
    let ended = state(&world);
    assert_eq!((ended.status, ended.exit_code), (Status::Exited, Some(3)));
    // As of a container that is none of a machine: what is left is taken whatever the log's bound says.
    assert_eq!((ended.log_begin, ended.log_end), (0, 40 * RECORD_BYTES));
}

#[test]
fn an_end_does_not_wait_for_output_that_does_not_come() {
    let mut world = held_back();
    world.hears(&exited("a", 14 * RECORD_BYTES));
    world.ages(OUTPUT_DEADLINE - Duration::from_secs(5));
    says(&mut world, 1);
    world.ages(OUTPUT_DEADLINE - Duration::from_secs(5));
    // Nothing comes with this one.
    world.hears(&output("a", 11 * RECORD_BYTES, b""));
    world.turns();
    assert_eq!(state(&world).status, Status::Running, "some came meanwhile");
    assert!(world.machine.timeout().unwrap() <= Duration::from_secs(5));
    world.ages(Duration::from_secs(5));
    world.turns();
    let ended = state(&world);
    assert_eq!((ended.status, ended.exit_code, ended.error), (Status::Exited, Some(3), None));
    assert_eq!(ended.log_end, 11 * RECORD_BYTES);

    // It was slow only: the rest is passed over, and neither it nor the next run loses the machine.
    says(&mut world, 2);
    assert_eq!(acknowledged(&world), Some(13 * RECORD_BYTES));
    let next = world.machine.next_call;
    world.asks(Call::Start { container: "a".into() });
    world.hears(&started("a"));
    assert_eq!(world.machine.next_call, next + 1);
    says(&mut world, 2);
    assert!(!world.is_lost());
    assert_eq!(state(&world).log_end, 12 * RECORD_BYTES, "the last of them is the new run's");
}

#[test]
fn output_of_a_container_that_has_ended_is_beyond_what_was_granted() {
    let mut world = held_back();
    world.hears(&exited("a", 10 * RECORD_BYTES));
    assert_eq!(state(&world).status, Status::Exited);
    says(&mut world, 1);
    assert!(world.is_lost());
}

#[test]
fn an_end_that_waits_is_what_it_was_when_the_machine_is_lost() {
    let mut world = held_back();
    world.hears(&exited("a", 11 * RECORD_BYTES));
    world.machine.lose("its program ended");
    let ended = state(&world);
    assert_eq!((ended.status, ended.exit_code, ended.error), (Status::Exited, Some(3), None));
}

#[test]
fn nothing_is_started_anew_before_its_end_is_told() {
    let mut world = held_back();
    world.hears(&exited("a", 11 * RECORD_BYTES));
    let _ = world.answered();
    world.asks(Call::Start { container: "a".into() });
    assert_eq!(world.answered().unwrap_err().kind, FailureKind::WrongState);
    says(&mut world, 1);
    assert_eq!(state(&world).status, Status::Exited);
}

/// Both pipes made as large as a container may, and full of empty lines, each of which is a record.
#[test]
fn all_that_a_guest_can_have_left_is_taken_and_no_more() {
    let home = tempfile::tempdir().unwrap();
    let mut log = LogWriter::open(home.path().into(), GUEST_LOG).unwrap();
    let empty = vec![b'\n'; 64 << 10];
    for stream in [Stream::Stdout, Stream::Stderr] {
        log.output(stream, &vec![b'x'; LINE_BYTES_MAX], 0).unwrap();
    }
    log.output(Stream::Stdout, &vec![b'x'; (512 << 10) - 32], 0).unwrap();
    assert!(!log.is_blocked());
    log.output(Stream::Stdout, &empty, 0).unwrap();
    assert!(log.is_blocked());
    for stream in [Stream::Stdout, Stream::Stderr] {
        (0..16).for_each(|_| log.output(stream, &empty, 0).unwrap());
        log.output(stream, &vec![b'x'; LINE_BYTES_MAX], 0).unwrap();
    }
    log.finish(0).unwrap();
    assert!(log.end() > 34 << 20, "{}", log.end());

    for (end, lost) in [(log.end(), false), (OUTPUT_LEFT_MAX, false), (OUTPUT_LEFT_MAX + 1, true)] {
        let mut world = World::up();
        world.run("a");
        world.hears(&exited("a", end));
        assert_eq!(world.is_lost(), lost, "{end}");
    }
}

/// What fits the guest's log fits the host's: an empty line is more there than here.
#[test]
fn lines_that_the_guests_log_has_no_room_for_end_the_machine() {
    for (end, lost) in [(4 * 16, false), (4 * 16 - 1, true)] {
        let mut world = World::up();
        world.run("a");
        world.hears(&output("a", end, b"\n\n\n\n"));
        assert_eq!(world.is_lost(), lost, "{end}");
    }
}
