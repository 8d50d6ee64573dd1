//! Load balancers.

use ferrogate_api::ApiError;
use ferrogate_api::elbv2::*;
use ferrogate_store::Txn;

use super::places::{Place, WantedZones, check_allocations, security_groups, zones};
use super::{check_name, new_id, page, tags};
use crate::call::{Call, given};
use crate::errors::{configuration, invalid, no_balancer, not_permitted, refuse, unsupported};
use crate::plan::attributes;
use crate::state::*;

/// ELB user guides, "Quotas": load balancers of a type per region.
pub(crate) const BALANCERS_MAX: usize = 50;
const DNS_DIGITS: usize = 10;

/// Hosted zones of ELB's names: region, application, network (AWS General Reference).
const HOSTED_ZONES: &[(&str, &str, &str)] = &[
    ("us-east-1", "Z35SXDOTRQ7X7K", "Z26RNL4JYFTOTI"),
    ("us-east-2", "Z3AADJGX6KTTL2", "ZLMOA37VPKANP"),
    ("us-west-1", "Z368ELLRRE2KJ0", "Z24FKFUX50B4VW"),
    ("us-west-2", "Z1H1FL5HABSF5", "Z18D5FSROUN65G"),
    ("ca-central-1", "ZQSVJUPU6J1EY", "Z2EPGBW3API2WT"),
    ("sa-east-1", "Z2P70J7HTTTPLU", "ZTK26PT1VY4CU"),
    ("eu-central-1", "Z215JYRZR1TBD5", "Z3F0SRJ5LGBH90"),
    ("eu-north-1", "Z23TAZ6LKFMNIO", "Z1UDT6IFJ4EJM"),
    ("eu-west-1", "Z32O12XQLNTSW2", "Z2IFOLAFXWLO4F"),
    ("eu-west-2", "ZHURV8PSTC4K8", "ZD4D7Y8KGAS4G"),
    ("eu-west-3", "Z3Q77PNBQS71R4", "Z1CMS0P5QUZ6D5"),
    ("ap-northeast-1", "Z14GRHDCWA56QT", "Z31USIVHYNEOWT"),
    ("ap-northeast-2", "ZWKZPGTI48KDX", "ZIBE1TIR4HY56"),
    ("ap-south-1", "ZP97RAFLXTNZK", "ZVDDRBQ08TROA"),
    ("ap-southeast-1", "Z1LMS91P8CMLE5", "ZKVM4W9LS7TM"),
    ("ap-southeast-2", "Z1GM3OXH4ZPM65", "ZCT6FZBF4DROD"),
];

fn hosted_zone(kind: BalancerType, region: &str) -> &'static str {
    let found = HOSTED_ZONES.iter().find(|(name, ..)| *name == region).unwrap_or(&HOSTED_ZONES[0]);
    match kind {
        BalancerType::Application => found.1,
        BalancerType::Network => found.2,
    }
}

pub(crate) fn shape(call: &Call<'_>, record: &BalancerRecord) -> LoadBalancer {
    let status = call.get::<StatusRecord>(Kind::Status, &record.id).map(|found| found.record);
    let (code, reason) = match status {
        None => ("provisioning", None),
        Some(StatusRecord::Active) => ("active", None),
        Some(StatusRecord::Failed { reason }) => ("failed", Some(reason)),
    };
    let network = record.kind == BalancerType::Network;
    LoadBalancer {
        load_balancer_arn: Some(record.arn()),
        dns_name: Some(record.dns_name.clone()),
        canonical_hosted_zone_id: Some(hosted_zone(record.kind, &record.scope.region).into()),
        created_time: Some(record.created),
        load_balancer_name: Some(record.name.clone()),
        scheme: Some(if record.internal { "internal" } else { "internet-facing" }.into()),
        vpc_id: Some(record.vpc_id.clone()),
        state: Some(LoadBalancerState { code: Some(code.into()), reason }),
        r#type: Some(record.kind.as_str().into()),
        availability_zones: Some(zone_shapes(call, record)),
        security_groups: Some(record.security_groups.clone()).filter(|groups| !network || !groups.is_empty()),
        ip_address_type: Some("ipv4".into()),
        enable_prefix_for_ipv6_source_nat: network.then(|| "off".into()),
        ..LoadBalancer::default()
    }
}

fn interface(call: &Call<'_>, balancer: &BalancerRecord, zone: &ZoneRecord) -> Option<InterfaceRecord> {
    call.get(Kind::Interface, &format!("{}/{}", balancer.id, zone.subnet_id)).map(|found| found.record)
}

