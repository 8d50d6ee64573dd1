//! Forgets what is over: stopped tasks, inactive clusters and services and what EventBridge was told after an hour, client
//! tokens after a day, deleted task definitions once nothing refers to them. Deletes interfaces whose task is over or
//! unknown.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ferrogate_api::Invoke;
use ferrogate_control::{Activation, Controller};
use ferrogate_model::Clock;
use ferrogate_store::{Json, Store, StoreError, TXN_OPS_MAX, Txn, get_json, range_json};
use jiff::{SignedDuration, Timestamp};
use serde_json::json;

use super::interfaces;
use crate::EcsService;
use crate::events::{self, EVENTS_KEPT, EVENTS_MAX};
use crate::lifecycle::Status;
use crate::state::service::{DeploymentRecord, ServiceRecord, ServiceRevisionRecord, ServiceStatus, Spec};
use crate::state::{
    ClientTokenRecord, ClusterRecord, ClusterStatus, FamilyRecord, PREFIX, Queue, STOPPED_KEPT, Scope,
    TaskKey, TaskSummary,
};

const PERIOD: Duration = Duration::from_secs(60);
/// Interfaces without a task are nobody's normal case, and EC2 is asked for all there are.
const INTERFACES_PERIOD: SignedDuration = SignedDuration::from_mins(10);
/// ECS API reference, "Ensuring idempotency".
const CLIENT_TOKEN_KEPT: SignedDuration = SignedDuration::from_hours(24);

pub(super) struct Sweep {
    store: Arc<dyn Store>,
    invoke: Arc<dyn Invoke>,
    clock: Arc<dyn Clock>,
    /// When the interfaces were looked through last.
    interfaces_at: Mutex<Option<Timestamp>>,
}

impl Sweep {
    pub(super) fn new(service: &EcsService) -> Self {
        Self {
            store: Arc::clone(&service.store),
            invoke: Arc::clone(&service.invoke),
            clock: Arc::clone(&service.clock),
            interfaces_at: Mutex::default(),
        }
    }
}

#[async_trait::async_trait]
impl Controller for Sweep {
    fn name(&self) -> &'static str {
        "ecs-sweep"
    }

    /// A deletion is asked for seldom and watched by the one who asked.
    fn prefixes(&self) -> Vec<String> {
        vec![Queue::DeleteDefinition.prefix().into()]
    }

    fn period(&self) -> Duration {
        PERIOD
    }

    async fn activate(&self) -> Activation {
        match self.sweep().await {
            Ok(detail) => Activation::done(detail),
            Err(why) => Activation::failed(why),
        }
    }
}

impl Sweep {
    async fn sweep(&self) -> Result<serde_json::Value, String> {
        let now = self.clock.now();
        let in_store = |error: StoreError| error.to_string();
        let tasks = self.forget_tasks(now).await.map_err(in_store)?;
        let definitions = self.delete_definitions().await.map_err(in_store)?;
        let (mut tokens, mut clusters, mut services, mut events, mut interfaces) = (0, 0, 0, 0, 0);
        let look_for_interfaces = self.is_time_for_interfaces(now);
        for scope in self.scopes() {
            tokens += self.forget_tokens(&scope, now).await.map_err(in_store)?;
            clusters += self.forget_clusters(&scope, now).await.map_err(in_store)?;
            services += self.forget_services(&scope, now).await.map_err(in_store)?;
            events += self.forget_events(&scope, now).await.map_err(in_store)?;
            if look_for_interfaces {
                interfaces += self.delete_interfaces(&scope).await?;
            }
        }
        Ok(json!({
            "tasks": tasks, "definitions": definitions, "client_tokens": tokens, "clusters": clusters,
            "services": services, "events": events, "interfaces": interfaces,
        }))
    }

    fn is_time_for_interfaces(&self, now: Timestamp) -> bool {
        let mut last = self.interfaces_at.lock().unwrap_or_else(PoisonError::into_inner);
        let due = last.is_none_or(|last| now.duration_since(last) >= INTERFACES_PERIOD);
        if due {
            *last = Some(now);
        }
        due
    }

