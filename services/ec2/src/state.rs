//! The records EC2 keeps. Each is written by the operations of its own file in `operations/` and by nobody else,
//! but for `tags` (`operations/tags.rs`) and where a field says so. A change of a record is additive.
//!
//! ```text
//! /ec2/<account>/<region>/<resource type>/<id>           one record per resource
//! /ec2/<account>/<region>/private-address/<subnet>/<hex> the ENI that holds an address: making the key takes it
//! /ec2/<account>/<region>/group-name/<vpc>/<name>        the group of that name
//! /ec2/<account>/<region>/client-token/<token>           what an idempotent call made
//! /ec2/<account>/<region>/topology/<vpc>                 bumped by every change of what a VPC is made of
//! /ec2/<account>/<region>/region                         the region's defaults have been made
//! /ec2-public-address/<hex>                              who holds an address of the public pool
//! ```

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::ids::{self, Kind};

pub(crate) type Tags = BTreeMap<String, String>;

/// A record that is a resource of its own, with an id.
pub(crate) trait Record: Serialize + DeserializeOwned + Clone + Send + Sync {
    const KIND: &'static Kind;

    fn id(&self) -> &str;
    fn tags_mut(&mut self) -> &mut Tags;
}

macro_rules! records {
    ($($record:ident($kind:ident, $id:ident);)*) => {$(
        impl Record for $record {
            const KIND: &'static Kind = &ids::$kind;

            fn id(&self) -> &str {
                &self.$id
            }

            fn tags_mut(&mut self) -> &mut Tags {
                &mut self.tags
            }
        }
    )*};
}

