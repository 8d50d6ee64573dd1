//! Whether an interface could open a connection, decided from the fabric alone; and if not, why.
//!
//! ```text
//! interface ─ security groups, out ─ route table ─ gateway: public address? ─ network ACL, out ─▶ …
//!           ◀─ network ACL, in: the answer, to an ephemeral port ─────────────────────────────────
//! ```
//!
//! The same rules as the plan's, asked in the order in which somebody mends them. Pure: for a start that must fail as
//! on AWS, and for explaining.

use std::collections::BTreeSet;
use std::fmt;
use std::net::Ipv4Addr;

use ferrogate_nodeapi::{
    AclEntry, EniFabric, Fabric, IpProtocol, NetworkAclFabric, Peer, RouteTarget, SecurityGroupFabric,
    SecurityGroupRule, SubnetFabric, VpcFabric,
};
use ipnet::Ipv4Net;
use serde::Serialize;

use super::{LINK_LOCAL, offset};
use crate::addr::{RESOLVER_LINK_LOCAL, wire_address};

const DNS_PORT: u16 = 53;
/// Where Linux connects from, unless told otherwise (`ip_local_port_range`).
const EPHEMERAL_PORTS: (u16, u16) = (32_768, 60_999);
/// Addresses tried for "the internet", at most: one per block that some rule names.
const INTERNET_TRIED_MAX: usize = 4096;

/// Never the internet (RFC 6890): private, shared, loopback, link-local, multicast and reserved.
const NOT_INTERNET: [Ipv4Net; 8] = [
    Ipv4Net::new_assert(Ipv4Addr::new(0, 0, 0, 0), 8),
    Ipv4Net::new_assert(Ipv4Addr::new(10, 0, 0, 0), 8),
    Ipv4Net::new_assert(Ipv4Addr::new(100, 64, 0, 0), 10),
    Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8),
    LINK_LOCAL,
    Ipv4Net::new_assert(Ipv4Addr::new(172, 16, 0, 0), 12),
    Ipv4Net::new_assert(Ipv4Addr::new(192, 168, 0, 0), 16),
    Ipv4Net::new_assert(Ipv4Addr::new(224, 0, 0, 0), 3),
];
/// Somewhere out there: what is tried first.
const SOMEWHERE: Ipv4Addr = Ipv4Addr::new(52, 0, 0, 1);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Transport {
    Tcp,
    Udp,
}

impl Transport {
    fn number(self) -> u8 {
        match self {
            Transport::Tcp => 6,
            Transport::Udp => 17,
        }
    }
}

/// What is to be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Destination {
    /// Something with a public address nobody knows beforehand, by TCP: it is reached if some public address can be.
    Internet {
        port: u16,
    },
    Address {
        ip: Ipv4Addr,
        port: u16,
        protocol: Transport,
    },
}

/// Which way a network ACL was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    Inbound,
    Outbound,
}

/// Why there is no way; its text says what to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
#[serde(rename_all = "snake_case", tag = "why")]
pub enum Unreachable {
    #[error("network interface {eni_id} is not there (any more)")]
    NoInterface { eni_id: String },
    #[error("{id}, which {of} refers to, is not there")]
    Missing { id: String, of: String },
    #[error(
        "route table {route_table_id} of subnet {subnet_id} has no route to {destination}; add one, 0.0.0.0/0 to an \
         internet gateway"
    )]
    NoRoute { destination: Destination, subnet_id: String, route_table_id: String },
    #[error(
        "the route {route} in route table {route_table_id} of subnet {subnet_id} leads to {target}, which is detached, \
         deleted or not supported; replace its target"
    )]
    DeadRoute {
        destination: Destination,
        subnet_id: String,
        route_table_id: String,
        route: Ipv4Net,
        target: String,
    },
    #[error(
        "network interface {eni_id} has no public address, which the internet gateway {internet_gateway_id} needs (route \
         table {route_table_id}); run the task with assignPublicIp=ENABLED, or in a subnet that routes to a NAT"
    )]
    NoPublicAddress { eni_id: String, route_table_id: String, internet_gateway_id: String },
    #[error(
        "the route {route} in route table {route_table_id} leads to network interface {eni_id}, which drops what is not \
         for itself; turn its source/destination check off"
    )]
    SourceDestCheck { eni_id: String, route_table_id: String, route: Ipv4Net },
    #[error("nobody has the address {address} in {vpc_id}; is what you want to reach running?")]
    NobodyThere { address: Ipv4Addr, vpc_id: String },
    #[error(
        "no outbound rule of security group(s) {} allows {destination}; authorize it (outbound)",
        .security_group_ids.join(", ")
    )]
    SecurityGroupOutbound { destination: Destination, eni_id: String, security_group_ids: Vec<String> },
    #[error(
        "no inbound rule of security group(s) {} of network interface {eni_id} allows {source_address} to {destination}; \
         authorize it (inbound)", .security_group_ids.join(", ")
    )]
    SecurityGroupInbound {
        destination: Destination,
        source_address: Ipv4Addr,
        /// The receiver.
        eni_id: String,
        security_group_ids: Vec<String>,
    },
    #[error("{}", acl_text(.network_acl_id, .subnet_id, *.direction, *.rule_number, .what))]
    NetworkAcl {
        network_acl_id: String,
        subnet_id: String,
        direction: Direction,
        /// The rule that denies; `None`: the last one, `*`.
        rule_number: Option<u16>,
        what: String,
    },
}