    /// By one look-up each: the next key after all of the last one's.
    fn scopes(&self) -> Vec<Scope> {
        let mut scopes: Vec<Scope> = Vec::new();
        loop {
            let after = scopes.last().map(Scope::end);
            let next = self.store.range_from(PREFIX, after.as_deref(), 1);
            let path = next.first().and_then(|kv| kv.key.strip_prefix(PREFIX));
            let Some((account, rest)) = path.and_then(|path| path.split_once('/')) else { return scopes };
            let Some((region, _)) = rest.split_once('/') else { return scopes };
            scopes.push(Scope::new(account, region));
        }
    }

    async fn forget_tasks(&self, now: Timestamp) -> Result<usize, StoreError> {
        let mut forgotten = 0;
        let mut txn = Txn::new();
        for kv in self.store.range(Queue::Forget.prefix()) {
            let path = kv.key.strip_prefix(Queue::Forget.prefix()).and_then(|rest| rest.split_once('/'));
            let Some((at, task)) = path else { continue };
            if at.parse::<i64>().is_ok_and(|at| at > now.as_second()) {
                break;
            }
            // Nothing changes a task that is STOPPED but its tags, so there is nothing to compare.
            if let Some(task) = TaskKey::of_path(task) {
                txn = txn.delete(task.record());
            }
            txn = txn.delete(&*kv.key);
            forgotten += 1;
            if txn.then.len() + 2 > TXN_OPS_MAX {
                self.store.txn(std::mem::take(&mut txn)).await?;
            }
        }
        if !txn.then.is_empty() {
            self.store.txn(txn).await?;
        }
        Ok(forgotten)
    }

    async fn forget_tokens(&self, scope: &Scope, now: Timestamp) -> Result<usize, StoreError> {
        let tokens: Vec<Json<ClientTokenRecord>> = range_json(&*self.store, &scope.client_tokens());
        let old = tokens.iter().filter(|token| now.duration_since(token.record.made_at) > CLIENT_TOKEN_KEPT);
        let old: Vec<&Json<ClientTokenRecord>> = old.collect();
        for some in old.chunks(TXN_OPS_MAX) {
            let txn = some.iter().fold(Txn::new(), |txn, token| txn.delete(&*token.key));
            self.store.txn(txn).await?;
        }
        Ok(old.len())
    }

    async fn forget_clusters(&self, scope: &Scope, now: Timestamp) -> Result<usize, StoreError> {
        let mut forgotten = 0;
        for cluster in range_json::<ClusterRecord>(&*self.store, &scope.clusters()) {
            let over = cluster.record.status == ClusterStatus::Inactive
                && cluster.record.deleted_at.is_none_or(|at| now.duration_since(at) > STOPPED_KEPT);
            let empty = self.store.range_from(&scope.tasks(&cluster.record.name), None, 1).is_empty();
            if over && empty {
                let txn = Txn::new().when_revision(&*cluster.key, cluster.mod_revision).delete(&*cluster.key);
                forgotten += usize::from(self.store.txn(txn).await?.succeeded);
            }
        }
        Ok(forgotten)
    }

    async fn forget_services(&self, scope: &Scope, now: Timestamp) -> Result<usize, StoreError> {
        let mut forgotten = 0;
        for service in range_json::<ServiceRecord>(&*self.store, &scope.services()) {
            let ended = service.record.ended_at;
            if ended.is_some_and(|at| now.duration_since(at) > STOPPED_KEPT) {
                let key = service.record.key();
                let txn = Txn::new()
                    .when_revision(&*service.key, service.mod_revision)
                    .delete(&*service.key)
                    .delete_prefix(key.events())
                    .delete_prefix(key.revisions())
                    .delete_prefix(key.deployments());
                forgotten += usize::from(self.store.txn(txn).await?.succeeded);
            }
        }
        Ok(forgotten)
    }

    /// Those that are too old, and the oldest of too many.
    async fn forget_events(&self, scope: &Scope, now: Timestamp) -> Result<usize, StoreError> {
        let kept_from = events::key_at(scope, now - EVENTS_KEPT);
        let all = self.store.range(&events::prefix_of(scope));
        let too_many = all.len().saturating_sub(EVENTS_MAX);
        let old = all.iter().enumerate().take_while(|(at, kv)| *at < too_many || *kv.key < *kept_from);
        let old: Vec<&str> = old.map(|(_, kv)| &*kv.key).collect();
        for some in old.chunks(TXN_OPS_MAX) {
            let txn = some.iter().fold(Txn::new(), |txn, key| txn.delete(*key));
            self.store.txn(txn).await?;
        }
        Ok(old.len())
    }

