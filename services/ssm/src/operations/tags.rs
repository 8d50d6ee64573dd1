//! Tags of parameters.

use std::collections::BTreeMap;

use ferrogate_api::ssm::*;
use ferrogate_api::{ApiError, Context};
use ferrogate_store::update_json;

use crate::SsmService;
use crate::errors;
use crate::state::{ParameterRecord, find};

const TAGS_MAX: usize = 50;

/// The tags there are with those of a request.
pub(crate) fn merged(
    mut there: BTreeMap<String, String>,
    tags: Option<Vec<Tag>>,
) -> Result<BTreeMap<String, String>, ApiError> {
    for tag in tags.unwrap_or_default() {
        let key = tag.key.unwrap_or_default();
        if key.to_ascii_lowercase().starts_with("aws:") {
            return Err(errors::validation(format!(
                "The tag key '{key}' starts with aws:, which is reserved for AWS; choose another."
            )));
        }
        there.insert(key, tag.value.unwrap_or_default());
    }
    if there.len() > TAGS_MAX {
        return Err(ApiError::new("TooManyTagsError", ""));
    }
    Ok(there)
}

/// The parameter a call by type and id means.
fn resource(
    service: &SsmService,
    cx: &Context,
    kind: Option<&str>,
    id: Option<&str>,
) -> Result<ferrogate_store::Json<ParameterRecord>, ApiError> {
    if kind != Some("Parameter") {
        return Err(errors::validation(format!(
            "Ferrogate does not support the ResourceType {} yet; use Parameter.",
            kind.unwrap_or_default()
        )));
    }
    find(service, cx, id.unwrap_or_default()).ok_or_else(|| {
        ApiError::new(
            "InvalidResourceId",
            "The resource ID is not valid. Verify that you entered the correct ID and try again.",
        )
    })
}

async fn change(
    service: &SsmService,
    key: &str,
    mut change: impl FnMut(&mut ParameterRecord) -> Result<(), ApiError>,
) -> Result<(), ApiError> {
    let changed = update_json(&*service.store, key, |record: Option<ParameterRecord>| {
        let mut record = record.ok_or_else(errors::no_parameter)?;
        change(&mut record)?;
        Ok(Some(record))
    });
    changed.await.map(drop).map_err(errors::update)
}

pub(crate) async fn add(
    service: &SsmService,
    cx: &Context,
    input: AddTagsToResourceRequest,
) -> Result<AddTagsToResourceResult, ApiError> {
    let found = resource(service, cx, input.resource_type.as_deref(), input.resource_id.as_deref())?;
    change(service, &found.key, |record| {
        record.tags = merged(std::mem::take(&mut record.tags), input.tags.clone())?;
        Ok(())
    })
    .await?;
    Ok(AddTagsToResourceResult::default())
}

pub(crate) async fn remove(
    service: &SsmService,
    cx: &Context,
    input: RemoveTagsFromResourceRequest,
) -> Result<RemoveTagsFromResourceResult, ApiError> {
    let found = resource(service, cx, input.resource_type.as_deref(), input.resource_id.as_deref())?;
    let keys = input.tag_keys.unwrap_or_default();
    change(service, &found.key, |record| {
        record.tags.retain(|key, _| !keys.contains(key));
        Ok(())
    })
    .await?;
    Ok(RemoveTagsFromResourceResult::default())
}

pub(crate) async fn list(
    service: &SsmService,
    cx: &Context,
    input: ListTagsForResourceRequest,
) -> Result<ListTagsForResourceResult, ApiError> {
    let found = resource(service, cx, input.resource_type.as_deref(), input.resource_id.as_deref())?;
    let tags = found.record.tags.into_iter();
    let tags = tags.map(|(key, value)| Tag { key: Some(key), value: Some(value) });
    Ok(ListTagsForResourceResult { tag_list: Some(tags.collect()) })
}