fn zone_shapes(call: &Call<'_>, record: &BalancerRecord) -> Vec<AvailabilityZone> {
    let shape = |zone: &ZoneRecord| {
        let interface = interface(call, record, zone);
        // As AWS: addresses that were chosen are shown, others are DNS's.
        let chosen = zone.allocation_id.is_some() || zone.private_ip.is_some();
        let address = LoadBalancerAddress {
            ip_address: interface
                .and_then(|own| own.public_ip)
                .map(|ip| ip.to_string())
                .filter(|_| !record.internal),
            allocation_id: zone.allocation_id.clone(),
            private_i_pv4_address: zone.private_ip.map(|ip| ip.to_string()),
            i_pv6_address: None,
        };
        AvailabilityZone {
            zone_name: Some(zone.zone.clone()),
            subnet_id: Some(zone.subnet_id.clone()),
            load_balancer_addresses: Some(if chosen { vec![address] } else { Vec::new() }),
            ..AvailabilityZone::default()
        }
    };
    let mut zones: Vec<AvailabilityZone> = record.zones.iter().map(shape).collect();
    zones.sort_by(|a, b| a.zone_name.cmp(&b.zone_name));
    zones
}

fn check_ip_address_type(given: Option<&str>) -> Result<(), ApiError> {
    match given {
        None | Some("ipv4") => Ok(()),
        Some(other) => Err(unsupported(&format!("The IP address type {other}"))),
    }
}

pub(crate) async fn create(
    call: &Call<'_>,
    input: CreateLoadBalancerInput,
) -> Result<CreateLoadBalancerOutput, ApiError> {
    let name = given(input.name);
    check_name(&name, "The load balancer name")?;
    if name.starts_with("internal-") {
        return Err(invalid(format!("The load balancer name '{name}' cannot begin with 'internal-'")));
    }
    let kind = match input.r#type.as_deref() {
        None | Some("application") => BalancerType::Application,
        Some("network") => BalancerType::Network,
        Some(other) => return Err(unsupported(&format!("The load balancer type {other}"))),
    };
    check_ip_address_type(input.ip_address_type.as_deref())?;
    refuse(&[
        ("CustomerOwnedIpv4Pool", input.customer_owned_ipv4_pool.is_some()),
        ("IpamPools", input.ipam_pools.is_some()),
        ("EnablePrefixForIpv6SourceNat", input.enable_prefix_for_ipv6_source_nat.as_deref() == Some("on")),
    ])?;
    let tags = tags::new(input.tags)?;
    let internal = input.scheme.as_deref() == Some("internal");
    let wanted = WantedZones { kind, internal, subnets: input.subnets, mappings: input.subnet_mappings };
    let place = zones(call, wanted).await?;
    let groups = security_groups(call, kind, &place.vpc_id, input.security_groups).await?;
    // One of that name has its addresses: it is this one, or the name is taken.
    if !call.balancers().iter().any(|found| found.name == name) {
        check_allocations(call, place.zones.iter()).await?;
    }
    let (id, digits) = (new_id(), ferrogate_model::digits(DNS_DIGITS));
    let prefix = if internal { "internal-" } else { "" };
    let record = BalancerRecord {
        id,
        scope: call.scope.clone(),
        dns_name: format!("{prefix}{name}-{digits}.{}.elb.amazonaws.com", call.scope.region),
        name,
        kind,
        internal,
        vpc_id: place.vpc_id,
        created: call.cx.now,
        zones: place.zones,
        security_groups: groups,
        attributes: Default::default(),
        tags,
    };
    let made = call.decide(|| create_one(call, &record)).await?;
    Ok(CreateLoadBalancerOutput { load_balancers: Some(vec![shape(call, &made)]) })
}

fn create_one(call: &Call<'_>, record: &BalancerRecord) -> Result<(Txn, BalancerRecord), ApiError> {
    let all = call.balancers();
    if let Some(found) = all.iter().find(|found| found.name == record.name) {
        let key = |zones: &[ZoneRecord]| {
            let one =
                |zone: &ZoneRecord| (zone.subnet_id.clone(), zone.private_ip, zone.allocation_id.clone());
            let mut key: Vec<_> = zones.iter().map(one).collect();
            key.sort();
            key
        };
        let sorted = |groups: &[String]| {
            let mut groups = groups.to_vec();
            groups.sort();
            groups
        };
        let same = found.kind == record.kind
            && found.internal == record.internal
            && key(&found.zones) == key(&record.zones)
            && sorted(&found.security_groups) == sorted(&record.security_groups)
            && found.tags == record.tags;
        if same {
            return Ok((Txn::new(), found.clone()));
        }
        return Err(ApiError::new(
            "DuplicateLoadBalancerName",
            format!(
                "A load balancer with the same name '{}' exists, but with different settings",
                record.name
            ),
        ));
    }
    if all.iter().filter(|found| found.kind == record.kind).count() >= BALANCERS_MAX {
        return Err(ApiError::new(
            "TooManyLoadBalancers",
            format!("The maximum number of load balancers has been reached: '{BALANCERS_MAX}'"),
        ));
    }
    Ok((Txn::new().put_json(record.key(), record), record.clone()))
}

