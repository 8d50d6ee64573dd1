//! Which revision of a service a request or connection is for, while one takes another's place. Pure.
//!
//! A request with the test header goes to the revision that is tested, every other one by its share. Where the revision has no
//! instance that could be called, it goes to any that has production traffic: an exchange loses nothing. Instances without
//! a revision are no part of it and serve; those of a revision that is not named do where nobody else is.

use std::collections::HashMap;
use std::net::SocketAddrV4;

use ferrogate_nodeapi::{Endpoint, Split};
use http::HeaderMap;

/// Of one service: its instances' revisions and what each gets.
#[derive(Debug, PartialEq)]
pub struct Traffic {
    split: Split,
    revisions: HashMap<SocketAddrV4, String>,
}

impl Traffic {
    pub fn new(split: &Split, endpoints: &[Endpoint]) -> Self {
        let revision =
            |one: &Endpoint| Some((SocketAddrV4::new(one.address, one.port), one.service_revision.clone()?));
        Self { split: split.clone(), revisions: endpoints.iter().filter_map(revision).collect() }
    }

    /// The revision that this is for. `headers`: of a request; `random`: gives a number below what it is given.
    pub fn aim(&self, headers: Option<&HeaderMap>, random: impl FnOnce(u64) -> u64) -> Option<&str> {
        if let (Some(test), Some(headers)) = (&self.split.test, headers) {
            let wanted = |said: &http::HeaderValue| {
                test.value.as_ref().is_none_or(|value| said.as_bytes() == value.as_bytes())
            };
            if headers.get_all(test.header.as_str()).iter().any(wanted) {
                return Some(&test.revision);
            }
        }
        let all: u64 = self.split.production.values().copied().map(u64::from).sum();
        let mut at = random(all);
        for (revision, share) in &self.split.production {
            let share = u64::from(*share);
            if at < share {
                return Some(revision);
            }
            at -= share;
        }
        None
    }

    pub fn is_of(&self, address: &SocketAddrV4, revision: &str) -> bool {
        self.revisions.get(address).is_some_and(|of| of == revision)
    }

    /// It has production traffic.
    pub fn serves(&self, address: &SocketAddrV4) -> bool {
        let share = |revision| self.split.production.get(revision).is_some_and(|share| *share > 0);
        self.revisions.get(address).is_none_or(share)
    }

    /// Nothing is said of its revision: one that came after the split was made, or before it.
    pub fn is_beside(&self, address: &SocketAddrV4) -> bool {
        let named = |revision: &String| {
            let tested = self.split.test.as_ref().is_some_and(|test| test.revision == *revision);
            tested || self.split.production.contains_key(revision)
        };
        self.revisions.get(address).is_some_and(|revision| !named(revision))
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use ferrogate_nodeapi::TestTraffic;
    use http::HeaderValue;

    use super::*;

    fn at(number: u8) -> SocketAddrV4 {
        SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, number), 80)
    }

    fn traffic(blue: u32, green: u32, value: Option<&str>) -> Traffic {
        let endpoint = |number: u8, revision: &str| Endpoint {
            instance_id: number.to_string(),
            address: *at(number).ip(),
            port: 80,
            service_revision: Some(revision.to_owned()),
        };
        let test = TestTraffic {
            revision: "green".into(),
            header: "X-Test".into(),
            value: value.map(str::to_owned),
        };
        let production = [("blue".to_owned(), blue), ("green".to_owned(), green)].into();
        let split = Split { production, test: Some(test) };
        Traffic::new(&split, &[endpoint(1, "blue"), endpoint(2, "green")])
    }

    fn headers(value: &'static str) -> HeaderMap {
        [(http::HeaderName::from_static("x-test"), HeaderValue::from_static(value))].into_iter().collect()
    }

    #[test]
    fn tests_go_to_the_revision_that_is_tested_and_nothing_else_does() {
        let any = traffic(1000, 0, None);
        assert_eq!(any.aim(Some(&headers("whatever")), |_| unreachable!()), Some("green"));
        let exact = traffic(1000, 0, Some("yes"));
        assert_eq!(exact.aim(Some(&headers("yes")), |_| unreachable!()), Some("green"));
        for at in [0, 999] {
            assert_eq!(exact.aim(Some(&headers("no")), |_| at), Some("blue"));
            assert_eq!(exact.aim(Some(&HeaderMap::new()), |_| at), Some("blue"));
            assert_eq!(exact.aim(None, |_| at), Some("blue"), "a connection has no headers");
        }
    }

    #[test]
    fn production_goes_by_shares() {
        let traffic = traffic(900, 100, None);
        let counted = (0..1000).filter(|number| traffic.aim(None, |_| *number) == Some("green")).count();
        assert_eq!(counted, 100);
    }

    #[test]
    fn whoever_has_no_share_serves_nobody() {
        let traffic = traffic(1000, 0, None);
        assert!(traffic.serves(&at(1)) && !traffic.serves(&at(2)));
        assert!(traffic.serves(&at(3)), "it has no revision");
        assert!(![1, 2, 3].iter().any(|number| traffic.is_beside(&at(*number))));
        assert!(traffic.is_of(&at(2), "green") && !traffic.is_of(&at(2), "blue"));
        // A former split knows nothing of who is there now.
        let stale = Split { production: [("older".to_owned(), 1000)].into(), test: None };
        let endpoint = Endpoint {
            instance_id: "1".into(),
            address: *at(1).ip(),
            port: 80,
            service_revision: Some("newer".into()),
        };
        let stale = Traffic::new(&stale, &[endpoint]);
        assert!(stale.is_beside(&at(1)) && !stale.serves(&at(1)));
        let nobody = Traffic::new(&Split::default(), &[]);
        assert_eq!(nobody.aim(None, |below| below), None);
    }
}
