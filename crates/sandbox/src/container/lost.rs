//! A task whose shim is gone: what is left of it is ended, told and removed.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use ferrogate_shim::cgroup::Cgroups;
use ferrogate_shim::log;
use ferrogate_shim::protocol::{
    CONTAINERS_DIR, LOCK_FILE, LOG_DIR, PROTOCOL_VERSION, STATE_FILE, Status, TRASH_DIR, TaskConfig,
    TaskState,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::{KILL_DEADLINE, LOST_EXIT_CODE};
use crate::Error;

pub(super) const REASON: &str = "the shim was lost";

/// A shim holds its lock as long as it lives.
pub(super) fn shim_is_alive(directory: &Path) -> bool {
    let Ok(lock) = File::open(directory.join(LOCK_FILE)) else { return false };
    flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err()
}

/// Kills what runs without a shim and writes down how it ended.
pub(super) async fn recover(directory: &Path, config: &TaskConfig) -> Result<TaskState, Error> {
    let (directory, config) = (directory.to_owned(), config.clone());
    blocking(move || {
        kill(&config.cgroup).map_err(|source| io_error("kill the processes of", &config.cgroup, source))?;
        let path = directory.join(STATE_FILE);
        let mut state = match std::fs::read(&path) {
            Ok(text) => serde_json::from_slice::<TaskState>(&text)
                .map_err(|error| io_error("read", &path, io::Error::other(error)))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                TaskState { version: PROTOCOL_VERSION, ..TaskState::default() }
            }
            Err(error) => return Err(io_error("read", &path, error)),
        };
        state.shim_pid = 0;
        for container in &mut state.containers {
            if container.status == Status::Running {
                container.status = Status::Exited;
                container.exit_code = Some(LOST_EXIT_CODE);
                container.exited_at_ns = Some(now_ns());
                container.error = Some(REASON.into());
                container.pid = None;
            }
            let logs = directory.join(CONTAINERS_DIR).join(&container.id).join(LOG_DIR);
            let (begin, end) =
                log_extent(&logs).map_err(|source| io_error("read the log in", &logs, source))?;
            (container.log_begin, container.log_end) = (begin, end);
        }
        for exec in &mut state.execs {
            exec.pid = None;
            exec.exit_code.get_or_insert(LOST_EXIT_CODE);
        }
        let text = serde_json::to_vec(&state).map_err(|error| io_error("encode", &path, error.into()))?;
        let fresh = path.with_extension("json.new");
        std::fs::write(&fresh, text).map_err(|source| io_error("write", &fresh, source))?;
        std::fs::rename(&fresh, &path).map_err(|source| io_error("write", &path, source))?;
        Ok(state)
    })
    .await
}

/// Kills, removes the cgroup and the directory. What is absent already is fine.
pub(super) async fn remove(directory: &Path, cgroup: &Path, shim_cgroup: &Path) -> Result<(), Error> {
    let (directory, cgroup, shim_cgroup) = (directory.to_owned(), cgroup.to_owned(), shim_cgroup.to_owned());
    blocking(move || {
        wait_for_shim(&directory)?;
        kill(&cgroup).map_err(|source| io_error("kill the processes of", &cgroup, source))?;
        let cgroups = Cgroups::detect().map_err(|source| io_error("find", Path::new("cgroups"), source))?;
        cgroups
            .remove(&cgroup, KILL_DEADLINE)
            .map_err(|source| io_error("remove cgroup", &cgroup, source))?;
        // Busy as long as another task's shim is in it; the last one takes it away.
        let _ = cgroups.remove(&shim_cgroup, Duration::ZERO);
        cgroups.remove_empty_ancestors(&cgroup);
        match std::fs::remove_dir_all(&directory) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(source) => Err(io_error("remove", &directory, source)),
        }
    })
    .await
}

/// [`remove`], for a task whose shim cannot be talked to: it is killed.
pub(super) async fn discard(directory: &Path, cgroup: &Path, shim_cgroup: &Path) -> Result<(), Error> {
    let (dir, shims) = (directory.to_owned(), shim_cgroup.to_owned());
    blocking(move || {
        let cgroups = Cgroups::detect().map_err(|source| io_error("find", Path::new("cgroups"), source))?;
        kill_shim(&cgroups, &shims, &dir).map_err(|source| io_error("kill the shim of", &dir, source))
    })
    .await?;
    remove(directory, cgroup, shim_cgroup).await
}

