//! Where the instances of services are, as Service Connect is told.

use std::collections::BTreeMap;

use ferrogate_control::Index;
use ferrogate_nodeapi::{Endpoint, Endpoints, REVISION_ATTRIBUTE, SPLIT_ATTRIBUTE, Split};

use super::attributes::{IPV4, PORT};
use crate::state::{self, InstanceRecord, ServiceRecord};

/// All instances that can be called: by service id and instance id; and how revisions share a service.
#[derive(Debug, Default)]
pub(crate) struct EndpointsIndex {
    callable: BTreeMap<(String, String), Endpoint>,
    /// By service id.
    splits: BTreeMap<String, Split>,
}

impl Index for EndpointsIndex {
    type Value = Endpoints;

    fn concerns(key: &str) -> bool {
        state::instance_of_key(key).is_some() || state::service_of_key(key).is_some()
    }

    fn put(&mut self, key: &str, value: &[u8]) -> Result<(), serde_json::Error> {
        if let Some(service) = state::service_of_key(key) {
            let split = split(&serde_json::from_slice(value)?);
            match split {
                Some(split) => drop(self.splits.insert(service.to_owned(), split)),
                None => drop(self.splits.remove(service)),
            }
            return Ok(());
        }
        let Some(place) = place(key) else { return Ok(()) };
        match endpoint(serde_json::from_slice(value)?) {
            Some(endpoint) => drop(self.callable.insert(place, endpoint)),
            None => drop(self.callable.remove(&place)),
        }
        Ok(())
    }

    fn delete(&mut self, key: &str) {
        if let Some(service) = state::service_of_key(key) {
            self.splits.remove(service);
        }
        if let Some(place) = place(key) {
            self.callable.remove(&place);
        }
    }

    /// Sorted by instance id; without the services that have none.
    fn plan(&self, revision: u64) -> Endpoints {
        let mut services: BTreeMap<String, Vec<Endpoint>> = BTreeMap::new();
        for ((service_id, _), endpoint) in &self.callable {
            services.entry(service_id.clone()).or_default().push(endpoint.clone());
        }
        Endpoints { revision, services, splits: self.splits.clone() }
    }

    /// Most changes of instances leave them where they are.
    fn is_news(before: &Endpoints, after: &Endpoints) -> bool {
        (&before.services, &before.splits) != (&after.services, &after.splits)
    }
}

fn place(key: &str) -> Option<(String, String)> {
    state::instance_of_key(key).map(|(service, instance)| (service.to_owned(), instance.to_owned()))
}

/// `None`: it is not healthy, or not to be reached by address and port.
fn endpoint(record: InstanceRecord) -> Option<Endpoint> {
    let attribute = |key: &str| record.attributes.get(key);
    let address = attribute(IPV4)?.parse().ok()?;
    let port = attribute(PORT)?.parse().ok().filter(|port| *port != 0)?;
    let service_revision = attribute(REVISION_ATTRIBUTE).cloned();
    record.healthy.then_some(Endpoint { instance_id: record.id, address, port, service_revision })
}

/// What cannot be read is somebody else's attribute of that name.
fn split(record: &ServiceRecord) -> Option<Split> {
    serde_json::from_str(record.attributes.get(SPLIT_ATTRIBUTE)?).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const KEY: &str = "/servicediscovery/1/eu-west-1/instance/srv-1/";

    fn put(index: &mut EndpointsIndex, id: &str, healthy: bool, attributes: &[(&str, &str)]) {
        let attributes =
            attributes.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let record = InstanceRecord {
            id: id.into(),
            attributes,
            creator_request_id: None,
            healthy,
            operation_id: String::new(),
        };
        index.put(&format!("{KEY}{id}"), &serde_json::to_vec(&record).unwrap()).unwrap();
    }

    fn ids(index: &EndpointsIndex) -> Vec<(String, u16)> {
        let found = index.plan(1).services.remove("srv-1").unwrap_or_default();
        found.into_iter().map(|endpoint| (endpoint.instance_id, endpoint.port)).collect()
    }

    #[test]
    fn instances_that_can_be_called() {
        let mut index = EndpointsIndex::default();
        let whole = [(IPV4, "10.0.0.1"), (PORT, "80")];
        for id in ["b", "a/slash", "c"] {
            put(&mut index, id, true, &whole);
        }
        put(&mut index, "ill", false, &whole);
        put(&mut index, "no-port", true, &whole[..1]);
        put(&mut index, "no-address", true, &whole[1..]);
        put(&mut index, "port-0", true, &[(IPV4, "10.0.0.1"), (PORT, "0")]);
        assert_eq!(ids(&index), [("a/slash".to_owned(), 80), ("b".to_owned(), 80), ("c".to_owned(), 80)]);

        put(&mut index, "b", false, &whole);
        put(&mut index, "c", true, &[(IPV4, "10.0.0.2"), (PORT, "81")]);
        index.delete(&format!("{KEY}a/slash"));
        assert!(index.put(&format!("{KEY}c"), b"{").is_err());
        assert_eq!(ids(&index), [("c".to_owned(), 81)], "what was known of one that cannot be read stays");
        index.delete(&format!("{KEY}c"));
        assert!(index.plan(2).services.is_empty());
    }

    #[test]
    fn how_revisions_share_a_service_is_its_attribute() {
        const KEY: &str = "/servicediscovery/1/eu-west-1/service/srv-1";
        let split = Split { production: [("7".to_owned(), 900), ("8".to_owned(), 100)].into(), test: None };
        let record = |attribute: &str| {
            let attributes = json!({ SPLIT_ATTRIBUTE: attribute });
            let record = json!({
                "id": "srv-1", "name": "web", "namespace_id": "ns-1", "custom_health": false,
                "creator_request_id": "x", "created_at": "2026-01-01T00:00:00Z", "attributes": attributes,
            });
            serde_json::to_vec(&record).unwrap()
        };
        let mut index = EndpointsIndex::default();
        let before = index.plan(1);
        index.put(KEY, &record(&serde_json::to_string(&split).unwrap())).unwrap();
        let after = index.plan(2);
        assert_eq!(after.splits.get("srv-1"), Some(&split));
        assert!(EndpointsIndex::is_news(&before, &after));
        index.put(KEY, &record("somebody's own")).unwrap();
        assert!(index.plan(3).splits.is_empty());
        index.put(KEY, &record(&serde_json::to_string(&split).unwrap())).unwrap();
        index.delete(KEY);
        assert!(index.plan(4).splits.is_empty());
    }

    #[test]
    fn keys_of_instances() {
        let concerns = EndpointsIndex::concerns;
        assert!(concerns("/servicediscovery/1/eu-west-1/instance/srv-1/i"));
        assert!(concerns("/servicediscovery/1/eu-west-1/service/srv-1"));
        for other in ["namespace/ns-1", "revision/srv-1", "instance/srv-1", "operation/instance/srv-1/i"] {
            assert!(!concerns(&format!("/servicediscovery/1/eu-west-1/{other}")), "{other}");
        }
        assert!(!concerns("/servicediscovery/jobs/1/instance/srv-1/i") && !concerns("/ecs/1/x/instance/a/b"));
    }
}
