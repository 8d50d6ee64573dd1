//! A service as callers see it.

use ferrogate_api::ecs;
use ferrogate_store::{Store, get_json};

use super::task_set_shape;
use crate::operations::launch::PLATFORM_VERSION;
use crate::operations::tags;
use crate::plan::service::DeploymentStatus;
use crate::state::connect::Endpoint;
use crate::state::service::{
    DeploymentController, DeploymentRecord, ServiceEventRecord, ServiceKey, ServiceRecord,
    ServiceRevisionRecord, Spec,
};

const PLATFORM_FAMILY: &str = "Linux";

/// AWS numbers are signed; no count here comes near to where they end.
pub(super) fn count(number: u32) -> Option<i32> {
    Some(i32::try_from(number).unwrap_or(i32::MAX))
}

pub(super) fn definition_arn(key: &ServiceKey, spec: &Spec) -> Option<String> {
    (!spec.family.is_empty()).then(|| key.scope.definition_arn(&spec.family, spec.revision))
}

/// `LATEST` is one.
pub(super) fn resolved_version(spec: &Spec) -> Option<String> {
    let latest = spec.platform_version.is_empty() || spec.platform_version == "LATEST";
    Some(if latest { PLATFORM_VERSION.into() } else { spec.platform_version.clone() })
}

pub(super) fn revision(store: &dyn Store, key: &ServiceKey, id: &str) -> Option<ServiceRevisionRecord> {
    get_json(store, &key.revision(id)).map(|found| found.record)
}

fn strategy(spec: &Spec) -> Option<Vec<ecs::CapacityProviderStrategyItem>> {
    (!spec.capacity_provider_strategy.is_empty()).then(|| spec.capacity_provider_strategy.clone())
}

pub(super) fn service(store: &dyn Store, service: &ServiceRecord, with_tags: bool) -> ecs::Service {
    let key = service.key();
    let spec = &service.spec;
    let external = service.controller == DeploymentController::External;
    let shown = service.shown();
    let sum = |of: fn(&DeploymentRecord) -> u32| count(service.deployments.iter().map(of).sum());
    let current = service.primary().filter(|one| !one.service_deployment.is_final());
    let current = current.and_then(|one| one.service_deployment_id.as_deref());
    ecs::Service {
        service_arn: Some(key.arn()),
        service_name: Some(service.name.clone()),
        cluster_arn: Some(key.scope.cluster_arn(&key.cluster)),
        load_balancers: Some(spec.load_balancers.clone()),
        service_registries: Some(spec.registries.clone()),
        status: Some(service.status.name().into()),
        desired_count: count(service.desired_count),
        running_count: sum(|one| one.running_count),
        pending_count: sum(|one| one.pending_count),
        launch_type: spec.launch_type.clone(),
        capacity_provider_strategy: strategy(spec),
        platform_version: Some(spec.platform_version.clone()).filter(|_| !external),
        platform_family: Some(PLATFORM_FAMILY.into()).filter(|_| !external),
        task_definition: definition_arn(&key, spec),
        deployment_configuration: Some(service.configuration.clone()),
        task_sets: external.then(|| {
            shown.iter().map(|one| task_set_shape::task_set(store, service, one, with_tags)).collect()
        }),
        deployments: Some(if external {
            Vec::new()
        } else {
            shown.iter().map(|one| deployment(store, &key, one)).collect()
        }),
        role_arn: Some(format!(
            "arn:aws:iam::{}:role/aws-service-role/ecs.amazonaws.com/AWSServiceRoleForECS",
            key.scope.account
        )),
        events: Some(events(store, &key)),
        created_at: Some(service.created_at),
        current_service_deployment: current.map(|id| key.deployment_arn(id)),
        current_service_revisions: (!external).then(|| {
            let with_tasks = shown.iter().filter(|one| {
                one.status == DeploymentStatus::Primary || one.running_count + one.pending_count > 0
            });
            with_tasks.map(|one| current_revision(&key, one)).collect()
        }),
        placement_constraints: Some(Vec::new()),
        placement_strategy: Some(Vec::new()),
        network_configuration: spec.network_configuration.clone(),
        health_check_grace_period_seconds: Some(service.grace_period_seconds.unwrap_or(0)),
        scheduling_strategy: Some("REPLICA".into()),
        deployment_controller: Some(ecs::DeploymentController {
            r#type: Some(service.controller.name().into()),
        }),
        tags: with_tags.then(|| tags::shape(&service.tags)),
        created_by: Some(service.created_by.clone()),
        enable_ecs_managed_tags: Some(service.managed_tags),
        propagate_tags: Some(service.propagate_tags.clone()),
        enable_execute_command: Some(service.exec_enabled),
        availability_zone_rebalancing: Some(if service.rebalancing { "ENABLED" } else { "DISABLED" }.into()),
        resource_management_type: Some("CUSTOMER".into()),
    }
}

