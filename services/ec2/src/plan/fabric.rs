//! Records → [`Fabric`]: of everything EC2 keeps, what moves packets. Only VPCs with an ENI are part of it.

use std::collections::{BTreeMap, HashMap};

use ferrogate_control::Index;
use ferrogate_nodeapi as fabric;
use ferrogate_nodeapi::{
    AclEntry, EniFabric, Fabric, IpProtocol, NetworkAclFabric, Peer, RouteFabric, RouteTableFabric,
    RouteTarget, SecurityGroupFabric, SubnetFabric, VpcFabric,
};

use crate::ids;
use crate::state::{
    AclEntryRecord, EniRecord, GroupRecord, InternetGatewayRecord, NetworkAclRecord, PREFIX, Record,
    RouteTableRecord, RouteTo, Rule, RulePeer, SubnetRecord, VpcRecord,
};

/// A record that the fabric depends on.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum FabricRecord {
    Vpc(VpcRecord),
    Subnet(SubnetRecord),
    Group(GroupRecord),
    Eni(EniRecord),
    InternetGateway(InternetGatewayRecord),
    RouteTable(RouteTableRecord),
    NetworkAcl(NetworkAclRecord),
}

impl FabricRecord {
    /// The record under this key; `None` when the fabric does not depend on keys of its kind.
    pub(crate) fn parse(key: &str, value: &[u8]) -> Result<Option<Self>, serde_json::Error> {
        let Some(kind) = kind_of(key) else { return Ok(None) };
        let record = |text: &str| -> Result<Option<Self>, serde_json::Error> {
            Ok(Some(match text {
                t if t == ids::VPC.resource_type => Self::Vpc(serde_json::from_slice(value)?),
                t if t == ids::SUBNET.resource_type => Self::Subnet(serde_json::from_slice(value)?),
                t if t == ids::GROUP.resource_type => Self::Group(serde_json::from_slice(value)?),
                t if t == ids::ENI.resource_type => Self::Eni(serde_json::from_slice(value)?),
                t if t == ids::INTERNET_GATEWAY.resource_type => {
                    Self::InternetGateway(serde_json::from_slice(value)?)
                }
                t if t == ids::ROUTE_TABLE.resource_type => Self::RouteTable(serde_json::from_slice(value)?),
                t if t == ids::NETWORK_ACL.resource_type => Self::NetworkAcl(serde_json::from_slice(value)?),
                _ => return Ok(None),
            }))
        };
        record(kind)
    }

    fn vpc_id(&self) -> Option<&str> {
        Some(match self {
            Self::Vpc(record) => &record.vpc_id,
            Self::Subnet(record) => &record.vpc_id,
            Self::Group(record) => &record.vpc_id,
            Self::Eni(record) => &record.vpc_id,
            Self::InternetGateway(record) => record.vpc_id.as_deref()?,
            Self::RouteTable(record) => &record.vpc_id,
            Self::NetworkAcl(record) => &record.vpc_id,
        })
    }
}

/// `subnet` of `/ec2/123456789012/us-east-1/subnet/subnet-0123`
fn kind_of(key: &str) -> Option<&str> {
    key.strip_prefix(PREFIX)?.split('/').nth(2)
}

/// `region` of `/ec2/123456789012/us-east-1/subnet/subnet-0123`
fn region_of(key: &str) -> &str {
    key.strip_prefix(PREFIX).and_then(|rest| rest.split('/').nth(1)).unwrap_or_default()
}

/// What a VPC is made of. What does not depend on another record is brought into the fabric's form when it
/// comes, so that a change of one record costs no more than the copy of the rest.
#[derive(Debug, Default)]
struct Parts {
    region: String,
    vpc: Option<VpcRecord>,
    subnets: BTreeMap<String, SubnetRecord>,
    route_tables: BTreeMap<String, RouteTableRecord>,
    network_acls: BTreeMap<String, NetworkAclFabric>,
    groups: BTreeMap<String, SecurityGroupFabric>,
    enis: BTreeMap<String, EniFabric>,
    internet_gateway: Option<String>,
}

