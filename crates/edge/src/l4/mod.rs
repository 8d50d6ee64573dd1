//! Network load balancers: flows of TCP, TLS and UDP, each to one target for as long as it lives.
//!
//! `tcp` accepts, `choose` finds the target, `outward` reaches it, `copy` moves the bytes, `cut` ends what a target's end
//! ends. Targets see the balancer's own address, or the client's where the group keeps it; the PROXY protocol tells
//! them of it as well, where the group asks for that.

mod choose;
pub(crate) mod copy;
mod cut;
#[cfg(test)]
mod faults;
#[cfg(test)]
pub(crate) mod fixture;
mod outward;
mod proxy;
mod record;
mod splice;
mod tcp;
#[cfg(test)]
mod tests;
pub(crate) mod tls;
mod udp;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ferrogate_nodeapi::{BalancerAssignment, ListenerProtocol};
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::{Semaphore, watch};

use crate::state::{Certificates, ConfigurationError, Edge};
use crate::tls::TlsListener;

/// TCP and TLS flows at a time, of all listeners; one more is reset.
pub const FLOWS_MAX: usize = 20_000;
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// What all listeners of one balancer share.
#[derive(Clone)]
pub struct Flows {
    edge: Arc<Edge>,
    /// What is put in PROXY headers.
    address: IpAddr,
    places: Arc<Semaphore>,
    cutter: Arc<cut::Cutter>,
    tls: Arc<tls::Configs>,
    /// For a TLS handshake, with either side.
    handshake_timeout: Duration,
}

impl Flows {
    /// `address`: of the balancer's interface.
    pub fn new(edge: Arc<Edge>, address: IpAddr) -> Self {
        let places = Arc::new(Semaphore::new(FLOWS_MAX));
        Self {
            edge,
            address,
            places,
            cutter: Arc::default(),
            tls: Arc::default(),
            handshake_timeout: HANDSHAKE_TIMEOUT,
        }
    }

    /// Ends flows whose target ends; until it is dropped. `health` is bumped at every change of a target's state.
    pub async fn cut(self, health: watch::Receiver<u64>) {
        self.cutter.run(self.edge, health).await;
    }

    /// Serves one TCP or TLS listener by the configuration in force; until it is dropped. Flows go on after that.
    pub async fn tcp(self, port: u16, listener: TcpListener) {
        tcp::serve(self, port, listener).await;
    }

    /// Serves one UDP listener; its flows end with it.
    pub async fn udp(self, port: u16, socket: UdpSocket) {
        udp::serve(self, port, socket).await;
    }
}

/// Whether the TLS listeners of a network load balancer can be served.
pub(crate) fn check(
    assignment: &BalancerAssignment,
    certificates: &Certificates,
) -> Result<(), ConfigurationError> {
    let mut listeners = assignment.listeners.iter();
    listeners.try_for_each(|listener| match listener.protocol {
        ListenerProtocol::Tls => TlsListener::new(listener, certificates, &[]).map(drop),
        _ => Ok(()),
    })
}
