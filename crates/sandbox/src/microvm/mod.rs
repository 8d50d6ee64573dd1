//! Micro-VM isolation: each task a machine with a kernel of its own, behind the same shim and the same seam as a
//! container task (docs/adr/0016). Here is what the agent adds: the kernel and the initramfs, the disks, the machine's size.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::hash::{Hash, Hasher};
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, UNIX_EPOCH};

use ferrogate_shim::machine::boot;
use ferrogate_shim::machine::config::{
    Accelerator, MachineConfig, Snapshot, SnapshotFiles, TRANSLATED_CODE_MIB, VmmConfig,
};
use ferrogate_shim::machine::wire::{BootStep, GUEST_NETWORK, GUEST_TASK_DIR};
use ferrogate_shim::protocol::Resources;

use crate::{ContainerSpec, Error, Made, TaskSandboxSpec};

mod identity;
mod initramfs;
mod layers;
mod probe;
mod program;
mod snapshots;
mod storage;
#[cfg(test)]
mod tests;

pub use ferrogate_shim::machine::boot::{BOOT_FILE, BootReport};
pub use ferrogate_shim::machine::config::Accelerator as MachineAccelerator;
pub use probe::{NoMachine, discard_probe, parts, probe};
pub use snapshots::{Size, SnapshotStatus, Snapshots};

const GUEST_PROGRAM: &str = "ferrogate-guest";
const KERNEL_FILE: &str = "vmlinux";
const MODULES_DIR: &str = "modules";
/// Begin of its name; what it is made of follows.
const INITRAMFS: &str = "initramfs";
/// Beside a kernel that finds its devices by ACPI only.
const ACPI_FILE: &str = "acpi";
/// What the guest's own kernel (a distribution's takes more than a minimal one), PID 1 and shim take; the task has its memory
/// beside it.
const GUEST_MEMORY_MIB: u64 = 128;
/// … and this part of the task's memory: what the kernel keeps of each page (1/64) and its hash tables (1/512).
const GUEST_MEMORY_PART: u64 = 56;
/// What the machine's program takes beside the guest's memory, and where it emulates, beside the translated code.
const VMM_MEMORY_MIB: u64 = 128;
/// … and this part of the guest's memory, for page tables: 1/512 of the host's, and with KVM as much again, and what finds
/// their entries.
const VMM_MEMORY_PART: u64 = 128;
/// What a Service Connect proxy in the task's cgroup takes.
const PROXY_MEMORY_MIB: u64 = 64;
/// … and its threads, with those of a Service Connect proxy beside it.
const VMM_PIDS_MAX: u64 = 64 + 256;
/// Of a task without a limit.
const MEMORY_MIB_DEFAULT: u64 = 512;
const BOOT_DEADLINE_KVM: Duration = Duration::from_secs(20);
const BOOT_DEADLINE_TCG: Duration = Duration::from_secs(120);
/// Nobody waits for a snapshot, and whatever else runs comes before it.
const MAKE_DEADLINE: Duration = Duration::from_secs(600);
const CPU_UNITS_PER_VCPU: u32 = 1024;
/// An emulated machine's share while it boots, of cgroup v1's scale: its kernel measures its timer then, and one that stands
/// still meanwhile measures wrongly. It is a matter of seconds.
const BOOT_CPU_SHARES: u64 = 8192;
/// `cpu.shares` at least, as Linux has it.
const CPU_SHARES_MIN: u64 = 2;
/// A guest that says nothing for this part of its boot's deadline is booted again: the last of three has half of it.
const HELLO_PART: u32 = 4;
/// Between two times that a guest is told the time. It is lost when it has answered none for three more.
const CLOCK_INTERVAL: Duration = Duration::from_secs(60);
const TSC_MEASURED: Duration = Duration::from_millis(20);
const TSC_READINGS: usize = 16;
const SNAPSHOTS_DIR: &str = "snapshots";
const MIB: u64 = 1 << 20;

