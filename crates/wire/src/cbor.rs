//! CBOR, of RPC v2: from bytes to [`Value`](ferrogate_api::Value) and back, the schema in hand.

mod decode;
mod encode;

pub(crate) use decode::decode;
pub(crate) use encode::{encode, write_error};
