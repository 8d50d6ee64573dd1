//! One VPC's network namespace: the router between its interfaces.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use ipnet::Ipv4Net;

use crate::addr::{LINK_UPLINK_SIDE, Mac};
use crate::error::{Error, Result};
use crate::kernel::{
    self, LOOPBACK, MTU, Sockets, VPC_SETTINGS, apply_rules, converge_policy, converge_routes, refused,
};
use crate::names::{GATEWAY_LINK, TASK_LINK, vpc_link};
use crate::netlink::{
    Link, Packets, RouteKind, RouteSocket, RouteSpec, RuleSpec, Veth, forget_address, forget_marked,
};
use crate::netns::NetNs;
use crate::plan::{self, Hop, Interface, VpcNet};
use crate::task::TaskNs;
use crate::uplink::Uplink;

const TABLE_MAIN: u32 = libc::RT_TABLE_MAIN as u32;
/// Between the kernel's `local` (0) and `main` (32766).
const RULE_PRIORITY: u32 = 1000;
/// Between the ENI id and the namespace's name in a link's alias.
const ALIAS_SEPARATOR: char = '|';
/// How often links may vanish while one plan is applied.
const LOOKS_MAX: usize = 16;

#[derive(Debug)]
pub(crate) struct Router {
    vpc_id: String,
    namespace: NetNs,
    sockets: Sockets,
    /// What stands; `None` when that is not known.
    applied: Option<VpcNet>,
    routes: BTreeSet<RouteSpec>,
    policy: BTreeSet<RuleSpec>,
    gateway: Option<u32>,
    attached: BTreeMap<String, Attached>,
    /// Cut off, but still there.
    doomed: Vec<u32>,
    reaper: Arc<Mutex<RouteSocket>>,
}

/// Links to delete without holding anything else: the kernel takes its time over each (some 15 ms).
#[derive(Debug)]
pub(crate) struct Doomed {
    links: Vec<u32>,
    reaper: Arc<Mutex<RouteSocket>>,
}

impl Doomed {
    pub(crate) fn delete(self) -> Result<()> {
        let mut socket = self.reaper.lock().unwrap_or_else(PoisonError::into_inner);
        self.links.into_iter().try_for_each(|link| {
            socket.delete_link(link).map_err(refused(format!("to delete link number {link}")))
        })
    }
}

/// An interface that has its link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Attached {
    link: u32,
    pub(crate) netns: String,
}

impl Router {
    pub(crate) fn create(vpc_id: &str, path: &Path) -> Result<Self> {
        let (namespace, (sockets, reaper)) = NetNs::create(path, prepare)?;
        Ok(Self::new(vpc_id, namespace, sockets, reaper))
    }

    /// Takes over what a former process left; `None` when the name names no namespace.
    pub(crate) fn adopt(vpc_id: &str, path: &Path) -> Result<Option<Self>> {
        let Some(namespace) = NetNs::open(path)? else { return Ok(None) };
        // Prepared again: the former process may have died before it was through.
        let (sockets, reaper) = namespace.run(prepare)??;
        let mut router = Self::new(vpc_id, namespace, sockets, reaper);
        router.look()?;
        Ok(Some(router))
    }

    fn new(vpc_id: &str, namespace: NetNs, sockets: Sockets, reaper: RouteSocket) -> Self {
        Self {
            vpc_id: vpc_id.to_owned(),
            namespace,
            sockets,
            applied: None,
            routes: BTreeSet::new(),
            policy: BTreeSet::new(),
            gateway: None,
            attached: BTreeMap::new(),
            doomed: Vec::new(),
            reaper: Arc::new(Mutex::new(reaper)),
        }
    }

    /// What was cut off since the last time; the caller deletes it when it holds no lock.
    pub(crate) fn take_doomed(&mut self) -> Option<Doomed> {
        let links = std::mem::take(&mut self.doomed);
        (!links.is_empty()).then(|| Doomed { links, reaper: self.reaper.clone() })
    }

    pub(crate) fn namespace(&self) -> &NetNs {
        &self.namespace
    }

