//! How callers name things: by name, by id, by ARN in its long and its short form.

use ferrogate_api::ApiError;
use ferrogate_model::Arn;

use crate::errors::{client, cluster_not_found, invalid};
use crate::state::Scope;
use crate::state::service::ServiceKey;

pub(crate) const DEFAULT_CLUSTER: &str = "default";
const NAME_CHARACTERS_MAX: usize = 255;

/// Up to 255 letters, digits, hyphens and underscores.
pub(crate) fn is_name(text: &str) -> bool {
    (1..=NAME_CHARACTERS_MAX).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
}

/// The resource part of an ECS ARN of this account and region; `None`: the text is no ARN.
fn resource<'a>(scope: &Scope, text: &'a str) -> Result<Option<&'a str>, ApiError> {
    if !text.starts_with("arn:") {
        return Ok(None);
    }
    let arn: Arn =
        text.parse().map_err(|_| invalid(format!("Invalid identifier: '{text}' is not an ARN")))?;
    if arn.service != "ecs" {
        return Err(invalid(format!("Invalid identifier: '{text}' is not an ARN of ECS")));
    }
    if arn.region != scope.region || arn.account != scope.account {
        let message = format!(
            "Invalid identifier: '{text}' is of account {} in {}; the call is to account {} in {}",
            arn.account, arn.region, scope.account, scope.region
        );
        return Err(invalid(message));
    }
    Ok(text.splitn(6, ':').nth(5))
}

/// A cluster's name of its name or ARN; `default` where nothing is named.
pub(crate) fn cluster(scope: &Scope, identifier: Option<&str>) -> Result<String, ApiError> {
    let text = identifier.filter(|text| !text.is_empty()).unwrap_or(DEFAULT_CLUSTER);
    let name = match resource(scope, text)? {
        Some(resource) => resource.strip_prefix("cluster/").ok_or_else(cluster_not_found)?,
        None => text,
    };
    if is_name(name) {
        Ok(name.to_owned())
    } else {
        Err(invalid(format!("Invalid identifier: '{name}' is not a cluster name")))
    }
}

/// `family`, `family:revision` or an ARN of either.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DefinitionName {
    pub family: String,
    /// `None`: the latest that is active.
    pub revision: Option<u32>,
}

pub(crate) fn definition(scope: &Scope, identifier: &str) -> Result<DefinitionName, ApiError> {
    let text = match resource(scope, identifier).map_err(|error| client(error.message))? {
        Some(resource) => resource.strip_prefix("task-definition/").ok_or_else(|| {
            client(format!("Invalid identifier: '{identifier}' is not a task definition's ARN"))
        })?,
        None => identifier,
    };
    let (family, revision) = match text.split_once(':') {
        Some((family, revision)) => {
            let number = revision.parse().ok().filter(|number| *number > 0);
            let invalid = || client(format!("Invalid revision number. Number: {revision}"));
            (family, Some(number.ok_or_else(invalid)?))
        }
        None => (text, None),
    };
    if !is_name(family) {
        return Err(client(format!("Invalid task definition family: '{family}'")));
    }
    Ok(DefinitionName { family: family.to_owned(), revision })
}

/// A task's id of its id or ARN, given the cluster it is looked for in.
pub(crate) fn task(scope: &Scope, cluster: &str, identifier: &str) -> Result<String, ApiError> {
    let id = match resource(scope, identifier)? {
        Some(resource) => {
            let rest = resource
                .strip_prefix("task/")
                .ok_or_else(|| invalid(format!("Invalid identifier: '{identifier}' is not a task's ARN")))?;
            match rest.split_once('/') {
                Some((other, _)) if other != cluster => {
                    let message = format!(
                        "Invalid identifier: Identifier is for cluster {other}. Your cluster is {cluster}"
                    );
                    return Err(invalid(message));
                }
                Some((_, id)) => id,
                None => rest,
            }
        }
        None => identifier,
    };
    if !matches!(id.len(), 32 | 36) {
        return Err(invalid("taskId length should be one of [32,36]"));
    }
    if !id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
        return Err(invalid("taskId contains invalid characters"));
    }
    Ok(id.to_owned())
}

