//! A new deployment: a service revision, and the record of how it is brought out.

use ferrogate_model::{digits, hex_id};
use ferrogate_nodeapi::ConnectClient;
use ferrogate_store::{Json, Store, Txn, range_json};
use jiff::Timestamp;

use super::configuration::{self, ROLLING};
use super::connect;
use crate::events::{self, Named};
use crate::plan::service::{Deployment, DeploymentStatus, RolloutState, ServiceDeploymentStatus};
use crate::state::connect::look_at;
use crate::state::service::{
    DeploymentRecord, RevisionSummary, ServiceDeploymentRecord, ServiceKey, ServiceRecord,
    ServiceRevisionRecord, TaskSetRecord,
};

/// Of one service; older ones that are over go with their revision.
const SERVICE_DEPLOYMENTS_KEPT: usize = 100;
/// As long as AWS's.
const SERVICE_DEPLOYMENT_ID_CHARACTERS: usize = 21;

/// Deploys `service.spec`. What was PRIMARY is being replaced from now on.
pub(super) fn begin(store: &dyn Store, service: &mut ServiceRecord, now: Timestamp, txn: Txn) -> Txn {
    let key = service.key();
    let (txn, clients) = connect::offer(store, &key, &service.spec, now, txn);
    let (txn, revision) = put_revision(service, clients, now, txn);
    let mut made = deployment(revision.clone(), now);
    made.target_groups = target_groups(service);
    let id: String = hex_id().chars().take(SERVICE_DEPLOYMENT_ID_CHARACTERS).collect();
    made.service_deployment_id = Some(id.clone());
    let shown = service.shown();
    let sources = shown.into_iter().map(summary).collect();
    let mut txn = txn;
    for one in &mut service.deployments {
        if one.status == DeploymentStatus::Primary {
            one.status = DeploymentStatus::Active;
        }
        if one.status != DeploymentStatus::Inactive && !one.service_deployment.is_final() {
            txn = supersede(store, &key, one, now, txn);
        }
    }
    let record = ServiceDeploymentRecord {
        id: id.clone(),
        deployment: made.id.clone(),
        created_at: now,
        started_at: None,
        finished_at: None,
        stopped_at: None,
        updated_at: now,
        sources,
        target: RevisionSummary { revision, requested: service.desired_count, ..Default::default() },
        status: made.service_deployment,
        status_reason: None,
        stage: None,
        hooks: Vec::new(),
        configuration: service.configuration.clone(),
        rollback: None,
        failed_tasks: 0,
        desired_count: service.desired_count,
    };
    let reason = made.rollout_reason.clone();
    txn = events::deployment_state_change(txn, &key, Named::DEPLOYMENT_IN_PROGRESS, &made.id, &reason, now);
    service.deployments.insert(0, made);
    for dropped in service.prune() {
        txn = look_at(store, &key, &dropped, txn);
    }
    forget_old(store, &key, service, txn).put_json(key.deployment(&id), &record)
}

/// A newer deployment takes its place before it was done.
fn supersede(
    store: &dyn Store,
    key: &ServiceKey,
    one: &mut DeploymentRecord,
    now: Timestamp,
    txn: Txn,
) -> Txn {
    let reason = "The service deployment was stopped because a newer one began.".to_owned();
    let going_back =
        [ServiceDeploymentStatus::RollbackRequested, ServiceDeploymentStatus::RollbackInProgress];
    one.service_deployment = if going_back.contains(&one.service_deployment) {
        ServiceDeploymentStatus::RollbackFailed
    } else {
        ServiceDeploymentStatus::Stopped
    };
    one.service_deployment_reason = Some(reason.clone());
    let Some(id) = &one.service_deployment_id else { return txn };
    let found: Option<Json<ServiceDeploymentRecord>> = ferrogate_store::get_json(store, &key.deployment(id));
    let Some(found) = found else { return txn };
    let record = ServiceDeploymentRecord {
        status: one.service_deployment,
        status_reason: Some(reason),
        finished_at: Some(now),
        stopped_at: Some(now),
        updated_at: now,
        ..found.record
    };
    txn.put_json(&*found.key, &record)
}

