//! Where a balancer is: subnets, zones, security groups, addresses. EC2 is asked, in ELB's own name.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use ferrogate_api::elbv2::{SubnetMapping, TargetDescription};
use ferrogate_api::{ApiError, ec2};
use ipnet::Ipv4Net;

use crate::call::Call;
use crate::errors::{configuration, in_use, invalid, refuse};
use crate::state::{BalancerType, ZoneRecord};

const APPLICATION_ZONES_MIN: usize = 2;
/// ELB user guides, "Quotas": subnets, security groups per balancer.
const SECURITY_GROUPS_MAX: usize = 5;

/// A balancer's place, resolved.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) vpc_id: String,
    pub(crate) zones: Vec<ZoneRecord>,
}

/// What was asked of zones.
pub(crate) struct WantedZones {
    pub(crate) kind: BalancerType,
    pub(crate) internal: bool,
    pub(crate) subnets: Option<Vec<String>>,
    pub(crate) mappings: Option<Vec<SubnetMapping>>,
}

fn filter(name: &str, value: &str) -> ec2::Filter {
    ec2::Filter { name: Some(name.into()), values: Some(vec![value.to_owned()]) }
}

/// A refusal of EC2's that is about what the caller named; anything else is the caller's as it is.
fn from_ec2(error: ApiError) -> ApiError {
    match error.code.as_str() {
        "InvalidSubnetID.NotFound" | "InvalidSubnetID.Malformed" => {
            ApiError::new("SubnetNotFound", error.message)
        }
        "InvalidGroup.NotFound" | "InvalidGroupId.Malformed" => {
            ApiError::new("InvalidSecurityGroup", error.message)
        }
        "InvalidAllocationID.NotFound" => ApiError::new("AllocationIdNotFound", error.message),
        _ => error,
    }
}

pub(crate) async fn zones(call: &Call<'_>, wanted: WantedZones) -> Result<Place, ApiError> {
    let mappings = match (wanted.subnets.unwrap_or_default(), wanted.mappings.unwrap_or_default()) {
        (subnets, mappings) if subnets.is_empty() && mappings.is_empty() => {
            return Err(invalid("Either subnets or subnet mappings must be specified"));
        }
        (subnets, mappings) if !subnets.is_empty() && !mappings.is_empty() => {
            return Err(invalid("You cannot specify both subnets and subnet mappings"));
        }
        (subnets, mappings) if mappings.is_empty() => {
            let mapping = |id| SubnetMapping { subnet_id: Some(id), ..SubnetMapping::default() };
            subnets.into_iter().map(mapping).collect()
        }
        (_, mappings) => mappings,
    };
    let ids: Vec<String> = mappings.iter().filter_map(|mapping| mapping.subnet_id.clone()).collect();
    if ids.len() != mappings.len() {
        return Err(invalid("A subnet ID must be specified in each subnet mapping"));
    }
    if ids.iter().collect::<BTreeSet<_>>().len() != ids.len() {
        return Err(configuration(
            "A load balancer cannot be attached to multiple subnets in the same Availability Zone",
        ));
    }
    let request = ec2::DescribeSubnetsRequest { subnet_ids: Some(ids), ..Default::default() };
    let found = call.ec2().describe_subnets(request).await.map_err(from_ec2)?.subnets.unwrap_or_default();
    let mut vpc = None;
    let mut zones = Vec::new();
    for mapping in mappings {
        let id = mapping.subnet_id.clone().unwrap_or_default();
        let subnet = found.iter().find(|subnet| subnet.subnet_id.as_deref() == Some(&id));
        let (Some(vpc_id), Some(zone), Some(cidr)) = (
            subnet.and_then(|subnet| subnet.vpc_id.clone()),
            subnet.and_then(|subnet| subnet.availability_zone.clone()),
            subnet.and_then(|subnet| subnet.cidr_block.as_deref()?.parse::<Ipv4Net>().ok()),
        ) else {
            return Err(ApiError::new("SubnetNotFound", format!("The subnet ID '{id}' does not exist")));
        };
        if *vpc.get_or_insert_with(|| vpc_id.clone()) != vpc_id {
            return Err(configuration("All subnets must belong to the same VPC"));
        }
        let (private_ip, allocation_id) = addresses(&wanted.kind, wanted.internal, &mapping, cidr)?;
        zones.push(ZoneRecord {
            zone,
            subnet_id: id,
            subnet_cidr: cidr,
            vpc_cidr: cidr,
            private_ip,
            allocation_id,
        });
    }
    let names: BTreeSet<&str> = zones.iter().map(|zone| zone.zone.as_str()).collect();
    if names.len() != zones.len() {
        return Err(configuration(
            "A load balancer cannot be attached to multiple subnets in the same Availability Zone",
        ));
    }
    if wanted.kind == BalancerType::Application && zones.len() < APPLICATION_ZONES_MIN {
        return Err(invalid("At least two subnets in two different Availability Zones must be specified"));
    }
    let vpc_id = vpc.unwrap_or_default();
    let vpc_cidr = vpc_cidrs(call, &vpc_id).await?.into_iter().next().ok_or_else(ApiError::internal)?;
    zones.iter_mut().for_each(|zone| zone.vpc_cidr = vpc_cidr);
    if !wanted.internal {
        let request = ec2::DescribeInternetGatewaysRequest {
            filters: Some(vec![filter("attachment.vpc-id", &vpc_id)]),
            ..Default::default()
        };
        let gateways = call.ec2().describe_internet_gateways(request).await?.internet_gateways;
        if gateways.is_none_or(|gateways| gateways.is_empty()) {
            return Err(ApiError::new("InvalidSubnet", format!("VPC {vpc_id} has no internet gateway")));
        }
    }
    Ok(Place { vpc_id, zones })
}

