//! Service deployments and service revisions: how and what was brought out.

use ferrogate_api::{ApiError, ecs};
use ferrogate_store::{Json, Txn};

use super::shape::{self, count};
use super::{key, not_found};
use crate::call::Call;
use crate::controllers::services::observe::breaker;
use crate::errors::{invalid, unsupported};
use crate::names;
use crate::operations::clusters::missing;
use crate::operations::{check_count, one_of, page};
use crate::plan::service::{HookStatus, RolloutState, ServiceDeploymentStatus, StopRequest, threshold};
use crate::state::service::{
    DeploymentRecord, RevisionSummary, ServiceDeploymentRecord, ServiceKey, ServiceRecord,
    ServiceRevisionRecord,
};

/// ECS API reference, DescribeServiceDeployments, DescribeServiceRevisions.
const DESCRIBED_MAX: usize = 20;
const STATUSES: [&str; 9] = [
    "PENDING",
    "SUCCESSFUL",
    "STOPPED",
    "STOP_REQUESTED",
    "IN_PROGRESS",
    "ROLLBACK_REQUESTED",
    "ROLLBACK_IN_PROGRESS",
    "ROLLBACK_SUCCESSFUL",
    "ROLLBACK_FAILED",
];
/// The hooks of the stage a deployment is in.
pub(crate) fn hooks(
    service: &ServiceRecord,
    one: &DeploymentRecord,
) -> Vec<ecs::DeploymentLifecycleHookDetail> {
    let configured = service.configuration.lifecycle_hooks.as_deref().unwrap_or_default();
    let runs = one.stage.iter().flat_map(|stage| &stage.hooks).zip(&one.hook_ids);
    let detail = |(run, id): (&crate::plan::service::HookRun, &String)| ecs::DeploymentLifecycleHookDetail {
        hook_id: Some(id.clone()),
        target_type: configured.get(run.index).and_then(|hook| hook.target_type.clone()),
        target_arn: None,
        status: Some(run.status.name().into()),
        expires_at: Some(run.expires_at),
        timeout_action: Some(run.timeout_action.name().into()),
    };
    runs.map(detail).collect()
}

/// With what the service knows better while it lasts.
fn current(service: Option<&ServiceRecord>, mut record: ServiceDeploymentRecord) -> ServiceDeploymentRecord {
    let Some(service) = service else { return record };
    let by_revision = |revision: &str| service.deployments.iter().find(|one| one.revision == revision);
    if let Some(one) = service.deployments.iter().find(|one| one.id == record.deployment)
        && !record.status.is_final()
    {
        record.status = one.service_deployment;
        record.status_reason.clone_from(&one.service_deployment_reason);
        record.target = super::begin::summary(one);
        record.failed_tasks = one.failed_tasks;
        record.hooks = hooks(service, one);
        record.stage = one.stage.as_ref().map(|stage| stage.stage.name().into());
        for source in &mut record.sources {
            if let Some(now) = by_revision(&source.revision) {
                *source = super::begin::summary(now);
            }
        }
    }
    record
}

fn revision_summary(key: &ServiceKey, summary: &RevisionSummary) -> ecs::ServiceRevisionSummary {
    ecs::ServiceRevisionSummary {
        arn: Some(key.revision_arn(&summary.revision)),
        requested_task_count: count(summary.requested),
        running_task_count: count(summary.running),
        pending_task_count: count(summary.pending),
        requested_test_traffic_weight: Some(f64::from(summary.test_permille) / 10.0),
        requested_production_traffic_weight: Some(f64::from(summary.production_permille) / 10.0),
    }
}

fn full(key: &ServiceKey, record: &ServiceDeploymentRecord) -> ecs::ServiceDeployment {
    ecs::ServiceDeployment {
        service_deployment_arn: Some(key.deployment_arn(&record.id)),
        service_arn: Some(key.arn()),
        cluster_arn: Some(key.scope.cluster_arn(&key.cluster)),
        created_at: Some(record.created_at),
        started_at: record.started_at,
        finished_at: record.finished_at,
        stopped_at: record.stopped_at,
        updated_at: Some(record.updated_at),
        source_service_revisions: Some(record.sources.iter().map(|one| revision_summary(key, one)).collect()),
        target_service_revision: Some(revision_summary(key, &record.target)),
        status: Some(record.status.name().into()),
        status_reason: record.status_reason.clone(),
        lifecycle_stage: record.stage.clone(),
        lifecycle_hook_details: (!record.hooks.is_empty()).then(|| record.hooks.clone()),
        deployment_configuration: Some(record.configuration.clone()),
        rollback: record.rollback.as_ref().map(|rollback| ecs::Rollback {
            reason: Some(rollback.reason.clone()),
            started_at: Some(rollback.started_at),
            service_revision_arn: Some(key.revision_arn(&rollback.revision)),
        }),
        deployment_circuit_breaker: Some(circuit_breaker(record)),
        alarms: Some(ecs::ServiceDeploymentAlarms { status: Some("DISABLED".into()), ..Default::default() }),
    }
}

