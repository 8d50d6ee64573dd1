//! The rights each call needs (Service Authorization Reference, "Actions, resources, and condition keys for Amazon
//! EC2"): the ARN of every resource it names, and `<type>/*` for what it makes. Describe operations are for `*`.

use ferrogate_api::{Demand, Value};
use serde::Deserialize;

use crate::call::Call;
use crate::ids::{self, Kind};
use crate::state::*;

/// The resources that an operation names: member of the input, kind.
fn named(operation: &str) -> &'static [(&'static str, &'static Kind)] {
    match operation {
        "AssociateVpcCidrBlock"
        | "CreateNetworkAcl"
        | "CreateRouteTable"
        | "CreateSecurityGroup"
        | "CreateSubnet"
        | "DeleteVpc"
        | "DescribeVpcAttribute"
        | "GetSecurityGroupsForVpc"
        | "ModifyVpcAttribute" => &[("VpcId", &ids::VPC)],
        "AttachInternetGateway" | "DetachInternetGateway" => {
            &[("InternetGatewayId", &ids::INTERNET_GATEWAY), ("VpcId", &ids::VPC)]
        }
        "DeleteInternetGateway" => &[("InternetGatewayId", &ids::INTERNET_GATEWAY)],
        "DeleteSubnet" | "ModifySubnetAttribute" => &[("SubnetId", &ids::SUBNET)],
        "AuthorizeSecurityGroupEgress"
        | "AuthorizeSecurityGroupIngress"
        | "DeleteSecurityGroup"
        | "ModifySecurityGroupRules"
        | "RevokeSecurityGroupEgress"
        | "RevokeSecurityGroupIngress"
        | "UpdateSecurityGroupRuleDescriptionsEgress"
        | "UpdateSecurityGroupRuleDescriptionsIngress" => &[("GroupId", &ids::GROUP)],
        "CreateNetworkInterface" => &[("SubnetId", &ids::SUBNET), ("Groups", &ids::GROUP)],
        "ModifyNetworkInterfaceAttribute" => &[("NetworkInterfaceId", &ids::ENI), ("Groups", &ids::GROUP)],
        "AttachNetworkInterface"
        | "DeleteNetworkInterface"
        | "DescribeNetworkInterfaceAttribute"
        | "ResetNetworkInterfaceAttribute" => &[("NetworkInterfaceId", &ids::ENI)],
        "AssociateRouteTable" => &[("RouteTableId", &ids::ROUTE_TABLE), ("SubnetId", &ids::SUBNET)],
        "CreateRoute"
        | "DeleteRoute"
        | "DeleteRouteTable"
        | "ReplaceRoute"
        | "ReplaceRouteTableAssociation" => &[("RouteTableId", &ids::ROUTE_TABLE)],
        "CreateNetworkAclEntry"
        | "DeleteNetworkAcl"
        | "DeleteNetworkAclEntry"
        | "ReplaceNetworkAclAssociation"
        | "ReplaceNetworkAclEntry" => &[("NetworkAclId", &ids::NETWORK_ACL)],
        "AssociateAddress" => &[("AllocationId", &ids::ADDRESS), ("NetworkInterfaceId", &ids::ENI)],
        "ReleaseAddress" => &[("AllocationId", &ids::ADDRESS)],
        _ => &[],
    }
}

/// What an operation makes.
fn made(operation: &str) -> Option<&'static Kind> {
    Some(match operation {
        "AllocateAddress" => &ids::ADDRESS,
        "CreateInternetGateway" => &ids::INTERNET_GATEWAY,
        "CreateNetworkAcl" => &ids::NETWORK_ACL,
        "CreateNetworkInterface" => &ids::ENI,
        "CreateRouteTable" => &ids::ROUTE_TABLE,
        "CreateSecurityGroup" => &ids::GROUP,
        "CreateSubnet" => &ids::SUBNET,
        "CreateVpc" => &ids::VPC,
        // The rules: demanded only where they are tagged, with CreateTags.
        "AuthorizeSecurityGroupEgress" | "AuthorizeSecurityGroupIngress" => &ids::GROUP_RULE,
        _ => return None,
    })
}

pub(crate) fn demands(call: &Call<'_>, operation: &'static str, input: &Value) -> Vec<Demand> {
    let action = format!("ec2:{operation}");
    let mut demands = Vec::new();
    for (member, kind) in named(operation) {
        for id in ids_of(input, member) {
            demands.push(existing(call, &action, kind, id));
        }
    }
    demands.extend(found(call, operation, &action, input));
    if matches!(operation, "CreateTags" | "DeleteTags") {
        let request_tags = tags_of(input.get("Tags"));
        for id in input.get_strs("Resources") {
            demands.push(match ids::kind_of(id) {
                Ok(kind) => with_request_tags(existing(call, &action, kind, id), &request_tags),
                Err(_) => Demand::new(action.as_str(), "*"),
            });
        }
    }
    if let Some(kind) = made(operation) {
        demands.extend(creating(call, operation, &action, kind, input));
    }
    if demands.is_empty() {
        demands.push(Demand::new(action, "*").with("ec2:Region", [call.scope.region.as_str()]));
    }
    demands
}

