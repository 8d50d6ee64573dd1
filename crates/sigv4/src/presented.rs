//! What a request presents as its signature, and whether it holds.

use http::{HeaderMap, header};
use jiff::{SignedDuration, Timestamp};

use crate::{
    ChunkDecoder, Request, SigError,
    canonical::{self, is_s3},
    chunks::ChunkSeed,
    keys::{SigningKey, SigningKeyCache, same, sha256_hex},
    timestamp,
};

pub(crate) const ALGORITHM: &str = "AWS4-HMAC-SHA256";
/// How far a request's clock may be from ours, either way ("a request must reach AWS within five minutes").
const SKEW_MINUTES: i64 = 5;
/// The longest life of a presigned URL: a week.
pub(crate) const MAX_EXPIRES_SECONDS: u64 = 604_800;
const MAX_SIGNED_HEADERS: usize = 128;
const MAX_AUTHORIZATION_BYTES: usize = 16 * 1024;
/// How much of a client's own text a message repeats.
const MAX_QUOTED_CHARS: usize = 128;

/// The credential scope: what a signature is good for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Scope {
    /// `YYYYMMDD`.
    pub date: String,
    pub region: String,
    /// The signing name: `ecs`, `elasticloadbalancing`, …
    pub service: String,
}

impl std::fmt::Display for Scope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}/{}/aws4_request", self.date, self.region, self.service)
    }
}

/// Where the signature was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// In the `Authorization` header.
    Header,
    /// In the query, good for this many seconds from its date.
    Presigned { expires_seconds: u32 },
}

/// How the body is bound to the signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Payload {
    /// By the SHA-256 of the body, which [`Presented::verify`] must be given. Every service but S3.
    Body,
    /// By this SHA-256 (lower-case hex), declared in `x-amz-content-sha256`. S3. Whoever does not give the
    /// body's hash to [`Presented::verify`] compares it himself once the body has been read.
    Sha256(String),
    /// Not at all. S3.
    Unsigned,
    /// aws-chunked: read it through [`Verified::chunk_decoder`]. S3.
    Streaming(Streaming),
}

/// The kinds of aws-chunked body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Streaming {
    /// `STREAMING-AWS4-HMAC-SHA256-PAYLOAD`
    Signed,
    /// `STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER`
    SignedTrailer,
    /// `STREAMING-UNSIGNED-PAYLOAD-TRAILER`
    UnsignedTrailer,
}

impl Payload {
    fn declared(value: &str) -> Result<Self, SigError> {
        Ok(match value {
            "UNSIGNED-PAYLOAD" => Self::Unsigned,
            "STREAMING-AWS4-HMAC-SHA256-PAYLOAD" => Self::Streaming(Streaming::Signed),
            "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER" => Self::Streaming(Streaming::SignedTrailer),
            "STREAMING-UNSIGNED-PAYLOAD-TRAILER" => Self::Streaming(Streaming::UnsignedTrailer),
            hash if is_sha256_hex(hash) => Self::Sha256(hash.to_owned()),
            _ => return Err(SigError::ContentSha256Invalid),
        })
    }
}

/// A signature as presented, not yet believed.
#[derive(Debug, Clone)]
pub struct Presented {
    pub access_key_id: String,
    pub scope: Scope,
    /// The session token of temporary credentials; it is for the caller to hold it against the key.
    pub session_token: Option<String>,
    /// Lower-case, sorted.
    pub signed_headers: Vec<String>,
    pub kind: Kind,
    pub payload: Payload,
    /// The path that the signature covers, still percent-encoded. Route on this one: except for S3, `/a/../b`
    /// is signed as `/b`.
    pub path: String,
    signed_at: Timestamp,
    signature: [u8; 32],
    canonical_head: Vec<u8>,
    decoded_content_length: Option<u64>,
}

/// A request whose signature holds.
#[derive(Debug)]
pub struct Verified {
    pub access_key_id: String,
    pub scope: Scope,
    pub payload: Payload,
    seed: Option<ChunkSeed>,
}

impl Verified {
    /// The decoder of an aws-chunked body; `None` when the payload is not [`Payload::Streaming`].
    pub fn chunk_decoder(&self) -> Option<ChunkDecoder> {
        self.seed.as_ref().map(|seed| ChunkDecoder::new(seed.clone()))
    }
}

