//! Snapshots of machines that have booted and were never used: one for each size, made in the background, so that the next
//! machine of that size begins where the boot ends.
//!
//! ```text
//! <dir>/<base>-<size>/memory     what all its machines share until they write to it
//!                    /state      processors and devices
//!                    /digest     of both; checked once by each agent that finds them
//!      /making/                  the one under way, with its machine's task
//! ```
//!
//! `base` is everything but the size that a machine's state depends on ([`identity`]): what an upgrade leaves behind has another
//! name, is never used, and removed at the next start. A snapshot that fails a machine is removed and made anew; that
//! machine is booted instead, or lost if it knew its set-up. One that was only late stays, unless it is so again and again.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use ferrogate_shim::cgroup::Cgroups;
use ferrogate_shim::machine::boot::NotRestored;
use ferrogate_shim::machine::config::SnapshotFiles;
use ferrogate_shim::protocol::Resources;
use serde::{Serialize, Serializer};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::{
    CPU_UNITS_PER_VCPU, MEMORY_MIB_DEFAULT, MIB, Machines, identity, io_error, machine_mib, task_mib,
};
use crate::{ContainerSandbox, EphemeralStorage, Error, Isolation, Sandbox, TaskSandboxSpec};

/// Of `stat`'s count.
const BLOCK_BYTES: u64 = 512;
const DIGEST_FILE: &str = "digest";
const MAKING_DIR: &str = "making";
const TASK_DIR: &str = "task";
const TEMPLATES_DIR: &str = "templates";
const GIB: u64 = 1 << 30;
/// Fargate's.
const STORAGE_BYTES_DEFAULT: u64 = 20 * GIB;
/// The least recently used go first: each takes some 60 MB of disk, and of a larger machine's memory what its kernel has
/// written, a part of [`WRITTEN_PART`].
const SNAPSHOTS_MAX: usize = 8;
/// … and of disk no more than this together.
const DISK_BYTES_MAX: u64 = 2 << 30;
/// A machine with more memory is booted.
const MEMORY_MIB_MAX: u64 = 16 << 10;
/// What making one leaves free of the disk, beside what it takes itself.
const DISK_BYTES_FREE: u64 = 1 << 30;
const WRITTEN_MIB: u64 = 128;
const WRITTEN_PART: u64 = 50;
/// Sizes that wait for theirs. One that a task wants takes the place of one that none has had yet; others ask again with
/// their next task.
const WANTED_MAX: usize = 8;
/// A size whose snapshot fails so often is booted …
const FAILURES_MAX: u32 = 3;
/// … for so long. Then it is tried once more, and given up again with the next failure.
const GIVEN_UP: Duration = Duration::from_secs(60 * 60);
/// A snapshot that was late so often, and never in time in between, hangs.
const LATE_MAX: u32 = 3;
/// A busy host is late with all machines at once, and with those that begin while they are booted instead, which takes so long
/// at most: all of them count once.
const LATE_APART: Duration = Duration::from_secs(150);
/// A machine has its interface when it is made, and that of a snapshot is nobody's.
const NOBODYS_NAMESPACE: &str = "/nobody";
const TASK_ID: &str = "snapshot";
/// Of cgroup v1's scale, where all tasks of a node together have 1024. It is made while tasks run, and for none of them; but a
/// guest that is kept waiting while it boots may measure its timer wrongly, and what is made of it is made once for all.
const CPU_SHARES: u64 = 1024;

/// What a snapshot is of, beside its base.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size {
    pub vcpus: u32,
    /// Of the machine: the task's and what its guest takes.
    pub memory_mib: u64,
    pub has_interface: bool,
    /// The task's ephemeral storage, which is mounted in it; 0: it has none.
    pub storage_bytes: u64,
}

impl Size {
    /// Of the smallest task there is in Fargate, and the most common.
    const FIRST: Size = Size {
        vcpus: 1,
        memory_mib: machine_mib(MEMORY_MIB_DEFAULT),
        has_interface: true,
        storage_bytes: STORAGE_BYTES_DEFAULT,
    };

