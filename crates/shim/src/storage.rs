//! The task's ephemeral storage: a file system of its size in a sparse file, over a loop device, that only the task's
//! containers ever see.
//!
//! The shim keeps it as a mount that is attached nowhere, and each container mounts it once more in its own mount
//! namespace. So nothing of it has a name on the host: when the last process of the task is gone the kernel lets go of
//! mount and loop device by itself, however that process ended.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FallocateFlags};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen, move_mount,
};

use crate::protocol::{CONTAINERS_DIR, Failure, FailureKind, STORAGE_DIR, STORAGE_IMAGE_FILE, StorageUsage};

const FILE_SYSTEM: &str = "ext4";
/// `noinit_itable`: a sparse file reads as zeros already. `discard`: what is deleted inside is given back outside.
const OPTIONS: [&str; 2] = ["noinit_itable", "discard"];
/// Stands for the images, which lie elsewhere and count.
const IMAGES_FILE: &str = "images";
/// Below it, the volumes that are not filled yet, as empty directories of their paths.
const FILLING_DIR: &str = "filling";
/// A free loop device may be taken by somebody else before it is ours.
const LOOP_TRIES_MAX: usize = 64;
const LOOP_MAJOR: u32 = 7;
const LOOP_SET_STATUS_NAME_BYTES: usize = 64;
const LOOP_CTL_GET_FREE: libc::Ioctl = 0x4c82;
const LOOP_CONFIGURE: libc::Ioctl = 0x4c0a;
const LO_FLAGS_AUTOCLEAR: u32 = 4;

/// Where containers write.
pub(crate) struct Storage {
    /// The task's [`STORAGE_DIR`], as its containers mount it.
    root: PathBuf,
    /// How the shim itself gets there.
    base: PathBuf,
    own: Option<Own>,
}

/// A file system of the task's own.
struct Own {
    mount: OwnedFd,
    device: PathBuf,
}

impl Storage {
    /// A plain directory, bounded by nothing.
    pub(crate) fn shared(task: &Path) -> io::Result<Storage> {
        let root = task.join(STORAGE_DIR);
        fs::create_dir_all(&root)?;
        Ok(Storage { base: root.clone(), root, own: None })
    }

    /// The file system in the task's [`STORAGE_IMAGE_FILE`].
    pub(crate) fn own(task: &Path) -> io::Result<Storage> {
        let file = File::options().read(true).write(true).open(task.join(STORAGE_IMAGE_FILE))?;
        // Open until it is mounted, or it would be let go at once.
        let (device, _open) = attach(&file, task)?;
        Storage::on(task, device)
    }

    /// The file system on a block device.
    pub(crate) fn on(task: &Path, device: PathBuf) -> io::Result<Storage> {
        let root = task.join(STORAGE_DIR);
        fs::create_dir_all(&root)?;
        let mount = mounted(&device)?;
        let base = PathBuf::from(format!("/proc/self/fd/{}", mount.as_raw_fd()));
        Ok(Storage { root, base, own: Some(Own { mount, device }) })
    }

    /// Where a path of the storage is once [`Storage::enter`] was called.
    pub(crate) fn inside(&self, path: &Path) -> PathBuf {
        self.root.join(path)
    }

    /// Opens it for the calling process, to be entered when that is in its cgroup, whose rules may keep it from every
    /// block device.
    pub(crate) fn open(&self) -> io::Result<Option<OwnedFd>> {
        self.own.as_ref().map(|own| mounted(&own.device)).transpose()
    }

