//! Task sets: the deployments of a service whose deployment controller is EXTERNAL.

use ferrogate_api::{ApiError, ecs};
use ferrogate_store::Json;

use super::attachments;
use super::spec::{self, Asked, By};
use super::task_set_shape::{short_id, task_set};
use super::{active, begin, change, client_token, find, key, not_found, shape};
use crate::call::Call;
use crate::controllers::services::observe::permille;
use crate::errors::invalid;
use crate::operations::clusters::{inconsistent, missing};
use crate::operations::{check_count, digest, one_of, tags};
use crate::plan::service::{DeploymentStatus, Stability};
use crate::state::service::{
    DeploymentController, DeploymentRecord, ServiceKey, ServiceRecord, Spec, TaskSetRecord,
};

/// Service Quotas, "Task sets per service".
const TASK_SETS_MAX: usize = 5;

fn task_set_not_found() -> ApiError {
    ApiError::new("TaskSetNotFoundException", "The specified task set was not found.")
}

/// Of what a caller names: its id, the end of that, or its ARN.
fn find_set<'a>(
    service: &'a ServiceRecord,
    key: &ServiceKey,
    identifier: &str,
) -> Option<&'a DeploymentRecord> {
    let is_it = |one: &&DeploymentRecord| {
        one.id == identifier || short_id(one) == identifier || key.task_set_arn(short_id(one)) == identifier
    };
    service.shown().into_iter().find(|one| is_it(one))
}

/// Its id in an active service that has task sets.
fn existing(service: &ServiceRecord, key: &ServiceKey, identifier: &str) -> Result<String, ApiError> {
    check_external(service)?;
    find_set(service, key, identifier).map(|one| one.id.clone()).ok_or_else(task_set_not_found)
}

fn check_external(service: &ServiceRecord) -> Result<(), ApiError> {
    if service.controller == DeploymentController::External {
        return Ok(());
    }
    Err(invalid("Task sets are supported on services with the deployment controller EXTERNAL only."))
}

fn scale(scale: Option<&ecs::Scale>, default: f64) -> Result<u32, ApiError> {
    let value = scale.and_then(|scale| scale.value).unwrap_or(default);
    one_of("scale unit", scale.and_then(|scale| scale.unit.as_deref()), &["PERCENT"])?;
    if !(0.0..=100.0).contains(&value) {
        return Err(invalid(format!("Invalid scale value {value}: it must be between 0 and 100.")));
    }
    Ok(permille(value))
}

fn described(call: &Call<'_>, service: &ServiceRecord, id: &str, with_tags: bool) -> Option<ecs::TaskSet> {
    let one = service.deployments.iter().find(|one| one.id == id)?;
    Some(task_set(&*call.service.store, service, one, with_tags))
}

pub(crate) async fn create(
    call: &Call<'_>,
    mut input: ecs::CreateTaskSetRequest,
) -> Result<ecs::CreateTaskSetResponse, ApiError> {
    let key = key(call, input.cluster.as_deref(), input.service.as_deref())?;
    let token = client_token(input.client_token.take())?;
    let request = digest(&input)?;
    let found = active(call, &key)?.record;
    check_external(&found)?;
    let name = input.task_definition.take().unwrap_or_default();
    let definition = spec::definition(call, &name, By::Create)?;
    let cluster = call.cluster(Some(&key.cluster))?.record;
    let scale_permille = scale(input.scale.as_ref(), 0.0)?;
    let set_tags = tags::checked(input.tags.take())?;
    let asked = Asked {
        launch_type: input.launch_type.take(),
        strategy: input.capacity_provider_strategy.take(),
        platform_version: input.platform_version.take(),
        network: input.network_configuration.take(),
        load_balancers: input.load_balancers.take(),
        registries: input.service_registries.take(),
    };
    let mut wanted = asked.over(None, Some(&definition), &cluster)?;
    attachments::check(&wanted, &found.configuration, Some(&definition.definition))?;
    spec::check_exec(found.exec_enabled, Some(&definition))?;
    spec::resolve(call, &mut wanted).await?;
    Box::pin(attachments::look_up(call, &wanted)).await?;
    let mut id = String::new();
    let service = change(call, &key, |service, txn| {
        if let Some((made, set)) = made_before(service, token.as_deref()) {
            // Of a set made before this was kept nothing can be said.
            if set.request.as_ref().is_some_and(|made| *made != request) {
                return Err(inconsistent());
            }
            id.clone_from(&made.id);
            return Ok(ferrogate_store::Txn::new());
        }
        if service.shown().len() >= TASK_SETS_MAX {
            return Err(ApiError::new(
                "LimitExceededException",
                format!("The maximum number of task sets per service ({TASK_SETS_MAX}) is reached."),
            ));
        }
        let definition = spec::definition(call, &name, By::Create)?;
        let txn = txn.when_revision(&*definition.revision.key, definition.revision.mod_revision);
        let set = TaskSetRecord {
            external_id: input.external_id.clone(),
            client_token: token.clone(),
            request: token.is_some().then(|| request.clone()),
            scale_permille,
            tags: set_tags.clone(),
        };
        let (txn, made) = begin_one(service, &wanted, set, call.cx.now, txn);
        id = made.id;
        Ok(txn)
    })
    .await?;
    Ok(ecs::CreateTaskSetResponse { task_set: described(call, &service, &id, true) })
}

/// The task set that a call with this token has made.
fn made_before<'a>(
    service: &'a ServiceRecord,
    token: Option<&str>,
) -> Option<(&'a DeploymentRecord, &'a TaskSetRecord)> {
    let token = token?;
    let mut sets = service.deployments.iter().filter_map(|one| Some((one, one.task_set.as_ref()?)));
    sets.find(|(_, set)| set.client_token.as_deref() == Some(token))
}

