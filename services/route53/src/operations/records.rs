//! Record sets of a zone.

use std::collections::BTreeMap;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;

use ferrogate_api::route53::*;
use ferrogate_api::{ApiError, Context};
use ferrogate_dns::{Index, Lookup, Vpc};
use ferrogate_nodeapi::{Names, Zone};
use ferrogate_store::{Json, range_json};

use super::balancers;
use super::changes::submitted;
use super::page_size;
use super::zones::check_owner;
use crate::plan::batch::{self, Action, Known};
use crate::plan::names::published;
use crate::plan::set;
use crate::state::{SetRecord, ZoneRecord, set_key, sets_prefix};
use crate::{Route53Service, errors};

const PAGE_MAX: usize = 300;
/// ResourceRecord elements of one request; those of an UPSERT count twice.
const ELEMENTS_MAX: usize = 1000;
/// Characters of all values of one request.
const CHARACTERS_MAX: usize = 32_000;
/// "Records per hosted zone" of the quotas.
const SETS_MAX: usize = 10_000;

pub(crate) async fn change(
    service: &Route53Service,
    cx: &Context,
    input: ChangeResourceRecordSetsRequest,
) -> Result<ChangeResourceRecordSetsResponse, ApiError> {
    let found = service.zone(cx, input.hosted_zone_id.as_deref())?.record;
    check_owner(cx, &found)?;
    let given = input.change_batch.unwrap_or_default();
    let changes = read(given.changes.unwrap_or_default())?;
    let balancers = balancers::of(service, cx, &changes).await?;
    let comment = given.comment;
    let change_id = service
        .change_zone(cx, Some(&found.id), comment.clone(), |zone, mut txn| {
            let known = known(service, cx, zone, &changes);
            let outcome = batch::decide(zone, known, &changes, &balancers)
                .map_err(|wrong| errors::invalid_batch(&wrong))?;
            if outcome.count > SETS_MAX {
                return Err(errors::limit(format!("A hosted zone has {SETS_MAX} record sets at most.")));
            }
            for (id, set) in &outcome.puts {
                let key = set_key(&cx.account, &zone.id, id);
                txn = match set {
                    Some(set) => txn.put_json(key, set),
                    None => txn.delete(key),
                };
            }
            let record_count = u32::try_from(outcome.count).unwrap_or(u32::MAX);
            let inner_aliases = outcome.inner_aliases.and_then(|count| u32::try_from(count).ok());
            Ok((Some(ZoneRecord { record_count, inner_aliases, ..zone.clone() }), txn))
        })
        .await?;
    Ok(ChangeResourceRecordSetsResponse { change_info: Some(submitted(cx, &change_id, comment)) })
}

/// What a batch has to do with: as much of the zone as the batch is long. Only where something is removed and there are
/// aliases within the zone, all keys are gone through for them.
fn known(
    service: &Route53Service,
    cx: &Context,
    zone: &ZoneRecord,
    changes: &[(Action, SetRecord)],
) -> Known {
    let store = &*service.store;
    let of_zone = sets_prefix(&cx.account, &zone.id);
    let mut sets = BTreeMap::new();
    for name in batch::names(zone, changes) {
        let found = range_json::<SetRecord>(store, &format!("{of_zone}{name}/"));
        // What follows a slash in a longer name is no type of this one.
        let here = found.into_iter().map(|found| found.record).filter(|set| set.name == name);
        sets.extend(here.map(|set| (set.id(), set)));
    }
    let count = zone.record_count as usize;
    let mut inner_aliases = zone.inner_aliases.map(|count| count as usize);
    if inner_aliases != Some(0) && batch::removes(changes) {
        let all = store.range(&of_zone);
        // Those that cannot be one are not read.
        let may_be = all.iter().filter(|kv| memchr::memmem::find(&kv.value, b"\"alias\"").is_some());
        let found = may_be.filter_map(Json::<SetRecord>::parse).map(|found| found.record);
        let found: Vec<SetRecord> = found.filter(|set| batch::is_inner_alias(&zone.id, set)).collect();
        inner_aliases = Some(found.len());
        sets.extend(found.into_iter().map(|set| (set.id(), set)));
    }
    Known { sets, count, inner_aliases }
}