    pub(crate) fn attached(&self) -> impl Iterator<Item = (&String, &Attached)> {
        self.attached.iter()
    }

    pub(crate) fn has_gateway(&self) -> bool {
        self.gateway.is_some()
    }

    /// Learns what stands in the kernel.
    fn look(&mut self) -> Result<()> {
        let what = || refused(format!("to show what stands in {}", self.namespace.path().display()));
        let route = &mut self.sockets.route;
        let links = route.links().map_err(what())?;
        // Made, but not yet named: the former process died in between.
        for link in links.iter().filter(|link| link.alias.is_empty() && link.index != LOOPBACK) {
            route.delete_link(link.index).map_err(what())?;
        }
        self.gateway = links
            .iter()
            .find(|link| link.name == GATEWAY_LINK && !link.alias.is_empty())
            .map(|link| link.index);
        self.attached = links.iter().filter_map(attached_link).collect();
        self.routes = route.routes().map_err(what())?.into_iter().collect();
        self.policy = route.rules().map_err(what())?.into_iter().collect();
        Ok(())
    }

    /// Makes everything equal to `net`. After an error all is looked at anew the next time.
    pub(crate) fn apply(&mut self, net: &VpcNet, uplink: &mut Uplink) -> Result<()> {
        let mut result = self.converge(net, uplink);
        // A link vanishes by itself with its task's namespace, perhaps between the look and the change.
        for _ in 0..LOOKS_MAX {
            match result {
                Err(Error::Netlink { ref source, .. }) if source.errno == libc::ENODEV => {
                    result = self.converge(net, uplink);
                }
                _ => break,
            }
        }
        result
    }

    fn converge(&mut self, net: &VpcNet, uplink: &mut Uplink) -> Result<()> {
        if self.applied.as_ref() == Some(net) {
            return Ok(());
        }
        let old = self.applied.take();
        if old.is_none() {
            self.look()?;
        }
        // Rules before links: nothing passes a moment longer than it may.
        let old_rules = old.as_ref().map(|old| &old.ruleset);
        apply_rules(&self.namespace, &mut self.sockets.filter, old_rules, &net.ruleset)?;
        self.apply_addresses(net)?;
        self.apply_gateway(net.gateway, uplink)?;
        self.drop_changed_interfaces(old.as_ref(), net)?;
        let policy = net.tables.keys().map(|table| RuleSpec {
            packets: Packets::Marked(*table),
            table: *table,
            priority: RULE_PRIORITY,
        });
        converge_routes(
            &mut self.sockets.route,
            &mut self.routes,
            desired_routes(net, self.gateway, &self.attached),
        )?;
        converge_policy(&mut self.sockets.route, &mut self.policy, policy.collect())?;
        self.applied = Some(net.clone());
        Ok(())
    }

    fn apply_addresses(&mut self, net: &VpcNet) -> Result<()> {
        let route = &mut self.sockets.route;
        let present = route.addresses(LOOPBACK).map_err(refused("to show addresses"))?;
        for address in &net.addresses {
            if !present.contains(&(*address, 32)) {
                route
                    .add_address(LOOPBACK, *address, 32)
                    .map_err(refused(format!("address {address} for the router of {}", self.vpc_id)))?;
            }
        }
        for (address, prefix) in present {
            if !address.is_loopback() && !net.addresses.contains(&address) {
                route.delete_address(LOOPBACK, address, prefix).map_err(refused(format!(
                    "to take address {address} from the router of {}",
                    self.vpc_id
                )))?;
            }
        }
        Ok(())
    }

