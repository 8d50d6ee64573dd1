//! The VPC fabric of one node: what EC2's desired state means for packets.
//!
//! ```text
//!   task netns          VPC netns (router)             uplink netns          host netns
//!  ┌──────────┐ veth  ┌────────────────────┐  veth   ┌──────────────┐
//!  │ eth0     ├───────┤ e…   rules, routes ├─────────┤ u…     relay ├ ─ ─ ─ sockets only
//!  └──────────┘       └────────────────────┘ gateway └──────────────┘
//! ```
//!
//! Every VPC is a network namespace, every interface a routed link of its own: whatever one task sends another
//! passes the router's rules ([`plan`]: a pure value, applied with `nft` and netlink). All internet gateways
//! lead to the uplink's namespace, where a relay in user space carries TCP and UDP on to the host and back. In
//! the host's own namespace there are only sockets of this process: no link, no rule, no route. What stands is
//! found by its name in the run directory, so a new process takes it over.
//!
//! A public address out of 127.64.0.0/10 cannot travel as a packet; inside the fabric it is carried as its
//! [`wire_address`]. Connections from this host come from [`HOST_WIRE`].

mod addr;
mod error;
mod fabric;
mod kernel;
mod names;
mod netlink;
mod netns;
mod plan;
mod relay;
mod router;
mod state;
mod task;
mod uplink;

pub use addr::{API_WIRE, HOST_WIRE, RESOLVER_LINK_LOCAL, public_address, wire_address};
pub use error::{Error, Result};
pub use fabric::{DnsSockets, Leftovers, Options, VpcFabric};
pub use netlink::NetlinkError;
pub use plan::{Destination, Direction, Transport, Unreachable, reach};
pub use task::Counters;
