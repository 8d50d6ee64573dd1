use proptest::prelude::*;

use super::*;
use crate::state::AliasRecord;

const NAMES: [&str; 5] =
    ["example.org", "a.example.org", "b.example.org", "a.b.example.org", "a.example.org/b"];

fn zone(sets: &BTreeMap<SetId, SetRecord>) -> ZoneRecord {
    ZoneRecord {
        id: "Z1".into(),
        name: NAMES[0].into(),
        caller_reference: "r".into(),
        comment: None,
        private: true,
        vpcs: Vec::new(),
        linked_service: None,
        name_servers: Vec::new(),
        record_count: u32::try_from(sets.len()).unwrap(),
        inner_aliases: None,
        created_at: jiff::Timestamp::UNIX_EPOCH,
        tags: BTreeMap::new(),
    }
}

fn whole(sets: BTreeMap<SetId, SetRecord>) -> Known {
    let count = sets.len();
    let inner_aliases = Some(sets.values().filter(|set| is_inner_alias("Z1", set)).count());
    Known { sets, count, inner_aliases }
}

/// As much as the operation reads of it.
fn part(zone: &ZoneRecord, all: &Known, changes: &[(Action, SetRecord)]) -> Known {
    let names = names(zone, changes);
    let aliases = removes(changes);
    let concerned =
        |set: &SetRecord| names.contains(set.name.as_str()) || (aliases && is_inner_alias(&zone.id, set));
    let sets = all.sets.iter().filter(|(_, set)| concerned(set));
    let sets = sets.map(|(id, set)| (id.clone(), set.clone())).collect();
    Known { sets, count: all.count, inner_aliases: all.inner_aliases }
}

fn set() -> impl Strategy<Value = SetRecord> {
    let name = prop::sample::select(NAMES.as_slice());
    let kind = prop::sample::select(["A", "CNAME", "TXT", "NS", "SOA"].as_slice());
    let alias = prop::option::weighted(0.4, prop::sample::select(NAMES.as_slice()));
    let identifier = prop::option::weighted(0.3, prop::sample::select(["one", "two"].as_slice()));
    (name, kind, alias, identifier).prop_map(|(name, kind, alias, identifier)| {
        let value = match kind {
            "A" => "10.0.0.1",
            "TXT" => "\"text\"",
            "SOA" => "ns.example.org hostmaster.example.org 1 7200 900 1209600 86400",
            _ => "else.example.org",
        };
        let alias = alias.map(|name| AliasRecord {
            zone_id: "Z1".into(),
            name: name.into(),
            evaluate_target_health: false,
        });
        SetRecord {
            name: name.into(),
            kind: kind.into(),
            set_identifier: identifier.map(str::to_owned),
            ttl_seconds: alias.is_none().then_some(60),
            values: if alias.is_none() { vec![value.into()] } else { Vec::new() },
            alias,
            weight: identifier.map(|_| 1),
            multivalue: false,
        }
    })
}

fn action() -> impl Strategy<Value = Action> {
    prop::sample::select([Action::Create, Action::Delete, Action::Upsert].as_slice())
}

proptest! {
    /// What is not read makes no difference: neither to what is done nor to what is wrong.
    #[test]
    fn as_much_as_a_batch_has_to_do_with_is_enough(
        steps in prop::collection::vec(prop::collection::vec((action(), set()), 1..4), 1..12),
    ) {
        let apex = |kind: &str, value: &str| {
            let values = vec![value.to_owned()];
            SetRecord { name: NAMES[0].into(), kind: kind.into(), ttl_seconds: Some(60), values, set_identifier: None,
                        alias: None, weight: None, multivalue: false }
        };
        let first = [apex("NS", "ns.example.org"), apex("SOA", "ns.example.org h.example.org 1 2 3 4 5")];
        let mut sets: BTreeMap<SetId, SetRecord> = first.into_iter().map(|set| (set.id(), set)).collect();
        for changes in steps {
            let zone = zone(&sets);
            let all = whole(sets.clone());
            let known = part(&zone, &all, &changes);
            let (mut by_part, mut by_all) = (
                decide(&zone, known, &changes, &Balancers::new()),
                decide(&zone, all, &changes, &Balancers::new()),
            );
            // A message for each alias that leads nowhere: in whatever order.
            for messages in [&mut by_part, &mut by_all].into_iter().filter_map(|one| one.as_mut().err()) {
                messages.sort();
            }
            prop_assert_eq!(&by_part, &by_all);
            let Ok(outcome) = by_part else { continue };
            for (id, set) in outcome.puts {
                match set {
                    Some(set) => drop(sets.insert(id, set)),
                    None => drop(sets.remove(&id)),
                }
            }
            let then = whole(sets.clone());
            prop_assert_eq!((outcome.count, outcome.inner_aliases), (then.count, then.inner_aliases));
        }
    }
}
