#![no_main]
//! Frames of ECS Exec's sessions, to both ends and as what opens a session.

libfuzzer_sys::fuzz_target!(|input: &[u8]| ferrogate_session::fuzz(input));
