//! The namespace all internet gateways lead to, and in which the relay's sockets are.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use ipnet::Ipv4Net;

use crate::addr::{HOST_WIRE, LINK_VPC_SIDE, Mac};
use crate::error::{Error, Result};
use crate::kernel::{
    self, LOOPBACK, Sockets, UPLINK_SETTINGS, apply_rules, converge_policy, converge_routes, refused,
};
use crate::names::vpc_link;
use crate::netlink::{Packets, RouteKind, RouteSpec, RuleSpec};
use crate::netns::NetNs;
use crate::plan::{Ruleset, UPLINK_MARK, Wire, uplink_ruleset};

/// Packets for the relay find themselves local in this table.
const RELAY_TABLE: u32 = 100;
const RULE_PRIORITY: u32 = 1000;
const EVERYWHERE: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0);

#[derive(Debug)]
pub(crate) struct Uplink {
    namespace: NetNs,
    sockets: Sockets,
    pool: Ipv4Net,
    applied: Option<Ruleset>,
    routes: BTreeSet<RouteSpec>,
    /// VPC id → its gateway's link here.
    links: BTreeMap<String, u32>,
}

impl Uplink {
    /// Takes over the one that stands, or makes it.
    pub(crate) fn open(path: &Path, pool: Ipv4Net) -> Result<Self> {
        let (namespace, sockets) = match NetNs::open(path)? {
            Some(namespace) => {
                let sockets = namespace.run(|| kernel::prepare_router(UPLINK_SETTINGS))??;
                (namespace, sockets)
            }
            None => NetNs::create(path, || kernel::prepare_router(UPLINK_SETTINGS))?,
        };
        let mut uplink =
            Self { namespace, sockets, pool, applied: None, routes: BTreeSet::new(), links: BTreeMap::new() };
        uplink.prepare()?;
        if uplink.routes.len() <= 1 {
            // New: nothing may pass before the first sync.
            uplink.apply_wires(&BTreeMap::new())?;
        }
        Ok(uplink)
    }

    fn prepare(&mut self) -> Result<()> {
        let path = self.namespace.path().to_owned();
        let what = || refused(format!("to prepare {}", path.display()));
        let route = &mut self.sockets.route;
        route.add_address(LOOPBACK, HOST_WIRE, 32).map_err(what())?;
        route.replace_route(&relay_route()).map_err(what())?;
        let mut policy = route.rules().map_err(what())?.into_iter().collect();
        let wanted =
            RuleSpec { packets: Packets::Marked(UPLINK_MARK), table: RELAY_TABLE, priority: RULE_PRIORITY };
        converge_policy(route, &mut policy, BTreeSet::from([wanted]))?;
        self.routes = route.routes().map_err(what())?.into_iter().collect();
        Ok(())
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.namespace.as_fd()
    }

    pub(crate) fn namespace(&self) -> &NetNs {
        &self.namespace
    }

    /// A VPC's gateway link is there: its end here gets what it needs.
    pub(crate) fn link(&mut self, vpc_id: &str) -> Result<()> {
        let what = || refused(format!("the uplink's end of {vpc_id}"));
        let link = self.sockets.route.link(&vpc_link(vpc_id)).map_err(what())?;
        let link =
            link.ok_or_else(|| Error::BadFabric(format!("the gateway link of {vpc_id} leads nowhere")))?;
        let route = &mut self.sockets.route;
        if !link.up {
            route.set_up(link.index).map_err(what())?;
        }
        route.replace_neighbour(link.index, LINK_VPC_SIDE, Mac::GATEWAY_VPC_SIDE).map_err(what())?;
        self.links.insert(vpc_id.to_owned(), link.index);
        Ok(())
    }

    /// A VPC's gateway link is gone, and its routes with it.
    pub(crate) fn unlink(&mut self, vpc_id: &str) -> Result<()> {
        if let Some(link) = self.links.remove(vpc_id) {
            self.routes.retain(|route| !matches!(route.kind, RouteKind::Via { link: to, .. } if to == link));
        }
        self.remove_stray_link(&vpc_link(vpc_id))
    }

    pub(crate) fn remove_stray_link(&mut self, name: &str) -> Result<()> {
        let what = || refused(format!("to remove the link {name}"));
        match self.sockets.route.link(name).map_err(what())? {
            Some(link) => self.sockets.route.delete_link(link.index).map_err(what()),
            None => Ok(()),
        }
    }

    /// Public addresses lead to these VPCs; those without a link here lead nowhere.
    pub(crate) fn apply_wires(&mut self, wires: &BTreeMap<Ipv4Addr, Wire>) -> Result<()> {
        let rules = uplink_ruleset(self.pool, wires);
        let old = self.applied.take();
        apply_rules(&self.namespace, &mut self.sockets.filter, old.as_ref(), &rules)?;
        let mut routes = BTreeSet::from([relay_route()]);
        for (wire, to) in wires {
            if let Some(link) = self.links.get(&to.vpc_id) {
                let kind = RouteKind::Via { link: *link, gateway: Some(LINK_VPC_SIDE) };
                routes.insert(RouteSpec {
                    table: libc::RT_TABLE_MAIN.into(),
                    destination: (*wire).into(),
                    kind,
                });
            }
        }
        converge_routes(&mut self.sockets.route, &mut self.routes, routes)?;
        self.applied = Some(rules);
        Ok(())
    }
}

fn relay_route() -> RouteSpec {
    RouteSpec { table: RELAY_TABLE, destination: EVERYWHERE, kind: RouteKind::Local { link: LOOPBACK } }
}
