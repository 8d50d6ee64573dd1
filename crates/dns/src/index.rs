//! The names, arranged for look-ups.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use ferrogate_nodeapi::{Names, Routing, Zone};
use hickory_proto::rr::rdata::SOA;
use hickory_proto::rr::{RData, RecordType};

use crate::name::{ancestors, wire};
use crate::value;

/// Of zones that say nothing of their own: what a new hosted zone has.
const SOA_VALUE: &str = "ns-1536.awsdns-00.co.uk. awsdns-hostmaster.amazon.com. 1 7200 900 1209600 86400";
const SOA_TTL_SECONDS: u32 = 900;

/// A value of [`Names`], ready for questions.
#[derive(Debug, Default)]
pub struct Index {
    source: Arc<Names>,
    /// In the order of `source`.
    zones: Vec<Arc<ZoneIndex>>,
    by_name: HashMap<Box<str>, Vec<usize>>,
    own: HashMap<String, HashSet<usize>>,
}

impl Index {
    pub fn new(names: Arc<Names>) -> Self {
        Self::default().next(names)
    }

    /// The index of the next value; zones that are as they were cost a comparison only.
    #[must_use]
    pub fn next(&self, names: Arc<Names>) -> Self {
        let mut index = Self::default();
        for (at, zone) in names.zones.iter().enumerate() {
            let known = self.by_name.get(zone.name.as_str()).into_iter().flatten();
            let kept = known
                .filter(|before| self.source.zones[**before] == *zone)
                .map(|before| Arc::clone(&self.zones[*before]))
                .next();
            index.zones.push(kept.unwrap_or_else(|| Arc::new(ZoneIndex::new(zone))));
            index.by_name.entry(zone.name.as_str().into()).or_default().push(at);
            for vpc_id in zone.vpc_ids.iter().flatten() {
                index.own.entry(vpc_id.clone()).or_default().insert(at);
            }
        }
        index.source = names;
        index
    }

    pub fn revision(&self) -> u64 {
        self.source.revision
    }

    /// Names of records that cannot be read and are left out: `name kind: why`.
    pub fn unreadable(&self) -> impl Iterator<Item = &str> {
        self.zones.iter().flat_map(|zone| zone.unreadable.iter().map(String::as_str))
    }

    /// The zone that answers for a name in a VPC.
    pub(crate) fn zone(&self, vpc_id: &str, name: &str) -> Option<&ZoneIndex> {
        let own = self.own.get(vpc_id).and_then(|own| self.longest(name, |at| own.contains(&at)));
        own.or_else(|| self.longest(name, |at| self.source.zones[at].vpc_ids.is_none()))
    }

    fn longest(&self, name: &str, visible: impl Fn(usize) -> bool) -> Option<&ZoneIndex> {
        let mut found = ancestors(name).filter_map(|suffix| self.by_name.get(suffix));
        found.find_map(|zones| zones.iter().find(|at| visible(**at))).map(|at| &*self.zones[*at])
    }
}

#[derive(Debug)]
pub(crate) struct ZoneIndex {
    name: String,
    /// Names without records of their own, above ones that have some, are here too: they exist.
    nodes: HashMap<Box<str>, Node>,
    unreadable: Vec<String>,
}

#[derive(Debug, Default)]
pub(crate) struct Node {
    pub(crate) groups: Vec<Group>,
}

/// The record sets of one name and type.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) kind: RecordType,
    pub(crate) sets: Vec<Set>,
}

#[derive(Debug)]
pub(crate) struct Set {
    pub(crate) ttl_seconds: u32,
    pub(crate) content: Content,
    pub(crate) routing: Routing,
    pub(crate) healthy: bool,
}

#[derive(Debug)]
pub(crate) enum Content {
    Values(Vec<RData>),
    /// What that name has.
    Alias(String),
}

impl Node {
    pub(crate) fn group(&self, kind: RecordType) -> Option<&Group> {
        self.groups.iter().find(|group| group.kind == kind)
    }
}

impl ZoneIndex {
    fn new(zone: &Zone) -> Self {
        let mut index = Self { name: zone.name.clone(), nodes: HashMap::new(), unreadable: Vec::new() };
        index.nodes.entry(zone.name.as_str().into()).or_default();
        for record in &zone.records {
            let read = index.read(record);
            match read {
                Ok((kind, set)) => index.enter(&record.name, kind, set),
                Err(why) => index.unreadable.push(format!("{} {}: {why}", record.name, record.kind)),
            }
        }
        index
    }

    fn read(&self, record: &ferrogate_nodeapi::RecordSet) -> Result<(RecordType, Set), String> {
        if !ancestors(&record.name).any(|name| name == self.name) {
            return Err(format!("not in the zone {}", self.name));
        }
        let kind = value::record_type(&record.kind)
            .ok_or_else(|| value::ValueError::Kind(record.kind.clone()).to_string())?;
        let content = match &record.alias {
            Some(alias) => Content::Alias(crate::normal(alias).map_err(|error| error.to_string())?),
            None => {
                let values = record.values.iter().map(|text| value::parse(kind, text));
                Content::Values(values.collect::<Result<_, _>>().map_err(|error| error.to_string())?)
            }
        };
        let set = Set {
            ttl_seconds: record.ttl_seconds,
            content,
            routing: record.routing,
            healthy: record.healthy,
        };
        Ok((kind, set))
    }

    fn enter(&mut self, name: &str, kind: RecordType, set: Set) {
        for above in ancestors(name).skip(1).take_while(|above| above.len() > self.name.len()) {
            if self.nodes.contains_key(above) {
                break;
            }
            self.nodes.insert(above.into(), Node::default());
        }
        let node = self.nodes.entry(name.into()).or_default();
        match node.groups.iter_mut().find(|group| group.kind == kind) {
            Some(group) => group.sets.push(set),
            None => node.groups.push(Group { kind, sets: vec![set] }),
        }
    }

    /// The name's own, or that of the wildcard that covers it (RFC 4592).
    pub(crate) fn node(&self, name: &str) -> Option<&Node> {
        if let Some(node) = self.nodes.get(name) {
            return Some(node);
        }
        let encloser = ancestors(name).skip(1).find(|above| self.nodes.contains_key(*above))?;
        self.nodes.get(format!("*.{encloser}").as_str())
    }

    /// (name, seconds, value) for answers that say no.
    pub(crate) fn soa(&self) -> Option<(hickory_proto::rr::Name, u32, SOA)> {
        let name = wire(&self.name).ok()?;
        let set =
            self.nodes.get(self.name.as_str()).and_then(|node| node.group(RecordType::SOA)?.sets.first());
        if let Some(Set { ttl_seconds, content: Content::Values(values), .. }) = set
            && let Some(RData::SOA(soa)) = values.first()
        {
            return Some((name, (*ttl_seconds).min(soa.minimum), soa.clone()));
        }
        match value::parse(RecordType::SOA, SOA_VALUE).ok()? {
            RData::SOA(soa) => Some((name, SOA_TTL_SECONDS, soa)),
            _ => None,
        }
    }
}