/// The service keeps its own spec: that of its primary task set.
fn begin_one(
    service: &mut ServiceRecord,
    wanted: &Spec,
    set: TaskSetRecord,
    now: jiff::Timestamp,
    txn: ferrogate_store::Txn,
) -> (ferrogate_store::Txn, DeploymentRecord) {
    let own = std::mem::replace(&mut service.spec, wanted.clone());
    let made = begin::begin_task_set(service, set, now, txn);
    service.spec = own;
    made
}

pub(crate) async fn update(
    call: &Call<'_>,
    input: ecs::UpdateTaskSetRequest,
) -> Result<ecs::UpdateTaskSetResponse, ApiError> {
    let key = key(call, input.cluster.as_deref(), input.service.as_deref())?;
    let identifier = input.task_set.unwrap_or_default();
    let scale_permille = scale(input.scale.as_ref(), 0.0)?;
    let mut id = String::new();
    let service = change(call, &key, |service, txn| {
        id = existing(service, &key, &identifier)?;
        if let Some(one) = service.deployment_mut(&id) {
            if one.status == DeploymentStatus::Draining {
                return Err(invalid("A task set that is DRAINING cannot be updated."));
            }
            if let Some(set) = &mut one.task_set
                && set.scale_permille != scale_permille
            {
                set.scale_permille = scale_permille;
                one.stability = Stability::Stabilizing;
                one.stability_at = Some(call.cx.now);
                one.updated_at = call.cx.now;
            }
        }
        Ok(txn)
    })
    .await?;
    Ok(ecs::UpdateTaskSetResponse { task_set: described(call, &service, &id, false) })
}

pub(crate) async fn update_primary(
    call: &Call<'_>,
    input: ecs::UpdateServicePrimaryTaskSetRequest,
) -> Result<ecs::UpdateServicePrimaryTaskSetResponse, ApiError> {
    let key = key(call, input.cluster.as_deref(), input.service.as_deref())?;
    let identifier = input.primary_task_set.unwrap_or_default();
    let mut id = String::new();
    let store = &*call.service.store;
    let service = change(call, &key, |service, txn| {
        id = existing(service, &key, &identifier)?;
        let revision = {
            let one = service.deployment_mut(&id).ok_or_else(task_set_not_found)?;
            if one.status == DeploymentStatus::Draining {
                return Err(invalid("A task set that is DRAINING cannot be the primary one."));
            }
            one.revision.clone()
        };
        for one in &mut service.deployments {
            if one.id == id {
                one.status = DeploymentStatus::Primary;
                one.updated_at = call.cx.now;
            } else if one.status == DeploymentStatus::Primary {
                one.status = DeploymentStatus::Active;
                one.updated_at = call.cx.now;
            }
        }
        if let Some(found) = shape::revision(store, &key, &revision) {
            service.spec = found.spec;
        }
        Ok(txn)
    })
    .await?;
    Ok(ecs::UpdateServicePrimaryTaskSetResponse { task_set: described(call, &service, &id, false) })
}

pub(crate) async fn delete(
    call: &Call<'_>,
    input: ecs::DeleteTaskSetRequest,
) -> Result<ecs::DeleteTaskSetResponse, ApiError> {
    let key = key(call, input.cluster.as_deref(), input.service.as_deref())?;
    let identifier = input.task_set.unwrap_or_default();
    let force = input.force == Some(true);
    let mut id = String::new();
    let service = change(call, &key, |service, txn| {
        id = existing(service, &key, &identifier)?;
        let one = service.deployment_mut(&id).ok_or_else(task_set_not_found)?;
        let scaled = one.task_set.as_ref().is_some_and(|set| set.scale_permille > 0);
        if !force && (scaled || one.running_count + one.pending_count > 0) {
            return Err(invalid(
                "The task set cannot be deleted while it is scaled above 0. Scale it to 0, or use force.",
            ));
        }
        one.status = DeploymentStatus::Draining;
        one.updated_at = call.cx.now;
        if let Some(set) = &mut one.task_set {
            set.scale_permille = 0;
        }
        Ok(txn)
    })
    .await?;
    Ok(ecs::DeleteTaskSetResponse { task_set: described(call, &service, &id, false) })
}

pub(crate) fn describe(
    call: &Call<'_>,
    input: ecs::DescribeTaskSetsRequest,
) -> Result<ecs::DescribeTaskSetsResponse, ApiError> {
    let key = key(call, input.cluster.as_deref(), input.service.as_deref())?;
    let Json { record: service, .. } = find(call, &key).ok_or_else(not_found)?;
    check_external(&service)?;
    input.include.iter().flatten().try_for_each(|field| one_of("include", Some(field), &["TAGS"]))?;
    let with_tags = input.include.iter().flatten().any(|field| field == "TAGS");
    let store = &*call.service.store;
    let named = input.task_sets.unwrap_or_default();
    let (mut sets, mut failures) = (Vec::new(), Vec::new());
    if named.is_empty() {
        sets = service.shown().into_iter().map(|one| task_set(store, &service, one, with_tags)).collect();
    } else {
        check_count("Task sets", named.len())?;
        for identifier in named {
            match find_set(&service, &key, &identifier) {
                Some(one) => sets.push(task_set(store, &service, one, with_tags)),
                None => failures.push(missing(if identifier.starts_with("arn:") {
                    identifier
                } else {
                    key.task_set_arn(&identifier)
                })),
            }
        }
    }
    Ok(ecs::DescribeTaskSetsResponse { task_sets: Some(sets), failures: Some(failures) })
}