/// All records that the fabric depends on, by VPC.
#[derive(Debug, Default)]
pub(crate) struct FabricIndex {
    vpcs: BTreeMap<String, Parts>,
    /// Key → the VPC its record is a part of; an internet gateway's may change.
    placed: HashMap<String, String>,
}

impl Index for FabricIndex {
    type Value = Fabric;

    fn concerns(key: &str) -> bool {
        const KINDS: [&ids::Kind; 7] = [
            &ids::VPC,
            &ids::SUBNET,
            &ids::GROUP,
            &ids::ENI,
            &ids::INTERNET_GATEWAY,
            &ids::ROUTE_TABLE,
            &ids::NETWORK_ACL,
        ];
        kind_of(key).is_some_and(|kind| KINDS.iter().any(|known| known.resource_type == kind))
    }

    /// A record that cannot be read changes nothing: a network that works is better than none.
    fn put(&mut self, key: &str, value: &[u8]) -> Result<(), serde_json::Error> {
        let Some(record) = FabricRecord::parse(key, value)? else { return Ok(()) };
        let place = record.vpc_id().map(str::to_owned);
        if self.placed.get(key) != place.as_ref() {
            self.delete(key);
        }
        let Some(place) = place else { return Ok(()) };
        let parts = self.vpcs.entry(place.clone()).or_default();
        if parts.region.is_empty() {
            region_of(key).clone_into(&mut parts.region);
        }
        parts.put(record);
        self.placed.insert(key.to_owned(), place);
        Ok(())
    }

    fn delete(&mut self, key: &str) {
        let Some(place) = self.placed.remove(key) else { return };
        let Some(parts) = self.vpcs.get_mut(&place) else { return };
        parts.delete(kind_of(key).unwrap_or_default(), key.rsplit('/').next().unwrap_or_default());
        if parts.is_empty() {
            self.vpcs.remove(&place);
        }
    }

    fn plan(&self, revision: u64) -> Fabric {
        let used = self.vpcs.values().filter(|parts| !parts.enis.is_empty());
        Fabric { revision, vpcs: used.filter_map(Parts::plan).collect() }
    }
}

impl FabricIndex {
    /// Also the VPCs that hold no interface.
    pub(crate) fn whole(&self, revision: u64) -> Fabric {
        Fabric { revision, vpcs: self.vpcs.values().filter_map(Parts::plan).collect() }
    }
}

impl Parts {
    fn put(&mut self, record: FabricRecord) {
        match record {
            FabricRecord::Vpc(record) => self.vpc = Some(record),
            FabricRecord::Subnet(record) => {
                self.subnets.insert(record.subnet_id.clone(), record);
            }
            FabricRecord::Group(record) => {
                self.groups.insert(record.group_id.clone(), group(&record));
            }
            FabricRecord::Eni(record) => {
                self.enis.insert(record.eni_id.clone(), eni(record));
            }
            FabricRecord::InternetGateway(record) => self.internet_gateway = Some(record.internet_gateway_id),
            FabricRecord::RouteTable(record) => {
                self.route_tables.insert(record.route_table_id.clone(), record);
            }
            FabricRecord::NetworkAcl(record) => {
                self.network_acls.insert(record.network_acl_id.clone(), network_acl(&record));
            }
        }
    }

    fn delete(&mut self, kind: &str, id: &str) {
        match kind {
            t if t == VpcRecord::KIND.resource_type => self.vpc = None,
            t if t == SubnetRecord::KIND.resource_type => drop(self.subnets.remove(id)),
            t if t == GroupRecord::KIND.resource_type => drop(self.groups.remove(id)),
            t if t == EniRecord::KIND.resource_type => drop(self.enis.remove(id)),
            t if t == RouteTableRecord::KIND.resource_type => drop(self.route_tables.remove(id)),
            t if t == NetworkAclRecord::KIND.resource_type => drop(self.network_acls.remove(id)),
            // Another one may have been attached by the same revision, before this one's going is seen.
            t if t == InternetGatewayRecord::KIND.resource_type
                && self.internet_gateway.as_deref() == Some(id) =>
            {
                self.internet_gateway = None;
            }
            _ => {}
        }
    }

