//! The ephemeral disk: dm-crypt with a key that is made here, and the empty file system the host has ready for its size.
//!
//! The host's file system maker writes what is not zero of an empty ext4 into a template, once for each size, which is
//! behind the end of each; here that goes through the encryption onto the disk. So no maker of file systems has to be in
//! the guest, and on the disk itself is nothing anybody on the host can read.
//!
//! It is mounted before the guest is anybody's, with a key that is thrown away; then it is frozen. A guest that becomes a
//! task's has another disk maybe, and another key: what the empty file system has on its disk it writes there again.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use ferrogate_shim::machine::template::{self, Extent};
use ferrogate_shim::storage::mounted;
use rustix::fs::{Mode, OFlags};

/// `aes-xts`: two keys of 256 bits.
const CIPHER: &str = "aes-xts-plain64";
const KEY_BYTES: usize = 64;
const CONTROL: &str = "/dev/mapper/control";
const NAME: &[u8] = b"ephemeral";
/// Of tables, whatever a device's own are.
const SECTOR_BYTES: u64 = 512;
/// `struct dm_target_spec`, which begins with the first sector.
const TARGET_BYTES: usize = 40;
const TARGET_LENGTH: Range<usize> = 8..16;
const TARGET_KIND: Range<usize> = 24..29;
/// `struct dm_target_msg` begins with it.
const FIRST_SECTOR: [u8; 8] = [0; 8];

const VERSION: [u32; 3] = [4, 0, 0];
const BODY_BYTES: usize = 512;
const DEV_CREATE: libc::Ioctl = command(3);
const DEV_SUSPEND: libc::Ioctl = command(6);
const TABLE_LOAD: libc::Ioctl = command(9);
const TARGET_MESSAGE: libc::Ioctl = command(14);
/// Without it `DEV_SUSPEND` resumes.
const SUSPEND: u32 = 1 << 1;
/// What is mounted is frozen already.
const SKIP_FREEZE: u32 = 1 << 10;
/// The buffer is wiped by the kernel: it holds a key.
const SECURE_DATA: u32 = 1 << 15;
/// `FIFREEZE` and `FITHAW`
const FREEZE: libc::Ioctl = 0xc004_5877;
const THAW: libc::Ioctl = 0xc004_5878;

/// `_IOWR(0xfd, number, struct dm_ioctl)`
const fn command(number: libc::Ioctl) -> libc::Ioctl {
    (3 << 30) | ((size_of::<Header>() as libc::Ioctl) << 16) | (0xfd << 8) | number
}

/// The kernel's `struct dm_ioctl`.
#[repr(C)]
struct Header {
    version: [u32; 3],
    data_size: u32,
    data_start: u32,
    target_count: u32,
    open_count: i32,
    flags: u32,
    event: u32,
    padding: u32,
    device: u64,
    name: [u8; 128],
    uuid: [u8; 129],
    data: [u8; 7],
}

/// … with what the command takes: a `struct dm_target_spec` or a `struct dm_target_msg`, and a text.
#[repr(C)]
struct Request {
    header: Header,
    body: [u8; BODY_BYTES],
}

/// Mounted.
pub(crate) struct Storage {
    pub(crate) device: PathBuf,
    node: File,
    mount: OwnedFd,
    /// Where the file system has something, of which all else follows.
    extents: Vec<Extent>,
}

/// … but nobody can use it: what is on the disk has no key any more.
pub(crate) struct Locked {
    node: File,
    /// To thaw it.
    root: OwnedFd,
    extents: Vec<Extent>,
    data: Vec<u8>,
}

impl Storage {
    /// With a key that is nobody's. The first `bytes` are the file system.
    pub(crate) fn make(disk: &Path, bytes: u64) -> io::Result<Storage> {
        let file = File::open(disk)?;
        let sectors = (&file).seek(SeekFrom::End(0))? / SECTOR_BYTES;
        let control = control()?;
        call(&control, DEV_CREATE, 0, &[])?;
        let mut target = [0; TARGET_BYTES];
        target[TARGET_LENGTH].copy_from_slice(&sectors.to_ne_bytes());
        target[TARGET_KIND].copy_from_slice(b"crypt");
        let mut table = [target.as_slice(), CIPHER.as_bytes(), b" "].concat();
        push_key(&mut table)?;
        table.extend_from_slice(format!(" 0 {} 0 1 allow_discards", disk.display()).as_bytes());
        call_and_wipe(&control, TABLE_LOAD, &mut table)?;
        // The table becomes the device's when it resumes.
        let number = rustix::fs::minor(call(&control, DEV_SUSPEND, 0, &[])?.device);
        let device = PathBuf::from(format!("/dev/dm-{number}"));
        let node = File::options().read(true).write(true).open(&device)?;
        let extents = fill(&node, &file, bytes)?;
        let mount = mounted(&device)?;
        Ok(Storage { device, node, mount, extents })
    }

