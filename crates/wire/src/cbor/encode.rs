//! `Value` → CBOR bytes, guided by the schema.

use std::convert::Infallible;

use ferrogate_api::Value;
use ferrogate_api::schema::{Kind, Member, Model, ShapeId, Structure};
use minicbor::data::Tag;
use minicbor::encode::Error;

use crate::scalar;

type Encoder<'o> = minicbor::Encoder<&'o mut Vec<u8>>;
type Written = Result<(), Error<Infallible>>;

/// `value` as the CBOR of `shape`.
pub(crate) fn encode(model: &Model, shape: ShapeId, value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    write(model, shape, value, &mut Encoder::new(&mut out)).expect("a Vec takes all");
    out
}

/// An error: its type and message, and what else the model gives it.
pub(crate) fn write_error(
    model: Option<&Model>,
    code: &str,
    message: (&str, &str),
    more: Option<(&Structure, &Value)>,
) -> Vec<u8> {
    let mut out = Vec::new();
    let mut cbor = Encoder::new(&mut out);
    let fields: Vec<(&Member, &Value)> =
        more.map(|(structure, value)| scalar::members(structure, value).collect()).unwrap_or_default();
    let written = (|| {
        cbor.map(fields.len() as u64 + 2)?.str("__type")?.str(code)?.str(message.0)?.str(message.1)?;
        for (member, value) in fields {
            cbor.str(member.name)?;
            match model {
                Some(model) => write(model, member.shape, value, &mut cbor)?,
                None => write_any(value, &mut cbor)?,
            }
        }
        Written::Ok(())
    })();
    written.expect("a Vec takes all");
    out
}

fn write(model: &Model, shape: ShapeId, value: &Value, cbor: &mut Encoder<'_>) -> Written {
    match (&model.shape(shape).kind, value) {
        (Kind::Structure(structure), Value::Struct(_) | Value::Map(_)) if !structure.document => {
            cbor.map(scalar::members(structure, value).count() as u64)?;
            for (member, value) in scalar::members(structure, value) {
                cbor.str(member.name)?;
                write(model, member.shape, value, cbor)?;
            }
        }
        (Kind::List { member, .. }, Value::List(items)) => {
            cbor.array(items.len() as u64)?;
            for item in items {
                write(model, member.shape, item, cbor)?;
            }
        }
        (Kind::Map { value: inside, .. }, Value::Map(entries)) => {
            cbor.map(entries.len() as u64)?;
            for (key, value) in entries {
                cbor.str(key)?;
                write(model, inside.shape, value, cbor)?;
            }
        }
        (Kind::Float | Kind::Double, Value::Int(number)) => {
            cbor.f64(*number as f64)?;
        }
        (Kind::Timestamp { .. }, Value::String(text)) => match scalar::timestamp(text) {
            Some(at) => write_any(&Value::Timestamp(at), cbor)?,
            None => write_any(value, cbor)?,
        },
        (Kind::Blob { .. }, Value::String(text)) => {
            // The store's form of a blob.
            match scalar::base64_decode(text, &crate::fault::Path::Root) {
                Ok(bytes) => cbor.bytes(&bytes)?,
                Err(_) => cbor.bytes(text.as_bytes())?,
            };
        }
        (_, value) => write_any(value, cbor)?,
    }
    Ok(())
}

fn write_any(value: &Value, cbor: &mut Encoder<'_>) -> Written {
    match value {
        Value::Null => cbor.null()?,
        Value::Bool(value) => cbor.bool(*value)?,
        Value::Int(number) => cbor.i64(*number)?,
        Value::Float(number) => cbor.f64(*number)?,
        Value::String(text) => cbor.str(text)?,
        Value::Blob(bytes) => cbor.bytes(bytes)?,
        Value::Timestamp(at) => {
            let millis = at.as_millisecond();
            let cbor = cbor.tag(Tag::new(1))?;
            if millis % 1000 == 0 { cbor.i64(millis / 1000)? } else { cbor.f64(millis as f64 / 1000.0)? }
        }
        Value::List(items) => {
            cbor.array(items.len() as u64)?;
            for item in items {
                write_any(item, cbor)?;
            }
            cbor
        }
        Value::Map(entries) => {
            cbor.map(entries.len() as u64)?;
            for (key, value) in entries {
                cbor.str(key)?;
                write_any(value, cbor)?;
            }
            cbor
        }
        Value::Struct(members) => {
            cbor.map(members.len() as u64)?;
            for (key, value) in members {
                cbor.str(key)?;
                write_any(value, cbor)?;
            }
            cbor
        }
    };
    Ok(())
}
