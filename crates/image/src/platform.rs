//! Which of an index's images is wanted.

use std::fmt;

/// The platforms Fargate runs: `cpuArchitecture` X86_64 and ARM64, Linux only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Platform {
    LinuxAmd64,
    LinuxArm64,
}

impl Platform {
    /// What this machine runs without emulation.
    pub fn host() -> Self {
        if cfg!(target_arch = "aarch64") { Platform::LinuxArm64 } else { Platform::LinuxAmd64 }
    }

    /// `amd64` or `arm64`, as image configs and indexes say it.
    pub fn architecture(self) -> &'static str {
        match self {
            Platform::LinuxAmd64 => "amd64",
            Platform::LinuxArm64 => "arm64",
        }
    }

    pub(crate) fn is(self, os: &str, architecture: &str) -> bool {
        os == "linux" && architecture == self.architecture()
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "linux/{}", self.architecture())
    }
}
