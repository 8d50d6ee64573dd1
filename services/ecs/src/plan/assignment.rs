//! A task as its node must run it, from its record and its definition. Pure.

use std::collections::BTreeMap;

use ferrogate_api::ecs;
use ferrogate_nodeapi::{
    Architecture, Connect, ConnectLogs, ContainerAssignment, Dependency, DependencyCondition, HealthCheck,
    LogConfiguration, LogDriver, MountPoint, PortMapping, RestartPolicy, TaskAssignment, TaskNetwork, Tmpfs,
    Ulimit, VolumeAssignment, VolumesFrom,
};
use ipnet::Ipv4Net;

use crate::definition::{logs, pairs, storage};
use crate::plan::connect::proxy_name;
use crate::state::service::Spec;
use crate::state::{ContainerRecord, TaskRecord};

/// Fargate's own, where a container says nothing of open files.
const NOFILE: u64 = 65_535;
/// ECS API reference, ContainerRestartPolicy.
const RESTART_ATTEMPT_PERIOD_SECONDS: i32 = 300;
const STOP_TIMEOUT_SECONDS: i32 = 30;

/// `None` while the task has no interface.
pub(crate) fn assignment(
    task: &TaskRecord,
    definition: &ecs::TaskDefinition,
    connect: Option<Connect>,
) -> Option<TaskAssignment> {
    let containers = definition.container_definitions.as_deref().unwrap_or_default();
    let volumes = definition.volumes.iter().flatten().filter_map(|volume| volume.name.clone());
    Some(TaskAssignment {
        task_arn: task.arn(),
        task_id: task.task_id.clone(),
        account: task.account.clone(),
        region: task.region.clone(),
        availability_zone: task.network.availability_zone.clone(),
        availability_zone_id: task.network.availability_zone_id.clone(),
        cluster_arn: task.scope().cluster_arn(&task.cluster),
        family: task.family.clone(),
        revision: task.revision,
        group: task.group.clone(),
        service_name: task.service_name().map(str::to_owned),
        created_at: task.lifecycle.created_at(),
        exec_enabled: task.exec_enabled,
        desired: task.node_desired().into(),
        reported_sequence: task.lifecycle.reported_sequence(),
        cpu_units: task.cpu_units,
        memory_mib: task.memory_mib,
        ephemeral_storage_gib: task.ephemeral_storage_gib,
        architecture: if task.architecture == "arm64" { Architecture::Arm64 } else { Architecture::X86_64 },
        shared_pid_namespace: definition.pid_mode.as_deref() == Some("task"),
        network: network(task)?,
        containers: containers
            .iter()
            .filter_map(|container| container_assignment(task, container, containers))
            .collect(),
        volumes: volumes.map(|name| VolumeAssignment { name }).collect(),
        has_task_role: task.task_role_arn.is_some(),
        connect,
    })
}

fn network(task: &TaskRecord) -> Option<TaskNetwork> {
    let eni = task.eni.as_ref()?;
    let network = &task.network;
    let search = eni.private_dns_name.split_once('.').map(|(_, domain)| domain.to_owned());
    Some(TaskNetwork {
        eni_id: eni.eni_id.clone(),
        vpc_id: network.vpc_id.clone(),
        subnet_id: network.subnet_id.clone(),
        mac: eni.mac.clone(),
        private_ip: eni.private_ip,
        subnet_cidr: network.subnet_cidr,
        gateway: nth_address(network.subnet_cidr, 1),
        dns_servers: vec![nth_address(network.vpc_cidr, 2)],
        dns_search: search.into_iter().collect(),
        hostname: eni.private_dns_name.clone(),
    })
}

fn nth_address(block: Ipv4Net, n: u32) -> std::net::Ipv4Addr {
    std::net::Ipv4Addr::from_bits(block.network().to_bits().wrapping_add(n))
}

