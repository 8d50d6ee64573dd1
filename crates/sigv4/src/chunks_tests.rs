use super::*;
use crate::presented::Scope;

const SECRET: &str = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";

/// The published example "Signature calculations … transferring payload in multiple chunks", S3 API reference.
fn seed(streaming: Streaming, signature: &str, length: Option<u64>) -> ChunkSeed {
    let scope = Scope { date: "20130524".into(), region: "us-east-1".into(), service: "s3".into() };
    ChunkSeed {
        streaming,
        key: SigningKey::derive(SECRET, &scope),
        timestamp: "20130524T000000Z".into(),
        scope: scope.to_string(),
        signature: super::signature(signature).unwrap(),
        decoded_content_length: length,
    }
}

fn signed_seed() -> ChunkSeed {
    seed(Streaming::Signed, "4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9", Some(66_560))
}

fn published_body() -> Vec<u8> {
    let mut body = Vec::new();
    for (size, signature) in [
        (65_536, "ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648"),
        (1024, "0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497"),
        (0, "b6c6ea8a5354eaf15b3cb7646744f4275b71ea724fed81ceb9323e279d449df9"),
    ] {
        body.extend_from_slice(format!("{size:x};chunk-signature={signature}\r\n").as_bytes());
        body.extend(std::iter::repeat_n(b'a', size));
        body.extend_from_slice(b"\r\n");
    }
    body
}

/// What was decoded, with its trailers; or the error, and what had been decoded before it.
type Decoded = Result<(Vec<u8>, Vec<(String, String)>), (SigError, Vec<u8>)>;

fn decode(seed: ChunkSeed, body: &[u8], piece: usize) -> Decoded {
    let mut decoder = ChunkDecoder::new(seed);
    let mut out = Vec::new();
    for part in body.chunks(piece) {
        if let Err(error) = decoder.push(part, &mut out) {
            // An error stays.
            let before = out.len();
            assert_eq!(decoder.push(b"x", &mut out), Err(error.clone()));
            assert_eq!(out.len(), before);
            return Err((error, out));
        }
    }
    match decoder.finish() {
        Ok(trailers) => Ok((out, trailers)),
        Err(error) => Err((error, out)),
    }
}

/// A body signed as a client would.
fn sign_body(mut seed: ChunkSeed, chunks: &[&[u8]], trailer: Option<(&str, &str)>) -> Vec<u8> {
    let mut body = Vec::new();
    for chunk in chunks.iter().copied().chain([&b""[..]]) {
        let signature = seed.chunk_signature(chunk);
        seed.signature = signature;
        body.extend_from_slice(
            format!("{:x};chunk-signature={}\r\n", chunk.len(), hex::encode(signature)).as_bytes(),
        );
        body.extend_from_slice(chunk);
        if !chunk.is_empty() {
            body.extend_from_slice(b"\r\n");
        }
    }
    if let Some((name, value)) = trailer {
        let signature = seed.trailer_signature(format!("{name}:{value}\n").as_bytes());
        body.extend_from_slice(
            format!("{name}:{value}\r\nx-amz-trailer-signature:{}\r\n", hex::encode(signature)).as_bytes(),
        );
    }
    body.extend_from_slice(b"\r\n");
    body
}

#[test]
fn the_published_example_decodes_however_it_is_cut() {
    let body = published_body();
    for piece in [1, 2, 7, 85, 86, 87, 4096, body.len()] {
        let (out, trailers) = decode(signed_seed(), &body, piece).unwrap();
        assert!(out == vec![b'a'; 66_560] && trailers.is_empty());
    }
}

