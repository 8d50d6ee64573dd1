//! XML bytes → `Value`, guided by the schema.
//!
//! The document becomes a small tree first: the items of a flattened list may stand anywhere between their siblings.

use ferrogate_api::Value;
use ferrogate_api::schema::{Kind, Member, Structure};
use quick_xml::Reader;
use quick_xml::events::{BytesRef, BytesStart, Event};

use crate::fault::{Cx, Fault, Path};
use crate::limits::{DEPTH_MAX, VALUES_MAX};
use crate::scalar;

/// The structure that the document's root element holds.
pub(crate) fn decode(cx: &Cx<'_>, structure: &Structure, body: &[u8]) -> Result<Value, Fault> {
    let text = std::str::from_utf8(body).map_err(|_| Fault::body("The body is not UTF-8."))?;
    Decoder { cx }.structure(structure, &parse(text)?, &Path::Root, 0)
}

#[derive(Default)]
struct Element {
    /// Without its namespace's prefix, which AWS ignores.
    name: String,
    /// With prefix: `xsi:type`.
    attributes: Vec<(String, String)>,
    children: Vec<Element>,
    text: String,
}

fn parse(text: &str) -> Result<Element, Fault> {
    let broken = |error: &dyn std::fmt::Display| {
        Fault::body(format!("The body is not XML that can be read: {error}."))
    };
    if let Some(c) = text.chars().find(|c| !is_of_xml(*c)) {
        return Err(broken(&format!("it holds the character U+{:04X}", u32::from(c))));
    }
    let mut reader = Reader::from_str(text);
    // The first stands for the document; its children are the roots.
    let mut open = vec![Element::default()];
    let mut elements = 0;
    loop {
        let event = reader.read_event().map_err(|error| broken(&error))?;
        let current = open.last_mut().expect("the document itself is never closed");
        match event {
            Event::Start(start) => {
                elements += 1;
                if open.len() > DEPTH_MAX {
                    return Err(Fault::body(format!(
                        "The body is nested more than {DEPTH_MAX} levels deep."
                    )));
                }
                open.push(element(&start).map_err(|error| broken(&error))?);
            }
            Event::Empty(start) => {
                elements += 1;
                current.children.push(element(&start).map_err(|error| broken(&error))?);
            }
            Event::End(_) => {
                let done = open.pop().expect("the reader matches ends to starts");
                open.last_mut().expect("the document itself is never closed").children.push(done);
            }
            Event::Text(text) => current.text.push_str(&text.xml_content().map_err(|error| broken(&error))?),
            Event::CData(text) => current.text.push_str(&text.decode().map_err(|error| broken(&error))?),
            Event::GeneralRef(name) => current.text.push(resolve(&name).ok_or_else(|| {
                broken(&format!(
                    "it refers to '&{};', which it does not define",
                    String::from_utf8_lossy(&name)
                ))
            })?),
            // No document of an API call needs a DTD, and entities defined in one are an attack.
            Event::DocType(_) => return Err(Fault::body("The body must not have a DOCTYPE.")),
            Event::Comment(_) | Event::PI(_) | Event::Decl(_) => {}
            Event::Eof => break,
        }
        if elements > VALUES_MAX {
            return Err(Fault::too_large(format!("The body has more than {VALUES_MAX} elements.")));
        }
    }
    let mut document = open.pop().filter(|_| open.is_empty()).ok_or_else(|| broken(&"it ends too early"))?;
    match document.children.len() {
        1 if document.text.trim().is_empty() => Ok(document.children.remove(0)),
        1 => Err(broken(&"text stands outside its root element")),
        _ => Err(broken(&"it must have one root element")),
    }
}

/// XML 1.0, production 2.
fn is_of_xml(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\r' | ' '..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..)
}

/// What is made of elements holds nothing else.
fn no_text(node: &Element, path: &Path<'_>) -> Result<(), Fault> {
    match path {
        _ if node.text.trim().is_empty() => Ok(()),
        Path::Root => Err(Fault::body("The body must be elements, not text.")),
        path => Err(Fault::at(path, "must be elements, not text")),
    }
}

fn element(start: &BytesStart<'_>) -> Result<Element, quick_xml::Error> {
    let mut element = Element {
        name: String::from_utf8_lossy(start.local_name().as_ref()).into_owned(),
        ..Element::default()
    };
    for attribute in start.attributes() {
        let attribute = attribute?;
        let name = String::from_utf8_lossy(attribute.key.as_ref()).into_owned();
        element.attributes.push((name, attribute.unescape_value()?.into_owned()));
    }
    Ok(element)
}

fn resolve(name: &BytesRef<'_>) -> Option<char> {
    if name.is_char_ref() {
        return name.resolve_char_ref().ok()?;
    }
    Some(match &**name {
        b"lt" => '<',
        b"gt" => '>',
        b"amp" => '&',
        b"apos" => '\'',
        b"quot" => '"',
        _ => return None,
    })
}

