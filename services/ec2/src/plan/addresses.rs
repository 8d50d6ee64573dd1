//! Which address comes next.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

/// AWS keeps a subnet's first four addresses (network, router, DNS, future use) and the last (broadcast).
const SUBNET_RESERVED_FIRST: u32 = 4;
/// A pool this long or longer is cut into networks of 256, whose first and last address are not given out: many
/// clients take `.0` and `.255` for a network's and its broadcast address.
const POOL_PREFIX_WITH_EDGES: u8 = 24;

/// The addresses that may be given out, lowest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AddressRange {
    first: u32,
    last: u32,
    skip_edges: bool,
}

impl AddressRange {
    pub(crate) fn of_subnet(cidr: Ipv4Net) -> Self {
        Self {
            first: cidr.network().to_bits() + SUBNET_RESERVED_FIRST,
            last: cidr.broadcast().to_bits() - 1,
            skip_edges: false,
        }
    }

    pub(crate) fn of_pool(cidr: Ipv4Net) -> Self {
        let (network, broadcast) = (cidr.network().to_bits(), cidr.broadcast().to_bits());
        if cidr.prefix_len() >= 31 {
            // Point-to-point and single addresses have neither network nor broadcast (RFC 3021).
            return Self { first: network, last: broadcast, skip_edges: false };
        }
        Self {
            first: network + 1,
            last: broadcast - 1,
            skip_edges: cidr.prefix_len() <= POOL_PREFIX_WITH_EDGES,
        }
    }

    pub(crate) fn contains(&self, ip: Ipv4Addr) -> bool {
        let bits = ip.to_bits();
        (self.first..=self.last).contains(&bits) && !self.is_edge(bits)
    }

    fn is_edge(&self, bits: u32) -> bool {
        self.skip_edges && matches!(bits & 0xff, 0 | 0xff)
    }

    /// How many there are.
    pub(crate) fn len(&self) -> u32 {
        let all = self.last - self.first + 1;
        if !self.skip_edges {
            return all;
        }
        // Edges at or below `n`: one `.0` per 256 begun, one `.255` per 256 ended.
        let edges_to = |n: u64| n / 256 + 1 + (n + 1) / 256;
        let (first, last) = (u64::from(self.first), u64::from(self.last));
        let edges = edges_to(last) - first.checked_sub(1).map_or(0, edges_to);
        all - u32::try_from(edges).expect("fewer edges than addresses")
    }

    /// The first free address at or after `from`, else from the start on. `None`: all are used.
    pub(crate) fn first_free(&self, from: Ipv4Addr, is_used: impl Fn(Ipv4Addr) -> bool) -> Option<Ipv4Addr> {
        let from = from.to_bits();
        let from = if (self.first..=self.last).contains(&from) { from } else { self.first };
        (from..=self.last)
            .chain(self.first..from)
            .filter(|bits| !self.is_edge(*bits))
            .map(Ipv4Addr::from_bits)
            .find(|ip| !is_used(*ip))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn net(text: &str) -> Ipv4Net {
        text.parse().unwrap()
    }

    #[test]
    fn a_subnet_keeps_five() {
        for (cidr, count) in [("10.0.0.0/28", 11), ("172.31.0.0/20", 4091), ("10.0.0.0/16", 65531)] {
            assert_eq!(AddressRange::of_subnet(net(cidr)).len(), count, "{cidr}");
        }
        let range = AddressRange::of_subnet(net("10.0.0.0/28"));
        assert_eq!(range.first_free(Ipv4Addr::UNSPECIFIED, |_| false), Some(Ipv4Addr::new(10, 0, 0, 4)));
        assert!(!range.contains(Ipv4Addr::new(10, 0, 0, 3)) && !range.contains(Ipv4Addr::new(10, 0, 0, 15)));
    }

    #[test]
    fn a_pool_keeps_its_edges() {
        let range = AddressRange::of_pool(net("127.64.0.0/16"));
        assert_eq!(range.len(), 256 * 254);
        assert_eq!(range.first_free(Ipv4Addr::UNSPECIFIED, |_| false), Some(Ipv4Addr::new(127, 64, 0, 1)));
        assert!(
            !range.contains(Ipv4Addr::new(127, 64, 3, 255)) && !range.contains(Ipv4Addr::new(127, 64, 4, 0))
        );
        assert_eq!(AddressRange::of_pool(net("203.0.113.8/30")).len(), 2);
        assert_eq!(AddressRange::of_pool(net("203.0.113.8/32")).len(), 1);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Whatever is used and wherever the search begins: a free address is found exactly when there is one,
        /// and it is one that may be given out.
        #[test]
        fn finds_a_free_address_if_there_is_one(
            network: u32,
            prefix in 20u8..=28,
            pool: bool,
            used in prop::collection::btree_set(0u32..4096, 0..600),
            fill: bool,
            from: u32,
        ) {
            let cidr = Ipv4Net::new(Ipv4Addr::from_bits(network), prefix).unwrap().trunc();
            let range = if pool { AddressRange::of_pool(cidr) } else { AddressRange::of_subnet(cidr) };
            let usable: BTreeSet<Ipv4Addr> = all(cidr).filter(|ip| range.contains(*ip)).collect();
            prop_assert_eq!(usable.len(), range.len() as usize);
            let taken: BTreeSet<Ipv4Addr> = if fill {
                usable.clone()
            } else {
                used.iter().map(|n| Ipv4Addr::from_bits(cidr.network().to_bits().wrapping_add(*n))).collect()
            };
            let found = range.first_free(Ipv4Addr::from_bits(from), |ip| taken.contains(&ip));
            prop_assert_eq!(found.is_some(), usable.difference(&taken).next().is_some());
            if let Some(found) = found {
                prop_assert!(usable.contains(&found) && !taken.contains(&found));
            }
        }

        /// Taking addresses one by one gives each exactly once.
        #[test]
        fn gives_every_address_once(prefix in 25u8..=28, starts in prop::collection::vec(any::<u32>(), 200)) {
            let range = AddressRange::of_subnet(Ipv4Net::new(Ipv4Addr::new(10, 1, 0, 0), prefix).unwrap());
            let mut taken = BTreeSet::new();
            for start in starts {
                match range.first_free(Ipv4Addr::from_bits(start), |ip| taken.contains(&ip)) {
                    Some(ip) => prop_assert!(taken.insert(ip)),
                    None => prop_assert_eq!(taken.len(), range.len() as usize),
                }
            }
        }
    }

    fn all(cidr: Ipv4Net) -> impl Iterator<Item = Ipv4Addr> {
        (cidr.network().to_bits()..=cidr.broadcast().to_bits()).map(Ipv4Addr::from_bits)
    }
}
