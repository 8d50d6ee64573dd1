//! Starts processes in containers.
//!
//! ```text
//! shim ── clone3(new pid, mount, uts, ipc [, net] namespaces)
//!   │        child: join cgroups ─ cgroup namespace ─ join net ─ hostname ─ limits ─ build and enter the root
//!   │               ─ user ─ capabilities ─ no_new_privs ─ seccomp ─ exec
//!   └─ reads the error pipe: closed by exec, or says which step failed
//! ```
//!
//! The child is a copy of a process with one thread, so it may allocate and use the standard library. Until it has
//! become the container's user it is not dumpable, so nothing in the container can trace it or look through its
//! `/proc` entry; where a container has SYS_PTRACE, which overrides that, the caller freezes it meanwhile.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, WaitOptions, pidfd_send_signal, waitpid};

use crate::cgroup::Cgroups;
use crate::protocol::{Failure, FailureKind};
use crate::seccomp::Filter;
use crate::storage::Storage;

mod fill;
mod find;
mod init;
mod mounts;
mod plan;
mod process;
mod root;
pub(crate) mod sys;
mod terminal;
mod user;

pub(crate) use init::exit_code;
pub(crate) use plan::{Plan, ProcessPlan};
use process::Last;

/// Longest set-up of a process; only a hanging file system takes so long.
const START_DEADLINE: Duration = Duration::from_secs(60);
/// Longest failure a child may report.
const FAILURE_BYTES_MAX: usize = 64 << 10;

/// A process that has executed its program.
pub(crate) struct Launched {
    pub(crate) pid: i32,
    pub(crate) pidfd: OwnedFd,
}

/// Where a container is to run.
pub(crate) struct Place<'a> {
    /// The container's own directory.
    pub(crate) directory: &'a Path,
    pub(crate) cgroups: &'a Cgroups,
    pub(crate) cgroup: &'a Path,
    /// A PID namespace shared by the task's containers.
    pub(crate) pid_namespace: Option<BorrowedFd<'a>>,
    pub(crate) stdio: [BorrowedFd<'a>; 3],
    /// Where the terminal's own end goes, for a process that has one.
    pub(crate) console: Option<BorrowedFd<'a>>,
}

/// What only a container's first process makes.
pub(crate) struct Room<'a> {
    /// The container's name in its task.
    pub(crate) id: &'a str,
    pub(crate) storage: &'a Storage,
}

/// A process that fills volumes.
pub(crate) struct Filler {
    pub(crate) pid: i32,
    pub(crate) pidfd: OwnedFd,
    /// Says how many bytes were copied, a line each time, and at the end, if there is one, a failure as JSON. `None`: all
    /// was said.
    pub(crate) progress: Option<File>,
}

/// Why a child did not get to exec.
pub(crate) struct Stop(Failure);

impl Stop {
    fn cannot_execute(exit_code: i32, name: &str, why: &str) -> Stop {
        Stop(Failure::new(FailureKind::CannotExecute { exit_code }, format!("exec: \"{name}\": {why}")))
    }

    pub(crate) fn refused(message: String) -> Stop {
        Stop(Failure::new(FailureKind::System, message))
    }

    fn invalid(message: String) -> Stop {
        Stop(Failure::new(FailureKind::Invalid, message))
    }
}

pub(crate) fn step<T>(what: &str, result: io::Result<T>) -> Result<T, Stop> {
    result.map_err(|error| {
        Stop(Failure::new(FailureKind::System, format!("cannot {what}: {}", find::words(&error))))
    })
}

/// Copies what the image has into these volumes of a container, in a process of the host that lives in the container's
/// cgroup. It ends with exit code 0 if it succeeds.
pub(crate) fn fill(
    plan: &Plan,
    place: &Place<'_>,
    room: &Room<'_>,
    volumes: &[PathBuf],
) -> Result<Filler, Failure> {
    let failed = |what: &str, error: io::Error| {
        Failure::new(FailureKind::System, format!("cannot {what}: {}", find::words(&error)))
    };
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
        .map_err(|error| failed("make a pipe", error.into()))?;
    rustix::fs::fcntl_setfl(&reader, rustix::fs::OFlags::NONBLOCK)
        .map_err(|error| failed("read a pipe", error.into()))?;
    match sys::clone(libc::CLONE_NEWNS as u64).map_err(|error| failed("clone a process", error))? {
        sys::Cloned::Child => {
            drop(reader);
            let progress = File::from(writer);
            let begun = begin(place, Some(room.storage));
            match begun.and_then(|opened| root::fill(plan, place, room, opened.as_ref(), volumes, &progress))
            {
                Ok(()) => sys::exit(0),
                Err(stop) => {
                    report(&progress, &stop.0);
                    sys::exit(1)
                }
            }
        }
        sys::Cloned::Parent { pid, pidfd } => Ok(Filler { pid, pidfd, progress: Some(File::from(reader)) }),
    }
}

