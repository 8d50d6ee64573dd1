//! One call: who, where, and the way to the records.

use ferrogate_api::{ApiError, Context};
use ferrogate_store::{Json, Txn, UpdateError, get_json, update_json};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::EcsService;
use crate::errors::{self, cluster_not_found, contended};
use crate::names;
use crate::state::{ClusterRecord, ClusterStatus, Scope};

/// How often a transaction that lost a race is decided anew. Each loss means that another one got through.
const ATTEMPTS_MAX: usize = 256;

pub(crate) struct Call<'a> {
    pub service: &'a EcsService,
    pub cx: &'a Context,
    pub scope: Scope,
}

impl<'a> Call<'a> {
    pub(crate) fn new(service: &'a EcsService, cx: &'a Context) -> Self {
        Self { service, cx, scope: Scope::of(cx) }
    }

    pub(crate) fn get<T: DeserializeOwned>(&self, key: &str) -> Option<Json<T>> {
        get_json(&*self.service.store, key)
    }

    pub(crate) fn range<T: DeserializeOwned>(&self, prefix: &str) -> Vec<Json<T>> {
        ferrogate_store::range_json(&*self.service.store, prefix)
    }

    /// Decides on a transaction and commits it; decides anew when something it had compared has changed meanwhile.
    pub(crate) async fn transact<T>(
        &self,
        mut decide: impl FnMut() -> Result<(Txn, T), ApiError> + Send,
    ) -> Result<T, ApiError> {
        for _ in 0..ATTEMPTS_MAX {
            let (txn, decided) = decide()?;
            if txn.then.is_empty()
                || self.service.store.txn(txn).await.map_err(|error| errors::store(&error))?.succeeded
            {
                return Ok(decided);
            }
        }
        Err(contended())
    }

    /// Reads, changes and writes one record; see [`update_json`].
    pub(crate) async fn update<T: DeserializeOwned + Serialize>(
        &self,
        key: &str,
        change: impl FnMut(Option<T>) -> Result<Option<T>, ApiError>,
    ) -> Result<Option<T>, ApiError> {
        update_json(&*self.service.store, key, change).await.map_err(|error| match error {
            UpdateError::Refused(error) => error,
            UpdateError::Contended { .. } => contended(),
            UpdateError::Store(error) => errors::store(&error),
        })
    }

    /// The cluster a call means: by name, by ARN, or `default`. It has to be active.
    pub(crate) fn cluster(&self, identifier: Option<&str>) -> Result<Json<ClusterRecord>, ApiError> {
        let name = names::cluster(&self.scope, identifier)?;
        match self.get::<ClusterRecord>(&self.scope.cluster(&name)) {
            Some(cluster) if cluster.record.status == ClusterStatus::Active => Ok(cluster),
            Some(_) => Err(ApiError::new("ClusterNotFoundException", "The referenced cluster was inactive.")),
            None => Err(cluster_not_found()),
        }
    }
}
