//! The ephemeral disk: dm-crypt with a key that is made here, and the empty file system the host has ready for its size.
//!
//! The host's file system maker writes what is not zero of an empty ext4 into a template, once for each size, which is
//! behind the end of each; here that goes through the encryption onto the disk. So no maker of file systems has to be in
//! the guest, and on the disk itself is nothing anybody on the host can read.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use ferrogate_shim::machine::template;

/// `aes-xts`: two keys of 256 bits.
const CIPHER: &str = "aes-xts-plain64";
const KEY_BYTES: usize = 64;
const CONTROL: &str = "/dev/mapper/control";
const NAME: &[u8] = b"ephemeral";
const SECTOR_BYTES: u64 = 512;
/// The template's data is copied in pieces of this size at most.
const COPY_BYTES: usize = 64 << 10;

const VERSION: [u32; 3] = [4, 0, 0];
const PARAMETERS_BYTES: usize = 512;
const DEV_CREATE: libc::Ioctl = command(3);
const DEV_SUSPEND: libc::Ioctl = command(6);
const TABLE_LOAD: libc::Ioctl = command(9);
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

/// … with one `struct dm_target_spec` and its parameters.
#[repr(C)]
struct Request {
    header: Header,
    sector: u64,
    length: u64,
    status: i32,
    next: u32,
    kind: [u8; 16],
    parameters: [u8; PARAMETERS_BYTES],
}

/// A mapped device that maps nothing yet.
pub(crate) fn ahead() -> io::Result<()> {
    call(&control()?, DEV_CREATE, &mut request())
}

/// The device to mount, which is the first `bytes` of the disk.
pub(crate) fn make(disk: &Path, bytes: u64) -> io::Result<PathBuf> {
    let device = encrypt(disk, bytes)?;
    fill(&File::options().write(true).open(&device)?, &File::open(disk)?, bytes)?;
    Ok(device)
}

fn encrypt(disk: &Path, bytes: u64) -> io::Result<PathBuf> {
    let mut key = [0u8; KEY_BYTES];
    File::open("/dev/urandom")?.read_exact(&mut key)?;
    let control = control()?;
    let mut request = request();
    request.header.flags = SECURE_DATA;
    request.header.target_count = 1;
    request.length = bytes / SECTOR_BYTES;
    request.kind[..5].copy_from_slice(b"crypt");
    let mut parameters = format!("{CIPHER} ").into_bytes();
    for byte in key {
        parameters.extend_from_slice(&[hex(byte >> 4), hex(byte & 15)]);
    }
    parameters.extend_from_slice(format!(" 0 {} 0 1 allow_discards", disk.display()).as_bytes());
    let room = request.parameters.get_mut(..parameters.len()).ok_or(io::ErrorKind::InvalidInput)?;
    room.copy_from_slice(&parameters);
    wipe(&mut parameters);
    wipe(&mut key);
    let loaded = call(&control, TABLE_LOAD, &mut request);
    wipe(&mut request.parameters);
    loaded?;
    let device = request.header.device;
    // Without the flag for suspending it resumes: the table becomes the device's.
    call(&control, DEV_SUSPEND, &mut self::request())?;

    let number = (rustix::fs::major(device), rustix::fs::minor(device));
    let path = PathBuf::from(format!("/dev/dm-{}", number.1));
    if !path.exists() {
        return Err(io::Error::other(format!("{} ({}:{}) is not there", path.display(), number.0, number.1)));
    }
    Ok(path)
}

fn control() -> io::Result<File> {
    File::options().read(true).write(true).open(CONTROL)
}

fn request() -> Request {
    // SAFETY: all zeroes is a valid value of this plain structure.
    let mut request: Request = unsafe { std::mem::zeroed() };
    request.header.version = VERSION;
    request.header.data_size = size_of::<Request>() as u32;
    request.header.data_start = size_of::<Header>() as u32;
    request.header.name[..NAME.len()].copy_from_slice(NAME);
    request
}

fn call(control: &File, command: libc::Ioctl, request: &mut Request) -> io::Result<()> {
    // SAFETY: the structure is the one the kernel reads and writes, says its own size, and outlives the call.
    match unsafe { libc::ioctl(control.as_raw_fd(), command, &raw mut *request) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
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
