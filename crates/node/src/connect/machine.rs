//! The proxy of a task in a micro-VM. It stands where that of any task stands, in the task's network namespace; but the
//! containers are behind a tap there, in a guest that has the task's address (`ferrogate_shim::machine::tap`).
//!
//! ```text
//! guest ── 127.255.0.1:80 ──▶ guest0 ─┐                                ┌─▶ eth0, as the task, from SOURCE_PORTS
//!                                     ├─ dnat ─▶ ADDRESS, the proxy ───┤
//! others ─ <task>:<ingress> ─▶ eth0 ──┘                                └─▶ guest0, to the task's container
//! ```
//!
//! The guest sends what is meant for names to this side (`wire::HOST_NAMES`). Everything else that passes, as most of the task's
//! packets do, is not followed by connection tracking.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddrV4};

use ferrogate_nodeapi::{CONNECT_NET, Connect};
use ferrogate_shim::machine::tap::{OWN_ADDRESS, TAP_LINK, TASK_LINK};

/// The loopback link has it already, and the guest's packets to it come in; what is said there directly is no name and is closed.
pub(super) use crate::endpoints::ADDRESS;

/// The proxy calls others from these ports of the task's address, which the guest itself begins no connection from.
const SOURCE_PORTS: (u16, u16) = (61_000, 65_535);

/// The rules, for `nft -f -` inside the task's namespace, once for the life of the task.
pub(super) fn rules(connect: &Connect, address: Ipv4Addr, to: SocketAddrV4) -> String {
    let mut led = String::new();
    let aliases = connect.aliases().into_iter().map(|(at, _)| at);
    let ingress = connect.servers.iter().map(|server| SocketAddrV4::new(address, server.ingress_port));
    for at in aliases.chain(ingress) {
        // Writing to a String does not fail.
        let _ = write!(led, "{} . {}, ", at.ip(), at.port());
    }
    let (first, last) = SOURCE_PORTS;
    let own = ADDRESS.ip();
    let table = "table ip ferrogate-connect";
    format!(
        "{table}
delete {table}
{table} {{
    set led {{ type ipv4_addr . inet_service; elements = {{ {led} }}; }}
    chain untracked-in {{
        type filter hook prerouting priority raw;
        iifname \"{TASK_LINK}\" ip daddr {CONNECT_NET}/16 drop
        iifname \"lo\" accept
        meta l4proto icmp accept
        ip daddr . tcp dport @led accept
        iifname \"{TAP_LINK}\" ip daddr {{ {CONNECT_NET}/16, {own}, {OWN_ADDRESS} }} meta l4proto tcp accept
        iifname \"{TASK_LINK}\" tcp dport {first}-{last} accept
        notrack
    }}
    chain in {{
        type nat hook prerouting priority dstnat;
        ip daddr . tcp dport @led dnat to {to}
    }}
    chain out {{
        type nat hook output priority -100;
        ip daddr . tcp dport @led dnat to {to}
    }}
    chain nobody {{
        type filter hook prerouting priority filter;
        iifname \"{TAP_LINK}\" ip daddr {CONNECT_NET}/16 meta l4proto tcp reject with tcp reset
    }}
    chain as-the-task {{
        type nat hook postrouting priority srcnat;
        oifname \"{TASK_LINK}\" ip saddr {OWN_ADDRESS} meta l4proto tcp snat to {address}:{first}-{last}
    }}
}}
"
    )
}

#[cfg(test)]
mod tests {
    use ferrogate_nodeapi::{AppProtocol, ConnectClient, ConnectServer, ConnectTimeouts};
    use ferrogate_shim::machine::wire::HOST_NAMES;

    use super::*;

    #[test]
    fn names_and_own_ports_lead_to_the_proxy() {
        let (protocol, timeouts) = (AppProtocol::Http, ConnectTimeouts::default());
        let client = ConnectClient {
            service_id: "srv-a".into(),
            discovery_name: "a".into(),
            dns_name: "a".into(),
            port: 80,
            protocol,
            timeouts,
        };
        let server = ConnectServer {
            discovery_name: "b".into(),
            ingress_port: 9000,
            container_port: 8080,
            protocol,
            timeouts,
        };
        let connect = Connect { clients: vec![client], servers: vec![server], ..Connect::default() };
        let to = "169.254.170.2:64001".parse().unwrap();
        let rules = rules(&connect, Ipv4Addr::new(10, 0, 0, 5), to);
        assert!(rules.contains("elements = { 127.255.0.1 . 80, 10.0.0.5 . 9000,  };"), "{rules}");
        assert_eq!(rules.matches("dnat to 169.254.170.2:64001").count(), 2, "{rules}");
        assert!(rules.contains("snat to 10.0.0.5:61000-65535"), "{rules}");
    }

    #[test]
    fn a_guest_sends_names_to_this_side() {
        assert_eq!(HOST_NAMES, (CONNECT_NET, 16));
    }
}
