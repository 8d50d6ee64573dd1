//! A terminal made in the container, so that its name is right there. Its own end goes out over a socket.

use std::io;
use std::os::fd::BorrowedFd;

use rustix::fs::{CWD, FileType, Gid, Mode, OFlags, Uid, openat};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::descriptor;
use crate::protocol::WindowSize;

const DEVPTS_SUPER_MAGIC: i64 = 0x1cd1;

/// Makes a terminal the stdio of the calling process, which must be in the container's root and still have its rights. The
/// one of the container's first process is its `/dev/console` too.
pub(super) fn open(size: WindowSize, owner: u32, console: BorrowedFd<'_>, first: bool) -> io::Result<()> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let main = openat(CWD, "/dev/pts/ptmx", flags, Mode::empty())?;
    // An image, or whoever is root in the container, could have put something else there.
    let real = rustix::fs::fstatfs(&main)?.f_type as i64 == DEVPTS_SUPER_MAGIC
        && FileType::from_raw_mode(rustix::fs::fstat(&main)?.st_mode) == FileType::CharacterDevice;
    if !real {
        return Err(io::Error::other("/dev/pts/ptmx of the container makes no terminals"));
    }
    unlockpt(&main)?;
    let inner = ioctl_tiocgptpeer(&main, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    if size.rows > 0 && size.columns > 0 {
        let size = Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&main, size)?;
    }
    if first {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        drop(openat(CWD, "/dev/console", flags, Mode::from_raw_mode(0o600))?);
        let name = ptsname(&main, Vec::new())?;
        rustix::mount::mount_bind(name.as_c_str(), "/dev/console")?;
    }
    rustix::fs::fchown(&inner, Some(Uid::from_raw(owner)), None::<Gid>)?;
    descriptor::send(console, std::os::fd::AsFd::as_fd(&main))?;
    rustix::stdio::dup2_stdin(&inner)?;
    rustix::stdio::dup2_stdout(&inner)?;
    Ok(rustix::stdio::dup2_stderr(&inner)?)
}

/// Makes stdin the controlling terminal of a session that begins with the calling process.
pub(super) fn control() -> io::Result<()> {
    // Refused where it leads a session already, which is as good.
    let _ = rustix::process::setsid();
    Ok(rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())?)
}