    fn apply_gateway(&mut self, wanted: bool, uplink: &mut Uplink) -> Result<()> {
        let what = || refused(format!("the internet gateway's link of {}", self.vpc_id));
        let far = vpc_link(&self.vpc_id);
        if !wanted {
            if let Some(link) = self.gateway.take() {
                self.sockets.route.delete_link(link).map_err(what())?;
                self.routes.retain(|route| !leads_to(route, link));
            }
            return uplink.unlink(&self.vpc_id);
        }
        if self.gateway.is_none() {
            // A link of this name that leads elsewhere is left from a VPC namespace that is gone.
            uplink.remove_stray_link(&far)?;
            let veth = Veth {
                name: GATEWAY_LINK,
                mac: Mac::GATEWAY_VPC_SIDE,
                alias: &far,
                mtu: MTU,
                peer_name: &far,
                peer_mac: Mac::GATEWAY_UPLINK_SIDE,
                peer_namespace: uplink.fd(),
            };
            self.sockets.route.create_veth(&veth).map_err(what())?;
        }
        let link = self.sockets.route.link(GATEWAY_LINK).map_err(what())?;
        let link =
            link.ok_or_else(|| Error::BadFabric(format!("the gateway link of {} vanished", self.vpc_id)))?;
        self.gateway = Some(link.index);
        // Sources from everywhere come in here.
        self.sockets.route.set_rp_filter(link.index, false).map_err(what())?;
        self.sockets
            .route
            .replace_neighbour(link.index, LINK_UPLINK_SIDE, Mac::GATEWAY_UPLINK_SIDE)
            .map_err(what())?;
        uplink.link(&self.vpc_id)?;
        self.sockets.route.wait_until_it_sends(GATEWAY_LINK).map_err(what())
    }

    /// Interfaces that are gone or became others lose their link and their connections.
    fn drop_changed_interfaces(&mut self, old: Option<&VpcNet>, net: &VpcNet) -> Result<()> {
        let attached: Vec<String> = self.attached.keys().cloned().collect();
        for eni_id in attached {
            let before = old.and_then(|old| old.interfaces.get(&eni_id));
            match (before, net.interfaces.get(&eni_id)) {
                (Some(before), Some(now)) if before.link == now.link && same_identity(before, now) => {
                    if before.check_source != now.check_source {
                        self.apply_source_check(&eni_id, now)?;
                    }
                }
                (None, Some(now)) => self.apply_source_check(&eni_id, now)?,
                (before, now) => {
                    if now.is_some() {
                        tracing::warn!(
                            eni_id,
                            "the interface's address changed; its link is cut, attach it again"
                        );
                    }
                    self.cut(&eni_id, before)?;
                }
            }
        }
        // A next owner of the address must not inherit connections.
        let gone = old.into_iter().flat_map(|old| &old.interfaces);
        for (_, interface) in gone.filter(|(eni_id, _)| !net.interfaces.contains_key(*eni_id)) {
            self.forget(interface.address, interface.flows)?;
        }
        Ok(())
    }

    fn apply_source_check(&mut self, eni_id: &str, interface: &Interface) -> Result<()> {
        let Some(attached) = self.attached.get(eni_id) else { return Ok(()) };
        self.sockets
            .route
            .set_rp_filter(attached.link, interface.check_source)
            .map_err(refused(format!("the source check of {eni_id}")))
    }

    /// Puts the interface into the task's namespace. Everything but the first step is repeated when it is there
    /// already, so that a former process may have died anywhere in between.
    pub(crate) fn attach(&mut self, eni_id: &str, task: &mut TaskNs) -> Result<()> {
        if self.attached.contains_key(eni_id) {
            // Its namespace may have ended without a word.
            self.forget_vanished()?;
        }
        let net = self.applied.as_ref().ok_or_else(|| unknown_eni(eni_id))?;
        let interface = net.interfaces.get(eni_id).ok_or_else(|| unknown_eni(eni_id))?.clone();
        let fresh = match self.attached.get(eni_id) {
            Some(attached) if attached.netns == task.name => false,
            Some(attached) => {
                return Err(Error::AttachedElsewhere {
                    eni_id: eni_id.to_owned(),
                    attached: attached.netns.clone(),
                    wanted: task.name.clone(),
                });
            }
            None => true,
        };
        if fresh {
            self.create_link(eni_id, &interface, task)?;
        }
        let connected = self.connect(eni_id, &interface, task);
        if connected.is_err() && fresh {
            // The first error is the one to tell.
            let _ = self.cut(eni_id, Some(&interface));
        }
        connected
    }

