//! Processes of our own inside a container's PID namespace: the reaper a task definition asks for
//! (`initProcessEnabled`), and the holder of a namespace that several containers share.
//!
//! Both are copies of the shim that never execute anything, so they start in no time and share its memory: what of it is
//! not their container's was let go of, and wiped, when they began ([`crate::memory`]).

use std::io;
use std::os::fd::RawFd;
use std::path::Path;

use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount};

use super::{Stop, step, sys};
use crate::seccomp::Filter;

/// `nobody`, everywhere.
const NOBODY: u32 = 65_534;

/// Returns in a new child, which goes on to execute the program. The caller itself becomes the reaper: forwards
/// signals, collects orphans, ends with the program's exit code.
pub(super) fn split() -> io::Result<()> {
    block_signals();
    // SAFETY: the process has one thread. Not `clone3`: the filter that is in force answers it with ENOSYS.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            sys::reset_signals();
            // Dies with the reaper also where that one is not the namespace's first process.
            sys::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as u64)
        }
        program => {
            // The error pipe too: it ends when the program's own copy does.
            let _ = sys::close_all_but(None);
            let _ = sys::prctl(libc::PR_SET_DUMPABLE, 0);
            let _ = sys::prctl(libc::PR_SET_CHILD_SUBREAPER, 1);
            reap(Some(program))
        }
    }
}

/// Returns in a new child in the PID namespace that was joined; the caller itself tells the child's pid and ends.
///
/// A process must not be seen in a container's PID namespace as long as it has rights the container lacks: with
/// SYS_PTRACE (which a task definition may add) the container could take it over. This one is born without.
pub(super) fn be_born(errors: RawFd) -> io::Result<()> {
    // SAFETY: like fork, but the child becomes the shim's own. One thread; raw, as libc has no call for it.
    let pid = unsafe { libc::syscall(libc::SYS_clone, libc::CLONE_PARENT | libc::SIGCHLD, 0, 0, 0, 0) };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            sys::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as u64)?;
            super::process::exit_without_shim(errors);
            Ok(())
        }
        pid => {
            super::tell_pid(errors, pid as i32);
            sys::exit(0)
        }
    }
}

/// The first process of a PID namespace shared by a task's containers. It can do nothing and see nothing: a
/// container that may trace (SYS_PTRACE) could otherwise borrow its rights.
pub(super) fn hold(scratch: &Path, filter: &Filter, errors: RawFd) -> Stop {
    match shrink(scratch, filter, errors) {
        Ok(()) => {
            let _ = sys::close_all_but(None);
            reap(None)
        }
        Err(stop) => stop,
    }
}

fn shrink(scratch: &Path, filter: &Filter, errors: RawFd) -> Result<(), Stop> {
    let tie = || sys::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as u64);
    step("tie the process to its shim", tie())?;
    step("hide from tracing", sys::prctl(libc::PR_SET_DUMPABLE, 0))?;
    block_signals();
    let flags = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    step("make mounts private", mount_change("/", flags).map_err(io::Error::from))?;
    let empty = || -> io::Result<()> {
        mount(
            "tmpfs",
            scratch,
            "tmpfs",
            MountFlags::RDONLY | MountFlags::NOEXEC | MountFlags::NOSUID,
            c"size=0",
        )?;
        std::env::set_current_dir(scratch)?;
        rustix::process::pivot_root(".", ".")?;
        unmount(".", UnmountFlags::DETACH)?;
        std::env::set_current_dir("/")
    };
    step("change to an empty root", empty())?;
    step("close descriptors", sys::close_all_but(Some(errors)))?;
    step("leave all groups", sys::set_groups(&[]))?;
    step("become nobody", sys::set_gid(NOBODY).and_then(|()| sys::set_uid(NOBODY)))?;
    step("drop capabilities", sys::set_capabilities(0, 0, 0))?;
    // Cleared with the change of user.
    step("tie the process to its shim", tie())?;
    step("hide from tracing", sys::prctl(libc::PR_SET_DUMPABLE, 0))?;
    step("set no_new_privs", sys::prctl(libc::PR_SET_NO_NEW_PRIVS, 1))?;
    step("install the seccomp filter", filter.install())
}

fn all_signals() -> libc::sigset_t {
    // SAFETY: all zeroes is a valid set, which is then filled.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut set);
        set
    }
}

/// Blocked signals are kept for `sigwaitinfo`, also those a first process would never get otherwise.
fn block_signals() {
    let set = all_signals();
    // SAFETY: the set is valid, the old one is not wanted.
    unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut()) };
}

fn reap(program: Option<i32>) -> ! {
    let set = all_signals();
    loop {
        // SAFETY: the set is valid; no information on the signal is asked for.
        let signal = unsafe { libc::sigwaitinfo(&raw const set, std::ptr::null_mut()) };
        match (signal, program) {
            (libc::SIGCHLD, _) => {
                if let Some(code) = collect(program) {
                    sys::exit(code);
                }
            }
            (1.., Some(program)) => {
                // SAFETY: our own child, not yet collected.
                unsafe { libc::kill(program, signal) };
            }
            _ => {}
        }
    }
}

/// The program's exit code once it has ended.
fn collect(program: Option<i32>) -> Option<i32> {
    let mut code = None;
    loop {
        let mut status = 0;
        // SAFETY: the status outlives the call.
        let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) };
        if pid <= 0 {
            return code;
        }
        if Some(pid) == program {
            code = Some(exit_code(status));
        }
    }
}

/// A wait status as shells tell it.
pub(crate) fn exit_code(status: i32) -> i32 {
    if libc::WIFSIGNALED(status) { 128 + libc::WTERMSIG(status) } else { libc::WEXITSTATUS(status) }
}
