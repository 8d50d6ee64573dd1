//! DeleteService: its tasks are stopped, then it is INACTIVE.

use ferrogate_api::{ApiError, ecs};
use ferrogate_store::Txn;

use super::{find, key, not_found, shape};
use crate::call::Call;
use crate::errors::invalid;
use crate::plan::service::DeploymentStatus;
use crate::state::service::{ServiceRecord, ServiceStatus};

pub(crate) async fn delete(
    call: &Call<'_>,
    input: ecs::DeleteServiceRequest,
) -> Result<ecs::DeleteServiceResponse, ApiError> {
    let key = key(call, input.cluster.as_deref(), input.service.as_deref())?;
    let force = input.force == Some(true);
    let deleted = call
        .transact(|| {
            let found = find(call, &key)
                .filter(|found| found.record.status != ServiceStatus::Inactive)
                .ok_or_else(not_found)?;
            let mut service = found.record.clone();
            if service.status == ServiceStatus::Draining {
                return Ok((Txn::new(), service));
            }
            if !force && is_scaled(&service) {
                return Err(invalid("The service cannot be stopped while it is scaled above 0."));
            }
            service.status = ServiceStatus::Draining;
            service.desired_count = 0;
            let txn =
                Txn::new().when_revision(&*found.key, found.mod_revision).put_json(&*found.key, &service);
            Ok((txn, service))
        })
        .await?;
    Ok(ecs::DeleteServiceResponse { service: Some(shape::service(&*call.service.store, &deleted, true)) })
}

fn is_scaled(service: &ServiceRecord) -> bool {
    let has_task_sets = service
        .deployments
        .iter()
        .any(|one| one.task_set.is_some() && one.status != DeploymentStatus::Inactive);
    service.desired_count > 0 || has_task_sets
}
