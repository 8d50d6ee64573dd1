#![no_main]
//! What the agent and a balancer's process say to each other: bytes as they come, and each line as a message of its own.
//! A configuration is compiled as the balancer's process does it.

use std::collections::HashMap;
use std::sync::Arc;

use ferrogate_edge::Edge;
use ferrogate_edge::control::{Configuration, Decoder, FRAME_BYTES_MAX, FromEdge, ToEdge, encode};
use ferrogate_nodeapi::{Condition, Transform};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// What ELB takes; the API checks it, so the process never meets more.
const REGEX_CHARACTERS_MAX: usize = 128;
/// Some take a twentieth of a second here: hundreds would look like one that has no end.
const REGEXES_MAX: usize = 32;

/// However the bytes are cut, the same messages come out.
fn frames<T: Serialize + DeserializeOwned>(bytes: &[u8], cut: usize) -> Vec<T> {
    let whole = decoded::<T>([bytes]);
    let (first, rest) = bytes.split_at(cut.min(bytes.len()));
    let pieces = decoded::<T>([first, rest]);
    let text = |messages: &[T]| serde_json::to_vec(messages).expect("what was read can be written");
    assert_eq!(text(&whole), text(&pieces));
    for message in &whole {
        let frame = encode(message).expect("as long as it came, or little longer");
        let again = decoded::<T>([&frame[..]]);
        assert_eq!(again.len(), 1);
        assert_eq!(encode(&again[0]).expect("as long as the first"), frame);
    }
    whole
}

fn decoded<T: DeserializeOwned>(pieces: impl IntoIterator<Item = impl AsRef<[u8]>>) -> Vec<T> {
    let (mut decoder, mut messages) = (Decoder::default(), Vec::new());
    for piece in pieces {
        decoder.buffer().extend_from_slice(piece.as_ref());
        loop {
            match decoder.message::<T>() {
                Ok(Some(message)) => messages.push(message),
                Ok(None) => break,
                // Nothing that follows means anything.
                Err(_) => return messages,
            }
        }
    }
    messages
}

fn compile(configuration: Configuration) {
    let Configuration { assignment, certificates } = configuration;
    let rules = || assignment.listeners.iter().flat_map(|listener| &listener.rules);
    let in_conditions = rules().flat_map(|rule| &rule.conditions).flat_map(|condition| match condition {
        Condition::HostHeader { regexes, .. }
        | Condition::PathPattern { regexes, .. }
        | Condition::HttpHeader { regexes, .. } => &regexes[..],
        _ => &[],
    });
    let in_transforms = rules().flat_map(|rule| &rule.transforms).map(|transform| match transform {
        Transform::UrlRewrite { regex, .. } | Transform::HostHeaderRewrite { regex, .. } => regex,
    });
    let regexes: Vec<_> = in_conditions.chain(in_transforms).collect();
    if regexes.len() > REGEXES_MAX || regexes.iter().any(|regex| regex.len() > REGEX_CHARACTERS_MAX) {
        return;
    }
    let certificates: HashMap<_, _> =
        certificates.into_iter().map(|(arn, certificate)| (arn, Arc::new(certificate))).collect();
    match Edge::new(assignment.clone(), certificates.clone()) {
        Ok(edge) => edge.apply(assignment, certificates).expect("the same once more"),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let cut = usize::from(input.first().copied().unwrap_or_default());
    frames::<ToEdge>(input, cut);
    frames::<FromEdge>(input, cut);
    for line in input.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let length = u32::try_from(line.len()).expect("an input is short");
        assert!(line.len() < FRAME_BYTES_MAX);
        let frame = [&length.to_be_bytes(), line].concat();
        frames::<FromEdge>(&frame, cut);
        for message in frames::<ToEdge>(&frame, cut) {
            if let ToEdge::Configure(configuration) = message {
                compile(*configuration);
            }
        }
    }
});
