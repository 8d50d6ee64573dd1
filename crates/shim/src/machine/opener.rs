//! The memory of a machine that has a file, opened for its program by the shim.
//!
//! QEMU opens the file of its memory by name, for reading and writing, also when it maps it private, so that the file
//! needs no more than to be read. Whoever breaks out of a guest must not write what all later machines begin with. So there
//! is no such file in the jail: a seccomp filter stops the one call that would open it (no other of the program's has these
//! flags), and the shim answers with a descriptor that does what this machine needs and no more.

use std::fs::File;
use std::io;
use std::mem::zeroed;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::descriptor;

/// What the program is told its memory is. There is no such file anywhere.
pub(super) const MEMORY: &str = "/memory";
/// `AUDIT_ARCH_X86_64`
const ARCHITECTURE: u32 = 0xc000_003e;
/// Offsets in the kernel's `struct seccomp_data`.
const NUMBER_AT: u32 = 0;
const ARCHITECTURE_AT: u32 = 4;
const FLAGS_AT: u32 = 16 + 2 * 8;

/// For the program-to-be, in its jail: from now on its call waits for an answer. The other end of `socket` gets what it
/// takes to give one.
pub(super) fn listen(socket: BorrowedFd<'_>) -> io::Result<()> {
    let load = |at| statement((libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16, 0, 0, at);
    // `otherwise`: how many instructions further.
    let equal = |value, otherwise| statement((libc::BPF_JMP | libc::BPF_JEQ) as u16, 0, otherwise, value);
    let answer = |action| statement(libc::BPF_RET as u16, 0, 0, action);
    let mut filter = [
        load(ARCHITECTURE_AT),
        equal(ARCHITECTURE, 5),
        load(NUMBER_AT),
        equal(libc::SYS_openat as u32, 3),
        load(FLAGS_AT),
        equal(libc::O_RDWR as u32, 1),
        answer(libc::SECCOMP_RET_USER_NOTIF),
        answer(libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: the program is valid during the call, and its instructions with it.
    let listener = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::SECCOMP_FILTER_FLAG_NEW_LISTENER,
            &raw const program,
        )
    };
    if listener < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call made this descriptor, and nobody else has it.
    let listener = unsafe { OwnedFd::from_raw_fd(listener as i32) };
    descriptor::send(socket, listener.as_fd())
}

/// Answers the call, once, with `file`. Fails when the program ends first, or does not ask until then.
pub(super) fn answer(socket: &UnixStream, file: &File, until: Instant) -> io::Result<()> {
    let listener = descriptor::receive(socket)?;
    loop {
        wait(&listener, until)?;
        match give(&listener, file) {
            // A signal took the program out of its call, which it makes again.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            given => return given,
        }
    }
}

fn give(listener: &OwnedFd, file: &File) -> io::Result<()> {
    // SAFETY: all zeroes is a valid value of these plain structures, and what the kernel wants of the first.
    let mut asked: libc::seccomp_notif = unsafe { zeroed() };
    // SAFETY: the structure is the one the kernel writes, and outlives the call.
    checked(unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_RECV, &raw mut asked) })?;
    let given = libc::seccomp_notif_addfd {
        id: asked.id,
        // In one step: a program that a signal takes out of its call in between would have it twice.
        flags: libc::SECCOMP_ADDFD_FLAG_SEND as u32,
        srcfd: file.as_raw_fd() as u32,
        newfd: 0,
        newfd_flags: libc::O_CLOEXEC as u32,
    };
    // SAFETY: the structure is the one the kernel reads, and outlives the call.
    checked(unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_ADDFD, &raw const given) })
        .map(drop)
}

fn wait(listener: &OwnedFd, until: Instant) -> io::Result<()> {
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let left = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
        let mut polled = [PollFd::new(listener, PollFlags::IN)];
        match poll(&mut polled, Some(&left)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => {}
            Ok(_) if polled[0].revents().contains(PollFlags::IN) => return Ok(()),
            Ok(_) => return Err(io::Error::other("the program ended before it had its memory")),
            Err(error) => return Err(error.into()),
        }
    }
}

fn statement(code: u16, jt: u8, jf: u8, k: u32) -> libc::sock_filter {
    libc::sock_filter { code, jt, jf, k }
}

fn checked(done: i32) -> io::Result<i32> {
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(done) }
}
