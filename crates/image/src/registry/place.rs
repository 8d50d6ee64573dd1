//! Where a repository is asked for: mirrors, schemes, and network errors in containerd's words.

use reqwest::{Method, Url};

use crate::config::{Mirror, OwnRegistry};
use crate::error::{Cause, CauseKind, StoreError};
use crate::reference::{DOCKER_HUB_API, ImageRef};

const DOCKER_HUB: &str = "docker.io";

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Scheme, host and port: `http://127.0.0.1:5000`.
    pub(super) base: String,
    pub(super) repository: String,
    pub(super) loopback: bool,
    /// Credentials may go there: TLS or loopback.
    pub(super) trusted: bool,
}

pub(super) struct Mirrors {
    rules: Vec<Rule>,
    own: Option<Own>,
}

struct Own {
    registry: OwnRegistry,
    url: Url,
}

impl Own {
    fn new(registry: &OwnRegistry) -> Result<Self, StoreError> {
        let refuse = |problem: &str| StoreError::Mirror {
            mirror: format!("{}*={}", registry.prefix, registry.url),
            problem: problem.to_owned(),
        };
        let url = Url::parse(&registry.url).map_err(|_| refuse("the target is no URL"))?;
        if !is_loopback(&url) {
            return Err(refuse("a registry of this program's own is on loopback"));
        }
        if registry.prefix.is_empty() || registry.suffixes.is_empty() {
            return Err(refuse("a registry of this program's own needs a prefix and a suffix"));
        }
        Ok(Own { registry: registry.clone(), url })
    }

    fn place(&self, reference: &ImageRef) -> Option<Place> {
        let name = reference.registry().strip_prefix(&self.registry.prefix)?;
        let between = self.registry.suffixes.iter().find_map(|suffix| name.strip_suffix(suffix.as_str()))?;
        let (prefix, suffix) = (&self.registry.prefix, &self.registry.suffixes[0]);
        let repository = format!("{prefix}{between}{suffix}/{}", reference.repository());
        Some(place(&self.url, &self.url.origin().ascii_serialization(), repository))
    }
}

struct Rule {
    prefix: String,
    wildcard: bool,
    base: String,
    /// What the repository starts with there: empty, or ending in a slash where the prefix had a wildcard.
    path: String,
    url: Url,
}

impl Mirrors {
    pub(super) fn new(mirrors: &[Mirror], own: Option<&OwnRegistry>) -> Result<Self, StoreError> {
        let mut rules = mirrors.iter().map(rule).collect::<Result<Vec<_>, _>>()?;
        rules.sort_by_key(|rule| std::cmp::Reverse(rule.prefix.len()));
        Ok(Mirrors { rules, own: own.map(Own::new).transpose()? })
    }

    pub(super) fn place(&self, reference: &ImageRef) -> Result<Place, Cause> {
        if let Some(place) = self.own.as_ref().and_then(|own| own.place(reference)) {
            return Ok(place);
        }
        let name = format!("{}/{}", reference.registry(), reference.repository());
        let found = self.rules.iter().find_map(|rule| {
            let rest = name.strip_prefix(&rule.prefix)?;
            (rule.wildcard != rest.is_empty())
                .then(|| place(&rule.url, &rule.base, format!("{}{rest}", rule.path)))
        });
        if let Some(place) = found {
            return Ok(place);
        }
        let registry = reference.registry();
        let https = format!("https://{}", if registry == DOCKER_HUB { DOCKER_HUB_API } else { registry });
        let url = |text: &str| {
            Url::parse(text)
                .map_err(|error| Cause::new(CauseKind::Malformed, format!("registry '{registry}': {error}")))
        };
        let secure = url(&https)?;
        // As Docker: a registry on this machine needs no certificate.
        if is_loopback(&secure) && secure.port().is_some() {
            let base = format!("http://{registry}");
            return Ok(place(&url(&base)?, &base, reference.repository().to_owned()));
        }
        Ok(place(&secure, &https, reference.repository().to_owned()))
    }
}

fn place(url: &Url, base: &str, repository: String) -> Place {
    let loopback = is_loopback(url);
    Place { base: base.to_owned(), repository, loopback, trusted: loopback || url.scheme() == "https" }
}

