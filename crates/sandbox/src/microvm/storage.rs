//! The host's side of a machine's ephemeral disk: an empty sparse file, and behind its end what an empty file system of its
//! size is.

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use ferrogate_shim::machine::config::StorageFile;
use ferrogate_shim::machine::template::{self, Extent};
use ferrogate_shim::protocol::STORAGE_IMAGE_FILE;

use crate::{EphemeralStorage, Error};

/// The disk's size is this many sectors.
const SECTOR_BYTES: u64 = 512;

/// Blocking, and short but for the first of a size.
pub(super) fn make(storage: &EphemeralStorage, task: &Path) -> Result<StorageFile, Error> {
    let bytes = crate::storage::file_bytes(storage);
    let template = storage.templates.join(format!("machine-ext4-{bytes}"));
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
    io::copy(&mut File::open(template)?, &mut file).map(drop)
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
    if bytes > crate::storage::TEMPLATE_DATA_BYTES_MAX {
        return Err(io::Error::other(format!("{} is no empty file system", whole.display())));
    }
    let fresh = crate::storage::tempfile_in(directory)?;
    let mut to = File::options().write(true).open(&fresh)?;
    to.write_all(&template::encode(&extents).map_err(io::Error::other)?)?;
    for extent in &extents {
        let mut data = vec![0; extent.bytes as usize];
        from.read_exact_at(&mut data, extent.offset)?;
        to.write_all(&data)?;
    }
    let length = template::HEADER_BYTES as u64 + bytes;
    to.set_len(length.next_multiple_of(SECTOR_BYTES))?;
    // It is named next, and then is whole, also after a crash of the host.
    to.sync_all()?;
    Ok(fresh)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    /// Of a file system.
    const BLOCK_BYTES: u64 = 4096;

    #[test]
    fn a_template_has_what_the_file_system_has() {
        let dir = tempfile::tempdir().unwrap();
        let storage = EphemeralStorage { size_bytes: 20 << 30, templates: dir.path().join("templates") };
        let StorageFile { path, bytes: end } = make(&storage, dir.path()).unwrap();
        let made = File::open(&path).unwrap();
        let mut bytes = vec![0; (made.metadata().unwrap().len() - end) as usize];
        made.read_exact_at(&mut bytes, end).unwrap();
        assert_eq!((end, bytes.len() as u64 % SECTOR_BYTES), (crate::storage::file_bytes(&storage), 0));
        assert!(made.metadata().unwrap().blocks() * SECTOR_BYTES <= bytes.len() as u64 + BLOCK_BYTES);
        let extents = template::decode(&bytes[..template::HEADER_BYTES]).unwrap();
        assert!(bytes.len() < 4 << 20, "{} bytes", bytes.len());
        // The superblock's magic number, at its place.
        assert_eq!(extents[0].offset, 0);
        assert_eq!(bytes[template::HEADER_BYTES + 1080..][..2], [0x53, 0xef]);
        // Written out again it is a file system without faults, whatever was on the disk before.
        let disk = dir.path().join("disk");
        let file = File::options().read(true).write(true).create_new(true).open(&disk).unwrap();
        file.set_len(end).unwrap();
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