fn acl_text(acl: &str, subnet: &str, direction: Direction, rule: Option<u16>, what: &str) -> String {
    let rule = rule.map_or_else(|| "no rule that allows".to_owned(), |number| format!("rule {number} deny"));
    let side = match direction {
        Direction::Inbound => "inbound",
        Direction::Outbound => "outbound",
    };
    format!(
        "network ACL {acl} of subnet {subnet} has {rule} {what} ({side}); network ACLs are stateless: allow both ways"
    )
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Destination::Internet { port } => write!(f, "the internet on TCP port {port}"),
            Destination::Address { ip, port, protocol } => {
                let protocol = match protocol {
                    Transport::Tcp => "TCP",
                    Transport::Udp => "UDP",
                };
                write!(f, "{ip} on {protocol} port {port}")
            }
        }
    }
}

impl Unreachable {
    /// How far the packet got: of several addresses the one that got furthest tells what to mend.
    fn stage(&self) -> u8 {
        match self {
            Unreachable::NoInterface { .. } | Unreachable::Missing { .. } => 0,
            Unreachable::SecurityGroupOutbound { .. } => 1,
            Unreachable::NoRoute { .. } => 2,
            Unreachable::DeadRoute { .. } => 3,
            Unreachable::NobodyThere { .. } | Unreachable::SourceDestCheck { .. } => 4,
            Unreachable::NoPublicAddress { .. } => 5,
            Unreachable::NetworkAcl { .. } => 6,
            Unreachable::SecurityGroupInbound { .. } => 7,
        }
    }
}

/// Whether the interface can open a connection to the destination and hear the answer.
///
/// # Errors
/// It cannot: the first thing in the way.
pub fn reach(fabric: &Fabric, eni_id: &str, to: Destination) -> Result<(), Unreachable> {
    let own = |vpc: &VpcFabric| vpc.enis.iter().position(|eni| eni.eni_id == eni_id);
    let (vpc, eni) = fabric
        .vpcs
        .iter()
        .find_map(|vpc| own(vpc).map(|at| (vpc, &vpc.enis[at])))
        .ok_or_else(|| Unreachable::NoInterface { eni_id: eni_id.to_owned() })?;
    match to {
        Destination::Address { ip, port, protocol } => {
            let way = Way { fabric, vpc, eni, to, port, protocol: protocol.number() };
            // Public addresses out of 127.64.0.0/10 travel by another name, and the rules see that.
            way.go(wire_address(ip))
        }
        Destination::Internet { port } => {
            let way = Way { fabric, vpc, eni, to, port, protocol: Transport::Tcp.number() };
            let mut best: Option<Unreachable> = None;
            for address in internet(vpc).into_iter().take(INTERNET_TRIED_MAX) {
                match way.go(address) {
                    Ok(()) => return Ok(()),
                    Err(why) if best.as_ref().is_none_or(|best| why.stage() > best.stage()) => {
                        best = Some(why);
                    }
                    Err(_) => {}
                }
            }
            Err(best.unwrap_or(Unreachable::NoInterface { eni_id: eni_id.to_owned() }))
        }
    }
}