/// The addresses a mapping asks for.
fn addresses(
    kind: &BalancerType,
    internal: bool,
    mapping: &SubnetMapping,
    cidr: Ipv4Net,
) -> Result<(Option<Ipv4Addr>, Option<String>), ApiError> {
    refuse(&[
        ("IPv6Address", mapping.i_pv6_address.is_some()),
        ("SourceNatIpv6Prefix", mapping.source_nat_ipv6_prefix.is_some()),
    ])?;
    if mapping.private_i_pv4_address.is_none() && mapping.allocation_id.is_none() {
        return Ok((None, None));
    }
    if *kind == BalancerType::Application {
        return Err(invalid("You cannot specify addresses for the subnets of an application load balancer"));
    }
    if internal && mapping.allocation_id.is_some() {
        return Err(configuration("You cannot specify an allocation ID for an internal load balancer"));
    }
    if !internal && mapping.private_i_pv4_address.is_some() {
        return Err(configuration(
            "You cannot specify a private IPv4 address for an internet-facing load balancer",
        ));
    }
    let private_ip = match mapping.private_i_pv4_address.as_deref() {
        None => None,
        Some(text) => {
            let ip: Option<Ipv4Addr> = text.parse().ok().filter(|ip| cidr.contains(ip));
            let message = format!("The private IPv4 address '{text}' is not in the subnet's range {cidr}");
            Some(ip.ok_or_else(|| invalid(message))?)
        }
    };
    Ok((private_ip, mapping.allocation_id.clone()))
}

/// Elastic IP addresses that new zones are to have: each for one zone, and nobody's yet.
pub(crate) async fn check_allocations<'a>(
    call: &Call<'_>,
    zones: impl Iterator<Item = &'a ZoneRecord>,
) -> Result<(), ApiError> {
    let wanted: Vec<String> = zones.filter_map(|zone| zone.allocation_id.clone()).collect();
    if wanted.is_empty() {
        return Ok(());
    }
    let distinct: BTreeSet<&String> = wanted.iter().collect();
    let request = ec2::DescribeAddressesRequest {
        allocation_ids: Some(distinct.iter().map(|id| (*id).clone()).collect()),
        ..Default::default()
    };
    let found = call.ec2().describe_addresses(request).await.map_err(from_ec2)?.addresses.unwrap_or_default();
    // Until its interfaces are made, EC2 does not know of a balancer's addresses.
    let balancers = call.balancers();
    let mut promised =
        balancers.iter().flat_map(|other| &other.zones).filter_map(|zone| zone.allocation_id.as_ref());
    if distinct.len() < wanted.len()
        || found.iter().any(|address| address.association_id.is_some())
        || promised.any(|id| distinct.contains(id))
    {
        return Err(in_use("The allocation IDs are not available for use"));
    }
    Ok(())
}