pub(crate) async fn describe(
    call: &Call<'_>,
    input: DescribeLoadBalancersInput,
) -> Result<DescribeLoadBalancersOutput, ApiError> {
    let (arns, names) = (input.load_balancer_arns.unwrap_or_default(), input.names.unwrap_or_default());
    if !arns.is_empty() && !names.is_empty() {
        return Err(invalid(
            "Load balancer names and load balancer ARNs cannot be specified at the same time",
        ));
    }
    let mut found = call.balancers();
    if !arns.is_empty() {
        for arn in &arns {
            call.balancer(arn).map_err(|error| match error.code.as_str() {
                "LoadBalancerNotFound" => {
                    ApiError::new("LoadBalancerNotFound", "One or more load balancers not found")
                }
                _ => error,
            })?;
        }
        found.retain(|record| arns.contains(&record.arn()));
    }
    if !names.is_empty() {
        let missing: Vec<&str> = names
            .iter()
            .filter(|name| !found.iter().any(|record| record.name == **name))
            .map(String::as_str)
            .collect();
        if !missing.is_empty() {
            let message = format!("Load balancers '[{}]' not found", missing.join(", "));
            return Err(ApiError::new("LoadBalancerNotFound", message));
        }
        found.retain(|record| names.contains(&record.name));
    }
    let (found, next_marker) = page(found, |record| &record.name, input.marker.as_deref(), input.page_size)?;
    Ok(DescribeLoadBalancersOutput {
        load_balancers: Some(found.iter().map(|record| shape(call, record)).collect()),
        next_marker,
    })
}

/// One that is gone already is a success, as on AWS.
pub(crate) async fn delete(
    call: &Call<'_>,
    input: DeleteLoadBalancerInput,
) -> Result<DeleteLoadBalancerOutput, ApiError> {
    let arn = given(input.load_balancer_arn);
    call.decide(|| {
        let record = match call.balancer(&arn) {
            Ok(record) => record,
            Err(error) if error.code == "LoadBalancerNotFound" => return Ok((Txn::new(), ())),
            Err(error) => return Err(error),
        };
        let known = attributes::of_balancer(record.kind);
        if attributes::is_on(&known, &record.attributes, "deletion_protection.enabled") {
            return Err(not_permitted(format!(
                "Load balancer '{arn}' cannot be deleted because deletion protection is enabled"
            )));
        }
        super::balancer_targets::check_balancer_goes(call, &record)?;
        let mut txn = Txn::new().delete(record.key()).delete(call.scope.key(Kind::Status, &record.id));
        for listener in call.listeners(&record.id) {
            txn = super::listeners::delete_in(call, txn, &listener);
        }
        for kind in [Kind::Node, Kind::Health] {
            txn = txn.delete_prefix(call.scope.key(kind, &format!("{}/", record.id)));
        }
        Ok((txn, ()))
    })
    .await?;
    Ok(DeleteLoadBalancerOutput {})
}

/// Changes a balancer that is there.
pub(crate) async fn change(
    call: &Call<'_>,
    arn: &str,
    mut change: impl FnMut(&mut BalancerRecord) -> Result<(), ApiError>,
) -> Result<BalancerRecord, ApiError> {
    call.decide(|| {
        let mut record = call.balancer(arn)?;
        let before = record.clone();
        change(&mut record)?;
        let txn = if record == before { Txn::new() } else { Txn::new().put_json(record.key(), &record) };
        Ok((txn, record))
    })
    .await
}

