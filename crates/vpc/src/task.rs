//! A task's network namespace.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use ipnet::Ipv4Net;

use crate::addr::Mac;
use crate::error::{Error, Result};
use crate::kernel::{LOOPBACK, refused};
use crate::names::TASK_LINK;
use crate::netlink::{NetlinkError, Packets, RouteKind, RouteSocket, RouteSpec, RuleSpec};
use crate::netns::NetNs;
use crate::plan::Interface;
use crate::relay::bpf::one_door;

/// Where listeners inside a task are really bound: the ECS agent's own port, which tasks leave alone.
const ENDPOINT_PORT: u16 = 51_679;
/// A task's machine has the interface: made by its shim (`machine::tap`).
const GUEST_LINK: &str = "guest0";
/// Before all others.
const RULE_PRIORITY: u32 = 100;
const EVERYWHERE: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0);

/// What went through a task's interface since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub rx_bytes: u64,
    pub rx_packets: u64,
    pub rx_errors: u64,
    pub rx_dropped: u64,
    pub tx_bytes: u64,
    pub tx_packets: u64,
    pub tx_errors: u64,
    pub tx_dropped: u64,
}

impl Counters {
    /// Of a link's line in `/proc/net/dev`.
    fn of(link: &str, text: &str) -> Option<Self> {
        let line = text.lines().find_map(|line| line.trim_start().strip_prefix(link)?.strip_prefix(':'))?;
        let mut numbers = line.split_whitespace().map(|number| number.parse::<u64>().ok());
        // Eight columns of what came in, then eight of what went out.
        let columns: [u64; 12] = std::array::from_fn(|_| numbers.next().flatten().unwrap_or_default());
        let [rx_bytes, rx_packets, rx_errors, rx_dropped, .., tx_bytes, tx_packets, tx_errors, tx_dropped] =
            columns;
        Some(Self {
            rx_bytes,
            rx_packets,
            rx_errors,
            rx_dropped,
            tx_bytes,
            tx_packets,
            tx_errors,
            tx_dropped,
        })
    }
}

#[derive(Debug)]
pub(crate) struct TaskNs {
    pub(crate) name: String,
    namespace: NetNs,
    route: RouteSocket,
    /// Of listeners inside, which stand as long as this does.
    doors: Vec<OwnedFd>,
}

impl TaskNs {
    pub(crate) fn create(name: &str, path: &Path) -> Result<Self> {
        let (namespace, route) = NetNs::create(path, prepare)?;
        Ok(Self { name: name.to_owned(), namespace, route, doors: Vec::new() })
    }

    /// `None` when the name names no namespace.
    pub(crate) fn adopt(name: &str, path: &Path) -> Result<Option<Self>> {
        let Some(namespace) = NetNs::open(path)? else { return Ok(None) };
        let route = namespace.run(prepare)??;
        Ok(Some(Self { name: name.to_owned(), namespace, route, doors: Vec::new() }))
    }

    pub(crate) fn path(&self) -> &Path {
        self.namespace.path()
    }

    pub(crate) fn namespace(&self) -> &NetNs {
        &self.namespace
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.namespace.as_fd()
    }

    /// Address and routes of its one interface, which is there already.
    pub(crate) fn configure(&mut self, eni_id: &str, interface: &Interface) -> Result<()> {
        let what = || refused(format!("to configure {eni_id} in {}", self.namespace.path().display()));
        let link = self.route.link(TASK_LINK).map_err(what())?;
        let link = link.filter(|link| link.mac == Some(interface.mac)).ok_or_else(|| {
            Error::BadFabric(format!("{TASK_LINK} in {} is not {eni_id}", self.namespace.path().display()))
        })?;
        // The address is the guest's then, and the namespace only passes on.
        if self.route.link(GUEST_LINK).map_err(what())?.is_some() {
            return Ok(());
        }
        self.route.add_address(link.index, interface.address, interface.prefix).map_err(what())?;
        // The kernel has one table of neighbours for all namespaces: who asked for a thousand of them would take the
        // place of others'. So the router is the only one.
        if !link.up {
            self.route.set_up_without_arp(link.index).map_err(what())?;
        }
        self.route.replace_neighbour(link.index, interface.router, Mac::ROUTER).map_err(what())?;
        let kind = RouteKind::Via { link: link.index, gateway: Some(interface.router) };
        let default = RouteSpec { table: libc::RT_TABLE_MAIN.into(), destination: EVERYWHERE, kind };
        self.route.replace_route(&default).map_err(what())?;
        match interface.flows {
            Some(_) => be_anybody(&mut self.route, interface.router).map_err(what()),
            None => Ok(()),
        }
    }