    /// Nothing can be read or written from here on, and the key is gone: what has it in its memory can be kept for many.
    pub(crate) fn lock(self) -> io::Result<Locked> {
        let Storage { node, mount, extents, .. } = self;
        let root = rustix::fs::openat(mount, ".", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        freeze(&root, FREEZE)?;
        let mut data = vec![0; extents.iter().map(|extent| extent.bytes as usize).sum()];
        each(&extents, &mut data, |piece, offset| node.read_exact_at(piece, offset))?;
        let control = control()?;
        call(&control, DEV_SUSPEND, SUSPEND | SKIP_FREEZE, &[])?;
        call(&control, TARGET_MESSAGE, 0, &message(b"key wipe"))?;
        Ok(Locked { node, root, extents, data })
    }
}

impl Locked {
    /// With a key of its own, by which what the file system knows is on the disk is written there again.
    pub(crate) fn unlock(mut self) -> io::Result<()> {
        let control = control()?;
        let mut key = message(b"key set ");
        push_key(&mut key)?;
        call_and_wipe(&control, TARGET_MESSAGE, &mut key)?;
        call(&control, DEV_SUSPEND, 0, &[])?;
        let node = self.node;
        each(&self.extents, &mut self.data, |piece, offset| node.write_all_at(piece, offset))?;
        node.sync_data()?;
        freeze(&self.root, THAW)
    }
}

/// `data` is that of all extents, one after the other.
fn each(
    extents: &[Extent],
    mut data: &mut [u8],
    mut of: impl FnMut(&mut [u8], u64) -> io::Result<()>,
) -> io::Result<()> {
    for extent in extents {
        let (piece, rest) = std::mem::take(&mut data).split_at_mut(extent.bytes as usize);
        of(piece, extent.offset)?;
        data = rest;
    }
    Ok(())
}

fn freeze(root: &OwnedFd, command: libc::Ioctl) -> io::Result<()> {
    // SAFETY: the commands have no argument.
    if unsafe { libc::ioctl(root.as_raw_fd(), command, 0) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// To the one target, which is found by its first sector.
fn message(text: &[u8]) -> Vec<u8> {
    [&FIRST_SECTOR, text].concat()
}

/// A key nobody else has, in hexadecimal.
fn push_key(text: &mut Vec<u8>) -> io::Result<()> {
    let mut key = [0u8; KEY_BYTES];
    File::open("/dev/urandom")?.read_exact(&mut key)?;
    text.extend(key.iter().flat_map(|byte| [hex(byte >> 4), hex(byte & 15)]));
    wipe(&mut key);
    Ok(())
}

fn control() -> io::Result<File> {
    File::options().read(true).write(true).open(CONTROL)
}

fn call_and_wipe(control: &File, command: libc::Ioctl, body: &mut [u8]) -> io::Result<()> {
    let called = call(control, command, SECURE_DATA, body);
    wipe(body);
    called.map(drop)
}

fn call(control: &File, command: libc::Ioctl, flags: u32, body: &[u8]) -> io::Result<Header> {
    // SAFETY: all zeroes is a valid value of this plain structure.
    let mut request: Request = unsafe { std::mem::zeroed() };
    let header = &mut request.header;
    header.version = VERSION;
    header.data_size = size_of::<Request>() as u32;
    header.data_start = size_of::<Header>() as u32;
    header.target_count = 1;
    header.flags = flags;
    header.name[..NAME.len()].copy_from_slice(NAME);
    // The last byte ends the text.
    let room = request.body[..BODY_BYTES - 1].get_mut(..body.len()).ok_or(io::ErrorKind::InvalidInput)?;
    room.copy_from_slice(body);
    // SAFETY: the structure is the one the kernel reads and writes, says its own size, and outlives the call.
    let called = match unsafe { libc::ioctl(control.as_raw_fd(), command, &raw mut request) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    };
    wipe(&mut request.body);
    called.map(|()| request.header)
}

fn hex(digit: u8) -> u8 {
    b"0123456789abcdef"[usize::from(digit)]
}

fn wipe(bytes: &mut [u8]) {
    // SAFETY: pointer and length are one slice's.
    unsafe { libc::explicit_bzero(bytes.as_mut_ptr().cast(), bytes.len()) };
}

/// The template, which is behind the file system's end, becomes the file system.
fn fill(node: &File, disk: &File, end: u64) -> io::Result<Vec<Extent>> {
    let mut header = vec![0; template::HEADER_BYTES];
    disk.read_exact_at(&mut header, end)?;
    let extents = template::decode(&header).map_err(io::Error::other)?;
    let mut bytes = 0u64;
    for extent in &extents {
        if extent.offset.checked_add(extent.bytes).is_none_or(|last| last > end) {
            return Err(io::Error::other("the template is for a larger disk"));
        }
        bytes = bytes.saturating_add(extent.bytes);
    }
    if bytes > template::DATA_BYTES_MAX {
        return Err(io::Error::other(format!("the template has {bytes} bytes")));
    }
    let mut data = vec![0; bytes as usize];
    disk.read_exact_at(&mut data, end + template::HEADER_BYTES as u64)?;
    each(&extents, &mut data, |piece, offset| node.write_all_at(piece, offset))?;
    Ok(extents)
}
