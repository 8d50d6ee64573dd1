//! One compressed layer becomes one directory that overlayfs can use as a lowerdir.
//!
//! Invariants
//! - No entry reaches outside the directory: every path is resolved by the kernel below a directory handle
//!   (`openat2`, RESOLVE_IN_ROOT), names with `..` and absolute ones are refused before.
//! - Nothing is decided by the archive's word: sizes, counts, ratio and nesting have limits, the stream's digest is the
//!   image config's `diff_id`, or the layer is thrown away.

mod archive;
mod pax;
mod stream;
mod tree;

use std::io::Read;
use std::os::fd::OwnedFd;

use crate::config::Limits;
use crate::digest::Digest;
use crate::error::{Cause, CauseKind, local};

/// What a layer came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unpacked {
    /// Sum of the files' sizes.
    pub(crate) bytes: u64,
    pub(crate) entries: u64,
    /// The layer hides everything below it.
    pub(crate) opaque_root: bool,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum UnpackError {
    #[error("{0}")]
    Malformed(String),
    #[error("{0}")]
    TooLarge(String),
    #[error("refused entry '{entry}': {problem}")]
    Hostile { entry: String, problem: &'static str },
    #[error("unexpected diff id {actual}, expected {expected}: failed precondition")]
    Digest { expected: Digest, actual: Digest },
    #[error("{action}")]
    Io { action: String, source: std::io::Error },
}

impl UnpackError {
    fn malformed(text: &str) -> Self {
        UnpackError::Malformed(text.to_owned())
    }

    /// From the decompressor or the meter before it, which hide their own errors in I/O errors.
    fn from_read(error: std::io::Error) -> Self {
        if error.get_ref().is_some_and(|inner| inner.is::<UnpackError>()) {
            match error.into_inner().map(|inner| inner.downcast::<UnpackError>()) {
                Some(Ok(inner)) => *inner,
                _ => UnpackError::malformed("unreadable"),
            }
        } else if error.raw_os_error().is_some() {
            UnpackError::Io { action: "read layer".to_owned(), source: error }
        } else {
            UnpackError::Malformed(format!("cannot decompress: {error}"))
        }
    }

    pub(crate) fn cause(&self) -> Cause {
        match self {
            UnpackError::Malformed(_) => Cause::new(CauseKind::Malformed, self.to_string()),
            UnpackError::TooLarge(_) => Cause::new(CauseKind::TooLarge, self.to_string()),
            UnpackError::Hostile { .. } => Cause::new(CauseKind::Hostile, self.to_string()),
            // The compressed bytes were what the manifest says, so asking again cannot help.
            UnpackError::Digest { .. } => Cause::new(CauseKind::Malformed, self.to_string()),
            UnpackError::Io { action, source } => local(action, source),
        }
    }
}

/// Unpacks `layer`, compressed or not, into the empty directory `root`; what is replaced on the way is parked in `trash`, beside it.
/// Blocking. On error both hold rubbish and nothing outside them was touched.
pub(crate) fn unpack(
    layer: impl Read + 'static,
    layer_bytes: u64,
    diff_id: &Digest,
    root: OwnedFd,
    trash: OwnedFd,
    limits: &Limits,
) -> Result<Unpacked, UnpackError> {
    let mut stream = stream::Metered::open(Box::new(layer), layer_bytes, limits)?;
    let mut tree = tree::Tree::new(root, trash, limits);
    let mut archive = archive::Archive::new(&mut stream, limits.path_bytes_max);
    while let Some(entry) = archive.next()? {
        tree.apply(&entry, &mut archive.data())?;
    }
    archive.drain()?;
    let actual = stream.finish();
    if actual != *diff_id {
        return Err(UnpackError::Digest { expected: diff_id.clone(), actual });
    }
    tree.finish()
}
