//! Transactions: compares, then one of two lists of ops.

use std::sync::Arc;

use serde::Serialize;

/// A condition on one key as it is when the transaction runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Compare {
    /// The key is not there.
    Absent(String),
    Present(String),
    /// The key was last changed at this revision.
    ModRevision(String, u64),
    Value(String, Arc<[u8]>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    Put(String, Arc<[u8]>),
    Delete(String),
    DeletePrefix(String),
}

/// If every compare holds `then`, else `otherwise`; all of it or nothing, as one revision.
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
    /// The store's revision after it.
    pub revision: u64,
}

impl Txn {
    pub fn new() -> Self {
        Self::default()
    }

    /// Only if the key is not there.
    pub fn when_absent(mut self, key: impl Into<String>) -> Self {
        self.compares.push(Compare::Absent(key.into()));
        self
    }

    /// Only if the key is there.
    pub fn when_present(mut self, key: impl Into<String>) -> Self {
        self.compares.push(Compare::Present(key.into()));
        self
    }

    /// Only if the key was last changed at `mod_revision`; 0: is not there.
    pub fn when_revision(mut self, key: impl Into<String>, mod_revision: u64) -> Self {
        let key = key.into();
        self.compares.push(if mod_revision == 0 { Compare::Absent(key) } else { Compare::ModRevision(key, mod_revision) });
        self
    }

    pub fn put(mut self, key: impl Into<String>, value: impl Into<Arc<[u8]>>) -> Self {
        self.then.push(Op::Put(key.into(), value.into()));
        self
    }

    /// Puts a record as JSON.
    ///
    /// # Panics
    /// When the record has no JSON form (a map with keys that are no strings): a mistake of the program.
    pub fn put_json<T: Serialize + ?Sized>(self, key: impl Into<String>, record: &T) -> Self {
        let json = serde_json::to_vec(record).expect("records have a JSON form");
        self.put(key, json)
    }

    pub fn delete(mut self, key: impl Into<String>) -> Self {
        self.then.push(Op::Delete(key.into()));
        self
    }

    pub fn delete_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.then.push(Op::DeletePrefix(prefix.into()));
        self
    }

    /// When a compare does not hold.
    pub fn or_else(mut self, ops: impl IntoIterator<Item = Op>) -> Self {
        self.otherwise.extend(ops);
        self
    }
}