pub(crate) async fn set_security_groups(
    call: &Call<'_>,
    input: SetSecurityGroupsInput,
) -> Result<SetSecurityGroupsOutput, ApiError> {
    refuse(&[(
        "EnforceSecurityGroupInboundRulesOnPrivateLinkTraffic",
        input.enforce_security_group_inbound_rules_on_private_link_traffic.is_some(),
    )])?;
    let arn = given(input.load_balancer_arn);
    let record = call.balancer(&arn)?;
    let wanted = input.security_groups.unwrap_or_default();
    if wanted.is_empty() {
        return Err(invalid("At least one security group must be specified"));
    }
    if record.kind == BalancerType::Network && record.security_groups.is_empty() {
        return Err(configuration(
            "You cannot associate security groups with a Network Load Balancer that was created without security groups",
        ));
    }
    let groups = security_groups(call, record.kind, &record.vpc_id, Some(wanted)).await?;
    let record = change(call, &arn, |record| {
        record.security_groups.clone_from(&groups);
        Ok(())
    });
    Ok(SetSecurityGroupsOutput {
        security_group_ids: Some(record.await?.security_groups),
        ..Default::default()
    })
}

pub(crate) async fn set_subnets(
    call: &Call<'_>,
    input: SetSubnetsInput,
) -> Result<SetSubnetsOutput, ApiError> {
    check_ip_address_type(input.ip_address_type.as_deref())?;
    refuse(&[(
        "EnablePrefixForIpv6SourceNat",
        input.enable_prefix_for_ipv6_source_nat.as_deref() == Some("on"),
    )])?;
    let arn = given(input.load_balancer_arn);
    let record = call.balancer(&arn)?;
    let (kind, internal) = (record.kind, record.internal);
    let wanted = WantedZones { kind, internal, subnets: input.subnets, mappings: input.subnet_mappings };
    let Place { vpc_id, zones } = zones(call, wanted).await?;
    if vpc_id != record.vpc_id {
        return Err(configuration(format!(
            "The subnets must belong to the VPC of the load balancer, '{}'",
            record.vpc_id
        )));
    }
    let is_new = |zone: &&ZoneRecord| !record.zones.iter().any(|was| was.subnet_id == zone.subnet_id);
    check_allocations(call, zones.iter().filter(is_new)).await?;
    let record = change(call, &arn, |record| {
        if record.kind == BalancerType::Network {
            check_kept(call, record, &zones)?;
            check_moves(record, &zones)?;
        }
        let merged = zones.iter().map(|zone| {
            // The addresses of a zone that stays are its own.
            let was = record.zones.iter().find(|was| was.subnet_id == zone.subnet_id);
            was.unwrap_or(zone).clone()
        });
        record.zones = merged.collect();
        Ok(())
    });
    let record = record.await?;
    Ok(SetSubnetsOutput {
        availability_zones: Some(zone_shapes(call, &record)),
        ip_address_type: Some("ipv4".into()),
        enable_prefix_for_ipv6_source_nat: (record.kind == BalancerType::Network).then(|| "off".into()),
    })
}

/// A network load balancer's zones keep the addresses they have, so whoever names one has to name that.
fn check_kept(call: &Call<'_>, balancer: &BalancerRecord, wanted: &[ZoneRecord]) -> Result<(), ApiError> {
    for zone in wanted {
        let Some(was) = balancer.zones.iter().find(|was| was.subnet_id == zone.subnet_id) else { continue };
        let private_ip = was.private_ip.or_else(|| interface(call, balancer, was).map(|own| own.private_ip));
        let other = (zone.allocation_id.is_some() && zone.allocation_id != was.allocation_id)
            || (zone.private_ip.is_some() && zone.private_ip != private_ip);
        if other {
            return Err(configuration(format!(
                "The address of a Network Load Balancer in a subnet cannot be changed. Name the one that it has in the \
                 subnet '{}', or none",
                zone.subnet_id
            )));
        }
    }
    Ok(())
}

/// ELB user guide, "Update the Availability Zones for your Network Load Balancer": a zone's subnet is first removed, then another
/// one is added.
fn check_moves(balancer: &BalancerRecord, wanted: &[ZoneRecord]) -> Result<(), ApiError> {
    for zone in wanted {
        if let Some(was) = balancer.zones.iter().find(|was| was.zone == zone.zone)
            && was.subnet_id != zone.subnet_id
        {
            return Err(configuration(format!(
                "The subnet '{}' of a Network Load Balancer cannot be replaced by '{}' in one request. Remove the first, then \
                 add the second",
                was.subnet_id, zone.subnet_id
            )));
        }
    }
    Ok(())
}

pub(crate) async fn set_ip_address_type(
    call: &Call<'_>,
    input: SetIpAddressTypeInput,
) -> Result<SetIpAddressTypeOutput, ApiError> {
    let arn = given(input.load_balancer_arn);
    call.balancer(&arn).map_err(|_| no_balancer(&arn))?;
    check_ip_address_type(input.ip_address_type.as_deref())?;
    Ok(SetIpAddressTypeOutput { ip_address_type: Some("ipv4".into()) })
}
