#![no_main]
//! Filter patterns of CloudWatch Logs: the first line is the pattern, the rest the message.

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let (pattern, message) = ferrogate_fuzz::line(input);
    if let (Ok(pattern), Ok(message)) = (std::str::from_utf8(pattern), std::str::from_utf8(message)) {
        ferrogate_logs::fuzzing::filter(pattern, message);
    }
});
