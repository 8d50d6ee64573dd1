//! Which snapshots there are, are made and go.

use super::*;

#[test]
fn sizes_are_read_as_they_are_written() {
    let sizes = [
        Size::FIRST,
        Size { vcpus: 16, memory_mib: machine_mib(122_880), storage_bytes: 200 * GIB, ..Size::FIRST },
        Size { vcpus: 2, memory_mib: machine_mib(128), has_interface: false, storage_bytes: 0 },
    ];
    for size in sizes {
        assert_eq!(Size::parse(&size.name()), Some(size));
    }
    assert_eq!(Size::parse("2-649-net"), Some(sized(2)), "of a program before");
    for text in [
        "",
        "1",
        "1-576",
        "1-576-",
        "1-576-al",
        "1-576-net-more",
        "01-576-net-0",
        "1-576-net-0-0",
        "x-576-net",
        "1-576-other",
    ] {
        assert_eq!(Size::parse(text), None, "{text}");
    }
}

fn snapshots(dir: &Path) -> Snapshots {
    let machines = super::super::tests::machines(dir, super::super::Accelerator::Tcg);
    let shim = dir.join("shim");
    fs::write(&shim, "shim").unwrap();
    Snapshots::new(machines, dir.join("snapshots"), shim, "test".into())
}

/// As one that was made.
fn put(snapshots: &Snapshots, base: &str, size: Size) -> SnapshotFiles {
    let making = snapshots.dir.join(MAKING_DIR);
    fs::create_dir_all(&making).unwrap();
    let fresh = in_dir(&making);
    fs::write(&fresh.memory, "memory").unwrap();
    fs::write(&fresh.state, "state").unwrap();
    keep(&making, &fresh, &snapshots.dir.join(format!("{base}-{}", size.name()))).unwrap()
}

/// … and is there for machines.
fn put_ready(snapshots: &Snapshots, base: &str, size: Size) {
    let files = put(snapshots, base, size);
    snapshots.state().wanted.clear();
    snapshots.state().ready.insert(size, Ready::new(files, SystemTime::now()));
}

fn broken(why: &str) -> NotRestored {
    NotRestored { why: why.into(), late: false }
}

fn late() -> NotRestored {
    NotRestored { why: "not within 20 s".into(), late: true }
}

fn sized(vcpus: u32) -> Size {
    Size { vcpus, ..Size::FIRST }
}

#[test]
fn a_later_agent_finds_what_is_whole_and_its_own() {
    let home = tempfile::tempdir().unwrap();
    let first = snapshots(home.path());
    let base = first.find().unwrap();
    assert_eq!(first.status().wanted, [Size::FIRST], "with nothing to go by the first size is made");
    let files = put(&first, &base, sized(2));
    let damaged = put(&first, &base, sized(3));
    fs::write(&damaged.memory, "Memory").unwrap();
    put(&first, "0123", sized(4));
    let nobodys = Size { memory_mib: machine_mib(56) - 1, ..Size::FIRST };
    put(&first, "0123", nobodys);

    let later = snapshots(home.path());
    assert_eq!(later.find().unwrap(), base);
    let status = later.status();
    assert_eq!((status.ready, status.wanted), (vec![sized(2)], vec![sized(3), sized(4)]));
    assert_eq!(later.take(sized(2)), Some(files));
    assert_eq!(later.take(sized(5)), None);
    assert!(later.status().wanted.contains(&sized(5)));
    let left = fs::read_dir(&later.dir).unwrap().count();
    assert_eq!(left, 1, "what cannot be used is removed");
}

