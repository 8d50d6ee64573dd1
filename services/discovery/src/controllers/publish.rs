//! Brings hosted zones to what namespaces, services and instances say, and finishes the operations that wait for it.
//!
//! Each piece of work is done anew from what is there, so that one that was begun and not finished comes to the same end.
//! Work on the records of one service is done once for all that wait for it; if Route 53 refuses it, for each alone, so that
//! one instance that cannot be published fails no other.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ferrogate_api::{ApiError, Invoke};
use ferrogate_control::{Activation, Controller};
use ferrogate_model::Clock;
use ferrogate_store::{Json, Store, Txn, get_json, range_json};

use super::zone;
use crate::plan::records::{changes, of_instance, service_name, wanted};
use crate::state::{
    InstanceRecord, NamespaceRecord, OperationRecord, Phase, Scope, ServiceRecord, WORK, Work, WorkRecord,
};

const PERIOD: Duration = Duration::from_secs(30);
/// After a failure that may pass, and while a change is on its way to the resolvers.
const SOON: Duration = Duration::from_millis(20);
const SYNC_LOOKS_MAX: u32 = 250;
const SYNC_PAUSE: Duration = Duration::from_millis(4);
const LATER: Duration = Duration::from_secs(2);

pub(crate) struct Publish {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) invoke: Arc<dyn Invoke>,
    pub(crate) clock: Arc<dyn Clock>,
}

/// How a piece of work stands.
enum End {
    Done,
    /// It never will be.
    Failed(ApiError),
}

/// Why it is not at its end: worth another try.
enum Open {
    OnItsWay,
    Trouble(String),
}

#[async_trait::async_trait]
impl Controller for Publish {
    fn name(&self) -> &'static str {
        "servicediscovery-publish"
    }

    fn prefixes(&self) -> Vec<String> {
        vec![WORK.to_owned()]
    }

    fn period(&self) -> Duration {
        PERIOD
    }

    async fn activate(&self) -> Activation {
        let mut seen = Seen::default();
        for group in self.work() {
            match self.carry_out(&group, &mut seen).await {
                Ok(()) => {}
                Err(Open::OnItsWay) => seen.pause = Some(SOON),
                Err(Open::Trouble(why)) => {
                    seen.troubles.push(why);
                    seen.pause = seen.pause.or(Some(LATER));
                }
            }
        }
        let Seen { done, failed, troubles, pause } = seen;
        let detail = serde_json::json!({ "done": done, "failed": failed, "troubles": troubles });
        let activation = match troubles.into_iter().next() {
            Some(why) => Activation::failed(why),
            None => Activation::done(detail),
        };
        match pause {
            Some(pause) => activation.again_in(pause),
            None => activation,
        }
    }
}

/// What one activation saw.
#[derive(Default)]
struct Seen {
    done: usize,
    failed: usize,
    troubles: Vec<String>,
    pause: Option<Duration>,
}

/// Work that is the same, for all that wait for it: one at least, the oldest first.
struct Group {
    scope: Scope,
    waiting: Vec<Json<WorkRecord>>,
}

impl Publish {
    /// What is to be done, oldest first.
    fn work(&self) -> Vec<Group> {
        let mut found = range_json::<WorkRecord>(&*self.store, WORK);
        found.sort_by_key(|work| work.create_revision);
        let mut groups: Vec<Group> = Vec::new();
        let mut places: BTreeMap<(Scope, String), usize> = BTreeMap::new();
        for work in found {
            let Some(scope) = Scope::of_work(&work.key) else { continue };
            let same = match &work.record.task {
                Work::Records { service_id, .. } => service_id.clone(),
                _ => work.key.to_string(),
            };
            let place = *places.entry((scope.clone(), same)).or_insert_with(|| {
                groups.push(Group { scope, waiting: Vec::new() });
                groups.len() - 1
            });
            groups[place].waiting.push(work);
        }
        groups
    }

    async fn carry_out(&self, Group { scope, waiting }: &Group, seen: &mut Seen) -> Result<(), Open> {
        let end = Box::pin(self.step(scope, &waiting[0].record, &[])).await?;
        if matches!(end, End::Done) || waiting.len() == 1 {
            for work in waiting {
                self.finish(scope, work, &end, seen).await?;
            }
            return Ok(());
        }
        for (n, work) in waiting.iter().enumerate() {
            let later = waiting[n + 1..].iter().filter_map(instance_of);
            let later: Vec<&str> = later.filter(|id| Some(*id) != instance_of(work)).collect();
            let end = Box::pin(self.step(scope, &work.record, &later)).await?;
            self.finish(scope, work, &end, seen).await?;
        }
        Ok(())
    }

