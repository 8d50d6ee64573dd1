//! Manifests, tags and referrers.

use ferrogate_api::ApiError;
use ferrogate_api::ecr::*;
use http::StatusCode;
use http::header::{self, HeaderName};
use http::request::Parts;
use hyper::body::Incoming;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::json;

use super::answer::{Answer, Refusal};
use super::blobs::{CONTENT_DIGEST, digest_of};
use super::uploads::next;
use super::{Visit, parameter};
use crate::blobs::Digest;
use crate::manifest::{self, MANIFEST_BYTES_MAX, OCI_INDEX};
use crate::operations::images::is_tag;
use crate::state::Repository;

const OCI_SUBJECT: HeaderName = HeaderName::from_static("oci-subject");
const FILTERS_APPLIED: HeaderName = HeaderName::from_static("oci-filters-applied");
/// Of one answer.
const REFERRERS_MAX: usize = 1000;
const TAGS_MAX: usize = 1000;
const PAGE: i32 = 1000;

/// A tag, or a digest: what a manifest goes by.
fn identifier(reference: &str) -> Result<ImageIdentifier, Refusal> {
    if reference.contains(':') {
        let digest = digest_of(reference)?;
        return Ok(ImageIdentifier { image_digest: Some(digest.to_string()), image_tag: None });
    }
    if !is_tag(reference) {
        return Err(Refusal::manifest_unknown(format!("'{reference}' is no tag")));
    }
    Ok(ImageIdentifier { image_digest: None, image_tag: Some(reference.to_owned()) })
}

