//! What custom health checks say.

use ferrogate_api::servicediscovery::*;
use ferrogate_api::{ApiError, Context};
use ferrogate_model::paginate;
use ferrogate_store::Txn;

use super::{ATTEMPTS_MAX, instances, page_size};
use crate::state::{InstanceRecord, Scope, ServiceRecord, WorkRecord};
use crate::{DiscoveryService, errors};

pub(crate) fn word(of: &ServiceRecord, instance: &InstanceRecord) -> &'static str {
    match (of.custom_health, instance.healthy) {
        (false, _) => "UNKNOWN",
        (true, true) => "HEALTHY",
        (true, false) => "UNHEALTHY",
    }
}

pub(crate) async fn get(
    service: &DiscoveryService,
    cx: &Context,
    input: GetInstancesHealthStatusRequest,
) -> Result<GetInstancesHealthStatusResponse, ApiError> {
    let scope = Scope::of(cx);
    let of = service.service(&scope, &input.service_id.unwrap_or_default())?.record;
    let mut found = service.instances(&scope, &of.id);
    if let Some(ids) = input.instances.filter(|ids| !ids.is_empty()) {
        if let Some(unknown) = ids.iter().find(|id| !found.iter().any(|instance| instance.id == **id)) {
            return Err(errors::no_instance(unknown, &of.id));
        }
        found.retain(|instance| ids.contains(&instance.id));
    }
    let page =
        paginate(found, |record| &record.id, input.next_token.as_deref(), page_size(input.max_results))
            .map_err(|_| errors::bad_token())?;
    let status = page.items.into_iter().map(|instance| {
        let word = word(&of, &instance).to_owned();
        (instance.id, word)
    });
    Ok(GetInstancesHealthStatusResponse { status: Some(status.collect()), next_token: page.next_token })
}

pub(crate) async fn update(
    service: &DiscoveryService,
    cx: &Context,
    input: UpdateInstanceCustomHealthStatusRequest,
) -> Result<UpdateInstanceCustomHealthStatusNoOutput, ApiError> {
    let scope = Scope::of(cx);
    let (service_id, id) = (input.service_id.unwrap_or_default(), input.instance_id.unwrap_or_default());
    let healthy = input.status.as_deref() == Some("HEALTHY");
    for _ in 0..ATTEMPTS_MAX {
        let of = service.service(&scope, &service_id)?.record;
        if !of.custom_health {
            return Err(errors::no_custom_health(&of.id));
        }
        let found = instances::find(service, &scope, &of, &id)?;
        let mut record = found.record;
        if record.healthy == healthy {
            return Ok(UpdateInstanceCustomHealthStatusNoOutput {});
        }
        record.healthy = healthy;
        let mut txn = Txn::new()
            .when_revision(&*found.key, found.mod_revision)
            .put_json(&*found.key, &record)
            .put_json(scope.revision(&of.id), &0);
        if let Some((namespace_id, task)) = instances::work(&of, &id) {
            let work = WorkRecord { namespace_id: namespace_id.to_owned(), task, operation_id: None };
            txn = txn.put_json(scope.work(&ferrogate_model::hex_id()), &work);
        }
        if service.store.txn(txn).await.map_err(errors::store)?.succeeded {
            return Ok(UpdateInstanceCustomHealthStatusNoOutput {});
        }
    }
    Err(errors::contended())
}
