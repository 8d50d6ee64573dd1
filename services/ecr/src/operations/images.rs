//! Images: put, got, deleted.

use ferrogate_api::ecr::*;
use ferrogate_api::{ApiError, Context};
use ferrogate_store::update_json;
use jiff::{SignedDuration, Timestamp};

use super::cache_rules;
use crate::blobs::Digest;
use crate::manifest::{self, Manifest};
use crate::state::{self, Change, ImageRecord, Kind, Place, Repository, TagRecord, repository};
use crate::{EcrService, errors, upstream};

/// Of one repository (Service Quotas).
const IMAGES_MAX: usize = 20_000;
/// "Images per repository" counts tags apart; one image may have this many.
const TAGS_PER_IMAGE_MAX: usize = 1000;
const TAG_BYTES_MAX: usize = 128;
/// The time of the last pull is written no more often than this.
const PULL_TIME_EXACT: SignedDuration = SignedDuration::from_hours(1);

pub(crate) fn is_tag(tag: &str) -> bool {
    let mut bytes = tag.bytes();
    let first = bytes.next().is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    first
        && tag.len() <= TAG_BYTES_MAX
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

/// The image an identifier means, as ImageNotFoundException if there is none.
pub(crate) fn find(
    cx: &Context,
    repository: &Repository<'_>,
    id: &ImageIdentifier,
) -> Result<ImageRecord, ApiError> {
    let (digest, tag) = (id.image_digest.as_deref(), id.image_tag.as_deref());
    if digest.is_none() && tag.is_none() {
        return Err(errors::invalid("Invalid request parameters: both tag and digest cannot be null"));
    }
    lookup(repository, digest, tag).ok_or_else(|| errors::no_image(cx, &repository.record.name, digest, tag))
}

/// With both given, they have to mean the same image.
fn lookup(repository: &Repository<'_>, digest: Option<&str>, tag: Option<&str>) -> Option<ImageRecord> {
    match tag {
        Some(tag) => {
            let found = repository.tag(tag)?.digest;
            if digest.is_some_and(|digest| digest != found) { None } else { repository.image(&found) }
        }
        None => repository.image(digest?),
    }
}

fn shape(cx: &Context, repository: &str, id: ImageIdentifier, manifest: String, media_type: String) -> Image {
    Image {
        registry_id: Some(cx.account.clone()),
        repository_name: Some(repository.to_owned()),
        image_id: Some(id),
        image_manifest: Some(manifest),
        image_manifest_media_type: Some(media_type),
    }
}

pub(crate) async fn put(
    service: &EcrService,
    cx: &Context,
    input: PutImageRequest,
) -> Result<PutImageResponse, ApiError> {
    let name = input.repository_name.unwrap_or_default();
    let name = repository(service, cx, input.registry_id.as_deref(), Some(&name))?.record.name;
    let text = input.image_manifest.unwrap_or_default();
    let tag = input.image_tag.as_deref();
    if let Some(bad) = tag.filter(|tag| !is_tag(tag)) {
        return Err(errors::constraint(
            "imageTag",
            &format!("'{bad}' must satisfy regular expression '[a-zA-Z0-9_][a-zA-Z0-9._-]{{0,127}}'"),
        ));
    }
    let parsed = manifest::parse(text.as_bytes(), input.image_manifest_media_type.as_deref())
        .map_err(|error| errors::constraint("ImageManifest", &error.to_string()))?;
    let media_type = parsed.media_type.clone();
    let digest = Digest::of(text.as_bytes());
    if let Some(given) = input.image_digest.filter(|given| given != digest.as_str()) {
        return Err(errors::digest_differs(&given, digest.as_str()));
    }
    let held = service.blobs.hold().await;
    service.blobs.keep(text.clone().into_bytes()).await.map_err(errors::blobs)?;
    let put = Put {
        digest: digest.as_str(),
        tag,
        manifest: &parsed,
        manifest_bytes: text.len() as u64,
        now: cx.now,
    };
    state::change_content(
        &*service.store,
        &Place::of(cx),
        &name,
        || errors::no_repository(&cx.account, &name),
        |repository| put.decide(cx, repository),
    )
    .await?;
    drop(held);
    let id = ImageIdentifier { image_digest: Some(digest.to_string()), image_tag: input.image_tag };
    Ok(PutImageResponse { image: Some(shape(cx, &name, id, text, media_type)) })
}

struct Put<'a> {
    digest: &'a str,
    tag: Option<&'a str>,
    manifest: &'a Manifest,
    manifest_bytes: u64,
    now: Timestamp,
}

