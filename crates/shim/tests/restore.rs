//! Machines that begin from a snapshot of one that has booted: each is another machine, and none begins from what it should not.

mod common;

use std::collections::BTreeSet;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use common::{DEADLINE, Task, machine_options};
use ferrogate_sandbox::microvm::{
    BOOT_FILE, BootReport, MACHINE_STEP, MachineOptions, Machines, RESTORED, Size, SnapshotStatus, Snapshots,
};
use ferrogate_sandbox::{ContainerSandbox, EphemeralStorage, Isolation, Sandbox, TaskSandboxSpec};
use ferrogate_shim::machine::template;
use tempfile::TempDir;

/// Of the tests' machines: a task's memory, and what its guest takes.
const SIZE: Size =
    Size { vcpus: 1, memory_mib: 128 + 128 + 128 / 56, has_interface: false, storage_bytes: 0 };

const BLOCK_BYTES: usize = 4096;

/// `O_ACCMODE`
const ACCESS_MODE: i32 = 3;

/// A host with snapshots; what makes them is gone when it is dropped.
struct Host {
    sandbox: ContainerSandbox,
    snapshots: Arc<Snapshots>,
    dir: PathBuf,
}

impl Host {
    async fn of(home: &TempDir, change: impl FnOnce(&mut MachineOptions)) -> Host {
        let dir = home.path().join("machines");
        let mut options = machine_options(&dir);
        change(&mut options);
        let machines = tokio::task::spawn_blocking(move || Machines::new(&options)).await.unwrap().unwrap();
        let (machines, snapshots) = machines.with_snapshots(&common::shim(), &dir, &common::instance());
        let sandbox = ContainerSandbox::with_shim(common::shim()).unwrap().with_machines(Arc::new(machines));
        snapshots.start();
        Host { sandbox, snapshots, dir: dir.join("snapshots") }
    }

    async fn task(&self, hostname: &str) -> Task {
        Task::of(&self.sandbox, |spec| of_size(spec, hostname)).await
    }

    /// Once the snapshot is there that a first task asked for.
    async fn ready(&self) {
        self.ready_of(SIZE).await;
    }

    async fn ready_of(&self, size: Size) {
        self.until("the snapshot is ready", |status| status.ready.contains(&size)).await;
    }

