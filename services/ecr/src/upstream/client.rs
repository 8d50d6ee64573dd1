//! A registry somewhere else, read anonymously, with a limit and a deadline on everything.

use std::time::Duration;

use futures_util::StreamExt;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use reqwest::{Method, Response, StatusCode, Url};
use tokio::io::AsyncWriteExt;

use crate::manifest::{DOCKER_LIST, DOCKER_MANIFEST, MANIFEST_BYTES_MAX, OCI_INDEX, OCI_MANIFEST};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// Question to last byte of a manifest or token; a call of this service takes no longer than the front lets it.
const DOCUMENT_TIMEOUT: Duration = Duration::from_secs(20);
const TOKEN_BYTES_MAX: usize = 256 << 10;
const USER_AGENT: &str = concat!("ferrogate/", env!("CARGO_PKG_VERSION"));

/// Where a host's repositories are really had: what begins with `prefix` comes from `target`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// `docker.io/library/*`, `quay.io/*`: what `*` stands for is appended to the target's path.
    pub prefix: String,
    /// `http://127.0.0.1:5000/library/*`
    pub target: String,
}

/// An upstream of the options makes no sense.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamsError {
    #[error("the registry mirror '{0}' is no http or https URL with a path, as in http://127.0.0.1:5000/*")]
    Target(String),
    #[error("no HTTP client for upstream registries")]
    Client(#[source] reqwest::Error),
}

/// Why something could not be had, in the codes of an image's failure.
#[derive(Debug)]
pub(crate) struct UpstreamError {
    pub(crate) code: &'static str,
    pub(crate) reason: String,
    /// There is nothing of that name here either.
    pub(crate) repository_missing: bool,
}

impl UpstreamError {
    pub(crate) fn new(code: &'static str, reason: impl Into<String>) -> Self {
        Self { code, reason: reason.into(), repository_missing: false }
    }

    pub(crate) fn unavailable(reason: impl Into<String>) -> Self {
        Self::new("UpstreamUnavailable", reason)
    }
}

pub(crate) struct Upstreams {
    rules: Vec<(String, bool, String)>,
    proxied: reqwest::Client,
    /// For this machine, where a proxy from the environment has no say.
    direct: reqwest::Client,
}

/// A repository at its registry: `https://quay.io/v2/a/b`.
#[derive(Clone, Debug)]
pub(crate) struct Remote {
    base: String,
    repository: String,
}

pub(crate) struct RemoteManifest {
    pub(crate) bytes: Vec<u8>,
    pub(crate) media_type: Option<String>,
}

impl Upstreams {
    pub(crate) fn new(upstreams: &[Upstream]) -> Result<Self, UpstreamsError> {
        let mut rules = Vec::new();
        for Upstream { prefix, target } in upstreams {
            let bad = || UpstreamsError::Target(target.clone());
            let url = Url::parse(target.trim_end_matches('*')).map_err(|_| bad())?;
            if !matches!(url.scheme(), "http" | "https") {
                return Err(bad());
            }
            let text = target.trim_end_matches('*').to_owned();
            rules.push((prefix.trim_end_matches('*').to_owned(), prefix.ends_with('*'), text));
        }
        rules.sort_by_key(|(prefix, ..)| std::cmp::Reverse(prefix.len()));
        let client = |builder: reqwest::ClientBuilder| {
            builder
                .user_agent(USER_AGENT)
                .connect_timeout(CONNECT_TIMEOUT)
                .read_timeout(IDLE_TIMEOUT)
                .build()
                .map_err(UpstreamsError::Client)
        };
        Ok(Self {
            rules,
            proxied: client(reqwest::Client::builder())?,
            direct: client(reqwest::Client::builder().no_proxy())?,
        })
    }

