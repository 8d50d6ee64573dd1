//! Forms of the query and ec2 protocols → `Value`. (Their answers are XML.)
//!
//! The pairs are sorted once, segment by segment; a structure, list or map is then a contiguous run of them, and
//! every look-up a binary search. No tree is built, so a long or deep name costs no more than its bytes.

use std::borrow::Cow;
use std::collections::{HashMap, hash_map};

use ferrogate_api::Value;
use ferrogate_api::schema::{Kind, Member, ShapeId, Structure};

use crate::fault::{Cx, Fault, Path};
use crate::limits::QUERY_PARAMETERS_MAX;
use crate::scalar;

/// The two dialects.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Dialect {
    Query,
    Ec2,
}

/// A pair whose name has `\0` for `.`: the byte that sorts before all others keeps `A.1.B` next to `A.1`.
struct Pair<'b> {
    name: String,
    value: Cow<'b, str>,
}

impl Pair<'_> {
    /// The name behind what leads to a node.
    fn rest(&self, prefix: usize) -> &str {
        &self.name[prefix..]
    }
}

/// The input structure `shape` out of the query string and the form body.
pub(crate) fn decode(
    cx: &Cx<'_>,
    dialect: Dialect,
    shape: ShapeId,
    query: &str,
    body: &[u8],
) -> Result<Value, Fault> {
    let mut pairs = Vec::new();
    for (name, value) in form_urlencoded::parse(query.as_bytes()).chain(form_urlencoded::parse(body)) {
        if pairs.len() == QUERY_PARAMETERS_MAX {
            return Err(Fault::too_large(format!(
                "The request has more than {QUERY_PARAMETERS_MAX} parameters."
            )));
        }
        pairs.push(Pair { name: name.replace('.', "\0"), value });
    }
    pairs.sort_by(|a, b| a.name.cmp(&b.name));
    let Kind::Structure(structure) = &cx.model.shape(shape).kind else {
        return Err(Fault::body("The operation takes no parameters."));
    };
    let form = Form { cx, dialect };
    form.structure(structure, Node { exact: None, inside: &pairs, prefix: 0 }, &Path::Root, 0)
}

/// What stands at one name: its own value, and the pairs whose names go on after it. `prefix` is how many bytes
/// of those names lead here, the separator included.
#[derive(Clone, Copy)]
struct Node<'p> {
    exact: Option<&'p str>,
    inside: &'p [Pair<'p>],
    prefix: usize,
}

impl<'p> Node<'p> {
    fn is_empty(&self) -> bool {
        self.exact.is_none() && self.inside.is_empty()
    }

    /// The node one segment further; `name` may itself have dots.
    fn child(&self, name: &str) -> Node<'p> {
        let dotted;
        let name = if name.contains('.') {
            dotted = name.replace('.', "\0");
            &dotted
        } else {
            name
        };
        let start = self.inside.partition_point(|pair| pair.rest(self.prefix) < name);
        let run = &self.inside[start..];
        let exacts = run.partition_point(|pair| pair.rest(self.prefix) == name);
        let inside = &run[exacts..];
        let within = inside.partition_point(|pair| {
            pair.rest(self.prefix).strip_prefix(name).is_some_and(|rest| rest.starts_with('\0'))
        });
        let inside = &inside[..within];
        Node {
            exact: run[..exacts].last().map(|pair| &*pair.value),
            inside,
            prefix: self.prefix + name.len() + 1,
        }
    }

    /// The numbered nodes below, in the order of their numbers. Gaps are allowed, as on AWS. What has no number
    /// would be a part of the request that is silently left out.
    fn numbered(&self, path: &Path<'_>) -> Result<Vec<(u32, Node<'p>)>, Fault> {
        let mut found: Vec<(u32, Node<'p>)> = Vec::new();
        let mut at = 0;
        while let Some(pair) = self.inside.get(at) {
            let segment = pair.rest(self.prefix).split('\0').next().unwrap_or_default();
            let run = &self.inside[at..];
            let same = |pair: &Pair<'_>| {
                let rest = pair.rest(self.prefix).strip_prefix(segment);
                rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('\0'))
            };
            let many = run.partition_point(same).max(1);
            let number =
                segment.parse().map_err(|_| Fault::text(path, segment, "a list with numbered items"))?;
            found.push((number, Node { inside: &run[..many], ..*self }.child(segment)));
            at += many;
        }
        found.sort_by_key(|(number, _)| *number);
        Ok(found)
    }
}

struct Form<'a> {
    cx: &'a Cx<'a>,
    dialect: Dialect,
}