    async fn delete_definitions(&self) -> Result<usize, StoreError> {
        let mut deleted = 0;
        for kv in self.store.range(Queue::DeleteDefinition.prefix()) {
            let path = kv.key.strip_prefix(Queue::DeleteDefinition.prefix()).unwrap_or_default();
            let parts: Vec<&str> = path.split('/').collect();
            let [account, region, family, revision] = parts[..] else { continue };
            let Ok(revision) = revision.parse::<u32>() else { continue };
            let scope = Scope::new(account, region);
            if self.is_referred_to(&scope, family, revision) {
                continue;
            }
            // No task can be made of it any more, so that nothing refers to it stays true.
            let key = scope.family(family);
            let Some(found) = get_json::<FamilyRecord>(&*self.store, &key) else { continue };
            let others = self.store.range_from(&scope.revisions(family), None, 2);
            let own = scope.revision(family, revision);
            let record =
                FamilyRecord { has_revisions: others.iter().any(|kv| *kv.key != *own), ..found.record };
            let txn = Txn::new()
                .when_revision(&*found.key, found.mod_revision)
                .put_json(key, &record)
                .delete(own)
                .delete(scope.definition(family, revision))
                .delete(&*kv.key);
            deleted += usize::from(self.store.txn(txn).await?.succeeded);
        }
        Ok(deleted)
    }

    fn is_referred_to(&self, scope: &Scope, family: &str, revision: u32) -> bool {
        let tasks: Vec<Json<TaskSummary>> = range_json(&*self.store, &scope.all_tasks());
        tasks.iter().any(|task| task.record.family == family && task.record.revision == revision)
            || self.is_deployed(scope, family, revision)
    }

    /// A service can still start tasks of it.
    fn is_deployed(&self, scope: &Scope, family: &str, revision: u32) -> bool {
        let is_it = |spec: &Spec| spec.family == family && spec.revision == revision;
        let services = range_json::<ServiceRecord>(&*self.store, &scope.services());
        services.iter().map(|found| &found.record).any(|service| {
            let key = service.key();
            let deployed = |one: &DeploymentRecord| {
                let found = get_json::<ServiceRevisionRecord>(&*self.store, &key.revision(&one.revision));
                found.is_some_and(|found| is_it(&found.record.spec))
            };
            service.status != ServiceStatus::Inactive
                && (is_it(&service.spec) || service.deployments.iter().any(deployed))
        })
    }

    /// There should be none; whatever went wrong, an address is not lost.
    async fn delete_interfaces(&self, scope: &Scope) -> Result<usize, String> {
        if self.store.range_from(&scope.clusters(), None, 1).is_empty() {
            return Ok(0);
        }
        let pattern = scope.arn("attachment/*");
        let found = interfaces::find(&self.invoke, scope, &[pattern])
            .await
            .map_err(|error| format!("the interfaces of {} cannot be listed: {error}", scope.region))?;
        if found.is_empty() {
            return Ok(0);
        }
        // Read after the interfaces: a task is there before its interface is.
        let tasks: Vec<Json<TaskSummary>> = range_json(&*self.store, &scope.all_tasks());
        let owned: HashSet<String> = tasks
            .iter()
            .filter(|task| task.record.lifecycle.status != Status::Stopped)
            .map(|task| scope.arn(format!("attachment/{}", task.record.attachment_id)))
            .collect();
        let mut deleted = 0;
        for (description, eni_id) in found {
            if !owned.contains(&description) {
                tracing::warn!(eni_id, description, "an interface without a task is deleted");
                interfaces::delete(&self.invoke, scope, &eni_id)
                    .await
                    .map_err(|error| format!("the interface {eni_id} cannot be deleted: {error}"))?;
                deleted += 1;
            }
        }
        Ok(deleted)
    }
}
