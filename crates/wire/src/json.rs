//! JSON, of the RPC protocols and of REST-JSON: straight from bytes to [`Value`](ferrogate_api::Value) and back,
//! the schema in hand, no tree between.

mod decode;
mod encode;

pub(crate) use decode::{decode, decode_any};
pub(crate) use encode::{encode, write_any, write_string, write_structure};
