//! The registry's HTTP API (OCI distribution-spec, pull), read with a limit and a deadline on everything.
//!
//! This is reqwest and not oci-client, for what a registry nobody vouches for can do: oci-client 0.18 reads manifests,
//! tokens and error bodies whole whatever their size; keeps the first credentials it saw for a registry for its
//! lifetime, where ours belong to one pull; asks `/v2/` anew before every request to a registry without tokens; drops
//! a refused token silently; and hides the status code that a stoppedReason has to show.

mod auth;
mod place;

use std::hash::{DefaultHasher, Hash, Hasher};

use bytes::Bytes;
use reqwest::header::{ACCEPT, CONTENT_RANGE, HeaderMap, RANGE};
use reqwest::{Method, Response, StatusCode};

use crate::config::{Auth, Config, Slowest, Timeouts};
use crate::digest::Digest;
use crate::error::{Cause, CauseKind, StoreError};
use crate::manifest::{ACCEPTED, Descriptor};
use crate::reference::ImageRef;
use place::{Mirrors, Place};

const REDIRECTS_MAX: usize = 10;
/// Of an error's body, for its message.
const ERROR_BODY_BYTES_MAX: usize = 8 << 10;
const ERROR_MESSAGE_CHARS_MAX: usize = 500;
/// Other places tried for one layer.
const FOREIGN_URLS_MAX: usize = 4;
const DIGEST_HEADER: &str = "docker-content-digest";
const USER_AGENT: &str = concat!("ferrogate/", env!("CARGO_PKG_VERSION"));

pub(crate) struct Registry {
    proxied: reqwest::Client,
    /// For loopback, where a proxy from the environment has no say.
    direct: reqwest::Client,
    mirrors: Mirrors,
    tokens: auth::Tokens,
    timeouts: Timeouts,
    manifest_bytes_max: u64,
}

/// One repository as one caller sees it.
pub(crate) struct Source {
    place: Place,
    auth: Auth,
    /// Tag or digest to ask for.
    version: String,
    reference: String,
}

impl Source {
    /// Same place, same caller: same answers.
    pub(crate) fn id(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        (&self.place.base, &self.place.repository, &self.auth).hash(&mut hasher);
        hasher.finish()
    }

    /// Names the fact that this place gave this document to this caller.
    pub(crate) fn proof_of(&self, document: &Digest) -> Digest {
        let (user, password) = match &self.auth {
            Auth::Anonymous => ("", ""),
            Auth::Basic { user, password } => (user.as_str(), password.as_str()),
        };
        let parts =
            [self.place.base.as_str(), self.place.repository.as_str(), user, password, document.as_str()];
        // With lengths, so that no two lists look alike. A hash, so that no password is kept.
        Digest::of(parts.map(|part| format!("{}:{part}", part.len())).concat().as_bytes())
    }

    fn url(&self, kind: &str, name: &str) -> String {
        format!("{}/v2/{}/{kind}/{name}", self.place.base, self.place.repository)
    }
}

/// A blob's bytes from `offset` on.
pub(crate) struct BlobStream {
    pub(crate) offset: u64,
    response: Response,
}

impl BlobStream {
    pub(crate) async fn chunk(&mut self) -> Result<Option<Bytes>, Cause> {
        self.response.chunk().await.map_err(|error| {
            Cause::new(CauseKind::Unreachable, format!("failed to copy: {}", place::explain(&error, "")))
        })
    }
}

impl Registry {
    pub(crate) fn new(config: &Config) -> Result<Self, StoreError> {
        let client = |builder: reqwest::ClientBuilder| {
            builder
                .user_agent(USER_AGENT)
                .connect_timeout(config.timeouts.connect)
                .read_timeout(config.timeouts.idle)
                .redirect(reqwest::redirect::Policy::custom(redirect))
                .build()
                .map_err(|source| StoreError::Http { source })
        };
        Ok(Registry {
            proxied: client(reqwest::Client::builder())?,
            direct: client(reqwest::Client::builder().no_proxy())?,
            mirrors: Mirrors::new(&config.mirrors, config.own.as_ref())?,
            tokens: auth::Tokens::default(),
            timeouts: config.timeouts,
            manifest_bytes_max: config.limits.manifest_bytes_max,
        })
    }

