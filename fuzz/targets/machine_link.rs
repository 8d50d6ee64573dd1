#![no_main]
//! What a micro-VM's guest says to its task's shim, between what the agent asks: a script, a line each.

libfuzzer_sys::fuzz_target!(|input: &[u8]| ferrogate_shim::machine::fuzzing::link(input));
