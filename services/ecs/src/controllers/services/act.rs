//! Does what the planner says, in its order. What fails is not tried again: the next plan says it anew.

use jiff::{SignedDuration, Timestamp};

use super::Worker;
use super::observe::Observed;
use super::writes::{ActError, TaskChange, Writes};
use crate::events::{self, Named};
use crate::plan::service::{
    Action, DeploymentChange, DeploymentStatus, HookStatus, RolloutState, Stability, StageRun,
    events as words,
};
use crate::state::service::{RollbackRecord, ServiceDeploymentRecord, ServiceRevisionRecord, ServiceStatus};
use crate::state::uuid;

/// Before what was refused is tried again.
pub(super) const AFTER_REFUSAL: SignedDuration = SignedDuration::from_secs(5);
/// Of one plan: after that ELB and Cloud Map are not asked for anything until the next one. A registry that is gone would
/// refuse every task of a service.
const REFUSALS_MAX: usize = 10;

impl Worker {
    /// What others refuse keeps nothing else from being done: while a listener's rule is gone, tasks that died are replaced
    /// and those that ended are let go. No action of a plan presumes that one before it has come to pass elsewhere.
    pub(super) async fn act(
        &self,
        writes: &mut Writes,
        observed: &Observed,
        actions: &[Action],
        now: Timestamp,
    ) -> Result<(), ActError> {
        let (mut first, mut refusals) = (None, 0);
        for action in actions {
            if refusals == REFUSALS_MAX && asks_others(action) {
                continue;
            }
            match self.act_one(writes, observed, action, now).await {
                Err(ActError::Refused(why)) if asks_others(action) => {
                    refusals += 1;
                    first.get_or_insert(why);
                }
                done => done?,
            }
        }
        self.flush(writes).await?;
        first.map_or(Ok(()), |why| Err(ActError::Refused(why)))
    }

    async fn act_one(
        &self,
        writes: &mut Writes,
        observed: &Observed,
        action: &Action,
        now: Timestamp,
    ) -> Result<(), ActError> {
        match action {
            Action::StartTasks { deployment, zones, .. } => {
                self.flush(writes).await?;
                Box::pin(self.start(writes, observed, action, deployment, zones, now)).await?;
            }
            Action::StopTasks { tasks, reason, unhealthy, .. } => {
                self.stop(writes, action, tasks, reason, *unhealthy).await?;
            }
            Action::ReleaseTasks { tasks } => self.change(writes, tasks, &TaskChange::Release).await?,
            Action::Account { tasks, as_ } => {
                self.change(writes, tasks, &TaskChange::Account(*as_)).await?;
            }
            Action::RegisterTargets { group, tasks } => {
                self.flush(writes).await?;
                Box::pin(self.register(writes, observed, group, tasks)).await?;
            }
            Action::DeregisterTargets { group, deployment, tasks } => {
                self.flush(writes).await?;
                Box::pin(self.deregister(writes, observed, group, deployment, tasks)).await?;
            }
            Action::RegisterInstance { task, healthy } => {
                self.flush(writes).await?;
                Box::pin(self.register_instance(writes, observed, task, *healthy)).await?;
            }
            Action::SetInstanceHealth { task, healthy } => {
                self.flush(writes).await?;
                Box::pin(self.set_instance_health(writes, observed, task, *healthy, now)).await?;
            }
            Action::DeregisterInstance { task } => {
                self.flush(writes).await?;
                Box::pin(self.deregister_instance(writes, observed, task)).await?;
            }
            Action::RegisterEndpoints { task } => {
                self.flush(writes).await?;
                Box::pin(self.register_endpoints(writes, observed, task)).await?;
            }
            Action::DeregisterEndpoints { task } => {
                self.flush(writes).await?;
                Box::pin(self.deregister_endpoints(writes, task)).await?;
            }
            Action::ShiftTraffic { listener, permille } => {
                self.flush(writes).await?;
                Box::pin(self.shift(writes, observed, *listener, permille)).await?;
            }
            Action::SetDeployment { deployment, change } => {
                self.set_deployment(writes, deployment, change, now);
            }
            Action::BeginStage { deployment, run } => self.begin_stage(writes, deployment, run, now),
            Action::ExpireHook { deployment, index } => {
                self.expire_hook(writes, deployment, *index, now);
            }
            Action::SetSteady(steady) => set_steady(writes, *steady, now),
            Action::SetRebalancing(rebalancing) => writes.service.rebalancing_now = *rebalancing,
            Action::SetBlocked(blocked) => writes.service.blocked = *blocked,
            Action::Event { text } => say(writes, text, now),
            Action::EndService => self.end(writes, now),
        }
        Ok(())
    }