/// All blocks of a VPC, the primary one first.
pub(crate) async fn vpc_cidrs(call: &Call<'_>, vpc_id: &str) -> Result<Vec<Ipv4Net>, ApiError> {
    let request = ec2::DescribeVpcsRequest { vpc_ids: Some(vec![vpc_id.to_owned()]), ..Default::default() };
    let vpcs = match call.ec2().describe_vpcs(request).await {
        Ok(answer) => answer.vpcs.unwrap_or_default(),
        Err(error) if error.code.starts_with("InvalidVpc") => {
            return Err(invalid(format!("The VPC ID '{vpc_id}' is not found")));
        }
        Err(error) => return Err(error),
    };
    let vpc = vpcs.into_iter().next().unwrap_or_default();
    let more = vpc.cidr_block_association_set.into_iter().flatten().filter_map(|block| block.cidr_block);
    let mut cidrs: Vec<Ipv4Net> =
        vpc.cidr_block.into_iter().chain(more).filter_map(|text| text.parse().ok()).collect();
    let mut seen = BTreeSet::new();
    cidrs.retain(|cidr| seen.insert(*cidr));
    Ok(cidrs)
}

/// The groups a balancer in a VPC gets: those named, which must be there, or the VPC's default one.
pub(crate) async fn security_groups(
    call: &Call<'_>,
    kind: BalancerType,
    vpc_id: &str,
    wanted: Option<Vec<String>>,
) -> Result<Vec<String>, ApiError> {
    let wanted = wanted.unwrap_or_default();
    if wanted.is_empty() {
        if kind == BalancerType::Network {
            return Ok(Vec::new());
        }
        let request = ec2::DescribeSecurityGroupsRequest {
            filters: Some(vec![filter("vpc-id", vpc_id), filter("group-name", "default")]),
            ..Default::default()
        };
        let found = call.ec2().describe_security_groups(request).await?.security_groups.unwrap_or_default();
        return Ok(found.into_iter().filter_map(|group| group.group_id).collect());
    }
    if wanted.len() > SECURITY_GROUPS_MAX {
        return Err(configuration(format!(
            "A load balancer can have at most '{SECURITY_GROUPS_MAX}' security groups"
        )));
    }
    let request =
        ec2::DescribeSecurityGroupsRequest { group_ids: Some(wanted.clone()), ..Default::default() };
    let found = call.ec2().describe_security_groups(request).await;
    let found = found.map_err(from_ec2)?.security_groups.unwrap_or_default();
    for id in &wanted {
        let group = found.iter().find(|group| group.group_id.as_ref() == Some(id));
        if group.and_then(|group| group.vpc_id.as_deref()) != Some(vpc_id) {
            return Err(configuration("One or more security groups are invalid"));
        }
    }
    Ok(wanted)
}

/// RFC 1918 and RFC 6598: what targets outside the VPC may be in.
const PRIVATE: [Ipv4Net; 4] = [
    Ipv4Net::new_assert(Ipv4Addr::new(10, 0, 0, 0), 8),
    Ipv4Net::new_assert(Ipv4Addr::new(172, 16, 0, 0), 12),
    Ipv4Net::new_assert(Ipv4Addr::new(192, 168, 0, 0), 16),
    Ipv4Net::new_assert(Ipv4Addr::new(100, 64, 0, 0), 10),
];

/// Subnets of a VPC, as far as targets are concerned.
pub(crate) struct Neighbourhood {
    cidrs: Vec<Ipv4Net>,
    subnets: Vec<(Ipv4Net, String)>,
}