    fn create_link(&mut self, eni_id: &str, interface: &Interface, task: &TaskNs) -> Result<()> {
        let what = || refused(format!("the link of {eni_id}"));
        let veth = Veth {
            name: &interface.link,
            mac: Mac::ROUTER,
            alias: &format!("{eni_id}{ALIAS_SEPARATOR}{}", task.name),
            mtu: MTU,
            peer_name: TASK_LINK,
            peer_mac: interface.mac,
            peer_namespace: task.fd(),
        };
        self.sockets.route.create_veth(&veth).map_err(what())?;
        let link = self.sockets.route.link(&interface.link).map_err(what())?;
        let (_, attached) = link
            .as_ref()
            .and_then(attached_link)
            .ok_or_else(|| Error::BadFabric(format!("the link of {eni_id} vanished while it was made")))?;
        self.attached.insert(eni_id.to_owned(), attached);
        Ok(())
    }

    fn connect(&mut self, eni_id: &str, interface: &Interface, task: &mut TaskNs) -> Result<()> {
        let what = || refused(format!("to connect {eni_id}"));
        let link = self.attached[eni_id].link;
        task.configure(eni_id, interface)?;
        let route = &mut self.sockets.route;
        route.wait_until_it_sends(&interface.link).map_err(what())?;
        if !interface.check_source {
            route.set_rp_filter(link, false).map_err(what())?;
        }
        route.hurry_proxy_arp(link).map_err(what())?;
        route.replace_neighbour(link, interface.address, interface.mac).map_err(what())?;
        self.set_routes_of(eni_id, interface.address, Some(link))
    }

    /// No error when it is not attached. The caller has no plan to go by.
    pub(crate) fn detach(&mut self, eni_id: &str) -> Result<()> {
        let interface = self.applied.as_ref().and_then(|net| net.interfaces.get(eni_id)).cloned();
        self.cut(eni_id, interface.as_ref())
    }

    fn cut(&mut self, eni_id: &str, interface: Option<&Interface>) -> Result<()> {
        let Some(attached) = self.attached.remove(eni_id) else { return Ok(()) };
        // After an adoption the route is all that knows the address.
        let own = RouteKind::Via { link: attached.link, gateway: None };
        let routed = self.routes.iter().find(|route| route.kind == own);
        let address =
            interface.map(|known| known.address).or_else(|| routed.map(|route| route.destination.addr()));
        self.doomed.push(attached.link);
        let (gone, kept) =
            std::mem::take(&mut self.routes).into_iter().partition(|r| leads_to(r, attached.link));
        self.routes = kept;
        let gone: BTreeSet<RouteSpec> = gone;
        for route in &gone {
            let what = refused(format!("to delete the route to {} of {eni_id}", route.destination));
            self.sockets.route.delete_route(route).map_err(what)?;
        }
        let Some(address) = address else { return Ok(()) };
        self.set_routes_of(eni_id, address, None)?;
        self.forget(address, interface.and_then(|known| known.flows))
    }

    /// Links vanish with the namespace their other end is in.
    pub(crate) fn forget_vanished(&mut self) -> Result<()> {
        let links = self.sockets.route.links().map_err(refused("to show links"))?;
        let present: BTreeSet<u32> = links.iter().map(|link| link.index).collect();
        let gone: Vec<String> = self
            .attached
            .iter()
            .filter(|(_, a)| !present.contains(&a.link))
            .map(|(id, _)| id.clone())
            .collect();
        gone.iter().try_for_each(|eni_id| self.detach(eni_id))
    }

    fn forget(&mut self, address: Ipv4Addr, flows: Option<u32>) -> Result<()> {
        let what = || refused(format!("to forget the connections of {address}"));
        forget_address(&mut self.sockets.filter, address).map_err(what())?;
        flows.map_or(Ok(()), |mark| forget_marked(&mut self.sockets.filter, mark)).map_err(what())
    }

