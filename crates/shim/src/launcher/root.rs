//! A container's view of the file system, built in its own mount namespace: root, mounts, devices, what is
//! hidden and what cannot be written.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Gid, Mode, Uid, chown, makedev, mknodat};
use rustix::mount::{MountPropagationFlags, UnmountFlags, mount_bind_recursive, mount_change, unmount};

use super::fill::Filling;
use super::plan::{DeviceNode, Plan, root_target};
use super::{Place, Room, Stop, mounts, step};
use crate::protocol::Rootfs;
use crate::storage::container_directory;

const PROC_SUPER_MAGIC: i64 = 0x9fa0;

/// Links every program may count on.
const DEVICE_LINKS: &[(&str, &str)] = &[
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
    ("/proc/kcore", "/dev/core"),
    ("pts/ptmx", "/dev/ptmx"),
];

/// Changes the calling process, which must be in a mount namespace of its own, into the container's root.
/// `storage` is what was opened of it.
pub(super) fn enter(
    plan: &Plan,
    place: &Place<'_>,
    room: &Room<'_>,
    storage: Option<&OwnedFd>,
) -> Result<(), Stop> {
    let taken = change(plan, place, room, storage)?;
    for (mount, source) in plan.mounts.iter().zip(taken) {
        let attached = mounts::attach(mount, source, place.cgroups, None);
        step(&format!("mount {}", mount.target.display()), attached)?;
    }
    complete(plan)
}

/// Changes the calling process likewise, as far as it takes to fill these volumes with what the image has in their places.
/// What an earlier try left in them goes first.
pub(super) fn fill(
    plan: &Plan,
    place: &Place<'_>,
    room: &Room<'_>,
    storage: Option<&OwnedFd>,
    volumes: &[PathBuf],
    progress: &fs::File,
) -> Result<(), Stop> {
    let sources: Vec<PathBuf> = volumes.iter().map(|volume| room.storage.inside(volume)).collect();
    let taken = change(plan, place, room, storage)?;
    let mut filling = Filling::new(&sources, progress);
    for (mount, source) in plan.mounts.iter().zip(taken).filter(|(mount, _)| mount.shows_files()) {
        let attached = mounts::attach(mount, source, place.cgroups, Some(&mut filling));
        step(&format!("fill the volume at {}", mount.target.display()), attached)?;
    }
    Ok(())
}

/// Mounts the root and goes there; the sources of what is to be mounted in it.
fn change(
    plan: &Plan,
    place: &Place<'_>,
    room: &Room<'_>,
    storage: Option<&OwnedFd>,
) -> Result<Vec<Option<OwnedFd>>, Stop> {
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    step("make mounts private", mount_change("/", private).map_err(io::Error::from))?;
    step("mount the ephemeral storage", room.storage.enter(storage))?;
    let target = root_target(place.directory);
    step(&format!("make {}", target.display()), fs::create_dir_all(&target))?;
    match &plan.rootfs {
        Rootfs::Layers(layers) => {
            let writable = room.storage.inside(&container_directory(room.id));
            step("mount the overlay root", mounts::overlay(layers, &writable, &target))?
        }
        Rootfs::Directory(root) => {
            let bound = mount_bind_recursive(root, &target).map_err(io::Error::from);
            step(&format!("mount the root {}", root.display()), bound)?;
        }
    }
    let mut taken = Vec::with_capacity(plan.mounts.len());
    for mount in &plan.mounts {
        taken.push(step(
            &format!("take the source of the mount at {}", mount.target.display()),
            mounts::take(mount),
        )?);
    }
    step("change the root", change_root(&target))?;
    Ok(taken)
}

/// What a root needs beside its mounts.
fn complete(plan: &Plan) -> Result<(), Stop> {
    // Before the devices: their modes are meant as they are written.
    rustix::process::umask(Mode::empty());
    for device in &plan.devices {
        step(&format!("make device {}", device.path.display()), make_device(device))?;
    }
    rustix::process::umask(Mode::from_raw_mode(0o022));
    step("make the links in /dev", make_links())?;
    if !plan.sysctls.is_empty() {
        step("find /proc/sys", require_proc())?;
    }
    for (key, value) in &plan.sysctls {
        let path = Path::new("/proc/sys").join(key.replace('.', "/"));
        step(&format!("set system control {key} to {value:?}"), fs::write(path, value))?;
    }
    let directory = PathBuf::from(&plan.process.directory);
    let made = mounts::resolve(&directory).and_then(fs::create_dir_all);
    step(&format!("make the working directory {}", directory.display()), made)?;
    for path in &plan.readonly {
        step(&format!("make {path} read-only"), mounts::freeze(Path::new(path)))?;
    }
    for path in &plan.masked {
        step(&format!("mask {path}"), mounts::mask(Path::new(path)))?;
    }
    if plan.readonly_root {
        step("make the root read-only", mounts::set_readonly(Path::new("/")))?;
    }
    Ok(())
}

/// The old root ends up beneath the new one and is let go: no name in this namespace leads to it any more.
fn change_root(target: &Path) -> io::Result<()> {
    std::env::set_current_dir(target)?;
    rustix::process::pivot_root(".", ".")?;
    unmount(".", UnmountFlags::DETACH)?;
    std::env::set_current_dir("/")
}

fn make_device(device: &DeviceNode) -> io::Result<()> {
    let number = makedev(device.major, device.minor);
    let mode = Mode::from_raw_mode(device.mode);
    match mknodat(CWD, &device.path, FileType::CharacterDevice, mode, number) {
        Ok(()) => {}
        Err(rustix::io::Errno::EXIST) => {
            let stat = rustix::fs::lstat(&device.path)?;
            let same =
                FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == number;
            if !same {
                return Err(io::Error::other("something else is there already"));
            }
        }
        Err(error) => return Err(error.into()),
    }
    if (device.uid, device.gid) != (0, 0) {
        chown(&device.path, Some(Uid::from_raw(device.uid)), Some(Gid::from_raw(device.gid)))?;
    }
    Ok(())
}

fn make_links() -> io::Result<()> {
    for (target, link) in DEVICE_LINKS {
        match symlink(target, link) {
            Ok(()) => {}
            // An image without a /dev mount has what it has.
            Err(error) if matches!(error.kind(), io::ErrorKind::AlreadyExists | io::ErrorKind::NotFound) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// A directory of the image that is only called `/proc/sys` must not be taken for it.
fn require_proc() -> io::Result<()> {
    let found = rustix::fs::statfs("/proc/sys")?;
    if found.f_type as i64 != PROC_SUPER_MAGIC {
        return Err(io::Error::other("system controls need proc mounted at /proc"));
    }
    Ok(())
}
