//! Entries become files below one directory handle, and only there.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;

use rustix::fs::{
    self, AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;

use super::archive::{Entry, Kind, show};
use super::{UnpackError, Unpacked};
use crate::config::Limits;

const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
/// What aufs kept for itself; Docker ignores the same.
const WHITEOUT_META: &[u8] = b".wh..wh.";
const NAME_BYTES_MAX: usize = 255;
/// `openat2` asks to be called again when something was renamed meanwhile, anywhere.
const OPEN_ATTEMPTS_MAX: usize = 1000;
/// Remembered until the end; a million directories of usual depth.
const DIRECTORY_PATHS_BYTES_MAX: usize = 64 << 20;
const BUFFER_BYTES: usize = 256 << 10;

pub(super) struct Tree {
    root: OwnedFd,
    trash: OwnedFd,
    trashed: u64,
    /// Set last: making a child changes its directory's time.
    directory_times: Vec<(Vec<u8>, Timestamps)>,
    directory_paths_bytes: usize,
    limits: Limits,
    unpacked: Unpacked,
    buffer: Vec<u8>,
}

/// A place for an entry: a directory that exists and the last name in it.
struct Place<'a> {
    parent: OwnedFd,
    name: &'a [u8],
}

impl Tree {
    pub(super) fn new(root: OwnedFd, trash: OwnedFd, limits: &Limits) -> Self {
        Tree {
            root,
            trash,
            trashed: 0,
            directory_times: Vec::new(),
            directory_paths_bytes: 0,
            limits: *limits,
            unpacked: Unpacked { bytes: 0, entries: 0, opaque_root: false },
            buffer: vec![0; BUFFER_BYTES],
        }
    }

    pub(super) fn apply(&mut self, entry: &Entry, data: &mut impl Read) -> Result<(), UnpackError> {
        self.charge(entry)?;
        let parts = parts(&entry.path)?;
        let Some((name, parents)) = parts.split_last() else {
            return self.apply_root(entry);
        };
        if name.starts_with(WHITEOUT) {
            return self.whiteout(entry, name, parents);
        }
        let place = Place { parent: self.make_directories(entry, parents)?, name };
        match entry.kind {
            Kind::Directory => return self.directory(entry, &place),
            Kind::Device => return Err(hostile(entry, "device nodes are not allowed in images")),
            Kind::File | Kind::HardLink | Kind::Symlink | Kind::Fifo => {}
        }
        if entry.kind == Kind::HardLink {
            return self.hard_link(entry, &place);
        }
        self.clear(entry, &place)?;
        match entry.kind {
            Kind::File => self.file(entry, &place, data),
            Kind::Symlink => symlink(entry, &place),
            _ => fifo(entry, &place),
        }
    }

    /// Directory times last.
    pub(super) fn finish(mut self) -> Result<Unpacked, UnpackError> {
        for (path, times) in std::mem::take(&mut self.directory_times).into_iter().rev() {
            // Replaced by something else meanwhile: then its time is of no matter.
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
            if let Ok(directory) = self.open(&path, flags) {
                fs::futimens(&directory, &times).map_err(io("set times of a directory"))?;
            }
        }
        Ok(self.unpacked)
    }

    fn charge(&mut self, entry: &Entry) -> Result<(), UnpackError> {
        self.unpacked.entries += 1;
        let size = entry.sparse.as_ref().map_or(entry.size, |sparse| sparse.real_size);
        self.unpacked.bytes = self.unpacked.bytes.saturating_add(size);
        let (entries_max, bytes_max) = (self.limits.entries_max, self.limits.unpacked_bytes_max);
        if self.unpacked.entries > entries_max {
            return Err(UnpackError::TooLarge(format!("the layer has more than {entries_max} entries")));
        }
        if self.unpacked.bytes > bytes_max {
            return Err(UnpackError::TooLarge(format!("the layer's files are more than {bytes_max} bytes")));
        }
        Ok(())
    }

    /// Opens a path below the root; symbolic links on the way mean what they mean in the container.
    fn open(&self, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
        let path = if path.is_empty() { b"." } else { path };
        for _ in 0..OPEN_ATTEMPTS_MAX {
            match fs::openat2(&self.root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
                Err(Errno::AGAIN) => {}
                other => return other,
            }
        }
        Err(Errno::AGAIN)
    }

