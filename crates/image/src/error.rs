//! Why a pull or the store failed.

use std::path::PathBuf;
use std::time::Duration;

use crate::platform::Platform;
use crate::reference::{ImageRef, ReferenceError};

/// A failed pull. Its text is a task's stoppedReason, in AWS's words ("Task stopped error codes", Amazon ECS
/// Developer Guide); the count is of attempts really made.
#[derive(Clone, Debug, thiserror::Error)]
pub enum PullError {
    #[error("CannotPullContainerError: {0}")]
    Reference(ReferenceError),
    #[error(
        "CannotPullContainerError: pull image manifest has been retried {attempts} time(s): failed to resolve ref \
         {reference}: {cause}"
    )]
    Manifest { reference: String, attempts: u32, cause: Cause },
    #[error(
        "CannotPullContainerError: pull image manifest has been retried {attempts} time(s): image Manifest does not \
         contain descriptor matching platform '{platform}'"
    )]
    Platform { reference: String, attempts: u32, platform: Platform },
    #[error("CannotPullContainerError: ref pull has been retried {attempts} time(s): {cause}")]
    Layer { reference: String, attempts: u32, cause: Cause },
    #[error(
        "CannotPullContainerError: ref pull has been retried 1 time(s): {reference}: context deadline exceeded \
         after {} s", .after.as_secs()
    )]
    Deadline { reference: String, after: Duration },
}

impl PullError {
    /// The task's own network does not lead to the registry, as was found `attempts` times.
    pub fn no_way(reference: &ImageRef, attempts: u32) -> Self {
        let text =
            format!("failed to do request: Head \"{}\": dial tcp: i/o timeout", reference.manifest_url());
        let cause = Cause::new(CauseKind::Unreachable, text);
        PullError::Manifest { reference: reference.to_string(), attempts, cause }
    }

    /// What kind of thing went wrong, for metrics and decisions.
    pub fn kind(&self) -> CauseKind {
        match self {
            PullError::Reference(_) => CauseKind::Malformed,
            PullError::Manifest { cause, .. } | PullError::Layer { cause, .. } => cause.kind,
            PullError::Platform { .. } => CauseKind::NotFound,
            PullError::Deadline { .. } => CauseKind::Unreachable,
        }
    }
}

impl From<ReferenceError> for PullError {
    fn from(error: ReferenceError) -> Self {
        PullError::Reference(error)
    }
}

/// The last attempt's failure: a kind for programs, a text for people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Cause {
    pub kind: CauseKind,
    pub text: String,
}

impl Cause {
    pub(crate) fn new(kind: CauseKind, text: impl Into<String>) -> Self {
        Cause { kind, text: text.into() }
    }

    /// The same failure, said with what was being done.
    pub(crate) fn during(self, what: &str) -> Self {
        Cause { kind: self.kind, text: format!("{what}: {}", self.text) }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CauseKind {
    /// No such repository, tag, digest or platform.
    NotFound,
    /// The registry refuses this caller.
    Denied,
    RateLimited,
    /// Its certificate does not prove that it is who it says, or it speaks no TLS.
    Untrusted,
    /// No connection, no answer in time, or an answer that broke off.
    Unreachable,
    /// The registry says it failed.
    Server,
    /// Bytes that are not what their digest or size says.
    Corrupt,
    /// A manifest, config or layer that cannot be understood, or is not supported.
    Malformed,
    /// Over one of the [`crate::Limits`].
    TooLarge,
    /// A layer that tries to reach out of its directory or brings device nodes.
    Hostile,
    DiskFull,
    /// The machine's own trouble.
    Local,
}

impl CauseKind {
    /// Another attempt may end otherwise.
    pub(crate) fn may_pass(self) -> bool {
        match self {
            CauseKind::RateLimited | CauseKind::Unreachable | CauseKind::Server => true,
            // A broken proxy on the way: one more full download is worth it, and attempts are counted.
            CauseKind::Corrupt => true,
            CauseKind::NotFound
            | CauseKind::Denied
            | CauseKind::Untrusted
            | CauseKind::Malformed
            | CauseKind::TooLarge
            | CauseKind::Hostile
            | CauseKind::DiskFull
            | CauseKind::Local => false,
        }
    }
}

/// The store's own directory is in trouble.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("image store {path}: another process has it open; each needs a data directory of its own")]
    Locked { path: PathBuf },
    #[error("registry mirror '{mirror}': {problem}")]
    Mirror { mirror: String, problem: String },
    #[error("image {digest} is in use by {pins} task container(s); stop them first")]
    InUse { digest: String, pins: usize },
    #[error("image store: cannot {action} {path}")]
    Io { action: &'static str, path: PathBuf, source: std::io::Error },
    #[error("image store: cannot set up the HTTP client")]
    Http { source: reqwest::Error },
}

impl StoreError {
    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| StoreError::Io { action, path, source }
    }
}

/// An I/O failure of ours, told apart where it means a full disk.
pub(crate) fn local(action: &str, error: &std::io::Error) -> Cause {
    match error.raw_os_error().map(rustix::io::Errno::from_raw_os_error) {
        Some(rustix::io::Errno::NOSPC | rustix::io::Errno::DQUOT) => {
            Cause::new(CauseKind::DiskFull, format!("{action}: no space left on device"))
        }
        _ => Cause::new(CauseKind::Local, format!("{action}: {error}")),
    }
}