/// A member that is an id or a list of them.
fn ids_of<'a>(input: &'a Value, member: &str) -> Vec<&'a str> {
    match input.get_str(member) {
        Some(id) => vec![id],
        None => input.get_strs(member),
    }
}

/// Resources that are named by something else than their id.
fn found(call: &Call<'_>, operation: &str, action: &str, input: &Value) -> Vec<Demand> {
    let groups = named(operation).iter().any(|(member, kind)| *member == "GroupId" && **kind == ids::GROUP);
    if groups && input.get("GroupId").is_none() {
        let group = crate::operations::security_groups::find(call, None, input.get_str("GroupName")).ok();
        return vec![found_or_any(call, action, &ids::GROUP, group.map(|group| group.record.group_id))];
    }
    let association = input.get_str("AssociationId");
    let public_ip = input.get_str("PublicIp");
    match operation {
        "DetachNetworkInterface" => {
            let id = input.get_str("AttachmentId");
            let has = |eni: &EniRecord| eni.attachment.as_ref().map(|own| own.attachment_id.as_str()) == id;
            let eni = first(call, has).map(|eni: EniRecord| eni.eni_id);
            vec![found_or_any(call, action, &ids::ENI, eni)]
        }
        "DisassociateRouteTable" => {
            let has = |subnet: &SubnetRecord| {
                subnet.route_table.as_ref().map(|own| own.association_id.as_str()) == association
            };
            let subnet: Option<SubnetRecord> = first(call, has);
            let table =
                subnet.as_ref().and_then(|subnet| Some(subnet.route_table.as_ref()?.route_table_id.clone()));
            let subnet = subnet.map(|subnet| subnet.subnet_id);
            vec![
                found_or_any(call, action, &ids::ROUTE_TABLE, table),
                found_or_any(call, action, &ids::SUBNET, subnet),
            ]
        }
        "DisassociateVpcCidrBlock" => {
            let has = |vpc: &VpcRecord| {
                vpc.cidr_blocks.iter().any(|block| Some(block.association_id.as_str()) == association)
            };
            let vpc = first(call, has).map(|vpc: VpcRecord| vpc.vpc_id);
            vec![found_or_any(call, action, &ids::VPC, vpc)]
        }
        "DisassociateAddress" => {
            let has = |address: &AddressRecord| match association {
                Some(id) => address.association.as_ref().is_some_and(|own| own.association_id == id),
                None => public_ip.is_some_and(|ip| ip == address.public_ip.to_string()),
            };
            let address: Option<AddressRecord> = first(call, has);
            let eni = address.as_ref().and_then(|address| Some(address.association.as_ref()?.eni_id.clone()));
            let address = address.map(|address| address.allocation_id);
            vec![
                found_or_any(call, action, &ids::ADDRESS, address),
                found_or_any(call, action, &ids::ENI, eni),
            ]
        }
        "AssociateAddress" | "ReleaseAddress" if input.get("AllocationId").is_none() => {
            let has =
                |address: &AddressRecord| public_ip.is_some_and(|ip| ip == address.public_ip.to_string());
            let address = first(call, has).map(|address: AddressRecord| address.allocation_id);
            vec![found_or_any(call, action, &ids::ADDRESS, address)]
        }
        _ => Vec::new(),
    }
}

fn first<R: Record>(call: &Call<'_>, has: impl Fn(&R) -> bool) -> Option<R> {
    call.all::<R>().ok()?.into_iter().map(|stored| stored.record).find(|record| has(record))
}

/// What cannot be found is every resource of its kind: only who may do it to all learns that it does not exist.
fn found_or_any(call: &Call<'_>, action: &str, kind: &Kind, id: Option<String>) -> Demand {
    existing(call, action, kind, id.as_deref().unwrap_or("*"))
}

/// The properties that condition keys look at, of whatever record has them.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Properties {
    vpc_id: Option<String>,
    subnet_id: Option<String>,
    zone: Option<String>,
    tags: Tags,
}

