//! Where a connection was meant to go, and what is done with it.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddrV4;
use std::sync::Arc;
use std::time::Duration;

use ferrogate_nodeapi::{AppProtocol, ConnectAccessLog, ConnectTimeouts, Endpoints};

use super::cluster::Cluster;
use super::message::ConnectConfiguration;
use super::retry::ATTEMPTS_MAX;
use super::split::Traffic;

/// One alias of a service, or one port of the task itself.
pub(super) struct Route {
    /// What it is called here, in words for a person.
    pub(super) name: String,
    pub(super) protocol: AppProtocol,
    pub(super) idle: Option<Duration>,
    pub(super) per_request: Option<Duration>,
    pub(super) attempts_max: usize,
    pub(super) access_log: Option<ConnectAccessLog>,
    pub(super) cluster: Arc<Cluster>,
}

pub(super) type Routes = HashMap<SocketAddrV4, Arc<Route>>;

/// The clusters of all services that are called, by service id: they outlive configurations.
#[derive(Default)]
pub(super) struct Clusters {
    services: BTreeMap<String, Arc<Cluster>>,
    own: BTreeMap<u16, Arc<Cluster>>,
}

impl Clusters {
    /// What is not called any more is forgotten.
    pub(super) fn routes(&mut self, configuration: &ConnectConfiguration) -> Routes {
        let connect = &configuration.connect;
        self.services.retain(|id, _| connect.clients.iter().any(|client| client.service_id == *id));
        self.own.retain(|port, _| connect.servers.iter().any(|server| server.container_port == *port));
        let route =
            |name: &str, protocol, timeouts: &ConnectTimeouts, attempts_max, cluster: &Arc<Cluster>| {
                Arc::new(Route {
                    name: name.to_owned(),
                    protocol,
                    idle: timeouts.idle(protocol),
                    per_request: timeouts.per_request(),
                    attempts_max,
                    access_log: connect.access_log,
                    cluster: Arc::clone(cluster),
                })
            };
        let mut routes = Routes::new();
        for (at, client) in connect.aliases() {
            let known = self.services.entry(client.service_id.clone());
            let cluster = known.or_insert_with(|| Arc::new(Cluster::new(&client.discovery_name)));
            let route = route(&client.dns_name, client.protocol, &client.timeouts, ATTEMPTS_MAX, cluster);
            routes.insert(at, route);
        }
        for server in &connect.servers {
            let own = || Arc::new(Cluster::new(&server.discovery_name));
            let cluster = self.own.entry(server.container_port).or_insert_with(own);
            cluster.set(&[SocketAddrV4::new(configuration.containers, server.container_port)]);
            let at = SocketAddrV4::new(configuration.address, server.ingress_port);
            // Who called may try again; it knows of others.
            routes.insert(at, route(&server.discovery_name, server.protocol, &server.timeouts, 1, cluster));
        }
        routes
    }

    /// A service that is not named has no instance.
    pub(super) fn set(&self, all: &Endpoints) {
        for (id, cluster) in &self.services {
            let endpoints = all.services.get(id).map(Vec::as_slice).unwrap_or_default();
            let addresses =
                endpoints.iter().map(|endpoint| SocketAddrV4::new(endpoint.address, endpoint.port));
            let split = all.splits.get(id);
            cluster.share(split.map(|split| Traffic::new(split, endpoints)));
            cluster.set(&addresses.collect::<Vec<_>>());
        }
    }

    pub(super) fn sweep(&self) {
        self.services.values().chain(self.own.values()).for_each(|cluster| cluster.sweep());
    }
}
