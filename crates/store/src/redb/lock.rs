//! One process at a time: an advisory lock on a file beside the store's, which says who holds it.
//!
//! redb locks its own file as well, but cannot say who has it; and this one is held before anything is touched.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};

use crate::StoreError;

/// Longest text that is believed to name a holder.
const HOLDER_BYTES_MAX: u64 = 256;

/// Released by the kernel when the process ends, however it does. The file stays: deleting it would let a third
/// process lock a new file of that name.
#[derive(Debug)]
pub(crate) struct Lock(#[expect(dead_code, reason = "held, never read")] File);

impl Lock {
    pub(crate) fn take(path: &Path) -> Result<Self, StoreError> {
        let mut name = path.as_os_str().to_owned();
        name.push(".lock");
        let lock = PathBuf::from(name);
        let open = |error: std::io::Error| StoreError::Open {
            path: path.to_owned(),
            why: format!("{}: {error}", lock.display()),
        };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&lock)
            .map_err(open)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                let read = (&mut file).take(HOLDER_BYTES_MAX).read_to_string(&mut holder);
                let known = read.is_ok() && !holder.trim().is_empty();
                let holder = if known { holder.trim().to_owned() } else { "another process".to_owned() };
                return Err(StoreError::InUse { path: path.to_owned(), holder });
            }
            Err(TryLockError::Error(error)) => return Err(open(error)),
        }
        let write = |file: &mut File| {
            file.set_len(0)?;
            file.rewind()?;
            writeln!(file, "process {} ({})", std::process::id(), program())
        };
        // The name is for a message. A full disk is no reason to keep out those who want to read or make room.
        if let Err(error) = write(&mut file) {
            tracing::warn!(lock = %lock.display(), %error, "the store's lock is held, but does not say by whom");
        }
        Ok(Self(file))
    }
}

fn program() -> String {
    let path = std::env::current_exe().ok();
    path.as_deref()
        .and_then(Path::file_name)
        .map_or_else(|| "unknown".into(), |name| name.to_string_lossy().into_owned())
}
