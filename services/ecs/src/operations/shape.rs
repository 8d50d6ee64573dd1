//! A task as callers see it.

use ferrogate_api::ecs;
use ferrogate_nodeapi::{ContainerStatus, Health, Isolation};

use super::tags;
use crate::definition::FARGATE;
use crate::lifecycle::ContainerProgress;
use crate::plan::connect::proxy_name;
use crate::state::{ContainerRecord, TaskRecord};

pub(crate) const ATTACHMENT_TYPE: &str = "ElasticNetworkInterface";
/// As ECS answers. Its API reference writes `Service Connect` and lists other details; outputs that people show have this
/// type and one detail, `ContainerName`: `ecs-service-connect-oRK9o`.
const CONNECT_ATTACHMENT_TYPE: &str = "ServiceConnect";

pub(crate) fn task(task: &TaskRecord, with_tags: bool) -> ecs::Task {
    let life = &task.lifecycle;
    ecs::Task {
        attachments: Some(std::iter::once(attachment(task)).chain(connect_attachment(task)).collect()),
        attributes: Some(attributes(task)),
        availability_zone: Some(task.network.availability_zone.clone()),
        capacity_provider_name: task.capacity_provider.clone(),
        cluster_arn: Some(task.scope().cluster_arn(&task.cluster)),
        connectivity: life.connectivity_at().map(|_| "CONNECTED".into()),
        connectivity_at: life.connectivity_at(),
        containers: Some(task.containers.iter().map(|one| container(task, one)).collect()),
        cpu: Some(task.cpu_units.to_string()),
        created_at: Some(life.created_at()),
        desired_status: Some(life.desired().name().into()),
        enable_execute_command: Some(task.exec_enabled),
        execution_stopped_at: life.execution_stopped_at(),
        group: Some(task.group.clone()),
        health_status: Some(health_status(task).into()),
        last_status: Some(life.status().name().into()),
        launch_type: Some(FARGATE.into()),
        memory: Some(task.memory_mib.to_string()),
        overrides: Some(task.overrides.clone()),
        platform_version: Some(task.platform_version.clone()),
        platform_family: Some("Linux".into()),
        pull_started_at: life.pull_started_at(),
        pull_stopped_at: life.pull_stopped_at(),
        started_at: life.started_at(),
        started_by: task.started_by.clone(),
        stop_code: life.stop_code().map(str::to_owned),
        stopped_at: life.stopped_at(),
        stopped_reason: life.stopped_reason().map(str::to_owned),
        stopping_at: life.stopping_at(),
        tags: Some(if with_tags { tags::shape(&task.tags) } else { Vec::new() }),
        task_arn: Some(task.arn()),
        task_definition_arn: Some(task.definition_arn()),
        version: i64::try_from(life.version()).ok(),
        ephemeral_storage: Some(ecs::EphemeralStorage {
            size_in_gib: i32::try_from(task.ephemeral_storage_gib).ok(),
        }),
        fargate_ephemeral_storage: Some(ecs::TaskEphemeralStorage {
            size_in_gib: i32::try_from(task.ephemeral_storage_gib).ok(),
            kms_key_id: None,
        }),
        ..Default::default()
    }
}

fn pair(name: &str, value: impl Into<String>) -> ecs::KeyValuePair {
    ecs::KeyValuePair { name: Some(name.into()), value: Some(value.into()) }
}

fn attachment(task: &TaskRecord) -> ecs::Attachment {
    let mut details = vec![pair("subnetId", &task.network.subnet_id)];
    if let Some(eni) = &task.eni {
        details.push(pair("networkInterfaceId", &eni.eni_id));
        details.push(pair("macAddress", &eni.mac));
        details.push(pair("privateDnsName", &eni.private_dns_name));
        details.push(pair("privateIPv4Address", eni.private_ip.to_string()));
    }
    ecs::Attachment {
        id: Some(task.attachment_id.clone()),
        r#type: Some(ATTACHMENT_TYPE.into()),
        status: Some(task.lifecycle.attachment_status().into()),
        details: Some(details),
    }
}

/// The proxy, by the name of its log stream: it is no container and not listed as one.
fn connect_attachment(task: &TaskRecord) -> Option<ecs::Attachment> {
    let connect = task.connect.as_ref()?;
    Some(ecs::Attachment {
        id: Some(connect.attachment_id.clone()),
        r#type: Some(CONNECT_ATTACHMENT_TYPE.into()),
        status: Some(task.lifecycle.attachment_status().into()),
        details: Some(vec![pair("ContainerName", proxy_name(&connect.revision))]),
    })
}