/// Public addresses that between them meet every combination of rules: the first one in, and the first one after, each
/// block that any rule names.
fn internet(vpc: &VpcFabric) -> Vec<Ipv4Addr> {
    let routes = vpc.route_tables.iter().flat_map(|table| &table.routes).map(|route| route.destination);
    let acls = vpc.network_acls.iter().flat_map(|acl| acl.ingress.iter().chain(&acl.egress));
    let groups = vpc.security_groups.iter().flat_map(|group| group.ingress.iter().chain(&group.egress));
    let groups = groups.filter_map(|rule| match rule.peer {
        Peer::Cidr(net) => Some(net),
        Peer::Group(_) => None,
    });
    let blocks = routes.chain(acls.map(|entry| entry.cidr)).chain(groups).chain(NOT_INTERNET);
    let mut edges: BTreeSet<Ipv4Addr> = BTreeSet::new();
    for block in blocks.chain(vpc.cidrs.iter().copied()) {
        edges.insert(block.network());
        edges.extend(u32::from(block.broadcast()).checked_add(1).map(Ipv4Addr::from));
    }
    let public =
        |address: &Ipv4Addr| !NOT_INTERNET.iter().chain(&vpc.cidrs).any(|block| block.contains(address));
    let somewhere = std::iter::once(SOMEWHERE).filter(public);
    somewhere.chain(edges.iter().copied().filter(public)).collect()
}

/// One connection from one interface.
struct Way<'a> {
    fabric: &'a Fabric,
    vpc: &'a VpcFabric,
    eni: &'a EniFabric,
    to: Destination,
    port: u16,
    protocol: u8,
}