/// Where an operator has what a machine boots.
#[derive(Clone, Debug)]
pub struct MachineOptions {
    /// A directory with `vmlinux` (an ELF image with a PVH entry), and `modules/` and `acpi` where the kernel needs them.
    pub kernel: PathBuf,
    /// The static program that is PID 1; `None`: `ferrogate-guest` beside the running program.
    pub guest: Option<PathBuf>,
    pub accelerator: Accelerator,
    /// For the initramfs, and disks of layers that are not the image store's.
    pub dir: PathBuf,
    /// From a machine's start to a guest that takes calls; `None`: what is plenty with this accelerator.
    pub boot_deadline: Option<Duration>,
}

/// What all machines of this host share.
#[derive(Clone, Debug)]
pub struct Machines {
    vmm: VmmConfig,
    boot_deadline: Duration,
    clock_interval: Duration,
    /// For disks of layers that are not the image store's.
    layers: PathBuf,
    maker: Arc<layers::Maker>,
    begin: Begin,
}

/// What machines begin with.
#[derive(Clone, Debug)]
enum Begin {
    /// Their kernel.
    Boot,
    /// A snapshot, where there is one of their size.
    Snapshots(Arc<Snapshots>),
    /// Their kernel, to be this snapshot.
    Make(SnapshotFiles),
}

/// What the steps of a machine's start are called among a task's.
pub const MACHINE_STEP: &str = "machine: ";

/// A task's machine began from a snapshot if its start has this step, and was booted if it has only others of
/// [`MACHINE_STEP`].
pub const RESTORED: &str = "machine: snapshot restored";

impl Machines {
    /// Finds QEMU and writes the initramfs. [`Error::Invalid`] says what is missing and how to get it. Blocking.
    pub fn new(options: &MachineOptions) -> Result<Self, Error> {
        let missing = |what: String, why: &str| Error::Invalid { what, why: why.to_owned() };
        let program = program::find().ok_or_else(|| {
            missing(
                "micro-VM isolation".into(),
                "there is no qemu-system-x86_64: install the package qemu-system-x86",
            )
        })?;
        if let Some(why) = layers::missing() {
            return Err(missing("micro-VM isolation".into(), &why));
        }
        let kernel = absolute(&options.kernel.join(KERNEL_FILE))
            .map_err(|_| missing(format!("kernel {}", options.kernel.display()), NO_KERNEL))?;
        let guest = match &options.guest {
            Some(guest) => guest.clone(),
            None => beside()?,
        };
        if !guest.is_file() {
            return Err(missing(format!("guest program {}", guest.display()), NO_GUEST));
        }
        fs::create_dir_all(&options.dir).map_err(io_error("make", &options.dir))?;
        let initramfs = write_initramfs(&options.dir, &guest, &options.kernel)?;
        remove_leftovers(&options.dir, &initramfs).map_err(io_error("tidy", &options.dir))?;
        let files = program::files(&program).map_err(io_error("find the libraries of", &program))?;
        let layers = options.dir.join("layers");
        let acpi = options.kernel.join(ACPI_FILE).exists();
        let accelerator = options.accelerator;
        let tsc_khz = (accelerator == Accelerator::Tcg).then(tsc_khz);
        let vmm = VmmConfig { program, files, kernel, initramfs, acpi, accelerator, tsc_khz };
        let boot_deadline = options.boot_deadline.unwrap_or(match options.accelerator {
            Accelerator::Kvm => BOOT_DEADLINE_KVM,
            Accelerator::Tcg => BOOT_DEADLINE_TCG,
        });
        let (clock_interval, maker) = (CLOCK_INTERVAL, Arc::default());
        Ok(Machines { vmm, boot_deadline, clock_interval, layers, maker, begin: Begin::Boot })
    }

