//! Roles that are gone, not trusted, or without a right that the definition needs.

use crate::facts::{Facts, RolePurpose};
use crate::{About, Finding, Weight};

const TRUST: &str = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"Service":"ecs-tasks.amazonaws.com"},"Action":"sts:AssumeRole"}]}"#;

/// A missing right is an obstacle; where the recorded reason speaks of denied access it is the cause.
pub(crate) fn findings(facts: &Facts, so_far: &[Finding]) -> Vec<Finding> {
    let denied = facts.reason().contains("AccessDenied") || facts.reason().contains("not authorized");
    let weight = if denied { Weight::Cause } else { Weight::Obstacle };
    // The same right twice helps nobody.
    let told = |action: &str| so_far.iter().any(|finding| finding.what.contains(action));
    let mut findings = Vec::new();
    for role in &facts.roles {
        let purpose = match role.purpose {
            RolePurpose::Execution => "execution role",
            RolePurpose::Task => "task role",
        };
        let name = role.arn.rsplit('/').next().unwrap_or(&role.arn);
        if !role.exists {
            findings.push(
                Finding::new(weight, About::Role, format!("The {purpose} {} does not exist.", role.arn)).fix(
                    format!("aws iam create-role --role-name {name} --assume-role-policy-document '{TRUST}'"),
                ),
            );
            continue;
        }
        if !role.trusts_tasks {
            let text = format!(
                "The {purpose} {name} does not trust ecs-tasks.amazonaws.com, so no task can be given it."
            );
            findings.push(Finding::new(weight, About::Role, text).fix(format!(
                "aws iam update-assume-role-policy --role-name {name} --policy-document '{TRUST}'"
            )));
        }
        for right in role.rights.iter().filter(|right| !right.allowed && !told(&right.action)) {
            let text = format!("The {purpose} {name} may not {} on {}.", right.action, right.resource);
            let policy = format!(
                r#"{{"Version":"2012-10-17","Statement":[{{"Effect":"Allow","Action":"{}","Resource":"{}"}}]}}"#,
                right.action, right.resource
            );
            findings.push(Finding::new(weight, About::Role, text).fix(format!(
                "aws iam put-role-policy --role-name {name} --policy-name {} --policy-document '{policy}'",
                right.action.replace(':', "-")
            )));
        }
    }
    findings
}
