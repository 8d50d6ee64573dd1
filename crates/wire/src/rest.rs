//! REST-JSON and REST-XML: what stands in path, query string, headers and status code.

use std::borrow::Cow;

use ferrogate_api::Value;
use ferrogate_api::schema::{
    Kind, Location, Member, Model, Operation, Protocol, ShapeId, Structure, TimestampFormat,
};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use crate::fault::{Cx, Fault, Path};
use crate::{json, scalar, template, xml};

type Pairs<'q> = Vec<(Cow<'q, str>, Cow<'q, str>)>;

pub(crate) fn decode(
    cx: &Cx<'_>,
    protocol: Protocol,
    operation: &Operation,
    shape: ShapeId,
    parts: &Parts,
    body: &[u8],
) -> Result<Value, Fault> {
    let Kind::Structure(structure) = &cx.model.shape(shape).kind else {
        return Err(Fault::body("The operation takes no parameters."));
    };
    let labels = template::labels(operation.uri, parts.uri.path())
        .ok_or_else(|| Fault::body(format!("The path does not have the form {}.", operation.uri)))?;
    let query: Pairs<'_> = form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes()).collect();
    let bound: Vec<&str> = structure
        .members
        .iter()
        .filter(|member| member.location == Some(Location::QueryString))
        .map(wire_name)
        .chain(operation.uri.split_once('?').map(|(_, constants)| constants).into_iter().flat_map(
            |constants| constants.split('&').map(|pair| pair.split_once('=').map_or(pair, |(key, _)| key)),
        ))
        .collect();

    let mut members = body_members(cx, protocol, shape, structure, body)?;
    for member in &structure.members {
        let name = wire_name(member);
        let path = Path::Member(&Path::Root, member.name);
        let value = match member.location {
            Some(Location::Uri) => labels
                .iter()
                .find(|(label, _)| *label == name)
                .map(|(_, text)| scalar::parse(cx.model.shape(member.shape), text, &path))
                .transpose()?,
            Some(Location::QueryString) => from_query(cx, member, name, &query, &bound, &path)?,
            Some(Location::Header) => from_header(cx, member, name, &parts.headers, &path)?,
            Some(Location::Headers) => from_headers(name, &parts.headers),
            Some(Location::StatusCode) | None => None,
        };
        if let Some(value) = value {
            cx.enter(1, &path)?;
            members.push((member.name, value));
        }
    }
    Ok(Value::Struct(members))
}

fn wire_name(member: &Member) -> &'static str {
    member.location_name.unwrap_or(member.name)
}

/// The payload member, or the members that have no other place.
fn body_members(
    cx: &Cx<'_>,
    protocol: Protocol,
    shape: ShapeId,
    structure: &Structure,
    body: &[u8],
) -> Result<Vec<(&'static str, Value)>, Fault> {
    if let Some(name) = structure.payload {
        let Some(member) = structure.members.iter().find(|member| member.name == name) else {
            return Ok(Vec::new());
        };
        return Ok(payload(cx, protocol, member, body)?
            .map(|value| (member.name, value))
            .into_iter()
            .collect());
    }
    let bodied = structure.members.iter().any(|member| member.location.is_none());
    if !bodied || body.trim_ascii().is_empty() {
        return Ok(Vec::new());
    }
    let value = match protocol {
        Protocol::RestXml => xml::decode(cx, structure, body)?,
        _ => json::decode(cx, shape, body)?,
    };
    if let Value::Struct(members) = value { Ok(members) } else { Ok(Vec::new()) }
}

fn payload(cx: &Cx<'_>, protocol: Protocol, member: &Member, body: &[u8]) -> Result<Option<Value>, Fault> {
    if body.is_empty() {
        return Ok(None);
    }
    match &cx.model.shape(member.shape).kind {
        Kind::Blob { .. } => Ok(Some(Value::Blob(body.to_vec()))),
        Kind::String => match std::str::from_utf8(body) {
            Ok(text) => Ok(Some(Value::String(text.to_owned()))),
            Err(_) => Err(Fault::body("The body is not UTF-8.")),
        },
        Kind::Structure(structure) if protocol == Protocol::RestXml => {
            xml::decode(cx, structure, body).map(Some)
        }
        _ => json::decode(cx, member.shape, body).map(Some),
    }
}