/// The parts common to both kinds, as text.
struct Parts<'a> {
    kind: Kind,
    credential: &'a str,
    signed_headers: &'a str,
    signature: &'a str,
    date: &'a str,
    session_token: Option<String>,
    /// The payload declared in the query of a presigned request.
    declared: Option<String>,
}

/// Reads the signature of a request without judging it.
///
/// # Errors
/// `MissingAuthenticationToken`, `Incomplete`, `TwoMechanisms`, `HeaderNotSigned`, `Scope` (date or terminator),
/// `Mismatch` (a signature that no key could make) and, for S3, the `ContentSha256…` errors.
pub fn parse(request: &Request<'_>) -> Result<Presented, SigError> {
    let pairs = canonical::query_pairs(request.query_raw);
    let mut decoded: Vec<(String, String)> = Vec::new();
    for (name, value) in pairs.iter().filter(|(name, _)| name.starts_with(b"X-Amz-")) {
        let text = |bytes: &[u8]| {
            // Canonical encoding is ASCII, so only the decoded form can fail to be UTF-8.
            String::from_utf8(canonical::decode(&String::from_utf8_lossy(bytes), false))
                .map_err(|_| incomplete("AWS query-string parameters must be UTF-8."))
        };
        decoded.push((text(name)?, text(value)?));
    }

    let in_query = decoded.iter().any(|(name, _)| name == "X-Amz-Algorithm" || name == "X-Amz-Signature");
    let in_header = request.headers.contains_key(header::AUTHORIZATION);
    let parts = match (in_header, in_query) {
        (true, true) => return Err(SigError::TwoMechanisms),
        (false, false) => return Err(SigError::MissingAuthenticationToken),
        (true, false) => header_parts(request.headers)?,
        (false, true) => query_parts(&decoded)?,
    };
    present(request, &pairs, parts)
}

fn header_parts(headers: &HeaderMap) -> Result<Parts<'_>, SigError> {
    let text = single(headers, "authorization")?.unwrap_or_default();
    if text.len() > MAX_AUTHORIZATION_BYTES {
        return Err(SigError::Incomplete(format!(
            "Authorization header must not be longer than {MAX_AUTHORIZATION_BYTES} bytes."
        )));
    }
    let (algorithm, rest) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
    if algorithm.starts_with("AWS4-") && algorithm != ALGORITHM {
        return Err(SigError::Incomplete(format!("Unsupported AWS 'algorithm': '{}'.", quoted(algorithm))));
    }
    let (mut credential, mut signed_headers, mut signature) = (None, None, None);
    for item in rest.split(',').map(str::trim).filter(|item| !item.is_empty()) {
        let Some((name, value)) = item.split_once('=') else {
            return Err(SigError::Incomplete(format!(
                "'{}' not a valid key=value pair (missing equal-sign) in Authorization header.",
                quoted(item)
            )));
        };
        let slot = match name {
            "Credential" => &mut credential,
            "SignedHeaders" => &mut signed_headers,
            "Signature" => &mut signature,
            _ => continue,
        };
        if slot.replace(value).is_some() {
            return Err(SigError::Incomplete(format!("Authorization header has '{name}' more than once.")));
        }
    }
    let date = match single(headers, "x-amz-date")? {
        Some(date) => Some(date),
        None => single(headers, "date")?,
    };
    let (Some(credential), Some(signed_headers), Some(signature), Some(date), ALGORITHM) =
        (credential, signed_headers, signature, date, algorithm)
    else {
        let mut words = String::new();
        for (name, value) in
            [("Credential", credential), ("Signature", signature), ("SignedHeaders", signed_headers)]
        {
            if value.is_none() {
                words.push_str(&format!("Authorization header requires '{name}' parameter. "));
            }
        }
        if date.is_none() {
            words.push_str(
                "Authorization header requires existence of either a 'X-Amz-Date' or a 'Date' header. ",
            );
        }
        words.push_str(&format!("Authorization={}", quoted(algorithm)));
        return Err(SigError::Incomplete(words));
    };
    Ok(Parts {
        kind: Kind::Header,
        credential,
        signed_headers,
        signature,
        date,
        session_token: single(headers, "x-amz-security-token")?.map(str::to_owned),
        declared: None,
    })
}

