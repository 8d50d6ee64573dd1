//! Links, addresses, routes, rules and neighbours of one namespace.

use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};

use ipnet::Ipv4Net;

use super::{Message, NetlinkError, Result, Socket, attributes, number_of, text_of};
use crate::addr::Mac;

const IFLA_INET_CONF: u16 = 1;
/// `IPV4_DEVCONF_RP_FILTER` of the kernel's `linux/ip.h`.
const DEVCONF_RP_FILTER: u16 = 8;
const VETH_INFO_PEER: u16 = 1;
const IFLA_LINKINFO: u16 = 18;
const FRA_IIFNAME: u16 = 3;
const FRA_FWMARK: u16 = 10;
const FRA_TABLE: u16 = 15;
const FRA_PRIORITY: u16 = 6;
const FR_ACT_TO_TBL: u8 = 1;
const NDTA_NAME: u16 = 1;
const NDTA_PARMS: u16 = 6;
const NDTPA_IFINDEX: u16 = 1;
const NDTPA_PROXY_DELAY: u16 = 13;
const RTNH_F_ONLINK: u32 = 4;

/// A link as the kernel shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) mac: Option<Mac>,
    pub(crate) up: bool,
    /// Its queue stands; without one the kernel drops what is to leave.
    pub(crate) sends: bool,
    pub(crate) alias: String,
}

/// The queue of a link that is not activated.
const NO_QUEUE: &str = "noop";
/// The kernel activates a link in a thread of its own as soon as the other end is up.
const ACTIVATION_PATIENCE: Duration = Duration::from_secs(1);
const ACTIVATION_LOOK: Duration = Duration::from_micros(200);

