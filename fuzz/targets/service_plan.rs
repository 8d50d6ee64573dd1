#![no_main]
//! The service scheduler's plan for services in any state.

libfuzzer_sys::fuzz_target!(|input: &[u8]| ferrogate_ecs::fuzzing::service_plan(input));
