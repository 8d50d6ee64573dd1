//! `requiresAttributes`: what an instance would have to be able to do, in the names ECS's agent gives these things.

use std::collections::BTreeSet;

use ferrogate_api::ecs;

pub(super) fn required(definition: &ecs::TaskDefinition) -> Vec<ecs::Attribute> {
    let mut names = BTreeSet::from(["com.amazonaws.ecs.capability.docker-remote-api.1.18"]);
    if definition.network_mode.as_deref() == Some("awsvpc") {
        names.insert("ecs.capability.task-eni");
    }
    if definition.task_role_arn.is_some() {
        names.insert("com.amazonaws.ecs.capability.task-iam-role");
    }
    if definition.pid_mode.is_some() {
        names.insert("ecs.capability.pid-ipc-namespace-sharing");
    }
    let has_execution_role = definition.execution_role_arn.is_some();
    for container in definition.container_definitions.iter().flatten() {
        names.extend(of_container(container, has_execution_role));
    }
    names
        .into_iter()
        .map(|name| ecs::Attribute { name: Some(name.to_owned()), ..Default::default() })
        .collect()
}

fn of_container(container: &ecs::ContainerDefinition, has_execution_role: bool) -> Vec<&'static str> {
    let logs = container.log_configuration.as_ref();
    let awslogs = logs.is_some_and(|logs| logs.log_driver.as_deref() == Some("awslogs"));
    let ecr = container.image.as_deref().is_some_and(is_ecr_image);
    let init =
        container.linux_parameters.as_ref().is_some_and(|linux| linux.init_process_enabled == Some(true));
    let secrets = |kind: fn(&str) -> bool| {
        container.secrets.iter().flatten().filter_map(|secret| secret.value_from.as_deref()).any(kind)
    };
    [
        ("com.amazonaws.ecs.capability.logging-driver.awslogs", awslogs),
        ("ecs.capability.execution-role-awslogs", awslogs && has_execution_role),
        ("com.amazonaws.ecs.capability.ecr-auth", ecr),
        ("ecs.capability.execution-role-ecr-pull", ecr && has_execution_role),
        ("com.amazonaws.ecs.capability.docker-remote-api.1.19", awslogs || ecr),
        ("com.amazonaws.ecs.capability.docker-remote-api.1.21", container.memory_reservation.is_some()),
        ("ecs.capability.container-health-check", container.health_check.is_some()),
        ("com.amazonaws.ecs.capability.docker-remote-api.1.24", container.health_check.is_some()),
        ("com.amazonaws.ecs.capability.docker-remote-api.1.25", init),
        ("ecs.capability.secrets.asm.environment-variables", secrets(is_of_secrets_manager)),
        ("ecs.capability.secrets.ssm.environment-variables", secrets(|place| !is_of_secrets_manager(place))),
        (
            "ecs.capability.private-registry-authentication.secretsmanager",
            container.repository_credentials.is_some(),
        ),
        (
            "ecs.capability.container-restart-policy",
            container.restart_policy.as_ref().is_some_and(|policy| policy.enabled == Some(true)),
        ),
        ("ecs.capability.container-ordering", super::is_set(&container.depends_on)),
    ]
    .into_iter()
    .filter_map(|(name, needed)| needed.then_some(name))
    .collect()
}

fn is_of_secrets_manager(value_from: &str) -> bool {
    value_from.starts_with("arn:") && value_from.split(':').nth(2) == Some("secretsmanager")
}

/// `123456789012.dkr.ecr.us-east-1.amazonaws.com/app:1`
pub(super) fn is_ecr_image(image: &str) -> bool {
    let host = image.split('/').next().unwrap_or_default();
    host.split_once(".dkr.ecr.")
        .is_some_and(|(account, rest)| account.len() == 12 && rest.ends_with(".amazonaws.com"))
}
