//! How and under which name tasks start: what RunTask says of launch type, platform, group and tags. No I/O.

use ferrogate_api::{ApiError, ecs};

use super::capacity_providers::{check_providers, check_strategy};
use super::tags;
use crate::definition::{FARGATE, fits_fargate};
use crate::errors::{invalid, unsupported, unsupported_feature};
use crate::state::{ClusterRecord, Tags};

pub(crate) const PLATFORM_VERSION: &str = "1.4.0";
const STARTED_BY_CHARACTERS_MAX: usize = 128;
const REFERENCE_ID_CHARACTERS_MAX: usize = 1024;

/// Refuses what Fargate has not, or this version has not yet.
pub(crate) fn refuse(input: &ecs::RunTaskRequest) -> Result<(), ApiError> {
    let is_set = |count: Option<usize>| count.is_some_and(|count| count > 0);
    if is_set(input.placement_constraints.as_ref().map(Vec::len)) {
        return Err(invalid("Placement constraints are not supported with FARGATE launch type."));
    }
    if is_set(input.placement_strategy.as_ref().map(Vec::len)) {
        return Err(invalid("Placement strategies are not supported with FARGATE launch type."));
    }
    if is_set(input.volume_configurations.as_ref().map(Vec::len)) {
        return Err(unsupported_feature("'volumeConfigurations'"));
    }
    let too_long =
        |text: &Option<String>, max: usize| text.as_ref().is_some_and(|text| text.chars().count() > max);
    if too_long(&input.reference_id, REFERENCE_ID_CHARACTERS_MAX) {
        return Err(invalid(format!(
            "The referenceId may have up to {REFERENCE_ID_CHARACTERS_MAX} characters."
        )));
    }
    if too_long(&input.started_by, STARTED_BY_CHARACTERS_MAX) {
        return Err(invalid(format!("The startedBy may have up to {STARTED_BY_CHARACTERS_MAX} characters.")));
    }
    Ok(())
}

/// Sessions into a container come to it under the task's own role.
pub(crate) fn check_exec(input: &ecs::RunTaskRequest, task_role_arn: Option<&str>) -> Result<(), ApiError> {
    if input.enable_execute_command == Some(true) && task_role_arn.is_none() {
        return Err(invalid(
            "The execute command failed because a valid task role is not being used. Specify a valid task role in your \
             task definition or as a task override and try again.",
        ));
    }
    Ok(())
}

pub(crate) fn count(count: Option<i32>) -> Result<usize, ApiError> {
    match usize::try_from(count.unwrap_or(1)) {
        Ok(0) | Err(_) => Err(invalid("count should be at least 1.")),
        Ok(count @ 1..=10) => Ok(count),
        Ok(_) => Err(invalid("count can be at most 10.")),
    }
}

/// The capacity provider the tasks get, if they get one: by launch type, by strategy, or by the cluster's default.
pub(crate) fn capacity_provider(
    input: &ecs::RunTaskRequest,
    cluster: &ClusterRecord,
    definition: &ecs::TaskDefinition,
) -> Result<Option<String>, ApiError> {
    let strategy = input.capacity_provider_strategy.as_deref().unwrap_or_default();
    let (_, strategy) = compute(input.launch_type.as_deref(), strategy, cluster, Some(definition))?;
    Ok((!strategy.is_empty()).then(|| FARGATE.to_owned()))
}

/// Launch type or capacity provider strategy, as asked for or by the cluster's default. Where nothing is said it is
/// Fargate, since nothing else is here; AWS would look for instances. `definition`: `None` where none is named.
pub(crate) fn compute(
    launch_type: Option<&str>,
    strategy: &[ecs::CapacityProviderStrategyItem],
    cluster: &ClusterRecord,
    definition: Option<&ecs::TaskDefinition>,
) -> Result<(Option<String>, Vec<ecs::CapacityProviderStrategyItem>), ApiError> {
    match launch_type {
        Some(_) if !strategy.is_empty() => {
            let message = "Specifying both a launch type and capacity provider strategy is not supported. Remove one and try again.";
            return Err(invalid(message));
        }
        Some("EC2" | "EXTERNAL") => {
            return Err(invalid("No Container Instances were found in your cluster."));
        }
        Some(FARGATE) | None => {}
        Some(other) => return Err(unsupported(&format!("the launch type '{other}'"))),
    }
    if definition.is_some_and(|definition| !fits_fargate(definition)) {
        return Err(invalid("Task definition does not support launch_type FARGATE."));
    }
    let names: Vec<String> = strategy.iter().filter_map(|item| item.capacity_provider.clone()).collect();
    check_providers(&names)?;
    check_strategy(strategy, &cluster.capacity_providers)?;
    if !strategy.is_empty() {
        return Ok((None, strategy.to_vec()));
    }
    let default = &cluster.default_capacity_provider_strategy;
    if launch_type.is_none() && !default.is_empty() {
        return Ok((None, default.clone()));
    }
    Ok((Some(FARGATE.into()), Vec::new()))
}

pub(crate) fn platform_version(version: Option<&str>) -> Result<String, ApiError> {
    match version {
        None | Some("" | "LATEST" | PLATFORM_VERSION) => Ok(PLATFORM_VERSION.into()),
        // Fargate has it besides: ECS Developer Guide, "Fargate platform versions for Linux".
        Some("1.3.0") => Err(unsupported_feature("the platform version '1.3.0'")),
        Some(_) => {
            Err(ApiError::new("PlatformUnknownException", "The specified platform version does not exist."))
        }
    }
}

/// `family:<family>`, unless the caller has a name for it.
pub(crate) fn group(group: Option<String>, family: &str) -> Result<String, ApiError> {
    match group.filter(|group| !group.is_empty()) {
        None => Ok(format!("family:{family}")),
        Some(group) if group.starts_with("service:") => Err(invalid("Invalid namespace for group.")),
        Some(group) => Ok(group),
    }
}

/// The tags of the tasks: the request's, over the definition's where those are propagated.
pub(crate) fn tags(input: &ecs::RunTaskRequest, cluster: &str, definition: &Tags) -> Result<Tags, ApiError> {
    let own = tags::checked(input.tags.clone())?;
    let mut all = match input.propagate_tags.as_deref() {
        None | Some("NONE" | "") => Tags::new(),
        Some("TASK_DEFINITION") => definition.clone(),
        Some(other) => {
            return Err(invalid(format!(
                "Invalid propagateTags '{other}': a task that no service starts gets its tags from TASK_DEFINITION."
            )));
        }
    };
    all.extend(own);
    if input.enable_ecs_managed_tags == Some(true) {
        all.insert("aws:ecs:clusterName".into(), cluster.to_owned());
    }
    tags::check_count(&all)?;
    Ok(all)
}
