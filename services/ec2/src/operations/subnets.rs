//! Subnets and their attributes.

use ferrogate_api::ApiError;
use ferrogate_api::ec2::*;

use super::tags;
use crate::call::Call;
use crate::db::Changes;
use crate::errors::{check_dry_run, dependency, invalid_combination, invalid_value, missing, refuse};
use crate::filter::{Described, Filters, Values, page};
use crate::ids;
use crate::plan::addresses::AddressRange;
use crate::plan::cidr;
use crate::plan::zones::{Zone, zones};
use crate::state::*;

/// VPC user guide, "Amazon VPC quotas".
const SUBNETS_PER_VPC_MAX: usize = 200;

pub(crate) fn shape(call: &Call<'_>, subnet: &SubnetRecord) -> Result<Subnet, ApiError> {
    let used = call.count(&call.scope.private_addresses(&subnet.subnet_id));
    let free = AddressRange::of_subnet(subnet.cidr).len().saturating_sub(used);
    Ok(Subnet {
        availability_zone_id: Some(subnet.zone_id.clone()),
        map_customer_owned_ip_on_launch: Some(false),
        owner_id: Some(call.scope.account.clone()),
        assign_ipv6_address_on_creation: Some(false),
        ipv6_cidr_block_association_set: Some(Vec::new()),
        tags: Some(tags::shape(&subnet.tags)),
        subnet_arn: Some(ids::SUBNET.arn(&call.scope.region, &call.scope.account, &subnet.subnet_id)),
        enable_dns64: Some(false),
        ipv6_native: Some(false),
        private_dns_name_options_on_launch: Some(PrivateDnsNameOptionsOnLaunch {
            hostname_type: Some(subnet.hostname_type.clone()),
            enable_resource_name_dns_a_record: Some(subnet.resource_name_dns_a_record),
            enable_resource_name_dns_aaaa_record: Some(false),
        }),
        subnet_id: Some(subnet.subnet_id.clone()),
        state: Some("available".into()),
        vpc_id: Some(subnet.vpc_id.clone()),
        cidr_block: Some(subnet.cidr.to_string()),
        available_ip_address_count: Some(
            i32::try_from(free).expect("a subnet has fewer than 2^16 addresses"),
        ),
        availability_zone: Some(subnet.zone.clone()),
        default_for_az: Some(subnet.default_for_az),
        map_public_ip_on_launch: Some(subnet.map_public_ip_on_launch),
        ..Subnet::default()
    })
}

impl Described for Subnet {
    const FILTERS: &'static [&'static str] = &[
        "availability-zone",
        "availability-zone-id",
        "availabilityZone",
        "availabilityZoneId",
        "available-ip-address-count",
        "cidr",
        "cidr-block",
        "cidrBlock",
        "customer-owned-ipv4-pool",
        "default-for-az",
        "defaultForAz",
        "enable-dns64",
        "enable-lni-at-device-index",
        "ipv6-cidr-block-association.association-id",
        "ipv6-cidr-block-association.ipv6-cidr-block",
        "ipv6-cidr-block-association.state",
        "ipv6-native",
        "map-customer-owned-ip-on-launch",
        "map-public-ip-on-launch",
        "outpost-arn",
        "owner-id",
        "private-dns-name-options-on-launch.enable-resource-name-dns-a-record",
        "private-dns-name-options-on-launch.enable-resource-name-dns-aaaa-record",
        "private-dns-name-options-on-launch.hostname-type",
        "state",
        "subnet-arn",
        "subnet-id",
        "vpc-id",
    ];

    fn id(&self) -> &str {
        self.subnet_id.as_deref().unwrap_or_default()
    }

    fn tags(&self) -> &[Tag] {
        self.tags.as_deref().unwrap_or_default()
    }

    fn values(&self, filter: &str) -> Values {
        let dns = self.private_dns_name_options_on_launch.as_ref();
        match filter {
            "availability-zone" | "availabilityZone" => Values::one(&self.availability_zone),
            "availability-zone-id" | "availabilityZoneId" => Values::one(&self.availability_zone_id),
            "available-ip-address-count" => Values::one(&self.available_ip_address_count),
            "cidr" | "cidr-block" | "cidrBlock" => Values::one(&self.cidr_block),
            "default-for-az" | "defaultForAz" => Values::one(&self.default_for_az),
            "enable-dns64" => Values::one(&self.enable_dns64),
            "ipv6-native" => Values::one(&self.ipv6_native),
            "map-customer-owned-ip-on-launch" => Values::one(&self.map_customer_owned_ip_on_launch),
            "map-public-ip-on-launch" => Values::one(&self.map_public_ip_on_launch),
            "owner-id" => Values::one(&self.owner_id),
            "private-dns-name-options-on-launch.enable-resource-name-dns-a-record" => {
                Values::one(&dns.and_then(|dns| dns.enable_resource_name_dns_a_record))
            }
            "private-dns-name-options-on-launch.enable-resource-name-dns-aaaa-record" => {
                Values::one(&dns.and_then(|dns| dns.enable_resource_name_dns_aaaa_record))
            }
            "private-dns-name-options-on-launch.hostname-type" => {
                Values::one(&dns.and_then(|dns| dns.hostname_type.clone()))
            }
            "state" => Values::one(&self.state),
            "subnet-arn" => Values::one(&self.subnet_arn),
            "subnet-id" => Values::one(&self.subnet_id),
            "vpc-id" => Values::one(&self.vpc_id),
            // Outposts, IPv6, customer-owned addresses: no subnet has them.
            _ => Values::none(),
        }
    }
}

