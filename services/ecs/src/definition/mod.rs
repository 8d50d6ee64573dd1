//! What a task definition may say, and how it is kept: checked, with defaults and units made plain.
//!
//! Definitions for EC2 are taken too, as on AWS, though nothing here can run them; what breaks Fargate's own limits is
//! refused where a definition asks for Fargate, else it is not compatible with it. What a later version will serve is
//! refused by name.

mod attributes;
pub(crate) mod container;
mod fargate;
pub(crate) mod graph;
mod later;
pub(crate) mod logs;
mod ports;
pub(crate) mod secrets;
pub(crate) mod size;
pub(crate) mod storage;

use std::collections::BTreeSet;

use ferrogate_api::{ApiError, ecs};
use ferrogate_model::Arn;

use crate::errors::client;
use crate::names::is_name;
use crate::state::Scope;

pub(crate) const FARGATE: &str = "FARGATE";
const CONTAINERS_MAX: usize = 10;
/// As JSON.
const BYTES_MAX: usize = 65_536;

/// The definition as it is kept, but for what its registration adds (ARN, revision, date).
pub(crate) fn checked(
    scope: &Scope,
    input: ecs::RegisterTaskDefinitionRequest,
) -> Result<ecs::TaskDefinition, ApiError> {
    let for_fargate = input.requires_compatibilities.iter().flatten().any(|one| one == FARGATE);
    check_compatibilities(input.requires_compatibilities.as_deref())?;
    later::refuse_all(&input, for_fargate)?;
    later::check_platform(input.runtime_platform.as_ref())?;
    storage::check_ephemeral(input.ephemeral_storage.as_ref())?;
    let family = input.family.unwrap_or_default();
    if !is_name(&family) {
        return Err(wrong_name("Family", "family", &family));
    }
    let containers = input.container_definitions.unwrap_or_default();
    if containers.is_empty() {
        return Err(client("Container list cannot be empty."));
    }
    if containers.len() > CONTAINERS_MAX {
        return Err(client("Too many containers."));
    }
    let mut definition = ecs::TaskDefinition {
        family: Some(family),
        task_role_arn: role(scope, input.task_role_arn)?,
        execution_role_arn: role(scope, input.execution_role_arn)?,
        network_mode: input.network_mode,
        volumes: Some(storage::volumes(input.volumes.unwrap_or_default(), for_fargate)?),
        placement_constraints: Some(input.placement_constraints.unwrap_or_default()),
        requires_compatibilities: input.requires_compatibilities.filter(|list| !list.is_empty()),
        cpu: input.cpu.as_deref().map(size::cpu_units).transpose()?.map(|units| units.to_string()),
        memory: input.memory.as_deref().map(size::memory_mib).transpose()?.map(|mib| mib.to_string()),
        runtime_platform: input.runtime_platform,
        pid_mode: input.pid_mode,
        ephemeral_storage: input.ephemeral_storage,
        container_definitions: Some(containers),
        ..Default::default()
    };
    check_containers(&mut definition)?;
    let fits_fargate = fargate::check(&definition);
    let mut compatibilities = vec!["EC2".to_owned()];
    if fits_fargate.is_ok() {
        compatibilities.push(FARGATE.into());
    } else if requires(&definition, FARGATE) {
        fits_fargate?;
    }
    definition.compatibilities = Some(compatibilities);
    definition.requires_attributes = Some(attributes::required(&definition));
    let length = serde_json::to_vec(&definition).map_or(0, |json| json.len());
    if length > BYTES_MAX {
        return Err(client(format!("Actual length: '{length}'. Max allowed length is '{BYTES_MAX}' bytes.")));
    }
    Ok(definition)
}

fn requires(definition: &ecs::TaskDefinition, compatibility: &str) -> bool {
    definition.requires_compatibilities.iter().flatten().any(|one| one == compatibility)
}

/// Whether a checked definition can run on Fargate, which it may without asking for it.
pub(crate) fn fits_fargate(definition: &ecs::TaskDefinition) -> bool {
    definition.compatibilities.iter().flatten().any(|one| one == FARGATE)
}

/// Its image is resolved once, for all tasks of a revision of a service.
pub(crate) fn is_consistent(container: &ecs::ContainerDefinition) -> bool {
    container.version_consistency.as_deref() != Some("disabled")
}

/// As a task shows it.
pub(crate) fn architecture(definition: &ecs::TaskDefinition) -> &'static str {
    let platform = definition.runtime_platform.as_ref();
    let arm = platform.is_some_and(|platform| platform.cpu_architecture.as_deref() == Some("ARM64"));
    if arm { "arm64" } else { "x86_64" }
}

/// The named values of a list, those without a name left out.
pub(crate) fn pairs(list: Option<&[ecs::KeyValuePair]>) -> impl Iterator<Item = (String, String)> {
    list.unwrap_or_default()
        .iter()
        .filter_map(|pair| Some((pair.name.clone()?, pair.value.clone().unwrap_or_default())))
}