    /// `None` while it has no interface.
    pub(crate) fn counters(&self) -> Result<Option<Counters>> {
        let what = format!("reading the counters of {}", self.namespace.path().display());
        // A thread's own file: a process's shows the network of its first thread.
        let text = self.namespace.run(|| std::fs::read_to_string("/proc/thread-self/net/dev"))?;
        Ok(Counters::of(TASK_LINK, &text.map_err(Error::io(what))?))
    }

    /// Listens inside; the address becomes one of the loopback link's. The port stays free for the task: a program
    /// of it may bind it on all addresses, as one on port 80 does.
    pub(crate) fn listen(&mut self, address: SocketAddrV4) -> Result<TcpListener> {
        let ip = *address.ip();
        if !ip.is_link_local() && !ip.is_loopback() {
            let why = "only link-local and loopback addresses can be listened on in a task's namespace";
            return Err(Error::BadAddress { address: ip, why });
        }
        if !ip.is_loopback() {
            let what = format!("address {ip} in {}", self.namespace.path().display());
            self.route.add_address(LOOPBACK, ip, 32).map_err(refused(what))?;
        }
        let what = format!("listening on {address} in {}", self.namespace.path().display());
        let (listener, door) = self.namespace.run(|| listen(address))?.map_err(Error::io(what))?;
        self.doors.extend(door);
        Ok(listener)
    }
}

/// Every address is an own one to sockets, and to packets that come in by the interface; those that go out find their
/// way as ever. So a process without any privilege connects from its client's address and hears the answer.
fn be_anybody(route: &mut RouteSocket, router: Ipv4Addr) -> Result<(), NetlinkError> {
    let table = libc::RT_TABLE_LOCAL.into();
    route.add_rule(&RuleSpec { packets: Packets::Incoming(TASK_LINK), table, priority: RULE_PRIORITY })?;
    // The kernel's own, by which what goes out would be asked as well.
    route.delete_rule(&RuleSpec { packets: Packets::All, table, priority: 0 })?;
    // But the router: the kernel takes no own address for a gateway, and the route by it is set again each time.
    route.replace_route(&RouteSpec { table, destination: router.into(), kind: RouteKind::Throw })?;
    let kind = RouteKind::Local { link: LOOPBACK };
    route.replace_route(&RouteSpec { table, destination: EVERYWHERE, kind })
}

fn listen(address: SocketAddrV4) -> io::Result<(TcpListener, Option<OwnedFd>)> {
    let elsewhere = SocketAddrV4::new(*address.ip(), ENDPOINT_PORT);
    // Where the kernel cannot steer, or somebody has that port: the port itself, which the task then cannot have.
    let steered = TcpListener::bind(elsewhere).and_then(|listener| {
        let door = one_door(&listener, address)?;
        Ok((listener, Some(door)))
    });
    let (listener, door) = match steered {
        Ok(steered) => steered,
        Err(error) => {
            tracing::warn!(%error, %address, "the port is taken from the task: connections cannot be steered");
            (TcpListener::bind(address)?, None)
        }
    };
    listener.set_nonblocking(true)?;
    Ok((listener, door))
}

fn prepare() -> Result<RouteSocket> {
    let mut route = RouteSocket::open().map_err(Error::io("opening a route socket"))?;
    route.set_up(LOOPBACK).map_err(refused("to bring up loopback"))?;
    Ok(route)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_links_line() {
        let text = "Inter-|   Receive                          |  Transmit\n face |bytes packets errs drop fifo frame\n\
                    lo:       5       5    0    0    0     0          0         0       5       5\n  \
                    eth0: 10 2 3 4 0 0 0 0 50 6 7 8 0 0 0 0\n";
        let expected = Counters {
            rx_bytes: 10,
            rx_packets: 2,
            rx_errors: 3,
            rx_dropped: 4,
            tx_bytes: 50,
            tx_packets: 6,
            tx_errors: 7,
            tx_dropped: 8,
        };
        assert_eq!(Counters::of("eth0", text), Some(expected));
        assert_eq!(Counters::of("eth1", text), None);
    }
}
