//! What a task's network interface lets in and out, from the desired fabric.

use std::net::Ipv4Addr;

use ferrogate_nodeapi::{
    AclEntry, EniFabric, Fabric, IpProtocol, Peer, RouteTarget, SecurityGroupRule, SubnetFabric, VpcFabric,
};
use ipnet::Ipv4Net;

use crate::{About, Finding};

/// Somewhere in the internet (TEST-NET-2): stands for all of it.
const ANYWHERE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
/// Linux picks source ports from here on.
const EPHEMERAL_PORT: u16 = 32_768;
const HTTPS: u16 = 443;

/// Who may reach one port of an interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Doors {
    /// CIDR blocks and groups that the security groups let in.
    pub from: Vec<String>,
    /// What a network ACL takes away of it again, in words.
    pub closed_by_acl: Vec<String>,
    pub public: Option<Ipv4Addr>,
    /// The subnet's default route leads to an internet gateway.
    pub internet: bool,
}

fn subnet<'a>(fabric: &'a Fabric, subnet_id: &str) -> Option<(&'a VpcFabric, &'a SubnetFabric)> {
    fabric.vpcs.iter().find_map(|vpc| {
        let subnet = vpc.subnets.iter().find(|subnet| subnet.subnet_id == subnet_id)?;
        Some((vpc, subnet))
    })
}

fn eni<'a>(fabric: &'a Fabric, eni_id: &str) -> Option<(&'a VpcFabric, &'a EniFabric)> {
    fabric.vpcs.iter().find_map(|vpc| Some((vpc, vpc.enis.iter().find(|eni| eni.eni_id == eni_id)?)))
}

/// The most specific route to an address outside.
fn route<'a>(vpc: &'a VpcFabric, subnet: &SubnetFabric) -> Option<&'a RouteTarget> {
    let table = vpc.route_tables.iter().find(|table| table.route_table_id == subnet.route_table_id)?;
    let matching = table.routes.iter().filter(|route| route.destination.contains(&ANYWHERE));
    matching.max_by_key(|route| route.destination.prefix_len()).map(|route| &route.target)
}

/// What stands between a subnet and HTTPS in the internet, for a task whose interface is gone; `None`: nothing that its
/// route table or its network ACL could tell.
pub(crate) fn no_way_out(fabric: &Fabric, subnet_id: &str) -> Option<Finding> {
    let (vpc, subnet) = subnet(fabric, subnet_id)?;
    let table = &subnet.route_table_id;
    let gateway = vpc.internet_gateway.as_deref().unwrap_or("<an internet gateway of the VPC>");
    match route(vpc, subnet) {
        None => {
            let text = format!(
                "Subnet {subnet_id} has no way to the internet: its route table {table} has no route for 0.0.0.0/0."
            );
            Some(
                Finding::cause(About::Route, text)
                    .fix("Use a subnet whose route table leads to an internet gateway, with assignPublicIp=ENABLED.")
                    .fix(format!(
                        "aws ec2 create-route --route-table-id {table} --destination-cidr-block 0.0.0.0/0 --gateway-id {gateway}"
                    )),
            )
        }
        Some(RouteTarget::Blackhole) => {
            let text = format!(
                "The route for 0.0.0.0/0 in route table {table} of subnet {subnet_id} is a black hole: its target is gone."
            );
            Some(Finding::cause(About::Route, text).fix(format!(
                "aws ec2 replace-route --route-table-id {table} --destination-cidr-block 0.0.0.0/0 --gateway-id {gateway}"
            )))
        }
        Some(_) => {
            let text = acl(vpc, subnet, ANYWHERE, HTTPS, EPHEMERAL_PORT)?;
            Some(Finding::cause(About::NetworkAcl, text).fix(
                "Network ACLs know no connections: allow tcp 443 out, and its answers, tcp 1024-65535, in.",
            ))
        }
    }
}

fn rules<'a>(
    vpc: &'a VpcFabric,
    eni: &'a EniFabric,
    of: impl Fn(&'a ferrogate_nodeapi::SecurityGroupFabric) -> &'a Vec<SecurityGroupRule> + 'a,
) -> impl Iterator<Item = &'a SecurityGroupRule> {
    let groups = vpc.security_groups.iter().filter(|group| eni.security_group_ids.contains(&group.group_id));
    groups.flat_map(of)
}

fn covers(rule: IpProtocol, ports: Option<(u16, u16)>, protocol: IpProtocol, port: u16) -> bool {
    (rule == IpProtocol::All || rule == protocol)
        && ports.is_none_or(|(first, last)| (first..=last).contains(&port))
}

/// The rule of a subnet's ACL that stops a connection; `there` is the port at the other side of the way out (or at
/// this side of the way in), `back` the port of its answers.
fn acl(vpc: &VpcFabric, subnet: &SubnetFabric, peer: Ipv4Addr, out: u16, back: u16) -> Option<String> {
    let acl = vpc.network_acls.iter().find(|acl| acl.network_acl_id == subnet.network_acl_id)?;
    let id = &acl.network_acl_id;
    refused(&acl.egress, peer, out)
        .map(|rule| {
            format!("Network ACL {id} of subnet {} refuses tcp {out} out ({rule}).", subnet.subnet_id)
        })
        .or_else(|| {
            refused(&acl.ingress, peer, back).map(|rule| {
                format!("Network ACL {id} of subnet {} refuses tcp {back} in ({rule}).", subnet.subnet_id)
            })
        })
}

/// Which rule refuses it; `None`: it is allowed.
fn refused(entries: &[AclEntry], peer: Ipv4Addr, port: u16) -> Option<String> {
    let first = entries.iter().find(|entry| {
        covers(entry.protocol, entry.ports, IpProtocol::TCP, port) && entry.cidr.contains(&peer)
    });
    match first {
        Some(entry) if entry.allow => None,
        Some(entry) => Some(format!("rule {}", entry.rule_number)),
        None => Some("no rule allows it".into()),
    }
}

/// Who may reach a port; `None`: the interface is not in the fabric.
pub fn doors(fabric: &Fabric, eni_id: &str, protocol: &str, port: u16) -> Option<Doors> {
    let (vpc, eni) = eni(fabric, eni_id)?;
    let subnet = vpc.subnets.iter().find(|subnet| subnet.subnet_id == eni.subnet_id)?;
    let number = if protocol == "udp" { IpProtocol::UDP } else { IpProtocol::TCP };
    let mut doors = Doors {
        public: eni.public_ip,
        internet: matches!(route(vpc, subnet), Some(RouteTarget::InternetGateway(_))),
        ..Doors::default()
    };
    for rule in rules(vpc, eni, |group| &group.ingress) {
        if !covers(rule.protocol, rule.ports, number, port) {
            continue;
        }
        match &rule.peer {
            Peer::Group(group) => doors.from.push(group.clone()),
            Peer::Cidr(block) => {
                doors.from.push(block.to_string());
                doors.closed_by_acl.extend(closed(vpc, subnet, *block, port));
            }
        }
    }
    doors.from.sort();
    doors.from.dedup();
    doors.closed_by_acl.dedup();
    Some(doors)
}

/// Whether the subnet's ACL lets in what a group lets in, and its answers out.
fn closed(vpc: &VpcFabric, subnet: &SubnetFabric, block: Ipv4Net, port: u16) -> Option<String> {
    let peer = if block.prefix_len() == 0 { ANYWHERE } else { block.network() };
    // Inside a subnet no ACL is asked.
    if subnet.cidr.contains(&peer) {
        return None;
    }
    acl(vpc, subnet, peer, EPHEMERAL_PORT, port)
}
