//! Lifecycle policies and what they would do.

use std::collections::BTreeMap;

use ferrogate_api::ecr::*;
use ferrogate_api::{ApiError, Context};
use ferrogate_model::paginate;

use super::page_size;
use super::repositories::change;
use crate::plan::lifecycle::{Expiry, Image, Policy, expiries};
use crate::state::{self, PreviewRecord, repository};
use crate::{EcrService, errors};

fn parse(text: &str) -> Result<Policy, ApiError> {
    Policy::parse(text).map_err(|error| errors::constraint("LifecyclePolicyText", &error.to_string()))
}

/// A repository's images as a policy sees them.
pub(crate) fn images(repository: &state::Repository<'_>) -> Vec<Image> {
    let mut tags = repository.tags_by_digest();
    let images = repository.images().into_iter().map(|image| Image {
        tags: tags.remove(&image.digest).unwrap_or_default(),
        digest: image.digest,
        pushed_at: image.pushed_at,
        children: image.children,
    });
    images.collect()
}

pub(crate) async fn get(
    service: &EcrService,
    cx: &Context,
    input: GetLifecyclePolicyRequest,
) -> Result<GetLifecyclePolicyResponse, ApiError> {
    let name = input.repository_name.as_deref();
    let record = repository(service, cx, input.registry_id.as_deref(), name)?.record;
    let text = record.lifecycle.ok_or_else(|| errors::no_lifecycle_policy(cx, &record.name))?;
    Ok(GetLifecyclePolicyResponse {
        registry_id: Some(cx.account.clone()),
        repository_name: Some(record.name),
        lifecycle_policy_text: Some(text),
        last_evaluated_at: record.lifecycle_evaluated_at,
    })
}

pub(crate) async fn put(
    service: &EcrService,
    cx: &Context,
    input: PutLifecyclePolicyRequest,
) -> Result<PutLifecyclePolicyResponse, ApiError> {
    let name = input.repository_name.unwrap_or_default();
    repository(service, cx, input.registry_id.as_deref(), Some(&name))?;
    let text = input.lifecycle_policy_text.unwrap_or_default();
    parse(&text)?;
    change(service, cx, None, &name, |record| {
        record.lifecycle = Some(text.clone());
        record.lifecycle_evaluated_at = None;
        Ok(())
    })
    .await?;
    Ok(PutLifecyclePolicyResponse {
        registry_id: Some(cx.account.clone()),
        repository_name: Some(name),
        lifecycle_policy_text: Some(text),
    })
}

pub(crate) async fn delete(
    service: &EcrService,
    cx: &Context,
    input: DeleteLifecyclePolicyRequest,
) -> Result<DeleteLifecyclePolicyResponse, ApiError> {
    let name = input.repository_name.unwrap_or_default();
    let (mut text, mut evaluated) = (None, None);
    change(service, cx, input.registry_id.as_deref(), &name, |record| {
        (text, evaluated) = (record.lifecycle.take(), record.lifecycle_evaluated_at.take());
        if text.is_some() { Ok(()) } else { Err(errors::no_lifecycle_policy(cx, &name)) }
    })
    .await?;
    Ok(DeleteLifecyclePolicyResponse {
        registry_id: Some(cx.account.clone()),
        repository_name: Some(name),
        lifecycle_policy_text: text,
        last_evaluated_at: evaluated,
    })
}

pub(crate) async fn start_preview(
    service: &EcrService,
    cx: &Context,
    input: StartLifecyclePolicyPreviewRequest,
) -> Result<StartLifecyclePolicyPreviewResponse, ApiError> {
    let name = input.repository_name.unwrap_or_default();
    let found = repository(service, cx, input.registry_id.as_deref(), Some(&name))?.record;
    let text = input.lifecycle_policy_text.or(found.lifecycle);
    let text = text.ok_or_else(|| errors::no_lifecycle_policy(cx, &name))?;
    parse(&text)?;
    change(service, cx, None, &name, |record| {
        record.preview = Some(PreviewRecord { text: text.clone(), at: cx.now });
        Ok(())
    })
    .await?;
    Ok(StartLifecyclePolicyPreviewResponse {
        registry_id: Some(cx.account.clone()),
        repository_name: Some(name),
        lifecycle_policy_text: Some(text),
        status: Some("IN_PROGRESS".into()),
    })
}

/// The preview is computed when it is asked for, as of when it was started: always complete.
pub(crate) async fn get_preview(
    service: &EcrService,
    cx: &Context,
    input: GetLifecyclePolicyPreviewRequest,
) -> Result<GetLifecyclePolicyPreviewResponse, ApiError> {
    let name = input.repository_name.as_deref();
    let repository = repository(service, cx, input.registry_id.as_deref(), name)?;
    let record = &repository.record;
    let preview = record.preview.as_ref().ok_or_else(|| errors::no_preview(cx, &record.name))?;
    let mut images = images(&repository);
    images.retain(|image| image.pushed_at <= preview.at);
    let expiries = expiries(&parse(&preview.text)?, &images, preview.at);
    let total = i32::try_from(expiries.len()).ok();

    let by_digest: BTreeMap<&str, &Image> =
        images.iter().map(|image| (image.digest.as_str(), image)).collect();
    let status = input.filter.and_then(|filter| filter.tag_status);
    let ids = input.image_ids.unwrap_or_default();
    let wanted = |image: &Image| {
        let status = match status.as_deref() {
            Some("TAGGED") => !image.tags.is_empty(),
            Some("UNTAGGED") => image.tags.is_empty(),
            _ => true,
        };
        let named = ids.is_empty()
            || ids.iter().any(|id| {
                id.image_digest.as_ref().is_none_or(|digest| *digest == image.digest)
                    && id.image_tag.as_ref().is_none_or(|tag| image.tags.contains(tag))
            });
        status && named
    };
    let found: Vec<(&Image, Expiry)> = expiries
        .into_iter()
        .filter_map(|expiry| Some((*by_digest.get(expiry.digest.as_str())?, expiry)))
        .filter(|(image, _)| wanted(image))
        .collect();
    let page = paginate(
        found,
        |(image, _)| &image.digest,
        input.next_token.as_deref(),
        page_size(input.max_results),
    )
    .map_err(|_| errors::bad_token())?;
    let results = page.items.into_iter().map(|(image, expiry)| LifecyclePolicyPreviewResult {
        image_tags: Some(image.tags.clone()),
        image_digest: Some(image.digest.clone()),
        image_pushed_at: Some(image.pushed_at),
        action: Some(LifecyclePolicyRuleAction { r#type: Some("EXPIRE".into()), target_storage_class: None }),
        applied_rule_priority: Some(expiry.priority),
        storage_class: None,
    });
    Ok(GetLifecyclePolicyPreviewResponse {
        registry_id: Some(cx.account.clone()),
        repository_name: Some(record.name.clone()),
        lifecycle_policy_text: Some(preview.text.clone()),
        status: Some("COMPLETE".into()),
        next_token: page.next_token,
        preview_results: Some(results.collect()),
        summary: Some(LifecyclePolicyPreviewSummary {
            expiring_image_total_count: total,
            transitioning_image_total_counts: None,
        }),
    })
}
