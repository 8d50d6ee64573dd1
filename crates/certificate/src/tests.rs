//! The certificates of `testdata` were made by openssl for this: an own CA (P-256), a leaf it issued, and RSA ones that
//! issued themselves. Those that are valid are for a hundred years. `no-serial.pem` is the leaf with nothing for its number.

use super::*;

const CA: &[u8] = include_bytes!("../testdata/ca.pem");
const LEAF: &[u8] = include_bytes!("../testdata/leaf.pem");
const LEAF_KEY: &[u8] = include_bytes!("../testdata/leaf.key");
const NO_SERIAL: &[u8] = include_bytes!("../testdata/no-serial.pem");
const RSA: &[u8] = include_bytes!("../testdata/rsa.pem");
const RSA_KEY: &[u8] = include_bytes!("../testdata/rsa.key");

fn now() -> Timestamp {
    "2027-01-01T00:00:00Z".parse().unwrap()
}

#[test]
fn a_leaf_with_its_chain_says_what_it_is() {
    let facts = check(LEAF, Some(CA), LEAF_KEY, now()).unwrap();
    assert_eq!(facts.domain_name(), "example.com");
    assert_eq!(facts.names, ["example.com", "*.example.com", "10.0.0.1"]);
    assert_eq!(facts.issuer, "CN=Test CA");
    assert_eq!(facts.key_algorithm, "EC-prime256v1");
    assert_eq!(facts.signature_algorithm, "SHA256WITHECDSA");
    assert_eq!(facts.key_usages, ["DIGITAL_SIGNATURE"]);
    assert_eq!(facts.extended_key_usages[0].0, "TLS_WEB_SERVER_AUTHENTICATION");
    assert!(facts.not_after > now());
}

#[test]
fn one_that_issued_itself_needs_no_chain() {
    let facts = check(RSA, None, RSA_KEY, now()).unwrap();
    assert_eq!((facts.key_algorithm.as_str(), facts.names.len()), ("RSA-2048", 0));
    assert_eq!(facts.signature_algorithm, "SHA256WITHRSA");
    check(RSA, Some(RSA), RSA_KEY, now()).unwrap();
}

#[test]
fn what_is_wrong_is_named() {
    let two = [LEAF, CA].concat();
    let wrong_order = [RSA, CA].concat();
    for (certificate, chain, key, error) in [
        (&b"nothing"[..], None, LEAF_KEY, CertificateError::NotPem),
        (&two, None, LEAF_KEY, CertificateError::MoreThanOne { found: 2 }),
        (LEAF, None, RSA_KEY, CertificateError::KeyMismatch),
        (LEAF, None, &b"-----BEGIN PRIVATE KEY-----"[..], CertificateError::KeyNotPem),
        (
            LEAF,
            None,
            &b"-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n"[..],
            CertificateError::KeyEncrypted,
        ),
        (LEAF, Some(RSA), LEAF_KEY, CertificateError::ChainBroken(1)),
        (LEAF, Some(&wrong_order[..]), LEAF_KEY, CertificateError::ChainBroken(1)),
        (LEAF, Some(&b"x"[..]), LEAF_KEY, CertificateError::ChainNotPem),
    ] {
        assert_eq!(check(certificate, chain, key, now()).unwrap_err(), error);
    }
    let after: Timestamp = "2200-01-01T00:00:00Z".parse().unwrap();
    assert!(matches!(check(LEAF, None, LEAF_KEY, after), Err(CertificateError::Expired(_))));
    let before: Timestamp = "2001-01-01T00:00:00Z".parse().unwrap();
    assert!(matches!(check(LEAF, None, LEAF_KEY, before), Err(CertificateError::NotYetValid(_))));
}

/// Found by fuzzing: the tag of a value changed, which only one of the two parsers minds.
#[test]
fn what_a_listener_could_not_serve_is_not_taken() {
    let leaf = str::from_utf8(LEAF).unwrap();
    let broken = leaf.replace("AdBgNVHQ4EFg", "AdBgNVHQ2EFg");
    assert_ne!(leaf, broken);
    let error = check(broken.as_bytes(), None, LEAF_KEY, now()).unwrap_err();
    assert!(matches!(error, CertificateError::Malformed(_)), "{error}");
}

#[test]
fn a_serial_number_has_a_byte_at_least() {
    let error = check(NO_SERIAL, None, LEAF_KEY, now()).unwrap_err();
    assert!(matches!(error, CertificateError::Malformed(_)), "{error}");
}
