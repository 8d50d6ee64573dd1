//! Answers that are event streams: `application/vnd.amazon.eventstream`, CRC-framed messages with typed headers.

use ferrogate_api::Value;
use ferrogate_api::schema::{Kind, Model, Protocol, ShapeId, Structure};
use flate2::Crc;

use crate::{cbor, response, scalar};

pub(crate) const CONTENT_TYPE: &str = "application/vnd.amazon.eventstream";

/// Two lengths and their checksum before, the message's checksum behind.
const FRAME_OVERHEAD: usize = 16;

/// A header whose value is text.
const HEADER_STRING: u8 = 7;

/// The frames of an output that has an event stream, given as the list of its events; `None` for any other.
pub(crate) fn encode(
    model: &Model,
    protocol: Protocol,
    shape: ShapeId,
    structure: &Structure,
    output: &Value,
) -> Option<Vec<u8>> {
    let (stream, events) =
        structure.members.iter().find_map(|member| match &model.shape(member.shape).kind {
            Kind::Structure(events) if events.eventstream => Some((member, events)),
            _ => None,
        })?;
    let mut out = Vec::new();
    if matches!(protocol, Protocol::Json10 | Protocol::Json11 | Protocol::RpcV2Cbor) {
        // RPC protocols send what stands beside the stream as its first event.
        let beside: Vec<_> = scalar::members(structure, output)
            .filter(|(member, _)| member.name != stream.name)
            .map(|(member, value)| (member.name, value.clone()))
            .collect();
        frame(
            "initial-response",
            protocol,
            &payload(model, protocol, shape, &Value::Struct(beside)),
            &mut out,
        );
    }
    for event in output.get(stream.name).and_then(Value::as_list).unwrap_or_default() {
        for (member, value) in scalar::members(events, event) {
            frame(member.name, protocol, &payload(model, protocol, member.shape, value), &mut out);
        }
    }
    Some(out)
}

fn payload(model: &Model, protocol: Protocol, shape: ShapeId, value: &Value) -> Vec<u8> {
    match protocol {
        Protocol::RpcV2Cbor => cbor::encode(model, shape, value),
        _ => response::json_body(model, shape, value),
    }
}

fn frame(event: &str, protocol: Protocol, payload: &[u8], out: &mut Vec<u8>) {
    let content = if protocol == Protocol::RpcV2Cbor { "application/cbor" } else { "application/json" };
    let mut headers = Vec::new();
    for (name, value) in [(":message-type", "event"), (":event-type", event), (":content-type", content)] {
        headers.push(u8::try_from(name.len()).expect("the names are the three above"));
        headers.extend_from_slice(name.as_bytes());
        headers.push(HEADER_STRING);
        headers.extend_from_slice(
            &u16::try_from(value.len()).expect("models have no longer names").to_be_bytes(),
        );
        headers.extend_from_slice(value.as_bytes());
    }
    let start = out.len();
    let length = |bytes: usize| u32::try_from(bytes).expect("no answer is 4 GiB").to_be_bytes();
    out.extend_from_slice(&length(FRAME_OVERHEAD + headers.len() + payload.len()));
    out.extend_from_slice(&length(headers.len()));
    out.extend_from_slice(&checksum(&out[start..]));
    out.extend_from_slice(&headers);
    out.extend_from_slice(payload);
    let whole = checksum(&out[start..]);
    out.extend_from_slice(&whole);
}

fn checksum(bytes: &[u8]) -> [u8; 4] {
    let mut crc = Crc::new();
    crc.update(bytes);
    crc.sum().to_be_bytes()
}
