//! AWS's words.

fn tasks_of(ids: &[String]) -> String {
    ids.iter().map(|id| format!("(task {id})")).collect::<Vec<_>>().join(" ")
}

pub(crate) fn started(service: &str, ids: &[String]) -> String {
    format!("(service {service}) has started {} tasks: {}.", ids.len(), tasks_of(ids))
}

pub(crate) fn stopped(service: &str, ids: &[String]) -> String {
    format!("(service {service}) has stopped {} running tasks: {}.", ids.len(), tasks_of(ids))
}

pub(crate) fn started_to_rebalance(service: &str, zone: &str, ids: &[String]) -> String {
    format!(
        "(service {service}) has started {} tasks in {zone} to AZ Rebalance: {}.",
        ids.len(),
        tasks_of(ids)
    )
}

pub(crate) fn stopped_to_rebalance(service: &str, zone: &str, ids: &[String]) -> String {
    format!(
        "(service {service}) has stopped {} running tasks in {zone} due to AZ rebalancing: {}.",
        ids.len(),
        tasks_of(ids)
    )
}

pub(crate) fn registered(service: &str, count: usize, group: &str) -> String {
    format!("(service {service}) registered {count} targets in (target-group {group})")
}

pub(crate) fn deregistered(service: &str, count: usize, group: &str) -> String {
    format!("(service {service}) deregistered {count} targets in (target-group {group})")
}

pub(crate) fn draining(service: &str, deployment: &str, count: usize) -> String {
    format!("(service {service}, taskSet {deployment}) has begun draining connections on {count} tasks.")
}

pub(crate) fn completed(service: &str, deployment: &str) -> String {
    format!("(service {service}) (deployment {deployment}) deployment completed.")
}

pub(crate) fn steady(service: &str) -> String {
    format!("(service {service}) has reached a steady state.")
}

pub(crate) fn failed(service: &str, deployment: &str, why: &str) -> String {
    format!("(service {service}) (deployment {deployment}) deployment failed: {why}.")
}

pub(crate) fn rolling_back(service: &str, deployment: &str) -> String {
    format!("(service {service}) rolling back to deployment {deployment}.")
}

pub(crate) fn launches_delayed(service: &str) -> String {
    format!("(service {service}) is unable to consistently start tasks successfully.")
}

pub(crate) fn blocked(service: &str) -> String {
    format!(
        "(service {service}) was unable to stop or start tasks during a deployment because of the service deployment \
         configuration. Update the minimumHealthyPercent or maximumPercent value and try again."
    )
}

pub(crate) fn unhealthy_target(service: &str, port: u16, group: &str, reason: &str) -> String {
    format!(
        "(service {service}) (port {port}) is unhealthy in (target-group {group}) due to (reason {reason})."
    )
}

pub(crate) fn unhealthy_container(service: &str, task: &str) -> String {
    format!("(service {service}) (task {task}) failed container health checks.")
}

pub(crate) fn unbalanced(service: &str, zones: &[(&str, usize)]) -> String {
    format!("(service {service}) is not AZ balanced with {}. AZ Rebalancing in progress.", counts(zones))
}

pub(crate) fn balanced(service: &str, zones: &[(&str, usize)]) -> String {
    format!("(service {service}) is AZ balanced with {}.", counts(zones))
}

fn counts(zones: &[(&str, usize)]) -> String {
    let each: Vec<String> = zones.iter().map(|(zone, tasks)| format!("{tasks} tasks in {zone}")).collect();
    match each.as_slice() {
        [] => String::new(),
        [one] => one.clone(),
        [one, other] => format!("{one} and {other}"),
        [first @ .., last] => format!("{}, and {last}", first.join(", ")),
    }
}

/// `rolloutStateReason`
pub(crate) fn rollout_in_progress(deployment: &str) -> String {
    format!("ECS deployment {deployment} in progress.")
}

pub(crate) fn rollout_completed(deployment: &str) -> String {
    format!("ECS deployment {deployment} completed.")
}

pub(crate) const ROLLOUT_TASKS_FAILED: &str = "ECS deployment circuit breaker: tasks failed to start.";

pub(crate) fn rollout_breaker_rolls_back(deployment: &str) -> String {
    format!("ECS deployment circuit breaker: rolling back to deploymentId {deployment}.")
}

/// `stoppedReason`
pub(crate) fn scaling(deployment: &str) -> String {
    format!("Scaling activity initiated by (deployment {deployment})")
}

pub(crate) fn failed_target(group: &str) -> String {
    format!("Task failed ELB health checks in (target-group {group})")
}

pub(crate) const FAILED_CONTAINER: &str = "Task failed container health checks";

/// For other reasons than the circuit breaker.
pub(crate) fn rollout_rolls_back(deployment: &str) -> String {
    format!("ECS deployment: rolling back to deploymentId {deployment}.")
}
