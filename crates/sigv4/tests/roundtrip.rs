//! What we sign we accept; what nobody signed is refused, in words and never by a panic.

use ferrogate_sigv4::{
    Credentials, Family, Request, SigError, SignBody, SignError, SigningKeyCache, parse, presign, sha256_hex,
    sign,
};
use http::{HeaderMap, HeaderName, HeaderValue};
use jiff::Timestamp;
use proptest::prelude::*;

fn now() -> Timestamp {
    "2026-11-21T03:25:35Z".parse().unwrap()
}

fn credentials(token: Option<String>) -> Credentials {
    Credentials {
        access_key_id: "AKIDEXAMPLE".into(),
        secret_access_key: "secret/+".into(),
        session_token: token,
    }
}

fn host() -> HeaderMap {
    HeaderMap::from_iter([(http::header::HOST, HeaderValue::from_static("localhost:4566"))])
}

fn get(headers: &HeaderMap) -> Result<ferrogate_sigv4::Presented, SigError> {
    parse(&Request { method: "GET", path_raw: "/", query_raw: "", headers })
}

fn with_authorization(value: &str) -> SigError {
    let mut headers = host();
    headers.insert("x-amz-date", HeaderValue::from_static("20261121T032535Z"));
    headers.insert("authorization", HeaderValue::from_str(value).unwrap());
    get(&headers).unwrap_err()
}

fn header_value() -> impl Strategy<Value = HeaderValue> {
    prop::collection::vec(prop_oneof![0x20u8..0x7f, Just(b'\t'), 0x80u8..=0xff, Just(b' ')], 0..24)
        .prop_map(|bytes| HeaderValue::from_bytes(&bytes).unwrap())
}

proptest! {
    #[test]
    fn what_is_signed_verifies(
        s3 in any::<bool>(),
        method in "(GET|PUT|POST|DELETE)",
        path in "(/[a-zA-Z0-9 %+:*.~!'()é&=/-]{0,12}){1,4}",
        query in "([a-zA-Z0-9%+*.~/:=é-]{0,8}(=[a-zA-Z0-9%+*.~/: é-]{0,8})?&?){0,5}",
        values in prop::collection::vec(header_value(), 0..4),
        body in prop::collection::vec(any::<u8>(), 0..64),
        token in prop::option::of("[A-Za-z0-9/+=]{1,40}"),
    ) {
        let service = if s3 { "s3" } else { "ecs" };
        let credentials = credentials(token.clone());
        let mut headers = host();
        for value in values {
            headers.append("x-amz-meta-x", value.clone());
            headers.append("x-other", value);
        }
        let request = Request { method: &method, path_raw: &path, query_raw: &query, headers: &headers };
        let added = sign(&request, SignBody::Bytes(&body), &credentials, "eu-west-1", service, now()).unwrap();
        let mut signed = headers.clone();
        for (name, value) in &added {
            signed.insert(name, value.clone());
        }
        let hash = sha256_hex(&body);
        let presented = parse(&Request { headers: &signed, ..request }).unwrap();
        prop_assert_eq!(&presented.session_token, &token);
        let cache = SigningKeyCache::new(4);
        for _ in 0..2 {
            presented.verify_cached(&credentials.secret_access_key, Some(&hash), now(), &cache).unwrap();
        }
        presented.verify(&credentials.secret_access_key, Some(&hash), now()).unwrap();
        let wrong = presented.verify_cached("another", Some(&hash), now(), &cache).unwrap_err();
        prop_assert_eq!(wrong, SigError::Mismatch);
        let other = sha256_hex(b"another body");
        prop_assert!(presented.verify(&credentials.secret_access_key, Some(&other), now()).is_err());

        let query = presign(&request, SignBody::Bytes(&body), &credentials, "eu-west-1", service, 60, now()).unwrap();
        let presigned = parse(&Request { query_raw: &query, ..request }).unwrap();
        presigned.verify(&credentials.secret_access_key, Some(&hash), now()).unwrap();
        prop_assert_eq!(&presigned.session_token, &token);
    }

    #[test]
    fn any_bytes_never_panic(
        path in "\\PC{0,20}",
        query in "(\\PC{0,8}|X-Amz-(Algorithm|Credential|Date|Expires|SignedHeaders|Signature)=\\PC{0,12}|&){0,10}",
        authorization in prop_oneof![
            header_value(),
            "AWS4-HMAC-SHA256 (Credential=|SignedHeaders=|Signature=|,|/|host|;|=|20261121|aws4_request|a){0,20}"
                .prop_map(|text| HeaderValue::from_str(&text).unwrap()),
        ],
        date in header_value(),
        more in header_value(),
    ) {
        let mut headers = host();
        headers.insert("x-amz-date", date.clone());
        headers.insert("x-amz-content-sha256", more.clone());
        headers.insert("x-amz-decoded-content-length", more.clone());
        headers.append("x-amz-security-token", more);
        let _ = parse(&Request { method: "GET", path_raw: &path, query_raw: &query, headers: &headers });
        headers.insert("authorization", authorization);
        for query in ["", &query] {
            match parse(&Request { method: "GET", path_raw: &path, query_raw: query, headers: &headers }) {
                Ok(presented) => {
                    let _ = presented.verify("secret", Some(&sha256_hex(b"")), now());
                }
                Err(error) => {
                    for family in [Family::Json, Family::RestJson, Family::Query, Family::Ec2, Family::S3] {
                        prop_assert!(!error.code_for(family).is_empty() && !error.message_for(family).is_empty());
                        prop_assert!((400..=500).contains(&error.status_for(family)));
                    }
                }
            }
        }
    }
}

