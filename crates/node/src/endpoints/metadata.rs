//! Task and container metadata from the task's record, in the agent's JSON. Pure.
//!
//! A member that has nothing to say is left out, as the agent does. Times are UTC with nanoseconds.
//! Source: ECS developer guide, "Task metadata endpoint version 4 JSON response for tasks on Fargate".

use std::collections::BTreeMap;

use ferrogate_nodeapi::{
    ContainerAssignment, ContainerStatus, DesiredStatus, Health, ObservedStatus, TaskNetwork,
};
use jiff::Timestamp;
use serde::Serialize;
use serde_json::Number;

use super::route::Version;
use crate::record::{ContainerRecord, Record};

/// What a container without CPU units of its own has: the kernel's least.
const CPU_UNITS_MIN: u32 = 2;
const LABELS: &str = "com.amazonaws.ecs";

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Task {
    cluster: String,
    #[serde(rename = "TaskARN")]
    task_arn: String,
    family: String,
    revision: String,
    desired_status: DesiredStatus,
    known_status: ObservedStatus,
    limits: Limits,
    #[serde(skip_serializing_if = "Option::is_none")]
    pull_started_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pull_stopped_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    execution_stopped_at: Option<Timestamp>,
    availability_zone: String,
    containers: Vec<Container>,
    #[serde(flatten)]
    more: Option<TaskV4>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct TaskV4 {
    #[serde(rename = "AvailabilityZoneID", skip_serializing_if = "String::is_empty")]
    availability_zone_id: String,
    launch_type: &'static str,
    #[serde(skip_serializing_if = "String::is_empty")]
    group: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    service_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    clock_drift: Option<ClockDrift>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ephemeral_storage_metrics: Option<Disk>,
    fault_injection_enabled: bool,
}

/// In MiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Disk {
    pub(super) utilized: u64,
    pub(super) reserved: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ClockDrift {
    /// Milliseconds.
    clock_error_bound: f64,
    reference_timestamp: Timestamp,
    clock_synchronization_status: &'static str,
}

#[derive(Serialize)]
struct Limits {
    /// Of a task in vCPUs, of a container in units.
    #[serde(rename = "CPU")]
    cpu: Number,
    /// MiB.
    #[serde(rename = "Memory", skip_serializing_if = "Option::is_none")]
    memory: Option<u32>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Container {
    docker_id: String,
    name: String,
    docker_name: String,
    image: String,
    #[serde(rename = "ImageID")]
    image_id: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ports: Vec<Port>,
    labels: BTreeMap<String, String>,
    desired_status: DesiredStatus,
    known_status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    exit_code: Option<i32>,
    limits: Limits,
    #[serde(skip_serializing_if = "Option::is_none")]
    created_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    started_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    finished_at: Option<Timestamp>,
    r#type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    health: Option<HealthStatus>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    volumes: Vec<Volume>,
    networks: Vec<Network>,
    #[serde(flatten)]
    more: Option<ContainerV4>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ContainerV4 {
    #[serde(rename = "ContainerARN")]
    container_arn: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    log_options: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    log_driver: Option<String>,
    snapshotter: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    restart_count: Option<u32>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Port {
    container_port: u16,
    protocol: String,
    host_port: u16,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct HealthStatus {
    status: Health,
    #[serde(skip_serializing_if = "Option::is_none")]
    status_since: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exit_code: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    output: Option<String>,
}

/// Where it is on the node is none of the container's business: there is no `Source`.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Volume {
    docker_name: String,
    destination: String,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Network {
    network_mode: &'static str,
    #[serde(rename = "IPv4Addresses")]
    ipv4_addresses: [String; 1],
    #[serde(flatten)]
    more: Option<NetworkV4>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct NetworkV4 {
    attachment_index: u32,
    #[serde(rename = "MACAddress")]
    mac_address: String,
    #[serde(rename = "IPv4SubnetCIDRBlock")]
    ipv4_subnet_cidr_block: String,
    domain_name_servers: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    domain_name_search_list: Vec<String>,
    #[serde(rename = "PrivateDNSName")]
    private_dns_name: String,
    subnet_gateway_ipv4_address: String,
}

/// The task. `disk` is left out where it is not known.
pub(super) fn task(version: Version, record: &Record, desired: DesiredStatus, disk: Option<Disk>) -> Task {
    let of = &record.assignment;
    let more = TaskV4 {
        availability_zone_id: of.availability_zone_id.clone(),
        launch_type: "FARGATE",
        group: of.group.clone(),
        service_name: of.service_name.clone(),
        clock_drift: clock_drift(),
        ephemeral_storage_metrics: disk,
        fault_injection_enabled: false,
    };
    Task {
        cluster: of.cluster_arn.clone(),
        task_arn: of.task_arn.clone(),
        family: of.family.clone(),
        revision: of.revision.to_string(),
        desired_status: desired,
        known_status: record.status,
        limits: Limits { cpu: vcpus(of.cpu_units), memory: Some(of.memory_mib) },
        pull_started_at: record.pull_started_at,
        pull_stopped_at: record.pull_stopped_at,
        execution_stopped_at: record.execution_stopped_at,
        availability_zone: of.availability_zone.clone(),
        containers: of.containers.iter().map(|one| container(version, record, one, desired)).collect(),
        more: (version == Version::V4).then_some(more),
    }
}

pub(super) fn container(
    version: Version,
    record: &Record,
    of: &ContainerAssignment,
    desired: DesiredStatus,
) -> Container {
    let seen = record.containers.get(&of.name).cloned().unwrap_or_default();
    let more = ContainerV4 {
        container_arn: of.container_arn.clone(),
        log_options: of.log_driver.as_ref().map(|driver| driver.options.clone()).unwrap_or_default(),
        log_driver: of.log_driver.as_ref().map(|driver| driver.name.clone()),
        snapshotter: "overlayfs",
        restart_count: of.restart_policy.as_ref().map(|_| seen.restart_count),
    };
    let ports = of.ports.iter().map(|port| Port {
        container_port: port.container_port,
        protocol: port.protocol.clone(),
        // awsvpc: the interface is the task's own, nothing is translated.
        host_port: port.container_port,
    });
    let volumes = of
        .mount_points
        .iter()
        .map(|mount| Volume { docker_name: mount.volume.clone(), destination: mount.container_path.clone() });
    Container {
        docker_id: of.runtime_id.clone(),
        name: of.name.clone(),
        docker_name: of.name.clone(),
        image: of.image.clone(),
        image_id: seen.image_digest.clone().unwrap_or_default(),
        ports: ports.collect(),
        labels: labels(record, of),
        desired_status: desired,
        known_status: known_status(&seen),
        exit_code: seen.exit_code,
        limits: Limits { cpu: of.cpu_units.max(CPU_UNITS_MIN).into(), memory: of.memory_mib },
        created_at: seen.created_at.or(seen.started_at),
        started_at: seen.started_at,
        finished_at: seen.finished_at,
        r#type: "NORMAL",
        health: of.health_check.as_ref().map(|_| health(&seen)),
        volumes: volumes.collect(),
        networks: vec![network(version, &record.assignment.network)],
        more: (version == Version::V4).then_some(more),
    }
}

fn health(seen: &ContainerRecord) -> HealthStatus {
    HealthStatus {
        status: seen.health,
        status_since: seen.health_since,
        // As the agent: a zero is left out.
        exit_code: seen.health_exit_code.filter(|code| *code != 0),
        output: seen.health_output.clone().filter(|output| !output.is_empty()),
    }
}

/// 256 units are `0.25`, 1024 are `1`.
fn vcpus(cpu_units: u32) -> Number {
    match cpu_units % 1024 {
        0 => (cpu_units / 1024).into(),
        _ => Number::from_f64(f64::from(cpu_units) / 1024.0).unwrap_or_else(|| 0.into()),
    }
}

/// The agent's names for what a container goes through before it runs.
fn known_status(seen: &ContainerRecord) -> &'static str {
    match seen.status {
        ContainerStatus::Running => "RUNNING",
        ContainerStatus::Stopped => "STOPPED",
        ContainerStatus::Pending if seen.created_at.is_some() => "CREATED",
        ContainerStatus::Pending if seen.image_digest.is_some() => "PULLED",
        ContainerStatus::Pending => "NONE",
    }
}

/// The definition's own, and those of ECS over them.
fn labels(record: &Record, of: &ContainerAssignment) -> BTreeMap<String, String> {
    let task = &record.assignment;
    let mut labels = of.labels.clone();
    labels.extend([
        (format!("{LABELS}.cluster"), task.cluster_arn.clone()),
        (format!("{LABELS}.container-name"), of.name.clone()),
        (format!("{LABELS}.task-arn"), task.task_arn.clone()),
        (format!("{LABELS}.task-definition-family"), task.family.clone()),
        (format!("{LABELS}.task-definition-version"), task.revision.to_string()),
    ]);
    labels
}

fn network(version: Version, of: &TaskNetwork) -> Network {
    let more = NetworkV4 {
        attachment_index: 0,
        mac_address: of.mac.clone(),
        ipv4_subnet_cidr_block: of.subnet_cidr.to_string(),
        domain_name_servers: of.dns_servers.iter().map(ToString::to_string).collect(),
        domain_name_search_list: of.dns_search.clone(),
        private_dns_name: of.hostname.clone(),
        subnet_gateway_ipv4_address: format!("{}/{}", of.gateway, of.subnet_cidr.prefix_len()),
    };
    Network {
        network_mode: "awsvpc",
        ipv4_addresses: [of.private_ip.to_string()],
        more: (version == Version::V4).then_some(more),
    }
}

/// What the node's kernel says of its clock.
fn clock_drift() -> Option<ClockDrift> {
    let clock = ferrogate_sandbox::host_clock()?;
    let now = Timestamp::now();
    Some(ClockDrift {
        clock_error_bound: clock.error_bound_us as f64 / 1000.0,
        reference_timestamp: Timestamp::from_second(now.as_second()).unwrap_or(now),
        clock_synchronization_status: if clock.synchronized { "SYNCHRONIZED" } else { "NOT_SYNCHRONIZED" },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_vcpus_are_whole_numbers() {
        let text = [256, 512, 1024, 2048, 16_384].map(|units| vcpus(units).to_string());
        assert_eq!(text, ["0.25", "0.5", "1", "2", "16"]);
    }
}