    /// Of the machine of a task.
    pub(super) fn of(cpu_units: u32, memory_mib: u64, has_interface: bool, storage_bytes: u64) -> Size {
        let vcpus = cpu_units.div_ceil(CPU_UNITS_PER_VCPU).max(1);
        Size { vcpus, memory_mib: machine_mib(memory_mib), has_interface, storage_bytes }
    }

    fn name(self) -> String {
        let Size { vcpus, memory_mib, has_interface, storage_bytes } = self;
        let interface = if has_interface { "net" } else { "alone" };
        format!("{vcpus}-{memory_mib}-{interface}-{storage_bytes}")
    }

    fn parse(name: &str) -> Option<Size> {
        let mut parts = name.split('-');
        let size = Size {
            vcpus: parts.next()?.parse().ok()?,
            memory_mib: parts.next()?.parse().ok()?,
            has_interface: parts.next()? == "net",
            // Of a program whose snapshots had none the size is still of use.
            storage_bytes: parts.next().map_or(Ok(STORAGE_BYTES_DEFAULT), str::parse).ok()?,
        };
        let before = size.name().strip_suffix(&format!("-{STORAGE_BYTES_DEFAULT}")) == Some(name);
        (before || size.name() == name).then_some(size)
    }
}

/// Why none is to be made of this size on a disk with so much left; it would be one of many gigabytes, or the last thing the
/// disk has room for.
fn refusal(size: Size, free_bytes: u64) -> Option<String> {
    let needed = (size.memory_mib / WRITTEN_PART + WRITTEN_MIB) * MIB + DISK_BYTES_FREE;
    if size.memory_mib > MEMORY_MIB_MAX {
        return Some(format!("none is made of a machine with more than {MEMORY_MIB_MAX} MiB of memory"));
    }
    (free_bytes < needed).then(|| {
        let (free_mib, needed_mib) = (free_bytes / MIB, needed / MIB);
        format!("its disk has {free_mib} MiB free, and {needed_mib} MiB are to be there for one to be made")
    })
}

impl Serialize for Size {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let interface = if self.has_interface { "" } else { ", no interface" };
        let storage = match self.storage_bytes {
            STORAGE_BYTES_DEFAULT => String::new(),
            0 => ", no storage".to_owned(),
            bytes => format!(", {} GiB of storage", bytes.div_ceil(GIB)),
        };
        serializer
            .collect_str(&format_args!("{} vCPU, {} MiB{interface}{storage}", self.vcpus, self.memory_mib))
    }
}

/// For people and programs to look at.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SnapshotStatus {
    /// Sizes whose machines begin from a snapshot.
    pub ready: Vec<Size>,
    pub making: Option<Size>,
    pub wanted: Vec<Size>,
    /// Why there is none yet, or will be none.
    pub failed: BTreeMap<String, String>,
}

/// The snapshots of one host's machines.
#[derive(Debug)]
pub struct Snapshots {
    dir: PathBuf,
    shim: PathBuf,
    /// Cgroup of the machines they are taken of.
    instance: String,
    machines: Machines,
    state: Mutex<State>,
    asked: Notify,
    /// Of [`Snapshots::run`].
    maker: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug, Default)]
struct State {
    ready: BTreeMap<Size, Ready>,
    wanted: BTreeSet<Size>,
    making: Option<Size>,
    failed: BTreeMap<Size, Failed>,
    /// Sizes no machine has had yet.
    expected: BTreeSet<Size>,
}

impl State {
    /// The one to be made next: what a task has wanted comes before what none has had yet, and that is only made where
    /// nothing goes for it.
    fn next(&mut self) -> Option<Size> {
        let asked = self.wanted.difference(&self.expected).next().copied();
        if asked.is_none() && self.ready.len() >= SNAPSHOTS_MAX {
            self.wanted.clear();
        }
        let next = asked.or_else(|| self.wanted.first().copied())?;
        self.wanted.remove(&next);
        Some(next)
    }

