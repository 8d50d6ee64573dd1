//! Everything that stands, under one lock; all calls here block.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, UdpSocket};
use std::path::PathBuf;

use crate::error::{Error, Result};
use crate::fabric::{DnsSockets, Options};
use crate::names::{Named, Names};
use crate::netns::NetNs;
use crate::plan::DesiredNet;
use crate::relay::Relay;
use crate::router::{Doomed, Router};
use crate::task::TaskNs;
use crate::uplink::Uplink;

const DNS_PORT: u16 = 53;

pub(crate) struct State {
    /// The last fabric's revision and what it asks for; `None` before the first sync.
    desired: Option<(u64, DesiredNet)>,
    /// By VPC id. A VPC without an interface on this node, and whose resolver nobody wants, has none.
    pub(crate) routers: BTreeMap<String, Router>,
    pub(crate) uplink: Uplink,
    pub(crate) tasks: BTreeMap<String, TaskNs>,
    /// `None` when destroyed.
    pub(crate) relay: Option<Relay>,
}

impl State {
    /// In the host's namespace, in a tokio runtime.
    pub(crate) fn open(names: &Names, options: &Options) -> Result<Self> {
        let uplink = Uplink::open(&names.uplink(), options.public_pool)?;
        let relay = Relay::start(uplink.namespace(), options)?;
        let mut state = Self {
            desired: None,
            routers: BTreeMap::new(),
            uplink,
            tasks: BTreeMap::new(),
            relay: Some(relay),
        };
        for (path, named) in names.list()? {
            let stands = match named {
                Named::Vpc(vpc_id) => match Router::adopt(&vpc_id, &path)? {
                    Some(router) => state.routers.insert(vpc_id, router).is_none(),
                    None => false,
                },
                // Adopted when it is asked for.
                Named::Task(_) => NetNs::open(&path)?.is_some(),
                Named::Uplink | Named::Lock => true,
            };
            if !stands {
                // A crash between making the file and mounting on it.
                NetNs::remove_name(&path)?;
            }
        }
        Ok(state)
    }

    pub(crate) fn sync(&mut self, revision: u64, desired: DesiredNet) -> Result<()> {
        if self.desired.as_ref().is_some_and(|(known, _)| *known > revision) {
            return Ok(());
        }
        let mut result = Ok(());
        let gone: Vec<String> =
            self.routers.keys().filter(|vpc_id| !desired.vpcs.contains_key(*vpc_id)).cloned().collect();
        for vpc_id in gone {
            if let Some(router) = self.routers.remove(&vpc_id) {
                result = result.and(router.destroy(&mut self.uplink));
            }
        }
        for (vpc_id, router) in &mut self.routers {
            result = result.and(router.apply(&desired.vpcs[vpc_id], &mut self.uplink));
        }
        result = result.and(self.uplink.apply_wires(&desired.wires));
        if let Some(relay) = &mut self.relay {
            result = result.and(relay.set_wires(&desired.wires));
        }
        self.desired = Some((revision, desired));
        result
    }

    /// `None` when no synced fabric has the interface.
    pub(crate) fn attach(&mut self, names: &Names, eni_id: &str, netns: &str) -> Result<Option<PathBuf>> {
        let Some((_, desired)) = &self.desired else { return Ok(None) };
        let vpc_id =
            desired.vpcs.iter().find(|(_, net)| net.interfaces.contains_key(eni_id)).map(|(id, _)| id);
        let Some(vpc_id) = vpc_id.cloned() else { return Ok(None) };
        if self.task(names, netns)?.is_none() {
            return Err(Error::UnknownNetns { name: netns.to_owned() });
        }
        self.ensure_router(names, &vpc_id)?;
        let router = self.routers.get_mut(&vpc_id).expect("just ensured");
        let task = self.tasks.get_mut(netns).expect("just found");
        router.attach(eni_id, task)?;
        Ok(Some(task.path().to_owned()))
    }

    /// Before a namespace's name goes: its interfaces lose their links at once.
    pub(crate) fn detach_all(&mut self, netns: &str) -> Result<()> {
        for router in self.routers.values_mut() {
            let inside = router.attached().filter(|(_, attached)| attached.netns == netns);
            let inside: Vec<String> = inside.map(|(eni_id, _)| eni_id.clone()).collect();
            inside.iter().try_for_each(|eni_id| router.detach(eni_id))?;
        }
        Ok(())
    }

    /// `None` when no synced fabric has the VPC.
    pub(crate) fn dns_sockets(&mut self, names: &Names, vpc_id: &str) -> Result<Option<DnsSockets>> {
        let net = self.desired.as_ref().and_then(|(_, desired)| desired.vpcs.get(vpc_id));
        let Some(resolvers) = net.map(|net| net.resolvers.clone()) else { return Ok(None) };
        self.ensure_router(names, vpc_id)?;
        let what = Error::io(format!("listening on port {DNS_PORT} of {resolvers:?} in {vpc_id}"));
        self.routers[vpc_id].namespace().run(|| bind_dns(&resolvers))?.map_err(what).map(Some)
    }

    pub(crate) fn take_doomed(&mut self) -> Vec<Doomed> {
        self.routers.values_mut().filter_map(Router::take_doomed).collect()
    }

    /// A task's namespace by name, also one of a former process.
    pub(crate) fn task(&mut self, names: &Names, name: &str) -> Result<Option<&mut TaskNs>> {
        if !self.tasks.contains_key(name)
            && let Some(task) = TaskNs::adopt(name, &names.task(name)?)?
        {
            self.tasks.insert(name.to_owned(), task);
        }
        Ok(self.tasks.get_mut(name))
    }

    /// The VPC is in the last fabric.
    fn ensure_router(&mut self, names: &Names, vpc_id: &str) -> Result<()> {
        let Some((_, desired)) = &self.desired else { return Ok(()) };
        let net = &desired.vpcs[vpc_id];
        let fresh = !self.routers.contains_key(vpc_id);
        if fresh {
            let router = Router::create(vpc_id, &names.vpc(vpc_id)?)?;
            self.routers.insert(vpc_id.to_owned(), router);
        }
        let router = self.routers.get_mut(vpc_id).expect("just made");
        let linked = router.has_gateway();
        router.apply(net, &mut self.uplink)?;
        if fresh || linked != router.has_gateway() {
            self.uplink.apply_wires(&desired.wires)?;
        }
        Ok(())
    }
}

fn bind_dns(resolvers: &[Ipv4Addr]) -> std::io::Result<DnsSockets> {
    let mut sockets = DnsSockets { udp: Vec::new(), tcp: Vec::new() };
    for resolver in resolvers {
        let address = SocketAddrV4::new(*resolver, DNS_PORT);
        let udp = UdpSocket::bind(address)?;
        udp.set_nonblocking(true)?;
        sockets.udp.push(udp);
        let tcp = TcpListener::bind(address)?;
        tcp.set_nonblocking(true)?;
        sockets.tcp.push(tcp);
    }
    Ok(sockets)
}
