//! Brings hosted zones to what namespaces, services and instances say, and finishes the operations that wait for it.
//!
//! Each piece of work is done anew from what is there, so that one that was begun and not finished comes to the same end.
//! Work on the records of one service is done once for all that wait for it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ferrogate_api::route53::DeleteHostedZoneRequest;
use ferrogate_api::{ApiError, Invoke};
use ferrogate_control::{Activation, Controller};
use ferrogate_model::Clock;
use ferrogate_store::{Json, Store, Txn, get_json, range_json};

use super::zone;
use crate::plan::records::{changes, service_name, wanted};
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
        let (mut done, mut pause, mut troubles) = (0, None, Vec::new());
        for ((scope, work), waiting) in self.work() {
            match Box::pin(self.step(&scope, &work)).await {
                Ok(end) => {
                    done += waiting.len();
                    for found in waiting {
                        if let Err(error) = self.finish(&scope, &found, &end).await {
                            troubles.push(error);
                        }
                    }
                }
                Err(Open::OnItsWay) => pause = Some(SOON),
                Err(Open::Trouble(why)) => {
                    troubles.push(why);
                    pause = pause.or(Some(LATER));
                }
            }
        }
        let detail = serde_json::json!({ "done": done, "troubles": troubles });
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

type Group = (Scope, WorkRecord);

impl Publish {
    /// What is to be done, oldest first, each with all that wait for it.
    fn work(&self) -> Vec<(Group, Vec<Json<WorkRecord>>)> {
        let mut found = range_json::<WorkRecord>(&*self.store, WORK);
        found.sort_by_key(|work| work.create_revision);
        let mut groups: Vec<(Group, Vec<Json<WorkRecord>>)> = Vec::new();
        let mut places: BTreeMap<(Scope, String), usize> = BTreeMap::new();
        for work in found {
            let Some(scope) = Scope::of_work(&work.key) else { continue };
            let same = match &work.record.task {
                Work::Records { service_id, .. } => service_id.clone(),
                _ => work.key.to_string(),
            };
            let place = *places.entry((scope.clone(), same)).or_insert_with(|| {
                groups.push(((scope, work.record.clone()), Vec::new()));
                groups.len() - 1
            });
            groups[place].1.push(work);
        }
        groups
    }