    /// Room among those that wait: of those that none has had yet the largest makes way for one that a task wants.
    fn make_way(&mut self, size: Size) -> bool {
        if self.wanted.len() >= WANTED_MAX && !self.expected.contains(&size) {
            let last = self.wanted.iter().rfind(|waiting| self.expected.contains(waiting)).copied();
            if let Some(last) = last {
                self.wanted.remove(&last);
                self.expected.remove(&last);
            }
        }
        self.wanted.len() < WANTED_MAX
    }
}

#[derive(Debug)]
struct Failed {
    times: u32,
    why: String,
    /// The last time.
    at: SystemTime,
}

impl Failed {
    /// A clock that was set back since keeps nothing given up.
    fn is_given_up(&self) -> bool {
        let since = SystemTime::now().duration_since(self.at);
        self.times >= FAILURES_MAX && since.is_ok_and(|since| since < GIVEN_UP)
    }
}

/// How often a snapshot was late since it was last in time.
#[derive(Debug, Default)]
struct Late {
    times: u32,
    /// When the last machine began that was counted, or that was restored.
    last: Option<SystemTime>,
}

impl Late {
    /// Whether this machine counts.
    fn count(&mut self, began: SystemTime) -> bool {
        let counts = self.last.is_none_or(|last| last + LATE_APART <= began);
        if counts {
            *self = Late { times: self.times + 1, last: Some(began) };
        }
        counts
    }

    fn in_time(&mut self, began: SystemTime) {
        if self.last.is_none_or(|last| last <= began) {
            *self = Late { times: 0, last: Some(began) };
        }
    }
}

#[derive(Debug)]
struct Ready {
    files: SnapshotFiles,
    /// Of disk.
    bytes: u64,
    /// Since when machines can have begun from it, and not from one before it.
    since: SystemTime,
    used: SystemTime,
    late: Late,
}

impl Ready {
    fn new(files: SnapshotFiles, used: SystemTime) -> Ready {
        use std::os::unix::fs::MetadataExt;
        let taken = |path: &Path| fs::metadata(path).map_or(0, |meta| meta.blocks() * BLOCK_BYTES);
        let bytes = taken(&files.memory) + taken(&files.state);
        Ready { files, bytes, since: SystemTime::now(), used, late: Late::default() }
    }
}

