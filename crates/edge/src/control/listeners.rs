//! The sockets of the configuration in force: new ones are opened, old ones closed, those that stay are left alone.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ferrogate_nodeapi::{BalancerAssignment, ListenerProtocol};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::alb::Alb;
use crate::l4::Flows;
use crate::state::Edge;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 8192;
/// A port that could not be had is tried again.
const RETRY_PERIOD: Duration = Duration::from_secs(2);

/// One socket's kind and port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Http,
    Tcp,
    Udp,
}

type Key = (u16, Kind);

/// What is open.
pub(super) struct Listeners {
    edge: Arc<Edge>,
    /// Application load balancers only.
    alb: Option<Arc<Alb>>,
    /// Its threads.
    workers: usize,
    flows: Flows,
    changed: watch::Sender<u64>,
    problems: Arc<Mutex<BTreeMap<Key, String>>>,
}

/// Ends its listener when it is dropped.
enum Open {
    Task(AbortHandle),
    Alb(Arc<Alb>, u16),
}

impl Drop for Open {
    fn drop(&mut self) {
        match self {
            Self::Task(task) => task.abort(),
            Self::Alb(alb, port) => {
                if let Err(error) = alb.unlisten(*port) {
                    tracing::warn!(%error, port, "a listener could not be closed");
                }
            }
        }
    }
}

/// Why listeners are not, in words for a person; empty: all are.
#[derive(Clone, Default)]
pub(super) struct Problems(Arc<Mutex<BTreeMap<Key, String>>>);

impl Problems {
    pub(super) fn words(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}

impl Listeners {
    /// `changed` is bumped when a listener's problem comes or goes.
    pub(super) fn new(
        edge: Arc<Edge>,
        alb: Option<Alb>,
        workers: usize,
        flows: Flows,
        changed: watch::Sender<u64>,
        problems: &Problems,
    ) -> Self {
        let alb = alb.map(Arc::new);
        Self { edge, alb, workers, flows, changed, problems: Arc::clone(&problems.0) }
    }

    /// Until it is dropped.
    pub(super) async fn run(self) {
        let mut changes = self.edge.changes();
        let mut open: BTreeMap<Key, Open> = BTreeMap::new();
        loop {
            changes.borrow_and_update();
            let failed = self.reconcile(&mut open);
            let again = async {
                if failed { tokio::time::sleep(RETRY_PERIOD).await } else { std::future::pending().await }
            };
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return },
                () = again => {}
            }
        }
    }

    /// Whether some could not be opened.
    fn reconcile(&self, open: &mut BTreeMap<Key, Open>) -> bool {
        let live = self.edge.live();
        let wanted = wanted(&live.assignment);
        open.retain(|key, _| wanted.contains(key));
        let address = IpAddr::V4(live.assignment.network.private_ip);
        let mut problems = BTreeMap::new();
        for key in wanted {
            if open.contains_key(&key) {
                continue;
            }
            let (port, kind) = key;
            match self.open(SocketAddr::new(address, port), kind) {
                Ok(listener) => drop(open.insert(key, listener)),
                Err(error) => {
                    let words = format!("listener {port}: it cannot be listened on: {error}");
                    problems.insert(key, words);
                }
            }
        }
        let failed = !problems.is_empty();
        let mut known = self.problems.lock().unwrap_or_else(PoisonError::into_inner);
        if *known != problems {
            *known = problems;
            drop(known);
            self.changed.send_modify(|count| *count += 1);
        }
        failed
    }

    fn open(&self, address: SocketAddr, kind: Kind) -> io::Result<Open> {
        let port = address.port();
        let task = match kind {
            Kind::Http => {
                let alb = self.alb.as_ref().ok_or(io::ErrorKind::Unsupported)?;
                // One socket per thread: none waits for another's lock.
                let sockets = (0..self.workers).map(|_| tcp(address, self.workers > 1));
                alb.listen(port, sockets.collect::<io::Result<_>>()?)?;
                return Ok(Open::Alb(Arc::clone(alb), port));
            }
            Kind::Tcp => {
                let listener = TcpListener::from_std(tcp(address, false)?)?;
                tokio::spawn(self.flows.clone().tcp(port, listener))
            }
            Kind::Udp => {
                let socket = udp(address)?;
                tokio::spawn(self.flows.clone().udp(port, socket))
            }
        };
        Ok(Open::Task(task.abort_handle()))
    }
}

fn wanted(assignment: &BalancerAssignment) -> BTreeSet<Key> {
    let kinds = |protocol: ListenerProtocol| -> &[Kind] {
        match protocol {
            ListenerProtocol::Http | ListenerProtocol::Https => &[Kind::Http],
            ListenerProtocol::Tcp | ListenerProtocol::Tls => &[Kind::Tcp],
            ListenerProtocol::Udp => &[Kind::Udp],
            ListenerProtocol::TcpUdp => &[Kind::Tcp, Kind::Udp],
        }
    };
    let listeners = assignment.listeners.iter();
    listeners
        .flat_map(|listener| kinds(listener.protocol).iter().map(|kind| (listener.port, *kind)))
        .collect()
}

pub(super) fn tcp(address: SocketAddr, shared: bool) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // Connections of a former process may still be closing.
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn udp(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    UdpSocket::from_std(socket.into())
}
