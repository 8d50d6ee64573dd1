//! What the shim asks of the program that runs a machine, whichever it is.

use std::fs::File;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

/// A machine that runs. Dropped, it is killed.
pub(super) trait Vmm {
    /// Of its process, to be known when it is collected.
    fn pid(&self) -> i32;

    /// A disk more, of the file's size and read-only, as SCSI target `target`. The guest sees it when it looks.
    fn attach(&mut self, target: u32, file: File) -> Result<(), VmmError>;

    /// Its program's first word, until it has been heard.
    fn first_word(&self) -> Option<BorrowedFd<'_>>;

    /// Hears that. Does not wait where it is there.
    fn hear_first_word(&mut self) -> Result<(), VmmError>;

    /// Stops it for good and writes what is not in its memory's file.
    fn save(&mut self, state: File) -> Result<(), VmmError>;

    /// SIGKILL: there is nothing in a guest to be saved.
    fn kill(&mut self);
}

/// A machine just started, and the host's ends of what leads into it.
pub(super) struct Started {
    pub(super) vmm: Box<dyn Vmm>,
    /// The guest's port.
    pub(super) link: UnixStream,
    /// What its kernel prints, and the program's own complaints.
    pub(super) console: [OwnedFd; 2],
}

#[derive(Debug, thiserror::Error)]
pub(super) enum VmmError {
    #[error("cannot {what}: {source}")]
    Io { what: &'static str, source: io::Error },
    #[error("cannot start the machine: {0}")]
    Start(String),
    #[error("the machine's program refused {command}: {why}")]
    Refused { command: &'static str, why: String },
    #[error("the machine's program answered {command} with what is no answer: {why}")]
    Broken { command: &'static str, why: String },
}

impl VmmError {
    /// Nothing more can be asked of the program.
    pub(super) fn is_fatal(&self) -> bool {
        !matches!(self, VmmError::Refused { .. })
    }

    pub(super) fn io(what: &'static str) -> impl FnOnce(io::Error) -> VmmError {
        move |source| VmmError::Io { what, source }
    }
}