impl Snapshots {
    pub(super) fn new(machines: Machines, dir: PathBuf, shim: PathBuf, instance: String) -> Self {
        let (state, maker) = (Mutex::default(), Mutex::default());
        Snapshots { dir, shim, instance, machines, state, asked: Notify::new(), maker }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn status(&self) -> SnapshotStatus {
        let state = self.state();
        SnapshotStatus {
            ready: state.ready.keys().copied().collect(),
            making: state.making,
            wanted: state.wanted.iter().copied().collect(),
            failed: state
                .failed
                .iter()
                .filter(|(size, _)| !state.ready.contains_key(size))
                .map(|(size, failed)| (size.name(), failed.why.clone()))
                .collect(),
        }
    }

    /// What a machine of this size begins from; where there is nothing yet it is made, and this one is booted.
    pub(super) fn take(&self, size: Size) -> Option<SnapshotFiles> {
        let mut state = self.state();
        state.expected.remove(&size);
        if let Some(ready) = state.ready.get_mut(&size) {
            ready.used = SystemTime::now();
            return Some(ready.files.clone());
        }
        self.want(&mut state, size);
        None
    }

    /// Tasks of this size may come. One is made for them if there is room; until it is used it is the first to go.
    pub fn expect(&self, cpu_units: u32, memory_mib: u64, storage_bytes: u64) {
        let size = Size::of(cpu_units, memory_mib, true, storage_bytes);
        let mut state = self.state();
        let all = state.ready.len() + state.wanted.len() + usize::from(state.making.is_some());
        let known =
            state.ready.contains_key(&size) || state.wanted.contains(&size) || state.making == Some(size);
        if !known && all < SNAPSHOTS_MAX && refusal(size, u64::MAX).is_none() {
            state.expected.insert(size);
            self.want(&mut state, size);
        }
    }

    fn want(&self, state: &mut State, size: Size) {
        // Whatever the disk has: that is looked at when it is to be made.
        if let Some(why) = refusal(size, u64::MAX) {
            state.failed.insert(size, Failed { times: 0, why, at: SystemTime::now() });
            return;
        }
        let given_up = state.failed.get(&size).is_some_and(Failed::is_given_up);
        if given_up || state.making == Some(size) || state.wanted.contains(&size) || !state.make_way(size) {
            return;
        }
        state.wanted.insert(size);
        self.asked.notify_one();
    }

    /// A machine that began at that time could not begin from the snapshot of its size, or did and was lost before it took
    /// calls. Heard more than once, and of several machines: what is said of one that has been made anew since is passed over.
    pub(super) fn failed(&self, size: Size, began: SystemTime, NotRestored { why, late }: &NotRestored) {
        let mut state = self.state();
        let Some(ready) = state.ready.get_mut(&size).filter(|ready| ready.since <= began) else { return };
        if *late {
            if !ready.late.count(began) {
                return;
            }
            let times = ready.late.times;
            tracing::warn!(size = size.name(), why, times, "a machine was not restored in time, and booted");
            if times < LATE_MAX {
                return;
            }
        }
        if let Some(gone) = state.ready.remove(&size) {
            remove(&gone);
            tracing::warn!(
                size = size.name(),
                why,
                "a snapshot failed a machine, which was booted instead or lost: it is made anew"
            );
            fail(&mut state, size, why);
            self.want(&mut state, size);
        }
    }

    /// … could: what failed before it was chance.
    pub(super) fn restored(&self, size: Size, began: SystemTime) {
        let mut state = self.state();
        let State { ready, failed, .. } = &mut *state;
        if let Some(ready) = ready.get_mut(&size).filter(|ready| ready.since <= began) {
            ready.late.in_time(began);
            failed.remove(&size);
        }
    }

    /// From now on snapshots are made, in the background.
    pub fn start(self: &Arc<Self>) {
        let running = tokio::spawn(Arc::clone(self).run());
        *self.maker.lock().unwrap_or_else(PoisonError::into_inner) = Some(running);
    }

    /// Ends and removes what an agent that was killed left under way below `dir`, as in [`Machines::with_snapshots`].
    /// Whether snapshots are made from now on or not: it may still run.
    pub async fn discard_interrupted(shim: &Path, dir: &Path, instance: &str) -> Result<(), Error> {
        discard(shim, &dir.join(super::SNAPSHOTS_DIR), instance).await
    }

    /// No more are made; what was under way is removed.
    pub async fn stop(&self) -> Result<(), Error> {
        let running = self.maker.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(running) = running {
            running.abort();
            // It makes nothing more from here on.
            let _ = running.await;
            discard(&self.shim, &self.dir, &self.instance).await?;
        }
        Ok(())
    }

    /// Finds what is there, then makes what is wanted, one at a time.
    async fn run(self: Arc<Self>) {
        let this = Arc::clone(&self);
        let found = tokio::task::spawn_blocking(move || this.find()).await;
        let base = match found {
            Ok(Ok(base)) => base,
            Ok(Err(error)) => {
                tracing::warn!(%error, dir = %self.dir.display(), "no snapshots: machines are booted");
                return;
            }
            Err(_) => return,
        };
        loop {
            let next = {
                let mut state = self.state();
                // One may have been asked for before it was found.
                let State { ready, wanted, .. } = &mut *state;
                wanted.retain(|size| !ready.contains_key(size));
                state.making = state.next();
                state.making
            };
            let Some(size) = next else {
                self.asked.notified().await;
                continue;
            };
            let free_bytes = rustix::fs::statvfs(&self.dir).map_or(0, |disk| disk.f_bavail * disk.f_frsize);
            if !self.has_room(size, free_bytes) {
                continue;
            }
            let began = std::time::Instant::now();
            let made = self.make(&base, size).await;
            let mut state = self.state();
            state.making = None;
            match made {
                Ok(files) => {
                    let took_ms = began.elapsed().as_millis() as u64;
                    tracing::info!(size = size.name(), took_ms, "snapshot of a booted machine made");
                    self.made(&mut state, size, files);
                }
                Err(why) => {
                    tracing::warn!(size = size.name(), why, "a snapshot of a booted machine cannot be made");
                    fail(&mut state, size, &why);
                    self.want(&mut state, size);
                }
            }
        }
    }

    /// What nobody has used is the first to go.
    fn made(&self, state: &mut State, size: Size, files: SnapshotFiles) {
        let unused = state.expected.contains(&size);
        let used = if unused { SystemTime::UNIX_EPOCH } else { SystemTime::now() };
        state.ready.insert(size, Ready::new(files, used));
        self.make_room(state);
    }

    /// For the one that is to be made next. Without, it is not, until a machine of its size is to begin again.
    fn has_room(&self, size: Size, free_bytes: u64) -> bool {
        let Some(why) = refusal(size, free_bytes) else { return true };
        tracing::warn!(size = size.name(), why, "no snapshot of a booted machine is made");
        let mut state = self.state();
        state.making = None;
        let none = Failed { times: 0, why: String::new(), at: SystemTime::now() };
        state.failed.entry(size).or_insert(none).why = why;
        false
    }

    /// The base of this host's machines. What is of another is removed, but its sizes are wanted again. Blocking.
    fn find(&self) -> io::Result<String> {
        use std::os::unix::fs::DirBuilderExt;
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.dir)?;
        let base = identity::base(&self.machines.vmm, &self.shim)?;
        let mut wanted = BTreeSet::new();
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let Some((of, size)) = name.split_once('-') else { continue };
            let Some(size) = Size::parse(size) else { continue };
            match whole(&entry.path()) {
                Ok(files) if of == base => {
                    let used = entry.metadata()?.modified()?;
                    self.state().ready.insert(size, Ready::new(files, used));
                }
                checked => {
                    if let Err(why) = checked {
                        tracing::warn!(snapshot = name, %why, "a snapshot is damaged: it is made anew");
                    }
                    // Of a program that gave its machines other sizes it may be of no task's.
                    wanted.extend(task_mib(size.memory_mib).map(|_| size));
                    fs::remove_dir_all(entry.path())?;
                }
            }
        }
        let mut state = self.state();
        if state.ready.is_empty() && wanted.is_empty() {
            wanted.insert(Size::FIRST);
        }
        for size in wanted {
            self.want(&mut state, size);
        }
        self.make_room(&mut state);
        Ok(base)
    }

    fn make_room(&self, state: &mut State) {
        let bytes = |state: &State| state.ready.values().map(|ready| ready.bytes).sum::<u64>();
        while state.ready.len() > SNAPSHOTS_MAX || bytes(state) > DISK_BYTES_MAX {
            let oldest = state.ready.iter().min_by_key(|(_, ready)| ready.used).map(|(size, _)| *size);
            match oldest.and_then(|size| state.ready.remove(&size)) {
                Some(gone) => remove(&gone),
                None => return,
            }
        }
    }

    /// Boots a machine, and keeps what it is when it has booted.
    async fn make(&self, base: &str, size: Size) -> Result<SnapshotFiles, String> {
        let making = self.dir.join(MAKING_DIR);
        let task = making.join(TASK_DIR);
        let (instance, fresh) = (self.instance.as_str(), in_dir(&making));
        let sandbox = ContainerSandbox::with_shim(self.shim.clone()).map_err(words)?;
        discard(&self.shim, &self.dir, instance).await.map_err(words)?;
        fs::create_dir(&making).map_err(|error| format!("{}: {error}", making.display()))?;
        let lower = Resources { cpu_shares: Some(CPU_SHARES), ..Resources::default() };
        let cgroup = Path::new("ferrogate").join(instance);
        let made = Cgroups::detect().and_then(|cgroups| cgroups.create(&cgroup, &lower));
        made.map_err(|error| format!("cgroup {}: {error}", cgroup.display()))?;
        let machines = Machines { begin: super::Begin::Make(fresh.clone()), ..self.machines.clone() };
        let sandbox = sandbox.with_machines(Arc::new(machines));
        let spec = TaskSandboxSpec {
            id: TASK_ID.into(),
            instance: instance.to_owned(),
            dir: task.clone(),
            isolation: Isolation::MicroVm,
            cpu_units: size.vcpus * CPU_UNITS_PER_VCPU,
            memory_bytes: task_mib(size.memory_mib).unwrap_or(MEMORY_MIB_DEFAULT) * MIB,
            pids_max: None,
            shared_pid_namespace: false,
            network_namespace: size.has_interface.then(|| NOBODYS_NAMESPACE.into()),
            hostname: TASK_ID.into(),
            hosts: String::new(),
            resolv_conf: String::new(),
            ephemeral_storage: (size.storage_bytes > 0).then(|| EphemeralStorage {
                size_bytes: size.storage_bytes,
                templates: task.join(TEMPLATES_DIR),
            }),
        };
        let ended = match sandbox.create(spec).await {
            // Never answered: its shim ends when the snapshot is taken, and knows otherwise why it cannot be.
            Ok(machine) => machine.stats().await.err().map_or_else(String::new, words),
            Err(error) => words(error),
        };
        sandbox.discard(&task, instance, TASK_ID).await.map_err(words)?;
        let place = self.dir.join(format!("{base}-{}", size.name()));
        let kept = tokio::task::spawn_blocking(move || {
            // What came of it is the size of a machine's memory.
            keep(&making, &fresh, &place).inspect_err(|_| drop(fs::remove_dir_all(&making)))
        });
        let kept = kept.await;
        match kept.map_err(|panic| panic.to_string())? {
            Ok(files) => Ok(files),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(ended),
            Err(error) => Err(error.to_string()),
        }
    }
}