    async fn change(
        &self,
        writes: &mut Writes,
        tasks: &[String],
        change: &TaskChange,
    ) -> Result<(), ActError> {
        for id in tasks {
            if writes.is_full() {
                self.flush(writes).await?;
            }
            writes.change_task(id, change.clone());
        }
        Ok(())
    }

    async fn stop(
        &self,
        writes: &mut Writes,
        action: &Action,
        tasks: &[String],
        reason: &str,
        unhealthy: bool,
    ) -> Result<(), ActError> {
        let change = TaskChange::Stop { reason: reason.to_owned(), unhealthy };
        self.change(writes, tasks, &change).await?;
        let events = action.events(&writes.service.name, &[]);
        writes.say(events);
        Ok(())
    }

    fn set_deployment(&self, writes: &mut Writes, id: &str, change: &DeploymentChange, now: Timestamp) {
        let key = writes.key().clone();
        let Some(one) = writes.service.deployment_mut(id) else { return };
        let before = one.clone();
        let change = change.clone();
        one.status = change.status.unwrap_or(one.status);
        one.rollout_state = change.rollout_state.unwrap_or(one.rollout_state);
        one.rollout_reason = change.rollout_reason.unwrap_or_else(|| one.rollout_reason.clone());
        one.service_deployment = change.service_deployment.unwrap_or(one.service_deployment);
        one.service_deployment_reason =
            change.service_deployment_reason.or(one.service_deployment_reason.take());
        one.rolling_back_to = change.rolling_back_to.or(one.rolling_back_to.take());
        one.failed_tasks = change.failed_tasks.unwrap_or(one.failed_tasks);
        one.launches = change.launches.unwrap_or(one.launches);
        one.desired_count = change.desired_count.unwrap_or(one.desired_count);
        one.running_count = change.running_count.unwrap_or(one.running_count);
        one.pending_count = change.pending_count.unwrap_or(one.pending_count);
        if let Some(stability) = change.stability
            && stability != one.stability
        {
            one.stability = stability;
            one.stability_at = Some(now);
        }
        let became_steady = one.task_set.is_some()
            && one.stability == Stability::SteadyState
            && before.stability != Stability::SteadyState;
        if change.leave_stage {
            one.stage = None;
            one.hook_ids.clear();
        }
        if change.clear_stop_request {
            one.stop_request = None;
        }
        if *one != before {
            one.updated_at = now;
        }
        let after = one.clone();
        if after.rollout_state != before.rollout_state {
            let named = match after.rollout_state {
                RolloutState::InProgress => Named::DEPLOYMENT_IN_PROGRESS,
                RolloutState::Completed => Named::DEPLOYMENT_COMPLETED,
                RolloutState::Failed => Named::DEPLOYMENT_FAILED,
            };
            let reason = after.rollout_reason.clone();
            writes.also(|txn| events::deployment_state_change(txn, &key, named, id, &reason, now));
        }
        if became_steady {
            let arn = key.task_set_arn(id.strip_prefix("ecs-svc/").unwrap_or(id));
            let service = writes.service.clone();
            writes.also(|txn| events::service_action(txn, &service, Named::TASK_SET_STEADY, Some(&arn), now));
        }
        let told = |one: &crate::state::service::DeploymentRecord| {
            (
                one.service_deployment,
                one.service_deployment_reason.clone(),
                one.stage.clone(),
                one.failed_tasks,
            )
        };
        if told(&after) != told(&before) || after.rolling_back_to != before.rolling_back_to {
            self.put_service_deployment(writes, id, now);
        }
        if after.status == DeploymentStatus::Primary && before.status != DeploymentStatus::Primary {
            self.go_back(writes, &after.revision);
        }
        if after.status != before.status {
            self.look_at_endpoints(writes, &after.revision);
        }
        for revision in writes.service.prune() {
            self.look_at_endpoints(writes, &revision);
        }
    }