impl Neighbourhood {
    pub(crate) async fn of(call: &Call<'_>, vpc_id: &str) -> Result<Self, ApiError> {
        let cidrs = vpc_cidrs(call, vpc_id).await?;
        let request = ec2::DescribeSubnetsRequest {
            filters: Some(vec![filter("vpc-id", vpc_id)]),
            ..Default::default()
        };
        let subnets = call.ec2().describe_subnets(request).await?.subnets.unwrap_or_default();
        let subnet =
            |subnet: ec2::Subnet| Some((subnet.cidr_block?.parse().ok()?, subnet.availability_zone?));
        Ok(Self { cidrs, subnets: subnets.into_iter().filter_map(subnet).collect() })
    }

    pub(crate) fn is_inside(&self, ip: Ipv4Addr) -> bool {
        self.cidrs.iter().any(|cidr| cidr.contains(&ip))
    }

    /// The target's address and zone (`all`, or a name).
    pub(crate) fn locate(&self, target: &TargetDescription) -> Result<(Ipv4Addr, String), ApiError> {
        let id = target.id.as_deref().unwrap_or_default();
        let ip: Ipv4Addr =
            id.parse().map_err(|_| invalid(format!("The IP address '{id}' is not a valid IPv4 address")))?;
        let wanted = target.availability_zone.as_deref();
        let inside = self.is_inside(ip);
        let subnet = self.subnets.iter().find(|(cidr, _)| inside && cidr.contains(&ip));
        match (subnet, wanted) {
            (Some((_, zone)), Some(wanted)) if wanted != zone => Err(invalid(format!(
                "The IP address '{ip}' is within the VPC, and cannot have its Availability Zone overridden to \
                 '{wanted}' from '{zone}'"
            ))),
            (Some((_, zone)), _) => Ok((ip, zone.clone())),
            (None, _) if !inside && !PRIVATE.iter().any(|block| block.contains(&ip)) => Err(ApiError::new(
                "InvalidTarget",
                format!(
                    "The IP address '{ip}' is not valid: it must be in a subnet of the VPC of the target group, in \
                         the RFC 1918 range, or in the RFC 6598 range"
                ),
            )),
            (None, None) => Err(invalid(format!(
                "You must specify a valid Availability Zone or select 'all' for all enabled Availability zones, since \
                 the IP address '{ip}' is outside the VPC"
            ))),
            (None, Some(wanted)) => {
                let known = wanted == "all" || self.subnets.iter().any(|(_, zone)| zone == wanted);
                if !known {
                    return Err(invalid(format!("The Availability Zone '{wanted}' is not valid")));
                }
                Ok((ip, wanted.to_owned()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn locate(id: &str, zone: Option<&str>) -> Result<(Ipv4Addr, String), ApiError> {
        let neighbourhood = Neighbourhood {
            cidrs: vec!["10.1.0.0/16".parse().unwrap()],
            subnets: vec![("10.1.1.0/24".parse().unwrap(), "us-east-1b".into())],
        };
        let target = TargetDescription {
            id: Some(id.into()),
            availability_zone: zone.map(str::to_owned),
            ..TargetDescription::default()
        };
        neighbourhood.locate(&target)
    }

    #[test]
    fn where_targets_may_be() {
        assert_eq!(locate("10.1.1.7", None).unwrap().1, "us-east-1b");
        assert_eq!(locate("10.9.1.7", Some("all")).unwrap().1, "all");
        for (id, zone, says) in [
            (
                "10.1.1.7",
                Some("all"),
                "cannot have its Availability Zone overridden to 'all' from 'us-east-1b'",
            ),
            ("10.9.1.7", None, "since the IP address '10.9.1.7' is outside the VPC"),
            ("8.8.8.8", Some("all"), "RFC 1918"),
            ("i-0123", None, "is not a valid IPv4 address"),
            ("10.9.1.7", Some("eu-west-1a"), "is not valid"),
        ] {
            let error = locate(id, zone).unwrap_err();
            assert!(error.message.contains(says), "{}", error.message);
        }
    }
}
