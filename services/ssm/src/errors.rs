//! AWS's errors, in AWS's words.

use ferrogate_api::ApiError;
use ferrogate_store::{SealError, StoreError, UpdateError};

pub(crate) fn validation(message: impl Into<String>) -> ApiError {
    ApiError::new("ValidationException", message)
}

/// AWS has it, this version does not; said rather than ignored.
pub(crate) fn unsupported(parameter: &str) -> ApiError {
    validation(format!("Ferrogate does not support {parameter} yet; leave it out."))
}

/// AWS says nothing more than the code.
pub(crate) fn no_parameter() -> ApiError {
    ApiError::new("ParameterNotFound", "")
}

pub(crate) fn no_version(selector: &str, name: &str) -> ApiError {
    let message = format!(
        "Systems Manager could not find version {selector} of {name}. Verify the version and try again."
    );
    ApiError::new("ParameterVersionNotFound", message)
}

pub(crate) fn exists() -> ApiError {
    let words = "The parameter already exists. To overwrite this value, set the overwrite option in the request to true.";
    ApiError::new("ParameterAlreadyExists", words)
}

pub(crate) fn bad_token() -> ApiError {
    ApiError::new("InvalidNextToken", "The specified token isn't valid.")
}

fn internal() -> ApiError {
    ApiError::new("InternalServerError", "An error occurred on the server side.").with_status(500)
}

/// The key file is not the one the value was sealed with, or the value is damaged.
pub(crate) fn sealed(error: SealError) -> ApiError {
    tracing::error!(%error, "a parameter's value cannot be opened");
    internal()
}

pub(crate) fn store(error: StoreError) -> ApiError {
    tracing::error!(%error, "the store failed");
    internal()
}

pub(crate) fn too_many_updates() -> ApiError {
    ApiError::new(
        "TooManyUpdates",
        "There are concurrent updates for a resource that supports one update at a time.",
    )
}

pub(crate) fn update(error: UpdateError<ApiError>) -> ApiError {
    match error {
        UpdateError::Refused(error) => error,
        UpdateError::Contended { .. } => too_many_updates(),
        UpdateError::Store(error) => store(error),
    }
}
