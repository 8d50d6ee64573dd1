//! Attributes of services.

use std::collections::BTreeMap;

use ferrogate_api::servicediscovery::*;
use ferrogate_api::{ApiError, Context};
use ferrogate_store::update_json;

use crate::state::{Scope, ServiceRecord, bare_id};
use crate::{DiscoveryService, errors};

const ATTRIBUTES_MAX: usize = 30;

pub(crate) async fn get(
    service: &DiscoveryService,
    cx: &Context,
    input: GetServiceAttributesRequest,
) -> Result<GetServiceAttributesResponse, ApiError> {
    let scope = Scope::of(cx);
    let record = service.service(&scope, &input.service_id.unwrap_or_default())?.record;
    let attributes = ServiceAttributes {
        service_arn: Some(scope.service_arn(&record.id)),
        resource_owner: Some(cx.account.clone()),
        attributes: Some(record.attributes),
    };
    Ok(GetServiceAttributesResponse { service_attributes: Some(attributes) })
}

async fn change(
    service: &DiscoveryService,
    cx: &Context,
    id: Option<String>,
    change: impl Fn(&mut BTreeMap<String, String>),
) -> Result<(), ApiError> {
    let id = id.unwrap_or_default();
    let key = Scope::of(cx).service(bare_id(&id));
    let changed = update_json::<ServiceRecord, ApiError>(service.store(), &key, |record| {
        let mut record = record.ok_or_else(|| errors::no_service(&id))?;
        change(&mut record.attributes);
        if record.attributes.len() > ATTRIBUTES_MAX {
            return Err(ApiError::new(
                "ServiceAttributesLimitExceededException",
                format!("A service can have {ATTRIBUTES_MAX} attributes at most."),
            ));
        }
        Ok(Some(record))
    });
    changed.await.map(drop).map_err(errors::update)
}

pub(crate) async fn update(
    service: &DiscoveryService,
    cx: &Context,
    input: UpdateServiceAttributesRequest,
) -> Result<UpdateServiceAttributesResponse, ApiError> {
    let given = input.attributes.unwrap_or_default();
    change(service, cx, input.service_id, |attributes| attributes.extend(given.clone())).await?;
    Ok(UpdateServiceAttributesResponse {})
}

pub(crate) async fn delete(
    service: &DiscoveryService,
    cx: &Context,
    input: DeleteServiceAttributesRequest,
) -> Result<DeleteServiceAttributesResponse, ApiError> {
    let given = input.attributes.unwrap_or_default();
    change(service, cx, input.service_id, |attributes| attributes.retain(|key, _| !given.contains(key)))
        .await?;
    Ok(DeleteServiceAttributesResponse {})
}