/// A task set of `service`, whose own spec is in `service.spec`.
pub(super) fn begin_task_set(
    service: &mut ServiceRecord,
    set: TaskSetRecord,
    now: Timestamp,
    txn: Txn,
) -> (Txn, DeploymentRecord) {
    let (txn, revision) = put_revision(service, Vec::new(), now, txn);
    let mut made = deployment(revision, now);
    made.status = DeploymentStatus::Active;
    made.target_groups =
        service.spec.load_balancers.iter().filter_map(|one| one.target_group_arn.clone()).collect();
    made.task_set = Some(set);
    service.deployments.insert(0, made.clone());
    (txn, made)
}

fn put_revision(
    service: &ServiceRecord,
    clients: Vec<ConnectClient>,
    now: Timestamp,
    txn: Txn,
) -> (Txn, String) {
    let id = digits(19);
    let spec = service.spec.clone();
    let record = ServiceRevisionRecord { id: id.clone(), created_at: now, clients, images: None, spec };
    (txn.put_json(service.key().revision(&id), &record), id)
}

fn deployment(revision: String, now: Timestamp) -> DeploymentRecord {
    let new = Deployment::new(format!("ecs-svc/{}", digits(19)), now);
    DeploymentRecord {
        id: new.id,
        revision,
        service_deployment_id: None,
        created_at: now,
        updated_at: now,
        task_set: None,
        stop_request: None,
        target_groups: Vec::new(),
        status: new.status,
        rollout_state: new.rollout_state,
        rollout_reason: new.rollout_reason,
        service_deployment: new.service_deployment,
        service_deployment_reason: new.service_deployment_reason,
        rolling_back_to: new.rolling_back_to,
        failed_tasks: new.failed_tasks,
        launches: new.launches,
        stage: new.stage,
        hook_ids: Vec::new(),
        production_permille: new.production_permille,
        test_permille: new.test_permille,
        desired_count: new.desired_count,
        running_count: new.running_count,
        pending_count: new.pending_count,
        stability: new.stability,
        stability_at: None,
    }
}

/// Of each load balancer the group that does not serve now, where traffic is shifted between two: it is the newest
/// completed deployment that serves, whatever was begun since.
fn target_groups(service: &ServiceRecord) -> Vec<String> {
    let shifts = configuration::strategy(&service.configuration) != ROLLING;
    let completed = service.deployments.iter().filter(|one| one.rollout_state == RolloutState::Completed);
    let serving = completed.max_by_key(|one| one.created_at).or_else(|| service.primary());
    let used: Vec<String> = serving.map(|one| one.target_groups.clone()).unwrap_or_default();
    let of = |balancer: &ferrogate_api::ecs::LoadBalancer| {
        let first = balancer.target_group_arn.clone()?;
        let advanced = balancer.advanced_configuration.as_ref();
        let other = advanced.and_then(|advanced| advanced.alternate_target_group_arn.clone());
        Some(if shifts && used.contains(&first) { other.unwrap_or(first) } else { first })
    };
    service.spec.load_balancers.iter().filter_map(of).collect()
}

pub(crate) fn summary(one: &DeploymentRecord) -> RevisionSummary {
    RevisionSummary {
        revision: one.revision.clone(),
        requested: one.desired_count,
        running: one.running_count,
        pending: one.pending_count,
        test_permille: one.test_permille.unwrap_or_default(),
        production_permille: one.production_permille.unwrap_or_default(),
    }
}

/// Those that are over and were made first, with their revisions, unless the service still needs them.
fn forget_old(store: &dyn Store, key: &ServiceKey, service: &ServiceRecord, mut txn: Txn) -> Txn {
    let mut all: Vec<Json<ServiceDeploymentRecord>> = range_json(store, &key.deployments());
    all.sort_by_key(|found| std::cmp::Reverse(found.record.created_at));
    for old in all.into_iter().skip(SERVICE_DEPLOYMENTS_KEPT - 1) {
        let needed = service.deployments.iter().any(|one| one.id == old.record.deployment);
        if old.record.status.is_final() && !needed {
            txn = txn.delete(&*old.key).delete(key.revision(&old.record.target.revision));
        }
    }
    txn
}
