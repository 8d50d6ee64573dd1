//! The VPC fabric of one node.
mod addr;
mod error;
mod fabric;

pub use addr::{API_WIRE, HOST_WIRE, RESOLVER_LINK_LOCAL, public_address, wire_address};
pub use error::{Error, Result};
pub use fabric::{DnsSockets, Leftovers, Options, VpcFabric};
