//! Images from elsewhere: fetched when they are first asked for, and kept.
//!
//! A manifest comes with the first pull of it, and with it what it is; its blobs come one by one when they are asked
//! for, each once, however many ask. A tag is held against the upstream again after a day ("Amazon ECR checks the
//! upstream registry … at least once every 24 hours"); while the upstream cannot be reached, what is here is served.

mod client;

use std::sync::Arc;

use ferrogate_api::Context;
use ferrogate_api::ecr::ImageIdentifier;
use ferrogate_model::hex_id;
use jiff::{SignedDuration, Timestamp};

pub(crate) use client::{Remote, UpstreamError, Upstreams};
pub use client::{Upstream, UpstreamsError};

use crate::EcrService;
use crate::blobs::Digest;
use crate::manifest;
use crate::operations::layers::LAYER_BYTES_MAX;
use crate::operations::{cache_rules, images, repositories};
use crate::state::{
    self, BlobRef, CacheRuleRecord, Change, Kind, LayerRecord, Place, Repository, RepositoryRecord, TagRecord,
};

const TAG_FRESH: SignedDuration = SignedDuration::from_hours(24);

/// Whether a rule's upstream answers.
pub(crate) async fn check(service: &EcrService, rule: &CacheRuleRecord) -> Result<(), UpstreamError> {
    service.upstreams.ping(&service.upstreams.remote(&rule.upstream_url, "any/any")).await
}

/// Has an image come, if it is not here or its tag may have moved.
pub(crate) async fn import(
    service: &EcrService,
    cx: &Context,
    rule: &CacheRuleRecord,
    name: &str,
    id: &ImageIdentifier,
) -> Result<(), UpstreamError> {
    let here = Repository::find(&*service.store, &Place::of(cx), name);
    let (digest, tag) = (id.image_digest.as_deref(), id.image_tag.as_deref());
    let (present, fresh) = here.as_ref().map_or((false, false), |here| seen(here, digest, tag, cx.now));
    if fresh {
        return Ok(());
    }
    let lock = service.blobs.lock_of(&format!("import {} {name} {digest:?} {tag:?}", cx.region));
    let _alone = lock.lock().await;
    let remote = service.upstreams.remote(&rule.upstream_url, &cache_rules::name_upstream(rule, name));
    match bring(service, cx, name, &remote, digest, tag).await {
        Err(error) if present => {
            tracing::info!(
                name,
                reason = error.reason,
                "an upstream was not asked; what is cached is served"
            );
            Ok(())
        }
        Err(error) => Err(UpstreamError {
            repository_missing: here.is_none() && error.code == "ImageNotFound",
            ..error
        }),
        Ok(()) => Ok(()),
    }
}

/// Whether it is here, and whether that is the last word.
fn seen(here: &Repository<'_>, digest: Option<&str>, tag: Option<&str>, now: Timestamp) -> (bool, bool) {
    match (digest, tag) {
        // What is named by its digest never changes.
        (Some(digest), _) => {
            let present = here.image(digest).is_some();
            (present, present)
        }
        (None, Some(tag)) => match here.tag(tag) {
            // A tag that was pushed is its owner's.
            Some(TagRecord { checked_at: None, .. }) => (true, true),
            Some(TagRecord { checked_at: Some(at), .. }) => (true, now.duration_since(at) < TAG_FRESH),
            None => (false, false),
        },
        (None, None) => (false, true),
    }
}

async fn bring(
    service: &EcrService,
    cx: &Context,
    name: &str,
    remote: &Remote,
    digest: Option<&str>,
    tag: Option<&str>,
) -> Result<(), UpstreamError> {
    let version = digest.or(tag).unwrap_or_default();
    let found = service.upstreams.manifest(remote, version).await?;
    let actual = Digest::of(&found.bytes);
    if digest.is_some_and(|digest| digest != actual.as_str()) {
        return Err(UpstreamError::unavailable(
            "the upstream's manifest has another digest than was asked for",
        ));
    }
    let parsed = manifest::parse(&found.bytes, found.media_type.as_deref())
        .map_err(|error| UpstreamError::unavailable(format!("the upstream's manifest: {error}")))?;
    if std::str::from_utf8(&found.bytes).is_err() {
        return Err(UpstreamError::unavailable("the upstream's manifest is no text"));
    }
    let ours = |error: ferrogate_api::ApiError| UpstreamError::unavailable(error.message);
    make_repository(service, cx, name).await.map_err(ours)?;
    let length = found.bytes.len() as u64;
    let _held = service.blobs.hold().await;
    service.blobs.keep(found.bytes).await.map_err(|error| ours(crate::errors::blobs(error)))?;
    let place = Place::of(cx);
    let changed = state::change_content(
        &*service.store,
        &place,
        name,
        || crate::errors::no_repository(&cx.account, name),
        |repository| {
            let mut change = Change::none(());
            if repository.image(actual.as_str()).is_none() {
                let mut image = images::image_record(actual.as_str(), &parsed, length, None, cx.now);
                image.cached = true;
                change = change.put(repository.key(Kind::Image, actual.as_str()), &image);
            }
            if let Some(tag) = tag.filter(|_| digest.is_none()) {
                let record = TagRecord { digest: actual.to_string(), checked_at: Some(cx.now) };
                change = change.put(repository.key(Kind::Tag, tag), &record);
            }
            Ok(change)
        },
    );
    changed.await.map_err(ours)
}

