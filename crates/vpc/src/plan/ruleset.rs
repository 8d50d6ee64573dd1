//! The rules of a VPC.
//!
//! ```text
//! prerouting  -300  source   source address and MAC pinned to the link; marks with the sender's subnet
//! prerouting  -150  speakers network load balancers in their clients' names (`preserve`)
//! prerouting  -100  inward   public → private address, from the internet gateway
//! input          0  router   DNS and nothing else
//! forward      -30  gateway  through the internet gateway: only with a public address
//! forward      -20  acl_out  sender's network ACL, when the packet leaves the subnet
//! forward      -10  acl_in   receiver's network ACL, when it came from elsewhere
//! forward        0  egress   sender's security groups, or a known connection
//! forward       10  ingress  receiver's security groups, or a known connection
//! postrouting    0  clients  those clients
//! postrouting  100  outward  private → public address, to the internet gateway
//! ```
//!
//! An interface that comes with groups others have already only adds elements to sets; rules change when groups
//! do. (Amazon VPC user guide: "Security groups", "Network ACLs"; a tracked connection outlives its rule.)

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use ferrogate_nodeapi::{
    AclEntry, EniFabric, IpProtocol, NetworkAclFabric, Peer, SecurityGroupFabric, SecurityGroupRule,
    VpcFabric,
};
use ipnet::Ipv4Net;

use super::rules::{Action, Base, Hook, Key, Match, Rule, Ruleset, SetKind, Value, rule};
use super::{Interface, PlanError, preserve};
use crate::addr::wire_address;
use crate::names::{GATEWAY_LINK, stable_hash};

const DNS_PORT: u16 = 53;
const TCP: u8 = 6;
const UDP: u8 = 17;

const PINS: &str = "pins";
const LOOSE: &str = "loose";
const MARKS: &str = "marks";
pub(super) const RESOLVERS: &str = "resolvers";
const WITH_PUBLIC: &str = "with_public";
const PRIVATE_BY_PUBLIC: &str = "private_by_public";
const PUBLIC_BY_PRIVATE: &str = "public_by_private";
const EGRESS: &str = "egress_by_link";
const INGRESS: &str = "ingress_by_link";
const ACL_OUT: &str = "acl_out_by_link";
const ACL_IN: &str = "acl_in_by_link";

pub(super) fn vpc_ruleset(
    vpc: &VpcFabric,
    marks: &BTreeMap<String, u32>,
    resolvers: &[Ipv4Addr],
    interfaces: &BTreeMap<String, Interface>,
) -> Result<Ruleset, PlanError> {
    check_identifiers(vpc)?;
    let mut rules = Ruleset::default();
    add_sets(&mut rules);
    preserve::add_sets(&mut rules);
    add_base_chains(&mut rules, &vpc.cidrs);
    preserve::add_chains(&mut rules);
    rules
        .set(RESOLVERS, SetKind::Addresses)
        .extend(resolvers.iter().map(|a| (Key::Address(*a), Value::Member)));
    add_acls(&mut rules, vpc);
    for group in &vpc.security_groups {
        add_group(&mut rules, group);
    }
    for eni in &vpc.enis {
        add_interface(&mut rules, eni, &interfaces[&eni.eni_id], marks[&eni.subnet_id]);
    }
    Ok(rules)
}

/// For a VPC that is going: nothing passes, known connections neither.
pub(crate) fn closed_ruleset() -> Ruleset {
    let mut rules = Ruleset::default();
    let base = Base { kind: "filter", hook: Hook::Prerouting, priority: -300, accept: false };
    rules.chain("source", Some(base), Vec::new());
    rules
}

/// Ids become names of chains and sets in a text.
fn check_identifiers(vpc: &VpcFabric) -> Result<(), PlanError> {
    let subnets = vpc.subnets.iter().map(|subnet| &subnet.subnet_id);
    let acls = vpc.network_acls.iter().map(|acl| &acl.network_acl_id);
    let groups = vpc.security_groups.iter().map(|group| &group.group_id);
    let peers = vpc.security_groups.iter().flat_map(|group| group.ingress.iter().chain(&group.egress));
    let peers = peers.filter_map(|rule| match &rule.peer {
        Peer::Group(id) => Some(id),
        Peer::Cidr(_) => None,
    });
    let wrong = |id: &&String| id.is_empty() || !id.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    match subnets.chain(acls).chain(groups).chain(peers).find(wrong) {
        Some(id) => {
            Err(PlanError(format!("id {id:?} in {} has characters beyond a-z, 0-9 and '-'", vpc.vpc_id)))
        }
        None => Ok(()),
    }
}