    /// `later`: instances whose record sets are left as they are for now.
    async fn step(&self, scope: &Scope, work: &WorkRecord, later: &[&str]) -> Result<End, Open> {
        let key = scope.namespace(&work.namespace_id);
        let Some(namespace) = get_json::<NamespaceRecord>(&*self.store, &key) else { return Ok(End::Done) };
        let acted = match &work.task {
            Work::CreateZone => self.create_zone(scope, &namespace).await,
            Work::DeleteZone => self.delete_zone(scope, &namespace).await,
            Work::SoaTtl => self.soa_ttl(scope, &namespace.record).await,
            Work::Records { service_id, .. } => {
                self.records(scope, &namespace.record, service_id, later).await
            }
        };
        match acted {
            Ok(()) => Ok(End::Done),
            Err(Failure::Open(open)) => Err(open),
            Err(Failure::Refused(error)) if lasting(&error) => {
                if work.task == Work::CreateZone {
                    self.abandon(scope, &namespace.record).await?;
                }
                Ok(End::Failed(error))
            }
            Err(Failure::Refused(error)) => Err(Open::Trouble(error.to_string())),
        }
    }

    async fn synced(&self, scope: &Scope, change_id: Option<String>) -> Result<(), Failure> {
        let Some(change_id) = change_id else { return Ok(()) };
        let client = zone::client(&self.invoke, scope);
        // A matter of milliseconds: resolvers are given each change as it is committed.
        for _ in 0..SYNC_LOOKS_MAX {
            if zone::in_sync(&client, &change_id).await? {
                return Ok(());
            }
            tokio::time::sleep(SYNC_PAUSE).await;
        }
        Err(Failure::Open(Open::OnItsWay))
    }

    async fn create_zone(&self, scope: &Scope, namespace: &Json<NamespaceRecord>) -> Result<(), Failure> {
        let client = zone::client(&self.invoke, scope);
        let mut record = namespace.record.clone();
        let zone_id = zone::create(&client, scope, &record).await?;
        let change_id = zone::soa_ttl(&client, &zone_id, &record).await?;
        self.synced(scope, change_id).await?;
        record.hosted_zone_id = Some(zone_id);
        record.phase = Phase::Active;
        let txn = Txn::new()
            .when_revision(&*namespace.key, namespace.mod_revision)
            .put_json(&*namespace.key, &record);
        Ok(self.commit(txn).await?)
    }

    /// The zone of a namespace that will not be: nobody but Cloud Map could ever delete it.
    async fn abandon(&self, scope: &Scope, namespace: &NamespaceRecord) -> Result<(), Open> {
        let client = zone::client(&self.invoke, scope);
        match zone::abandon(&client, namespace).await {
            Ok(()) => Ok(()),
            Err(error) if lasting(&error) => {
                tracing::error!(%error, namespace = namespace.id, "a hosted zone is left behind");
                Ok(())
            }
            Err(error) => Err(Open::Trouble(error.to_string())),
        }
    }

    async fn delete_zone(&self, scope: &Scope, namespace: &Json<NamespaceRecord>) -> Result<(), Failure> {
        if let Some(id) = &namespace.record.hosted_zone_id {
            zone::delete(&zone::client(&self.invoke, scope), id).await?;
        }
        let txn = Txn::new()
            .when_revision(&*namespace.key, namespace.mod_revision)
            .delete(&*namespace.key)
            .delete(scope.namespace_name(&namespace.record.name));
        Ok(self.commit(txn).await?)
    }

    async fn soa_ttl(&self, scope: &Scope, namespace: &NamespaceRecord) -> Result<(), Failure> {
        let Some(zone_id) = &namespace.hosted_zone_id else { return Ok(()) };
        let change_id = zone::soa_ttl(&zone::client(&self.invoke, scope), zone_id, namespace).await?;
        self.synced(scope, change_id).await
    }

    async fn records(
        &self,
        scope: &Scope,
        namespace: &NamespaceRecord,
        service_id: &str,
        later: &[&str],
    ) -> Result<(), Failure> {
        let Some(zone_id) = &namespace.hosted_zone_id else { return Ok(()) };
        let Some(service) = get_json::<ServiceRecord>(&*self.store, &scope.service(service_id)) else {
            return Ok(());
        };
        let client = zone::client(&self.invoke, scope);
        let name = service_name(&service.record, &namespace.name);
        let there = zone::sets(&client, zone_id, &name).await?;
        let found = range_json::<InstanceRecord>(&*self.store, &scope.instances(service_id));
        let instances: Vec<InstanceRecord> = found.into_iter().map(|found| found.record).collect();
        let wanted = wanted(&service.record, &namespace.name, &instances);
        let mut changes = changes(&there, &wanted);
        changes.retain(|change| {
            let set = change.resource_record_set.as_ref();
            !set.is_some_and(|set| later.iter().any(|id| of_instance(set, &name, id)))
        });
        let change_id = zone::change(&client, zone_id, &changes).await?;
        self.synced(scope, change_id).await
    }

