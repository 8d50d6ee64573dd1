//! The last steps of every process: who it is, what it may, and exec.

use std::ffi::CString;
use std::io;
use std::os::fd::{BorrowedFd, RawFd};

use super::find::{self, find};
use super::plan::{CapabilitySets, ProcessPlan, Rlimit, User};
use super::user::{self, Identity};
use super::{Stop, init, step, sys, terminal};

const LAST_CAPABILITY_TRIED: u64 = 63;

/// Limits and OOM score, set while the process is still root and sees the host's `/proc`.
pub(super) fn limits(process: &ProcessPlan) -> Result<(), Stop> {
    if let Some(score) = process.oom_score_adj.or_else(unspared) {
        let write = || std::fs::write("/proc/self/oom_score_adj", score.to_string());
        step(&format!("set oom_score_adj to {score}"), write())?;
    }
    process.rlimits.iter().try_for_each(|limit| {
        let limit = match limit.resource {
            libc::RLIMIT_NOFILE => open_files(limit, step("read fs.nr_open", nr_open())?)?,
            _ => Rlimit { resource: limit.resource, soft: limit.soft, hard: limit.hard },
        };
        step("set resource limits", set_limit(&limit))
    })
}

/// Where the kernel is to spare the shim, as in a guest, that is not for what it starts: those are the ones to end.
fn unspared() -> Option<i32> {
    let text = std::fs::read_to_string("/proc/self/oom_score_adj").ok()?;
    text.trim().parse().ok().filter(|score: &i32| *score < 0).map(|_| 0)
}

/// The most open files any process of this machine may have.
fn nr_open() -> io::Result<u64> {
    let text = std::fs::read_to_string("/proc/sys/fs/nr_open")?;
    text.trim().parse().map_err(|_| io::Error::other(format!("{text:?} is no number")))
}

/// Unlimited is what the kernel has; more than that nobody can be given, and Docker says so in these words.
fn open_files(limit: &Rlimit, most: u64) -> Result<Rlimit, Stop> {
    let bounded = |value: u64| if value == libc::RLIM_INFINITY { most } else { value };
    let (soft, hard) = (bounded(limit.soft), bounded(limit.hard));
    if soft.max(hard) > most {
        return Err(Stop::invalid(format!(
            "error setting rlimit type {}: operation not permitted (nofile {hard} is above this machine's fs.nr_open, {most})",
            limit.resource
        )));
    }
    Ok(Rlimit { resource: limit.resource, soft, hard })
}

/// A hard limit above ours needs CAP_SYS_RESOURCE, which not every machine gives us: then the most we may is set.
fn set_limit(limit: &Rlimit) -> io::Result<()> {
    match sys::set_rlimit(limit.resource, limit.soft, limit.hard) {
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
            let (_, ours) = sys::rlimit(limit.resource)?;
            let hard = limit.hard.min(ours);
            sys::set_rlimit(limit.resource, limit.soft.min(hard), hard)
        }
        done => done,
    }
}

/// From here on the process is the container's: becomes the user, gives up what it may not have, executes.
/// `errors` is the pipe to the shim.
pub(super) fn become_and_execute(
    process: &ProcessPlan,
    last: Last,
    console: Option<BorrowedFd<'_>>,
    errors: RawFd,
) -> Stop {
    let born = |prepared| {
        match last {
            Last::Execute => {}
            Last::BehindReaper => step("start the init process", init::split())?,
            Last::InNamespace => step("enter the PID namespace", init::be_born(errors))?,
        }
        // Only the program itself: with the end of its session's leader a terminal would hang up.
        if process.terminal.is_some() {
            step("take control of the terminal", terminal::control())?;
        }
        Ok(prepared)
    };
    let first = !matches!(last, Last::InNamespace);
    match prepare(process, console, first, errors).and_then(born) {
        Ok(prepared) => {
            let error = sys::execute(&prepared.path, &prepared.arguments, &prepared.environment);
            find::refused(&prepared.path.to_string_lossy(), &error)
        }
        Err(stop) => stop,
    }
}

/// How the program comes to its process once all rights are given up.
#[derive(Clone, Copy)]
pub(super) enum Last {
    /// This process becomes it.
    Execute,
    /// A child does; this process stays as its reaper.
    BehindReaper,
    /// A child does, in the PID namespace that was joined; this process tells its pid and goes.
    InNamespace,
}

struct Prepared {
    path: CString,
    arguments: Vec<CString>,
    environment: Vec<CString>,
}

