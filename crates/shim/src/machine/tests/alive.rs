//! A guest that does not come up, and one that stands still.

use std::cell::RefCell;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::time::{Duration, Instant};

use rustix::event::PollFlags;

use super::super::Phase;
use super::super::begin::{BOOTS_MAX, Begun};
use super::super::boot;
use super::super::tap::Tap;
use super::super::vmm::Started;
use super::super::wire::{BootStep, Down, Kind, Up, decode};
use super::super::world::{NoMachine, World, control, control_hello, control_ready};
use crate::protocol::Call;

/// What the guest would read next, of the messages that only the two know.
pub(super) fn told(world: &World) -> Vec<Down> {
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
    assert!(told(&world).is_empty(), "it is not up");

    let mut world = World::up();
    world.machine.output.clear();
    world.machine.look_at_clock();
    assert!(told(&world).is_empty(), "it was told a moment ago");
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
fn a_guest_that_heard_the_time_late_is_told_it_again() {
    for old in [false, true] {
        let mut world = World::new();
        world.hears(&control_hello());
        world.machine.boot.time_was_old = old;
        world.machine.output.clear();
        world.hears(&control_ready());
        assert_eq!(told(&world).len(), usize::from(old));
        world.hears(&control(&Up::Clock));
        assert_eq!(world.is_lost(), !old, "nobody answers what was not said");
    }
}

/// As its next turn finds it when an interval of the clock is over.
fn interval(world: &mut World) {
    world.machine.output.clear();
    world.machine.clock.is_due_now();
    world.machine.look_at_clock();
    world.is_sound();
}

#[test]
fn a_guest_that_stands_still_is_lost_though_nobody_asks_it_anything() {
    let mut world = World::up();
    world.run("a");
    for _ in 0..20 {
        interval(&mut world);
        interval(&mut world);
        world.hears(&control(&Up::Clock));
        world.hears(&control(&Up::Clock));
        assert!(!world.is_lost(), "it answers, if late");
    }
    (0..3).for_each(|_| interval(&mut world));
    assert!(!world.is_lost());
    interval(&mut world);
    assert!(world.is_lost());
    let container = &world.machine.containers[0].state;
    assert_eq!(container.exit_code, Some(137));
    assert!(container.error.as_ref().unwrap().contains("the guest has not answered for "));
}

/// Machines in the place of the first: the guests' ends of their links.
fn others(world: &mut World) -> Rc<RefCell<Vec<UnixStream>>> {
    let ends = Rc::new(RefCell::new(Vec::new()));
    let (begun, killed) = (Rc::clone(&ends), Rc::clone(&world.killed));
    world.machine.begin = Box::new(move |_, _, boot| {
        assert!(killed.replace(false), "there are never two");
        boot.done("VMM started");
        let pair = || UnixStream::pair().unwrap();
        let ((link, guest), (console, _), (words, _)) = (pair(), pair(), pair());
        begun.borrow_mut().push(guest);
        let vmm = Box::new(NoMachine { killed: Rc::clone(&killed), broken: false });
        let started = Started { vmm, link, console: [console.into(), words.into()] };
        Ok(Begun { started, tap: None, heard: None })
    });
    ends
}

fn silent_for(world: &mut World, by: Duration) {
    world.machine.boot.since -= by;
    world.turns();
}

#[test]
fn a_guest_that_says_no_hello_is_booted_again() {
    let mut world = World::new();
    let others = others(&mut world);
    world.asks(Call::Stats);
    for boots in 1..BOOTS_MAX {
        silent_for(&mut world, Duration::from_secs(19));
        assert_eq!(others.borrow().len(), boots - 1, "it has the time it has");
        assert!(world.machine.timeout().unwrap() <= Duration::from_secs(1));
        // Half of a message is nothing the next one goes on with.
        world.hears(&[0, 0]);
        silent_for(&mut world, Duration::from_secs(1));
        assert_eq!(others.borrow().len(), boots);
        assert!(matches!(world.machine.phase, Phase::Booting) && world.machine.input.is_empty());
    }
    // The last one has what is left of the boot's time.
    silent_for(&mut world, Duration::from_secs(40));
    assert_eq!(others.borrow().len(), BOOTS_MAX - 1);
    assert!(world.machine.timeout().unwrap() > Duration::from_secs(20));
    world.hears(&control_hello());
    world.hears(&control_ready());
    world.turns();
    assert!(matches!(world.machine.phase, Phase::Up));
    // What was asked of it goes to the one that is there.
    let mut guest = others.borrow().last().unwrap().try_clone().unwrap();
    guest.set_nonblocking(true).unwrap();
    let mut heard = Vec::new();
    let _ = guest.read_to_end(&mut heard);
    assert!(String::from_utf8_lossy(&heard).contains("\"Stats\""), "{}", String::from_utf8_lossy(&heard));

    let report = boot::read(&world.machine.directory).unwrap();
    let again = |step: &&BootStep| step.step.starts_with("booted again, the guest said nothing");
    assert_eq!(report.steps.iter().filter(again).count(), BOOTS_MAX - 1, "{report:?}");
}

#[test]
fn the_boots_deadline_is_for_all_of_them() {
    let mut world = World::new();
    let _others = others(&mut world);
    silent_for(&mut world, Duration::from_secs(20));
    world.machine.boot.up_since -= Duration::from_secs(60);
    world.turns();
    assert!(world.is_lost());
}

#[test]
fn a_guest_of_which_nothing_can_be_made_is_booted_again() {
    let mut world = World::new();
    let others = others(&mut world);
    let unfit = control(&Up::Unfit { why: "its timer\u{1b} is late".into() });
    for boots in 1..BOOTS_MAX {
        world.hears(&unfit);
        assert_eq!(world.machine.timeout(), Some(Duration::ZERO));
        world.turns();
        assert_eq!(others.borrow().len(), boots);
    }
    world.hears(&unfit);
    world.turns();
    assert!(world.is_lost());
    world.asks(Call::Stats);
    assert!(world.answered().unwrap_err().message.ends_with("its timer is late"));
}

#[test]
fn one_whose_program_breaks_is_booted_again_while_it_is_nobodys() {
    let broken = |world: &mut World| {
        world.machine.vmm = Box::new(NoMachine { killed: Rc::clone(&world.killed), broken: true });
    };
    let mut world = World::new();
    let others = others(&mut world);
    broken(&mut world);
    world.create("a");
    world.asks_as(8, Call::Stats);
    assert!(matches!(world.machine.phase, Phase::Unfit(_)), "it is asked nothing more");
    // What it says at last is for nobody.
    world.ends.1.write_all(&control_hello()).unwrap();
    world.machine.hear_guest(PollFlags::IN, 1);
    world.turns();
    assert_eq!(others.borrow().len(), 1);
    world.hears(&control_hello());
    assert!(
        matches!(world.machine.phase, Phase::SettingUp),
        "the other one has been asked, and did as it was told"
    );

    broken(&mut world);
    world.layer = world.layer.with_file_name("another");
    std::fs::write(&world.layer, "layer").unwrap();
    world.create("b");
    assert!(world.is_lost(), "it is a task's");
}

#[test]
fn containers_are_asked_for_while_the_guest_is_set_up() {
    let mut world = World::new();
    world.create("a");
    assert!(told(&world).is_empty());
    world.hears(&control_hello());
    world.asks_as(8, Call::Stats);
    let after = world.create_call("b");
    world.asks_as(9, after);
    let messages = told(&world);
    let [
        Down::Setup(_),
        Down::CreateContainer { container: first, .. },
        Down::CreateContainer { container: second, .. },
    ] = &messages[..]
    else {
        panic!("{messages:?}")
    };
    assert_eq!([first, second], ["a", "b"]);
    assert_eq!((world.machine.pending.len(), world.machine.held.len()), (2, 1), "the rest waits");

    world.hears(&control(&Up::Failed { why: "there is no disk".into() }));
    assert!(world.is_lost());
    assert!(world.answered().unwrap_err().message.contains("there is no disk"));
}

#[test]
fn a_guest_whose_set_up_takes_long_has_its_time_to_read() {
    let mut world = World::new();
    world.create("a");
    world.hears(&control_hello());
    world.machine.unread = Some(Instant::now());
    world.ages(Duration::from_secs(31));
    world.hears(&control_ready());
    world.machine.look_at_clock();
    assert!(matches!(world.machine.phase, Phase::Up));
}

#[test]
fn one_that_cannot_be_booted_again_says_both() {
    let mut world = World::new();
    world.hears(&control(&Up::Unfit { why: "its timer is late".into() }));
    world.turns();
    world.asks(Call::Stats);
    let why = world.answered().unwrap_err().message;
    assert!(
        why.contains("its timer is late, and it cannot be booted again: there is no other machine"),
        "{why}"
    );
}

/// Unfit, and then something else: it is not listened to any more.
#[test]
fn who_is_unfit_says_no_hello() {
    let mut world = World::new();
    world.hears(&[control(&Up::Unfit { why: "no".into() }), control_hello()].concat());
    assert!(world.is_lost());
}

/// No descriptor tells of what was read with its hello.
#[test]
fn what_a_restored_guest_has_said_already_is_heard_at_once() {
    let ready = control_ready();
    let world = World::restored(&ready);
    assert!(matches!(world.machine.phase, Phase::Up));
    let report = boot::read(&world.machine.directory).unwrap();
    assert!(report.restored && report.not_restored.is_none(), "{report:?}");

    let failed = World::restored(&control(&Up::Failed { why: "there is no disk".into() }));
    assert!(failed.is_lost());
    failed.is_sound();
    assert!(World::restored(&[0xff; 16]).is_lost());

    let mut world = World::restored(&ready[..5]);
    assert!(matches!(world.machine.phase, Phase::SettingUp), "the rest is to come");
    assert!(told(&world).is_empty(), "it knows its set-up");
    world.hears(&ready[5..]);
    assert!(matches!(world.machine.phase, Phase::Up));
}

/// What the report of a machine's start says of its snapshot when the machine has been lost.
fn blamed(world: &World) -> Option<String> {
    assert!(world.is_lost());
    boot::read(&world.machine.directory).ok()?.not_restored.map(|blamed| blamed.why)
}

#[test]
fn a_snapshot_is_blamed_for_a_machine_that_never_took_calls() {
    type Fails = fn(&mut World);
    let ways: [(Fails, &str); 5] = [
        (|world| world.hears(&control(&Up::Failed { why: "no\u{1b} disk".into() })), "set up: no disk"),
        (|world| world.hears(&control_hello()), "broke the protocol: a message out of its order"),
        (|world| world.hears(&[0xff; 16]), "broke the protocol"),
        (
            |world| {
                world.machine.boot.up_since -= Duration::from_secs(60);
                world.turns();
            },
            "not up within 60000 ms",
        ),
        (|world| world.machine.lose("it ended with exit code 1"), "exit code 1"),
    ];
    for (fails, expected) in ways {
        let mut world = World::restored(&[]);
        world.create("a");
        assert!(boot::read(&world.machine.directory).is_err(), "it is not up");
        fails(&mut world);
        let why = blamed(&world).expect(expected);
        assert!(why.contains(expected), "{why}");
        assert!(world.answered().unwrap_err().message.contains(expected));

        // A machine that was booted has none to blame.
        let mut world = World::new();
        world.hears(&control_hello());
        fails(&mut world);
        assert_eq!(blamed(&world), None);
    }
}

#[test]
fn a_snapshot_that_was_not_used_is_blamed_though_the_boot_fails_too() {
    let mut boot = boot::Boot::begin();
    boot.not_restored(boot::NotRestored { why: "it is damaged".into(), late: false });
    let mut world = World::begun(None, boot);
    world.machine.lose("it ended with exit code 1");
    assert_eq!(blamed(&world).as_deref(), Some("it is damaged"));
}

#[test]
fn a_snapshot_is_not_blamed_for_what_is_not_its_doing() {
    let mut world = World::restored(&control_ready());
    world.hears(&control(&Up::Unfit { why: "too late".into() }));
    assert_eq!(blamed(&world), None, "it was up");

    // The host has no such interface.
    let mut world = World::restored(&[]);
    world.machine.tap = Some(Tap::make().unwrap());
    world.machine.machine.network_namespace = Some("/nobody".into());
    let Call::CreateContainer(mut create) = world.create_call("a") else { panic!("another call") };
    create.network_namespace = Some("/nobody".into());
    world.asks(Call::CreateContainer(create));
    assert!(world.answered().unwrap_err().message.contains("the interface in /nobody"));
    assert_eq!(blamed(&world), None);
}
