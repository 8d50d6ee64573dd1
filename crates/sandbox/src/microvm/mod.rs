//! Micro-VM isolation: each task a machine with a kernel of its own, behind the same shim and the same seam as a
//! container task (docs/adr/0016). Here is what the agent adds: the kernel and the initramfs, the disks, the machine's size.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ferrogate_shim::machine::config::{Accelerator, MachineConfig, VmmConfig};
use ferrogate_shim::machine::wire::{GUEST_NETWORK, GUEST_TASK_DIR};
use ferrogate_shim::protocol::Resources;

use crate::{ContainerSpec, Error, TaskSandboxSpec};

mod initramfs;
mod layers;
mod probe;
mod program;
mod storage;

pub use ferrogate_shim::machine::config::Accelerator as MachineAccelerator;
pub use ferrogate_shim::machine::{BOOT_FILE, BootReport};
pub use probe::probe;

const GUEST_PROGRAM: &str = "ferrogate-guest";
const KERNEL_FILE: &str = "vmlinux";
const MODULES_DIR: &str = "modules";
/// Beside a kernel that finds its devices by ACPI only.
const ACPI_FILE: &str = "acpi";
/// What the guest's own kernel, PID 1 and shim take; the task has its memory beside it.
const GUEST_MEMORY_MIB: u64 = 64;
/// What the machine's program takes beside the guest's memory, translated code of an emulated CPU among it.
const VMM_MEMORY_MIB: u64 = 192;
/// … and its threads.
const VMM_PIDS_MAX: u64 = 64;
/// Of a task without a limit.
const MEMORY_MIB_DEFAULT: u64 = 512;
const BOOT_DEADLINE_KVM: Duration = Duration::from_secs(20);
const BOOT_DEADLINE_TCG: Duration = Duration::from_secs(120);
const CPU_UNITS_PER_VCPU: u32 = 1024;
const TSC_MEASURED: Duration = Duration::from_millis(20);
const MIB: u64 = 1 << 20;

/// Where an operator has what a machine boots.
#[derive(Clone, Debug)]
pub struct MachineOptions {
    /// A directory with `vmlinux` (an ELF image with a PVH entry), and `modules/` and `acpi` where the kernel needs them.
    pub kernel: PathBuf,
    /// The static program that is PID 1; `None`: `ferrogate-guest` beside the running program.
    pub guest: Option<PathBuf>,
    pub accelerator: Accelerator,
    /// For disks of layers and the initramfs.
    pub dir: PathBuf,
    /// From a machine's start to a guest that takes calls; `None`: what is plenty with this accelerator.
    pub boot_deadline: Option<Duration>,
}

/// What all machines of this host share.
#[derive(Clone, Debug)]
pub struct Machines {
    vmm: VmmConfig,
    boot_deadline: Duration,
    layers: PathBuf,
}

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
        Ok(Machines { vmm, boot_deadline, layers })
    }

    /// The machine of a task. Blocking.
    pub(crate) fn config(
        &self,
        spec: &TaskSandboxSpec,
        etc: &[(&str, String)],
    ) -> Result<MachineConfig, Error> {
        let limited = |value: u64| (value > 0).then_some(value);
        let memory_mib = limited(spec.memory_bytes / MIB).unwrap_or(MEMORY_MIB_DEFAULT);
        let storage = match &spec.ephemeral_storage {
            Some(wanted) => Some(storage::make(wanted, &spec.dir)?),
            None => None,
        };
        let files = etc.iter().map(|(name, text)| (format!("etc/{name}"), text.clone()));
        Ok(MachineConfig {
            vmm: self.vmm.clone(),
            vcpus: spec.cpu_units.div_ceil(CPU_UNITS_PER_VCPU).max(1),
            memory_mib: memory_mib + GUEST_MEMORY_MIB,
            boot_deadline_ms: self.boot_deadline.as_millis() as u64,
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
        })
    }

    /// Sets the limits of the machine's program on the host: the task's, and what it takes itself. What is returned holds
    /// while it boots.
    pub(crate) fn limit(machine: &mut MachineConfig, task: &Resources) -> Resources {
        machine.limits = Resources {
            memory_max_bytes: Some((machine.memory_mib + VMM_MEMORY_MIB) * MIB),
            pids_max: Some(VMM_PIDS_MAX),
            ..task.clone()
        };
        Resources { cpu_quota_us: None, cpu_period_us: None, ..machine.limits.clone() }
    }

    /// The layers of a container as disks, in the same order. Blocking.
    pub(crate) fn disks(&self, container: &ContainerSpec) -> Result<Vec<PathBuf>, Error> {
        container.layers.iter().map(|layer| layers::disk(&self.layers, layer)).collect()
    }
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

/// How fast this host's clock counter runs, which an emulated guest sees as it is.
fn tsc_khz() -> u32 {
    let ticks = || {
        // SAFETY: the instruction reads a counter, and every x86-64 has it.
        unsafe { std::arch::x86_64::_rdtsc() }
    };
    let (began, first) = (std::time::Instant::now(), ticks());
    std::thread::sleep(TSC_MEASURED);
    let (last, took) = (ticks(), began.elapsed());
    let khz = u128::from(last - first) * 1_000_000 / took.as_nanos().max(1);
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

/// Named by what is in it, so that machines of an older program keep theirs.
fn write_initramfs(dir: &Path, guest: &Path, kernel: &Path) -> Result<PathBuf, Error> {
    let mut modules: Vec<PathBuf> = match fs::read_dir(kernel.join(MODULES_DIR)) {
        Ok(entries) => entries.flatten().map(|entry| entry.path()).collect(),
        Err(_) => Vec::new(),
    };
    modules.sort();
    let mut name = String::from("initramfs");
    for path in modules.iter().map(PathBuf::as_path).take(1).chain([guest]) {
        use std::os::unix::fs::MetadataExt;
        let meta = fs::metadata(path).map_err(io_error("read", path))?;
        name.push_str(&format!("-{:x}-{:x}-{:x}", meta.ino(), meta.size(), meta.mtime_nsec() ^ meta.mtime()));
    }
    let path = dir.join(format!("{name}.cpio"));
    if !path.exists() {
        let fresh = crate::storage::tempfile_in(dir).map_err(io_error("write", &path))?;
        let file = File::options().write(true).open(&fresh).map_err(io_error("write", &fresh))?;
        initramfs::write(BufWriter::new(file), guest, &modules)
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
