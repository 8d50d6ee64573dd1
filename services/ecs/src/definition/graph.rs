//! Which container waits for which.

use std::collections::{BTreeMap, BTreeSet};

use ferrogate_api::{ApiError, ecs};

use super::storage;
use crate::errors::client;

type ByName<'a> = BTreeMap<&'a str, &'a ecs::ContainerDefinition>;

pub(super) fn check(containers: &[ecs::ContainerDefinition]) -> Result<(), ApiError> {
    let by_name: ByName<'_> =
        containers.iter().filter_map(|container| Some((container.name.as_deref()?, container))).collect();
    for container in containers {
        let mut seen = BTreeSet::new();
        for dependency in container.depends_on.iter().flatten() {
            check_dependency(dependency, &by_name)?;
            if !seen.insert(dependency.container_name.as_deref()) {
                let (name, on) = (container.name.as_deref(), dependency.container_name.as_deref());
                return Err(client(format!(
                    "Container '{}' depends on container '{}' twice.",
                    name.unwrap_or_default(),
                    on.unwrap_or_default()
                )));
            }
        }
    }
    match cycle(&by_name) {
        Some(name) => {
            Err(client(format!("Container dependencies must not form a cycle: '{name}' waits for itself")))
        }
        None => Ok(()),
    }
}

fn check_dependency(dependency: &ecs::ContainerDependency, by_name: &ByName<'_>) -> Result<(), ApiError> {
    let on = dependency.container_name.as_deref().unwrap_or_default();
    let Some(other) = by_name.get(on) else {
        // The plus sign is AWS's.
        return Err(client(format!("Cannot depend on container + '{on}' because it does not exist")));
    };
    match dependency.condition.as_deref().unwrap_or_default() {
        "COMPLETE" | "SUCCESS" if other.essential == Some(true) => Err(client(
            "A dependency container with SUCCESS or COMPLETE condition cannot be an essential container",
        )),
        "HEALTHY" if !has_health_check(other) => Err(client(format!(
            "A dependency container with HEALTHY condition must have a health check: '{on}' has none"
        ))),
        "START" | "COMPLETE" | "SUCCESS" | "HEALTHY" => Ok(()),
        condition => Err(client(format!(
            "Invalid dependency condition '{condition}' on container '{on}'. Must be one of [START,COMPLETE,SUCCESS,HEALTHY]"
        ))),
    }
}

/// `["NONE"]` switches it off.
pub(crate) fn has_health_check(container: &ecs::ContainerDefinition) -> bool {
    let command = container.health_check.as_ref().and_then(|check| check.command.as_deref());
    command.and_then(|command| command.first()).is_some_and(|kind| kind != "NONE")
}

/// By what it says, and because it takes their volumes.
fn waited_for(container: &ecs::ContainerDefinition) -> impl Iterator<Item = &str> {
    let named = container.depends_on.iter().flatten().filter_map(|on| on.container_name.as_deref());
    named.chain(storage::sources(container))
}

/// A container that can never start: takes away, again and again, those that wait for nothing left.
fn cycle<'a>(by_name: &ByName<'a>) -> Option<&'a str> {
    let mut left: BTreeSet<&str> = by_name.keys().copied().collect();
    loop {
        let waits = |name: &&str| waited_for(by_name[*name]).any(|on| left.contains(on));
        let waiting: BTreeSet<&str> = left.iter().copied().filter(waits).collect();
        if waiting.len() == left.len() {
            return by_name.keys().copied().find(|name| waiting.contains(name));
        }
        left = waiting;
    }
}
