//! `Value` → XML, guided by the schema.

use ferrogate_api::Value;
use ferrogate_api::schema::{Kind, Member, Model, Structure, TimestampFormat};

use crate::scalar;

/// EC2 differs in a few names and always writes milliseconds.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Dialect {
    Plain,
    Ec2,
}

/// A document in the making.
pub(crate) struct Writer {
    dialect: Dialect,
    out: String,
}

impl Writer {
    pub(crate) fn new(dialect: Dialect) -> Self {
        Self { dialect, out: String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n") }
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        self.out.into_bytes()
    }

    /// `<name xmlns="…">`
    pub(crate) fn open_root(&mut self, name: &str, namespace: Option<&str>) {
        self.out.push('<');
        self.out.push_str(name);
        if let Some(uri) = namespace {
            self.attribute("xmlns", uri);
        }
        self.out.push('>');
    }

    pub(crate) fn open(&mut self, name: &str) {
        self.open_root(name, None);
    }

    pub(crate) fn close(&mut self, name: &str) {
        self.out.push_str("</");
        self.out.push_str(name);
        self.out.push('>');
    }

    /// `<name>text</name>`
    pub(crate) fn leaf(&mut self, name: &str, text: &str) {
        self.open(name);
        escape(text, false, &mut self.out);
        self.close(name);
    }

    fn attribute(&mut self, name: &str, text: &str) {
        self.out.push(' ');
        self.out.push_str(name);
        self.out.push_str("=\"");
        escape(text, true, &mut self.out);
        self.out.push('"');
    }

    /// A structure's members that belong in the body, without an element around them.
    pub(crate) fn members(&mut self, model: &Model, structure: &Structure, value: &Value) {
        for (member, value) in scalar::members(structure, value) {
            if member.location.is_none() && !member.xml_attribute {
                self.member(model, member, value);
            }
        }
    }

    /// One member with its element.
    pub(crate) fn member(&mut self, model: &Model, member: &Member, value: &Value) {
        self.element(model, member.location_name.unwrap_or(member.name), member, value);
    }

    fn element(&mut self, model: &Model, name: &str, member: &Member, value: &Value) {
        let shape = model.shape(member.shape);
        match (&shape.kind, value) {
            (_, Value::Null) => {}
            (Kind::Structure(structure), Value::Struct(_) | Value::Map(_)) => {
                self.open_with_attributes(model, name, member, structure, value);
                self.members(model, structure, value);
                self.close(name);
            }
            (Kind::List { member: item, flattened }, Value::List(items)) => {
                if *flattened || member.flattened {
                    let name = item.location_name.unwrap_or(name);
                    items.iter().for_each(|value| self.element(model, name, item, value));
                    return;
                }
                let default = if self.dialect == Dialect::Ec2 { "item" } else { "member" };
                let item_name = item.location_name.unwrap_or(default);
                self.open(name);
                items.iter().for_each(|value| self.element(model, item_name, item, value));
                self.close(name);
            }
            (Kind::Map { key, value: inside, flattened }, Value::Map(entries)) => {
                let flat = *flattened || member.flattened;
                let entry = if flat { name } else { "entry" };
                if !flat {
                    self.open(name);
                }
                for (text, value) in entries {
                    self.open(entry);
                    self.leaf(key.location_name.unwrap_or("key"), text);
                    self.element(model, inside.location_name.unwrap_or("value"), inside, value);
                    self.close(entry);
                }
                if !flat {
                    self.close(name);
                }
            }
            (_, value) => self.scalar(model, name, member, value),
        }
    }

    fn scalar(&mut self, model: &Model, name: &str, member: &Member, value: &Value) {
        let shape = model.shape(member.shape);
        let format = scalar::timestamp_format(Some(member), shape).unwrap_or(TimestampFormat::Iso8601);
        match value {
            Value::Timestamp(at) if self.dialect == Dialect::Ec2 => self.leaf(name, &format!("{at:.3}")),
            value => {
                if let Some(text) = scalar::format(shape, value, format) {
                    self.leaf(name, &text);
                }
            }
        }
    }

    fn open_with_attributes(
        &mut self,
        model: &Model,
        name: &str,
        member: &Member,
        structure: &Structure,
        value: &Value,
    ) {
        self.out.push('<');
        self.out.push_str(name);
        match member.xml_namespace {
            Some((Some(prefix), uri)) => self.attribute(&format!("xmlns:{prefix}"), uri),
            Some((None, uri)) => self.attribute("xmlns", uri),
            None => {}
        }
        for (member, value) in scalar::members(structure, value) {
            let shape = model.shape(member.shape);
            if member.xml_attribute
                && let Some(text) = scalar::format(shape, value, TimestampFormat::Iso8601)
            {
                self.attribute(member.location_name.unwrap_or(member.name), &text);
            }
        }
        self.out.push('>');
    }
}

/// Text into a document. What XML 1.0 can not hold at all, not even as a reference, becomes U+FFFD; a carriage
/// return (and in attributes any white space) is written as a reference, since parsers rewrite it otherwise.
fn escape(text: &str, attribute: bool, out: &mut String) {
    let mut clean_from = 0;
    for (at, c) in text.char_indices() {
        let replacement = match c {
            '&' => "&amp;",
            '<' => "&lt;",
            '>' => "&gt;",
            '"' if attribute => "&quot;",
            '\r' => "&#xD;",
            '\n' if attribute => "&#xA;",
            '\t' if attribute => "&#x9;",
            '\t' | '\n' => continue,
            '\0'..='\u{1f}' | '\u{fffe}' | '\u{ffff}' => "\u{fffd}",
            _ => continue,
        };
        out.push_str(&text[clean_from..at]);
        out.push_str(replacement);
        clean_from = at + c.len_utf8();
    }
    out.push_str(&text[clean_from..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_escaped() {
        let mut out = String::new();
        escape("a<b>&\"c\"\r\n\u{1}é\u{ffff}", false, &mut out);
        assert_eq!(out, "a&lt;b&gt;&amp;\"c\"&#xD;\n\u{fffd}é\u{fffd}");
        let mut out = String::new();
        escape("\"\n", true, &mut out);
        assert_eq!(out, "&quot;&#xA;");
    }
}
