//! What the process says of itself: lines on its standard error, a file that never grows beyond a limit.

use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Then it begins anew.
const LOG_BYTES_MAX: u64 = 1 << 20;

static WRITTEN: AtomicU64 = AtomicU64::new(0);

/// Standard error, cut when it is too long.
#[derive(Debug, Default)]
pub struct Log;

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let stderr = io::stderr();
        if WRITTEN.fetch_add(bytes.len() as u64, Relaxed) > LOG_BYTES_MAX {
            // No file: a terminal, or a test's pipe.
            let _ = rustix::fs::ftruncate(stderr.as_fd(), 0);
            WRITTEN.store(0, Relaxed);
        }
        stderr.lock().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