    /// Where a repository of a host is.
    pub(crate) fn remote(&self, host: &str, repository: &str) -> Remote {
        // Docker Hub is written otherwise than it is reached.
        let written = if host == "registry-1.docker.io" { "docker.io" } else { host };
        let name = format!("{written}/{repository}");
        for (prefix, wildcard, target) in &self.rules {
            let Some(rest) = name.strip_prefix(prefix.as_str()) else { continue };
            if *wildcard == rest.is_empty() {
                continue;
            }
            let whole = format!("{target}{rest}");
            let (scheme, rest) = whole.split_once("://").unwrap_or(("https", &whole));
            let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
            return Remote { base: format!("{scheme}://{authority}"), repository: path.to_owned() };
        }
        Remote { base: format!("https://{host}"), repository: repository.to_owned() }
    }

    pub(crate) async fn manifest(
        &self,
        remote: &Remote,
        version: &str,
    ) -> Result<RemoteManifest, UpstreamError> {
        let response = self.ask(remote, Method::GET, &format!("manifests/{version}")).await?;
        let media_type =
            response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let bytes = read(response, MANIFEST_BYTES_MAX).await?;
        Ok(RemoteManifest { bytes, media_type })
    }

    /// Whether it answers as a registry does.
    pub(crate) async fn ping(&self, remote: &Remote) -> Result<(), UpstreamError> {
        let url = format!("{}/v2/", remote.base);
        let response = self.send(Method::GET, &url, HeaderMap::new()).await?;
        match response.status() {
            StatusCode::OK | StatusCode::UNAUTHORIZED => Ok(()),
            status => Err(UpstreamError::unavailable(format!("{url} answered {status}"))),
        }
    }

    /// A blob into a file, no more than `max` bytes of it.
    pub(crate) async fn blob(
        &self,
        remote: &Remote,
        digest: &str,
        max: u64,
        file: &mut tokio::fs::File,
    ) -> Result<(), UpstreamError> {
        let response = self.ask(remote, Method::GET, &format!("blobs/{digest}")).await?;
        let mut stream = response.bytes_stream();
        let mut length = 0u64;
        while let Some(chunk) = stream.next().await {
            let chunk = chunk.map_err(|error| UpstreamError::unavailable(told(&error)))?;
            length += chunk.len() as u64;
            if length > max {
                return Err(UpstreamError::unavailable(format!(
                    "{digest} has more bytes than its manifest says"
                )));
            }
            file.write_all(&chunk).await.map_err(|error| {
                tracing::error!(%error, "a cached layer cannot be written");
                UpstreamError::unavailable("the layer cannot be kept here")
            })?;
        }
        file.flush().await.map_err(|error| UpstreamError::unavailable(error.to_string()))
    }

    /// One question, with an anonymous token if the registry wants one.
    async fn ask(&self, remote: &Remote, method: Method, what: &str) -> Result<Response, UpstreamError> {
        let url = format!("{}/v2/{}/{what}", remote.base, remote.repository);
        let mut headers = HeaderMap::new();
        let accepted = [DOCKER_MANIFEST, DOCKER_LIST, OCI_MANIFEST, OCI_INDEX].join(", ");
        headers.insert(ACCEPT, accepted.parse().expect("media types are a header"));
        let mut response = self.send(method.clone(), &url, headers.clone()).await?;
        if response.status() == StatusCode::UNAUTHORIZED
            && let Some(token) = self.token(remote, response.headers()).await?
        {
            headers.insert(AUTHORIZATION, token);
            response = self.send(method, &url, headers).await?;
        }
        match response.status() {
            StatusCode::OK => Ok(response),
            StatusCode::NOT_FOUND => Err(UpstreamError::new("ImageNotFound", "Requested image not found")),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                Err(UpstreamError::new("UpstreamAccessDenied", format!("{} refused access", remote.base)))
            }
            StatusCode::TOO_MANY_REQUESTS => Err(UpstreamError::new(
                "UpstreamTooManyRequests",
                format!("{} has too many requests", remote.base),
            )),
            status => Err(UpstreamError::unavailable(format!("{url} answered {status}"))),
        }
    }

    async fn token(
        &self,
        remote: &Remote,
        headers: &HeaderMap,
    ) -> Result<Option<HeaderValue>, UpstreamError> {
        let Some((realm, query)) = challenge(remote, headers) else { return Ok(None) };
        let Ok(mut url) = Url::parse(&realm) else { return Ok(None) };
        if url.scheme() != "https" && !is_loopback(&url) {
            return Err(UpstreamError::unavailable(format!("{} wants a token over plain http", remote.base)));
        }
        url.set_query(Some(&query));
        let response = self.send(Method::GET, url.as_str(), HeaderMap::new()).await?;
        if response.status() != StatusCode::OK {
            return Ok(None);
        }
        let answer: serde_json::Value =
            serde_json::from_slice(&read(response, TOKEN_BYTES_MAX).await?).unwrap_or_default();
        let token = answer["token"].as_str().or(answer["access_token"].as_str());
        Ok(token.and_then(|token| HeaderValue::from_str(&format!("Bearer {token}")).ok()))
    }

    async fn send(&self, method: Method, url: &str, headers: HeaderMap) -> Result<Response, UpstreamError> {
        let loopback = Url::parse(url).is_ok_and(|url| is_loopback(&url));
        let client = if loopback { &self.direct } else { &self.proxied };
        let sent = client.request(method, url).headers(headers).send();
        match tokio::time::timeout(DOCUMENT_TIMEOUT, sent).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(UpstreamError::unavailable(told(&error))),
            Err(_) => Err(UpstreamError::unavailable(format!("{url} did not answer in time"))),
        }
    }
}