fn query_parts(decoded: &[(String, String)]) -> Result<Parts<'_>, SigError> {
    let find = |wanted: &str| -> Result<Option<&str>, SigError> {
        let mut values = decoded.iter().filter(|(name, _)| name == wanted);
        let first = values.next();
        if values.next().is_some() {
            return Err(SigError::Incomplete(format!(
                "AWS query-string parameter '{wanted}' is given twice."
            )));
        }
        Ok(first.map(|(_, value)| value.as_str()))
    };
    let need = |wanted: &str| {
        find(wanted)?.ok_or_else(|| {
            SigError::Incomplete(format!(
                "AWS query-string parameters must include '{wanted}'. Re-examine the query-string parameters."
            ))
        })
    };
    let algorithm = need("X-Amz-Algorithm")?;
    if algorithm != ALGORITHM {
        return Err(SigError::Incomplete(format!("Unsupported AWS 'algorithm': '{}'.", quoted(algorithm))));
    }
    let expires = need("X-Amz-Expires")?;
    let expires_seconds = match expires.parse::<u64>() {
        Ok(seconds) if expires.bytes().all(|b| b.is_ascii_digit()) && seconds <= MAX_EXPIRES_SECONDS => {
            seconds as u32
        }
        Ok(seconds) if seconds > MAX_EXPIRES_SECONDS => {
            return Err(incomplete(
                "X-Amz-Expires must be less than a week (in seconds); that is, the given X-Amz-Expires must be less than 604800 seconds",
            ));
        }
        _ => return Err(incomplete("X-Amz-Expires should be a number")),
    };
    Ok(Parts {
        kind: Kind::Presigned { expires_seconds },
        credential: need("X-Amz-Credential")?,
        signed_headers: need("X-Amz-SignedHeaders")?,
        signature: need("X-Amz-Signature")?,
        date: need("X-Amz-Date")?,
        session_token: find("X-Amz-Security-Token")?.map(str::to_owned),
        declared: find("X-Amz-Content-Sha256")?.map(str::to_owned),
    })
}

fn present(
    request: &Request<'_>,
    pairs: &[(Vec<u8>, Vec<u8>)],
    parts: Parts<'_>,
) -> Result<Presented, SigError> {
    let (access_key_id, scope) = credential(parts.credential)?;
    let signed_at = timestamp::parse_header(parts.date).ok_or_else(|| {
        SigError::Incomplete(format!(
            "Date must be in ISO-8601 'basic format'. Got '{}'. See http://en.wikipedia.org/wiki/ISO_8601",
            quoted(parts.date)
        ))
    })?;
    let basic = timestamp::basic(signed_at);
    if scope.date != basic[..8] {
        return Err(SigError::Scope(format!(
            "Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP: '{}' != '{}', from '{basic}'.",
            scope.date,
            &basic[..8],
        )));
    }
    let signed_headers = signed_headers(parts.signed_headers, request.headers)?;
    let payload = payload(request.headers, &parts, &scope.service)?;
    let decoded_content_length = single(request.headers, "x-amz-decoded-content-length")?
        .map(|text| {
            text.parse().map_err(|_| SigError::MalformedChunk("x-amz-decoded-content-length is no number"))
        })
        .transpose()?;

    let mut signature = [0; 32];
    let lower = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    if !parts.signature.bytes().all(lower) || hex::decode_to_slice(parts.signature, &mut signature).is_err() {
        return Err(SigError::Mismatch);
    }
    let canonical_head = canonical::head(
        request.method,
        request.path_raw,
        pairs,
        request.headers,
        &signed_headers,
        &scope.service,
    )
    .map_err(|_| SigError::Mismatch)?;
    let path = match request.path_raw {
        raw if is_s3(&scope.service) => raw.to_owned(),
        raw => canonical::normalize_path(raw),
    };
    Ok(Presented {
        access_key_id,
        scope,
        session_token: parts.session_token,
        signed_headers,
        kind: parts.kind,
        payload,
        path,
        signed_at,
        signature,
        canonical_head,
        decoded_content_length,
    })
}