    /// The directory `parts` name. What is missing is made, 0755 and root's, as Docker does.
    fn make_directories(&self, entry: &Entry, parts: &[&[u8]]) -> Result<OwnedFd, UnpackError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let not_directory = |errno| match errno {
            Errno::NOTDIR | Errno::LOOP | Errno::XDEV | Errno::NOENT => {
                hostile(entry, "a part of its path is a file or a link that leads nowhere inside the image")
            }
            errno => io(format!("open directory of '{}'", show(&entry.path)))(errno),
        };
        match self.open(&parts.join(&b'/'), flags) {
            // Not there, or a whiteout of this very layer is.
            Err(Errno::NOENT | Errno::NOTDIR) => {}
            other => return other.map_err(not_directory),
        }
        let mut parent = self.open(b"", flags).map_err(not_directory)?;
        for depth in 1..=parts.len() {
            let path = parts[..depth].join(&b'/');
            parent = match self.open(&path, flags) {
                Err(Errno::NOENT | Errno::NOTDIR) => {
                    let place = Place { parent, name: parts[depth - 1] };
                    let whiteout = kind_of(&place)? == Some(FileType::CharacterDevice);
                    if whiteout {
                        self.clear_file(entry, &place)?;
                    }
                    let parent = place.parent;
                    let mode = Mode::from_raw_mode(0o755);
                    match fs::mkdirat(&parent, parts[depth - 1], mode) {
                        // A symbolic link without a target sits there.
                        Err(Errno::EXIST) => return Err(not_directory(Errno::NOTDIR)),
                        other => other.map_err(io(format!("make directory '{}'", show(&path))))?,
                    }
                    fs::chmodat(&parent, parts[depth - 1], mode, AtFlags::empty())
                        .map_err(io(format!("set mode of '{}'", show(&path))))?;
                    if whiteout {
                        let directory =
                            self.open(&path, OFlags::RDONLY | OFlags::DIRECTORY).map_err(not_directory)?;
                        make_opaque(&directory).map_err(failed("mark", entry))?;
                    }
                    self.open(&path, flags).map_err(not_directory)?
                }
                other => other.map_err(not_directory)?,
            };
        }
        Ok(parent)
    }

    fn apply_root(&mut self, entry: &Entry) -> Result<(), UnpackError> {
        if entry.kind != Kind::Directory {
            return Err(hostile(entry, "the image's root is a directory"));
        }
        let root = self.open(b"", OFlags::RDONLY | OFlags::DIRECTORY).map_err(io("open the layer's root"))?;
        self.set_attributes(entry, &root)?;
        self.directory_times.push((Vec::new(), times(entry)));
        Ok(())
    }

    fn directory(&mut self, entry: &Entry, place: &Place<'_>) -> Result<(), UnpackError> {
        let (exists, hides_lower) = match kind_of(place)? {
            Some(FileType::Directory) => (true, false),
            Some(FileType::CharacterDevice) => (false, true),
            _ => (false, false),
        };
        if !exists {
            self.clear(entry, place)?;
            fs::mkdirat(&place.parent, place.name, Mode::from_raw_mode(0o700))
                .map_err(failed("make", entry))?;
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory =
            fs::openat(&place.parent, place.name, flags, Mode::empty()).map_err(failed("open", entry))?;
        self.set_attributes(entry, &directory)?;
        if hides_lower {
            make_opaque(&directory).map_err(failed("mark", entry))?;
        }
        let path = parts(&entry.path)?.join(&b'/');
        self.directory_paths_bytes += path.len();
        if self.directory_paths_bytes > DIRECTORY_PATHS_BYTES_MAX {
            let max = DIRECTORY_PATHS_BYTES_MAX;
            return Err(UnpackError::TooLarge(format!(
                "the layer's directory names are more than {max} bytes"
            )));
        }
        self.directory_times.push((path, times(entry)));
        Ok(())
    }

    fn file(&mut self, entry: &Entry, place: &Place<'_>, data: &mut impl Read) -> Result<(), UnpackError> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(0o600);
        let file = fs::openat(&place.parent, place.name, flags, mode).map_err(failed("create", entry))?;
        let mut file = File::from(file);
        let io_failed = |source| UnpackError::Io { action: format!("write '{}'", show(&entry.path)), source };
        let short = || UnpackError::malformed("the archive ends inside a file");
        match &entry.sparse {
            None => {
                let mut left = entry.size;
                while left > 0 {
                    let read = data.read(&mut self.buffer).map_err(UnpackError::from_read)?;
                    if read == 0 {
                        return Err(short());
                    }
                    file.write_all(&self.buffer[..read]).map_err(io_failed)?;
                    left -= read as u64;
                }
            }
            Some(sparse) => {
                for (offset, length) in &sparse.segments {
                    let mut at = *offset;
                    let mut piece = data.by_ref().take(*length);
                    loop {
                        let read = piece.read(&mut self.buffer).map_err(UnpackError::from_read)?;
                        if read == 0 {
                            break;
                        }
                        file.write_all_at(&self.buffer[..read], at).map_err(io_failed)?;
                        at += read as u64;
                    }
                    if at != offset + length {
                        return Err(short());
                    }
                }
                file.set_len(sparse.real_size).map_err(io_failed)?;
            }
        }
        self.set_attributes(entry, &file)?;
        fs::futimens(&file, &times(entry)).map_err(failed("set times of", entry))
    }

    fn hard_link(&mut self, entry: &Entry, place: &Place<'_>) -> Result<(), UnpackError> {
        let target = parts(&entry.link).map_err(|_| hostile(entry, "a hard link to outside the image"))?;
        let Some((name, parents)) = target.split_last() else {
            return Err(hostile(entry, "a hard link to the image's root"));
        };
        let missing = || hostile(entry, "a hard link to a file that is not in its layer");
        let parent =
            self.open(&parents.join(&b'/'), OFlags::PATH | OFlags::DIRECTORY).map_err(|_| missing())?;
        let target = Place { parent, name };
        match kind_of(&target)? {
            Some(FileType::RegularFile | FileType::Symlink | FileType::Fifo) => {}
            Some(_) => return Err(hostile(entry, "a hard link to something that is not a file")),
            None => return Err(missing()),
        }
        if same_file(&target, place)? {
            return Ok(());
        }
        self.clear(entry, place)?;
        fs::linkat(&target.parent, target.name, &place.parent, place.name, AtFlags::empty())
            .map_err(failed("link", entry))
    }

    /// A name that vanishes, as overlayfs says it: a 0/0 character device, or an attribute on the directory.
    fn whiteout(&mut self, entry: &Entry, name: &[u8], parents: &[&[u8]]) -> Result<(), UnpackError> {
        if name == OPAQUE {
            if parents.is_empty() {
                self.unpacked.opaque_root = true;
                return Ok(());
            }
            self.make_directories(entry, parents)?;
            let flags = OFlags::RDONLY | OFlags::DIRECTORY;
            let directory = self.open(&parents.join(&b'/'), flags).map_err(failed("open", entry))?;
            return make_opaque(&directory).map_err(failed("mark", entry));
        }
        if name.starts_with(WHITEOUT_META) {
            return Ok(());
        }
        let hidden = &name[WHITEOUT.len()..];
        if matches!(hidden, b"" | b"." | b"..") {
            return Err(hostile(entry, "a whiteout of nothing"));
        }
        let place = Place { parent: self.make_directories(entry, parents)?, name: hidden };
        match kind_of(&place)? {
            // It hides what is below, not what its own layer brings (OCI image-spec, layer.md, Whiteouts).
            Some(FileType::Directory) => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let directory =
                    fs::openat(&place.parent, hidden, flags, Mode::empty()).map_err(failed("open", entry))?;
                make_opaque(&directory).map_err(failed("mark", entry))
            }
            Some(_) => Ok(()),
            None => fs::mknodat(&place.parent, hidden, FileType::CharacterDevice, Mode::empty(), 0)
                .map_err(failed("mark", entry)),
        }
    }

    /// Later entries replace earlier ones. What was there is moved aside whole, however deep it is.
    fn clear(&mut self, entry: &Entry, place: &Place<'_>) -> Result<(), UnpackError> {
        match kind_of(place)? {
            None => Ok(()),
            Some(FileType::Directory) => {
                self.trashed += 1;
                fs::renameat(&place.parent, place.name, &self.trash, self.trashed.to_string())
                    .map_err(failed("replace", entry))
            }
            Some(_) => self.clear_file(entry, place),
        }
    }

    fn clear_file(&self, entry: &Entry, place: &Place<'_>) -> Result<(), UnpackError> {
        fs::unlinkat(&place.parent, place.name, AtFlags::empty()).map_err(failed("replace", entry))
    }

    /// Owner first: changing it drops set-uid bits and capabilities.
    fn set_attributes(&self, entry: &Entry, file: impl AsFd) -> Result<(), UnpackError> {
        let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
        fs::fchown(&file, Some(uid), Some(gid)).map_err(failed("set the owner of", entry))?;
        fs::fchmod(&file, Mode::from_raw_mode(entry.mode)).map_err(failed("set the mode of", entry))?;
        for (name, value) in &entry.xattrs {
            if name.starts_with("trusted.overlay.") || name.starts_with("user.overlay.") {
                return Err(hostile(entry, "attributes of overlayfs are not allowed in images"));
            }
            // Others belong to the machine that made the image: its labels, its integrity service.
            let kept = matches!(
                name.as_str(),
                "security.capability" | "system.posix_acl_access" | "system.posix_acl_default"
            );
            if !kept && !name.starts_with("user.") {
                continue;
            }
            match fs::fsetxattr(&file, name.as_str(), value, XattrFlags::empty()) {
                Err(Errno::NOTSUP) if name != "security.capability" => {}
                other => other.map_err(failed("set an attribute of", entry))?,
            }
        }
        Ok(())
    }
}