/// ECS API reference, Compatibility.
fn check_compatibilities(required: Option<&[String]>) -> Result<(), ApiError> {
    const ALL: [&str; 4] = ["EC2", FARGATE, "EXTERNAL", "MANAGED_INSTANCES"];
    match required.unwrap_or_default().iter().find(|one| !ALL.contains(&one.as_str())) {
        None => Ok(()),
        Some(other) => Err(client(format!(
            "Invalid requiresCompatibilities '{other}'. Must be one of [{}]",
            ALL.join(",")
        ))),
    }
}

fn is_set<T>(list: &Option<Vec<T>>) -> bool {
    list.as_ref().is_some_and(|list| !list.is_empty())
}

/// `member`: as AWS names what holds characters that it may not.
fn wrong_name(member: &str, what: &str, name: &str) -> ApiError {
    let of_name = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if name.chars().all(of_name) {
        bad_name(what, name)
    } else {
        client(format!("{member} contains invalid characters."))
    }
}

fn bad_name(what: &str, name: &str) -> ApiError {
    client(format!(
        "Invalid {what} name '{name}'. Up to 255 letters (uppercase and lowercase), numbers, underscores, and hyphens \
         are allowed."
    ))
}

/// A role's ARN, of its ARN or its name.
pub(crate) fn role(scope: &Scope, role: Option<String>) -> Result<Option<String>, ApiError> {
    let Some(role) = role.filter(|role| !role.is_empty()) else { return Ok(None) };
    let invalid = || client("Role is not valid");
    if !role.starts_with("arn:") {
        let of_name = |b: u8| b.is_ascii_alphanumeric() || b"+=,.@_-".contains(&b);
        let is_role_name = role.len() <= 64 && role.bytes().all(of_name);
        let arn = format!("arn:aws:iam::{}:role/{role}", scope.account);
        return if is_role_name { Ok(Some(arn)) } else { Err(invalid()) };
    }
    let arn: Arn = role.parse().map_err(|_| invalid())?;
    let name = arn.resource.strip_prefix("role/").unwrap_or_default();
    if arn.service != "iam" || arn.account.len() != 12 || name.is_empty() {
        return Err(invalid());
    }
    if arn.account != scope.account {
        return Err(ApiError::new("AccessDeniedException", "Cross-account pass role is not allowed."));
    }
    Ok(Some(role))
}

fn check_containers(definition: &mut ecs::TaskDefinition) -> Result<(), ApiError> {
    let volumes: BTreeSet<String> =
        definition.volumes.iter().flatten().filter_map(|volume| volume.name.clone()).collect();
    let awsvpc = definition.network_mode.as_deref() == Some("awsvpc");
    let mut containers = definition.container_definitions.take().unwrap_or_default();
    let mut names = BTreeSet::new();
    for container in &mut containers {
        container::check(container, &volumes, awsvpc)?;
        secrets::check(container, definition.execution_role_arn.is_some())?;
        let name = container.name.clone().unwrap_or_default();
        if names.contains(&name) {
            return Err(client(format!("Container names should be unique: '{name}' is there twice.")));
        }
        names.insert(name);
    }
    if !containers.iter().any(|container| container.essential == Some(true)) {
        return Err(client("A task definition must have at least one essential container."));
    }
    let (cpu, memory) = (number(definition.cpu.as_deref()), number(definition.memory.as_deref()));
    check_sums(cpu, memory, &containers)?;
    let lacks = |one: &&ecs::ContainerDefinition| one.memory.is_none() && one.memory_reservation.is_none();
    if memory.is_none()
        && !requires(definition, FARGATE)
        && let Some(container) = containers.iter().find(lacks)
    {
        let name = container.name.as_deref().unwrap_or_default();
        return Err(client(format!(
            "Invalid setting for container '{name}'. At least one of 'memory' or 'memoryReservation' must be specified."
        )));
    }
    ports::check_all(&containers, awsvpc)?;
    storage::check_volumes_from(&containers)?;
    graph::check(&containers)?;
    definition.container_definitions = Some(containers);
    Ok(())
}

/// What the containers want together is no more than the task has: CPU units and MiB. Also with overrides.
pub(crate) fn check_sums(
    task_cpu: Option<i64>,
    task_memory: Option<i64>,
    containers: &[ecs::ContainerDefinition],
) -> Result<(), ApiError> {
    for container in containers {
        let name = container.name.as_deref().unwrap_or_default();
        let memory = container.memory.map(i64::from);
        if task_memory.is_some_and(|task_memory| memory.is_some_and(|memory| memory > task_memory)) {
            return Err(client(format!(
                "The 'memory' setting for container '{name}' is greater than for the task."
            )));
        }
    }
    let cpu: i64 = containers.iter().filter_map(|container| container.cpu).map(i64::from).sum();
    if task_cpu.is_some_and(|task_cpu| cpu > task_cpu) {
        return Err(client(
            "The sum of all container 'cpu' values cannot be greater than the value of the task 'cpu'.",
        ));
    }
    let reserved: i64 =
        containers.iter().filter_map(|one| one.memory_reservation.or(one.memory)).map(i64::from).sum();
    if task_memory.is_some_and(|task_memory| reserved > task_memory) {
        return Err(client(
            "The sum of all container 'memory' values cannot be greater than the value of the task 'memory'.",
        ));
    }
    Ok(())
}

fn number(text: Option<&str>) -> Option<i64> {
    text.and_then(|text| text.parse().ok())
}
