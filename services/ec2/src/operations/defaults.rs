//! What every account has in every region from the start: the default VPC with all that belongs to it.
//!
//! Made in one transaction at the first use of the region, and never again: a default VPC that was deleted stays
//! deleted until CreateDefaultVpc.

use std::net::Ipv4Addr;

use ferrogate_api::ApiError;
use ferrogate_api::ec2::*;
use ipnet::Ipv4Net;

use crate::call::Call;
use crate::db::Changes;
use crate::errors::{check_dry_run, invalid_combination, invalid_value, missing, refuse};
use crate::ids::{self, Kind};
use crate::plan::cidr::overlap;
use crate::plan::zones::{Zone, zones};
use crate::state::*;

/// VPC user guide, "Default VPCs".
const DEFAULT_VPC: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(172, 31, 0, 0), 16);
const DEFAULT_SUBNET_PREFIX: u8 = 20;

/// Gives ids: derived ones for what a region has from the start, random ones for what is made later.
type NewId<'a> = dyn Fn(&Kind, &str) -> String + 'a;

/// Makes the region's defaults if this is its first use.
pub(crate) async fn ensure(call: &Call<'_>) -> Result<(), ApiError> {
    if call.service.knows_region(&call.scope) {
        return Ok(());
    }
    let seed = format!("{}/{}", call.scope.account, call.scope.region);
    call.transact(|changes| {
        if call.exists(&call.scope.region_made()) {
            return Ok(());
        }
        changes.create_key(call.scope.region_made(), b"{}".to_vec());
        make(call, changes, &|kind, part| kind.derived_id(&format!("{seed}/{part}"))).map(drop)
    })
    .await?;
    call.service.remember_region(&call.scope);
    Ok(())
}

/// A VPC's own parts, which come and go with it.
pub(crate) struct NewVpc {
    pub vpc: VpcRecord,
    pub route_table: RouteTableRecord,
    pub network_acl: NetworkAclRecord,
    pub group: GroupRecord,
}

impl NewVpc {
    pub(crate) fn new(cidr: Ipv4Net, dhcp_options_id: String, is_default: bool, id: &NewId<'_>) -> Self {
        let vpc_id = id(&ids::VPC, "");
        let route_table_id = id(&ids::ROUTE_TABLE, "");
        let network_acl_id = id(&ids::NETWORK_ACL, "");
        let group_id = id(&ids::GROUP, "");
        let allow_all = |egress| AclEntryRecord {
            rule_number: 100,
            egress,
            allow: true,
            protocol: -1,
            cidr: Ipv4Net::default(),
            ports: None,
            icmp: None,
        };
        let allow = |egress, part: &str, peer| RuleRecord {
            rule_id: id(&ids::GROUP_RULE, part),
            egress,
            rule: Rule { protocol: "-1".into(), from_port: -1, to_port: -1, peer },
            description: None,
            tags: Tags::new(),
        };
        Self {
            vpc: VpcRecord {
                vpc_id: vpc_id.clone(),
                cidr_blocks: vec![CidrAssociation {
                    association_id: id(&ids::VPC_CIDR_ASSOCIATION, ""),
                    cidr,
                }],
                is_default,
                instance_tenancy: "default".into(),
                dhcp_options_id,
                enable_dns_support: true,
                enable_dns_hostnames: is_default,
                enable_network_address_usage_metrics: false,
                main_route_table_id: route_table_id.clone(),
                main_association_id: id(&ids::ROUTE_TABLE_ASSOCIATION, ""),
                default_network_acl_id: network_acl_id.clone(),
                default_group_id: group_id.clone(),
                tags: Tags::new(),
            },
            route_table: RouteTableRecord {
                route_table_id,
                vpc_id: vpc_id.clone(),
                routes: Vec::new(),
                client_token: None,
                tags: Tags::new(),
            },
            network_acl: NetworkAclRecord {
                network_acl_id,
                vpc_id: vpc_id.clone(),
                is_default: true,
                entries: vec![allow_all(false), allow_all(true)],
                client_token: None,
                tags: Tags::new(),
            },
            group: GroupRecord {
                group_id: group_id.clone(),
                group_name: DEFAULT_GROUP_NAME.into(),
                description: "default VPC security group".into(),
                vpc_id,
                rules: vec![
                    allow(false, "ingress", RulePeer::Group(group_id)),
                    allow(true, "egress", RulePeer::Cidr(Ipv4Net::default())),
                ],
                tags: Tags::new(),
            },
        }
    }

    pub(crate) fn create(&self, changes: &mut Changes) -> Result<(), ApiError> {
        let name = changes.scope().group_name(&self.vpc.vpc_id, &self.group.group_name);
        changes.create_key(name, self.group.group_id.clone().into_bytes());
        changes.create(&self.vpc)?;
        changes.create(&self.route_table)?;
        changes.create(&self.network_acl)?;
        changes.create(&self.group)
    }
}

fn make(call: &Call<'_>, changes: &mut Changes, id: &NewId<'_>) -> Result<VpcRecord, ApiError> {
    let dhcp_options_id = dhcp_options(call, changes)?;
    let mut new = NewVpc::new(DEFAULT_VPC, dhcp_options_id, true, id);
    let gateway = InternetGatewayRecord {
        internet_gateway_id: id(&ids::INTERNET_GATEWAY, ""),
        vpc_id: Some(new.vpc.vpc_id.clone()),
        tags: Tags::new(),
    };
    new.route_table.routes.push(RouteRecord {
        destination: Ipv4Net::default(),
        target: RouteTo::InternetGateway(gateway.internet_gateway_id.clone()),
    });
    new.create(changes)?;
    changes.create(&gateway)?;
    let blocks = DEFAULT_VPC.subnets(DEFAULT_SUBNET_PREFIX).expect("a /16 holds /20s");
    for (zone, cidr) in zones(&call.scope.region).into_iter().zip(blocks) {
        changes.create(&default_subnet(&new.vpc, zone, cidr, id))?;
    }
    Ok(new.vpc)
}

