//! The records ECS keeps, and where. A change of a record is additive.
//!
//! ```text
//! /ecs/<account>/<region>/cluster/<name>                 operations/clusters.rs
//! /ecs/<account>/<region>/family/<family>                the last revision number given: operations/definitions.rs
//! /ecs/<account>/<region>/definition/<family>/<revision> what was registered; never changes, goes with its revision
//! /ecs/<account>/<region>/revision/<family>/<revision>   its status and tags: definitions.rs, tags.rs, sweep
//! /ecs/<account>/<region>/task/<cluster>/<task id>       run_task.rs makes it; after that see TaskRecord
//! /ecs/<account>/<region>/setting/<name>/<principal>     operations/settings.rs
//! /ecs/<account>/<region>/client-token/<cluster>/<token> what an idempotent RunTask made
//! /ecs/<account>/<region>/service…                       services, see `service.rs`
//! /ecs/<account>/<region>/connect/<namespace id>         Service Connect, see `connect.rs`
//! /ecs-work/<queue>/…                                    what controllers have to look at, see `Queue`
//! /events/…                                              what EventBridge is told, see `events.rs`
//! ```
//!
//! The work queues hold keys only, written in the same transaction as the record they follow from, so that a
//! controller wakes and reads as much as there is to do and not as much as there is.

pub(crate) mod connect;
pub(crate) mod service;

use std::collections::BTreeMap;

use ferrogate_api::{Context, ecs};
use ferrogate_model::Arn;
use ferrogate_store::{Json, Store, Txn, get_json};
use ipnet::Ipv4Net;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::events;
use crate::lifecycle::{Desired, Event, Lifecycle, Status};
use connect::TaskConnect;
use service::Scheduling;

pub(crate) type Tags = BTreeMap<String, String>;

/// Fargate's scratch space unless a definition or a RunTask asks for more.
pub(crate) const EPHEMERAL_STORAGE_GIB: u32 = 20;

/// All of the service's regional records.
pub(crate) const PREFIX: &str = "/ecs/";
/// How long a stopped task can be described, and an inactive cluster.
pub(crate) const STOPPED_KEPT: jiff::SignedDuration = jiff::SignedDuration::from_hours(1);

/// One account in one region.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Scope {
    pub account: String,
    pub region: String,
}

impl Scope {
    pub(crate) fn new(account: &str, region: &str) -> Self {
        Self { account: account.into(), region: region.into() }
    }

    pub(crate) fn of(cx: &Context) -> Self {
        Self::new(&cx.account, &cx.region)
    }

    fn key(&self, rest: std::fmt::Arguments<'_>) -> String {
        format!("{PREFIX}{}/{}/{rest}", self.account, self.region)
    }

    /// After every key of this scope, before those of the next.
    pub(crate) fn end(&self) -> String {
        self.key(format_args!("\u{10ffff}"))
    }

    pub(crate) fn cluster(&self, name: &str) -> String {
        self.key(format_args!("cluster/{name}"))
    }

    pub(crate) fn clusters(&self) -> String {
        self.key(format_args!("cluster/"))
    }

    pub(crate) fn family(&self, family: &str) -> String {
        self.key(format_args!("family/{family}"))
    }

    pub(crate) fn families(&self) -> String {
        self.key(format_args!("family/"))
    }

    pub(crate) fn definition(&self, family: &str, revision: u32) -> String {
        self.key(format_args!("definition/{family}/{revision:010}"))
    }

    pub(crate) fn revision(&self, family: &str, revision: u32) -> String {
        self.key(format_args!("revision/{family}/{revision:010}"))
    }

    pub(crate) fn revisions(&self, family: &str) -> String {
        self.key(format_args!("revision/{family}/"))
    }

    /// Those of every family.
    pub(crate) fn all_revisions(&self) -> String {
        self.key(format_args!("revision/"))
    }

    pub(crate) fn tasks(&self, cluster: &str) -> String {
        self.key(format_args!("task/{cluster}/"))
    }

    /// The tasks of every cluster.
    pub(crate) fn all_tasks(&self) -> String {
        self.key(format_args!("task/"))
    }

    pub(crate) fn setting(&self, name: &str, principal: &str) -> String {
        self.key(format_args!("setting/{name}/{principal}"))
    }

    pub(crate) fn settings(&self) -> String {
        self.key(format_args!("setting/"))
    }

