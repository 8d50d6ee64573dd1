//! Every protocol's round trip against botocore as the client: issue 2, "Shown by tests".
//!
//! `roundtrip.py` serialises random valid inputs of every operation and sends them here; this server detects, decodes
//! and validates them, tells over its control channel what it understood, and answers with the output or the error
//! it was given there. botocore then parses that back.

mod echo;

use std::path::{Path, PathBuf};
use std::process::Command;

/// Runs the Python side against an echo server of its own.
fn round_trip(services: &[&str]) {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let python = python(here);
    let server = echo::Server::start();
    let output = Command::new(&python)
        .arg(here.join("tests/roundtrip.py"))
        .arg(server.url())
        .args(services)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env_remove("HTTP_PROXY")
        .env_remove("http_proxy")
        .env_remove("ALL_PROXY")
        .output()
        .unwrap_or_else(|error| panic!("{}: {error}", python.display()));
    let told = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    println!("{told}");
    assert!(output.status.success(), "botocore and we do not agree:\n{told}\n{errors}");
}

/// A Python with botocore, as scripts/deps sets it up.
fn python(here: &Path) -> PathBuf {
    let python = here.join("../../.cache/venv/bin/python");
    assert!(
        python.exists(),
        "{} is missing: scripts/deps makes it (python3 -m venv .cache/venv, then pip install botocore)",
        python.display()
    );
    python
}

macro_rules! round_trips {
    ($($test:ident: $($service:literal),+;)*) => {$(
        #[test]
        fn $test() {
            round_trip(&[$($service),+]);
        }
    )*};
}

round_trips! {
    json_ecs: "ecs";
    json_logs: "logs";
    json_ecr: "ecr";
    ec2: "ec2";
    query_iam: "iam";
    query_sts: "sts";
    json_sqs: "sqs";
    json_cloudwatch: "cloudwatch:json";
    query_cloudwatch: "cloudwatch:query";
    cbor_cloudwatch: "cloudwatch:smithy-rpc-v2-cbor";
    rest_xml_s3: "s3";
    rest_xml_route53: "route53";
    rest_json_lambda: "lambda";
    rest_json_eks: "eks";
    rest_json_efs: "efs";
}