    /// Its own address, and routes that lead to it as a target.
    fn set_routes_of(&mut self, eni_id: &str, address: Ipv4Addr, link: Option<u32>) -> Result<()> {
        let mut routes: Vec<RouteSpec> = Vec::new();
        routes.extend(link.map(|link| own_route(address, link)));
        for (table, hops) in self.applied.iter().flat_map(|net| &net.tables) {
            for (destination, hop) in hops {
                if *hop == Hop::Interface(eni_id.to_owned()) {
                    let kind = link.map_or(RouteKind::Blackhole, |link| via(link, address));
                    routes.push(RouteSpec { table: *table, destination: *destination, kind });
                }
            }
        }
        for route in routes {
            self.sockets
                .route
                .replace_route(&route)
                .map_err(refused(format!("the route to {} of {eni_id}", route.destination)))?;
            self.routes.retain(|known| (known.table, known.destination) != (route.table, route.destination));
            self.routes.insert(route);
        }
        Ok(())
    }

    /// Nothing passes from here on; the namespace itself ends with its name, when the kernel finds the time.
    pub(crate) fn destroy(mut self, uplink: &mut Uplink) -> Result<()> {
        let closed = apply_rules(&self.namespace, &mut self.sockets.filter, None, &plan::closed_ruleset());
        let unlinked = self.apply_gateway(false, uplink);
        closed.and(unlinked).and(NetNs::remove_name(self.namespace.path()))
    }
}

fn prepare() -> Result<(Sockets, RouteSocket)> {
    let sockets = kernel::prepare_router(VPC_SETTINGS)?;
    Ok((sockets, RouteSocket::open().map_err(Error::io("opening a route socket"))?))
}

fn desired_routes(
    net: &VpcNet,
    gateway: Option<u32>,
    attached: &BTreeMap<String, Attached>,
) -> BTreeSet<RouteSpec> {
    let mut routes = BTreeSet::new();
    for (eni_id, attached) in attached {
        if let Some(interface) = net.interfaces.get(eni_id) {
            routes.insert(own_route(interface.address, attached.link));
        }
    }
    for (table, hops) in &net.tables {
        for (destination, hop) in hops {
            let kind = match hop {
                Hop::Local => RouteKind::Throw,
                Hop::Blackhole => RouteKind::Blackhole,
                Hop::Gateway => gateway.map_or(RouteKind::Blackhole, |link| via(link, LINK_UPLINK_SIDE)),
                Hop::Interface(eni_id) => match (attached.get(eni_id), net.interfaces.get(eni_id)) {
                    (Some(attached), Some(interface)) => via(attached.link, interface.address),
                    _ => RouteKind::Blackhole,
                },
            };
            routes.insert(RouteSpec { table: *table, destination: *destination, kind });
        }
    }
    routes
}

fn own_route(address: Ipv4Addr, link: u32) -> RouteSpec {
    let kind = RouteKind::Via { link, gateway: None };
    RouteSpec { table: TABLE_MAIN, destination: Ipv4Net::from(address), kind }
}

fn via(link: u32, gateway: Ipv4Addr) -> RouteKind {
    RouteKind::Via { link, gateway: Some(gateway) }
}

fn leads_to(route: &RouteSpec, link: u32) -> bool {
    matches!(route.kind, RouteKind::Via { link: to, .. } | RouteKind::Local { link: to } if to == link)
}

fn same_identity(a: &Interface, b: &Interface) -> bool {
    let identity = |of: &Interface| (of.mac, of.address, of.prefix, of.router, of.flows);
    identity(a) == identity(b)
}

fn attached_link(link: &Link) -> Option<(String, Attached)> {
    let (eni_id, netns) = link.alias.split_once(ALIAS_SEPARATOR)?;
    Some((eni_id.to_owned(), Attached { link: link.index, netns: netns.to_owned() }))
}

fn unknown_eni(eni_id: &str) -> Error {
    Error::UnknownEni { eni_id: eni_id.to_owned(), waited_seconds: 0 }
}
