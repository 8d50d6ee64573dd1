//! The node agent: assignments in, tasks running, what is seen out.
//!
//! ```text
//!            assignments                       reports
//! control ───────────────▶ agent ── one ──▶ task actor ───▶ reporter ───▶ control
//!            fabric            │             │  owns the task's record, its sandbox and what watches it
//!         ───────────────▶ VpcFabric         ├─ health: probes
//!                                            ├─ logs: awslogs
//!                                            ├─ endpoints: 169.254.170.2
//!                                            └─ connect: Service Connect's proxy, a `ferrogate-edge`
//!         balancers         Balancers ── one ──▶ actor ───▶ ferrogate-edge, in its interface's namespace
//! ```
//!
//! Invariants
//! - A task is owned by one actor, which alone writes its record; the record on disk is enough to go on after
//!   the agent died. What the containers did meanwhile is in the shim's state, never guessed.
//! - The agent knows no store and no role: it names the task, the control plane does the rest.
//! - A task that is no longer assigned is stopped and removed, with its network and its files.

mod agent;
mod balancer;
mod connect;
mod dns;
mod endpoints;
mod exec;
mod files;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod health;
mod logs;
mod plan;
mod pulls;
mod record;
mod reporter;
mod task;
mod timing;

pub use agent::{Agent, AgentError, Config, TaskSummary};
pub use balancer::{BalancerError, EdgeConfig, end_balancers};
pub use exec::{ExecBroker, ExecError, ExecProcess, ExecRequest, ExecStream};
pub use timing::{STARTED, Step};
