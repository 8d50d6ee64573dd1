//! Which target a flow goes to; pure.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;
use std::sync::Arc;

use ferrogate_nodeapi::{
    Action, BalancerAssignment, ListenerProtocol, Stickiness, Target, WeightedTargetGroup,
};

use crate::health::sees;
use crate::state::{Group, Live, TargetEntry};

/// What makes a flow one: the same five always go the same way, while the targets are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Flow {
    pub(crate) client: SocketAddr,
    pub(crate) port: u16,
    pub(crate) udp: bool,
}

/// Where a flow goes.
pub(crate) struct Chosen {
    pub(crate) group: Arc<Group>,
    pub(crate) target: Arc<TargetEntry>,
    /// Whether it shall see the client's own address and port. One outside the VPC cannot: its answers would not come
    /// back this way.
    pub(crate) client_ip: bool,
}

/// Why it goes nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Nowhere {
    NoListener,
    /// No group of any weight, or none with a target this zone may use.
    NoTarget,
}

/// By the configuration in force.
pub(crate) fn choose(live: &Live, flow: &Flow) -> Result<Chosen, Nowhere> {
    let of_this_kind = |protocol: ListenerProtocol| match protocol {
        ListenerProtocol::Udp => flow.udp,
        ListenerProtocol::TcpUdp => true,
        _ => !flow.udp,
    };
    let listeners = &live.assignment.listeners;
    let listener = listeners.iter().find(|l| l.port == flow.port && of_this_kind(l.protocol));
    let listener = listener.ok_or(Nowhere::NoListener)?;
    let Action::Forward { target_groups, .. } = &listener.default_action else {
        return Err(Nowhere::NoTarget);
    };
    let weighted = by_weight(target_groups, flow).ok_or(Nowhere::NoTarget)?;
    let group = live.groups.get(&weighted.target_group_arn).ok_or(Nowhere::NoTarget)?;
    let sticky = matches!(group.config.stickiness, Some(Stickiness::SourceIp));
    let key = if sticky { hash(&(flow.client.ip(), flow.port)) } else { hash(flow) };
    let (target, entry) = target(&live.assignment, group, key).ok_or(Nowhere::NoTarget)?;
    let can = !target.outside_vpc && target.ip.is_ipv4() == flow.client.is_ipv4();
    let client_ip = group.config.preserve_client_ip && can;
    Ok(Chosen { group: Arc::clone(group), target: Arc::clone(entry), client_ip })
}

/// A group by its part of all weights.
fn by_weight<'a>(groups: &'a [WeightedTargetGroup], flow: &Flow) -> Option<&'a WeightedTargetGroup> {
    let total: u64 = groups.iter().map(|group| u64::from(group.weight)).sum();
    if total == 0 {
        return None;
    }
    let mut point = hash(&("group", flow)) % total;
    groups.iter().find(|group| {
        let weight = u64::from(group.weight);
        let here = point < weight;
        point = point.saturating_sub(weight);
        here
    })
}

/// The healthy target with the highest hash of key and target: when one comes or goes, only its own flows change.
fn target<'a>(
    assignment: &BalancerAssignment,
    group: &'a Group,
    key: u64,
) -> Option<&'a (Target, Arc<TargetEntry>)> {
    let usable = |(target, _): &&(Target, Arc<TargetEntry>)| {
        target.draining_since.is_none() && sees(assignment, &group.config, target)
    };
    let usable: Vec<&(Target, Arc<TargetEntry>)> = group.targets.iter().filter(usable).collect();
    let healthy = usable.iter().filter(|(_, entry)| entry.is_healthy()).count();
    let enough = enough(group, healthy, usable.len());
    usable
        .into_iter()
        .filter(|(_, entry)| !enough || entry.is_healthy())
        .max_by_key(|(_, entry)| hash(&(key, entry.key.ip, entry.key.port)))
}

/// Below it, all targets are used (`target_group_health.unhealthy_state_routing`).
fn enough(group: &Group, healthy: usize, all: usize) -> bool {
    let count = group.config.minimum_healthy_targets.max(1) as usize;
    let percent = group.config.minimum_healthy_percent.unwrap_or(0) as usize;
    healthy >= count && healthy * 100 >= all * percent
}

fn hash(of: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    of.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
#[path = "choose_tests.rs"]
mod tests;
