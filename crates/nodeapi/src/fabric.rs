//! The VPC fabric a node must build: EC2's desired state, reduced to what moves packets.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

/// Everything, complete and consistent at one store revision.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Fabric {
    pub revision: u64,
    pub vpcs: Vec<VpcFabric>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct VpcFabric {
    /// `vpc-…`
    pub vpc_id: String,
    /// `us-east-1`
    #[serde(default)]
    pub region: String,
    /// Primary block first.
    pub cidrs: Vec<Ipv4Net>,
    pub subnets: Vec<SubnetFabric>,
    pub route_tables: Vec<RouteTableFabric>,
    pub network_acls: Vec<NetworkAclFabric>,
    pub security_groups: Vec<SecurityGroupFabric>,
    pub enis: Vec<EniFabric>,
    /// The attached internet gateway, `igw-…`.
    pub internet_gateway: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SubnetFabric {
    pub subnet_id: String,
    pub cidr: Ipv4Net,
    /// Explicit association, or the VPC's main table.
    pub route_table_id: String,
    pub network_acl_id: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RouteTableFabric {
    pub route_table_id: String,
    pub routes: Vec<RouteFabric>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RouteFabric {
    pub destination: Ipv4Net,
    pub target: RouteTarget,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RouteTarget {
    /// Inside the VPC.
    Local,
    InternetGateway(String),
    NatGateway(String),
    NetworkInterface(String),
    /// The target is gone: packets are dropped.
    Blackhole,
}

/// Stateless and ordered; the implicit last rule denies.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NetworkAclFabric {
    pub network_acl_id: String,
    /// By rule number, ascending.
    pub ingress: Vec<AclEntry>,
    pub egress: Vec<AclEntry>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AclEntry {
    pub rule_number: u16,
    pub allow: bool,
    pub protocol: IpProtocol,
    pub cidr: Ipv4Net,
    /// Inclusive; for ICMP see `icmp`.
    pub ports: Option<(u16, u16)>,
    /// ICMP (type, code); `None` in either: any.
    pub icmp: Option<(Option<u8>, Option<u8>)>,
}

/// An IP protocol number, or all of them (`-1` in the EC2 API).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IpProtocol {
    All,
    Number(u8),
}

impl IpProtocol {
    pub const ICMP: Self = Self::Number(1);
    pub const TCP: Self = Self::Number(6);
    pub const UDP: Self = Self::Number(17);
}

/// Stateful; allows only.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SecurityGroupFabric {
    pub group_id: String,
    pub ingress: Vec<SecurityGroupRule>,
    pub egress: Vec<SecurityGroupRule>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SecurityGroupRule {
    pub protocol: IpProtocol,
    /// Inclusive; `None`: all ports (or not TCP/UDP).
    pub ports: Option<(u16, u16)>,
    /// ICMP (type, code); `None` in either: any.
    pub icmp: Option<(Option<u8>, Option<u8>)>,
    pub peer: Peer,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Peer {
    Cidr(Ipv4Net),
    /// The private addresses of every ENI in that group.
    Group(String),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EniFabric {
    /// `eni-…`
    pub eni_id: String,
    pub subnet_id: String,
    /// `0a:…`
    pub mac: String,
    pub private_ip: Ipv4Addr,
    pub public_ip: Option<Ipv4Addr>,
    pub security_group_ids: Vec<String>,
    pub source_dest_check: bool,
    /// Of a network load balancer: it may speak in the name of those who spoke to it (client IP preservation).
    #[serde(default)]
    pub network_load_balancer: bool,
}
