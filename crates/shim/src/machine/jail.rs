//! Where a machine's program runs: as a user nobody else is, in namespaces of its own, with a root of a few read-only
//! files. What it needs beyond that it gets as open descriptors.

use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Gid, Mode, Uid, chown, makedev, mknodat};
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_change, mount_remount, unmount,
};
use rustix::process::{chdir, pivot_root};

use super::opener;
use super::vmm::VmmError;
use crate::cgroup::Cgroups;
use crate::launcher::{self, Launched, Stop, step, sys};

/// Its user and group is this and the shim's own pid, which no other shim has at the same time. Far above what systems
/// and container engines give away.
const USER_BASE: u32 = 0x7000_0000;
const ROOT_OPTIONS: &std::ffi::CStr = c"mode=0755,size=256k";
/// Directory the root is mounted over, below the task's.
const ROOT_DIR: &str = "machine";
const OPEN_FILES_MAX: u64 = 1024;
const NULL: (&str, u32, u32) = ("dev/null", 1, 3);
const KVM: (&str, u32, u32) = ("dev/kvm", 10, 232);
/// First of the descriptors the program gets: out of the way of the shim's own.
pub(super) const DESCRIPTORS_FROM: RawFd = 200;

pub(super) struct Jail<'a> {
    pub(super) program: &'a Path,
    /// Beginning with the program's name.
    pub(super) arguments: &'a [String],
    /// The task's directory.
    pub(super) root: &'a Path,
    /// On the host, and in the jail.
    pub(super) files: &'a [(&'a Path, &'a Path)],
    pub(super) kvm: bool,
    pub(super) cgroups: &'a Cgroups,
    pub(super) cgroup: &'a Path,
    /// Its stdout and stderr.
    pub(super) words: BorrowedFd<'a>,
    /// From [`DESCRIPTORS_FROM`] on.
    pub(super) descriptors: &'a [BorrowedFd<'a>],
    /// Its memory has a file, which the other end of this opens for it.
    pub(super) opener: Option<BorrowedFd<'a>>,
    /// No file becomes longer by it; `None`: it is to write one.
    pub(super) file_bytes: Option<u64>,
}

pub(super) fn spawn(jail: &Jail<'_>) -> Result<Launched, VmmError> {
    let flags =
        libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS | libc::CLONE_NEWNET;
    let user = USER_BASE + std::process::id();
    launcher::spawn(flags as u64, None, |_| match enter(jail, user) {
        Ok(never) => match never {},
        Err(stop) => stop,
    })
    .map_err(|failure| VmmError::Start(failure.message))
}

fn enter(jail: &Jail<'_>, user: u32) -> Result<std::convert::Infallible, Stop> {
    sys::reset_signals();
    step("begin a session", rustix::process::setsid().map_err(io::Error::from))?;
    step("join the task's cgroup", jail.cgroups.join(jail.cgroup))?;
    // Not before: where namespaces are borders of delegation (`nsdelegate`, which systemd asks for), nobody joins a cgroup
    // outside of their own.
    step("make a cgroup namespace", sys::unshare(libc::CLONE_NEWCGROUP))?;
    step("set up stdio", stdio(jail))?;
    let words = |text: &[u8]| CString::new(text).map_err(io::Error::other);
    let program = step("name the program", words(jail.program.as_os_str().as_bytes()))?;
    let arguments: Result<Vec<CString>, io::Error> =
        jail.arguments.iter().map(|argument| words(argument.as_bytes())).collect();
    let arguments = step("name the arguments", arguments)?;
    step("build the root", build(jail, user))?;
    step("limit core dumps", sys::set_rlimit(libc::RLIMIT_CORE, 0, 0))?;
    let files = (OPEN_FILES_MAX, OPEN_FILES_MAX);
    step("limit open files", sys::set_rlimit(libc::RLIMIT_NOFILE, files.0, files.1))?;
    if let Some(bytes) = jail.file_bytes {
        step("limit files", sys::set_rlimit(libc::RLIMIT_FSIZE, bytes, bytes))?;
    }
    step("leave all groups", sys::set_groups(&[]))?;
    step("become its group", sys::set_gid(user))?;
    step("become its user", sys::set_uid(user))?;
    step("give up new privileges", sys::prctl(libc::PR_SET_NO_NEW_PRIVS, 1))?;
    // Last: a change of user takes it away.
    step("tie the machine to its shim", sys::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as u64))?;
    if let Some(socket) = jail.opener {
        step("have its memory opened", opener::listen(socket))?;
    }
    step("hand over descriptors", hand_over(jail))?;
    let error = sys::execute(&program, &arguments, &[]);
    Err(Stop::refused(format!("cannot execute {}: {error}", jail.program.display())))
}

