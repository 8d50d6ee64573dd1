//! Signing: for our own clients, for forwarding to another endpoint, for tests.

use http::{HeaderMap, HeaderName, HeaderValue, header};
use jiff::Timestamp;

use crate::{
    Request,
    canonical::{self, is_s3},
    keys::{SigningKey, sha256_hex},
    presented::{ALGORITHM, MAX_EXPIRES_SECONDS, Scope, string_to_sign},
    timestamp,
};

/// Headers that proxies and HTTP libraries change on the way, so that no signature may cover them.
const NEVER_SIGNED: [&str; 14] = [
    "authorization",
    "cache-control",
    "connection",
    "expect",
    "from",
    "keep-alive",
    "max-forwards",
    "pragma",
    "referer",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
];

/// What a request is signed with. `Debug` shows the key id only.
#[derive(Clone)]
pub struct Credentials {
    pub access_key_id: String,
    pub secret_access_key: String,
    pub session_token: Option<String>,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("access_key_id", &self.access_key_id).finish_non_exhaustive()
    }
}

/// How the signature covers the body.
#[derive(Debug, Clone, Copy)]
pub enum SignBody<'a> {
    /// The body itself.
    Bytes(&'a [u8]),
    /// The body's SHA-256, lower-case hex.
    Sha256(&'a str),
    /// Not covered: `UNSIGNED-PAYLOAD`. Only S3 accepts it.
    Unsigned,
}

impl SignBody<'_> {
    fn declaration(&self) -> String {
        match self {
            Self::Bytes(body) => sha256_hex(body),
            Self::Sha256(hash) => (*hash).to_owned(),
            Self::Unsigned => "UNSIGNED-PAYLOAD".to_owned(),
        }
    }
}

/// Why a request cannot be signed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignError {
    #[error("a request is signed for one host: set the host header before signing")]
    HostMissing,
    #[error("the value for header {0} holds characters that no header may hold; check the credentials")]
    InvalidHeaderValue(HeaderName),
    #[error("a presigned URL lives for 1 to {MAX_EXPIRES_SECONDS} seconds, not {0}")]
    InvalidExpires(u64),
}

/// Signs a request; the answer holds the headers to set on it (replace those of the same name):
/// `authorization`, `x-amz-date`, `x-amz-security-token` for temporary credentials, and
/// `x-amz-content-sha256` for S3. Covers every header of the request but those a proxy may change.
///
/// # Errors
/// [`SignError`].
pub fn sign(
    request: &Request<'_>,
    body: SignBody<'_>,
    credentials: &Credentials,
    region: &str,
    service: &str,
    now: Timestamp,
) -> Result<HeaderMap, SignError> {
    let timestamp = timestamp::basic(now);
    let scope = scope(&timestamp, region, service);
    let payload_hash = body.declaration();

    let mut added = HeaderMap::new();
    let mut add = |name: &'static str, value: &str| {
        let value = HeaderValue::from_str(value)
            .map_err(|_| SignError::InvalidHeaderValue(HeaderName::from_static(name)))?;
        added.insert(name, value);
        Ok(())
    };
    add("x-amz-date", &timestamp)?;
    if let Some(token) = &credentials.session_token {
        add("x-amz-security-token", token)?;
    }
    if is_s3(service) {
        add("x-amz-content-sha256", &payload_hash)?;
    }

    let mut headers = request.headers.clone();
    // A forwarded request still carries what its first sender signed with.
    for stale in ["x-amz-date", "x-amz-security-token", "x-amz-content-sha256"] {
        headers.remove(stale);
    }
    for (name, value) in &added {
        headers.insert(name, value.clone());
    }
    let signed_headers = signable(&headers)?;
    let pairs = canonical::query_pairs(request.query_raw);
    let signature = signature(
        request,
        &pairs,
        &headers,
        &signed_headers,
        &payload_hash,
        &timestamp,
        &scope,
        credentials,
    )?;
    let authorization = format!(
        "{ALGORITHM} Credential={}/{scope}, SignedHeaders={}, Signature={signature}",
        credentials.access_key_id,
        signed_headers.join(";"),
    );
    let value = HeaderValue::from_str(&authorization)
        .map_err(|_| SignError::InvalidHeaderValue(header::AUTHORIZATION))?;
    added.insert(header::AUTHORIZATION, value);
    Ok(added)
}