/// Starts a container's first process. `forget` is called in every child first and lets go of what is not the
/// container's: what the child is until it executes, and a reaper for ever, may be read by a container that traces.
pub(crate) fn launch(
    plan: &Plan,
    place: &Place<'_>,
    room: &Room<'_>,
    forget: &mut dyn FnMut(),
) -> Result<Launched, Failure> {
    let mut flags = libc::CLONE_NEWNS | libc::CLONE_NEWUTS | libc::CLONE_NEWIPC;
    if place.pid_namespace.is_none() {
        flags |= libc::CLONE_NEWPID;
    }
    if plan.network_namespace.is_none() {
        flags |= libc::CLONE_NEWNET;
    }
    spawn(flags as u64, place.pid_namespace, |errors| {
        forget();
        match set_up(plan, place, room) {
            Ok(()) => {
                let last = if plan.init { Last::BehindReaper } else { Last::Execute };
                process::become_and_execute(&plan.process, last, place.console, errors)
            }
            Err(stop) => stop,
        }
    })
}

/// Starts a further process in a container. `container` is its first process, `place` as that one's, `forget` as for
/// [`launch`].
pub(crate) fn execute(
    process: &ProcessPlan,
    container: BorrowedFd<'_>,
    place: &Place<'_>,
    forget: &mut dyn FnMut(),
) -> Result<Launched, Failure> {
    spawn(0, None, |errors| {
        forget();
        let joined = || -> Result<(), Stop> {
            begin(place, None)?;
            process::limits(process)?;
            let kinds = libc::CLONE_NEWNS
                | libc::CLONE_NEWUTS
                | libc::CLONE_NEWIPC
                | libc::CLONE_NEWNET
                | libc::CLONE_NEWCGROUP
                | libc::CLONE_NEWPID;
            step("enter the container", sys::set_namespace(container, kinds))
        };
        match joined() {
            Ok(()) => process::become_and_execute(process, Last::InNamespace, place.console, errors),
            Err(stop) => stop,
        }
    })
}

/// Starts the holder of a task's shared PID namespace. `scratch`: any directory; `forget` as for [`launch`].
pub(crate) fn hold_pid_namespace(
    cgroups: &Cgroups,
    cgroup: &Path,
    scratch: &Path,
    filter: &Filter,
    forget: &mut dyn FnMut(),
) -> Result<Launched, Failure> {
    let flags =
        libc::CLONE_NEWPID | libc::CLONE_NEWNS | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS | libc::CLONE_NEWNET;
    spawn(flags as u64, None, |errors| {
        forget();
        match join_cgroups(cgroups, cgroup) {
            Ok(()) => init::hold(scratch, filter, errors),
            Err(stop) => stop,
        }
    })
}

/// Clones, runs `child` there until it executes or stops, and waits for either.
pub(crate) fn spawn(
    flags: u64,
    pid_namespace: Option<BorrowedFd<'_>>,
    child: impl FnOnce(RawFd) -> Stop,
) -> Result<Launched, Failure> {
    let failed = |what: &str, error: io::Error| {
        Failure::new(FailureKind::System, format!("cannot {what}: {}", find::words(&error)))
    };
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
        .map_err(|error| failed("make a pipe", error.into()))?;
    let own = match pid_namespace {
        Some(shared) => {
            let own =
                File::open("/proc/self/ns/pid").map_err(|error| failed("open our PID namespace", error))?;
            sys::set_namespace(shared, libc::CLONE_NEWPID)
                .map_err(|error| failed("join the PID namespace", error))?;
            Some(own)
        }
        None => None,
    };
    let cloned = sys::clone(flags);
    if let Ok(sys::Cloned::Child) = cloned {
        drop(reader);
        let stop = child(writer.as_raw_fd());
        report(&File::from(writer), &stop.0);
        sys::exit(1);
    }
    // Only children to come were to be in the other namespace, and there is one now.
    let back = own.map_or(Ok(()), |own| sys::set_namespace(own.as_fd(), libc::CLONE_NEWPID));
    drop(writer);
    let (pid, pidfd) = match cloned {
        Ok(sys::Cloned::Parent { pid, pidfd }) => (pid, pidfd),
        Ok(sys::Cloned::Child) => sys::exit(1),
        Err(error) => return Err(failed("clone a process", error)),
    };
    let outcome = match back {
        Ok(()) => outcome(reader),
        Err(error) => Err(failed("return to our PID namespace", error)),
    };
    match outcome {
        Ok(None) => Ok(Launched { pid, pidfd }),
        Ok(Some(child)) => {
            let _ = waitpid(Pid::from_raw(pid), WaitOptions::empty());
            let process = Pid::from_raw(child)
                .ok_or_else(|| failed("know the process", io::ErrorKind::InvalidData.into()))?;
            // Our own child, which nobody else collects: the number is still its.
            let pidfd = rustix::process::pidfd_open(process, rustix::process::PidfdFlags::empty())
                .map_err(|error| failed("open the process", error.into()))?;
            Ok(Launched { pid: child, pidfd })
        }
        Err(failure) => {
            let _ = pidfd_send_signal(&pidfd, Signal::KILL);
            let _ = waitpid(Pid::from_raw(pid), WaitOptions::empty());
            Err(failure)
        }
    }
}