fn symlink(entry: &Entry, place: &Place<'_>) -> Result<(), UnpackError> {
    if entry.link.is_empty() || entry.link.contains(&0) {
        return Err(hostile(entry, "a symbolic link without a target"));
    }
    fs::symlinkat(entry.link.as_slice(), &place.parent, place.name).map_err(failed("link", entry))?;
    set_node_attributes(entry, place)
}

fn fifo(entry: &Entry, place: &Place<'_>) -> Result<(), UnpackError> {
    fs::mknodat(&place.parent, place.name, FileType::Fifo, Mode::from_raw_mode(0o600), 0)
        .map_err(failed("create", entry))?;
    set_node_attributes(entry, place)?;
    fs::chmodat(&place.parent, place.name, Mode::from_raw_mode(entry.mode), AtFlags::empty())
        .map_err(failed("set the mode of", entry))
}

/// Owner and time of what cannot be opened.
fn set_node_attributes(entry: &Entry, place: &Place<'_>) -> Result<(), UnpackError> {
    let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
    fs::chownat(&place.parent, place.name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
        .map_err(failed("set the owner of", entry))?;
    fs::utimensat(&place.parent, place.name, &times(entry), AtFlags::SYMLINK_NOFOLLOW)
        .map_err(failed("set times of", entry))
}

fn make_opaque(directory: &OwnedFd) -> Result<(), Errno> {
    fs::fsetxattr(directory, "trusted.overlay.opaque", b"y", XattrFlags::empty())
}

fn kind_of(place: &Place<'_>) -> Result<Option<FileType>, UnpackError> {
    match fs::statat(&place.parent, place.name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(FileType::from_raw_mode(stat.st_mode))),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(io(format!("look at '{}'", show(place.name)))(errno)),
    }
}

