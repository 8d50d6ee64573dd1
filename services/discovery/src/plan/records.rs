//! The record sets of a service's instances, and the way there from those a zone has.

use std::collections::BTreeMap;

use ferrogate_api::route53::{Change, ResourceRecord, ResourceRecordSet};

use super::attributes::{CNAME, IPV4, IPV6, PORT};
use crate::state::{DnsSettings, InstanceRecord, ServiceRecord};

/// Every instance of a weighted service has this weight.
const WEIGHT: i64 = 1;

/// (name, type, set identifier)
pub(crate) type SetId = (String, String, Option<String>);

/// Names as Route 53 shows them.
fn shown(name: &str) -> String {
    format!("{}.", name.trim_end_matches('.').to_lowercase())
}

pub(crate) fn service_name(service: &ServiceRecord, namespace: &str) -> String {
    shown(&format!("{}.{namespace}", service.name))
}

pub(crate) fn id_of(set: &ResourceRecordSet) -> SetId {
    (set.name.clone().unwrap_or_default(), set.r#type.clone().unwrap_or_default(), set.set_identifier.clone())
}

/// Whose record set it is: of the service's own name, or of one of its instances' below it.
pub(crate) fn belongs(set: &ResourceRecordSet, service_name: &str) -> bool {
    let name = set.name.as_deref().unwrap_or_default();
    name == service_name || name.strip_suffix(service_name).is_some_and(|rest| rest.ends_with('.'))
}

/// Whether the record set is of this instance of the service.
pub(crate) fn of_instance(set: &ResourceRecordSet, service_name: &str, instance_id: &str) -> bool {
    set.set_identifier.as_deref() == Some(instance_id)
        || set.name.as_deref() == Some(&own_name(instance_id, service_name))
}

fn own_name(instance_id: &str, service_name: &str) -> String {
    shown(&format!("{instance_id}.{service_name}"))
}

/// All that the service's healthy instances shall have.
pub(crate) fn wanted(
    service: &ServiceRecord,
    namespace: &str,
    instances: &[InstanceRecord],
) -> BTreeMap<SetId, ResourceRecordSet> {
    let Some(dns) = &service.dns else { return BTreeMap::new() };
    let name = service_name(service, namespace);
    let sets =
        instances.iter().filter(|instance| instance.healthy).flat_map(|instance| of(dns, &name, instance));
    sets.map(|set| (id_of(&set), set)).collect()
}

fn of(dns: &DnsSettings, name: &str, instance: &InstanceRecord) -> Vec<ResourceRecordSet> {
    let attribute = |key: &str| instance.attributes.get(key).cloned();
    let own_name = own_name(&instance.id, name);
    let mut sets = Vec::new();
    for (kind, ttl_seconds) in &dns.records {
        let value = match kind.as_str() {
            "A" => attribute(IPV4),
            "AAAA" => attribute(IPV6),
            "CNAME" => attribute(CNAME),
            _ => attribute(PORT).map(|port| format!("1 1 {port} {own_name}")),
        };
        let Some(value) = value else { continue };
        sets.push(ResourceRecordSet {
            set_identifier: Some(instance.id.clone()),
            weight: dns.weighted.then_some(WEIGHT),
            multi_value_answer: (!dns.weighted).then_some(true),
            ..set(name, kind, *ttl_seconds, value)
        });
        if kind == "SRV" {
            let addresses = [("A", attribute(IPV4)), ("AAAA", attribute(IPV6))];
            for (kind, address) in addresses {
                sets.extend(address.map(|address| set(&own_name, kind, *ttl_seconds, address)));
            }
        }
    }
    sets
}

fn set(name: &str, kind: &str, ttl_seconds: u32, value: String) -> ResourceRecordSet {
    ResourceRecordSet {
        name: Some(name.to_owned()),
        r#type: Some(kind.to_owned()),
        ttl: Some(i64::from(ttl_seconds)),
        resource_records: Some(vec![ResourceRecord { value: Some(value) }]),
        ..Default::default()
    }
}

/// What has to be changed. Deletions come first: a name may change its type.
pub(crate) fn changes(
    there: &BTreeMap<SetId, ResourceRecordSet>,
    wanted: &BTreeMap<SetId, ResourceRecordSet>,
) -> Vec<Change> {
    let change = |action: &str, set: &ResourceRecordSet| Change {
        action: Some(action.to_owned()),
        resource_record_set: Some(set.clone()),
    };
    let gone = there.iter().filter(|(id, _)| !wanted.contains_key(*id)).map(|(_, set)| change("DELETE", set));
    let new =
        wanted.iter().filter(|(id, set)| there.get(*id) != Some(*set)).map(|(_, set)| change("UPSERT", set));
    gone.chain(new).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::Timestamp;

    fn service(weighted: bool, records: &[&str]) -> ServiceRecord {
        let records = records.iter().map(|kind| ((*kind).to_owned(), 10)).collect();
        ServiceRecord {
            id: "srv-1".into(),
            name: "Web".into(),
            namespace_id: "ns-1".into(),
            description: None,
            dns: Some(DnsSettings { weighted, records }),
            custom_health: true,
            creator_request_id: String::new(),
            created_at: Timestamp::UNIX_EPOCH,
            attributes: BTreeMap::new(),
            tags: BTreeMap::new(),
        }
    }

    fn instance(id: &str, healthy: bool) -> InstanceRecord {
        let attributes =
            [(IPV4, "10.0.0.1"), (PORT, "80")].map(|(key, value)| (key.to_owned(), value.to_owned()));
        InstanceRecord {
            id: id.into(),
            attributes: attributes.into(),
            creator_request_id: None,
            healthy,
            operation_id: String::new(),
        }
    }

    #[test]
    fn sets_of_healthy_instances() {
        let sets = wanted(
            &service(false, &["A", "SRV"]),
            "Example.local",
            &[instance("i1", true), instance("i2", false)],
        );
        let ids: Vec<_> =
            sets.keys().map(|(name, kind, id)| (name.as_str(), kind.as_str(), id.as_deref())).collect();
        assert_eq!(
            ids,
            [
                ("i1.web.example.local.", "A", None),
                ("web.example.local.", "A", Some("i1")),
                ("web.example.local.", "SRV", Some("i1")),
            ]
        );
        let srv = &sets[&("web.example.local.".into(), "SRV".into(), Some("i1".into()))];
        let value = srv.resource_records.as_ref().unwrap()[0].value.as_deref();
        assert_eq!(value, Some("1 1 80 i1.web.example.local."));
        assert_eq!((srv.multi_value_answer, srv.weight), (Some(true), None));
        assert!(sets.values().all(|set| belongs(set, "web.example.local.")));
        assert!(!belongs(&set("otherweb.example.local.", "A", 1, String::new()), "web.example.local."));
    }

    #[test]
    fn changes_lead_from_one_to_the_other() {
        let before = wanted(&service(true, &["A"]), "x", &[instance("i1", true), instance("i2", true)]);
        let after = wanted(&service(true, &["A"]), "x", &[instance("i2", true), instance("i3", true)]);
        let actions: Vec<_> = changes(&before, &after)
            .into_iter()
            .map(|change| {
                (change.action.unwrap(), change.resource_record_set.unwrap().set_identifier.unwrap())
            })
            .collect();
        assert_eq!(actions, [("DELETE".to_owned(), "i1".to_owned()), ("UPSERT".into(), "i3".into())]);
        assert!(changes(&after, &after).is_empty());
    }
}