    pub(crate) fn client_token(&self, cluster: &str, token: &str) -> String {
        self.key(format_args!("client-token/{cluster}/{token}"))
    }

    pub(crate) fn client_tokens(&self) -> String {
        self.key(format_args!("client-token/"))
    }

    pub(crate) fn arn(&self, resource: impl Into<String>) -> String {
        Arn::new("ecs", &self.region, &self.account, resource).to_string()
    }

    pub(crate) fn cluster_arn(&self, name: &str) -> String {
        self.arn(format!("cluster/{name}"))
    }

    pub(crate) fn definition_arn(&self, family: &str, revision: u32) -> String {
        self.arn(format!("task-definition/{family}:{revision}"))
    }
}

/// Where a task is kept.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct TaskKey {
    pub scope: Scope,
    pub cluster: String,
    pub id: String,
}

impl TaskKey {
    /// Of `arn:aws:ecs:<region>:<account>:task/<cluster>/<id>`.
    pub(crate) fn of_arn(arn: &str) -> Option<Self> {
        let arn: Arn = arn.parse().ok()?;
        if arn.service != "ecs" {
            return None;
        }
        let (cluster, id) = arn.resource.strip_prefix("task/")?.split_once('/')?;
        Some(Self { scope: Scope::new(&arn.account, &arn.region), cluster: cluster.into(), id: id.into() })
    }

    pub(crate) fn record(&self) -> String {
        format!("{}{}", self.scope.tasks(&self.cluster), self.id)
    }

    pub(crate) fn arn(&self) -> String {
        self.scope.arn(format!("task/{}/{}", self.cluster, self.id))
    }

    fn path(&self) -> String {
        format!("{}/{}/{}/{}", self.scope.account, self.scope.region, self.cluster, self.id)
    }

    /// Of what follows the queue's prefix in a work key.
    pub(crate) fn of_path(path: &str) -> Option<Self> {
        let mut parts = path.split('/').map(str::to_owned);
        let (account, region, cluster, id) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        Some(Self { scope: Scope { account, region }, cluster, id })
    }
}

/// What controllers have to look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Queue {
    /// Tasks that are PROVISIONING.
    Provision,
    /// Tasks that are DEPROVISIONING.
    Deprovision,
    /// Stopped tasks, by the time at which they are forgotten.
    Forget,
    /// Task definitions that are DELETE_IN_PROGRESS.
    DeleteDefinition,
    /// Namespaces in which an endpoint of Service Connect may be nobody's any more.
    Connect,
}

impl Queue {
    pub(crate) fn prefix(self) -> &'static str {
        match self {
            Self::Provision => "/ecs-work/provision/",
            Self::Deprovision => "/ecs-work/deprovision/",
            Self::Forget => "/ecs-work/forget/",
            Self::DeleteDefinition => "/ecs-work/delete-definition/",
            Self::Connect => "/ecs-work/connect/",
        }
    }

    pub(crate) fn task(self, task: &TaskKey) -> String {
        format!("{}{}", self.prefix(), task.path())
    }

    /// `<seconds since 1970>/<task>`
    pub(crate) fn forget(at: Timestamp, task: &TaskKey) -> String {
        format!("{}{:012}/{}", Self::Forget.prefix(), at.as_second(), task.path())
    }

    pub(crate) fn delete_definition(scope: &Scope, family: &str, revision: u32) -> String {
        format!(
            "{}{}/{}/{family}/{revision:010}",
            Self::DeleteDefinition.prefix(),
            scope.account,
            scope.region
        )
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ClusterRecord {
    pub name: String,
    pub status: ClusterStatus,
    #[serde(default)]
    pub capacity_providers: Vec<String>,
    #[serde(default)]
    pub default_capacity_provider_strategy: Vec<ecs::CapacityProviderStrategyItem>,
    /// `None`: as by DEFAULT.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub execute_command: Option<ecs::ExecuteCommandConfiguration>,
    /// ARN of the Cloud Map namespace of `serviceConnectDefaults`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connect_namespace: Option<String>,
    #[serde(default)]
    pub tags: Tags,
    /// When it became INACTIVE.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deleted_at: Option<Timestamp>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub(crate) enum ClusterStatus {
    Active,
    /// A DeleteCluster is looking whether it may.
    Deprovisioning,
    Inactive,
}

impl ClusterStatus {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Active => "ACTIVE",
            Self::Deprovisioning => "DEPROVISIONING",
            Self::Inactive => "INACTIVE",
        }
    }
}