#[test]
fn what_is_expected_is_made_and_nothing_goes_for_it() {
    let home = tempfile::tempdir().unwrap();
    let snapshots = snapshots(home.path());
    let base = snapshots.find().unwrap();
    snapshots.state().wanted.clear();
    let expect = |cpu_units, memory_mib| snapshots.expect(cpu_units, memory_mib, STORAGE_BYTES_DEFAULT);
    expect(512, 1024);
    expect(256, 1024);
    expect(2048, 4096);
    expect(16384, 122_880);
    let size = |vcpus, memory_mib| Size { vcpus, memory_mib: machine_mib(memory_mib), ..Size::FIRST };
    assert_eq!(snapshots.status().wanted, [size(1, 1024), size(2, 4096)], "one for each machine");
    assert!(snapshots.status().failed.is_empty(), "nobody has wanted the largest");
    let taken = snapshots.take(size(1, 1024));
    let unused = snapshots.state().expected.clone();
    assert_eq!((taken, unused), (None, [size(2, 4096)].into()));

    // Those under way count.
    let rest = (3..).map(|vcpus| 1024 * vcpus);
    rest.take(SNAPSHOTS_MAX).for_each(|cpu_units| expect(cpu_units, 512));
    assert_eq!(snapshots.status().wanted.len(), SNAPSHOTS_MAX);
    snapshots.state().wanted.clear();
    for vcpus in 1..=SNAPSHOTS_MAX as u32 {
        let files = put(&snapshots, &base, sized(vcpus));
        snapshots.state().ready.insert(sized(vcpus), Ready::new(files, SystemTime::now()));
    }
    expect(1024, 512);
    expect(1024, 2048);
    assert_eq!(snapshots.status().wanted, [], "there are as many as may be");
}

#[test]
fn one_that_fails_machines_is_made_anew_and_given_up_in_the_end() {
    let home = tempfile::tempdir().unwrap();
    let snapshots = snapshots(home.path());
    let base = snapshots.find().unwrap();
    for attempt in 1..=FAILURES_MAX {
        let files = put(&snapshots, &base, sized(2));
        let before = SystemTime::now();
        let ready = Ready::new(files, SystemTime::now());
        snapshots.state().wanted.clear();
        snapshots.state().ready.insert(sized(2), ready);
        // One began from the one before it, two from this one, and each is heard of for every container.
        snapshots.failed(sized(2), before, &broken("it was another one"));
        assert!(snapshots.take(sized(2)).is_some());
        for _ in 0..3 {
            snapshots.failed(sized(2), SystemTime::now(), &broken("it said something else"));
        }
        assert_eq!(snapshots.take(sized(2)), None);
        assert_eq!(snapshots.status().wanted.is_empty(), attempt == FAILURES_MAX);
    }
    assert_eq!(snapshots.status().failed[&sized(2).name()], "it said something else");
}

#[test]
fn a_size_that_is_given_up_is_tried_once_more_after_a_while() {
    let home = tempfile::tempdir().unwrap();
    let snapshots = snapshots(home.path());
    let base = snapshots.find().unwrap();
    snapshots.state().wanted.clear();
    let is_wanted = || {
        assert_eq!(snapshots.take(sized(2)), None);
        snapshots.status().wanted == [sized(2)]
    };
    let ages = |by| snapshots.state().failed.get_mut(&sized(2)).unwrap().at -= by;
    (0..FAILURES_MAX).for_each(|_| fail(&mut snapshots.state(), sized(2), "no"));
    ages(GIVEN_UP - Duration::from_secs(60));
    assert!(!is_wanted());
    ages(Duration::from_secs(60));
    assert!(is_wanted());

    // The next failure gives it up again, for as long.
    put_ready(&snapshots, &base, sized(2));
    snapshots.failed(sized(2), SystemTime::now(), &broken("it said something else"));
    assert!(!is_wanted());
    ages(GIVEN_UP);
    assert!(is_wanted());

    snapshots.state().wanted.clear();
    fail(&mut snapshots.state(), sized(2), "no");
    assert!(!is_wanted());
    snapshots.state().failed.get_mut(&sized(2)).unwrap().at += GIVEN_UP;
    assert!(is_wanted(), "the clock was set back");
}

#[test]
fn a_busy_host_costs_no_snapshot() {
    let home = tempfile::tempdir().unwrap();
    let snapshots = snapshots(home.path());
    let base = snapshots.find().unwrap();
    put_ready(&snapshots, &base, sized(2));
    let busy = SystemTime::now();
    // All at once, and what comes while those are booted; each is heard of for every container, in any order.
    for second in (0..LATE_APART.as_secs()).chain((0..LATE_APART.as_secs()).rev()) {
        snapshots.failed(sized(2), busy + Duration::from_secs(second), &late());
    }
    assert!(snapshots.take(sized(2)).is_some());
    let status = snapshots.status();
    assert!(status.wanted.is_empty() && snapshots.state().failed.is_empty(), "{status:?}");
    // What is wrong with it is another matter.
    snapshots.failed(sized(2), busy, &broken("it said something else"));
    assert_eq!(snapshots.take(sized(2)), None);
}

