#![no_main]
//! Bodies under the rest codec, against every operation.

use ferrogate_api::schema::Protocol;

libfuzzer_sys::fuzz_target!(|input: &[u8]| ferrogate_fuzz::body(
    input,
    &[Protocol::RestJson, Protocol::RestXml]
));
