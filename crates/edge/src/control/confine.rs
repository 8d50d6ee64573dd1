//! What the process gives up before it listens to anybody: root, the file system, most system calls.
//!
//! It begins as root, inside its interface's network namespace, with one thread. It ends as nobody: no capability and no
//! way to one, an empty folder that it cannot read for its root, no program to execute, no core to dump its keys into.

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddrV4, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::process::{DumpableBehavior, Resource, Rlimit};
use rustix::thread::{Gid, Uid};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

use super::listeners::tcp;

/// The kernel's own name for who owns nothing.
const NOBODY: u32 = 65_534;
/// Two per flow, and room.
const DESCRIPTORS_MAX: u64 = 131_072;
/// Of this network namespace: the listeners' ports are no privilege inside it, and connections to targets have more
/// ports than usual.
const SETTINGS: &[(&str, &str)] = &[
    ("ipv4/ip_unprivileged_port_start", "0"),
    ("ipv4/ip_local_port_range", "1024 65535"),
    ("ipv4/tcp_tw_reuse", "1"),
    ("core/somaxconn", "8192"),
];

/// How the process is told where it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Arguments {
    /// `--socket`: where it listens for the agent. The folder is root's alone, and becomes the process's root.
    pub socket: PathBuf,
    /// `--join`, any number of times: `cgroup.procs` of the cgroups it belongs to.
    pub joins: Vec<PathBuf>,
    /// `--listen`, any number of times, for a task's proxy: all it ever listens on.
    pub listens: Vec<SocketAddrV4>,
}

#[derive(Debug, thiserror::Error)]
pub enum ConfineError {
    #[error(
        "usage: ferrogate-edge --socket <path> [--join <cgroup.procs>]… [--listen <address>:<port>]…; it is started by the ferrogate agent"
    )]
    Usage,
    #[error("cannot {what} {path}")]
    Path {
        what: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot listen on {0}")]
    Listen(SocketAddrV4, #[source] io::Error),
    #[error("cannot {0}")]
    Kernel(&'static str, #[source] io::Error),
    #[error("cannot filter system calls")]
    Filter(#[from] seccompiler::Error),
    #[error("cannot filter system calls")]
    Backend(#[from] seccompiler::BackendError),
}

impl Arguments {
    pub fn parse(arguments: impl IntoIterator<Item = std::ffi::OsString>) -> Result<Self, ConfineError> {
        let (mut parsed, mut arguments) = (Self::default(), arguments.into_iter());
        while let Some(name) = arguments.next() {
            let value = PathBuf::from(arguments.next().ok_or(ConfineError::Usage)?);
            match name.to_str() {
                Some("--socket") => parsed.socket = value,
                Some("--join") => parsed.joins.push(value),
                Some("--listen") => {
                    let address = value.to_str().and_then(|value| value.parse().ok());
                    parsed.listens.push(address.ok_or(ConfineError::Usage)?);
                }
                _ => return Err(ConfineError::Usage),
            }
        }
        if parsed.socket.parent().is_none_or(|dir| dir.as_os_str().is_empty()) {
            return Err(ConfineError::Usage);
        }
        Ok(parsed)
    }
}

/// Takes what only root may have, then is nobody. Called once, while there is one thread.
pub fn confine(arguments: &Arguments) -> Result<(UnixListener, Vec<TcpListener>), ConfineError> {
    let path = |what, path: &Path| {
        let path = path.to_owned();
        move |source| ConfineError::Path { what, path, source }
    };
    for file in &arguments.joins {
        std::fs::write(file, "0").map_err(path("join", file))?;
    }
    let listen = |address: &SocketAddrV4| {
        tcp((*address).into(), false).map_err(|source| ConfineError::Listen(*address, source))
    };
    let listeners = arguments.listens.iter().map(listen).collect::<Result<Vec<_>, _>>()?;
    // A task's namespace is its containers': nothing in it is changed.
    let settings = if listeners.is_empty() { SETTINGS } else { &[] };
    for (name, value) in settings {
        let file = Path::new("/proc/sys/net").join(name);
        match std::fs::write(&file, value) {
            // A kernel without it: the bind of a low port will tell.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            done => done.map_err(path("set", &file))?,
        }
    }
    let limit = |resource: Resource, most: u64| {
        // Not more than the machine gives: root of a container may have no right to more.
        let most = rustix::process::getrlimit(resource).maximum.map_or(most, |allowed| allowed.min(most));
        rustix::process::setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) })
            .map_err(|error| ConfineError::Kernel("set limits", error.into()))
    };
    limit(Resource::Nofile, DESCRIPTORS_MAX)?;
    limit(Resource::Core, 0)?;
    let listener = UnixListener::bind(&arguments.socket).map_err(path("listen on", &arguments.socket))?;
    let private = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(&arguments.socket, private).map_err(path("own", &arguments.socket))?;
    listener.set_nonblocking(true).map_err(path("listen on", &arguments.socket))?;

    let root = arguments.socket.parent().unwrap_or(Path::new("/"));
    std::env::set_current_dir(root).map_err(path("enter", root))?;
    let kernel = |what| move |error: rustix::io::Errno| ConfineError::Kernel(what, error.into());
    rustix::process::chroot(".").map_err(kernel("change the root"))?;
    // There is one thread, and all that follow inherit it.
    rustix::thread::set_thread_groups(&[]).map_err(kernel("leave root's groups"))?;
    rustix::thread::set_thread_gid(Gid::from_raw(NOBODY)).map_err(kernel("leave root's group"))?;
    rustix::thread::set_thread_uid(Uid::from_raw(NOBODY)).map_err(kernel("cease to be root"))?;
    rustix::thread::set_no_new_privs(true).map_err(kernel("give up new privileges"))?;
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(kernel("keep its memory to itself"))?;
    filter()?;
    Ok((listener, listeners))
}

/// Two filters, as one has one answer only. The C library takes "no such call" for a reason to clone without `clone3`,
/// whose flags no filter sees.
fn filter() -> Result<(), ConfineError> {
    let arch = std::env::consts::ARCH.try_into()?;
    let one = |number: i64| (number, Vec::new());
    let without = SeccompFilter::new(
        BTreeMap::from([one(libc::SYS_clone3)]),
        SeccompAction::Allow,
        SeccompAction::Errno(libc::ENOSYS as u32),
        arch,
    )?;
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = CALLS.iter().copied().map(one).collect();
    let argument = |index, op, value| SeccompCondition::new(index, SeccompCmpArgLen::Dword, op, value);
    let sockets = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6].map(|family| {
        let family = argument(0, SeccompCmpOp::Eq, family as u64)?;
        SeccompRule::new(vec![family])
    });
    rules.insert(libc::SYS_socket, sockets.into_iter().collect::<Result<_, _>>()?);
    let thread = argument(0, SeccompCmpOp::MaskedEq(libc::CLONE_THREAD as u64), libc::CLONE_THREAD as u64)?;
    rules.insert(libc::SYS_clone, vec![SeccompRule::new(vec![thread])?]);
    let only =
        SeccompFilter::new(rules, SeccompAction::Errno(libc::EPERM as u32), SeccompAction::Allow, arch)?;
    for filter in [without, only] {
        let program: BpfProgram = filter.try_into()?;
        seccompiler::apply_filter(&program)?;
    }
    Ok(())
}

