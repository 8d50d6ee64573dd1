#![no_main]
//! The first bytes of a client's connection to an application load balancer: heads, chunked bodies.

libfuzzer_sys::fuzz_target!(|input: &[u8]| ferrogate_edge::fuzz::requests(input));
