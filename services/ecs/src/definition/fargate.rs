//! What a definition must and must not say to run on Fargate.

use ferrogate_api::{ApiError, ecs};

use super::attributes::is_ecr_image;
use super::{is_set, logs, number, size};
use crate::errors::client;

/// Fargate lets a container have this one more than the usual.
const CAPABILITY_TO_ADD: &str = "SYS_PTRACE";
const TIMEOUT_SECONDS: std::ops::RangeInclusive<i32> = 2..=120;
/// Beginnings of the kernel parameters that a task has for itself.
const OWN_CONTROLS: [&str; 5] = ["net.", "fs.mqueue.", "kernel.msg", "kernel.shm", "kernel.sem"];

pub(super) fn check(definition: &ecs::TaskDefinition) -> Result<(), ApiError> {
    if definition.network_mode.as_deref() != Some("awsvpc") {
        return Err(client("Fargate only supports network mode ‘awsvpc’."));
    }
    check_size(definition)?;
    if is_set(&definition.placement_constraints) {
        return Err(not_on_fargate("placementConstraints"));
    }
    let has_source_path =
        |volume: &ecs::Volume| volume.host.as_ref().is_some_and(|host| host.source_path.is_some());
    if definition.volumes.iter().flatten().any(has_source_path) {
        return Err(not_on_fargate("sourcePath"));
    }
    for container in definition.container_definitions.iter().flatten() {
        check_parameters(container)?;
        check_values(container)?;
        if definition.execution_role_arn.is_none() {
            check_needs_no_execution_role(container)?;
        }
    }
    Ok(())
}

pub(super) fn not_on_fargate(what: &str) -> ApiError {
    client(format!("Fargate compatible task definitions do not support {what}"))
}

fn check_size(definition: &ecs::TaskDefinition) -> Result<(), ApiError> {
    let required = |name: &str, value: Option<&str>| {
        let message = format!("Fargate requires that '{name}' be defined at the task level.");
        number(value).and_then(|value| u32::try_from(value).ok()).ok_or_else(|| client(message))
    };
    let cpu = required("cpu", definition.cpu.as_deref())?;
    let memory = required("memory", definition.memory.as_deref())?;
    size::check(cpu, memory)
}

fn check_parameters(container: &ecs::ContainerDefinition) -> Result<(), ApiError> {
    let linux = container.linux_parameters.clone().unwrap_or_default();
    let refused = [
        ("privileged", container.privileged == Some(true)),
        ("links", is_set(&container.links)),
        ("extraHosts", is_set(&container.extra_hosts)),
        ("dockerSecurityOptions", is_set(&container.docker_security_options)),
        ("disableNetworking", container.disable_networking == Some(true)),
        ("dnsServers", is_set(&container.dns_servers)),
        ("dnsSearchDomains", is_set(&container.dns_search_domains)),
        ("hostname", container.hostname.is_some()),
        ("devices", is_set(&linux.devices)),
        ("sharedMemorySize", linux.shared_memory_size.is_some()),
        ("maxSwap", linux.max_swap.is_some()),
        ("swappiness", linux.swappiness.is_some()),
    ];
    if let Some((what, _)) = refused.iter().find(|(_, present)| *present) {
        return Err(not_on_fargate(what));
    }
    let added = linux.capabilities.and_then(|capabilities| capabilities.add).unwrap_or_default();
    match added.iter().find(|capability| *capability != CAPABILITY_TO_ADD) {
        Some(capability) => {
            let only = format!("adding the capability {capability}. Only {CAPABILITY_TO_ADD} can be added.");
            Err(not_on_fargate(&only))
        }
        None => Ok(()),
    }
}

fn check_values(container: &ecs::ContainerDefinition) -> Result<(), ApiError> {
    let name = container.name.as_deref().unwrap_or_default();
    for (what, value) in [("stopTimeout", container.stop_timeout), ("startTimeout", container.start_timeout)]
    {
        if let Some(seconds) = value.filter(|seconds| !TIMEOUT_SECONDS.contains(seconds)) {
            return Err(client(format!(
                "Invalid '{what}' setting for container '{name}': {seconds}. On Fargate it is between 2 and 120 seconds."
            )));
        }
    }
    for control in container.system_controls.iter().flatten() {
        let namespace = control.namespace.as_deref().unwrap_or_default();
        if !OWN_CONTROLS.iter().any(|prefix| namespace.starts_with(prefix)) {
            return Err(client(format!(
                "Invalid system control '{namespace}' for container '{name}'. On Fargate those of the task's own network \
                 and IPC can be set: net.*, fs.mqueue.*, kernel.msg*, kernel.sem, kernel.shm*."
            )));
        }
    }
    container.log_configuration.as_ref().map_or(Ok(()), logs::check_driver)
}

fn check_needs_no_execution_role(container: &ecs::ContainerDefinition) -> Result<(), ApiError> {
    let driver = container.log_configuration.as_ref().and_then(|logs| logs.log_driver.as_deref());
    let needed = "Fargate requires task definition to have execution role ARN to support";
    if driver == Some("awslogs") {
        return Err(client(format!("{needed} log driver awslogs.")));
    }
    if container.image.as_deref().is_some_and(is_ecr_image) {
        return Err(client(format!("{needed} ECR images.")));
    }
    Ok(())
}
