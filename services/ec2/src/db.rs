//! Records in the store, typed: what was read, and what a transaction shall change.

use std::ops::Deref;

use ferrogate_api::ApiError;
use ferrogate_store::{Kv, Txn};
use serde::Serialize;

use crate::call::{Call, ClientToken};
use crate::state::{ClientTokenRecord, Record, Scope};

/// A record as it was read.
#[derive(Clone, Debug)]
pub(crate) struct Stored<R> {
    pub record: R,
    revision: u64,
}

impl<R: Record> Stored<R> {
    pub(crate) fn parse(kv: &Kv) -> Result<Self, ApiError> {
        Ok(Self { record: parse(kv)?, revision: kv.mod_revision })
    }
}

impl<R> Deref for Stored<R> {
    type Target = R;

    fn deref(&self) -> &R {
        &self.record
    }
}

/// A value that cannot be read is damage, or a newer version's: better no answer than a wrong one.
pub(crate) fn parse<T: serde::de::DeserializeOwned>(kv: &Kv) -> Result<T, ApiError> {
    serde_json::from_slice(&kv.value).map_err(|error| {
        tracing::error!(%error, key = %kv.key, "a record cannot be read");
        ApiError::internal()
    })
}

fn json(record: &impl Serialize) -> Result<Vec<u8>, ApiError> {
    serde_json::to_vec(record).map_err(|error| {
        tracing::error!(%error, "a record has no JSON form");
        ApiError::internal()
    })
}

/// The transaction that an operation decides on. It goes through only if everything it names is as it was read.
pub(crate) struct Changes {
    scope: Scope,
    /// The store's revision before anything was read.
    since: u64,
    /// Something that had been read already has changed since: no use to commit.
    stale: bool,
    txn: Txn,
}

impl Changes {
    pub(crate) fn new(scope: Scope, since: u64) -> Self {
        Self { scope, since, stale: false, txn: Txn::new() }
    }

    pub(crate) fn is_stale(&self) -> bool {
        self.stale
    }

    pub(crate) fn scope(&self) -> &Scope {
        &self.scope
    }

    pub(crate) fn into_txn(self) -> Txn {
        self.txn
    }

    fn with(&mut self, change: impl FnOnce(Txn) -> Txn) {
        self.txn = change(std::mem::take(&mut self.txn));
    }

    /// The record must not have changed.
    pub(crate) fn expect<R: Record>(&mut self, stored: &Stored<R>) {
        let key = self.scope.record::<R>(stored.id());
        self.with(|txn| txn.when_revision(key, stored.revision));
    }

    pub(crate) fn create<R: Record>(&mut self, record: &R) -> Result<(), ApiError> {
        let key = self.scope.record::<R>(record.id());
        self.create_key(key, json(record)?);
        Ok(())
    }

    pub(crate) fn replace<R: Record>(&mut self, stored: &Stored<R>, record: &R) -> Result<(), ApiError> {
        self.expect(stored);
        let (key, value) = (self.scope.record::<R>(stored.id()), json(record)?);
        self.with(|txn| txn.put(key, value));
        Ok(())
    }

    pub(crate) fn remove<R: Record>(&mut self, stored: &Stored<R>) {
        self.expect(stored);
        self.remove_key(self.scope.record::<R>(stored.id()));
    }

    /// The key must not be there yet.
    pub(crate) fn create_key(&mut self, key: String, value: Vec<u8>) {
        self.with(|txn| txn.when_absent(key.clone()).put(key, value));
    }

    pub(crate) fn create_json(&mut self, key: String, value: &impl Serialize) -> Result<(), ApiError> {
        self.create_key(key, json(value)?);
        Ok(())
    }

    pub(crate) fn remove_key(&mut self, key: String) {
        self.with(|txn| txn.delete(key));
    }

    /// Of all transactions that touch a key, one after the other goes through: each sees what the one before did.
    pub(crate) fn touch(&mut self, call: &Call<'_>, key: String) {
        let revision = self.revision_before(call, &key);
        self.with(|txn| txn.when_revision(key.clone(), revision).put(key, *b"{}"));
    }

    fn revision_before(&mut self, call: &Call<'_>, key: &str) -> u64 {
        let revision = call.revision_of(key);
        // Touched after this decision had begun to read: what it read may be from before.
        self.stale |= revision > self.since;
        revision
    }

    /// For changes of what a VPC is made of, whose rules span several of its records.
    pub(crate) fn topology(&mut self, call: &Call<'_>, vpc_id: &str) {
        self.touch(call, self.scope.topology(vpc_id));
    }

    pub(crate) fn end_topology(&mut self, call: &Call<'_>, vpc_id: &str) {
        let key = self.scope.topology(vpc_id);
        let revision = self.revision_before(call, &key);
        self.with(|txn| txn.when_revision(key.clone(), revision).delete(key));
    }

    /// What the call with this token has made.
    pub(crate) fn remember(&mut self, token: Option<&ClientToken>, id: &str) -> Result<(), ApiError> {
        let Some(token) = token else { return Ok(()) };
        let record = ClientTokenRecord {
            operation: token.operation.into(),
            id: id.into(),
            parameters: token.parameters.clone(),
        };
        self.create_json(self.scope.client_token(&token.token), &record)
    }
}
