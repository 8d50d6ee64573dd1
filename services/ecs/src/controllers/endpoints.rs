//! Endpoints of Service Connect that are nobody's any more: not offered, and deleted from Cloud Map.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ferrogate_api::{ApiError, Invoke, servicediscovery as discovery};
use ferrogate_control::{Activation, Controller};
use ferrogate_model::Clock;
use ferrogate_store::{Kv, Store, StoreError, Txn, get_json};
use serde_json::json;

use super::clients;
use crate::EcsService;
use crate::operations::namespaces::{is_gone, is_managed};
use crate::plan::connect::{Use, tidy};
use crate::plan::service::DeploymentStatus;
use crate::state::connect::{EndpointRecord, NamespaceRecord};
use crate::state::service::{ServiceKey, ServiceRecord, ServiceRevisionRecord, ServiceStatus, Spec};
use crate::state::{Queue, Scope};

const PERIOD: Duration = Duration::from_secs(60);
/// While something leaves.
const AGAIN: Duration = Duration::from_secs(2);

pub(super) struct Endpoints {
    store: Arc<dyn Store>,
    invoke: Arc<dyn Invoke>,
    clock: Arc<dyn Clock>,
}

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("Cloud Map refused: {0}")]
    CloudMap(#[from] ApiError),
}

impl Endpoints {
    pub(super) fn new(service: &EcsService) -> Self {
        Self {
            store: Arc::clone(&service.store),
            invoke: Arc::clone(&service.invoke),
            clock: Arc::clone(&service.clock),
        }
    }
}

#[async_trait::async_trait]
impl Controller for Endpoints {
    fn name(&self) -> &'static str {
        "ecs-endpoints"
    }

    fn prefixes(&self) -> Vec<String> {
        vec![Queue::Connect.prefix().into()]
    }

    fn period(&self) -> Duration {
        PERIOD
    }

    async fn activate(&self) -> Activation {
        let (mut done, mut waiting) = (0, 0);
        let mut failed = None;
        for work in self.store.range(Queue::Connect.prefix()) {
            match Box::pin(self.work(&work)).await {
                Ok(true) => done += 1,
                Ok(false) => waiting += 1,
                Err(error) => {
                    tracing::warn!(key = &*work.key, %error, "endpoints are not as they should be; trying again");
                    failed = Some(error.to_string());
                }
            }
        }
        let activation = match failed {
            Some(why) => Activation::failed(why),
            None => Activation::done(json!({ "done": done, "waiting": waiting })),
        };
        if waiting > 0 { activation.again_in(AGAIN) } else { activation }
    }
}

impl Endpoints {
    /// `false`: something in this namespace has to be looked at again.
    async fn work(&self, work: &Kv) -> Result<bool, Error> {
        let path = work.key.strip_prefix(Queue::Connect.prefix()).unwrap_or_default();
        let parts: Vec<&str> = path.split('/').collect();
        let [account, region, namespace_id] = parts[..] else { return Ok(true) };
        let scope = Scope::new(account, region);
        let key = scope.namespace(namespace_id);
        let Some(found) = get_json::<NamespaceRecord>(&*self.store, &key) else {
            return self.done(work).await;
        };
        let mut record = found.record.clone();
        self.tidy(&scope, namespace_id, &mut record);
        if record != found.record {
            let txn = Txn::new().when_revision(&key, found.mod_revision).put_json(&key, &record);
            if !self.store.txn(txn).await?.succeeded {
                return Ok(false);
            }
        }
        let leaving = record.endpoints.iter().filter(|(_, one)| one.leaving);
        let leaving: Vec<(String, Option<String>)> =
            leaving.map(|(name, one)| (name.clone(), one.service_id.clone())).collect();
        for (name, id) in leaving {
            if self.delete(&scope, namespace_id, &name, id.as_deref()).await? {
                self.forget(&key, &name).await?;
            }
        }
        let now = get_json::<NamespaceRecord>(&*self.store, &key);
        if now.is_some_and(|mut now| self.tidy(&scope, namespace_id, &mut now.record)) {
            return Ok(false);
        }
        self.done(work).await
    }