impl Visit<'_> {
    pub(super) async fn manifest(&self, reference: &str, is_head: bool) -> Result<Answer, Refusal> {
        let input = BatchGetImageRequest {
            repository_name: Some(self.name.clone()),
            image_ids: Some(vec![identifier(reference)?]),
            ..Default::default()
        };
        let answer = self.client.batch_get_image(input).await?;
        if let Some(failure) = answer.failures.into_iter().flatten().next() {
            return Err(refused(reference, failure));
        }
        let image = answer.images.into_iter().flatten().next().ok_or_else(ApiError::internal)?;
        let manifest = image.image_manifest.unwrap_or_default();
        let digest = image.image_id.and_then(|id| id.image_digest).unwrap_or_default();
        let answer = Answer::new(StatusCode::OK)
            .with(header::CONTENT_TYPE, image.image_manifest_media_type.unwrap_or_default())
            .with(header::ETAG, format!("\"{digest}\""))
            .with(CONTENT_DIGEST, digest);
        Ok(if is_head {
            answer.with(header::CONTENT_LENGTH, manifest.len().to_string())
        } else {
            answer.bytes(manifest)
        })
    }

    pub(super) async fn put_manifest(
        &self,
        reference: &str,
        head: &Parts,
        mut body: Incoming,
    ) -> Result<Answer, Refusal> {
        let id = identifier(reference).map_err(|_| {
            Refusal::new(StatusCode::BAD_REQUEST, "TAG_INVALID", format!("'{reference}' is no tag"))
        })?;
        let mut bytes = Vec::new();
        while let Some(data) = next(&mut body).await? {
            if bytes.len() + data.len() > MANIFEST_BYTES_MAX {
                let message = format!("A manifest has up to {MANIFEST_BYTES_MAX} bytes");
                return Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "SIZE_INVALID", message));
            }
            bytes.extend_from_slice(&data);
        }
        let invalid = |why: String| Refusal::new(StatusCode::BAD_REQUEST, "MANIFEST_INVALID", why);
        let manifest = String::from_utf8(bytes).map_err(|_| invalid("A manifest is text".into()))?;
        let digest = Digest::of(manifest.as_bytes());
        let media_type = head.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let subject = manifest::parse(manifest.as_bytes(), media_type)
            .map_err(|error| invalid(error.to_string()))?
            .subject;
        let input = PutImageRequest {
            repository_name: Some(self.name.clone()),
            image_manifest: Some(manifest),
            image_manifest_media_type: media_type
                .map(|text| text.split(';').next().unwrap_or_default().trim().to_owned()),
            image_tag: id.image_tag,
            image_digest: id.image_digest,
            ..Default::default()
        };
        match self.client.put_image(input).await {
            Err(error) if error.code == "LayersNotFoundException" => {
                return Err(Refusal::new(StatusCode::NOT_FOUND, "MANIFEST_BLOB_UNKNOWN", error.message));
            }
            // Who pushes what is there gets what they wanted.
            Err(error) if error.code != "ImageAlreadyExistsException" => return Err(error.into()),
            _ => {}
        }
        let answer = Answer::new(StatusCode::CREATED)
            .with(header::LOCATION, self.path(&format!("manifests/{reference}")))
            .with(CONTENT_DIGEST, digest.as_str());
        Ok(match subject {
            Some(subject) => answer.with(OCI_SUBJECT, subject),
            None => answer,
        })
    }

    pub(super) async fn delete_manifest(&self, reference: &str) -> Result<Answer, Refusal> {
        let input = BatchDeleteImageRequest {
            repository_name: Some(self.name.clone()),
            image_ids: Some(vec![identifier(reference)?]),
            ..Default::default()
        };
        let answer = self.client.batch_delete_image(input).await?;
        match answer.failures.into_iter().flatten().next() {
            Some(failure) => Err(refused(reference, failure)),
            None => Ok(Answer::new(StatusCode::ACCEPTED)),
        }
    }

    pub(super) async fn tags(&self, head: &Parts) -> Result<Answer, Refusal> {
        let limit = match parameter(head, "n") {
            Some(text) => text.parse::<usize>().map_err(|_| {
                let message = format!("n is a number, not '{text}'");
                Refusal::new(StatusCode::BAD_REQUEST, "PAGINATION_NUMBER_INVALID", message)
            })?,
            None => TAGS_MAX,
        };
        let last = parameter(head, "last");
        let mut tags = Vec::new();
        let mut next_token = None;
        loop {
            let input = ListImagesRequest {
                repository_name: Some(self.name.clone()),
                filter: Some(ListImagesFilter { tag_status: Some("TAGGED".into()), image_status: None }),
                max_results: Some(PAGE),
                next_token,
                ..Default::default()
            };
            let page = self.client.list_images(input).await?;
            tags.extend(page.image_ids.into_iter().flatten().filter_map(|id| id.image_tag));
            next_token = page.next_token;
            if next_token.is_none() {
                break;
            }
        }
        tags.sort();
        tags.retain(|tag| last.as_ref().is_none_or(|last| tag > last));
        let limit = limit.min(TAGS_MAX);
        let more = tags.len() > limit;
        tags.truncate(limit);
        let mut answer = Answer::new(StatusCode::OK).with(header::CONTENT_TYPE, "application/json");
        if let (true, Some(last)) = (more, tags.last()) {
            let last = utf8_percent_encode(last, NON_ALPHANUMERIC);
            let link = format!("<{}?n={limit}&last={last}>; rel=\"next\"", self.path("tags/list"));
            answer = answer.with(header::LINK, link);
        }
        Ok(answer.bytes(json!({ "name": self.name, "tags": tags }).to_string()))
    }

    /// An index of what names the manifest as its subject; empty for one that is not here.
    pub(super) async fn referrers(&self, digest: &str, head: &Parts) -> Result<Answer, Refusal> {
        let digest = digest_of(digest)?;
        let input = DescribeImagesRequest {
            repository_name: Some(self.name.clone()),
            image_ids: Some(vec![ImageIdentifier {
                image_digest: Some(digest.to_string()),
                image_tag: None,
            }]),
            ..Default::default()
        };
        match self.client.describe_images(input).await {
            Err(error) if error.code != "ImageNotFoundException" => return Err(error.into()),
            _ => {}
        }
        let wanted = parameter(head, "artifactType");
        let found = Repository::find(&*self.service().store, &self.place, &self.name);
        let mut images = found.map(|repository| repository.images()).unwrap_or_default();
        images.retain(|image| image.subject.as_deref() == Some(digest.as_str()));
        images.retain(|image| wanted.is_none() || image.artifact_type == wanted);
        images.truncate(REFERRERS_MAX);
        let mut manifests = Vec::with_capacity(images.len());
        for image in images {
            let mut descriptor = json!({
                "mediaType": image.media_type, "digest": image.digest, "size": image.manifest_bytes,
            });
            if let Some(artifact_type) = &image.artifact_type {
                descriptor["artifactType"] = json!(artifact_type);
            }
            let own = Digest::parse(&image.digest).ok_or_else(ApiError::internal)?;
            let bytes = self.service().blobs.read(&own).await?;
            if let Ok(parsed) = manifest::parse(&bytes, Some(&image.media_type))
                && !parsed.annotations.is_empty()
            {
                descriptor["annotations"] = json!(parsed.annotations);
            }
            manifests.push(descriptor);
        }
        let index = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests });
        let mut answer = Answer::new(StatusCode::OK).with(header::CONTENT_TYPE, OCI_INDEX);
        if wanted.is_some() {
            answer = answer.with(FILTERS_APPLIED, "artifactType");
        }
        Ok(answer.bytes(index.to_string()))
    }
}

/// An image's failure as the registry tells it.
fn refused(reference: &str, failure: ImageFailure) -> Refusal {
    let reason = failure.failure_reason.unwrap_or_default();
    match failure.failure_code.as_deref() {
        Some("ImageNotFound") => Refusal::manifest_unknown(format!("{reason}: {reference}")),
        Some("UpstreamAccessDenied") => Refusal::denied(reason),
        Some("UpstreamTooManyRequests") => {
            Refusal::new(StatusCode::TOO_MANY_REQUESTS, "TOOMANYREQUESTS", reason)
        }
        Some("UpstreamUnavailable") => Refusal::new(StatusCode::BAD_GATEWAY, "UNKNOWN", reason),
        Some("ImageReferencedByManifestList") => Refusal::denied(reason),
        _ => Refusal::new(StatusCode::BAD_REQUEST, "MANIFEST_INVALID", reason),
    }
}
