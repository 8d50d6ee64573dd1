//! From `ferrogate-shim --dir D` to a daemon that listens.
//!
//! The program first executes itself again from a read-only mount of its own file: in a container, `/proc/<pid>/exe`
//! of a process of ours is then a file nobody can write, whatever rights the container has. Then it forks; the
//! parent waits for the word that the child listens and passes it on as its exit status.

use std::ffi::{CString, OsStr};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::mount::{OpenTreeFlags, open_tree};
use rustix::process::set_child_subreaper;

use super::Shim;
use crate::cgroup::Cgroups;
use crate::launcher::sys;
use crate::machine::Machine;
use crate::machine::wire::GUEST_SHIM_CGROUP;
use crate::protocol::{
    CONFIG_FILE, DIAGNOSTICS_FILE, LOCK_FILE, PID_FILE, PROTOCOL_VERSION, Resources, SOCKET_FILE, TaskConfig,
};
use crate::storage::Storage;

/// What the parent of a guest's shim hears, twice.
pub const OK: &[u8] = b"ok\n";
/// Set for the second execution.
const SEALED: &str = "FERROGATE_SHIM_SEALED";

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("usage: ferrogate-shim --dir <task directory>; it is started by the ferrogate agent")]
    Usage,
    #[error("cannot execute from a read-only mount (Linux 5.12 or newer is needed): {0}")]
    Seal(io::Error),
    #[error("a shim runs for {} already", .0.display())]
    Running(PathBuf),
    #[error("cannot {what} {}: {source}", path.display())]
    Io { what: &'static str, path: PathBuf, source: io::Error },
    #[error("the shim ended before it listened; see {}", .0.display())]
    Died(PathBuf),
    #[error("{0}")]
    Child(String),
}

/// The whole program. Returns in the short-lived parent; the daemon itself ends in here.
pub fn run(arguments: &[std::ffi::OsString]) -> Result<(), StartError> {
    let [flag, directory] = arguments else { return Err(StartError::Usage) };
    if flag != OsStr::new("--dir") {
        return Err(StartError::Usage);
    }
    if std::env::var_os(SEALED).is_none() {
        return Err(StartError::Seal(execute_sealed(directory)));
    }
    let directory = PathBuf::from(directory);
    let failed = |what, path: &Path, source| StartError::Io { what, path: path.to_owned(), source };
    let directory = fs::canonicalize(&directory).map_err(|error| failed("find", &directory, error))?;
    // Whatever the agent had open without meaning to.
    sys::close_all_but(None).map_err(|error| failed("close descriptors for", &directory, error))?;
    // Ours are written as they are meant, whatever the agent's was.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    let (config, cgroups) = settle(&directory)?;
    let (mut heard, word) = io::pipe().map_err(|error| failed("make a pipe for", &directory, error))?;
    let forked = sys::clone(0);
    match forked.map_err(|error| failed("fork for", &directory, error))? {
        sys::Cloned::Child => {
            drop(heard);
            let code = match speak(&directory, config, cgroups, word) {
                Ok(()) => 0,
                Err(error) => {
                    eprintln!("{error}");
                    1
                }
            };
            std::process::exit(code)
        }
        sys::Cloned::Parent { .. } => {
            drop(word);
            let mut text = String::new();
            heard
                .read_to_string(&mut text)
                .map_err(|error| failed("hear from the shim of", &directory, error))?;
            match text.as_str() {
                "ok" => Ok(()),
                "" => Err(StartError::Died(directory.join(DIAGNOSTICS_FILE))),
                _ => Err(StartError::Child(text)),
            }
        }
    }
}

/// Makes this process, which must have one thread, the shim of a guest. Returns when that ends. It begins before the guest is
/// anybody's: `parent` hears [`OK`] when it listens, says what the task is, and hears the same again when it takes calls; or,
/// instead, why that will never be. Every other descriptor from 3 up is closed.
pub fn serve(directory: &Path, storage: Option<PathBuf>, parent: UnixStream) -> Result<(), StartError> {
    let mut parent = Some(parent);
    let served = serve_guest(directory, storage, &mut parent);
    if let (Err(error), Some(mut parent)) = (&served, parent) {
        // Without one to hear it there is no guest any more.
        let _ = parent.write_all(error.to_string().as_bytes());
    }
    served
}

