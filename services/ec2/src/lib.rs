//! Amazon EC2, as far as a VPC reaches: VPCs, subnets, security groups, network interfaces, gateways, route
//! tables, network ACLs, addresses. No instances: what runs in these networks are tasks.
//!
//! - Every account has in every region a default VPC over three zones, made at the first use (`operations/defaults.rs`).
//! - An operation validates and commits one transaction; whoever loses a race reads again and decides anew
//!   (`call.rs`). Addresses are keys that are made, so no two interfaces ever get the same one.
//! - Interfaces made by a service principal belong to it (requester-managed) and are attached from the start.
//! - What moves packets is derived from the records as one value, [`Ec2Service::fabric`], for the nodes to build.
//!
//! What the fabric cannot do yet is not served: NAT gateways, VPC endpoints, peering, IPv6, flow logs, prefix lists.
//! Describing those finds none, because there are none.

mod api;
mod call;
mod db;
mod demands;
mod errors;
mod filter;
mod ids;
mod operations;
mod plan;
mod state;

use std::collections::{HashMap, HashSet};
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};

use ferrogate_control::{Index, Published};
use ferrogate_nodeapi::Fabric;
use ferrogate_store::Store;
use ipnet::Ipv4Net;
use tokio::sync::{RwLock, watch};

use plan::fabric::FabricIndex;
use state::Scope;

/// What an operator chooses.
#[derive(Clone, Debug, PartialEq)]
pub struct Ec2Options {
    /// Where public addresses come from, for all accounts and regions. The default can be reached from this host only.
    pub public_pool: Ipv4Net,
}

impl Default for Ec2Options {
    fn default() -> Self {
        Self { public_pool: Ipv4Net::new_assert(Ipv4Addr::new(127, 64, 0, 0), 16) }
    }
}

/// The EC2 API over a store; [`ferrogate_api::ec2::Ec2`] is implemented for it.
pub struct Ec2Service {
    store: Arc<dyn Store>,
    options: Ec2Options,
    fabric: Published<FabricIndex>,
    /// Regions whose defaults are known to have been made.
    regions: Mutex<HashSet<Scope>>,
    /// Where the search for a free address goes on, by subnet or pool: hints, nothing depends on them.
    cursors: Mutex<HashMap<String, Ipv4Addr>>,
    /// Held for reading while an interface joins a subnet or group, for writing while one of those is deleted: a
    /// transaction cannot compare "nothing below this prefix".
    admission: RwLock<()>,
}

impl Ec2Service {
    /// Reads the records there are and follows their changes on the current Tokio runtime, until dropped.
    ///
    /// # Panics
    /// Outside of a Tokio runtime.
    pub fn new(store: Arc<dyn Store>, options: Ec2Options) -> Self {
        Self {
            fabric: Published::start(Arc::clone(&store), state::PREFIX, "the fabric"),
            store,
            options,
            regions: Mutex::default(),
            cursors: Mutex::default(),
            admission: RwLock::default(),
        }
    }

    /// All VPCs that hold an interface, complete; a new value within milliseconds of each commit.
    pub fn fabric(&self) -> watch::Receiver<Arc<Fabric>> {
        self.fabric.subscribe()
    }

    /// All VPCs as they are now, also those that hold no interface (any more).
    pub fn whole_fabric(&self) -> Fabric {
        let records = self.store.range(state::PREFIX);
        let mut index = FabricIndex::default();
        for kv in records.iter().filter(|kv| FabricIndex::concerns(&kv.key)) {
            // What cannot be read changes nothing, as in what is published.
            let _ = index.put(&kv.key, &kv.value);
        }
        index.whole(records.revision)
    }

    fn knows_region(&self, scope: &Scope) -> bool {
        self.regions.lock().unwrap_or_else(PoisonError::into_inner).contains(scope)
    }

    fn remember_region(&self, scope: &Scope) {
        self.regions.lock().unwrap_or_else(PoisonError::into_inner).insert(scope.clone());
    }

    /// A free address by `pick`, which is given where to begin; calls at the same time begin at different ones.
    fn next_address(&self, of: &str, pick: impl FnOnce(Ipv4Addr) -> Option<Ipv4Addr>) -> Option<Ipv4Addr> {
        let mut cursors = self.cursors.lock().unwrap_or_else(PoisonError::into_inner);
        let found = pick(cursors.get(of).copied().unwrap_or(Ipv4Addr::UNSPECIFIED))?;
        cursors.insert(of.to_owned(), Ipv4Addr::from_bits(found.to_bits().wrapping_add(1)));
        Some(found)
    }
}
