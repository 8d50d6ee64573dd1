//! From the desired fabric to what the kernel must hold; pure and comparable.

mod diff;
#[cfg(test)]
mod eval;
mod preserve;
mod reach;
mod rules;
mod ruleset;
#[cfg(test)]
mod tests;
mod text;
mod uplink;

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use ferrogate_nodeapi::{EniFabric, Fabric, RouteTableFabric, RouteTarget, SubnetFabric, VpcFabric};
use ipnet::Ipv4Net;

use crate::addr::{Mac, RESOLVER_LINK_LOCAL, wire_address};
use crate::names::{eni_link, stable_hash, vpc_link};

pub(crate) use diff::{diff, same_shape};
pub use reach::{Destination, Direction, Transport, Unreachable, reach};
pub(crate) use rules::{Key, Ruleset, Value};
pub(crate) use ruleset::closed_ruleset;
pub(crate) use text::whole;
pub(crate) use uplink::{HostPorts, TPROXY_PORT, UPLINK_MARK, uplink_ruleset};

/// The one nftables table in every namespace of the fabric.
pub(crate) const TABLE: &str = "ferrogate";
/// Marks and routing tables of subnets begin here, above all that the kernel and people use.
const TABLE_FIRST: u32 = 0x1_0000;
/// Those of network load balancers' connections begin here, above those of subnets.
const FLOWS_FIRST: u32 = 0x8000_0000;
/// Never leaves a VPC through a gateway, whatever the routes say.
const LINK_LOCAL: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(169, 254, 0, 0), 16);
const EVERYWHERE: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0);

/// A fabric that cannot be built as it is; the text names the things.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct PlanError(pub(crate) String);

/// What must stand.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct DesiredNet {
    /// By VPC id.
    pub(crate) vpcs: BTreeMap<String, VpcNet>,
    /// Wire address → VPC id and interface.
    pub(crate) wires: BTreeMap<Ipv4Addr, Wire>,
}

/// Where a public address leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wire {
    pub(crate) vpc_id: String,
    pub(crate) public: Ipv4Addr,
    /// What the security groups let in from this host.
    pub(crate) open: HostPorts,
}

