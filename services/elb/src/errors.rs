//! ELB's errors, in ELB's words.

use ferrogate_api::ApiError;

/// The code of most refusals.
pub(crate) fn invalid(message: impl Into<String>) -> ApiError {
    ApiError::new("ValidationError", message)
}

pub(crate) fn configuration(message: impl Into<String>) -> ApiError {
    ApiError::new("InvalidConfigurationRequest", message)
}

pub(crate) fn not_permitted(message: impl Into<String>) -> ApiError {
    ApiError::new("OperationNotPermitted", message)
}

pub(crate) fn in_use(message: impl Into<String>) -> ApiError {
    ApiError::new("ResourceInUse", message)
}

/// AWS has it, this version does not; said rather than ignored.
pub(crate) fn unsupported(what: &str) -> ApiError {
    configuration(format!("{what} is not supported by Ferrogate yet. Leave it out."))
}

/// Refuses each named parameter that the caller has set.
pub(crate) fn refuse(parameters: &[(&str, bool)]) -> Result<(), ApiError> {
    match parameters.iter().find(|(_, present)| *present) {
        Some((name, _)) => Err(unsupported(&format!("The parameter {name}"))),
        None => Ok(()),
    }
}

pub(crate) fn no_balancer(arn: &str) -> ApiError {
    ApiError::new("LoadBalancerNotFound", format!("Load balancer '{arn}' not found"))
}

pub(crate) fn no_listener(arn: &str) -> ApiError {
    ApiError::new("ListenerNotFound", format!("Listener '{arn}' not found"))
}

pub(crate) fn no_rule(arn: &str) -> ApiError {
    ApiError::new("RuleNotFound", format!("Rule '{arn}' not found"))
}

pub(crate) fn no_group(arn: &str) -> ApiError {
    ApiError::new("TargetGroupNotFound", format!("Target group '{arn}' not found"))
}

/// How the operations on rules and the Describe of listeners say it.
pub(crate) fn among_listeners(error: ApiError) -> ApiError {
    match error.code.as_str() {
        "ListenerNotFound" => ApiError::new("ListenerNotFound", "One or more listeners not found"),
        _ => error,
    }
}

/// Of the Describe operations and of those on targets.
pub(crate) fn no_groups() -> ApiError {
    ApiError::new("TargetGroupNotFound", "One or more target groups not found")
}

/// Many writers met at one record. Nothing was changed; the SDKs try again by themselves.
pub(crate) fn contended() -> ApiError {
    ApiError::new("ServiceUnavailable", "The request has failed due to a temporary failure of the server.")
        .with_status(503)
}

/// The store could not do it: said in the log, not to the caller.
pub(crate) fn failed(error: impl std::fmt::Display) -> ApiError {
    tracing::error!(%error, "ELB's store failed");
    ApiError::internal()
}
