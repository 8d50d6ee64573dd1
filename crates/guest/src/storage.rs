//! The ephemeral disk: dm-crypt with a key that is made here, and the empty file system the host has ready for its size.
//!
//! The host's file system maker writes what is not zero of an empty ext4 into a template, once for each size, which is
//! behind the end of each; here that goes through the encryption onto the disk. So no maker of file systems has to be in
//! the guest, and on the disk itself is nothing anybody on the host can read.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use ferrogate_shim::machine::template;

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
/// The template's data is copied in pieces of this size at most.
const COPY_BYTES: usize = 64 << 10;

const VERSION: [u32; 3] = [4, 0, 0];
const BODY_BYTES: usize = 512;
const DEV_CREATE: libc::Ioctl = command(3);
const DEV_SUSPEND: libc::Ioctl = command(6);
const TABLE_LOAD: libc::Ioctl = command(9);
const TARGET_MESSAGE: libc::Ioctl = command(14);
/// Without it `DEV_SUSPEND` resumes.
const SUSPEND: u32 = 1 << 1;
/// The buffer is wiped by the kernel: it holds a key.
const SECURE_DATA: u32 = 1 << 15;

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

/// The mapped device with its cipher, but without a key: the one it cannot be made without is wiped, and it cannot be used
/// before it has another.
pub(crate) fn ahead(disk: &Path) -> io::Result<()> {
    let sectors = File::open(disk)?.seek(SeekFrom::End(0))? / SECTOR_BYTES;
    let control = control()?;
    call(&control, DEV_CREATE, 0, &[])?;
    let mut target = [0; TARGET_BYTES];
    target[TARGET_LENGTH].copy_from_slice(&sectors.to_ne_bytes());
    target[TARGET_KIND].copy_from_slice(b"crypt");
    let mut table = [target.as_slice(), CIPHER.as_bytes(), b" "].concat();
    push_key(&mut table)?;
    table.extend_from_slice(format!(" 0 {} 0 1 allow_discards", disk.display()).as_bytes());
    call_and_wipe(&control, TABLE_LOAD, &mut table)?;
    // The table becomes the device's when it resumes; its key can be changed while it is suspended.
    call(&control, DEV_SUSPEND, 0, &[])?;
    call(&control, DEV_SUSPEND, SUSPEND, &[])?;
    call(&control, TARGET_MESSAGE, 0, &message(b"key wipe")).map(drop)
}

/// The device to mount, whose first `bytes` are the file system.
pub(crate) fn make(disk: &Path, bytes: u64) -> io::Result<PathBuf> {
    let control = control()?;
    let mut key = message(b"key set ");
    push_key(&mut key)?;
    call_and_wipe(&control, TARGET_MESSAGE, &mut key)?;
    let device = call(&control, DEV_SUSPEND, 0, &[])?.device;
    let number = (rustix::fs::major(device), rustix::fs::minor(device));
    let path = PathBuf::from(format!("/dev/dm-{}", number.1));
    if !path.exists() {
        return Err(io::Error::other(format!("{} ({}:{}) is not there", path.display(), number.0, number.1)));
    }
    fill(&File::options().write(true).open(&path)?, &File::open(disk)?, bytes)?;
    Ok(path)
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

fn fill(device: &File, disk: &File, end: u64) -> io::Result<()> {
    let mut header = vec![0; template::HEADER_BYTES];
    disk.read_exact_at(&mut header, end)?;
    let extents = template::decode(&header).map_err(io::Error::other)?;
    let mut from = end + template::HEADER_BYTES as u64;
    let mut buffer = vec![0; COPY_BYTES];
    for extent in extents {
        if extent.offset.checked_add(extent.bytes).is_none_or(|last| last > end) {
            return Err(io::Error::other("the template is for a larger disk"));
        }
        let mut done = 0;
        while done < extent.bytes {
            let piece = &mut buffer[..COPY_BYTES.min((extent.bytes - done) as usize)];
            disk.read_exact_at(piece, from)?;
            device.write_all_at(piece, extent.offset + done)?;
            done += piece.len() as u64;
            from += piece.len() as u64;
        }
    }
    Ok(())
}