    pub(crate) fn slowest(&self) -> Slowest {
        self.timeouts.slowest
    }

    /// Where a reference is to be had, after the mirrors.
    pub(crate) fn source(&self, reference: &ImageRef, auth: Auth) -> Result<Source, Cause> {
        let place = self.mirrors.place(reference)?;
        if auth != Auth::Anonymous && !place.trusted {
            let text = format!(
                "{} is plain http: credentials are not sent there; use https or a mirror on loopback",
                place.base
            );
            return Err(Cause::new(CauseKind::Denied, text));
        }
        let version = match (reference.digest(), reference.tag()) {
            (Some(digest), _) => digest.to_string(),
            (None, tag) => tag.unwrap_or_default().to_owned(),
        };
        Ok(Source { place, auth, version, reference: reference.to_string() })
    }

    /// What the tag points at now.
    pub(crate) async fn resolve(&self, source: &Source) -> Result<Digest, Cause> {
        let url = source.url("manifests", &source.version);
        let response = self.send(source, Method::HEAD, &url, manifest_headers()).await?;
        let response = expect_manifest(source, Method::HEAD, response).await?;
        let header = response.headers().get(DIGEST_HEADER).and_then(|value| value.to_str().ok());
        let digest = match header {
            Some(text) => Digest::parse(text)
                .map_err(|error| Cause::new(CauseKind::Malformed, format!("{DIGEST_HEADER}: {error}")))?,
            // The header is optional in the specification.
            None => Digest::of(&self.manifest_bytes(source, &source.version).await?),
        };
        match Digest::parse(&source.version) {
            Ok(asked) if asked != digest => Err(unexpected_digest(&source.reference, &digest, &asked)),
            _ => Ok(digest),
        }
    }

    /// A manifest or index, whole and verified.
    pub(crate) async fn manifest(&self, source: &Source, digest: &Digest) -> Result<Vec<u8>, Cause> {
        verified(self.manifest_bytes(source, digest.as_str()).await?, digest)
    }

    async fn manifest_bytes(&self, source: &Source, version: &str) -> Result<Vec<u8>, Cause> {
        let url = source.url("manifests", version);
        let response = self.send(source, Method::GET, &url, manifest_headers()).await?;
        let response = expect_manifest(source, Method::GET, response).await?;
        self.read_document(response, self.manifest_bytes_max).await
    }

    /// A small blob, whole and verified.
    pub(crate) async fn document(
        &self,
        source: &Source,
        digest: &Digest,
        max: u64,
    ) -> Result<Vec<u8>, Cause> {
        let url = source.url("blobs", digest.as_str());
        let response = self.send(source, Method::GET, &url, HeaderMap::new()).await?;
        let response = expect_blob(&url, response).await?;
        verified(self.read_document(response, max).await?, digest)
    }

    /// Opens a blob at `offset`; a registry without Range starts at 0 again.
    pub(crate) async fn open_blob(
        &self,
        source: &Source,
        blob: &Descriptor,
        offset: u64,
    ) -> Result<BlobStream, Cause> {
        let url = source.url("blobs", blob.digest.as_str());
        let mut headers = HeaderMap::new();
        if offset > 0 {
            headers.insert(RANGE, format!("bytes={offset}-").parse().expect("digits are a header"));
        }
        let response = self.send(source, Method::GET, &url, headers.clone()).await?;
        let response = match expect_blob(&url, response).await {
            Err(cause) if cause.kind == CauseKind::NotFound => {
                self.elsewhere(source, blob, &headers).await.ok_or(cause)?
            }
            other => other?,
        };
        if response.status() != StatusCode::PARTIAL_CONTENT {
            return Ok(BlobStream { offset: 0, response });
        }
        let range = response.headers().get(CONTENT_RANGE).and_then(|value| value.to_str().ok()).unwrap_or("");
        let start =
            range.strip_prefix("bytes ").and_then(|range| range.split('-').next()?.parse::<u64>().ok());
        match start {
            Some(start) if start == offset => Ok(BlobStream { offset, response }),
            _ => {
                let text = format!("failed to copy: {url}: asked for bytes from {offset}, got '{range}'");
                Err(Cause::new(CauseKind::Server, text))
            }
        }
    }