    fn is_empty(&self) -> bool {
        self.vpc.is_none()
            && self.subnets.is_empty()
            && self.route_tables.is_empty()
            && self.network_acls.is_empty()
            && self.groups.is_empty()
            && self.enis.is_empty()
            && self.internet_gateway.is_none()
    }

    fn plan(&self) -> Option<VpcFabric> {
        let vpc = self.vpc.as_ref()?;
        Some(VpcFabric {
            vpc_id: vpc.vpc_id.clone(),
            region: self.region.clone(),
            cidrs: vpc.cidr_blocks.iter().map(|block| block.cidr).collect(),
            subnets: self.subnets.values().map(|subnet| plan_subnet(subnet, vpc)).collect(),
            route_tables: self.route_tables.values().map(|table| self.plan_route_table(table, vpc)).collect(),
            network_acls: self.network_acls.values().cloned().collect(),
            security_groups: self.groups.values().cloned().collect(),
            enis: self.enis.values().cloned().collect(),
            internet_gateway: self.internet_gateway.clone(),
        })
    }

    fn plan_route_table(&self, table: &RouteTableRecord, vpc: &VpcRecord) -> RouteTableFabric {
        let local = vpc
            .cidr_blocks
            .iter()
            .map(|block| RouteFabric { destination: block.cidr, target: RouteTarget::Local });
        let routes = table.routes.iter().map(|route| RouteFabric {
            destination: route.destination,
            target: match &route.target {
                RouteTo::InternetGateway(id) if self.internet_gateway.as_ref() == Some(id) => {
                    RouteTarget::InternetGateway(id.clone())
                }
                RouteTo::NetworkInterface(id) if self.enis.contains_key(id) => {
                    RouteTarget::NetworkInterface(id.clone())
                }
                RouteTo::InternetGateway(_) | RouteTo::NetworkInterface(_) => RouteTarget::Blackhole,
            },
        });
        RouteTableFabric {
            route_table_id: table.route_table_id.clone(),
            routes: local.chain(routes).collect(),
        }
    }
}

fn plan_subnet(subnet: &SubnetRecord, vpc: &VpcRecord) -> SubnetFabric {
    let table = subnet
        .route_table
        .as_ref()
        .map_or(&vpc.main_route_table_id, |association| &association.route_table_id);
    SubnetFabric {
        subnet_id: subnet.subnet_id.clone(),
        cidr: subnet.cidr,
        route_table_id: table.clone(),
        network_acl_id: subnet.network_acl.network_acl_id.clone(),
    }
}

fn eni(record: EniRecord) -> EniFabric {
    EniFabric {
        network_load_balancer: record.is_of_network_load_balancer(),
        eni_id: record.eni_id,
        subnet_id: record.subnet_id,
        mac: record.mac,
        private_ip: record.private_ip,
        public_ip: record.public.map(|public| public.ip),
        security_group_ids: record.groups.into_iter().map(|group| group.group_id).collect(),
        source_dest_check: record.source_dest_check,
    }
}

fn group(record: &GroupRecord) -> SecurityGroupFabric {
    let direction = |egress| {
        record
            .rules
            .iter()
            .filter(|rule| rule.egress == egress)
            .filter_map(|record| rule(&record.rule))
            .collect()
    };
    SecurityGroupFabric {
        group_id: record.group_id.clone(),
        ingress: direction(false),
        egress: direction(true),
    }
}

