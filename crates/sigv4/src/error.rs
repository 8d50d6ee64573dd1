//! Refusals, in AWS's words. One refusal is spelled differently by each family of services.

/// Which dialect of codes a service speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// JSON 1.0/1.1 and RPC-v2 CBOR: codes end in `Exception`, status 400.
    Json,
    /// REST JSON (EKS, Lambda, EFS …): the same codes, status 403.
    RestJson,
    /// Query and REST XML other than S3 (IAM, STS, Elastic Load Balancing, Route 53 …).
    Query,
    /// EC2's own query dialect: nearly everything is `AuthFailure`.
    Ec2,
    /// Amazon S3.
    S3,
}

/// Why a request is not accepted as signed. `Display` is the message of [`Family::Query`] and
/// [`Family::Json`]; a front end answers with [`SigError::code_for`], [`SigError::message_for`] and
/// [`SigError::status_for`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SigError {
    /// Neither an `Authorization` header nor presigned parameters.
    #[error("Request is missing Authentication Token")]
    MissingAuthenticationToken,
    /// A part of the signature is absent or malformed; the text is the whole message.
    #[error("{0}")]
    Incomplete(String),
    /// Both an `Authorization` header and presigned parameters.
    #[error(
        "Only one auth mechanism allowed; only the X-Amz-Algorithm query parameter, Signature query string parameter or the Authorization header should be specified"
    )]
    TwoMechanisms,
    /// The signature is another than ours.
    #[error(
        "The request signature we calculated does not match the signature you provided. Check your AWS Secret Access Key and signing method. Consult the service documentation for details."
    )]
    Mismatch,
    /// The credential scope is not one for this endpoint; the text is the whole message.
    #[error("{0}")]
    Scope(String),
    /// A header that has to be signed is not.
    #[error("'{0}' must be a 'SignedHeader' in the AWS Authorization.")]
    HeaderNotSigned(String),
    /// Signed longer ago than the signature is good for. Times as `YYYYMMDDTHHMMSSZ`.
    #[error("Signature expired: {signed_at} is now earlier than {earliest} ({now} - {window}.)")]
    Expired { signed_at: String, earliest: String, now: String, window: String },
    /// Signed in the future.
    #[error("Signature not yet current: {signed_at} is still later than {latest} ({now} + 5 min.)")]
    NotYetCurrent { signed_at: String, latest: String, now: String },
    /// A presigned URL past its `X-Amz-Expires`.
    #[error("Signature expired: {expired_at} is now earlier than {now}")]
    PresignExpired { expired_at: String, now: String },
    /// No such access key, or it is inactive.
    #[error("The security token included in the request is invalid.")]
    UnknownAccessKey,
    /// A session token that does not belong to the access key, or none where one is needed.
    #[error("The security token included in the request is invalid.")]
    InvalidSessionToken,
    /// Temporary credentials past their end.
    #[error("The security token included in the request is expired")]
    ExpiredToken,
    /// S3 without `x-amz-content-sha256`.
    #[error("Missing required header for this request: x-amz-content-sha256")]
    ContentSha256Missing,
    /// `x-amz-content-sha256` is neither a hash nor a declaration this endpoint knows.
    #[error(
        "x-amz-content-sha256 must be UNSIGNED-PAYLOAD, STREAMING-UNSIGNED-PAYLOAD-TRAILER, STREAMING-AWS4-HMAC-SHA256-PAYLOAD, STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER or a valid sha256 value."
    )]
    ContentSha256Invalid,
    /// The body is not the one that was signed.
    #[error("The provided 'x-amz-content-sha256' header does not match what was computed.")]
    ContentSha256Mismatch,
    /// [`crate::Presented::verify`] was called without the body's hash though the signature covers it.
    #[error("the signature covers the body, whose SHA-256 was not given to verify")]
    BodyHashNotGiven,
    /// An aws-chunked body that is malformed or beyond a limit; the text says what.
    #[error("The aws-chunked body is malformed: {0}")]
    MalformedChunk(&'static str),
    /// An aws-chunked body that ends early, or whose length is not the declared one.
    #[error("You did not provide the number of bytes specified by the Content-Length HTTP header.")]
    IncompleteBody,
}