#[test]
fn one_that_is_late_again_and_again_is_made_anew() {
    let home = tempfile::tempdir().unwrap();
    let snapshots = snapshots(home.path());
    let base = snapshots.find().unwrap();
    put_ready(&snapshots, &base, sized(2));
    let began = SystemTime::now();
    let at = |times: u32| began + LATE_APART * times;
    for times in 1..LATE_MAX {
        snapshots.failed(sized(2), at(times), &late());
    }
    // One in time, and it begins anew; not with one from before.
    snapshots.restored(sized(2), at(LATE_MAX));
    for times in 1..LATE_MAX {
        snapshots.failed(sized(2), at(LATE_MAX + times), &late());
        snapshots.restored(sized(2), at(LATE_MAX));
    }
    assert!(snapshots.take(sized(2)).is_some());
    snapshots.failed(sized(2), at(2 * LATE_MAX), &late());
    assert_eq!((snapshots.take(sized(2)), snapshots.status().wanted), (None, vec![sized(2)]));
    assert_eq!(snapshots.state().failed[&sized(2)].times, 1);
    // The next one has all its chances.
    put_ready(&snapshots, &base, sized(2));
    snapshots.failed(sized(2), at(9 * LATE_MAX), &late());
    assert!(snapshots.take(sized(2)).is_some());
}

#[test]
fn failures_are_forgotten_with_a_success() {
    let home = tempfile::tempdir().unwrap();
    let snapshots = snapshots(home.path());
    let base = snapshots.find().unwrap();
    for _ in 0..2 * FAILURES_MAX {
        let files = put(&snapshots, &base, sized(2));
        snapshots.state().wanted.clear();
        snapshots.state().ready.insert(sized(2), Ready::new(files, SystemTime::now()));
        snapshots.restored(sized(2), SystemTime::now());
        snapshots.failed(sized(2), SystemTime::now(), &broken("chance"));
        assert!(snapshots.status().wanted.contains(&sized(2)), "it is made anew");
    }
}

#[test]
fn those_used_last_stay() {
    let home = tempfile::tempdir().unwrap();
    let snapshots = snapshots(home.path());
    let base = snapshots.find().unwrap();
    let all = SNAPSHOTS_MAX as u32 + 2;
    for vcpus in 1..=all {
        let files = put(&snapshots, &base, sized(vcpus));
        let used = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(u64::from(100 - vcpus));
        snapshots.state().ready.insert(sized(vcpus), Ready::new(files, used));
    }
    snapshots.make_room(&mut snapshots.state());
    assert_eq!(snapshots.status().ready, (1..=all - 2).map(sized).collect::<Vec<_>>());
    assert_eq!(fs::read_dir(&snapshots.dir).unwrap().count(), SNAPSHOTS_MAX);
}

#[test]
fn all_together_take_a_bounded_part_of_the_disk() {
    let home = tempfile::tempdir().unwrap();
    let snapshots = snapshots(home.path());
    let base = snapshots.find().unwrap();
    for vcpus in 1..=4 {
        let files = put(&snapshots, &base, sized(vcpus));
        let used = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(u64::from(vcpus));
        let ready = Ready::new(files, used);
        assert!((1..1 << 20).contains(&ready.bytes), "as it is on disk: {}", ready.bytes);
        let ready = Ready { bytes: DISK_BYTES_MAX / 2, ..ready };
        snapshots.state().ready.insert(sized(vcpus), ready);
    }
    snapshots.make_room(&mut snapshots.state());
    assert_eq!(snapshots.status().ready, [sized(3), sized(4)]);
}

#[test]
fn no_snapshot_is_made_of_a_large_machine() {
    let home = tempfile::tempdir().unwrap();
    let snapshots = snapshots(home.path());
    let large = Size { memory_mib: machine_mib(30_720), ..Size::FIRST };
    assert_eq!(snapshots.take(large), None);
    let status = snapshots.status();
    assert_eq!((status.wanted.len(), status.making), (0, None));
    assert!(status.failed[&large.name()].contains("more than 16384 MiB"), "{status:?}");
    snapshots.restored(large, SystemTime::now());
    assert_eq!(snapshots.take(Size { memory_mib: machine_mib(8192), ..large }), None);
    assert_eq!(snapshots.status().wanted.len(), 1);
}