fn container_assignment(
    task: &TaskRecord,
    definition: &ecs::ContainerDefinition,
    all: &[ecs::ContainerDefinition],
) -> Option<ContainerAssignment> {
    let name = definition.name.as_deref()?;
    let record = task.containers.iter().find(|record| record.name == name)?;
    let mut overrides = task.overrides.container_overrides.iter().flatten();
    let over = overrides.find(|over| over.name.as_deref() == Some(name));
    let linux = definition.linux_parameters.clone().unwrap_or_default();
    let capabilities = linux.capabilities.unwrap_or_default();
    let command = over.and_then(|over| over.command.clone()).or_else(|| definition.command.clone());
    Some(ContainerAssignment {
        name: name.to_owned(),
        container_arn: task.container_arn(record),
        runtime_id: record.runtime_id.clone(),
        image: record.image.clone(),
        image_digest: record.image_digest.clone(),
        essential: record.essential,
        entry_point: present(definition.entry_point.clone()),
        command: present(command),
        environment: environment(task, definition, over),
        user: definition.user.clone(),
        working_directory: definition.working_directory.clone(),
        cpu_units: record.cpu_units,
        memory_mib: record.memory_mib,
        memory_reservation_mib: record.memory_reservation_mib,
        readonly_root_filesystem: definition.readonly_root_filesystem == Some(true),
        ulimits: ulimits(definition),
        capabilities_add: capabilities.add.unwrap_or_default(),
        capabilities_drop: capabilities.drop.unwrap_or_default(),
        init_process_enabled: linux.init_process_enabled == Some(true),
        pseudo_terminal: definition.pseudo_terminal == Some(true),
        interactive: definition.interactive == Some(true),
        tmpfs: linux.tmpfs.into_iter().flatten().filter_map(tmpfs).collect(),
        system_controls: definition
            .system_controls
            .iter()
            .flatten()
            .filter_map(|control| Some((control.namespace.clone()?, control.value.clone()?)))
            .collect(),
        mount_points: storage::mounts(name, all).iter().filter_map(mount_point).collect(),
        volumes_from: definition.volumes_from.iter().flatten().filter_map(volumes_from).collect(),
        ports: definition.port_mappings.iter().flatten().filter_map(port).collect(),
        secret_names: definition.secrets.iter().flatten().filter_map(|secret| secret.name.clone()).collect(),
        logs: log_configuration(task, record, definition),
        log_driver: definition.log_configuration.as_ref().and_then(log_driver),
        stop_timeout_seconds: seconds(definition.stop_timeout, STOP_TIMEOUT_SECONDS),
        start_timeout_seconds: definition.start_timeout.map(|timeout| seconds(Some(timeout), 0)),
        depends_on: dependencies(definition),
        health_check: definition.health_check.as_ref().and_then(health_check),
        restart_policy: definition.restart_policy.as_ref().and_then(restart_policy),
        labels: definition.docker_labels.clone().unwrap_or_default(),
    })
}

/// An empty list is the same as none: the image's own counts.
fn present(list: Option<Vec<String>>) -> Option<Vec<String>> {
    list.filter(|list| !list.is_empty())
}

/// What Fargate sets, then the definition's, then the override's: the later wins.
fn environment(
    task: &TaskRecord,
    definition: &ecs::ContainerDefinition,
    over: Option<&ecs::ContainerOverride>,
) -> BTreeMap<String, String> {
    let own = [
        ("AWS_DEFAULT_REGION", task.region.as_str()),
        ("AWS_EXECUTION_ENV", "AWS_ECS_FARGATE"),
        ("AWS_REGION", task.region.as_str()),
    ];
    let mut all: BTreeMap<String, String> =
        own.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    all.extend(pairs(definition.environment.as_deref()));
    all.extend(pairs(over.and_then(|over| over.environment.as_deref())));
    all
}

fn ulimits(definition: &ecs::ContainerDefinition) -> Vec<Ulimit> {
    // -1 is "no limit" for those that can have none.
    let limit = |value: i32| u64::try_from(value).unwrap_or(u64::MAX);
    let mut all: Vec<Ulimit> = definition
        .ulimits
        .iter()
        .flatten()
        .filter_map(|one| {
            Some(Ulimit {
                name: one.name.clone()?,
                soft: limit(one.soft_limit?),
                hard: limit(one.hard_limit?),
            })
        })
        .collect();
    if all.iter().all(|one| one.name != "nofile") {
        all.push(Ulimit { name: "nofile".into(), soft: NOFILE, hard: NOFILE });
    }
    all
}

fn port(from: &ecs::PortMapping) -> Option<PortMapping> {
    Some(PortMapping {
        container_port: u16::try_from(from.container_port?).ok()?,
        protocol: from.protocol.clone().unwrap_or_else(|| "tcp".into()),
        name: from.name.clone(),
    })
}

fn log_driver(from: &ecs::LogConfiguration) -> Option<LogDriver> {
    Some(LogDriver {
        name: from.log_driver.clone()?,
        options: from.options.clone().unwrap_or_default().into_iter().collect(),
    })
}

fn tmpfs(from: ecs::Tmpfs) -> Option<Tmpfs> {
    Some(Tmpfs {
        container_path: from.container_path?,
        size_mib: u32::try_from(from.size?).ok()?,
        mount_options: from.mount_options.unwrap_or_default(),
    })
}