    /// Has guests told the time so often, instead of once a minute.
    #[must_use]
    pub fn with_clock_interval(self, clock_interval: Duration) -> Self {
        Machines { clock_interval, ..self }
    }

    /// Has machines begin from snapshots, which are kept below `dir` and made from [`Snapshots::start`] on. `instance`
    /// is the cgroup of their makers, and nobody else's.
    #[must_use]
    pub fn with_snapshots(self, shim: &Path, dir: &Path, instance: &str) -> (Self, Arc<Snapshots>) {
        let snapshots =
            Snapshots::new(self.clone(), dir.join(SNAPSHOTS_DIR), shim.to_owned(), instance.to_owned());
        let snapshots = Arc::new(snapshots);
        (Machines { begin: Begin::Snapshots(Arc::clone(&snapshots)), ..self }, snapshots)
    }

    #[cfg(test)]
    fn of(vmm: VmmConfig) -> Self {
        let (layers, maker) = (PathBuf::new(), Arc::default());
        let (boot_deadline, clock_interval) = (BOOT_DEADLINE_TCG, CLOCK_INTERVAL);
        Machines { vmm, boot_deadline, clock_interval, layers, maker, begin: Begin::Boot }
    }

    /// The machine of a task. Blocking.
    pub(crate) fn config(
        &self,
        spec: &TaskSandboxSpec,
        etc: &[(&str, String)],
    ) -> Result<MachineConfig, Error> {
        let limited = |value: u64| (value > 0).then_some(value);
        let storage = match &spec.ephemeral_storage {
            Some(wanted) => Some(storage::make(wanted, &spec.dir)?),
            None => None,
        };
        let files = etc.iter().map(|(name, text)| (format!("etc/{name}"), text.clone()));
        let Size { vcpus, memory_mib, .. } = size(spec);
        let snapshot = match &self.begin {
            Begin::Boot => None,
            Begin::Snapshots(snapshots) => snapshots.take(size(spec)).map(Snapshot::Restore),
            Begin::Make(files) => Some(Snapshot::Make(files.clone())),
        };
        let boot_deadline = match snapshot {
            Some(Snapshot::Make(_)) => self.boot_deadline.max(MAKE_DEADLINE),
            _ => self.boot_deadline,
        };
        // A real processor has a real one's timer.
        let hello_deadline =
            (self.vmm.accelerator == Accelerator::Tcg).then_some(self.boot_deadline / HELLO_PART);
        Ok(MachineConfig {
            vmm: self.vmm.clone(),
            vcpus,
            memory_mib,
            boot_deadline_ms: boot_deadline.as_millis() as u64,
            hello_deadline_ms: hello_deadline.map(|deadline| deadline.as_millis() as u64),
            clock_interval_ms: self.clock_interval.as_millis() as u64,
            hostname: spec.hostname.clone(),
            limits: Resources::default(),
            files: files.collect::<BTreeMap<String, String>>(),
            resources: Resources {
                memory_max_bytes: limited(spec.memory_bytes),
                pids_max: spec.pids_max,
                ..Resources::default()
            },
            network_namespace: spec.network_namespace.clone(),
            storage,
            snapshot,
        })
    }

    /// Sets the limits of the machine's program on the host: the task's, and what it takes itself. What is returned holds
    /// while it boots.
    pub(crate) fn limit(machine: &mut MachineConfig, task: &Resources, cpu_units: u32) -> Resources {
        let beside_mib = VMM_MEMORY_MIB + TRANSLATED_CODE_MIB + PROXY_MEMORY_MIB;
        let memory_mib = machine.memory_mib + machine.memory_mib / VMM_MEMORY_PART + beside_mib;
        let without_quota = Resources {
            cpu_quota_us: None,
            cpu_period_us: None,
            memory_max_bytes: Some(memory_mib * MIB),
            pids_max: Some(VMM_PIDS_MAX),
            ..task.clone()
        };
        let (limits, boots) = match machine.vmm.accelerator {
            Accelerator::Kvm => {
                let (cpu_quota_us, cpu_period_us) = (task.cpu_quota_us, task.cpu_period_us);
                (Resources { cpu_quota_us, cpu_period_us, ..without_quota.clone() }, without_quota)
            }
            // An emulated processor at its full speed is slower than the least share of a real one; its share it has.
            Accelerator::Tcg => {
                let with = |shares| Resources { cpu_shares: Some(shares), ..without_quota.clone() };
                (with(u64::from(cpu_units).max(CPU_SHARES_MIN)), with(BOOT_CPU_SHARES))
            }
        };
        machine.limits = limits;
        boots
    }

