//! Elastic Load Balancing v2: application and network load balancers, listeners, rules, target groups.
//!
//! ```text
//!  AWS API ──► operations/ ──► store ──► controllers/publisher ──► assignments, names ──► nodes
//!                                ▲                                                          │
//!       EC2 ◄── controllers/interfaces                 [`ElbService::report`] ◄─────────────┘
//! ```
//!
//! An operation writes what is wanted. A controller makes a network interface for each zone by EC2's API; what a
//! node must run is derived from the records as one value ([`ElbService::balancers`]), and so are the names that
//! VPCs' resolvers answer for ([`ElbService::names`]). Nodes say what they see: a balancer is active once all its
//! nodes are, a target is healthy when no zone that checks it says otherwise. Configuration is decided one call after
//! the other within an account and region (`call.rs`), so rules that span many records are simply looked at.
//!
//! Certificates are ACM's and IAM's: asked for by their APIs, in ELB's own name. Which listener uses which is written
//! with the listener (`state.rs`), for them to read.
//!
//! Not here: gateway load balancers, instance, Lambda and ALB targets, IPv6, mutual TLS, authentication actions,
//! QUIC, WAF. They are refused by name.

mod api;
mod call;
mod controllers;
mod demands;
mod errors;
mod logs;
mod metrics;
mod operations;
mod plan;
mod reports;
mod state;

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use ferrogate_api::Invoke;
use ferrogate_control::Controller;
use ferrogate_model::Clock;
use ferrogate_nodeapi::{BalancerAssignment, Names};
use ferrogate_store::Store;
use tokio::sync::watch;

pub use logs::LogsError;
pub use metrics::{Datum, MetricKey};

use controllers::publisher::Publisher;
use logs::AccessLogs;
use metrics::Metrics;

/// What the composition decides.
#[derive(Clone, Debug)]
pub struct ElbOptions {
    /// Nodes that run balancers. A balancer's zone is on one of them.
    pub nodes: Vec<String>,
    /// By which address something in a VPC reaches a public address.
    pub public_address_in_vpc: fn(Ipv4Addr) -> Ipv4Addr,
    /// Where log objects go, `<bucket>/<key>` below it.
    pub objects: PathBuf,
    /// Log lines that are no object yet.
    pub spool: PathBuf,
}

/// The ELB API over a store; [`ferrogate_api::elbv2::Elbv2`] is implemented for it.
pub struct ElbService {
    store: Arc<dyn Store>,
    invoke: Arc<dyn Invoke>,
    clock: Arc<dyn Clock>,
    publisher: Publisher,
    metrics: Mutex<Metrics>,
    logs: AccessLogs,
}

impl ElbService {
    /// Reads the records there are and follows their changes on the current Tokio runtime, until dropped.
    ///
    /// # Errors
    /// The folder of log lines cannot be used.
    ///
    /// # Panics
    /// Outside of a Tokio runtime.
    pub fn open(
        options: ElbOptions,
        store: Arc<dyn Store>,
        invoke: Arc<dyn Invoke>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, LogsError> {
        let logs = AccessLogs::open(options.spool, options.objects)?;
        let publisher = Publisher::start(Arc::clone(&store), options.nodes, options.public_address_in_vpc);
        Ok(Self { store, invoke, clock, publisher, metrics: Mutex::default(), logs })
    }

    /// To be run by a driver.
    pub fn controllers(self: &Arc<Self>) -> Vec<Arc<dyn Controller>> {
        vec![
            Arc::new(controllers::interfaces::Interfaces(Arc::clone(self))),
            Arc::new(controllers::drain::Drain(Arc::clone(self))),
            Arc::new(controllers::logs::Logs(Arc::clone(self))),
        ]
    }

    /// The balancers a node must run, complete; a new value within milliseconds of each commit. A node that is not
    /// configured has none and never will.
    pub fn balancers(&self, node: &str) -> watch::Receiver<Arc<Vec<BalancerAssignment>>> {
        self.publisher.balancers(node)
    }

    /// The names of all balancers, each with the addresses of those of its zones that take traffic.
    pub fn names(&self) -> watch::Receiver<Arc<Names>> {
        self.publisher.names()
    }
}