fn mount_point(from: &ecs::MountPoint) -> Option<MountPoint> {
    Some(MountPoint {
        volume: from.source_volume.clone()?,
        container_path: from.container_path.clone()?,
        read_only: from.read_only == Some(true),
    })
}

fn volumes_from(from: &ecs::VolumeFrom) -> Option<VolumesFrom> {
    Some(VolumesFrom { container: from.source_container.clone()?, read_only: from.read_only == Some(true) })
}

/// `None`: not enabled.
fn restart_policy(from: &ecs::ContainerRestartPolicy) -> Option<RestartPolicy> {
    (from.enabled == Some(true)).then(|| RestartPolicy {
        ignored_exit_codes: from.ignored_exit_codes.clone().unwrap_or_default(),
        attempt_period_seconds: seconds(from.restart_attempt_period, RESTART_ATTEMPT_PERIOD_SECONDS),
    })
}

/// What it names, and the sources of its volumes: what their images have in a volume is there when they have started.
fn dependencies(definition: &ecs::ContainerDefinition) -> Vec<Dependency> {
    let mut all: Vec<Dependency> = definition.depends_on.iter().flatten().filter_map(dependency).collect();
    for source in storage::sources(definition) {
        if all.iter().all(|one| one.container != source) {
            all.push(Dependency { container: source.to_owned(), condition: DependencyCondition::Start });
        }
    }
    all
}

fn dependency(from: &ecs::ContainerDependency) -> Option<Dependency> {
    let condition = match from.condition.as_deref()? {
        "COMPLETE" => DependencyCondition::Complete,
        "SUCCESS" => DependencyCondition::Success,
        "HEALTHY" => DependencyCondition::Healthy,
        _ => DependencyCondition::Start,
    };
    Some(Dependency { container: from.container_name.clone()?, condition })
}

/// `None`: switched off by `["NONE"]`.
fn health_check(from: &ecs::HealthCheck) -> Option<HealthCheck> {
    let command = from.command.as_deref().unwrap_or_default();
    let argv = match command.split_first()? {
        (kind, rest) if kind == "CMD" => rest.to_vec(),
        (kind, rest) if kind == "CMD-SHELL" => vec!["/bin/sh".into(), "-c".into(), rest.join(" ")],
        _ => return None,
    };
    Some(HealthCheck {
        argv,
        interval_seconds: seconds(from.interval, 30),
        timeout_seconds: seconds(from.timeout, 5),
        retries: seconds(from.retries, 3),
        start_period_seconds: seconds(from.start_period, 0),
    })
}

fn seconds(value: Option<i32>, default: i32) -> u32 {
    u32::try_from(value.unwrap_or(default)).unwrap_or_default()
}

/// Where a container's output goes; `None`: nowhere but the node.
pub(crate) fn log_configuration(
    task: &TaskRecord,
    container: &ContainerRecord,
    definition: &ecs::ContainerDefinition,
) -> Option<LogConfiguration> {
    let configuration = definition.log_configuration.as_ref()?;
    awslogs(task, configuration, &container.name, &container.runtime_id)
}

/// Where what a task's Service Connect proxy says goes; `None`: nowhere but the node.
pub(crate) fn proxy_logs(task: &TaskRecord, spec: &Spec) -> Option<ConnectLogs> {
    let configuration = spec.connect.as_ref()?.configuration.log_configuration.as_ref()?;
    let container = proxy_name(&task.connect.as_ref()?.revision);
    let to = awslogs(task, configuration, &container, &container)?;
    Some(ConnectLogs { container, to })
}

fn awslogs(
    task: &TaskRecord,
    configuration: &ecs::LogConfiguration,
    container: &str,
    runtime_id: &str,
) -> Option<LogConfiguration> {
    let options = configuration.options.clone().unwrap_or_default();
    let option = |name: &str| options.get(name).cloned();
    let stream = match option("awslogs-stream-prefix") {
        Some(prefix) => format!("{prefix}/{container}/{}", task.task_id),
        None => runtime_id.to_owned(),
    };
    let mode = option("mode").unwrap_or_else(|| task.default_log_mode.clone());
    Some(LogConfiguration {
        group: option("awslogs-group")?,
        region: option("awslogs-region").unwrap_or_else(|| task.region.clone()),
        stream,
        create_group: option("awslogs-create-group").as_deref() == Some("true"),
        non_blocking: mode != "blocking",
        max_buffer_bytes: option("max-buffer-size")
            .and_then(|size| logs::bytes(&size))
            .unwrap_or(logs::MAX_BUFFER_BYTES),
        multiline_pattern: option("awslogs-multiline-pattern")
            .or_else(|| option("awslogs-datetime-format").map(|format| logs::datetime_pattern(&format))),
    })
}
