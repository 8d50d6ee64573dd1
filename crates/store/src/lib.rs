//! The store: transactions, ranges and watches over keys and values, after etcd's model.
//!
//! Writes are transactions ([`Txn`]: compare → ops) and are durable when they return; each one that changes
//! anything gets the next revision. Reads are synchronous, from an in-memory snapshot that a commit enters once
//! it is on disk. A [`Watch`] gives every revision after the one it starts from, once and in order.
//!
//! Keys are paths, `/ecs/123456789012/us-east-1/task/…`; values are JSON that an operator can read.

mod json;
mod memory;
mod redb;
mod seal;
mod txn;
mod watch;

pub use json::{get_json, range_json, update_json, Json, UpdateError};
pub use memory::MemoryStore;
pub use redb::RedbStore;
pub use seal::{SealError, Sealer};
pub use txn::{Compare, Op, Txn, TxnResult};
pub use watch::{Change, Watch, WatchError};

use std::path::PathBuf;
use std::sync::Arc;

/// Longest key; etcd's and redb's bounds are far above.
pub const KEY_BYTES_MAX: usize = 1024;
/// Longest value: etcd takes requests of 1.5 MiB.
pub const VALUE_BYTES_MAX: usize = 1 << 20;
/// Ops of one transaction.
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
    /// Changes since it was made, from 1.
    pub version: u64,
}

#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    #[error("the store {path} is in use by another process")]
    InUse { path: PathBuf },
    #[error("the store {path} is damaged: {why}")]
    Damaged { path: PathBuf, why: String },
    #[error("the store cannot be written: {0}")]
    Write(String),
    #[error("the store is closed")]
    Closed,
    #[error("{what} of {found} exceeds the store's limit of {max}")]
    TooLarge { what: &'static str, found: usize, max: usize },
}

/// The seam. Embedded ([`RedbStore`]), in memory for tests ([`MemoryStore`]); etcd where one machine is not enough.
#[async_trait::async_trait]
pub trait Store: Send + Sync + 'static {
    /// Commits; durable when it returns. A failed compare is a result, not an error.
    async fn txn(&self, txn: Txn) -> Result<TxnResult, StoreError>;

    /// The key now.
    fn get(&self, key: &str) -> Option<Kv>;

    /// Up to `limit` keys that start with `prefix`, sorted, after the key `start_after`.
    fn range_from(&self, prefix: &str, start_after: Option<&str>, limit: usize) -> Vec<Kv>;

    /// The newest revision; 0: empty.
    fn revision(&self) -> u64;

    /// Every change of keys below `prefix` after `after_revision`.
    fn watch(&self, prefix: &str, after_revision: u64) -> Result<Watch, WatchError>;

    /// All keys that start with `prefix`, sorted.
    fn range(&self, prefix: &str) -> Vec<Kv> {
        self.range_from(prefix, None, usize::MAX)
    }
}
