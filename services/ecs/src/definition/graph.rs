//! Which container waits for which.

use std::collections::{BTreeMap, BTreeSet};

use ferrogate_api::{ApiError, ecs};

use crate::errors::client;

type ByName<'a> = BTreeMap<&'a str, &'a ecs::ContainerDefinition>;

pub(super) fn check(containers: &[ecs::ContainerDefinition]) -> Result<(), ApiError> {
    let by_name: ByName<'_> =
        containers.iter().filter_map(|container| Some((container.name.as_deref()?, container))).collect();
    for container in containers {
        for dependency in container.depends_on.iter().flatten() {
            check_dependency(dependency, &by_name)?;
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
        "HEALTHY" if other.health_check.is_none() => Err(client(format!(
            "A dependency container with HEALTHY condition must have a health check: '{on}' has none"
        ))),
        "START" | "COMPLETE" | "SUCCESS" | "HEALTHY" => Ok(()),
        condition => Err(client(format!(
            "Invalid dependency condition '{condition}' on container '{on}'. Must be one of [START,COMPLETE,SUCCESS,HEALTHY]"
        ))),
    }
}

/// A container that can never start: takes away, again and again, those that wait for nothing left.
fn cycle<'a>(by_name: &ByName<'a>) -> Option<&'a str> {
    let mut left: BTreeSet<&str> = by_name.keys().copied().collect();
    loop {
        let waits = |name: &&str| {
            let dependencies = by_name[*name].depends_on.iter().flatten();
            dependencies.filter_map(|on| on.container_name.as_deref()).any(|on| left.contains(on))
        };
        let waiting: BTreeSet<&str> = left.iter().copied().filter(waits).collect();
        if waiting.len() == left.len() {
            return by_name.keys().copied().find(|name| waiting.contains(name));
        }
        left = waiting;
    }
}
