//! Between the fabric and this host, in user space: nothing in the host's own namespace is changed but sockets
//! of this process.
//!
//! Inward: connections and datagrams made on this host to a public address go on from the uplink's namespace,
//! from [`HOST_WIRE`](crate::HOST_WIRE). Outward: what tasks send through an internet gateway to the world is
//! diverted to sockets in the uplink's namespace and goes on from the host, as the host's own connections. ICMP
//! does not pass.

pub(crate) mod bpf;
mod policy;
mod sockets;
mod steer;
mod tcp;
mod udp;

use std::collections::{BTreeMap, HashSet};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::{Arc, PoisonError, RwLock};

use tokio::sync::Semaphore;
use tokio::task::AbortHandle;

use crate::addr::{HOST_WIRE, wire_address};
use crate::error::Result;
use crate::fabric::Options;
use crate::netns::{NetNs, Worker};
use crate::plan::{HostPorts, TPROXY_PORT, Wire};
use policy::Policy;
use steer::Steering;

/// Connections relayed at a time, both ways together; one more is reset.
const TCP_SESSIONS_MAX: usize = 4096;
/// UDP peers relayed at a time, both ways together; datagrams of one more are dropped.
const UDP_SESSIONS_MAX: usize = 4096;

/// What every session needs.
#[derive(Debug)]
pub(crate) struct Shared {
    /// Makes sockets in the uplink's namespace.
    worker: Worker,
    policy: Policy,
    /// Public addresses that lead to an interface.
    public: RwLock<Arc<HashSet<Ipv4Addr>>>,
    tcp_sessions: Arc<Semaphore>,
    udp_sessions: Arc<Semaphore>,
}

/// Which way a session was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    /// From this host to a task.
    Inward,
    /// From a task to the world.
    Outward,
}

impl Shared {
    fn public(&self) -> Arc<HashSet<Ipv4Addr>> {
        self.public.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Where a session to `destination` goes on to; `None`: nowhere.
    fn target(
        &self,
        direction: Direction,
        destination: SocketAddrV4,
        tcp: bool,
    ) -> Option<std::net::SocketAddr> {
        match direction {
            Direction::Inward => {
                let known = self.public().contains(destination.ip());
                known.then(|| SocketAddrV4::new(wire_address(*destination.ip()), destination.port()).into())
            }
            Direction::Outward => self.policy.target(destination, tcp),
        }
    }
}

/// The running relay; ends with all its sessions when dropped.
#[derive(Debug)]
pub(crate) struct Relay {
    shared: Arc<Shared>,
    steering: Steering,
    loops: Vec<AbortHandle>,
}

impl Relay {
    /// Call it in the host's namespace, in a tokio runtime.
    pub(crate) fn start(uplink: &NetNs, options: &Options) -> Result<Self> {
        let shared = Arc::new(Shared {
            worker: Worker::start(uplink)?,
            policy: Policy::new(options)?,
            public: RwLock::default(),
            tcp_sessions: Arc::new(Semaphore::new(TCP_SESSIONS_MAX)),
            udp_sessions: Arc::new(Semaphore::new(UDP_SESSIONS_MAX)),
        });
        let (listener, datagrams) = uplink.run(|| sockets::diverted(TPROXY_PORT))??;
        let loops = vec![
            tokio::spawn(tcp::serve(shared.clone(), Direction::Outward, sockets::tokio_listener(listener)?))
                .abort_handle(),
            tokio::spawn(udp::serve(shared.clone(), Direction::Outward, sockets::tokio_udp(datagrams)?))
                .abort_handle(),
        ];
        let steering = Steering::start(&shared, options)?;
        Ok(Self { shared, steering, loops })
    }

    /// From now on these public addresses lead to interfaces, on these ports.
    pub(crate) fn set_wires(&mut self, wires: &BTreeMap<Ipv4Addr, Wire>) -> Result<()> {
        let open: BTreeMap<Ipv4Addr, HostPorts> =
            wires.values().map(|wire| (wire.public, wire.open.clone())).collect();
        let public = Arc::new(open.keys().copied().collect());
        *self.shared.public.write().unwrap_or_else(PoisonError::into_inner) = public;
        self.steering.set(&self.shared, open)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.loops.iter().for_each(AbortHandle::abort);
    }
}

/// The source of everything that comes from this host.
const HOST_SOURCE: SocketAddrV4 = SocketAddrV4::new(HOST_WIRE, 0);
