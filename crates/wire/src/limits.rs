//! How much a request may hold. Beyond them a request is refused; nothing is cut silently.

use ferrogate_api::schema::Protocol;

/// A structured body, before and after inflating. ECR's UploadLayerPart carries 20 MB as base64 in JSON, Lambda's
/// CreateFunction 50 MB; a query request is a form, and a form that long is a mistake.
pub(crate) fn body_bytes_max(protocol: Protocol) -> usize {
    match protocol {
        Protocol::Json10 | Protocol::Json11 => 32 << 20,
        Protocol::RestJson => 72 << 20,
        Protocol::Query | Protocol::Ec2 => 8 << 20,
        Protocol::RestXml => 16 << 20,
        Protocol::RpcV2Cbor => 16 << 20,
    }
}

/// Structures within lists within structures …
pub(crate) const DEPTH_MAX: usize = 64;

/// Values of one request, all depths together. PutLogEvents with its 10,000 events has 30,000.
pub(crate) const VALUES_MAX: usize = 500_000;

/// Name–value pairs of one query request.
pub(crate) const QUERY_PARAMETERS_MAX: usize = 100_000;

/// Constraint violations told to the caller; the count says how many there were.
pub(crate) const VIOLATIONS_TOLD_MAX: usize = 50;

/// Characters of an offending value that an error repeats.
pub(crate) const VALUE_TOLD_CHARS_MAX: usize = 2_048;

/// Steps a pattern with look-around may take before the value counts as not matching.
pub(crate) const PATTERN_STEPS_MAX: usize = 100_000;