    /// The layers of a container as disks, in the same order. Blocking.
    pub(crate) fn disks(&self, container: &ContainerSpec) -> Result<Vec<PathBuf>, Error> {
        container.layers.iter().map(|layer| self.maker.disk(&self.layers, layer)).collect()
    }
}

/// What of a task counts for what its machine is.
fn size(spec: &TaskSandboxSpec) -> Size {
    let task = Some(spec.memory_bytes / MIB).filter(|mib| *mib > 0).unwrap_or(MEMORY_MIB_DEFAULT);
    let storage_bytes = spec.ephemeral_storage.as_ref().map_or(0, |storage| storage.size_bytes);
    Size::of(spec.cpu_units, task, spec.network_namespace.is_some(), storage_bytes)
}

/// Of the machine of a task with this memory.
const fn machine_mib(task_mib: u64) -> u64 {
    GUEST_MEMORY_MIB + task_mib + task_mib / GUEST_MEMORY_PART
}

/// … and back; `None`: no task has such a machine.
const fn task_mib(machine_mib: u64) -> Option<u64> {
    let Some(grown) = machine_mib.checked_sub(GUEST_MEMORY_MIB) else { return None };
    let (whole, rest) = (grown / (GUEST_MEMORY_PART + 1), grown % (GUEST_MEMORY_PART + 1));
    if rest == GUEST_MEMORY_PART || grown == 0 { None } else { Some(whole * GUEST_MEMORY_PART + rest) }
}

/// How the machine of the task in this directory came up; nothing if it is not up. What it says of its snapshot is taken
/// note of, also where that failed it. Blocking.
pub(crate) fn booted(machines: Option<&Machines>, spec: &TaskSandboxSpec) -> Vec<Made> {
    let Ok(report) = boot::read(&spec.dir) else { return Vec::new() };
    let at = |us: u64| {
        UNIX_EPOCH + Duration::from_nanos(report.began_ns.max(0) as u64) + Duration::from_micros(us)
    };
    if let Some(Begin::Snapshots(snapshots)) = machines.map(|machines| &machines.begin) {
        match &report.not_restored {
            Some(why) => snapshots.failed(size(spec), at(0), why),
            None if report.restored => snapshots.restored(size(spec), at(0)),
            None => {}
        }
    }
    let mut began = at(0);
    let made = |step: &BootStep| {
        let ended = at(step.at_us).max(began);
        let step = format!("{MACHINE_STEP}{}", step.step).into();
        Made { step, began: std::mem::replace(&mut began, ended), ended }
    };
    report.steps.iter().map(made).collect()
}

/// The task as its guest sees it: the same, with the guest's paths.
pub(crate) fn guest_view(spec: &TaskSandboxSpec) -> TaskSandboxSpec {
    TaskSandboxSpec {
        dir: GUEST_TASK_DIR.into(),
        network_namespace: spec.network_namespace.as_ref().map(|_| GUEST_NETWORK.into()),
        ..spec.clone()
    }
}

/// What the host alone has cannot be seen in a guest.
pub(crate) fn check(container: &ContainerSpec) -> Result<(), Error> {
    match container.mounts.first() {
        None => Ok(()),
        Some(mount) => Err(Error::Invalid {
            what: format!("the mount of {} in container {:?}", mount.source.display(), container.id),
            why: "a task in a micro-VM sees no directory of its host: use a volume of the task".into(),
        }),
    }
}

