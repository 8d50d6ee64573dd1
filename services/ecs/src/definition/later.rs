//! Parameters that a later version will serve, refused by name; and what Fargate refuses for itself, in its words.

use ferrogate_api::{ApiError, ecs};

use super::is_set;
use crate::errors::{client, refuse, unsupported};

pub(super) fn refuse_all(
    input: &ecs::RegisterTaskDefinitionRequest,
    for_fargate: bool,
) -> Result<(), ApiError> {
    if for_fargate {
        refuse_namespaces(input)?;
    } else {
        refuse(&[
            ("ipcMode", input.ipc_mode.is_some()),
            ("pidMode=host", input.pid_mode.as_deref().is_some_and(|mode| mode != "task")),
        ])?;
    }
    refuse(&[
        ("proxyConfiguration", input.proxy_configuration.is_some()),
        ("inferenceAccelerators", is_set(&input.inference_accelerators)),
        ("enableFaultInjection", input.enable_fault_injection == Some(true)),
        ("trustedExecutionConfiguration", input.trusted_execution_configuration.is_some()),
    ])?;
    for container in input.container_definitions.iter().flatten() {
        refuse(&[
            ("environmentFiles", is_set(&container.environment_files)),
            ("resourceRequirements", is_set(&container.resource_requirements)),
            ("firelensConfiguration", container.firelens_configuration.is_some()),
            ("credentialSpecs", is_set(&container.credential_specs)),
        ])?;
    }
    Ok(())
}

fn refuse_namespaces(input: &ecs::RegisterTaskDefinitionRequest) -> Result<(), ApiError> {
    if let Some(mode) = input.pid_mode.as_deref().filter(|mode| *mode != "task") {
        return Err(client(format!(
            "Tasks using the Fargate launch type do not support pidMode '{mode}'. The supported value for pidMode is 'task'."
        )));
    }
    if input.ipc_mode.is_some() {
        return Err(client("Tasks using the Fargate launch type do not support ipcMode."));
    }
    Ok(())
}

/// ECS API reference, RuntimePlatform.
pub(super) fn check_platform(platform: Option<&ecs::RuntimePlatform>) -> Result<(), ApiError> {
    let Some(platform) = platform else { return Ok(()) };
    match platform.operating_system_family.as_deref() {
        None | Some("LINUX") => {}
        Some(other) if other.starts_with("WINDOWS_SERVER_") => {
            return Err(unsupported(&format!("runtimePlatform.operatingSystemFamily '{other}'")));
        }
        Some(other) => {
            return Err(client(format!("Invalid operatingSystemFamily '{other}' in runtimePlatform.")));
        }
    }
    match platform.cpu_architecture.as_deref() {
        None | Some("X86_64" | "ARM64") => Ok(()),
        Some(other) => Err(client(format!(
            "Invalid cpuArchitecture '{other}' in runtimePlatform. Must be one of [X86_64,ARM64]"
        ))),
    }
}
