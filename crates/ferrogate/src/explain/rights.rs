//! The rights that a definition needs its roles to have, and whether they have them: by IAM's own simulator.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::Result;
use ferrogate_api::{Caller, ecs, iam};
use ferrogate_explain::{Right, RolePurpose};
use ferrogate_model::Arn;

use super::{Sources, containers, log_option};

const EXEC_ACTIONS: [&str; 4] = [
    "ssmmessages:CreateControlChannel",
    "ssmmessages:CreateDataChannel",
    "ssmmessages:OpenControlChannel",
    "ssmmessages:OpenDataChannel",
];

pub(super) async fn of(
    sources: &Sources,
    purpose: RolePurpose,
    role_arn: &str,
    task_arn: &Arn,
    task: &ecs::Task,
    definition: Option<&ecs::TaskDefinition>,
) -> Result<Vec<Right>> {
    let needed = match purpose {
        RolePurpose::Execution => for_start(task_arn, definition),
        RolePurpose::Task if task.enable_execute_command == Some(true) => {
            BTreeMap::from([("*".to_owned(), EXEC_ACTIONS.map(str::to_owned).to_vec())])
        }
        RolePurpose::Task => BTreeMap::new(),
    };
    let caller = Caller::Forward(Arc::new(sources.root.clone()));
    let iam = iam::Client::new(Arc::clone(&sources.invoke), caller, &task_arn.region);
    let mut rights = Vec::new();
    for (resource, actions) in needed {
        let answer = iam
            .simulate_principal_policy(iam::SimulatePrincipalPolicyRequest {
                policy_source_arn: Some(role_arn.to_owned()),
                action_names: Some(actions),
                resource_arns: Some(vec![resource.clone()]),
                ..Default::default()
            })
            .await?;
        for result in answer.evaluation_results.into_iter().flatten() {
            rights.push(Right {
                action: result.eval_action_name.unwrap_or_default(),
                resource: resource.clone(),
                allowed: result.eval_decision.as_deref() == Some("allowed"),
            });
        }
    }
    Ok(rights)
}

/// Actions by resource.
fn for_start(task_arn: &Arn, definition: Option<&ecs::TaskDefinition>) -> BTreeMap<String, Vec<String>> {
    let (account, region) = (&task_arn.account, &task_arn.region);
    let task_id = task_arn.resource_id().rsplit('/').next().unwrap_or_default();
    let mut needed: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut need = |resource: String, actions: &[&str]| {
        let of = needed.entry(resource).or_default();
        of.extend(actions.iter().map(|action| (*action).to_owned()));
        of.sort();
        of.dedup();
    };
    for container in containers(definition) {
        let name = container.name.as_deref().unwrap_or_default();
        if let Some(group) = log_option(container, "awslogs-group") {
            let region = log_option(container, "awslogs-region").unwrap_or(region);
            let prefix = log_option(container, "awslogs-stream-prefix").unwrap_or_default();
            let arn = format!("arn:aws:logs:{region}:{account}:log-group:{group}");
            need(
                format!("{arn}:log-stream:{prefix}/{name}/{task_id}"),
                &["logs:CreateLogStream", "logs:PutLogEvents"],
            );
            if log_option(container, "awslogs-create-group") == Some("true") {
                need(arn, &["logs:CreateLogGroup"]);
            }
        }
        if let Some(repository) = container.image.as_deref().and_then(ecr_repository) {
            need("*".into(), &["ecr:GetAuthorizationToken"]);
            need(repository, &["ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"]);
        }
        let credentials =
            container.repository_credentials.as_ref().and_then(|of| of.credentials_parameter.clone());
        let secrets = container.secrets.iter().flatten().filter_map(|secret| secret.value_from.clone());
        for from in secrets.chain(credentials) {
            let (resource, action) = secret(&from, account, region);
            need(resource, &[action]);
        }
    }
    needed
}

/// `123456789012.dkr.ecr.us-east-1.amazonaws.com/app:1` → the repository's ARN.
fn ecr_repository(image: &str) -> Option<String> {
    let (host, rest) = image.split_once('/')?;
    let (account, domain) = host.split_once(".dkr.ecr.")?;
    let region = domain.split('.').next()?;
    let name = rest.split(['@', ':']).next()?;
    Some(format!("arn:aws:ecr:{region}:{account}:repository/{name}"))
}

/// What `valueFrom` names, and the right to read it.
fn secret(from: &str, account: &str, region: &str) -> (String, &'static str) {
    if from.starts_with("arn:aws:secretsmanager:") {
        // Without the JSON key, stage and version behind it.
        let arn: Vec<&str> = from.split(':').take(7).collect();
        return (arn.join(":"), "secretsmanager:GetSecretValue");
    }
    if from.starts_with("arn:") {
        return (from.to_owned(), "ssm:GetParameters");
    }
    let name = from.trim_start_matches('/');
    (format!("arn:aws:ssm:{region}:{account}:parameter/{name}"), "ssm:GetParameters")
}

#[cfg(test)]
mod tests {
    use super::{ecr_repository, secret};

    #[test]
    fn resources_by_their_names() {
        let app = Some("arn:aws:ecr:eu-west-1:123456789012:repository/team/app".to_owned());
        assert_eq!(ecr_repository("123456789012.dkr.ecr.eu-west-1.amazonaws.com/team/app:1"), app);
        assert_eq!(ecr_repository("123456789012.dkr.ecr.eu-west-1.amazonaws.com/team/app@sha256:00"), app);
        assert_eq!(ecr_repository("nginx:latest"), None);
        let arn = "arn:aws:secretsmanager:us-east-1:1:secret:db-abcdef";
        for from in [arn.to_owned(), format!("{arn}:password::")] {
            assert_eq!(secret(&from, "1", "us-east-1"), (arn.to_owned(), "secretsmanager:GetSecretValue"));
        }
        let parameter = ("arn:aws:ssm:us-east-1:1:parameter/a/b".to_owned(), "ssm:GetParameters");
        assert_eq!(secret("/a/b", "1", "us-east-1"), parameter);
        assert_eq!(secret("arn:aws:ssm:us-east-1:1:parameter/a/b", "1", "us-east-1"), parameter);
    }
}
