//! AWS Signature Version 4: verify what a client sent, sign what we send.
//!
//! Pure: no I/O, no clock (`now` is passed), no store. Verifying has two steps because the secret has to be
//! looked up between them:
//!
//! ```text
//!  parse(&Request) ──▶ Presented ──(look up Presented::access_key_id)──▶ Presented::verify(secret, …) ──▶ Verified
//!                                                                                                   │
//!                                                         aws-chunked body ◀── Verified::chunk_decoder
//! ```
//!
//! Rules are those of "Signature Version 4 for API requests" (IAM User Guide) and "Authenticating Requests"
//! (S3 API reference). Deliberately absent: SigV4A (ECDSA) and Signature Version 2.

mod canonical;
mod chunks;
mod error;
mod keys;
mod presented;
mod sign;
mod timestamp;

pub use chunks::{ChunkDecoder, MAX_SIGNED_CHUNK_BYTES, MAX_TRAILER_BYTES};
pub use error::{Family, SigError};
pub use keys::{SigningKeyCache, sha256_hex};
pub use presented::{Kind, Payload, Presented, Scope, Streaming, Verified, parse};
pub use sign::{Credentials, SignBody, SignError, presign, sign};

use http::HeaderMap;

/// A request as it came over the wire, before any decoding.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// `GET`, `POST`, …
    pub method: &'a str,
    /// The path exactly as sent, percent-encoding included, without the query: `/bkt/a%20b`.
    pub path_raw: &'a str,
    /// What follows `?`, exactly as sent; empty when there is none.
    pub query_raw: &'a str,
    /// The headers. Over HTTP/2 the caller puts `:authority` in as `host`: a signature always covers it.
    pub headers: &'a HeaderMap,
}
