//! The records of services. What an operation wants and what the scheduler has come to are apart: see who writes what.
//!
//! ```text
//! /ecs/<account>/<region>/service/<cluster>/<name>                    operations/services; its deployments: see DeploymentRecord
//! /ecs/<account>/<region>/service-events/<cluster>/<name>/<number>    controllers/services: see ServiceEventRecord
//! /ecs/<account>/<region>/service-revision/<cluster>/<name>/<digits>  what is deployed; changes once, when its first task has begun
//! /ecs/<account>/<region>/service-deployment/<cluster>/<name>/<id>    how a revision was brought out, kept when it is over
//! ```

use std::collections::BTreeMap;

use ferrogate_api::ecs;
use ferrogate_model::Arn;
use ferrogate_nodeapi::ConnectClient;
use ferrogate_store::{Json, Store, Txn, range_json};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::connect::{ConnectSpec, EndpointInstance};
use super::{NetworkRecord, Scope, Tags};
use crate::plan::service::{
    Accounted, DeploymentStatus, Launches, RolloutState, ServiceDeploymentStatus, Stability, StageRun,
    StopRequest,
};

/// Where a service is kept.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct ServiceKey {
    pub scope: Scope,
    pub cluster: String,
    pub name: String,
}

impl Scope {
    pub(crate) fn services(&self) -> String {
        self.key(format_args!("service/"))
    }

    pub(crate) fn services_of(&self, cluster: &str) -> String {
        self.key(format_args!("service/{cluster}/"))
    }
}

impl ServiceKey {
    pub(crate) fn new(scope: &Scope, cluster: &str, name: &str) -> Self {
        Self { scope: scope.clone(), cluster: cluster.to_owned(), name: name.to_owned() }
    }

    /// Of `/ecs/<account>/<region>/service/<cluster>/<name>`.
    pub(crate) fn of_record(key: &str) -> Option<Self> {
        let mut parts = key.strip_prefix(super::PREFIX)?.split('/');
        let (account, region, kind, cluster, name) =
            (parts.next()?, parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        (kind == "service" && parts.next().is_none())
            .then(|| Self::new(&Scope::new(account, region), cluster, name))
    }

    /// Of `arn:aws:ecs:<region>:<account>:service/<cluster>/<name>`.
    pub(crate) fn of_arn(arn: &str) -> Option<Self> {
        let arn: Arn = arn.parse().ok()?;
        let (cluster, name) = arn.resource.strip_prefix("service/")?.split_once('/')?;
        (arn.service == "ecs").then(|| Self::new(&Scope::new(&arn.account, &arn.region), cluster, name))
    }

    pub(crate) fn record(&self) -> String {
        self.scope.key(format_args!("service/{}/{}", self.cluster, self.name))
    }

    /// Of its events' records.
    pub(crate) fn events(&self) -> String {
        self.scope.key(format_args!("service-events/{}/{}/", self.cluster, self.name))
    }

    pub(crate) fn revisions(&self) -> String {
        self.scope.key(format_args!("service-revision/{}/{}/", self.cluster, self.name))
    }

    pub(crate) fn revision(&self, id: &str) -> String {
        format!("{}{id}", self.revisions())
    }

    pub(crate) fn deployments(&self) -> String {
        self.scope.key(format_args!("service-deployment/{}/{}/", self.cluster, self.name))
    }

    pub(crate) fn deployment(&self, id: &str) -> String {
        format!("{}{id}", self.deployments())
    }

    pub(crate) fn arn(&self) -> String {
        self.scope.arn(format!("service/{}/{}", self.cluster, self.name))
    }

    pub(crate) fn revision_arn(&self, id: &str) -> String {
        self.scope.arn(format!("service-revision/{}/{}/{id}", self.cluster, self.name))
    }

    pub(crate) fn deployment_arn(&self, id: &str) -> String {
        self.scope.arn(format!("service-deployment/{}/{}/{id}", self.cluster, self.name))
    }

    pub(crate) fn task_set_arn(&self, id: &str) -> String {
        self.scope.arn(format!("task-set/{}/{}/{id}", self.cluster, self.name))
    }

    /// Of its tasks.
    pub(crate) fn group(&self) -> String {
        format!("service:{}", self.name)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub(crate) enum ServiceStatus {
    Active,
    /// Deleted; some of its tasks still run.
    Draining,
    Inactive,
}

impl ServiceStatus {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Active => "ACTIVE",
            Self::Draining => "DRAINING",
            Self::Inactive => "INACTIVE",
        }
    }
}

/// Who brings new revisions out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub(crate) enum DeploymentController {
    Ecs,
    /// The customer, by task sets.
    External,
}

