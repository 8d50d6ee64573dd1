#![no_main]
//! Frames between agent and shim, in both directions, and the files a shim leaves for whoever comes after it.

use ferrogate_shim::protocol::{Reply, Request, TaskConfig, TaskState, decode, encode, valid_id};
use serde::Serialize;
use serde::de::DeserializeOwned;

fn frames<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(mut input: &[u8]) {
    while let Ok(Some((message, used))) = decode::<T>(input) {
        assert!((4..=input.len()).contains(&used));
        input = &input[used..];
        let mut frame = Vec::new();
        // Longer only when it is written out: a number as `1e3`, an escape.
        if encode(&message, &mut frame).is_ok() {
            let (again, length) = decode::<T>(&frame).expect("our own frame").expect("a whole one");
            assert_eq!(length, frame.len());
            let mut second = Vec::new();
            encode(&again, &mut second).expect("as long as the first");
            assert_eq!(frame, second);
        }
    }
}

fn file<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(input: &[u8]) {
    if let Ok(value) = serde_json::from_slice::<T>(input) {
        let text = serde_json::to_vec(&value).expect("what was read can be written");
        assert_eq!(serde_json::from_slice::<T>(&text).expect("and read"), value);
    }
}

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    frames::<Request>(input);
    frames::<Reply>(input);
    file::<TaskConfig>(input);
    file::<TaskState>(input);
    if let Ok(text) = std::str::from_utf8(input)
        && valid_id(text).is_ok()
    {
        assert!(!text.contains(['/', '\0']) && text != "." && text != "..");
    }
});