impl Form<'_> {
    fn structure(
        &self,
        of: &Structure,
        node: Node<'_>,
        path: &Path<'_>,
        depth: usize,
    ) -> Result<Value, Fault> {
        self.cx.enter(depth, path)?;
        let mut members = Vec::new();
        for member in &of.members {
            let child = node.child(&self.name(member));
            if child.is_empty() {
                continue;
            }
            let path = Path::Member(path, member.name);
            if let Some(value) = self.value(member, child, &path, depth + 1)? {
                members.push((member.name, value));
            }
        }
        if of.union && members.len() != 1 {
            return Err(Fault::at(path, "must have exactly one of its members set"));
        }
        Ok(Value::Struct(members))
    }

    /// A member's name on the wire.
    fn name(&self, member: &Member) -> Cow<'static, str> {
        match (self.dialect, member.query_name, member.location_name) {
            (Dialect::Ec2, Some(name), _) => name.into(),
            (Dialect::Ec2, None, Some(name)) => {
                let mut chars = name.chars();
                let first = chars.next().map(|first| first.to_ascii_uppercase());
                first.into_iter().chain(chars).collect::<String>().into()
            }
            (Dialect::Ec2, None, None) => member.name.into(),
            (Dialect::Query, _, name) => {
                let inside = match &self.cx.model.shape(member.shape).kind {
                    Kind::List { member: item, flattened } if *flattened || member.flattened => {
                        item.location_name
                    }
                    _ => None,
                };
                inside.or(name).unwrap_or(member.name).into()
            }
        }
    }

    fn value(
        &self,
        member: &Member,
        node: Node<'_>,
        path: &Path<'_>,
        depth: usize,
    ) -> Result<Option<Value>, Fault> {
        let shape = self.cx.model.shape(member.shape);
        Ok(match &shape.kind {
            Kind::Structure(structure) => {
                if node.inside.is_empty() {
                    None
                } else {
                    Some(self.structure(structure, node, path, depth)?)
                }
            }
            Kind::List { member: item, flattened } => {
                let direct = self.dialect == Dialect::Ec2 || *flattened || member.flattened;
                let items = if direct { node } else { node.child(item.location_name.unwrap_or("member")) };
                self.list(item, node, items, path, depth)?
            }
            Kind::Map { key, value, flattened } => {
                let entries = if *flattened || member.flattened { node } else { node.child("entry") };
                self.map(key, value, node, entries, path, depth)?
            }
            _ => match node.exact {
                Some(text) => {
                    self.cx.enter(depth, path)?;
                    // A form can not tell "empty" from "not a number": AWS reads it as absent.
                    if text.is_empty() && !matches!(shape.kind, Kind::String | Kind::Blob { .. }) {
                        return Ok(None);
                    }
                    Some(scalar::parse(shape, text, path)?)
                }
                None => None,
            },
        })
    }

    fn list(
        &self,
        item: &Member,
        node: Node<'_>,
        items: Node<'_>,
        path: &Path<'_>,
        depth: usize,
    ) -> Result<Option<Value>, Fault> {
        self.cx.enter(depth, path)?;
        let mut values = Vec::new();
        for (_, child) in items.numbered(path)? {
            let path = Path::Item(path, values.len() + 1);
            values.extend(self.value(item, child, &path, depth + 1)?);
        }
        // `Name=` and nothing more is the empty list.
        let present = !values.is_empty() || node.exact == Some("");
        Ok(present.then_some(Value::List(values)))
    }

    fn map(
        &self,
        key: &Member,
        value: &Member,
        node: Node<'_>,
        entries: Node<'_>,
        path: &Path<'_>,
        depth: usize,
    ) -> Result<Option<Value>, Fault> {
        self.cx.enter(depth, path)?;
        let mut found: Vec<(String, Value)> = Vec::new();
        let mut places: HashMap<String, usize> = HashMap::new();
        for (number, child) in entries.numbered(path)? {
            let Some(name) = child.child(key.location_name.unwrap_or("key")).exact else {
                let path = Path::Item(path, number as usize);
                return Err(Fault::at(&path, "must have a key"));
            };
            let path = Path::Entry(path, name);
            let node = child.child(value.location_name.unwrap_or("value"));
            let Some(value) = self.value(value, node, &path, depth + 1)? else { continue };
            match places.entry(name.to_owned()) {
                hash_map::Entry::Occupied(place) => found[*place.get()].1 = value,
                hash_map::Entry::Vacant(place) => {
                    place.insert(found.len());
                    found.push((name.to_owned(), value));
                }
            }
        }
        let present = !found.is_empty() || node.exact == Some("");
        Ok(present.then_some(Value::Map(found)))
    }
}