#[test]
fn none_is_made_on_a_disk_that_is_nearly_full() {
    let home = tempfile::tempdir().unwrap();
    let snapshots = snapshots(home.path());
    snapshots.state().making = Some(sized(2));
    assert!(snapshots.has_room(sized(2), 2 * DISK_BYTES_FREE));
    assert!(!snapshots.has_room(sized(2), DISK_BYTES_FREE));
    let status = snapshots.status();
    assert!(status.making.is_none() && status.wanted.is_empty(), "{status:?}");
    assert!(status.failed[&sized(2).name()].contains("has 1024 MiB free"), "{status:?}");
    // It is looked at again with the next machine, and as often as it takes.
    for _ in 0..=FAILURES_MAX {
        assert!(!snapshots.has_room(sized(2), 0));
        assert_eq!(snapshots.take(sized(2)), None);
        assert_eq!(snapshots.status().wanted, [sized(2)]);
    }
}

fn expect(snapshots: &Snapshots, vcpus: u32) {
    snapshots.expect(vcpus * CPU_UNITS_PER_VCPU, MEMORY_MIB_DEFAULT, STORAGE_BYTES_DEFAULT);
}

#[test]
fn what_a_task_wants_takes_the_place_of_what_is_expected() {
    let most = u32::try_from(WANTED_MAX).unwrap();
    let home = tempfile::tempdir().unwrap();
    let snapshots = snapshots(home.path());
    (1..=most).for_each(|vcpus| expect(&snapshots, vcpus));
    assert_eq!(snapshots.status().wanted.len(), WANTED_MAX);
    assert_eq!(snapshots.take(sized(most + 1)), None);
    let mut left: Vec<Size> = (1..most).map(sized).collect();
    assert_eq!(snapshots.status().wanted, [left.clone(), vec![sized(most + 1)]].concat());
    // One that is expected takes nobody's place, and one that a task has asked for is not expected any more.
    assert_eq!(snapshots.take(sized(1)), None);
    snapshots.state().expected.insert(sized(most + 2));
    snapshots.want(&mut snapshots.state(), sized(most + 2));
    assert_eq!(snapshots.status().wanted, [left.clone(), vec![sized(most + 1)]].concat());

    left.remove(0);
    let order: Vec<Size> = std::iter::from_fn(|| snapshots.state().next()).collect();
    assert_eq!(order, [vec![sized(1), sized(most + 1)], left].concat(), "what tasks want is made first");

    let asked = (1..=most).map(|vcpus| sized(10 + vcpus));
    asked.clone().for_each(|size| assert_eq!(snapshots.take(size), None));
    assert_eq!(snapshots.take(sized(1)), None);
    assert_eq!(snapshots.status().wanted, asked.collect::<Vec<_>>(), "none makes way for another task's");
}

#[test]
fn what_nobody_has_used_goes_first() {
    let home = tempfile::tempdir().unwrap();
    let snapshots = snapshots(home.path());
    let base = snapshots.find().unwrap();
    let made = |vcpus| {
        let files = put(&snapshots, &base, sized(vcpus));
        snapshots.made(&mut snapshots.state(), sized(vcpus), files);
    };
    let most = u32::try_from(SNAPSHOTS_MAX).unwrap();
    snapshots.state().wanted.clear();
    expect(&snapshots, 5);
    expect(&snapshots, 6);
    (1..=most).for_each(made);
    assert!(snapshots.take(sized(6)).is_some());
    made(most + 1);
    let left: Vec<Size> = (1..=most + 1).filter(|vcpus| *vcpus != 5).map(sized).collect();
    assert_eq!(snapshots.status().ready, left, "only the one that no machine has had");
    made(most + 2);
    assert_eq!(snapshots.status().ready[0], sized(2), "then the least recently used");

    // Nor is one made that would be the first to go.
    snapshots.state().wanted.clear();
    snapshots.state().expected.insert(sized(20));
    snapshots.state().wanted.insert(sized(20));
    assert_eq!(snapshots.state().next(), None);
    assert_eq!(snapshots.status().wanted, []);
}