/// The one under way, with its machine and that machine's cgroup.
async fn discard(shim: &Path, dir: &Path, instance: &str) -> Result<(), Error> {
    let making = dir.join(MAKING_DIR);
    let sandbox = ContainerSandbox::with_shim(shim.to_owned())?;
    sandbox.discard(&making.join(TASK_DIR), instance, TASK_ID).await?;
    match fs::remove_dir_all(&making) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error("remove", &making)(error)),
        _ => ContainerSandbox::remove_instance(instance).await,
    }
}

/// Machines that began from it keep what they have.
fn remove(gone: &Ready) {
    if let Some(dir) = gone.files.memory.parent()
        && let Err(error) = fs::remove_dir_all(dir)
    {
        tracing::warn!(%error, dir = %dir.display(), "a snapshot that is not wanted stays");
    }
}

fn words(error: Error) -> String {
    error.to_string()
}

fn fail(state: &mut State, size: Size, why: &str) {
    let times = state.failed.get(&size).map_or(0, |failed| failed.times) + 1;
    state.failed.insert(size, Failed { times, why: why.to_owned(), at: SystemTime::now() });
}

fn in_dir(dir: &Path) -> SnapshotFiles {
    SnapshotFiles { memory: dir.join("memory"), state: dir.join("state") }
}

/// Puts it where later agents find it; it is there whole, or not at all.
fn keep(making: &Path, fresh: &SnapshotFiles, place: &Path) -> io::Result<SnapshotFiles> {
    let digest = identity::digest(fresh)?;
    let path = making.join(DIGEST_FILE);
    fs::write(&path, digest)?;
    fs::File::open(&path)?.sync_all()?;
    if place.exists() {
        fs::remove_dir_all(place)?;
    }
    fs::rename(making, place)?;
    Ok(in_dir(place))
}

/// What is in it is what was put there.
fn whole(dir: &Path) -> io::Result<SnapshotFiles> {
    let files = in_dir(dir);
    let expected = fs::read_to_string(dir.join(DIGEST_FILE))?;
    if identity::digest(&files)? != expected {
        return Err(io::Error::other("it is not what was written"));
    }
    Ok(files)
}

#[cfg(test)]
#[path = "snapshots_tests.rs"]
mod tests;
