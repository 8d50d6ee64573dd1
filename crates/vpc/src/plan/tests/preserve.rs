//! A network load balancer in its clients' names.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use ferrogate_nodeapi::{
    AclEntry, EniFabric, Fabric, IpProtocol, NetworkAclFabric, Peer, RouteTableFabric, SecurityGroupFabric,
    SecurityGroupRule, SubnetFabric, VpcFabric,
};

use super::super::eval::{Packet, passes};
use super::super::rules::Hook;
use super::super::{EVERYWHERE, Hop, VpcNet, plan};
use crate::names::GATEWAY_LINK;

const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 4);
const BALANCER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 5);
const TARGET: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 6);
const WORLD: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);

fn rule(peer: Peer) -> SecurityGroupRule {
    SecurityGroupRule { protocol: IpProtocol::All, ports: None, icmp: None, peer }
}

fn anywhere() -> Peer {
    Peer::Cidr("0.0.0.0/0".parse().unwrap())
}

/// Everybody has a public address and a group named as it is; the target's lets `peer` in.
fn net(peer: Peer) -> VpcNet {
    let entry = AclEntry {
        rule_number: 100,
        allow: true,
        protocol: IpProtocol::All,
        cidr: "0.0.0.0/0".parse().unwrap(),
        ports: None,
        icmp: None,
    };
    let eni = |name: &str, subnet: u8, ip: Ipv4Addr| EniFabric {
        eni_id: format!("eni-{name}"),
        subnet_id: format!("subnet-{subnet}"),
        mac: format!("0a:00:00:00:00:{:02x}", ip.octets()[3]),
        private_ip: ip,
        public_ip: Some(Ipv4Addr::new(127, 64, 0, ip.octets()[3])),
        security_group_ids: vec![format!("sg-{name}")],
        source_dest_check: true,
        network_load_balancer: name == "balancer",
    };
    let group = |name: &str, peer: Peer| SecurityGroupFabric {
        group_id: format!("sg-{name}"),
        ingress: vec![rule(peer)],
        egress: vec![rule(anywhere())],
    };
    let vpc = VpcFabric {
        vpc_id: "vpc-1".into(),
        region: "us-east-1".into(),
        cidrs: vec!["10.0.0.0/16".parse().unwrap()],
        subnets: (0..2)
            .map(|i| SubnetFabric {
                subnet_id: format!("subnet-{i}"),
                cidr: format!("10.0.{i}.0/24").parse().unwrap(),
                route_table_id: "rtb-1".into(),
                network_acl_id: "acl-1".into(),
            })
            .collect(),
        route_tables: vec![RouteTableFabric { route_table_id: "rtb-1".into(), routes: Vec::new() }],
        network_acls: vec![NetworkAclFabric {
            network_acl_id: "acl-1".into(),
            ingress: vec![entry.clone()],
            egress: vec![entry],
        }],
        security_groups: vec![
            group("client", anywhere()),
            group("balancer", anywhere()),
            group("target", peer),
        ],
        enis: vec![eni("client", 0, CLIENT), eni("balancer", 0, BALANCER), eni("target", 1, TARGET)],
        internet_gateway: Some("igw-1".into()),
    };
    plan(&Fabric { revision: 1, vpcs: vec![vpc] }).unwrap().vpcs.remove("vpc-1").unwrap()
}

/// The first packet of a connection, on its way from one interface to another.
fn packet(net: &VpcNet, from: &str, to: &str, source: Ipv4Addr, destination: Ipv4Addr) -> Packet {
    let interface = |name: &str| &net.interfaces[&format!("eni-{name}")];
    let link = |name: &str| if name == "igw" { "igw".to_owned() } else { interface(name).link.clone() };
    let gateway = crate::addr::Mac::GATEWAY_UPLINK_SIDE;
    Packet {
        iif: link(from),
        oif: link(to),
        mac: if from == "igw" { gateway } else { interface(from).mac },
        source,
        destination,
        protocol: 6,
        port: 80,
        icmp: (0, 0),
        established: false,
        mark: 0,
        reply: false,
        flow: 0,
        remembered: BTreeSet::new(),
    }
}

fn goes(net: &VpcNet, packet: &mut Packet) -> bool {
    [Hook::Prerouting, Hook::Forward, Hook::Postrouting]
        .into_iter()
        .all(|hook| passes(&net.ruleset, hook, packet))
}

/// Who has sent something to the balancer.
fn known(net: &VpcNet, source: Ipv4Addr) -> BTreeSet<(String, Ipv4Addr)> {
    let from = if source == WORLD { "igw" } else { "client" };
    let to = if from == "igw" { Ipv4Addr::new(100, 64, 0, 5) } else { BALANCER };
    let mut first = packet(net, from, "balancer", source, to);
    assert!(goes(net, &mut first));
    assert_eq!(first.remembered.len(), 1);
    first.remembered
}