#[test]
fn every_changed_byte_is_noticed_before_its_chunk_is_handed_on() {
    let body = published_body();
    let first_end = 65_536 + 2 + "10000;chunk-signature=".len() + 64 + 2;
    let second_end = first_end + 1024 + 2 + "400;chunk-signature=".len() + 64 + 2;
    for at in (0..body.len()).step_by(97).chain(second_end - 3..body.len()) {
        let mut changed = body.clone();
        changed[at] ^= 1;
        let (_, out) = decode(signed_seed(), &changed, 4096).expect_err("accepted");
        // The line end after a chunk's data comes after the chunk has been believed.
        let believed = match at + 2 {
            at if at < first_end => 0,
            at if at < second_end => 65_536,
            _ => 66_560,
        };
        assert_eq!(out.len(), believed, "at {at}");
    }
    // Chunks in another order, or dropped, do not chain.
    let swapped = [&body[first_end..], &body[..first_end]].concat();
    assert_eq!(decode(signed_seed(), &swapped, 4096).unwrap_err().0, SigError::Mismatch);
    assert_eq!(decode(signed_seed(), &body[first_end..], 4096).unwrap_err().0, SigError::Mismatch);
    assert_eq!(decode(signed_seed(), &body[..first_end], 4096).unwrap_err().0, SigError::IncompleteBody);
    assert_eq!(decode(signed_seed(), &body[..body.len() - 1], 4096).unwrap_err().0, SigError::IncompleteBody);
    assert_eq!(decode(signed_seed(), b"", 1).unwrap_err().0, SigError::IncompleteBody);
}

#[test]
fn the_published_trailer_example_decodes() {
    let seed = || {
        seed(
            Streaming::SignedTrailer,
            "106e2a8a18243abcf37539882f36619c00e2dfc72633413f02d3b74544bfeb8e",
            Some(66_560),
        )
    };
    let mut body = Vec::new();
    for (size, signature) in [
        (65_536, "b474d8862b1487a5145d686f57f013e54db672cee1c953b3010fb58501ef5aa2"),
        (1024, "1c1344b170168f8e65b41376b44b20fe354e373826ccbbe2c1d40a8cae51e5c7"),
        (0, "2ca2aba2005185cf7159c6277faf83795951dd77a3a99e6e65d5c9f85863f992"),
    ] {
        body.extend_from_slice(format!("{size:x};chunk-signature={signature}\r\n").as_bytes());
        if size > 0 {
            body.extend(std::iter::repeat_n(b'a', size));
            body.extend_from_slice(b"\r\n");
        }
    }
    let (out, _) = {
        let mut body = body.clone();
        let mut after = seed();
        after.signature =
            super::signature("2ca2aba2005185cf7159c6277faf83795951dd77a3a99e6e65d5c9f85863f992").unwrap();
        let trailer = after.trailer_signature(b"x-amz-checksum-crc32c:sOO8/Q==\n");
        assert_eq!(hex::encode(trailer), "d81f82fc3505edab99d459891051a732e8730629a2e4a59689829ca17fe2e435");
        body.extend_from_slice(b"x-amz-checksum-crc32c:sOO8/Q==\n\r\nx-amz-trailer-signature:");
        body.extend_from_slice(hex::encode(trailer).as_bytes());
        body.extend_from_slice(b"\r\n\r\n");
        decode(seed(), &body, 100).unwrap()
    };
    assert_eq!(out.len(), 66_560);
    // Without its signature the trailer is not believed.
    body.extend_from_slice(b"x-amz-checksum-crc32c:sOO8/Q==\r\n\r\n");
    assert_eq!(decode(seed(), &body, 100).unwrap_err().0, SigError::IncompleteBody);
}

#[test]
fn signed_trailers_are_checked() {
    let start = "00".repeat(32);
    let seed = || seed(Streaming::SignedTrailer, &start, None);
    let body = sign_body(seed(), &[b"hello", b"world"], Some(("x-amz-checksum-crc32", "AAAA")));
    let (out, trailers) = decode(seed(), &body, 3).unwrap();
    assert_eq!(out, b"helloworld");
    assert_eq!(trailers, [("x-amz-checksum-crc32".to_owned(), "AAAA".to_owned())]);
    for (from, to) in [("AAAA", "AAAB"), ("crc32:", "crc33:"), ("world", "worle")] {
        let changed = String::from_utf8(body.clone()).unwrap().replace(from, to);
        assert_eq!(decode(seed(), changed.as_bytes(), 3).unwrap_err().0, SigError::Mismatch);
    }
    let mut more = body.clone();
    more.truncate(body.len() - 2);
    more.extend_from_slice(b"x-late:1\r\n\r\n");
    assert!(matches!(decode(seed(), &more, 3).unwrap_err().0, SigError::MalformedChunk(_)));
}

