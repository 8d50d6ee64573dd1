//! The plan against a naive model of what AWS says.

mod preserve;
mod reach;

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use ferrogate_nodeapi::{
    AclEntry, EniFabric, Fabric, IpProtocol, NetworkAclFabric, Peer, RouteFabric, RouteTableFabric,
    RouteTarget, SecurityGroupFabric, SecurityGroupRule, SubnetFabric, VpcFabric,
};
use ipnet::Ipv4Net;
use proptest::prelude::*;
use proptest::strategy::ValueTree;

use super::eval::{Packet, passes};
use super::rules::{Hook, Ruleset};
use super::{Hop, plan, text};
use crate::addr::wire_address;

const GROUPS: usize = 4;
const SUBNETS: usize = 3;

fn protocols() -> impl Strategy<Value = IpProtocol> {
    prop_oneof![
        Just(IpProtocol::All),
        Just(IpProtocol::TCP),
        Just(IpProtocol::UDP),
        Just(IpProtocol::ICMP),
        Just(IpProtocol::Number(50)),
    ]
}

fn ports() -> impl Strategy<Value = Option<(u16, u16)>> {
    prop_oneof![Just(None), (0u16..6, 0u16..3).prop_map(|(first, more)| Some((first, first + more)))]
}

fn icmp() -> impl Strategy<Value = Option<(Option<u8>, Option<u8>)>> {
    proptest::option::of((proptest::option::of(0u8..3), proptest::option::of(0u8..2)))
}

/// Around the addresses of the interfaces and the world's.
fn cidrs() -> impl Strategy<Value = Ipv4Net> {
    let addresses = prop_oneof![
        (0u8..3, 4u8..9).prop_map(|(c, d)| Ipv4Addr::new(10, 0, c, d)),
        Just(Ipv4Addr::new(198, 51, 100, 7)),
    ];
    (addresses, prop_oneof![Just(0u8), Just(16), Just(24), Just(30), Just(32)])
        .prop_map(|(address, prefix)| Ipv4Net::new(address, prefix).unwrap().trunc())
}

fn group_rules() -> impl Strategy<Value = Vec<SecurityGroupRule>> {
    // One more than there are: a group of another VPC.
    let peers = prop_oneof![
        cidrs().prop_map(Peer::Cidr),
        (0..=GROUPS).prop_map(|group| Peer::Group(format!("sg-{group}")))
    ];
    let rule = (protocols(), ports(), icmp(), peers)
        .prop_map(|(protocol, ports, icmp, peer)| SecurityGroupRule { protocol, ports, icmp, peer });
    proptest::collection::vec(rule, 0..4)
}

fn acl_entries() -> impl Strategy<Value = Vec<AclEntry>> {
    let entry = (1u16..50, any::<bool>(), protocols(), cidrs(), ports(), icmp()).prop_map(
        |(rule_number, allow, protocol, cidr, ports, icmp)| AclEntry {
            rule_number,
            allow,
            protocol,
            cidr,
            ports,
            icmp,
        },
    );
    let everything = AclEntry {
        rule_number: 100,
        allow: true,
        protocol: IpProtocol::All,
        cidr: "0.0.0.0/0".parse().unwrap(),
        ports: None,
        icmp: None,
    };
    (proptest::collection::vec(entry, 0..4), any::<bool>()).prop_map(move |(mut entries, open)| {
        entries.sort_by_key(|entry| entry.rule_number);
        entries.dedup_by_key(|entry| entry.rule_number);
        entries.extend(open.then(|| everything.clone()));
        entries
    })
}

prop_compose! {
    fn fabrics()(
        groups in proptest::collection::vec((group_rules(), group_rules()), GROUPS),
        acls in proptest::collection::vec((acl_entries(), acl_entries()), SUBNETS),
        enis in proptest::collection::vec(
            (0..SUBNETS, proptest::collection::btree_set(0..=GROUPS, 0..3), any::<bool>(), any::<bool>()), 2..5,
        ),
    ) -> VpcFabric {
        VpcFabric {
            vpc_id: "vpc-1".into(),
            region: "us-east-1".into(),
            cidrs: vec!["10.0.0.0/16".parse().unwrap()],
            subnets: (0..SUBNETS).map(|i| SubnetFabric {
                subnet_id: format!("subnet-{i}"),
                cidr: format!("10.0.{i}.0/24").parse().unwrap(),
                route_table_id: "rtb-1".into(),
                network_acl_id: format!("acl-{i}"),
            }).collect(),
            route_tables: vec![RouteTableFabric { route_table_id: "rtb-1".into(), routes: Vec::new() }],
            network_acls: acls.into_iter().enumerate().map(|(i, (ingress, egress))| NetworkAclFabric {
                network_acl_id: format!("acl-{i}"), ingress, egress,
            }).collect(),
            security_groups: groups.into_iter().enumerate().map(|(i, (ingress, egress))| SecurityGroupFabric {
                group_id: format!("sg-{i}"), ingress, egress,
            }).collect(),
            enis: enis.into_iter().enumerate().map(|(i, (subnet, groups, public, check))| EniFabric {
                eni_id: format!("eni-{i}"),
                subnet_id: format!("subnet-{subnet}"),
                mac: format!("0a:00:00:00:00:{i:02x}"),
                private_ip: Ipv4Addr::new(10, 0, subnet as u8, 4 + i as u8),
                public_ip: public.then(|| Ipv4Addr::new(127, 64, 0, i as u8)),
                security_group_ids: groups.into_iter().map(|group| format!("sg-{group}")).collect(),
                source_dest_check: check,
                network_load_balancer: false,
            }).collect(),
            internet_gateway: Some("igw-1".into()),
        }
    }
}

