//! A request's bytes → its input: inflate, measure, hand to the protocol's codec.

use std::borrow::Cow;
use std::io::Read;

use ferrogate_api::schema::{Model, Operation, Protocol};
use ferrogate_api::{ApiError, Value};
use http::header;
use http::request::Parts;

use crate::fault::{Cx, Fault};
use crate::limits::body_bytes_max;
use crate::{cbor, json, query, rest, template};

/// The input of the operation: a `Value::Struct` with the model's member names. Members the model does not know
/// are ignored, as AWS does. Constraints are not looked at: that is [`validate`](crate::validate).
///
/// # Errors
/// A body that does not have the form the protocol and the model ask for: SerializationException and its like,
/// naming the member; RequestEntityTooLarge beyond what `limits.rs` allows.
pub fn decode(
    model: &Model,
    protocol: Protocol,
    operation: &Operation,
    parts: &Parts,
    body: &[u8],
) -> Result<Value, ApiError> {
    let cx = Cx::new(model);
    let value = match operation.input {
        None => Ok(Value::Struct(Vec::new())),
        Some(shape) if model.structure(shape).is_some_and(|of| template::has_raw_payload(model, of)) => {
            rest::decode(&cx, protocol, operation, shape, parts, body)
        }
        Some(shape) => inflated(parts, body, protocol).and_then(|body| match protocol {
            Protocol::Json10 | Protocol::Json11 => json::decode(&cx, shape, &body),
            Protocol::RpcV2Cbor => cbor::decode(&cx, shape, &body),
            Protocol::Query | Protocol::Ec2 => {
                let dialect =
                    if protocol == Protocol::Ec2 { query::Dialect::Ec2 } else { query::Dialect::Query };
                query::decode(&cx, dialect, shape, parts.uri.query().unwrap_or_default(), &body)
            }
            Protocol::RestJson | Protocol::RestXml => {
                rest::decode(&cx, protocol, operation, shape, parts, &body)
            }
        }),
    };
    value.map_err(|fault| fault.into_error(model, protocol))
}

/// The body without its Content-Encoding, and not larger than the protocol allows.
pub(crate) fn inflated<'b>(
    parts: &Parts,
    body: &'b [u8],
    protocol: Protocol,
) -> Result<Cow<'b, [u8]>, Fault> {
    let max = body_bytes_max(protocol);
    let too_large = || Fault::too_large(format!("The body is larger than {max} bytes."));
    let mut gzip = false;
    for encoding in parts.headers.get_all(header::CONTENT_ENCODING) {
        for encoding in encoding.to_str().unwrap_or("?").split(',') {
            match encoding.trim().to_ascii_lowercase().as_str() {
                "" | "identity" | "aws-chunked" => {}
                "gzip" if !gzip => gzip = true,
                other => {
                    return Err(Fault::body(format!(
                        "The Content-Encoding must be gzip or none, not '{other}'."
                    )));
                }
            }
        }
    }
    if !gzip {
        return if body.len() > max { Err(too_large()) } else { Ok(Cow::Borrowed(body)) };
    }
    let mut inflated = Vec::new();
    let limit = u64::try_from(max).unwrap_or(u64::MAX).saturating_add(1);
    flate2::read::MultiGzDecoder::new(body).take(limit).read_to_end(&mut inflated).map_err(|error| {
        Fault::body(format!("The body is not the gzip that its Content-Encoding says: {error}."))
    })?;
    if inflated.len() > max { Err(too_large()) } else { Ok(Cow::Owned(inflated)) }
}
