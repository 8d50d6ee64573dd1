//! Requests that real clients signed (boto3, aws CLI, AWS SDK for JavaScript): each is accepted as captured and
//! refused after any change to what its signature covers.

use base64::{Engine, engine::general_purpose::STANDARD};
use ferrogate_sigv4::{Kind, Payload, Presented, Request, SigError, Verified, parse, sha256_hex};
use http::{HeaderMap, HeaderName, HeaderValue};
use jiff::{SignedDuration, Timestamp};

const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";

#[derive(serde::Deserialize)]
struct Captured {
    method: String,
    path: String,
    headers: Vec<(String, String)>,
    body: String,
}

#[derive(Clone)]
struct Vector {
    line: usize,
    method: String,
    path: String,
    query: String,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Vector {
    fn request(&self) -> Request<'_> {
        Request { method: &self.method, path_raw: &self.path, query_raw: &self.query, headers: &self.headers }
    }

    fn parse(&self) -> Presented {
        parse(&self.request()).unwrap_or_else(|error| panic!("line {}: {error}", self.line))
    }

    fn judge(&self, secret: &str, now: Timestamp) -> Result<Verified, SigError> {
        parse(&self.request())?.verify(secret, Some(&sha256_hex(&self.body)), now)
    }

    fn signed_at(&self) -> Timestamp {
        let text = match self.headers.get("x-amz-date") {
            Some(value) => value.to_str().unwrap().to_owned(),
            None => self.query.split("X-Amz-Date=").nth(1).unwrap()[..16].to_owned(),
        };
        let (day, time) = text.split_once('T').unwrap();
        format!("{}-{}-{}T{}:{}:{}Z", &day[..4], &day[4..6], &day[6..], &time[..2], &time[2..4], &time[4..6])
            .parse()
            .unwrap()
    }
}

fn vectors() -> Vec<Vector> {
    let vectors: Vec<Vector> = include_str!("../testdata/sigv4-captured.jsonl")
        .lines()
        .enumerate()
        .map(|(index, line)| {
            let captured: Captured = serde_json::from_str(line).unwrap();
            let (path, query) = captured.path.split_once('?').unwrap_or((&captured.path, ""));
            let mut headers = HeaderMap::new();
            for (name, value) in &captured.headers {
                headers.append(
                    HeaderName::from_bytes(name.as_bytes()).unwrap(),
                    HeaderValue::from_str(value).unwrap(),
                );
            }
            Vector {
                line: index + 1,
                method: captured.method.clone(),
                path: path.to_owned(),
                query: query.to_owned(),
                headers,
                body: STANDARD.decode(&captured.body).unwrap(),
            }
        })
        .collect();
    assert_eq!(vectors.len(), 27);
    vectors
}

#[track_caller]
fn refused(vector: &Vector, what: &str) -> SigError {
    match vector.judge(SECRET, vectors()[vector.line - 1].signed_at()) {
        Ok(_) => panic!("line {}: accepted with {what}", vector.line),
        Err(error) => error,
    }
}

#[test]
fn all_are_accepted() {
    for vector in vectors() {
        vector
            .judge(SECRET, vector.signed_at())
            .unwrap_or_else(|error| panic!("line {}: {error}", vector.line));
        let presented = vector.parse();
        assert_eq!(presented.access_key_id, "AKIDEXAMPLE");
        assert_eq!(
            (presented.scope.date.as_str(), presented.scope.region.as_str()),
            ("20261121", "eu-west-1")
        );
        presented.require_scope(&presented.scope.service, Some("eu-west-1")).unwrap();
        let wrong = presented.require_scope("nosuch", None).unwrap_err();
        assert_eq!(wrong.to_string(), "Credential should be scoped to correct service: 'nosuch'.");
        assert!(presented.require_scope(&presented.scope.service, Some("us-east-1")).is_err());
    }
    assert_eq!(vectors()[1].parse().session_token.as_deref(), Some("TOKEN/+=abc"));
    assert_eq!(vectors()[17].parse().payload, Payload::Unsigned);
    assert_eq!(vectors()[18].parse().kind, Kind::Presigned { expires_seconds: 3600 });
}

#[test]
fn another_secret_is_refused() {
    for vector in vectors() {
        let error = vector.judge("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEy", vector.signed_at()).unwrap_err();
        assert_eq!(error, SigError::Mismatch, "line {}", vector.line);
    }
}

#[test]
fn every_signed_header_counts() {
    for vector in vectors() {
        for name in vector.parse().signed_headers {
            let key = HeaderName::from_bytes(name.as_bytes()).unwrap();
            let mut changed = vector.clone();
            let value = format!("{}x", vector.headers[&key].to_str().unwrap());
            changed.headers.insert(key.clone(), HeaderValue::from_str(&value).unwrap());
            refused(&changed, &format!("another {name}"));

            let mut removed = vector.clone();
            removed.headers.remove(&key);
            refused(&removed, &format!("no {name}"));

            let mut doubled = vector.clone();
            doubled.headers.append(key, HeaderValue::from_static("x"));
            refused(&doubled, &format!("two {name}"));
        }
    }
}

