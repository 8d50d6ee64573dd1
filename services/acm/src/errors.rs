//! ACM's errors.

use ferrogate_api::ApiError;
use ferrogate_certificate::CertificateError;
use ferrogate_store::{StoreError, UpdateError};

pub(crate) fn not_found(arn: &str) -> ApiError {
    ApiError::new("ResourceNotFoundException", format!("Could not find certificate {arn}."))
}

pub(crate) fn invalid_arn(arn: &str) -> ApiError {
    ApiError::new("InvalidArnException", format!("The ARN {arn} is not a valid certificate ARN."))
}

pub(crate) fn validation(message: impl Into<String>) -> ApiError {
    ApiError::new("ValidationException", message)
}

/// AWS has it, this version does not; said rather than ignored.
pub(crate) fn unsupported(what: &str) -> ApiError {
    ApiError::new("InvalidParameterException", format!("Ferrogate does not support {what}. Leave it out."))
}

pub(crate) fn failed(error: StoreError) -> ApiError {
    tracing::error!(%error, "ACM's store failed");
    ApiError::internal()
}

pub(crate) fn refused(error: UpdateError<ApiError>) -> ApiError {
    match error {
        UpdateError::Refused(error) => error,
        UpdateError::Contended { .. } => {
            ApiError::new("ThrottlingException", "Too many changes of this certificate at the same time.")
        }
        UpdateError::Store(error) => failed(error),
    }
}

/// In ACM's words where it has some.
pub(crate) fn from_check(error: &CertificateError) -> ApiError {
    validation(match error {
        CertificateError::NotPem => "The certificate body/chain provided is not in a valid PEM format".to_owned(),
        CertificateError::ChainNotPem => "The certificate chain provided is not in a valid PEM format".to_owned(),
        CertificateError::MoreThanOne { .. } => {
            "The certificate field contains more than one certificate. You can specify only one certificate in this \
             field."
                .to_owned()
        }
        CertificateError::ChainBroken(_) | CertificateError::ChainTooLong { .. } => {
            format!("Could not validate the certificate with the certificate chain: {error}.")
        }
        CertificateError::KeyUnsupported | CertificateError::KeyEncrypted => {
            format!("The private key is not supported: {error}.")
        }
        CertificateError::KeyMismatch => "The private key does not match the certificate.".to_owned(),
        CertificateError::Expired(_) | CertificateError::NotYetValid(_) => {
            format!("The certificate is not valid: {error}.")
        }
        CertificateError::KeyNotPem | CertificateError::Malformed(_) => format!("Could not import: {error}."),
    })
}
