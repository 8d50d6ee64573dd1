//! All records that nodes and resolvers depend on, by what they belong to; and what is published of them.

use std::collections::{BTreeMap, HashMap};
use std::net::Ipv4Addr;

use ferrogate_nodeapi::{BalancerAssignment, Names, RecordSet, Routing, Zone};
use serde::de::DeserializeOwned;

use super::assignment::{self, Parts};
use crate::state::*;

/// ELB's names are looked up again after a minute.
const TTL_SECONDS: u32 = 60;

/// By key.
#[derive(Debug, Default)]
pub(crate) struct Index {
    balancers: BTreeMap<String, BalancerRecord>,
    listeners: BTreeMap<String, ListenerRecord>,
    rules: BTreeMap<String, RuleRecord>,
    groups: HashMap<String, GroupRecord>,
    /// By group id.
    targets: HashMap<String, TargetsRecord>,
    interfaces: BTreeMap<String, InterfaceRecord>,
    nodes: HashMap<String, NodeRecord>,
}

/// Whether something published depends on the record of this key.
pub(crate) fn concerns(key: &str) -> bool {
    !matches!(Scope::parse(key), None | Some((_, Kind::Status | Kind::Health, _)))
}

impl Index {
    /// What was known of a record that cannot be read stays.
    pub(crate) fn put(&mut self, key: &str, value: &[u8]) -> Result<(), serde_json::Error> {
        fn parse<T: DeserializeOwned>(value: &[u8]) -> Result<T, serde_json::Error> {
            serde_json::from_slice(value)
        }
        let Some((_, kind, id)) = Scope::parse(key) else { return Ok(()) };
        match kind {
            Kind::Balancer => drop(self.balancers.insert(key.into(), parse(value)?)),
            Kind::Listener => drop(self.listeners.insert(key.into(), parse(value)?)),
            Kind::Rule => drop(self.rules.insert(key.into(), parse(value)?)),
            Kind::Group => drop(self.groups.insert(key.into(), parse(value)?)),
            Kind::Targets => drop(self.targets.insert(id.into(), parse(value)?)),
            Kind::Interface => drop(self.interfaces.insert(key.into(), parse(value)?)),
            Kind::Node => drop(self.nodes.insert(id.into(), parse(value)?)),
            Kind::Status | Kind::Health => {}
        }
        Ok(())
    }

    pub(crate) fn delete(&mut self, key: &str) {
        let Some((_, kind, id)) = Scope::parse(key) else { return };
        match kind {
            Kind::Balancer => drop(self.balancers.remove(key)),
            Kind::Listener => drop(self.listeners.remove(key)),
            Kind::Rule => drop(self.rules.remove(key)),
            Kind::Group => drop(self.groups.remove(key)),
            Kind::Targets => drop(self.targets.remove(id)),
            Kind::Interface => drop(self.interfaces.remove(key)),
            Kind::Node => drop(self.nodes.remove(id)),
            Kind::Status | Kind::Health => {}
        }
    }

    /// One assignment for each zone that has its interface. One that says the same as before keeps its generation;
    /// any other has `revision`, which is greater.
    pub(crate) fn assignments(
        &self,
        before: &[BalancerAssignment],
        revision: u64,
    ) -> Vec<BalancerAssignment> {
        let before: HashMap<(&str, &str), &BalancerAssignment> = before
            .iter()
            .map(|one| ((one.load_balancer_arn.as_str(), one.availability_zone.as_str()), one))
            .collect();
        let groups: HashMap<String, &GroupRecord> =
            self.groups.values().map(|group| (group.arn(), group)).collect();
        let mut listeners: HashMap<&str, Vec<&ListenerRecord>> = HashMap::new();
        for listener in self.listeners.values() {
            listeners.entry(&listener.balancer_id).or_default().push(listener);
        }
        let mut rules: HashMap<&str, Vec<&RuleRecord>> = HashMap::new();
        for rule in self.rules.values() {
            rules.entry(&rule.listener_id).or_default().push(rule);
        }
        rules.values_mut().for_each(|rules| rules.sort_by_key(|rule| rule.priority));
        let mut all = Vec::new();
        for (balancer, interface) in self.zones() {
            let parts = Parts {
                balancer,
                listeners: listeners.get(balancer.id.as_str()).map_or(&[], Vec::as_slice),
                rules: &rules,
                groups: &groups,
                targets: &self.targets,
            };
            let mut made = assignment::assignment(&parts, interface);
            let was = before.get(&(made.load_balancer_arn.as_str(), made.availability_zone.as_str()));
            made.generation = was.map_or(revision, |was| was.generation);
            if was.is_some_and(|was| **was != made) {
                made.generation = revision;
            }
            all.push(made);
        }
        all
    }

    /// The zones that balancers want and that have an interface where they want it.
    fn zones(&self) -> impl Iterator<Item = (&BalancerRecord, &InterfaceRecord)> {
        let of: HashMap<(&str, &str), &InterfaceRecord> = self
            .interfaces
            .values()
            .map(|interface| ((interface.balancer_id.as_str(), interface.subnet_id.as_str()), interface))
            .collect();
        let pairs = self.balancers.values().flat_map(move |balancer| {
            let found =
                balancer.zones.iter().map(|zone| of.get(&(balancer.id.as_str(), zone.subnet_id.as_str())));
            found.flatten().map(|interface| (balancer, *interface)).collect::<Vec<_>>()
        });
        pairs.filter(|(balancer, interface)| balancer.internal || interface.public_ip.is_some())
    }

    /// A zone for each name of a balancer, with the addresses of those of its zones that take traffic. `in_vpc`: the
    /// address by which a public address is reached from inside a VPC.
    pub(crate) fn names(&self, revision: u64, in_vpc: fn(Ipv4Addr) -> Ipv4Addr) -> Names {
        let mut values: BTreeMap<&str, Vec<String>> =
            self.balancers.values().map(|balancer| (balancer.dns_name.as_str(), Vec::new())).collect();
        for (balancer, interface) in self.zones() {
            let node = self.nodes.get(&format!("{}/{}", balancer.id, interface.zone));
            if !node.is_some_and(|node| node.active) {
                continue;
            }
            let public = interface.public_ip.filter(|_| !balancer.internal).map(in_vpc);
            let address = public.unwrap_or(interface.private_ip);
            values.entry(&balancer.dns_name).or_default().push(address.to_string());
        }
        let zone = |(name, mut values): (&str, Vec<String>)| {
            values.sort_unstable();
            let name = name.to_lowercase();
            let record = RecordSet {
                name: name.clone(),
                kind: "A".into(),
                ttl_seconds: TTL_SECONDS,
                values,
                alias: None,
                routing: Routing::Simple,
                healthy: true,
            };
            let records = if record.values.is_empty() { Vec::new() } else { vec![record] };
            Zone { name, vpc_ids: None, records }
        };
        Names { revision, zones: values.into_iter().map(zone).collect() }
    }
}

#[cfg(test)]
#[path = "index_tests.rs"]
mod tests;
