//! What RunTask may change of a definition.

use ferrogate_api::{ApiError, ecs};

use crate::definition::{self, container, graph, role, secrets, size, storage};
use crate::errors::{invalid, refuse};
use crate::state::{ContainerRecord, EPHEMERAL_STORAGE_GIB, Scope, uuid};

/// As JSON; ECS API reference, TaskOverride.
const CHARACTERS_MAX: usize = 8192;

/// What counts for the task once the overrides are applied.
#[derive(Clone, Debug)]
pub(crate) struct Effective {
    pub cpu_units: u32,
    pub memory_mib: u32,
    pub ephemeral_storage_gib: u32,
    pub execution_role_arn: Option<String>,
    pub task_role_arn: Option<String>,
    pub containers: Vec<ecs::ContainerDefinition>,
    /// As the task shows them.
    pub overrides: ecs::TaskOverride,
}

pub(crate) fn apply(
    scope: &Scope,
    definition: &ecs::TaskDefinition,
    overrides: Option<ecs::TaskOverride>,
) -> Result<Effective, ApiError> {
    let overrides = overrides.unwrap_or_default();
    let has = |count: Option<usize>| count.is_some_and(|count| count > 0);
    refuse(&[(
        "overrides.inferenceAcceleratorOverrides",
        has(overrides.inference_accelerator_overrides.as_ref().map(Vec::len)),
    )])?;
    if serde_json::to_string(&overrides).map_or(0, |json| json.chars().count()) > CHARACTERS_MAX {
        return Err(invalid(format!("Container Overrides length must be at most {CHARACTERS_MAX}")));
    }
    let cpu = overrides.cpu.as_deref().or(definition.cpu.as_deref()).unwrap_or_default();
    let memory = overrides.memory.as_deref().or(definition.memory.as_deref()).unwrap_or_default();
    let cpu_units = size::cpu_units(cpu).map_err(as_invalid)?;
    let memory_mib = size::memory_mib(memory).map_err(as_invalid)?;
    size::check(cpu_units, memory_mib).map_err(as_invalid)?;
    let storage = overrides.ephemeral_storage.as_ref().or(definition.ephemeral_storage.as_ref());
    let ephemeral_storage_gib = storage::check_ephemeral(storage).map_err(as_invalid)?;
    let mut containers = definition.container_definitions.clone().unwrap_or_default();
    let mut shown: Vec<ecs::ContainerOverride> = containers
        .iter()
        .map(|container| ecs::ContainerOverride { name: container.name.clone(), ..Default::default() })
        .collect();
    for over in overrides.container_overrides.into_iter().flatten() {
        let name = over.name.clone().unwrap_or_default();
        let Some(at) = containers.iter().position(|container| container.name.as_deref() == Some(&name))
        else {
            return Err(invalid(format!(
                "Override for container named {name} is not a container in the TaskDefinition."
            )));
        };
        apply_to(&mut containers[at], &over)?;
        shown[at] = over;
    }
    definition::check_sums(Some(cpu_units.into()), Some(memory_mib.into()), &containers)
        .map_err(as_invalid)?;
    let execution_role_arn = role(scope, overrides.execution_role_arn.clone()).map_err(as_invalid)?;
    let task_role_arn = role(scope, overrides.task_role_arn.clone()).map_err(as_invalid)?;
    Ok(Effective {
        cpu_units,
        memory_mib,
        ephemeral_storage_gib: ephemeral_storage_gib.unwrap_or(EPHEMERAL_STORAGE_GIB),
        execution_role_arn: execution_role_arn.or_else(|| definition.execution_role_arn.clone()),
        task_role_arn: task_role_arn.or_else(|| definition.task_role_arn.clone()),
        containers,
        overrides: ecs::TaskOverride {
            container_overrides: Some(shown),
            inference_accelerator_overrides: Some(Vec::new()),
            cpu: overrides.cpu,
            memory: overrides.memory,
            execution_role_arn: overrides.execution_role_arn,
            task_role_arn: overrides.task_role_arn,
            ephemeral_storage: overrides.ephemeral_storage,
        },
    })
}

/// What a definition refuses by ClientException RunTask refuses as a parameter of its own.
fn as_invalid(error: ApiError) -> ApiError {
    if error.code == "ClientException" { invalid(error.message) } else { error }
}

fn apply_to(container: &mut ecs::ContainerDefinition, over: &ecs::ContainerOverride) -> Result<(), ApiError> {
    let name = over.name.as_deref().unwrap_or_default();
    let has = |count: Option<usize>| count.is_some_and(|count| count > 0);
    refuse(&[
        ("containerOverrides.environmentFiles", has(over.environment_files.as_ref().map(Vec::len))),
        ("containerOverrides.resourceRequirements", has(over.resource_requirements.as_ref().map(Vec::len))),
    ])?;
    for variable in over.environment.iter().flatten() {
        container::check_variable(name, variable).map_err(as_invalid)?;
        let variable = variable.name.as_deref().unwrap_or_default();
        if container.secrets.iter().flatten().any(|secret| secret.name.as_deref() == Some(variable)) {
            return Err(as_invalid(secrets::not_unique(variable)));
        }
    }
    container.cpu = over.cpu.or(container.cpu);
    container.memory = over.memory.or(container.memory);
    container.memory_reservation = over.memory_reservation.or(container.memory_reservation);
    container::check_numbers(name, container).map_err(as_invalid)
}

/// The containers of one task.
pub(crate) fn container_records(effective: &Effective, task_id: &str) -> Vec<ContainerRecord> {
    let count =
        |value: Option<i32>| value.and_then(|value| u32::try_from(value).ok()).filter(|value| *value > 0);
    let record = |container: &ecs::ContainerDefinition| ContainerRecord {
        name: container.name.clone().unwrap_or_default(),
        id: uuid(),
        image: container.image.clone().unwrap_or_default(),
        image_digest: None,
        runtime_id: format!("{task_id}-{}", ferrogate_model::digits(10)),
        essential: container.essential != Some(false),
        has_health_check: graph::has_health_check(container),
        cpu_units: count(container.cpu).unwrap_or(0),
        memory_mib: count(container.memory),
        memory_reservation_mib: count(container.memory_reservation),
    };
    effective.containers.iter().map(record).collect()
}
