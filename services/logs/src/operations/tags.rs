//! Tags of log groups, by the calls of today and of yesterday.

use std::collections::BTreeMap;

use ferrogate_api::logs::*;
use ferrogate_api::{ApiError, Context};

use crate::LogsService;
use crate::errors;
use crate::operations::groups::change;
use crate::state::{self, group_name_of};

/// "A resource can have no more than 50 tags" (TagResource).
const TAGS_MAX: usize = 50;

/// What the model's own constraints cannot say.
pub(crate) fn check(tags: &BTreeMap<String, String>) -> Result<(), ApiError> {
    match tags.keys().find(|key| key.to_ascii_lowercase().starts_with("aws:")) {
        Some(key) => Err(errors::invalid(format!(
            "The tag key '{key}' starts with aws:, which is reserved for AWS; choose another."
        ))),
        None => Ok(()),
    }
}

fn add(
    tags: &mut BTreeMap<String, String>,
    new: &BTreeMap<String, String>,
    name: &str,
) -> Result<(), ApiError> {
    tags.extend(new.iter().map(|(key, value)| (key.clone(), value.clone())));
    if tags.len() > TAGS_MAX {
        let message =
            format!("The resource would have {} tags; no more than {TAGS_MAX} are allowed.", tags.len());
        return Err(ApiError::new("TooManyTagsException", message)
            .with_member("resourceName", ferrogate_api::Value::String(name.to_owned())));
    }
    Ok(())
}

fn resource(cx: &Context, arn: Option<String>) -> Result<String, ApiError> {
    let arn = arn.unwrap_or_default();
    if !arn.starts_with("arn:") {
        return Err(errors::invalid(format!(
            "The resource ARN '{arn}' is not valid; expected arn:aws:logs:REGION:ACCOUNT:log-group:NAME."
        )));
    }
    group_name_of(cx, &arn).map(str::to_owned).ok_or_else(errors::no_resource)
}

/// The calls by ARN speak of a resource where the others speak of a log group.
fn of_resource(error: ApiError) -> ApiError {
    if error == errors::no_group() { errors::no_resource() } else { error }
}

pub(crate) async fn tag_resource(
    service: &LogsService,
    cx: &Context,
    input: TagResourceRequest,
) -> Result<TagResourceNoOutput, ApiError> {
    let (name, tags) = (resource(cx, input.resource_arn)?, input.tags.unwrap_or_default());
    check(&tags)?;
    change(service, cx, Some(&name), |group| add(&mut group.tags, &tags, &name))
        .await
        .map_err(of_resource)?;
    Ok(TagResourceNoOutput {})
}

pub(crate) async fn untag_resource(
    service: &LogsService,
    cx: &Context,
    input: UntagResourceRequest,
) -> Result<UntagResourceNoOutput, ApiError> {
    let (name, keys) = (resource(cx, input.resource_arn)?, input.tag_keys.unwrap_or_default());
    let removed = change(service, cx, Some(&name), |group| {
        group.tags.retain(|key, _| !keys.contains(key));
        Ok(())
    });
    removed.await.map_err(of_resource)?;
    Ok(UntagResourceNoOutput {})
}

pub(crate) fn list_for_resource(
    service: &LogsService,
    cx: &Context,
    input: ListTagsForResourceRequest,
) -> Result<ListTagsForResourceResponse, ApiError> {
    let name = resource(cx, input.resource_arn)?;
    let group = state::group(service, cx, &name).map_err(of_resource)?;
    Ok(ListTagsForResourceResponse { tags: Some(group.tags) })
}

pub(crate) async fn tag_log_group(
    service: &LogsService,
    cx: &Context,
    input: TagLogGroupRequest,
) -> Result<TagLogGroupNoOutput, ApiError> {
    let (name, tags) = (input.log_group_name.unwrap_or_default(), input.tags.unwrap_or_default());
    check(&tags)?;
    // TooManyTagsException is no error of this call.
    let tagged = change(service, cx, Some(&name), |group| {
        add(&mut group.tags, &tags, &name).map_err(|error| errors::invalid(error.message))
    });
    tagged.await?;
    Ok(TagLogGroupNoOutput {})
}

pub(crate) async fn untag_log_group(
    service: &LogsService,
    cx: &Context,
    input: UntagLogGroupRequest,
) -> Result<UntagLogGroupNoOutput, ApiError> {
    let keys = input.tags.unwrap_or_default();
    change(service, cx, input.log_group_name.as_deref(), |group| {
        group.tags.retain(|key, _| !keys.contains(key));
        Ok(())
    })
    .await?;
    Ok(UntagLogGroupNoOutput {})
}

pub(crate) fn list_log_group(
    service: &LogsService,
    cx: &Context,
    input: ListTagsLogGroupRequest,
) -> Result<ListTagsLogGroupResponse, ApiError> {
    let group = state::group(service, cx, input.log_group_name.as_deref().unwrap_or_default())?;
    Ok(ListTagsLogGroupResponse { tags: Some(group.tags) })
}
