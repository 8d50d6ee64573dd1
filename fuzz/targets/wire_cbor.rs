#![no_main]
//! Bodies under the cbor codec, against every operation.

use ferrogate_api::schema::Protocol;

libfuzzer_sys::fuzz_target!(|input: &[u8]| ferrogate_fuzz::body(input, &[Protocol::RpcV2Cbor]));
