//! From the kernel's first program to an open port.

use std::ffi::CStr;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ferrogate_shim::machine::wire::{BootStep, PORT_NAME};
use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountFlags, mount, mount_move, mount_remount};
use rustix::process::{chdir, chroot};
use rustix::time::{ClockId, clock_gettime};

/// The root after the initramfs; anything that can be written is on the ephemeral disk instead.
const ROOT: &str = "/new";
/// In the initramfs, for a kernel that does not have everything built in; loaded in the order of their names.
const MODULES: &str = "/modules";
/// The command line's are only for what is built in.
const MODULE_PARAMETERS: &[(&str, &CStr)] = &[("-scsi_mod.ko", c"scan=manual default_dev_flags=0x26000000")];
/// Longest a driver may take to find the port.
const PORT_DEADLINE: Duration = Duration::from_secs(10);
const PORT_INTERVAL: Duration = Duration::from_millis(1);
const PORTS: &str = "/sys/class/virtio-ports";
/// `OOM_SCORE_ADJ_MIN`
const OOM_SCORE_NEVER: &str = "-1000";

/// File system, place below the root, options.
const MOUNTS: &[(&str, &str, MountFlags)] = &[
    ("devtmpfs", "dev", MountFlags::NOSUID.union(MountFlags::NOEXEC)),
    ("proc", "proc", MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC)),
    ("sysfs", "sys", MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC)),
    ("cgroup2", "sys/fs/cgroup", MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC)),
];

/// When what was done.
#[derive(Default)]
pub struct Steps(Vec<BootStep>);

impl Steps {
    pub(crate) fn done(&mut self, step: &str) {
        let since_boot = clock_gettime(ClockId::Boottime);
        let at_us = since_boot.tv_sec as u64 * 1_000_000 + since_boot.tv_nsec as u64 / 1000;
        self.0.push(BootStep { step: step.to_owned(), at_us });
    }

    pub(crate) fn take(&mut self) -> Vec<BootStep> {
        std::mem::take(&mut self.0)
    }
}

/// A reader that went away is an error of the write, not the end of everything.
pub(crate) fn signals() -> Result<(), String> {
    // SAFETY: ignoring has no handler.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
    rustix::process::umask(Mode::from_raw_mode(0o022));
    Ok(())
}

/// Short of memory, the guest's kernel ends a container's program, and never this one or the shim, which is its child: with
/// them the machine would go.
pub(crate) fn spare() -> Result<(), String> {
    fs::write("/proc/self/oom_score_adj", OOM_SCORE_NEVER)
        .map_err(|error| format!("cannot set oom_score_adj: {error}"))
}

/// A root of its own in memory: the initramfs is the one file system no container can leave by `pivot_root`.
pub(crate) fn mounts() -> Result<(), String> {
    let failed = |what: &str, error: io::Error| format!("cannot {what}: {error}");
    modules().map_err(|error| failed("load a module", error))?;
    let make = |path: &Path| fs::create_dir_all(path).map_err(|error| failed("make a directory", error));
    make(Path::new(ROOT))?;
    mount("tmpfs", ROOT, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, c"mode=0755")
        .map_err(|error| failed("mount the root", error.into()))?;
    for (kind, place, flags) in MOUNTS {
        let place = Path::new(ROOT).join(place);
        make(&place)?;
        mount(*kind, &place, *kind, *flags, None)
            .map_err(|error| failed(&format!("mount {kind}"), error.into()))?;
    }
    for directory in ["run", "tmp", "etc"] {
        make(&Path::new(ROOT).join(directory))?;
    }
    // This program's own file: who gets to see it by `/proc` of a process of ours writes nothing into it.
    mount_remount("/", MountFlags::BIND | MountFlags::RDONLY, c"")
        .map_err(|error| failed("make the initramfs read-only", error.into()))?;
    chdir(ROOT)
        .and_then(|()| mount_move(".", "/"))
        .and_then(|()| chroot("."))
        .and_then(|()| chdir("/"))
        .map_err(|error| failed("enter the root", error.into()))
}

fn modules() -> io::Result<()> {
    let mut files: Vec<PathBuf> = match fs::read_dir(MODULES) {
        Ok(entries) => entries.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>()?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    files.sort();
    for path in files {
        let file = File::open(&path)?;
        let name = path.to_string_lossy();
        let known = MODULE_PARAMETERS.iter().find(|(module, _)| name.ends_with(module));
        let parameters = known.map_or(c"", |(_, parameters)| parameters);
        // SAFETY: the descriptor is open, the parameters are a C string.
        let done = unsafe { libc::syscall(libc::SYS_finit_module, file.as_raw_fd(), parameters.as_ptr(), 0) };
        let error = io::Error::last_os_error();
        if done != 0 && error.raw_os_error() != Some(libc::EEXIST) {
            return Err(io::Error::new(error.kind(), format!("{}: {error}", path.display())));
        }
    }
    Ok(())
}

/// The link to the host.
pub(crate) fn port() -> Result<File, String> {
    let deadline = Instant::now() + PORT_DEADLINE;
    loop {
        if let Some(name) = find_port() {
            let path = Path::new("/dev").join(name);
            let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK;
            return rustix::fs::open(&path, flags, Mode::empty())
                .map(File::from)
                .map_err(|error| format!("cannot open {}: {error}", path.display()));
        }
        if Instant::now() > deadline {
            return Err(format!("there is no virtio-serial port {PORT_NAME:?}"));
        }
        std::thread::sleep(PORT_INTERVAL);
    }
}

fn find_port() -> Option<std::ffi::OsString> {
    fs::read_dir(PORTS).ok()?.flatten().find_map(|entry| {
        let name = fs::read_to_string(entry.path().join("name")).ok()?;
        (name.trim() == PORT_NAME).then(|| entry.file_name())
    })
}

/// Ends the machine: its host does not start it again.
pub fn reset() -> ! {
    loop {
        // SAFETY: numbers only; with this command the call does not return.
        unsafe { libc::reboot(libc::RB_AUTOBOOT) };
        std::thread::sleep(Duration::from_secs(1));
    }
}
