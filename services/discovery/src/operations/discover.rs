//! DiscoverInstances. (SDKs call it at a host of its own, `data-…`; the front takes both.)

use ferrogate_api::servicediscovery::*;
use ferrogate_api::{ApiError, Context};

use super::{health, namespaces, own_account, services};
use crate::plan::discover::{Question, discover};
use crate::state::{Phase, Scope, ServiceRecord};
use crate::{DiscoveryService, errors};

const RESULTS: usize = 100;
const RESULTS_MAX: usize = 1000;

fn service(
    service: &DiscoveryService,
    scope: &Scope,
    namespace: &str,
    name: &str,
) -> Result<ServiceRecord, ApiError> {
    let found = namespaces::by_name(service, scope, namespace).filter(|found| found.phase != Phase::Creating);
    let found = found.ok_or_else(|| errors::no_namespace(namespace))?;
    services::by_name(service, scope, &found.id, name).ok_or_else(|| errors::no_service(name))
}

/// Goes up with each change of the service's instances.
fn revision_of(service: &DiscoveryService, scope: &Scope, of: &ServiceRecord) -> i64 {
    let revision = service.store.get(&scope.revision(&of.id)).map_or(0, |kv| kv.mod_revision);
    i64::try_from(revision).unwrap_or(i64::MAX)
}

pub(crate) async fn instances(
    cloud_map: &DiscoveryService,
    cx: &Context,
    input: DiscoverInstancesRequest,
) -> Result<DiscoverInstancesResponse, ApiError> {
    own_account(cx, input.owner_account.as_deref())?;
    let scope = Scope::of(cx);
    let (namespace, name) =
        (input.namespace_name.unwrap_or_default(), input.service_name.unwrap_or_default());
    let of = service(cloud_map, &scope, &namespace, &name)?;
    let revision = revision_of(cloud_map, &scope, &of);
    let question = Question {
        health: input.health_status.as_deref().unwrap_or("HEALTHY_OR_ELSE_ALL"),
        query: &input.query_parameters.unwrap_or_default(),
        optional: &input.optional_parameters.unwrap_or_default(),
    };
    let most = input.max_results.and_then(|most| usize::try_from(most).ok()).unwrap_or(RESULTS);
    let found = discover(cloud_map.instances(&scope, &of.id), of.custom_health, &question);
    let summary = |instance: crate::state::InstanceRecord| HttpInstanceSummary {
        namespace_name: Some(namespace.clone()),
        service_name: Some(name.clone()),
        health_status: Some(health::word(&of, &instance).into()),
        instance_id: Some(instance.id),
        attributes: Some(instance.attributes),
    };
    Ok(DiscoverInstancesResponse {
        instances: Some(found.into_iter().take(most.min(RESULTS_MAX)).map(summary).collect()),
        instances_revision: Some(revision),
    })
}

pub(crate) async fn revision(
    cloud_map: &DiscoveryService,
    cx: &Context,
    input: DiscoverInstancesRevisionRequest,
) -> Result<DiscoverInstancesRevisionResponse, ApiError> {
    own_account(cx, input.owner_account.as_deref())?;
    let scope = Scope::of(cx);
    let (namespace, name) =
        (input.namespace_name.unwrap_or_default(), input.service_name.unwrap_or_default());
    let of = service(cloud_map, &scope, &namespace, &name)?;
    let revision = revision_of(cloud_map, &scope, &of);
    Ok(DiscoverInstancesRevisionResponse { instances_revision: Some(revision) })
}
