//! A task's network namespace.

use std::net::{SocketAddrV4, TcpListener};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use ipnet::Ipv4Net;

use crate::addr::Mac;
use crate::error::{Error, Result};
use crate::kernel::{LOOPBACK, refused};
use crate::names::TASK_LINK;
use crate::netlink::{RouteKind, RouteSocket, RouteSpec};
use crate::netns::NetNs;
use crate::plan::Interface;

const EVERYWHERE: Ipv4Net = Ipv4Net::new_assert(std::net::Ipv4Addr::UNSPECIFIED, 0);

#[derive(Debug)]
pub(crate) struct TaskNs {
    pub(crate) name: String,
    namespace: NetNs,
    route: RouteSocket,
}

impl TaskNs {
    pub(crate) fn create(name: &str, path: &Path) -> Result<Self> {
        let (namespace, route) = NetNs::create(path, prepare)?;
        Ok(Self { name: name.to_owned(), namespace, route })
    }

    /// `None` when the name names no namespace.
    pub(crate) fn adopt(name: &str, path: &Path) -> Result<Option<Self>> {
        let Some(namespace) = NetNs::open(path)? else { return Ok(None) };
        let route = namespace.run(prepare)??;
        Ok(Some(Self { name: name.to_owned(), namespace, route }))
    }

    pub(crate) fn path(&self) -> &Path {
        self.namespace.path()
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
        self.route.add_address(link.index, interface.address, interface.prefix).map_err(what())?;
        if !link.up {
            self.route.set_up(link.index).map_err(what())?;
        }
        // Saves the first packet an ARP exchange.
        self.route.replace_neighbour(link.index, interface.router, Mac::ROUTER).map_err(what())?;
        let kind = RouteKind::Via { link: link.index, gateway: Some(interface.router) };
        let default = RouteSpec { table: libc::RT_TABLE_MAIN.into(), destination: EVERYWHERE, kind };
        self.route.replace_route(&default).map_err(what())
    }

    /// Listens inside; the address becomes one of the loopback link's.
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
        self.namespace
            .run(|| {
                let listener = TcpListener::bind(address)?;
                listener.set_nonblocking(true)?;
                Ok(listener)
            })?
            .map_err(Error::io(what))
    }
}

fn prepare() -> Result<RouteSocket> {
    let mut route = RouteSocket::open().map_err(Error::io("opening a route socket"))?;
    route.set_up(LOOPBACK).map_err(refused("to bring up loopback"))?;
    Ok(route)
}
