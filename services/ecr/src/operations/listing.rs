//! Images, listed and described.

use ferrogate_api::ecr::*;
use ferrogate_api::{ApiError, Context};
use ferrogate_model::paginate;

use super::{images, page_size, scanning};
use crate::state::{ImageRecord, repository};
use crate::{EcrService, errors};

/// `ANY`, `TAGGED` or `UNTAGGED`.
fn wants(status: Option<&str>, tagged: bool) -> bool {
    match status {
        Some("TAGGED") => tagged,
        Some("UNTAGGED") => !tagged,
        _ => true,
    }
}

/// Every image here is active: there is no archive.
fn wants_active(status: Option<&str>) -> bool {
    !matches!(status, Some("ARCHIVED" | "ACTIVATING"))
}

pub(crate) async fn list(
    service: &EcrService,
    cx: &Context,
    input: ListImagesRequest,
) -> Result<ListImagesResponse, ApiError> {
    let name = input.repository_name.as_deref();
    let repository = repository(service, cx, input.registry_id.as_deref(), name)?;
    let filter = input.filter.unwrap_or_default();
    let status = filter.tag_status.as_deref();
    let mut found: Vec<(String, ImageIdentifier)> = Vec::new();
    if wants_active(filter.image_status.as_deref()) {
        let tags = repository.tags_by_digest();
        if wants(status, false) {
            let untagged = repository.images().into_iter().filter(|image| !tags.contains_key(&image.digest));
            // Before all tags, none of which begins with a slash.
            found.extend(untagged.map(|image| {
                let id = ImageIdentifier { image_digest: Some(image.digest.clone()), image_tag: None };
                (format!("/{}", image.digest), id)
            }));
        }
        if wants(status, true) {
            found.extend(repository.tags().into_iter().map(|(tag, record)| {
                let id = ImageIdentifier { image_digest: Some(record.digest), image_tag: Some(tag.clone()) };
                (tag, id)
            }));
        }
    }
    let page = paginate(found, |(key, _)| key, input.next_token.as_deref(), page_size(input.max_results))
        .map_err(|_| errors::bad_token())?;
    let ids = page.items.into_iter().map(|(_, id)| id).collect();
    Ok(ListImagesResponse { image_ids: Some(ids), next_token: page.next_token })
}

pub(crate) async fn describe(
    service: &EcrService,
    cx: &Context,
    input: DescribeImagesRequest,
) -> Result<DescribeImagesResponse, ApiError> {
    let name = input.repository_name.as_deref();
    let repository = repository(service, cx, input.registry_id.as_deref(), name)?;
    let mut tags = repository.tags_by_digest();
    let scan = scanning::status(service, cx, &repository.record);
    if let Some(ids) = input.image_ids.filter(|ids| !ids.is_empty()) {
        if input.next_token.is_some() || input.max_results.is_some() {
            return Err(errors::invalid("imageIds cannot be used together with nextToken or maxResults."));
        }
        let mut found: Vec<ImageRecord> =
            ids.iter().map(|id| images::find(cx, &repository, id)).collect::<Result<_, _>>()?;
        // Two tags of one image are one image.
        let mut seen = std::collections::BTreeSet::new();
        found.retain(|image| seen.insert(image.digest.clone()));
        let details = found
            .into_iter()
            .map(|image| {
                let tags = tags.remove(&image.digest);
                detail(cx, &repository.record.name, image, tags, scan.clone())
            })
            .collect();
        return Ok(DescribeImagesResponse { image_details: Some(details), next_token: None });
    }
    let filter = input.filter.unwrap_or_default();
    let mut found = repository.images();
    found.retain(|image| {
        wants_active(filter.image_status.as_deref())
            && wants(filter.tag_status.as_deref(), tags.contains_key(&image.digest))
    });
    let page =
        paginate(found, |image| &image.digest, input.next_token.as_deref(), page_size(input.max_results))
            .map_err(|_| errors::bad_token())?;
    let details = page.items.into_iter().map(|image| {
        let tags = tags.remove(&image.digest);
        detail(cx, &repository.record.name, image, tags, scan.clone())
    });
    Ok(DescribeImagesResponse { image_details: Some(details.collect()), next_token: page.next_token })
}

fn detail(
    cx: &Context,
    repository: &str,
    image: ImageRecord,
    tags: Option<Vec<String>>,
    scan: Option<ImageScanStatus>,
) -> ImageDetail {
    ImageDetail {
        registry_id: Some(cx.account.clone()),
        repository_name: Some(repository.to_owned()),
        image_digest: Some(image.digest),
        image_tags: tags,
        image_size_in_bytes: i64::try_from(image.size_bytes).ok(),
        image_pushed_at: Some(image.pushed_at),
        image_scan_status: scan,
        image_manifest_media_type: Some(image.media_type),
        artifact_media_type: image.artifact_type,
        last_recorded_pull_time: image.pulled_at,
        subject_manifest_digest: image.subject,
        image_status: Some("ACTIVE".into()),
        ..ImageDetail::default()
    }
}
