//! Services of a namespace.

use std::collections::{BTreeMap, BTreeSet};

use ferrogate_api::servicediscovery::*;
use ferrogate_api::{ApiError, Context};
use ferrogate_model::paginate;
use ferrogate_store::{Json, Txn, get_json, range_json};

use super::{ATTEMPTS_MAX, filtered, filters, page_size, tags};
use crate::state::{DnsSettings, NamespaceRecord, Phase, Scope, ServiceRecord, Work, new_id};
use crate::{DiscoveryService, errors};

const NAME_BYTES_MAX: usize = 127;

pub(crate) async fn create(
    service: &DiscoveryService,
    cx: &Context,
    input: CreateServiceRequest,
) -> Result<CreateServiceResponse, ApiError> {
    let scope = Scope::of(cx);
    if input.health_check_config.is_some() {
        return Err(errors::unsupported("health checks by Route 53 (HealthCheckConfig)"));
    }
    let dns_config = input.dns_config.unwrap_or_default();
    let namespace_id = input.namespace_id.or(dns_config.namespace_id.clone()).unwrap_or_default();
    let namespace = service.namespace(&scope, &namespace_id)?;
    if namespace.record.phase == Phase::Deleting {
        return Err(errors::no_namespace(&namespace_id));
    }
    let only_api = input.r#type.as_deref() == Some("HTTP");
    let dns = settings(dns_config, &namespace.record, only_api)?;
    let name = input.name.unwrap_or_default();
    if name.len() > NAME_BYTES_MAX || (dns.is_some() && name.len() + namespace.record.name.len() > 252) {
        return Err(errors::invalid_input(format!("The service name '{name}' is too long.")));
    }
    let creator = input.creator_request_id;
    if let Some(twin) = by_name(service, &scope, &namespace.record.id, &name) {
        return again(service, cx, twin, creator.as_deref());
    }
    let record = ServiceRecord {
        id: new_id("srv"),
        name: name.clone(),
        namespace_id: namespace.record.id.clone(),
        description: input.description.filter(|text| !text.is_empty()),
        dns,
        custom_health: input.health_check_custom_config.is_some(),
        creator_request_id: creator.clone().unwrap_or_else(|| cx.request_id.clone()),
        created_at: cx.now,
        attributes: BTreeMap::new(),
        tags: tags::of_request(input.tags, BTreeMap::new(), &name)?,
    };
    let name_key = scope.service_name(&namespace.record.id, &name);
    let txn = Txn::new()
        // Not deleted meanwhile.
        .when_revision(&*namespace.key, namespace.mod_revision)
        .put_json(&*namespace.key, &namespace.record)
        .when_absent(name_key.clone())
        .put_json(name_key, &record.id)
        .put_json(scope.service(&record.id), &record)
        .put_json(scope.revision(&record.id), &0);
    if !service.store.txn(txn).await.map_err(errors::store)?.succeeded {
        return match by_name(service, &scope, &namespace.record.id, &name) {
            Some(twin) => again(service, cx, twin, creator.as_deref()),
            None => Err(errors::contended()),
        };
    }
    Ok(CreateServiceResponse { service: Some(shape(service, cx, record)) })
}

/// The same request again gives what it made.
fn again(
    service: &DiscoveryService,
    cx: &Context,
    twin: ServiceRecord,
    creator_request_id: Option<&str>,
) -> Result<CreateServiceResponse, ApiError> {
    if creator_request_id == Some(&twin.creator_request_id) {
        return Ok(CreateServiceResponse { service: Some(shape(service, cx, twin)) });
    }
    let arn = Scope::of(cx).service_arn(&twin.id);
    Err(errors::service_exists(&twin.id, &arn, &twin.creator_request_id))
}

pub(crate) fn by_name(
    service: &DiscoveryService,
    scope: &Scope,
    namespace_id: &str,
    name: &str,
) -> Option<ServiceRecord> {
    let id = get_json::<String>(service.store(), &scope.service_name(namespace_id, name))?.record;
    get_json(service.store(), &scope.service(&id)).map(|found| found.record)
}

