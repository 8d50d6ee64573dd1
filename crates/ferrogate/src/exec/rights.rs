//! Whether a task's role lets the agent of ECS Exec speak with Session Manager: without these rights it ends at once,
//! on AWS as here.

use std::sync::Arc;

use ferrogate_api::{ApiError, Caller, Invoke, iam};
use ferrogate_ecs::EcsService;
use ferrogate_nodeapi::{ContainerStatus, ControlPlaneError, TaskReport};

/// ECS developer guide, Task IAM role for ECS Exec.
const ACTIONS: [&str; 4] = [
    "ssmmessages:CreateControlChannel",
    "ssmmessages:CreateDataChannel",
    "ssmmessages:OpenControlChannel",
    "ssmmessages:OpenDataChannel",
];

/// Corrects what the node says of agents that started just now: it knows no roles.
pub(crate) async fn judge(
    ecs: &EcsService,
    invoke: &Arc<dyn Invoke>,
    reports: &mut [TaskReport],
) -> Result<(), ControlPlaneError> {
    for report in reports {
        // One role: one answer for all containers of a report.
        let mut missing: Option<Vec<String>> = None;
        for container in &mut report.containers {
            let Some(agent) = container.exec_agent.as_mut() else { continue };
            if agent.status != ContainerStatus::Running {
                continue;
            }
            let known = ecs.exec_agent(&report.task_arn, &container.name);
            if let Some(known) = known.filter(|known| {
                known.status != ContainerStatus::Pending && known.last_started_at == agent.last_started_at
            }) {
                *agent = known;
                continue;
            }
            if missing.is_none() {
                let found = not_allowed(ecs, invoke, &report.task_arn).await;
                missing = Some(found.map_err(|error| ControlPlaneError::Unavailable(error.to_string()))?);
            }
            if let Some(actions) = missing.as_deref().filter(|actions| !actions.is_empty()) {
                agent.status = ContainerStatus::Stopped;
                agent.reason = Some(format!("The task role is not allowed to: {}", actions.join(", ")));
            }
        }
    }
    Ok(())
}

/// By IAM's own simulator.
async fn not_allowed(
    ecs: &EcsService,
    invoke: &Arc<dyn Invoke>,
    task_arn: &str,
) -> Result<Vec<String>, ApiError> {
    let all = || ACTIONS.map(str::to_owned).to_vec();
    let Some(roles) = ecs.task_roles(task_arn) else { return Ok(all()) };
    let Some(role_arn) = roles.task_role_arn else { return Ok(all()) };
    let caller = Caller::Forward(Arc::new(crate::compose::root_principal(&roles.account)));
    let iam = iam::Client::new(Arc::clone(invoke), caller, &roles.region);
    let asked = iam::SimulatePrincipalPolicyRequest {
        policy_source_arn: Some(role_arn),
        action_names: Some(all()),
        resource_arns: Some(vec!["*".into()]),
        ..Default::default()
    };
    match iam.simulate_principal_policy(asked).await {
        Ok(answer) => Ok(answer
            .evaluation_results
            .into_iter()
            .flatten()
            .filter(|result| result.eval_decision.as_deref() != Some("allowed"))
            .filter_map(|result| result.eval_action_name)
            .collect()),
        // The role has gone since.
        Err(error) if error.code == "NoSuchEntity" || error.code == "NoSuchEntityException" => Ok(all()),
        Err(error) => Err(error),
    }
}
