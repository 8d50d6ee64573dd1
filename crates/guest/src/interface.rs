//! The guest's own network interfaces.

use std::fs;
use std::io;
use std::net::Ipv4Addr;

use ferrogate_shim::machine::netlink::{LinkChange, Netlink, Route};
use ferrogate_shim::machine::wire::{GUEST_LINK, HOST_NAMES, Interface};

const LOOPBACK: &str = "lo";

pub(crate) fn loopback_up() -> io::Result<()> {
    let mut route = Netlink::open()?;
    let link = route.link(LOOPBACK)?.ok_or(io::ErrorKind::NotFound)?;
    route.change_link(link.index, &LinkChange { up: Some(true), ..LinkChange::default() })
}

/// The interface with the address and the MAC the VPC knows it by; everything goes to the gateway.
pub(crate) fn configure(wanted: &Interface) -> io::Result<()> {
    let Interface { mac, mtu, address, prefix, gateway, gateway_mac } = *wanted;
    let mut route = Netlink::open()?;
    let link = route.link(GUEST_LINK)?.ok_or(io::ErrorKind::NotFound)?.index;
    let change = LinkChange { mac: Some(mac), mtu: Some(mtu), ..LinkChange::default() };
    route.change_link(link, &change)?;
    route.change_link(link, &LinkChange { up: Some(true), ..LinkChange::default() })?;
    route.add_address(link, address, prefix)?;
    route.add_neighbour(link, gateway, gateway_mac)?;
    let everywhere = Ipv4Addr::UNSPECIFIED;
    route.add_route(&Route { destination: everywhere, prefix: 0, gateway: Some(gateway), link })?;
    // Answers from names are let in; what comes to the guest from elsewhere has no such address, which no router passes on.
    fs::write(format!("/proc/sys/net/ipv4/conf/{GUEST_LINK}/route_localnet"), "1")?;
    let (destination, prefix) = HOST_NAMES;
    route.add_route_before_local(&Route { destination, prefix, gateway: Some(gateway), link })
}
