//! Instances of services.

use ferrogate_api::servicediscovery::*;
use ferrogate_api::{ApiError, Context};
use ferrogate_model::paginate;
use ferrogate_store::{Json, Txn, get_json};

use super::{ATTEMPTS_MAX, page_size};
use crate::plan::attributes::{self, INIT_HEALTH};
use crate::state::{InstanceRecord, Scope, ServiceRecord, Work};
use crate::{DiscoveryService, errors};

/// "Instances per service" of the quotas.
const INSTANCES_MAX: usize = 1000;

pub(crate) fn find(
    service: &DiscoveryService,
    scope: &Scope,
    of: &ServiceRecord,
    id: &str,
) -> Result<Json<InstanceRecord>, ApiError> {
    get_json(service.store(), &scope.instance(&of.id, id)).ok_or_else(|| errors::no_instance(id, &of.id))
}

/// What the zone has to be brought to for an instance; nothing, for one that is found by API only.
pub(crate) fn work<'a>(of: &'a ServiceRecord, instance_id: &str) -> Option<(&'a str, Work)> {
    let task = Work::Records { service_id: of.id.clone(), instance_id: Some(instance_id.to_owned()) };
    of.dns.as_ref().map(|_| (of.namespace_id.as_str(), task))
}

pub(crate) async fn register(
    service: &DiscoveryService,
    cx: &Context,
    input: RegisterInstanceRequest,
) -> Result<RegisterInstanceResponse, ApiError> {
    let scope = Scope::of(cx);
    let (service_id, id) = (input.service_id.unwrap_or_default(), input.instance_id.unwrap_or_default());
    let mut given = input.attributes.unwrap_or_default();
    for _ in 0..ATTEMPTS_MAX {
        let of = service.service(&scope, &service_id)?;
        attributes::check(&of.record, &given)?;
        let key = scope.instance(&of.record.id, &id);
        let there = get_json::<InstanceRecord>(service.store(), &key);
        let revision = there.as_ref().map_or(0, |there| there.mod_revision);
        let initially = given.get(INIT_HEALTH).map(|status| status == "HEALTHY");
        match &there {
            // The same request again is that request.
            Some(Json { record, .. })
                if record.creator_request_id.is_some()
                    && record.creator_request_id == input.creator_request_id
                    && record.attributes == given =>
            {
                return Ok(RegisterInstanceResponse { operation_id: Some(record.operation_id.clone()) });
            }
            // "One RegisterInstance request must complete before you can submit another request and specify the same
            // service ID and instance ID."
            Some(Json { record, .. }) if service.is_pending(&scope, &record.operation_id) => {
                return Err(errors::duplicate(&record.operation_id));
            }
            None if service.store.range(&scope.instances(&of.record.id)).len() >= INSTANCES_MAX => {
                return Err(errors::limit(format!(
                    "The service {} has {INSTANCES_MAX} instances already.",
                    of.record.id
                )));
            }
            _ => {}
        }
        let txn = Txn::new().when_revision(&*of.key, of.mod_revision).when_revision(key.clone(), revision);
        let targets = [("INSTANCE", id.as_str()), ("SERVICE", of.record.id.as_str())];
        let (operation_id, txn) =
            service.begin(cx, txn, ("REGISTER_INSTANCE", &targets), work(&of.record, &id));
        let record = InstanceRecord {
            id: id.clone(),
            attributes: std::mem::take(&mut given),
            creator_request_id: input.creator_request_id.clone(),
            healthy: initially.or(there.map(|there| there.record.healthy)).unwrap_or(true),
            operation_id: operation_id.clone(),
        };
        let txn = txn.put_json(key, &record).put_json(scope.revision(&of.record.id), &0);
        if service.store.txn(txn).await.map_err(errors::store)?.succeeded {
            return Ok(RegisterInstanceResponse { operation_id: Some(operation_id) });
        }
        given = record.attributes;
    }
    Err(errors::contended())
}

pub(crate) async fn deregister(
    service: &DiscoveryService,
    cx: &Context,
    input: DeregisterInstanceRequest,
) -> Result<DeregisterInstanceResponse, ApiError> {
    let scope = Scope::of(cx);
    let (service_id, id) = (input.service_id.unwrap_or_default(), input.instance_id.unwrap_or_default());
    for _ in 0..ATTEMPTS_MAX {
        let of = service.service(&scope, &service_id)?.record;
        let found = find(service, &scope, &of, &id)?;
        let txn = Txn::new()
            .when_revision(&*found.key, found.mod_revision)
            .delete(&*found.key)
            .when_present(scope.revision(&of.id))
            .put_json(scope.revision(&of.id), &0);
        let targets = [("INSTANCE", id.as_str()), ("SERVICE", of.id.as_str())];
        let (operation_id, txn) = service.begin(cx, txn, ("DEREGISTER_INSTANCE", &targets), work(&of, &id));
        if service.store.txn(txn).await.map_err(errors::store)?.succeeded {
            return Ok(DeregisterInstanceResponse { operation_id: Some(operation_id) });
        }
    }
    Err(errors::contended())
}

pub(crate) async fn get(
    service: &DiscoveryService,
    cx: &Context,
    input: GetInstanceRequest,
) -> Result<GetInstanceResponse, ApiError> {
    let scope = Scope::of(cx);
    let of = service.service(&scope, &input.service_id.unwrap_or_default())?.record;
    let record = find(service, &scope, &of, &input.instance_id.unwrap_or_default())?.record;
    let instance = Instance {
        id: Some(record.id),
        creator_request_id: record.creator_request_id,
        attributes: Some(record.attributes),
        created_by_account: Some(cx.account.clone()),
    };
    Ok(GetInstanceResponse { resource_owner: Some(cx.account.clone()), instance: Some(instance) })
}

pub(crate) async fn list(
    service: &DiscoveryService,
    cx: &Context,
    input: ListInstancesRequest,
) -> Result<ListInstancesResponse, ApiError> {
    let scope = Scope::of(cx);
    let of = service.service(&scope, &input.service_id.unwrap_or_default())?.record;
    let found = service.instances(&scope, &of.id);
    let page =
        paginate(found, |record| &record.id, input.next_token.as_deref(), page_size(input.max_results))
            .map_err(|_| errors::bad_token())?;
    let summary = |record: InstanceRecord| InstanceSummary {
        id: Some(record.id),
        attributes: Some(record.attributes),
        created_by_account: Some(cx.account.clone()),
    };
    Ok(ListInstancesResponse {
        resource_owner: Some(cx.account.clone()),
        instances: Some(page.items.into_iter().map(summary).collect()),
        next_token: page.next_token,
    })
}
