//! The task's network interface given to its guest.
//!
//! ```text
//! VPC's router ── veth ── eth0 ┐ the task's namespace: forwards, and has the       ┌ tap ── guest's eth0
//!                              └ endpoints' own addresses on its loopback link ────┘        MAC and address of the ENI
//! ```
//!
//! The guest has the interface's MAC, address and MTU; the namespace gives its address up and answers ARP for it, so that
//! every packet still passes the router's rules and the endpoints inside the namespace stay where they are. The tap is
//! made before there is an interface, in a namespace of nobody's, as the machine boots meanwhile.

use std::fs::File;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use super::netlink::{Link, LinkChange, Netlink, Route};
use super::pin::pin;
use super::wire::Interface;
use crate::launcher::sys;

/// The task's interface in its namespace, as the fabric names it, and the guest's beside it.
pub const TASK_LINK: &str = "eth0";
pub const TAP_LINK: &str = "guest0";
/// Keeps the interface one that may route, once its address is the guest's. Never leaves the namespace.
pub const OWN_ADDRESS: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 1);
/// The host's end, in the guest's table of neighbours.
const TAP_MAC: [u8; 6] = [0x02, 0xfe, 0, 0, 0, 1];
const TUN: &str = "/dev/net/tun";
const OWN_NAMESPACE: &str = "/proc/self/ns/net";
/// `TUNSETIFF`
const SET_INTERFACE: libc::Ioctl = 0x4004_54ca;

/// A tap that has no place yet.
pub(super) struct Tap {
    /// For the machine's program.
    pub(super) fd: OwnedFd,
    namespace: File,
    route: Netlink,
}

impl Tap {
    pub(super) fn make() -> io::Result<Tap> {
        apart(|| {
            sys::unshare(libc::CLONE_NEWNET)?;
            let namespace = File::open(OWN_NAMESPACE)?;
            Ok(Tap { fd: open_tap()?, namespace, route: Netlink::open()? })
        })
    }

    /// Puts it into the task's namespace, which has its interface by now, and that one's address into the guest.
    pub(super) fn connect(mut self, namespace: &Path) -> io::Result<Interface> {
        let target = File::open(namespace)?;
        let tap = self.route.link(TAP_LINK)?.ok_or(io::ErrorKind::NotFound)?;
        let mut there = apart(|| {
            sys::set_namespace(target.as_fd(), libc::CLONE_NEWNET)?;
            forward()?;
            Netlink::open()
        })?;
        let link = there.link(TASK_LINK)?.ok_or_else(|| absent("no interface"))?;
        let address = there.addresses(link.index)?.into_iter().find(|(address, _)| *address != OWN_ADDRESS);
        let (address, prefix) = address.ok_or_else(|| absent("an interface without an address"))?;
        let gateway = there.gateway(link.index)?.ok_or_else(|| absent("no default route"))?;
        let Link { mac: Some(mac), mtu, .. } = link else { return Err(absent("an interface without a MAC")) };
        let change = LinkChange { namespace: Some(target.as_fd()), ..LinkChange::default() };
        self.route.change_link(tap.index, &change)?;
        drop(self.namespace);

        let tap = there.link(TAP_LINK)?.ok_or_else(|| absent("no tap"))?;
        let up = LinkChange { up: Some(true), mac: Some(TAP_MAC), mtu: Some(mtu), ..LinkChange::default() };
        apart(|| {
            sys::set_namespace(target.as_fd(), libc::CLONE_NEWNET)?;
            pin(TAP_LINK, mac, address)
        })?;
        there.change_link(tap.index, &up)?;
        apart(|| {
            sys::set_namespace(target.as_fd(), libc::CLONE_NEWNET)?;
            answer_for_others(TASK_LINK)?;
            answer_for_others(TAP_LINK)
        })?;
        there.add_address(link.index, OWN_ADDRESS, 32)?;
        there.delete_address(link.index, address, prefix)?;
        // Went with the address.
        let everywhere = Ipv4Addr::UNSPECIFIED;
        let default = Route { destination: everywhere, prefix: 0, gateway: Some(gateway), link: link.index };
        there.add_route(&default)?;
        let guest = Route { destination: address, prefix: 32, gateway: None, link: tap.index };
        there.add_route(&guest)?;
        there.add_neighbour(tap.index, address, mac)?;
        Ok(Interface { mac, mtu, address, prefix, gateway, gateway_mac: TAP_MAC })
    }
}

fn absent(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("the task's network namespace has {what}"))
}

/// Runs it in whatever network namespace it goes to, and comes back. The shim has one thread.
fn apart<T>(work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let home = File::open(OWN_NAMESPACE)?;
    let done = work();
    sys::set_namespace(home.as_fd(), libc::CLONE_NEWNET)?;
    done
}

fn open_tap() -> io::Result<OwnedFd> {
    let tun = File::options().read(true).write(true).open(TUN)?;
    // SAFETY: all zeroes is a valid `ifreq`.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(TAP_LINK.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as libc::c_short;
    // SAFETY: the structure is the one the kernel reads, and outlives the call.
    match unsafe { libc::ioctl(tun.as_raw_fd(), SET_INTERFACE, &raw const request) } {
        0 => Ok(tun.into()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// In the calling process's namespace: `/proc/sys/net` shows that of whoever looks.
fn forward() -> io::Result<()> {
    std::fs::write("/proc/sys/net/ipv4/ip_forward", "1")
}

/// At once: by itself the kernel waits a random while, up to 0.8 s.
fn answer_for_others(link: &str) -> io::Result<()> {
    std::fs::write(format!("/proc/sys/net/ipv4/neigh/{link}/proxy_delay"), "0")?;
    std::fs::write(format!("/proc/sys/net/ipv4/conf/{link}/proxy_arp"), "1")
}
