//! The rules of the uplink: the network that all internet gateways are on.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use ferrogate_nodeapi::{EniFabric, IpProtocol, Peer, VpcFabric};
use ipnet::Ipv4Net;

use super::Wire;
use super::rules::{Action, Base, Hook, Key, Match, Ruleset, SetKind, Value, rule};
use crate::addr::{API_WIRE, HOST_WIRE, WIRE_SPACE};

/// Where the relay listens in the uplink's namespace. A namespace of our own: the port is free.
pub(crate) const TPROXY_PORT: u16 = 15001;
/// Packets for the relay carry it, and are local by a routing rule.
pub(crate) const UPLINK_MARK: u32 = 1;
/// Wire addresses that belong to an interface.
pub(crate) const FABRIC_SET: &str = "fabric";

const TCP: u8 = 6;
const UDP: u8 = 17;

/// Protocol (6 or 17), first and last port.
pub(crate) type HostPorts = BTreeSet<(u8, u16, u16)>;

/// What the interface's security groups let in from this host.
pub(super) fn open_from_host(vpc: &VpcFabric, eni: &EniFabric) -> HostPorts {
    let groups = vpc.security_groups.iter().filter(|group| eni.security_group_ids.contains(&group.group_id));
    let mut open = HostPorts::new();
    for rule in groups.flat_map(|group| &group.ingress) {
        if !matches!(rule.peer, Peer::Cidr(net) if net.contains(&HOST_WIRE)) {
            continue;
        }
        for protocol in [TCP, UDP] {
            if rule.protocol == IpProtocol::All {
                open.insert((protocol, 0, u16::MAX));
            } else if rule.protocol == IpProtocol::Number(protocol) {
                let (first, last) = rule.ports.unwrap_or((0, u16::MAX));
                open.insert((protocol, first, last));
            }
        }
    }
    open
}

/// Between gateways packets are forwarded; what is for the world goes to the relay's sockets; the rest is dropped.
pub(crate) fn uplink_ruleset(pool: Ipv4Net, wires: &BTreeMap<Ipv4Addr, Wire>) -> Ruleset {
    use Match::{Destination, DestinationIn, Iif, Mark, Protocol};
    let filter = |hook, priority, accept| Some(Base { kind: "filter", hook, priority, accept });
    let host = Ipv4Net::from(HOST_WIRE);
    let divert = || Action::Divert { port: TPROXY_PORT, mark: UPLINK_MARK };
    let mut rules = Ruleset::default();
    let fabric = rules.set(FABRIC_SET, SetKind::Addresses);
    fabric.extend(wires.keys().map(|wire| (Key::Address(*wire), Value::Member)));
    rules.chain(
        "divert",
        filter(Hook::Prerouting, -150, false),
        vec![
            rule![Iif("lo") => Action::Accept],
            rule![Destination(host) => Action::Accept],
            rule![DestinationIn(FABRIC_SET.into()) => Action::Accept],
            rule![Destination(Ipv4Net::from(API_WIRE)), Protocol(TCP) => divert()],
            // Wire addresses nobody has.
            rule![Destination(WIRE_SPACE) => Action::Drop],
            rule![Destination(pool) => Action::Drop],
            rule![Protocol(TCP) => divert()],
            rule![Protocol(UDP) => divert()],
        ],
    );
    let to_listener = |protocol| rule![Destination(host), Match::Ports { protocol, first: TPROXY_PORT, last: TPROXY_PORT } => Action::Drop];
    rules.chain(
        "relay",
        filter(Hook::Input, 0, false),
        vec![
            rule![Iif("lo") => Action::Accept],
            rule![Mark(UPLINK_MARK) => Action::Accept],
            to_listener(TCP),
            to_listener(UDP),
            rule![Destination(host) => Action::Accept],
        ],
    );
    let forward = vec![rule![DestinationIn(FABRIC_SET.into()) => Action::Accept]];
    rules.chain("forward", filter(Hook::Forward, 0, false), forward);
    rules
}