/// What a server on sockets needs: memory, threads, time, and the sockets. No file is opened, no program executed.
const CALLS: &[i64] = &[
    libc::SYS_accept4,
    libc::SYS_bind,
    libc::SYS_brk,
    libc::SYS_clock_getres,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_clone3,
    libc::SYS_close,
    libc::SYS_connect,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_epoll_wait,
    libc::SYS_eventfd2,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_fcntl,
    libc::SYS_fstat,
    libc::SYS_ftruncate,
    libc::SYS_futex,
    libc::SYS_getpeername,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_getrlimit,
    libc::SYS_getsockname,
    libc::SYS_getsockopt,
    libc::SYS_gettid,
    libc::SYS_getuid,
    libc::SYS_ioctl,
    libc::SYS_listen,
    libc::SYS_lseek,
    libc::SYS_madvise,
    libc::SYS_membarrier,
    libc::SYS_mmap,
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_nanosleep,
    libc::SYS_pipe2,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_poll,
    libc::SYS_ppoll,
    libc::SYS_prctl,
    libc::SYS_prlimit64,
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_setaffinity,
    libc::SYS_sched_yield,
    // The second of the two filters; a process may only ever take more from itself.
    libc::SYS_seccomp,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_set_robust_list,
    libc::SYS_setsockopt,
    libc::SYS_shutdown,
    libc::SYS_sigaltstack,
    libc::SYS_socketpair,
    libc::SYS_splice,
    libc::SYS_tgkill,
    libc::SYS_write,
    libc::SYS_writev,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments() {
        let parse = |words: &[&str]| Arguments::parse(words.iter().map(Into::into));
        let parsed = parse(&["--socket", "/run/x/control.sock", "--join", "/a", "--join", "/b"]).unwrap();
        assert_eq!(parsed.socket, Path::new("/run/x/control.sock"));
        assert_eq!(parsed.joins, [Path::new("/a"), Path::new("/b")]);
        let parsed = parse(&["--socket", "/a/b", "--listen", "127.0.0.1:80"]).unwrap();
        assert_eq!(parsed.listens, [SocketAddrV4::new(std::net::Ipv4Addr::LOCALHOST, 80)]);
        assert!(matches!(parse(&["--socket", "/a/b", "--listen", "80"]), Err(ConfineError::Usage)));
        for wrong in [&[][..], &["--socket"], &["--socket", "file"], &["--sockt", "/a/b"]] {
            assert!(matches!(parse(wrong), Err(ConfineError::Usage)), "{wrong:?}");
        }
    }
}
