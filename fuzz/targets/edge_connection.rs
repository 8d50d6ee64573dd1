#![no_main]
//! Whole HTTP/1 connections to an application load balancer: what its reader passes and what the HTTP library behind it
//! serves are the same requests, however the bytes are cut. Otherwise one could be put inside another.

libfuzzer_sys::fuzz_target!(|input: &[u8]| ferrogate_edge::alb::fuzzing::connection(input));