/// Kills the process among the instance's shims that has this directory's lock open, or was started for the directory.
/// Returns when it is gone: where the directory is not there, no lock says so.
fn kill_shim(cgroups: &Cgroups, shims: &Path, directory: &Path) -> io::Result<()> {
    let lock = std::fs::metadata(directory.join(LOCK_FILE)).ok().map(|meta| (meta.dev(), meta.ino()));
    let gone = Some(rustix::io::Errno::NODEV.raw_os_error());
    let mut killed: Vec<OwnedFd> = Vec::new();
    for file in cgroups.join_files(shims) {
        let pids = match std::fs::read_to_string(&file) {
            Ok(pids) => pids,
            // Removed, before or while it was read: then nobody is in it.
            Err(error) if error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == gone => continue,
            Err(error) => return Err(error),
        };
        for pid in pids.lines().filter_map(|line| Pid::from_raw(line.parse().ok()?)) {
            // Held over the look: the number cannot become another process's meanwhile.
            let process = match pidfd_open(pid, PidfdFlags::empty()) {
                Ok(process) => process,
                Err(rustix::io::Errno::SRCH) => continue,
                Err(error) => return Err(error.into()),
            };
            if !is_shim_of(pid, directory, lock) {
                continue;
            }
            match pidfd_send_signal(&process, Signal::KILL) {
                Ok(()) | Err(rustix::io::Errno::SRCH) => killed.push(process),
                Err(error) => return Err(error.into()),
            }
        }
    }
    let deadline = Instant::now() + KILL_DEADLINE;
    killed.iter().try_for_each(|process| wait_for_end(process, deadline))
}

/// A process's descriptor can be read once it has ended.
fn wait_for_end(process: &OwnedFd, deadline: Instant) -> io::Result<()> {
    let mut ended = [PollFd::new(process, PollFlags::IN)];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        match poll(&mut ended, Some(&timeout)) {
            Ok(0) => return Err(io::Error::new(io::ErrorKind::TimedOut, "it was killed and does not end")),
            Ok(_) => return Ok(()),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn is_shim_of(pid: Pid, directory: &Path, lock: Option<(u64, u64)>) -> bool {
    let proc = Path::new("/proc").join(pid.as_raw_nonzero().to_string());
    let arguments = std::fs::read(proc.join("cmdline")).unwrap_or_default();
    let mut arguments = arguments.split(|byte| *byte == 0);
    if arguments.any(|argument| argument == b"--dir")
        && arguments.next() == Some(directory.as_os_str().as_bytes())
    {
        return true;
    }
    let open = std::fs::read_dir(proc.join("fd")).into_iter().flatten().flatten();
    lock.is_some()
        && open
            .filter_map(|file| std::fs::metadata(file.path()).ok())
            .any(|file| Some((file.dev(), file.ino())) == lock)
}

/// Removes what an instance without tasks still has. A shim whose lock is free may be in its cgroup for a moment more.
pub(super) async fn remove_instance(instance: &str) -> Result<(), Error> {
    let path = Path::new("ferrogate").join(instance);
    blocking(move || {
        let cgroups = Cgroups::detect().map_err(|source| io_error("find", Path::new("cgroups"), source))?;
        cgroups.remove(&path, KILL_DEADLINE).map_err(|source| io_error("remove cgroup", &path, source))?;
        cgroups.remove_empty_ancestors(&path);
        Ok(())
    })
    .await
}

/// Removes the files of deleted containers, which the shim only put aside.
pub(super) async fn remove_trash(directory: &Path) -> Result<(), Error> {
    let trash = directory.join(TRASH_DIR);
    blocking(move || match std::fs::remove_dir_all(&trash) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(io_error("remove", &trash, source)),
    })
    .await
}

/// A shim that was told to end has ended when its lock is free.
fn wait_for_shim(directory: &Path) -> Result<(), Error> {
    let deadline = Instant::now() + KILL_DEADLINE;
    while shim_is_alive(directory) {
        if Instant::now() > deadline {
            return Err(Error::Refused(format!("the shim in {} does not end", directory.display())));
        }
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    Ok(())
}

fn kill(cgroup: &Path) -> io::Result<()> {
    Cgroups::detect()?.kill_tree(cgroup, KILL_DEADLINE)
}

/// First offset kept, and the end of the last whole record.
fn log_extent(directory: &Path) -> io::Result<(u64, u64)> {
    let segments = log::segments(directory)?;
    let (Some(first), Some(last)) = (segments.first(), segments.last()) else { return Ok((0, 0)) };
    let bytes = std::fs::read(&last.path)?;
    let mut whole = 0;
    while let Ok(Some((_, used))) = log::decode(&bytes[whole..]) {
        whole += used;
    }
    Ok((first.start, last.start + whole as u64))
}

pub(super) fn now_ns() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_nanos()).unwrap_or(i64::MAX)
}

fn io_error(action: &'static str, path: &Path, source: io::Error) -> Error {
    Error::Io { action, path: path.to_owned(), source }
}

pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(panic) => Err(Error::Refused(format!("clean-up failed: {panic}"))),
    }
}
