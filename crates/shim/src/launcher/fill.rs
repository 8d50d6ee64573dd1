//! A fresh volume gets what the image has in its place: files, owners, modes, links, attributes.

use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, SeekFrom, Stat, Timespec, Timestamps, Uid, XattrFlags,
    chownat, fchmod, fchown, fgetxattr, flistxattr, fsetxattr, futimens, mkdirat, mknodat, openat,
    readlinkat, statat, symlinkat, unlinkat,
};

/// Directories in each other; a path has no room for more.
const DEPTH_MAX: usize = 256;
const ATTRIBUTES_BYTES_MAX: usize = 64 << 10;

/// Read and written at once.
const COPY_BYTES: usize = 1 << 20;
/// Told of about this often.
const PROGRESS_BYTES: u64 = 8 << 20;

/// A copy that goes on, in a process of its own.
pub(super) struct Filling<'a> {
    /// Sources of the bind mounts to be filled; what they have is left of an earlier try.
    pub(super) sources: &'a [PathBuf],
    /// Hears how many bytes were copied, a line each time.
    progress: &'a File,
    copied: u64,
    told: u64,
    buffer: Vec<u8>,
}

impl<'a> Filling<'a> {
    pub(super) fn new(sources: &'a [PathBuf], progress: &'a File) -> Self {
        Filling { sources, progress, copied: 0, told: 0, buffer: vec![0; COPY_BYTES] }
    }

    /// Copies a directory's contents, owner and mode.
    pub(super) fn fill(&mut self, from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<()> {
        clear(to, 0)?;
        copy_directory(from, to, 0, self)?;
        self.tell()
    }

    fn note(&mut self, bytes: usize) -> io::Result<()> {
        self.copied += bytes as u64;
        if self.copied - self.told >= PROGRESS_BYTES { self.tell() } else { Ok(()) }
    }

    fn tell(&mut self) -> io::Result<()> {
        self.told = self.copied;
        let mut progress = self.progress;
        progress.write_all(format!("{}\n", self.copied).as_bytes())
    }
}

/// Removes what an earlier try has left.
fn clear(directory: BorrowedFd<'_>, depth: usize) -> io::Result<()> {
    if depth > DEPTH_MAX {
        return Err(io::Error::other("directories lie too deep in each other"));
    }
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let stat = statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            clear(openat(directory, name, self::directory(), Mode::empty())?.as_fd(), depth + 1)?;
            unlinkat(directory, name, AtFlags::REMOVEDIR)?;
        } else {
            unlinkat(directory, name, AtFlags::empty())?;
        }
    }
    Ok(())
}

/// What a file has, at the same places: a hole stays one.
fn copy_data(from: &File, to: &File, size: u64, filling: &mut Filling<'_>) -> io::Result<()> {
    to.set_len(size)?;
    let mut at = 0;
    while at < size {
        at = match rustix::fs::seek(from, SeekFrom::Data(at)) {
            Ok(data) => data,
            // Nothing but a hole up to the end.
            Err(rustix::io::Errno::NXIO) => break,
            Err(error) => return Err(error.into()),
        };
        let end = rustix::fs::seek(from, SeekFrom::Hole(at))?;
        while at < end {
            let most = usize::try_from(end - at).map_or(COPY_BYTES, |left| left.min(COPY_BYTES));
            let read = from.read_at(&mut filling.buffer[..most], at)?;
            if read == 0 {
                return Ok(());
            }
            to.write_all_at(&filling.buffer[..read], at)?;
            at += read as u64;
            filling.note(read)?;
        }
    }
    Ok(())
}

pub(super) fn open_directory(path: &std::path::Path) -> io::Result<OwnedFd> {
    Ok(openat(rustix::fs::CWD, path, directory(), Mode::empty())?)
}

fn directory() -> OFlags {
    OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC
}

fn copy_directory(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    depth: usize,
    filling: &mut Filling<'_>,
) -> io::Result<()> {
    if depth > DEPTH_MAX {
        return Err(io::Error::other("directories lie too deep in each other"));
    }
    for entry in Dir::read_from(from)? {
        let entry = entry?;
        let name = entry.file_name();
        if !matches!(name.to_bytes(), b"." | b"..") {
            copy_entry(from, to, name, depth, filling)?;
        }
    }
    finish(from, to, &rustix::fs::fstat(from)?)
}

fn copy_entry(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    name: &CStr,
    depth: usize,
    filling: &mut Filling<'_>,
) -> io::Result<()> {
    let stat = statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => {
            mkdirat(to, name, Mode::from_raw_mode(0o700))?;
            let inner = openat(from, name, directory(), Mode::empty())?;
            let made = openat(to, name, directory(), Mode::empty())?;
            copy_directory(inner.as_fd(), made.as_fd(), depth + 1, filling)
        }
        FileType::RegularFile => {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let source = File::from(openat(from, name, flags, Mode::empty())?);
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            let made = File::from(openat(to, name, flags, Mode::from_raw_mode(0o600))?);
            copy_data(&source, &made, u64::try_from(stat.st_size).unwrap_or_default(), filling)?;
            finish(source.as_fd(), made.as_fd(), &stat)
        }
        FileType::Symlink => {
            let target = readlinkat(from, name, Vec::new())?;
            symlinkat(target.as_c_str(), to, name)?;
            Ok(chownat(to, name, uid(&stat), gid(&stat), AtFlags::SYMLINK_NOFOLLOW)?)
        }
        FileType::Fifo => {
            mknodat(to, name, FileType::Fifo, Mode::from_raw_mode(stat.st_mode & 0o7777), 0)?;
            Ok(chownat(to, name, uid(&stat), gid(&stat), AtFlags::SYMLINK_NOFOLLOW)?)
        }
        // Devices are not taken from images, and a socket without its listener is nothing.
        _ => Ok(()),
    }
}

fn uid(stat: &Stat) -> Option<Uid> {
    Some(Uid::from_raw(stat.st_uid))
}

fn gid(stat: &Stat) -> Option<Gid> {
    Some(Gid::from_raw(stat.st_gid))
}

/// Owner first: the kernel takes set-uid bits and capabilities away with it.
fn finish(from: BorrowedFd<'_>, to: BorrowedFd<'_>, stat: &Stat) -> io::Result<()> {
    fchown(to, uid(stat), gid(stat))?;
    fchmod(to, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    copy_attributes(from, to)?;
    let time = |seconds: i64, nanoseconds: u64| Timespec { tv_sec: seconds, tv_nsec: nanoseconds as i64 };
    let times = Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    };
    Ok(futimens(to, &times)?)
}

fn copy_attributes(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<()> {
    let mut names = vec![MaybeUninit::uninit(); ATTRIBUTES_BYTES_MAX];
    let names = match flistxattr(from, &mut names[..]) {
        Ok((names, _)) => names,
        Err(rustix::io::Errno::OPNOTSUPP) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    // Most files have none.
    if names.is_empty() {
        return Ok(());
    }
    let names: Vec<u8> = names.to_vec();
    let mut value = vec![MaybeUninit::uninit(); ATTRIBUTES_BYTES_MAX];
    for name in names.split_inclusive(|byte| *byte == 0) {
        let Ok(name) = CStr::from_bytes_with_nul(name) else { continue };
        let (value, _) = fgetxattr(from, name, &mut value[..])?;
        match fsetxattr(to, name, value, XattrFlags::empty()) {
            Ok(()) | Err(rustix::io::Errno::OPNOTSUPP) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