fn prepare(
    process: &ProcessPlan,
    console: Option<BorrowedFd<'_>>,
    first: bool,
    errors: RawFd,
) -> Result<Prepared, Stop> {
    let identity = identify(process)?;
    if let (Some(size), Some(console)) = (process.terminal, console) {
        step("open a terminal", terminal::open(size, identity.uid, console, first))?;
    }
    let mut environment = process.environment.clone();
    if !environment.iter().any(|pair| pair.starts_with("HOME=")) {
        environment.push(format!("HOME={}", identity.home));
    }
    let sets = &process.capabilities;
    step("limit the capability bounding set", drop_bounding(sets.bounding))?;
    // Without no_new_privs a filter needs CAP_SYS_ADMIN, which is about to go.
    if let (Some(filter), false) = (&process.seccomp, process.no_new_privileges) {
        become_user(&identity, sets, Some(filter))?;
    } else {
        become_user(&identity, sets, None)?;
    }
    step(
        &format!("change to the working directory {:?}", process.directory),
        std::env::set_current_dir(&process.directory),
    )?;
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(process.umask));
    let name = process.arguments.first().map_or("", String::as_str);
    let path = find(name, &environment)?;
    // The shim's own. Now, not by exec: a reaper stays, and a child in the namespace can be looked at before.
    step("close descriptors", sys::close_all_but(Some(errors)))?;
    // Cleared by the kernel with the change of credentials.
    step("tie the process to its shim", sys::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as u64))?;
    exit_without_shim(errors);
    if process.no_new_privileges {
        step("set no_new_privs", sys::prctl(libc::PR_SET_NO_NEW_PRIVS, 1))?;
        if let Some(filter) = &process.seccomp {
            step("install the seccomp filter", filter.install())?;
        }
    }
    let strings = |all: &[String]| {
        all.iter()
            .map(|text| CString::new(text.as_str()))
            .collect::<Result<Vec<_>, _>>()
            .map_err(io::Error::from)
    };
    Ok(Prepared {
        path: step("take the program's path", CString::new(path).map_err(io::Error::from))?,
        arguments: step("take the arguments", strings(&process.arguments))?,
        environment: step("take the environment", strings(&environment))?,
    })
}

fn identify(process: &ProcessPlan) -> Result<Identity, Stop> {
    match &process.user {
        User::Named(name) => user::resolve(name).map_err(Stop::invalid),
        User::Numbers { uid, gid, groups } => {
            Ok(Identity { uid: *uid, gid: *gid, groups: groups.clone(), home: user::home_of(*uid) })
        }
    }
}

fn drop_bounding(kept: u64) -> io::Result<()> {
    for capability in 0..=LAST_CAPABILITY_TRIED {
        if kept & 1 << capability != 0 {
            continue;
        }
        match sys::prctl(libc::PR_CAPBSET_DROP, capability) {
            Ok(()) => {}
            // Beyond the last one this kernel has.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => break,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn become_user(
    identity: &Identity,
    sets: &CapabilitySets,
    filter: Option<&crate::seccomp::Filter>,
) -> Result<(), Stop> {
    step("keep capabilities over the change of user", sys::prctl(libc::PR_SET_KEEPCAPS, 1))?;
    step("set the additional groups", sys::set_groups(&identity.groups))?;
    step(&format!("become group {}", identity.gid), sys::set_gid(identity.gid))?;
    step(&format!("become user {}", identity.uid), sys::set_uid(identity.uid))?;
    // Another user has none effective, and this needs one.
    if let Some(filter) = filter {
        let all = crate::capabilities::NAMES.iter().filter_map(|name| crate::capabilities::bit(name));
        let raised = all.fold(0, |bits, bit| bits | bit) & permitted()?;
        step("raise capabilities for the seccomp filter", sys::set_capabilities(raised, raised, 0))?;
        step("install the seccomp filter", filter.install())?;
    }
    step("forget to keep capabilities", sys::prctl(libc::PR_SET_KEEPCAPS, 0))?;
    // What we do not have ourselves cannot be given: the machine decides.
    let ours = permitted()?;
    let (permitted, inheritable) = (sets.permitted & ours, sets.inheritable);
    step("set capabilities", sys::set_capabilities(sets.effective & permitted, permitted, inheritable))?;
    step("clear ambient capabilities", sys::ambient(libc::PR_CAP_AMBIENT_CLEAR_ALL, 0))?;
    for capability in 0..=LAST_CAPABILITY_TRIED {
        if sets.ambient & permitted & inheritable & 1 << capability != 0 {
            step("raise ambient capabilities", sys::ambient(libc::PR_CAP_AMBIENT_RAISE, capability))?;
        }
    }
    Ok(())
}

fn permitted() -> Result<u64, Stop> {
    step("read our own capabilities", sys::permitted_capabilities())
}

/// The tie works from now on only; a shim that went before would not be noticed.
pub(super) fn exit_without_shim(errors: RawFd) {
    if shim_is_gone(errors) {
        sys::exit(1);
    }
}

/// The shim holds the only reading end.
fn shim_is_gone(errors: RawFd) -> bool {
    let mut poll = libc::pollfd { fd: errors, events: 0, revents: 0 };
    // SAFETY: one element, which outlives the call.
    let ready = unsafe { libc::poll(&raw mut poll, 1, 0) };
    ready > 0 && poll.revents & (libc::POLLERR | libc::POLLHUP) != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_files_are_bounded_by_the_kernel() {
        let of = |soft, hard| {
            let limit = Rlimit { resource: libc::RLIMIT_NOFILE, soft, hard };
            open_files(&limit, 1000).map(|limit| (limit.soft, limit.hard))
        };
        assert!(matches!(of(libc::RLIM_INFINITY, libc::RLIM_INFINITY), Ok((1000, 1000))));
        assert!(matches!(of(10, libc::RLIM_INFINITY), Ok((10, 1000))));
        assert!(matches!(of(10, 1000), Ok((10, 1000))));
        let Err(stop) = of(10, 1001) else { panic!("1001 is above 1000") };
        assert!(stop.0.message.starts_with("error setting rlimit type 7: operation not permitted"));
    }
}
