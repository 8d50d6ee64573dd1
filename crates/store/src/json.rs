//! Records as JSON.

use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{Kv, Op, Store, StoreError, Txn};

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
    /// # Errors
    /// [`StoreError::Unreadable`]: damage, or a newer version's data.
    pub fn try_parse(kv: &Kv) -> Result<Self, StoreError> {
        let unreadable = |error: serde_json::Error| StoreError::Unreadable {
            key: kv.key.to_string(),
            why: error.to_string(),
        };
        Ok(Self {
            key: Arc::clone(&kv.key),
            record: serde_json::from_slice(&kv.value).map_err(unreadable)?,
            create_revision: kv.create_revision,
            mod_revision: kv.mod_revision,
        })
    }

    /// The same; a record that cannot be read is said in the log and is `None`.
    pub fn parse(kv: &Kv) -> Option<Self> {
        Self::try_parse(kv).inspect_err(|error| tracing::error!(%error, "a record is left out")).ok()
    }
}

/// The record, or `None` when it is not there or cannot be read. (A write that depends on its absence then fails its
/// compare, so that what cannot be read is never overwritten by mistake.)
pub fn get_json<T: DeserializeOwned>(store: &dyn Store, key: &str) -> Option<Json<T>> {
    store.get(key).as_ref().and_then(Json::parse)
}

/// All records below the prefix that can be read, sorted by key.
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
    /// [`StoreError::Unreadable`] among them: a record that cannot be read is not changed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Reads, changes and writes one record, again if somebody else was quicker. `change` gets the record as it is
/// (`None`: not there) and gives what it shall be (`None`: deleted). A lease stays on it. Returns what was written.
pub async fn update_json<T, E>(
    store: &dyn Store,
    key: &str,
    mut change: impl FnMut(Option<T>) -> Result<Option<T>, E>,
) -> Result<Option<T>, UpdateError<E>>
where
    T: DeserializeOwned + Serialize,
{
    for _ in 0..UPDATE_ATTEMPTS_MAX {
        let found = store.get(key);
        let (revision, lease) = found.as_ref().map_or((0, None), |kv| (kv.mod_revision, kv.lease));
        let record = found.as_ref().map(Json::<T>::try_parse).transpose()?.map(|found| found.record);
        let wanted = change(record).map_err(UpdateError::Refused)?;
        let mut txn = Txn::new().when_revision(key, revision);
        txn.then.push(match &wanted {
            Some(record) => Op::Put { key: key.to_owned(), value: json(key, record)?, lease },
            None => Op::Delete(key.to_owned()),
        });
        if store.txn(txn).await?.succeeded {
            return Ok(wanted);
        }
    }
    Err(UpdateError::Contended { key: key.to_owned() })
}

fn json<T: Serialize>(key: &str, record: &T) -> Result<Arc<[u8]>, StoreError> {
    let no_json =
        |error: serde_json::Error| StoreError::Write { why: format!("{key} has no JSON form: {error}") };
    serde_json::to_vec(record).map(Into::into).map_err(no_json)
}
