//! The host's side of a machine's ephemeral storage: an empty sparse file, and behind its end what an empty file system of
//! its size is.

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use ferrogate_shim::machine::config::StorageFile;
use ferrogate_shim::machine::template::{self, Extent};
use ferrogate_shim::protocol::STORAGE_IMAGE_FILE;

use crate::{EphemeralStorage, Error};

/// A disk's size is this many bytes, some times.
const SECTOR_BYTES: u64 = 512;

/// Blocking, and short but for the first of a size.
pub(super) fn make(storage: &EphemeralStorage, task: &Path) -> Result<StorageFile, Error> {
    let bytes = crate::storage::file_bytes(storage);
    let template = storage.templates.join(format!("machine-ext4-{}-{bytes}", template::VERSION));
    if !template.exists() {
        make_template(&storage.templates, &template, bytes)?;
    }
    let path = task.join(STORAGE_IMAGE_FILE);
    match write(&path, bytes, &template) {
        Ok(()) => Ok(StorageFile { path, bytes }),
        Err(source) => Err(Error::Io { action: "make", path, source }),
    }
}

fn write(path: &Path, bytes: u64, template: &Path) -> io::Result<()> {
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(path)?;
    file.seek(SeekFrom::Start(bytes))?;
    let behind = io::copy(&mut File::open(template)?, &mut file)?;
    // No longer than that: it is what the guest's kernel can fill of the host's disk.
    file.set_len((bytes + behind).next_multiple_of(SECTOR_BYTES))
}

fn make_template(directory: &Path, template: &Path, size: u64) -> Result<(), Error> {
    let whole =
        directory.join(format!("{}.whole", template.file_name().unwrap_or_default().to_string_lossy()));
    // Its zeros are written out: on the encrypted disk a hole reads as noise.
    crate::storage::make_template(directory, &whole, size, &[("UNIX_IO_NOZEROOUT", "1")])?;
    let failed = |source| Error::Io { action: "make the file system", path: template.to_owned(), source };
    let packed = pack(directory, &whole).and_then(|fresh| std::fs::rename(fresh, template));
    let _ = std::fs::remove_file(&whole);
    packed.map_err(failed)
}

fn pack(directory: &Path, whole: &Path) -> io::Result<PathBuf> {
    let from = File::open(whole)?;
    let mut extents = Vec::new();
    let mut offset = 0;
    loop {
        let begin = match rustix::fs::seek(from.as_fd(), rustix::fs::SeekFrom::Data(offset)) {
            Ok(begin) => begin,
            // Nothing but a hole from here on.
            Err(rustix::io::Errno::NXIO) => break,
            Err(error) => return Err(error.into()),
        };
        let end = rustix::fs::seek(from.as_fd(), rustix::fs::SeekFrom::Hole(begin))?;
        extents.push(Extent { offset: begin, bytes: end - begin });
        offset = end;
    }
    let bytes: u64 = extents.iter().map(|extent| extent.bytes).sum();
    if bytes > template::DATA_BYTES_MAX {
        let why = format!("{} has {bytes} bytes, more than an empty file system", whole.display());
        return Err(io::Error::other(why));
    }
    let mut data = Vec::new();
    for extent in &extents {
        let before = data.len();
        data.resize(before + extent.bytes as usize, 0);
        from.read_exact_at(&mut data[before..], extent.offset)?;
    }
    // What another system may have left at a disk's end is wiped; this one has nothing of its own there.
    let end = from.metadata()?.len();
    let wiped = extents.pop_if(|last| {
        let of_it = &data[data.len() - last.bytes as usize..];
        last.offset + last.bytes == end && of_it.iter().all(|byte| *byte == 0)
    });
    data.truncate(data.len() - wiped.map_or(0, |wiped| wiped.bytes as usize));
    let fresh = crate::storage::tempfile_in(directory)?;
    let mut to = File::options().write(true).open(&fresh)?;
    to.write_all(&template::encode(&extents).map_err(io::Error::other)?)?;
    to.write_all(&data)?;
    // It is named next, and then is whole, also after a crash of the host.
    to.sync_all()?;
    Ok(fresh)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::BLOCK_BYTES;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn a_template_has_what_the_file_system_has() {
        // The least a task has, and the most.
        [20, 200].into_iter().for_each(is_whole);
    }

    fn is_whole(gib: u64) {
        let dir = tempfile::tempdir().unwrap();
        let storage = EphemeralStorage { size_bytes: gib << 30, templates: dir.path().join("templates") };
        let StorageFile { path, bytes: end } = make(&storage, dir.path()).unwrap();
        let made = File::open(&path).unwrap();
        let template = std::fs::read_dir(&storage.templates).unwrap().next().unwrap().unwrap();
        let mut bytes = vec![0; template.metadata().unwrap().len() as usize];
        made.read_exact_at(&mut bytes, end).unwrap();
        assert_eq!(end, crate::storage::file_bytes(&storage));
        assert_eq!(made.metadata().unwrap().len(), (end + bytes.len() as u64).next_multiple_of(SECTOR_BYTES));
        assert!(made.metadata().unwrap().blocks() * SECTOR_BYTES <= bytes.len() as u64 + BLOCK_BYTES);
        let extents = template::decode(&bytes[..template::HEADER_BYTES]).unwrap();
        assert!(extents.len() < template::EXTENTS_MAX / 4, "{} extents", extents.len());
        assert!(bytes.len() < 4 << 20, "{} bytes", bytes.len());
        let last = extents[extents.len() - 1];
        assert!(last.offset + last.bytes < end, "what is wiped at the end is not in it");
        // The superblock's magic number, at its place.
        assert_eq!(extents[0].offset, 0);
        assert_eq!(bytes[template::HEADER_BYTES + 1080..][..2], [0x53, 0xef]);
        // Written out again it is a file system without faults, whatever was on the disk before.
        let disk = dir.path().join("disk");
        let file = File::options().read(true).write(true).create_new(true).open(&disk).unwrap();
        file.set_len(end).unwrap();
        for extent in &extents {
            let noise = vec![0xa5; 64 << 10];
            file.write_all_at(&noise, extent.offset.saturating_sub(noise.len() as u64 / 2)).unwrap();
        }
        let mut from = template::HEADER_BYTES;
        for extent in &extents {
            file.write_all_at(&bytes[from..from + extent.bytes as usize], extent.offset).unwrap();
            from += extent.bytes as usize;
        }
        let checked = std::process::Command::new("/usr/sbin/e2fsck").arg("-fn").arg(&disk).output().unwrap();
        assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stdout));
        assert_eq!(std::fs::read_dir(&storage.templates).unwrap().count(), 1, "nothing is left over");
    }
}