/// Signs a request into its query, and returns the whole query. Good for `expires_seconds` from `now`.
/// For S3 the body is not covered unless [`SignBody`] says so.
///
/// # Errors
/// [`SignError`].
pub fn presign(
    request: &Request<'_>,
    body: SignBody<'_>,
    credentials: &Credentials,
    region: &str,
    service: &str,
    expires_seconds: u64,
    now: Timestamp,
) -> Result<String, SignError> {
    if !(1..=MAX_EXPIRES_SECONDS).contains(&expires_seconds) {
        return Err(SignError::InvalidExpires(expires_seconds));
    }
    let timestamp = timestamp::basic(now);
    let scope = scope(&timestamp, region, service);
    let signed_headers = signable(request.headers)?;
    let payload_hash = body.declaration();

    let mut pairs = canonical::query_pairs(request.query_raw);
    let mut add = |name: &str, value: &str| {
        let mut encoded = Vec::new();
        canonical::encode(value.as_bytes(), None, &mut encoded);
        pairs.push((name.as_bytes().to_vec(), encoded));
    };
    add("X-Amz-Algorithm", ALGORITHM);
    add("X-Amz-Credential", &format!("{}/{scope}", credentials.access_key_id));
    add("X-Amz-Date", &timestamp);
    add("X-Amz-Expires", &expires_seconds.to_string());
    add("X-Amz-SignedHeaders", &signed_headers.join(";"));
    if let Some(token) = &credentials.session_token {
        add("X-Amz-Security-Token", token);
    }
    if is_s3(service) && !matches!(body, SignBody::Unsigned) {
        add("X-Amz-Content-Sha256", &payload_hash);
    }
    pairs.sort();
    let signature = signature(
        request,
        &pairs,
        request.headers,
        &signed_headers,
        &payload_hash,
        &timestamp,
        &scope,
        credentials,
    )?;
    let mut query = Vec::new();
    canonical::join_pairs(pairs.iter(), &mut query);
    query.extend_from_slice(b"&X-Amz-Signature=");
    query.extend_from_slice(signature.as_bytes());
    // Canonical encoding leaves ASCII only.
    Ok(String::from_utf8_lossy(&query).into_owned())
}

fn scope(timestamp: &str, region: &str, service: &str) -> Scope {
    Scope { date: timestamp[..8].to_owned(), region: region.to_owned(), service: service.to_owned() }
}

fn signable(headers: &HeaderMap) -> Result<Vec<String>, SignError> {
    if !headers.contains_key(header::HOST) {
        return Err(SignError::HostMissing);
    }
    let mut names: Vec<String> = headers
        .keys()
        .map(HeaderName::as_str)
        .filter(|name| !NEVER_SIGNED.contains(name) && *name != "x-amzn-trace-id")
        .map(str::to_owned)
        .collect();
    names.sort();
    Ok(names)
}

#[expect(clippy::too_many_arguments, reason = "the parts of one canonical request")]
fn signature(
    request: &Request<'_>,
    pairs: &[(Vec<u8>, Vec<u8>)],
    headers: &HeaderMap,
    signed_headers: &[String],
    payload_hash: &str,
    timestamp: &str,
    scope: &Scope,
    credentials: &Credentials,
) -> Result<String, SignError> {
    let mut canonical =
        canonical::head(request.method, request.path_raw, pairs, headers, signed_headers, &scope.service)
            .map_err(|_| SignError::HostMissing)?;
    canonical.extend_from_slice(payload_hash.as_bytes());
    let key = SigningKey::derive(&credentials.secret_access_key, scope);
    Ok(hex::encode(key.sign(string_to_sign(timestamp, scope, &canonical).as_bytes())))
}
