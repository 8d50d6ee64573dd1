//! What a container gets from Secrets Manager and Parameter Store: variables, and the password of its registry.

use std::collections::BTreeSet;

use ferrogate_api::{ApiError, ecs};
use ferrogate_model::Arn;

use super::is_set;
use crate::errors::client;

const PARAMETER_NAME_CHARACTERS_MAX: usize = 2048;

/// Of one container; `has_execution_role`: whose rights get the values.
pub(super) fn check(container: &ecs::ContainerDefinition, has_execution_role: bool) -> Result<(), ApiError> {
    if let Some(credentials) = &container.repository_credentials {
        if credentials.credentials_parameter.as_deref().is_none_or(|parameter| parameter.trim().is_empty()) {
            return Err(client(
                "Container.repositoryCredentials.credentialsParameter should not be null or empty.",
            ));
        }
        if !has_execution_role {
            return Err(client(
                "Private repository authentication requires that the task definition specify a value for executionRoleArn.",
            ));
        }
    }
    if is_set(&container.secrets) && !has_execution_role {
        return Err(client(
            "When you are specifying container secrets, you must also specify a value for 'executionRoleArn'.",
        ));
    }
    let variables: BTreeSet<&str> =
        container.environment.iter().flatten().filter_map(|variable| variable.name.as_deref()).collect();
    let mut names = BTreeSet::new();
    for secret in container.secrets.iter().flatten() {
        let name = secret.name.as_deref().unwrap_or_default();
        if name.is_empty() || name.contains(['=', '\0']) {
            let of = container.name.as_deref().unwrap_or_default();
            return Err(client(format!(
                "Invalid secret name '{name}' of container '{of}': it must not be empty nor hold '='."
            )));
        }
        if !is_place(secret.value_from.as_deref().unwrap_or_default()) {
            return Err(client(format!(
                "The Systems Manager parameter name specified for secret {name} is invalid. The parameter name can be up to \
                 2048 characters and include the following letters and symbols: a-zA-Z0-9_.-"
            )));
        }
        if variables.contains(name) {
            return Err(not_unique(name));
        }
        if !names.insert(name) {
            return Err(client(format!(
                "Duplicate secret names found: {name}. Each secret name must be unique."
            )));
        }
    }
    Ok(())
}

/// Also for overrides.
pub(crate) fn not_unique(name: &str) -> ApiError {
    client(format!(
        "The secret name must be unique and not shared with any new or existing environment variables set on the \
         container, such as '{name}'."
    ))
}

/// The ARN of a secret (with JSON key, stage and version behind it or not), or the ARN or name of a parameter.
fn is_place(value_from: &str) -> bool {
    if value_from.starts_with("arn:") {
        return value_from.parse::<Arn>().is_ok_and(|arn| match arn.service.as_str() {
            "secretsmanager" => arn.resource.strip_prefix("secret:").is_some_and(|name| !name.is_empty()),
            "ssm" => arn.resource.strip_prefix("parameter/").is_some_and(is_parameter_name),
            _ => false,
        });
    }
    is_parameter_name(value_from)
}

fn is_parameter_name(name: &str) -> bool {
    let of_name = |b: u8| b.is_ascii_alphanumeric() || b"_.-/".contains(&b);
    (1..=PARAMETER_NAME_CHARACTERS_MAX).contains(&name.len()) && name.bytes().all(of_name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places() {
        for valid in [
            "db-password",
            "/app/db_password.1",
            "arn:aws:ssm:us-east-1:123456789012:parameter/app/db",
            "arn:aws:secretsmanager:us-east-1:123456789012:secret:app-AbCdEf",
            "arn:aws:secretsmanager:us-east-1:123456789012:secret:app-AbCdEf:password::",
            "arn:aws:secretsmanager:us-east-1:123456789012:secret:app-AbCdEf:password:AWSPREVIOUS:9d4cb84b",
        ] {
            assert!(is_place(valid), "{valid}");
        }
        for invalid in [
            "",
            "a b",
            "${DB}",
            "arn:aws:ssm:us-east-1:123456789012:parameter/",
            "arn:aws:s3:::bucket/key",
            "arn:aws:secretsmanager:us-east-1:123456789012:secret:",
            &"x".repeat(2049),
        ] {
            assert!(!is_place(invalid), "{invalid}");
        }
    }
}
