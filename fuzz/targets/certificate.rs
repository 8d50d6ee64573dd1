#![no_main]
//! Certificates that are imported: `pem` and texts for certificate, chain and key with a line `%` between them; or `leaf`,
//! `issuer`, `key` and DER that takes the place of that part of a good one. What is taken can be served.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ferrogate_edge::Edge;
use ferrogate_edge::control::{Configuration, ToEdge};
use ferrogate_nodeapi::{BalancerAssignment, Certificate};
use jiff::Timestamp;

const LEAF: &str = include_str!("../../crates/certificate/testdata/leaf.pem");
const LEAF_KEY: &str = include_str!("../../crates/certificate/testdata/leaf.key");
const ISSUER: &str = include_str!("../../crates/certificate/testdata/ca.pem");
const NOW: i64 = 1_798_761_600;

/// A balancer with one HTTPS listener, which needs one certificate.
static BALANCER: LazyLock<(BalancerAssignment, String)> = LazyLock::new(|| {
    let configure = include_str!("../corpus/edge_control/https");
    let Ok(ToEdge::Configure(configuration)) = serde_json::from_str(configure) else {
        panic!("the seed configures a balancer")
    };
    let Configuration { assignment, certificates } = *configuration;
    (assignment, certificates.into_keys().next().expect("it has a certificate"))
});

fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: Vec<&str> = (0..text.len()).step_by(64).map(|at| &text[at..text.len().min(at + 64)]).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

fn parts(input: &[u8]) -> Option<(String, Option<String>, String)> {
    let (part, rest) = ferrogate_fuzz::line(input);
    let (leaf, issuer, key) = (LEAF.to_owned(), Some(ISSUER.to_owned()), LEAF_KEY.to_owned());
    Some(match part {
        b"leaf" => (pem("CERTIFICATE", rest), None, key),
        b"issuer" => (leaf, Some(pem("CERTIFICATE", rest)), key),
        b"key" => (leaf, issuer, pem("PRIVATE KEY", rest)),
        _ => {
            let text = std::str::from_utf8(rest).ok()?;
            let mut texts = text.split("\n%\n").map(str::to_owned);
            let (leaf, issuer) = (texts.next()?, texts.next()?);
            (leaf, Some(issuer).filter(|issuer| !issuer.is_empty()), texts.next()?)
        }
    })
}

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let Some((leaf, issuer, key)) = parts(input) else { return };
    let now = Timestamp::from_second(NOW).expect("a time");
    let chain = issuer.as_deref().map(str::as_bytes);
    let facts = match ferrogate_certificate::check(leaf.as_bytes(), chain, key.as_bytes(), now) {
        Ok(facts) => facts,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    assert!(facts.not_before <= now && now <= facts.not_after, "{facts:?}");
    assert!(!facts.serial.is_empty() && !facts.key_algorithm.is_empty(), "{facts:?}");
    let (assignment, arn) = &*BALANCER;
    let certificate = Certificate {
        chain_pem: format!("{leaf}\n{}", issuer.as_deref().unwrap_or_default()),
        private_key_pem: key,
    };
    let certificates = HashMap::from([(arn.clone(), Arc::new(certificate))]);
    if let Err(error) = Edge::new(assignment.clone(), certificates) {
        panic!("it was taken and cannot be served: {error}");
    }
});