impl Put<'_> {
    fn decide(&self, cx: &Context, repository: &Repository<'_>) -> Result<Change<()>, ApiError> {
        let (name, digest) = (&repository.record.name, self.digest);
        let there = repository.image(digest);
        let tagged = self.tag.and_then(|tag| repository.tag(tag));
        let same = tagged.as_ref().is_some_and(|tagged| tagged.digest == digest);
        if there.is_some() && (self.tag.is_none() || same) {
            return Err(errors::image_exists(cx, name, digest, self.tag));
        }
        if let (Some(tag), Some(_)) = (self.tag, &tagged)
            && repository.record.is_immutable(tag)
        {
            return Err(errors::tag_is_immutable(name, tag));
        }
        let mut change = Change::none(());
        if there.is_none() {
            let image = self.record(cx, repository)?;
            change = change.put(repository.key(Kind::Image, digest), &image);
        }
        if let Some(tag) = self.tag {
            let mine = repository.tags_by_digest().remove(digest).unwrap_or_default();
            if mine.len() >= TAGS_PER_IMAGE_MAX {
                return Err(errors::limit(format!(
                    "The image has {TAGS_PER_IMAGE_MAX} tags, the most there may be."
                )));
            }
            let record = TagRecord { digest: digest.to_owned(), checked_at: None };
            change = change.put(repository.key(Kind::Tag, tag), &record);
        }
        Ok(change)
    }

    /// Whatever the manifest names has to be there.
    fn record(&self, cx: &Context, repository: &Repository<'_>) -> Result<ImageRecord, ApiError> {
        let name = &repository.record.name;
        let prefix = repository.place.all(Kind::Image, &repository.record.id);
        if repository.store.range_from(&prefix, None, IMAGES_MAX).len() >= IMAGES_MAX {
            return Err(errors::limit(format!(
                "The maximum number of images, {IMAGES_MAX}, of the repository with name '{name}' is reached."
            )));
        }
        let missing: Vec<&str> = self
            .manifest
            .blobs
            .iter()
            .map(|blob| blob.digest.as_str())
            .filter(|digest| repository.layer(digest).is_none())
            .collect();
        if !missing.is_empty() {
            return Err(errors::no_layers(cx, name, &missing));
        }
        let children = self.manifest.children.iter();
        let found: Vec<_> = children.map(|digest| (digest.as_str(), repository.image(digest))).collect();
        let missing: Vec<&str> =
            found.iter().filter(|(_, image)| image.is_none()).map(|(digest, _)| *digest).collect();
        if !missing.is_empty() {
            return Err(errors::no_referenced_images(cx, name, &missing));
        }
        let largest = found.iter().filter_map(|(_, image)| Some(image.as_ref()?.size_bytes)).max();
        Ok(image_record(self.digest, self.manifest, self.manifest_bytes, largest, self.now))
    }
}

/// `children_bytes`: of an index, its largest image's size.
pub(crate) fn image_record(
    digest: &str,
    manifest: &Manifest,
    manifest_bytes: u64,
    children_bytes: Option<u64>,
    now: Timestamp,
) -> ImageRecord {
    let own = manifest.blobs.iter().fold(0u64, |sum, blob| sum.saturating_add(blob.size));
    ImageRecord {
        digest: digest.to_owned(),
        media_type: manifest.media_type.clone(),
        manifest_bytes,
        size_bytes: children_bytes.unwrap_or(own),
        pushed_at: now,
        blobs: manifest.blobs.clone(),
        children: manifest.children.clone(),
        subject: manifest.subject.clone(),
        artifact_type: manifest.artifact_type.clone(),
        pulled_at: None,
        cached: false,
    }
}

