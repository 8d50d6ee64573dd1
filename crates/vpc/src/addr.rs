//! Addresses with a meaning of their own in the fabric.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

/// What a task sees as the source of a connection that came from this host by a public address.
/// Security group rules and network ACLs match it like any address of the internet.
pub const HOST_WIRE: Ipv4Addr = Ipv4Addr::new(100, 127, 255, 254);

/// Where a task with a route to an internet gateway reaches the API endpoint (on the API's own port).
pub const API_WIRE: Ipv4Addr = Ipv4Addr::new(100, 127, 255, 1);

/// The next hop on the VPC side of an internet gateway's link; never a destination.
pub(crate) const LINK_UPLINK_SIDE: Ipv4Addr = Ipv4Addr::new(100, 127, 255, 253);
/// The next hop on the uplink side of an internet gateway's link; never a destination.
pub(crate) const LINK_VPC_SIDE: Ipv4Addr = Ipv4Addr::new(100, 127, 255, 252);

/// The resolver's link-local address (Amazon VPC user guide, "DNS attributes").
pub const RESOLVER_LINK_LOCAL: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 253);

/// Public addresses that cannot travel as packets, being loopback.
const LOOPBACK_POOL: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(127, 64, 0, 0), 10);
/// Where they are carried: shared address space (RFC 6598).
pub(crate) const WIRE_SPACE: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(100, 64, 0, 0), 10);

/// The address a public address is carried as inside the fabric: 127.64.a.b travels as 100.64.a.b
/// (the same for all of 127.64.0.0/10), every other address as itself.
pub fn wire_address(public: Ipv4Addr) -> Ipv4Addr {
    if !LOOPBACK_POOL.contains(&public) {
        return public;
    }
    let [_, b, c, d] = public.octets();
    Ipv4Addr::new(100, b, c, d)
}

/// The inverse of [`wire_address`] for addresses out of 127.64.0.0/10.
pub fn public_address(wire: Ipv4Addr) -> Ipv4Addr {
    if !WIRE_SPACE.contains(&wire) {
        return wire;
    }
    let [_, b, c, d] = wire.octets();
    Ipv4Addr::new(127, b, c, d)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_pool_addresses_change_on_the_wire() {
        for (public, wire) in [
            ("127.64.0.9", "100.64.0.9"),
            ("127.127.255.1", "100.127.255.1"),
            ("127.63.255.255", "127.63.255.255"),
            ("127.128.0.1", "127.128.0.1"),
            ("203.0.113.7", "203.0.113.7"),
        ] {
            let (public, wire): (Ipv4Addr, Ipv4Addr) = (public.parse().unwrap(), wire.parse().unwrap());
            assert_eq!(wire_address(public), wire);
            assert_eq!(public_address(wire), public);
        }
    }
}