fn circuit_breaker(record: &ServiceDeploymentRecord) -> ecs::ServiceDeploymentCircuitBreaker {
    let breaker = breaker(record.configuration.deployment_circuit_breaker.as_ref());
    let threshold = threshold(&breaker, record.desired_count);
    let status = if !breaker.enabled {
        "DISABLED"
    } else if record.failed_tasks >= threshold {
        "TRIGGERED"
    } else if record.status.is_final() {
        "MONITORING_COMPLETE"
    } else {
        "MONITORING"
    };
    ecs::ServiceDeploymentCircuitBreaker {
        status: Some(status.into()),
        failure_count: count(record.failed_tasks),
        threshold: count(threshold),
    }
}

fn service(call: &Call<'_>, key: &ServiceKey) -> Option<ServiceRecord> {
    super::find(call, key).map(|found| found.record)
}

pub(crate) fn list(
    call: &Call<'_>,
    input: ecs::ListServiceDeploymentsRequest,
) -> Result<ecs::ListServiceDeploymentsResponse, ApiError> {
    let key = key(call, input.cluster.as_deref(), input.service.as_deref())?;
    let service = service(call, &key).ok_or_else(not_found)?;
    for status in input.status.iter().flatten() {
        one_of("status", Some(status), &STATUSES)?;
    }
    let wanted = input.status.unwrap_or_default();
    let (after, before) = input.created_at.map_or((None, None), |created| (created.after, created.before));
    let all: Vec<Json<ServiceDeploymentRecord>> = call.range(&key.deployments());
    let chosen = all.into_iter().map(|found| current(Some(&service), found.record)).filter(|one| {
        (wanted.is_empty() || wanted.iter().any(|status| status == one.status.name()))
            && after.is_none_or(|after| one.created_at > after)
            && before.is_none_or(|before| one.created_at < before)
    });
    // Newest first: a page goes on after the number of what it ended with.
    let order = |one: &ServiceDeploymentRecord| {
        format!("{:039}-{}", i128::MAX - one.created_at.as_nanosecond(), one.id)
    };
    let mut keyed: Vec<(String, ServiceDeploymentRecord)> = chosen.map(|one| (order(&one), one)).collect();
    keyed.sort_by(|(one, _), (other, _)| one.cmp(other));
    let page = page(keyed, |(order, _)| order, input.next_token.as_deref(), input.max_results)?;
    let brief = |(_, record): (String, ServiceDeploymentRecord)| ecs::ServiceDeploymentBrief {
        service_deployment_arn: Some(key.deployment_arn(&record.id)),
        service_arn: Some(key.arn()),
        cluster_arn: Some(key.scope.cluster_arn(&key.cluster)),
        started_at: record.started_at,
        created_at: Some(record.created_at),
        finished_at: record.finished_at,
        target_service_revision_arn: Some(key.revision_arn(&record.target.revision)),
        status: Some(record.status.name().into()),
        status_reason: record.status_reason.clone(),
    };
    Ok(ecs::ListServiceDeploymentsResponse {
        service_deployments: Some(page.items.into_iter().map(brief).collect()),
        next_token: page.next_token,
    })
}

fn check_described(what: &str, arns: &[String]) -> Result<(), ApiError> {
    check_count(what, arns.len())?;
    if arns.len() > DESCRIBED_MAX {
        return Err(invalid(format!("{what} can have at most {DESCRIBED_MAX} items.")));
    }
    Ok(())
}

pub(crate) fn describe(
    call: &Call<'_>,
    input: ecs::DescribeServiceDeploymentsRequest,
) -> Result<ecs::DescribeServiceDeploymentsResponse, ApiError> {
    let arns = input.service_deployment_arns.unwrap_or_default();
    check_described("Service deployments", &arns)?;
    let (mut deployments, mut failures) = (Vec::new(), Vec::new());
    for arn in arns {
        let (key, id) = names::of_service(&call.scope, "service-deployment", &arn)?;
        match call.get::<ServiceDeploymentRecord>(&key.deployment(&id)) {
            Some(found) => {
                deployments.push(full(&key, &current(service(call, &key).as_ref(), found.record)));
            }
            None => failures.push(missing(arn)),
        }
    }
    Ok(ecs::DescribeServiceDeploymentsResponse {
        service_deployments: Some(deployments),
        failures: Some(failures),
    })
}

