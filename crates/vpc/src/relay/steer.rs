//! How connections to public addresses find the relay: a `sk_lookup` program where the kernel has it (every
//! port of every public address on one socket), else a listener per address and port.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;

use tokio::task::AbortHandle;

use super::bpf::SkLookup;
use super::{Direction, Shared, sockets, tcp, udp};
use crate::error::{Error, Result};
use crate::fabric::Options;
use crate::plan::HostPorts;

/// Without `sk_lookup`: listeners at a time.
const LISTENERS_MAX: usize = 1024;
/// Without `sk_lookup`: ranges of ports wider than this are not listened on port by port.
const RANGE_PORTS_MAX: u16 = 16;

const TCP: u8 = 6;
const UDP: u8 = 17;

#[derive(Debug)]
pub(super) enum Steering {
    Program { program: SkLookup, loops: Vec<AbortHandle> },
    Listeners { ports: Vec<u16>, open: BTreeMap<(u8, SocketAddrV4), AbortHandle> },
}

impl Steering {
    /// In the host's namespace.
    pub(super) fn start(shared: &Arc<Shared>, options: &Options) -> Result<Self> {
        // An address that is surely this host's; nothing is served there: only steered sessions have a target.
        let pool = options.public_pool.network();
        let own = if pool.is_loopback() { pool } else { Ipv4Addr::LOCALHOST };
        let address = SocketAddrV4::new(own, 0);
        let (listener, datagrams) =
            sockets::listen(address).map_err(Error::io(format!("listening on {own} for the relay")))?;
        match SkLookup::attach(&listener, &datagrams) {
            Ok(program) => {
                let listener = sockets::tokio_listener(listener)?;
                let datagrams = sockets::tokio_udp(datagrams)?;
                let loops = vec![
                    tokio::spawn(tcp::serve(shared.clone(), Direction::Inward, listener)).abort_handle(),
                    tokio::spawn(udp::serve(shared.clone(), Direction::Inward, datagrams)).abort_handle(),
                ];
                Ok(Self::Program { program, loops })
            }
            Err(error) => {
                tracing::warn!(
                    %error,
                    fallback_ports = ?options.fallback_ports,
                    "this kernel steers no sockets (BPF sk_lookup): public addresses are reached from this host only \
                     on ports that security groups name one by one and on the fallback ports"
                );
                Ok(Self::Listeners { ports: options.fallback_ports.clone(), open: BTreeMap::new() })
            }
        }
    }

    pub(super) fn set(&mut self, shared: &Arc<Shared>, public: BTreeMap<Ipv4Addr, HostPorts>) -> Result<()> {
        match self {
            Self::Program { program, .. } => {
                program.set(&public).map_err(Error::io("telling the kernel which public addresses to steer"))
            }
            Self::Listeners { ports, open } => {
                let wanted = wanted_listeners(&public, ports);
                open.retain(|key, handle| {
                    let stays = wanted.contains(key);
                    if !stays {
                        handle.abort();
                    }
                    stays
                });
                for (protocol, address) in wanted {
                    if open.contains_key(&(protocol, address)) {
                        continue;
                    }
                    match listen(shared, protocol, address) {
                        Ok(handle) => drop(open.insert((protocol, address), handle)),
                        Err(error) => {
                            tracing::warn!(%address, protocol, %error, "cannot listen for the relay")
                        }
                    }
                }
                Ok(())
            }
        }
    }
}

impl Drop for Steering {
    fn drop(&mut self) {
        match self {
            Self::Program { loops, .. } => loops.iter().for_each(AbortHandle::abort),
            Self::Listeners { open, .. } => open.values().for_each(AbortHandle::abort),
        }
    }
}

fn listen(shared: &Arc<Shared>, protocol: u8, address: SocketAddrV4) -> Result<AbortHandle> {
    let what = || Error::io(format!("listening on {address}"));
    if protocol == TCP {
        let listener = sockets::tokio_listener(sockets::listen_tcp(address).map_err(what())?)?;
        return Ok(tokio::spawn(tcp::serve(shared.clone(), Direction::Inward, listener)).abort_handle());
    }
    let datagrams = sockets::tokio_udp(sockets::listen_udp(address).map_err(what())?)?;
    Ok(tokio::spawn(udp::serve(shared.clone(), Direction::Inward, datagrams)).abort_handle())
}

/// Named ports that are open, and the fallback ports; never more than the limit.
fn wanted_listeners(
    public: &BTreeMap<Ipv4Addr, HostPorts>,
    fallback: &[u16],
) -> BTreeSet<(u8, SocketAddrV4)> {
    let mut wanted = BTreeSet::new();
    for (address, open) in public {
        for protocol in [TCP, UDP] {
            let ranges = open.iter().filter(|(of, ..)| *of == protocol);
            let covered = |port: &u16| ranges.clone().any(|(_, first, last)| (first..=last).contains(&port));
            let narrow = ranges.clone().filter(|(_, first, last)| last - first < RANGE_PORTS_MAX);
            let named = narrow.flat_map(|(_, first, last)| *first..=*last);
            let ports = named.chain(fallback.iter().copied().filter(covered)).filter(|port| *port != 0);
            wanted.extend(ports.map(|port| (protocol, SocketAddrV4::new(*address, port))));
        }
    }
    if wanted.len() > LISTENERS_MAX {
        tracing::warn!(
            wanted = wanted.len(),
            LISTENERS_MAX,
            "too many listeners for the relay; some are left out"
        );
    }
    wanted.into_iter().take(LISTENERS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_sk_lookup_named_ports_and_open_fallback_ports_are_listened_on() {
        let address = Ipv4Addr::new(127, 64, 0, 5);
        let open = HostPorts::from([(TCP, 80, 81), (TCP, 1000, 2000), (UDP, 53, 53)]);
        let wanted = wanted_listeners(&BTreeMap::from([(address, open)]), &[1500, 3000]);
        let ports: Vec<_> = wanted.iter().map(|(protocol, address)| (*protocol, address.port())).collect();
        assert_eq!(ports, [(TCP, 80), (TCP, 81), (TCP, 1500), (UDP, 53)]);
    }
}
