//! The file system a task's containers write to: a sparse file of the task's size, copied from a template that is made
//! once per size.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use ferrogate_shim::protocol::STORAGE_IMAGE_FILE;
use serde::{Deserialize, Serialize};

use crate::Error;

/// Room for the file system's own tables, so that the task gets the size it asked for.
const OVERHEAD_PERCENT: u64 = 3;
pub(crate) const BLOCK_BYTES: u64 = 4096;
/// No journal and nothing reserved, as it lives no longer than the task; tables are zero in a sparse file already, so
/// that a fresh one takes 128 KiB whatever its size.
const MKFS: &[&str] = &[
    "-q",
    "-F",
    "-b",
    "4096",
    "-m",
    "0",
    "-O",
    "^has_journal,^resize_inode,sparse_super2",
    "-E",
    "lazy_itable_init=1,nodiscard,packed_meta_blocks=1,num_backup_sb=0,root_owner=0:0",
];
const MKFS_PROGRAM: &str = "mkfs.ext4";
const MKFS_PATH: &str = "/usr/sbin:/sbin:/usr/bin:/bin";
const LOOP_CONTROL: &str = "/dev/loop-control";
/// A template that has more data than this is none of ours.
const TEMPLATE_DATA_BYTES_MAX: u64 = 64 << 20;

/// `ephemeralStorage` of a task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EphemeralStorage {
    /// For images, writable layers and volumes together.
    pub size_bytes: u64,
    /// Where the empty file systems are kept that a task's is copied from, one per size.
    pub templates: PathBuf,
}

/// What this machine lacks to give a task its ephemeral storage; `None`: nothing.
pub fn missing_for_storage() -> Option<String> {
    if let Err(error) = File::open(LOOP_CONTROL) {
        return Some(format!("{LOOP_CONTROL}: {error}: the kernel needs loop devices (module `loop`)"));
    }
    let found = MKFS_PATH.split(':').any(|directory| Path::new(directory).join(MKFS_PROGRAM).exists());
    (!found).then(|| format!("{MKFS_PROGRAM} is not in {MKFS_PATH}: install the package e2fsprogs"))
}

/// Puts an empty file system into the task's directory. Blocking, and short but for the first of a size.
pub(crate) fn make(storage: &EphemeralStorage, task: &Path) -> Result<(), Error> {
    let size = file_bytes(storage);
    let template = storage.templates.join(format!("ext4-{size}"));
    if !template.exists() {
        make_template(&storage.templates, &template, size, &[])?;
    }
    let target = task.join(STORAGE_IMAGE_FILE);
    copy(&template, &target).map_err(|source| Error::Io { action: "make", path: target, source })
}

/// What a file system takes that has this much room.
pub(crate) fn file_bytes(storage: &EphemeralStorage) -> u64 {
    let size = storage.size_bytes + storage.size_bytes * OVERHEAD_PERCENT / 100;
    size.next_multiple_of(BLOCK_BYTES)
}

/// Under a name of its own first: two tasks may make the same at once, and a crash may come in between. `environment` is
/// for the program that makes it.
pub(crate) fn make_template(
    directory: &Path,
    template: &Path,
    size: u64,
    environment: &[(&str, &str)],
) -> Result<(), Error> {
    let failed = |source| Error::Io { action: "make the file system", path: template.to_owned(), source };
    std::fs::create_dir_all(directory).map_err(failed)?;
    let fresh = tempfile_in(directory).map_err(failed)?;
    let made = || -> io::Result<()> {
        File::options().write(true).open(&fresh)?.set_len(size)?;
        let output = std::process::Command::new(MKFS_PROGRAM)
            .args(MKFS)
            .arg(&fresh)
            .env("PATH", MKFS_PATH)
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .output()
            .map_err(|error| {
                io::Error::new(error.kind(), format!("mkfs.ext4 (package e2fsprogs): {error}"))
            })?;
        if !output.status.success() {
            let words = String::from_utf8_lossy(&output.stderr);
            return Err(io::Error::other(format!("mkfs.ext4: {}: {}", output.status, words.trim())));
        }
        // Under its name it is whole, also after a crash of the host.
        File::open(&fresh)?.sync_all()?;
        std::fs::rename(&fresh, template)
    };
    made().map_err(|error| {
        let _ = std::fs::remove_file(&fresh);
        failed(error)
    })
}

/// Begin of the name of what is not whole; the process that makes it follows.
const TEMPORARY: &str = ".new-";

/// A file of this name is not whole, and nobody makes it any more.
pub(crate) fn is_abandoned(name: &str) -> bool {
    let maker = name.strip_prefix(TEMPORARY).and_then(|rest| rest.split('-').next());
    maker.is_some_and(|pid| !Path::new("/proc").join(pid).exists())
}

pub(crate) fn tempfile_in(directory: &Path) -> io::Result<PathBuf> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let path = directory.join(format!("{TEMPORARY}{}-{}", std::process::id(), now.as_nanos()));
    File::options().write(true).create_new(true).open(&path)?;
    Ok(path)
}

/// Shares the template's blocks where the host's file system can, else copies what is not a hole.
fn copy(template: &Path, target: &Path) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut from = File::open(template)?;
    let mut to = File::options().write(true).create(true).truncate(true).mode(0o600).open(target)?;
    if rustix::fs::ioctl_ficlone(&to, &from).is_ok() {
        return Ok(());
    }
    let size = from.metadata()?.len();
    to.set_len(size)?;
    let mut copied = 0;
    let mut offset = 0;
    while offset < size {
        let data = match rustix::fs::seek(from.as_fd(), rustix::fs::SeekFrom::Data(offset)) {
            Ok(data) => data,
            // Nothing but a hole from here on.
            Err(rustix::io::Errno::NXIO) => break,
            Err(error) => return Err(error.into()),
        };
        let hole = rustix::fs::seek(from.as_fd(), rustix::fs::SeekFrom::Hole(data))?;
        copied += hole - data;
        if copied > TEMPLATE_DATA_BYTES_MAX {
            return Err(io::Error::other(format!("{} is no empty file system", template.display())));
        }
        let mut bytes = vec![0; (hole - data) as usize];
        from.seek(SeekFrom::Start(data))?;
        from.read_exact(&mut bytes)?;
        to.seek(SeekFrom::Start(data))?;
        to.write_all(&bytes)?;
        offset = hole;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_it() {
        assert_eq!(missing_for_storage(), None);
    }

    #[test]
    fn a_fresh_one_is_sparse_and_whole() {
        use std::os::unix::fs::MetadataExt;
        let dir = tempfile::tempdir().unwrap();
        let templates = dir.path().join("templates");
        let storage = EphemeralStorage { size_bytes: 20 << 30, templates: templates.clone() };
        for task in ["a", "b"] {
            let task = dir.path().join(task);
            std::fs::create_dir(&task).unwrap();
            make(&storage, &task).unwrap();
            let image = task.join(STORAGE_IMAGE_FILE);
            let of = std::fs::metadata(&image).unwrap();
            assert!(of.len() > 20 << 30 && of.blocks() * 512 < 4 << 20, "{} blocks", of.blocks());
            let checked = std::process::Command::new("/usr/sbin/e2fsck").arg("-fn").arg(&image).output();
            if let Ok(checked) = checked {
                assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stdout));
            }
        }
        assert_eq!(std::fs::read_dir(&templates).unwrap().count(), 1);
    }
}