#[test]
fn a_header_of_amazon_s_cannot_be_added() {
    for vector in vectors() {
        let mut changed = vector.clone();
        changed.headers.insert("x-amz-acl", HeaderValue::from_static("public-read"));
        assert_eq!(refused(&changed, "x-amz-acl"), SigError::HeaderNotSigned("x-amz-acl".into()));
    }
}

#[test]
fn method_path_query_and_body_count() {
    for vector in vectors() {
        let mut changed = vector.clone();
        changed.method = "DELETE".into();
        refused(&changed, "another method");

        for path in [format!("{}x", vector.path), format!("/x{}", vector.path)] {
            let mut changed = vector.clone();
            changed.path = path;
            refused(&changed, "another path");
        }

        for (from, to) in [("", "x=1"), ("=", "=x"), ("&", "x&"), ("MaxResults", "maxResults")] {
            let mut changed = vector.clone();
            changed.query = if from.is_empty() {
                format!("{}&{to}", vector.query)
            } else {
                vector.query.replacen(from, to, 1)
            };
            if changed.query != vector.query {
                refused(&changed, "another query");
            }
        }

        let covered = matches!(vector.parse().payload, Payload::Body | Payload::Sha256(_));
        for at in (0..vector.body.len()).step_by(vector.body.len() / 20 + 1) {
            let mut changed = vector.clone();
            changed.body[at] ^= 1;
            assert_eq!(changed.judge(SECRET, vector.signed_at()).is_err(), covered, "line {}", vector.line);
        }
        let mut longer = vector.clone();
        longer.body.push(b' ');
        assert_eq!(longer.judge(SECRET, vector.signed_at()).is_err(), covered, "line {}", vector.line);
    }
}

#[test]
fn the_parts_of_the_signature_count() {
    for vector in vectors() {
        for (from, to) in [
            ("20261121/", "20261122/"),
            ("20261121%2F", "20261120%2F"),
            ("eu-west-1", "eu-west-2"),
            ("aws4_request", "aws4_reques"),
            ("SignedHeaders=host", "SignedHeaders=host;accept-encoding"),
            ("Expires=3600", "Expires=3601"),
            ("Signature=", "Signature=0"),
            ("AWS4-HMAC-SHA256", "AWS4-HMAC-SHA1"),
        ] {
            let mut changed = vector.clone();
            changed.query = vector.query.replace(from, to);
            if let Some(value) = vector.headers.get("authorization") {
                let value = value.to_str().unwrap().replace(from, to);
                changed.headers.insert("authorization", HeaderValue::from_str(&value).unwrap());
            }
            if changed.query != vector.query || changed.headers != vector.headers {
                refused(&changed, to);
            }
        }
    }
}

#[test]
fn only_five_minutes_either_way() {
    for vector in vectors() {
        let at = |seconds: i64| vector.signed_at().checked_add(SignedDuration::from_secs(seconds)).unwrap();
        vector.judge(SECRET, at(-300)).unwrap();
        assert!(matches!(vector.judge(SECRET, at(-301)), Err(SigError::NotYetCurrent { .. })));
        let last = match vector.parse().kind {
            Kind::Header => 300,
            Kind::Presigned { expires_seconds } => i64::from(expires_seconds),
        };
        vector.judge(SECRET, at(last)).unwrap();
        assert!(matches!(
            vector.judge(SECRET, at(last + 1)),
            Err(SigError::Expired { .. } | SigError::PresignExpired { .. })
        ));
    }
    let vector = &vectors()[0];
    let words = |now: &str| vector.judge(SECRET, now.parse().unwrap()).unwrap_err().to_string();
    assert_eq!(
        words("2026-11-21T03:31:00Z"),
        "Signature expired: 20261121T032535Z is now earlier than 20261121T032600Z (20261121T033100Z - 5 min.)"
    );
    assert_eq!(
        words("2026-11-21T03:20:00Z"),
        "Signature not yet current: 20261121T032535Z is still later than 20261121T032500Z (20261121T032000Z + 5 min.)"
    );
}

#[test]
fn a_captured_chunked_upload_decodes() {
    let vector = &vectors()[24];
    let verified = vector.judge(SECRET, vector.signed_at()).unwrap();
    for piece in [1, 1000, vector.body.len()] {
        let mut decoder = verified.chunk_decoder().unwrap();
        let mut out = Vec::new();
        for part in vector.body.chunks(piece) {
            decoder.push(part, &mut out).unwrap();
        }
        assert_eq!(out.len(), 70_000);
        let trailers = decoder.finish().unwrap();
        assert_eq!(trailers.len(), 1);
        assert_eq!(trailers[0].0, "x-amz-checksum-crc32");
    }
    assert!(vectors()[0].judge(SECRET, vectors()[0].signed_at()).unwrap().chunk_decoder().is_none());
}
