//! Image references, normalised and refused as Docker does (distribution's reference grammar).

use std::fmt;
use std::str::FromStr;

use crate::digest::{Digest, DigestError};

const DEFAULT_REGISTRY: &str = "docker.io";
const LEGACY_REGISTRY: &str = "index.docker.io";
/// Docker Hub's API is not at the name people write.
pub(crate) const DOCKER_HUB_API: &str = "registry-1.docker.io";
const HTTPS_PORT: u16 = 443;
const OFFICIAL_NAMESPACE: &str = "library/";
const DEFAULT_TAG: &str = "latest";
/// distribution/reference: NameTotalLengthMax.
const NAME_LENGTH_MAX: usize = 255;
const TAG_LENGTH_MAX: usize = 128;

/// A fully qualified reference: `nginx` is `docker.io/library/nginx:latest`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ImageRef {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// Docker's own words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    #[error("invalid reference format")]
    Format,
    #[error("repository name must have at least one component")]
    Empty,
    #[error("invalid reference format: repository name ({0}) must be lowercase")]
    Uppercase(String),
    #[error("invalid repository name ({0}), cannot specify 64-byte hexadecimal strings")]
    Identifier(String),
    #[error("repository name must not be more than {NAME_LENGTH_MAX} characters")]
    TooLong,
    #[error("invalid reference format: {0}")]
    Digest(#[from] DigestError),
}

impl ImageRef {
    /// Parses and normalises: the registry defaults to `docker.io`, its one-part names to `library/`, the tag to
    /// `latest` where there is no digest either.
    pub fn parse(text: &str) -> Result<Self, ReferenceError> {
        if text.is_empty() {
            return Err(ReferenceError::Empty);
        }
        if text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(ReferenceError::Identifier(text.to_owned()));
        }
        let (registry, rest) = split_registry(text);
        let remote_name = rest.split(':').next().unwrap_or(&rest);
        if remote_name.chars().any(char::is_uppercase) {
            let name = remote_name.strip_prefix(OFFICIAL_NAMESPACE).unwrap_or(remote_name);
            return Err(ReferenceError::Uppercase(name.to_owned()));
        }
        let (rest, digest) = match rest.split_once('@') {
            Some((rest, digest)) => (rest.to_owned(), Some(Digest::parse(digest)?)),
            None => (rest, None),
        };
        let (repository, tag) = match rest.split_once(':') {
            Some((repository, tag)) => (repository.to_owned(), Some(tag.to_owned())),
            None => (rest, None),
        };
        if !is_registry(&registry) || !is_repository(&repository) || !tag.as_deref().is_none_or(is_tag) {
            return Err(ReferenceError::Format);
        }
        if repository.len() > NAME_LENGTH_MAX {
            return Err(ReferenceError::TooLong);
        }
        let tag = if digest.is_none() { Some(tag.unwrap_or_else(|| DEFAULT_TAG.to_owned())) } else { tag };
        Ok(ImageRef { registry, repository, tag, digest })
    }

    /// Host and port: `docker.io`, `127.0.0.1:5000`, `123456789012.dkr.ecr.us-east-1.amazonaws.com`.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// `library/nginx`
    pub fn repository(&self) -> &str {
        &self.repository
    }

    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest asked for; it wins over the tag.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// The image that had this digest, whatever its tag says now. A digest it has itself stays.
    pub fn at(self, digest: &str) -> Result<Self, ReferenceError> {
        let digest = self.digest.map_or_else(|| Digest::parse(digest), Ok)?;
        Ok(ImageRef { digest: Some(digest), ..self })
    }

    /// Host and port of the registry's API, mirrors left aside: `registry-1.docker.io`, 443.
    pub fn endpoint(&self) -> (&str, u16) {
        let (host, port) = match self.api_host().rsplit_once(':') {
            // Not inside `[::1]`.
            Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok()),
            _ => (self.api_host(), None),
        };
        (host.trim_start_matches('[').trim_end_matches(']'), port.unwrap_or(HTTPS_PORT))
    }

    /// Where its manifest is asked for, mirrors left aside.
    pub(crate) fn manifest_url(&self) -> String {
        let version = match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.as_str(),
            (None, tag) => tag.as_deref().unwrap_or(DEFAULT_TAG),
        };
        format!("https://{}/v2/{}/manifests/{version}", self.api_host(), self.repository)
    }

    fn api_host(&self) -> &str {
        if self.registry == DEFAULT_REGISTRY { DOCKER_HUB_API } else { &self.registry }
    }
}

impl fmt::Display for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl FromStr for ImageRef {
    type Err = ReferenceError;
    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        Self::parse(text)
    }
}

fn split_registry(text: &str) -> (String, String) {
    let (registry, rest) = match text.split_once('/') {
        Some((first, rest))
            if first.contains(['.', ':'])
                || first == "localhost"
                || first.chars().any(char::is_uppercase) =>
        {
            (first, rest)
        }
        _ => (DEFAULT_REGISTRY, text),
    };
    let registry = if registry == LEGACY_REGISTRY { DEFAULT_REGISTRY } else { registry };
    let official = registry == DEFAULT_REGISTRY && !rest.contains('/');
    (registry.to_owned(), if official { format!("{OFFICIAL_NAMESPACE}{rest}") } else { rest.to_owned() })
}

