//! The records in the store.
//!
//! ```text
//! /ecr/<account>/<region>/repository/<name>             RepositoryRecord
//! /ecr/<account>/<region>/content/<repository id>       empty; put by every change of the four below
//! /ecr/<account>/<region>/image/<repository id>/<digest>    ImageRecord
//! /ecr/<account>/<region>/tag/<repository id>/<tag>         TagRecord
//! /ecr/<account>/<region>/layer/<repository id>/<digest>    LayerRecord
//! /ecr/<account>/<region>/upload/<repository id>/<upload>   UploadRecord
//! /ecr/<account>/<region>/cache-rule/<prefix>           CacheRuleRecord
//! /ecr/<account>/<region>/registry                      RegistryRecord
//! ```
//!
//! The operations write all fields but `lifecycle_evaluated_at`, which is the lifecycle controller's. A change of
//! a repository's content compares the revision of its `content` key, so that what a change was decided on is what
//! it changes: no image goes while an index that names it comes. Bytes are files (`blobs.rs`), manifests too.

use std::collections::BTreeMap;

use ferrogate_api::{ApiError, Context};
use ferrogate_store::{Op, Store, Txn, get_json, range_json};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{EcrService, errors};

/// Attempts of a change of content; each one lost means that somebody else got through.
const CHANGE_ATTEMPTS_MAX: usize = 64;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct RepositoryRecord {
    pub(crate) name: String,
    /// A repository made anew has another.
    pub(crate) id: String,
    pub(crate) created_at: Timestamp,
    /// `MUTABLE`, `IMMUTABLE`, `IMMUTABLE_WITH_EXCLUSION`, `MUTABLE_WITH_EXCLUSION`
    pub(crate) mutability: String,
    /// Wildcards of the tags for which the opposite holds.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) exclusions: Vec<String>,
    #[serde(default)]
    pub(crate) scan_on_push: bool,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) tags: BTreeMap<String, String>,
    /// The repository policy, as given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) policy: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) lifecycle: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) lifecycle_evaluated_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) preview: Option<PreviewRecord>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct PreviewRecord {
    pub(crate) text: String,
    /// The images are judged as of then.
    pub(crate) at: Timestamp,
}

impl RepositoryRecord {
    pub(crate) fn arn(&self, cx: &Context) -> String {
        repository_arn(cx, &self.name)
    }

    pub(crate) fn is_immutable(&self, tag: &str) -> bool {
        let excluded = self.exclusions.iter().any(|filter| ferrogate_model::wildcard_match(filter, tag));
        match self.mutability.as_str() {
            "IMMUTABLE" => true,
            "IMMUTABLE_WITH_EXCLUSION" => !excluded,
            "MUTABLE_WITH_EXCLUSION" => excluded,
            _ => false,
        }
    }
}

