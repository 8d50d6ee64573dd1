//! Container images: pulled, verified, unpacked and cached.
//!
//! [`ImageStore::pull`] resolves a reference at its registry, fetches what is not here, and gives an [`Image`]: its config
//! and its layers as directories that overlayfs takes as lowerdirs. Everything is named by the sha256 of what it is;
//! a layer is unpacked once and shared by every task of every image that has it.
//!
//! Invariants
//! - Nothing is used whose digest was not computed here: manifests, configs, compressed and uncompressed layers.
//! - Who only names a digest gets nothing by it: what is here is used for a caller only after the source of their
//!   reference gave them its manifest (`proofs.rs`).
//! - A layer directory is whole or absent: it appears by one rename once every digest was right; leftovers go at the
//!   next open. What was unpacked and not yet synced is not believed after the machine went down.
//! - Whatever a registry or a layer says, it costs no more than [`Limits`] and reaches nothing outside the layer.
//! - What an [`Image`] value holds is never removed.
//! - No credentials are kept: they come with each pull. Deliberately absent: pushing, signatures, and keeping the
//!   compressed blobs.

mod collect;
mod config;
mod digest;
mod disk;
mod download;
mod error;
mod flights;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod image;
mod manifest;
mod pins;
mod pipe;
mod platform;
mod prefetch;
mod proofs;
mod pull;
mod reference;
mod registry;
mod remove;
mod retry;
mod settle;
mod store;
mod unpack;
mod upkeep;

pub use collect::{Collected, Watermarks};
pub use config::{Auth, Config, Limits, Mirror, OwnRegistry, Retry, Slowest, Timeouts};
pub use digest::{Digest, DigestError};
pub use error::{Cause, CauseKind, PullError, StoreError};
pub use image::{Image, ImageConfig};
pub use platform::Platform;
pub use prefetch::PrefetchFull;
pub use pull::Progress;
pub use reference::{ImageRef, ReferenceError};
pub use store::{ImageStore, ImageSummary};
pub use upkeep::Upkeep;