fn add_sets(rules: &mut Ruleset) {
    for (name, kind) in [
        (PINS, SetKind::Pins),
        (LOOSE, SetKind::LoosePins),
        (MARKS, SetKind::MarkByLink),
        (RESOLVERS, SetKind::Addresses),
        (WITH_PUBLIC, SetKind::Addresses),
        (PRIVATE_BY_PUBLIC, SetKind::AddressByAddress),
        (PUBLIC_BY_PRIVATE, SetKind::AddressByAddress),
        (EGRESS, SetKind::ChainByLink),
        (INGRESS, SetKind::ChainByLink),
        (ACL_OUT, SetKind::ChainByLink),
        (ACL_IN, SetKind::ChainByLink),
    ] {
        rules.set(name, kind);
    }
}

fn add_base_chains(rules: &mut Ruleset, cidrs: &[Ipv4Net]) {
    use Match::{DestinationIn, DestinationNotIn, Established, Iif, LooseIn, Oif, PinIn, Ports, SourceNotIn};
    let filter = |hook, priority, accept| Some(Base { kind: "filter", hook, priority, accept });
    let nat = |hook, priority| Some(Base { kind: "nat", hook, priority, accept: true });
    let gateway = GATEWAY_LINK;

    // Nobody out there has an address of this VPC.
    let mut source: Vec<Rule> =
        cidrs.iter().map(|cidr| rule![Iif(gateway), Match::Source(*cidr) => Action::Drop]).collect();
    source.extend([
        rule![Iif(gateway) => Action::Accept],
        rule![Iif("lo") => Action::Accept],
        rule![=> Action::MarkByIif(MARKS.into())],
        rule![PinIn(PINS.into()) => Action::Accept],
        rule![LooseIn(LOOSE.into()) => Action::Accept],
    ]);
    rules.chain("source", filter(Hook::Prerouting, -300, false), source);
    rules.chain(
        "router",
        filter(Hook::Input, 0, false),
        vec![
            rule![Iif("lo") => Action::Accept],
            rule![Iif(gateway) => Action::Drop],
            rule![DestinationIn(RESOLVERS.into()), Ports { protocol: UDP, first: DNS_PORT, last: DNS_PORT } => Action::Accept],
            rule![DestinationIn(RESOLVERS.into()), Ports { protocol: TCP, first: DNS_PORT, last: DNS_PORT } => Action::Accept],
        ],
    );
    rules.chain(
        "gateway",
        filter(Hook::Forward, -30, true),
        vec![
            preserve::not_in_a_clients_name(),
            rule![Oif(gateway), SourceNotIn(WITH_PUBLIC.into()) => Action::Drop],
            rule![Iif(gateway), DestinationNotIn(WITH_PUBLIC.into()) => Action::Drop],
        ],
    );
    let by_iif = |map: &str| rule![=> Action::ByIif(map.into())];
    let by_oif = |map: &str| rule![=> Action::ByOif(map.into())];
    rules.chain("acl_out", filter(Hook::Forward, -20, true), vec![by_iif(ACL_OUT)]);
    rules.chain("acl_in", filter(Hook::Forward, -10, true), vec![by_oif(ACL_IN)]);
    let known = || rule![Established => Action::Accept];
    let egress = vec![known(), rule![Iif(gateway) => Action::Accept], by_iif(EGRESS)];
    rules.chain("egress", filter(Hook::Forward, 0, false), egress);
    let ingress = vec![known(), rule![Oif(gateway) => Action::Accept], by_oif(INGRESS)];
    rules.chain("ingress", filter(Hook::Forward, 10, false), ingress);
    let inward = rule![Iif(gateway) => Action::DestinationNat(PRIVATE_BY_PUBLIC.into())];
    rules.chain("inward", nat(Hook::Prerouting, -100), vec![inward]);
    let outward = rule![Oif(gateway) => Action::SourceNat(PUBLIC_BY_PRIVATE.into())];
    rules.chain("outward", nat(Hook::Postrouting, 100), vec![outward]);
}

