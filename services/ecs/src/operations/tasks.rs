//! Tasks that are there: described, listed, stopped.

use ferrogate_api::{ApiError, ecs};
use ferrogate_store::{Json, Txn};

use super::clusters::missing;
use super::{check_count, one_of, page, services, shape};
use crate::call::Call;
use crate::definition::FARGATE;
use crate::errors::invalid;
use crate::lifecycle::USER_INITIATED;
use crate::names;
use crate::state::service::ServiceKey;
use crate::state::{TaskKey, TaskRecord, TaskSummary};

const REASON_CHARACTERS_MAX: usize = 1024;

pub(crate) fn find(call: &Call<'_>, cluster: &str, id: &str) -> Option<Json<TaskRecord>> {
    let key = TaskKey { scope: call.scope.clone(), cluster: cluster.to_owned(), id: id.to_owned() };
    call.get(&key.record())
}

pub(crate) fn describe(
    call: &Call<'_>,
    input: ecs::DescribeTasksRequest,
) -> Result<ecs::DescribeTasksResponse, ApiError> {
    let identifiers = input.tasks.unwrap_or_default();
    check_count("Tasks", identifiers.len())?;
    let cluster = call.cluster(input.cluster.as_deref())?.record.name;
    input.include.iter().flatten().try_for_each(|field| one_of("include", Some(field), &["TAGS"]))?;
    let with_tags = input.include.iter().flatten().any(|field| field == "TAGS");
    let (mut tasks, mut failures) = (Vec::new(), Vec::new());
    for identifier in identifiers {
        let id = names::task(&call.scope, &cluster, &identifier)?;
        match find(call, &cluster, &id) {
            Some(found) => tasks.push(shape::task(&found.record, with_tags)),
            None => failures.push(missing(call.scope.arn(format!("task/{cluster}/{id}")))),
        }
    }
    Ok(ecs::DescribeTasksResponse { tasks: Some(tasks), failures: Some(failures) })
}

pub(crate) fn list(
    call: &Call<'_>,
    input: ecs::ListTasksRequest,
) -> Result<ecs::ListTasksResponse, ApiError> {
    let filters = [
        ("family", input.family.is_some()),
        ("serviceName", input.service_name.is_some()),
        ("containerInstance", input.container_instance.is_some()),
        ("daemonName", input.daemon_name.is_some()),
    ];
    if let (Some(_), Some((other, _))) = (&input.started_by, filters.iter().find(|(_, given)| *given)) {
        return Err(invalid(format!("startedBy must be the only filter: it cannot be used with {other}.")));
    }
    one_of("desiredStatus", input.desired_status.as_deref(), &["RUNNING", "PENDING", "STOPPED"])?;
    one_of("launchType", input.launch_type.as_deref(), &["EC2", FARGATE, "EXTERNAL", "MANAGED_INSTANCES"])?;
    let cluster = call.cluster(input.cluster.as_deref())?.record.name;
    let group = input.service_name.as_deref().map(|name| of_service(call, &cluster, name)).transpose()?;
    if input.family.as_deref().is_some_and(|family| !names::is_name(family)) {
        return Err(invalid("family must match ^[a-zA-Z0-9\\-_]+$"));
    }
    let desired = input.desired_status.as_deref().unwrap_or("RUNNING");
    let fargate = input.launch_type.as_deref().is_none_or(|launch_type| launch_type == FARGATE);
    // No daemon and no instance has any task.
    let none = !fargate || input.container_instance.is_some() || input.daemon_name.is_some();
    let family = input.family;
    let tasks: Vec<Json<TaskSummary>> =
        if none { Vec::new() } else { call.range(&call.scope.tasks(&cluster)) };
    let wanted = tasks.into_iter().map(|found| found.record).filter(|task| {
        // PENDING is a desired status that ECS sets for no task.
        task.lifecycle.desired.name() == desired
            && family.as_ref().is_none_or(|family| task.family == *family)
            && group.as_ref().is_none_or(|group| task.group == *group)
            && input.started_by.as_ref().is_none_or(|by| task.started_by.as_ref() == Some(by))
    });
    let page = page(wanted, |task| &task.task_id, input.next_token.as_deref(), input.max_results)?;
    let arns =
        page.items.iter().map(|task| call.scope.arn(format!("task/{cluster}/{}", task.task_id))).collect();
    Ok(ecs::ListTasksResponse { task_arns: Some(arns), next_token: page.next_token })
}

/// The group of a service's tasks.
fn of_service(call: &Call<'_>, cluster: &str, identifier: &str) -> Result<String, ApiError> {
    let name = names::service(&call.scope, cluster, identifier)?;
    let key = ServiceKey::new(&call.scope, cluster, &name);
    match call.service.store.get(&key.record()) {
        Some(_) => Ok(key.group()),
        None => Err(services::not_found()),
    }
}

/// Says that the task shall stop; whoever has it at the moment does it.
pub(crate) async fn stop(
    call: &Call<'_>,
    input: ecs::StopTaskRequest,
) -> Result<ecs::StopTaskResponse, ApiError> {
    let cluster = call.cluster(input.cluster.as_deref())?.record.name;
    let id = names::task(&call.scope, &cluster, input.task.as_deref().unwrap_or_default())?;
    let reason =
        input.reason.filter(|reason| !reason.is_empty()).unwrap_or_else(|| "Task stopped by user".into());
    if reason.chars().count() > REASON_CHARACTERS_MAX {
        return Err(invalid(format!("The reason may have up to {REASON_CHARACTERS_MAX} characters.")));
    }
    let task = call
        .transact(|| {
            let found =
                find(call, &cluster, &id).ok_or_else(|| invalid("The referenced task was not found."))?;
            let mut task = found.record.clone();
            // Stopping what is being stopped changes nothing.
            let txn = if task.stop(USER_INITIATED, reason.clone(), call.cx.now) {
                task.put(Txn::new().when_revision(&*found.key, found.mod_revision), Some(&found.record))
            } else {
                Txn::new()
            };
            Ok((txn, task))
        })
        .await?;
    Ok(ecs::StopTaskResponse { task: Some(shape::task(&task, true)) })
}
