//! Transforms of a rule: the URL and the Host header are rewritten before the request is forwarded.

use ferrogate_nodeapi::Transform;
use regex::{Captures, Regex};

use super::{RegexError, regex};

/// What a rewrite may make of a URL or a host; as much as a request may bring.
const REWRITTEN_BYTES_MAX: usize = 16 * 1024;

#[derive(Debug, Default)]
pub struct Transforms {
    url: Option<(Regex, String)>,
    host: Option<(Regex, String)>,
}

/// The names are those of the access log's last field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransformError {
    #[error("TransformBufferTooSmall")]
    BufferTooSmall,
    #[error("TransformInvalidHost")]
    InvalidHost,
    #[error("TransformInvalidPath")]
    InvalidPath,
}

/// `None`: as the client sent it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Transformed {
    pub path_and_query: Option<String>,
    pub host: Option<String>,
}

impl Transforms {
    pub fn new(transforms: &[Transform]) -> Result<Transforms, RegexError> {
        let mut all = Transforms::default();
        for transform in transforms {
            match transform {
                Transform::UrlRewrite { regex: text, replace } => {
                    all.url = Some((regex(text, false)?, replace.clone()));
                }
                Transform::HostHeaderRewrite { regex: text, replace } => {
                    all.host = Some((regex(text, true)?, replace.clone()));
                }
            }
        }
        Ok(all)
    }

    pub fn is_empty(&self) -> bool {
        self.url.is_none() && self.host.is_none()
    }

    pub fn apply(&self, path_and_query: &str, host: &str) -> Result<Transformed, TransformError> {
        let path_and_query = rewrite(self.url.as_ref(), path_and_query)?;
        if path_and_query.as_ref().is_some_and(|url| !url.starts_with('/') || !url.bytes().all(in_url)) {
            return Err(TransformError::InvalidPath);
        }
        let host = rewrite(self.host.as_ref(), host)?;
        if host.as_ref().is_some_and(|host| host.is_empty() || !host.bytes().all(in_host)) {
            return Err(TransformError::InvalidHost);
        }
        Ok(Transformed { path_and_query, host })
    }
}

fn in_url(byte: u8) -> bool {
    byte.is_ascii_graphic() && byte != b'#'
}

fn in_host(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._:[]".contains(&byte)
}

/// The first match is replaced; without one nothing changes.
fn rewrite(rule: Option<&(Regex, String)>, text: &str) -> Result<Option<String>, TransformError> {
    let Some((regex, replace)) = rule else { return Ok(None) };
    let Some(captures) = regex.captures(text) else { return Ok(None) };
    let whole = captures.get_match();
    let mut out = text[..whole.start()].to_owned();
    expand(replace, &captures, &mut out);
    out.push_str(&text[whole.end()..]);
    if out.len() > REWRITTEN_BYTES_MAX {
        return Err(TransformError::BufferTooSmall);
    }
    Ok(Some(out))
}

/// `$0` to `$9` are groups, and the digit after them is text: not as the regex crate reads `$1a`.
fn expand(replace: &str, captures: &Captures<'_>, out: &mut String) {
    let mut rest = replace;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        match rest.bytes().next() {
            Some(digit @ b'0'..=b'9') => {
                let group = captures.get(usize::from(digit - b'0'));
                out.push_str(group.map_or("", |group| group.as_str()));
                rest = &rest[1..];
            }
            Some(b'$') => {
                out.push('$');
                rest = &rest[1..];
            }
            _ => out.push('$'),
        }
    }
    out.push_str(rest);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(regex: &str, replace: &str) -> Transforms {
        let rewrite = Transform::UrlRewrite { regex: regex.to_owned(), replace: replace.to_owned() };
        Transforms::new(&[rewrite]).unwrap()
    }

    #[test]
    fn groups_are_put_in_and_no_match_changes_nothing() {
        let rule = url("^/api/v([0-9]+)/(.*)$", "/$2?version=$1x");
        let out = rule.apply("/api/v3/users", "h").unwrap();
        assert_eq!(out.path_and_query.as_deref(), Some("/users?version=3x"));
        assert_eq!(rule.apply("/other", "h").unwrap(), Transformed::default());
        let host = Transform::HostHeaderRewrite {
            regex: "^(.+)\\.example\\.com$".into(),
            replace: "$1.internal".into(),
        };
        let out = Transforms::new(&[host]).unwrap().apply("/", "Api.EXAMPLE.com").unwrap();
        assert_eq!(out.host.as_deref(), Some("Api.internal"));
    }

    #[test]
    fn what_is_no_path_is_an_error() {
        assert_eq!(url("^/", "x").apply("/a", "h"), Err(TransformError::InvalidPath));
        assert_eq!(url("^/", "/ ").apply("/a", "h"), Err(TransformError::InvalidPath));
        assert_eq!(url("^/", "/\r\nx: y").apply("/a", "h"), Err(TransformError::InvalidPath));
        let long = url("a+", &"$0$0$0$0".repeat(16));
        assert_eq!(long.apply(&format!("/{}", "a".repeat(9000)), "h"), Err(TransformError::BufferTooSmall));
    }
}
