//! From one ruleset to the next, in steps each of which leaves a set of rules that is right for the old or for
//! the new fabric: first what is new, then who uses it, then what is gone.

use super::rules::{Key, Ruleset, Value};
use super::text;

/// Three steps; a step that is empty costs nothing.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct RulesetChange {
    /// For `nft`: sets and chains that come, chains whose rules change.
    pub(crate) before: String,
    /// For netlink.
    pub(crate) elements: Vec<SetChange>,
    /// For `nft`: chains and sets that go.
    pub(crate) after: String,
}

/// Removals come before additions: a key whose value changes is in both.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct SetChange {
    pub(crate) set: String,
    pub(crate) remove: Vec<(Key, Value)>,
    pub(crate) add: Vec<(Key, Value)>,
}

pub(crate) fn diff(old: &Ruleset, new: &Ruleset) -> RulesetChange {
    let mut change = RulesetChange::default();
    // A set of another kind, or a base chain that moves, is another table: the caller replaces the whole.
    debug_assert!(same_shape(old, new));
    for (name, set) in &new.sets {
        if !old.sets.contains_key(name) {
            text::add_set(&mut change.before, name, set);
        }
    }
    for (name, chain) in &new.chains {
        if !old.chains.contains_key(name) {
            text::add_chain(&mut change.before, name, chain);
        }
    }
    for (name, chain) in &new.chains {
        let known = old.chains.get(name);
        if known == Some(chain) {
            continue;
        }
        if known.is_some() {
            text::flush_chain(&mut change.before, name);
        }
        text::add_rules(&mut change.before, name, chain);
    }
    change.elements = elements(old, new);
    let gone: Vec<_> = old.chains.keys().filter(|name| !new.chains.contains_key(*name)).collect();
    // Chains that go may jump to one another.
    gone.iter().for_each(|name| text::flush_chain(&mut change.after, name));
    gone.iter().for_each(|name| text::delete_chain(&mut change.after, name));
    for (name, set) in old.sets.iter().filter(|(name, _)| !new.sets.contains_key(*name)) {
        text::delete_set(&mut change.after, name, set);
    }
    change
}

/// Whether [`diff`] can lead from one to the other.
pub(crate) fn same_shape(old: &Ruleset, new: &Ruleset) -> bool {
    let sets =
        new.sets.iter().all(|(name, set)| old.sets.get(name).is_none_or(|known| known.kind == set.kind));
    let chains = new
        .chains
        .iter()
        .all(|(name, chain)| old.chains.get(name).is_none_or(|known| known.base == chain.base));
    sets && chains
}

fn elements(old: &Ruleset, new: &Ruleset) -> Vec<SetChange> {
    let mut changes = Vec::new();
    for (name, set) in &new.sets {
        let known = old.sets.get(name).map(|set| &set.elements);
        let add = set.elements.iter().filter(|(key, value)| known.and_then(|k| k.get(key)) != Some(value));
        let remove = known.into_iter().flatten().filter(|(key, value)| set.elements.get(key) != Some(value));
        let clone = |(key, value): (&Key, &Value)| (key.clone(), value.clone());
        let (remove, add): (Vec<_>, Vec<_>) = (remove.map(clone).collect(), add.map(clone).collect());
        if !remove.is_empty() || !add.is_empty() {
            changes.push(SetChange { set: name.clone(), remove, add });
        }
    }
    changes
}