fn add_acls(rules: &mut Ruleset, vpc: &VpcFabric) {
    for acl in &vpc.network_acls {
        add_acl(rules, acl);
    }
    for subnet in &vpc.subnets {
        let inside = links_set(&subnet.subnet_id);
        rules.set(&inside, SetKind::Links);
        let known = vpc.network_acls.iter().any(|acl| acl.network_acl_id == subnet.network_acl_id);
        // A subnet whose list is missing: closed.
        let judge = |chain: String| if known { Action::Jump(chain) } else { Action::Drop };
        let out = judge(acl_egress_chain(&subnet.network_acl_id));
        let out = vec![rule![Match::OifIn(inside.clone()) => Action::Return], rule![=> out]];
        rules.chain(subnet_out_chain(&subnet.subnet_id), None, out);
        let into = judge(acl_ingress_chain(&subnet.network_acl_id));
        let into = vec![rule![Match::IifIn(inside) => Action::Return], rule![=> into]];
        rules.chain(subnet_in_chain(&subnet.subnet_id), None, into);
    }
}

fn add_acl(rules: &mut Ruleset, acl: &NetworkAclFabric) {
    let chain = |entries: &[AclEntry], peer: fn(Ipv4Net) -> Match| {
        let mut entries: Vec<_> = entries.iter().collect();
        entries.sort_by_key(|entry| entry.rule_number);
        let mut rules: Vec<Rule> = entries
            .into_iter()
            .map(|entry| {
                let mut matches = vec![peer(entry.cidr)];
                matches.extend(traffic(entry.protocol, entry.ports, entry.icmp));
                Rule { matches, action: if entry.allow { Action::Accept } else { Action::Drop } }
            })
            .collect();
        rules.push(rule![=> Action::Drop]);
        rules
    };
    let (ingress, egress) = (chain(&acl.ingress, Match::Source), chain(&acl.egress, Match::Destination));
    rules.chain(acl_ingress_chain(&acl.network_acl_id), None, ingress);
    rules.chain(acl_egress_chain(&acl.network_acl_id), None, egress);
}

fn add_group(rules: &mut Ruleset, group: &SecurityGroupFabric) {
    rules.set(members_set(&group.group_id), SetKind::Addresses);
    let side = |list: &[SecurityGroupRule], peers: &mut dyn FnMut(&Peer) -> Vec<Match>| {
        let accept = |rule: &SecurityGroupRule, peer| {
            let traffic = traffic(rule.protocol, rule.ports, rule.icmp);
            Rule { matches: [peer].into_iter().chain(traffic).collect(), action: Action::Accept }
        };
        let one = |rule: &SecurityGroupRule| {
            peers(&rule.peer).into_iter().map(|peer| accept(rule, peer)).collect::<Vec<_>>()
        };
        list.iter().flat_map(one).collect::<Vec<_>>()
    };
    let ingress = side(&group.ingress, &mut |peer| match peer {
        Peer::Cidr(net) => vec![Match::Source(*net)],
        Peer::Group(id) => {
            // A group that is gone may still be named; it needs a set to look up.
            rules.set(members_set(id), SetKind::Addresses);
            rules.set(balancers_set(id), SetKind::Links);
            vec![Match::SourceIn(members_set(id)), Match::IifIn(balancers_set(id))]
        }
    });
    let egress = side(&group.egress, &mut |peer| match peer {
        Peer::Cidr(net) => vec![Match::Destination(*net)],
        Peer::Group(id) => {
            rules.set(members_set(id), SetKind::Addresses);
            vec![Match::DestinationIn(members_set(id))]
        }
    });
    rules.chain(group_ingress_chain(&group.group_id), None, ingress);
    rules.chain(group_egress_chain(&group.group_id), None, egress);
}

