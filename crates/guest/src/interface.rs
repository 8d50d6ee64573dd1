//! The guest's own network interfaces.

use std::fs;
use std::io;
use std::net::Ipv4Addr;

use ferrogate_shim::machine::netlink::{LinkChange, Netlink, Route};
use ferrogate_shim::machine::wire::{GUEST_LINK, HOST_NAMES, Interface};
use rustix::net::netdevice::name_to_index;
use rustix::net::{AddressFamily, SocketType};

const LOOPBACK: &str = "lo";

/// Both are up; a machine without a network has the one.
pub(crate) fn ahead() -> io::Result<()> {
    up(index(LOOPBACK)?)?;
    match index(GUEST_LINK) {
        Ok(link) => {
            // No address is made of a MAC that is nobody's.
            make_ipv6_address(false)?;
            // Answers from names are let in; what comes to the guest from elsewhere has no such address, which no router
            // passes on.
            fs::write(format!("/proc/sys/net/ipv4/conf/{GUEST_LINK}/route_localnet"), "1")?;
            up(link)
        }
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Its link-local address of its MAC, as soon as it is up; no other is ever used. Where the kernel has IPv6.
fn make_ipv6_address(make: bool) -> io::Result<()> {
    let mode = if make { "0" } else { "1" };
    match fs::write(format!("/proc/sys/net/ipv6/conf/{GUEST_LINK}/addr_gen_mode"), mode) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn up(link: u32) -> io::Result<()> {
    Netlink::open()?.change_link(link, &LinkChange { up: Some(true), ..LinkChange::default() })
}

fn index(name: &str) -> io::Result<u32> {
    let any = rustix::net::socket(AddressFamily::UNIX, SocketType::DGRAM, None)?;
    Ok(name_to_index(any, name)?)
}

/// The interface with the address and the MAC the VPC knows it by; everything goes to the gateway.
pub(crate) fn configure(wanted: &Interface) -> io::Result<()> {
    let Interface { mac, mtu, address, prefix, gateway, gateway_mac } = *wanted;
    let mut route = Netlink::open()?;
    let link = index(GUEST_LINK)?;
    let change = LinkChange { mac: Some(mac), mtu: Some(mtu), ..LinkChange::default() };
    route.change_link(link, &change)?;
    make_ipv6_address(true)?;
    route.add_address(link, address, prefix)?;
    route.add_neighbour(link, gateway, gateway_mac)?;
    let everywhere = Ipv4Addr::UNSPECIFIED;
    route.add_route(&Route { destination: everywhere, prefix: 0, gateway: Some(gateway), link })?;
    let (destination, prefix) = HOST_NAMES;
    route.add_route_before_local(&Route { destination, prefix, gateway: Some(gateway), link })
}
