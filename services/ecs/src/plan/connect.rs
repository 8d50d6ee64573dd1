//! Who may have which endpoint of a namespace, what a task is told of them, and which are nobody's any more. Pure.

use std::collections::BTreeMap;

use ferrogate_nodeapi::{
    AccessLogFormat, Connect, ConnectAccessLog, ConnectClient, ConnectLogs, ConnectServer, Split, TestTraffic,
};
use jiff::{SignedDuration, Timestamp};

use crate::state::connect::{Endpoint, EndpointRecord, NamespaceRecord, TestHeader};
use crate::state::service::{ServiceKey, Spec};

/// Of one namespace: its record and what a task is told are read and written whole.
pub(crate) const ENDPOINTS_MAX: usize = 1000;
/// A call that claimed an endpoint and did not write its service by then has failed.
const CLAIM_KEPT: SignedDuration = SignedDuration::from_secs(60);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Conflict {
    /// Another service has an endpoint of this name.
    Name(String),
    /// Another service has this client alias.
    Alias {
        dns_name: String,
        port: u16,
        service: String,
    },
    Full,
}

/// Gives the Cloud Map services that are being deleted under these names: they have to be gone before new ones are made.
pub(crate) fn claim(
    record: &mut NamespaceRecord,
    owner: &ServiceKey,
    endpoints: &[Endpoint],
    now: Timestamp,
) -> Result<Vec<String>, Conflict> {
    let mut leaving = Vec::new();
    for endpoint in endpoints {
        let there = record.endpoints.get(&endpoint.discovery_name);
        leaving.extend(there.filter(|one| one.leaving).and_then(|one| one.service_id.clone()));
        let before = there.filter(|one| !one.leaving);
        if before.is_some_and(|one| !one.is_of(owner)) {
            return Err(Conflict::Name(endpoint.discovery_name.clone()));
        }
        let others = record.endpoints.values().filter(|one| !one.leaving && !one.is_of(owner));
        if let Some(taken) = others.into_iter().find(|one| one.has_alias(&endpoint.dns_name, endpoint.port)) {
            return Err(Conflict::Alias {
                dns_name: endpoint.dns_name.clone(),
                port: endpoint.port,
                service: taken.service.clone(),
            });
        }
        let claimed = EndpointRecord {
            cluster: owner.cluster.clone(),
            service: owner.name.clone(),
            claimed_at: now,
            dns_name: endpoint.dns_name.clone(),
            port: endpoint.port,
            service_id: before.and_then(|one| one.service_id.clone()),
            offered: before.and_then(|one| one.offered.clone()),
            leaving: false,
        };
        record.endpoints.insert(endpoint.discovery_name.clone(), claimed);
    }
    if record.endpoints.len() > ENDPOINTS_MAX { Err(Conflict::Full) } else { Ok(leaving) }
}

/// A new deployment of `owner` brings these out. What of its own had one of their aliases gives it up.
pub(crate) fn offer(
    record: &mut NamespaceRecord,
    owner: &ServiceKey,
    endpoints: &[Endpoint],
    now: Timestamp,
) {
    for endpoint in endpoints {
        for (name, other) in &mut record.endpoints {
            let has_it = |one: &ConnectClient| one.dns_name == endpoint.dns_name && one.port == endpoint.port;
            if *name != endpoint.discovery_name
                && other.is_of(owner)
                && other.offered.as_ref().is_some_and(has_it)
            {
                other.offered = None;
            }
        }
        let offered = EndpointRecord {
            cluster: owner.cluster.clone(),
            service: owner.name.clone(),
            claimed_at: now,
            dns_name: endpoint.dns_name.clone(),
            port: endpoint.port,
            service_id: Some(endpoint.service_id.clone()),
            offered: Some(endpoint.client()),
            leaving: false,
        };
        match record.endpoints.get_mut(&endpoint.discovery_name) {
            Some(one) => *one = EndpointRecord { claimed_at: one.claimed_at, ..offered },
            None => drop(record.endpoints.insert(endpoint.discovery_name.clone(), offered)),
        }
    }
}

/// What a deployment that is made now can call.
pub(crate) fn clients(record: &NamespaceRecord) -> Vec<ConnectClient> {
    record.endpoints.values().filter(|one| !one.leaving).filter_map(|one| one.offered.clone()).collect()
}

/// The proxy's, which is no container: so its log streams are called. Of a service revision, as ECS names it, with five
/// letters and digits that say nothing.
pub(crate) fn proxy_name(revision: &str) -> String {
    const ALPHABET: &[u8] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let number =
        revision.bytes().fold(0u64, |number, byte| number.wrapping_mul(31).wrapping_add(byte.into()));
    let base = ALPHABET.len() as u64;
    let digit = |place: u32| char::from(ALPHABET[(number / base.pow(place) % base) as usize]);
    format!("ecs-service-connect-{}", (0..5).map(digit).collect::<String>())
}