/// One VPC's namespace.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct VpcNet {
    /// The router's own: each subnet's first address, the resolver's two.
    pub(crate) addresses: BTreeSet<Ipv4Addr>,
    /// Where the DNS server listens.
    pub(crate) resolvers: Vec<Ipv4Addr>,
    pub(crate) gateway: bool,
    /// A routing table (and mark) per subnet, and per network load balancer for what is on its way back to it.
    pub(crate) tables: BTreeMap<u32, BTreeMap<Ipv4Net, Hop>>,
    /// By ENI id.
    pub(crate) interfaces: BTreeMap<String, Interface>,
    pub(crate) ruleset: Ruleset,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Hop {
    /// To the interface that has the address.
    Local,
    Gateway,
    Blackhole,
    /// ENI id.
    Interface(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Interface {
    pub(crate) link: String,
    pub(crate) mac: Mac,
    pub(crate) address: Ipv4Addr,
    /// The subnet's prefix length and first address.
    pub(crate) prefix: u8,
    pub(crate) router: Ipv4Addr,
    pub(crate) check_source: bool,
    /// The mark of the connections it begins in its clients' names; `None`: it speaks for itself only.
    pub(crate) flows: Option<u32>,
}

/// Everything, or why not.
pub(crate) fn plan(fabric: &Fabric) -> Result<DesiredNet, PlanError> {
    let mut desired = DesiredNet::default();
    let mut uplinks = BTreeSet::new();
    for vpc in &fabric.vpcs {
        if !uplinks.insert(vpc_link(&vpc.vpc_id)) {
            return Err(PlanError(format!("VPC {} is there twice, or its id ends as another's", vpc.vpc_id)));
        }
        desired.vpcs.insert(vpc.vpc_id.clone(), plan_vpc(vpc)?);
        if vpc.internet_gateway.is_some() {
            plan_wires(vpc, &mut desired.wires)?;
        }
    }
    Ok(desired)
}

fn plan_wires(vpc: &VpcFabric, wires: &mut BTreeMap<Ipv4Addr, Wire>) -> Result<(), PlanError> {
    for eni in &vpc.enis {
        let Some(public) = eni.public_ip else { continue };
        let wire = Wire { vpc_id: vpc.vpc_id.clone(), public, open: uplink::open_from_host(vpc, eni) };
        if wires.insert(wire_address(public), wire).is_some() {
            return Err(PlanError(format!(
                "public address {public} of {} belongs to another as well",
                eni.eni_id
            )));
        }
    }
    Ok(())
}

fn plan_vpc(vpc: &VpcFabric) -> Result<VpcNet, PlanError> {
    let primary =
        vpc.cidrs.first().ok_or_else(|| PlanError(format!("VPC {} has no CIDR block", vpc.vpc_id)))?;
    let marks = subnet_marks(vpc)?;
    let resolvers = vec![offset(*primary, 2), RESOLVER_LINK_LOCAL];
    let mut addresses: BTreeSet<_> = resolvers.iter().copied().collect();
    let mut tables = BTreeMap::new();
    for subnet in &vpc.subnets {
        addresses.insert(offset(subnet.cidr, 1));
        let table = vpc.route_tables.iter().find(|table| table.route_table_id == subnet.route_table_id);
        tables.insert(marks[&subnet.subnet_id], plan_table(vpc, subnet, table)?);
    }
    let interfaces = plan_interfaces(vpc, &addresses)?;
    for (eni_id, interface) in &interfaces {
        let back = BTreeMap::from([(EVERYWHERE, Hop::Interface(eni_id.clone()))]);
        tables.extend(interface.flows.map(|flows| (flows, back)));
    }
    let ruleset = ruleset::vpc_ruleset(vpc, &marks, &resolvers, &interfaces)?;
    let gateway = vpc.internet_gateway.is_some();
    Ok(VpcNet { addresses, resolvers, gateway, tables, interfaces, ruleset })
}

/// A number for every subnet that does not change when other subnets come and go.
fn subnet_marks(vpc: &VpcFabric) -> Result<BTreeMap<String, u32>, PlanError> {
    let ids: BTreeSet<&String> = vpc.subnets.iter().map(|subnet| &subnet.subnet_id).collect();
    if ids.len() != vpc.subnets.len() {
        return Err(PlanError(format!("VPC {} has a subnet twice", vpc.vpc_id)));
    }
    Ok(numbered(ids, |hash| (hash & 0x7fff_ffff).max(TABLE_FIRST)))
}

/// Another number for each, nearly always the same one for the same id.
fn numbered(ids: BTreeSet<&String>, of: fn(u32) -> u32) -> BTreeMap<String, u32> {
    let mut taken = BTreeSet::new();
    let mut number = |id: &String| {
        let mut number = of(stable_hash(id.as_bytes()) as u32);
        while !taken.insert(number) {
            number += 1;
        }
        number
    };
    ids.into_iter().map(|id| (id.clone(), number(id))).collect()
}

fn plan_table(
    vpc: &VpcFabric,
    subnet: &SubnetFabric,
    table: Option<&RouteTableFabric>,
) -> Result<BTreeMap<Ipv4Net, Hop>, PlanError> {
    let table = table.ok_or_else(|| {
        PlanError(format!(
            "subnet {} wants route table {}, which is missing",
            subnet.subnet_id, subnet.route_table_id
        ))
    })?;
    let mut hops = BTreeMap::new();
    // No route is no route: AWS drops.
    hops.insert(EVERYWHERE, Hop::Blackhole);
    for route in &table.routes {
        let hop = match &route.target {
            RouteTarget::Local => Hop::Local,
            RouteTarget::InternetGateway(id) if vpc.internet_gateway.as_ref() == Some(id) => Hop::Gateway,
            RouteTarget::NetworkInterface(id) if vpc.enis.iter().any(|eni| eni.eni_id == *id) => {
                Hop::Interface(id.clone())
            }
            // A gateway or interface that is detached or gone; NAT gateways are interfaces by the time they
            // carry packets.
            RouteTarget::InternetGateway(_)
            | RouteTarget::NatGateway(_)
            | RouteTarget::NetworkInterface(_)
            | RouteTarget::Blackhole => Hop::Blackhole,
        };
        hops.insert(route.destination.trunc(), hop);
    }
    hops.insert(LINK_LOCAL, Hop::Blackhole);
    for cidr in &vpc.cidrs {
        hops.insert(cidr.trunc(), Hop::Local);
    }
    Ok(hops)
}

fn plan_interfaces(
    vpc: &VpcFabric,
    router: &BTreeSet<Ipv4Addr>,
) -> Result<BTreeMap<String, Interface>, PlanError> {
    let mut interfaces = BTreeMap::new();
    let (mut links, mut taken) = (BTreeSet::new(), router.clone());
    let balancers = vpc.enis.iter().filter(|eni| eni.network_load_balancer).map(|eni| &eni.eni_id);
    let flows = numbered(balancers.collect(), |hash| (hash & 0x3fff_ffff) | FLOWS_FIRST);
    for eni in &vpc.enis {
        let mut interface = plan_interface(vpc, eni)?;
        interface.flows = flows.get(&eni.eni_id).copied();
        if !taken.insert(interface.address) {
            return Err(PlanError(format!(
                "address {} of {} is the router's or another interface's in {}",
                interface.address, eni.eni_id, vpc.vpc_id
            )));
        }
        if !links.insert(interface.link.clone()) {
            return Err(PlanError(format!(
                "interface {} is there twice, or its id ends as another's",
                eni.eni_id
            )));
        }
        interfaces.insert(eni.eni_id.clone(), interface);
    }
    Ok(interfaces)
}

fn plan_interface(vpc: &VpcFabric, eni: &EniFabric) -> Result<Interface, PlanError> {
    let subnet = vpc.subnets.iter().find(|subnet| subnet.subnet_id == eni.subnet_id).ok_or_else(|| {
        PlanError(format!("{} is in subnet {}, which is missing", eni.eni_id, eni.subnet_id))
    })?;
    if !subnet.cidr.contains(&eni.private_ip) {
        return Err(PlanError(format!(
            "address {} of {} is outside {} of {}",
            eni.private_ip, eni.eni_id, subnet.cidr, subnet.subnet_id
        )));
    }
    let mac = eni.mac.parse().map_err(|()| {
        PlanError(format!("MAC address {:?} of {} is not six hexadecimal pairs", eni.mac, eni.eni_id))
    })?;
    if !eni.eni_id.chars().all(|c| c.is_ascii_alphanumeric() || c == '-') {
        return Err(PlanError(format!(
            "interface id {:?} has characters beyond a-z, 0-9 and '-'",
            eni.eni_id
        )));
    }
    Ok(Interface {
        link: eni_link(&eni.eni_id),
        mac,
        address: eni.private_ip,
        prefix: subnet.cidr.prefix_len(),
        router: offset(subnet.cidr, 1),
        // The rules look at a balancer's sources more closely than the kernel could.
        check_source: eni.source_dest_check && !eni.network_load_balancer,
        flows: None,
    })
}

fn offset(net: Ipv4Net, by: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(net.network()).wrapping_add(by))
}
