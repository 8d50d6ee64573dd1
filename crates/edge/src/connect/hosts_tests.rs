use std::collections::HashSet;
use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::*;

fn host(number: u8) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, number), 80)
}

fn hosts(numbers: &[u8]) -> Hosts {
    let mut hosts = Hosts::new(0);
    hosts.set(&numbers.iter().copied().map(host).collect::<Vec<_>>(), Duration::ZERO);
    hosts
}

const fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Fails in a row, all at this moment.
fn fail(hosts: &mut Hosts, number: u8, times: usize, now: Duration) -> Option<Duration> {
    (0..times).filter_map(|_| hosts.settle(host(number), Outcome::Failed, now)).last()
}

#[test]
fn one_after_the_other_and_another_one_after_a_failure() {
    let mut hosts = hosts(&[1, 2, 3]);
    let round: Vec<_> = (0..6).filter_map(|_| hosts.pick(&[], at(0))).collect();
    assert_eq!(round, [1, 2, 3, 1, 2, 3].map(host));
    assert_eq!(hosts.pick(&[host(1)], at(0)), Some(host(2)));
    assert_eq!(hosts.pick(&[host(1), host(2)], at(0)), Some(host(3)));
    assert_eq!(hosts.pick(&[host(1), host(2), host(3)], at(0)), Some(host(1)));
    assert_eq!(Hosts::new(7).pick(&[], at(0)), None);
}

#[test]
fn five_in_a_row_within_thirty_seconds() {
    let mut hosts = hosts(&[1, 2]);
    assert_eq!(fail(&mut hosts, 1, 4, at(0)), None);
    hosts.settle(host(1), Outcome::Good, at(0));
    assert_eq!(fail(&mut hosts, 1, 4, at(1)), None);
    // The first of the five is too long ago, then the second is not.
    assert_eq!(fail(&mut hosts, 1, 1, at(32)), None);
    let mut hosts = self::hosts(&[1, 2]);
    assert_eq!(fail(&mut hosts, 1, 4, at(1)), None);
    assert_eq!(fail(&mut hosts, 1, 1, at(31)), Some(at(30)));
    assert_eq!(hosts.pick(&[], at(60)), Some(host(2)));
    assert_eq!(hosts.pick(&[], at(60)), Some(host(2)));
    assert_eq!(hosts.pick(&[host(2)], at(60)), Some(host(2)));
    assert_eq!(hosts.let_in(at(60)), []);
    assert_eq!(hosts.let_in(at(61)), [host(1)]);
    assert_eq!(hosts.let_in(at(61)), []);
    assert_eq!(hosts.pick(&[], at(61)), Some(host(1)));
}

/// Half of a service may be the whole of one of its revisions.
#[test]
fn those_that_are_left_alone_are_there_for_who_has_no_others() {
    let mut hosts = hosts(&[1, 2]);
    assert_eq!(fail(&mut hosts, 1, 5, at(0)), Some(at(30)));
    let blue = |address: &SocketAddrV4| *address == host(1);
    assert_eq!(hosts.pick_of(&[], at(1), blue), None);
    assert_eq!(hosts.pick_any_of(&[], blue), Some(host(1)));
}

#[test]
fn longer_each_time_and_forgotten_again() {
    let mut hosts = hosts(&[1, 2]);
    let mut now = at(0);
    for seconds in (1..=12).map(|time| (30 * time).min(300)) {
        assert_eq!(fail(&mut hosts, 1, 5, now), Some(at(seconds)));
        now += at(seconds);
    }
    // Twelve times; ten of them are forgotten after 300 good seconds.
    assert_eq!(fail(&mut hosts, 1, 5, now + at(300)), Some(at(90)));
    assert_eq!(fail(&mut hosts, 1, 5, now + at(100_000)), Some(at(30)));
}

