//! Finds the program to execute, with Docker's words when there is none.

use std::io;
use std::path::Path;

use rustix::fs::{Access, AtFlags, CWD, FileType, accessat};

use super::Stop;

/// Shells' convention.
const NOT_FOUND: i32 = 127;
const NOT_EXECUTABLE: i32 = 126;
/// Where a program is looked for when the environment has no PATH, as execvp.
const PATH_WITHOUT_PATH: &str = "/bin:/usr/bin";

/// The path to execute, as the current user in the current directory sees it.
pub(super) fn find(name: &str, environment: &[String]) -> Result<String, Stop> {
    if name.contains('/') {
        return match check(name) {
            Ok(()) => Ok(name.to_owned()),
            Err(error) => Err(cannot(name, &error)),
        };
    }
    let path = environment.iter().find_map(|pair| pair.strip_prefix("PATH=")).unwrap_or(PATH_WITHOUT_PATH);
    let mut refused = None;
    for directory in path.split(':') {
        let directory = if directory.is_empty() { "." } else { directory };
        let candidate = format!("{}/{name}", directory.trim_end_matches('/'));
        match check(&candidate) {
            Ok(()) => return Ok(candidate),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => refused = Some(error),
            Err(_) => {}
        }
    }
    match refused {
        Some(error) => Err(cannot(name, &error)),
        None => Err(Stop::cannot_execute(NOT_FOUND, name, "executable file not found in $PATH")),
    }
}

/// What `execve` said of a path that looked right.
pub(super) fn refused(path: &str, error: &io::Error) -> Stop {
    match error.raw_os_error() {
        // It is there: what is missing is its interpreter or loader.
        Some(libc::ENOENT) => Stop::cannot_execute(
            NOT_FOUND,
            path,
            "no such file or directory (its interpreter or loader is missing)",
        ),
        Some(libc::ENOEXEC) => Stop::cannot_execute(NOT_EXECUTABLE, path, "exec format error"),
        Some(libc::EACCES | libc::EPERM) => Stop::cannot_execute(NOT_EXECUTABLE, path, "permission denied"),
        _ => Stop::cannot_execute(NOT_EXECUTABLE, path, &words(error)),
    }
}

fn check(path: &str) -> io::Result<()> {
    let stat = rustix::fs::stat(path)?;
    if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
        return Err(io::Error::from_raw_os_error(libc::EISDIR));
    }
    // With the effective ids, which are the container user's by now.
    match accessat(CWD, Path::new(path), Access::EXEC_OK, AtFlags::EACCESS) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::NOSYS | rustix::io::Errno::INVAL) => {
            Ok(accessat(CWD, Path::new(path), Access::EXEC_OK, AtFlags::empty())?)
        }
        Err(error) => Err(error.into()),
    }
}

fn cannot(name: &str, error: &io::Error) -> Stop {
    match error.raw_os_error() {
        Some(libc::ENOENT | libc::ENOTDIR) => {
            Stop::cannot_execute(NOT_FOUND, name, &format!("stat {name}: no such file or directory"))
        }
        Some(libc::EISDIR) => Stop::cannot_execute(NOT_EXECUTABLE, name, "is a directory"),
        Some(libc::EACCES | libc::EPERM) => Stop::cannot_execute(NOT_EXECUTABLE, name, "permission denied"),
        _ => Stop::cannot_execute(NOT_EXECUTABLE, name, &words(error)),
    }
}

/// Without Rust's "(os error 2)".
pub(super) fn words(error: &io::Error) -> String {
    let text = error.to_string();
    match text.split_once(" (os error") {
        Some((words, _)) => words.to_lowercase(),
        None => text,
    }
}