/// One end of a packet's way: an interface, or the world.
type End = Option<usize>;

#[derive(Clone, Copy, Debug)]
struct Traffic {
    protocol: u8,
    port: u16,
    icmp: (u8, u8),
    established: bool,
    /// Sent with this source instead of the sender's own.
    spoofed: Option<Ipv4Addr>,
}

prop_compose! {
    fn traffic()(
        protocol in prop_oneof![Just(6u8), Just(17), Just(1), Just(50)],
        port in 0u16..9,
        icmp in (0u8..3, 0u8..2),
        established in proptest::bool::weighted(0.2),
        spoofed in proptest::option::weighted(0.1, Just(Ipv4Addr::new(10, 0, 0, 250))),
    ) -> Traffic {
        Traffic { protocol, port, icmp, established, spoofed }
    }
}

const WORLD: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);

/// AWS in its own words: "Security groups for your VPC", "Network ACLs", "Internet gateways".
fn model(vpc: &VpcFabric, from: End, to: End, traffic: &Traffic) -> bool {
    let (sender, receiver) = (from.map(|i| &vpc.enis[i]), to.map(|i| &vpc.enis[i]));
    // Through a gateway only with a public address.
    for (one, other) in [(sender, receiver), (receiver, sender)] {
        if one.is_none() && other.is_none_or(|eni| eni.public_ip.is_none()) {
            return false;
        }
    }
    let source = match (sender, traffic.spoofed) {
        (Some(eni), Some(_)) if eni.source_dest_check => return false,
        // Only its own address has a public one.
        (Some(_), Some(_)) if receiver.is_none() => return false,
        (Some(_), Some(spoofed)) => spoofed,
        (Some(eni), None) => eni.private_ip,
        (None, _) => WORLD,
    };
    let destination = receiver.map_or(WORLD, |eni| eni.private_ip);
    let leaves = sender.map(|eni| &eni.subnet_id) != receiver.map(|eni| &eni.subnet_id);
    if leaves {
        let egress = sender.is_none_or(|eni| acl_allows(&acl(vpc, eni).egress, destination, traffic));
        let ingress = receiver.is_none_or(|eni| acl_allows(&acl(vpc, eni).ingress, source, traffic));
        if !egress || !ingress {
            return false;
        }
    }
    if traffic.established {
        return true;
    }
    sender.is_none_or(|eni| groups_allow(vpc, eni, |group| &group.egress, destination, traffic))
        && receiver.is_none_or(|eni| groups_allow(vpc, eni, |group| &group.ingress, source, traffic))
}

fn acl<'a>(vpc: &'a VpcFabric, eni: &EniFabric) -> &'a NetworkAclFabric {
    let subnet = vpc.subnets.iter().find(|subnet| subnet.subnet_id == eni.subnet_id).unwrap();
    vpc.network_acls.iter().find(|acl| acl.network_acl_id == subnet.network_acl_id).unwrap()
}

fn acl_allows(entries: &[AclEntry], peer: Ipv4Addr, traffic: &Traffic) -> bool {
    let first = entries
        .iter()
        .filter(|entry| entry.cidr.contains(&peer) && fits(entry.protocol, entry.ports, entry.icmp, traffic))
        .min_by_key(|entry| entry.rule_number);
    first.is_some_and(|entry| entry.allow)
}

fn groups_allow(
    vpc: &VpcFabric,
    eni: &EniFabric,
    side: impl Fn(&SecurityGroupFabric) -> &Vec<SecurityGroupRule>,
    peer: Ipv4Addr,
    traffic: &Traffic,
) -> bool {
    let groups = vpc.security_groups.iter().filter(|group| eni.security_group_ids.contains(&group.group_id));
    groups.flat_map(side).any(|rule| {
        let peer = match &rule.peer {
            Peer::Cidr(net) => net.contains(&peer),
            Peer::Group(id) => {
                vpc.enis.iter().any(|eni| eni.private_ip == peer && eni.security_group_ids.contains(id))
            }
        };
        peer && fits(rule.protocol, rule.ports, rule.icmp, traffic)
    })
}