/// A blob as a manifest names it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct BlobRef {
    pub(crate) digest: String,
    pub(crate) size: u64,
    pub(crate) media_type: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ImageRecord {
    pub(crate) digest: String,
    pub(crate) media_type: String,
    /// Of the manifest itself.
    pub(crate) manifest_bytes: u64,
    /// Config and layers; of an index its largest image's.
    pub(crate) size_bytes: u64,
    pub(crate) pushed_at: Timestamp,
    /// Config first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) blobs: Vec<BlobRef>,
    /// Manifests that an index names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) children: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) subject: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) artifact_type: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) pulled_at: Option<Timestamp>,
    /// It came through a cache rule: its blobs follow when they are asked for.
    #[serde(default)]
    pub(crate) cached: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct TagRecord {
    pub(crate) digest: String,
    /// When a cached tag was last held against its upstream.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) checked_at: Option<Timestamp>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct LayerRecord {
    pub(crate) size: u64,
    pub(crate) pushed_at: Timestamp,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct UploadRecord {
    pub(crate) started_at: Timestamp,
    /// Who began it; nobody else is told how far it is.
    pub(crate) principal: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct CacheRuleRecord {
    /// Without a slash at its end; `ROOT`: everything else.
    pub(crate) prefix: String,
    /// As given.
    pub(crate) prefix_given: String,
    /// A host: `public.ecr.aws`.
    pub(crate) upstream_url: String,
    pub(crate) upstream: String,
    /// Put before what follows the prefix; `None`: as on the upstream.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) upstream_prefix: Option<String>,
    pub(crate) created_at: Timestamp,
    pub(crate) updated_at: Timestamp,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct RegistryRecord {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) policy: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) settings: BTreeMap<String, String>,
    /// Wildcards of repositories that are to be scanned on push.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) scan_on_push: Vec<String>,
    /// There was a rule at all, or a rule of manual scans.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) scan_manual: Vec<String>,
}

pub(crate) fn repository_arn(cx: &Context, name: &str) -> String {
    format!("arn:aws:ecr:{}:{}:repository/{name}", cx.region, cx.account)
}

/// Where the records of one region are.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place(String);

impl Place {
    pub(crate) fn new(account: &str, region: &str) -> Self {
        Self(format!("/ecr/{account}/{region}/"))
    }

    pub(crate) fn of(cx: &Context) -> Self {
        Self::new(&cx.account, &cx.region)
    }

    pub(crate) fn repository(&self, name: &str) -> String {
        format!("{}repository/{name}", self.0)
    }

    pub(crate) fn content(&self, repository_id: &str) -> String {
        format!("{}content/{repository_id}", self.0)
    }

    /// All of one kind that a repository has.
    pub(crate) fn all(&self, kind: Kind, repository_id: &str) -> String {
        format!("{}{}/{repository_id}/", self.0, kind.name())
    }

    pub(crate) fn one(&self, kind: Kind, repository_id: &str, name: &str) -> String {
        format!("{}{}/{repository_id}/{name}", self.0, kind.name())
    }

    pub(crate) fn cache_rule(&self, prefix: &str) -> String {
        format!("{}cache-rule/{prefix}", self.0)
    }

    pub(crate) fn registry(&self) -> String {
        format!("{}registry", self.0)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Image,
    Tag,
    Layer,
    Upload,
}

impl Kind {
    pub(crate) const ALL: [Self; 4] = [Self::Image, Self::Tag, Self::Layer, Self::Upload];

    fn name(self) -> &'static str {
        match self {
            Self::Image => "image",
            Self::Tag => "tag",
            Self::Layer => "layer",
            Self::Upload => "upload",
        }
    }
}

/// A repository, and reads of what is in it.
#[derive(Clone)]
pub(crate) struct Repository<'a> {
    pub(crate) store: &'a dyn Store,
    pub(crate) place: Place,
    pub(crate) record: RepositoryRecord,
}

impl<'a> Repository<'a> {
    pub(crate) fn find(store: &'a dyn Store, place: &Place, name: &str) -> Option<Self> {
        let record = get_json::<RepositoryRecord>(store, &place.repository(name))?.record;
        Some(Self { store, place: place.clone(), record })
    }

    pub(crate) fn key(&self, kind: Kind, name: &str) -> String {
        self.place.one(kind, &self.record.id, name)
    }

    pub(crate) fn image(&self, digest: &str) -> Option<ImageRecord> {
        get_json(self.store, &self.key(Kind::Image, digest)).map(|found| found.record)
    }

    pub(crate) fn tag(&self, tag: &str) -> Option<TagRecord> {
        get_json(self.store, &self.key(Kind::Tag, tag)).map(|found| found.record)
    }

    pub(crate) fn layer(&self, digest: &str) -> Option<LayerRecord> {
        get_json(self.store, &self.key(Kind::Layer, digest)).map(|found| found.record)
    }

    pub(crate) fn upload(&self, id: &str) -> Option<UploadRecord> {
        get_json(self.store, &self.key(Kind::Upload, id)).map(|found| found.record)
    }

    /// By digest.
    pub(crate) fn images(&self) -> Vec<ImageRecord> {
        let found = range_json(self.store, &self.place.all(Kind::Image, &self.record.id));
        found.into_iter().map(|found| found.record).collect()
    }

    /// Digest to tags, sorted.
    pub(crate) fn tags_by_digest(&self) -> BTreeMap<String, Vec<String>> {
        let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (tag, record) in self.tags() {
            found.entry(record.digest).or_default().push(tag);
        }
        found
    }

    pub(crate) fn tags(&self) -> Vec<(String, TagRecord)> {
        let prefix = self.place.all(Kind::Tag, &self.record.id);
        let found = range_json::<TagRecord>(self.store, &prefix);
        found.into_iter().map(|found| (found.key[prefix.len()..].to_owned(), found.record)).collect()
    }

    /// The cached image that names a blob, if the blob may be fetched.
    pub(crate) fn cached_blob(&self, digest: &str) -> Option<BlobRef> {
        let images = self.images().into_iter().filter(|image| image.cached);
        images.flat_map(|image| image.blobs).find(|blob| blob.digest == digest)
    }
}

/// The repository a call means.
pub(crate) fn repository<'a>(
    service: &'a EcrService,
    cx: &Context,
    registry: Option<&str>,
    name: Option<&str>,
) -> Result<Repository<'a>, ApiError> {
    let (registry, name) = (registry.unwrap_or(&cx.account), name.unwrap_or_default());
    let found =
        (registry == cx.account).then(|| Repository::find(&*service.store, &Place::of(cx), name)).flatten();
    found.ok_or_else(|| errors::no_repository(registry, name))
}

