//! All records that nodes and resolvers depend on, by what they belong to; and what is published of them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::Ipv4Addr;

use ferrogate_nodeapi::{BalancerAssignment, Names, RecordSet, Routing, TargetState, Zone};
use serde::de::DeserializeOwned;

use super::actions;
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
    /// By `balancer/zone`.
    nodes: HashMap<String, NodeRecord>,
    /// By `balancer/zone/group`.
    health: HashMap<String, HealthRecord>,
}

/// Whether something published depends on the record of this key.
pub(crate) fn concerns(key: &str) -> bool {
    !matches!(Scope::parse(key), None | Some((_, Kind::Status, _)))
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
            Kind::Health => drop(self.health.insert(id.into(), parse(value)?)),
            Kind::Status => {}
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
            Kind::Health => drop(self.health.remove(id)),
            Kind::Status => {}
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
        let mut interfaces: HashMap<&str, Vec<&InterfaceRecord>> = HashMap::new();
        for (balancer, interface) in self.zones() {
            interfaces.entry(&balancer.id).or_default().push(interface);
        }
        let mut all = Vec::new();
        for (balancer, interface) in self.zones() {
            let parts = Parts {
                balancer,
                listeners: listeners.get(balancer.id.as_str()).map_or(&[], Vec::as_slice),
                rules: &rules,
                groups: &groups,
                targets: &self.targets,
                interfaces: &interfaces,
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

    /// The groups, by id, that each balancer sends to, without those that have no targets at all.
    fn used(&self) -> HashMap<&str, BTreeSet<&str>> {
        let listeners = self.listeners.values().map(|one| (&one.balancer_id, &one.actions));
        let rules = self.rules.values().map(|one| (&one.balancer_id, &one.actions));
        let has_targets = |group: &&str| {
            let targets = self.targets.get(*group).into_iter().flat_map(|record| &record.targets);
            targets.into_iter().any(|target| target.draining_since.is_none())
        };
        let mut used: HashMap<&str, BTreeSet<&str>> = HashMap::new();
        for (balancer, actions) in listeners.chain(rules) {
            let ids = actions::weighted_groups(actions).filter_map(|arn| arn.rsplit('/').next());
            used.entry(balancer).or_default().extend(ids.filter(has_targets));
        }
        used
    }

    /// Whether the zone's node sees a healthy target in each of these groups.
    fn can_serve<'a>(&self, node: &str, groups: impl IntoIterator<Item = &'a &'a str>) -> bool {
        let usable =
            |seen: &SeenRecord| matches!(seen.state, TargetState::Healthy | TargetState::Unavailable);
        groups.into_iter().all(|group| {
            let health = self.health.get(&format!("{node}/{group}"));
            health.is_some_and(|health| health.targets.values().any(usable))
        })
    }

    /// A zone for each name of a balancer, with the addresses of those of its zones that take traffic: those with a
    /// healthy target in each group, or all when there is none (ELB user guides, "Target group health"). `in_vpc`: the
    /// address by which a public address is reached from inside a VPC.
    pub(crate) fn names(&self, revision: u64, in_vpc: fn(Ipv4Addr) -> Ipv4Addr) -> Names {
        let mut values: BTreeMap<&str, Vec<(bool, String)>> =
            self.balancers.values().map(|balancer| (balancer.dns_name.as_str(), Vec::new())).collect();
        let used = self.used();
        for (balancer, interface) in self.zones() {
            let node = format!("{}/{}", balancer.id, interface.zone);
            if !self.nodes.get(&node).is_some_and(|node| node.active) {
                continue;
            }
            let can_serve = self.can_serve(&node, used.get(balancer.id.as_str()).into_iter().flatten());
            let public = interface.public_ip.filter(|_| !balancer.internal).map(in_vpc);
            let address = public.unwrap_or(interface.private_ip);
            values.entry(&balancer.dns_name).or_default().push((can_serve, address.to_string()));
        }
        let zone = |(name, zones): (&str, Vec<(bool, String)>)| {
            let some_can = zones.iter().any(|(can_serve, _)| *can_serve);
            let served = zones.into_iter().filter(|(can_serve, _)| *can_serve || !some_can);
            let mut values: Vec<String> = served.map(|(_, address)| address).collect();
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
pub(crate) mod tests;
