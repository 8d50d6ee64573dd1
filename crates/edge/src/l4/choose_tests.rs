use std::collections::HashMap;
use std::net::IpAddr;

use ferrogate_nodeapi::{TargetGroup, TargetProtocol, TargetState};

use super::*;
use crate::l4::fixture::{address, assignment, group, listener, target};
use crate::state::{Certificates, Edge};

fn edge(change: impl FnOnce(&mut TargetGroup), states: &[TargetState]) -> Arc<Edge> {
    let targets = (0..states.len()).map(|at| target(address(at as u8 + 1))).collect();
    let mut group = group(TargetProtocol::Tcp, targets);
    change(&mut group);
    let assignment = assignment(vec![listener(80, ListenerProtocol::Tcp)], vec![group]);
    let edge = Edge::new(assignment, Certificates::new()).unwrap();
    for (at, state) in states.iter().enumerate() {
        let key_ip = address(at as u8 + 1).ip();
        let entry = edge.targets.all().into_iter().find(|entry| entry.key.ip == key_ip).unwrap();
        entry.set_health(*state, None, None);
    }
    edge
}

fn flow(client: u16) -> Flow {
    Flow {
        client: format!("10.0.0.{}:{}", client % 200 + 1, 1024 + client).parse().unwrap(),
        port: 80,
        udp: false,
    }
}

fn spread(edge: &Edge, flows: u16) -> HashMap<IpAddr, u32> {
    let live = edge.live();
    let mut seen = HashMap::new();
    for client in 0..flows {
        if let Ok(chosen) = choose(&live, &flow(client)) {
            *seen.entry(chosen.target.key.ip).or_default() += 1;
        }
    }
    seen
}

use TargetState::{Healthy, Initial, Unhealthy};

#[test]
fn flows_go_to_healthy_targets_evenly_and_the_same_way_again() {
    let edge = edge(|_| {}, &[Healthy, Healthy, Unhealthy, Healthy]);
    let seen = spread(&edge, 3000);
    assert_eq!(seen.len(), 3);
    assert!(!seen.contains_key(&address(3).ip()));
    assert!(seen.values().all(|count| *count > 800), "{seen:?}");
    assert_eq!(seen, spread(&edge, 3000));
}

#[test]
fn when_a_target_goes_only_its_flows_go_elsewhere() {
    let edge = edge(|_| {}, &[Healthy, Healthy, Healthy]);
    let live = edge.live();
    let before: Vec<IpAddr> =
        (0..500).map(|client| choose(&live, &flow(client)).ok().unwrap().target.key.ip).collect();
    let gone = address(2).ip();
    edge.targets.all().iter().find(|e| e.key.ip == gone).unwrap().set_health(Unhealthy, None, None);
    for (client, was) in before.iter().enumerate() {
        let now = choose(&live, &flow(client as u16)).ok().unwrap().target.key.ip;
        assert!(now == *was || *was == gone);
    }
}

#[test]
fn with_too_few_healthy_ones_all_are_used() {
    let seen = spread(&edge(|_| {}, &[Unhealthy, Initial]), 500);
    assert_eq!(seen.len(), 2);
    let seen = spread(&edge(|group| group.minimum_healthy_targets = 2, &[Healthy, Unhealthy]), 500);
    assert_eq!(seen.len(), 2);
    let seen = spread(&edge(|group| group.minimum_healthy_percent = Some(50), &[Healthy, Unhealthy]), 500);
    assert_eq!(seen.len(), 1);
}

#[test]
fn draining_targets_and_those_of_other_zones_get_nothing_new() {
    let states = [Healthy, Healthy, Healthy];
    let elsewhere = |group: &mut TargetGroup| {
        group.targets[0].draining_since = Some(jiff::Timestamp::UNIX_EPOCH);
        group.targets[1].availability_zone = Some("us-east-1b".into());
    };
    let seen = spread(&edge(elsewhere, &states), 100);
    assert_eq!(seen.keys().collect::<Vec<_>>(), [&address(3).ip()]);
    let everywhere = |group: &mut TargetGroup| {
        elsewhere(group);
        group.cross_zone = Some(true);
    };
    assert_eq!(spread(&edge(everywhere, &states), 100).len(), 2);
    let nowhere = |group: &mut TargetGroup| {
        group.targets.iter_mut().for_each(|target| target.availability_zone = Some("us-east-1b".into()));
    };
    assert_eq!(choose(&edge(nowhere, &states).live(), &flow(1)).err(), Some(Nowhere::NoTarget));
}

#[test]
fn a_sticky_source_is_one_target_whatever_its_port() {
    let edge = edge(|group| group.stickiness = Some(Stickiness::SourceIp), &[Healthy, Healthy, Healthy]);
    let live = edge.live();
    let mut seen = HashMap::new();
    for port in 2000..2100 {
        let client = SocketAddr::new("10.1.2.3".parse().unwrap(), port);
        let chosen = choose(&live, &Flow { client, port: 80, udp: false }).ok().unwrap();
        *seen.entry(chosen.target.key.ip).or_insert(0) += 1;
    }
    assert_eq!(seen.len(), 1);
}

#[test]
fn a_port_without_a_listener_leads_nowhere() {
    let edge = edge(|_| {}, &[Healthy]);
    let other = Flow { port: 81, ..flow(1) };
    assert_eq!(choose(&edge.live(), &other).err(), Some(Nowhere::NoListener));
    let udp = Flow { udp: true, ..flow(1) };
    assert_eq!(choose(&edge.live(), &udp).err(), Some(Nowhere::NoListener));
}

#[test]
fn the_clients_address_is_kept_where_the_group_says_so_and_the_answer_can_come_back() {
    let keeps = |preserve: bool, outside: bool| {
        let edge = edge(
            |group| {
                group.preserve_client_ip = preserve;
                group.targets[0].outside_vpc = outside;
            },
            &[Healthy],
        );
        choose(&edge.live(), &flow(1)).ok().unwrap().client_ip
    };
    assert!(keeps(true, false));
    assert!(!keeps(true, true) && !keeps(false, false) && !keeps(false, true));
}
