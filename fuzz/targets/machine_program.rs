#![no_main]
//! What a micro-VM's program (QEMU) answers to its task's shim, which asks one thing after the other.

libfuzzer_sys::fuzz_target!(|input: &[u8]| ferrogate_shim::machine::fuzzing::qmp(input));
