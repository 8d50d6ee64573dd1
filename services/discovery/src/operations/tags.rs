//! Tags of namespaces and services.

use std::collections::BTreeMap;

use ferrogate_api::servicediscovery::*;
use ferrogate_api::{ApiError, Context};
use ferrogate_store::update_json;

use crate::state::{NamespaceRecord, Scope, ServiceRecord};
use crate::{DiscoveryService, errors};

const TAGS_MAX: usize = 50;
type Tags = BTreeMap<String, String>;

/// The tags there are with those of a request.
pub(crate) fn of_request(tags: Option<Vec<Tag>>, mut there: Tags, resource: &str) -> Result<Tags, ApiError> {
    for tag in tags.unwrap_or_default() {
        let key = tag.key.unwrap_or_default();
        if key.to_ascii_lowercase().starts_with("aws:") {
            let words =
                format!("The tag key '{key}' starts with aws:, which is reserved for AWS; choose another.");
            return Err(errors::invalid_input(words));
        }
        there.insert(key, tag.value.unwrap_or_default());
    }
    if there.len() > TAGS_MAX { Err(errors::too_many_tags(resource, TAGS_MAX)) } else { Ok(there) }
}

enum Resource {
    Namespace(String),
    Service(String),
}

fn resource(scope: &Scope, arn: &str) -> Result<Resource, ApiError> {
    let rest = arn.strip_prefix(&scope.arn("")).ok_or_else(|| errors::no_resource(arn))?;
    match rest.split_once('/') {
        Some(("namespace", id)) => Ok(Resource::Namespace(scope.namespace(id))),
        Some(("service", id)) => Ok(Resource::Service(scope.service(id))),
        _ => Err(errors::no_resource(arn)),
    }
}

async fn change(
    service: &DiscoveryService,
    cx: &Context,
    arn: Option<String>,
    change: impl Fn(Tags) -> Result<Tags, ApiError>,
) -> Result<(), ApiError> {
    let arn = arn.unwrap_or_default();
    let gone = || errors::no_resource(&arn);
    let changed = match resource(&Scope::of(cx), &arn)? {
        Resource::Namespace(key) => {
            let changed = update_json::<NamespaceRecord, ApiError>(service.store(), &key, |record| {
                let mut record = record.ok_or_else(gone)?;
                record.tags = change(std::mem::take(&mut record.tags))?;
                Ok(Some(record))
            });
            changed.await.map(drop)
        }
        Resource::Service(key) => {
            let changed = update_json::<ServiceRecord, ApiError>(service.store(), &key, |record| {
                let mut record = record.ok_or_else(gone)?;
                record.tags = change(std::mem::take(&mut record.tags))?;
                Ok(Some(record))
            });
            changed.await.map(drop)
        }
    };
    changed.map_err(errors::update)
}

pub(crate) async fn tag(
    service: &DiscoveryService,
    cx: &Context,
    input: TagResourceRequest,
) -> Result<TagResourceResponse, ApiError> {
    let arn = input.resource_arn.clone().unwrap_or_default();
    change(service, cx, input.resource_arn, |tags| of_request(input.tags.clone(), tags, &arn)).await?;
    Ok(TagResourceResponse {})
}

pub(crate) async fn untag(
    service: &DiscoveryService,
    cx: &Context,
    input: UntagResourceRequest,
) -> Result<UntagResourceResponse, ApiError> {
    let keys = input.tag_keys.unwrap_or_default();
    change(service, cx, input.resource_arn, |mut tags| {
        tags.retain(|key, _| !keys.contains(key));
        Ok(tags)
    })
    .await?;
    Ok(UntagResourceResponse {})
}

pub(crate) async fn list(
    service: &DiscoveryService,
    cx: &Context,
    input: ListTagsForResourceRequest,
) -> Result<ListTagsForResourceResponse, ApiError> {
    let arn = input.resource_arn.unwrap_or_default();
    let tags =
        match resource(&Scope::of(cx), &arn)? {
            Resource::Namespace(key) => ferrogate_store::get_json::<NamespaceRecord>(service.store(), &key)
                .map(|found| found.record.tags),
            Resource::Service(key) => ferrogate_store::get_json::<ServiceRecord>(service.store(), &key)
                .map(|found| found.record.tags),
        };
    let tags = tags.ok_or_else(|| errors::no_resource(&arn))?;
    let shape = |(key, value)| Tag { key: Some(key), value: Some(value) };
    Ok(ListTagsForResourceResponse { tags: Some(tags.into_iter().map(shape).collect()) })
}