/// "If a repository does not exist, Amazon ECR creates one", with the defaults.
async fn make_repository(
    service: &EcrService,
    cx: &Context,
    name: &str,
) -> Result<(), ferrogate_api::ApiError> {
    if Repository::find(&*service.store, &Place::of(cx), name).is_some() {
        return Ok(());
    }
    let record = RepositoryRecord {
        name: name.to_owned(),
        id: hex_id(),
        created_at: cx.now,
        mutability: "MUTABLE".into(),
        exclusions: Vec::new(),
        scan_on_push: false,
        tags: Default::default(),
        policy: None,
        lifecycle: None,
        lifecycle_evaluated_at: None,
        preview: None,
    };
    match repositories::make(service, cx, &record).await {
        // Somebody else was quicker.
        Err(error) if error.code == "RepositoryAlreadyExistsException" => Ok(()),
        made => made,
    }
}

/// Has a blob of a cached image come, if it is not here. May take long: never within a call of the API. Goes on when
/// nobody waits for it any more: who asks again finds it here.
pub(crate) async fn ensure_blob(
    service: &Arc<EcrService>,
    place: &Place,
    name: &str,
    digest: &Digest,
    now: Timestamp,
) -> Result<(), UpstreamError> {
    if here(service, place, name, digest).ok_or_else(|| missing(digest))?.0 {
        return Ok(());
    }
    let (service, place) = (Arc::clone(service), place.clone());
    let (name, digest) = (name.to_owned(), digest.clone());
    let fetch = async move { fetch_blob(&service, &place, &name, &digest, now).await };
    let lost = |_| Err(UpstreamError::unavailable("the layer's transfer was broken off"));
    tokio::spawn(fetch).await.unwrap_or_else(lost)
}

fn missing(digest: &Digest) -> UpstreamError {
    UpstreamError::new("ImageNotFound", format!("{digest} is not in the repository"))
}

/// Whether a blob is in a repository, and what a cached image there says of it.
fn here(service: &EcrService, place: &Place, name: &str, digest: &Digest) -> Option<(bool, Option<BlobRef>)> {
    let repository = Repository::find(&*service.store, place, name)?;
    Some((repository.layer(digest.as_str()).is_some(), repository.cached_blob(digest.as_str())))
}

async fn fetch_blob(
    service: &EcrService,
    place: &Place,
    name: &str,
    digest: &Digest,
    now: Timestamp,
) -> Result<(), UpstreamError> {
    let missing = || missing(digest);
    let lock = service.blobs.lock_of(&format!("blob {digest}"));
    let _alone = lock.lock().await;
    let (present, cached) = here(service, place, name, digest).ok_or_else(missing)?;
    if present {
        return Ok(());
    }
    let blob = cached.ok_or_else(missing)?;
    let rule = cache_rules::rule_for(service, place, name)
        .ok_or_else(|| UpstreamError::unavailable("the pull through cache rule of this layer is gone"))?;
    let broken = |error: crate::BlobsError| UpstreamError::unavailable(crate::errors::blobs(error).message);
    // Another repository may have it already: the same bytes, from wherever.
    let mut fetched = None;
    if service.blobs.size(digest).is_none() {
        let _slot = service.fetching.acquire().await.map_err(|_| missing())?;
        let remote = service.upstreams.remote(&rule.upstream_url, &cache_rules::name_upstream(&rule, name));
        let incoming = service.blobs.incoming().map_err(broken)?;
        let file = incoming.reopen().map_err(|error| UpstreamError::unavailable(error.to_string()))?;
        let mut file = tokio::fs::File::from_std(file);
        let max = blob.size.min(LAYER_BYTES_MAX);
        service.upstreams.blob(&remote, digest.as_str(), max, &mut file).await?;
        fetched = Some(incoming);
    }
    let other = || UpstreamError::unavailable(format!("the upstream's {digest} is not what its name says"));
    let verified = match fetched {
        Some(incoming) => {
            Some(service.blobs.verify(incoming, digest).await.map_err(broken)?.ok_or_else(other)?)
        }
        None => None,
    };
    let _held = service.blobs.hold().await;
    let size = match verified {
        Some((file, size)) => {
            service.blobs.adopt(file, digest).await.map_err(broken)?;
            size
        }
        // Swept away since: the next one to ask fetches it.
        None => service
            .blobs
            .size(digest)
            .ok_or_else(|| UpstreamError::unavailable("the layer is gone; try again"))?,
    };
    let layer = LayerRecord { size, pushed_at: now };
    let added = state::change_content(
        &*service.store,
        place,
        name,
        || ferrogate_api::ApiError::new("RepositoryNotFoundException", "the repository is gone"),
        |repository| Ok(Change::none(()).put(repository.key(Kind::Layer, digest.as_str()), &layer)),
    );
    added.await.map_err(|error| UpstreamError::unavailable(error.message))
}