    async fn until(&self, what: &str, reached: impl Fn(&SnapshotStatus) -> bool) {
        let waited = async {
            while !reached(&self.snapshots.status()) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let in_time = tokio::time::timeout(2 * DEADLINE, waited).await;
        assert!(in_time.is_ok(), "{what}: {:?}", self.snapshots.status());
    }

    /// The snapshot of the tests' size: its directory.
    fn snapshot(&self) -> PathBuf {
        let size = format!("{}-{}-alone-0", SIZE.vcpus, SIZE.memory_mib);
        let found = |path: &PathBuf| path.to_string_lossy().ends_with(&size);
        let mut all = std::fs::read_dir(&self.dir).unwrap().map(|entry| entry.unwrap().path());
        all.find(found).expect("there is a snapshot")
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let snapshots = Arc::clone(&self.snapshots);
        // Of a runtime of its own: the test's may be the one that unwinds. What makes them is waited for, in a thread of that one.
        let stopped = std::thread::spawn(move || {
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap()
                .block_on(snapshots.stop())
        });
        let stopped = stopped.join().unwrap();
        assert!(stopped.is_ok() || std::thread::panicking(), "{stopped:?}");
    }
}

fn home() -> TempDir {
    TempDir::with_prefix("ferrogate-restore-test-").unwrap()
}

fn of_size(spec: &mut TaskSandboxSpec, hostname: &str) {
    spec.isolation = Isolation::MicroVm;
    spec.memory_bytes = 128 << 20;
    spec.hostname = hostname.into();
}

fn report(task: &Task) -> BootReport {
    serde_json::from_slice(&std::fs::read(task.dir.join(BOOT_FILE)).unwrap()).unwrap()
}

/// What a container says, in a machine that began as `restored` says.
async fn says(task: &Task, restored: bool, script: &str) -> Vec<String> {
    let (code, output) = task.run(&task.script("app", script)).await;
    let report = report(task);
    println!("{report:#?}");
    assert_eq!((code, report.restored), (0, restored), "{output} {report:?}");
    output.lines().map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn machines_of_one_snapshot_are_different_machines() {
    let home = home();
    let host = Host::of(&home, |_| {}).await;
    // The first of its size is booted, and asks for the snapshot.
    let booted = host.task("first").await;
    let script = "cat /proc/sys/kernel/random/boot_id; head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \\n'; echo; \
                  hostname; awk 'BEGIN { srand(); print srand() }'; cat /proc/sys/kernel/random/uuid";
    let first = says(&booted, false, script).await;
    drop(booted);
    host.ready().await;

    let (one, two) = tokio::join!(host.task("one"), host.task("two"));
    let before = seconds();
    let (one_said, two_said) = tokio::join!(says(&one, true, script), says(&two, true, script));
    let after = seconds();
    for (said, name) in [(&first, "first"), (&one_said, "one"), (&two_said, "two")] {
        assert_eq!(said[2], name);
    }
    for line in [0, 1, 4] {
        let seen: BTreeSet<&str> = [&first, &one_said, &two_said].map(|said| said[line].as_str()).into();
        assert_eq!(seen.len(), 3, "{first:?} {one_said:?} {two_said:?}");
    }
    for said in [&one_said, &two_said] {
        let guest: u64 = said[3].parse().unwrap();
        assert!((before - 1..=after + 1).contains(&guest), "{guest} is not within {before} and {after}");
    }
    let steps = one.task.booted().await;
    assert!(steps.iter().any(|step| step.step == RESTORED), "{steps:?}");
    assert!(steps.iter().all(|step| step.step.starts_with(MACHINE_STEP) && step.began <= step.ended));
    is_only_read(&host, &one);
}

/// A task's interface as the fabric makes it, in a namespace of its own with nobody at its other end. Gone when dropped.
struct Interface {
    namespace: String,
    number: u8,
}

impl Interface {
    fn new(number: u8) -> Interface {
        let interface = Interface { namespace: common::instance(), number };
        let (name, mac, address) = (&interface.namespace, interface.mac(), interface.address());
        for step in [
            format!("netns add {name}"),
            format!("-n {name} link set lo up"),
            format!("-n {name} link add eth0 address {mac} type veth peer name r0"),
            format!("-n {name} link set r0 up"),
            format!("-n {name} link set eth0 up mtu 1400"),
            format!("-n {name} addr add {address} dev eth0"),
            format!("-n {name} route add default via 10.9.0.1"),
        ] {
            let output = std::process::Command::new("ip").args(step.split(' ')).output().unwrap();
            assert!(output.status.success(), "ip {step}: {output:?}");
        }
        interface
    }

    fn mac(&self) -> String {
        format!("02:00:00:00:00:{:02x}", self.number)
    }

    fn address(&self) -> String {
        format!("10.9.0.{}/24", self.number)
    }

    fn path(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.namespace)
    }
}

impl Drop for Interface {
    fn drop(&mut self) {
        let _ = std::process::Command::new("ip").args(["netns", "del", &self.namespace]).output();
    }
}

/// Where a disk ends. Behind it, in clear, is the empty file system's template, which has the size for a name.
fn size(templates: &Path) -> u64 {
    let template = std::fs::read_dir(templates).unwrap().next().unwrap().unwrap().file_name();
    let size: u64 = template.to_str().unwrap().rsplit('-').next().unwrap().parse().unwrap();
    assert!(size >= 20 << 30, "{size}");
    size
}

/// What an empty file system has is there, block by block, and is not what is in the template.
fn has_file_system(disk: &Path, size: u64) {
    let file = std::fs::File::open(disk).unwrap();
    let mut header = vec![0; template::HEADER_BYTES];
    file.read_exact_at(&mut header, size).unwrap();
    let mut at = size + header.len() as u64;
    let mut blocks = 0;
    for extent in template::decode(&header).unwrap() {
        for offset in (0..extent.bytes).step_by(BLOCK_BYTES) {
            let [mut clear, mut encrypted] = [vec![0; BLOCK_BYTES], vec![0; BLOCK_BYTES]];
            file.read_exact_at(&mut clear, at).unwrap();
            file.read_exact_at(&mut encrypted, extent.offset + offset).unwrap();
            assert!(
                encrypted.iter().any(|byte| *byte != 0),
                "block at {} was not written",
                extent.offset + offset
            );
            assert_ne!(clear, encrypted);
            at += BLOCK_BYTES as u64;
            blocks += 1;
        }
    }
    assert!(blocks > 8, "{blocks}");
}

/// What of a disk has been written, in blocks; those of nothing but zeroes are holes to a file system.
fn written(disk: &Path, size: u64) -> BTreeSet<Vec<u8>> {
    use rustix::fs::SeekFrom;
    let file = std::fs::File::open(disk).unwrap();
    let mut blocks = BTreeSet::new();
    let mut end = 0;
    while let Some(begin) = rustix::fs::seek(&file, SeekFrom::Data(end)).ok().filter(|begin| *begin < size) {
        end = rustix::fs::seek(&file, SeekFrom::Hole(begin)).unwrap().min(size);
        let mut bytes = vec![0; usize::try_from(end - begin).unwrap()];
        file.read_exact_at(&mut bytes, begin).unwrap();
        blocks.extend(bytes.chunks(BLOCK_BYTES).map(<[u8]>::to_vec));
    }
    blocks.remove(&vec![0; BLOCK_BYTES]);
    blocks
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn machines_of_one_snapshot_have_addresses_and_disks_of_their_own() {
    const TEXT: &str = "the same text on both disks";
    const WRITTEN: usize = 4 << 20;
    let home = home();
    let host = Host::of(&home, |_| {}).await;
    let interfaces = [4, 5, 6].map(Interface::new);
    let storage = EphemeralStorage { size_bytes: 20 << 30, templates: home.path().join("templates") };
    let task = |interface: &Interface| {
        let (namespace, storage) = (interface.path(), storage.clone());
        Task::of(&host.sandbox, move |spec| {
            of_size(spec, "task");
            spec.network_namespace = Some(namespace);
            spec.ephemeral_storage = Some(storage);
        })
    };
    drop(task(&interfaces[0]).await);
    host.ready_of(Size { has_interface: true, storage_bytes: storage.size_bytes, ..SIZE }).await;

    let script = format!(
        "ip addr show eth0; yes '{TEXT}' | dd of=/file bs=4096 count={} iflag=fullblock && sync",
        WRITTEN / BLOCK_BYTES
    );
    let mut disks = Vec::new();
    for interface in &interfaces[1..] {
        let task = task(interface).await;
        let (code, said) = task.run(&task.script("app", &script)).await;
        assert_eq!(code, 0, "{said}");
        assert!(report(&task).restored, "{:?}", report(&task));
        for (other, is_own) in interfaces.iter().map(|other| (other, other.number == interface.number)) {
            assert_eq!(said.contains(&other.mac()), is_own, "{said}");
            assert_eq!(said.contains(&other.address()), is_own, "{said}");
        }
        let (disk, size) = (task.dir.join("storage.img"), size(&storage.templates));
        has_file_system(&disk, size);
        disks.push(written(&disk, size));
    }
    let [one, two] = &disks[..] else { panic!("two disks") };
    assert!(one.len().min(two.len()) >= WRITTEN / BLOCK_BYTES, "{} {} blocks", one.len(), two.len());
    assert!(one.is_disjoint(two), "what is the same is not seen to be");
    let shows = |block: &&Vec<u8>| block.windows(TEXT.len()).any(|part| part == TEXT.as_bytes());
    assert_eq!(one.iter().chain(two).filter(shows).count(), 0);
}

fn seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// Whoever takes over a machine's program finds nothing by which to change what later machines begin with.
fn is_only_read(host: &Host, task: &Task) {
    let cgroups = ferrogate_shim::cgroup::Cgroups::detect().unwrap();
    let instance = Path::new("ferrogate").join(&task.instance).join("task");
    let files =
        [instance.clone(), instance.join(".machine")].map(|cgroup| cgroups.join_files(&cgroup)).concat();
    let members: BTreeSet<String> = files
        .iter()
        .filter_map(|file| std::fs::read_to_string(file).ok())
        .flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<String>>())
        .collect();
    assert_eq!(members.len(), 1, "one program: {members:?}");
    let pid = members.first().unwrap();
    let snapshot = host.snapshot();
    let memory = std::fs::metadata(snapshot.join("memory")).unwrap();
    assert_eq!((memory.mode() & 0o777, memory.uid()), (0o600, 0));
    let mut seen = 0;
    for entry in std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap() {
        let path = entry.unwrap().path();
        let Ok(meta) = std::fs::metadata(&path) else { continue };
        if (meta.dev(), meta.ino()) == (memory.dev(), memory.ino()) {
            let info = Path::new("/proc").join(pid).join("fdinfo").join(path.file_name().unwrap());
            let info = std::fs::read_to_string(info).unwrap();
            let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap();
            let flags = i32::from_str_radix(flags.trim(), 8).unwrap();
            assert_eq!(flags & ACCESS_MODE, 0, "read-only: {info}");
            seen += 1;
        }
    }
    assert_eq!(seen, 1, "it has its memory's file");
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let inode = format!(" {} ", memory.ino());
    let mapped: Vec<&str> = maps.lines().filter(|line| line.contains(&inode)).collect();
    assert!(
        !mapped.is_empty() && mapped.iter().all(|line| line.split(' ').nth(1).unwrap().ends_with('p')),
        "{mapped:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn one_that_is_damaged_fails_no_task() {
    let home = home();
    let host = Host::of(&home, |_| {}).await;
    drop(host.task("first").await);
    host.ready().await;
    let state = host.snapshot().join("state");
    let file = std::fs::File::options().write(true).open(&state).unwrap();
    file.write_all_at(&[0xff; 4096], 0).unwrap();
    drop(file);

    let task = host.task("second").await;
    assert_eq!(says(&task, false, "echo ran").await, ["ran"]);
    let blamed = report(&task).not_restored.expect("it says why it was booted");
    assert!(!blamed.why.is_empty() && !blamed.late, "{blamed:?}");
    // The agent learns it with the steps of the start.
    assert!(task.task.booted().await.iter().all(|step| step.step != RESTORED));
    host.ready().await;
    let state = std::fs::read(host.snapshot().join("state")).unwrap();
    assert_ne!(state[..4], [0xff; 4], "made anew");
    assert_eq!(says(&host.task("third").await, true, "echo again").await, ["again"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_later_agent_takes_what_is_there_and_none_of_another_kernel() {
    let home = home();
    let first = Host::of(&home, |_| {}).await;
    drop(first.task("first").await);
    first.ready().await;
    let made = first.snapshot();
    drop(first);

    let later = Host::of(&home, |_| {}).await;
    later.ready().await;
    assert_eq!(later.snapshot(), made);
    let status = later.snapshots.status();
    assert!(status.making.is_none() && status.failed.is_empty(), "{status:?}");
    let task = later.task("second").await;
    assert_eq!(says(&task, true, "echo ran").await, ["ran"]);
    drop(later);

    // The same kernel with a byte more, which it does not look at.
    let kernel = home.path().join("kernel");
    std::fs::create_dir(&kernel).unwrap();
    let original = machine_options(home.path()).kernel;
    for entry in std::fs::read_dir(&original).unwrap().map(Result::unwrap) {
        if entry.file_name() != "vmlinux" {
            std::os::unix::fs::symlink(entry.path(), kernel.join(entry.file_name())).unwrap();
        }
    }
    let mut image = std::fs::read(original.join("vmlinux")).unwrap();
    image.push(0);
    std::fs::write(kernel.join("vmlinux"), image).unwrap();
    let upgraded = Host::of(&home, |options| options.kernel = kernel).await;
    upgraded.until("it has been found", |status| status.making.is_some() || !status.wanted.is_empty()).await;
    assert!(!made.exists(), "what no machine can begin from is removed");
    let third = upgraded.task("third").await;
    assert_eq!(third.task.spec().hostname, "third");
    drop(third);
    // Asked for by its former size, without a task.
    upgraded.ready().await;
    assert_ne!(upgraded.snapshot(), made);
    // What goes on is found again, whatever it began from.
    let again = upgraded.sandbox.reattach(&task.dir).await.unwrap();
    assert_eq!(again.state().await.unwrap().containers.len(), 1);
}

/// Each is another one of the host's threads to the program, and all of them were stopped when the snapshot was taken.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn all_processors_of_a_restored_machine_run() {
    let home = home();
    let host = Host::of(&home, |_| {}).await;
    let task = || {
        Task::of(&host.sandbox, |spec| {
            of_size(spec, "two");
            spec.cpu_units = 2048;
        })
    };
    drop(task().await);
    host.ready_of(Size { vcpus: 2, ..SIZE }).await;
    let task = task().await;
    let each = "for cpu in 0 1; do taskset -c $cpu cat /proc/self/stat | awk '{ print \"on\", $39 }'; done";
    assert_eq!(says(&task, true, &format!("nproc; {each}")).await, ["2", "on 0", "on 1"]);
}