    fn end(&self, writes: &mut Writes, now: Timestamp) {
        let revisions = std::mem::take(&mut writes.service.deployments).into_iter().map(|one| one.revision);
        revisions.for_each(|revision| self.look_at_endpoints(writes, &revision));
        writes.service.status = ServiceStatus::Inactive;
        writes.service.ended_at = Some(now);
    }

    /// The service is what is deployed again.
    fn go_back(&self, writes: &mut Writes, revision: &str) {
        let key = writes.key().revision(revision);
        if let Some(found) = ferrogate_store::get_json::<ServiceRevisionRecord>(&*self.store, &key) {
            writes.service.spec = found.record.spec;
        }
    }

    fn begin_stage(&self, writes: &mut Writes, id: &str, run: &StageRun, now: Timestamp) {
        if let Some(one) = writes.service.deployment_mut(id) {
            one.stage = Some(run.clone());
            one.hook_ids = run.hooks.iter().map(|_| uuid()).collect();
            one.updated_at = now;
        }
        self.put_service_deployment(writes, id, now);
    }

    fn expire_hook(&self, writes: &mut Writes, id: &str, index: usize, now: Timestamp) {
        if let Some(one) = writes.service.deployment_mut(id) {
            let hooks = one.stage.iter_mut().flat_map(|stage| &mut stage.hooks);
            for hook in hooks.filter(|hook| hook.index == index) {
                hook.status = HookStatus::TimedOut;
            }
            one.updated_at = now;
        }
        self.put_service_deployment(writes, id, now);
    }

    /// Writes down what is to be known of a deployment when it is over.
    fn put_service_deployment(&self, writes: &mut Writes, id: &str, now: Timestamp) {
        let service = &writes.service;
        let Some(one) = service.deployments.iter().find(|one| one.id == id) else { return };
        let Some(sd) = &one.service_deployment_id else { return };
        let key = writes.key().deployment(sd);
        let Some(found) = ferrogate_store::get_json::<ServiceDeploymentRecord>(&*self.store, &key) else {
            return;
        };
        let before = found.record;
        let is_over = one.service_deployment.is_final();
        let record = ServiceDeploymentRecord {
            started_at: before.started_at.or(Some(now)),
            finished_at: before.finished_at.or(is_over.then_some(now)),
            updated_at: now,
            status: one.service_deployment,
            status_reason: one.service_deployment_reason.clone(),
            stage: one.stage.as_ref().map(|stage| stage.stage.name().into()),
            hooks: crate::operations::services::deployments::hooks(service, one),
            target: crate::operations::services::begin::summary(one),
            failed_tasks: one.failed_tasks,
            desired_count: service.desired_count,
            rollback: before.rollback.or_else(|| rollback(service, one, now)),
            ..before
        };
        writes.also(|txn| txn.put_json(key, &record));
    }
}

/// Whether ELB or Cloud Map are asked for it.
fn asks_others(action: &Action) -> bool {
    matches!(
        action,
        Action::ShiftTraffic { .. }
            | Action::RegisterTargets { .. }
            | Action::DeregisterTargets { .. }
            | Action::RegisterInstance { .. }
            | Action::SetInstanceHealth { .. }
            | Action::DeregisterInstance { .. }
            | Action::RegisterEndpoints { .. }
            | Action::DeregisterEndpoints { .. }
    )
}

fn rollback(
    service: &crate::state::service::ServiceRecord,
    one: &crate::state::service::DeploymentRecord,
    now: Timestamp,
) -> Option<RollbackRecord> {
    let target = one.rolling_back_to.as_ref()?;
    let target = service.deployments.iter().find(|other| other.id == *target)?;
    Some(RollbackRecord {
        reason: one.service_deployment_reason.clone().unwrap_or_else(|| one.rollout_reason.clone()),
        started_at: now,
        revision: target.revision.clone(),
    })
}

fn set_steady(writes: &mut Writes, steady: bool, now: Timestamp) {
    let began = steady && !writes.service.steady;
    writes.service.steady = steady;
    if began {
        let service = writes.service.clone();
        writes.also(|txn| events::service_action(txn, &service, Named::STEADY, None, now));
    }
}

fn say(writes: &mut Writes, text: &str, now: Timestamp) {
    if *text == words::launches_delayed(&writes.service.name) {
        let service = writes.service.clone();
        writes.also(|txn| events::service_action(txn, &service, Named::TASK_START_IMPAIRED, None, now));
    }
    writes.say([text.to_owned()]);
}