/// A pair to be made: one end here and up, the other in `peer_namespace` and down.
pub(crate) struct Veth<'a> {
    pub(crate) name: &'a str,
    pub(crate) mac: Mac,
    /// Kept by the kernel beside the link; how a later process knows whose it is.
    pub(crate) alias: &'a str,
    pub(crate) mtu: u32,
    pub(crate) peer_name: &'a str,
    pub(crate) peer_mac: Mac,
    pub(crate) peer_namespace: BorrowedFd<'a>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum RouteKind {
    /// Out of a link; with a gateway it need not be on a subnet of the link.
    Via {
        link: u32,
        gateway: Option<Ipv4Addr>,
    },
    /// Not here: the next rule decides.
    Throw,
    Blackhole,
    /// To this namespace itself.
    Local {
        link: u32,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RouteSpec {
    pub(crate) table: u32,
    pub(crate) destination: Ipv4Net,
    pub(crate) kind: RouteKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Packets {
    All,
    Marked(u32),
    /// That came in by this link.
    Incoming(&'static str),
}

/// These packets look into that table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RuleSpec {
    pub(crate) packets: Packets,
    pub(crate) table: u32,
    pub(crate) priority: u32,
}

/// An rtnetlink socket.
#[derive(Debug)]
pub(crate) struct RouteSocket(Socket);

impl RouteSocket {
    /// In the namespace of the calling thread.
    pub(crate) fn open() -> std::io::Result<Self> {
        Socket::open(libc::NETLINK_ROUTE).map(Self)
    }

    pub(crate) fn links(&mut self) -> Result<Vec<Link>> {
        let answers = self.0.dump(|| Message::new(libc::RTM_GETLINK, 0, &link_header(0, 0, 0)))?;
        Ok(answers
            .iter()
            .filter(|a| a.kind == libc::RTM_NEWLINK)
            .filter_map(|a| parse_link(&a.payload))
            .collect())
    }

    pub(crate) fn link(&mut self, name: &str) -> Result<Option<Link>> {
        let mut message = Message::new(libc::RTM_GETLINK, 0, &link_header(0, 0, 0));
        message.text(libc::IFLA_IFNAME, name);
        match self.0.get(message) {
            Ok(answer) => Ok(parse_link(&answer.payload)),
            Err(NetlinkError { errno: libc::ENODEV, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(crate) fn create_veth(&mut self, veth: &Veth<'_>) -> Result<()> {
        let up = libc::IFF_UP as u32;
        let flags = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
        let mut message = Message::new(libc::RTM_NEWLINK, flags, &link_header(0, up, up));
        message.text(libc::IFLA_IFNAME, veth.name);
        message.attribute(libc::IFLA_ADDRESS, &veth.mac.0);
        message.number(libc::IFLA_MTU, veth.mtu);
        message.nest(IFLA_LINKINFO, |message| {
            message.text(libc::IFLA_INFO_KIND, "veth");
            message.nest(libc::IFLA_INFO_DATA, |message| {
                message.nest(VETH_INFO_PEER, |message| {
                    // The kernel cannot bring it up before its other end is there.
                    message.raw(&link_header(0, 0, 0));
                    message.text(libc::IFLA_IFNAME, veth.peer_name);
                    message.attribute(libc::IFLA_ADDRESS, &veth.peer_mac.0);
                    message.number(libc::IFLA_MTU, veth.mtu);
                    message.number(libc::IFLA_NET_NS_FD, veth.peer_namespace.as_raw_fd() as u32);
                });
            });
        });
        self.0.request(message)?;
        // The kernel takes an alias only of a link that is there.
        let mut message = Message::new(libc::RTM_SETLINK, 0, &link_header(0, 0, 0));
        message.text(libc::IFLA_IFNAME, veth.name);
        message.text(libc::IFLA_IFALIAS, veth.alias);
        self.0.request(message)
    }

    pub(crate) fn set_up(&mut self, index: u32) -> Result<()> {
        let up = libc::IFF_UP as u32;
        self.0.request(Message::new(libc::RTM_SETLINK, 0, &link_header(index, up, up)))
    }

    /// Up, and nobody is asked for by ARP (nor by IPv6's): neighbours are those that are set.
    pub(crate) fn set_up_without_arp(&mut self, index: u32) -> Result<()> {
        let flags = (libc::IFF_UP | libc::IFF_NOARP) as u32;
        self.0.request(Message::new(libc::RTM_SETLINK, 0, &link_header(index, flags, flags)))
    }

    /// Until what leaves by this link, whose other end is up, is not dropped. Where that does not come the first packets
    /// are lost, as on any network.
    pub(crate) fn wait_until_it_sends(&mut self, name: &str) -> Result<()> {
        let deadline = Instant::now() + ACTIVATION_PATIENCE;
        while self.link(name)?.is_some_and(|link| !link.sends) && Instant::now() < deadline {
            std::thread::sleep(ACTIVATION_LOOK);
        }
        Ok(())
    }

    /// Reverse path filter of one link: strict or off.
    pub(crate) fn set_rp_filter(&mut self, index: u32, strict: bool) -> Result<()> {
        let mut message = Message::new(libc::RTM_SETLINK, 0, &link_header(index, 0, 0));
        message.nest(libc::IFLA_AF_SPEC, |message| {
            message.nest(libc::AF_INET as u16, |message| {
                message.nest(IFLA_INET_CONF, |message| {
                    message.number(DEVCONF_RP_FILTER, u32::from(strict));
                });
            });
        });
        self.0.request(message)
    }

    /// Proxy ARP answers at once on this link; by default it waits up to 0.8 s.
    pub(crate) fn hurry_proxy_arp(&mut self, index: u32) -> Result<()> {
        let mut message = Message::new(libc::RTM_SETNEIGHTBL, 0, &[libc::AF_INET as u8, 0, 0, 0]);
        message.text(NDTA_NAME, "arp_cache");
        message.nest(NDTA_PARMS, |message| {
            message.number(NDTPA_IFINDEX, index);
            message.attribute(NDTPA_PROXY_DELAY, &0u64.to_ne_bytes());
        });
        self.0.request(message)
    }

    /// No error when it is gone already.
    pub(crate) fn delete_link(&mut self, index: u32) -> Result<()> {
        match self.0.request(Message::new(libc::RTM_DELLINK, 0, &link_header(index, 0, 0))) {
            Err(NetlinkError { errno: libc::ENODEV, .. }) => Ok(()),
            other => other,
        }
    }

    pub(crate) fn add_address(&mut self, index: u32, address: Ipv4Addr, prefix: u8) -> Result<()> {
        let flags = libc::NLM_F_CREATE | libc::NLM_F_REPLACE;
        self.0.request(address_message(libc::RTM_NEWADDR, flags, index, address, prefix))
    }

    pub(crate) fn delete_address(&mut self, index: u32, address: Ipv4Addr, prefix: u8) -> Result<()> {
        match self.0.request(address_message(libc::RTM_DELADDR, 0, index, address, prefix)) {
            Err(NetlinkError { errno: libc::EADDRNOTAVAIL, .. }) => Ok(()),
            other => other,
        }
    }

    /// IPv4 addresses of one link with their prefix lengths.
    pub(crate) fn addresses(&mut self, index: u32) -> Result<Vec<(Ipv4Addr, u8)>> {
        let header = [libc::AF_INET as u8, 0, 0, 0, 0, 0, 0, 0];
        let answers = self.0.dump(|| Message::new(libc::RTM_GETADDR, 0, &header))?;
        Ok(answers
            .iter()
            .filter_map(|answer| {
                let header = answer.payload.get(0..8)?;
                let rest = attributes(&answer.payload[8..]);
                let local =
                    rest.filter(|(kind, _)| *kind == libc::IFA_LOCAL).find_map(|(_, v)| address_of(v))?;
                (number_of(&header[4..]) == Some(index)).then_some((local, header[1]))
            })
            .collect())
    }

    /// The route to `spec.destination` in `spec.table` becomes this one.
    pub(crate) fn replace_route(&mut self, spec: &RouteSpec) -> Result<()> {
        self.0.request(route_message(libc::RTM_NEWROUTE, libc::NLM_F_CREATE | libc::NLM_F_REPLACE, spec))
    }

    /// No error when it is gone already.
    pub(crate) fn delete_route(&mut self, spec: &RouteSpec) -> Result<()> {
        match self.0.request(route_message(libc::RTM_DELROUTE, 0, spec)) {
            Err(NetlinkError { errno: libc::ESRCH | libc::ENODEV, .. }) => Ok(()),
            other => other,
        }
    }

    /// All unicast, throw and blackhole routes, and local ones outside the kernel's own `local` table.
    pub(crate) fn routes(&mut self) -> Result<Vec<RouteSpec>> {
        let mut header = [0; 12];
        header[0] = libc::AF_INET as u8;
        let answers = self.0.dump(|| Message::new(libc::RTM_GETROUTE, 0, &header))?;
        let routes = answers.iter().filter_map(|answer| parse_route(&answer.payload));
        Ok(routes.filter(|route| route.table != u32::from(libc::RT_TABLE_LOCAL)).collect())
    }

    /// How a packet from this namespace to `destination` would go: the route's type, e.g. `RTN_UNICAST`.
    pub(crate) fn route_type(&mut self, destination: Ipv4Addr) -> Result<u8> {
        let mut header = [0; 12];
        (header[0], header[1]) = (libc::AF_INET as u8, 32);
        let mut message = Message::new(libc::RTM_GETROUTE, 0, &header);
        message.attribute(libc::RTA_DST, &destination.octets());
        let answer = self.0.get(message)?;
        Ok(answer.payload.get(7).copied().unwrap_or(libc::RTN_UNSPEC))
    }

    pub(crate) fn add_rule(&mut self, rule: &RuleSpec) -> Result<()> {
        let flags = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
        match self.0.request(rule_message(libc::RTM_NEWRULE, flags, rule)) {
            Err(NetlinkError { errno: libc::EEXIST, .. }) => Ok(()),
            other => other,
        }
    }

    pub(crate) fn delete_rule(&mut self, rule: &RuleSpec) -> Result<()> {
        match self.0.request(rule_message(libc::RTM_DELRULE, 0, rule)) {
            Err(NetlinkError { errno: libc::ENOENT, .. }) => Ok(()),
            other => other,
        }
    }

    /// All rules that look at a mark.
    pub(crate) fn rules(&mut self) -> Result<Vec<RuleSpec>> {
        let mut header = [0; 12];
        header[0] = libc::AF_INET as u8;
        let answers = self.0.dump(|| Message::new(libc::RTM_GETRULE, 0, &header))?;
        Ok(answers
            .iter()
            .filter_map(|answer| {
                let find = |wanted| {
                    attributes(answer.payload.get(12..)?)
                        .find(|(kind, _)| *kind == wanted)
                        .and_then(|(_, value)| number_of(value))
                };
                Some(RuleSpec {
                    packets: Packets::Marked(find(FRA_FWMARK)?),
                    table: find(FRA_TABLE)?,
                    priority: find(FRA_PRIORITY)?,
                })
            })
            .collect())
    }

    /// A permanent neighbour: no ARP is needed to reach it, and none can change it.
    pub(crate) fn replace_neighbour(&mut self, index: u32, address: Ipv4Addr, mac: Mac) -> Result<()> {
        let mut header = vec![libc::AF_INET as u8, 0, 0, 0];
        header.extend_from_slice(&index.to_ne_bytes());
        header.extend_from_slice(&libc::NUD_PERMANENT.to_ne_bytes());
        header.extend_from_slice(&[0, 0]);
        let flags = libc::NLM_F_CREATE | libc::NLM_F_REPLACE;
        let mut message = Message::new(libc::RTM_NEWNEIGH, flags, &header);
        message.attribute(libc::NDA_DST, &address.octets());
        message.attribute(libc::NDA_LLADDR, &mac.0);
        self.0.request(message)
    }
}

fn link_header(index: u32, flags: u32, change: u32) -> [u8; 16] {
    let mut header = [0; 16];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..16].copy_from_slice(&change.to_ne_bytes());
    header
}

fn parse_link(payload: &[u8]) -> Option<Link> {
    let index = number_of(payload.get(4..8)?)?;
    let flags = number_of(payload.get(8..12)?)?;
    let mut link = Link {
        index,
        name: String::new(),
        mac: None,
        up: flags & libc::IFF_UP as u32 != 0,
        sends: true,
        alias: String::new(),
    };
    for (kind, value) in attributes(payload.get(16..)?) {
        match kind {
            libc::IFLA_IFNAME => link.name = text_of(value),
            libc::IFLA_IFALIAS => link.alias = text_of(value),
            libc::IFLA_ADDRESS => link.mac = value.try_into().ok().map(Mac),
            libc::IFLA_QDISC => link.sends = text_of(value) != NO_QUEUE,
            _ => {}
        }
    }
    Some(link)
}

fn address_message(kind: u16, flags: libc::c_int, index: u32, address: Ipv4Addr, prefix: u8) -> Message {
    let mut header = vec![libc::AF_INET as u8, prefix, 0, libc::RT_SCOPE_UNIVERSE];
    header.extend_from_slice(&index.to_ne_bytes());
    let mut message = Message::new(kind, flags, &header);
    message.attribute(libc::IFA_LOCAL, &address.octets());
    message.attribute(libc::IFA_ADDRESS, &address.octets());
    // No route to its block: nobody there is a neighbour, all is the router's to find.
    message.number(libc::IFA_FLAGS, libc::IFA_F_NOPREFIXROUTE);
    message
}

fn route_message(kind: u16, flags: libc::c_int, spec: &RouteSpec) -> Message {
    let (route_type, scope) = match spec.kind {
        RouteKind::Via { gateway: Some(_), .. } => (libc::RTN_UNICAST, libc::RT_SCOPE_UNIVERSE),
        RouteKind::Via { gateway: None, .. } => (libc::RTN_UNICAST, libc::RT_SCOPE_LINK),
        RouteKind::Throw => (libc::RTN_THROW, libc::RT_SCOPE_UNIVERSE),
        RouteKind::Blackhole => (libc::RTN_BLACKHOLE, libc::RT_SCOPE_UNIVERSE),
        RouteKind::Local { .. } => (libc::RTN_LOCAL, libc::RT_SCOPE_HOST),
    };
    let onlink = if matches!(spec.kind, RouteKind::Via { gateway: Some(_), .. }) { RTNH_F_ONLINK } else { 0 };
    let mut header = vec![
        libc::AF_INET as u8,
        spec.destination.prefix_len(),
        0,
        0,
        0,
        libc::RTPROT_STATIC,
        scope,
        route_type,
    ];
    header.extend_from_slice(&onlink.to_ne_bytes());
    let mut message = Message::new(kind, flags, &header);
    message.attribute(libc::RTA_DST, &spec.destination.network().octets());
    message.number(libc::RTA_TABLE, spec.table);
    match spec.kind {
        RouteKind::Via { link, gateway } => {
            message.number(libc::RTA_OIF, link);
            if let Some(gateway) = gateway {
                message.attribute(libc::RTA_GATEWAY, &gateway.octets());
            }
        }
        RouteKind::Local { link } => {
            message.number(libc::RTA_OIF, link);
        }
        RouteKind::Throw | RouteKind::Blackhole => {}
    }
    message
}

fn parse_route(payload: &[u8]) -> Option<RouteSpec> {
    let header = payload.get(0..12)?;
    let mut table = u32::from(header[4]);
    let (mut destination, mut link, mut gateway) = (Ipv4Addr::UNSPECIFIED, None, None);
    for (kind, value) in attributes(&payload[12..]) {
        match kind {
            libc::RTA_DST => destination = address_of(value)?,
            libc::RTA_TABLE => table = number_of(value)?,
            libc::RTA_OIF => link = number_of(value),
            libc::RTA_GATEWAY => gateway = address_of(value),
            _ => {}
        }
    }
    let kind = match header[7] {
        libc::RTN_UNICAST => RouteKind::Via { link: link?, gateway },
        libc::RTN_THROW => RouteKind::Throw,
        libc::RTN_BLACKHOLE => RouteKind::Blackhole,
        libc::RTN_LOCAL => RouteKind::Local { link: link? },
        _ => return None,
    };
    Some(RouteSpec { table, destination: Ipv4Net::new(destination, header[1]).ok()?, kind })
}

fn rule_message(kind: u16, flags: libc::c_int, rule: &RuleSpec) -> Message {
    let mut header = [0; 12];
    (header[0], header[7]) = (libc::AF_INET as u8, FR_ACT_TO_TBL);
    let mut message = Message::new(kind, flags, &header);
    match rule.packets {
        Packets::All => &mut message,
        Packets::Marked(mark) => message.number(FRA_FWMARK, mark),
        Packets::Incoming(link) => message.text(FRA_IIFNAME, link),
    };
    message.number(FRA_TABLE, rule.table);
    message.number(FRA_PRIORITY, rule.priority);
    message
}

fn address_of(value: &[u8]) -> Option<Ipv4Addr> {
    <[u8; 4]>::try_from(value).ok().map(Ipv4Addr::from)
}
