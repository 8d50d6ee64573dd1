//! How connections to names come to the proxy: a container may itself listen on `0.0.0.0:80`, so the proxy cannot listen on
//! 127.255.0.1:80. It has one listener beside all that, and the kernel leads what is meant for a name there.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddrV4};

use ferrogate_nodeapi::{CONNECT_NET, Connect};

/// Of the network of names, and never a name's.
const ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 255, 255, 254);
/// Above those that connections begin from, and seldom anybody's.
const PORTS: std::ops::RangeInclusive<u16> = 64_001..=64_100;

/// Where the proxy may listen for connections to names, the first that is free.
pub fn places() -> impl Iterator<Item = SocketAddrV4> {
    PORTS.map(|port| SocketAddrV4::new(ADDRESS, port))
}

/// The rules, for `nft -f -` inside the task's namespace. They replace those that were; nothing but what is led elsewhere is
/// followed by the kernel.
pub fn redirect(connect: &Connect, to: SocketAddrV4) -> String {
    let (address, port) = (to.ip(), to.port());
    let mut aliases = String::new();
    for (at, _) in connect.aliases() {
        // Writing to a String does not fail.
        let _ = write!(aliases, "{} . {}, ", at.ip(), at.port());
    }
    let table = "table ip ferrogate-connect";
    let mut rules = format!("{table}\ndelete {table}\n");
    if !aliases.is_empty() {
        let _ = write!(
            rules,
            "{table} {{
    set aliases {{ type ipv4_addr . inet_service; elements = {{ {aliases} }}; }}
    chain untracked-out {{
        type filter hook output priority raw;
        ip daddr {CONNECT_NET}/16 meta l4proto tcp accept
        ip saddr {address} tcp sport {port} accept
        notrack
    }}
    chain untracked-in {{
        type filter hook prerouting priority raw;
        iifname != \"lo\" notrack
    }}
    chain out {{
        type nat hook output priority -100;
        ip daddr . tcp dport @aliases dnat to {to}
    }}
}}
"
        );
    }
    rules
}
