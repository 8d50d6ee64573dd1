#![no_main]
//! What an HTTP/1 target answers to a load balancer: heads and the bodies they frame.

libfuzzer_sys::fuzz_target!(|input: &[u8]| ferrogate_edge::fuzz::replies(input));
