//! Service Connect: what a task calls by name, and where it is called through its proxy (docs/adr/0015).
//!
//! ```text
//!  container ── 127.255.0.N:port ──▶ listen ─▶ tcp ──────────────┐          ┌─▶ an instance
//!                (redirect)            │                         ├▶ cluster ┤
//!  another task ── eth0:ingress ──▶    └─────▶ http ▶ forward ───┘  (hosts, └─▶ 127.0.0.1:containerPort
//!                                                     (retry)        pool)
//! ```
//!
//! `listen` takes a connection and sees where it was meant to go, which says its route. [`hosts`] (which instance, and which
//! are left alone), [`split`] (which of two revisions) and [`retry`] (what may be said twice) are pure; `access` writes of
//! each request. What the proxy does on its own is what AWS documents of
//! the one in its place: "Service Connect proxy" of the ECS developer guide, and Envoy's defaults where that is silent.

mod access;
mod body;
mod cluster;
mod forward;
pub mod hosts;
mod http;
mod listen;
mod message;
mod page;
mod pool;
mod process;
mod quiet;
pub mod redirect;
pub mod retry;
mod routes;
mod seldom;
pub mod split;
mod tcp;

pub use message::ConnectConfiguration;
pub use process::Proxy;