impl Way<'_> {
    fn go(&self, address: Ipv4Addr) -> Result<(), Unreachable> {
        let Way { vpc, eni, .. } = *self;
        let subnet = subnet_of(vpc, eni)?;
        // The resolver is the router's own: no group and no list is asked.
        let resolver = vpc.cidrs.first().map(|primary| offset(*primary, 2));
        if self.port == DNS_PORT && (address == RESOLVER_LINK_LOCAL || Some(address) == resolver) {
            return Ok(());
        }
        if !groups_allow(vpc, eni, |group| &group.egress, address, self.protocol, self.port) {
            return Err(Unreachable::SecurityGroupOutbound {
                destination: self.to,
                eni_id: eni.eni_id.clone(),
                security_group_ids: eni.security_group_ids.clone(),
            });
        }
        if !LINK_LOCAL.contains(&address) && vpc.cidrs.iter().any(|cidr| cidr.contains(&address)) {
            return self.local(subnet, address);
        }
        let route = self.route(subnet, address)?;
        match route {
            Hop::Gateway => self.gateway(subnet, address),
            Hop::Interface(next, route) => self.interface(subnet, next, route, address),
        }
    }

    /// The longest prefix that leads somewhere.
    fn route(&self, subnet: &SubnetFabric, address: Ipv4Addr) -> Result<Hop<'_>, Unreachable> {
        let table_id = &subnet.route_table_id;
        let table = self.vpc.route_tables.iter().find(|table| table.route_table_id == *table_id);
        let table = table.ok_or_else(|| missing(table_id, &subnet.subnet_id))?;
        let fitting = table.routes.iter().filter(|route| route.destination.contains(&address));
        let none = || Unreachable::NoRoute {
            destination: self.to,
            subnet_id: subnet.subnet_id.clone(),
            route_table_id: table_id.clone(),
        };
        let route = fitting
            .max_by_key(|route| route.destination.prefix_len())
            .filter(|_| !LINK_LOCAL.contains(&address));
        let route = route.ok_or_else(none)?;
        let dead = |target: &str| Unreachable::DeadRoute {
            destination: self.to,
            subnet_id: subnet.subnet_id.clone(),
            route_table_id: table_id.clone(),
            route: route.destination,
            target: target.to_owned(),
        };
        match &route.target {
            RouteTarget::InternetGateway(id) if self.vpc.internet_gateway.as_ref() == Some(id) => {
                if self.eni.public_ip.is_none() {
                    return Err(Unreachable::NoPublicAddress {
                        eni_id: self.eni.eni_id.clone(),
                        route_table_id: table_id.clone(),
                        internet_gateway_id: id.clone(),
                    });
                }
                Ok(Hop::Gateway)
            }
            RouteTarget::NetworkInterface(id) => {
                let next = self.vpc.enis.iter().find(|eni| eni.eni_id == *id).ok_or_else(|| dead(id))?;
                Ok(Hop::Interface(next, route.destination))
            }
            RouteTarget::InternetGateway(id) | RouteTarget::NatGateway(id) => Err(dead(id)),
            RouteTarget::Blackhole => Err(dead("a target that is gone")),
            // Local, and nobody of the VPC has it: it was asked before.
            RouteTarget::Local => Err(none()),
        }
    }

    /// To another interface of the VPC.
    fn local(&self, subnet: &SubnetFabric, address: Ipv4Addr) -> Result<(), Unreachable> {
        let receiver = self.vpc.enis.iter().find(|eni| eni.private_ip == address);
        let receiver =
            receiver.ok_or_else(|| Unreachable::NobodyThere { address, vpc_id: self.vpc.vpc_id.clone() })?;
        if receiver.eni_id == self.eni.eni_id {
            return Ok(());
        }
        self.between(subnet, receiver, address)
    }

    /// Over a machine that passes packets on: what it does with them is its own affair.
    fn interface(
        &self,
        subnet: &SubnetFabric,
        next: &EniFabric,
        route: Ipv4Net,
        address: Ipv4Addr,
    ) -> Result<(), Unreachable> {
        if next.source_dest_check {
            return Err(Unreachable::SourceDestCheck {
                eni_id: next.eni_id.clone(),
                route_table_id: subnet.route_table_id.clone(),
                route,
            });
        }
        self.between(subnet, next, address)
    }

    /// From interface to interface in the VPC, there and back: `address` may lie behind the receiver.
    fn between(
        &self,
        subnet: &SubnetFabric,
        receiver: &EniFabric,
        address: Ipv4Addr,
    ) -> Result<(), Unreachable> {
        let own = self.eni.private_ip;
        let other = subnet_of(self.vpc, receiver)?;
        let same_subnet = other.subnet_id == subnet.subnet_id;
        if !same_subnet {
            self.acl(self.vpc, subnet, Direction::Outbound, address, self.there())?;
            self.acl(self.vpc, other, Direction::Inbound, own, self.there())?;
        }
        self.let_in(self.vpc, receiver, own)?;
        if !same_subnet {
            self.acl(self.vpc, other, Direction::Outbound, own, EPHEMERAL_PORTS)?;
            self.acl(self.vpc, subnet, Direction::Inbound, address, EPHEMERAL_PORTS)?;
        }
        Ok(())
    }

    /// Through the internet gateway; perhaps to an interface here that has a public address.
    fn gateway(&self, subnet: &SubnetFabric, address: Ipv4Addr) -> Result<(), Unreachable> {
        self.acl(self.vpc, subnet, Direction::Outbound, address, self.there())?;
        let own = self.eni.public_ip.map(wire_address).unwrap_or(self.eni.private_ip);
        let has = |eni: &&EniFabric| eni.public_ip.map(wire_address) == Some(address);
        let open = self.fabric.vpcs.iter().filter(|vpc| vpc.internet_gateway.is_some());
        for vpc in open {
            let Some(receiver) = vpc.enis.iter().find(has) else { continue };
            let other = subnet_of(vpc, receiver)?;
            self.acl(vpc, other, Direction::Inbound, own, self.there())?;
            self.let_in(vpc, receiver, own)?;
            self.acl(vpc, other, Direction::Outbound, own, EPHEMERAL_PORTS)?;
        }
        self.acl(self.vpc, subnet, Direction::Inbound, address, EPHEMERAL_PORTS)
    }

    fn let_in(&self, vpc: &VpcFabric, receiver: &EniFabric, source: Ipv4Addr) -> Result<(), Unreachable> {
        if groups_allow(vpc, receiver, |group| &group.ingress, source, self.protocol, self.port) {
            return Ok(());
        }
        Err(Unreachable::SecurityGroupInbound {
            destination: self.to,
            source_address: source,
            eni_id: receiver.eni_id.clone(),
            security_group_ids: receiver.security_group_ids.clone(),
        })
    }

    fn there(&self) -> (u16, u16) {
        (self.port, self.port)
    }

    /// Some port of the range has to pass.
    fn acl(
        &self,
        vpc: &VpcFabric,
        subnet: &SubnetFabric,
        direction: Direction,
        peer: Ipv4Addr,
        ports: (u16, u16),
    ) -> Result<(), Unreachable> {
        let acl_id = &subnet.network_acl_id;
        let acl = vpc.network_acls.iter().find(|acl| acl.network_acl_id == *acl_id);
        let acl = acl.ok_or_else(|| missing(acl_id, &subnet.subnet_id))?;
        let entries = entries(acl, direction);
        // Verdicts change only where some rule's range begins or ends.
        let mut asked: BTreeSet<u16> = BTreeSet::from([ports.0]);
        for (first, last) in entries.iter().filter_map(|entry| entry.ports) {
            asked.extend([Some(first), last.checked_add(1)].into_iter().flatten());
        }
        let mut denied = None;
        for port in asked.range(ports.0..=ports.1) {
            let first = entries
                .iter()
                .filter(|entry| {
                    entry.cidr.contains(&peer) && fits(entry.protocol, entry.ports, self.protocol, *port)
                })
                .min_by_key(|entry| entry.rule_number);
            match first {
                Some(entry) if entry.allow => return Ok(()),
                rule => denied = denied.or(rule.map(|entry| entry.rule_number)),
            }
        }
        let protocol = if self.protocol == 6 { "TCP" } else { "UDP" };
        let side = if direction == Direction::Outbound { "to" } else { "from" };
        let what = match ports {
            (first, last) if first == last => format!("{protocol} port {first} {side} {peer}"),
            (first, last) => format!("the answers' {protocol} ports {first}-{last} {side} {peer}"),
        };
        Err(Unreachable::NetworkAcl {
            network_acl_id: acl_id.clone(),
            subnet_id: subnet.subnet_id.clone(),
            direction,
            rule_number: denied,
            what,
        })
    }
}

