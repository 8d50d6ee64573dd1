//! Removes what nobody can ask for any more: layers that no image names, uploads given up, files without a record.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use ferrogate_api::ApiError;
use ferrogate_control::{Activation, Controller};
use ferrogate_model::Clock;
use ferrogate_store::range_json;
use jiff::{SignedDuration, Timestamp};
use serde_json::json;

use crate::state::{self, Change, Kind, LayerRecord, Place, RepositoryRecord, UploadRecord};
use crate::{EcrService, errors};

const PERIOD: Duration = Duration::from_secs(15 * 60);
/// An upload that has not ended by then never will.
const UPLOAD_LIFE: SignedDuration = SignedDuration::from_hours(24);
/// Records removed by one transaction.
const REMOVED_AT_ONCE_MAX: usize = 500;

pub(crate) struct Sweep {
    pub(crate) service: Arc<EcrService>,
    pub(crate) clock: Arc<dyn Clock>,
}

#[async_trait::async_trait]
impl Controller for Sweep {
    fn name(&self) -> &'static str {
        "ecr-sweep"
    }

    /// None: nothing waits for it.
    fn prefixes(&self) -> Vec<String> {
        Vec::new()
    }

    fn period(&self) -> Duration {
        PERIOD
    }

    async fn activate(&self) -> Activation {
        let mut records = 0;
        for (place, _, repositories) in state::everywhere(&*self.service.store, &self.service.options.account)
        {
            for repository in repositories {
                match self.records(&place, &repository).await {
                    Ok(count) => records += count,
                    Err(error) => return Activation::failed(format!("{}: {error}", repository.name)),
                }
            }
        }
        match self.files().await {
            Ok((files, bytes)) => {
                Activation::done(json!({ "records": records, "files": files, "bytes": bytes }))
            }
            Err(error) => Activation::failed(error.to_string()),
        }
    }
}

impl Sweep {
    /// Layers past their grace that no image names, and old uploads.
    async fn records(&self, place: &Place, record: &RepositoryRecord) -> Result<usize, ApiError> {
        let now = self.clock.now();
        let grace = SignedDuration::try_from(self.service.options.layer_grace).unwrap_or(UPLOAD_LIFE);
        let gone = || errors::no_repository(&self.service.options.account, &record.name);
        let swept = state::change_content(&*self.service.store, place, &record.name, gone, |repository| {
            let id = &repository.record.id;
            let named: BTreeSet<String> = repository
                .images()
                .into_iter()
                .flat_map(|image| image.blobs)
                .map(|blob| blob.digest)
                .collect();
            let layers = repository.place.all(Kind::Layer, id);
            let mut old: Vec<String> = range_json::<LayerRecord>(repository.store, &layers)
                .into_iter()
                .filter(|found| !named.contains(&found.key[layers.len()..]))
                .filter(|found| past(found.record.pushed_at, grace, now))
                .map(|found| found.key.to_string())
                .collect();
            let uploads =
                range_json::<UploadRecord>(repository.store, &repository.place.all(Kind::Upload, id));
            let uploads = uploads.into_iter().filter(|found| past(found.record.started_at, UPLOAD_LIFE, now));
            old.extend(uploads.map(|found| found.key.to_string()));
            old.truncate(REMOVED_AT_ONCE_MAX);
            Ok(old.into_iter().fold(Change::none(0), |change, key| Change {
                result: change.result + 1,
                ..change.delete(key)
            }))
        });
        match swept.await {
            Err(error) if error == gone() => Ok(0),
            swept => swept,
        }
    }

    /// Files that no record names; while nobody is between a file and its record.
    async fn files(&self) -> Result<(usize, u64), crate::BlobsError> {
        let blobs = &self.service.blobs;
        let _exclusive = blobs.exclusive().await;
        let (mut named, mut uploads) = (BTreeSet::new(), BTreeSet::new());
        let store = &*self.service.store;
        for (place, _, repositories) in state::everywhere(store, &self.service.options.account) {
            for record in repositories {
                for kind in Kind::ALL {
                    let prefix = place.all(kind, &record.id);
                    let names = store.range(&prefix).into_iter().map(|kv| kv.key[prefix.len()..].to_owned());
                    match kind {
                        Kind::Image | Kind::Layer => named.extend(names),
                        Kind::Upload => uploads.extend(names),
                        Kind::Tag => {}
                    }
                }
            }
        }
        let (mut files, mut bytes) = (0, 0);
        for (digest, size) in blobs.all().await? {
            if !named.contains(digest.as_str()) {
                blobs.remove(&digest).await?;
                (files, bytes) = (files + 1, bytes + size);
            }
        }
        for id in blobs.uploads().await? {
            if !uploads.contains(&id) {
                blobs.drop_upload(&id).await?;
                files += 1;
            }
        }
        Ok((files, bytes))
    }
}

fn past(since: Timestamp, life: SignedDuration, now: Timestamp) -> bool {
    now.duration_since(since) >= life
}
