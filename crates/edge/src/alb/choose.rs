//! Which target of a group takes a request (ELB user guide, "Routing algorithms", "Slow start", "Target group health").
//! Nothing here waits, and nothing allocates.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use ferrogate_nodeapi::Algorithm;

use super::random;
use crate::state::{Group, TargetEntry};

/// A target whose last requests all failed still gets this share, so that it can show that it is well again.
const ANOMALOUS_SHARE_MIN: f64 = 0.1;

/// The targets that may get something new, seen from one zone at one moment.
pub(crate) struct Eligible<'a> {
    group: &'a Group,
    zone: &'a str,
    /// Too few are healthy: all count as if they were.
    fail_open: bool,
    now_ms: u64,
}

impl<'a> Eligible<'a> {
    pub(crate) fn new(group: &'a Group, zone: &'a str, now_ms: u64) -> Eligible<'a> {
        let mut eligible = Eligible { group, zone, fail_open: false, now_ms };
        let (mut all, mut healthy) = (0u32, 0u32);
        for at in 0..group.targets.len() {
            if let Some(target) = eligible.registered(at) {
                all += 1;
                healthy += u32::from(target.is_healthy());
            }
        }
        let config = &group.config;
        let few = healthy < config.minimum_healthy_targets.max(1);
        let few_percent = config
            .minimum_healthy_percent
            .is_some_and(|percent| u64::from(healthy) * 100 < u64::from(percent) * u64::from(all));
        eligible.fail_open = few || few_percent;
        eligible
    }

    /// Registered, in reach of this zone, not on its way out.
    fn registered(&self, at: usize) -> Option<&'a Arc<TargetEntry>> {
        let (target, entry) = &self.group.targets[at];
        let in_zone = self.group.config.cross_zone != Some(false)
            || target.availability_zone.as_deref().is_none_or(|zone| zone == self.zone);
        (in_zone && target.draining_since.is_none()).then_some(entry)
    }

    fn at(&self, at: usize) -> Option<&'a Arc<TargetEntry>> {
        self.registered(at).filter(|target| self.fail_open || target.is_healthy())
    }

    fn all(&self) -> impl Iterator<Item = &'a Arc<TargetEntry>> {
        (0..self.group.targets.len()).filter_map(|at| self.at(at))
    }

    /// The one a cookie names, while it may be used.
    pub(crate) fn named(&self, ip: std::net::IpAddr, port: u16) -> Option<&'a Arc<TargetEntry>> {
        self.all().find(|target| target.key.ip == ip && target.key.port == port)
    }

    /// `None`: the group has no target for this zone.
    pub(crate) fn choose(&self) -> Option<&'a Arc<TargetEntry>> {
        match self.group.config.algorithm {
            Algorithm::RoundRobin => self.round_robin(),
            Algorithm::LeastOutstandingRequests => self.least_outstanding(),
            Algorithm::WeightedRandom => self.weighted_random(),
        }
    }

    /// The next in turn; one that is warming up lets turns pass.
    fn round_robin(&self) -> Option<&'a Arc<TargetEntry>> {
        let count = self.group.targets.len();
        if count == 0 {
            return None;
        }
        let mut warming = None;
        let start = self.group.cursor.fetch_add(1, Relaxed);
        for step in 0..count {
            let Some(target) = self.at(start.wrapping_add(step) % count) else { continue };
            let share = self.share(target);
            if share >= 1.0 || (random::below(1 << 20) as f64) < share * f64::from(1 << 20) {
                // Those that were passed over must not all fall to the same neighbour.
                if step > 0 {
                    self.group.cursor.fetch_add(step, Relaxed);
                }
                return Some(target);
            }
            warming.get_or_insert(target);
        }
        warming
    }

    /// Of those with the least, the next in turn.
    fn least_outstanding(&self) -> Option<&'a Arc<TargetEntry>> {
        let count = self.group.targets.len();
        let start = self.group.cursor.fetch_add(1, Relaxed);
        (0..count)
            .filter_map(|step| self.at(start.wrapping_add(step) % count))
            .min_by_key(|target| target.outstanding())
    }

    fn weighted_random(&self) -> Option<&'a Arc<TargetEntry>> {
        let weight = |target: &TargetEntry| ((self.share(target) * 1024.0) as u64).max(1);
        let total: u64 = self.all().map(|target| weight(target)).sum();
        let mut at = random::below(total);
        self.all().find(|target| {
            let weight = weight(target);
            let here = at < weight;
            at = at.saturating_sub(weight);
            here
        })
    }

    /// Of a full share: slow start grows evenly from healthy on; anomaly mitigation takes away from one that fails.
    fn share(&self, target: &TargetEntry) -> f64 {
        let config = &self.group.config;
        let mut share = 1.0;
        if config.slow_start_seconds > 0
            && let Some(since) = target.healthy_since_ms()
        {
            let age = self.now_ms.saturating_sub(since) as f64;
            share = (age / (f64::from(config.slow_start_seconds) * 1000.0)).min(1.0);
        }
        if config.anomaly_mitigation && target.is_anomalous() {
            share *= (1.0 - target.failing()).max(ANOMALOUS_SHARE_MIN);
        }
        share
    }
}

/// One of the target groups of a forward action, by weight; `None` when no group has any.
pub(crate) fn by_weight<T>(weighted: &[(T, u32)]) -> Option<&T> {
    if let [(only, 1..)] = weighted {
        return Some(only);
    }
    let mut at = random::below(weighted.iter().map(|(_, weight)| u64::from(*weight)).sum());
    let chosen = weighted.iter().find(|(_, weight)| {
        let here = at < u64::from(*weight);
        at = at.saturating_sub(u64::from(*weight));
        here
    });
    chosen.map(|(group, _)| group)
}

#[cfg(test)]
#[path = "choose_tests.rs"]
mod tests;