/// A shim that listens and whose machine is lost, of the task in this directory.
fn shim_without_a_machine(task: &Path) {
    use ferrogate_shim::protocol::{self, Answer, Call, Failure, FailureKind, Reply, Request};
    use std::io::{Read, Write};
    let listener = std::os::unix::net::UnixListener::bind(task.join(protocol::SOCKET_FILE)).unwrap();
    std::thread::spawn(move || {
        let (mut agent, _) = listener.accept().unwrap();
        let (mut input, mut buffer) = (Vec::new(), [0; 4096]);
        while let Some(count) = agent.read(&mut buffer).ok().filter(|count| *count > 0) {
            input.extend_from_slice(&buffer[..count]);
            while let Some((Request { id, call }, used)) = protocol::decode(&input).unwrap() {
                input.drain(..used);
                let result = match call {
                    Call::Hello { version } => Ok(Answer::Hello { version, pid: 1 }),
                    Call::Subscribe => Ok(Answer::State(protocol::TaskState::default())),
                    _ => Err(Failure::new(FailureKind::System, "the task's machine was lost")),
                };
                let mut answer = Vec::new();
                protocol::encode(&Reply::Response { id, result }, &mut answer).unwrap();
                agent.write_all(&answer).unwrap();
            }
        }
    });
}

#[tokio::test]
async fn one_that_loses_a_machine_is_heard_of_though_there_is_no_container() {
    let home = tempfile::tempdir().unwrap();
    let machines = super::super::tests::machines(home.path(), super::super::Accelerator::Tcg);
    let shim = home.path().join("shim");
    fs::write(&shim, "shim").unwrap();
    let (machines, snapshots) = machines.with_snapshots(&shim, home.path(), "test");
    let base = snapshots.find().unwrap();
    snapshots.state().wanted.clear();
    let spec = super::super::tests::task(256, 512);
    let size = super::super::size(&spec);
    let files = put(&snapshots, &base, size);
    snapshots.made(&mut snapshots.state(), size, files);

    let task = home.path().join("task");
    fs::create_dir(&task).unwrap();
    fs::write(task.join("sandbox.json"), serde_json::to_vec(&spec).unwrap()).unwrap();
    shim_without_a_machine(&task);
    let sandbox = ContainerSandbox::with_shim(shim).unwrap().with_machines(Arc::new(machines));
    let task = sandbox.reattach(&task).await.unwrap();
    let began = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let why = "the guest could not be set up: no disk".to_owned();
    let report = super::super::BootReport {
        began_ns: i64::try_from(began.as_nanos()).unwrap(),
        restored: true,
        not_restored: Some(broken(&why)),
        ..super::super::BootReport::default()
    };
    let file = home.path().join("task").join(super::super::BOOT_FILE);
    fs::write(file, serde_json::to_vec(&report).unwrap()).unwrap();
    let app = crate::ContainerSpec {
        id: "app".into(),
        command: Some(vec!["true".into()]),
        ..crate::ContainerSpec::default()
    };
    for _ in 0..2 {
        let refused = task.create_container(&app).await.unwrap_err();
        assert!(refused.to_string().contains("machine was lost"), "{refused}");
    }
    let status = snapshots.status();
    assert_eq!((status.ready, status.wanted), (vec![], vec![size]), "it is made anew");
    let failed = &snapshots.state().failed[&size];
    assert_eq!((failed.times, &failed.why), (1, &why));
}

#[test]
fn a_report_says_whether_a_machine_was_only_late() {
    let home = tempfile::tempdir().unwrap();
    let machines = super::super::tests::machines(home.path(), super::super::Accelerator::Tcg);
    let shim = home.path().join("shim");
    fs::write(&shim, "shim").unwrap();
    let (machines, snapshots) = machines.with_snapshots(&shim, home.path(), "test");
    let base = snapshots.find().unwrap();
    let spec = TaskSandboxSpec { dir: home.path().join("task"), ..super::super::tests::task(256, 512) };
    fs::create_dir(&spec.dir).unwrap();
    let size = super::super::size(&spec);
    put_ready(&snapshots, &base, size);
    let began_ns = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos() as i64;
    let mut report = serde_json::json!({
        "began_ns": began_ns, "restored": false, "not_restored": "not within 20 s", "late": true,
        "hello_ms": 1, "ready_ms": 2, "steps": [],
    });
    let is_there_after = |report: &serde_json::Value| {
        fs::write(spec.dir.join(super::super::BOOT_FILE), report.to_string()).unwrap();
        super::super::booted(Some(&machines), &spec);
        snapshots.status().ready == [size]
    };
    assert!(is_there_after(&report));
    // A shim of a program before does not say.
    report.as_object_mut().unwrap().remove("late");
    assert!(!is_there_after(&report));
}