fn is_registry(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, port)) => {
            if address.parse::<std::net::Ipv6Addr>().is_err() {
                return false;
            }
            ("v6", port.strip_prefix(':').or(if port.is_empty() { None } else { Some("bad") }))
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let digits = |port: &str| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
    port.is_none_or(digits)
        && host.split('.').all(|part| {
            !part.is_empty()
                && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
                && !part.starts_with('-')
                && !part.ends_with('-')
        })
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`, joined by slashes.
fn is_repository(text: &str) -> bool {
    text.split('/').all(|part| {
        let alphanumeric = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let bytes = part.as_bytes();
        if !bytes.first().is_some_and(alphanumeric) || !bytes.last().is_some_and(alphanumeric) {
            return false;
        }
        bytes
            .split(alphanumeric)
            .filter(|separator| !separator.is_empty())
            .all(|separator| matches!(separator, b"." | b"_" | b"__") || separator.iter().all(|b| *b == b'-'))
    })
}

fn is_tag(text: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let bytes = text.as_bytes();
    bytes.len() <= TAG_LENGTH_MAX
        && bytes.first().is_some_and(|b| word(*b))
        && bytes.iter().all(|b| word(*b) || matches!(b, b'.' | b'-'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn endpoints_have_a_host_and_a_port() {
        for (text, host, port) in [
            ("nginx", "registry-1.docker.io", 443),
            ("quay.io/a/b", "quay.io", 443),
            ("127.0.0.1:5000/a", "127.0.0.1", 5000),
            ("[::1]:5000/a", "::1", 5000),
        ] {
            assert_eq!(ImageRef::parse(text).unwrap().endpoint(), (host, port), "{text}");
        }
        let url = "https://registry-1.docker.io/v2/library/nginx/manifests/latest";
        assert_eq!(ImageRef::parse("nginx").unwrap().manifest_url(), url);
    }

    #[test]
    fn references_are_normalised_as_docker_does() {
        let hex = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        for (given, whole) in [
            ("nginx", "docker.io/library/nginx:latest"),
            ("nginx:1.25", "docker.io/library/nginx:1.25"),
            ("docker.io/nginx", "docker.io/library/nginx:latest"),
            ("index.docker.io/nginx:a", "docker.io/library/nginx:a"),
            ("grafana/grafana", "docker.io/grafana/grafana:latest"),
            ("localhost/x", "localhost/x:latest"),
            ("127.0.0.1:5000/a/b:c", "127.0.0.1:5000/a/b:c"),
            ("public.ecr.aws/nginx/nginx", "public.ecr.aws/nginx/nginx:latest"),
            ("my-registry:5000/team__a/app--x", "my-registry:5000/team__a/app--x:latest"),
            ("[::1]:5000/x", "[::1]:5000/x:latest"),
            ("Uppercase/x", "Uppercase/x:latest"),
        ] {
            assert_eq!(ImageRef::parse(given).unwrap().to_string(), whole, "{given}");
        }
        let pinned = ImageRef::parse(&format!("nginx@sha256:{hex}")).unwrap();
        assert_eq!((pinned.tag(), pinned.digest().unwrap().hex()), (None, hex));
        let both = ImageRef::parse(&format!("nginx:1@sha256:{hex}")).unwrap();
        assert_eq!((both.tag(), both.digest().is_some()), (Some("1"), true));
    }

    #[test]
    fn errors_are_dockers() {
        let hex = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        for (given, message) in [
            ("", "repository name must have at least one component"),
            ("Nginx", "invalid reference format: repository name (Nginx) must be lowercase"),
            ("a/B:c", "invalid reference format: repository name (a/B) must be lowercase"),
            (hex, &format!("invalid repository name ({hex}), cannot specify 64-byte hexadecimal strings")),
            ("nginx:", "invalid reference format"),
            ("nginx:-x", "invalid reference format"),
            ("a//b", "invalid reference format"),
            ("-nginx", "invalid reference format"),
            ("nginx:a:b", "invalid reference format"),
            ("a___b", "invalid reference format"),
            ("host.:5000/x", "invalid reference format"),
            ("host:port/x", "invalid reference format"),
            ("../etc/passwd", "invalid reference format"),
            ("nginx lat", "invalid reference format"),
            (
                "x@sha256:12",
                "invalid reference format: invalid digest 'sha256:12': it must be 'sha256:' and 64 lower-case hexadecimal digits",
            ),
        ] {
            assert_eq!(ImageRef::parse(given).unwrap_err().to_string(), message, "{given}");
        }
        let long = format!("{}/x", "a".repeat(300));
        assert_eq!(ImageRef::parse(&long), Err(ReferenceError::TooLong));
    }

    proptest! {
        #[test]
        fn what_parses_is_stable_and_safe_in_a_url(text in "\\PC{0,40}|[a-z0-9./:@_-]{0,40}") {
            if let Ok(reference) = ImageRef::parse(&text) {
                prop_assert_eq!(&ImageRef::parse(&reference.to_string()).unwrap(), &reference);
                prop_assert!(reference.repository().split('/').all(|part| !part.is_empty() && part != ".."));
                prop_assert!(reference.repository().is_ascii());
            }
        }
    }
}
