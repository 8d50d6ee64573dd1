//! Names that the resolvers of VPCs answer for: private hosted zones, load balancers.

use serde::{Deserialize, Serialize};

/// All zones, complete.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Names {
    pub revision: u64,
    pub zones: Vec<Zone>,
}

/// Authoritative for its name and everything below it that no longer zone has.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Zone {
    /// Lower case, no dot at the end.
    pub name: String,
    /// The VPCs that see it; `None`: all of them.
    pub vpc_ids: Option<Vec<String>>,
    pub records: Vec<RecordSet>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RecordSet {
    /// Lower case, whole, no dot at the end; `*` as its first label stands for any.
    pub name: String,
    /// `A`, `AAAA`, `SRV`, `CNAME`, `TXT`, …
    pub kind: String,
    pub ttl_seconds: u32,
    /// In presentation format, as Route 53 takes them.
    pub values: Vec<String>,
    /// Instead of values: what that name has.
    pub alias: Option<String>,
    pub routing: Routing,
    /// A health check says otherwise: left out while another of its kind is healthy.
    pub healthy: bool,
}

/// Route 53's routing policies that need no place in the world.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Routing {
    #[default]
    Simple,
    /// 0 to 255.
    Weighted(u8),
    /// Up to eight healthy ones in random order.
    Multivalue,
}
