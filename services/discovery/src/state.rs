//! The records in the store.
//!
//! ```text
//! /servicediscovery/<account>/<region>/namespace/<id>               NamespaceRecord
//! /servicediscovery/<account>/<region>/namespace-name/<name>        namespace id
//! /servicediscovery/<account>/<region>/service/<id>                 ServiceRecord
//! /servicediscovery/<account>/<region>/service-name/<ns id>/<name>  service id
//! /servicediscovery/<account>/<region>/instance/<service>/<id>      InstanceRecord
//! /servicediscovery/<account>/<region>/revision/<service>           its revision is that of the service's instances
//! /servicediscovery/<account>/<region>/operation/<id>               OperationRecord
//! /servicediscovery/jobs/<account>/<region>/<id>                    WorkRecord
//! ```
//!
//! The operations write all of them. The publish controller writes a namespace's `phase` and `hosted_zone_id`, finishes
//! operations, and deletes what work is done: namespaces that are deleted or could not be made, instances that could not
//! be published.

use std::collections::BTreeMap;

use ferrogate_api::{ApiError, Context};
use ferrogate_store::{Json, Store, Txn, get_json, range_json};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{DiscoveryService, errors};

/// Operations that are known of an account in a region; older ones that are over are forgotten.
const OPERATIONS_MAX: usize = 1000;
/// Forgotten with one new one, so that a transaction stays small.
const FORGOTTEN_AT_ONCE: usize = 16;
pub(crate) const PREFIX: &str = "/servicediscovery/";
pub(crate) const WORK: &str = "/servicediscovery/jobs/";

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Scope {
    pub account: String,
    pub region: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum NamespaceKind {
    Http,
    Private,
    Public,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Phase {
    /// Its hosted zone is not made yet: nobody sees it.
    Creating,
    Active,
    Deleting,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct NamespaceRecord {
    pub id: String,
    pub name: String,
    pub kind: NamespaceKind,
    pub phase: Phase,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Of private ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vpc_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hosted_zone_id: Option<String>,
    pub soa_ttl_seconds: u32,
    pub creator_request_id: String,
    /// The one that made it.
    pub operation_id: String,
    pub created_at: Timestamp,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ServiceRecord {
    pub id: String,
    pub name: String,
    pub namespace_id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dns: Option<DnsSettings>,
    pub custom_health: bool,
    pub creator_request_id: String,
    pub created_at: Timestamp,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct DnsSettings {
    /// Else multivalue.
    pub weighted: bool,
    /// `A`, `AAAA`, `SRV`, `CNAME` → seconds; none once an update has left them all out.
    pub records: BTreeMap<String, u32>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct InstanceRecord {
    pub id: String,
    pub attributes: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub creator_request_id: Option<String>,
    /// What the custom health check says; true where there is none.
    pub healthy: bool,
    /// The last that registered it.
    pub operation_id: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct OperationRecord {
    pub id: String,
    /// `REGISTER_INSTANCE`, …
    pub kind: String,
    /// `PENDING`, `SUCCESS`, `FAIL`
    pub status: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_code: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_message: Option<String>,
    /// `NAMESPACE`, `SERVICE`, `INSTANCE` → id
    pub targets: BTreeMap<String, String>,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    /// Of an update of a namespace whose caller named it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub update: Option<UpdateRecord>,
}

/// What an update of a namespace asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct UpdateRecord {
    /// UpdaterRequestId
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub soa_ttl_seconds: Option<i64>,
}

/// What is left to be done by Route 53's API.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct WorkRecord {
    pub namespace_id: String,
    pub task: Work,
    /// `None`: nobody waits for it by an operation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation_id: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Work {
    CreateZone,
    DeleteZone,
    SoaTtl,
    /// The zone shall have the record sets of this service's instances; because of that instance, if of one.
    Records {
        service_id: String,
        instance_id: Option<String>,
    },
}

impl Scope {
    pub(crate) fn of(cx: &Context) -> Self {
        Self { account: cx.account.clone(), region: cx.region.clone() }
    }

    fn key(&self, rest: &str) -> String {
        format!("/servicediscovery/{}/{}/{rest}", self.account, self.region)
    }

    pub(crate) fn namespaces(&self) -> String {
        self.key("namespace/")
    }

    pub(crate) fn namespace(&self, id: &str) -> String {
        self.namespaces() + id
    }

    pub(crate) fn namespace_name(&self, name: &str) -> String {
        self.key("namespace-name/") + name
    }

    pub(crate) fn services(&self) -> String {
        self.key("service/")
    }

    pub(crate) fn service(&self, id: &str) -> String {
        self.services() + id
    }

    pub(crate) fn service_names(&self, namespace_id: &str) -> String {
        self.key(&format!("service-name/{namespace_id}/"))
    }

    pub(crate) fn service_name(&self, namespace_id: &str, name: &str) -> String {
        self.service_names(namespace_id) + name
    }

    pub(crate) fn instances(&self, service_id: &str) -> String {
        self.key(&format!("instance/{service_id}/"))
    }

    pub(crate) fn instance(&self, service_id: &str, id: &str) -> String {
        self.instances(service_id) + id
    }

    pub(crate) fn revision(&self, service_id: &str) -> String {
        self.key("revision/") + service_id
    }

    pub(crate) fn operations(&self) -> String {
        self.key("operation/")
    }

    pub(crate) fn operation(&self, id: &str) -> String {
        self.operations() + id
    }

    pub(crate) fn work(&self, id: &str) -> String {
        format!("{WORK}{}/{}/{id}", self.account, self.region)
    }

    /// Of a key of a `WorkRecord`.
    pub(crate) fn of_work(key: &str) -> Option<Self> {
        let mut parts = key.strip_prefix(WORK)?.split('/');
        Some(Self { account: parts.next()?.to_owned(), region: parts.next()?.to_owned() })
    }

    pub(crate) fn arn(&self, resource: &str) -> String {
        format!("arn:aws:servicediscovery:{}:{}:{resource}", self.region, self.account)
    }

    pub(crate) fn namespace_arn(&self, id: &str) -> String {
        self.arn(&format!("namespace/{id}"))
    }

    pub(crate) fn service_arn(&self, id: &str) -> String {
        self.arn(&format!("service/{id}"))
    }
}

/// (service id, instance id) of a key of an `InstanceRecord`.
pub(crate) fn instance_of_key(key: &str) -> Option<(&str, &str)> {
    let mut parts = key.strip_prefix(PREFIX)?.splitn(5, '/');
    let (account, kind) = (parts.next()?, parts.nth(1)?);
    let of = (parts.next()?, parts.next()?);
    (account != "jobs" && kind == "instance").then_some(of)
}

/// The id of a key of a `ServiceRecord`.
pub(crate) fn service_of_key(key: &str) -> Option<&str> {
    let mut parts = key.strip_prefix(PREFIX)?.splitn(4, '/');
    let (account, kind) = (parts.next()?, parts.nth(1)?);
    let id = parts.next()?;
    (account != "jobs" && kind == "service").then_some(id)
}

/// An id, or the ARN that ends in it.
pub(crate) fn bare_id(id: &str) -> &str {
    if id.starts_with("arn:") { id.rsplit('/').next().unwrap_or(id) } else { id }
}

/// `ns-` or `srv-` and sixteen hex digits.
pub(crate) fn new_id(prefix: &str) -> String {
    format!("{prefix}-{}", &ferrogate_model::hex_id()[..16])
}

impl NamespaceRecord {
    /// Its instances' record sets are in a hosted zone.
    pub(crate) fn dns(&self) -> bool {
        self.kind != NamespaceKind::Http
    }
}

impl DiscoveryService {
    pub(crate) fn store(&self) -> &dyn Store {
        &*self.store
    }

    /// One that is there for its users: not while it is made.
    pub(crate) fn namespace(&self, scope: &Scope, id: &str) -> Result<Json<NamespaceRecord>, ApiError> {
        let found = get_json::<NamespaceRecord>(self.store(), &scope.namespace(bare_id(id)));
        found.filter(|found| found.record.phase != Phase::Creating).ok_or_else(|| errors::no_namespace(id))
    }

    pub(crate) fn service(&self, scope: &Scope, id: &str) -> Result<Json<ServiceRecord>, ApiError> {
        get_json(self.store(), &scope.service(bare_id(id))).ok_or_else(|| errors::no_service(id))
    }

    pub(crate) fn instances(&self, scope: &Scope, service_id: &str) -> Vec<InstanceRecord> {
        let found = range_json::<InstanceRecord>(self.store(), &scope.instances(service_id));
        found.into_iter().map(|found| found.record).collect()
    }

    pub(crate) fn is_pending(&self, scope: &Scope, operation_id: &str) -> bool {
        let found = get_json::<OperationRecord>(self.store(), &scope.operation(operation_id));
        found.is_some_and(|found| found.record.status == "PENDING")
    }

    /// Whether a zone has, or may have, record sets of the service.
    pub(crate) fn is_published(&self, scope: &Scope, service_id: &str) -> bool {
        let of_service = |work: &WorkRecord| matches!(&work.task, Work::Records { service_id: of, .. } if of == service_id);
        let work = range_json::<WorkRecord>(self.store(), &scope.work(""));
        !self.store.range(&scope.instances(service_id)).is_empty()
            || work.iter().any(|work| of_service(&work.record))
    }

    pub(crate) fn count(&self, prefix: &str) -> i32 {
        i32::try_from(self.store.range(prefix).len()).unwrap_or(i32::MAX)
    }

    /// With the record of an operation: `done` at once, or left to the controller by `work`.
    pub(crate) fn begin(
        &self,
        cx: &Context,
        txn: Txn,
        what: (&str, &[(&str, &str)]),
        work: Option<(&str, Work)>,
    ) -> (String, Txn) {
        self.begin_update(cx, txn, what, work, None)
    }

    /// … that is found again by the name which its caller gave it.
    pub(crate) fn begin_update(
        &self,
        cx: &Context,
        mut txn: Txn,
        (kind, targets): (&str, &[(&str, &str)]),
        work: Option<(&str, Work)>,
        update: Option<UpdateRecord>,
    ) -> (String, Txn) {
        let scope = Scope::of(cx);
        let id = ferrogate_model::hex_id();
        let status = if work.is_some() { "PENDING" } else { "SUCCESS" };
        let operation = OperationRecord {
            id: id.clone(),
            kind: kind.to_owned(),
            status: status.to_owned(),
            error_code: None,
            error_message: None,
            targets: targets.iter().map(|(kind, id)| ((*kind).to_owned(), (*id).to_owned())).collect(),
            created_at: cx.now,
            updated_at: cx.now,
            update,
        };
        if let Some((namespace_id, task)) = work {
            let namespace_id = namespace_id.to_owned();
            let work = WorkRecord { namespace_id, task, operation_id: Some(id.clone()) };
            txn = txn.put_json(scope.work(&id), &work);
        }
        txn = self.forget(&scope, txn);
        (id.clone(), txn.put_json(scope.operation(&id), &operation))
    }

    fn forget(&self, scope: &Scope, mut txn: Txn) -> Txn {
        let known = self.store.range(&scope.operations());
        if known.len() < OPERATIONS_MAX {
            return txn;
        }
        let mut oldest: Vec<_> = known.iter().collect();
        oldest.sort_unstable_by_key(|kv| kv.create_revision);
        let over = oldest.into_iter().filter_map(Json::<OperationRecord>::parse);
        let over = over.filter(|operation| operation.record.status != "PENDING").take(FORGOTTEN_AT_ONCE);
        for operation in over {
            txn = txn.delete(&*operation.key);
        }
        txn
    }
}
