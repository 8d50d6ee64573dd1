//! Which network interfaces are to be made, changed and deleted, and what that makes of the balancer.

use std::collections::BTreeSet;

use crate::state::*;

#[derive(Debug, Default, PartialEq)]
pub(crate) struct Plan {
    /// (balancer, zone): has none yet.
    pub(crate) make: Vec<(BalancerRecord, ZoneRecord)>,
    /// (interface, groups it shall have)
    pub(crate) regroup: Vec<(InterfaceRecord, Vec<String>)>,
    pub(crate) delete: Vec<InterfaceRecord>,
    /// Ids of balancers all of whose zones take traffic for the first time.
    pub(crate) activate: Vec<BalancerRecord>,
}

/// `active`: (balancer id, zone) of the nodes that take traffic; `done`: ids of those that have been active before.
pub(crate) fn plan(
    balancers: &[BalancerRecord],
    interfaces: &[InterfaceRecord],
    active: &BTreeSet<(String, String)>,
    done: &BTreeSet<String>,
) -> Plan {
    let mut plan = Plan::default();
    for balancer in balancers {
        for zone in &balancer.zones {
            let found = interfaces.iter().find(|one| belongs(one, balancer, zone));
            match found {
                None => plan.make.push((balancer.clone(), zone.clone())),
                Some(interface) if !same(&interface.security_groups, &balancer.security_groups) => {
                    plan.regroup.push((interface.clone(), balancer.security_groups.clone()));
                }
                Some(_) => {}
            }
        }
        let ready =
            balancer.zones.iter().all(|zone| active.contains(&(balancer.id.clone(), zone.zone.clone())));
        if ready && !done.contains(&balancer.id) {
            plan.activate.push(balancer.clone());
        }
    }
    for interface in interfaces {
        let wanted = balancers
            .iter()
            .any(|balancer| balancer.zones.iter().any(|zone| belongs(interface, balancer, zone)));
        if !wanted {
            plan.delete.push(interface.clone());
        }
    }
    plan
}

fn belongs(interface: &InterfaceRecord, balancer: &BalancerRecord, zone: &ZoneRecord) -> bool {
    interface.balancer_id == balancer.id && interface.subnet_id == zone.subnet_id
}

fn same(one: &[String], other: &[String]) -> bool {
    one.iter().collect::<BTreeSet<_>>() == other.iter().collect::<BTreeSet<_>>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn balancer(id: &str, subnets: &[u8], groups: &[&str]) -> BalancerRecord {
        let zone = |n: &u8| ZoneRecord {
            zone: format!("zone-{n}"),
            subnet_id: format!("subnet-{n}"),
            subnet_cidr: "10.0.0.0/24".parse().unwrap(),
            vpc_cidr: "10.0.0.0/16".parse().unwrap(),
            private_ip: None,
            allocation_id: None,
        };
        BalancerRecord {
            id: id.into(),
            scope: Scope { account: "1".into(), region: "us-east-1".into() },
            name: id.into(),
            kind: BalancerType::Application,
            internal: true,
            vpc_id: "vpc-1".into(),
            dns_name: id.into(),
            created: Default::default(),
            zones: subnets.iter().map(zone).collect(),
            security_groups: groups.iter().map(|group| (*group).to_owned()).collect(),
            attributes: Default::default(),
            tags: Default::default(),
        }
    }

    fn made(balancer: &BalancerRecord, zone: &ZoneRecord) -> InterfaceRecord {
        InterfaceRecord {
            balancer_id: balancer.id.clone(),
            zone: zone.zone.clone(),
            vpc_id: balancer.vpc_id.clone(),
            subnet_id: zone.subnet_id.clone(),
            subnet_cidr: zone.subnet_cidr,
            vpc_cidr: zone.vpc_cidr,
            eni_id: format!("eni-{}-{}", balancer.id, zone.subnet_id),
            mac: String::new(),
            private_ip: "10.0.0.9".parse().unwrap(),
            public_ip: None,
            allocation_id: None,
            security_groups: balancer.security_groups.clone(),
        }
    }

    /// What the controller does, without the world.
    fn act(plan: &Plan, interfaces: &mut Vec<InterfaceRecord>) {
        interfaces.retain(|one| !plan.delete.contains(one));
        for (interface, groups) in &plan.regroup {
            let found = interfaces.iter_mut().find(|one| one.eni_id == interface.eni_id);
            found.expect("what is regrouped is there").security_groups = groups.clone();
        }
        interfaces.extend(plan.make.iter().map(|(balancer, zone)| made(balancer, zone)));
    }

    proptest! {
        #[test]
        fn whatever_was_there_one_round_makes_it_right(
            before in proptest::collection::vec((0u8..4, proptest::collection::btree_set(0u8..4, 1..4), 0u8..2), 0..4),
            after in proptest::collection::vec((0u8..4, proptest::collection::btree_set(0u8..4, 1..4), 0u8..2), 0..4),
        ) {
            let balancers = |of: &[(u8, BTreeSet<u8>, u8)]| -> Vec<BalancerRecord> {
                let mut seen = BTreeSet::new();
                of.iter()
                    .filter(|(id, ..)| seen.insert(*id))
                    .map(|(id, zones, group)| {
                        let zones: Vec<u8> = zones.iter().copied().collect();
                        balancer(&format!("lb-{id}"), &zones, &[&format!("sg-{group}")])
                    })
                    .collect()
            };
            let mut interfaces = Vec::new();
            let none = BTreeSet::new();
            for wanted in [balancers(&before), balancers(&after)] {
                let done: BTreeSet<String> = wanted.iter().map(|one| one.id.clone()).collect();
                act(&plan(&wanted, &interfaces, &none, &done), &mut interfaces);
                prop_assert_eq!(plan(&wanted, &interfaces, &none, &done), Plan::default());
                let count: usize = wanted.iter().map(|one| one.zones.len()).sum();
                prop_assert_eq!(interfaces.len(), count);
            }
        }
    }

    #[test]
    fn a_balancer_becomes_active_when_all_its_nodes_are() {
        let one = balancer("lb", &[1, 2], &["sg"]);
        let interfaces: Vec<_> = one.zones.iter().map(|zone| made(&one, zone)).collect();
        let all = std::slice::from_ref(&one);
        let mut active = BTreeSet::from([("lb".to_owned(), "zone-1".to_owned())]);
        assert!(plan(all, &interfaces, &active, &BTreeSet::new()).activate.is_empty());
        active.insert(("lb".to_owned(), "zone-2".to_owned()));
        assert_eq!(plan(all, &interfaces, &active, &BTreeSet::new()).activate.len(), 1);
        let done = BTreeSet::from(["lb".to_owned()]);
        assert!(plan(all, &interfaces, &active, &done).activate.is_empty());
    }
}