    /// Makes what was opened visible at its place in the calling process's own mount namespace.
    pub(crate) fn enter(&self, opened: Option<&OwnedFd>) -> io::Result<()> {
        if let Some(opened) = opened {
            move_mount(opened, "", CWD, &self.root, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
        }
        Ok(())
    }

    pub(crate) fn make_directory(&self, path: &Path) -> io::Result<()> {
        fs::create_dir_all(self.base.join(path))
    }

    /// Whether a volume is empty, or was not filled to the end.
    pub(crate) fn wants_filling(&self, volume: &Path) -> io::Result<bool> {
        if self.filling(volume).exists() {
            return Ok(true);
        }
        Ok(fs::read_dir(self.base.join(volume))?.next().is_none())
    }

    pub(crate) fn begin_filling(&self, volume: &Path) -> io::Result<()> {
        fs::create_dir_all(self.filling(volume))
    }

    pub(crate) fn end_filling(&self, volume: &Path) -> io::Result<()> {
        fs::remove_dir(self.filling(volume))
    }

    /// There as long as the volume is being filled.
    fn filling(&self, volume: &Path) -> PathBuf {
        self.base.join(FILLING_DIR).join(volume)
    }

    /// What a container wrote, and the volumes only it had.
    pub(crate) fn remove_container(&self, id: &str) -> io::Result<()> {
        for directory in [self.filling(&container_directory(id)), self.base.join(container_directory(id))] {
            match fs::remove_dir_all(directory) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    pub(crate) fn reserve(&self, bytes: u64) -> Result<(), Failure> {
        if self.own.is_none() {
            return Ok(());
        }
        let path = self.base.join(IMAGES_FILE);
        let taken = || -> io::Result<()> {
            let file = File::options().create(true).truncate(true).write(true).open(&path)?;
            if bytes > 0 {
                rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, bytes)?;
            }
            Ok(())
        };
        taken().map_err(|error| {
            let _ = fs::remove_file(&path);
            let (kind, why) = match error.raw_os_error() {
                Some(libc::ENOSPC | libc::EFBIG) => (FailureKind::NoSpace, "no space left on device".into()),
                _ => (FailureKind::System, error.to_string()),
            };
            Failure::new(kind, format!("cannot take {bytes} bytes of the ephemeral storage: {why}"))
        })
    }

    pub(crate) fn usage(&self) -> Option<StorageUsage> {
        let all = rustix::fs::fstatvfs(&self.own.as_ref()?.mount).ok()?;
        Some(StorageUsage {
            used_bytes: all.f_blocks.saturating_sub(all.f_bfree) * all.f_frsize,
            size_bytes: all.f_blocks * all.f_frsize,
        })
    }
}

/// The file system on a block device, as a mount that is attached nowhere.
pub fn mounted(device: &Path) -> io::Result<OwnedFd> {
    let context = fsopen(FILE_SYSTEM, FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&context, "source", device)?;
    for option in OPTIONS {
        fsconfig_set_flag(&context, option)?;
    }
    fsconfig_create(&context)?;
    Ok(fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::MOUNT_ATTR_NODEV)?)
}

/// Below the storage.
pub(crate) fn container_directory(id: &str) -> PathBuf {
    Path::new(CONTAINERS_DIR).join(id)
}

/// The kernel's `struct loop_info64`.
#[repr(C)]
struct LoopInfo {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; LOOP_SET_STATUS_NAME_BYTES],
    crypt_name: [u8; LOOP_SET_STATUS_NAME_BYTES],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

/// The kernel's `struct loop_config`.
#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    info: LoopInfo,
    reserved: [u64; 8],
}

/// Puts a loop device over the file, which goes when its last user does.
fn attach(file: &File, task: &Path) -> io::Result<(PathBuf, File)> {
    let control = File::options().read(true).write(true).open("/dev/loop-control")?;
    let mut last = io::Error::other("no loop device is free");
    for _ in 0..LOOP_TRIES_MAX {
        // SAFETY: no pointers involved.
        let number = unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE) };
        let number = u32::try_from(number).map_err(|_| io::Error::last_os_error())?;
        let (path, device) = open_device(number, task)?;
        // SAFETY: all zeroes is a valid value of these plain structures.
        let mut config: LoopConfig = unsafe { std::mem::zeroed() };
        config.fd = file.as_raw_fd() as u32;
        config.info.flags = LO_FLAGS_AUTOCLEAR;
        // SAFETY: the structure is the one the kernel reads, and outlives the call.
        if unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE, &raw const config) } == 0 {
            return Ok((path, device));
        }
        last = io::Error::last_os_error();
        if last.raw_os_error() != Some(libc::EBUSY) {
            break;
        }
    }
    Err(last)
}

/// The device's usual name, or one of our own where nobody makes those.
fn open_device(number: u32, task: &Path) -> io::Result<(PathBuf, File)> {
    let open =
        |path: PathBuf| File::options().read(true).write(true).open(&path).map(|device| (path, device));
    match open(format!("/dev/loop{number}").into()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        done => return done,
    }
    let path = task.join(format!("loop{number}"));
    let device = rustix::fs::makedev(LOOP_MAJOR, number);
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    match rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::BlockDevice, mode, device) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => open(path),
        Err(error) => Err(error.into()),
    }
}
