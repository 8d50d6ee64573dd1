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

/// What a task asks of a node.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Needs {
    architecture: Architecture,
    memory_mib: u32,
}

impl Needs {
    /// `architecture`: as tasks show it.
    pub(crate) fn new(architecture: &str, memory_mib: u32) -> Self {
        let arm = architecture == "arm64";
        let architecture = if arm { Architecture::Arm64 } else { Architecture::X86_64 };
        Self { architecture, memory_mib }
    }

    fn are_met_by(self, node: &Node) -> bool {
        node.architecture == self.architecture && u64::from(self.memory_mib) <= node.memory_mib
    }
}

/// Why no node can take a task, were it the only one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoNode {
    #[error("There is no node of the architecture {0}.")]
    OfArchitecture(&'static str),
    #[error(
        "The task has {memory_mib} MiB of memory and the largest node of its architecture {most_mib} MiB."
    )]
    SoLarge { memory_mib: u32, most_mib: u64 },
}

/// Whether there is a node that could take a task with these needs. Other tasks do not count: memory is lent, CPUs too.
pub(crate) fn check(nodes: &[Node], needs: Needs) -> Result<(), NoNode> {
    let alike = nodes.iter().filter(|node| node.architecture == needs.architecture);
    match alike.map(|node| node.memory_mib).max() {
        None => Err(NoNode::OfArchitecture(match needs.architecture {
            Architecture::X86_64 => "x86_64",
            Architecture::Arm64 => "arm64",
        })),
        Some(most_mib) if most_mib < u64::from(needs.memory_mib) => {
            Err(NoNode::SoLarge { memory_mib: needs.memory_mib, most_mib })
        }
        Some(_) => Ok(()),
    }
}

/// Of the nodes that can take it the one with the fewest tasks; `None`: there is none.
pub(crate) fn node<'a>(nodes: &'a [Node], load: &BTreeMap<String, usize>, needs: Needs) -> Option<&'a Node> {
    let fits = nodes.iter().filter(|node| needs.are_met_by(node));
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
        let node_of = |id: &str, architecture, memory_mib| Node { id: id.into(), architecture, memory_mib };
        let nodes = [
            node_of("a", Architecture::X86_64, 8192),
            node_of("b", Architecture::X86_64, 4000),
            node_of("c", Architecture::Arm64, 2048),
        ];
        let load = BTreeMap::from([("a".to_owned(), 1)]);
        let on = |needs| node(&nodes, &load, needs).map(|node| node.id.as_str());
        for (architecture, memory_mib, expected) in [
            ("x86_64", 512, Ok("b")),
            ("x86_64", 4000, Ok("b")),
            ("x86_64", 4001, Ok("a")),
            ("x86_64", 8192, Ok("a")),
            ("x86_64", 9216, Err(NoNode::SoLarge { memory_mib: 9216, most_mib: 8192 })),
            ("arm64", 2048, Ok("c")),
            ("arm64", 4096, Err(NoNode::SoLarge { memory_mib: 4096, most_mib: 2048 })),
        ] {
            let needs = Needs::new(architecture, memory_mib);
            assert_eq!(on(needs), expected.ok(), "{needs:?}");
            assert_eq!(check(&nodes, needs), expected.map(|_| ()), "{needs:?}");
        }
        let needs = Needs::new("arm64", 512);
        assert_eq!(node(&nodes[..2], &load, needs), None);
        assert_eq!(check(&nodes[..2], needs), Err(NoNode::OfArchitecture("arm64")));
    }
}
