//! Tags of secrets.

use std::collections::BTreeMap;

use ferrogate_api::secretsmanager::*;
use ferrogate_api::{ApiError, Context};

use crate::SecretsService;
use crate::errors;
use crate::state::{self, Change};

/// "Maximum number of tags per secret" of TagResource.
const TAGS_MAX: usize = 50;

pub(crate) fn shapes(tags: BTreeMap<String, String>) -> Vec<Tag> {
    tags.into_iter().map(|(key, value)| Tag { key: Some(key), value: Some(value) }).collect()
}

/// The tags there are with those of a request.
pub(crate) fn of_request(
    tags: Option<Vec<Tag>>,
    mut there: BTreeMap<String, String>,
) -> Result<BTreeMap<String, String>, ApiError> {
    for tag in tags.unwrap_or_default() {
        let key = tag.key.unwrap_or_default();
        if key.to_ascii_lowercase().starts_with("aws:") {
            return Err(errors::invalid_parameter(format!(
                "The tag key '{key}' starts with aws:, which is reserved for AWS; choose another."
            )));
        }
        there.insert(key, tag.value.unwrap_or_default());
    }
    if there.len() > TAGS_MAX {
        return Err(errors::invalid_parameter(format!(
            "The secret would have {} tags; no more than {TAGS_MAX} are allowed.",
            there.len()
        )));
    }
    Ok(there)
}

pub(crate) async fn tag(
    service: &SecretsService,
    cx: &Context,
    input: TagResourceRequest,
) -> Result<TagResourceNoOutput, ApiError> {
    state::change(service, cx, input.secret_id.as_deref(), |mut record| {
        record.tags = of_request(input.tags.clone(), record.tags)?;
        record.changed_at = cx.now;
        Ok(Some(Change::from(record)))
    })
    .await?;
    Ok(TagResourceNoOutput {})
}

pub(crate) async fn untag(
    service: &SecretsService,
    cx: &Context,
    input: UntagResourceRequest,
) -> Result<UntagResourceNoOutput, ApiError> {
    let keys = input.tag_keys.unwrap_or_default();
    state::change(service, cx, input.secret_id.as_deref(), |mut record| {
        record.tags.retain(|key, _| !keys.contains(key));
        record.changed_at = cx.now;
        Ok(Some(Change::from(record)))
    })
    .await?;
    Ok(UntagResourceNoOutput {})
}