/// This registry and no other is served; one that a call names must be it.
pub(crate) fn own_registry(cx: &Context, registry: Option<&str>) -> Result<(), ApiError> {
    match registry {
        Some(other) if other != cx.account => Err(errors::invalid(format!(
            "Invalid parameter at 'registryId' failed to satisfy constraint: 'the registry with id '{other}' is not \
             served here; this one is '{}''",
            cx.account
        ))),
        _ => Ok(()),
    }
}

/// What a change of a repository's content comes to.
pub(crate) struct Change<T> {
    pub(crate) ops: Vec<Op>,
    pub(crate) result: T,
}

impl<T> Change<T> {
    pub(crate) fn none(result: T) -> Self {
        Self { ops: Vec::new(), result }
    }

    pub(crate) fn put(mut self, key: String, record: &impl Serialize) -> Self {
        let value = serde_json::to_vec(record).expect("records have a JSON form").into();
        self.ops.push(Op::Put { key, value, lease: None });
        self
    }

    pub(crate) fn delete(mut self, key: String) -> Self {
        self.ops.push(Op::Delete(key));
        self
    }
}

/// Decides on a change of a repository's content, and commits it if nothing else changed meanwhile; else again.
pub(crate) async fn change_content<T>(
    store: &dyn Store,
    place: &Place,
    name: &str,
    missing: impl Fn() -> ApiError,
    mut decide: impl FnMut(&Repository<'_>) -> Result<Change<T>, ApiError>,
) -> Result<T, ApiError> {
    for _ in 0..CHANGE_ATTEMPTS_MAX {
        let repository = Repository::find(store, place, name).ok_or_else(&missing)?;
        let content = place.content(&repository.record.id);
        // First the revision, then what it is the revision of: what is newer makes the compare fail.
        let Some(before) = store.get(&content) else { return Err(missing()) };
        let change = decide(&repository)?;
        if change.ops.is_empty() {
            return Ok(change.result);
        }
        let mut txn = Txn::new().when_revision(&content, before.mod_revision).put(&content, *b"");
        txn.then.extend(change.ops);
        if store.txn(txn).await.map_err(errors::store)?.succeeded {
            return Ok(change.result);
        }
    }
    Err(errors::contended())
}

/// Every region's place, and its repositories.
pub(crate) fn everywhere(store: &dyn Store, account: &str) -> Vec<(Place, String, Vec<RepositoryRecord>)> {
    let prefix = format!("/ecr/{account}/");
    let (mut found, mut last) = (Vec::new(), None::<String>);
    while let Some(next) = store.range_from(&prefix, last.as_deref(), 1).first() {
        let region = next.key[prefix.len()..].split('/').next().unwrap_or_default().to_owned();
        let place = Place::new(account, &region);
        let records = range_json::<RepositoryRecord>(store, &place.repository(""));
        found.push((place, region.clone(), records.into_iter().map(|found| found.record).collect()));
        // Beyond every key of the region: '0' follows '/'.
        last = Some(format!("{prefix}{region}0"));
    }
    found
}