fn from_query(
    cx: &Cx<'_>,
    member: &Member,
    name: &str,
    query: &Pairs<'_>,
    bound: &[&str],
    path: &Path<'_>,
) -> Result<Option<Value>, Fault> {
    let model = cx.model;
    let shape = model.shape(member.shape);
    let named = || query.iter().filter(|(key, _)| key == name).map(|(_, value)| &**value);
    match &shape.kind {
        Kind::List { member: item, .. } => {
            let mut items = Vec::new();
            for text in named() {
                let path = Path::Item(path, items.len() + 1);
                cx.enter(2, &path)?;
                items.push(scalar::parse(model.shape(item.shape), text, &path)?);
            }
            Ok((!items.is_empty()).then_some(Value::List(items)))
        }
        Kind::Map { value, .. } => from_whole_query(cx, value, query, bound, path),
        _ => named().next_back().map(|text| scalar::parse(shape, text, path)).transpose(),
    }
}

/// A map takes every key that no other member has a claim on.
fn from_whole_query(
    cx: &Cx<'_>,
    inside: &Member,
    query: &Pairs<'_>,
    bound: &[&str],
    path: &Path<'_>,
) -> Result<Option<Value>, Fault> {
    let shape = cx.model.shape(inside.shape);
    let mut entries: Vec<(String, Value)> = Vec::new();
    let mut places = std::collections::HashMap::new();
    for (key, text) in query.iter().filter(|(key, _)| !bound.contains(&&**key)) {
        let path = Path::Entry(path, key);
        cx.enter(2, &path)?;
        let place = *places.entry(&**key).or_insert(entries.len());
        let item = if let Kind::List { member, .. } = &shape.kind { Some(member) } else { None };
        let value = scalar::parse(item.map_or(shape, |item| cx.model.shape(item.shape)), text, &path)?;
        match (entries.get_mut(place), item) {
            (Some((_, Value::List(items))), Some(_)) => items.push(value),
            (Some((_, earlier)), _) => *earlier = value,
            (None, Some(_)) => entries.push((key.clone().into_owned(), Value::List(vec![value]))),
            (None, None) => entries.push((key.clone().into_owned(), value)),
        }
    }
    Ok((!entries.is_empty()).then_some(Value::Map(entries)))
}

fn from_header(
    cx: &Cx<'_>,
    member: &Member,
    name: &str,
    headers: &HeaderMap,
    path: &Path<'_>,
) -> Result<Option<Value>, Fault> {
    let Some(first) = headers.get(name) else { return Ok(None) };
    let text = latin1(first);
    let shape = cx.model.shape(member.shape);
    if member.json_value {
        let json = scalar::base64_decode(&text, path)?;
        return json::decode_any(cx, &json).map(|value| Some(Value::String(compact(&value))));
    }
    match &shape.kind {
        Kind::List { member: item, .. } => {
            let of = cx.model.shape(item.shape);
            let mut items = Vec::new();
            for header in headers.get_all(name) {
                // RFC 822 has a comma of its own behind the day.
                let per_item = if matches!(of.kind, Kind::Timestamp { .. }) { 2 } else { 1 };
                for text in split_list(&latin1(header), per_item) {
                    let path = Path::Item(path, items.len() + 1);
                    cx.enter(2, &path)?;
                    items.push(scalar::parse(of, &text, &path)?);
                }
            }
            Ok(Some(Value::List(items)))
        }
        _ => scalar::parse(shape, &text, path).map(Some),
    }
}

fn compact(value: &Value) -> String {
    let mut out = Vec::new();
    json::write_any(value, &mut out);
    String::from_utf8(out).unwrap_or_default()
}

