//! A wall clock that a test sets.

use tempfile::NamedTempFile;

use crate::cluster::Setup;

const LIBRARY: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";

/// The clock of every program of a cluster, while this is there.
#[derive(Debug)]
pub struct WallClock(NamedTempFile);

impl WallClock {
    /// It shows the time.
    ///
    /// # Panics
    /// libfaketime is not installed.
    pub fn new() -> Self {
        assert!(std::path::Path::new(LIBRARY).exists(), "libfaketime is missing: scripts/deps test");
        let clock = Self(NamedTempFile::new().expect("a temporary file"));
        clock.jump("+0");
        clock
    }

    /// To so many seconds from the true time: `+1800`, `-3600`.
    pub fn jump(&self, seconds: &str) {
        std::fs::write(self.0.path(), seconds).expect("the clock's offset");
    }

    /// A cluster that lives by it.
    pub fn setup(&self) -> Setup {
        let environment = [
            ("LD_PRELOAD", LIBRARY),
            ("FAKETIME_TIMESTAMP_FILE", self.0.path().to_str().expect("a plain path")),
            ("FAKETIME_NO_CACHE", "1"),
            // As the kernel does it: only the wall clock can be set.
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ];
        let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned()));
        Setup { environment: environment.to_vec(), ..Setup::default() }
    }
}

impl Default for WallClock {
    fn default() -> Self {
        Self::new()
    }
}