pub(crate) async fn describe(
    call: &Call<'_>,
    input: DescribeSubnetsRequest,
) -> Result<DescribeSubnetsResult, ApiError> {
    check_dry_run(input.dry_run)?;
    let filters = Filters::new::<Subnet>(input.filters)?;
    let records = call.named::<SubnetRecord>(input.subnet_ids)?;
    let subnets = records.iter().map(|subnet| shape(call, subnet)).collect::<Result<Vec<_>, _>>()?;
    let page = page(subnets, &filters, input.max_results, input.next_token.as_deref())?;
    Ok(DescribeSubnetsResult { subnets: Some(page.items), next_token: page.next_token })
}

/// The region's zone of that name or id.
pub(crate) fn find_zone(call: &Call<'_>, name: Option<&str>, id: Option<&str>) -> Result<Zone, ApiError> {
    let zones = zones(&call.scope.region);
    let (parameter, wanted) = match (name, id) {
        (Some(name), None) => ("availabilityZone", name),
        (None, Some(id)) => ("availabilityZoneId", id),
        (None, None) => return Ok(zones[0].clone()),
        (Some(_), Some(_)) => {
            return Err(invalid_combination("Specify AvailabilityZone or AvailabilityZoneId, not both."));
        }
    };
    let of = |zone: &Zone| if name.is_some() { zone.name.clone() } else { zone.id.clone() };
    zones.iter().find(|zone| of(zone) == wanted).cloned().ok_or_else(|| {
        let all: Vec<String> = zones.iter().map(of).collect();
        invalid_value(format!(
            "Value ({wanted}) for parameter {parameter} is invalid. Subnets can currently only be created in the following availability zones: {}.",
            all.join(", ")
        ))
    })
}

pub(crate) async fn create(
    call: &Call<'_>,
    input: CreateSubnetRequest,
) -> Result<CreateSubnetResult, ApiError> {
    check_dry_run(input.dry_run)?;
    refuse(&[
        ("Ipv6CidrBlock", input.ipv6_cidr_block.is_some()),
        ("OutpostArn", input.outpost_arn.is_some()),
        ("Ipv6Native", input.ipv6_native == Some(true)),
        ("Ipv4IpamPoolId", input.ipv4_ipam_pool_id.is_some()),
        ("Ipv4NetmaskLength", input.ipv4_netmask_length.is_some()),
        ("Ipv6IpamPoolId", input.ipv6_ipam_pool_id.is_some()),
        ("Ipv6NetmaskLength", input.ipv6_netmask_length.is_some()),
    ])?;
    let zone = find_zone(call, input.availability_zone.as_deref(), input.availability_zone_id.as_deref())?;
    let cidr_block = input.cidr_block.ok_or_else(|| missing("CidrBlock"))?;
    let vpc_id = input.vpc_id.unwrap_or_default();
    let tags = tags::of_specifications(call, input.tag_specifications, &ids::SUBNET)?;
    let subnet = call
        .transact(|changes| {
            let vpc = call.get::<VpcRecord>(&vpc_id)?;
            let others: Vec<_> =
                call.all::<SubnetRecord>()?.into_iter().filter(|subnet| subnet.vpc_id == vpc_id).collect();
            if others.len() >= SUBNETS_PER_VPC_MAX {
                return Err(ApiError::new(
                    "SubnetLimitExceeded",
                    "The maximum number of subnets has been reached.",
                ));
            }
            let blocks = vpc.cidr_blocks.iter().map(|block| block.cidr);
            let cidr = cidr::check_subnet(&cidr_block, blocks, others.iter().map(|subnet| subnet.cidr))?;
            let subnet = SubnetRecord {
                subnet_id: ids::SUBNET.new_id(),
                vpc_id: vpc_id.clone(),
                cidr,
                zone: zone.name.clone(),
                zone_id: zone.id.clone(),
                default_for_az: false,
                map_public_ip_on_launch: false,
                hostname_type: "ip-name".into(),
                resource_name_dns_a_record: false,
                route_table: None,
                network_acl: AclAssociation {
                    association_id: ids::NETWORK_ACL_ASSOCIATION.new_id(),
                    network_acl_id: vpc.default_network_acl_id.clone(),
                },
                tags: tags.clone(),
            };
            changes.expect(&vpc);
            changes.topology(call, &vpc_id);
            changes.create(&subnet)?;
            Ok(subnet)
        })
        .await?;
    Ok(CreateSubnetResult { subnet: Some(shape(call, &subnet)?) })
}

