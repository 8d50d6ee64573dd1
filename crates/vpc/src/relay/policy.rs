//! Where tasks may go through the relay.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::{Mutex, PoisonError};

use ipnet::Ipv4Net;

use crate::addr::{API_WIRE, WIRE_SPACE};
use crate::error::{Error, Result};
use crate::fabric::Options;
use crate::netlink::RouteSocket;

/// Never: "this network", loopback, link-local (the host's own metadata service among them), multicast,
/// reserved and broadcast (RFC 6890).
const DENIED: [Ipv4Net; 5] = [
    Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 8),
    Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8),
    Ipv4Net::new_assert(Ipv4Addr::new(169, 254, 0, 0), 16),
    Ipv4Net::new_assert(Ipv4Addr::new(224, 0, 0, 0), 4),
    Ipv4Net::new_assert(Ipv4Addr::new(240, 0, 0, 0), 4),
];

#[derive(Debug)]
pub(super) struct Policy {
    api: Option<SocketAddr>,
    denied: Vec<Ipv4Net>,
    /// In the host's namespace: asks how the host itself would send.
    routes: Mutex<RouteSocket>,
}

impl Policy {
    /// In the host's namespace.
    pub(super) fn new(options: &Options) -> Result<Self> {
        let mut denied = DENIED.to_vec();
        denied.extend([WIRE_SPACE, options.public_pool]);
        denied.extend(&options.deny_outbound);
        let routes = RouteSocket::open().map_err(Error::io("opening a route socket"))?;
        Ok(Self { api: options.api, denied, routes: Mutex::new(routes) })
    }

    /// The address to dial on behalf of a task; `None`: refused.
    pub(super) fn target(&self, destination: SocketAddrV4, tcp: bool) -> Option<SocketAddr> {
        let address = *destination.ip();
        if address == API_WIRE {
            return self.api.filter(|api| tcp && api.port() == destination.port());
        }
        if self.denied.iter().any(|net| net.contains(&address)) {
            return None;
        }
        // The host's own addresses, and what it cannot reach.
        let route = self.routes.lock().unwrap_or_else(PoisonError::into_inner).route_type(address);
        matches!(route, Ok(libc::RTN_UNICAST)).then(|| destination.into())
    }
}
