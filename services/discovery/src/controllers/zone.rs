//! Route 53, as Cloud Map uses it: in its own name.

use std::collections::BTreeMap;
use std::sync::Arc;

use ferrogate_api::route53::{self, *};
use ferrogate_api::{ApiError, Caller, Invoke};

use crate::plan::records::{SetId, belongs, id_of};
use crate::state::{NamespaceRecord, Scope};

pub(super) const SERVICE_PRINCIPAL: &str = "servicediscovery.amazonaws.com";
/// Of one batch: all of it, with as many values, is well inside Route 53's limits.
pub(super) const CHANGES_MAX: usize = 200;

pub(super) fn client(invoke: &Arc<dyn Invoke>, scope: &Scope) -> route53::Client {
    let caller = Caller::Service { name: SERVICE_PRINCIPAL, account: scope.account.clone() };
    route53::Client::new(Arc::clone(invoke), caller, &scope.region)
}

/// Makes the namespace's zone, or finds the one that a former attempt has made.
pub(super) async fn create(
    client: &route53::Client,
    scope: &Scope,
    namespace: &NamespaceRecord,
) -> Result<String, ApiError> {
    let comment =
        format!("Created by AWS Cloud Map namespace with ARN {}", scope.namespace_arn(&namespace.id));
    let request = CreateHostedZoneRequest {
        name: Some(namespace.name.clone()),
        vpc: namespace
            .vpc_id
            .clone()
            .map(|vpc_id| VPC { vpc_region: Some(scope.region.clone()), vpc_id: Some(vpc_id) }),
        caller_reference: Some(namespace.id.clone()),
        hosted_zone_config: Some(HostedZoneConfig {
            comment: Some(comment),
            private_zone: Some(namespace.vpc_id.is_some()),
        }),
        delegation_set_id: None,
    };
    let made = match client.create_hosted_zone(request).await {
        Ok(made) => made.hosted_zone,
        Err(error) if error.code == "HostedZoneAlreadyExists" => made_before(client, namespace).await?,
        Err(error) => return Err(error),
    };
    let id = made.and_then(|zone| zone.id).ok_or_else(ApiError::internal)?;
    Ok(id.rsplit('/').next().unwrap_or_default().to_owned())
}

async fn made_before(
    client: &route53::Client,
    namespace: &NamespaceRecord,
) -> Result<Option<HostedZone>, ApiError> {
    let request =
        ListHostedZonesByNameRequest { dns_name: Some(namespace.name.clone()), ..Default::default() };
    let zones = client.list_hosted_zones_by_name(request).await?.hosted_zones.unwrap_or_default();
    Ok(zones.into_iter().find(|zone| zone.caller_reference.as_deref() == Some(&namespace.id)))
}

/// The zone is gone, or was before.
pub(super) async fn delete(client: &route53::Client, zone_id: &str) -> Result<(), ApiError> {
    match client.delete_hosted_zone(DeleteHostedZoneRequest { id: Some(zone_id.to_owned()) }).await {
        Err(error) if error.code != "NoSuchHostedZone" => Err(error),
        _ => Ok(()),
    }
}

/// Deletes what [`create`] has made, if it came so far.
pub(super) async fn abandon(client: &route53::Client, namespace: &NamespaceRecord) -> Result<(), ApiError> {
    match made_before(client, namespace).await?.and_then(|zone| zone.id) {
        Some(id) => delete(client, &id).await,
        None => Ok(()),
    }
}

/// The record sets that are a service's: those of its name and below it.
pub(super) async fn sets(
    client: &route53::Client,
    zone_id: &str,
    service_name: &str,
) -> Result<BTreeMap<SetId, ResourceRecordSet>, ApiError> {
    let mut found = BTreeMap::new();
    let mut request = ListResourceRecordSetsRequest {
        hosted_zone_id: Some(zone_id.to_owned()),
        start_record_name: Some(service_name.to_owned()),
        ..Default::default()
    };
    loop {
        let answer = client.list_resource_record_sets(request.clone()).await?;
        let sets = answer.resource_record_sets.unwrap_or_default();
        // Sorted by labels from the last: what is the service's comes first, and together.
        let beyond = sets.iter().any(|set| !belongs(set, service_name));
        found.extend(sets.into_iter().filter(|set| belongs(set, service_name)).map(|set| (id_of(&set), set)));
        if beyond || answer.is_truncated != Some(true) {
            return Ok(found);
        }
        request.start_record_name = answer.next_record_name;
        request.start_record_type = answer.next_record_type;
        request.start_record_identifier = answer.next_record_identifier;
    }
}

/// Commits changes, each batch whole; the last one's id.
pub(super) async fn change(
    client: &route53::Client,
    zone_id: &str,
    changes: &[Change],
) -> Result<Option<String>, ApiError> {
    let mut last = None;
    for changes in changes.chunks(CHANGES_MAX) {
        let request = ChangeResourceRecordSetsRequest {
            hosted_zone_id: Some(zone_id.to_owned()),
            change_batch: Some(ChangeBatch { comment: None, changes: Some(changes.to_vec()) }),
        };
        let answer = client.change_resource_record_sets(request).await?;
        last = answer.change_info.and_then(|info| info.id);
    }
    Ok(last)
}

pub(super) async fn in_sync(client: &route53::Client, change_id: &str) -> Result<bool, ApiError> {
    let answer = client.get_change(GetChangeRequest { id: Some(change_id.to_owned()) }).await?;
    Ok(answer.change_info.and_then(|info| info.status).as_deref() == Some("INSYNC"))
}

/// Gives the zone's SOA the namespace's TTL.
pub(super) async fn soa_ttl(
    client: &route53::Client,
    zone_id: &str,
    namespace: &NamespaceRecord,
) -> Result<Option<String>, ApiError> {
    let request = ListResourceRecordSetsRequest {
        hosted_zone_id: Some(zone_id.to_owned()),
        start_record_name: Some(namespace.name.clone()),
        start_record_type: Some("SOA".into()),
        max_items: Some("1".into()),
        ..Default::default()
    };
    let sets = client.list_resource_record_sets(request).await?.resource_record_sets.unwrap_or_default();
    let Some(soa) = sets.into_iter().find(|set| set.r#type.as_deref() == Some("SOA")) else {
        return Ok(None);
    };
    let soa = ResourceRecordSet { ttl: Some(i64::from(namespace.soa_ttl_seconds)), ..soa };
    change(client, zone_id, &[Change { action: Some("UPSERT".into()), resource_record_set: Some(soa) }]).await
}