pub(crate) async fn batch_get(
    service: &EcrService,
    cx: &Context,
    input: BatchGetImageRequest,
) -> Result<BatchGetImageResponse, ApiError> {
    let name = input.repository_name.as_deref().unwrap_or_default();
    let place = Place::of(cx);
    let rule = cache_rules::rule_for(service, &place, name);
    if rule.is_none() {
        repository(service, cx, input.registry_id.as_deref(), Some(name))?;
    }
    let accepted = input.accepted_media_types.unwrap_or_default();
    let (mut images, mut failures) = (Vec::new(), Vec::new());
    for id in input.image_ids.unwrap_or_default() {
        if let Some(failure) = malformed(&id) {
            failures.push(failure);
            continue;
        }
        if let Some(rule) = &rule
            && let Err(error) = upstream::import(service, cx, rule, name, &id).await
        {
            if error.repository_missing {
                return Err(errors::no_repository(&cx.account, name));
            }
            failures.push(failure(id, error.code, &error.reason));
            continue;
        }
        let repository = repository(service, cx, input.registry_id.as_deref(), Some(name))?;
        let found = lookup(&repository, id.image_digest.as_deref(), id.image_tag.as_deref());
        let Some(image) = found.filter(|image| accepted.is_empty() || accepted.contains(&image.media_type))
        else {
            failures.push(failure(id, "ImageNotFound", "Requested image not found"));
            continue;
        };
        note_pull(service, &repository, &image, cx.now).await;
        let digest = Digest::parse(&image.digest).ok_or_else(ApiError::internal)?;
        let bytes = service.blobs.read(&digest).await.map_err(errors::blobs)?;
        let manifest = String::from_utf8(bytes).map_err(|_| ApiError::internal())?;
        let id = ImageIdentifier { image_digest: Some(image.digest), image_tag: id.image_tag };
        images.push(shape(cx, name, id, manifest, image.media_type));
    }
    Ok(BatchGetImageResponse { images: Some(images), failures: Some(failures) })
}

/// An aid, no more: a pull does not fail for it.
async fn note_pull(service: &EcrService, repository: &Repository<'_>, image: &ImageRecord, now: Timestamp) {
    if image.pulled_at.is_some_and(|at| now.duration_since(at) < PULL_TIME_EXACT) {
        return;
    }
    let key = repository.key(Kind::Image, &image.digest);
    let noted = update_json(&*service.store, &key, |record: Option<ImageRecord>| {
        Ok::<_, ApiError>(record.map(|record| ImageRecord { pulled_at: Some(now), ..record }))
    });
    if let Err(error) = noted.await {
        tracing::warn!(%error, "the time of a pull was not noted");
    }
}

fn failure(id: ImageIdentifier, code: &str, reason: &str) -> ImageFailure {
    ImageFailure { image_id: Some(id), failure_code: Some(code.into()), failure_reason: Some(reason.into()) }
}

fn malformed(id: &ImageIdentifier) -> Option<ImageFailure> {
    let (code, reason) = match (&id.image_digest, &id.image_tag) {
        (None, None) => {
            ("MissingDigestAndTag", "Invalid request parameters: both tag and digest cannot be null")
        }
        (Some(digest), _) if Digest::parse(digest).is_none() => (
            "InvalidImageDigest",
            "Invalid request parameters: image digest should satisfy the regex '[a-zA-Z0-9-_+.]+:[a-fA-F0-9]+'",
        ),
        (_, Some(tag)) if !is_tag(tag) => (
            "InvalidImageTag",
            "Invalid request parameters: image tag should satisfy the regex '[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}'",
        ),
        _ => return None,
    };
    Some(failure(id.clone(), code, reason))
}

