//! Services: made, changed, deleted. What is deployed is made in the same transaction (`begin.rs`); the rest is the
//! scheduler's (`controllers/services`).

mod attachments;
pub(crate) mod begin;
pub(crate) mod configuration;
mod connect;
pub(crate) mod create;
pub(crate) mod delete;
pub(crate) mod deployments;
pub(crate) mod describe;
mod shape;
mod spec;
mod task_set_shape;
pub(crate) mod task_sets;
pub(crate) mod update;

use ferrogate_api::ApiError;
use ferrogate_store::{Json, Txn};

use crate::call::Call;
use crate::errors::invalid;
use crate::names;
use crate::state::service::{ServiceKey, ServiceRecord, ServiceStatus};

/// Service Quotas, "Tasks per service", is 5,000 and can be raised.
const DESIRED_COUNT_MAX: i32 = 10_000;
/// Service Quotas, "Services per cluster".
const SERVICES_PER_CLUSTER_MAX: usize = 5_000;
const CLIENT_TOKEN_CHARACTERS_MAX: usize = 36;
const PROPAGATE_TAGS: [&str; 3] = ["TASK_DEFINITION", "SERVICE", "NONE"];

pub(crate) fn not_found() -> ApiError {
    ApiError::new("ServiceNotFoundException", "Service not found.")
}

fn not_active() -> ApiError {
    ApiError::new("ServiceNotActiveException", "Service was not ACTIVE.")
}

/// The key of what a caller means, in an active cluster.
fn key(call: &Call<'_>, cluster: Option<&str>, service: Option<&str>) -> Result<ServiceKey, ApiError> {
    let cluster = call.cluster(cluster)?.record.name;
    let identifier = service.unwrap_or_default();
    if identifier.is_empty() {
        return Err(invalid("Service cannot be empty."));
    }
    let name = names::service(&call.scope, &cluster, identifier)?;
    Ok(ServiceKey::new(&call.scope, &cluster, &name))
}

fn find(call: &Call<'_>, key: &ServiceKey) -> Option<Json<ServiceRecord>> {
    call.get(&key.record())
}

/// One that can be changed.
fn active(call: &Call<'_>, key: &ServiceKey) -> Result<Json<ServiceRecord>, ApiError> {
    let found = find(call, key).ok_or_else(not_found)?;
    if found.record.status == ServiceStatus::Active { Ok(found) } else { Err(not_active()) }
}

fn desired_count(wanted: i32) -> Result<u32, ApiError> {
    match u32::try_from(wanted) {
        Ok(count) if wanted <= DESIRED_COUNT_MAX => Ok(count),
        _ => Err(invalid(format!(
            "Invalid desiredCount {wanted}: it must be between 0 and {DESIRED_COUNT_MAX}."
        ))),
    }
}

/// Holds for containers' checks as well as for load balancers'; without either it is of no use, and no mistake.
fn grace_period(wanted: Option<i32>) -> Result<Option<i32>, ApiError> {
    match wanted.unwrap_or(0) {
        seconds if seconds < 0 => Err(invalid(format!(
            "Invalid healthCheckGracePeriodSeconds {seconds}: it must be between 0 and 2147483647."
        ))),
        seconds => Ok(Some(seconds)),
    }
}

fn client_token(token: Option<String>) -> Result<Option<String>, ApiError> {
    let Some(token) = token.filter(|token| !token.is_empty()) else { return Ok(None) };
    if token.len() > CLIENT_TOKEN_CHARACTERS_MAX || !token.bytes().all(|byte| (33..=126).contains(&byte)) {
        return Err(invalid(format!(
            "The clientToken may have up to {CLIENT_TOKEN_CHARACTERS_MAX} ASCII characters in the range of 33-126."
        )));
    }
    Ok(Some(token))
}

/// Changes an active service and puts it; `change` may add to the transaction. Gives the service as it is then.
async fn change(
    call: &Call<'_>,
    key: &ServiceKey,
    mut change: impl FnMut(&mut ServiceRecord, Txn) -> Result<Txn, ApiError> + Send,
) -> Result<ServiceRecord, ApiError> {
    call.transact(|| {
        let found = active(call, key)?;
        let mut service = found.record.clone();
        let txn = change(&mut service, Txn::new().when_revision(&*found.key, found.mod_revision))?;
        if service == found.record && txn.then.is_empty() {
            return Ok((Txn::new(), service));
        }
        Ok((txn.put_json(&*found.key, &service), service))
    })
    .await
}