fn read(changes: Vec<Change>) -> Result<Vec<(Action, SetRecord)>, ApiError> {
    let (mut elements, mut characters) = (0, 0);
    let mut read = Vec::new();
    for change in changes {
        let word = change.action.unwrap_or_default();
        let action = match word.as_str() {
            "CREATE" => Action::Create,
            "DELETE" => Action::Delete,
            _ => Action::Upsert,
        };
        let set = set::read(change.resource_record_set.unwrap_or_default(), &word)?;
        let times = if action == Action::Upsert { 2 } else { 1 };
        elements += times * set.values.len().max(1);
        characters += times * set.values.iter().map(String::len).sum::<usize>();
        read.push((action, set));
    }
    if elements > ELEMENTS_MAX {
        let words = format!("Number of records limit of {ELEMENTS_MAX} exceeded.");
        return Err(errors::invalid_batch(&[words]));
    }
    if characters > CHARACTERS_MAX {
        let words = format!("Number of characters limit of {CHARACTERS_MAX} exceeded.");
        return Err(errors::invalid_batch(&[words]));
    }
    Ok(read)
}

/// As lists are sorted: by name from its last label, by type, by identifier.
fn place(set: &SetRecord) -> (Vec<&str>, &str, &str) {
    (set::order(&set.name), &set.kind, set.set_identifier.as_deref().unwrap_or_default())
}

pub(crate) async fn list(
    service: &Route53Service,
    cx: &Context,
    input: ListResourceRecordSetsRequest,
) -> Result<ListResourceRecordSetsResponse, ApiError> {
    let zone = service.zone(cx, input.hosted_zone_id.as_deref())?.record;
    let size = page_size(input.max_items.as_deref(), PAGE_MAX)?;
    if input.start_record_name.is_none() && input.start_record_type.is_some() {
        return Err(errors::invalid_input("The StartRecordType is given without a StartRecordName."));
    }
    if input.start_record_type.is_none() && input.start_record_identifier.is_some() {
        return Err(errors::invalid_input("The StartRecordIdentifier is given without a StartRecordType."));
    }
    let mut sets = service.sets(cx, &zone.id);
    sets.sort_by(|one, other| place(one).cmp(&place(other)));
    if let Some(name) = &input.start_record_name {
        let name = ferrogate_dns::normal(name).map_err(|_| errors::invalid_domain(name))?;
        let kind = input.start_record_type.unwrap_or_default();
        let identifier = input.start_record_identifier.unwrap_or_default();
        sets.retain(|set| place(set) >= (set::order(&name), kind.as_str(), identifier.as_str()));
    }
    let next = if sets.len() > size { sets.drain(size..).next() } else { None };
    Ok(ListResourceRecordSetsResponse {
        resource_record_sets: Some(sets.into_iter().map(set::shape).collect()),
        is_truncated: Some(next.is_some()),
        next_record_name: next.as_ref().map(|set| set::shown(&set.name)),
        next_record_type: next.as_ref().map(|set| set.kind.clone()),
        next_record_identifier: next.and_then(|set| set.set_identifier),
        max_items: Some(size.to_string()),
    })
}

/// What resolvers would answer from this zone alone.
pub(crate) async fn test_answer(
    service: &Route53Service,
    cx: &Context,
    input: TestDNSAnswerRequest,
) -> Result<TestDNSAnswerResponse, ApiError> {
    for (present, what) in [
        (input.resolver_ip.is_some(), "ResolverIP"),
        (input.edns0_client_subnet_ip.is_some(), "EDNS0ClientSubnetIP"),
        (input.edns0_client_subnet_mask.is_some(), "EDNS0ClientSubnetMask"),
    ] {
        if present {
            return Err(errors::unsupported(what));
        }
    }
    let zone = service.zone(cx, input.hosted_zone_id.as_deref())?.record;
    let name = input.record_name.unwrap_or_default();
    let kind = input.record_type.unwrap_or_default();
    let records = service.sets(cx, &zone.id).into_iter().map(published).collect();
    let alone = Zone { name: zone.name, vpc_ids: None, records };
    let index = Index::new(Arc::new(Names { revision: 1, zones: vec![alone] }));
    let random = RandomState::new().build_hasher().finish();
    let found = Lookup::of(&index, &Vpc::default(), &name, &kind, random)
        .map_err(|error| errors::invalid_input(format!("RecordName {name}, RecordType {kind}: {error}")))?;
    Ok(TestDNSAnswerResponse {
        nameserver: zone.name_servers.into_iter().next(),
        record_name: Some(name),
        record_type: Some(kind),
        record_data: Some(found.values()),
        response_code: Some(
            if found.elsewhere.is_some() && found.answers.is_empty() { "REFUSED" } else { found.code() }
                .into(),
        ),
        protocol: Some("UDP".into()),
    })
}
