//! Removes targets whose deregistration delay is over.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use ferrogate_control::{Activation, Controller};
use ferrogate_store::{Json, UpdateError, range_json, update_json};
use jiff::Timestamp;
use serde_json::json;

use crate::ElbService;
use crate::plan::{actions, attributes};
use crate::state::*;

const PERIOD: Duration = Duration::from_secs(60);

pub(crate) struct Drain(pub(crate) Arc<ElbService>);

#[async_trait::async_trait]
impl Controller for Drain {
    fn name(&self) -> &'static str {
        "elb-drain"
    }

    fn prefixes(&self) -> Vec<String> {
        vec![PREFIX.into()]
    }

    fn period(&self) -> Duration {
        PERIOD
    }

    async fn activate(&self) -> Activation {
        let now = self.0.clock.now();
        let mut used: BTreeSet<String> = BTreeSet::new();
        let mut groups: Vec<GroupRecord> = Vec::new();
        let mut draining: Vec<(Scope, String, TargetsRecord)> = Vec::new();
        for kv in self.0.store.range(PREFIX).iter() {
            let Some((scope, kind, id)) = Scope::parse(&kv.key) else { continue };
            match kind {
                Kind::Listener => {
                    let record = Json::<ListenerRecord>::parse(kv);
                    used.extend(
                        record
                            .iter()
                            .flat_map(|found| actions::groups(&found.record.actions))
                            .map(str::to_owned),
                    );
                }
                Kind::Rule => {
                    let record = Json::<RuleRecord>::parse(kv);
                    used.extend(
                        record
                            .iter()
                            .flat_map(|found| actions::groups(&found.record.actions))
                            .map(str::to_owned),
                    );
                }
                Kind::Group => groups.extend(Json::parse(kv).map(|found| found.record)),
                Kind::Targets => {
                    let record = Json::<TargetsRecord>::parse(kv).map(|found| found.record);
                    let record =
                        record.filter(|record| record.targets.iter().any(|one| one.draining_since.is_some()));
                    draining.extend(record.map(|record| (scope, id.to_owned(), record)));
                }
                _ => {}
            }
        }
        let (mut removed, mut next) = (0, None::<Timestamp>);
        for (scope, id, record) in draining {
            let Some(group) = groups.iter().find(|group| group.scope == scope && group.id == id) else {
                continue;
            };
            let known = attributes::of_group(group);
            let delay = attributes::number(&known, &group.attributes, "deregistration_delay.timeout_seconds");
            let delay = if used.contains(&group.arn()) { i64::from(delay) } else { 0 };
            let over = |target: &TargetRecord| {
                target.draining_since.map(|since| {
                    since.saturating_add(jiff::SignedDuration::from_secs(delay)).unwrap_or(since)
                })
            };
            let ends: Vec<Timestamp> = record.targets.iter().filter_map(over).collect();
            if let Some(soonest) = ends.iter().filter(|end| **end > now).min() {
                next = Some(next.map_or(*soonest, |next| next.min(*soonest)));
            }
            if !ends.iter().any(|end| *end <= now) {
                continue;
            }
            let key = scope.key(Kind::Targets, &id);
            let changed = update_json(&*self.0.store, &key, |found: Option<TargetsRecord>| {
                let mut record = found.unwrap_or_default();
                let before = record.targets.len();
                record.targets.retain(|target| over(target).is_none_or(|end| end > now));
                removed += before - record.targets.len();
                Ok::<_, std::convert::Infallible>(Some(record).filter(|record| !record.targets.is_empty()))
            });
            match changed.await {
                Ok(_) => {}
                Err(UpdateError::Refused(never)) => match never {},
                Err(error) => return Activation::failed(error.to_string()),
            }
        }
        let done = Activation::done(json!({ "removed": removed }));
        match next.and_then(|next| Duration::try_from(next.duration_since(now)).ok()) {
            Some(pause) => done.again_in(pause),
            None => done,
        }
    }
}

/// Whether anything forwards to a group now.
pub(crate) fn is_used(service: &ElbService, scope: &Scope, group_arn: &str) -> bool {
    let store = &*service.store;
    let listeners = range_json::<ListenerRecord>(store, &scope.key(Kind::Listener, ""));
    let rules = range_json::<RuleRecord>(store, &scope.key(Kind::Rule, ""));
    listeners.iter().any(|found| actions::groups(&found.record.actions).any(|arn| arn == group_arn))
        || rules.iter().any(|found| actions::groups(&found.record.actions).any(|arn| arn == group_arn))
}
