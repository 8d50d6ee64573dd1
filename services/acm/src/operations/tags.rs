//! Tags of certificates.

use std::collections::BTreeMap;

use ferrogate_api::acm::*;
use ferrogate_api::{ApiError, Context};
use ferrogate_store::update_json;

use super::key;
use crate::AcmService;
use crate::errors::{not_found, refused};
use crate::state::CertificateRecord;

/// ACM API reference, AddTagsToCertificate.
const TAGS_MAX: usize = 50;

pub(super) fn add_to(tags: &mut BTreeMap<String, String>, given: Option<Vec<Tag>>) -> Result<(), ApiError> {
    for tag in given.unwrap_or_default() {
        let key = tag.key.unwrap_or_default();
        if key.to_lowercase().starts_with("aws:") {
            return Err(ApiError::new(
                "InvalidTagException",
                "aws: prefixed tag key names are not allowed for external use.",
            ));
        }
        tags.insert(key, tag.value.unwrap_or_default());
    }
    if tags.len() > TAGS_MAX {
        return Err(ApiError::new(
            "TooManyTagsException",
            format!("A certificate can have at most {TAGS_MAX} tags."),
        ));
    }
    Ok(())
}

async fn change(
    service: &AcmService,
    cx: &Context,
    arn: &str,
    change: impl Fn(&mut CertificateRecord) -> Result<(), ApiError>,
) -> Result<(), ApiError> {
    let key = key(cx, arn)?;
    let changed = update_json(&*service.store, &key, |found: Option<CertificateRecord>| {
        let mut record = found.ok_or_else(|| not_found(arn))?;
        change(&mut record)?;
        Ok(Some(record))
    });
    changed.await.map(drop).map_err(refused)
}

pub(super) async fn add(
    service: &AcmService,
    cx: &Context,
    input: AddTagsToCertificateRequest,
) -> Result<AddTagsToCertificateNoOutput, ApiError> {
    let arn = input.certificate_arn.unwrap_or_default();
    change(service, cx, &arn, |record| add_to(&mut record.tags, input.tags.clone())).await?;
    Ok(AddTagsToCertificateNoOutput {})
}

/// A value that is given has to be the tag's.
pub(super) async fn remove(
    service: &AcmService,
    cx: &Context,
    input: RemoveTagsFromCertificateRequest,
) -> Result<RemoveTagsFromCertificateNoOutput, ApiError> {
    let arn = input.certificate_arn.unwrap_or_default();
    let gone = input.tags.unwrap_or_default();
    let named = |key: &str, value: &str| {
        gone.iter()
            .any(|tag| tag.key.as_deref() == Some(key) && tag.value.as_deref().is_none_or(|own| own == value))
    };
    change(service, cx, &arn, |record| {
        record.tags.retain(|key, value| !named(key, value));
        Ok(())
    })
    .await?;
    Ok(RemoveTagsFromCertificateNoOutput {})
}

pub(super) async fn list(
    service: &AcmService,
    cx: &Context,
    input: ListTagsForCertificateRequest,
) -> Result<ListTagsForCertificateResponse, ApiError> {
    let record = service.record(cx, &input.certificate_arn.unwrap_or_default())?;
    let tags = record.tags.into_iter().map(|(key, value)| Tag { key: Some(key), value: Some(value) });
    Ok(ListTagsForCertificateResponse { tags: Some(tags.collect()) })
}
