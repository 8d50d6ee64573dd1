//! EC2's errors, in EC2's words (EC2 API reference, "Error codes").

use std::fmt::Display;

use ferrogate_api::ApiError;

pub(crate) fn invalid_value(message: impl Into<String>) -> ApiError {
    ApiError::new("InvalidParameterValue", message)
}

pub(crate) fn invalid_combination(message: impl Into<String>) -> ApiError {
    ApiError::new("InvalidParameterCombination", message)
}

/// The codec checks what the model requires; this is for what EC2 requires beyond it ("one of these two").
pub(crate) fn missing(parameter: &str) -> ApiError {
    ApiError::new("MissingParameter", format!("The request must contain the parameter {parameter}"))
}

/// A parameter of AWS that is not served here yet: refused, never ignored.
pub(crate) fn unsupported(parameter: &str) -> ApiError {
    ApiError::new(
        "UnsupportedOperation",
        format!("The parameter {parameter} is not supported by Ferrogate yet. Leave it out."),
    )
}

/// Refuses each named parameter that the caller has set.
pub(crate) fn refuse(parameters: &[(&str, bool)]) -> Result<(), ApiError> {
    match parameters.iter().find(|(_, present)| *present) {
        Some((name, _)) => Err(unsupported(name)),
        None => Ok(()),
    }
}

pub(crate) fn dependency(message: impl Into<String>) -> ApiError {
    ApiError::new("DependencyViolation", message)
}

pub(crate) fn not_permitted() -> ApiError {
    ApiError::new("OperationNotPermitted", "You do not have permission to access the specified resource.")
}

pub(crate) fn bad_cidr(value: impl Display) -> ApiError {
    invalid_value(format!(
        "Value ({value}) for parameter cidrBlock is invalid. This is not a valid CIDR block."
    ))
}

/// Many writers met at one record. Nothing was changed; the SDKs try again by themselves.
pub(crate) fn contended() -> ApiError {
    ApiError::new("Unavailable", "The server is overloaded and can't handle the request.").with_status(503)
}

/// The caller may do it, and asked that it not be done.
pub(crate) fn check_dry_run(dry_run: Option<bool>) -> Result<(), ApiError> {
    if dry_run == Some(true) {
        let message = "Request would have succeeded, but DryRun flag is set.";
        return Err(ApiError::new("DryRunOperation", message).with_status(412));
    }
    Ok(())
}
