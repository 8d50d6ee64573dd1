//! The process as its agent governs it: the proxy of one task.

use std::net::TcpListener as TcpListenerStd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use ferrogate_nodeapi::BalancerReport;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use super::listen::{self, CONNECTIONS_MAX, Shared};
use super::message::ConnectConfiguration;
use super::routes::{Clusters, Routes};
use crate::control::{Configuration, Governed};

/// Requests under way at a time; one more is answered with 503.
const REQUESTS_MAX: usize = 8192;
/// Idle connections are looked at so often.
const SWEEP_PERIOD: Duration = Duration::from_secs(10);

/// [`Governed`] for a task's proxy. Its listeners are given to it once: what a task has to do with Service Connect does not
/// change while it lives.
pub struct Proxy {
    clusters: Arc<Mutex<Clusters>>,
    routes: watch::Sender<Option<Arc<Routes>>>,
    /// It has nothing to report.
    changes: watch::Sender<u64>,
    _tasks: JoinSet<()>,
}

impl Proxy {
    /// Connections wait until it is configured. Inside a runtime; the listeners are non-blocking.
    pub fn new(listeners: Vec<TcpListenerStd>) -> std::io::Result<Arc<Self>> {
        let routes = watch::Sender::new(None);
        let clusters = Arc::<Mutex<Clusters>>::default();
        let shared = Shared {
            routes: routes.subscribe(),
            places: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
            requests: Arc::new(Semaphore::new(REQUESTS_MAX)),
        };
        let addresses: Vec<String> =
            listeners.iter().flat_map(TcpListenerStd::local_addr).map(|at| at.to_string()).collect();
        let (listens, version) = (addresses.join(" "), env!("CARGO_PKG_VERSION"));
        tracing::info!(version, listens, "this proxy begins");
        let mut tasks = JoinSet::new();
        for listener in listeners {
            tasks.spawn(listen::serve(shared.clone(), TcpListener::from_std(listener)?));
        }
        tasks.spawn(sweep(Arc::clone(&clusters)));
        Ok(Arc::new(Self { clusters, routes, changes: watch::Sender::new(0), _tasks: tasks }))
    }

    /// Connections and requests from now on go by this; those under way go on.
    pub fn apply(&self, configuration: &ConnectConfiguration) {
        let mut clusters = self.clusters.lock().unwrap_or_else(PoisonError::into_inner);
        let routes = clusters.routes(configuration);
        if let Some(endpoints) = &configuration.endpoints {
            clusters.set(endpoints);
        }
        drop(clusters);
        let (names, ports) = (configuration.connect.aliases().len(), configuration.connect.servers.len());
        if self.routes.send_replace(Some(Arc::new(routes))).is_none() {
            tracing::info!(names, ports, "this proxy serves");
        }
    }
}

async fn sweep(clusters: Arc<Mutex<Clusters>>) {
    let mut period = tokio::time::interval(SWEEP_PERIOD);
    loop {
        period.tick().await;
        clusters.lock().unwrap_or_else(PoisonError::into_inner).sweep();
    }
}

#[async_trait]
impl Governed for Proxy {
    async fn configure(&self, _: Configuration) {
        tracing::error!("this process is a task's proxy: it carries no load balancer");
    }

    async fn connect(&self, configuration: ConnectConfiguration) {
        self.apply(&configuration);
    }

    fn generation(&self) -> u64 {
        0
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn report(&self) -> Option<BalancerReport> {
        None
    }

    fn lines(&self, _: bool, _: usize) -> (Vec<String>, u64) {
        (Vec::new(), 0)
    }
}
