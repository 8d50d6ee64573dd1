//! The store: transactions, ranges, watches and leases over keys and values, after etcd's model.
//!
//! ```text
//!  txn ──► one writer: decide (state.rs, pure) ─► commit on disk (redb/) ─► publish ─► watchers wake
//!                                                                            │
//!  get, range ◄────────────────── the snapshot in memory (snapshot.rs) ◄─────┘
//! ```
//!
//! Writes are transactions ([`Txn`]: compare → ops). They are durable when they return, and each one that changes
//! anything gets the next revision. Reads are synchronous, from an in-memory snapshot that a commit enters once it is
//! on disk: no read waits for a disk, and what a transaction's caller was told is what it reads next. A [`Watch`]
//! gives every revision after the one it starts from, once and in order. Keys put with a lease go when it ends.
//!
//! Keys are paths, `/ecs/123456789012/us-east-1/task/…`; values are text that an operator can read: JSON, or a mark
//! of a word or nothing. What is not UTF-8 is refused ([`StoreError::NotText`]).
//!
//! A caller that gives up waiting for a transaction does not undo it: what was queued is committed.

mod json;
mod lease;
mod memory;
mod redb;
mod seal;
mod snapshot;
mod state;
mod txn;
mod watch;

pub use json::{Json, UpdateError, get_json, range_json, update_json};
pub use lease::{LEASE_TTL_MAX, LEASE_TTL_MIN, LEASES_MAX, LeaseId};
pub use memory::MemoryStore;
pub use redb::RedbStore;
pub use seal::{SealError, Sealer};
pub use state::{LOG_BYTES_KEPT, LOG_CHANGES_KEPT};
pub use txn::{Compare, Op, Txn, TxnResult};
pub use watch::{Change, Watch, WatchError};

use std::ops::Deref;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Longest key.
pub const KEY_BYTES_MAX: usize = 1024;
/// Longest value.
pub const VALUE_BYTES_MAX: usize = 1 << 20;
/// Keys and values of one transaction together. etcd takes requests of 1.5 MiB; the rest is for its framing.
pub const TXN_BYTES_MAX: usize = 1_400_000;
/// Compares of one transaction, and ops of each of its lists (etcd: `--max-txn-ops`).
pub const TXN_OPS_MAX: usize = 1024;

/// A key with its value as of some revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kv {
    pub key: Arc<str>,
    pub value: Arc<[u8]>,
    /// The revision that made the key.
    pub create_revision: u64,
    /// The revision that last changed it.
    pub mod_revision: u64,
    /// Puts since it was made, from 1.
    pub version: u64,
    /// The key is deleted when this lease ends.
    pub lease: Option<LeaseId>,
}

/// Keys as they were at one revision, sorted. Reads like a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// The store's revision when it was read. A watch from here misses nothing and repeats nothing.
    pub revision: u64,
    pub kvs: Vec<Kv>,
    /// Whether the limit cut it: go on after the last key.
    pub more: bool,
}

impl Deref for Listing {
    type Target = [Kv];

    fn deref(&self) -> &[Kv] {
        &self.kvs
    }
}

impl IntoIterator for Listing {
    type Item = Kv;
    type IntoIter = std::vec::IntoIter<Kv>;

    fn into_iter(self) -> Self::IntoIter {
        self.kvs.into_iter()
    }
}

impl<'a> IntoIterator for &'a Listing {
    type Item = &'a Kv;
    type IntoIter = std::slice::Iter<'a, Kv>;

    fn into_iter(self) -> Self::IntoIter {
        self.kvs.iter()
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    #[error("the store {path} is in use by {holder}; end that first, or use another data directory")]
    InUse { path: PathBuf, holder: String },
    #[error("the store {path} cannot be opened: {why}")]
    Open { path: PathBuf, why: String },
    #[error(
        "the store {path} is damaged: {why}; restore a copy of it, or move it away to begin with an empty one"
    )]
    Damaged { path: PathBuf, why: String },
    #[error("the store {path} has format {found}, and this version reads format {reads}")]
    Format { path: PathBuf, found: u64, reads: u64 },
    /// Nothing of the transaction is kept; the store goes on.
    #[error("the store cannot be written, and nothing of the transaction is kept: {why}")]
    Write { why: String },
    /// The disk failed in the middle of the commit. No transaction is taken until the next start.
    #[error(
        "the store failed while it was written; after a restart the transaction may be there or not: {why}"
    )]
    Failed { why: String },
    #[error("the store is closed")]
    Closed,
    #[error("{what} of {found} exceeds the store's limit of {max}")]
    TooLarge { what: &'static str, found: usize, max: usize },
    #[error(
        "the value of {key} is not UTF-8 from byte {valid_up_to} on; values are text: encode it, or keep it in a file"
    )]
    NotText { key: String, valid_up_to: usize },
    #[error("an empty key or prefix cannot be {verb}: name what is meant")]
    EmptyKey { verb: &'static str },
    #[error("{lease} does not exist; it was revoked or has expired")]
    LeaseNotFound { lease: LeaseId },
    #[error("a lease cannot last {ttl:?}; allowed are {LEASE_TTL_MIN:?} to {LEASE_TTL_MAX:?}")]
    LeaseTtl { ttl: Duration },
    /// Damage, or a newer version's data.
    #[error("the record {key} cannot be read: {why}")]
    Unreadable { key: String, why: String },
}

/// The seam. Embedded ([`RedbStore`]), in memory for tests ([`MemoryStore`]); etcd where one machine is not enough.
/// What every implementation must do is said by `tests/conformance.rs`.
#[async_trait::async_trait]
pub trait Store: Send + Sync + 'static {
    /// Commits; durable when it returns. A compare that does not hold is a result, not an error.
    async fn txn(&self, txn: Txn) -> Result<TxnResult, StoreError>;

    /// The key now.
    fn get(&self, key: &str) -> Option<Kv>;

    /// Up to `limit` keys that start with `prefix`, sorted, after the key `start_after`.
    fn range_from(&self, prefix: &str, start_after: Option<&str>, limit: usize) -> Listing;

    /// The newest revision that reads show; 0: empty.
    fn revision(&self) -> u64;

    /// Every change of keys that start with `prefix`, of the revisions after `after_revision`.
    ///
    /// # Errors
    /// [`WatchError::Compacted`]: so old a revision is no longer in the log; range, and watch from the listing's.
    fn watch(&self, prefix: &str, after_revision: u64) -> Result<Watch, WatchError>;

    /// A lease that ends when it was not kept alive for `ttl`. It is durable; after a restart of the store each
    /// lease has its whole `ttl` again. Needs a tokio runtime with time.
    async fn lease_grant(&self, ttl: Duration) -> Result<LeaseId, StoreError>;

    /// From now on the lease lasts its whole `ttl` again, which is returned.
    async fn lease_keep_alive(&self, lease: LeaseId) -> Result<Duration, StoreError>;

    /// Ends the lease now and deletes its keys, as one revision.
    async fn lease_revoke(&self, lease: LeaseId) -> Result<(), StoreError>;

    /// All keys that start with `prefix`, sorted.
    fn range(&self, prefix: &str) -> Listing {
        self.range_from(prefix, None, usize::MAX)
    }
}