fn settings(
    config: DnsConfig,
    namespace: &NamespaceRecord,
    only_api: bool,
) -> Result<Option<DnsSettings>, ApiError> {
    let given = config.dns_records.unwrap_or_default();
    if given.is_empty() {
        return Ok(None);
    }
    if only_api || !namespace.dns() {
        let words = if only_api { "A service of type HTTP" } else { "A service in an HTTP namespace" };
        return Err(errors::invalid_input(format!("{words} cannot have a DnsConfig.")));
    }
    let records = records(given)?;
    let weighted = config.routing_policy.as_deref() == Some("WEIGHTED");
    if records.contains_key("CNAME") && !weighted {
        return Err(errors::invalid_input(
            "A service with a CNAME record must have the RoutingPolicy WEIGHTED.",
        ));
    }
    Ok(Some(DnsSettings { weighted, records }))
}

fn records(given: Vec<DnsRecord>) -> Result<BTreeMap<String, u32>, ApiError> {
    let mut records = BTreeMap::new();
    for record in given {
        let kind = record.r#type.unwrap_or_default();
        let ttl = record.ttl.unwrap_or_default();
        let seconds = u32::try_from(ttl).ok().filter(|ttl| *ttl <= i32::MAX as u32).ok_or_else(|| {
            errors::invalid_input(format!(
                "The TTL {ttl} of the {kind} record is not from 0 to {}.",
                i32::MAX
            ))
        })?;
        if records.insert(kind.clone(), seconds).is_some() {
            return Err(errors::invalid_input(format!(
                "DnsRecords has more than one record of type {kind}."
            )));
        }
    }
    let kinds: BTreeSet<&str> = records.keys().map(String::as_str).collect();
    if kinds.contains("CNAME") && kinds.len() > 1 {
        return Err(errors::invalid_input("A service with a CNAME record can have no other DnsRecords."));
    }
    Ok(records)
}

