//! QEMU's `microvm` machine: no PCI, no firmware of note, a handful of virtio devices.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::Errno;
use rustix::process::{Signal, pidfd_send_signal};
use serde_json::{Value, json};

use super::boot::{Boot, VMM_STEP};
use super::config::{Accelerator, DISK_BYTES, MachineConfig, TRANSLATED_CODE_MIB};
use super::jail::{self, Jail};
use super::opener::{self, MEMORY};
use super::qmp::Qmp;
use super::vmm::{Started, Vmm, VmmError};
use super::wire::{PORT_NAME, STORAGE_VARIABLE};
use crate::cgroup::Cgroups;
use crate::launcher::Launched;

/// Where the jail has them.
const KERNEL: &str = "/kernel";
const INITRAMFS: &str = "/initramfs";
/// Descriptors the program begins with, in the order they are given to the jail.
const LINK_FD: i32 = jail::DESCRIPTORS_FROM;
const CONTROL_FD: i32 = LINK_FD + 1;
const CONSOLE_FD: i32 = LINK_FD + 2;
const DISK_FD: i32 = LINK_FD + 3;
const TAP_FD: i32 = LINK_FD + 4;
/// Of the machine's own disk; those of the disks that come are above.
const DISK_SET: u32 = 0;
/// `console`: for the log, with what the kernel warns of. `reboot=t`: the machine has nothing else that could reset it.
/// `oops`, `panic=-1`: a kernel that is broken ends, at once.
/// `scan`: the guest looks for a disk when it is told of it, and for no other. `flags`: nor for what the disk says of itself
/// beyond its size (`BLIST_NO_DIF`, `_SKIP_VPD_PAGES`, `_NO_RSOC`). `expedited`: what waits for a grace period of
/// RCU, as who joins a cgroup does, does not wait for the next ticks.
const KERNEL_LINE: &str = "console=ttyS0 quiet loglevel=5 reboot=t oops=panic panic=-1 random.trust_cpu=on \
     scsi_mod.scan=manual scsi_mod.default_dev_flags=0x26000000 rcupdate.rcu_expedited=1 bdev_allow_write_mounted=1 \
     rdinit=/init";
const KERNEL_LINE_WITHOUT_ACPI: &str = "acpi=off";
/// Nothing of what an emulated CPU's clock shows is worth measuring again and again. `smp`: the kernel's code is not written
/// over for the one processor there is; all of it that was translated would be again.
const KERNEL_LINE_EMULATED: &str = "tsc=reliable no_timer_check nokaslr noreplace-smp mitigations=off";

/// Longest until it has its memory, and until a snapshot is saved.
const BEGIN_DEADLINE: Duration = Duration::from_secs(6);
const INTERVAL: Duration = Duration::from_millis(1);
/// Longest from the signal until nothing of it writes any more.
const KILLED_DEADLINE: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };
/// The first port is kept for a console: ours is the second, and each there could be has two queues.
const PORTS: &str = "virtio-serial-device,max_ports=2";
const DISK_NODE: &str = "disk";
/// Of a descriptor the program is given.
const STATE_NAME: &str = "state";
const WORDS_BYTES_MAX: u64 = 2 << 10;

pub(super) struct Qemu {
    process: Launched,
    control: Qmp,
}

/// What a machine has for memory, and begins with.
pub(super) enum Memory<'a> {
    /// Its own, and its kernel's first instruction.
    Fresh,
    /// A file, which is to be a snapshot's.
    Written(&'a File),
    /// A snapshot: its file shared with all other machines until it is written to. Both are only read. It is to run by
    /// `until`.
    Restored { memory: &'a File, state: &'a File, until: Instant },
}

impl Memory<'_> {
    fn file(&self) -> Option<&File> {
        match self {
            Memory::Fresh => None,
            Memory::Written(file) | Memory::Restored { memory: file, .. } => Some(file),
        }
    }
}

/// Where a machine runs.
pub(super) struct Place<'a> {
    /// The task's.
    pub(super) directory: &'a Path,
    pub(super) cgroups: &'a Cgroups,
    /// What the machine counts to.
    pub(super) cgroup: &'a Path,
}