    /// A layer its registry may not distribute (OCI image-spec, "Non-Distributable Layers"), from where the manifest says.
    /// Who wrote the manifest is nobody to us: no credentials, and nowhere inside.
    async fn elsewhere(&self, source: &Source, blob: &Descriptor, headers: &HeaderMap) -> Option<Response> {
        for url in blob.urls.iter().take(FOREIGN_URLS_MAX) {
            let Ok(url) = reqwest::Url::parse(url) else { continue };
            let same_host = url.origin().ascii_serialization() == source.place.base;
            if !same_host && (url.scheme() != "https" || place::is_inside(&url)) {
                continue;
            }
            let client = if same_host { self.client(&source.place) } else { &self.proxied };
            let asked = client.get(url).headers(headers.clone()).send();
            if let Ok(Ok(response)) = tokio::time::timeout(self.timeouts.document, asked).await
                && response.status().is_success()
            {
                return Some(response);
            }
        }
        None
    }

    /// One request, with a token got on the way if the registry wants one.
    async fn send(
        &self,
        source: &Source,
        method: Method,
        url: &str,
        headers: HeaderMap,
    ) -> Result<Response, Cause> {
        let key = auth::Key::of(source);
        let token = self.tokens.get(&key);
        let had_token = token.is_some();
        let response = self.send_once(source, &method, url, &headers, token).await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return Ok(response);
        }
        let challenges = auth::challenges(response.headers());
        // One that is known may have run out; one that is new is the last word.
        let Some(token) = self.authorize(source, &challenges, had_token).await? else { return Ok(response) };
        self.tokens.put(key, &token);
        self.send_once(source, &method, url, &headers, Some(token.header)).await
    }

    async fn send_once(
        &self,
        source: &Source,
        method: &Method,
        url: &str,
        headers: &HeaderMap,
        token: Option<auth::Secret>,
    ) -> Result<Response, Cause> {
        let mut request = self.client(&source.place).request(method.clone(), url).headers(headers.clone());
        if let Some(token) = token {
            request = request.header(reqwest::header::AUTHORIZATION, token.header_value());
        }
        // Until the headers are here; bodies have the client's own deadline between reads.
        match tokio::time::timeout(self.timeouts.document, request.send()).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => {
                Err(place::request_failed(method, url, &place::explain(&error, &source.place.base)))
            }
            Err(_) => Err(place::request_failed(method, url, "context deadline exceeded")),
        }
    }

    fn client(&self, place: &Place) -> &reqwest::Client {
        if place.loopback { &self.direct } else { &self.proxied }
    }

    async fn read_document(&self, mut response: Response, max: u64) -> Result<Vec<u8>, Cause> {
        let read = async {
            let mut bytes = Vec::new();
            loop {
                match response.chunk().await {
                    Ok(None) => return Ok(bytes),
                    Ok(Some(chunk)) if (bytes.len() + chunk.len()) as u64 <= max => {
                        bytes.extend_from_slice(&chunk)
                    }
                    Ok(Some(_)) => {
                        let text = format!("a document of more than {max} bytes");
                        return Err(Cause::new(CauseKind::TooLarge, text));
                    }
                    Err(error) => {
                        let text = format!("failed to read: {}", place::explain(&error, ""));
                        return Err(Cause::new(CauseKind::Unreachable, text));
                    }
                }
            }
        };
        tokio::time::timeout(self.timeouts.document, read)
            .await
            .unwrap_or_else(|_| Err(Cause::new(CauseKind::Unreachable, "context deadline exceeded")))
    }
}

fn manifest_headers() -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(ACCEPT, ACCEPTED.join(", ").parse().expect("media types are a header"));
    headers
}

/// Never from https back to plain http, except on this machine.
fn redirect(attempt: reqwest::redirect::Attempt<'_>) -> reqwest::redirect::Action {
    let from_tls = attempt.previous().last().is_some_and(|url| url.scheme() == "https");
    if attempt.previous().len() > REDIRECTS_MAX {
        attempt.error("too many redirects")
    } else if from_tls && attempt.url().scheme() != "https" && !place::is_loopback(attempt.url()) {
        attempt.error("refused to follow a redirect from https to http")
    } else {
        attempt.follow()
    }
}

fn verified(bytes: Vec<u8>, digest: &Digest) -> Result<Vec<u8>, Cause> {
    let actual = Digest::of(&bytes);
    if actual == *digest { Ok(bytes) } else { Err(unexpected_digest(digest.as_str(), &actual, digest)) }
}