fn serve_guest(
    directory: &Path,
    storage: Option<PathBuf>,
    parent: &mut Option<UnixStream>,
) -> Result<(), StartError> {
    let failed = |what, source| StartError::Io { what, path: directory.to_owned(), source };
    let kept = parent.as_ref().map(AsRawFd::as_raw_fd);
    sys::close_all_but(kept).map_err(|error| failed("close descriptors for", error))?;
    lock(directory)?;
    let cgroups = cgroups()?;
    create(&cgroups, Path::new(GUEST_SHIM_CGROUP), &Resources::default())?;
    let (signals, listener) = prepare(directory, Path::new(GUEST_SHIM_CGROUP), &cgroups)?;
    let storage = match storage {
        Some(device) => Storage::on(directory, device),
        None => Storage::shared(directory),
    };
    let storage = storage.map_err(|error| failed("mount the ephemeral storage of", error))?;
    redirect_stdio(directory)?;
    let mut text = Vec::new();
    if let Some(parent) = parent {
        parent.write_all(OK).map_err(|error| failed("speak of", error))?;
        parent.read_to_end(&mut text).map_err(|error| failed("hear of", error))?;
    }
    let config = read(&text).map_err(|error| failed("read what is said of", error))?;
    create(&cgroups, &config.cgroup, &config.resources)?;
    let mut shim = Shim::new(directory, config, cgroups, signals, listener, storage);
    if let Some(mut parent) = parent.take() {
        parent.write_all(OK).map_err(|error| failed("speak of", error))?;
    }
    shim.run().map_err(|error| failed("go on with the loop of", error))
}

/// Becomes the shim. What fails before it listens goes into the pipe, and is no error of this process's own.
fn speak(
    directory: &Path,
    config: TaskConfig,
    cgroups: Cgroups,
    word: io::PipeWriter,
) -> Result<(), StartError> {
    let mut word = Some(word);
    let mut say = |text: &str| word.take().map(|mut word| word.write_all(text.as_bytes())).is_some();
    let became = become_shim(directory, config, cgroups, &mut || {
        say("ok");
    });
    match became {
        Err(error) if say(&error.to_string()) => std::process::exit(1),
        became => became,
    }
}

fn become_shim(
    directory: &Path,
    mut config: TaskConfig,
    cgroups: Cgroups,
    listening: &mut dyn FnMut(),
) -> Result<(), StartError> {
    let (signals, listener) = prepare(directory, &config.shim_cgroup, &cgroups)?;
    let failed = |what, source| StartError::Io { what, path: directory.to_owned(), source };
    let ran = match config.machine.take() {
        Some(machine) => {
            let mut shim = Machine::start(directory, *machine, config, cgroups, signals, listener)
                .map_err(|error| failed("start the machine of", io::Error::other(error)))?;
            redirect_stdio(directory)?;
            listening();
            shim.run()
        }
        None => {
            let storage =
                if config.ephemeral_storage { Storage::own(directory) } else { Storage::shared(directory) };
            let storage = storage.map_err(|error| failed("mount the ephemeral storage of", error))?;
            redirect_stdio(directory)?;
            let mut shim = Shim::new(directory, config, cgroups, signals, listener, storage);
            listening();
            shim.run()
        }
    };
    ran.map_err(|error| failed("go on with the loop of", error))
}

/// Returns only on failure.
fn execute_sealed(directory: &OsStr) -> io::Error {
    let sealed = || -> io::Result<std::convert::Infallible> {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let program = open_tree(rustix::fs::CWD, "/proc/self/exe", flags)?;
        sys::set_mount_attributes(&program, sys::MOUNT_ATTR_RDONLY, 0, false)?;
        let directory = CString::new(directory.as_bytes())?;
        let arguments = [c"ferrogate-shim".as_ptr(), c"--dir".as_ptr(), directory.as_ptr(), std::ptr::null()];
        // Nothing of the agent's environment is the shim's business.
        let mark = CString::new(format!("{SEALED}=1"))?;
        let environment = [mark.as_ptr(), std::ptr::null()];
        // SAFETY: the arrays end with null and their strings outlive the call, which returns only on failure.
        unsafe {
            libc::syscall(
                libc::SYS_execveat,
                program.as_raw_fd(),
                c"".as_ptr(),
                arguments.as_ptr(),
                environment.as_ptr(),
                libc::AT_EMPTY_PATH,
            )
        };
        Err(io::Error::last_os_error())
    };
    match sealed() {
        Ok(never) => match never {},
        Err(error) => error,
    }
}

/// What the task is, and cgroups for it and for its shim.
fn settle(directory: &Path) -> Result<(TaskConfig, Cgroups), StartError> {
    // Before anything is made: the directory may have a shim.
    lock(directory)?;
    let path = directory.join(CONFIG_FILE);
    let config = fs::read(&path).and_then(|text| read(&text)).map_err(|source| StartError::Io {
        what: "read",
        path,
        source,
    })?;
    let cgroups = cgroups()?;
    create(&cgroups, &config.shim_cgroup, &Resources::default())?;
    create(&cgroups, &config.cgroup, &config.resources)?;
    Ok((config, cgroups))
}