#[test]
fn what_is_missing_is_named() {
    assert_eq!(get(&host()).unwrap_err(), SigError::MissingAuthenticationToken);
    for (value, words) in [
        (
            "AWS4-HMAC-SHA256 Signature=x",
            "Authorization header requires 'Credential' parameter. Authorization header requires 'SignedHeaders' parameter. Authorization=AWS4-HMAC-SHA256",
        ),
        ("Bearer abc", "'abc' not a valid key=value pair (missing equal-sign) in Authorization header."),
        ("AWS4-ECDSA-P256-SHA256 a=b", "Unsupported AWS 'algorithm': 'AWS4-ECDSA-P256-SHA256'."),
        (
            "AWS4-HMAC-SHA256 Credential=a/b/c, SignedHeaders=host, Signature=x",
            "Credential must have exactly 5 slash-delimited elements, e.g. keyid/date/region/service/term, got 'a/b/c'",
        ),
        (
            "AWS4-HMAC-SHA256 Credential=a/20261121/r/s/aws5, SignedHeaders=host, Signature=x",
            "Credential should be scoped with a valid terminator: 'aws4_request', not 'aws5'.",
        ),
        (
            "AWS4-HMAC-SHA256 Credential=a/20261120/r/s/aws4_request, SignedHeaders=host, Signature=x",
            "Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP: '20261120' != '20261121', from '20261121T032535Z'.",
        ),
        (
            "AWS4-HMAC-SHA256 Credential=a/20261121/r/s/aws4_request, SignedHeaders=x-amz-date, Signature=x",
            "'Host' or ':authority' must be a 'SignedHeader' in the AWS Authorization.",
        ),
        (
            "AWS4-HMAC-SHA256 Credential=a/20261121/r/s/aws4_request, SignedHeaders=host, Signature=x",
            "'x-amz-date' must be a 'SignedHeader' in the AWS Authorization.",
        ),
        (
            "AWS4-HMAC-SHA256 Credential=a/20261121/r/s3/aws4_request, SignedHeaders=host;x-amz-date, Signature=x",
            "Missing required header for this request: x-amz-content-sha256",
        ),
        (
            "AWS4-HMAC-SHA256 Credential=a/20261121/r/s/aws4_request, Credential=b, SignedHeaders=host, Signature=x",
            "Authorization header has 'Credential' more than once.",
        ),
    ] {
        assert_eq!(with_authorization(value).to_string(), words);
    }
    let mut twice = host();
    twice.append("authorization", HeaderValue::from_static("a"));
    twice.append("authorization", HeaderValue::from_static("b"));
    assert_eq!(
        get(&twice).unwrap_err().to_string(),
        "Header 'authorization' must not be given more than once."
    );
}

