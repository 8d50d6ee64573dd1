//! Records as JSON.

use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{Kv, Store, StoreError, Txn};

/// Attempts of [`update_json`] before it gives up: each one lost means that somebody else got through.
const UPDATE_ATTEMPTS_MAX: usize = 64;

/// A record with its key and revision.
#[derive(Clone, Debug, PartialEq)]
pub struct Json<T> {
    pub key: Arc<str>,
    pub record: T,
    pub create_revision: u64,
    pub mod_revision: u64,
}

impl<T: DeserializeOwned> Json<T> {
    /// `None` when the value is not such a record: said in the log, for it means damage or a newer version's data.
    pub fn parse(kv: &Kv) -> Option<Self> {
        match serde_json::from_slice(&kv.value) {
            Ok(record) => Some(Self {
                key: Arc::clone(&kv.key),
                record,
                create_revision: kv.create_revision,
                mod_revision: kv.mod_revision,
            }),
            Err(error) => {
                tracing::error!(%error, key = %kv.key, "a record cannot be read");
                None
            }
        }
    }
}

pub fn get_json<T: DeserializeOwned>(store: &dyn Store, key: &str) -> Option<Json<T>> {
    store.get(key).as_ref().and_then(Json::parse)
}

pub fn range_json<T: DeserializeOwned>(store: &dyn Store, prefix: &str) -> Vec<Json<T>> {
    store.range(prefix).iter().filter_map(Json::parse).collect()
}

#[derive(Debug, thiserror::Error)]
pub enum UpdateError<E> {
    /// The change was refused by whoever asked for it.
    #[error("{0}")]
    Refused(E),
    #[error("the record {key} changed {UPDATE_ATTEMPTS_MAX} times while it was being changed")]
    Contended { key: String },
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Reads, changes and writes one record, again if somebody else was quicker. `change` gets the record as it is
/// (`None`: not there) and gives what it shall be (`None`: deleted). Returns what was written.
pub async fn update_json<T, E>(
    store: &dyn Store,
    key: &str,
    mut change: impl FnMut(Option<T>) -> Result<Option<T>, E>,
) -> Result<Option<T>, UpdateError<E>>
where
    T: DeserializeOwned + Serialize,
{
    for _ in 0..UPDATE_ATTEMPTS_MAX {
        let found = get_json::<T>(store, key);
        let revision = found.as_ref().map_or(0, |found| found.mod_revision);
        let wanted = change(found.map(|found| found.record)).map_err(UpdateError::Refused)?;
        let txn = Txn::new().when_revision(key, revision);
        let txn = match &wanted {
            Some(record) => txn.put_json(key, record),
            None => txn.delete(key),
        };
        if store.txn(txn).await?.succeeded {
            return Ok(wanted);
        }
    }
    Err(UpdateError::Contended { key: key.to_owned() })
}