/// `None` for what no operation lets in: a damaged rule allows nothing, never everything.
fn rule(rule: &Rule) -> Option<fabric::SecurityGroupRule> {
    let protocol = match rule.protocol.as_str() {
        "-1" => IpProtocol::All,
        "tcp" => IpProtocol::TCP,
        "udp" => IpProtocol::UDP,
        "icmp" => IpProtocol::ICMP,
        number => IpProtocol::Number(number.parse().ok()?),
    };
    let ports = match protocol {
        IpProtocol::TCP | IpProtocol::UDP => {
            Some((u16::try_from(rule.from_port).ok()?, u16::try_from(rule.to_port).ok()?))
        }
        _ => None,
    };
    let icmp = (protocol == IpProtocol::ICMP).then(|| icmp(rule.from_port, rule.to_port));
    let peer = match &rule.peer {
        RulePeer::Cidr(cidr) => Peer::Cidr(*cidr),
        RulePeer::Group(group) => Peer::Group(group.clone()),
    };
    Some(fabric::SecurityGroupRule { protocol, ports, icmp, peer })
}

fn icmp(kind: i32, code: i32) -> (Option<u8>, Option<u8>) {
    (u8::try_from(kind).ok(), u8::try_from(code).ok())
}

fn network_acl(record: &NetworkAclRecord) -> NetworkAclFabric {
    let direction = |egress| {
        let mut entries: Vec<AclEntry> =
            record.entries.iter().filter(|entry| entry.egress == egress).map(acl_entry).collect();
        entries.sort_by_key(|entry| entry.rule_number);
        entries
    };
    NetworkAclFabric {
        network_acl_id: record.network_acl_id.clone(),
        ingress: direction(false),
        egress: direction(true),
    }
}

