//! What a batch of changes makes of a zone, or everything that is wrong with it (`ChangeResourceRecordSets`).

use std::collections::{BTreeMap, BTreeSet, HashSet};

use ferrogate_dns::{NameError, ValueError};

use super::names::balancer;
use super::set::shown;
use crate::state::{SetId, SetRecord, ZoneRecord};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Create,
    Delete,
    Upsert,
}

/// As much of a zone as a batch has to do with.
#[derive(Debug, Default)]
pub(crate) struct Known {
    /// All sets of the [`names`] of the batch, and the aliases within the zone if it [`removes`] something.
    pub sets: BTreeMap<SetId, SetRecord>,
    /// How many sets there are in the zone.
    pub count: usize,
    /// How many of them are aliases within it.
    pub inner_aliases: Option<usize>,
}

/// The sets to write (`None`: to delete). Nothing is changed unless all of it can be.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Outcome {
    pub puts: BTreeMap<SetId, Option<SetRecord>>,
    /// As in [`Known`], then.
    pub count: usize,
    pub inner_aliases: Option<usize>,
}

/// Whether a set is an alias of another one in its own zone.
pub(crate) fn is_inner_alias(zone_id: &str, set: &SetRecord) -> bool {
    set.alias.as_ref().is_some_and(|alias| alias.zone_id == zone_id)
}

/// The names whose sets a batch depends on: those it changes, those its aliases lead to, the zone's own.
pub(crate) fn names<'a>(zone: &'a ZoneRecord, changes: &'a [(Action, SetRecord)]) -> BTreeSet<&'a str> {
    let changed = changes.iter().map(|(_, set)| set.name.as_str());
    let aliases = changes.iter().filter(|(_, set)| is_inner_alias(&zone.id, set));
    let targets = aliases.filter_map(|(_, set)| Some(set.alias.as_ref()?.name.as_str()));
    changed.chain(targets).chain([zone.name.as_str()]).collect()
}

/// Whether aliases may lose what they lead to.
pub(crate) fn removes(changes: &[(Action, SetRecord)]) -> bool {
    changes.iter().any(|(action, _)| *action == Action::Delete)
}

/// Name of a load balancer, in normal form → the id of the zone that ELB has it in.
pub(crate) type Balancers = BTreeMap<String, String>;

/// `balancers`: all those that a new alias may lead to.
pub(crate) fn decide(
    zone: &ZoneRecord,
    known: Known,
    changes: &[(Action, SetRecord)],
    balancers: &Balancers,
) -> Result<Outcome, Vec<String>> {
    let Known { mut sets, count, inner_aliases } = known;
    let mut outcome = Outcome { count, inner_aliases, ..Outcome::default() };
    let mut messages = Vec::new();
    let mut seen = HashSet::new();
    for (action, set) in changes {
        let id = set.id();
        // A DELETE and a CREATE of the same set are one replacement; anything else twice is a mistake.
        if !seen.insert((id.clone(), *action == Action::Delete)) {
            let what = format!("resource record set '{} {}'", set.kind, shown(&set.name));
            messages.push(format!("The request contains an invalid set of changes for a {what}"));
            continue;
        }
        if let Err(message) = permitted(zone, set) {
            messages.push(message);
            continue;
        }
        let there = sets.get(&id);
        match action {
            Action::Create if there.is_some() => {
                messages.push(format!(
                    "Tried to create resource record set {} but it already exists",
                    described(set)
                ));
                continue;
            }
            Action::Delete => match there {
                None => {
                    let what = described(set);
                    messages.push(format!("Tried to delete resource record set {what} but it was not found"));
                    continue;
                }
                Some(there) if !same(there, set) => {
                    messages.push(format!(
                        "Tried to delete resource record set {} but the values provided do not match the current values",
                        described(set)
                    ));
                    continue;
                }
                Some(_) => {
                    let was = sets.remove(&id);
                    outcome.replaced(zone, was.as_ref(), None);
                    outcome.puts.insert(id, None);
                    continue;
                }
            },
            Action::Create | Action::Upsert => {}
        }
        if let Err(message) = values(set) {
            messages.push(message);
            continue;
        }
        outcome.puts.insert(id.clone(), Some(set.clone()));
        let was = sets.insert(id, set.clone());
        outcome.replaced(zone, was.as_ref(), Some(set));
    }
    let touched: BTreeSet<&str> = changes.iter().map(|(_, set)| set.name.as_str()).collect();
    let aliased = |name: &str| {
        changes
            .iter()
            .any(|(action, set)| *action != Action::Delete && set.kind == "CNAME" && set.name == name)
    };
    messages.extend(touched.iter().flat_map(|name| conflicts(zone, &sets, name, aliased(name))));
    let removed = outcome.puts.iter().filter(|(_, set)| set.is_none());
    let removed: BTreeSet<(&str, &str)> =
        removed.map(|((name, kind, _), _)| (name.as_str(), kind.as_str())).collect();
    let loses = |set: &SetRecord| {
        let alias = set.alias.as_ref().filter(|alias| alias.zone_id == zone.id);
        alias.is_some_and(|alias| removed.contains(&(alias.name.as_str(), set.kind.as_str())))
    };
    // Others lead where they led before. (A load balancer may be deleted before the alias to it.)
    let looked_at = |set: &&SetRecord| loses(set) || outcome.puts.contains_key(&set.id());
    messages.extend(sets.values().filter(looked_at).flat_map(|set| target(zone, &sets, balancers, set)));
    messages.extend(apex(zone, &sets));
    if messages.is_empty() { Ok(outcome) } else { Err(messages) }
}