/// Realm and query of a Bearer challenge.
fn challenge(remote: &Remote, headers: &HeaderMap) -> Option<(String, String)> {
    let texts = headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok());
    for challenge in texts.flat_map(|text| http_auth::ChallengeParser::new(text).flatten()) {
        if !challenge.scheme.eq_ignore_ascii_case("bearer") {
            continue;
        }
        let parameter = |name: &str| {
            let found = challenge.params.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
            found.map(|(_, value)| value.to_unescaped())
        };
        let scope = parameter("scope").unwrap_or_else(|| format!("repository:{}:pull", remote.repository));
        let mut query = format!("scope={}", utf8_percent_encode(&scope, NON_ALPHANUMERIC));
        if let Some(service) = parameter("service") {
            query = format!("service={}&{query}", utf8_percent_encode(&service, NON_ALPHANUMERIC));
        }
        return Some((parameter("realm")?, query));
    }
    None
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || address.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

async fn read(mut response: Response, max: usize) -> Result<Vec<u8>, UpstreamError> {
    let read = async {
        let mut bytes = Vec::new();
        while let Some(chunk) =
            response.chunk().await.map_err(|error| UpstreamError::unavailable(told(&error)))?
        {
            if bytes.len() + chunk.len() > max {
                return Err(UpstreamError::unavailable(format!("a document of more than {max} bytes")));
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    };
    tokio::time::timeout(DOCUMENT_TIMEOUT, read)
        .await
        .unwrap_or_else(|_| Err(UpstreamError::unavailable("a document did not come in time")))
}

/// What lies under it. Without the URL, which may hold a signature after a redirect.
fn told(error: &reqwest::Error) -> String {
    let mut deepest: &dyn std::error::Error = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    if deepest.downcast_ref::<reqwest::Error>().is_some() {
        "the request failed".to_owned()
    } else {
        deepest.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_repositories_are() {
        let upstream = |prefix: &str, target: &str| Upstream { prefix: prefix.into(), target: target.into() };
        let upstreams = Upstreams::new(&[
            upstream("docker.io/*", "http://127.0.0.1:5000/hub/*"),
            upstream("quay.io/a/b", "http://127.0.0.1:5001/x/y"),
        ])
        .unwrap();
        for (host, repository, expected) in [
            ("registry-1.docker.io", "library/nginx", "http://127.0.0.1:5000 hub/library/nginx"),
            ("quay.io", "a/b", "http://127.0.0.1:5001 x/y"),
            ("quay.io", "a/bc", "https://quay.io a/bc"),
        ] {
            let remote = upstreams.remote(host, repository);
            assert_eq!(format!("{} {}", remote.base, remote.repository), expected);
        }
        assert!(Upstreams::new(&[upstream("x/*", "ftp://h/*")]).is_err());
    }
}