#[test]
fn a_presigned_query_is_whole_and_alone() {
    let headers = host();
    let request = Request { method: "GET", path_raw: "/k", query_raw: "", headers: &headers };
    let credentials = credentials(None);
    let sign =
        |expires| presign(&request, SignBody::Unsigned, &credentials, "eu-west-1", "s3", expires, now());
    assert_eq!(sign(0), Err(SignError::InvalidExpires(0)));
    assert_eq!(sign(604_801), Err(SignError::InvalidExpires(604_801)));
    let query = sign(60).unwrap();
    let judge =
        |query: &str| parse(&Request { query_raw: query, ..request })?.verify("secret/+", None, now());
    judge(&query).unwrap();
    for name in ["Algorithm", "Credential", "Date", "Expires", "SignedHeaders", "Signature"] {
        let without = query.replace(&format!("X-Amz-{name}="), "X-Amz-Other=");
        let words = judge(&without).unwrap_err().to_string();
        assert!(words.contains(&format!("must include 'X-Amz-{name}'")), "{words}");
        let twice = format!("{query}&X-Amz-{name}=x");
        assert!(matches!(judge(&twice).unwrap_err(), SigError::Incomplete(_)));
    }
    for expires in ["604801", "-1", "+60", "x", ""] {
        let changed = query.replace("Expires=60", &format!("Expires={expires}"));
        assert!(matches!(judge(&changed).unwrap_err(), SigError::Incomplete(_)), "{expires}");
    }
    let mut both = host();
    both.insert("authorization", HeaderValue::from_static("AWS4-HMAC-SHA256 x=y"));
    let error = parse(&Request { query_raw: &query, headers: &both, ..request }).unwrap_err();
    assert_eq!(error, SigError::TwoMechanisms);
}

#[test]
fn the_body_s_hash_is_not_optional() {
    let headers = host();
    let request = Request { method: "POST", path_raw: "/", query_raw: "", headers: &headers };
    let added = sign(&request, SignBody::Bytes(b"x"), &credentials(None), "eu-west-1", "ecs", now()).unwrap();
    let mut signed = headers.clone();
    signed.extend(added);
    let presented = parse(&Request { headers: &signed, ..request }).unwrap();
    assert_eq!(presented.verify("secret/+", None, now()).unwrap_err(), SigError::BodyHashNotGiven);
}

#[test]
fn signing_replaces_what_a_first_sender_signed() {
    let mut headers = host();
    headers.insert("authorization", HeaderValue::from_static("stale"));
    headers.insert("x-amz-date", HeaderValue::from_static("20200101T000000Z"));
    headers.insert("x-amz-security-token", HeaderValue::from_static("stale"));
    let request = Request { method: "GET", path_raw: "/", query_raw: "", headers: &headers };
    let added = sign(&request, SignBody::Unsigned, &credentials(None), "eu-west-1", "s3", now()).unwrap();
    let names: Vec<&str> = added.keys().map(HeaderName::as_str).collect();
    assert_eq!(names.len(), 3, "{names:?}");
    let words = added["authorization"].to_str().unwrap();
    assert!(words.contains("SignedHeaders=host;x-amz-content-sha256;x-amz-date,"), "{words}");

    let empty = HeaderMap::new();
    let request = Request { headers: &empty, ..request };
    let refused = sign(&request, SignBody::Unsigned, &credentials(None), "eu-west-1", "s3", now());
    assert_eq!(refused, Err(SignError::HostMissing));
    let headers = host();
    let request = Request { headers: &headers, ..request };
    let refused =
        sign(&request, SignBody::Unsigned, &credentials(Some("a\nb".into())), "eu-west-1", "s3", now());
    assert!(matches!(refused, Err(SignError::InvalidHeaderValue(_))));
    assert_eq!(format!("{:?}", credentials(None)), r#"Credentials { access_key_id: "AKIDEXAMPLE", .. }"#);
}

#[test]
fn the_path_to_route_on_is_the_path_that_was_signed() {
    let headers = host();
    for (service, path) in [("eks", "/clusters/b"), ("s3", "/clusters/a/../b")] {
        let request =
            Request { method: "GET", path_raw: "/clusters/a/../b", query_raw: "", headers: &headers };
        let added =
            sign(&request, SignBody::Bytes(b""), &credentials(None), "eu-west-1", service, now()).unwrap();
        let mut signed = headers.clone();
        signed.extend(added);
        assert_eq!(parse(&Request { headers: &signed, ..request }).unwrap().path, path);
    }
}
