//! Transactions: compares, then one of two lists of ops.

use std::str::Utf8Error;
use std::sync::Arc;

use serde::Serialize;

use crate::{KEY_BYTES_MAX, LeaseId, StoreError, TXN_BYTES_MAX, TXN_OPS_MAX, VALUE_BYTES_MAX};

/// A condition on one key as it is when the transaction runs. For a key that is not there both revisions and the
/// version are 0, and no value equals its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Compare {
    Absent(String),
    Present(String),
    /// The revision that made the key.
    CreateRevision(String, u64),
    /// The revision that last changed the key.
    ModRevision(String, u64),
    /// Puts since the key was made.
    Version(String, u64),
    Value(String, Arc<[u8]>),
}

impl Compare {
    pub fn key(&self) -> &str {
        match self {
            Self::Absent(key)
            | Self::Present(key)
            | Self::CreateRevision(key, _)
            | Self::ModRevision(key, _)
            | Self::Version(key, _)
            | Self::Value(key, _) => key,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Makes or changes the key. Without a lease the key is, from now on, under none.
    Put {
        key: String,
        value: Arc<[u8]>,
        lease: Option<LeaseId>,
    },
    Delete(String),
    DeletePrefix(String),
}

/// If every compare holds `then`, else `otherwise`; all of it or nothing, as one revision. Later ops see what earlier
/// ones did, and watchers see the last word on each key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use = "a transaction does nothing until it is committed"]
pub struct Txn {
    pub compares: Vec<Compare>,
    pub then: Vec<Op>,
    pub otherwise: Vec<Op>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TxnResult {
    /// Whether the compares held.
    pub succeeded: bool,
    /// The store's revision after it. A transaction that changes nothing makes none.
    pub revision: u64,
}

impl Txn {
    pub fn new() -> Self {
        Self::default()
    }

    fn when(mut self, compare: Compare) -> Self {
        self.compares.push(compare);
        self
    }

    fn then(mut self, op: Op) -> Self {
        self.then.push(op);
        self
    }

    /// Only if the key is not there.
    pub fn when_absent(self, key: impl Into<String>) -> Self {
        self.when(Compare::Absent(key.into()))
    }

    /// Only if the key is there.
    pub fn when_present(self, key: impl Into<String>) -> Self {
        self.when(Compare::Present(key.into()))
    }

    /// Only if the key was last changed at `mod_revision`; 0: is not there.
    pub fn when_revision(self, key: impl Into<String>, mod_revision: u64) -> Self {
        self.when(Compare::ModRevision(key.into(), mod_revision))
    }

    /// Only if the key was made at `create_revision`, whatever changed since; 0: is not there.
    pub fn when_created(self, key: impl Into<String>, create_revision: u64) -> Self {
        self.when(Compare::CreateRevision(key.into(), create_revision))
    }

    /// Only if the key was put `version` times since it was made; 0: is not there.
    pub fn when_version(self, key: impl Into<String>, version: u64) -> Self {
        self.when(Compare::Version(key.into(), version))
    }

    /// Only if the key is there with this value.
    pub fn when_value(self, key: impl Into<String>, value: impl Into<Arc<[u8]>>) -> Self {
        self.when(Compare::Value(key.into(), value.into()))
    }

    pub fn put(self, key: impl Into<String>, value: impl Into<Arc<[u8]>>) -> Self {
        self.then(Op::Put { key: key.into(), value: value.into(), lease: None })
    }

    /// Puts a key that goes when the lease ends.
    pub fn put_leased(self, key: impl Into<String>, value: impl Into<Arc<[u8]>>, lease: LeaseId) -> Self {
        self.then(Op::Put { key: key.into(), value: value.into(), lease: Some(lease) })
    }

    /// Puts a record as JSON.
    ///
    /// # Panics
    /// When the record has no JSON form (a map with keys that are no strings): a mistake of the program.
    pub fn put_json<T: Serialize + ?Sized>(self, key: impl Into<String>, record: &T) -> Self {
        let json = serde_json::to_vec(record).expect("records have a JSON form");
        self.put(key, json)
    }

    pub fn delete(self, key: impl Into<String>) -> Self {
        self.then(Op::Delete(key.into()))
    }

    /// Deletes all keys that start with `prefix`, which is not empty.
    pub fn delete_prefix(self, prefix: impl Into<String>) -> Self {
        self.then(Op::DeletePrefix(prefix.into()))
    }

    /// When a compare does not hold.
    pub fn or_else(mut self, ops: impl IntoIterator<Item = Op>) -> Self {
        self.otherwise.extend(ops);
        self
    }

    /// Refuses what no store takes.
    pub(crate) fn check(&self) -> Result<(), StoreError> {
        let count = self.compares.len().max(self.then.len()).max(self.otherwise.len());
        limit("a transaction's list", count, TXN_OPS_MAX)?;
        for compare in &self.compares {
            key("compared", compare.key())?;
        }
        for op in self.then.iter().chain(&self.otherwise) {
            match op {
                Op::Put { key: name, value, .. } => {
                    key("put", name)?;
                    limit("a value", value.len(), VALUE_BYTES_MAX)?;
                    text(name, value)?;
                }
                Op::Delete(name) => key("deleted", name)?,
                Op::DeletePrefix(prefix) => key("deleted", prefix)?,
            }
        }
        limit("a transaction", self.bytes(), TXN_BYTES_MAX)
    }

    /// Keys and values.
    pub(crate) fn bytes(&self) -> usize {
        let compares = self.compares.iter().map(|compare| match compare {
            Compare::Value(key, value) => key.len() + value.len(),
            other => other.key().len(),
        });
        let ops = self.then.iter().chain(&self.otherwise).map(|op| match op {
            Op::Put { key, value, .. } => key.len() + value.len(),
            Op::Delete(key) | Op::DeletePrefix(key) => key.len(),
        });
        compares.chain(ops).sum()
    }
}

fn key(verb: &'static str, key: &str) -> Result<(), StoreError> {
    if key.is_empty() {
        return Err(StoreError::EmptyKey { verb });
    }
    limit("a key", key.len(), KEY_BYTES_MAX)
}

fn text(key: &str, value: &[u8]) -> Result<(), StoreError> {
    let not_text =
        |error: Utf8Error| StoreError::NotText { key: key.to_owned(), valid_up_to: error.valid_up_to() };
    std::str::from_utf8(value).map(drop).map_err(not_text)
}

fn limit(what: &'static str, found: usize, max: usize) -> Result<(), StoreError> {
    if found > max { Err(StoreError::TooLarge { what, found, max }) } else { Ok(()) }
}
