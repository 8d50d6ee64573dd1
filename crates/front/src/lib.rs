//! The way in: listener → verify → authorize → trail → dispatch.
//!
//! Two roads lead to a service and they join before authorization: HTTP requests, whose signature is verified
//! and whose body a codec decodes ([`Front::serve`]), and calls of one service to another ([`ferrogate_api::Invoke`]).
//! From there on nothing tells them apart. Requests that are no API calls (a registry's clients, an ECS Exec
//! session) come in by a [`Door`], which makes API calls of them.
//!
//! Invariants: no request reaches a service unless its caller is known and every right the call demands is
//! allowed; there is no switch that turns either off. Every call that was decoded is recorded, refused ones too.

mod authorize;
mod dispatch;
mod door;
mod http;
mod identity;
mod listener;
mod service_roles;
mod trail;

pub use authorize::{session_for_service, trusts};
pub use dispatch::Front;
pub use door::{Door, DoorBody};
pub use identity::{Credential, CredentialError, Identity, PrincipalPolicies, Role, Secret};
pub use listener::Limits;
pub use trail::{FileTrail, Trail, TrailError, TrailRecord};