impl Outcome {
    fn replaced(&mut self, zone: &ZoneRecord, was: Option<&SetRecord>, is: Option<&SetRecord>) {
        let changed =
            |count: usize, was: bool, is: bool| (count + usize::from(is)).saturating_sub(usize::from(was));
        self.count = changed(self.count, was.is_some(), is.is_some());
        let inner = |set: Option<&SetRecord>| set.is_some_and(|set| is_inner_alias(&zone.id, set));
        self.inner_aliases = self.inner_aliases.map(|count| changed(count, inner(was), inner(is)));
    }
}

fn described(set: &SetRecord) -> String {
    let identifier =
        set.set_identifier.as_ref().map_or_else(String::new, |id| format!(", set-identifier='{id}'"));
    format!("[name='{}', type='{}'{identifier}]", shown(&set.name), set.kind)
}

/// Values in any order.
fn same(one: &SetRecord, other: &SetRecord) -> bool {
    let sorted = |set: &SetRecord| {
        let mut set = set.clone();
        set.values.sort();
        set
    };
    sorted(one) == sorted(other)
}

fn within(zone: &ZoneRecord, name: &str) -> bool {
    name.strip_suffix(&zone.name).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

fn permitted(zone: &ZoneRecord, set: &SetRecord) -> Result<(), String> {
    if !within(zone, &set.name) {
        let (name, zone) = (shown(&set.name), shown(&zone.name));
        return Err(format!("RRSet with DNS name {name} is not permitted in zone {zone}"));
    }
    if set.name == zone.name && set.kind == "CNAME" {
        let name = shown(&set.name);
        return Err(format!(
            "RRSet of type CNAME with DNS name {name} is not permitted at apex in zone {name}"
        ));
    }
    if set.name.contains('*') && set.kind == "NS" {
        return Err(format!(
            "RRSet of type NS with DNS name {} is not permitted as it is a wildcard",
            shown(&set.name)
        ));
    }
    Ok(())
}

fn values(set: &SetRecord) -> Result<(), String> {
    for value in &set.values {
        ferrogate_dns::check(&set.kind, value).map_err(|error| {
            let problem = match &error {
                ValueError::Kind(kind) => {
                    return format!("Ferrogate does not serve records of type {kind} yet");
                }
                ValueError::Ipv4 => {
                    "ARRDATAIllegalIPv4Address (Value is not a valid IPv4 address)".to_owned()
                }
                ValueError::Ipv6 => {
                    "AAAARRDATAIllegalIPv6Address (Value is not a valid IPv6 address)".to_owned()
                }
                ValueError::Quotes => {
                    "InvalidCharacterString (Value should be enclosed in quotation marks)".to_owned()
                }
                ValueError::Long => "CharacterStringTooLong (Value is too long)".to_owned(),
                ValueError::Fields { expected, .. } => {
                    format!("RRDATANotSingleField (Value must be {expected})")
                }
                ValueError::Name(NameError::Character) => {
                    "UnsupportedCharacter (Value contains unsupported characters)".to_owned()
                }
                other => format!("InvalidRData ({other})"),
            };
            format!("Invalid Resource Record: 'FATAL problem: {problem} encountered with '{value}''")
        })?;
    }
    let mut sorted = set.values.clone();
    sorted.sort();
    sorted.dedup();
    if sorted.len() < set.values.len() {
        return Err(format!("Duplicate Resource Record: '{}'", set.values.join("', '")));
    }
    if set.values.len() > 1 && (set.kind == "CNAME" || set.kind == "SOA") {
        let (kind, name) = (&set.kind, shown(&set.name));
        return Err(format!(
            "RRSet with DNS name {name}, type {kind} contains more than one resource record"
        ));
    }
    if set.multivalue && (set.alias.is_some() || matches!(set.kind.as_str(), "CNAME" | "NS" | "SOA")) {
        let (kind, name) = (&set.kind, shown(&set.name));
        return Err(format!(
            "Multivalue answer is not permitted for RRSet with DNS name {name}, type {kind}"
        ));
    }
    Ok(())
}

/// Sets of one name that cannot be there together. `aliased`: the batch brings a CNAME of that name.
fn conflicts(zone: &ZoneRecord, sets: &BTreeMap<SetId, SetRecord>, name: &str, aliased: bool) -> Vec<String> {
    let from: SetId = (name.to_owned(), String::new(), None);
    let here: Vec<&SetRecord> =
        sets.range(from..).map(|(_, set)| set).take_while(|set| set.name == name).collect();
    let mut messages = Vec::new();
    let alias = here.iter().any(|set| set.kind == "CNAME");
    if let Some(other) = here.iter().find(|set| set.kind != "CNAME").filter(|_| alias) {
        let (kind, name, zone) = (&other.kind, shown(name), shown(&zone.name));
        messages.push(match aliased {
            true => format!(
                "RRSet of type CNAME with DNS name {name} is not permitted as it conflicts with other records with the same DNS name in zone {zone}"
            ),
            false => format!(
                "RRSet of type {kind} with DNS name {name} is not permitted because a conflicting RRSet of type CNAME with the same DNS name already exists in zone {zone}"
            ),
        });
    }
    for pair in here.windows(2) {
        let [one, other] = pair else { continue };
        let policy = |set: &SetRecord| (set.weight.is_some(), set.multivalue);
        if one.kind == other.kind && policy(one) != policy(other) {
            let (kind, name) = (&other.kind, shown(name));
            let identifier = other.set_identifier.as_deref().unwrap_or("null");
            messages.push(format!(
                "RRSet with DNS name {name}, type {kind}, SetIdentifier {identifier} cannot be created as a RRSet of another routing policy exists with the same name and type"
            ));
        }
    }
    messages
}

/// An alias leads to a record of its type in its own zone, or to a load balancer in the zone that ELB has it in.
fn target(
    zone: &ZoneRecord,
    sets: &BTreeMap<SetId, SetRecord>,
    balancers: &Balancers,
    set: &SetRecord,
) -> Vec<String> {
    let Some(alias) = &set.alias else { return Vec::new() };
    let addresses = matches!(set.kind.as_str(), "A" | "AAAA");
    let (lies_within, is_there) = match balancer(&alias.name).map(|name| balancers.get(name)) {
        _ if alias.zone_id == zone.id => {
            let twin = |other: &SetRecord| other.name == alias.name && other.kind == set.kind;
            let is_there = sets.values().any(|other| twin(other) && other.id() != set.id());
            (within(zone, &alias.name), is_there)
        }
        Some(Some(zone_id)) => (alias.zone_id == *zone_id, addresses),
        Some(None) => (true, false),
        None => (false, true),
    };
    let problems = [
        (lies_within, "the alias target name does not lie within the target zone"),
        (is_there, "that target was not found"),
    ];
    let (name, kind, zone_id) = (shown(&alias.name), &set.kind, &alias.zone_id);
    let words = |what| {
        format!("Tried to create an alias that targets {name}, type {kind} in zone {zone_id}, but {what}")
    };
    problems.into_iter().filter(|(holds, _)| !holds).map(|(_, what)| words(what)).collect()
}

fn apex(zone: &ZoneRecord, sets: &BTreeMap<SetId, SetRecord>) -> Vec<String> {
    let has = |kind: &str| sets.values().any(|set| set.name == zone.name && set.kind == kind);
    let mut messages = Vec::new();
    if !has("NS") {
        messages.push("A HostedZone must contain at least one NS record for the zone itself.".to_owned());
    }
    if !has("SOA") {
        messages.push("A HostedZone must contain exactly one SOA record.".to_owned());
    }
    messages
}

#[cfg(test)]
#[path = "batch_tests.rs"]
mod tests;