impl DeploymentController {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ecs => "ECS",
            Self::External => "EXTERNAL",
        }
    }
}

/// A service. Operations write all but what is named below; the scheduler (`controllers/services`) and those operations
/// change it in transactions that compare it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ServiceRecord {
    pub account: String,
    pub region: String,
    pub cluster: String,
    pub name: String,
    /// DRAINING is DeleteService's word, INACTIVE the scheduler's.
    pub status: ServiceStatus,
    pub created_at: Timestamp,
    /// Of whoever called CreateService: a user's or a role's ARN.
    pub created_by: String,
    pub controller: DeploymentController,
    pub desired_count: u32,
    /// With its defaults filled in.
    pub configuration: ecs::DeploymentConfiguration,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grace_period_seconds: Option<i32>,
    #[serde(default)]
    pub rebalancing: bool,
    /// `TASK_DEFINITION`, `SERVICE` or `NONE`
    pub propagate_tags: String,
    #[serde(default)]
    pub managed_tags: bool,
    #[serde(default)]
    pub exec_enabled: bool,
    #[serde(default)]
    pub tags: Tags,
    /// `default`: as it was when the service was made.
    pub default_log_mode: String,
    /// Digest of the CreateService that made it, without its token.
    pub request: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_token: Option<String>,
    /// What the next deployment brings out. Of a service with task sets what is not the task sets' own.
    pub spec: Spec,
    /// Those with tasks, and those that can be rolled back to; newest first. Operations add to it and say what becomes of
    /// the one that was PRIMARY; the scheduler writes what it comes to.
    #[serde(default)]
    pub deployments: Vec<DeploymentRecord>,
    /// The scheduler's.
    #[serde(default)]
    pub steady: bool,
    /// The scheduler's.
    #[serde(default)]
    pub rebalancing_now: bool,
    /// The scheduler's, written before Cloud Map is told of a split for the first time; a new service's may have one of a former
    /// service of its name.
    #[serde(default)]
    pub may_be_split: bool,
    /// The scheduler's.
    #[serde(default)]
    pub blocked: bool,
    /// The scheduler's: when it became INACTIVE.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
}

/// As much of a service as counting needs.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct ServiceSummary {
    pub status: ServiceStatus,
}

/// What a service revision holds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Spec {
    /// Of the task definition; empty for a service whose task sets have their own.
    #[serde(default)]
    pub family: String,
    #[serde(default)]
    pub revision: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub launch_type: Option<String>,
    #[serde(default)]
    pub capacity_provider_strategy: Vec<ecs::CapacityProviderStrategyItem>,
    /// As it was asked for: `LATEST` stays so.
    #[serde(default)]
    pub platform_version: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network_configuration: Option<ecs::NetworkConfiguration>,
    /// The subnets as EC2 described them.
    #[serde(default)]
    pub networks: Vec<NetworkRecord>,
    #[serde(default)]
    pub load_balancers: Vec<ecs::LoadBalancer>,
    #[serde(default)]
    pub registries: Vec<ecs::ServiceRegistry>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connect: Option<ConnectSpec>,
}

impl Spec {
    /// The capacity provider its tasks show.
    pub(crate) fn capacity_provider(&self) -> Option<String> {
        (!self.capacity_provider_strategy.is_empty()).then(|| crate::definition::FARGATE.to_owned())
    }

