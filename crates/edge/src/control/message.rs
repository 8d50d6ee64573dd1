//! The messages.

use std::collections::BTreeMap;

use ferrogate_nodeapi::{BalancerAssignment, BalancerReport, Certificate};
use serde::{Deserialize, Serialize};

use crate::connect::ConnectConfiguration;

/// Of the protocol. Another version is not spoken to: the agent ends that process and starts its own.
pub const VERSION: u32 = 1;

/// From the agent.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ToEdge {
    /// The first message.
    Hello { version: u32 },
    /// Replaces the former one whole.
    Configure(Box<Configuration>),
    /// To a task's proxy.
    Connect(Box<ConnectConfiguration>),
    /// To a report or lines. Not `taken`: the control plane did not hear of it.
    Answer { sequence: u64, taken: bool },
}

/// All a balancer's process ever knows.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Configuration {
    pub assignment: BalancerAssignment,
    /// By ARN. One that could not be got is missing; its listener says so.
    pub certificates: BTreeMap<String, Certificate>,
}

/// From the balancer's process.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FromEdge {
    /// The first message.
    Hello {
        version: u32,
        pid: u32,
        /// Of the configuration in force; 0: none yet.
        generation: u64,
    },
    /// How it is. Metrics are what was counted since the last one that was taken.
    Report { sequence: u64, report: Box<BalancerReport> },
    /// Lines of the access log (`connection`: of the connection log).
    Lines {
        sequence: u64,
        connection: bool,
        lines: Vec<String>,
        /// Lost since the last ones that were taken: the agent was away for longer than the buffer holds.
        dropped: u64,
    },
}
