//! Tags of repositories.

use std::collections::BTreeMap;

use ferrogate_api::ecr::*;
use ferrogate_api::{ApiError, Context};
use ferrogate_model::Arn;

use super::repositories::change;
use crate::state::{self, Repository};
use crate::{EcrService, errors};

const TAGS_MAX: usize = 50;
const KEY_CHARS_MAX: usize = 128;
const VALUE_CHARS_MAX: usize = 256;

/// The name in a repository's ARN.
fn name_in(cx: &Context, arn: Option<&str>) -> Result<String, ApiError> {
    let text = arn.unwrap_or_default();
    let bad = || errors::constraint("resourceArn", "Invalid ARN");
    let arn: Arn = text.parse().map_err(|_| bad())?;
    if arn.service != "ecr" || arn.resource_type() != "repository" || arn.region != cx.region {
        return Err(bad());
    }
    if arn.account != cx.account {
        return Err(errors::no_repository(&arn.account, arn.resource_id()));
    }
    Ok(arn.resource_id().to_owned())
}

/// Tags as given, checked.
pub(crate) fn checked(tags: Vec<Tag>) -> Result<BTreeMap<String, String>, ApiError> {
    let mut found = BTreeMap::new();
    for tag in tags {
        let (key, value) = (tag.key.unwrap_or_default(), tag.value.unwrap_or_default());
        let bad = |why: String| ApiError::new("InvalidTagParameterException", why);
        if key.is_empty() || key.chars().count() > KEY_CHARS_MAX {
            return Err(bad(format!("The tag key '{key}' must be of 1 to {KEY_CHARS_MAX} characters.")));
        }
        if value.chars().count() > VALUE_CHARS_MAX {
            return Err(bad(format!(
                "The value of the tag '{key}' must be of up to {VALUE_CHARS_MAX} characters."
            )));
        }
        if key.to_ascii_lowercase().starts_with("aws:") {
            return Err(bad(format!("The tag key '{key}' must not begin with aws:, which is AWS's own.")));
        }
        found.insert(key, value);
    }
    limit(&found)?;
    Ok(found)
}

fn limit(tags: &BTreeMap<String, String>) -> Result<(), ApiError> {
    if tags.len() <= TAGS_MAX {
        return Ok(());
    }
    let message = format!("The number of tags exceeds the limit of {TAGS_MAX} per repository.");
    Err(ApiError::new("TooManyTagsException", message))
}

pub(crate) async fn tag(
    service: &EcrService,
    cx: &Context,
    input: TagResourceRequest,
) -> Result<TagResourceResponse, ApiError> {
    let name = name_in(cx, input.resource_arn.as_deref())?;
    let tags = checked(input.tags.unwrap_or_default())?;
    change(service, cx, None, &name, |record| {
        record.tags.extend(tags.clone());
        limit(&record.tags)
    })
    .await?;
    Ok(TagResourceResponse {})
}

pub(crate) async fn untag(
    service: &EcrService,
    cx: &Context,
    input: UntagResourceRequest,
) -> Result<UntagResourceResponse, ApiError> {
    let name = name_in(cx, input.resource_arn.as_deref())?;
    let keys = input.tag_keys.unwrap_or_default();
    change(service, cx, None, &name, |record| {
        record.tags.retain(|key, _| !keys.contains(key));
        Ok(())
    })
    .await?;
    Ok(UntagResourceResponse {})
}

pub(crate) async fn list(
    service: &EcrService,
    cx: &Context,
    input: ListTagsForResourceRequest,
) -> Result<ListTagsForResourceResponse, ApiError> {
    let name = name_in(cx, input.resource_arn.as_deref())?;
    let Repository { record, .. } = state::repository(service, cx, None, Some(&name))?;
    let tags =
        record.tags.into_iter().map(|(key, value)| Tag { key: Some(key), value: Some(value) }).collect();
    Ok(ListTagsForResourceResponse { tags: Some(tags) })
}
