use std::sync::Arc;

use ferrogate_nodeapi::{TargetProtocol, TargetState};

use super::*;
use crate::l4::fixture;
use crate::state::{Certificates, Edge};

/// Targets on ports 1, 2, …; all healthy.
fn edge(count: u16, change: impl FnOnce(&mut ferrogate_nodeapi::TargetGroup)) -> Arc<Edge> {
    let targets = (1..=count).map(|port| fixture::target(([10, 0, 0, 1], port).into())).collect();
    let mut group = fixture::group(TargetProtocol::Http, targets);
    change(&mut group);
    let edge = Edge::new(fixture::assignment(vec![], vec![group]), Certificates::new()).unwrap();
    for target in edge.targets.all() {
        target.set_health(TargetState::Healthy, None, None);
    }
    edge
}

/// How often each port is chosen.
fn shares(edge: &Edge, now_ms: u64, rounds: usize) -> Vec<usize> {
    let live = edge.live();
    let group = &live.groups[fixture::GROUP];
    let mut counts = vec![0; group.targets.len()];
    for _ in 0..rounds {
        let chosen = Eligible::new(group, fixture::ZONE, now_ms).choose().unwrap();
        counts[usize::from(chosen.key.port) - 1] += 1;
    }
    counts
}

fn target(edge: &Edge, port: u16) -> Arc<TargetEntry> {
    edge.targets.all().into_iter().find(|target| target.key.port == port).unwrap()
}

const LATER: u64 = u64::MAX;

#[test]
fn round_robin_is_even_also_when_one_is_left_out() {
    let edge = edge(4, |_| {});
    assert_eq!(shares(&edge, LATER, 400), [100; 4]);
    target(&edge, 2).set_health(TargetState::Unhealthy, None, None);
    let counts = shares(&edge, LATER, 300);
    assert_eq!(counts[1], 0);
    assert!(counts.iter().all(|count| *count == 0 || (95..=105).contains(count)), "{counts:?}");
}

#[test]
fn slow_start_grows_evenly() {
    let edge = edge(2, |group| group.slow_start_seconds = 100);
    let began = target(&edge, 2).healthy_since_ms().unwrap();
    assert_eq!(shares(&edge, began + 100_000, 1000), [500; 2]);
    // One is long warm, the other is at a quarter: it has a quarter of the other's share.
    let cold = target(&edge, 2);
    cold.set_health(TargetState::Unhealthy, None, None);
    cold.set_health_at(TargetState::Healthy, began + 1_000_000);
    let counts = shares(&edge, began + 1_025_000, 4000);
    assert!((600..=1000).contains(&counts[1]), "a fifth of 4000 was meant: {counts:?}");
}

#[test]
fn weighted_random_turns_away_from_a_target_that_fails() {
    let edge = edge(3, |group| {
        group.algorithm = Algorithm::WeightedRandom;
        group.anomaly_mitigation = true;
    });
    let counts = shares(&edge, LATER, 3000);
    assert!(counts.iter().all(|count| (800..1200).contains(count)), "{counts:?}");
    let bad = target(&edge, 1);
    (0..200).for_each(|_| bad.answered(true));
    let counts = shares(&edge, LATER, 3000);
    assert!((50..400).contains(&counts[0]), "a tenth of a share was meant: {counts:?}");
    (0..400).for_each(|_| bad.answered(false));
    assert!(shares(&edge, LATER, 3000)[0] > 800);
}

#[test]
fn zones_and_fail_open() {
    let edge = edge(2, |group| {
        group.cross_zone = Some(false);
        group.targets[0].availability_zone = Some("us-east-1b".into());
    });
    assert_eq!(shares(&edge, LATER, 10), [0, 10]);
    // The other zone's healthy target does not count here.
    target(&edge, 2).set_health(TargetState::Unhealthy, None, None);
    assert_eq!(shares(&edge, LATER, 10), [0, 10]);
    let edge = self::edge(3, |group| group.minimum_healthy_percent = Some(50));
    target(&edge, 1).set_health(TargetState::Unhealthy, None, None);
    assert_eq!(shares(&edge, LATER, 30)[0], 0);
    target(&edge, 2).set_health(TargetState::Unhealthy, None, None);
    assert_eq!(shares(&edge, LATER, 30), [10; 3]);
}

#[test]
fn weights_of_nothing_choose_nothing() {
    assert_eq!(by_weight::<u8>(&[]), None);
    assert_eq!(by_weight(&[(1, 0), (2, 0)]), None);
    assert_eq!(by_weight(&[(1, 0), (2, 3)]), Some(&2));
    assert_eq!(by_weight(&[(1, 0)]), None);
}
