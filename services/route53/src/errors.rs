//! AWS's errors, in AWS's words.

use ferrogate_api::ApiError;
use ferrogate_store::StoreError;

pub(crate) fn invalid_input(message: impl Into<String>) -> ApiError {
    ApiError::new("InvalidInput", message)
}

/// AWS has it, this version does not; said rather than ignored.
pub(crate) fn unsupported(what: &str) -> ApiError {
    invalid_input(format!("Ferrogate does not support {what} yet; leave it out."))
}

pub(crate) fn no_zone(id: &str) -> ApiError {
    ApiError::new("NoSuchHostedZone", format!("No hosted zone found with ID: {id}"))
}

pub(crate) fn no_change(id: &str) -> ApiError {
    ApiError::new("NoSuchChange", format!("No change found with ID: {id}"))
}

pub(crate) fn no_health_check(id: &str) -> ApiError {
    ApiError::new("NoSuchHealthCheck", format!("A health check with id {id} does not exist."))
}

pub(crate) fn invalid_domain(name: &str) -> ApiError {
    ApiError::new("InvalidDomainName", format!("{name} is not a valid domain name."))
}

pub(crate) fn zone_exists(reference: &str) -> ApiError {
    let message =
        format!("A hosted zone has already been created with the specified caller reference: {reference}");
    ApiError::new("HostedZoneAlreadyExists", message)
}

pub(crate) fn conflicting_domain(vpc_id: &str, region: &str, zone_id: &str) -> ApiError {
    let message = format!(
        "The VPC {vpc_id} in region {region} has already been associated with the hosted zone {zone_id} with the same \
         domain name."
    );
    ApiError::new("ConflictingDomainExists", message)
}

pub(crate) fn not_empty() -> ApiError {
    let message =
        "The specified hosted zone contains non-required resource record sets  and so cannot be deleted.";
    ApiError::new("HostedZoneNotEmpty", message)
}

pub(crate) fn invalid_vpc() -> ApiError {
    let message = "The VPC ID that you specified either isn't a valid ID or the current account is not authorized to access this VPC.";
    ApiError::new("InvalidVPCId", message)
}

/// All that is wrong with a batch, together.
pub(crate) fn invalid_batch(messages: &[String]) -> ApiError {
    ApiError::new("InvalidChangeBatch", format!("[{}]", messages.join(", ")))
}

/// The zone is a service's.
pub(crate) fn managed(zone_id: &str, by: &str) -> ApiError {
    let message = format!("The resource hostedzone/{zone_id} can only be managed through {by}");
    ApiError::new("AccessDenied", message).with_status(403)
}

pub(crate) fn limit(message: impl Into<String>) -> ApiError {
    ApiError::new("LimitsExceeded", message)
}

pub(crate) fn store(error: StoreError) -> ApiError {
    tracing::error!(%error, "the store failed");
    ApiError::internal()
}

/// Nothing was changed; the SDKs try again by themselves.
pub(crate) fn contended() -> ApiError {
    let message = "The request was rejected because Route 53 was still processing a prior request.";
    ApiError::new("PriorRequestNotComplete", message)
}
