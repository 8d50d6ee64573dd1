//! A booted guest becomes a task's.

use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Component, Path};

use ferrogate_shim::cgroup::Cgroups;
use ferrogate_shim::machine::wire::{GUEST_CGROUP, GUEST_DISK, GUEST_TASK_DIR, STORAGE_VARIABLE, Setup};
use ferrogate_shim::protocol::Resources;

use crate::boot::Steps;
use crate::interface;
use crate::shim::Shim;
use crate::storage::{Locked, Storage};

/// `RNDADDENTROPY`
const ADD_ENTROPY: libc::Ioctl = 0x4008_5203;
/// `RNDRESEEDCRNG`
const RESEED: libc::Ioctl = 0x5207;
const ENTROPY_BYTES_MAX: usize = 512;
/// A guest's clock may be behind by as much before it is set: a step is worse than that.
const BEHIND_MAX_NS: i64 = 200_000_000;
/// … and ahead, of what the host said a while ago: a time that comes late is no reason to go through a second twice.
const AHEAD_MAX_NS: i64 = 2_000_000_000;

/// What a guest has before it is anybody's: one that is restored has it too.
pub(crate) struct Own {
    pub(crate) shim: Shim,
    /// `None`: containers write to memory.
    storage: Option<Locked>,
}

#[cfg(test)]
impl Own {
    pub(crate) fn of(shim: Shim) -> Own {
        Own { shim, storage: None }
    }
}

pub(crate) fn ahead() -> Result<Own, String> {
    let failed = |what: &str, error: io::Error| format!("cannot {what}: {error}");
    if !Path::new(GUEST_DISK).exists() {
        return Err(format!(
            "there is no {GUEST_DISK}: this kernel has no virtio_blk; `cargo xtask kernel` makes one that has"
        ));
    }
    interface::ahead().map_err(|error| failed("bring network interfaces up", error))?;
    let cgroups = Cgroups::detect().map_err(|error| failed("find cgroups", error))?;
    let made = cgroups.create(Path::new(GUEST_CGROUP), &Resources::default());
    made.map_err(|error| failed("make the task's cgroup", error))?;
    let directory = Path::new(GUEST_TASK_DIR);
    make_private(directory).map_err(|error| failed("make the task's directory", error))?;
    let storage = match std::env::var(STORAGE_VARIABLE) {
        Ok(bytes) => {
            let bytes = bytes.parse().map_err(|_| format!("{STORAGE_VARIABLE}={bytes} is no number"))?;
            let made = Storage::make(Path::new(GUEST_DISK), bytes);
            Some(made.map_err(|error| failed("make the ephemeral storage", error))?)
        }
        Err(_) => None,
    };
    let shim = Shim::start(directory, storage.as_ref().map(|storage| storage.device.clone()))?;
    let storage = storage.map(Storage::lock).transpose();
    Ok(Own { shim, storage: storage.map_err(|error| failed("lock the ephemeral storage", error))? })
}

pub(crate) fn make(setup: &Setup, own: &mut Own, steps: &mut Steps) -> Result<(), String> {
    let failed = |what: &str, error: io::Error| format!("cannot {what}: {error}");
    if setup.has_storage != own.storage.is_some() {
        return Err("this guest was begun for a task with another kind of storage".into());
    }
    clock(setup.now_ns)?;
    add_entropy(&setup.entropy).map_err(|error| failed("take entropy", error))?;
    rustix::system::sethostname(setup.hostname.as_bytes())
        .map_err(|error| failed("set the host name", error.into()))?;
    let directory = Path::new(GUEST_TASK_DIR);
    for (name, content) in &setup.files {
        write(directory, name, content).map_err(|error| failed(&format!("write {name:?}"), error))?;
    }
    if let Some(storage) = own.storage.take() {
        storage.unlock().map_err(|error| failed("encrypt the ephemeral storage", error))?;
        steps.done("storage");
    }
    own.shim.begin(&setup.task)
}

fn make_private(directory: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)
}

fn write(directory: &Path, name: &str, content: &str) -> io::Result<()> {
    let inside = Path::new(name).components().all(|part| matches!(part, Component::Normal(_)));
    if !inside {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let path = directory.join(name);
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::write(path, content)
}

/// Sets the clock by what the host says of the time, which was a while ago: only if it is off by more than that
/// may take.
pub(crate) fn correct_clock(now_ns: i64) -> Result<(), String> {
    let own = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    let own_ns = own.tv_sec.saturating_mul(1_000_000_000).saturating_add(own.tv_nsec);
    if is_off(own_ns, now_ns) { clock(now_ns) } else { Ok(()) }
}

fn is_off(own_ns: i64, now_ns: i64) -> bool {
    let ahead_ns = own_ns.saturating_sub(now_ns);
    !(-BEHIND_MAX_NS..=AHEAD_MAX_NS).contains(&ahead_ns)
}

pub(crate) fn clock(now_ns: i64) -> Result<(), String> {
    let time = rustix::time::Timespec {
        tv_sec: now_ns.div_euclid(1_000_000_000),
        tv_nsec: now_ns.rem_euclid(1_000_000_000),
    };
    rustix::time::clock_settime(rustix::time::ClockId::Realtime, time)
        .map_err(|error| format!("cannot set the clock: {error}"))
}

/// The kernel's `struct rand_pool_info`, with room.
#[repr(C)]
struct Entropy {
    bits: i32,
    bytes: i32,
    buffer: [u8; ENTROPY_BYTES_MAX],
}

fn add_entropy(bytes: &[u8]) -> io::Result<()> {
    let bytes = &bytes[..bytes.len().min(ENTROPY_BYTES_MAX)];
    let mut entropy =
        Entropy { bits: bytes.len() as i32 * 8, bytes: bytes.len() as i32, buffer: [0; ENTROPY_BYTES_MAX] };
    entropy.buffer[..bytes.len()].copy_from_slice(bytes);
    let device = fs::File::options().write(true).open("/dev/random")?;
    let checked = |done| if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) };
    // SAFETY: the structure is the one the kernel reads, and outlives the call.
    checked(unsafe { libc::ioctl(device.as_raw_fd(), ADD_ENTROPY, &raw const entropy) })?;
    // At once: by itself the generator takes from the pool once a minute, and until then two guests of one snapshot would
    // have the same random numbers.
    // SAFETY: the command has no argument.
    checked(unsafe { libc::ioctl(device.as_raw_fd(), RESEED) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_set_when_it_is_off_and_back_only_when_it_is_far_off() {
        let now = 1_700_000_000_000_000_000;
        for (own, off) in [(now, false), (now - 150_000_000, false), (now + 1_900_000_000, false)] {
            assert_eq!(is_off(own, now), off, "{own}");
        }
        for own in [0, i64::MIN, i64::MAX, now - 300_000_000, now + 2_100_000_000] {
            assert!(is_off(own, now), "{own}");
        }
    }
}