pub(crate) fn describe_revisions(
    call: &Call<'_>,
    input: ecs::DescribeServiceRevisionsRequest,
) -> Result<ecs::DescribeServiceRevisionsResponse, ApiError> {
    let arns = input.service_revision_arns.unwrap_or_default();
    check_described("Service revisions", &arns)?;
    let (mut revisions, mut failures) = (Vec::new(), Vec::new());
    for arn in arns {
        let (key, id) = names::of_service(&call.scope, "service-revision", &arn)?;
        match call.get::<ServiceRevisionRecord>(&key.revision(&id)) {
            Some(found) => {
                revisions.push(shape::service_revision(&*call.service.store, &key, &found.record));
            }
            None => failures.push(missing(arn)),
        }
    }
    Ok(ecs::DescribeServiceRevisionsResponse { service_revisions: Some(revisions), failures: Some(failures) })
}

fn deployment_not_found() -> ApiError {
    ApiError::new("ServiceDeploymentNotFoundException", "Service deployment not found.")
}

/// Changes the deployment that a service deployment's ARN means.
async fn change_deployment(
    call: &Call<'_>,
    arn: &str,
    mut change: impl FnMut(&mut DeploymentRecord) -> Result<(), ApiError> + Send,
) -> Result<(), ApiError> {
    let (key, id) = names::of_service(&call.scope, "service-deployment", arn)?;
    call.transact(|| {
        let found = super::find(call, &key).ok_or_else(deployment_not_found)?;
        let known = call.get::<ServiceDeploymentRecord>(&key.deployment(&id));
        let mut service = found.record.clone();
        let of = |one: &&mut DeploymentRecord| one.service_deployment_id.as_deref() == Some(&id);
        match service.deployments.iter_mut().find(of) {
            Some(one) => change(one)?,
            None if known.is_some() => return Err(over(&id)),
            None => return Err(deployment_not_found()),
        }
        let txn = Txn::new().when_revision(&*found.key, found.mod_revision);
        Ok((if service == found.record { Txn::new() } else { txn.put_json(&*found.key, &service) }, ()))
    })
    .await
}

fn over(id: &str) -> ApiError {
    ApiError::new("ConflictException", format!("The service deployment {id} is not in progress."))
}

pub(crate) async fn stop(
    call: &Call<'_>,
    input: ecs::StopServiceDeploymentRequest,
) -> Result<ecs::StopServiceDeploymentResponse, ApiError> {
    let arn = input.service_deployment_arn.unwrap_or_default();
    let request = match input.stop_type.as_deref() {
        None | Some("ROLLBACK") => StopRequest::Rollback,
        // The reference lists it, and says that ROLLBACK is the one value there is.
        Some("ABORT") => return Err(unsupported("the stop type 'ABORT'")),
        Some(other) => {
            return Err(invalid(format!("Invalid stopType '{other}'. Must be one of [ABORT,ROLLBACK]")));
        }
    };
    change_deployment(call, &arn, |one| {
        let stoppable = matches!(
            one.service_deployment,
            ServiceDeploymentStatus::Pending | ServiceDeploymentStatus::InProgress
        );
        if one.stop_request.is_some() {
            return Ok(());
        }
        if !stoppable || one.rollout_state != RolloutState::InProgress {
            return Err(over(&one.id));
        }
        one.stop_request = Some(request);
        Ok(())
    })
    .await?;
    Ok(ecs::StopServiceDeploymentResponse { service_deployment_arn: Some(arn) })
}

pub(crate) async fn resume(
    call: &Call<'_>,
    input: ecs::ContinueServiceDeploymentRequest,
) -> Result<ecs::ContinueServiceDeploymentResponse, ApiError> {
    let arn = input.service_deployment_arn.unwrap_or_default();
    let hook_id = input.hook_id.unwrap_or_default();
    one_of("action", input.action.as_deref(), &["CONTINUE", "ROLLBACK"])?;
    let rolls_back = input.action.as_deref() == Some("ROLLBACK");
    change_deployment(call, &arn, |one| {
        let at = one.hook_ids.iter().position(|id| *id == hook_id);
        let hook = at.zip(one.stage.as_mut()).and_then(|(at, stage)| stage.hooks.get_mut(at));
        let hook = hook.filter(|hook| hook.status == HookStatus::AwaitingAction).ok_or_else(|| {
            invalid(format!("The service deployment does not wait at the lifecycle hook '{hook_id}'."))
        })?;
        hook.status = if rolls_back { HookStatus::Failed } else { HookStatus::Succeeded };
        Ok(())
    })
    .await?;
    Ok(ecs::ContinueServiceDeploymentResponse { service_deployment_arn: Some(arn) })
}
