//! URI templates of the REST protocols: `/{Bucket}/{Key+}?uploads`.

use std::borrow::Cow;

use ferrogate_api::schema::{Kind, Location, Model, Operation, Structure};
use http::HeaderMap;
use percent_encoding::percent_decode_str;

/// SDKs add it to tell operations with the same template apart; a request without it is as good.
const HINT: &str = "x-id";

/// One operation's template, taken apart.
#[derive(Debug)]
pub(crate) struct Template {
    segments: Vec<Segment>,
    /// `?acl`, `?list-type=2`
    constants: Vec<(&'static str, &'static str)>,
    /// Query keys and headers of required members: what tells CopyObject from PutObject.
    required_keys: Vec<&'static str>,
    required_headers: Vec<&'static str>,
    method: &'static str,
}

#[derive(Debug, PartialEq)]
enum Segment {
    Literal(&'static str),
    Label(&'static str),
    Greedy(&'static str),
}

/// How well a template fits; more is better, compared field by field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Fit {
    literals: usize,
    /// A template that ends is more specific than one that takes all the rest.
    bounded: bool,
    constants: usize,
    required: usize,
}

impl Template {
    pub(crate) fn new(model: &Model, operation: &Operation) -> Self {
        let (segments, constants) = take_apart(operation.uri);
        let members = operation.input.and_then(|id| model.structure(id)).map_or(&[][..], |of| &of.members);
        let bound = |location: Location| {
            members
                .iter()
                .filter(move |member| member.required && member.location == Some(location))
                .map(|member| member.location_name.unwrap_or(member.name))
                .collect::<Vec<_>>()
        };
        Self {
            segments,
            constants,
            required_keys: bound(Location::QueryString),
            required_headers: bound(Location::Header),
            method: operation.http_method,
        }
    }

    /// Of an operation whose members are not known here.
    pub(crate) fn bare(method: &'static str, uri: &'static str) -> Self {
        let (segments, constants) = take_apart(uri);
        Self { segments, constants, required_keys: Vec::new(), required_headers: Vec::new(), method }
    }

    /// How well the request fits; `None`: not at all.
    pub(crate) fn fit(
        &self,
        method: &str,
        path: &str,
        query: &[(Cow<'_, str>, Cow<'_, str>)],
        headers: &HeaderMap,
    ) -> Option<Fit> {
        if method != self.method || capture(&self.segments, path).is_none() {
            return None;
        }
        let mut constants = 0;
        for (key, value) in &self.constants {
            match query.iter().find(|(found, _)| found == key) {
                Some((_, found)) if value.is_empty() || found == value => constants += 1,
                None if *key == HINT => {}
                _ => return None,
            }
        }
        let keys = self.required_keys.iter().all(|key| query.iter().any(|(found, _)| found == key));
        let heads = self.required_headers.iter().all(|name| headers.contains_key(*name));
        let required = if keys && heads { self.required_keys.len() + self.required_headers.len() } else { 0 };
        let satisfied = usize::from(keys && heads);
        Some(Fit {
            literals: self.segments.iter().filter(|segment| matches!(segment, Segment::Literal(_))).count(),
            bounded: !self.segments.iter().any(|segment| matches!(segment, Segment::Greedy(_))),
            constants,
            // A template whose required parts are there beats one without any, and that one beats one whose are not.
            required: satisfied + required,
        })
    }
}

/// The labels of a request's path, percent-decoded.
pub(crate) fn labels(uri: &'static str, path: &str) -> Option<Vec<(&'static str, String)>> {
    let (segments, _) = take_apart(uri);
    capture(&segments, path)?
        .into_iter()
        .map(|(name, raw)| Some((name, percent_decode_str(raw).decode_utf8().ok()?.into_owned())))
        .collect()
}

fn take_apart(uri: &'static str) -> (Vec<Segment>, Vec<(&'static str, &'static str)>) {
    let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
    let segments = path.trim_matches('/').split('/').filter(|segment| !segment.is_empty());
    let segments = segments.map(|segment| {
        let label = segment.strip_prefix('{').and_then(|segment| segment.strip_suffix('}'));
        match label.map(|label| label.strip_suffix('+').ok_or(label)) {
            Some(Ok(greedy)) => Segment::Greedy(greedy),
            Some(Err(label)) => Segment::Label(label),
            None => Segment::Literal(segment),
        }
    });
    let constants = query.split('&').filter(|pair| !pair.is_empty());
    let constants = constants.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    (segments.collect(), constants.collect())
}

/// The raw text of each label, if the path has the template's form.
fn capture<'p>(segments: &[Segment], path: &'p str) -> Option<Vec<(&'static str, &'p str)>> {
    let mut rest = path.strip_prefix('/').unwrap_or(path);
    let mut found = Vec::new();
    for (at, segment) in segments.iter().enumerate() {
        if let Segment::Greedy(name) = segment {
            // What stands behind a greedy label are as many segments as the template has there.
            let behind = segments.len() - at - 1;
            let mut end = rest.len();
            for _ in 0..behind {
                end = rest[..end].rfind('/')?;
            }
            let (taken, tail) = rest.split_at(end);
            if taken.is_empty() {
                return None;
            }
            found.push((*name, taken));
            rest = tail.strip_prefix('/').unwrap_or(tail);
            continue;
        }
        let (part, tail) = rest.split_once('/').unwrap_or((rest, ""));
        match segment {
            Segment::Literal(literal) if *literal != part => return None,
            Segment::Label(_) if part.is_empty() => return None,
            Segment::Label(name) => found.push((*name, part)),
            Segment::Literal(_) | Segment::Greedy(_) => {}
        }
        rest = tail;
    }
    rest.is_empty().then_some(found)
}

/// Whether the body is the bytes of one member as they are: then its Content-Encoding is the payload's own.
pub(crate) fn has_raw_payload(model: &Model, structure: &Structure) -> bool {
    let payload =
        structure.payload.and_then(|name| structure.members.iter().find(|member| member.name == name));
    payload.is_some_and(|member| matches!(model.shape(member.shape).kind, Kind::Blob { .. } | Kind::String))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels_of(uri: &'static str, path: &str) -> Option<Vec<(&'static str, String)>> {
        labels(uri, path)
    }

    #[test]
    fn labels_are_captured_and_decoded() {
        let found = labels_of("/clusters/{name}/nodes/{node}", "/clusters/a%2Fb/nodes/c%20d").unwrap();
        assert_eq!(found, [("name", "a/b".into()), ("node", "c d".into())]);
        assert_eq!(labels_of("/clusters/{name}", "/clusters/"), None);
        assert_eq!(labels_of("/clusters/{name}", "/clusters/a/b"), None);
        assert_eq!(labels_of("/2015-03-31/functions/", "/2015-03-31/functions"), Some(vec![]));
    }

    #[test]
    fn a_greedy_label_takes_slashes_and_leaves_what_stands_behind() {
        let found = labels_of("/{Bucket}/{Key+}", "/b/a//c/").unwrap();
        assert_eq!(found, [("Bucket", "b".into()), ("Key", "a//c/".into())]);
        let found = labels_of("/x/{Arn+}/tags", "/x/a/b/tags").unwrap();
        assert_eq!(found, [("Arn", "a/b".into())]);
        assert_eq!(labels_of("/{Bucket}/{Key+}", "/b/"), None);
    }
}