/// What a task of this revision is told.
pub(crate) fn of_task(spec: &Spec, clients: &[ConnectClient], logs: Option<ConnectLogs>) -> Option<Connect> {
    let membership = spec.membership()?;
    let server = |one: &Endpoint| {
        Some(ConnectServer {
            discovery_name: one.discovery_name.clone(),
            ingress_port: one.ingress_port?,
            container_port: one.container_port,
            protocol: one.protocol,
            timeouts: one.timeouts,
        })
    };
    Some(Connect {
        clients: clients.to_vec(),
        servers: membership.endpoints.iter().filter_map(server).collect(),
        logs,
        access_log: access_log(spec),
    })
}

fn access_log(spec: &Spec) -> Option<ConnectAccessLog> {
    let asked = spec.connect.as_ref()?.configuration.access_log_configuration.as_ref()?;
    let is_json = asked.format.as_deref() == Some("JSON");
    Some(ConnectAccessLog {
        format: if is_json { AccessLogFormat::Json } else { AccessLogFormat::Text },
        query: asked.include_query_parameters.as_deref() == Some("ENABLED"),
    })
}

/// How the revisions of a service share one of its endpoints. `production` and `test`: tenths of a percent by deployment, `revision`: of a deployment;
/// `header`: of the one that is tested.
pub(crate) fn split<'a>(
    production: &[(String, u32)],
    test: &[(String, u32)],
    revision: impl Fn(&str) -> Option<&'a str>,
    header: impl Fn(&str) -> Option<TestHeader>,
) -> Split {
    let shares = production.iter().filter_map(|(id, share)| Some((revision(id)?.to_owned(), *share)));
    let production: BTreeMap<String, u32> = shares.collect();
    let tested = test.iter().find(|(_, share)| *share > 0).map(|(id, _)| id);
    let test = tested.and_then(|id| {
        let (revision, header) = (revision(id)?, header(id)?);
        Some(TestTraffic { revision: revision.to_owned(), header: header.name, value: header.exact })
    });
    // Whoever has all of it has the tests as well.
    let test = test.filter(|test| production.get(&test.revision) != Some(&1000));
    Split { production, test }
}

/// What one service has of a namespace, by discovery name.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Use {
    /// What the service deploys now.
    pub current: BTreeMap<String, Endpoint>,
    /// Of other deployments that have tasks.
    pub live: Vec<String>,
    /// Of deployments that are over and can be rolled back to.
    pub kept: Vec<String>,
}

enum Used {
    Now(Endpoint),
    ByTasks,
    ForRollback,
    Not,
}

impl Use {
    fn of(&self, name: &str) -> Used {
        if let Some(endpoint) = self.current.get(name) {
            Used::Now(endpoint.clone())
        } else if self.live.iter().any(|one| one == name) {
            Used::ByTasks
        } else if self.kept.iter().any(|one| one == name) {
            Used::ForRollback
        } else {
            Used::Not
        }
    }
}

/// Brings the record to what the services use. Gives `true` while there is something that has to be looked at again.
pub(crate) fn tidy(
    record: &mut NamespaceRecord,
    uses: impl Fn(&EndpointRecord) -> Use,
    now: Timestamp,
) -> bool {
    let mut again = false;
    for (name, one) in &mut record.endpoints {
        if one.leaving {
            again = true;
            continue;
        }
        let fresh = now.duration_since(one.claimed_at) < CLAIM_KEPT;
        match uses(one).of(name) {
            // After a rollback it is another one than was offered.
            Used::Now(current) if fresh => {
                again |= !one.is_claimed_as(&current.dns_name, current.port);
                one.offered = Some(current.client());
            }
            Used::Now(current) => {
                one.offered = Some(current.client());
                (one.dns_name, one.port) = (current.dns_name.clone(), current.port);
            }
            Used::ByTasks => {}
            Used::ForRollback => one.offered = None,
            Used::Not if fresh && one.offered.is_none() => again = true,
            Used::Not => {
                (one.leaving, one.offered) = (true, None);
                again = true;
            }
        }
    }
    again
}

#[cfg(test)]
mod tests {
    use ferrogate_nodeapi::{AppProtocol, ConnectTimeouts};

    use super::*;
    use crate::state::Scope;
    use crate::state::connect::{ConnectSpec, Membership};

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    fn owner(name: &str) -> ServiceKey {
        ServiceKey::new(&Scope::new("1", "r"), "c", name)
    }

    fn endpoint(name: &str, dns_name: &str, port: u16) -> Endpoint {
        Endpoint {
            discovery_name: name.into(),
            service_id: format!("srv-{name}"),
            dns_name: dns_name.into(),
            port,
            container_port: 8080,
            ingress_port: None,
            protocol: AppProtocol::Http,
            timeouts: ConnectTimeouts::default(),
            test_header: None,
        }
    }

    fn offered(owner_: &str, endpoints: &[Endpoint]) -> NamespaceRecord {
        let mut record = NamespaceRecord::default();
        claim(&mut record, &owner(owner_), endpoints, at(0)).unwrap();
        offer(&mut record, &owner(owner_), endpoints, at(0));
        record
    }

    fn names(record: &NamespaceRecord) -> Vec<String> {
        clients(record).into_iter().map(|one| one.discovery_name).collect()
    }