/// Revision numbers of a family are never given twice, so this outlives its revisions.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct FamilyRecord {
    pub family: String,
    pub last_revision: u32,
    /// What `family` without a revision means.
    pub latest_active: Option<u32>,
    /// Whether any revision is left.
    pub has_revisions: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct RevisionRecord {
    pub family: String,
    pub revision: u32,
    pub status: RevisionStatus,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deregistered_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delete_requested_at: Option<Timestamp>,
    #[serde(default)]
    pub tags: Tags,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(crate) enum RevisionStatus {
    Active,
    Inactive,
    DeleteInProgress,
}

impl RevisionStatus {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Active => "ACTIVE",
            Self::Inactive => "INACTIVE",
            Self::DeleteInProgress => "DELETE_IN_PROGRESS",
        }
    }
}

/// A task. All but `lifecycle`, `eni`, `node`, `tags` and `scheduling` is written once, by RunTask or the scheduler of
/// services.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct TaskRecord {
    pub task_id: String,
    pub account: String,
    pub region: String,
    pub cluster: String,
    pub family: String,
    pub revision: u32,
    pub group: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_by: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity_provider: Option<String>,
    pub platform_version: String,
    pub cpu_units: u32,
    pub memory_mib: u32,
    /// `x86_64` or `arm64`
    pub architecture: String,
    pub overrides: ecs::TaskOverride,
    /// Of the definition or its override.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub execution_role_arn: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task_role_arn: Option<String>,
    /// For containers whose log configuration names no mode; the account setting as it was.
    pub default_log_mode: String,
    /// `enableExecuteCommand`
    #[serde(default)]
    pub exec_enabled: bool,
    /// Of the definition or its override; Fargate's 20 otherwise.
    #[serde(default = "default_storage_gib")]
    pub ephemeral_storage_gib: u32,
    pub attachment_id: String,
    pub network: NetworkRecord,
    pub containers: Vec<ContainerRecord>,
    /// `None`: no part in Service Connect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connect: Option<TaskConnect>,
    /// Written by `operations/tags.rs` after RunTask.
    #[serde(default)]
    pub tags: Tags,
    /// Written by `controllers/provision.rs`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eni: Option<EniRecord>,
    /// Written by `controllers/provision.rs`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Written by `operations/protection.rs`; `None`: it was never protected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protection: Option<ProtectionRecord>,
    /// Written by `controllers/services`; a task that no service keeps has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduling: Option<Scheduling>,
    /// Written by its own events only (`lifecycle.rs`).
    pub lifecycle: Lifecycle,
}

fn default_storage_gib() -> u32 {
    EPHEMERAL_STORAGE_GIB
}

/// Until when a task of a service is not ended by scaling in or by a deployment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ProtectionRecord {
    pub until: Timestamp,
}

