//! A service over a store in memory, and who calls it.
#![allow(dead_code)] // each test file uses its part

use std::sync::Arc;

use ferrogate_api::ec2::*;
use ferrogate_api::{ApiError, Context, Principal, PrincipalKind};
use ferrogate_ec2::{Ec2Options, Ec2Service};
use ferrogate_store::{MemoryStore, Store};

pub(crate) const ACCOUNT: &str = "123456789012";

pub(crate) fn service() -> Arc<Ec2Service> {
    with_pool("127.64.0.0/16")
}

pub(crate) fn with_pool(pool: &str) -> Arc<Ec2Service> {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    Arc::new(Ec2Service::new(store, Ec2Options { public_pool: pool.parse().unwrap() }))
}

pub(crate) fn user() -> Context {
    caller(PrincipalKind::User { name: "alice".into() }, "us-east-1")
}

pub(crate) fn in_region(region: &str) -> Context {
    caller(PrincipalKind::User { name: "alice".into() }, region)
}

pub(crate) fn ecs() -> Context {
    caller(PrincipalKind::Service { name: "ecs.amazonaws.com".into() }, "us-east-1")
}

fn caller(kind: PrincipalKind, region: &str) -> Context {
    Context {
        account: ACCOUNT.into(),
        region: region.into(),
        request_id: "test".into(),
        principal: Arc::new(Principal {
            arn: format!("arn:aws:iam::{ACCOUNT}:user/alice"),
            account: ACCOUNT.into(),
            user_id: "AIDAEXAMPLE".into(),
            kind,
            tags: Vec::new(),
        }),
        source_ip: None,
        host: None,
        user_agent: None,
        access_key_id: None,
        now: "2026-11-21T12:00:00Z".parse().unwrap(),
    }
}

pub(crate) fn some(text: impl Into<String>) -> Option<String> {
    Some(text.into())
}

pub(crate) fn list(items: &[&str]) -> Option<Vec<String>> {
    Some(items.iter().map(|item| (*item).to_owned()).collect())
}

pub(crate) fn filters(given: &[(&str, &str)]) -> Option<Vec<Filter>> {
    Some(given.iter().map(|(name, value)| Filter { name: some(*name), values: list(&[*value]) }).collect())
}

pub(crate) fn tagged(resource_type: &str, tags: &[(&str, &str)]) -> Option<Vec<TagSpecification>> {
    let tags = tags.iter().map(|(key, value)| Tag { key: some(*key), value: some(*value) }).collect();
    Some(vec![TagSpecification { resource_type: some(resource_type), tags: Some(tags) }])
}

pub(crate) fn pairs(tags: &Option<Vec<Tag>>) -> Vec<(String, String)> {
    let pair = |tag: &Tag| (tag.key.clone().unwrap(), tag.value.clone().unwrap());
    tags.iter().flatten().map(pair).collect()
}

/// The code and message of a refusal.
#[track_caller]
pub(crate) fn refused<T: std::fmt::Debug>(result: Result<T, ApiError>) -> (String, String) {
    let error = result.unwrap_err();
    (error.code, error.message)
}

#[track_caller]
pub(crate) fn code<T: std::fmt::Debug>(result: Result<T, ApiError>) -> String {
    refused(result).0
}

pub(crate) async fn default_vpc(ec2: &Ec2Service, cx: &Context) -> Vpc {
    let input = DescribeVpcsRequest { filters: filters(&[("is-default", "true")]), ..Default::default() };
    ec2.describe_vpcs(cx, input).await.unwrap().vpcs.unwrap().remove(0)
}

pub(crate) async fn default_subnet(ec2: &Ec2Service, cx: &Context) -> Subnet {
    let first = filters(&[("default-for-az", "true"), ("availability-zone", "*a")]);
    let input = DescribeSubnetsRequest { filters: first, ..Default::default() };
    ec2.describe_subnets(cx, input).await.unwrap().subnets.unwrap().remove(0)
}

