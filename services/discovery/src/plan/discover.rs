//! Which instances DiscoverInstances gives.

use std::collections::BTreeMap;

use crate::state::InstanceRecord;

pub(crate) struct Question<'a> {
    /// `HEALTHY`, `UNHEALTHY`, `ALL`, `HEALTHY_OR_ELSE_ALL`
    pub health: &'a str,
    pub query: &'a BTreeMap<String, String>,
    pub optional: &'a BTreeMap<String, String>,
}

/// Those that match all parameters; if any of them matches the optional ones as well, only such. `checked`: the service
/// has a health check; the status is not looked at where there is none.
pub(crate) fn discover(
    instances: Vec<InstanceRecord>,
    checked: bool,
    question: &Question<'_>,
) -> Vec<InstanceRecord> {
    let has = |instance: &InstanceRecord, wanted: &BTreeMap<String, String>| {
        wanted.iter().all(|(key, value)| instance.attributes.get(key) == Some(value))
    };
    let mut found = instances;
    found.retain(|instance| has(instance, question.query));
    if found.iter().any(|instance| has(instance, question.optional)) {
        found.retain(|instance| has(instance, question.optional));
    }
    if !checked {
        return found;
    }
    match question.health {
        "HEALTHY" => found.retain(|instance| instance.healthy),
        "UNHEALTHY" => found.retain(|instance| !instance.healthy),
        "HEALTHY_OR_ELSE_ALL" if found.iter().any(|instance| instance.healthy) => {
            found.retain(|instance| instance.healthy);
        }
        _ => {}
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    fn ids(
        healthy: [bool; 3],
        checked: bool,
        health: &str,
        query: &[(&str, &str)],
        optional: &[(&str, &str)],
    ) -> String {
        let instance = |(id, healthy): (&str, bool)| InstanceRecord {
            id: id.into(),
            attributes: map(&[("zone", if id == "a" { "1" } else { "2" }), ("id", id)]),
            creator_request_id: None,
            healthy,
            operation_id: String::new(),
        };
        let instances = ["a", "b", "c"].into_iter().zip(healthy).map(instance).collect();
        let (query, optional) = (&map(query), &map(optional));
        let found = discover(instances, checked, &Question { health, query, optional });
        found.into_iter().map(|instance| instance.id).collect()
    }

    #[test]
    fn health() {
        let some = [true, false, true];
        assert_eq!(ids(some, true, "HEALTHY", &[], &[]), "ac");
        assert_eq!(ids(some, true, "UNHEALTHY", &[], &[]), "b");
        assert_eq!(ids(some, true, "ALL", &[], &[]), "abc");
        assert_eq!(ids(some, true, "HEALTHY_OR_ELSE_ALL", &[], &[]), "ac");
        assert_eq!(ids([false; 3], true, "HEALTHY_OR_ELSE_ALL", &[], &[]), "abc");
        assert_eq!(ids(some, false, "UNHEALTHY", &[], &[]), "abc");
    }

    #[test]
    fn parameters() {
        let all = [true; 3];
        assert_eq!(ids(all, true, "ALL", &[("zone", "2")], &[]), "bc");
        assert_eq!(ids(all, true, "ALL", &[("zone", "2")], &[("id", "c")]), "c");
        assert_eq!(ids(all, true, "ALL", &[("zone", "2")], &[("id", "a")]), "bc");
        assert_eq!(ids(all, true, "ALL", &[("none", "2")], &[]), "");
    }
}