    /// Its availability zones, sorted.
    pub(crate) fn zones(&self) -> Vec<String> {
        let mut zones: Vec<String> =
            self.networks.iter().map(|network| network.availability_zone.clone()).collect();
        zones.sort();
        zones.dedup();
        zones
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ServiceRevisionRecord {
    /// 19 digits.
    pub id: String,
    pub created_at: Timestamp,
    /// What its tasks can call by Service Connect: all that there was in the namespace when it was made.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub clients: Vec<ConnectClient>,
    /// What its containers' images are, once a task of it has begun: digests by container name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub images: Option<BTreeMap<String, String>>,
    #[serde(flatten)]
    pub spec: Spec,
}

/// A deployment, or a task set. Of what follows `target_groups` the planner is the author.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct DeploymentRecord {
    /// `ecs-svc/<19 digits>`
    pub id: String,
    /// Of its [`ServiceRevisionRecord`].
    pub revision: String,
    /// Of its [`ServiceDeploymentRecord`]; a task set has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_deployment_id: Option<String>,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    /// Written by CreateTaskSet, UpdateTaskSet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task_set: Option<TaskSetRecord>,
    /// Written by StopServiceDeployment, taken away by the scheduler.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_request: Option<StopRequest>,
    #[serde(default)]
    pub target_groups: Vec<String>,

    pub status: DeploymentStatus,
    pub rollout_state: RolloutState,
    pub rollout_reason: String,
    pub service_deployment: ServiceDeploymentStatus,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_deployment_reason: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rolling_back_to: Option<String>,
    #[serde(default)]
    pub failed_tasks: u32,
    #[serde(default)]
    pub launches: Launches,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stage: Option<StageRun>,
    /// Of `stage.hooks`, in their order.
    #[serde(default)]
    pub hook_ids: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub production_permille: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test_permille: Option<u32>,
    #[serde(default)]
    pub desired_count: u32,
    #[serde(default)]
    pub running_count: u32,
    #[serde(default)]
    pub pending_count: u32,
    pub stability: Stability,
    /// When `stability` became what it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stability_at: Option<Timestamp>,
}

/// What a task set has besides.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct TaskSetRecord {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_token: Option<String>,
    /// Of the other parameters of the call with the token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
    /// Tenths of a percent of the service's desired count.
    pub scale_permille: u32,
    #[serde(default)]
    pub tags: Tags,
}

/// How a revision was brought out. While it lasts, [`DeploymentRecord`] is what counts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ServiceDeploymentRecord {
    /// The end of its ARN.
    pub id: String,
    /// `ecs-svc/<19 digits>`
    pub deployment: String,
    pub created_at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped_at: Option<Timestamp>,
    pub updated_at: Timestamp,
    /// Of what was there when it began.
    #[serde(default)]
    pub sources: Vec<RevisionSummary>,
    pub target: RevisionSummary,
    pub status: ServiceDeploymentStatus,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status_reason: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stage: Option<String>,
    #[serde(default)]
    pub hooks: Vec<ecs::DeploymentLifecycleHookDetail>,
    pub configuration: ecs::DeploymentConfiguration,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollback: Option<RollbackRecord>,
    #[serde(default)]
    pub failed_tasks: u32,
    /// What `failed_tasks` must not reach, as of when it began.
    #[serde(default)]
    pub desired_count: u32,
}

/// Tasks of one revision as they were last seen.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct RevisionSummary {
    pub revision: String,
    #[serde(default)]
    pub requested: u32,
    #[serde(default)]
    pub running: u32,
    #[serde(default)]
    pub pending: u32,
    #[serde(default)]
    pub test_permille: u32,
    #[serde(default)]
    pub production_permille: u32,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct RollbackRecord {
    pub reason: String,
    pub started_at: Timestamp,
    /// That takes the failed one's place.
    pub revision: String,
}

/// One of `events`. Each is a record of its own, so that one more costs one more.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ServiceEventRecord {
    pub id: String,
    pub at: Timestamp,
    pub message: String,
}

/// ECS API reference, Service: the most recent 100.
const EVENTS_KEPT: usize = 100;
/// So long the same words are not said again (Developer Guide, "Service event messages").
const SAME_EVENT_AFTER: jiff::SignedDuration = jiff::SignedDuration::from_hours(6);

impl ServiceEventRecord {
    /// Newest first.
    pub(crate) fn all(store: &dyn Store, service: &ServiceKey) -> Vec<Self> {
        let found = range_json::<Self>(store, &service.events());
        found.into_iter().rev().map(|found| found.record).collect()
    }

    pub(crate) fn newest(store: &dyn Store, service: &ServiceKey) -> Option<Self> {
        Some(Json::parse(store.range(&service.events()).kvs.last()?)?.record)
    }

