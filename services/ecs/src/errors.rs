//! ECS's errors, in its own words.

use ferrogate_api::ApiError;
use ferrogate_store::StoreError;

pub(crate) fn client(message: impl Into<String>) -> ApiError {
    ApiError::new("ClientException", message)
}

pub(crate) fn invalid(message: impl Into<String>) -> ApiError {
    ApiError::new("InvalidParameterException", message)
}

pub(crate) fn cluster_not_found() -> ApiError {
    ApiError::new("ClusterNotFoundException", "Cluster not found.")
}

/// A parameter that AWS knows and this version does not serve yet.
pub(crate) fn unsupported(what: &str) -> ApiError {
    client(not_yet(what))
}

/// The same, where the operation has an error of its own for it.
pub(crate) fn unsupported_feature(what: &str) -> ApiError {
    ApiError::new("UnsupportedFeatureException", not_yet(what))
}

fn not_yet(what: &str) -> String {
    format!("This version of Ferrogate does not support {what} yet: leave it out.")
}

/// Refuses the first of the parameters that is there.
pub(crate) fn refuse(parameters: &[(&str, bool)]) -> Result<(), ApiError> {
    match parameters.iter().find(|(_, present)| *present) {
        Some((name, _)) => Err(unsupported(&format!("'{name}'"))),
        None => Ok(()),
    }
}

/// Somebody else was quicker, again and again.
pub(crate) fn contended() -> ApiError {
    ApiError::new("ServerException", "The resource is being changed by too many calls at once. Try again.")
        .with_status(500)
}

pub(crate) fn store(error: &StoreError) -> ApiError {
    tracing::error!(%error, "a transaction was not committed");
    ApiError::internal()
}

pub(crate) fn bad_token() -> ApiError {
    invalid("Invalid token.")
}
