//! The zones and sets, as resolvers are given them.

use std::collections::BTreeMap;

use ferrogate_control::Index;
use ferrogate_nodeapi::{Names, RecordSet, Routing, Zone};

use crate::state::{PREFIX, SetRecord, ZoneRecord};

/// Names below which load balancers' are.
const BALANCERS: &str = ".elb.amazonaws.com";
/// As an alias to a load balancer may begin; it has the same addresses.
const DUALSTACK: &str = "dualstack.";

/// The own name of the load balancer that an alias leads to; `None`: it leads to none.
pub(crate) fn balancer(target: &str) -> Option<&str> {
    target.ends_with(BALANCERS).then(|| target.strip_prefix(DUALSTACK).unwrap_or(target))
}

/// All records that names depend on.
#[derive(Debug, Default)]
pub(crate) struct NamesIndex {
    /// (account, zone id) →
    zones: BTreeMap<(String, String), Parts>,
}

#[derive(Debug, Default)]
struct Parts {
    zone: Option<ZoneRecord>,
    sets: BTreeMap<String, RecordSet>,
}

/// What a key is about: (account, zone id, what follows the id of a set).
fn place(key: &str) -> Option<((String, String), Option<&str>)> {
    let (account, rest) = key.strip_prefix(PREFIX)?.split_once('/')?;
    if let Some(id) = rest.strip_prefix("zone/") {
        return Some(((account.to_owned(), id.to_owned()), None));
    }
    let (id, set) = rest.strip_prefix("set/")?.split_once('/')?;
    Some(((account.to_owned(), id.to_owned()), Some(set)))
}

impl Index for NamesIndex {
    type Value = Names;

    fn concerns(key: &str) -> bool {
        place(key).is_some()
    }

    fn put(&mut self, key: &str, value: &[u8]) -> Result<(), serde_json::Error> {
        let Some((zone, set)) = place(key) else { return Ok(()) };
        match set {
            None => self.zones.entry(zone).or_default().zone = Some(serde_json::from_slice(value)?),
            Some(set) => {
                let record = published(serde_json::from_slice(value)?);
                self.zones.entry(zone).or_default().sets.insert(set.to_owned(), record);
            }
        }
        Ok(())
    }

    fn delete(&mut self, key: &str) {
        let Some((zone, set)) = place(key) else { return };
        let Some(parts) = self.zones.get_mut(&zone) else { return };
        match set {
            None => parts.zone = None,
            Some(set) => drop(parts.sets.remove(set)),
        }
        if parts.zone.is_none() && parts.sets.is_empty() {
            self.zones.remove(&zone);
        }
    }

    fn plan(&self, revision: u64) -> Names {
        let zone = |parts: &Parts| {
            let zone = parts.zone.as_ref()?;
            let vpcs = zone.vpcs.iter().map(|vpc| vpc.vpc_id.clone());
            Some(Zone {
                name: zone.name.clone(),
                vpc_ids: zone.private.then(|| vpcs.collect()),
                records: parts.sets.values().cloned().collect(),
            })
        };
        Names { revision, zones: self.zones.values().filter_map(zone).collect() }
    }
}

pub(crate) fn published(set: SetRecord) -> RecordSet {
    let target = |name: String| balancer(&name).map(str::to_owned).unwrap_or(name);
    RecordSet {
        name: set.name,
        kind: set.kind,
        ttl_seconds: set.ttl_seconds.unwrap_or_default(),
        values: set.values,
        alias: set.alias.map(|alias| target(alias.name)),
        routing: match set.weight {
            Some(weight) => Routing::Weighted(weight),
            None if set.multivalue => Routing::Multivalue,
            None => Routing::Simple,
        },
        healthy: true,
    }
}
