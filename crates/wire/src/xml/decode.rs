//! XML bytes → `Value`, guided by the schema.
//!
//! The document becomes a small tree first: flattened lists may stand anywhere between their siblings.

use ferrogate_api::Value;
use ferrogate_api::schema::{Kind, Member, Structure};
use quick_xml::events::{BytesRef, BytesStart, Event};
use quick_xml::{Reader, XmlVersion};

use crate::fault::{Cx, Fault, Path};
use crate::limits::{DEPTH_MAX, VALUES_MAX};
use crate::scalar;

/// The value of `member`'s shape that the document's root element holds.
pub(crate) fn decode(cx: &Cx<'_>, member: Option<&Member>, structure: Option<&Structure>, body: &[u8]) -> Result<Option<Value>, Fault> {
    let text = std::str::from_utf8(body).map_err(|_| Fault::body("The body is not UTF-8."))?;
    let root = parse(text)?;
    match (member, structure) {
        (_, Some(structure)) => read_structure(cx, structure, &root, &Path::Root, 0).map(Some),
        (Some(member), None) => read(cx, member, &[&root], &Path::Root, 0),
        (None, None) => Ok(None),
    }
}