pub(crate) async fn batch_delete(
    service: &EcrService,
    cx: &Context,
    input: BatchDeleteImageRequest,
) -> Result<BatchDeleteImageResponse, ApiError> {
    let name = input.repository_name.as_deref();
    let name = repository(service, cx, input.registry_id.as_deref(), name)?.record.name;
    let (mut deleted, mut failures) = (Vec::new(), Vec::new());
    for id in input.image_ids.unwrap_or_default() {
        if let Some(failure) = malformed(&id) {
            failures.push(failure);
            continue;
        }
        let place = Place::of(cx);
        let gone = state::change_content(
            &*service.store,
            &place,
            &name,
            || errors::no_repository(&cx.account, &name),
            |repository| Ok(delete(repository, &id)),
        );
        match gone.await? {
            Ok(ids) => deleted.extend(ids),
            Err(refused) => failures.push(*refused),
        }
    }
    Ok(BatchDeleteImageResponse { image_ids: Some(deleted), failures: Some(failures) })
}

type Deleted = Result<Vec<ImageIdentifier>, Box<ImageFailure>>;

/// By tag the tag goes, and with the last one the image; by digest the image and all of its tags
/// (BatchDeleteImage).
fn delete(repository: &Repository<'_>, id: &ImageIdentifier) -> Change<Deleted> {
    let refuse = |code: &str, reason: &str| Change::none(Err(Box::new(failure(id.clone(), code, reason))));
    let (digest, tag) = (id.image_digest.as_deref(), id.image_tag.as_deref());
    let Some(image) = lookup(repository, digest, tag) else {
        let mismatch = digest.is_some() && tag.is_some_and(|tag| repository.tag(tag).is_some());
        return if mismatch {
            refuse("ImageTagDoesNotMatchDigest", "Tag does not match digest")
        } else {
            refuse("ImageNotFound", "Requested image not found")
        };
    };
    let tags = repository.tags_by_digest().remove(&image.digest).unwrap_or_default();
    let gone = |tag: &String| ImageIdentifier {
        image_digest: Some(image.digest.clone()),
        image_tag: Some(tag.clone()),
    };
    if let Some(tag) = tag
        && tags.len() > 1
    {
        let tag = tag.to_owned();
        return Change::none(Ok(vec![gone(&tag)])).delete(repository.key(Kind::Tag, &tag));
    }
    let parents: Vec<String> = repository
        .images()
        .into_iter()
        .filter(|parent| parent.children.contains(&image.digest))
        .map(|parent| parent.digest)
        .collect();
    if !parents.is_empty() {
        // A tag may go; what the index names may not.
        if let Some(tag) = tag {
            let tag = tag.to_owned();
            return Change::none(Ok(vec![gone(&tag)])).delete(repository.key(Kind::Tag, &tag));
        }
        let reason = format!("Requested image referenced by manifest list: [{}]", parents.join(", "));
        return refuse("ImageReferencedByManifestList", &reason);
    }
    remove(repository, &image, &tags, Ok)
}

/// An image and all of its tags.
pub(crate) fn remove<T>(
    repository: &Repository<'_>,
    image: &ImageRecord,
    tags: &[String],
    result: impl FnOnce(Vec<ImageIdentifier>) -> T,
) -> Change<T> {
    let id = |tag: Option<&String>| ImageIdentifier {
        image_digest: Some(image.digest.clone()),
        image_tag: tag.cloned(),
    };
    let ids = if tags.is_empty() { vec![id(None)] } else { tags.iter().map(|tag| id(Some(tag))).collect() };
    let mut change = Change::none(result(ids)).delete(repository.key(Kind::Image, &image.digest));
    for tag in tags {
        change = change.delete(repository.key(Kind::Tag, tag));
    }
    change
}
