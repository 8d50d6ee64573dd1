//! QEMU's `microvm` machine: no PCI, no firmware of note, a handful of virtio devices.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use rustix::process::{Signal, pidfd_send_signal};
use serde_json::json;

use super::config::{Accelerator, MachineConfig, VmmConfig};
use super::jail::{self, Jail};
use super::qmp::Qmp;
use super::vmm::{Started, Vmm, VmmError};
use super::wire::PORT_NAME;
use crate::cgroup::Cgroups;
use crate::launcher::Launched;

/// Where the jail has them.
const KERNEL: &str = "/kernel";
const INITRAMFS: &str = "/initramfs";
/// Descriptors the program begins with, in the order they are given to the jail.
const LINK_FD: i32 = jail::DESCRIPTORS_FROM;
const CONTROL_FD: i32 = LINK_FD + 1;
const CONSOLE_FD: i32 = LINK_FD + 2;
const TAP_FD: i32 = LINK_FD + 3;
/// `console`: for the log. `reset=t`: the machine has nothing else that could reset it. `panic=-1`: at once.
const KERNEL_LINE: &str = "console=ttyS0 quiet loglevel=4 reboot=t panic=-1 random.trust_cpu=on rdinit=/init";
const KERNEL_LINE_WITHOUT_ACPI: &str = "acpi=off";
/// Nothing of what an emulated CPU's clock shows is worth measuring again and again.
const KERNEL_LINE_EMULATED: &str = "tsc=reliable no_timer_check nokaslr mitigations=off";

pub(super) struct Qemu {
    process: Launched,
    control: Qmp,
}

/// Starts the program in its jail. `directory` is the task's, `cgroup` what the machine counts to, `tap` the other end of its
/// network interface, if it has one.
pub(super) fn start(
    config: &MachineConfig,
    directory: &Path,
    cgroups: &Cgroups,
    cgroup: &Path,
    tap: Option<BorrowedFd<'_>>,
) -> Result<Started, VmmError> {
    let pair = || UnixStream::pair().map_err(VmmError::io("make a socket"));
    let (link, guest_link) = pair()?;
    let (control, guest_control) = pair()?;
    let (console, guest_console) = pair()?;
    let (words, words_writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
        .map_err(|error| VmmError::Io { what: "make a pipe", source: error.into() })?;
    let vmm = &config.vmm;
    let mut files: Vec<(&Path, &Path)> =
        vmm.files.iter().map(|file| (file.as_path(), file.as_path())).collect();
    files.push((&vmm.kernel, Path::new(KERNEL)));
    files.push((&vmm.initramfs, Path::new(INITRAMFS)));
    let mut descriptors = vec![guest_link.as_fd(), guest_control.as_fd(), guest_console.as_fd()];
    descriptors.extend(tap);
    let jail = Jail {
        program: &vmm.program,
        arguments: &arguments(config, tap.is_some()),
        root: directory,
        files: &files,
        kvm: vmm.accelerator == Accelerator::Kvm,
        cgroups,
        cgroup,
        words: words_writer.as_fd(),
        descriptors: &descriptors,
    };
    let process = jail::spawn(&jail)?;
    Ok(Started {
        vmm: Box::new(Qemu { process, control: Qmp::new(control) }),
        link,
        console: [OwnedFd::from(console), words],
    })
}

fn arguments(config: &MachineConfig, has_tap: bool) -> Vec<String> {
    let MachineConfig { vmm, vcpus, memory_mib, .. } = config;
    let on = |value: bool| if value { "on" } else { "off" };
    let (accelerator, cpu) = match vmm.accelerator {
        Accelerator::Kvm => ("kvm", "host"),
        Accelerator::Tcg => ("tcg", "max"),
    };
    let program = vmm.program.to_string_lossy().into_owned();
    let machine = format!(
        "microvm,acpi={},pcie=off,usb=off,rtc=off,isa-serial=on,auto-kernel-cmdline=on",
        on(vmm.acpi)
    );
    let port = format!("virtserialport,chardev=link,name={PORT_NAME}");
    let (vcpus, memory) = (vcpus.to_string(), format!("{memory_mib}M"));
    let line = kernel_line(vmm);
    let console = format!("socket,id=console,fd={CONSOLE_FD}");
    let control = format!("socket,id=control,fd={CONTROL_FD}");
    let link = format!("socket,id=link,fd={LINK_FD}");
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
        accelerator,
        "-cpu",
        cpu,
        "-smp",
        &vcpus,
        "-m",
        &memory,
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
        "virtio-serial-device",
        "-device",
        &port,
        "-object",
        "rng-builtin,id=entropy",
        "-device",
        "virtio-rng-device,rng=entropy",
        "-device",
        "virtio-scsi-device,id=disks",
    ];
    let network = [
        "-netdev".to_owned(),
        format!("tap,id=network,fd={TAP_FD},vhost=off"),
        "-device".to_owned(),
        "virtio-net-device,netdev=network".to_owned(),
    ];
    let network = network.into_iter().filter(|_| has_tap);
    words.iter().map(|word| (*word).to_owned()).chain(network).collect()
}

fn kernel_line(vmm: &VmmConfig) -> String {
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
    line
}

impl Vmm for Qemu {
    fn pid(&self) -> i32 {
        self.process.pid
    }

    fn attach(&mut self, target: u32, file: File, read_only: bool) -> Result<(), VmmError> {
        let (set, node) = (target + 1, format!("disk{target}"));
        self.control.execute("add-fd", json!({ "fdset-id": set }), Some(file.as_fd()))?;
        let block = json!({
            "driver": "raw",
            "node-name": node,
            "read-only": read_only,
            "discard": "unmap",
            "file": { "driver": "file", "filename": format!("/dev/fdset/{set}"), "locking": "off" },
        });
        self.control.execute("blockdev-add", block, None)?;
        let device = json!({
            "driver": "scsi-hd",
            "id": format!("target{target}"),
            "bus": "disks.0",
            "drive": node,
            "channel": 0,
            "scsi-id": target,
            "lun": 0,
        });
        self.control.execute("device_add", device, None).map(drop)
    }

    fn kill(&mut self) {
        // It may have ended by itself.
        let _ = pidfd_send_signal(&self.process.pidfd, Signal::KILL);
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        self.kill();
    }
}
