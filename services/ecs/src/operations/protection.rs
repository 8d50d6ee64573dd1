//! Scale-in protection: a task of a service asks not to be ended for a while. A standalone task has nobody who would.

use ferrogate_api::{ApiError, ecs};
use ferrogate_store::{Json, Txn};
use jiff::{SignedDuration, Timestamp};

use super::clusters::missing;
use super::tasks;
use crate::call::Call;
use crate::errors::invalid;
use crate::lifecycle::Desired;
use crate::names;
use crate::state::{ProtectionRecord, TaskRecord};

/// ECS API reference, UpdateTaskProtection.
const EXPIRES_IN_MINUTES: std::ops::RangeInclusive<i32> = 1..=2880;
const EXPIRES_IN_MINUTES_DEFAULT: i32 = 120;
const UPDATED_PER_CALL_MAX: usize = 10;

/// What became of one task of a call.
type Outcome = Result<ecs::ProtectedTask, ecs::Failure>;

pub(crate) fn get(
    call: &Call<'_>,
    input: ecs::GetTaskProtectionRequest,
) -> Result<ecs::GetTaskProtectionResponse, ApiError> {
    let cluster = call.cluster(input.cluster.as_deref())?.record.name;
    let identifiers = input.tasks.unwrap_or_default();
    super::check_count("Tasks", identifiers.len())?;
    let mut outcomes = Vec::new();
    for identifier in identifiers {
        let id = names::task(&call.scope, &cluster, &identifier)?;
        outcomes.push(
            protectable(call, &cluster, &id)
                .map(|found| shape(&found.record, until(&found.record, call.cx.now))),
        );
    }
    let (protected, failures) = parted(outcomes);
    Ok(ecs::GetTaskProtectionResponse { protected_tasks: Some(protected), failures: Some(failures) })
}

pub(crate) async fn update(
    call: &Call<'_>,
    input: ecs::UpdateTaskProtectionRequest,
) -> Result<ecs::UpdateTaskProtectionResponse, ApiError> {
    let cluster = call.cluster(input.cluster.as_deref())?.record.name;
    let identifiers = input.tasks.unwrap_or_default();
    super::check_count("Tasks", identifiers.len())?;
    if identifiers.len() > UPDATED_PER_CALL_MAX {
        return Err(invalid(format!("Tasks can have at most {UPDATED_PER_CALL_MAX} items.")));
    }
    let minutes = input.expires_in_minutes.unwrap_or(EXPIRES_IN_MINUTES_DEFAULT);
    if !EXPIRES_IN_MINUTES.contains(&minutes) {
        return Err(invalid(format!(
            "expiresInMinutes should be between {} and {}.",
            EXPIRES_IN_MINUTES.start(),
            EXPIRES_IN_MINUTES.end()
        )));
    }
    let enabled = input.protection_enabled == Some(true);
    let until = enabled.then(|| call.cx.now + SignedDuration::from_mins(i64::from(minutes)));
    let mut outcomes = Vec::new();
    for identifier in identifiers {
        let id = names::task(&call.scope, &cluster, &identifier)?;
        outcomes.push(update_one(call, &cluster, &id, until).await?);
    }
    let (protected, failures) = parted(outcomes);
    Ok(ecs::UpdateTaskProtectionResponse { protected_tasks: Some(protected), failures: Some(failures) })
}

async fn update_one(
    call: &Call<'_>,
    cluster: &str,
    id: &str,
    until: Option<Timestamp>,
) -> Result<Outcome, ApiError> {
    call.transact(|| {
        let found = match protectable(call, cluster, id) {
            Ok(found) => found,
            Err(failure) => return Ok((Txn::new(), Err(failure))),
        };
        let protection = until.map(|until| ProtectionRecord { until });
        let task = TaskRecord { protection, ..found.record.clone() };
        let txn = task.put(Txn::new().when_revision(&*found.key, found.mod_revision), Some(&found.record));
        Ok((txn, Ok(shape(&task, until))))
    })
    .await
}

/// A task that a service keeps and that is meant to run.
fn protectable(call: &Call<'_>, cluster: &str, id: &str) -> Result<Json<TaskRecord>, ecs::Failure> {
    let Some(found) = tasks::find(call, cluster, id) else {
        return Err(missing(call.scope.arn(format!("task/{cluster}/{id}"))));
    };
    if found.record.service_name().is_some() && found.record.lifecycle.desired() == Desired::Running {
        return Ok(found);
    }
    Err(ecs::Failure { arn: Some(found.record.arn()), reason: Some("TASK_NOT_VALID".into()), detail: None })
}

/// Protection ends by itself.
fn until(task: &TaskRecord, now: Timestamp) -> Option<Timestamp> {
    task.protection.as_ref().map(|protection| protection.until).filter(|until| *until > now)
}

fn shape(task: &TaskRecord, until: Option<Timestamp>) -> ecs::ProtectedTask {
    ecs::ProtectedTask {
        task_arn: Some(task.arn()),
        protection_enabled: Some(until.is_some()),
        expiration_date: until,
    }
}

fn parted(outcomes: Vec<Outcome>) -> (Vec<ecs::ProtectedTask>, Vec<ecs::Failure>) {
    let (mut protected, mut failures) = (Vec::new(), Vec::new());
    for outcome in outcomes {
        match outcome {
            Ok(task) => protected.push(task),
            Err(failure) => failures.push(failure),
        }
    }
    (protected, failures)
}
