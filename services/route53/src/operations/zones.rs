//! Hosted zones.

use std::collections::BTreeMap;

use ferrogate_api::route53::*;
use ferrogate_api::{ApiError, Context, PrincipalKind};
use ferrogate_store::{Json, Txn};

use super::changes::submitted;
use super::vpcs;
use crate::plan::set::shown;
use crate::state::{SetRecord, VpcRecord, ZoneRecord, bare_id, reference_key, set_key, zone_key};
use crate::{Route53Service, errors};

/// "Hosted zones per account" of the quotas.
const ZONES_MAX: usize = 500;
const COMMENT_CHARACTERS_MAX: usize = 256;
const NS_TTL_SECONDS: u32 = 172_800;
const SOA_TTL_SECONDS: u32 = 900;
/// Of all private zones.
const PRIVATE_SERVERS: [&str; 4] =
    ["ns-1536.awsdns-00.co.uk", "ns-0.awsdns-00.com", "ns-1024.awsdns-00.org", "ns-512.awsdns-00.net"];

pub(crate) async fn create(
    service: &Route53Service,
    cx: &Context,
    input: CreateHostedZoneRequest,
) -> Result<CreateHostedZoneResponse, ApiError> {
    if input.delegation_set_id.is_some() {
        return Err(errors::unsupported("reusable delegation sets (DelegationSetId)"));
    }
    let given = input.name.unwrap_or_default();
    let name = ferrogate_dns::normal(&given).map_err(|_| errors::invalid_domain(&given))?;
    let reference = input.caller_reference.unwrap_or_default();
    // Before everything else: who tries again after a lost answer shall learn that it was made.
    if service.store.get(&reference_key(&cx.account, &reference)).is_some() {
        return Err(errors::zone_exists(&reference));
    }
    let config = input.hosted_zone_config.unwrap_or_default();
    let vpc = match input.vpc {
        Some(vpc) => Some(vpcs::check(service, cx, vpc).await?),
        None if config.private_zone == Some(true) => {
            return Err(errors::invalid_input(
                "When you're creating a private hosted zone, you must specify a VPC.",
            ));
        }
        None => None,
    };
    if vpc.is_some() && config.private_zone == Some(false) {
        return Err(errors::invalid_input(
            "A VPC can be given only for a private hosted zone; leave PrivateZone out.",
        ));
    }
    if service.zones(cx).len() >= ZONES_MAX {
        return Err(ApiError::new(
            "TooManyHostedZones",
            format!("This account has {ZONES_MAX} hosted zones already; delete one first."),
        ));
    }
    let zone = record(cx, name, reference, config, vpc);
    let mut txn = Txn::new()
        .when_absent(reference_key(&cx.account, &zone.caller_reference))
        .put_json(reference_key(&cx.account, &zone.caller_reference), &zone.id)
        .put_json(zone_key(&cx.account, &zone.id), &zone);
    for set in required(&zone) {
        txn = txn.put_json(set_key(&cx.account, &zone.id, &set.id()), &set);
    }
    for vpc in &zone.vpcs {
        txn = vpcs::take(service, cx, txn, &vpc.vpc_id, &zone.name, &zone.id);
        // After the seat was looked at: what comes in between fails the transaction.
        vpcs::conflict(&service.zones(cx), &zone.name, vpc)?;
    }
    let (change_id, txn) = service.record_change(cx, None, txn);
    if !service.store.txn(txn).await.map_err(errors::store)?.succeeded {
        let key = reference_key(&cx.account, &zone.caller_reference);
        let twice = service.store.get(&key).is_some();
        return Err(if twice { errors::zone_exists(&zone.caller_reference) } else { errors::contended() });
    }
    Ok(CreateHostedZoneResponse {
        location: Some(format!("https://route53.amazonaws.com/2013-04-01/hostedzone/{}", zone.id)),
        change_info: Some(submitted(cx, &change_id, None)),
        delegation_set: (!zone.private).then(|| delegation(&zone)),
        vpc: zone.vpcs.first().map(vpcs::shape),
        hosted_zone: Some(shape(zone)),
    })
}

fn record(
    cx: &Context,
    name: String,
    reference: String,
    config: HostedZoneConfig,
    vpc: Option<VpcRecord>,
) -> ZoneRecord {
    let linked_service = match &cx.principal.kind {
        PrincipalKind::Service { name } => Some(name.clone()),
        _ => None,
    };
    ZoneRecord {
        id: ferrogate_model::unique_id("Z"),
        private: vpc.is_some(),
        name_servers: if vpc.is_some() {
            PRIVATE_SERVERS.map(str::to_owned).to_vec()
        } else {
            public_servers()
        },
        name,
        caller_reference: reference,
        comment: config.comment.filter(|comment| !comment.is_empty()),
        vpcs: vpc.into_iter().collect(),
        linked_service,
        record_count: 2,
        inner_aliases: Some(0),
        created_at: cx.now,
        tags: BTreeMap::new(),
    }
}

/// One of each of the four domains, as delegation sets are.
fn public_servers() -> Vec<String> {
    let number = |digits: usize| ferrogate_model::digits(digits);
    ["org", "com", "net", "co.uk"]
        .iter()
        .map(|domain| format!("ns-{}.awsdns-{}.{domain}", number(4), number(2)))
        .collect()
}

