//! The host's end of a terminal that is in the guest: a terminal here too, that passes everything on as it is. So whoever
//! asked for it has what it has with a container: a descriptor to read, write and resize.

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags, open};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{OptionalActions, tcgetattr, tcgetwinsize, tcsetattr, tcsetwinsize};

use crate::protocol::WindowSize;

pub(super) struct Terminal {
    inner: OwnedFd,
    /// What the guest was told last.
    size: WindowSize,
}

impl Terminal {
    /// With the outer end, for whoever asked.
    pub(super) fn open(size: WindowSize) -> io::Result<(Terminal, OwnedFd)> {
        let outer = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        grantpt(&outer)?;
        unlockpt(&outer)?;
        let name = ptsname(&outer, Vec::new())?;
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let inner = open(name.as_c_str(), flags, Mode::empty())?;
        let mut settings = tcgetattr(&inner)?;
        settings.make_raw();
        tcsetattr(&inner, OptionalActions::Now, &settings)?;
        let winsize =
            rustix::termios::Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&inner, winsize)?;
        Ok((Terminal { inner, size }, outer))
    }

    pub(super) fn ends(&self) -> io::Result<(OwnedFd, OwnedFd)> {
        Ok((self.inner.try_clone()?, self.inner.try_clone()?))
    }

    /// Its size, if it has changed.
    pub(super) fn resized(&mut self) -> Option<WindowSize> {
        let now = tcgetwinsize(&self.inner).ok()?;
        let now = WindowSize { rows: now.ws_row, columns: now.ws_col };
        if now == self.size {
            return None;
        }
        self.size = now;
        Some(now)
    }
}
