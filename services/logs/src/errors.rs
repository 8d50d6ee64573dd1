//! AWS's errors, in AWS's words.

use ferrogate_api::ApiError;
use ferrogate_store::{StoreError, UpdateError};

use crate::pattern::PatternError;
use crate::segments::SegmentsError;

pub(crate) fn invalid(message: impl Into<String>) -> ApiError {
    ApiError::new("InvalidParameterException", message)
}

/// AWS has it, this version does not; said rather than ignored.
pub(crate) fn unsupported(parameter: &str) -> ApiError {
    invalid(format!("Ferrogate does not support {parameter} yet; leave it out."))
}

pub(crate) fn no_group() -> ApiError {
    ApiError::new("ResourceNotFoundException", "The specified log group does not exist.")
}

pub(crate) fn no_stream() -> ApiError {
    ApiError::new("ResourceNotFoundException", "The specified log stream does not exist.")
}

pub(crate) fn no_resource() -> ApiError {
    ApiError::new("ResourceNotFoundException", "The specified resource does not exist.")
}

pub(crate) fn group_exists() -> ApiError {
    ApiError::new("ResourceAlreadyExistsException", "The specified log group already exists")
}

pub(crate) fn stream_exists() -> ApiError {
    ApiError::new("ResourceAlreadyExistsException", "The specified log stream already exists")
}

pub(crate) fn bad_token() -> ApiError {
    invalid("The specified nextToken is invalid.")
}

pub(crate) fn aborted() -> ApiError {
    ApiError::new(
        "OperationAbortedException",
        "A conflicting operation is currently in progress against this resource. Please try again.",
    )
}

fn unavailable() -> ApiError {
    ApiError::new("ServiceUnavailableException", "The service cannot complete the request.").with_status(503)
}

pub(crate) fn store(error: StoreError) -> ApiError {
    tracing::error!(%error, "the store failed");
    unavailable()
}

pub(crate) fn update(error: UpdateError<ApiError>) -> ApiError {
    match error {
        UpdateError::Refused(error) => error,
        UpdateError::Contended { .. } => aborted(),
        UpdateError::Store(error) => store(error),
    }
}

/// A full disk is the usual cause; nothing of the call is kept.
pub(crate) fn segments(error: SegmentsError) -> ApiError {
    if matches!(error, SegmentsError::Gone) {
        return no_stream();
    }
    tracing::error!(%error, "the log files failed");
    unavailable()
}

pub(crate) fn pattern(error: PatternError) -> ApiError {
    invalid(error.to_string())
}