records! {
    VpcRecord(VPC, vpc_id);
    SubnetRecord(SUBNET, subnet_id);
    GroupRecord(GROUP, group_id);
    EniRecord(ENI, eni_id);
    InternetGatewayRecord(INTERNET_GATEWAY, internet_gateway_id);
    RouteTableRecord(ROUTE_TABLE, route_table_id);
    NetworkAclRecord(NETWORK_ACL, network_acl_id);
    AddressRecord(ADDRESS, allocation_id);
    DhcpOptionsRecord(DHCP_OPTIONS, dhcp_options_id);
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct VpcRecord {
    pub vpc_id: String,
    /// The primary block first; never empty.
    pub cidr_blocks: Vec<CidrAssociation>,
    pub is_default: bool,
    pub instance_tenancy: String,
    pub dhcp_options_id: String,
    pub enable_dns_support: bool,
    pub enable_dns_hostnames: bool,
    pub enable_network_address_usage_metrics: bool,
    /// Moved by ReplaceRouteTableAssociation (`operations/route_tables.rs`).
    pub main_route_table_id: String,
    pub main_association_id: String,
    pub default_network_acl_id: String,
    pub default_group_id: String,
    #[serde(default)]
    pub tags: Tags,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct CidrAssociation {
    pub association_id: String,
    pub cidr: Ipv4Net,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct SubnetRecord {
    pub subnet_id: String,
    pub vpc_id: String,
    pub cidr: Ipv4Net,
    /// `us-east-1a`
    pub zone: String,
    /// `use1-az1`
    pub zone_id: String,
    pub default_for_az: bool,
    pub map_public_ip_on_launch: bool,
    /// `ip-name` or `resource-name`
    pub hostname_type: String,
    pub resource_name_dns_a_record: bool,
    /// `None`: the VPC's main table. Written by `operations/route_tables.rs`.
    pub route_table: Option<RouteTableAssociation>,
    /// Written by `operations/network_acls.rs`.
    pub network_acl: AclAssociation,
    #[serde(default)]
    pub tags: Tags,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct RouteTableAssociation {
    pub association_id: String,
    pub route_table_id: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct AclAssociation {
    pub association_id: String,
    pub network_acl_id: String,
}

/// The name of the group that each VPC has from the start.
pub(crate) const DEFAULT_GROUP_NAME: &str = "default";

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct GroupRecord {
    pub group_id: String,
    pub group_name: String,
    pub description: String,
    pub vpc_id: String,
    pub rules: Vec<RuleRecord>,
    #[serde(default)]
    pub tags: Tags,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct RuleRecord {
    pub rule_id: String,
    pub egress: bool,
    pub rule: Rule,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    #[serde(default)]
    pub tags: Tags,
}

/// What a rule lets through; two rules with the same are the same rule.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Rule {
    /// `tcp`, `udp`, `icmp`, `-1`, or a protocol number
    pub protocol: String,
    /// For ICMP the type; -1 where it does not apply.
    pub from_port: i32,
    /// For ICMP the code; -1 where it does not apply.
    pub to_port: i32,
    pub peer: RulePeer,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum RulePeer {
    Cidr(Ipv4Net),
    Group(String),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct EniRecord {
    pub eni_id: String,
    pub vpc_id: String,
    pub subnet_id: String,
    pub zone: String,
    pub zone_id: String,
    pub private_ip: Ipv4Addr,
    pub mac: String,
    pub description: String,
    /// Names never change and a group in use cannot go, so both are kept here.
    pub groups: Vec<GroupName>,
    pub source_dest_check: bool,
    /// The service that made it for itself, `ecs.amazonaws.com`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requester: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attachment: Option<AttachmentRecord>,
    /// Written by `operations/addresses.rs` where it is an Elastic IP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public: Option<PublicAddress>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_token: Option<String>,
    #[serde(default)]
    pub tags: Tags,
}

impl EniRecord {
    /// Elastic Load Balancing describes its interfaces as `ELB net/<name>/<id>`; nobody else can write that in its name.
    pub(crate) fn is_of_network_load_balancer(&self) -> bool {
        self.requester.as_deref() == Some("elasticloadbalancing.amazonaws.com")
            && self.description.starts_with("ELB net/")
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct GroupName {
    pub group_id: String,
    pub group_name: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct AttachmentRecord {
    pub attachment_id: String,
    pub attach_time: Timestamp,
    pub device_index: i32,
    pub delete_on_termination: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct PublicAddress {
    pub ip: Ipv4Addr,
    /// `None`: assigned for the life of the ENI, not an Elastic IP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub elastic: Option<ElasticAssociation>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ElasticAssociation {
    pub allocation_id: String,
    pub association_id: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct InternetGatewayRecord {
    pub internet_gateway_id: String,
    pub vpc_id: Option<String>,
    #[serde(default)]
    pub tags: Tags,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct RouteTableRecord {
    pub route_table_id: String,
    pub vpc_id: String,
    /// Without the local routes: those follow from the VPC's blocks.
    pub routes: Vec<RouteRecord>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_token: Option<String>,
    #[serde(default)]
    pub tags: Tags,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct RouteRecord {
    pub destination: Ipv4Net,
    pub target: RouteTo,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum RouteTo {
    InternetGateway(String),
    NetworkInterface(String),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct NetworkAclRecord {
    pub network_acl_id: String,
    pub vpc_id: String,
    pub is_default: bool,
    /// By direction and number; without the last one, which denies.
    pub entries: Vec<AclEntryRecord>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_token: Option<String>,
    #[serde(default)]
    pub tags: Tags,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct AclEntryRecord {
    pub rule_number: u16,
    pub egress: bool,
    pub allow: bool,
    /// A protocol number; -1: all.
    pub protocol: i32,
    pub cidr: Ipv4Net,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ports: Option<(u16, u16)>,
    /// (type, code), -1: any
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub icmp: Option<(i32, i32)>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct AddressRecord {
    pub allocation_id: String,
    pub public_ip: Ipv4Addr,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub association: Option<AddressAssociation>,
    #[serde(default)]
    pub tags: Tags,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct AddressAssociation {
    pub association_id: String,
    pub eni_id: String,
    pub subnet_id: String,
    pub private_ip: Ipv4Addr,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct DhcpOptionsRecord {
    pub dhcp_options_id: String,
    pub configurations: Vec<(String, Vec<String>)>,
    #[serde(default)]
    pub tags: Tags,
}

/// Under a client token: what the first call made, so that its repetition finds it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ClientTokenRecord {
    pub operation: String,
    pub id: String,
    /// Digest of the parameters.
    pub parameters: String,
}

/// Who holds an address of the public pool.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct PublicAddressRecord {
    pub account: String,
    pub region: String,
    /// `eni-…` or `eipalloc-…`
    pub holder: String,
}

/// The part of a store that is one account's in one region.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Scope {
    pub account: String,
    pub region: String,
}

/// All of the service's regional records.
pub(crate) const PREFIX: &str = "/ec2/";
/// The public pool is one for all accounts and regions: one uplink carries it.
pub(crate) const PUBLIC_ADDRESSES: &str = "/ec2-public-address/";

impl Scope {
    pub(crate) fn new(account: &str, region: &str) -> Self {
        Self { account: account.into(), region: region.into() }
    }

    fn key(&self, rest: std::fmt::Arguments<'_>) -> String {
        format!("{PREFIX}{}/{}/{rest}", self.account, self.region)
    }

    pub(crate) fn record<R: Record>(&self, id: &str) -> String {
        self.of_type(R::KIND.resource_type, id)
    }

    pub(crate) fn of_type(&self, resource_type: &str, id: &str) -> String {
        self.key(format_args!("{resource_type}/{id}"))
    }

    pub(crate) fn records<R: Record>(&self) -> String {
        self.key(format_args!("{}/", R::KIND.resource_type))
    }

    pub(crate) fn private_addresses(&self, subnet_id: &str) -> String {
        self.key(format_args!("private-address/{subnet_id}/"))
    }

    pub(crate) fn private_address(&self, subnet_id: &str, ip: Ipv4Addr) -> String {
        self.key(format_args!("private-address/{subnet_id}/{:08x}", ip.to_bits()))
    }

    pub(crate) fn group_name(&self, vpc_id: &str, name: &str) -> String {
        self.key(format_args!("group-name/{vpc_id}/{name}"))
    }

    pub(crate) fn client_token(&self, token: &str) -> String {
        self.key(format_args!("client-token/{token}"))
    }

    pub(crate) fn topology(&self, vpc_id: &str) -> String {
        self.key(format_args!("topology/{vpc_id}"))
    }

    pub(crate) fn region_made(&self) -> String {
        self.key(format_args!("region"))
    }
}

pub(crate) fn public_address(ip: Ipv4Addr) -> String {
    format!("{PUBLIC_ADDRESSES}{:08x}", ip.to_bits())
}
