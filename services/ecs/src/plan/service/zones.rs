//! Tasks over availability zones.

use std::collections::BTreeMap;

use super::Task;

/// Into which zones `count` more tasks go: each into one that then has the fewest.
pub(super) fn spread(zones: &[String], tasks: &[&Task], count: u32) -> Vec<(String, u32)> {
    let mut load = loads(zones, tasks);
    let mut more: BTreeMap<&str, u32> = BTreeMap::new();
    for _ in 0..count {
        let Some((zone, taken)) = load.iter_mut().min_by_key(|(zone, taken)| (*taken, *zone)) else { break };
        *taken += 1;
        *more.entry(zone).or_default() += 1;
    }
    more.into_iter().map(|(zone, count)| (zone.to_owned(), count)).collect()
}

/// How many tasks each zone has, in the order of their names. Tasks in other zones are not counted.
pub(super) fn loads<'a>(zones: &'a [String], tasks: &[&Task]) -> Vec<(&'a str, usize)> {
    let mut load: BTreeMap<&str, usize> = zones.iter().map(|zone| (zone.as_str(), 0)).collect();
    for task in tasks {
        if let Some(taken) = load.get_mut(task.zone.as_str()) {
            *taken += 1;
        }
    }
    load.into_iter().collect()
}

/// The zone that has too few, where one more and another one's one less would be more even.
pub(super) fn starved<'a>(load: &[(&'a str, usize)]) -> Option<&'a str> {
    let (zone, least) = *load.iter().min_by_key(|(zone, taken)| (*taken, *zone))?;
    let most = load.iter().map(|(_, taken)| *taken).max()?;
    (most >= least + 2).then_some(zone)
}

/// The order in which to stop tasks so that what stays is as even as can be: of the fullest zone first. `keep` puts
/// those of one zone in order, the one to stay longest first.
pub(super) fn stop_order<'a, K: Ord>(tasks: &[&'a Task], keep: impl Fn(&Task) -> K) -> Vec<&'a Task> {
    let mut by_zone: BTreeMap<&str, Vec<&'a Task>> = BTreeMap::new();
    for &task in tasks {
        by_zone.entry(&task.zone).or_default().push(task);
    }
    let mut ranked: Vec<(usize, &'a Task)> = Vec::with_capacity(tasks.len());
    for zone in by_zone.values_mut() {
        zone.sort_by_cached_key(|task| keep(task));
        ranked.extend(zone.iter().copied().enumerate());
    }
    // Stable: among equals the zones stay in the order of their names.
    ranked.sort_by_key(|(rank, _)| std::cmp::Reverse(*rank));
    ranked.into_iter().map(|(_, task)| task).collect()
}