enum Hop<'a> {
    Gateway,
    Interface(&'a EniFabric, Ipv4Net),
}

fn entries(acl: &NetworkAclFabric, direction: Direction) -> &[AclEntry] {
    match direction {
        Direction::Inbound => &acl.ingress,
        Direction::Outbound => &acl.egress,
    }
}

fn subnet_of<'a>(vpc: &'a VpcFabric, eni: &EniFabric) -> Result<&'a SubnetFabric, Unreachable> {
    let found = vpc.subnets.iter().find(|subnet| subnet.subnet_id == eni.subnet_id);
    found.ok_or_else(|| missing(&eni.subnet_id, &eni.eni_id))
}

fn missing(id: &str, of: &str) -> Unreachable {
    Unreachable::Missing { id: id.to_owned(), of: of.to_owned() }
}

fn groups_allow(
    vpc: &VpcFabric,
    eni: &EniFabric,
    side: impl Fn(&SecurityGroupFabric) -> &Vec<SecurityGroupRule>,
    peer: Ipv4Addr,
    protocol: u8,
    port: u16,
) -> bool {
    let groups = vpc.security_groups.iter().filter(|group| eni.security_group_ids.contains(&group.group_id));
    groups.flat_map(side).any(|rule| {
        let of_peer = match &rule.peer {
            Peer::Cidr(net) => net.contains(&peer),
            Peer::Group(id) => {
                vpc.enis.iter().any(|eni| eni.private_ip == peer && eni.security_group_ids.contains(id))
            }
        };
        of_peer && fits(rule.protocol, rule.ports, protocol, port)
    })
}

/// For TCP and UDP.
fn fits(rule: IpProtocol, ports: Option<(u16, u16)>, protocol: u8, port: u16) -> bool {
    match rule {
        IpProtocol::All => true,
        IpProtocol::Number(number) => {
            number == protocol && ports.is_none_or(|(first, last)| first <= port && port <= last)
        }
    }
}
