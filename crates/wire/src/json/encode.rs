//! `Value` → JSON bytes, guided by the schema.

use ferrogate_api::Value;
use ferrogate_api::schema::{Kind, Member, Model, ShapeId, Structure, TimestampFormat};

use crate::scalar;

/// Appends `value` as the JSON of `shape`.
pub(crate) fn encode(
    model: &Model,
    shape: ShapeId,
    member: Option<&Member>,
    value: &Value,
    out: &mut Vec<u8>,
) {
    let of = model.shape(shape);
    match (&of.kind, value) {
        (Kind::Structure(structure), Value::Struct(_) | Value::Map(_)) if !structure.document => {
            out.push(b'{');
            write_structure(model, structure, value, true, out);
            out.push(b'}');
        }
        (Kind::List { member, .. }, Value::List(items)) => {
            out.push(b'[');
            for (at, item) in items.iter().enumerate() {
                if at > 0 {
                    out.push(b',');
                }
                encode(model, member.shape, Some(member), item, out);
            }
            out.push(b']');
        }
        (Kind::Map { value: inside, .. }, Value::Map(entries)) => {
            out.push(b'{');
            for (at, (key, value)) in entries.iter().enumerate() {
                if at > 0 {
                    out.push(b',');
                }
                write_string(key, out);
                out.push(b':');
                encode(model, inside.shape, Some(inside), value, out);
            }
            out.push(b'}');
        }
        (Kind::Timestamp { .. }, Value::Timestamp(_) | Value::String(_)) => {
            let format = scalar::timestamp_format(member, of).unwrap_or(TimestampFormat::UnixTimestamp);
            let text = scalar::format(of, value, format).unwrap_or_default();
            match format {
                TimestampFormat::UnixTimestamp => out.extend_from_slice(text.as_bytes()),
                TimestampFormat::Iso8601 | TimestampFormat::Rfc822 => write_string(&text, out),
            }
        }
        (_, value) => write_any(value, out),
    }
}

/// The members that belong in the body, without the braces. `first`: nothing stands before them.
pub(crate) fn write_structure(
    model: &Model,
    structure: &Structure,
    value: &Value,
    mut first: bool,
    out: &mut Vec<u8>,
) {
    for (member, value) in scalar::members(structure, value) {
        if member.location.is_some() {
            continue;
        }
        if !first {
            out.push(b',');
        }
        first = false;
        write_string(member.location_name.unwrap_or(member.name), out);
        out.push(b':');
        encode(model, member.shape, Some(member), value, out);
    }
}

/// A value no schema speaks about: documents.
pub(crate) fn write_any(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Null => out.extend_from_slice(b"null"),
        Value::Bool(true) => out.extend_from_slice(b"true"),
        Value::Bool(false) => out.extend_from_slice(b"false"),
        Value::Int(number) => write_json(number, out),
        Value::Float(number) if number.is_finite() => write_json(number, out),
        Value::Float(number) => write_string(&scalar::float(*number), out),
        Value::String(text) => write_string(text, out),
        Value::Blob(bytes) => write_string(&scalar::base64_encode(bytes), out),
        Value::Timestamp(at) => {
            out.extend_from_slice(scalar::write_timestamp(*at, TimestampFormat::UnixTimestamp).as_bytes());
        }
        Value::List(items) => {
            out.push(b'[');
            for (at, item) in items.iter().enumerate() {
                if at > 0 {
                    out.push(b',');
                }
                write_any(item, out);
            }
            out.push(b']');
        }
        Value::Map(entries) => write_entries(entries.iter().map(|(key, value)| (key.as_str(), value)), out),
        Value::Struct(members) => write_entries(members.iter().map(|(key, value)| (*key, value)), out),
    }
}

fn write_entries<'v>(entries: impl Iterator<Item = (&'v str, &'v Value)>, out: &mut Vec<u8>) {
    out.push(b'{');
    for (at, (key, value)) in entries.enumerate() {
        if at > 0 {
            out.push(b',');
        }
        write_string(key, out);
        out.push(b':');
        write_any(value, out);
    }
    out.push(b'}');
}

pub(crate) fn write_string(text: &str, out: &mut Vec<u8>) {
    write_json(text, out);
}

fn write_json<T: serde::Serialize + ?Sized>(value: &T, out: &mut Vec<u8>) {
    serde_json::to_writer(out, value).expect("text and finite numbers are JSON, and a Vec takes all");
}
