//! Service Connect: what a task's proxy does, and where the instances of services are.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::LogConfiguration;

/// Of one task: what does not change while it lives. Services that come later are seen by later tasks only; instances come and
/// go as [`Endpoints`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connect {
    /// What the task may call, by name.
    pub clients: Vec<ConnectClient>,
    /// Where the task is called through its proxy; ports without an override are called directly.
    pub servers: Vec<ConnectServer>,
    /// `None`: what the proxy says of itself is kept with the task on the node only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logs: Option<ConnectLogs>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access_log: Option<ConnectAccessLog>,
}

/// A line for each request and connection, in what the proxy says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectAccessLog {
    pub format: AccessLogFormat,
    /// Paths are written with their query.
    pub query: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AccessLogFormat {
    Text,
    Json,
}

/// Where what the proxy says of itself goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectLogs {
    /// The proxy's name among the task's containers: what [`crate::ControlPlane`] knows the stream by.
    pub container: String,
    pub to: LogConfiguration,
}

/// Names that are called lie from 127.255.0.1 on, one address each, as in the `/etc/hosts` that ECS writes.
pub const CONNECT_NET: Ipv4Addr = Ipv4Addr::new(127, 255, 0, 0);
/// The last 256 addresses of the network are never a name's.
const NAMES_MAX: u32 = (1 << 16) - 256;

impl Connect {
    /// A task that calls nobody by name and is not called through a proxy has none.
    pub fn is_empty(&self) -> bool {
        self.clients.is_empty() && self.servers.is_empty()
    }

    /// Each name once, with its address: the lines of `/etc/hosts`.
    pub fn names(&self) -> Vec<(Ipv4Addr, &str)> {
        let mut names: Vec<(Ipv4Addr, &str)> = Vec::new();
        for client in &self.clients {
            let next = names.len() as u32 + 1;
            let known = names.iter().any(|(_, name)| *name == client.dns_name);
            if !known && next < NAMES_MAX {
                names.push((Ipv4Addr::from_bits(CONNECT_NET.to_bits() + next), &client.dns_name));
            }
        }
        names
    }

    /// Where each alias is called; of two that are called alike, the first.
    pub fn aliases(&self) -> Vec<(SocketAddrV4, &ConnectClient)> {
        let names = self.names();
        let mut aliases: Vec<(SocketAddrV4, &ConnectClient)> = Vec::new();
        for client in &self.clients {
            let address = names.iter().find(|(_, name)| *name == client.dns_name);
            let Some(at) = address.map(|(address, _)| SocketAddrV4::new(*address, client.port)) else {
                continue;
            };
            if !aliases.iter().any(|(known, _)| *known == at) {
                aliases.push((at, client));
            }
        }
        aliases
    }
}

/// One client alias: `http://<dns_name>:<port>` inside the task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectClient {
    /// The id of the Cloud Map service whose instances answer.
    pub service_id: String,
    pub discovery_name: String,
    pub dns_name: String,
    pub port: u16,
    pub protocol: AppProtocol,
    pub timeouts: ConnectTimeouts,
}

/// `ingressPortOverride`: the proxy listens there on the task's interface, for `container_port`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectServer {
    pub discovery_name: String,
    pub ingress_port: u16,
    pub container_port: u16,
    pub protocol: AppProtocol,
    pub timeouts: ConnectTimeouts,
}

/// `appProtocol` of the port mapping.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AppProtocol {
    #[default]
    Tcp,
    Http,
    Http2,
    Grpc,
}

/// `None`: AWS's default for the protocol; 0: none at all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectTimeouts {
    pub idle_seconds: Option<u32>,
    pub per_request_seconds: Option<u32>,
}

/// ECS API reference, TimeoutConfiguration: one hour for TCP, 5 minutes for all else.
const IDLE_TCP_SECONDS: u32 = 3600;
const IDLE_HTTP_SECONDS: u32 = 300;
/// Of Service Connect's proxy, from the end of a request to the end of its response.
const PER_REQUEST_SECONDS: u32 = 15;