    /// Without what was said last and not long ago; what is too much for [`Self::all`] goes, the oldest first. Only the
    /// scheduler says anything, one job at a time.
    pub(crate) fn say(
        store: &dyn Store,
        service: &ServiceKey,
        texts: &[String],
        now: Timestamp,
        mut txn: Txn,
    ) -> Txn {
        let prefix = service.events();
        let said = store.range(&prefix).kvs;
        let newest = said.last();
        let mut last =
            newest.and_then(Json::<Self>::parse).map(|found| (found.record.message, found.record.at));
        let number = newest.and_then(|kv| kv.key.strip_prefix(&prefix)?.parse::<u64>().ok());
        let mut next = number.map_or(0, |number| number + 1);
        let mut new = 0;
        for message in &texts[texts.len().saturating_sub(EVENTS_KEPT)..] {
            let is_same = |(text, at): &(String, Timestamp)| {
                text == message && now.duration_since(*at) < SAME_EVENT_AFTER
            };
            if last.as_ref().is_some_and(is_same) {
                continue;
            }
            let event = Self { id: super::uuid(), at: now, message: message.clone() };
            txn = txn.put_json(format!("{prefix}{next:020}"), &event);
            (last, next, new) = (Some((event.message, now)), next + 1, new + 1);
        }
        let too_many = (said.len() + new).saturating_sub(EVENTS_KEPT).min(said.len());
        said[..too_many].iter().fold(txn, |txn, kv| txn.delete(&*kv.key))
    }
}

/// What the scheduler keeps of a service's task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Scheduling {
    /// Where it was registered and is not known to be gone.
    #[serde(default)]
    pub targets: Vec<TargetRecord>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<InstanceRecord>,
    /// Of Service Connect.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<EndpointInstance>,
    pub accounted: Accounted,
    #[serde(default)]
    pub ended_unhealthy: bool,
    /// It is registered nowhere any more: its node may end it.
    #[serde(default)]
    pub released: bool,
}

impl Scheduling {
    pub(crate) fn new() -> Self {
        Self {
            targets: Vec::new(),
            instance: None,
            endpoints: Vec::new(),
            accounted: Accounted::New,
            ended_unhealthy: false,
            released: false,
        }
    }

    /// Somebody may still send it connections.
    pub(crate) fn is_registered(&self) -> bool {
        !self.targets.is_empty() || self.instance.is_some() || !self.endpoints.is_empty()
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct TargetRecord {
    /// ARN of the target group.
    pub group: String,
    pub port: u16,
    /// It was deregistered; its connections may still be finished.
    #[serde(default)]
    pub draining: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct InstanceRecord {
    /// ARN of the Cloud Map service.
    pub registry: String,
    pub healthy: bool,
    /// Cloud Map has taken it; until then it may have it or not.
    #[serde(default)]
    pub confirmed: bool,
}

impl ServiceRecord {
    pub(crate) fn key(&self) -> ServiceKey {
        ServiceKey::new(&Scope::new(&self.account, &self.region), &self.cluster, &self.name)
    }

    pub(crate) fn primary(&self) -> Option<&DeploymentRecord> {
        self.deployments.iter().find(|one| one.status == DeploymentStatus::Primary)
    }

    pub(crate) fn deployment_mut(&mut self, id: &str) -> Option<&mut DeploymentRecord> {
        self.deployments.iter_mut().find(|one| one.id == id)
    }

    /// Those that callers see, PRIMARY first, then the newer first.
    pub(crate) fn shown(&self) -> Vec<&DeploymentRecord> {
        let mut shown: Vec<&DeploymentRecord> =
            self.deployments.iter().filter(|one| one.status != DeploymentStatus::Inactive).collect();
        shown.sort_by_key(|one| (one.status != DeploymentStatus::Primary, std::cmp::Reverse(one.created_at)));
        shown
    }

    /// Drops those that are over and that nothing can go back to. Gives their revisions.
    pub(crate) fn prune(&mut self) -> Vec<String> {
        let mut kept = 0;
        let dropped = self.deployments.extract_if(.., |one| {
            if one.status != DeploymentStatus::Inactive {
                return false;
            }
            let completed = one.rollout_state == RolloutState::Completed;
            kept += usize::from(completed);
            !completed || kept > COMPLETED_KEPT
        });
        dropped.map(|one| one.revision).collect()
    }
}

/// Deployments that are over and can be rolled back to.
const COMPLETED_KEPT: usize = 2;
