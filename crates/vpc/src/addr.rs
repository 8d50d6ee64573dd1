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

/// The most significant end of a link's Ethernet address first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Mac(pub(crate) [u8; 6]);

impl Mac {
    /// The router's end of every interface's link; each link is a wire of its own, so one is enough.
    pub(crate) const ROUTER: Self = Self([0x06, 0xfe, 0, 0, 0, 1]);
    /// Both ends of an internet gateway's link.
    pub(crate) const GATEWAY_VPC_SIDE: Self = Self([0x06, 0xfe, 0, 0, 0, 2]);
    pub(crate) const GATEWAY_UPLINK_SIDE: Self = Self([0x06, 0xfe, 0, 0, 0, 3]);
}

impl std::str::FromStr for Mac {
    type Err = ();

    /// Six hexadecimal pairs with colons; a group address cannot be an interface's.
    fn from_str(text: &str) -> Result<Self, ()> {
        let mut octets = [0; 6];
        let mut parts = text.split(':');
        for octet in &mut octets {
            let part = parts.next().filter(|part| part.len() == 2).ok_or(())?;
            *octet = u8::from_str_radix(part, 16).map_err(|_| ())?;
        }
        if parts.next().is_some() || octets[0] & 1 != 0 {
            return Err(());
        }
        Ok(Self(octets))
    }
}

impl std::fmt::Display for Mac {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl std::fmt::Debug for Mac {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self}")
    }
}

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
    fn mac_addresses_are_six_hexadecimal_pairs_and_not_a_group() {
        assert_eq!("0a:00:00:00:00:0f".parse(), Ok(Mac([0x0a, 0, 0, 0, 0, 0x0f])));
        assert_eq!(Mac([0x0a, 0, 0, 0, 0, 0x0f]).to_string(), "0a:00:00:00:00:0f");
        for wrong in ["", "0a:00:00:00:00", "0a:00:00:00:00:0f:11", "01:00:00:00:00:00", "0a-00-00-00-00-0f"]
        {
            assert_eq!(wrong.parse::<Mac>(), Err(()));
        }
    }

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