/// Starts the program in its jail. `tap` is the other end of its network interface, if it has one. Waits for nothing, but
/// returns a machine that is to be restored when it runs.
pub(super) fn start(
    config: &MachineConfig,
    place: &Place<'_>,
    tap: Option<BorrowedFd<'_>>,
    memory: &Memory<'_>,
    boot: &mut Boot,
) -> Result<Started, VmmError> {
    let pair = || UnixStream::pair().map_err(VmmError::io("make a socket"));
    let (link, guest_link) = pair()?;
    let (control, guest_control) = pair()?;
    let (console, guest_console) = pair()?;
    let (words, words_writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
        .map_err(|error| VmmError::Io { what: "make a pipe", source: error.into() })?;
    let (opener, asked) = pair()?;
    let disk = disk(config).map_err(VmmError::io("open the machine's disk"))?;
    let disk_bytes = disk.metadata().map_err(VmmError::io("see the machine's disk"))?.len();
    let vmm = &config.vmm;
    let mut files: Vec<(&Path, &Path)> =
        vmm.files.iter().map(|file| (file.as_path(), file.as_path())).collect();
    files.push((&vmm.kernel, Path::new(KERNEL)));
    files.push((&vmm.initramfs, Path::new(INITRAMFS)));
    let mut descriptors =
        vec![guest_link.as_fd(), guest_control.as_fd(), guest_console.as_fd(), disk.as_fd()];
    descriptors.extend(tap);
    let jail = Jail {
        program: &vmm.program,
        arguments: &arguments(config, tap.is_some(), memory),
        root: place.directory,
        files: &files,
        kvm: vmm.accelerator == Accelerator::Kvm,
        cgroups: place.cgroups,
        cgroup: place.cgroup,
        words: words_writer.as_fd(),
        descriptors: &descriptors,
        opener: memory.file().map(|_| asked.as_fd()),
        file_bytes: match memory {
            Memory::Written(_) => None,
            Memory::Fresh | Memory::Restored { .. } => Some(disk_bytes),
        },
    };
    let process = jail::spawn(&jail)?;
    // They end with the program then, also for who waits for its answer or reads what it said last.
    drop((guest_link, guest_control, guest_console, asked, words_writer));
    let mut qemu = Qemu { process, control: Qmp::new(control) };
    if let Err(error) = qemu.begin(memory, &opener, boot) {
        qemu.kill();
        return Err(with_words(error, words));
    }
    Ok(Started { vmm: Box::new(qemu), link, console: [OwnedFd::from(console), words] })
}

/// Every machine has one, so that a restored one has what its snapshot had: the task's storage, or what is nobody's.
fn disk(config: &MachineConfig) -> io::Result<File> {
    if let Some(storage) = &config.storage {
        return File::options().read(true).write(true).open(&storage.path);
    }
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::NOEXEC_SEAL;
    let nobodys = match memfd_create("disk", flags) {
        // Linux before 6.3.
        Err(Errno::INVAL) => memfd_create("disk", MemfdFlags::CLOEXEC),
        made => made,
    };
    let nobodys = File::from(nobodys?);
    nobodys.set_len(DISK_BYTES)?;
    Ok(nobodys)
}

/// Why a program that has ended did so, by its own account.
fn with_words(error: VmmError, words: OwnedFd) -> VmmError {
    let mut text = String::new();
    // One that could not be killed in time may write still.
    let _ = rustix::io::ioctl_fionbio(&words, true);
    let _ = File::from(words).take(WORDS_BYTES_MAX).read_to_string(&mut text);
    let text: String = text.trim().chars().filter(|letter| !letter.is_control()).collect();
    if text.is_empty() { error } else { VmmError::Start(format!("{error} ({text})")) }
}

fn arguments(config: &MachineConfig, has_tap: bool, memory: &Memory<'_>) -> Vec<String> {
    let MachineConfig { vmm, vcpus, memory_mib, .. } = config;
    let on = |value: bool| if value { "on" } else { "off" };
    let (accelerator, cpu) = match vmm.accelerator {
        Accelerator::Kvm => ("kvm".to_owned(), "host"),
        Accelerator::Tcg => (format!("tcg,tb-size={TRANSLATED_CODE_MIB}"), "max"),
    };
    let program = vmm.program.to_string_lossy().into_owned();
    // `mem-merge`: pages that are one because they hold the same tell who has the one what the other holds. `rtc`: where it is
    // emulated. The kernel of a guest with neither that nor KVM's clock waits a second for it.
    let mut machine = format!(
        "microvm,acpi={},mem-merge=off,pcie=off,usb=off,rtc=auto,isa-serial=on,auto-kernel-cmdline=on",
        on(vmm.acpi)
    );
    let mut backed = Vec::new();
    if memory.file().is_some() {
        machine.push_str(",memory-backend=memory");
        let share = on(matches!(memory, Memory::Written(_)));
        let file =
            format!("memory-backend-file,id=memory,mem-path={MEMORY},size={memory_mib}M,share={share}");
        backed.extend(["-object".to_owned(), file]);
    }
    if matches!(memory, Memory::Restored { .. }) {
        backed.extend(["-incoming".to_owned(), "defer".to_owned()]);
    }
    let port = format!("virtserialport,chardev=link,name={PORT_NAME}");
    let (vcpus, size) = (vcpus.to_string(), format!("{memory_mib}M"));
    let line = kernel_line(config);
    let console = format!("socket,id=console,fd={CONSOLE_FD}");
    let control = format!("socket,id=control,fd={CONTROL_FD}");
    let link = format!("socket,id=link,fd={LINK_FD}");
    let disk = format!("fd={DISK_FD},set={DISK_SET}");
    let node = block(DISK_NODE, DISK_SET, false).to_string();
    let device = format!("virtio-blk-device,drive={DISK_NODE},werror=report,rerror=report");
    // Four devices: a fifth may have the interrupt of the clock's chip (read of QEMU's numbers, not seen).
    let words: &[&str] = &[
        &program,
        "-nodefaults",
        "-no-user-config",
        "-no-reboot",
        "-display",
        "none",
        "-sandbox",
        "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
        "-machine",
        &machine,
        "-accel",
        &accelerator,
        "-cpu",
        cpu,
        "-smp",
        &vcpus,
        "-m",
        &size,
        "-kernel",
        KERNEL,
        "-initrd",
        INITRAMFS,
        "-append",
        &line,
        "-chardev",
        &console,
        "-serial",
        "chardev:console",
        "-chardev",
        &control,
        "-mon",
        "chardev=control,mode=control",
        "-chardev",
        &link,
        "-device",
        PORTS,
        "-device",
        &port,
        "-device",
        "virtio-scsi-device,id=disks,hotplug=off",
        "-add-fd",
        &disk,
        "-blockdev",
        &node,
        "-device",
        &device,
    ];
    let network = [
        "-netdev".to_owned(),
        format!("tap,id=network,fd={TAP_FD},vhost=off"),
        "-device".to_owned(),
        "virtio-net-device,netdev=network".to_owned(),
    ];
    let network = network.into_iter().filter(|_| has_tap);
    words.iter().map(|word| (*word).to_owned()).chain(network).chain(backed).collect()
}

/// What is behind a disk: a file that was handed over.
fn block(node: &str, set: u32, read_only: bool) -> Value {
    json!({
        "driver": "raw",
        "node-name": node,
        "read-only": read_only,
        "discard": "unmap",
        "file": { "driver": "file", "filename": format!("/dev/fdset/{set}"), "locking": "off" },
    })
}

fn kernel_line(config: &MachineConfig) -> String {
    let vmm = &config.vmm;
    let mut line = KERNEL_LINE.to_owned();
    if !vmm.acpi {
        line = format!("{line} {KERNEL_LINE_WITHOUT_ACPI}");
    }
    if vmm.accelerator == Accelerator::Tcg {
        line = format!("{line} {KERNEL_LINE_EMULATED}");
    }
    if let Some(khz) = vmm.tsc_khz {
        line = format!("{line} tsc_early_khz={khz}");
    }
    if let Some(storage) = &config.storage {
        line = format!("{line} {STORAGE_VARIABLE}={}", storage.bytes);
    }
    line
}

impl Qemu {
    fn begin(&mut self, memory: &Memory<'_>, opener: &UnixStream, boot: &mut Boot) -> Result<(), VmmError> {
        let Some(file) = memory.file() else { return Ok(()) };
        let until = match memory {
            Memory::Restored { until, .. } => *until,
            Memory::Fresh | Memory::Written(_) => Instant::now() + BEGIN_DEADLINE,
        };
        opener::answer(opener, file, until).map_err(VmmError::io("give the machine its memory"))?;
        let Memory::Restored { state, .. } = memory else { return Ok(()) };
        self.control.set_until(Some(until));
        self.control.greet()?;
        boot.done(VMM_STEP);
        self.migrates()?;
        // It stays where it is: nobody is to be told of a new place.
        self.control.execute("migrate-set-parameters", json!({ "announce-rounds": 0 }), None)?;
        self.control.execute("getfd", json!({ "fdname": STATE_NAME }), Some(state.as_fd()))?;
        self.control.execute("migrate-incoming", json!({ "uri": format!("fd:{STATE_NAME}") }), None)?;
        self.wait("query-status", until, |status| match status {
            "inmigrate" => None,
            // As it was saved.
            "paused" => Some(Ok(())),
            other => Some(Err(other.to_owned())),
        })?;
        self.control.execute("cont", json!({}), None)?;
        self.control.set_until(None);
        Ok(())
    }

    /// Memory that is in a file of its own is not in the stream.
    fn migrates(&mut self) -> Result<(), VmmError> {
        let wanted = json!({ "capabilities": [{ "capability": "x-ignore-shared", "state": true }] });
        self.control.execute("migrate-set-capabilities", wanted, None).map(drop)
    }

    /// Asks again and again until the status is one that is waited for.
    fn wait(
        &mut self,
        command: &'static str,
        until: Instant,
        reached: impl Fn(&str) -> Option<Result<(), String>>,
    ) -> Result<(), VmmError> {
        loop {
            let answer = self.control.execute(command, json!({}), None)?;
            let status = answer.get("status").and_then(Value::as_str).unwrap_or_default();
            match reached(status) {
                Some(Ok(())) => return Ok(()),
                Some(Err(why)) => {
                    return Err(VmmError::Broken { command, why: format!("the status is {why:?}") });
                }
                None if Instant::now() > until => {
                    let why = format!("the status is {status:?} still");
                    return Err(VmmError::Broken { command, why });
                }
                None => std::thread::sleep(INTERVAL),
            }
        }
    }
}

impl Vmm for Qemu {
    fn pid(&self) -> i32 {
        self.process.pid
    }

    fn first_word(&self) -> Option<BorrowedFd<'_>> {
        self.control.ungreeted()
    }

    fn hear_first_word(&mut self) -> Result<(), VmmError> {
        self.control.greet()
    }

    fn save(&mut self, state: File) -> Result<(), VmmError> {
        self.control.execute("stop", json!({}), None)?;
        self.migrates()?;
        self.control.execute("getfd", json!({ "fdname": STATE_NAME }), Some(state.as_fd()))?;
        self.control.execute("migrate", json!({ "uri": format!("fd:{STATE_NAME}") }), None)?;
        self.wait("query-migrate", Instant::now() + BEGIN_DEADLINE, |status| match status {
            "completed" => Some(Ok(())),
            "failed" | "cancelled" => Some(Err(status.to_owned())),
            _ => None,
        })
    }

    fn attach(&mut self, target: u32, file: File) -> Result<(), VmmError> {
        let (set, node) = (target + 1, format!("disk{target}"));
        self.control.execute("add-fd", json!({ "fdset-id": set }), Some(file.as_fd()))?;
        self.control.execute("blockdev-add", block(&node, set, true), None)?;
        let device = json!({
            "driver": "scsi-hd",
            "id": format!("target{target}"),
            "bus": "disks.0",
            "drive": node,
            "channel": 0,
            "scsi-id": target,
            "lun": 0,
            // A full disk of the host's is the guest's error; by itself the machine would stand still.
            "werror": "report",
            "rerror": "report",
        });
        self.control.execute("device_add", device, None).map(drop)
    }

    fn kill(&mut self) {
        // It may have ended by itself.
        let _ = pidfd_send_signal(&self.process.pidfd, Signal::KILL);
        // The next one may have the same disk.
        let mut ended = [PollFd::new(&self.process.pidfd, PollFlags::IN)];
        let _ = poll(&mut ended, Some(&KILLED_DEADLINE));
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        self.kill();
    }
}
