//! What the agent tells a task's proxy.

use std::net::Ipv4Addr;

use ferrogate_nodeapi::{Connect, Endpoints};
use serde::{Deserialize, Serialize};

/// All a task's proxy ever knows; replaces the former one whole.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ConnectConfiguration {
    pub connect: Connect,
    /// Of the task's interface: where its servers are called.
    pub address: Ipv4Addr,
    /// Where its containers listen: loopback, or the address of the task's machine.
    #[serde(default = "loopback")]
    pub containers: Ipv4Addr,
    /// Of the services that the task calls. `None`: not known now; those that were known stay.
    pub endpoints: Option<Endpoints>,
}

fn loopback() -> Ipv4Addr {
    Ipv4Addr::LOCALHOST
}