impl ConnectTimeouts {
    /// How long nothing may move; `None`: for ever.
    pub fn idle(&self, protocol: AppProtocol) -> Option<Duration> {
        let default = if protocol == AppProtocol::Tcp { IDLE_TCP_SECONDS } else { IDLE_HTTP_SECONDS };
        seconds(self.idle_seconds.unwrap_or(default))
    }

    /// How long a response may take, once the request is whole; `None`: for ever. TCP has no requests.
    pub fn per_request(&self) -> Option<Duration> {
        seconds(self.per_request_seconds.unwrap_or(PER_REQUEST_SECONDS))
    }
}

fn seconds(seconds: u32) -> Option<Duration> {
    (seconds > 0).then(|| Duration::from_secs(seconds.into()))
}

/// The instances of all Cloud Map services, complete.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoints {
    pub revision: u64,
    /// By service id.
    pub services: BTreeMap<String, Vec<Endpoint>>,
    /// By service id; of another service each instance gets as much as any.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub splits: BTreeMap<String, Split>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    pub instance_id: String,
    /// `AWS_INSTANCE_IPV4`
    pub address: Ipv4Addr,
    /// `AWS_INSTANCE_PORT`
    pub port: u16,
    /// [`REVISION_ATTRIBUTE`]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_revision: Option<String>,
}

/// Of an instance in Cloud Map: the ECS service revision that its task was made of.
pub const REVISION_ATTRIBUTE: &str = "ECS_SERVICE_REVISION";
/// Of a service in Cloud Map: its [`Split`], in JSON.
pub const SPLIT_ATTRIBUTE: &str = "ECS_SERVICE_CONNECT_TRAFFIC";

/// Which revisions of a service get what, while one takes another's place (BLUE_GREEN, LINEAR, CANARY). A revision that is
/// not named gets nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Split {
    /// Tenths of a percent, by service revision.
    pub production: BTreeMap<String, u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test: Option<TestTraffic>,
}

/// Requests with this header are tests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TestTraffic {
    /// The service revision that gets them.
    pub revision: String,
    pub header: String,
    /// `None`: whatever it says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(dns_name: &str, port: u16) -> ConnectClient {
        ConnectClient {
            service_id: format!("srv-{dns_name}"),
            discovery_name: dns_name.to_owned(),
            dns_name: dns_name.to_owned(),
            port,
            protocol: AppProtocol::Http,
            timeouts: ConnectTimeouts::default(),
        }
    }

    #[test]
    fn a_name_has_one_address_and_any_number_of_ports() {
        let clients = vec![client("a", 80), client("b", 80), client("a", 81), client("a", 80)];
        let connect = Connect { clients, ..Connect::default() };
        let names = connect.names();
        assert_eq!(names, [(Ipv4Addr::new(127, 255, 0, 1), "a"), (Ipv4Addr::new(127, 255, 0, 2), "b")]);
        let at: Vec<String> = connect.aliases().iter().map(|(at, _)| at.to_string()).collect();
        assert_eq!(at, ["127.255.0.1:80", "127.255.0.2:80", "127.255.0.1:81"]);
    }

    #[test]
    fn timeouts_have_the_documented_defaults_and_zero_is_none() {
        let default = ConnectTimeouts::default();
        assert_eq!(default.idle(AppProtocol::Tcp), Some(Duration::from_secs(3600)));
        assert_eq!(default.idle(AppProtocol::Grpc), Some(Duration::from_secs(300)));
        assert_eq!(default.per_request(), Some(Duration::from_secs(15)));
        let none = ConnectTimeouts { idle_seconds: Some(0), per_request_seconds: Some(0) };
        assert_eq!((none.idle(AppProtocol::Http), none.per_request()), (None, None));
    }
}