fn acl_entry(entry: &AclEntryRecord) -> AclEntry {
    AclEntry {
        rule_number: entry.rule_number,
        allow: entry.allow,
        protocol: u8::try_from(entry.protocol).map_or(IpProtocol::All, IpProtocol::Number),
        cidr: entry.cidr,
        ports: entry.ports,
        icmp: entry.icmp.map(|(kind, code)| icmp(kind, code)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const SCOPE: &str = "/ec2/123456789012/us-east-1";

    fn records() -> Vec<(String, Value)> {
        let eni = |id: &str, ip: &str, group: &str, public: Value| {
            let record = json!({
                "eni_id": id, "vpc_id": "vpc-1", "subnet_id": "subnet-1", "zone": "us-east-1a", "zone_id": "use1-az1",
                "private_ip": ip, "mac": "0a:00:00:00:00:01", "description": "", "source_dest_check": true,
                "groups": [{"group_id": group, "group_name": "web"}], "public": public, "tags": {"a": "b"},
            });
            (format!("{SCOPE}/network-interface/{id}"), record)
        };
        let rule = |egress: bool, protocol: &str, from: i32, to: i32, peer: Value| {
            json!({"rule_id": "sgr-1", "egress": egress, "tags": {}, "rule": {
                "protocol": protocol, "from_port": from, "to_port": to, "peer": peer,
            }})
        };
        vec![
            (
                format!("{SCOPE}/vpc/vpc-1"),
                json!({
                    "vpc_id": "vpc-1", "cidr_blocks": [{"association_id": "a", "cidr": "10.0.0.0/16"}],
                    "is_default": false, "instance_tenancy": "default", "dhcp_options_id": "dopt-1",
                    "enable_dns_support": true, "enable_dns_hostnames": true, "enable_network_address_usage_metrics": false,
                    "main_route_table_id": "rtb-1", "main_association_id": "b", "default_network_acl_id": "acl-1",
                    "default_group_id": "sg-1",
                }),
            ),
            (
                format!("{SCOPE}/subnet/subnet-1"),
                json!({
                    "subnet_id": "subnet-1", "vpc_id": "vpc-1", "cidr": "10.0.1.0/24", "zone": "us-east-1a",
                    "zone_id": "use1-az1", "default_for_az": false, "map_public_ip_on_launch": false,
                    "hostname_type": "ip-name", "resource_name_dns_a_record": false, "route_table": null,
                    "network_acl": {"association_id": "c", "network_acl_id": "acl-1"},
                }),
            ),
            (
                format!("{SCOPE}/route-table/rtb-1"),
                json!({
                    "route_table_id": "rtb-1", "vpc_id": "vpc-1", "routes": [
                        {"destination": "0.0.0.0/0", "target": {"internet_gateway": "igw-1"}},
                        {"destination": "192.0.2.0/24", "target": {"network_interface": "eni-1"}},
                        {"destination": "198.51.100.0/24", "target": {"network_interface": "eni-9"}},
                    ],
                }),
            ),
            (
                format!("{SCOPE}/network-acl/acl-1"),
                json!({
                    "network_acl_id": "acl-1", "vpc_id": "vpc-1", "is_default": true, "entries": [
                        {"rule_number": 200, "egress": false, "allow": true, "protocol": -1, "cidr": "0.0.0.0/0"},
                        {"rule_number": 100, "egress": false, "allow": false, "protocol": 6, "cidr": "10.9.0.0/16", "ports": [22, 22]},
                        {"rule_number": 100, "egress": true, "allow": true, "protocol": 1, "cidr": "0.0.0.0/0", "icmp": [8, -1]},
                    ],
                }),
            ),
            (
                format!("{SCOPE}/security-group/sg-1"),
                json!({
                    "group_id": "sg-1", "group_name": "web", "description": "", "vpc_id": "vpc-1", "rules": [
                        rule(false, "tcp", 80, 81, json!({"cidr": "0.0.0.0/0"})),
                        rule(false, "-1", -1, -1, json!({"group": "sg-1"})),
                        rule(true, "icmp", 8, -1, json!({"cidr": "10.0.0.0/8"})),
                        rule(true, "50", -1, -1, json!({"cidr": "10.0.0.0/8"})),
                    ],
                }),
            ),
            (
                format!("{SCOPE}/internet-gateway/igw-1"),
                json!({"internet_gateway_id": "igw-1", "vpc_id": "vpc-1"}),
            ),
            eni("eni-1", "10.0.1.4", "sg-1", json!({"ip": "127.64.0.1"})),
            eni("eni-2", "10.0.1.5", "sg-1", Value::Null),
            // Nothing that the fabric is made of.
            (format!("{SCOPE}/private-address/subnet-1/0a000104"), json!("eni-1")),
            (format!("{SCOPE}/elastic-ip/eipalloc-1"), json!({"allocation_id": "eipalloc-1"})),
        ]
    }

    fn put(index: &mut FabricIndex, key: &str, record: &Value) {
        let known = FabricRecord::parse(key, record.to_string().as_bytes()).unwrap();
        assert_eq!(FabricIndex::concerns(key), known.is_some(), "{key}");
        index.put(key, record.to_string().as_bytes()).unwrap();
    }

    fn planned(records: &[(String, Value)]) -> FabricIndex {
        let mut index = FabricIndex::default();
        records.iter().for_each(|(key, record)| put(&mut index, key, record));
        index
    }

    #[test]
    fn golden() {
        let fabric = serde_json::to_value(planned(&records()).plan(7)).unwrap();
        assert_eq!(
            fabric,
            json!({"revision": 7, "vpcs": [{
                "vpc_id": "vpc-1",
                "region": "us-east-1",
                "cidrs": ["10.0.0.0/16"],
                "subnets": [
                    {"subnet_id": "subnet-1", "cidr": "10.0.1.0/24", "route_table_id": "rtb-1", "network_acl_id": "acl-1"},
                ],
                "route_tables": [{"route_table_id": "rtb-1", "routes": [
                    {"destination": "10.0.0.0/16", "target": "local"},
                    {"destination": "0.0.0.0/0", "target": {"internet_gateway": "igw-1"}},
                    {"destination": "192.0.2.0/24", "target": {"network_interface": "eni-1"}},
                    {"destination": "198.51.100.0/24", "target": "blackhole"},
                ]}],
                "network_acls": [{
                    "network_acl_id": "acl-1",
                    "ingress": [
                        {"rule_number": 100, "allow": false, "protocol": {"number": 6}, "cidr": "10.9.0.0/16", "ports": [22, 22], "icmp": null},
                        {"rule_number": 200, "allow": true, "protocol": "all", "cidr": "0.0.0.0/0", "ports": null, "icmp": null},
                    ],
                    "egress": [
                        {"rule_number": 100, "allow": true, "protocol": {"number": 1}, "cidr": "0.0.0.0/0", "ports": null, "icmp": [8, null]},
                    ],
                }],
                "security_groups": [{
                    "group_id": "sg-1",
                    "ingress": [
                        {"protocol": {"number": 6}, "ports": [80, 81], "icmp": null, "peer": {"cidr": "0.0.0.0/0"}},
                        {"protocol": "all", "ports": null, "icmp": null, "peer": {"group": "sg-1"}},
                    ],
                    "egress": [
                        {"protocol": {"number": 1}, "ports": null, "icmp": [8, null], "peer": {"cidr": "10.0.0.0/8"}},
                        {"protocol": {"number": 50}, "ports": null, "icmp": null, "peer": {"cidr": "10.0.0.0/8"}},
                    ],
                }],
                "enis": [
                    {"eni_id": "eni-1", "subnet_id": "subnet-1", "mac": "0a:00:00:00:00:01", "private_ip": "10.0.1.4",
                     "public_ip": "127.64.0.1", "security_group_ids": ["sg-1"], "source_dest_check": true,
                     "network_load_balancer": false},
                    {"eni_id": "eni-2", "subnet_id": "subnet-1", "mac": "0a:00:00:00:00:01", "private_ip": "10.0.1.5",
                     "public_ip": null, "security_group_ids": ["sg-1"], "source_dest_check": true,
                     "network_load_balancer": false},
                ],
                "internet_gateway": "igw-1",
            }]})
        );
    }

    #[test]
    fn the_order_of_the_records_does_not_matter() {
        let mut backwards = records();
        backwards.reverse();
        assert_eq!(planned(&backwards).plan(1), planned(&records()).plan(1));
    }

    #[test]
    fn a_vpc_without_interfaces_is_not_part_of_it() {
        let mut index = planned(&records());
        index.delete(&format!("{SCOPE}/network-interface/eni-1"));
        let fabric = index.plan(1);
        assert_eq!(fabric.vpcs[0].enis.len(), 1);
        assert_eq!(fabric.vpcs[0].route_tables[0].routes[2].target, RouteTarget::Blackhole);
        index.delete(&format!("{SCOPE}/network-interface/eni-2"));
        assert_eq!(index.plan(2).vpcs, []);
        // Who asks for all of them is told of it: a task that is over had its interface there.
        assert_eq!(index.whole(2).vpcs[0].subnets, fabric.vpcs[0].subnets);
    }

    #[test]
    fn a_detached_gateway_leaves_a_blackhole() {
        let mut index = planned(&records());
        let key = format!("{SCOPE}/internet-gateway/igw-1");
        put(&mut index, &key, &json!({"internet_gateway_id": "igw-1", "vpc_id": null}));
        let vpc = &index.plan(1).vpcs[0];
        assert_eq!(
            (&vpc.internet_gateway, &vpc.route_tables[0].routes[1].target),
            (&None, &RouteTarget::Blackhole)
        );
        put(&mut index, &key, &json!({"internet_gateway_id": "igw-1", "vpc_id": "vpc-2"}));
        assert_eq!(index.plan(1).vpcs[0].internet_gateway, None);
        put(&mut index, &key, &json!({"internet_gateway_id": "igw-1", "vpc_id": "vpc-1"}));
        assert_eq!(index.plan(1).vpcs[0].internet_gateway.as_deref(), Some("igw-1"));
    }

    #[test]
    fn a_damaged_rule_allows_nothing() {
        let damaged =
            Rule { protocol: "tcp".into(), from_port: -5, to_port: 80, peer: RulePeer::Group("sg-1".into()) };
        assert_eq!(rule(&damaged), None);
    }
}