fn add_interface(rules: &mut Ruleset, eni: &EniFabric, interface: &Interface, mark: u32) {
    let link = || Key::Link(interface.link.clone());
    let address = || Key::Address(interface.address);
    if interface.check_source {
        let pin = Key::Pin(interface.link.clone(), interface.mac, interface.address);
        rules.set(PINS, SetKind::Pins).insert(pin, Value::Member);
    } else {
        let pin = Key::LoosePin(interface.link.clone(), interface.mac);
        rules.set(LOOSE, SetKind::LoosePins).insert(pin, Value::Member);
    }
    rules.set(MARKS, SetKind::MarkByLink).insert(link(), Value::Mark(mark));
    rules.set(links_set(&eni.subnet_id), SetKind::Links).insert(link(), Value::Member);
    let (out, into) = (subnet_out_chain(&eni.subnet_id), subnet_in_chain(&eni.subnet_id));
    rules.set(ACL_OUT, SetKind::ChainByLink).insert(link(), Value::Goto(out));
    rules.set(ACL_IN, SetKind::ChainByLink).insert(link(), Value::Goto(into));
    let (ingress, egress) = add_combination(rules, eni);
    rules.set(INGRESS, SetKind::ChainByLink).insert(link(), Value::Goto(ingress));
    rules.set(EGRESS, SetKind::ChainByLink).insert(link(), Value::Goto(egress));
    for group in &eni.security_group_ids {
        // An id without a set has neither rules nor anyone who refers to it.
        if let Some(set) = rules.sets.get_mut(&members_set(group)) {
            set.elements.insert(address(), Value::Member);
        }
        if interface.flows.is_some()
            && let Some(set) = rules.sets.get_mut(&balancers_set(group))
        {
            set.elements.insert(link(), Value::Member);
        }
    }
    if let Some(flows) = interface.flows {
        preserve::add_balancer(rules, interface, flows);
    }
    if let Some(public) = eni.public_ip {
        let public = wire_address(public);
        rules.set(WITH_PUBLIC, SetKind::Addresses).insert(address(), Value::Member);
        let by_public = rules.set(PRIVATE_BY_PUBLIC, SetKind::AddressByAddress);
        by_public.insert(Key::Address(public), Value::Address(interface.address));
        let by_private = rules.set(PUBLIC_BY_PRIVATE, SetKind::AddressByAddress);
        by_private.insert(address(), Value::Address(public));
    }
}

/// The chains for this combination of groups; most interfaces share one.
fn add_combination(rules: &mut Ruleset, eni: &EniFabric) -> (String, String) {
    let groups: BTreeSet<&str> = eni.security_group_ids.iter().map(String::as_str).collect();
    let ids: Vec<&str> = groups.iter().copied().collect();
    let hash = stable_hash(ids.join(",").as_bytes());
    let (ingress, egress) = (format!("ci.{hash:016x}"), format!("ce.{hash:016x}"));
    if !rules.chains.contains_key(&ingress) {
        let jumps = |rules: &Ruleset, chain: fn(&str) -> String| {
            let known = ids.iter().map(|id| chain(id)).filter(|name| rules.chains.contains_key(name));
            known.map(|name| rule![=> Action::Jump(name)]).collect::<Vec<_>>()
        };
        let (into, out) = (jumps(rules, group_ingress_chain), jumps(rules, group_egress_chain));
        rules.chain(&ingress, None, into);
        rules.chain(&egress, None, out);
    }
    (ingress, egress)
}

/// Protocol, ports and ICMP type as conditions. Ports mean something for TCP and UDP only.
fn traffic(
    protocol: IpProtocol,
    ports: Option<(u16, u16)>,
    icmp: Option<(Option<u8>, Option<u8>)>,
) -> Option<Match> {
    let IpProtocol::Number(number) = protocol else { return None };
    Some(match (protocol, ports, icmp) {
        (IpProtocol::TCP | IpProtocol::UDP, Some((first, last)), _) => {
            Match::Ports { protocol: number, first, last }
        }
        (IpProtocol::ICMP, _, Some((kind, code))) => Match::Icmp { kind, code },
        _ => Match::Protocol(number),
    })
}

fn members_set(group: &str) -> String {
    format!("m.{group}")
}

/// Links of the network load balancers in a group: whose ever name they speak in, it is they who speak.
fn balancers_set(group: &str) -> String {
    format!("b.{group}")
}

fn links_set(subnet: &str) -> String {
    format!("l.{subnet}")
}

fn group_ingress_chain(group: &str) -> String {
    format!("gi.{group}")
}

fn group_egress_chain(group: &str) -> String {
    format!("ge.{group}")
}

fn acl_ingress_chain(acl: &str) -> String {
    format!("ai.{acl}")
}

fn acl_egress_chain(acl: &str) -> String {
    format!("ae.{acl}")
}

fn subnet_in_chain(subnet: &str) -> String {
    format!("si.{subnet}")
}

fn subnet_out_chain(subnet: &str) -> String {
    format!("so.{subnet}")
}