fn fits(
    protocol: IpProtocol,
    ports: Option<(u16, u16)>,
    icmp: Option<(Option<u8>, Option<u8>)>,
    traffic: &Traffic,
) -> bool {
    match protocol {
        IpProtocol::All => true,
        IpProtocol::Number(number) if number != traffic.protocol => false,
        IpProtocol::Number(6 | 17) => {
            ports.is_none_or(|(first, last)| first <= traffic.port && traffic.port <= last)
        }
        IpProtocol::Number(1) => icmp.is_none_or(|(kind, code)| {
            kind.is_none_or(|kind| kind == traffic.icmp.0) && code.is_none_or(|code| code == traffic.icmp.1)
        }),
        IpProtocol::Number(_) => true,
    }
}

/// The packet through the planned rules, from one link to another.
fn planned(vpc: &VpcFabric, from: End, to: End, traffic: &Traffic) -> bool {
    let fabric = Fabric { revision: 1, vpcs: vec![vpc.clone()] };
    let net = plan(&fabric).unwrap().vpcs.remove("vpc-1").unwrap();
    let interface = |end: End| end.map(|i| net.interfaces[&format!("eni-{i}")].clone());
    let (sender, receiver) = (interface(from), interface(to));
    let link = |interface: &Option<super::Interface>| {
        interface.as_ref().map_or("igw".to_owned(), |interface| interface.link.clone())
    };
    let mac = sender.as_ref().map_or(crate::addr::Mac::GATEWAY_UPLINK_SIDE, |interface| interface.mac);
    let own = sender.as_ref().map_or(WORLD, |interface| traffic.spoofed.unwrap_or(interface.address));
    // From the world to the public address, if there is one.
    let destination = match (from, to) {
        (None, Some(i)) => vpc.enis[i].public_ip.map_or(vpc.enis[i].private_ip, wire_address),
        (_, Some(i)) => vpc.enis[i].private_ip,
        (_, None) => WORLD,
    };
    let mut packet = Packet {
        iif: link(&sender),
        oif: link(&receiver),
        mac,
        source: own,
        destination,
        protocol: traffic.protocol,
        port: traffic.port,
        icmp: traffic.icmp,
        established: traffic.established,
        mark: 0,
        reply: false,
        flow: 0,
        remembered: BTreeSet::new(),
    };
    let rules = &net.ruleset;
    let passed = passes(rules, Hook::Prerouting, &mut packet) && passes(rules, Hook::Forward, &mut packet);
    if passed && let (Some(i), Some(_)) = (from, net.tables.get(&packet.mark)) {
        // Marked with its own subnet's table.
        assert_eq!(Some(&packet.mark), super::subnet_marks(vpc).unwrap().get(&vpc.enis[i].subnet_id));
    }
    let translated = passes(rules, Hook::Postrouting, &mut packet);
    if passed && to.is_none() {
        assert_eq!(Some(packet.source), from.and_then(|i| vpc.enis[i].public_ip).map(wire_address));
    }
    passed && translated
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn the_rules_do_what_aws_says(
        vpc in fabrics(),
        from in proptest::option::weighted(0.8, 0usize..5),
        to in proptest::option::weighted(0.8, 0usize..5),
        traffic in traffic(),
    ) {
        let (from, to) = (from.map(|i| i % vpc.enis.len()), to.map(|i| i % vpc.enis.len()));
        // A packet to itself never leaves the task; one from the world to the world never comes.
        prop_assume!(from != to);
        prop_assert_eq!(planned(&vpc, from, to, &traffic), model(&vpc, from, to, &traffic));
    }

    #[test]
    fn a_change_applied_to_the_old_rules_gives_the_new_ones(old in fabrics(), new in fabrics()) {
        let rules = |vpc: VpcFabric| {
            plan(&Fabric { revision: 1, vpcs: vec![vpc] }).unwrap().vpcs.remove("vpc-1").unwrap().ruleset
        };
        let (old, new) = (rules(old), rules(new));
        prop_assert!(super::same_shape(&old, &new));
        let change = super::diff(&old, &new);
        let mut sets: BTreeMap<_, _> =
            old.sets.iter().filter(|(name, _)| new.sets.contains_key(*name)).map(|(n, s)| (n.clone(), s.elements.clone())).collect();
        for step in change.elements {
            let set = sets.entry(step.set).or_default();
            for (key, value) in step.remove {
                prop_assert_eq!(set.remove(&key), Some(value));
            }
            for (key, value) in step.add {
                prop_assert_eq!(set.insert(key, value), None);
            }
        }
        for (name, set) in &new.sets {
            prop_assert_eq!(sets.get(name).cloned().unwrap_or_default(), set.elements.clone());
        }
        prop_assert_eq!(super::diff(&new, &new), Default::default());
    }
}