fn stdio(jail: &Jail<'_>) -> io::Result<()> {
    rustix::stdio::dup2_stdin(File::open("/dev/null")?)?;
    rustix::stdio::dup2_stdout(jail.words)?;
    Ok(rustix::stdio::dup2_stderr(jail.words)?)
}

fn build(jail: &Jail<'_>, user: u32) -> io::Result<()> {
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    let root = jail.root.join(ROOT_DIR);
    fs::create_dir_all(&root)?;
    mount("tmpfs", &root, "tmpfs", MountFlags::NOSUID | MountFlags::NOEXEC, ROOT_OPTIONS)?;
    fs::create_dir(root.join("dev"))?;
    for (host, inside) in jail.files {
        let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", host.display()));
        show(host, &root.join(inside.strip_prefix("/").unwrap_or(inside))).map_err(named)?;
    }
    device(&root, NULL, user)?;
    if jail.kvm {
        device(&root, KVM, user)?;
    }
    mount_remount(&root, MountFlags::NOSUID | MountFlags::NOEXEC | MountFlags::RDONLY, ROOT_OPTIONS)?;
    chdir(&root)?;
    pivot_root(".", ".")?;
    unmount(".", UnmountFlags::DETACH)?;
    Ok(chdir("/")?)
}

/// A file or directory of the host, read-only.
fn show(host: &Path, inside: &Path) -> io::Result<()> {
    // Libraries are links as often as not: the file is shown under the name it is looked for by.
    let host: PathBuf = fs::canonicalize(host)?;
    if let Some(parent) = inside.parent() {
        fs::create_dir_all(parent)?;
    }
    if host.is_dir() {
        fs::create_dir_all(inside)?;
    } else {
        File::create(inside)?;
    }
    mount_bind(&host, inside)?;
    let flags = MountFlags::BIND | MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV;
    Ok(mount_remount(inside, flags, c"")?)
}

fn device(root: &Path, (name, major, minor): (&str, u32, u32), user: u32) -> io::Result<()> {
    let path = root.join(name);
    mknodat(CWD, &path, FileType::CharacterDevice, Mode::from_raw_mode(0o600), makedev(major, minor))?;
    Ok(chown(&path, Some(Uid::from_raw(user)), Some(Gid::from_raw(user)))?)
}

/// The descriptors get their places; everything else is closed by the execution.
fn hand_over(jail: &Jail<'_>) -> io::Result<()> {
    let check = |done: libc::c_long| if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) };
    for (place, from) in (DESCRIPTORS_FROM..).zip(jail.descriptors) {
        // SAFETY: numbers only. A shim that starts its machine has not nearly as many descriptors.
        check(libc::c_long::from(unsafe { libc::dup2(from.as_raw_fd(), place) }))?;
    }
    let after = DESCRIPTORS_FROM + jail.descriptors.len() as RawFd;
    for (first, last) in [(3, DESCRIPTORS_FROM - 1), (after, RawFd::MAX)] {
        // SAFETY: numbers only.
        check(unsafe { libc::syscall(libc::SYS_close_range, first, last, libc::CLOSE_RANGE_CLOEXEC) })?;
    }
    Ok(())
}
