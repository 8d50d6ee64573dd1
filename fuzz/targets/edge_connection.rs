#![no_main]
//! Whole HTTP/1 connections to an application load balancer: it serves the requests that another reader finds in the same
//! bytes, however they are cut. Otherwise one could be put inside another.

libfuzzer_sys::fuzz_target!(|input: &[u8]| ferrogate_edge::alb::fuzzing::connection(input));