#[test]
fn an_interface_with_known_groups_changes_elements_only() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut vpc = fabrics().new_tree(&mut runner).unwrap().current();
    let rules = |vpc: &VpcFabric| -> Ruleset {
        plan(&Fabric { revision: 1, vpcs: vec![vpc.clone()] }).unwrap().vpcs.remove("vpc-1").unwrap().ruleset
    };
    let before = rules(&vpc);
    let mut eni = vpc.enis[0].clone();
    (eni.eni_id, eni.private_ip, eni.public_ip) = ("eni-new".into(), Ipv4Addr::new(10, 0, 0, 77), None);
    eni.subnet_id = "subnet-0".into();
    vpc.enis.push(eni);
    let change = super::diff(&before, &rules(&vpc));
    assert_eq!((change.before.as_str(), change.after.as_str()), ("", ""));
    assert!(!change.elements.is_empty());
}

#[test]
fn routes_follow_the_longest_prefix_and_dead_targets_are_holes() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut vpc = fabrics().new_tree(&mut runner).unwrap().current();
    let route = |destination: &str, target| RouteFabric { destination: destination.parse().unwrap(), target };
    vpc.route_tables[0].routes = vec![
        route("0.0.0.0/0", RouteTarget::InternetGateway("igw-1".into())),
        route("192.0.2.0/24", RouteTarget::InternetGateway("igw-gone".into())),
        route("10.0.1.0/24", RouteTarget::NetworkInterface("eni-1".into())),
        route("198.18.0.0/15", RouteTarget::NetworkInterface("eni-gone".into())),
        route("169.254.0.0/16", RouteTarget::InternetGateway("igw-1".into())),
    ];
    let table = |vpc: &VpcFabric| {
        let net =
            plan(&Fabric { revision: 1, vpcs: vec![vpc.clone()] }).unwrap().vpcs.remove("vpc-1").unwrap();
        net.tables.into_values().next().unwrap()
    };
    let hops = table(&vpc);
    let hop = |net: &str| hops[&net.parse::<Ipv4Net>().unwrap()].clone();
    assert_eq!(hop("0.0.0.0/0"), Hop::Gateway);
    assert_eq!(hop("192.0.2.0/24"), Hop::Blackhole);
    assert_eq!(hop("10.0.1.0/24"), Hop::Interface("eni-1".into()));
    assert_eq!(hop("198.18.0.0/15"), Hop::Blackhole);
    assert_eq!(hop("169.254.0.0/16"), Hop::Blackhole);
    assert_eq!(hop("10.0.0.0/16"), Hop::Local);
    vpc.internet_gateway = None;
    assert_eq!(table(&vpc)[&"0.0.0.0/0".parse::<Ipv4Net>().unwrap()], Hop::Blackhole);
}

#[test]
fn contradictions_are_told_by_name() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let vpc = fabrics().new_tree(&mut runner).unwrap().current();
    let error = |change: fn(&mut VpcFabric)| {
        let mut vpc = vpc.clone();
        change(&mut vpc);
        plan(&Fabric { revision: 1, vpcs: vec![vpc] }).unwrap_err().0
    };
    assert!(error(|vpc| vpc.enis[0].mac = "nonsense".into()).contains("nonsense"));
    assert!(error(|vpc| vpc.enis[0].private_ip = Ipv4Addr::new(10, 9, 9, 9)).contains("10.9.9.9"));
    assert!(error(|vpc| vpc.enis[0].subnet_id = "subnet-9".into()).contains("subnet-9"));
    assert!(error(|vpc| vpc.subnets[0].route_table_id = "rtb-9".into()).contains("rtb-9"));
    assert!(
        error(|vpc| vpc.security_groups[0].group_id = "sg; flush ruleset".into()).contains("flush ruleset")
    );
    assert!(error(|vpc| vpc.cidrs.clear()).contains("vpc-1"));
}

#[test]
fn the_text_is_one_transaction_that_replaces_everything() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let vpc = fabrics().new_tree(&mut runner).unwrap().current();
    let net = plan(&Fabric { revision: 1, vpcs: vec![vpc] }).unwrap().vpcs.remove("vpc-1").unwrap();
    let text = text::whole(&net.ruleset);
    assert!(text.starts_with("add table ip ferrogate\ndelete table ip ferrogate\nadd table ip ferrogate\n"));
    assert!(text.contains("add rule ip ferrogate source iifname . ether saddr . ip saddr @pins accept\n"));
    assert!(
        text.contains(
            "add chain ip ferrogate egress { type filter hook forward priority 0; policy drop; }\n"
        )
    );
}
