//! Where the instances of services are, as Service Connect is told.

use std::collections::BTreeMap;

use ferrogate_control::Index;
use ferrogate_nodeapi::{Endpoint, Endpoints};

use super::attributes::{IPV4, PORT};
use crate::state::{self, InstanceRecord};

/// All instances that can be called: by service id and instance id.
#[derive(Debug, Default)]
pub(crate) struct EndpointsIndex {
    callable: BTreeMap<(String, String), Endpoint>,
}

impl Index for EndpointsIndex {
    type Value = Endpoints;

    fn concerns(key: &str) -> bool {
        state::instance_of_key(key).is_some()
    }

    fn put(&mut self, key: &str, value: &[u8]) -> Result<(), serde_json::Error> {
        let Some(place) = place(key) else { return Ok(()) };
        match endpoint(serde_json::from_slice(value)?) {
            Some(endpoint) => drop(self.callable.insert(place, endpoint)),
            None => drop(self.callable.remove(&place)),
        }
        Ok(())
    }

    fn delete(&mut self, key: &str) {
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
        Endpoints { revision, services }
    }

    /// Most changes of instances leave them where they are.
    fn is_news(before: &Endpoints, after: &Endpoints) -> bool {
        before.services != after.services
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
    record.healthy.then_some(Endpoint { instance_id: record.id, address, port })
}

#[cfg(test)]
mod tests {
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
    fn keys_of_instances() {
        let concerns = EndpointsIndex::concerns;
        assert!(concerns("/servicediscovery/1/eu-west-1/instance/srv-1/i"));
        for other in ["service/srv-1", "revision/srv-1", "instance/srv-1", "operation/instance/srv-1/i"] {
            assert!(!concerns(&format!("/servicediscovery/1/eu-west-1/{other}")), "{other}");
        }
        assert!(!concerns("/servicediscovery/jobs/1/instance/srv-1/i") && !concerns("/ecs/1/x/instance/a/b"));
    }
}
