//! Which subnet, which node. Pure.

use std::collections::BTreeMap;

use ferrogate_nodeapi::Architecture;

use crate::Node;
use crate::state::NetworkRecord;

/// Subnets for `count` tasks, spread evenly over availability zones and, within a zone, over its subnets. `running`:
/// tasks there are by zone, so that tasks started one by one spread as well. `first`: where to begin among equals.
pub(crate) fn spread<'a>(
    subnets: &'a [NetworkRecord],
    running: &BTreeMap<String, usize>,
    first: usize,
    count: usize,
) -> Vec<&'a NetworkRecord> {
    let mut by_zone: BTreeMap<&str, Vec<&NetworkRecord>> = BTreeMap::new();
    for subnet in subnets {
        by_zone.entry(&subnet.availability_zone).or_default().push(subnet);
    }
    let taken = |zone: &str| running.get(zone).copied().unwrap_or_default();
    let mut zones: Vec<(usize, Vec<&NetworkRecord>)> =
        by_zone.into_iter().map(|(zone, subnets)| (taken(zone), subnets)).collect();
    if !zones.is_empty() {
        let middle = first % zones.len();
        zones.rotate_left(middle);
    }
    let mut chosen = Vec::with_capacity(count);
    for turn in 0..count {
        let Some((taken, subnets)) = zones.iter_mut().min_by_key(|(taken, _)| *taken) else { break };
        chosen.push(subnets[(first + turn) % subnets.len()]);
        *taken += 1;
    }
    chosen
}

/// The node of the right architecture with the fewest tasks; `None`: there is none.
pub(crate) fn node<'a>(
    nodes: &'a [Node],
    load: &BTreeMap<String, usize>,
    architecture: Architecture,
) -> Option<&'a Node> {
    let fits = nodes.iter().filter(|node| node.architecture == architecture);
    fits.min_by_key(|node| (load.get(&node.id).copied().unwrap_or_default(), node.id.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn subnet(id: usize, zone: u8) -> NetworkRecord {
        NetworkRecord {
            vpc_id: "vpc-1".into(),
            vpc_cidr: "10.0.0.0/16".parse().unwrap(),
            subnet_id: format!("subnet-{id}"),
            subnet_cidr: "10.0.0.0/24".parse().unwrap(),
            availability_zone: format!("us-east-1{}", char::from(b'a' + zone)),
            availability_zone_id: format!("use1-az{zone}"),
            security_groups: Vec::new(),
            assign_public_ip: false,
        }
    }

    proptest! {
        #[test]
        fn zones_differ_by_one_at_most(zones in proptest::collection::vec(0u8..4, 1..16), first in 0usize..9, count in 0usize..40) {
            let subnets: Vec<NetworkRecord> = zones.iter().enumerate().map(|(id, zone)| subnet(id, *zone)).collect();
            let chosen = spread(&subnets, &BTreeMap::new(), first, count);
            prop_assert_eq!(chosen.len(), count);
            let mut load: BTreeMap<&str, usize> = subnets.iter().map(|s| (s.availability_zone.as_str(), 0)).collect();
            for subnet in chosen {
                *load.get_mut(subnet.availability_zone.as_str()).unwrap() += 1;
            }
            let (least, most) = (load.values().min().unwrap(), load.values().max().unwrap());
            prop_assert!(most - least <= 1);
        }
    }

    #[test]
    fn an_emptier_zone_comes_first() {
        let subnets = [subnet(0, 0), subnet(1, 1)];
        let running = BTreeMap::from([("us-east-1a".to_owned(), 2)]);
        let chosen: Vec<&str> =
            spread(&subnets, &running, 0, 3).iter().map(|s| s.subnet_id.as_str()).collect();
        assert_eq!(chosen, ["subnet-1", "subnet-1", "subnet-0"]);
    }

    #[test]
    fn the_emptiest_node_that_fits() {
        let node_of = |id: &str, architecture| Node { id: id.into(), architecture };
        let nodes = [
            node_of("a", Architecture::X86_64),
            node_of("b", Architecture::X86_64),
            node_of("c", Architecture::Arm64),
        ];
        let load = BTreeMap::from([("a".to_owned(), 1)]);
        let on = |architecture| node(&nodes, &load, architecture).map(|node| node.id.as_str());
        assert_eq!(on(Architecture::X86_64), Some("b"));
        assert_eq!(on(Architecture::Arm64), Some("c"));
        assert_eq!(node(&nodes[..2], &load, Architecture::Arm64), None);
    }
}