fn current_revision(key: &ServiceKey, one: &DeploymentRecord) -> ecs::ServiceCurrentRevisionSummary {
    ecs::ServiceCurrentRevisionSummary {
        arn: Some(key.revision_arn(&one.revision)),
        requested_task_count: count(one.desired_count),
        running_task_count: count(one.running_count),
        pending_task_count: count(one.pending_count),
    }
}

fn events(store: &dyn Store, key: &ServiceKey) -> Vec<ecs::ServiceEvent> {
    let shape = |event: ServiceEventRecord| ecs::ServiceEvent {
        id: Some(event.id),
        created_at: Some(event.at),
        message: Some(event.message),
    };
    ServiceEventRecord::all(store, key).into_iter().map(shape).collect()
}

fn deployment(store: &dyn Store, key: &ServiceKey, one: &DeploymentRecord) -> ecs::Deployment {
    let spec = revision(store, key, &one.revision).map(|found| found.spec).unwrap_or_default();
    ecs::Deployment {
        id: Some(one.id.clone()),
        status: Some(one.status.name().into()),
        task_definition: definition_arn(key, &spec),
        desired_count: count(one.desired_count),
        pending_count: count(one.pending_count),
        running_count: count(one.running_count),
        failed_tasks: count(one.failed_tasks),
        created_at: Some(one.created_at),
        updated_at: Some(one.updated_at),
        capacity_provider_strategy: strategy(&spec),
        launch_type: spec.launch_type.clone(),
        platform_version: resolved_version(&spec),
        platform_family: Some(PLATFORM_FAMILY.into()),
        service_connect_resources: resources(key, &spec),
        service_connect_configuration: spec.connect.map(|connect| connect.configuration),
        network_configuration: spec.network_configuration,
        rollout_state: Some(one.rollout_state.name().into()),
        rollout_state_reason: Some(one.rollout_reason.clone()),
        ..Default::default()
    }
}

fn resources(key: &ServiceKey, spec: &Spec) -> Option<Vec<ecs::ServiceConnectServiceResource>> {
    let resource = |one: &Endpoint| ecs::ServiceConnectServiceResource {
        discovery_name: Some(one.discovery_name.clone()),
        discovery_arn: Some(key.scope.cloud_map_arn(format!("service/{}", one.service_id))),
    };
    let endpoints = spec.endpoints();
    (!endpoints.is_empty()).then(|| endpoints.iter().map(resource).collect())
}

pub(super) fn service_revision(
    store: &dyn Store,
    key: &ServiceKey,
    found: &ServiceRevisionRecord,
) -> ecs::ServiceRevision {
    let spec = &found.spec;
    let definition =
        crate::state::get_definition(store, &key.scope, &spec.family, spec.revision).unwrap_or_default();
    let image = |container: &ecs::ContainerDefinition| ecs::ContainerImage {
        container_name: container.name.clone(),
        image: container.image.clone(),
        image_digest: found.images.as_ref().and_then(|images| images.get(container.name.as_ref()?).cloned()),
    };
    let resolved = |balancer: &ecs::LoadBalancer| {
        let advanced = balancer.advanced_configuration.as_ref()?;
        Some(ecs::ServiceRevisionLoadBalancer {
            target_group_arn: balancer.target_group_arn.clone(),
            production_listener_rule: advanced.production_listener_rule.clone(),
        })
    };
    let balancers: Vec<ecs::ServiceRevisionLoadBalancer> =
        spec.load_balancers.iter().filter_map(resolved).collect();
    ecs::ServiceRevision {
        service_revision_arn: Some(key.revision_arn(&found.id)),
        service_arn: Some(key.arn()),
        cluster_arn: Some(key.scope.cluster_arn(&key.cluster)),
        task_definition: definition_arn(key, spec),
        capacity_provider_strategy: strategy(spec),
        launch_type: spec.launch_type.clone(),
        platform_version: resolved_version(spec),
        platform_family: Some(PLATFORM_FAMILY.into()),
        load_balancers: Some(spec.load_balancers.clone()),
        service_registries: Some(spec.registries.clone()),
        network_configuration: spec.network_configuration.clone(),
        container_images: Some(definition.container_definitions.iter().flatten().map(image).collect()),
        guard_duty_enabled: Some(false),
        service_connect_configuration: spec.connect.as_ref().map(|connect| connect.configuration.clone()),
        created_at: Some(found.created_at),
        resolved_configuration: (!balancers.is_empty())
            .then(|| ecs::ResolvedConfiguration { load_balancers: Some(balancers), ..Default::default() }),
        ..Default::default()
    }
}
