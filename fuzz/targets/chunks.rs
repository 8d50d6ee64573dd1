#![no_main]
//! aws-chunked bodies: the first byte says the kind, the second how the rest is cut into pieces. However a body is
//! cut, it decodes to the same.

use std::sync::LazyLock;

use ferrogate_sigv4::{ChunkDecoder, Credentials, MAX_SIGNED_CHUNK_BYTES, Request, SignBody, parse, sign};
use http::{HeaderMap, HeaderValue};
use jiff::Timestamp;

const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
const KINDS: [&str; 3] = [
    "STREAMING-AWS4-HMAC-SHA256-PAYLOAD",
    "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER",
    "STREAMING-UNSIGNED-PAYLOAD-TRAILER",
];

static VERIFIED: LazyLock<Vec<ferrogate_sigv4::Verified>> = LazyLock::new(|| {
    let now = Timestamp::from_second(1_795_231_535).expect("a time");
    let credentials = Credentials {
        access_key_id: "AKIDEXAMPLE".into(),
        secret_access_key: SECRET.into(),
        session_token: None,
    };
    let verified = |kind: &&'static str| {
        let mut headers = HeaderMap::new();
        headers.insert("host", HeaderValue::from_static("s3.example"));
        headers.insert("content-encoding", HeaderValue::from_static("aws-chunked"));
        headers.insert("x-amz-trailer", HeaderValue::from_static("x-amz-checksum-crc32"));
        headers.insert("x-amz-decoded-content-length", HeaderValue::from_static("11"));
        let asked = Request { method: "PUT", path_raw: "/b/k", query_raw: "", headers: &headers };
        let added =
            sign(&asked, SignBody::Sha256(kind), &credentials, "us-east-1", "s3", now).expect("signed");
        for (name, value) in &added {
            headers.insert(name, value.clone());
        }
        let signed = Request { method: "PUT", path_raw: "/b/k", query_raw: "", headers: &headers };
        parse(&signed).expect("ours").verify(SECRET, None, now).expect("ours")
    };
    KINDS.iter().map(verified).collect()
});

fn decoder(kind: usize) -> ChunkDecoder {
    VERIFIED[kind].chunk_decoder().expect("a streaming payload")
}

type End = (Vec<u8>, Option<Vec<(String, String)>>);

fn decoded<'a>(mut decoder: ChunkDecoder, pieces: impl Iterator<Item = &'a [u8]>) -> End {
    let mut out = Vec::new();
    for piece in pieces {
        if decoder.push(piece, &mut out).is_err() {
            return (out, None);
        }
    }
    let end = decoder.finish().ok();
    (out, end)
}

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let [kind, cut, body @ ..] = input else { return };
    let kind = usize::from(*kind) % KINDS.len();
    let whole = decoded(decoder(kind), std::iter::once(body));
    let pieces = decoded(decoder(kind), body.chunks(usize::from(*cut) + 1));
    assert!(whole.0.len() as u64 <= MAX_SIGNED_CHUNK_BYTES.max(body.len() as u64));
    match (&whole.1, &pieces.1) {
        (Some(_), Some(_)) => assert_eq!(whole, pieces),
        (None, None) => {}
        _ => panic!("whole {whole:?}, in pieces {pieces:?}"),
    }
    if whole.1.is_some() {
        assert_eq!(whole.0.len(), 11, "as x-amz-decoded-content-length says");
    }
});