fn credential(text: &str) -> Result<(String, Scope), SigError> {
    let fields: Vec<&str> = text.split('/').collect();
    let [access_key_id, date, region, service, terminator] = fields[..] else {
        return Err(SigError::Incomplete(format!(
            "Credential must have exactly 5 slash-delimited elements, e.g. keyid/date/region/service/term, got '{}'",
            quoted(text)
        )));
    };
    if terminator != "aws4_request" {
        return Err(SigError::Scope(format!(
            "Credential should be scoped with a valid terminator: 'aws4_request', not '{}'.",
            quoted(terminator)
        )));
    }
    if access_key_id.is_empty() || region.is_empty() || service.is_empty() {
        return Err(SigError::Incomplete(format!(
            "Credential must have exactly 5 slash-delimited elements, e.g. keyid/date/region/service/term, got '{}'",
            quoted(text)
        )));
    }
    let scope = Scope { date: date.to_owned(), region: region.to_owned(), service: service.to_owned() };
    Ok((access_key_id.to_owned(), scope))
}

/// The list of signed headers, sorted, once it covers what it must: `host` and every `x-amz-*` of the request.
/// An unsigned `x-amz-target` would let whoever sees one call make it another.
fn signed_headers(text: &str, headers: &HeaderMap) -> Result<Vec<String>, SigError> {
    let mut names: Vec<String> = text.split(';').map(str::to_ascii_lowercase).collect();
    if names.len() > MAX_SIGNED_HEADERS {
        return Err(SigError::Incomplete(format!(
            "SignedHeaders must not name more than {MAX_SIGNED_HEADERS} headers."
        )));
    }
    names.sort();
    if names.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(incomplete("SignedHeaders names a header more than once."));
    }
    let has = |name: &str| names.binary_search_by(|probe| probe.as_str().cmp(name)).is_ok();
    if !has("host") {
        return Err(SigError::HeaderNotSigned("Host' or ':authority".into()));
    }
    for name in headers.keys().map(http::HeaderName::as_str) {
        if name.starts_with("x-amz-") && !has(name) {
            return Err(SigError::HeaderNotSigned(name.to_owned()));
        }
    }
    Ok(names)
}

fn payload(headers: &HeaderMap, parts: &Parts<'_>, service: &str) -> Result<Payload, SigError> {
    if !is_s3(service) {
        return Ok(Payload::Body);
    }
    let declared = match &parts.declared {
        Some(declared) => Some(declared.as_str()),
        None => single(headers, "x-amz-content-sha256")?,
    };
    match (declared, parts.kind) {
        (Some(declared), _) => Payload::declared(declared),
        (None, Kind::Presigned { .. }) => Ok(Payload::Unsigned),
        (None, Kind::Header) => Err(SigError::ContentSha256Missing),
    }
}

impl Presented {
    /// Refuses a signature made for another service or, where the service has regions, another region.
    ///
    /// # Errors
    /// [`SigError::Scope`].
    pub fn require_scope(&self, service: &str, region: Option<&str>) -> Result<(), SigError> {
        if self.scope.service != service {
            return Err(SigError::Scope(format!(
                "Credential should be scoped to correct service: '{service}'."
            )));
        }
        match region {
            Some(region) if self.scope.region != region => {
                Err(SigError::Scope("Credential should be scoped to a valid region.".into()))
            }
            _ => Ok(()),
        }
    }

    /// Judges the signature under the access key's secret.
    ///
    /// `body_sha256_hex` is the SHA-256 of the body as received, lower-case hex. [`Payload::Body`] needs it;
    /// [`Payload::Sha256`] is compared with it when given; otherwise it is of no concern.
    ///
    /// # Errors
    /// `Expired`, `NotYetCurrent`, `PresignExpired`, `Mismatch`, `ContentSha256Mismatch`, `BodyHashNotGiven`.
    pub fn verify(
        &self,
        secret: &str,
        body_sha256_hex: Option<&str>,
        now: Timestamp,
    ) -> Result<Verified, SigError> {
        self.check_time(now)?;
        self.check_signature(SigningKey::derive(secret, &self.scope), body_sha256_hex)
    }

    /// As [`Presented::verify`], with the derived key taken from `cache`.
    ///
    /// # Errors
    /// As [`Presented::verify`].
    pub fn verify_cached(
        &self,
        secret: &str,
        body_sha256_hex: Option<&str>,
        now: Timestamp,
        cache: &SigningKeyCache,
    ) -> Result<Verified, SigError> {
        self.check_time(now)?;
        self.check_signature(cache.get(&self.access_key_id, secret, &self.scope), body_sha256_hex)
    }