#[test]
fn it_speaks_for_who_spoke_to_it_and_hears_the_answer() {
    let net = net(anywhere());
    let mark = net.interfaces["eni-balancer"].flows.unwrap();
    for source in [CLIENT, WORLD] {
        let mut second = packet(&net, "balancer", "target", source, TARGET);
        assert!(!goes(&net, &mut second.clone()), "nobody has spoken to it yet");
        second.remembered = known(&net, source);
        assert!(goes(&net, &mut second));
        assert_eq!(second.flow, mark);
        // What follows, when nobody remembers the client any more.
        let mut next = packet(&net, "balancer", "target", source, TARGET);
        (next.established, next.flow) = (true, mark);
        assert!(goes(&net, &mut next));
        let mut answer = packet(&net, "target", "balancer", TARGET, source);
        (answer.established, answer.reply, answer.flow) = (true, true, mark);
        assert!(goes(&net, &mut answer));
        assert_eq!(answer.mark, mark);
    }
    let back = &net.tables[&mark];
    assert_eq!(back[&EVERYWHERE], Hop::Interface("eni-balancer".into()));
}

#[test]
fn the_targets_groups_judge_the_client_and_the_balancer() {
    let only = |ip: Ipv4Addr| Peer::Cidr(ip.into());
    let group = |name: &str| Peer::Group(format!("sg-{name}"));
    for (peer, for_client, for_world) in [
        (only(CLIENT), true, false),
        (only(WORLD), false, true),
        (only(BALANCER), false, false),
        (group("client"), true, false),
        (group("balancer"), true, true),
        (group("target"), false, false),
    ] {
        let net = net(peer.clone());
        for (source, expected) in [(CLIENT, for_client), (WORLD, for_world)] {
            let mut second = packet(&net, "balancer", "target", source, TARGET);
            second.remembered = known(&net, source);
            assert_eq!(goes(&net, &mut second), expected, "{peer:?} {source}");
        }
        // Who names the balancer's group lets nobody else in.
        let direct = goes(&net, &mut packet(&net, "client", "target", CLIENT, TARGET));
        assert_eq!(direct, peer == only(CLIENT) || peer == group("client"), "{peer:?}");
    }
}

#[test]
fn it_speaks_for_nobody_else_and_nowhere_else() {
    let net = net(anywhere());
    let mark = net.interfaces["eni-balancer"].flows.unwrap();
    let with = |mut packet: Packet| {
        packet.remembered = known(&net, CLIENT);
        packet
    };
    assert!(goes(&net, &mut packet(&net, "balancer", "target", BALANCER, TARGET)));
    // Another address, another's MAC, another's connection, an answer in its own.
    let other = Ipv4Addr::new(10, 0, 0, 9);
    assert!(!goes(&net, &mut with(packet(&net, "balancer", "target", other, TARGET))));
    let mut mac = with(packet(&net, "balancer", "target", CLIENT, TARGET));
    mac.mac = net.interfaces["eni-client"].mac;
    assert!(!goes(&net, &mut mac));
    let mut others = with(packet(&net, "balancer", "target", CLIENT, TARGET));
    others.established = true;
    assert!(!goes(&net, &mut others));
    let mut answer = with(packet(&net, "balancer", "client", TARGET, CLIENT));
    (answer.established, answer.reply, answer.flow) = (true, true, mark);
    assert!(!goes(&net, &mut answer));
    // To the resolver, and out: the client's public address is not the balancer's to use.
    let resolver = Ipv4Addr::new(10, 0, 0, 2);
    assert!(!passes(
        &net.ruleset,
        Hook::Prerouting,
        &mut with(packet(&net, "balancer", "igw", CLIENT, resolver))
    ));
    assert!(!goes(&net, &mut with(packet(&net, "balancer", GATEWAY_LINK, CLIENT, WORLD))));
    assert!(goes(&net, &mut with(packet(&net, "balancer", GATEWAY_LINK, BALANCER, WORLD))));
    // Another's interface knows no clients.
    let mut task = packet(&net, "target", "client", WORLD, CLIENT);
    task.remembered = BTreeSet::from([(net.interfaces["eni-target"].link.clone(), WORLD)]);
    assert!(!goes(&net, &mut task));
}

#[test]
fn who_sends_datagrams_is_remembered_again_and_who_answers_is_not() {
    let net = net(anywhere());
    let remembered = |protocol, established, reply| {
        let mut packet = packet(&net, "client", "balancer", CLIENT, BALANCER);
        (packet.protocol, packet.established, packet.reply) = (protocol, established, reply);
        assert!(goes(&net, &mut packet));
        !packet.remembered.is_empty()
    };
    assert!(remembered(6, false, false) && remembered(17, false, false) && remembered(17, true, false));
    assert!(!remembered(6, true, false) && !remembered(17, true, true) && !remembered(6, true, true));
    assert!(!remembered(1, false, false));
}