/// A service's name of its name or ARN, given the cluster it is looked for in.
pub(crate) fn service(scope: &Scope, cluster: &str, identifier: &str) -> Result<String, ApiError> {
    let name = match resource(scope, identifier)? {
        Some(resource) => {
            let rest = resource.strip_prefix("service/").ok_or_else(|| {
                invalid(format!("Invalid identifier: '{identifier}' is not a service's ARN"))
            })?;
            match rest.split_once('/') {
                Some((other, _)) if other != cluster => {
                    let message = format!(
                        "Invalid identifier: Identifier is for cluster {other}. Your cluster is {cluster}"
                    );
                    return Err(invalid(message));
                }
                Some((_, name)) => name,
                None => rest,
            }
        }
        None => identifier,
    };
    if is_name(name) {
        Ok(name.to_owned())
    } else {
        Err(invalid(format!("Invalid identifier: '{name}' is not a service name")))
    }
}

/// What belongs to a service, by its ARN: `<kind>/<cluster>/<service>/<id>`.
pub(crate) fn of_service(scope: &Scope, kind: &str, arn: &str) -> Result<(ServiceKey, String), ApiError> {
    let wrong = || invalid(format!("Invalid identifier: '{arn}' is not the ARN of a {kind}"));
    let resource = resource(scope, arn)?.ok_or_else(wrong)?;
    let parts: Vec<&str> = resource.split('/').collect();
    match parts[..] {
        [found, cluster, service, id]
            if found == kind && is_name(cluster) && is_name(service) && is_name(id) =>
        {
            Ok((ServiceKey::new(scope, cluster, service), id.to_owned()))
        }
        _ => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope() -> Scope {
        Scope::new("123456789012", "us-east-1")
    }

    #[test]
    fn clusters() {
        for (identifier, name) in [
            (None, "default"),
            (Some(""), "default"),
            (Some("a_b-1"), "a_b-1"),
            (Some("arn:aws:ecs:us-east-1:123456789012:cluster/a"), "a"),
        ] {
            assert_eq!(cluster(&scope(), identifier).unwrap(), name);
        }
        for identifier in [
            "a/b",
            "a b",
            "arn:aws:ecs:eu-west-1:123456789012:cluster/a",
            "arn:aws:ecs:us-east-1:123456789012:task/a",
        ] {
            assert!(cluster(&scope(), Some(identifier)).is_err(), "{identifier}");
        }
    }

    #[test]
    fn definitions() {
        for (identifier, family, revision) in [
            ("web", "web", None),
            ("web:3", "web", Some(3)),
            ("arn:aws:ecs:us-east-1:123456789012:task-definition/web:3", "web", Some(3)),
            ("arn:aws:ecs:us-east-1:123456789012:task-definition/web", "web", None),
        ] {
            assert_eq!(
                definition(&scope(), identifier),
                Ok(DefinitionName { family: family.into(), revision })
            );
        }
        for identifier in ["web:0", "web:x", "w b", ""] {
            assert_eq!(definition(&scope(), identifier).unwrap_err().code, "ClientException", "{identifier}");
        }
    }

    #[test]
    fn tasks() {
        let id = "0123456789abcdef0123456789abcdef";
        for identifier in [
            id.to_owned(),
            format!("arn:aws:ecs:us-east-1:123456789012:task/c/{id}"),
            format!("arn:aws:ecs:us-east-1:123456789012:task/{id}"),
        ] {
            assert_eq!(task(&scope(), "c", &identifier).unwrap(), id);
        }
        let elsewhere = format!("arn:aws:ecs:us-east-1:123456789012:task/other/{id}");
        assert_eq!(
            task(&scope(), "default", &elsewhere).unwrap_err().message,
            "Invalid identifier: Identifier is for cluster other. Your cluster is default"
        );
        assert_eq!(task(&scope(), "c", "x").unwrap_err().message, "taskId length should be one of [32,36]");
    }
}