fn rule(mirror: &Mirror) -> Result<Rule, StoreError> {
    let refuse = |problem: &str| StoreError::Mirror {
        mirror: format!("{}={}", mirror.prefix, mirror.target),
        problem: problem.to_owned(),
    };
    let url = Url::parse(mirror.target.trim_end_matches('*')).map_err(|error| {
        refuse(&format!("the target is no URL ({error}); it looks like http://127.0.0.1:5000/*"))
    })?;
    if !matches!(url.scheme(), "http" | "https") || url.query().is_some() || url.fragment().is_some() {
        return Err(refuse("the target must be an http or https URL without query"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(refuse("credentials do not belong into the target; they are given per pull"));
    }
    if url.scheme() == "http" && !mirror.insecure && !is_loopback(&url) {
        return Err(refuse("plain http is for loopback only, unless the mirror is marked insecure"));
    }
    let wildcard = mirror.prefix.ends_with("/*");
    if wildcard != mirror.target.ends_with("/*") {
        return Err(refuse("'/*' must end both the prefix and the target, or neither"));
    }
    let prefix = mirror.prefix.trim_end_matches('*').to_owned();
    if prefix.contains('*') || !prefix.contains('/') || prefix.starts_with('/') {
        return Err(refuse(
            "the prefix must be a registry and a path, as in docker.io/library/* or docker.io/*",
        ));
    }
    let base = url.origin().ascii_serialization();
    let path = url.path().trim_start_matches('/').to_owned();
    if !wildcard && path.is_empty() {
        return Err(refuse("the target names no repository"));
    }
    Ok(Rule { prefix, wildcard, base, path, url })
}

pub(super) fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or("");
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || address.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// An address that is not the internet's.
pub(super) fn is_inside(url: &Url) -> bool {
    let address = url.host_str().unwrap_or("").trim_start_matches('[').trim_end_matches(']');
    is_loopback(url)
        || address.parse::<std::net::IpAddr>().is_ok_and(|address| match address {
            std::net::IpAddr::V4(v4) => v4.is_private() || v4.is_link_local() || v4.is_unspecified(),
            std::net::IpAddr::V6(_) => true,
        })
}

pub(super) fn request_failed(method: &Method, url: &str, what: &str) -> Cause {
    let verb = match method.as_str() {
        "HEAD" => "Head",
        _ => "Get",
    };
    let untrusted = what.starts_with(TLS) || what == NO_TLS;
    let kind = if untrusted { CauseKind::Untrusted } else { CauseKind::Unreachable };
    Cause::new(kind, format!("failed to do request: {verb} \"{url}\": {what}"))
}

const TLS: &str = "tls: ";
const NO_TLS: &str = "http: server gave HTTP response to HTTPS client";

/// What lies under a client error, as Go would say it. Never the URL: a redirect's may hold a signature.
pub(super) fn explain(error: &reqwest::Error, base: &str) -> String {
    let mut deepest: &dyn std::error::Error = error;
    let mut io = None;
    while let Some(source) = deepest.source() {
        deepest = source;
        io = source.downcast_ref::<std::io::Error>().map(std::io::Error::kind).or(io);
    }
    let host = base.split("//").nth(1).unwrap_or(base);
    let dial =
        if error.is_connect() && !host.is_empty() { format!("dial tcp {host}: ") } else { String::new() };
    let text = deepest.to_string();
    match io {
        _ if error.is_timeout() => format!("{dial}i/o timeout"),
        Some(std::io::ErrorKind::ConnectionRefused) => format!("{dial}connect: connection refused"),
        Some(std::io::ErrorKind::ConnectionReset) => "read: connection reset by peer".to_owned(),
        Some(std::io::ErrorKind::UnexpectedEof) => "unexpected EOF".to_owned(),
        Some(std::io::ErrorKind::HostUnreachable) => format!("{dial}connect: no route to host"),
        Some(std::io::ErrorKind::NetworkUnreachable) => format!("{dial}connect: network is unreachable"),
        _ if text.contains("failed to lookup address") || text.contains("dns error") => lookup(host, &text),
        _ if error.is_connect()
            && let Some(why) = certificate(host, &text) =>
        {
            why
        }
        _ if deepest.downcast_ref::<reqwest::Error>().is_some() => format!("{dial}request failed"),
        _ => {
            let eof = text.contains("connection closed before message completed")
                || text.contains("end of file")
                || text.contains("handshake eof");
            if eof { "unexpected EOF".to_owned() } else { format!("{dial}{text}") }
        }
    }
}

fn lookup(host: &str, text: &str) -> String {
    let name = host.split(':').next().unwrap_or(host);
    let why = if text.contains("Temporary failure") { "server misbehaving" } else { "no such host" };
    format!("dial tcp: lookup {name}: {why}")
}

/// rustls' words for a certificate, as Go's crypto/tls has them.
fn certificate(host: &str, text: &str) -> Option<String> {
    let name = host.split(':').next().unwrap_or(host);
    let x509 = if text.contains("UnknownIssuer") || text.contains("CaUsedAsEndEntity") {
        "certificate signed by unknown authority".to_owned()
    } else if text.contains("Expired") || text.contains("expired") || text.contains("NotValidYet") {
        "certificate has expired or is not yet valid".to_owned()
    } else if text.contains("not valid for name") || text.contains("NotValidForName") {
        format!("certificate is not valid for {name}")
    } else if text.contains("InvalidContentType") {
        return Some(NO_TLS.to_owned());
    } else if text.contains("certificate") {
        text.to_owned()
    } else {
        return None;
    };
    Some(format!("{TLS}failed to verify certificate: x509: {x509}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mirror(text: &str) -> Mirror {
        Mirror::parse(text).unwrap()
    }

    fn where_is(mirrors: &[Mirror], reference: &str) -> String {
        let place = Mirrors::new(mirrors, None).unwrap().place(&ImageRef::parse(reference).unwrap()).unwrap();
        format!("{} {} {}", place.base, place.repository, place.trusted)
    }

    #[test]
    fn the_longest_prefix_wins_and_is_replaced() {
        let mirrors = [
            mirror("docker.io/*=http://127.0.0.1:5000/hub/*"),
            mirror("docker.io/library/*=http://localhost:5001/*"),
            mirror("docker.io/library/nginx=https://m.example/web/nginx"),
        ];
        assert_eq!(where_is(&mirrors, "busybox"), "http://localhost:5001 busybox true");
        assert_eq!(where_is(&mirrors, "nginx"), "https://m.example web/nginx true");
        assert_eq!(where_is(&mirrors, "nginxinc/x"), "http://127.0.0.1:5000 hub/nginxinc/x true");
        assert_eq!(where_is(&mirrors, "quay.io/a/b"), "https://quay.io a/b true");
        assert_eq!(where_is(&[], "nginx"), "https://registry-1.docker.io library/nginx true");
        assert_eq!(where_is(&[], "127.0.0.1:5000/x"), "http://127.0.0.1:5000 x true");
        assert_eq!(where_is(&[], "10.0.0.1:5000/x"), "https://10.0.0.1:5000 x true");
    }

    #[test]
    fn a_registry_of_its_own_comes_before_every_mirror() {
        let own = OwnRegistry {
            prefix: "123456789012.dkr.ecr.".into(),
            suffixes: vec![".amazonaws.com".into(), ".localhost:4566".into()],
            url: "http://127.0.0.1:4566".into(),
        };
        let name = "123456789012.dkr.ecr.us-east-1.amazonaws.com";
        let mirrors = [mirror(&format!("{name}/*=http://127.0.0.1:5000/*"))];
        let mirrors = Mirrors::new(&mirrors, Some(&own)).unwrap();
        let expected = format!("http://127.0.0.1:4566 {name}/a/b");
        for host in [name, "123456789012.dkr.ecr.us-east-1.localhost:4566"] {
            let place = mirrors.place(&ImageRef::parse(&format!("{host}/a/b:1")).unwrap()).unwrap();
            assert_eq!(format!("{} {}", place.base, place.repository), expected);
        }
        let other = "999999999999.dkr.ecr.us-east-1.amazonaws.com/a:1";
        let place = mirrors.place(&ImageRef::parse(other).unwrap()).unwrap();
        assert_eq!(place.base, "https://999999999999.dkr.ecr.us-east-1.amazonaws.com");
        assert!(Mirrors::new(&[], Some(&OwnRegistry { url: "http://10.0.0.1:1".into(), ..own })).is_err());
    }

    #[test]
    fn mirrors_that_make_no_sense_are_refused() {
        for (text, part) in [
            ("docker.io/*=http://10.0.0.1:5000/*", "plain http"),
            ("docker.io/*=http://127.0.0.1:5000", "'/*'"),
            ("docker.io=https://x/y", "registry and a path"),
            ("docker.io/*=ftp://x/*", "http or https"),
            ("docker.io/*=nonsense/*", "no URL"),
            ("docker.io/*=https://a:b@x/*", "credentials"),
        ] {
            let error = Mirrors::new(&[mirror(text)], None).err().unwrap().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
        let insecure = Mirror { insecure: true, ..mirror("docker.io/*=http://10.0.0.1:5000/*") };
        assert_eq!(where_is(&[insecure], "nginx"), "http://10.0.0.1:5000 library/nginx false");
    }
}