fn existing(call: &Call<'_>, action: &str, kind: &Kind, id: &str) -> Demand {
    let (region, account) = (&call.scope.region, &call.scope.account);
    let key = call.scope.of_type(kind.resource_type, id);
    let properties = match call.service.store.get(&key) {
        Some(kv) => serde_json::from_slice(&kv.value).unwrap_or_default(),
        None => rule_properties(call, kind, id),
    };
    let mut demand = Demand::new(action, kind.arn(region, account, id)).with("ec2:Region", [region.as_str()]);
    if let Some(condition) = id_condition(kind) {
        demand = demand.with(condition, [id]);
    }
    if let Some(vpc_id) = properties.vpc_id.filter(|_| *kind != ids::VPC) {
        demand = demand.with("ec2:Vpc", [ids::VPC.arn(region, account, &vpc_id)]);
    }
    if let Some(subnet_id) = properties.subnet_id.filter(|_| *kind != ids::SUBNET) {
        demand = demand.with("ec2:Subnet", [ids::SUBNET.arn(region, account, &subnet_id)]);
    }
    if let Some(zone) = properties.zone {
        demand = demand.with("ec2:AvailabilityZone", [zone]);
    }
    for (key, value) in properties.tags {
        demand = demand.with(format!("ec2:ResourceTag/{key}"), [value.as_str()]);
        demand = demand.with(format!("aws:ResourceTag/{key}"), [value]);
    }
    demand
}

/// A rule's record is its group's.
fn rule_properties(call: &Call<'_>, kind: &Kind, id: &str) -> Properties {
    if *kind != ids::GROUP_RULE {
        return Properties::default();
    }
    let group = first(call, |group: &GroupRecord| group.rules.iter().any(|rule| rule.rule_id == id));
    group.map_or_else(Properties::default, |group| {
        let rule = group.rules.into_iter().find(|rule| rule.rule_id == id);
        Properties {
            vpc_id: Some(group.vpc_id),
            tags: rule.map(|rule| rule.tags).unwrap_or_default(),
            ..Properties::default()
        }
    })
}

fn id_condition(kind: &Kind) -> Option<&'static str> {
    Some(match kind.prefix {
        "vpc" => "ec2:VpcID",
        "subnet" => "ec2:SubnetID",
        "sg" => "ec2:SecurityGroupID",
        "eni" => "ec2:NetworkInterfaceID",
        "igw" => "ec2:InternetGatewayID",
        "rtb" => "ec2:RouteTableID",
        "acl" => "ec2:NetworkAclID",
        "eipalloc" => "ec2:AllocationId",
        _ => return None,
    })
}

/// The thing to be made, and the right to tag it where it comes with tags.
fn creating(call: &Call<'_>, operation: &str, action: &str, kind: &Kind, input: &Value) -> Vec<Demand> {
    let (region, account) = (&call.scope.region, &call.scope.account);
    let specifications = input.get("TagSpecifications").and_then(Value::as_list).unwrap_or_default();
    let tags: Vec<_> = specifications.iter().flat_map(|one| tags_of(one.get("Tags"))).collect();
    let new = |action: &str| {
        let mut demand =
            Demand::new(action, kind.arn(region, account, "*")).with("ec2:Region", [region.as_str()]);
        let subnet_id = input.get_str("SubnetId");
        let subnet = subnet_id.and_then(|id| call.find::<SubnetRecord>(id).ok().flatten());
        let vpc_id = subnet.as_ref().map(|subnet| subnet.vpc_id.as_str()).or(input.get_str("VpcId"));
        if let Some(vpc_id) = vpc_id {
            demand = demand.with("ec2:Vpc", [ids::VPC.arn(region, account, vpc_id)]);
        }
        if let Some(subnet_id) = subnet_id {
            demand = demand.with("ec2:Subnet", [ids::SUBNET.arn(region, account, subnet_id)]);
        }
        with_request_tags(demand, &tags)
    };
    let mut demands = Vec::new();
    if *kind != ids::GROUP_RULE {
        demands.push(new(action));
    }
    if !tags.is_empty() {
        demands.push(new("ec2:CreateTags").with("ec2:CreateAction", [operation]));
    }
    demands
}

fn tags_of(tags: Option<&Value>) -> Vec<(&str, &str)> {
    let tags = tags.and_then(Value::as_list).unwrap_or_default();
    tags.iter()
        .map(|tag| (tag.get_str("Key").unwrap_or_default(), tag.get_str("Value").unwrap_or_default()))
        .collect()
}

fn with_request_tags(mut demand: Demand, tags: &[(&str, &str)]) -> Demand {
    for (key, value) in tags {
        demand = demand.with(format!("aws:RequestTag/{key}"), [*value]);
    }
    if tags.is_empty() { demand } else { demand.with("aws:TagKeys", tags.iter().map(|(key, _)| *key)) }
}