fn required(zone: &ZoneRecord) -> [SetRecord; 2] {
    let set = |kind: &str, ttl_seconds, values| SetRecord {
        name: zone.name.clone(),
        kind: kind.into(),
        set_identifier: None,
        ttl_seconds: Some(ttl_seconds),
        values,
        alias: None,
        weight: None,
        multivalue: false,
    };
    let first = zone.name_servers.first().map(String::as_str).unwrap_or_default();
    let soa = format!("{first}. awsdns-hostmaster.amazon.com. 1 7200 900 1209600 86400");
    let servers = zone.name_servers.iter().map(|server| format!("{server}.")).collect();
    [set("NS", NS_TTL_SECONDS, servers), set("SOA", SOA_TTL_SECONDS, vec![soa])]
}

pub(crate) fn shape(zone: ZoneRecord) -> HostedZone {
    HostedZone {
        id: Some(format!("/hostedzone/{}", zone.id)),
        name: Some(shown(&zone.name)),
        caller_reference: Some(zone.caller_reference),
        resource_record_set_count: Some(i64::from(zone.record_count)),
        linked_service: zone.linked_service.map(|principal| LinkedService {
            service_principal: Some(principal),
            description: zone.comment.clone(),
        }),
        config: Some(HostedZoneConfig { comment: zone.comment, private_zone: Some(zone.private) }),
        features: None,
    }
}

fn delegation(zone: &ZoneRecord) -> DelegationSet {
    DelegationSet { name_servers: Some(zone.name_servers.clone()), ..Default::default() }
}

pub(crate) async fn get(
    service: &Route53Service,
    cx: &Context,
    input: GetHostedZoneRequest,
) -> Result<GetHostedZoneResponse, ApiError> {
    let zone = service.zone(cx, input.id.as_deref())?.record;
    Ok(GetHostedZoneResponse {
        delegation_set: (!zone.private).then(|| delegation(&zone)),
        vp_cs: zone.private.then(|| zone.vpcs.iter().map(vpcs::shape).collect()),
        hosted_zone: Some(shape(zone)),
    })
}

/// No zone is signed.
pub(crate) async fn dnssec(
    service: &Route53Service,
    cx: &Context,
    input: GetDNSSECRequest,
) -> Result<GetDNSSECResponse, ApiError> {
    if service.zone(cx, input.hosted_zone_id.as_deref())?.record.private {
        let message = "Operation is unsupported for private hosted zones.";
        return Err(ApiError::new("InvalidArgument", message));
    }
    let status = DNSSECStatus { serve_signature: Some("NOT_SIGNING".into()), status_message: None };
    Ok(GetDNSSECResponse { status: Some(status), key_signing_keys: Some(Vec::new()) })
}

/// Only the service that made a zone changes it.
pub(crate) fn check_owner(cx: &Context, zone: &ZoneRecord) -> Result<(), ApiError> {
    let Some(owner) = &zone.linked_service else { return Ok(()) };
    if matches!(&cx.principal.kind, PrincipalKind::Service { name } if name == owner) {
        return Ok(());
    }
    let by = match owner.as_str() {
        "servicediscovery.amazonaws.com" => {
            let arn = zone
                .comment
                .as_deref()
                .and_then(|comment| comment.split(' ').find(|w| w.starts_with("arn:")));
            arn.map_or_else(|| "AWS Cloud Map".to_owned(), |arn| format!("AWS Cloud Map ({arn})"))
        }
        owner => owner.to_owned(),
    };
    Err(errors::managed(&zone.id, &by))
}

pub(crate) async fn delete(
    service: &Route53Service,
    cx: &Context,
    input: DeleteHostedZoneRequest,
) -> Result<DeleteHostedZoneResponse, ApiError> {
    let change_id = service
        .change_zone(cx, input.id.as_deref(), None, |zone, mut txn| {
            check_owner(cx, zone)?;
            let sets = service.sets(cx, &zone.id);
            if sets.iter().any(|set| !zone.required(set)) {
                return Err(errors::not_empty());
            }
            for set in sets {
                txn = txn.delete(set_key(&cx.account, &zone.id, &set.id()));
            }
            for vpc in &zone.vpcs {
                txn = txn.delete(vpcs::seat(cx, &vpc.vpc_id, &zone.name));
            }
            Ok((None, txn.delete(reference_key(&cx.account, &zone.caller_reference))))
        })
        .await?;
    Ok(DeleteHostedZoneResponse { change_info: Some(submitted(cx, &change_id, None)) })
}

pub(crate) async fn update_comment(
    service: &Route53Service,
    cx: &Context,
    input: UpdateHostedZoneCommentRequest,
) -> Result<UpdateHostedZoneCommentResponse, ApiError> {
    let comment = input.comment.filter(|comment| !comment.is_empty());
    if comment.as_ref().is_some_and(|comment| comment.chars().count() > COMMENT_CHARACTERS_MAX) {
        return Err(errors::invalid_input(format!(
            "Comment has more than {COMMENT_CHARACTERS_MAX} characters."
        )));
    }
    service
        .change_zone(cx, input.id.as_deref(), None, |zone, txn| {
            check_owner(cx, zone)?;
            let zone = ZoneRecord { comment: comment.clone(), ..zone.clone() };
            Ok((Some(zone), txn))
        })
        .await?;
    let id = bare_id(input.id.as_deref().unwrap_or_default()).to_owned();
    let Json { record, .. } = service.zone(cx, Some(&id))?;
    Ok(UpdateHostedZoneCommentResponse { hosted_zone: Some(shape(record)) })
}