impl SigError {
    /// The error code, as `family` spells it.
    pub fn code_for(&self, family: Family) -> &'static str {
        use Family::*;
        match (self, family) {
            (Self::MissingAuthenticationToken, Json | RestJson) => "MissingAuthenticationTokenException",
            (Self::MissingAuthenticationToken, Query | Ec2) => "MissingAuthenticationToken",
            (Self::MissingAuthenticationToken, S3) => "AccessDenied",

            (Self::Incomplete(_), Json | RestJson) => "IncompleteSignatureException",
            (Self::Incomplete(_), Query | Ec2) => "IncompleteSignature",
            (Self::Incomplete(_), S3) => "AuthorizationHeaderMalformed",

            (Self::TwoMechanisms, Json | RestJson) => "IncompleteSignatureException",
            (Self::TwoMechanisms, Query | Ec2) => "IncompleteSignature",
            (Self::TwoMechanisms, S3) => "InvalidArgument",

            (Self::Scope(_), S3) => "AuthorizationHeaderMalformed",
            (Self::HeaderNotSigned(_) | Self::PresignExpired { .. }, S3) => "AccessDenied",
            (Self::Expired { .. } | Self::NotYetCurrent { .. }, S3) => "RequestTimeTooSkewed",
            (
                Self::Mismatch
                | Self::Scope(_)
                | Self::HeaderNotSigned(_)
                | Self::Expired { .. }
                | Self::NotYetCurrent { .. }
                | Self::PresignExpired { .. },
                _,
            ) => match family {
                Json | RestJson => "InvalidSignatureException",
                Query | S3 => "SignatureDoesNotMatch",
                Ec2 => "AuthFailure",
            },

            (Self::UnknownAccessKey | Self::InvalidSessionToken, Json | RestJson) => {
                "UnrecognizedClientException"
            }
            (Self::UnknownAccessKey | Self::InvalidSessionToken, Query) => "InvalidClientTokenId",
            (Self::UnknownAccessKey | Self::InvalidSessionToken, Ec2) => "AuthFailure",
            (Self::UnknownAccessKey, S3) => "InvalidAccessKeyId",
            (Self::InvalidSessionToken, S3) => "InvalidToken",

            (Self::ExpiredToken, Json | RestJson) => "ExpiredTokenException",
            (Self::ExpiredToken, Query | S3) => "ExpiredToken",
            (Self::ExpiredToken, Ec2) => "RequestExpired",

            (Self::ContentSha256Missing, _) => "InvalidRequest",
            (Self::ContentSha256Invalid, _) => "InvalidArgument",
            (Self::ContentSha256Mismatch, S3) => "XAmzContentSHA256Mismatch",
            (Self::ContentSha256Mismatch, Json | RestJson) => "InvalidSignatureException",
            (Self::ContentSha256Mismatch, Query) => "SignatureDoesNotMatch",
            (Self::ContentSha256Mismatch, Ec2) => "AuthFailure",

            (Self::BodyHashNotGiven, Json | RestJson) => "InternalServerException",
            (Self::BodyHashNotGiven, Query | Ec2) => "InternalFailure",
            (Self::BodyHashNotGiven, S3) => "InternalError",
            (Self::MalformedChunk(_), _) => "InvalidRequest",
            (Self::IncompleteBody, _) => "IncompleteBody",
        }
    }

    /// The HTTP status, as `family` sends it.
    pub fn status_for(&self, family: Family) -> u16 {
        use Family::*;
        match (self, family) {
            (Self::BodyHashNotGiven, _) => 500,
            (
                Self::ContentSha256Missing
                | Self::ContentSha256Invalid
                | Self::MalformedChunk(_)
                | Self::IncompleteBody,
                _,
            ) => 400,
            (_, Json) => 400,
            (_, RestJson) => 403,
            (Self::Incomplete(_) | Self::TwoMechanisms, _) => 400,
            (_, Query) => 403,
            (Self::MissingAuthenticationToken, Ec2) => 403,
            (Self::ExpiredToken, Ec2) => 400,
            (_, Ec2) => 401,
            (
                Self::Scope(_) | Self::InvalidSessionToken | Self::ExpiredToken | Self::ContentSha256Mismatch,
                S3,
            ) => 400,
            (_, S3) => 403,
        }
    }

    /// The message, as `family` words it.
    pub fn message_for(&self, family: Family) -> String {
        let words = match (self, family) {
            (Self::MissingAuthenticationToken, Family::Ec2) => {
                "The request must contain either a valid (registered) AWS access key ID or X.509 certificate."
            }
            (Self::ExpiredToken, Family::Ec2) => "Request has expired.",
            (_, Family::Ec2) if self.code_for(family) == "AuthFailure" => {
                "AWS was not able to validate the provided access credentials"
            }

            (Self::MissingAuthenticationToken, Family::S3) => "Access Denied",
            (Self::Mismatch, Family::S3) => {
                "The request signature we calculated does not match the signature you provided. Check your key and signing method."
            }
            (Self::HeaderNotSigned(_), Family::S3) => {
                "There were headers present in the request which were not signed"
            }
            (Self::Expired { .. } | Self::NotYetCurrent { .. }, Family::S3) => {
                "The difference between the request time and the current time is too large."
            }
            (Self::PresignExpired { .. }, Family::S3) => "Request has expired",
            (Self::UnknownAccessKey, Family::S3) => {
                "The AWS Access Key Id you provided does not exist in our records."
            }
            (Self::InvalidSessionToken, Family::S3) => {
                "The provided token is malformed or otherwise invalid."
            }
            (Self::ExpiredToken, Family::S3) => "The provided token has expired.",
            (Self::ContentSha256Mismatch, family) if family != Family::S3 => {
                return Self::Mismatch.message_for(family);
            }
            _ => return self.to_string(),
        };
        words.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_refusal_in_five_dialects() {
        let codes = |error: &SigError| {
            [Family::Json, Family::RestJson, Family::Query, Family::Ec2, Family::S3]
                .map(|family| (error.code_for(family), error.status_for(family)))
        };
        assert_eq!(
            codes(&SigError::Mismatch),
            [
                ("InvalidSignatureException", 400),
                ("InvalidSignatureException", 403),
                ("SignatureDoesNotMatch", 403),
                ("AuthFailure", 401),
                ("SignatureDoesNotMatch", 403),
            ]
        );
        assert_eq!(
            codes(&SigError::UnknownAccessKey),
            [
                ("UnrecognizedClientException", 400),
                ("UnrecognizedClientException", 403),
                ("InvalidClientTokenId", 403),
                ("AuthFailure", 401),
                ("InvalidAccessKeyId", 403),
            ]
        );
        assert_eq!(
            SigError::UnknownAccessKey.message_for(Family::Ec2),
            "AWS was not able to validate the provided access credentials"
        );
        assert_eq!(SigError::ExpiredToken.code_for(Family::Json), "ExpiredTokenException");
    }
}
