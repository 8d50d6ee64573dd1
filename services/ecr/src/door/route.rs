//! Paths: which repository, and what of it. Pure.

use crate::name::RegistryName;

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Route<'a> {
    /// A registry's name before the repository's.
    pub(super) registry: Option<&'a str>,
    pub(super) target: Target<'a>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Target<'a> {
    /// `/v2/`
    Base,
    In {
        name: &'a str,
        what: What<'a>,
    },
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum What<'a> {
    /// Tag or digest.
    Manifest(&'a str),
    Blob(&'a str),
    Uploads,
    Upload(&'a str),
    Tags,
    Referrers(&'a str),
}

pub(super) fn parse(path: &str) -> Option<Route<'_>> {
    let rest = path.strip_prefix("/v2")?;
    let rest = rest.strip_prefix('/').unwrap_or(rest);
    let (first, behind) = rest.split_once('/').unwrap_or((rest, ""));
    let (registry, rest) =
        if RegistryName::parse(first).is_some() { (Some(first), behind) } else { (None, rest) };
    if rest.is_empty() {
        return Some(Route { registry, target: Target::Base });
    }
    let (name, what) = split(rest)?;
    (!name.is_empty()).then_some(Route { registry, target: Target::In { name, what } })
}

/// From the end: a repository's name may itself hold `blobs` or `manifests`.
fn split(rest: &str) -> Option<(&str, What<'_>)> {
    if let Some(name) = rest.strip_suffix("/blobs/uploads/").or_else(|| rest.strip_suffix("/blobs/uploads")) {
        return Some((name, What::Uploads));
    }
    if let Some(name) = rest.strip_suffix("/tags/list") {
        return Some((name, What::Tags));
    }
    let (before, last) = rest.rsplit_once('/')?;
    if last.is_empty() {
        return None;
    }
    if let Some(name) = before.strip_suffix("/blobs/uploads") {
        return Some((name, What::Upload(last)));
    }
    let (name, kind) = before.rsplit_once('/')?;
    match kind {
        "manifests" => Some((name, What::Manifest(last))),
        "blobs" => Some((name, What::Blob(last))),
        "referrers" => Some((name, What::Referrers(last))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        let at = |name, what| Some(Route { registry: None, target: Target::In { name, what } });
        for (path, expected) in [
            ("/v2/", Some(Route { registry: None, target: Target::Base })),
            ("/v2", Some(Route { registry: None, target: Target::Base })),
            ("/v2/a/b/manifests/1.0", at("a/b", What::Manifest("1.0"))),
            ("/v2/a/blobs/blobs/sha256:0", at("a/blobs", What::Blob("sha256:0"))),
            ("/v2/a/blobs/uploads/", at("a", What::Uploads)),
            ("/v2/a/blobs/uploads/u-1", at("a", What::Upload("u-1"))),
            ("/v2/a/tags/list", at("a", What::Tags)),
            ("/v2/a/referrers/sha256:0", at("a", What::Referrers("sha256:0"))),
            ("/v2/a/other/x", None),
            ("/v2/a/manifests/", None),
            ("/v2/manifests/x", None),
            ("/v2/_catalog", None),
            ("/other", None),
        ] {
            assert_eq!(parse(path), expected, "{path}");
        }
    }

    #[test]
    fn a_registry_in_the_path() {
        let host = "123456789012.dkr.ecr.eu-west-1.amazonaws.com";
        let path = format!("/v2/{host}/app/tags/list");
        let expected = Route { registry: Some(host), target: Target::In { name: "app", what: What::Tags } };
        assert_eq!(parse(&path), Some(expected));
        assert_eq!(parse(&format!("/v2/{host}")).unwrap().target, Target::Base);
    }
}