    #[test]
    fn proxies_are_told_who_gets_what_and_who_is_tested() {
        let shares = |blue: u32, green: u32| vec![("b".to_owned(), blue), ("g".to_owned(), green)];
        let revision = |id: &str| ["b", "g"].contains(&id).then_some(if id == "b" { "1" } else { "2" });
        let header = |_: &str| Some(TestHeader { name: "x".into(), exact: None });
        let told = split(&shares(900, 100), &shares(0, 1000), revision, header);
        assert_eq!(told.production, BTreeMap::from([("1".to_owned(), 900), ("2".to_owned(), 100)]));
        let test = told.test.unwrap();
        assert_eq!((test.revision.as_str(), test.header.as_str()), ("2", "x"));
        assert_eq!(split(&shares(0, 1000), &shares(0, 1000), revision, header).test, None);
        assert_eq!(split(&shares(1000, 0), &shares(0, 1000), revision, |_| None).test, None);
        assert_eq!(split(&shares(1000, 0), &[], revision, header).test, None);
        assert_eq!(split(&[("gone".to_owned(), 1000)], &[], |_| None, header), Split::default());
    }

    #[test]
    fn a_name_and_an_alias_are_one_services() {
        let mut record = offered("web", &[endpoint("web", "web", 80)]);
        let mut claim = |who: &str, one: Endpoint| claim(&mut record, &owner(who), &[one], at(1));
        assert_eq!(claim("other", endpoint("web", "x", 80)), Err(Conflict::Name("web".into())));
        let none = Vec::new();
        let taken = Conflict::Alias { dns_name: "web".into(), port: 80, service: "web".into() };
        assert_eq!(claim("other", endpoint("other", "web", 80)), Err(taken));
        assert_eq!(claim("other", endpoint("other", "web", 81)), Ok(none.clone()));
        assert_eq!(claim("web", endpoint("web", "web", 80)), Ok(none.clone()));
        assert_eq!(claim("web", endpoint("renamed", "web", 80)), Ok(none));
        // What is claimed and not written yet is offered to nobody.
        assert_eq!(names(&record), ["web"]);
    }

    #[test]
    fn a_renamed_endpoint_takes_its_alias_along() {
        let mut record = offered("web", &[endpoint("old", "web", 80)]);
        offer(&mut record, &owner("web"), &[endpoint("new", "web", 80)], at(1));
        assert_eq!(names(&record), ["new"]);
    }

    #[test]
    fn what_nobody_uses_leaves() {
        let all =
            [endpoint("a", "a", 80), endpoint("b", "b", 80), endpoint("c", "c", 80), endpoint("d", "d", 80)];
        let mut record = offered("web", &all);
        let moved = endpoint("a", "elsewhere", 81);
        let used = Use {
            current: BTreeMap::from([("a".into(), moved.clone())]),
            live: vec!["b".into()],
            kept: vec!["c".into()],
        };
        assert!(tidy(&mut record, |_| used.clone(), at(1)));
        assert_eq!(record.endpoints["a"].offered, Some(moved.client()));
        assert_eq!(names(&record), ["a", "b"]);
        assert!(!record.endpoints["c"].leaving);
        assert!(record.endpoints["d"].leaving);
        // Whoever comes while it leaves gets it.
        let gone = claim(&mut record, &owner("other"), &[endpoint("d", "d", 80)], at(1)).unwrap();
        assert_eq!(gone, ["srv-d"]);
        assert_eq!((record.endpoints["d"].leaving, &record.endpoints["d"].service_id), (false, &None));
    }

    #[test]
    fn a_claim_lasts_a_minute() {
        let mut record = NamespaceRecord::default();
        claim(&mut record, &owner("web"), &[endpoint("a", "a", 80)], at(0)).unwrap();
        assert!(tidy(&mut record, |_| Use::default(), at(59)));
        assert!(!record.endpoints["a"].leaving);
        assert!(tidy(&mut record, |_| Use::default(), at(60)));
        assert!(record.endpoints["a"].leaving);
        let mut used = offered("web", &[endpoint("a", "a", 80)]);
        let current = BTreeMap::from([("a".into(), endpoint("a", "a", 80))]);
        assert!(!tidy(&mut used, |_| Use { current: current.clone(), ..Use::default() }, at(600)));
    }

    #[test]
    fn only_ports_with_an_override_are_called_through_the_proxy() {
        let through = Endpoint { ingress_port: Some(9000), ..endpoint("b", "b", 80) };
        let membership =
            Membership { namespace_id: "ns-1".into(), endpoints: vec![endpoint("a", "a", 80), through] };
        let connect = ConnectSpec { configuration: Default::default(), membership: Some(membership) };
        let spec = Spec { connect: Some(connect), ..Spec::default() };
        let told = of_task(&spec, &[endpoint("z", "z", 80).client()], None).unwrap();
        assert_eq!(told.clients.len(), 1);
        let servers: Vec<(u16, u16)> =
            told.servers.iter().map(|one| (one.ingress_port, one.container_port)).collect();
        assert_eq!(servers, [(9000, 8080)]);
        assert_eq!(of_task(&Spec::default(), &[], None), None);
    }
}