/// What the task really runs in is told as an attribute of its own: AWS has no word for it.
fn attributes(task: &TaskRecord) -> Vec<ecs::Attribute> {
    let attribute = |name: &str, value: &str| ecs::Attribute {
        name: Some(name.into()),
        value: Some(value.into()),
        ..Default::default()
    };
    let isolation = task.lifecycle.isolation().map(|isolation| match isolation {
        Isolation::Container => "container",
        Isolation::MicroVm => "microvm",
    });
    let mut all = vec![attribute("ecs.cpu-architecture", &task.architecture)];
    all.extend(isolation.map(|isolation| attribute("ferrogate.isolation", isolation)));
    all
}

fn container(task: &TaskRecord, container: &ContainerRecord) -> ecs::Container {
    let progress = task.lifecycle.container(&container.name);
    let interface = task.eni.as_ref().map(|eni| ecs::NetworkInterface {
        attachment_id: Some(task.attachment_id.clone()),
        private_ipv4_address: Some(eni.private_ip.to_string()),
        ipv6_address: None,
    });
    let status = progress.map_or(ContainerStatus::Pending, |progress| progress.status);
    ecs::Container {
        container_arn: Some(task.container_arn(container)),
        task_arn: Some(task.arn()),
        name: Some(container.name.clone()),
        image: Some(container.image.clone()),
        image_digest: progress.and_then(|progress| progress.image_digest.clone()),
        runtime_id: progress.filter(|progress| progress.started).map(|_| container.runtime_id.clone()),
        last_status: Some(status_name(status).into()),
        exit_code: progress.and_then(|progress| progress.exit_code),
        reason: progress.and_then(|progress| progress.reason.clone()),
        network_bindings: Some(Vec::new()),
        network_interfaces: Some(interface.into_iter().collect()),
        health_status: Some(health(container, task).into()),
        managed_agents: task.exec_enabled.then(|| vec![exec_agent(status, progress)]),
        cpu: Some(container.cpu_units.to_string()),
        memory: container.memory_mib.map(|mib| mib.to_string()),
        memory_reservation: container.memory_reservation_mib.map(|mib| mib.to_string()),
        ..Default::default()
    }
}

fn status_name(status: ContainerStatus) -> &'static str {
    match status {
        ContainerStatus::Running => "RUNNING",
        ContainerStatus::Stopped => "STOPPED",
        ContainerStatus::Pending => "PENDING",
    }
}

/// It lives no longer than its container.
fn exec_agent(container: ContainerStatus, progress: Option<&ContainerProgress>) -> ecs::ManagedAgent {
    let agent = progress.and_then(|progress| progress.exec_agent.as_ref());
    let status = match container {
        ContainerStatus::Stopped => ContainerStatus::Stopped,
        _ => agent.map_or(ContainerStatus::Pending, |agent| agent.status),
    };
    ecs::ManagedAgent {
        name: Some("ExecuteCommandAgent".into()),
        last_started_at: agent.and_then(|agent| agent.last_started_at),
        last_status: Some(status_name(status).into()),
        reason: agent.and_then(|agent| agent.reason.clone()),
    }
}

fn health(container: &ContainerRecord, task: &TaskRecord) -> &'static str {
    let progress = task.lifecycle.container(&container.name).filter(|_| container.has_health_check);
    match progress.map(|progress| progress.health) {
        Some(Health::Healthy) => "HEALTHY",
        Some(Health::Unhealthy) => "UNHEALTHY",
        Some(Health::Unknown) | None => "UNKNOWN",
    }
}

/// Of the essential containers; one without a health check is UNKNOWN. ECS API reference, HealthCheck.
fn health_status(task: &TaskRecord) -> &'static str {
    let essential = task.containers.iter().filter(|container| container.essential);
    let all: Vec<&str> = essential.map(|container| health(container, task)).collect();
    if all.contains(&"UNHEALTHY") {
        "UNHEALTHY"
    } else if all.is_empty() || all.contains(&"UNKNOWN") {
        "UNKNOWN"
    } else {
        "HEALTHY"
    }
}