    /// `OnItsWay`: somebody else was quicker, and it is done anew.
    async fn commit(&self, txn: Txn) -> Result<(), Open> {
        match self.store.txn(txn).await {
            Ok(result) if result.succeeded => Ok(()),
            Ok(_) => Err(Open::OnItsWay),
            Err(error) => Err(Open::Trouble(error.to_string())),
        }
    }

    /// The work is no more, and the operation that waited for it is over.
    async fn finish(
        &self,
        scope: &Scope,
        work: &Json<WorkRecord>,
        end: &End,
        seen: &mut Seen,
    ) -> Result<(), Open> {
        let mut txn = Txn::new().when_revision(&*work.key, work.mod_revision).delete(&*work.key);
        let operation = work.record.operation_id.as_deref();
        let operation =
            operation.and_then(|id| get_json::<OperationRecord>(&*self.store, &scope.operation(id)));
        if let Some(Json { key, mut record, .. }) = operation {
            record.updated_at = self.clock.now();
            match end {
                End::Done => record.status = "SUCCESS".into(),
                End::Failed(error) => {
                    record.status = "FAIL".into();
                    record.error_code = Some(error_code(&error.code).into());
                    record.error_message = Some(error.message.clone());
                }
            }
            txn = txn.put_json(&*key, &record);
        }
        if let End::Failed(error) = end {
            tracing::warn!(%error, work = &*work.key, "Route 53 refused what Cloud Map needs");
            txn = self.undo(scope, &work.record, txn);
        }
        self.commit(txn).await?;
        match end {
            End::Done => seen.done += 1,
            End::Failed(_) => seen.failed += 1,
        }
        Ok(())
    }

    /// What could not be made is not there.
    fn undo(&self, scope: &Scope, work: &WorkRecord, txn: Txn) -> Txn {
        let key = scope.namespace(&work.namespace_id);
        let namespace = get_json::<NamespaceRecord>(&*self.store, &key);
        match (&work.task, namespace) {
            (Work::CreateZone, Some(namespace)) => txn
                .when_revision(&*key, namespace.mod_revision)
                .delete(key)
                .delete(scope.namespace_name(&namespace.record.name)),
            (Work::DeleteZone, Some(Json { mut record, mod_revision, .. })) => {
                record.phase = Phase::Active;
                txn.when_revision(&*key, mod_revision).put_json(key, &record)
            }
            (Work::Records { service_id, instance_id: Some(instance_id) }, _) => {
                let key = scope.instance(service_id, instance_id);
                let instance = get_json::<InstanceRecord>(&*self.store, &key)
                    .filter(|found| Some(&found.record.operation_id) == work.operation_id.as_ref());
                let Some(instance) = instance else { return txn };
                // What an earlier registration of it has in the zone goes as well.
                let task = Work::Records { service_id: service_id.clone(), instance_id: None };
                let rest = WorkRecord { task, operation_id: None, ..work.clone() };
                txn.when_revision(&*key, instance.mod_revision)
                    .delete(key)
                    .put_json(scope.revision(service_id), &0)
                    .put_json(scope.work(&ferrogate_model::hex_id()), &rest)
            }
            _ => txn,
        }
    }
}

fn instance_of(work: &Json<WorkRecord>) -> Option<&str> {
    match &work.record.task {
        Work::Records { instance_id, .. } => instance_id.as_deref(),
        _ => None,
    }
}

enum Failure {
    Refused(ApiError),
    Open(Open),
}

impl From<Open> for Failure {
    fn from(open: Open) -> Self {
        Self::Open(open)
    }
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        Self::Refused(error)
    }
}

/// What trying again does not help: of the caller's making, or Route 53's own for good.
fn lasting(error: &ApiError) -> bool {
    let passes =
        matches!(error.code.as_str(), "PriorRequestNotComplete" | "ThrottlingException" | "InternalFailure");
    !passes && error.status.is_none_or(|status| status < 500)
}

fn error_code(code: &str) -> &'static str {
    match code {
        "AccessDenied" | "AccessDeniedException" => "ACCESS_DENIED",
        "NoSuchHostedZone" => "HOSTED_ZONE_NOT_FOUND",
        "InvalidChangeBatch" | "InvalidInput" => "INVALID_CHANGE_BATCH",
        _ => "CANNOT_CREATE_HOSTED_ZONE",
    }
}
