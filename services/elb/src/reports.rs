//! What nodes say: how balancers and their targets are, what was counted, log lines.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};

use ferrogate_nodeapi::{BalancerReport, TargetState};
use ferrogate_store::{StoreError, Txn, get_json};
use jiff::Timestamp;
use serde::Serialize;

use crate::metrics::{Datum, MetricKey};
use crate::plan::logs::window_end;
use crate::state::*;
use crate::{ElbService, logs};

/// Target groups of one report; a balancer has at most a hundred.
const GROUPS_PER_REPORT_MAX: usize = 200;

/// Scope and id of a balancer.
fn balancer_of(arn: &str) -> Option<(Scope, &str)> {
    let mut parts = arn.splitn(6, ':').skip(3);
    let (region, account, resource) = (parts.next()?, parts.next()?, parts.next()?);
    let scope = Scope { account: account.to_owned(), region: region.to_owned() };
    let mut path = resource.strip_prefix("loadbalancer/")?.splitn(3, '/');
    Some((scope, path.nth(2)?))
}

impl ElbService {
    /// Takes what nodes say. Only what is another state than before is written; it is durable when this returns.
    ///
    /// # Errors
    /// The store cannot be written: say it again.
    pub async fn report(&self, reports: Vec<BalancerReport>) -> Result<(), StoreError> {
        let now = self.clock.now();
        for report in reports {
            let Some((scope, id)) = balancer_of(&report.load_balancer_arn) else {
                tracing::warn!(
                    arn = report.load_balancer_arn,
                    "a report of something that is no load balancer"
                );
                continue;
            };
            self.observe(&scope, id, &report).await?;
            let mut metrics = self.metrics.lock().unwrap_or_else(PoisonError::into_inner);
            for metric in report.metrics {
                metrics.add(&report.load_balancer_arn, &report.availability_zone, metric, now);
            }
        }
        Ok(())
    }

    async fn observe(&self, scope: &Scope, id: &str, report: &BalancerReport) -> Result<(), StoreError> {
        let zone = &report.availability_zone;
        let mut txn = Txn::new();
        let node = NodeRecord { active: report.active, problem: report.problem.clone() };
        txn = self.put_changed(txn, scope.key(Kind::Node, &format!("{id}/{zone}")), &node);
        let mut groups: BTreeMap<&str, HealthRecord> = BTreeMap::new();
        for target in &report.targets {
            let group = target.target_group_arn.rsplit('/').next().unwrap_or_default();
            let seen = SeenRecord {
                state: target.state,
                reason: target.reason.clone(),
                description: target.description.clone(),
                anomaly: target.anomaly,
            };
            // What is draining or unused is known here already.
            if !matches!(target.state, TargetState::Draining | TargetState::Unused) {
                groups.entry(group).or_default().targets.insert(target_key(target.ip, target.port), seen);
            }
        }
        let prefix = scope.key(Kind::Health, &format!("{id}/{zone}/"));
        for (group, health) in groups.iter().take(GROUPS_PER_REPORT_MAX) {
            txn = self.put_changed(txn, format!("{prefix}{group}"), health);
        }
        for kv in self.store.range(&prefix).iter() {
            if !groups.contains_key(&kv.key[prefix.len()..]) {
                txn = txn.delete(&*kv.key);
            }
        }
        if !txn.then.is_empty() {
            // A balancer that is gone leaves nothing behind.
            self.store.txn(txn.when_present(scope.key(Kind::Balancer, id))).await?;
        }
        Ok(())
    }

    fn put_changed<T: Serialize + serde::de::DeserializeOwned + PartialEq>(
        &self,
        txn: Txn,
        key: String,
        record: &T,
    ) -> Txn {
        let was = get_json::<T>(&*self.store, &key);
        if was.is_some_and(|was| was.record == *record) { txn } else { txn.put_json(key, record) }
    }

    /// Metrics from `since` on, for up to three hours back.
    pub fn metrics(&self, since: Timestamp) -> Vec<(MetricKey, Vec<Datum>)> {
        self.metrics.lock().unwrap_or_else(PoisonError::into_inner).read(since)
    }

    /// Appends lines to a balancer's access log, or its connection log. They are in a file when this returns, and an
    /// object within five minutes.
    ///
    /// # Errors
    /// The disk does not take them.
    pub async fn put_access_logs(
        self: &Arc<Self>,
        load_balancer_arn: &str,
        availability_zone: &str,
        connection: bool,
        lines: Vec<String>,
    ) -> Result<(), logs::LogsError> {
        let Some((_, id)) = balancer_of(load_balancer_arn) else { return Ok(()) };
        let (id, zone) = (id.to_owned(), availability_zone.to_owned());
        let plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        if !plain(&id) || !plain(&zone) {
            tracing::warn!(
                load_balancer_arn,
                availability_zone,
                "log lines of a balancer with a strange name"
            );
            return Ok(());
        }
        let end = window_end(self.clock.now());
        let service = Arc::clone(self);
        let written =
            tokio::task::spawn_blocking(move || service.logs.append(&id, &zone, connection, end, &lines));
        let written = written.await.unwrap_or_else(|error| Err(std::io::Error::other(error)));
        written.map_err(|source| logs::LogsError { path: load_balancer_arn.into(), source })
    }
}