#[test]
fn unsigned_chunks_are_stripped() {
    let seed = |length| seed(Streaming::UnsignedTrailer, &"00".repeat(32), length);
    let body = b"5\r\nhello\r\n6\r\n world\r\n0\r\nX-Amz-Checksum-CRC32:DUoRhQ==\r\n\r\n";
    for piece in 1..body.len() {
        let (out, trailers) = decode(seed(Some(11)), body, piece).unwrap();
        assert_eq!(out, b"hello world");
        assert_eq!(trailers, [("x-amz-checksum-crc32".to_owned(), "DUoRhQ==".to_owned())]);
    }
    assert_eq!(decode(seed(Some(12)), body, 9).unwrap_err().0, SigError::IncompleteBody);
    assert_eq!(decode(seed(Some(10)), body, 9).unwrap_err().0, SigError::IncompleteBody);
    for (bad, why) in [
        (&b"g\r\n"[..], "chunk size is no hexadecimal number"),
        (b"\r\n", "chunk size is no hexadecimal number"),
        (b"+5\r\n", "chunk size is no hexadecimal number"),
        (b"ffffffffffffffff\r\n", "chunk is larger than allowed"),
        (b"fffffffffffffffff\r\n", "chunk size is no hexadecimal number"),
        (b"5\r\nhelloX\r\n", "chunk is longer than it says"),
        (b"0\r\nno colon\r\n", "trailer is not of the form name:value"),
        (b"0\r\n\r\nmore", "bytes follow the last chunk"),
    ] {
        let error = decode(seed(None), bad, 1).unwrap_err().0;
        assert!(
            matches!(error, SigError::MalformedChunk(words) if words == why || words == "a line is longer than allowed"),
            "{error}"
        );
    }
    let long = [b"0\r\n".to_vec(), vec![b'a'; MAX_TRAILER_BYTES + 1]].concat();
    assert!(matches!(decode(seed(None), &long, 1000).unwrap_err().0, SigError::MalformedChunk(_)));
    let many = [b"0\r\n".to_vec(), b"a:b\r\n".repeat(MAX_TRAILER_BYTES / 4 + 1)].concat();
    assert!(matches!(decode(seed(None), &many, 1000).unwrap_err().0, SigError::MalformedChunk(_)));
    let header = vec![b'0'; 1000];
    assert!(matches!(decode(seed(None), &header, 1000).unwrap_err().0, SigError::MalformedChunk(_)));
}

#[test]
fn a_signed_chunk_is_bounded() {
    let body = format!("{:x};chunk-signature={}\r\n", MAX_SIGNED_CHUNK_BYTES + 1, "00".repeat(32));
    let seed = seed(Streaming::Signed, &"00".repeat(32), None);
    let (error, out) = decode(seed, body.as_bytes(), 1000).unwrap_err();
    assert_eq!(error, SigError::MalformedChunk("chunk is larger than allowed"));
    assert!(out.is_empty());
}

proptest::proptest! {
    #[test]
    fn any_bytes_in_any_pieces_never_panic(
        body in proptest::collection::vec(
            proptest::prop_oneof![
                proptest::prelude::Just(b"\r\n".to_vec()),
                proptest::prelude::Just(b"5\r\n".to_vec()),
                proptest::prelude::Just(b"0\r\n".to_vec()),
                proptest::prelude::Just(b";chunk-signature=".to_vec()),
                proptest::collection::vec(proptest::prelude::any::<u8>(), 0..20),
            ],
            0..12,
        ),
        piece in 1..10usize,
    ) {
        for streaming in [Streaming::Signed, Streaming::SignedTrailer, Streaming::UnsignedTrailer] {
            let _ = decode(seed(streaming, &"00".repeat(32), None), &body.concat(), piece);
        }
    }
}
