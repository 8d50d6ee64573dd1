//! The data plane of load balancers: what one `ferrogate-edge` process does for one balancer in one zone
//! (docs/adr/0014). It knows no store and no role; everything it needs is a
//! [`BalancerAssignment`](ferrogate_nodeapi::BalancerAssignment).
//!
//! ```text
//!  control/  one socket to the node: assignment in ─┐            ┌─ report, log lines out
//!                                                   ▼            │
//!  state     Edge: the live configuration, the table of targets, metrics, log lines
//!              ▲ reads            ▲ reads              ▲ writes what it sees
//!  alb/      HTTP, HTTPS        l4/  TCP, TLS, UDP   health/
//! ```
//!
//! `connect/` is another thing that the process can be: the proxy of one task (docs/adr/0015).
//!
//! `alb/` top-down: `workers` accept → `connection` (TLS; HTTP/2 by a library, with a `guard`) → `server` (HTTP/1, one request
//! after the other: `client` and `head` read, `output` writes) → `request` (one request: [`rules`] → action) → `choose` (a
//! target) → `forward` (pool, send, relay) → `record` (access log, metrics).

pub mod alb;
pub mod connect;
pub mod control;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz;
pub mod health;
pub mod l4;
mod logs;
mod metrics;
pub mod rules;
pub mod state;
mod tls;

pub use logs::{AccessLog, LogKind};
pub use metrics::{Counters, Metric, Metrics};
pub use state::{Certificates, ConfigurationError, Edge, Group, Live, TargetEntry, TargetKey, TargetTable};