struct Decoder<'a> {
    cx: &'a Cx<'a>,
}

impl Decoder<'_> {
    fn structure(
        &self,
        of: &Structure,
        node: &Element,
        path: &Path<'_>,
        depth: usize,
    ) -> Result<Value, Fault> {
        self.cx.enter(depth, path)?;
        no_text(node, path)?;
        let mut members = Vec::new();
        for member in of.members.iter().filter(|member| member.location.is_none()) {
            let path = Path::Member(path, member.name);
            if let Some(value) = self.member(member, node, &path, depth + 1)? {
                members.push((member.name, value));
            }
        }
        if of.union && members.len() != 1 {
            return Err(Fault::at(path, "must have exactly one of its members set"));
        }
        Ok(Value::Struct(members))
    }

    fn member(
        &self,
        member: &Member,
        parent: &Element,
        path: &Path<'_>,
        depth: usize,
    ) -> Result<Option<Value>, Fault> {
        let name = member.location_name.unwrap_or(member.name);
        let shape = self.cx.model.shape(member.shape);
        if member.xml_attribute {
            let found = parent.attributes.iter().find(|(found, _)| found == name);
            return found.map(|(_, text)| scalar::parse(shape, text, path)).transpose();
        }
        let named = |name: &'static str| parent.children.iter().filter(move |child| child.name == name);
        match &shape.kind {
            Kind::List { member: item, flattened } if *flattened || member.flattened => {
                // In a request the member's own name counts, in an answer the item's: both are taken.
                let mut items = named(name).peekable();
                let other = item.location_name.filter(|other| *other != name);
                match (items.peek(), other) {
                    (None, Some(other)) => self.list(item, named(other), path, depth),
                    _ => self.list(item, items, path, depth),
                }
                .map(|list| list.filter(|list| list.as_list().is_some_and(|items| !items.is_empty())))
            }
            Kind::Map { key, value, flattened } if *flattened || member.flattened => {
                let mut entries = named(name).peekable();
                if entries.peek().is_none() {
                    return Ok(None);
                }
                self.map(key, value, entries, path, depth)
            }
            _ => match named(name).next_back() {
                Some(node) => self.value(member, node, path, depth),
                None => Ok(None),
            },
        }
    }

    fn value(
        &self,
        member: &Member,
        node: &Element,
        path: &Path<'_>,
        depth: usize,
    ) -> Result<Option<Value>, Fault> {
        let shape = self.cx.model.shape(member.shape);
        match &shape.kind {
            Kind::Structure(structure) => self.structure(structure, node, path, depth).map(Some),
            Kind::List { member: item, .. } => {
                no_text(node, path)?;
                let name = item.location_name.unwrap_or("member");
                self.list(item, node.children.iter().filter(|child| child.name == name), path, depth)
            }
            Kind::Map { key, value, .. } => {
                no_text(node, path)?;
                self.map(key, value, node.children.iter().filter(|child| child.name == "entry"), path, depth)
            }
            _ => {
                self.cx.enter(depth, path)?;
                if !node.children.is_empty() {
                    return Err(Fault::at(path, "must be text, not elements"));
                }
                scalar::parse(shape, &node.text, path).map(Some)
            }
        }
    }

    fn list<'e>(
        &self,
        item: &Member,
        nodes: impl Iterator<Item = &'e Element>,
        path: &Path<'_>,
        depth: usize,
    ) -> Result<Option<Value>, Fault> {
        self.cx.enter(depth, path)?;
        let mut items = Vec::new();
        for node in nodes {
            let path = Path::Item(path, items.len() + 1);
            items.extend(self.value(item, node, &path, depth + 1)?);
        }
        Ok(Some(Value::List(items)))
    }

    fn map<'e>(
        &self,
        key: &Member,
        value: &Member,
        nodes: impl Iterator<Item = &'e Element>,
        path: &Path<'_>,
        depth: usize,
    ) -> Result<Option<Value>, Fault> {
        self.cx.enter(depth, path)?;
        let mut entries = Vec::new();
        let (key, value_name) = (key.location_name.unwrap_or("key"), value.location_name.unwrap_or("value"));
        for node in nodes {
            let child = |name: &str| node.children.iter().find(|child| child.name == name);
            let Some(key) = child(key) else {
                return Err(Fault::at(&Path::Item(path, entries.len() + 1), "must have a key"));
            };
            let path = Path::Entry(path, &key.text);
            if let Some(found) = child(value_name)
                && let Some(value) = self.value(value, found, &path, depth + 1)?
            {
                entries.push((key.text.clone(), value));
            }
        }
        Ok(Some(Value::Map(entries)))
    }
}
