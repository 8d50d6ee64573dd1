//! AWS's errors, in AWS's words.

use ferrogate_api::{ApiError, Value};
use ferrogate_store::{StoreError, UpdateError};

pub(crate) fn invalid_input(message: impl Into<String>) -> ApiError {
    ApiError::new("InvalidInput", message)
}

/// AWS has it, this version does not; said rather than ignored.
pub(crate) fn unsupported(what: &str) -> ApiError {
    invalid_input(format!("Ferrogate does not support {what} yet; leave it out."))
}

pub(crate) fn no_namespace(id: &str) -> ApiError {
    ApiError::new("NamespaceNotFound", format!("Failed to find namespace {id}."))
}

pub(crate) fn no_service(id: &str) -> ApiError {
    ApiError::new("ServiceNotFound", format!("Failed to find service {id}."))
}

pub(crate) fn no_instance(id: &str, service_id: &str) -> ApiError {
    ApiError::new("InstanceNotFound", format!("Failed to find instance {id} of service {service_id}."))
}

pub(crate) fn no_operation(id: &str) -> ApiError {
    ApiError::new("OperationNotFound", format!("Failed to find operation {id}."))
}

pub(crate) fn no_resource(arn: &str) -> ApiError {
    ApiError::new("ResourceNotFoundException", format!("Resource {arn} does not exist."))
}

pub(crate) fn no_custom_health(service_id: &str) -> ApiError {
    let message = format!(
        "The custom health status is not found for service {service_id}: it has no HealthCheckCustomConfig."
    );
    ApiError::new("CustomHealthNotFound", message)
}

pub(crate) fn in_use(message: impl Into<String>) -> ApiError {
    ApiError::new("ResourceInUse", message)
}

pub(crate) fn limit(message: impl Into<String>) -> ApiError {
    ApiError::new("ResourceLimitExceeded", message)
}

/// The same call is under way.
pub(crate) fn duplicate(operation_id: &str) -> ApiError {
    ApiError::new("DuplicateRequest", "The operation is already in progress.")
        .with_member("DuplicateOperationId", Value::String(operation_id.to_owned()))
}

pub(crate) fn namespace_exists(id: &str, creator_request_id: &str) -> ApiError {
    ApiError::new("NamespaceAlreadyExists", "The namespace that you're trying to create already exists.")
        .with_member("NamespaceId", Value::String(id.to_owned()))
        .with_member("CreatorRequestId", Value::String(creator_request_id.to_owned()))
}

pub(crate) fn service_exists(id: &str, arn: &str, creator_request_id: &str) -> ApiError {
    ApiError::new(
        "ServiceAlreadyExists",
        "The service can't be created because a service with the same name already exists.",
    )
    .with_member("ServiceId", Value::String(id.to_owned()))
    .with_member("ServiceArn", Value::String(arn.to_owned()))
    .with_member("CreatorRequestId", Value::String(creator_request_id.to_owned()))
}

pub(crate) fn too_many_tags(arn: &str, most: usize) -> ApiError {
    ApiError::new("TooManyTagsException", format!("The resource can have {most} tags at most."))
        .with_member("ResourceName", Value::String(arn.to_owned()))
}

pub(crate) fn bad_token() -> ApiError {
    invalid_input("Invalid NextToken.")
}

pub(crate) fn store(error: StoreError) -> ApiError {
    tracing::error!(%error, "the store failed");
    ApiError::internal()
}

/// Nothing was changed; the SDKs try again by themselves.
pub(crate) fn contended() -> ApiError {
    ApiError::new(
        "RequestLimitExceeded",
        "The operation can't be completed because you've reached the quota for the number of requests.",
    )
}

pub(crate) fn update(error: UpdateError<ApiError>) -> ApiError {
    match error {
        UpdateError::Refused(error) => error,
        UpdateError::Contended { .. } => contended(),
        UpdateError::Store(error) => store(error),
    }
}
