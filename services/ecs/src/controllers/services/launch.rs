//! Starts a deployment's tasks, as RunTask would.

use ferrogate_store::get_json;
use jiff::Timestamp;

use super::Worker;
use super::observe::Observed;
use super::writes::{ActError, Writes};
use crate::definition;
use crate::events::{self, Named};
use crate::operations::new_task::NewTask;
use crate::operations::services::create::task_tags;
use crate::operations::{NO_CAPACITY, launch, network, overrides};
use crate::plan::placement::{self, Needs, NoNode};
use crate::plan::service::{Action, RolloutState, refused_launch};
use crate::state::connect::TaskConnect;
use crate::state::service::{Scheduling, ServiceEventRecord, ServiceRecord, Spec};
use crate::state::{NetworkRecord, RevisionRecord, get_definition};

/// Its attachment is each task's own.
fn task_connect(service: &ServiceRecord, deployment: &str, spec: &Spec) -> Option<TaskConnect> {
    spec.membership()?;
    let revision = service.deployments.iter().find(|one| one.id == deployment)?.revision.clone();
    Some(TaskConnect { attachment_id: String::new(), revision })
}

impl Worker {
    pub(super) async fn start(
        &self,
        writes: &mut Writes,
        observed: &Observed,
        action: &Action,
        deployment: &str,
        zones: &[(String, u32)],
        now: Timestamp,
    ) -> Result<(), ActError> {
        let Some(spec) = observed.specs.get(deployment) else {
            return Err(ActError::Refused(format!("the revision of {deployment} is gone")));
        };
        let scope = writes.key().scope.clone();
        let refused = Refused { deployment, tasks: zones.iter().map(|(_, count)| count).sum(), now };
        let Some(definition) = get_definition(&*self.store, &scope, &spec.family, spec.revision) else {
            return self.cannot_start(writes, "TaskDefinition not found.", &refused).await;
        };
        let effective = match overrides::apply(&scope, &definition, None) {
            Ok(effective) => effective,
            Err(error) => return self.cannot_start(writes, &error.message, &refused).await,
        };
        if let Err(error) = network::check_roles(&self.invoke, &scope, &effective).await {
            return self.cannot_start(writes, &error.message, &refused).await;
        }
        let architecture = definition::architecture(&definition);
        let needs = Needs::new(architecture, effective.memory_mib);
        if let Err(why) = placement::check(&self.nodes, needs) {
            return self.no_capacity(writes, why, &refused).await;
        }
        let tags = get_json::<RevisionRecord>(&*self.store, &scope.revision(&spec.family, spec.revision))
            .map(|found| found.record.tags)
            .unwrap_or_default();
        let service = writes.service.clone();
        let new = NewTask {
            scope: &scope,
            cluster: &service.cluster,
            family: &spec.family,
            revision: spec.revision,
            architecture,
            effective: &effective,
            group: writes.key().group(),
            started_by: Some(deployment.to_owned()),
            capacity_provider: spec.capacity_provider(),
            exec_enabled: service.exec_enabled && effective.task_role_arn.is_some(),
            platform_version: launch::PLATFORM_VERSION.into(),
            default_log_mode: service.default_log_mode.clone(),
            tags: task_tags(&service, &tags),
            images: observed.images.get(deployment).cloned().unwrap_or_default(),
            connect: task_connect(&service, deployment, spec),
            scheduling: Some(Scheduling::new()),
            now,
        };
        let networks = self.networks(spec, zones);
        let mut started = Vec::new();
        for network in &networks {
            let task = new.record(network);
            writes.new_task(&task);
            started.push(task.task_id);
            if writes.is_full() {
                self.commit_started(writes, action, &mut started).await?;
            }
        }
        self.commit_started(writes, action, &mut started).await
    }

    /// One event for each transaction.
    async fn commit_started(
        &self,
        writes: &mut Writes,
        action: &Action,
        started: &mut Vec<String>,
    ) -> Result<(), ActError> {
        writes.say(action.events(&writes.service.name, started));
        started.clear();
        self.flush(writes).await
    }

    /// A subnet of its zone for each; a task set that has none there takes those it has.
    fn networks(&self, spec: &Spec, zones: &[(String, u32)]) -> Vec<NetworkRecord> {
        let mut chosen = Vec::new();
        for (zone, count) in zones {
            let count = *count as usize;
            let own = spec.networks.iter().filter(|one| one.availability_zone == *zone);
            let own: Vec<NetworkRecord> = own.cloned().collect();
            let own = if own.is_empty() { spec.networks.clone() } else { own };
            let first = self.cursor.fetch_add(count, std::sync::atomic::Ordering::Relaxed);
            chosen.extend(placement::spread(&own, &Default::default(), first, count).into_iter().cloned());
        }
        chosen
    }

    async fn cannot_start(
        &self,
        writes: &mut Writes,
        why: &str,
        refused: &Refused<'_>,
    ) -> Result<(), ActError> {
        let text = format!("(service {}) failed to launch a task with (error {why}).", writes.service.name);
        self.not_started(writes, text, Named::TASK_CONFIGURATION_FAILURE, why, refused).await?;
        Err(ActError::Refused(why.to_owned()))
    }

    async fn no_capacity(
        &self,
        writes: &mut Writes,
        why: NoNode,
        refused: &Refused<'_>,
    ) -> Result<(), ActError> {
        let name = &writes.service.name;
        let text = format!("(service {name}) was unable to place a task. Reason: {NO_CAPACITY}.");
        self.not_started(writes, text, Named::TASK_PLACEMENT_FAILURE, "RESOURCE:FARGATE", refused).await?;
        Err(ActError::Refused(why.to_string()))
    }

    /// Counted each time, as every launch that failed (ECS API reference, Deployment, `failedTasks`); said once, however often
    /// it is tried.
    async fn not_started(
        &self,
        writes: &mut Writes,
        text: String,
        named: Named,
        reason: &str,
        refused: &Refused<'_>,
    ) -> Result<(), ActError> {
        if let Some(one) = writes.service.deployment_mut(refused.deployment) {
            one.launches = refused_launch(&one.launches, refused.now);
            if one.rollout_state == RolloutState::InProgress {
                one.failed_tasks = one.failed_tasks.saturating_add(refused.tasks);
            }
        }
        let said = ServiceEventRecord::newest(&*self.store, writes.key());
        if said.is_none_or(|said| said.message != text) {
            let service = writes.service.clone();
            writes.say([text]);
            writes.also(|txn| events::service_action(txn, &service, named, Some(reason), refused.now));
        }
        self.flush(writes).await
    }
}

/// A start of which no task came.
struct Refused<'a> {
    deployment: &'a str,
    tasks: u32,
    now: Timestamp,
}