/// Where the task's network interface is to be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct NetworkRecord {
    pub vpc_id: String,
    /// The VPC's primary block: its `+2` address resolves names.
    pub vpc_cidr: Ipv4Net,
    pub subnet_id: String,
    pub subnet_cidr: Ipv4Net,
    pub availability_zone: String,
    /// `use1-az1`
    #[serde(default)]
    pub availability_zone_id: String,
    /// Empty: the VPC's default group.
    pub security_groups: Vec<String>,
    pub assign_public_ip: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct EniRecord {
    pub eni_id: String,
    pub mac: String,
    pub private_ip: std::net::Ipv4Addr,
    pub private_dns_name: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ContainerRecord {
    pub name: String,
    /// The end of its ARN, a UUID.
    pub id: String,
    pub image: String,
    /// What it is to be, whatever its tag says now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_digest: Option<String>,
    /// `<task id>-<ten digits>`
    pub runtime_id: String,
    pub essential: bool,
    pub has_health_check: bool,
    pub cpu_units: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_mib: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_reservation_mib: Option<u32>,
}

impl TaskRecord {
    pub(crate) fn scope(&self) -> Scope {
        Scope::new(&self.account, &self.region)
    }

    pub(crate) fn key(&self) -> TaskKey {
        TaskKey { scope: self.scope(), cluster: self.cluster.clone(), id: self.task_id.clone() }
    }

    pub(crate) fn arn(&self) -> String {
        self.key().arn()
    }

    /// Of the service that started it.
    pub(crate) fn service_name(&self) -> Option<&str> {
        self.group.strip_prefix("service:")
    }

    pub(crate) fn definition_arn(&self) -> String {
        self.scope().definition_arn(&self.family, self.revision)
    }

    /// What its node is to do. It keeps a task that somebody may still send connections to.
    pub(crate) fn node_desired(&self) -> Desired {
        let held = self.scheduling.as_ref().is_some_and(|one| !one.released && one.is_registered());
        if held { Desired::Running } else { self.lifecycle.desired() }
    }

    /// Asks it to stop; `false`: it is stopping. Where it is registered it is let go there first: DEACTIVATING.
    pub(crate) fn stop(&mut self, code: &'static str, reason: String, now: Timestamp) -> bool {
        // A stop can be asked for in every state.
        let mut changed = self.lifecycle.apply(Event::StopRequested { code, reason }, now).unwrap_or(false);
        if changed && self.node_desired() == Desired::Running {
            changed |= self.lifecycle.apply(Event::LettingGo, now).unwrap_or(false);
        }
        changed
    }

    /// Under which EC2 finds the task's interface again.
    pub(crate) fn attachment_arn(&self) -> String {
        self.scope().arn(format!("attachment/{}", self.attachment_id))
    }

    pub(crate) fn container_arn(&self, container: &ContainerRecord) -> String {
        self.scope().arn(format!("container/{}/{}/{}", self.cluster, self.task_id, container.id))
    }

    /// Puts the task with the work that follows from where it is now. `was`: as it was, `None` for a new one.
    pub(crate) fn put(&self, mut txn: Txn, was: Option<&Self>) -> Txn {
        let key = self.key();
        let (before, after) = (was.map(|was| was.lifecycle.status()), self.lifecycle.status());
        txn = txn.put_json(key.record(), self);
        if was.is_none_or(|was| was.lifecycle.version() != self.lifecycle.version()) {
            txn = events::task_state_change(txn, self);
        }
        let left = |status| before == Some(status) && after != status;
        let entered = |status| before != Some(status) && after == status;
        let provision = Queue::Provision.task(&key);
        let desired_changed = was.is_some_and(|was| was.lifecycle.desired() != self.lifecycle.desired());
        if entered(Status::Provisioning) || (after == Status::Provisioning && desired_changed) {
            txn = txn.put(provision, self.lifecycle.desired().name().as_bytes());
        } else if left(Status::Provisioning) {
            txn = txn.delete(provision);
        }
        if entered(Status::Deprovisioning) {
            txn = txn.put(Queue::Deprovision.task(&key), *b"");
        } else if left(Status::Deprovisioning) {
            txn = txn.delete(Queue::Deprovision.task(&key));
        }
        if entered(Status::Stopped)
            && let Some(stopped_at) = self.lifecycle.stopped_at()
        {
            txn = txn.put(Queue::forget(stopped_at + STOPPED_KEPT, &key), *b"");
        }
        txn
    }
}

/// As much of a task as counting and filtering needs; reading it skips the rest.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct TaskSummary {
    pub task_id: String,
    pub family: String,
    pub revision: u32,
    #[serde(default)]
    pub started_by: Option<String>,
    pub attachment_id: String,
    pub group: String,
    pub lifecycle: LifecycleSummary,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct LifecycleSummary {
    pub status: Status,
    pub desired: crate::lifecycle::Desired,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct SettingRecord {
    pub name: String,
    pub value: String,
    /// The account's default is its root user's.
    pub principal_arn: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ClientTokenRecord {
    /// Digest of the other parameters.
    pub parameters: String,
    pub task_ids: Vec<String>,
    pub made_at: Timestamp,
}

/// What was registered, without status and tags: those can change and are in the [`RevisionRecord`].
pub(crate) fn get_definition(
    store: &dyn Store,
    scope: &Scope,
    family: &str,
    revision: u32,
) -> Option<ecs::TaskDefinition> {
    let found: Option<Json<ecs::TaskDefinition>> = get_json(store, &scope.definition(family, revision));
    found.map(|found| found.record)
}

/// A UUID as AWS writes it.
pub(crate) fn uuid() -> String {
    let hex = ferrogate_model::hex_id();
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}
