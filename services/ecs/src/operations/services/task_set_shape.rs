//! A task set as callers see it.

use ferrogate_api::ecs;
use ferrogate_store::Store;

use super::shape::{count, definition_arn, resolved_version, revision};
use crate::operations::tags;
use crate::state::service::{DeploymentRecord, ServiceRecord};

/// The end of its ARN is the end of its id.
pub(super) fn short_id(one: &DeploymentRecord) -> &str {
    one.id.strip_prefix("ecs-svc/").unwrap_or(&one.id)
}

pub(super) fn task_set(
    store: &dyn Store,
    service: &ServiceRecord,
    one: &DeploymentRecord,
    with_tags: bool,
) -> ecs::TaskSet {
    let key = service.key();
    let spec = revision(store, &key, &one.revision).map(|found| found.spec).unwrap_or_default();
    let set = one.task_set.as_ref();
    let percent = set.map_or(0.0, |set| f64::from(set.scale_permille) / 10.0);
    ecs::TaskSet {
        id: Some(one.id.clone()),
        task_set_arn: Some(key.task_set_arn(short_id(one))),
        service_arn: Some(key.arn()),
        cluster_arn: Some(key.scope.cluster_arn(&key.cluster)),
        // Of those that a deployment service has made.
        started_by: None,
        external_id: set.and_then(|set| set.external_id.clone()),
        status: Some(one.status.name().into()),
        task_definition: definition_arn(&key, &spec),
        computed_desired_count: count(one.desired_count),
        pending_count: count(one.pending_count),
        running_count: count(one.running_count),
        created_at: Some(one.created_at),
        updated_at: Some(one.updated_at),
        launch_type: spec.launch_type.clone(),
        capacity_provider_strategy: (!spec.capacity_provider_strategy.is_empty())
            .then(|| spec.capacity_provider_strategy.clone()),
        platform_version: resolved_version(&spec),
        platform_family: Some("Linux".into()),
        network_configuration: spec.network_configuration,
        load_balancers: Some(spec.load_balancers),
        service_registries: Some(spec.registries),
        scale: Some(ecs::Scale { value: Some(percent), unit: Some("PERCENT".into()) }),
        stability_status: Some(one.stability.name().into()),
        stability_status_at: one.stability_at.or(Some(one.created_at)),
        tags: with_tags.then(|| set.map(|set| tags::shape(&set.tags)).unwrap_or_default()),
        ..Default::default()
    }
}
