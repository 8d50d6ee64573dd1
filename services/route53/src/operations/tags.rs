//! Tags of hosted zones.

use std::collections::BTreeMap;

use ferrogate_api::route53::*;
use ferrogate_api::{ApiError, Context};
use ferrogate_store::update_json;

use crate::state::{ZoneRecord, bare_id, zone_key};
use crate::{Route53Service, errors};

/// "Tags per resource": ten for hosted zones and health checks.
const TAGS_MAX: usize = 10;

fn check_type(kind: Option<&str>, id: &str) -> Result<(), ApiError> {
    // There are no health checks: none has that id.
    if kind == Some("healthcheck") { Err(errors::no_health_check(id)) } else { Ok(()) }
}

pub(crate) async fn change(
    service: &Route53Service,
    cx: &Context,
    input: ChangeTagsForResourceRequest,
) -> Result<ChangeTagsForResourceResponse, ApiError> {
    let id = bare_id(input.resource_id.as_deref().unwrap_or_default()).to_owned();
    check_type(input.resource_type.as_deref(), &id)?;
    let (add, remove) = (input.add_tags.unwrap_or_default(), input.remove_tag_keys.unwrap_or_default());
    if add.is_empty() && remove.is_empty() {
        return Err(errors::invalid_input("Give AddTags, RemoveTagKeys or both."));
    }
    let key = zone_key(&cx.account, &id);
    let changed = update_json::<ZoneRecord, ApiError>(&*service.store, &key, |zone| {
        let Some(mut zone) = zone else { return Err(errors::no_zone(&id)) };
        zone.tags.retain(|key, _| !remove.contains(key));
        for tag in &add {
            let key = tag.key.clone().unwrap_or_default();
            if key.is_empty() || key.to_ascii_lowercase().starts_with("aws:") {
                return Err(errors::invalid_input(format!(
                    "The tag key '{key}' is empty, or begins with aws:."
                )));
            }
            zone.tags.insert(key, tag.value.clone().unwrap_or_default());
        }
        if zone.tags.len() > TAGS_MAX {
            return Err(errors::invalid_input(format!("A hosted zone has {TAGS_MAX} tags at most.")));
        }
        Ok(Some(zone))
    });
    match changed.await {
        Ok(_) => Ok(ChangeTagsForResourceResponse {}),
        Err(ferrogate_store::UpdateError::Refused(error)) => Err(error),
        Err(ferrogate_store::UpdateError::Contended { .. }) => Err(errors::contended()),
        Err(ferrogate_store::UpdateError::Store(error)) => Err(errors::store(error)),
    }
}

fn set(kind: Option<String>, id: String, tags: BTreeMap<String, String>) -> ResourceTagSet {
    let tag = |(key, value)| Tag { key: Some(key), value: Some(value) };
    ResourceTagSet {
        resource_type: kind,
        resource_id: Some(id),
        tags: Some(tags.into_iter().map(tag).collect()),
    }
}

pub(crate) async fn list(
    service: &Route53Service,
    cx: &Context,
    input: ListTagsForResourceRequest,
) -> Result<ListTagsForResourceResponse, ApiError> {
    let id = bare_id(input.resource_id.as_deref().unwrap_or_default()).to_owned();
    check_type(input.resource_type.as_deref(), &id)?;
    let zone = service.zone(cx, Some(&id))?.record;
    Ok(ListTagsForResourceResponse { resource_tag_set: Some(set(input.resource_type, id, zone.tags)) })
}

pub(crate) async fn list_several(
    service: &Route53Service,
    cx: &Context,
    input: ListTagsForResourcesRequest,
) -> Result<ListTagsForResourcesResponse, ApiError> {
    let mut sets = Vec::new();
    for id in input.resource_ids.unwrap_or_default() {
        let id = bare_id(&id).to_owned();
        check_type(input.resource_type.as_deref(), &id)?;
        let zone = service.zone(cx, Some(&id))?.record;
        sets.push(set(input.resource_type.clone(), id, zone.tags));
    }
    Ok(ListTagsForResourcesResponse { resource_tag_sets: Some(sets) })
}
