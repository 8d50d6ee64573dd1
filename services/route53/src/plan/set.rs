//! Record sets: from the API's shape to the record, and back.

use ferrogate_api::ApiError;
use ferrogate_api::route53::{AliasTarget, ResourceRecord, ResourceRecordSet};

use crate::errors::{invalid_input, no_health_check, unsupported};
use crate::state::{AliasRecord, SetRecord, bare_id};

const TTL_SECONDS_MAX: i64 = i32::MAX as i64;
/// Route 53 developer guide, "Quotas": values of one record set.
const VALUES_MAX: usize = 400;
const WEIGHT_MAX: i64 = 255;

/// As given, but for names, which are brought into their normal form.
///
/// # Errors
/// `InvalidInput`: a shape that no set has, or a routing policy that is not served.
pub(crate) fn read(shape: ResourceRecordSet, action: &str) -> Result<SetRecord, ApiError> {
    let name = shape.name.unwrap_or_default();
    let kind = shape.r#type.unwrap_or_default();
    for (present, what) in [
        (shape.region.is_some(), "latency routing (Region)"),
        (shape.geo_location.is_some(), "geolocation routing (GeoLocation)"),
        (shape.geo_proximity_location.is_some(), "geoproximity routing (GeoProximityLocation)"),
        (shape.failover.is_some(), "failover routing (Failover)"),
        (shape.cidr_routing_config.is_some(), "IP-based routing (CidrRoutingConfig)"),
        (shape.traffic_policy_instance_id.is_some(), "traffic policies (TrafficPolicyInstanceId)"),
    ] {
        if present {
            return Err(unsupported(what));
        }
    }
    if let Some(id) = shape.health_check_id {
        return Err(no_health_check(&id));
    }
    let place = format!(
        "[Action={action}, Name={name}, Type={kind}, SetIdentifier={}]",
        shape.set_identifier.as_deref().unwrap_or("null")
    );
    let values: Vec<String> = shape
        .resource_records
        .unwrap_or_default()
        .into_iter()
        .map(|record| record.value.unwrap_or_default())
        .collect();
    if values.len() > VALUES_MAX {
        return Err(invalid_input(format!(
            "Invalid request: more than {VALUES_MAX} ResourceRecords in {place}"
        )));
    }
    let alias = shape.alias_target.map(alias).transpose()?;
    let plain = shape.ttl.is_some() && !values.is_empty();
    if plain == alias.is_some() || (alias.is_some() && (shape.ttl.is_some() || !values.is_empty())) {
        let found = if plain || alias.is_some() { "more than one" } else { "none" };
        return Err(invalid_input(format!(
            "Invalid request: Expected exactly one of [AliasTarget, all of [TTL, and ResourceRecords], or TrafficPolicyInstanceId], but found {found} in Change with {place}"
        )));
    }
    let ttl_seconds = shape.ttl.map(|ttl| within("TTL", ttl, TTL_SECONDS_MAX)).transpose()?;
    let weight = shape.weight.map(|weight| within("Weight", weight, WEIGHT_MAX)).transpose()?;
    let multivalue = shape.multi_value_answer == Some(true);
    routing(weight.is_some(), multivalue, shape.set_identifier.is_some(), &place)?;
    if alias.as_ref().is_some_and(|alias| alias.evaluate_target_health) && weight.is_some() {
        return Err(unsupported("EvaluateTargetHealth=true of a weighted alias"));
    }
    Ok(SetRecord {
        name: normal(&name)?,
        kind,
        set_identifier: shape.set_identifier,
        ttl_seconds: ttl_seconds.map(|ttl| u32::try_from(ttl).unwrap_or(0)),
        values,
        alias,
        weight: weight.map(|weight| u8::try_from(weight).unwrap_or(u8::MAX)),
        multivalue,
    })
}

fn routing(weighted: bool, multivalue: bool, identifier: bool, place: &str) -> Result<(), ApiError> {
    let policies = usize::from(weighted) + usize::from(multivalue);
    let what =
        "Weight, Region, Failover, GeoLocation, MultiValueAnswer, GeoProximityLocation, or CidrRoutingConfig";
    match (policies, identifier) {
        (0, false) | (1, true) => Ok(()),
        (2, _) => Err(invalid_input(format!(
            "Invalid request: Expected exactly one of [{what}], but found more than one in Change with {place}"
        ))),
        (_, true) => Err(invalid_input(format!(
            "Invalid request: Expected exactly one of [{what}], but found none in Change with {place}"
        ))),
        (_, false) => Err(invalid_input(format!(
            "Invalid request: Missing field 'SetIdentifier' in Change with {place}"
        ))),
    }
}

fn alias(target: AliasTarget) -> Result<AliasRecord, ApiError> {
    Ok(AliasRecord {
        zone_id: bare_id(target.hosted_zone_id.as_deref().unwrap_or_default()).to_owned(),
        name: normal(target.dns_name.as_deref().unwrap_or_default())?,
        evaluate_target_health: target.evaluate_target_health == Some(true),
    })
}

fn within(what: &str, value: i64, most: i64) -> Result<i64, ApiError> {
    if (0..=most).contains(&value) {
        return Ok(value);
    }
    Err(invalid_input(format!("Invalid request: {what} is {value}; it must be from 0 to {most}")))
}

fn normal(name: &str) -> Result<String, ApiError> {
    ferrogate_dns::normal(name).map_err(|error| {
        let problem = match error {
            ferrogate_dns::NameError::Character => {
                "UnsupportedCharacter (Value contains unsupported characters)"
            }
            ferrogate_dns::NameError::LongLabel => "DomainLabelTooLong (Domain label is too long)",
            ferrogate_dns::NameError::Long => "DomainNameTooLong (Domain name is too long)",
            ferrogate_dns::NameError::EmptyLabel => "DomainLabelEmpty (Domain label is empty)",
            ferrogate_dns::NameError::Empty => "DomainNameEmpty (Domain name is empty)",
        };
        invalid_input(format!("FATAL problem: {problem} encountered with '{name}'"))
    })
}

/// As Route 53 shows names: a dot at the end, `*` as an escape.
pub(crate) fn shown(name: &str) -> String {
    format!("{}.", name.replace('*', "\\052"))
}

pub(crate) fn shape(set: SetRecord) -> ResourceRecordSet {
    let values =
        set.values.into_iter().map(|value| ResourceRecord { value: Some(value) }).collect::<Vec<_>>();
    ResourceRecordSet {
        name: Some(shown(&set.name)),
        r#type: Some(set.kind),
        set_identifier: set.set_identifier,
        ttl: set.ttl_seconds.map(i64::from),
        weight: set.weight.map(i64::from),
        multi_value_answer: set.multivalue.then_some(true),
        resource_records: Some(values).filter(|values| !values.is_empty()),
        alias_target: set.alias.map(|alias| AliasTarget {
            hosted_zone_id: Some(alias.zone_id),
            dns_name: Some(shown(&alias.name)),
            evaluate_target_health: Some(alias.evaluate_target_health),
        }),
        ..Default::default()
    }
}

/// Sorted as ListResourceRecordSets has them: by the labels of the name from the last to the first.
pub(crate) fn order(name: &str) -> Vec<&str> {
    name.rsplit('.').collect()
}
