//! Proving who asks: Basic, and the token dance (distribution-spec, "Token Authentication").

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::Method;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use serde::Deserialize;

use super::{Registry, Source, place};
use crate::config::Auth;
use crate::error::{Cause, CauseKind};

const TOKEN_BYTES_MAX: u64 = 256 << 10;
const TOKENS_MAX: usize = 256;
/// The specification's default, and an upper bound for what a registry says.
const TOKEN_SECONDS: u64 = 60;
const TOKEN_SECONDS_MAX: u64 = 3600;
/// Asked anew this long before the end.
const TOKEN_MARGIN: Duration = Duration::from_secs(10);

/// An Authorization header; never printed.
#[derive(Clone)]
pub(super) struct Secret(String);

impl Secret {
    pub(super) fn header_value(&self) -> HeaderValue {
        let mut value = HeaderValue::from_str(&self.0).unwrap_or_else(|_| HeaderValue::from_static(""));
        value.set_sensitive(true);
        value
    }

    fn basic(user: &str, password: &str) -> Self {
        Secret(format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))))
    }
}

pub(super) struct Token {
    pub(super) header: Secret,
    lifetime: Duration,
}

#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    base: String,
    repository: String,
    auth: Auth,
}

impl Key {
    pub(super) fn of(source: &Source) -> Self {
        let place = &source.place;
        Key { base: place.base.clone(), repository: place.repository.clone(), auth: source.auth.clone() }
    }
}

#[derive(Default)]
pub(super) struct Tokens(Mutex<HashMap<Key, (Secret, Instant)>>);

impl Tokens {
    pub(super) fn get(&self, key: &Key) -> Option<Secret> {
        let tokens = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        tokens.get(key).filter(|(_, until)| *until > Instant::now()).map(|(token, _)| token.clone())
    }

    pub(super) fn put(&self, key: Key, token: &Token) {
        let now = Instant::now();
        let mut tokens = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if tokens.len() >= TOKENS_MAX {
            tokens.retain(|_, (_, until)| *until > now);
        }
        if tokens.len() >= TOKENS_MAX {
            tokens.clear();
        }
        tokens.insert(key, (token.header.clone(), now + token.lifetime.saturating_sub(TOKEN_MARGIN)));
    }
}

/// What a registry asks for, first wish first.
pub(super) enum Challenge {
    Basic,
    Bearer { realm: String, service: Option<String>, scope: Option<String> },
}

pub(super) fn challenges(headers: &HeaderMap) -> Vec<Challenge> {
    let mut found = Vec::new();
    for text in headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok()) {
        for challenge in http_auth::ChallengeParser::new(text).flatten() {
            let parameter = |name: &str| {
                let found = challenge.params.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
                found.map(|(_, value)| value.to_unescaped())
            };
            if challenge.scheme.eq_ignore_ascii_case("basic") {
                found.push(Challenge::Basic);
            } else if challenge.scheme.eq_ignore_ascii_case("bearer")
                && let Some(realm) = parameter("realm")
            {
                found.push(Challenge::Bearer {
                    realm,
                    service: parameter("service"),
                    scope: parameter("scope"),
                });
            }
        }
    }
    found
}

pub(super) fn access_denied(detail: &str) -> Cause {
    let text =
        format!("pull access denied, repository does not exist or may require authorization: {detail}");
    Cause::new(CauseKind::Denied, text)
}

#[derive(Deserialize)]
struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<u64>,
}

impl Registry {
    /// A token that answers one of the challenges, or `None` where nothing we have does.
    pub(super) async fn authorize(
        &self,
        source: &Source,
        challenges: &[Challenge],
        had_token: bool,
    ) -> Result<Option<Token>, Cause> {
        for challenge in challenges {
            match (challenge, &source.auth) {
                (Challenge::Bearer { realm, service, scope }, _) => {
                    return self
                        .fetch_token(source, realm, service.as_deref(), scope.as_deref())
                        .await
                        .map(Some);
                }
                // The same user and password twice get the same answer.
                (Challenge::Basic, Auth::Basic { user, password }) if !had_token => {
                    let lifetime = Duration::from_secs(TOKEN_SECONDS_MAX);
                    return Ok(Some(Token { header: Secret::basic(user, password), lifetime }));
                }
                (Challenge::Basic, _) => {}
            }
        }
        Ok(None)
    }

    async fn fetch_token(
        &self,
        source: &Source,
        realm: &str,
        service: Option<&str>,
        scope: Option<&str>,
    ) -> Result<Token, Cause> {
        let refuse = |text: String| Cause::new(CauseKind::Malformed, format!("failed to authorize: {text}"));
        let realm =
            reqwest::Url::parse(realm).map_err(|error| refuse(format!("realm '{realm}': {error}")))?;
        let loopback = place::is_loopback(&realm);
        if realm.scheme() != "https" && !loopback && source.place.trusted {
            return Err(refuse(format!("realm '{realm}' is not https")));
        }
        let ours = format!("repository:{}:pull", source.place.repository);
        let mut query = format!("scope={}", utf8_percent_encode(scope.unwrap_or(&ours), NON_ALPHANUMERIC));
        if let Some(service) = service {
            query = format!("service={}&{query}", utf8_percent_encode(service, NON_ALPHANUMERIC));
        }
        let mut url = realm.clone();
        let joined = url.query().map_or(query.clone(), |before| format!("{before}&{query}"));
        url.set_query(Some(&joined));

        let client = if loopback { &self.direct } else { &self.proxied };
        let mut request = client.get(url.clone());
        if let Auth::Basic { user, password } = &source.auth {
            request = request.header(AUTHORIZATION, Secret::basic(user, password).header_value());
        }
        let response = match tokio::time::timeout(self.timeouts.document, request.send()).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => {
                let base = realm.origin().ascii_serialization();
                return Err(place::request_failed(
                    &Method::GET,
                    url.as_str(),
                    &place::explain(&error, &base),
                )
                .during("failed to authorize: failed to fetch anonymous token"));
            }
            Err(_) => {
                return Err(place::request_failed(&Method::GET, url.as_str(), "context deadline exceeded"));
            }
        };
        let status = response.status();
        if matches!(status.as_u16(), 400 | 401 | 403 | 404) {
            return Err(access_denied(&format!(
                "authorization failed: failed to fetch oauth token: unexpected status from GET request to {url}: {}",
                super::named(status)
            )));
        }
        if !status.is_success() {
            let text = format!(
                "failed to authorize: failed to fetch oauth token: unexpected status from GET request to {url}: {}",
                super::named(status)
            );
            return Err(Cause::new(super::kind_of(status), text));
        }
        let bytes = self.read_document(response, TOKEN_BYTES_MAX).await?;
        let answer: TokenAnswer =
            serde_json::from_slice(&bytes).map_err(|error| refuse(format!("token from {realm}: {error}")))?;
        let token = answer
            .token
            .or(answer.access_token)
            .filter(|token| !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic()))
            .ok_or_else(|| refuse(format!("no token from {realm}")))?;
        let seconds = answer.expires_in.unwrap_or(TOKEN_SECONDS).min(TOKEN_SECONDS_MAX);
        Ok(Token { header: Secret(format!("Bearer {token}")), lifetime: Duration::from_secs(seconds) })
    }
}
