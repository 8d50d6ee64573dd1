//! What the agent decides of a task's machine: part of [`TaskConfig`](crate::protocol::TaskConfig).

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::protocol::Resources;

/// What an emulator keeps of the guest's code in its own. More is not kept; by itself QEMU takes up to 1 GiB.
pub const TRANSLATED_CODE_MIB: u64 = 64;

/// Of the disk of a machine that has nothing to write to it.
pub const DISK_BYTES: u64 = 256 << 30;

/// A task whose containers run in a machine of their own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MachineConfig {
    pub vmm: VmmConfig,
    pub vcpus: u32,
    pub memory_mib: u64,
    /// From the machine's start to a guest that takes calls.
    pub boot_deadline_ms: u64,
    /// … to a guest that says hello, for one that is emulated: without, it is booted again.
    pub hello_deadline_ms: Option<u64>,
    /// Between two times that the guest is told the time, which it answers.
    pub clock_interval_ms: u64,
    pub hostname: String,
    /// For the guest's task directory: relative path and content.
    pub files: BTreeMap<String, String>,
    /// Of the machine's cgroup once it is up. Until then it has no limit of CPU time: a boot is not the task's work.
    pub limits: Resources,
    /// Limits of the task in its guest; those of [`TaskConfig`](crate::protocol::TaskConfig) are the machine's.
    pub resources: Resources,
    /// Its interface becomes the guest's before the first container that joins it. It may be made later than the machine.
    pub network_namespace: Option<PathBuf>,
    /// The containers write to the machine's disk. `None`: to its memory.
    pub storage: Option<StorageFile>,
    /// `None`: it is booted.
    pub snapshot: Option<Snapshot>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Snapshot {
    /// It begins from this one. One that cannot be used is no error: the machine is booted.
    Restore(SnapshotFiles),
    /// It is booted to be this one, and never a task's.
    Make(SnapshotFiles),
}

/// Of a guest that has booted and is nobody's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnapshotFiles {
    /// Sparse, of the size of the guest's memory, which it is.
    pub memory: PathBuf,
    /// Of the machine's processors and devices. It is there when the snapshot is whole.
    pub state: PathBuf,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StorageFile {
    /// Of the host, sparse; in the storage's own part is only ever what nobody can read.
    pub path: PathBuf,
    /// Of that part, from its beginning. Behind it is what an empty file system of its size is: [`super::template`].
    pub bytes: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VmmConfig {
    /// `qemu-system-x86_64`
    pub program: PathBuf,
    /// What the program reads of the host: itself, its libraries, firmware. Nothing else of the host is in its root.
    pub files: Vec<PathBuf>,
    /// An ELF image with a PVH entry.
    pub kernel: PathBuf,
    pub initramfs: PathBuf,
    /// The kernel finds its devices by ACPI; without, by its command line, which is faster.
    pub acpi: bool,
    pub accelerator: Accelerator,
    /// How fast the guest's clock counter runs, for a guest that cannot find out: an emulated one that is never on time.
    pub tsc_khz: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accelerator {
    Kvm,
    /// Emulation: slow, and there everywhere.
    Tcg,
}