/// containerd's words.
/// How many challenges a WWW-Authenticate header holds.
#[cfg(feature = "fuzzing")]
pub(crate) fn challenges(header: &[u8]) -> usize {
    let Ok(value) = reqwest::header::HeaderValue::from_bytes(header) else { return 0 };
    auth::challenges(&HeaderMap::from_iter([(reqwest::header::WWW_AUTHENTICATE, value)])).len()
}

pub(crate) fn unexpected_digest(name: &str, actual: &Digest, expected: &Digest) -> Cause {
    let text = format!(
        "failed commit on ref \"{name}\": unexpected commit digest {actual}, expected {expected}: failed precondition"
    );
    Cause::new(CauseKind::Corrupt, text)
}

async fn expect_manifest(source: &Source, method: Method, response: Response) -> Result<Response, Cause> {
    let status = response.status();
    match status {
        StatusCode::OK => Ok(response),
        StatusCode::NOT_FOUND => {
            Err(Cause::new(CauseKind::NotFound, format!("{}: not found", source.reference)))
        }
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(denied(response).await),
        _ => {
            let url = response.url().to_string();
            let message = server_message(response).await;
            let text =
                format!("unexpected status from {method} request to {url}: {}{message}", named(status));
            Err(Cause::new(kind_of(status), text))
        }
    }
}

async fn expect_blob(url: &str, response: Response) -> Result<Response, Cause> {
    let status = response.status();
    match status {
        StatusCode::OK | StatusCode::PARTIAL_CONTENT => Ok(response),
        StatusCode::NOT_FOUND => {
            let text = format!(
                "failed to copy: httpReaderSeeker: failed open: content at {url} not found: not found"
            );
            Err(Cause::new(CauseKind::NotFound, text))
        }
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(denied(response).await),
        _ => {
            let message = server_message(response).await;
            let text = format!(
                "failed to copy: httpReaderSeeker: failed open: unexpected status code {url}: {}{message}",
                named(status)
            );
            Err(Cause::new(kind_of(status), text))
        }
    }
}

async fn denied(response: Response) -> Cause {
    let anonymous = response.status() == StatusCode::UNAUTHORIZED;
    let message = server_message(response).await;
    let detail = match message.strip_prefix(" - Server message: ") {
        Some(message) => format!("server message: {message}: authorization failed"),
        None if anonymous => "authorization failed: no basic auth credentials".to_owned(),
        None => "authorization failed".to_owned(),
    };
    auth::access_denied(&detail)
}

fn kind_of(status: StatusCode) -> CauseKind {
    match status {
        StatusCode::TOO_MANY_REQUESTS => CauseKind::RateLimited,
        StatusCode::REQUEST_TIMEOUT => CauseKind::Server,
        status if status.is_client_error() => CauseKind::Malformed,
        _ => CauseKind::Server,
    }
}

/// `500 Internal Server Error`
fn named(status: StatusCode) -> String {
    format!("{} {}", status.as_u16(), status.canonical_reason().unwrap_or("")).trim_end().to_owned()
}

/// ` - Server message: toomanyrequests: …` from the specification's error document, or nothing.
async fn server_message(mut response: Response) -> String {
    let mut bytes = Vec::new();
    while let Ok(Some(chunk)) = response.chunk().await {
        bytes.extend_from_slice(&chunk[..chunk.len().min(ERROR_BODY_BYTES_MAX - bytes.len())]);
        if bytes.len() == ERROR_BODY_BYTES_MAX {
            break;
        }
    }
    let document: serde_json::Value = serde_json::from_slice(&bytes).unwrap_or_default();
    let error = &document["errors"][0];
    let code = error["code"].as_str().unwrap_or("").to_lowercase();
    let message: String = error["message"]
        .as_str()
        .unwrap_or("")
        .chars()
        .filter(|character| !character.is_control())
        .take(ERROR_MESSAGE_CHARS_MAX)
        .collect();
    match (code.is_empty(), message.is_empty()) {
        (true, true) => String::new(),
        (false, true) => format!(" - Server message: {code}"),
        (true, false) => format!(" - Server message: {message}"),
        (false, false) => format!(" - Server message: {code}: {message}"),
    }
}
