//! How stages move between a secret's versions.
//!
//! Each stage names at most one version. When AWSCURRENT moves, AWSPREVIOUS goes to the version it leaves
//! ("What's in a secret", AWS Secrets Manager User Guide).

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use crate::state::{CURRENT, PREVIOUS, VersionRecord};

/// "Versions per secret" of the quotas.
pub(crate) const VERSIONS_MAX: usize = 100;
/// Versions younger than this are never removed.
const DEPRECATED_KEPT: SignedDuration = SignedDuration::from_hours(24);

pub(crate) type Versions = BTreeMap<String, VersionRecord>;

/// Gives the stage to version `to`, which has to be there.
pub(crate) fn move_stage(versions: &mut Versions, stage: &str, to: &str) {
    let mut left = None;
    for (id, version) in versions.iter_mut() {
        if id != to && version.stages.remove(stage) {
            left = Some(id.clone());
        }
    }
    if let Some(version) = versions.get_mut(to) {
        version.stages.insert(stage.to_owned());
    }
    if let Some(left) = left.filter(|_| stage == CURRENT) {
        move_stage(versions, PREVIOUS, &left);
        if let Some(version) = versions.get_mut(to) {
            version.stages.remove(PREVIOUS);
        }
    }
}

/// The versions without a stage that must go so that there is room for one more; `None`: there is no room.
pub(crate) fn make_room(versions: &mut Versions, now: Timestamp) -> Option<Vec<String>> {
    let mut dropped = Vec::new();
    while versions.len() >= VERSIONS_MAX {
        let old = versions
            .iter()
            .filter(|(_, version)| {
                version.stages.is_empty() && now.duration_since(version.created_at) > DEPRECATED_KEPT
            })
            .min_by_key(|(_, version)| version.created_at)
            .map(|(id, _)| id.clone())?;
        versions.remove(&old);
        dropped.push(old);
    }
    Some(dropped)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn version(stages: &[&str], hours: i64) -> VersionRecord {
        VersionRecord {
            created_at: Timestamp::UNIX_EPOCH + SignedDuration::from_hours(hours),
            accessed_on: None,
            stages: stages.iter().map(|&stage| stage.to_owned()).collect(),
        }
    }

    fn shown(versions: &Versions) -> Vec<(&str, Vec<&str>)> {
        versions
            .iter()
            .map(|(id, version)| (id.as_str(), version.stages.iter().map(String::as_str).collect()))
            .collect()
    }

    #[test]
    fn current_leaves_previous_behind() {
        let mut versions = Versions::from([
            ("a".into(), version(&[PREVIOUS], 0)),
            ("b".into(), version(&[CURRENT, "blue"], 1)),
            ("c".into(), version(&[], 2)),
        ]);
        move_stage(&mut versions, CURRENT, "c");
        assert_eq!(shown(&versions), [("a", vec![]), ("b", vec![PREVIOUS, "blue"]), ("c", vec![CURRENT])]);
        // Back again: they change places.
        move_stage(&mut versions, CURRENT, "b");
        assert_eq!(shown(&versions), [("a", vec![]), ("b", vec![CURRENT, "blue"]), ("c", vec![PREVIOUS])]);
        move_stage(&mut versions, "blue", "a");
        assert_eq!(shown(&versions), [("a", vec!["blue"]), ("b", vec![CURRENT]), ("c", vec![PREVIOUS])]);
    }

    #[test]
    fn room_is_made_of_old_versions_without_a_stage() {
        let now = Timestamp::UNIX_EPOCH + SignedDuration::from_hours(1000);
        let mut versions: Versions =
            (0..VERSIONS_MAX as i64).map(|n| (format!("{n:03}"), version(&[], n))).collect();
        versions.get_mut("000").unwrap().stages.insert("kept".into());
        assert_eq!(make_room(&mut versions, now), Some(vec!["001".to_owned()]));
        assert_eq!(make_room(&mut versions, now), Some(vec![]));
        let young: Versions = (0..VERSIONS_MAX).map(|n| (format!("{n:03}"), version(&[], 999))).collect();
        assert_eq!(make_room(&mut young.clone(), now), None);
    }

    proptest! {
        #[test]
        fn a_stage_is_on_one_version_and_current_is_never_lost(moves in prop::collection::vec((0usize..3, 0usize..5), 1..60)) {
            let stages = [CURRENT, PREVIOUS, "custom"];
            let mut versions: Versions = (0..5).map(|n| (n.to_string(), version(&[], n))).collect();
            move_stage(&mut versions, CURRENT, "0");
            for (stage, to) in moves {
                move_stage(&mut versions, stages[stage], &to.to_string());
                prop_assert!(versions[&to.to_string()].stages.contains(stages[stage]));
                for stage in stages {
                    let on = versions.values().filter(|version| version.stages.contains(stage)).count();
                    prop_assert!(on <= 1);
                    prop_assert!(stage != CURRENT || on == 1);
                }
            }
        }
    }
}