    /// `true`: it has to be looked at again.
    fn tidy(&self, scope: &Scope, namespace_id: &str, record: &mut NamespaceRecord) -> bool {
        let known: Mutex<HashMap<ServiceKey, Use>> = Mutex::default();
        let uses = |one: &EndpointRecord| {
            let owner = one.owner(scope);
            let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
            known.entry(owner).or_insert_with_key(|owner| self.uses(owner, namespace_id)).clone()
        };
        tidy(record, uses, self.clock.now())
    }

    fn uses(&self, owner: &ServiceKey, namespace_id: &str) -> Use {
        let mut all = Use::default();
        let found = get_json::<ServiceRecord>(&*self.store, &owner.record());
        let Some(service) = found.map(|found| found.record) else { return all };
        if service.status == ServiceStatus::Inactive {
            return all;
        }
        let of = |spec: &Spec| {
            let here = spec.membership().filter(|one| one.namespace_id == namespace_id);
            here.map(|one| one.endpoints.clone()).unwrap_or_default()
        };
        all.current = of(&service.spec).into_iter().map(|one| (one.discovery_name.clone(), one)).collect();
        for one in &service.deployments {
            let key = owner.revision(&one.revision);
            let Some(found) = get_json::<ServiceRevisionRecord>(&*self.store, &key) else { continue };
            let names = of(&found.record.spec).into_iter().map(|one| one.discovery_name);
            let is_over = one.status == DeploymentStatus::Inactive;
            if is_over { all.kept.extend(names) } else { all.live.extend(names) }
        }
        all
    }

    /// `false`: not yet, it has instances.
    async fn delete(
        &self,
        scope: &Scope,
        namespace_id: &str,
        name: &str,
        id: Option<&str>,
    ) -> Result<bool, Error> {
        let client = clients::discovery(&self.invoke, scope);
        let id = match id {
            Some(id) => Some(id.to_owned()),
            None => find(&client, scope, namespace_id, name).await?,
        };
        let Some(id) = id else { return Ok(true) };
        match client.delete_service(discovery::DeleteServiceRequest { id: Some(id.clone()) }).await {
            Ok(_) => Ok(true),
            Err(error) if is_gone(&client, &id, &error).await => Ok(true),
            Err(error) if error.code.starts_with("ResourceInUse") => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Unless somebody has claimed it meanwhile.
    async fn forget(&self, key: &str, name: &str) -> Result<(), StoreError> {
        let Some(found) = get_json::<NamespaceRecord>(&*self.store, key) else { return Ok(()) };
        let mut record = found.record;
        if record.endpoints.get(name).is_none_or(|one| !one.leaving) {
            return Ok(());
        }
        record.endpoints.remove(name);
        let txn = Txn::new().when_revision(key, found.mod_revision);
        let txn = if record.endpoints.is_empty() { txn.delete(key) } else { txn.put_json(key, &record) };
        self.store.txn(txn).await.map(drop)
    }

    async fn done(&self, work: &Kv) -> Result<bool, Error> {
        let txn = Txn::new().when_revision(&*work.key, work.mod_revision).delete(&*work.key);
        Ok(self.store.txn(txn).await?.succeeded)
    }
}

/// Made by a call that has not lived to write its id down. One that a customer has made is none of ours.
async fn find(
    client: &discovery::Client,
    scope: &Scope,
    namespace_id: &str,
    name: &str,
) -> Result<Option<String>, ApiError> {
    let mut next_token = None;
    loop {
        let filter = discovery::ServiceFilter {
            name: Some("NAMESPACE_ID".into()),
            values: Some(vec![namespace_id.to_owned()]),
            condition: Some("EQ".into()),
        };
        let request = discovery::ListServicesRequest {
            filters: Some(vec![filter]),
            next_token: next_token.take(),
            ..Default::default()
        };
        let answer = client.list_services(request).await?;
        let mut services = answer.services.into_iter().flatten();
        if let Some(id) = services.find(|one| one.name.as_deref() == Some(name)).and_then(|one| one.id) {
            return Ok(is_managed(client, scope, &id).await?.then_some(id));
        }
        next_token = answer.next_token;
        if next_token.is_none() {
            return Ok(None);
        }
    }
}
