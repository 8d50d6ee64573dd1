//! Service Connect: what a task's proxy does, and where the instances of services are.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

/// Of one task: what does not change while it lives. Services that come later are seen by later tasks only; instances come and
/// go as [`Endpoints`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connect {
    /// What the task may call, by name.
    pub clients: Vec<ConnectClient>,
    /// Where the task is called through its proxy; ports without an override are called directly.
    pub servers: Vec<ConnectServer>,
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

/// The instances of all Cloud Map services, complete.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoints {
    pub revision: u64,
    /// By service id.
    pub services: std::collections::BTreeMap<String, Vec<Endpoint>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    pub instance_id: String,
    /// `AWS_INSTANCE_IPV4`
    pub address: Ipv4Addr,
    /// `AWS_INSTANCE_PORT`
    pub port: u16,
}