    async fn step(&self, scope: &Scope, work: &WorkRecord) -> Result<End, Open> {
        let key = scope.namespace(&work.namespace_id);
        let Some(namespace) = get_json::<NamespaceRecord>(&*self.store, &key) else { return Ok(End::Done) };
        let acted = match &work.task {
            Work::CreateZone => self.create_zone(scope, namespace).await,
            Work::DeleteZone => self.delete_zone(scope, namespace).await,
            Work::SoaTtl => self.soa_ttl(scope, &namespace.record).await,
            Work::Records { service_id, .. } => self.records(scope, &namespace.record, service_id).await,
        };
        match acted {
            Ok(()) => Ok(End::Done),
            Err(Failure::Open(open)) => Err(open),
            // Of the caller's making, or Route 53's own for good.
            Err(Failure::Refused(error))
                if error.status.is_none_or(|status| status < 500) && lasting(&error) =>
            {
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

    async fn create_zone(&self, scope: &Scope, namespace: Json<NamespaceRecord>) -> Result<(), Failure> {
        let client = zone::client(&self.invoke, scope);
        let mut record = namespace.record;
        let zone_id = zone::create(&client, scope, &record).await?;
        let change_id = zone::soa_ttl(&client, &zone_id, &record).await?;
        self.synced(scope, change_id).await?;
        record.hosted_zone_id = Some(zone_id);
        record.phase = Phase::Active;
        let txn = Txn::new()
            .when_revision(&*namespace.key, namespace.mod_revision)
            .put_json(&*namespace.key, &record);
        self.commit(txn).await
    }

    async fn delete_zone(&self, scope: &Scope, namespace: Json<NamespaceRecord>) -> Result<(), Failure> {
        let client = zone::client(&self.invoke, scope);
        let id = namespace.record.hosted_zone_id.clone();
        match client.delete_hosted_zone(DeleteHostedZoneRequest { id }).await {
            Ok(_) => {}
            Err(error) if error.code == "NoSuchHostedZone" => {}
            Err(error) => return Err(Failure::Refused(error)),
        }
        let txn = Txn::new()
            .when_revision(&*namespace.key, namespace.mod_revision)
            .delete(&*namespace.key)
            .delete(scope.namespace_name(&namespace.record.name));
        self.commit(txn).await
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
    ) -> Result<(), Failure> {
        let Some(zone_id) = &namespace.hosted_zone_id else { return Ok(()) };
        let Some(service) = get_json::<ServiceRecord>(&*self.store, &scope.service(service_id)) else {
            return Ok(());
        };
        let client = zone::client(&self.invoke, scope);
        let there = zone::sets(&client, zone_id, &service_name(&service.record, &namespace.name)).await?;
        let found = range_json::<InstanceRecord>(&*self.store, &scope.instances(service_id));
        let instances: Vec<InstanceRecord> = found.into_iter().map(|found| found.record).collect();
        let wanted = wanted(&service.record, &namespace.name, &instances);
        let change_id = zone::change(&client, zone_id, &changes(&there, &wanted)).await?;
        self.synced(scope, change_id).await
    }

    async fn commit(&self, txn: Txn) -> Result<(), Failure> {
        match self.store.txn(txn).await {
            Ok(result) if result.succeeded => Ok(()),
            Ok(_) => Err(Failure::Open(Open::OnItsWay)),
            Err(error) => Err(Failure::Open(Open::Trouble(error.to_string()))),
        }
    }

    /// The work is no more, and the operation that waited for it is over.
    async fn finish(&self, scope: &Scope, work: &Json<WorkRecord>, end: &End) -> Result<(), String> {
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
        if matches!(end, End::Failed(_)) {
            txn = self.undo(scope, &work.record, txn);
        }
        self.store.txn(txn).await.map(drop).map_err(|error| error.to_string())
    }

    /// What could not be made is not there.
    fn undo(&self, scope: &Scope, work: &WorkRecord, txn: Txn) -> Txn {
        let key = scope.namespace(&work.namespace_id);
        let namespace = get_json::<NamespaceRecord>(&*self.store, &key);
        match (&work.task, namespace) {
            (Work::CreateZone, Some(namespace)) => {
                txn.delete(key).delete(scope.namespace_name(&namespace.record.name))
            }
            (Work::DeleteZone, Some(Json { mut record, .. })) => {
                record.phase = Phase::Active;
                txn.put_json(key, &record)
            }
            (Work::Records { service_id, instance_id: Some(instance_id) }, _) => {
                let key = scope.instance(service_id, instance_id);
                let this = get_json::<InstanceRecord>(&*self.store, &key)
                    .is_some_and(|found| Some(&found.record.operation_id) == work.operation_id.as_ref());
                if this { txn.delete(key).put_json(scope.revision(service_id), &0) } else { txn }
            }
            _ => txn,
        }
    }
}

enum Failure {
    Refused(ApiError),
    Open(Open),
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        Self::Refused(error)
    }
}

/// What trying again does not help.
fn lasting(error: &ApiError) -> bool {
    !matches!(error.code.as_str(), "PriorRequestNotComplete" | "ThrottlingException" | "InternalFailure")
}

fn error_code(code: &str) -> &'static str {
    match code {
        "AccessDenied" | "AccessDeniedException" => "ACCESS_DENIED",
        "NoSuchHostedZone" => "HOSTED_ZONE_NOT_FOUND",
        "InvalidChangeBatch" | "InvalidInput" => "INVALID_CHANGE_BATCH",
        _ => "CANNOT_CREATE_HOSTED_ZONE",
    }
}