pub(crate) async fn vpc(ec2: &Ec2Service, cidr: &str) -> String {
    let input = CreateVpcRequest { cidr_block: some(cidr), ..Default::default() };
    ec2.create_vpc(&user(), input).await.unwrap().vpc.unwrap().vpc_id.unwrap()
}

pub(crate) async fn subnet(ec2: &Ec2Service, vpc: &str, cidr: &str) -> String {
    let input = CreateSubnetRequest { vpc_id: some(vpc), cidr_block: some(cidr), ..Default::default() };
    ec2.create_subnet(&user(), input).await.unwrap().subnet.unwrap().subnet_id.unwrap()
}

pub(crate) async fn describe_subnet(ec2: &Ec2Service, id: &str) -> Subnet {
    let input = DescribeSubnetsRequest { subnet_ids: list(&[id]), ..Default::default() };
    ec2.describe_subnets(&user(), input).await.unwrap().subnets.unwrap().remove(0)
}

pub(crate) async fn group(ec2: &Ec2Service, vpc: &str, name: &str) -> String {
    let input = CreateSecurityGroupRequest {
        group_name: some(name),
        description: some("for a test"),
        vpc_id: some(vpc),
        ..Default::default()
    };
    ec2.create_security_group(&user(), input).await.unwrap().group_id.unwrap()
}

pub(crate) async fn describe_group(ec2: &Ec2Service, id: &str) -> SecurityGroup {
    let input = DescribeSecurityGroupsRequest { group_ids: list(&[id]), ..Default::default() };
    ec2.describe_security_groups(&user(), input).await.unwrap().security_groups.unwrap().remove(0)
}

pub(crate) async fn eni(ec2: &Ec2Service, cx: &Context, subnet: &str) -> Result<NetworkInterface, ApiError> {
    let input = CreateNetworkInterfaceRequest { subnet_id: some(subnet), ..Default::default() };
    Ok(ec2.create_network_interface(cx, input).await?.network_interface.unwrap())
}

pub(crate) async fn describe_eni(ec2: &Ec2Service, id: &str) -> Result<NetworkInterface, ApiError> {
    let input = DescribeNetworkInterfacesRequest { network_interface_ids: list(&[id]), ..Default::default() };
    Ok(ec2.describe_network_interfaces(&user(), input).await?.network_interfaces.unwrap().remove(0))
}

pub(crate) async fn delete_eni(ec2: &Ec2Service, cx: &Context, id: &str) -> Result<(), ApiError> {
    let input = DeleteNetworkInterfaceRequest { network_interface_id: some(id), ..Default::default() };
    ec2.delete_network_interface(cx, input).await.map(drop)
}

pub(crate) async fn set_public(
    ec2: &Ec2Service,
    cx: &Context,
    id: &str,
    value: bool,
) -> Result<(), ApiError> {
    let input = ModifyNetworkInterfaceAttributeRequest {
        network_interface_id: some(id),
        associate_public_ip_address: Some(value),
        ..Default::default()
    };
    ec2.modify_network_interface_attribute(cx, input).await.map(drop)
}

pub(crate) fn permission(protocol: &str, from: i32, to: i32, cidr: &str) -> IpPermission {
    IpPermission {
        ip_protocol: some(protocol),
        from_port: Some(from),
        to_port: Some(to),
        ip_ranges: Some(vec![IpRange { cidr_ip: some(cidr), description: None }]),
        ..Default::default()
    }
}

pub(crate) async fn authorize(
    ec2: &Ec2Service,
    id: &str,
    permission: IpPermission,
) -> Result<Vec<SecurityGroupRule>, ApiError> {
    let input = AuthorizeSecurityGroupIngressRequest {
        group_id: some(id),
        ip_permissions: Some(vec![permission]),
        ..Default::default()
    };
    Ok(ec2.authorize_security_group_ingress(&user(), input).await?.security_group_rules.unwrap())
}
