//! Load balancers, Cloud Map and Service Connect: a task joins when it is RUNNING, and leaves before its node is told to end
//! it.
//!
//! ```text
//!  RUNNING ─► register ─► … ─► StopTasks, or it ends by itself
//!                                 ─► deregister ─► connections are finished ─► registered nowhere ─► ReleaseTasks
//! ```

use std::collections::{BTreeMap, HashSet};

use super::world::{Group, is_live};
use super::{Action, ContainerHealth, Deployment, Endpoints, Instance, Phase, TargetState, Task};

/// For tasks that end, those that are being stopped by this plan among them.
pub(super) fn ending(tasks: &[Task], stopping: &HashSet<&str>) -> Vec<Action> {
    let mut leaving: BTreeMap<(&str, &str), Vec<String>> = BTreeMap::new();
    let mut instances = Vec::new();
    let mut released = Vec::new();
    for task in tasks.iter().filter(|task| !is_live(task) || stopping.contains(task.id.as_str())) {
        for target in task.targets.iter().filter(|target| target.state != TargetState::Draining) {
            leaving.entry((&target.group, &task.deployment)).or_default().push(task.id.clone());
        }
        if task.instance != Instance::None {
            instances.push(Action::DeregisterInstance { task: task.id.clone() });
        }
        if task.endpoints != Endpoints::None {
            instances.push(Action::DeregisterEndpoints { task: task.id.clone() });
        }
        if task.is_nowhere() && !task.released && task.phase < Phase::Stopped {
            released.push(task.id.clone());
        }
    }
    let mut actions = deregister(leaving);
    actions.extend(instances);
    if !released.is_empty() {
        actions.push(Action::ReleaseTasks { tasks: released });
    }
    actions
}

fn deregister(leaving: BTreeMap<(&str, &str), Vec<String>>) -> Vec<Action> {
    let each = leaving.into_iter().map(|((group, deployment), tasks)| Action::DeregisterTargets {
        group: group.to_owned(),
        deployment: deployment.to_owned(),
        tasks,
    });
    each.collect()
}

/// For tasks that stay.
pub(super) fn joining(
    groups: &[Group<'_>],
    deployments: &[Deployment],
    stopping: &HashSet<&str>,
) -> Vec<Action> {
    let mut joining: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    let mut leaving: BTreeMap<(&str, &str), Vec<String>> = BTreeMap::new();
    let mut instances = Vec::new();
    for (deployment, group) in deployments.iter().zip(groups) {
        let running =
            group.tasks().filter(|task| task.phase == Phase::Running && !stopping.contains(task.id.as_str()));
        for task in running {
            for wanted in &deployment.target_groups {
                if !is_registered(task, wanted) {
                    joining.entry(wanted).or_default().push(task.id.clone());
                }
            }
            for target in &task.targets {
                if target.state != TargetState::Draining && !deployment.target_groups.contains(&target.group)
                {
                    leaving.entry((&target.group, &deployment.id)).or_default().push(task.id.clone());
                }
            }
            if deployment.has_registry {
                instances.extend(instance(task));
            }
            instances.extend(endpoints(task, deployment.has_endpoints));
        }
    }
    let register =
        |(group, tasks): (&str, Vec<String>)| Action::RegisterTargets { group: group.to_owned(), tasks };
    let mut actions: Vec<Action> = joining.into_iter().map(register).collect();
    actions.extend(deregister(leaving));
    actions.extend(instances);
    actions
}

fn is_registered(task: &Task, group: &str) -> bool {
    task.targets.iter().any(|target| target.group == group && target.state != TargetState::Draining)
}

/// Those that may be called are those that pass their health checks.
fn endpoints(task: &Task, wanted: bool) -> Option<Action> {
    let id = task.id.clone();
    match task.health {
        ContainerHealth::None | ContainerHealth::Healthy if wanted => {
            (task.endpoints != Endpoints::Registered).then_some(Action::RegisterEndpoints { task: id })
        }
        ContainerHealth::Unhealthy => {
            (task.endpoints != Endpoints::None).then_some(Action::DeregisterEndpoints { task: id })
        }
        _ => None,
    }
}

/// Its custom health in Cloud Map is that of its containers: unhealthy until they pass for the first time.
fn instance(task: &Task) -> Option<Action> {
    let healthy = match task.health {
        ContainerHealth::None | ContainerHealth::Healthy => Some(true),
        ContainerHealth::Unhealthy => Some(false),
        ContainerHealth::Unknown => None,
    };
    let task_id = task.id.clone();
    match (task.instance, healthy) {
        (Instance::None, healthy) => {
            Some(Action::RegisterInstance { task: task_id, healthy: healthy.unwrap_or(false) })
        }
        (Instance::Registered { healthy: was }, Some(healthy)) if was != healthy => {
            Some(Action::SetInstanceHealth { task: task_id, healthy })
        }
        _ => None,
    }
}
