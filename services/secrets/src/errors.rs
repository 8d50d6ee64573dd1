//! AWS's errors, in AWS's words.

use ferrogate_api::ApiError;
use ferrogate_store::{SealError, StoreError, UpdateError};

pub(crate) fn invalid_parameter(message: impl Into<String>) -> ApiError {
    ApiError::new("InvalidParameterException", message)
}

pub(crate) fn invalid_request(message: impl Into<String>) -> ApiError {
    ApiError::new("InvalidRequestException", message)
}

/// AWS has it, this version does not; said rather than ignored.
pub(crate) fn unsupported(parameter: &str) -> ApiError {
    invalid_parameter(format!("Ferrogate does not support {parameter} yet; leave it out."))
}

fn not_found(what: &str) -> ApiError {
    ApiError::new("ResourceNotFoundException", format!("Secrets Manager can't find the specified {what}"))
}

pub(crate) fn no_secret() -> ApiError {
    not_found("secret.")
}

pub(crate) fn no_version(id: &str) -> ApiError {
    not_found(&format!("secret value for VersionId: {id}"))
}

pub(crate) fn no_stage(stage: &str) -> ApiError {
    not_found(&format!("secret value for staging label: {stage}"))
}

pub(crate) fn exists(name: &str) -> ApiError {
    let message = format!("The operation failed because the secret {name} already exists.");
    ApiError::new("ResourceExistsException", message)
}

pub(crate) fn token_in_use(token: &str, arn: &str) -> ApiError {
    let message = format!(
        "You can't use ClientRequestToken {token} because that value is already in use for a version of secret {arn}."
    );
    ApiError::new("ResourceExistsException", message)
}

pub(crate) fn marked_for_deletion() -> ApiError {
    invalid_request("You can't perform this operation on the secret because it was marked for deletion.")
}

pub(crate) fn bad_token() -> ApiError {
    ApiError::new("InvalidNextTokenException", "The NextToken value is invalid.")
}

pub(crate) fn limit(message: impl Into<String>) -> ApiError {
    ApiError::new("LimitExceededException", message)
}

fn internal() -> ApiError {
    ApiError::new("InternalServiceError", "An error occurred on the server side.").with_status(500)
}

/// The key file is not the one the value was sealed with, or the value is damaged.
pub(crate) fn sealed(error: SealError) -> ApiError {
    tracing::error!(%error, "a secret's value cannot be opened");
    let words = "Secrets Manager can't decrypt the protected secret text using the provided KMS key.";
    ApiError::new("DecryptionFailure", words)
}

pub(crate) fn store(error: StoreError) -> ApiError {
    tracing::error!(%error, "the store failed");
    internal()
}

pub(crate) fn contended(name: &str) -> ApiError {
    tracing::warn!(name, "a secret changed again and again while it was being changed");
    internal()
}

pub(crate) fn update(error: UpdateError<ApiError>) -> ApiError {
    match error {
        UpdateError::Refused(error) => error,
        UpdateError::Contended { key } => contended(&key),
        UpdateError::Store(error) => store(error),
    }
}
