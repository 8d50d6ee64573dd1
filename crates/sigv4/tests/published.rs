//! The examples of AWS's own documentation, signed and verified.

use ferrogate_sigv4::{Credentials, Request, SignBody, parse, presign, sha256_hex, sign};
use http::{HeaderMap, HeaderName, HeaderValue};
use jiff::Timestamp;

fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
    pairs
        .iter()
        .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
        .collect()
}

fn s3_credentials() -> Credentials {
    Credentials {
        access_key_id: "AKIAIOSFODNN7EXAMPLE".into(),
        secret_access_key: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY".into(),
        session_token: None,
    }
}

fn s3_date() -> Timestamp {
    "2013-05-24T00:00:00Z".parse().unwrap()
}

/// Signs, compares with the published signature, and verifies what it signed.
#[track_caller]
fn check(
    request: &Request<'_>,
    body: &[u8],
    credentials: &Credentials,
    service: &str,
    now: Timestamp,
    signature: &str,
) {
    let added = sign(request, SignBody::Bytes(body), credentials, "us-east-1", service, now).unwrap();
    let authorization = added["authorization"].to_str().unwrap();
    assert!(authorization.ends_with(&format!("Signature={signature}")), "{authorization}");

    let mut headers = request.headers.clone();
    headers.extend(added);
    let presented = parse(&Request { headers: &headers, ..*request }).unwrap();
    presented.verify(&credentials.secret_access_key, Some(&sha256_hex(body)), now).unwrap();
}

#[test]
fn iam_user_guide() {
    let credentials = Credentials {
        access_key_id: "AKIDEXAMPLE".into(),
        secret_access_key: "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY".into(),
        session_token: None,
    };
    let headers = headers(&[
        ("content-type", "application/x-www-form-urlencoded; charset=utf-8"),
        ("host", "iam.amazonaws.com"),
    ]);
    let request = Request {
        method: "GET",
        path_raw: "/",
        query_raw: "Action=ListUsers&Version=2010-05-08",
        headers: &headers,
    };
    let now = "2015-08-30T12:36:00Z".parse().unwrap();
    let signature = "5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7";
    check(&request, b"", &credentials, "iam", now, signature);
}

#[test]
fn s3_api_reference() {
    let host = ("host", "examplebucket.s3.amazonaws.com");
    for (method, path_raw, query_raw, more, body, signature) in [
        (
            "GET",
            "/test.txt",
            "",
            &[host, ("range", "bytes=0-9")][..],
            &b""[..],
            "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
        ),
        (
            "PUT",
            "/test$file.text",
            "",
            &[host, ("date", "Fri, 24 May 2013 00:00:00 GMT"), ("x-amz-storage-class", "REDUCED_REDUNDANCY")],
            b"Welcome to Amazon S3.",
            "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd",
        ),
        (
            "GET",
            "/",
            "lifecycle",
            &[host],
            b"",
            "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543",
        ),
        (
            "GET",
            "/",
            "prefix=J&max-keys=2",
            &[host],
            b"",
            "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7",
        ),
    ] {
        let headers = headers(more);
        let request = Request { method, path_raw, query_raw, headers: &headers };
        check(&request, body, &s3_credentials(), "s3", s3_date(), signature);
    }
}

#[test]
fn s3_presigned() {
    let headers = headers(&[("host", "examplebucket.s3.amazonaws.com")]);
    let request = Request { method: "GET", path_raw: "/test.txt", query_raw: "", headers: &headers };
    let query =
        presign(&request, SignBody::Unsigned, &s3_credentials(), "us-east-1", "s3", 86_400, s3_date())
            .unwrap();
    assert_eq!(
        query,
        "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2Fus-east-1%2Fs3%2Faws4_request&X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400&X-Amz-SignedHeaders=host&X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404"
    );
}