#[test]
fn never_more_than_half() {
    assert_eq!(fail(&mut hosts(&[1]), 1, 20, at(0)), None);
    let mut all = hosts(&[1, 2, 3]);
    assert_eq!(fail(&mut all, 1, 5, at(0)), Some(at(30)));
    assert_eq!(fail(&mut all, 2, 20, at(0)), None);
    // It would have been, and is as soon as there is room.
    assert_eq!(fail(&mut all, 2, 1, at(30)), Some(at(30)));
    let mut all = hosts(&[1, 2, 3, 4]);
    fail(&mut all, 1, 5, at(0));
    fail(&mut all, 2, 5, at(1));
    all.set(&[host(1), host(2)], at(2));
    assert_eq!(all.pick(&[], at(2)), Some(host(1)));
}

#[test]
fn those_that_stay_are_known_still() {
    let mut hosts = hosts(&[1, 2]);
    fail(&mut hosts, 1, 5, at(0));
    hosts.set(&[host(3), host(1), host(3)], at(1));
    assert!((0..4).all(|_| hosts.pick(&[], at(1)) == Some(host(3))));
    hosts.set(&[], at(1));
    assert_eq!(hosts.pick(&[], at(1)), None);
    assert!(hosts.is_empty());
}

#[derive(Clone, Debug)]
enum Step {
    Set(HashSet<u8>),
    Pick(Vec<u8>),
    Settle(u8, bool),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        1 => proptest::collection::hash_set(0_u8..8, 0..8).prop_map(Step::Set),
        4 => proptest::collection::vec(0_u8..8, 0..3).prop_map(Step::Pick),
        12 => (0_u8..8, proptest::bool::weighted(0.9)).prop_map(|(host, failed)| Step::Settle(host, failed)),
        2 => (0_u64..40).prop_map(Step::Wait),
    ]
}

proptest! {
    #[test]
    fn at_least_half_can_be_had_and_no_other_is(steps in proptest::collection::vec(step(), 1..400), start: usize) {
        let mut hosts = Hosts::new(start);
        let (mut now, mut known) = (at(0), HashSet::new());
        for step in steps {
            match step {
                Step::Set(numbers) => {
                    let addresses: Vec<_> = numbers.iter().copied().map(host).collect();
                    hosts.set(&addresses, now);
                    known = addresses.into_iter().collect();
                }
                Step::Pick(tried) => {
                    let tried: Vec<_> = tried.into_iter().map(host).collect();
                    let usable: Vec<_> =
                        hosts.hosts.iter().filter(|host| !host.is_ejected(now)).map(|host| host.address).collect();
                    let fresh = usable.iter().any(|address| !tried.contains(address));
                    let picked = hosts.pick(&tried, now);
                    prop_assert_eq!(picked.is_some(), !known.is_empty());
                    if let Some(picked) = picked {
                        prop_assert!(usable.contains(&picked));
                        prop_assert!(!fresh || !tried.contains(&picked));
                    }
                }
                Step::Settle(number, failed) => {
                    let outcome = if failed { Outcome::Failed } else { Outcome::Good };
                    if let Some(time) = hosts.settle(host(number), outcome, now) {
                        prop_assert!(failed && known.contains(&host(number)));
                        prop_assert!(time >= EJECTED_STEP && time <= EJECTED_MAX);
                    }
                }
                Step::Wait(seconds) => now += at(seconds),
            }
            prop_assert_eq!(hosts.hosts.len(), known.len());
            prop_assert!(hosts.ejected(now) <= known.len() / 2);
            prop_assert!(hosts.hosts.iter().all(|host| host.failures.len() <= FAILURES_MAX));
        }
    }

    #[test]
    fn a_round_has_everyone_once(count in 1_u8..20, start: usize, rounds in 1_usize..4) {
        let mut hosts = Hosts::new(start);
        let all: Vec<_> = (0..count).map(host).collect();
        hosts.set(&all, at(0));
        for _ in 0..rounds {
            let round: HashSet<_> = all.iter().filter_map(|_| hosts.pick(&[], at(0))).collect();
            prop_assert_eq!(round.len(), all.len());
        }
    }
}