pub(crate) async fn delete(
    call: &Call<'_>,
    input: DeleteSubnetRequest,
) -> Result<DeleteSubnetNoOutput, ApiError> {
    check_dry_run(input.dry_run)?;
    let subnet_id = input.subnet_id.unwrap_or_default();
    let _none_joins = call.service.admission.write().await;
    call.transact(|changes| delete_one(call, changes, &subnet_id)).await?;
    Ok(DeleteSubnetNoOutput {})
}

fn delete_one(call: &Call<'_>, changes: &mut Changes, subnet_id: &str) -> Result<(), ApiError> {
    let subnet = call.get::<SubnetRecord>(subnet_id)?;
    if call.count(&call.scope.private_addresses(subnet_id)) > 0 {
        return Err(dependency(format!("The subnet '{subnet_id}' has dependencies and cannot be deleted.")));
    }
    changes.remove(&subnet);
    changes.topology(call, &subnet.vpc_id);
    Ok(())
}

pub(crate) async fn modify_attribute(
    call: &Call<'_>,
    input: ModifySubnetAttributeRequest,
) -> Result<ModifySubnetAttributeNoOutput, ApiError> {
    let flag = |value: &Option<AttributeBooleanValue>| value.as_ref().and_then(|value| value.value);
    refuse(&[
        ("AssignIpv6AddressOnCreation", flag(&input.assign_ipv6_address_on_creation) == Some(true)),
        ("MapCustomerOwnedIpOnLaunch", flag(&input.map_customer_owned_ip_on_launch) == Some(true)),
        ("CustomerOwnedIpv4Pool", input.customer_owned_ipv4_pool.is_some()),
        ("EnableDns64", flag(&input.enable_dns64) == Some(true)),
        (
            "EnableResourceNameDnsAAAARecordOnLaunch",
            flag(&input.enable_resource_name_dns_aaaa_record_on_launch) == Some(true),
        ),
        ("EnableLniAtDeviceIndex", input.enable_lni_at_device_index.is_some()),
        ("DisableLniAtDeviceIndex", flag(&input.disable_lni_at_device_index) == Some(true)),
    ])?;
    let hostname_type = input.private_dns_hostname_type_on_launch;
    let given = [
        input.map_public_ip_on_launch.is_some(),
        hostname_type.is_some(),
        input.enable_resource_name_dns_a_record_on_launch.is_some(),
        input.assign_ipv6_address_on_creation.is_some(),
        input.map_customer_owned_ip_on_launch.is_some(),
        input.enable_dns64.is_some(),
        input.enable_resource_name_dns_aaaa_record_on_launch.is_some(),
        input.disable_lni_at_device_index.is_some(),
    ];
    match given.iter().filter(|given| **given).count() {
        0 => return Err(missing("MapPublicIpOnLaunch")),
        1 => {}
        _ => return Err(invalid_combination("Only one subnet attribute can be modified in one call.")),
    }
    let subnet_id = input.subnet_id.unwrap_or_default();
    let map_public = flag(&input.map_public_ip_on_launch);
    let a_record = flag(&input.enable_resource_name_dns_a_record_on_launch);
    call.transact(|changes| {
        let subnet = call.get::<SubnetRecord>(&subnet_id)?;
        let mut record = subnet.record.clone();
        record.map_public_ip_on_launch = map_public.unwrap_or(record.map_public_ip_on_launch);
        record.resource_name_dns_a_record = a_record.unwrap_or(record.resource_name_dns_a_record);
        record.hostname_type = hostname_type.clone().unwrap_or(record.hostname_type);
        changes.replace(&subnet, &record)
    })
    .await?;
    Ok(ModifySubnetAttributeNoOutput {})
}