/// How fast this host's clock counter runs, which an emulated guest sees as it is. A guest that is told wrong has a clock that
/// is wrong.
fn tsc_khz() -> u32 {
    let ticks = || {
        // SAFETY: the instruction reads a counter, and every x86-64 has it.
        unsafe { std::arch::x86_64::_rdtsc() }
    };
    // The one of some readings in which the least came between counter and clock: on a busy host that may be a long time.
    let reading = || {
        let readings = (0..TSC_READINGS).map(|_| {
            let before = ticks();
            let now = Instant::now();
            (ticks() - before, before, now)
        });
        readings
            .min_by_key(|(between, ..)| *between)
            .map_or_else(|| (ticks(), Instant::now()), |(_, t, now)| (t, now))
    };
    let (first, began) = reading();
    std::thread::sleep(TSC_MEASURED);
    let (last, ended) = reading();
    let khz = u128::from(last.saturating_sub(first)) * 1_000_000 / (ended - began).as_nanos().max(1);
    u32::try_from(khz).unwrap_or(u32::MAX)
}

const NO_KERNEL: &str =
    "there is no vmlinux in it: make one with `cargo xtask kernel`, or name another directory";
const NO_GUEST: &str =
    "there is no such file; it is installed beside the ferrogate program (`cargo xtask guest` makes it)";

fn beside() -> Result<PathBuf, Error> {
    let io = io_error("find the running program", Path::new("/proc/self/exe"));
    Ok(std::env::current_exe().map_err(io)?.with_file_name(GUEST_PROGRAM))
}

fn absolute(path: &Path) -> io::Result<PathBuf> {
    fs::canonicalize(path)
}

/// What former programs, kernels and crashes left: initramfs of other names, and what was half written.
fn remove_leftovers(dir: &Path, initramfs: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)?.flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let old = name.starts_with(INITRAMFS) && Some(&*entry.file_name()) != initramfs.file_name();
        if entry.path().is_file() && (old || crate::storage::is_abandoned(&name)) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Named by what is in it, so that machines of an older program keep theirs.
fn write_initramfs(dir: &Path, guest: &Path, kernel: &Path) -> Result<PathBuf, Error> {
    let mut modules: Vec<PathBuf> = match fs::read_dir(kernel.join(MODULES_DIR)) {
        Ok(entries) => entries.flatten().map(|entry| entry.path()).collect(),
        Err(_) => Vec::new(),
    };
    modules.sort();
    let mut content = std::hash::DefaultHasher::new();
    for path in modules.iter().map(PathBuf::as_path).chain([guest]) {
        use std::os::unix::fs::MetadataExt;
        let meta = fs::metadata(path).map_err(io_error("read", path))?;
        (path.file_name(), meta.ino(), meta.size(), meta.mtime(), meta.mtime_nsec()).hash(&mut content);
    }
    let path = dir.join(format!("{INITRAMFS}-{:016x}.cpio", content.finish()));
    if !path.exists() {
        let fresh = crate::storage::tempfile_in(dir).map_err(io_error("write", &path))?;
        let file = File::options().write(true).open(&fresh).map_err(io_error("write", &fresh))?;
        initramfs::write(BufWriter::new(&file), guest, &modules)
            // Under its name it is whole, also after a crash of the host.
            .and_then(|()| file.sync_all())
            .and_then(|()| fs::rename(&fresh, &path))
            .map_err(io_error("write", &path))?;
    }
    // The machine's user reads it.
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644))
        .map_err(io_error("set the mode of", &path))?;
    absolute(&path).map_err(io_error("find", &path))
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error + use<> {
    let path = path.to_owned();
    move |source| Error::Io { action, path, source }
}