/// The pipe carries `<pid>\n` if the program got a process of its own, then a failure as JSON if there is one.
fn tell_pid(errors: RawFd, pid: i32) {
    let text = format!("{pid}\n");
    // SAFETY: the child of `spawn` holds this descriptor until it ends. Short writes to a pipe are whole.
    unsafe { libc::write(errors, text.as_ptr().cast(), text.len()) };
}

fn report(mut writer: &File, failure: &Failure) {
    let text = serde_json::to_vec(failure).unwrap_or_default();
    // Without a reader the shim is gone, and so are we.
    let _ = writer.write_all(&text);
}

/// The end of the pipe without a failure means that the program was executed; with its pid if it has one apart.
fn outcome(reader: OwnedFd) -> Result<Option<i32>, Failure> {
    let broken = |what: String| Failure::new(FailureKind::System, what);
    let deadline = Instant::now() + START_DEADLINE;
    let mut text = Vec::new();
    let mut reader = File::from(reader);
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
        match poll(&mut [PollFd::new(&reader, PollFlags::IN)], Some(&timeout)) {
            Ok(0) => {
                return Err(broken(format!(
                    "the process was not ready after {} s: a file system it needs may hang",
                    START_DEADLINE.as_secs()
                )));
            }
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(broken(format!("cannot wait for the process: {error}"))),
        }
        let mut buffer = [0; 4096];
        match reader.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => text.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(broken(format!("cannot hear from the process: {error}"))),
        }
        if text.len() > FAILURE_BYTES_MAX {
            return Err(broken("the process says too much".into()));
        }
    }
    let (pid, failure) = match text.iter().position(|byte| *byte == b'\n') {
        Some(end) if text[0].is_ascii_digit() => {
            let pid = std::str::from_utf8(&text[..end]).ok().and_then(|digits| digits.parse().ok());
            (pid, &text[end + 1..])
        }
        _ => (None, text.as_slice()),
    };
    if failure.is_empty() {
        return Ok(pid);
    }
    Err(serde_json::from_slice(failure)
        .unwrap_or_else(|_| broken("the process ended during its set-up".into())))
}

/// What every child does first. With the storage, opened.
fn begin(place: &Place<'_>, storage: Option<&Storage>) -> Result<Option<OwnedFd>, Stop> {
    step("tie the process to its shim", sys::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as u64))?;
    step("hide from tracing", sys::prctl(libc::PR_SET_DUMPABLE, 0))?;
    sys::reset_signals();
    step("begin a session", rustix::process::setsid().map_err(io::Error::from))?;
    let stdio = || -> io::Result<()> {
        rustix::stdio::dup2_stdin(place.stdio[0])?;
        rustix::stdio::dup2_stdout(place.stdio[1])?;
        Ok(rustix::stdio::dup2_stderr(place.stdio[2])?)
    };
    step("set up stdio", stdio())?;
    let opened = step("open the ephemeral storage", storage.map_or(Ok(None), Storage::open))?;
    join_cgroups(place.cgroups, place.cgroup)?;
    Ok(opened)
}

/// By itself, before anything else. `CLONE_INTO_CGROUP` would save one write of several where controllers are v1's,
/// and made no start faster when it was tried.
fn join_cgroups(cgroups: &Cgroups, cgroup: &Path) -> Result<(), Stop> {
    step(&format!("join cgroup {}", cgroup.display()), cgroups.join(cgroup))
}

fn set_up(plan: &Plan, place: &Place<'_>, room: &Room<'_>) -> Result<(), Stop> {
    let opened = begin(place, Some(room.storage))?;
    step("make a cgroup namespace", sys::unshare(libc::CLONE_NEWCGROUP))?;
    match &plan.network_namespace {
        Some(path) => {
            let joined =
                File::open(path).and_then(|file| sys::set_namespace(file.as_fd(), libc::CLONE_NEWNET));
            step(&format!("join the network namespace {}", path.display()), joined)?;
        }
        None => step("bring the loopback interface up", sys::loopback_up())?,
    }
    if let Some(name) = &plan.hostname {
        let set = rustix::system::sethostname(name.as_bytes()).map_err(io::Error::from);
        step(&format!("set the host name to {name:?}"), set)?;
    }
    if let Some(name) = &plan.domainname {
        let set = rustix::system::setdomainname(name.as_bytes()).map_err(io::Error::from);
        step(&format!("set the domain name to {name:?}"), set)?;
    }
    process::limits(&plan.process)?;
    root::enter(plan, place, room, opened.as_ref())
}