/// All headers that begin with `prefix`, by what follows it.
fn from_headers(prefix: &str, headers: &HeaderMap) -> Option<Value> {
    let prefix = prefix.to_ascii_lowercase();
    let found: Vec<(String, Value)> = headers
        .iter()
        .filter_map(|(name, value)| Some((name.as_str().strip_prefix(&prefix)?, value)))
        .map(|(key, value)| (key.to_owned(), Value::String(latin1(value))))
        .collect();
    (!found.is_empty()).then_some(Value::Map(found))
}

/// HTTP's header bytes as text; UTF-8 where they are.
fn latin1(value: &HeaderValue) -> String {
    let bytes = value.as_bytes();
    std::str::from_utf8(bytes)
        .map_or_else(|_| bytes.iter().map(|byte| char::from(*byte)).collect(), str::to_owned)
}

/// `a, "b,c", d`; every `per_item`-th comma parts two items.
fn split_list(text: &str, per_item: usize) -> Vec<String> {
    let mut items = Vec::new();
    let mut item = String::new();
    let (mut quoted, mut commas) = (false, 0);
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '"' if !quoted && item.trim().is_empty() => {
                item.clear();
                quoted = true;
            }
            '"' if quoted => quoted = false,
            '\\' if quoted => item.extend(chars.next()),
            ',' if !quoted => {
                commas += 1;
                if commas == per_item {
                    items.push(std::mem::take(&mut item).trim().to_owned());
                    commas = 0;
                } else {
                    item.push(c);
                }
            }
            c => item.push(c),
        }
    }
    items.push(item.trim().to_owned());
    items
}

/// Puts the members that belong there into status and headers.
pub(crate) fn encode_head(
    model: &Model,
    structure: &Structure,
    output: &Value,
    status: &mut StatusCode,
    headers: &mut HeaderMap,
) {
    for (member, value) in scalar::members(structure, output) {
        let name = wire_name(member);
        match (member.location, value) {
            (Some(Location::StatusCode), Value::Int(code)) => {
                if let Some(code) = u16::try_from(*code).ok().and_then(|code| StatusCode::from_u16(code).ok())
                {
                    *status = code;
                }
            }
            (Some(Location::Headers), Value::Map(entries)) => {
                for (key, value) in entries {
                    if let Value::String(text) = value {
                        put(headers, &format!("{name}{key}"), text);
                    }
                }
            }
            (Some(Location::Header), value) => {
                if let Some(text) = header_text(model, member, value) {
                    put(headers, name, &text);
                }
            }
            _ => {}
        }
    }
}

fn header_text(model: &Model, member: &Member, value: &Value) -> Option<String> {
    let shape = model.shape(member.shape);
    if member.json_value
        && let Value::String(json) = value
    {
        return Some(scalar::base64_encode(json.as_bytes()));
    }
    if let (Kind::List { member: item, .. }, Value::List(items)) = (&shape.kind, value) {
        let texts: Vec<String> = items.iter().filter_map(|value| header_text(model, item, value)).collect();
        return (!texts.is_empty()).then(|| texts.join(", "));
    }
    let format = scalar::timestamp_format(Some(member), shape).unwrap_or(TimestampFormat::Rfc822);
    scalar::format(shape, value, format).map(Cow::into_owned)
}

/// Line ends would begin another header: they, and what else HTTP forbids, become spaces.
pub(crate) fn put(headers: &mut HeaderMap, name: &str, text: &str) {
    let bytes: Vec<u8> =
        text.bytes().map(|byte| if byte < b' ' || byte == 0x7f { b' ' } else { byte }).collect();
    if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_bytes(&bytes))
    {
        headers.insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_lists_may_be_quoted() {
        assert_eq!(split_list(r#"a, "b,\"c" ,d"#, 1), ["a", "b,\"c", "d"]);
        assert_eq!(
            split_list("Sat, 31 Jan 2026, Sun, 1 Feb 2026", 2),
            ["Sat, 31 Jan 2026", "Sun, 1 Feb 2026"]
        );
    }

    #[test]
    fn a_header_can_not_be_split() {
        let mut headers = HeaderMap::new();
        put(&mut headers, "x-a", "b\r\nx-c: d");
        assert_eq!(headers["x-a"], "b  x-c: d");
    }
}