fn same_file(one: &Place<'_>, other: &Place<'_>) -> Result<bool, UnpackError> {
    let stat = |place: &Place<'_>| fs::statat(&place.parent, place.name, AtFlags::SYMLINK_NOFOLLOW);
    match (stat(one), stat(other)) {
        (Ok(one), Ok(other)) => Ok((one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)),
        (_, Err(Errno::NOENT)) => Ok(false),
        (Err(errno), _) | (_, Err(errno)) => Err(io(format!("look at '{}'", show(other.name)))(errno)),
    }
}

/// A path's names. `.` and empty ones are nothing; `..`, an absolute path and a zero byte are refused.
fn parts(path: &[u8]) -> Result<Vec<&[u8]>, UnpackError> {
    let refused = |problem| Err(UnpackError::Hostile { entry: show(path), problem });
    if path.starts_with(b"/") {
        return refused("absolute paths are not allowed in images");
    }
    if path.contains(&0) {
        return refused("a zero byte in its path");
    }
    let parts: Vec<&[u8]> =
        path.split(|byte| *byte == b'/').filter(|part| !matches!(*part, b"" | b".")).collect();
    if parts.contains(&b"..".as_slice()) {
        return refused("paths with '..' are not allowed in images");
    }
    if parts.iter().any(|part| part.len() > NAME_BYTES_MAX) {
        return refused("a name of more than 255 bytes");
    }
    Ok(parts)
}

fn times(entry: &Entry) -> Timestamps {
    let time = Timespec { tv_sec: entry.mtime_seconds, tv_nsec: i64::from(entry.mtime_nanoseconds) };
    Timestamps { last_access: time, last_modification: time }
}

fn hostile(entry: &Entry, problem: &'static str) -> UnpackError {
    UnpackError::Hostile { entry: show(&entry.path), problem }
}

fn failed(what: &str, entry: &Entry) -> impl FnOnce(Errno) -> UnpackError {
    move |errno| io(format!("{what} '{}'", show(&entry.path)))(errno)
}

fn io(action: impl Into<String>) -> impl FnOnce(Errno) -> UnpackError {
    let action = action.into();
    move |errno| UnpackError::Io { action, source: errno.into() }
}