    fn check_time(&self, now: Timestamp) -> Result<(), SigError> {
        let signed_at = self.signed_at;
        let skew = SignedDuration::from_mins(SKEW_MINUTES);
        let plus = |at: Timestamp, by: SignedDuration| at.checked_add(by).unwrap_or(Timestamp::MAX);
        let minus = |at: Timestamp, by: SignedDuration| at.checked_sub(by).unwrap_or(Timestamp::MIN);
        if signed_at > plus(now, skew) {
            return Err(SigError::NotYetCurrent {
                signed_at: timestamp::basic(signed_at),
                latest: timestamp::basic(plus(now, skew)),
                now: timestamp::basic(now),
            });
        }
        match self.kind {
            Kind::Header if signed_at < minus(now, skew) => Err(SigError::Expired {
                signed_at: timestamp::basic(signed_at),
                earliest: timestamp::basic(minus(now, skew)),
                now: timestamp::basic(now),
                window: format!("{SKEW_MINUTES} min"),
            }),
            Kind::Presigned { expires_seconds } => {
                let expired_at = plus(signed_at, SignedDuration::from_secs(i64::from(expires_seconds)));
                if expired_at >= now {
                    return Ok(());
                }
                Err(SigError::PresignExpired {
                    expired_at: timestamp::basic(expired_at),
                    now: timestamp::basic(now),
                })
            }
            Kind::Header => Ok(()),
        }
    }

    fn check_signature(&self, key: SigningKey, body_sha256_hex: Option<&str>) -> Result<Verified, SigError> {
        let payload_hash = match (&self.payload, body_sha256_hex) {
            (Payload::Body, Some(hash)) => hash,
            (Payload::Body, None) => return Err(SigError::BodyHashNotGiven),
            (Payload::Sha256(declared), _) => declared,
            (Payload::Unsigned, _) => "UNSIGNED-PAYLOAD",
            (Payload::Streaming(Streaming::Signed), _) => "STREAMING-AWS4-HMAC-SHA256-PAYLOAD",
            (Payload::Streaming(Streaming::SignedTrailer), _) => "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER",
            (Payload::Streaming(Streaming::UnsignedTrailer), _) => "STREAMING-UNSIGNED-PAYLOAD-TRAILER",
        };
        let mut canonical = Vec::with_capacity(self.canonical_head.len() + payload_hash.len());
        canonical.extend_from_slice(&self.canonical_head);
        canonical.extend_from_slice(payload_hash.as_bytes());
        let timestamp = timestamp::basic(self.signed_at);
        let to_sign = string_to_sign(&timestamp, &self.scope, &canonical);
        if !same(&key.sign(to_sign.as_bytes()), &self.signature) {
            return Err(SigError::Mismatch);
        }
        // Only now: a wrong key must not learn whether the hash it declares is the body's.
        if let (Payload::Sha256(declared), Some(hash)) = (&self.payload, body_sha256_hex)
            && !same(declared.as_bytes(), hash.as_bytes())
        {
            return Err(SigError::ContentSha256Mismatch);
        }
        let seed = match self.payload {
            Payload::Streaming(streaming) => Some(ChunkSeed {
                streaming,
                key,
                timestamp,
                scope: self.scope.to_string(),
                signature: self.signature,
                decoded_content_length: self.decoded_content_length,
            }),
            _ => None,
        };
        Ok(Verified {
            access_key_id: self.access_key_id.clone(),
            scope: self.scope.clone(),
            payload: self.payload.clone(),
            seed,
        })
    }
}

pub(crate) fn string_to_sign(timestamp: &str, scope: &Scope, canonical: &[u8]) -> String {
    format!("{ALGORITHM}\n{timestamp}\n{scope}\n{}", sha256_hex(canonical))
}

fn is_sha256_hex(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// A header that may be given once only, as text.
fn single<'a>(headers: &'a HeaderMap, name: &'static str) -> Result<Option<&'a str>, SigError> {
    let mut values = headers.get_all(name).iter();
    let Some(first) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(SigError::Incomplete(format!("Header '{name}' must not be given more than once.")));
    }
    match first.to_str() {
        Ok(text) => Ok(Some(text)),
        Err(_) => Err(SigError::Incomplete(format!("Header '{name}' must be printable ASCII."))),
    }
}

fn incomplete(words: &str) -> SigError {
    SigError::Incomplete(words.to_owned())
}

/// A client's own text, short enough and plain enough to be repeated in a message.
fn quoted(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(MAX_QUOTED_CHARS).collect()
}