/// The region's default DHCP options, made with the first VPC that needs them.
pub(crate) fn dhcp_options(call: &Call<'_>, changes: &mut Changes) -> Result<String, ApiError> {
    let seed = format!("{}/{}/", call.scope.account, call.scope.region);
    let id = ids::DHCP_OPTIONS.derived_id(&seed);
    if call.find::<DhcpOptionsRecord>(&id)?.is_none() {
        changes.create(&DhcpOptionsRecord {
            dhcp_options_id: id.clone(),
            configurations: vec![
                ("domain-name".into(), vec![private_domain(&call.scope.region)]),
                ("domain-name-servers".into(), vec!["AmazonProvidedDNS".into()]),
            ],
            tags: Tags::new(),
        })?;
    }
    Ok(id)
}

/// `ec2.internal` in us-east-1, `<region>.compute.internal` elsewhere.
pub(crate) fn private_domain(region: &str) -> String {
    if region == "us-east-1" { "ec2.internal".into() } else { format!("{region}.compute.internal") }
}

fn default_subnet(vpc: &VpcRecord, zone: Zone, cidr: Ipv4Net, id: &NewId<'_>) -> SubnetRecord {
    SubnetRecord {
        subnet_id: id(&ids::SUBNET, &zone.name),
        vpc_id: vpc.vpc_id.clone(),
        cidr,
        default_for_az: true,
        map_public_ip_on_launch: true,
        hostname_type: "ip-name".into(),
        resource_name_dns_a_record: false,
        route_table: None,
        network_acl: AclAssociation {
            association_id: id(&ids::NETWORK_ACL_ASSOCIATION, &zone.name),
            network_acl_id: vpc.default_network_acl_id.clone(),
        },
        zone: zone.name,
        zone_id: zone.id,
        tags: Tags::new(),
    }
}

pub(crate) async fn create_default_vpc(
    call: &Call<'_>,
    input: CreateDefaultVpcRequest,
) -> Result<CreateDefaultVpcResult, ApiError> {
    check_dry_run(input.dry_run)?;
    let vpc = call
        .transact(|changes| {
            if let Some(vpc) = call.default_vpc()? {
                let message =
                    format!("A Default VPC already exists for this account in this region: {}", vpc.vpc_id);
                return Err(ApiError::new("DefaultVpcAlreadyExists", message));
            }
            // Two calls at once would make two default VPCs: the region's own key lets one of them through.
            changes.touch(call, call.scope.region_made());
            make(call, changes, &|kind, _| kind.new_id())
        })
        .await?;
    Ok(CreateDefaultVpcResult { vpc: Some(super::vpcs::shape(call, &vpc)) })
}

pub(crate) async fn create_default_subnet(
    call: &Call<'_>,
    input: CreateDefaultSubnetRequest,
) -> Result<CreateDefaultSubnetResult, ApiError> {
    check_dry_run(input.dry_run)?;
    refuse(&[("Ipv6Native", input.ipv6_native == Some(true))])?;
    let zone = match (input.availability_zone, input.availability_zone_id) {
        (Some(_), Some(_)) => {
            return Err(invalid_combination("Specify AvailabilityZone or AvailabilityZoneId, not both."));
        }
        (None, None) => return Err(missing("AvailabilityZone")),
        (name, id) => super::subnets::find_zone(call, name.as_deref(), id.as_deref())?,
    };
    let subnet = call
        .transact(|changes| {
            let Some(vpc) = call.default_vpc()? else {
                let message =
                    "No default VPC exists for this account in this region. Call CreateDefaultVpc first.";
                return Err(ApiError::new("DefaultVpcDoesNotExist", message));
            };
            let subnets: Vec<_> = call
                .all::<SubnetRecord>()?
                .into_iter()
                .filter(|subnet| subnet.vpc_id == vpc.vpc_id)
                .collect();
            if subnets.iter().any(|subnet| subnet.default_for_az && subnet.zone == zone.name) {
                let message = format!("A default subnet already exists for {}", zone.name);
                return Err(ApiError::new("DefaultSubnetAlreadyExistsInAvailabilityZone", message));
            }
            let cidr = vpc.cidr_blocks[0]
                .cidr
                .subnets(DEFAULT_SUBNET_PREFIX)
                .ok()
                .and_then(|mut blocks| {
                    blocks.find(|block| !subnets.iter().any(|other| overlap(*block, other.cidr)))
                })
                .ok_or_else(|| {
                    invalid_value("The default VPC has no free /20 block for a default subnet.")
                })?;
            let subnet = default_subnet(&vpc, zone.clone(), cidr, &|kind, _| kind.new_id());
            changes.expect(&vpc);
            changes.topology(call, &vpc.vpc_id);
            changes.create(&subnet)?;
            Ok(subnet)
        })
        .await?;
    Ok(CreateDefaultSubnetResult { subnet: Some(super::subnets::shape(call, &subnet)?) })
}