fn read(text: &[u8]) -> io::Result<TaskConfig> {
    let config: TaskConfig = serde_json::from_slice(text)?;
    if config.version != PROTOCOL_VERSION {
        let why = format!("version {} is not {PROTOCOL_VERSION}: shim and agent differ", config.version);
        return Err(io::Error::other(why));
    }
    Ok(config)
}

fn cgroups() -> Result<Cgroups, StartError> {
    Cgroups::detect().map_err(|source| StartError::Io { what: "find", path: "cgroups".into(), source })
}

fn create(cgroups: &Cgroups, path: &Path, resources: &Resources) -> Result<(), StartError> {
    let failed = |source| StartError::Io { what: "create cgroup", path: path.to_owned(), source };
    cgroups.create(path, resources).map_err(failed)
}

/// The end of the instance's last other task may take the empty cgroup away before we are in it.
fn join_shims(cgroups: &Cgroups, path: &Path) -> std::io::Result<()> {
    for _ in 1..JOIN_ATTEMPTS_MAX {
        match cgroups.join(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                cgroups.create(path, &Resources::default())?;
            }
            done => return done,
        }
    }
    cgroups.join(path)
}

const JOIN_ATTEMPTS_MAX: u32 = 8;

/// What every shim has: a session, its cgroup, its signals, its socket and its pid in a file.
fn prepare(
    directory: &Path,
    shim_cgroup: &Path,
    cgroups: &Cgroups,
) -> Result<(OwnedFd, UnixListener), StartError> {
    let failed = |what, path: &Path, source| StartError::Io { what, path: path.to_owned(), source };
    let named = |file: &str| directory.join(file);
    rustix::process::setsid().map_err(|error| failed("begin a session for", directory, error.into()))?;
    // Relative names keep the socket's address short.
    std::env::set_current_dir(directory).map_err(|error| failed("enter", directory, error))?;
    join_shims(cgroups, shim_cgroup).map_err(|error| failed("join cgroup", shim_cgroup, error))?;

    set_child_subreaper(Some(rustix::process::getpid()))
        .map_err(|error| failed("adopt orphans for", directory, error.into()))?;
    let signals = signals().map_err(|error| failed("take signals for", directory, error))?;
    let listener = listen().map_err(|error| failed("listen on", &named(SOCKET_FILE), error))?;
    let path = named(PID_FILE);
    fs::write(&path, format!("{}\n", std::process::id())).map_err(|error| failed("write", &path, error))?;
    Ok((signals, listener))
}

/// Held, on a descriptor that is never closed and that the daemon inherits, as long as the shim lives.
fn lock(directory: &Path) -> Result<(), StartError> {
    let path = directory.join(LOCK_FILE);
    let failed = |source| StartError::Io { what: "lock", path: path.clone(), source };
    let file =
        File::options().create(true).truncate(false).write(true).mode(0o600).open(&path).map_err(failed)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => return Err(StartError::Running(directory.to_owned())),
        Err(error) => return Err(failed(error.into())),
    }
    std::mem::forget(file);
    Ok(())
}

/// SIGCHLD and SIGTERM as a descriptor; what a terminal or a vanished client could send is ignored.
fn signals() -> io::Result<OwnedFd> {
    for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGPIPE] {
        // SAFETY: ignoring has no handler.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
    // SAFETY: the set is valid before it is used; the returned descriptor is ours alone.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGCHLD);
        libc::sigaddset(&raw mut set, libc::SIGTERM);
        if libc::sigprocmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut()) != 0 {
            return Err(io::Error::last_os_error());
        }
        let fd = libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

fn listen() -> io::Result<UnixListener> {
    // Of a shim that died: the lock says that none lives.
    match fs::remove_file(SOCKET_FILE) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let before = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o177));
    let listener = UnixListener::bind(SOCKET_FILE);
    rustix::process::umask(before);
    let listener = listener?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Lets go of whatever the agent's stdio was.
fn redirect_stdio(directory: &Path) -> Result<(), StartError> {
    let path = directory.join(DIAGNOSTICS_FILE);
    let failed = |source| StartError::Io { what: "open", path: path.clone(), source };
    let null = File::options().read(true).write(true).open("/dev/null").map_err(failed)?;
    let log = File::options().create(true).append(true).mode(0o600).open(&path).map_err(failed)?;
    let done = rustix::stdio::dup2_stdin(&null)
        .and_then(|()| rustix::stdio::dup2_stdout(&null))
        .and_then(|()| rustix::stdio::dup2_stderr(&log));
    done.map_err(|error| failed(error.into()))
}