fn dns_config(record: &ServiceRecord) -> Option<DnsConfig> {
    let dns = record.dns.as_ref().filter(|dns| !dns.records.is_empty())?;
    let of =
        |(kind, ttl): (&String, &u32)| DnsRecord { r#type: Some(kind.clone()), ttl: Some(i64::from(*ttl)) };
    Some(DnsConfig {
        namespace_id: Some(record.namespace_id.clone()),
        routing_policy: Some(if dns.weighted { "WEIGHTED" } else { "MULTIVALUE" }.into()),
        dns_records: Some(dns.records.iter().map(of).collect()),
    })
}

fn kind(record: &ServiceRecord) -> String {
    if dns_config(record).is_some() { "DNS_HTTP" } else { "HTTP" }.into()
}

fn custom(record: &ServiceRecord) -> Option<HealthCheckCustomConfig> {
    // "This parameter is no longer supported and is always set to 1."
    record.custom_health.then_some(HealthCheckCustomConfig { failure_threshold: Some(1) })
}

fn shape(service: &DiscoveryService, cx: &Context, record: ServiceRecord) -> Service {
    let scope = Scope::of(cx);
    Service {
        arn: Some(scope.service_arn(&record.id)),
        resource_owner: Some(cx.account.clone()),
        instance_count: Some(service.count(&scope.instances(&record.id))),
        dns_config: dns_config(&record),
        r#type: Some(kind(&record)),
        health_check_custom_config: custom(&record),
        create_date: Some(record.created_at),
        created_by_account: Some(cx.account.clone()),
        id: Some(record.id),
        name: Some(record.name),
        namespace_id: Some(record.namespace_id),
        description: record.description,
        creator_request_id: Some(record.creator_request_id),
        health_check_config: None,
    }
}

pub(crate) async fn get(
    service: &DiscoveryService,
    cx: &Context,
    input: GetServiceRequest,
) -> Result<GetServiceResponse, ApiError> {
    let record = service.service(&Scope::of(cx), &input.id.unwrap_or_default())?.record;
    Ok(GetServiceResponse { service: Some(shape(service, cx, record)) })
}

pub(crate) async fn list(
    service: &DiscoveryService,
    cx: &Context,
    input: ListServicesRequest,
) -> Result<ListServicesResponse, ApiError> {
    let scope = Scope::of(cx);
    let found = range_json::<ServiceRecord>(service.store(), &scope.services());
    let found = found.into_iter().map(|found| found.record).collect();
    let found = filtered(found, filters!(input), |record: &ServiceRecord, name| {
        Some(match name {
            "NAMESPACE_ID" => record.namespace_id.clone(),
            "RESOURCE_OWNER" => "SELF".to_owned(),
            _ => return None,
        })
    })?;
    let page =
        paginate(found, |record| &record.id, input.next_token.as_deref(), page_size(input.max_results))
            .map_err(|_| errors::bad_token())?;
    let summary = |record: ServiceRecord| ServiceSummary {
        arn: Some(scope.service_arn(&record.id)),
        resource_owner: Some(cx.account.clone()),
        r#type: Some(kind(&record)),
        instance_count: Some(service.count(&scope.instances(&record.id))),
        dns_config: dns_config(&record),
        health_check_custom_config: custom(&record),
        create_date: Some(record.created_at),
        created_by_account: Some(cx.account.clone()),
        id: Some(record.id),
        name: Some(record.name),
        description: record.description,
        health_check_config: None,
    };
    let services = page.items.into_iter().map(summary).collect();
    Ok(ListServicesResponse { services: Some(services), next_token: page.next_token })
}

pub(crate) async fn delete(
    service: &DiscoveryService,
    cx: &Context,
    input: DeleteServiceRequest,
) -> Result<DeleteServiceResponse, ApiError> {
    let (scope, id) = (Scope::of(cx), input.id.unwrap_or_default());
    for _ in 0..ATTEMPTS_MAX {
        let found = service.service(&scope, &id)?;
        let record = found.record;
        let revision_key = scope.revision(&record.id);
        let revision = service.store.get(&revision_key).map_or(0, |kv| kv.mod_revision);
        if service.is_published(&scope, &record.id) {
            return Err(errors::in_use(format!(
                "Service {} cannot be deleted because it has registered instances; deregister them first, and wait for \
                 the operations.",
                record.id
            )));
        }
        let txn = Txn::new()
            .when_revision(&*found.key, found.mod_revision)
            .when_revision(revision_key.clone(), revision)
            .delete(&*found.key)
            .delete(revision_key)
            .delete(scope.service_name(&record.namespace_id, &record.name));
        if service.store.txn(txn).await.map_err(errors::store)?.succeeded {
            return Ok(DeleteServiceResponse {});
        }
    }
    Err(errors::contended())
}

pub(crate) async fn update(
    service: &DiscoveryService,
    cx: &Context,
    input: UpdateServiceRequest,
) -> Result<UpdateServiceResponse, ApiError> {
    let (scope, id) = (Scope::of(cx), input.id.unwrap_or_default());
    let change = input.service.unwrap_or_default();
    if change.health_check_config.is_some() {
        return Err(errors::unsupported("health checks by Route 53 (HealthCheckConfig)"));
    }
    // "If you omit any existing DnsRecords […] configurations from an UpdateService request, the configurations are deleted
    // from the service."
    let records = records(change.dns_config.and_then(|config| config.dns_records).unwrap_or_default())?;
    for _ in 0..ATTEMPTS_MAX {
        let Json { key, mut record, mod_revision, .. } = service.service(&scope, &id)?;
        // "You can't call UpdateService […] When the service is associated with an HTTP namespace".
        if !service.namespace(&scope, &record.namespace_id)?.record.dns() {
            return Err(errors::invalid_input(format!(
                "The service {} is in an HTTP namespace: it cannot be updated.",
                record.id
            )));
        }
        record.description =
            change.description.clone().or(record.description).filter(|text| !text.is_empty());
        // Its instances were registered without what another type needs.
        let has = |kind: &String| record.dns.as_ref().is_some_and(|dns| dns.records.contains_key(kind));
        if let Some(new) = records.keys().find(|kind| !has(kind)) {
            return Err(errors::invalid_input(format!(
                "A {new} record cannot be added to a service; make another one."
            )));
        }
        // Without any left, its instances' record sets are still Cloud Map's to delete.
        if let Some(dns) = &mut record.dns {
            dns.records.clone_from(&records);
        }
        let work = Work::Records { service_id: record.id.clone(), instance_id: None };
        let work = record.dns.as_ref().map(|_| (record.namespace_id.as_str(), work));
        let txn = Txn::new().when_revision(&*key, mod_revision).put_json(&*key, &record);
        let (operation_id, txn) =
            service.begin(cx, txn, ("UPDATE_SERVICE", &[("SERVICE", &record.id)]), work);
        if service.store.txn(txn).await.map_err(errors::store)?.succeeded {
            return Ok(UpdateServiceResponse { operation_id: Some(operation_id) });
        }
    }
    Err(errors::contended())
}
