//! JSON bytes → `Value`, guided by the schema.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::{HashMap, hash_map};
use std::fmt;

use ferrogate_api::Value;
use ferrogate_api::schema::{Kind, Member, ShapeId, ShapeModel, Structure};
use jiff::Timestamp;
use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::fault::{Cx, Fault, Path};
use crate::scalar;

/// The value of `shape` that `body` holds. An empty body is an empty structure.
pub(crate) fn decode(cx: &Cx<'_>, shape: ShapeId, body: &[u8]) -> Result<Value, Fault> {
    let body = if body.trim_ascii().is_empty() { b"{}" } else { body };
    run(cx, Target::of(cx, shape), body)
}

/// Any JSON: documents.
pub(crate) fn decode_any(cx: &Cx<'_>, body: &[u8]) -> Result<Value, Fault> {
    run(cx, Target::Document, body)
}

fn run(cx: &Cx<'_>, target: Target<'_>, body: &[u8]) -> Result<Value, Fault> {
    let fault = RefCell::new(None);
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let seed = Seed { cx, fault: &fault, target, path: &Path::Root, depth: 0 };
    let result = seed.deserialize(&mut deserializer).and_then(|value| deserializer.end().map(|()| value));
    result.map_err(|error| {
        fault
            .take()
            .unwrap_or_else(|| Fault::body(format!("The body is not JSON that can be read: {error}.")))
    })
}

/// What the next JSON value has to be.
#[derive(Clone, Copy)]
enum Target<'a> {
    Shape(&'a ShapeModel),
    Document,
}

impl<'a> Target<'a> {
    fn of(cx: &Cx<'a>, shape: ShapeId) -> Self {
        let shape = cx.model.shape(shape);
        match &shape.kind {
            Kind::Structure(structure) if structure.document => Self::Document,
            _ => Self::Shape(shape),
        }
    }
}

struct Seed<'a> {
    cx: &'a Cx<'a>,
    /// Serde's errors carry text only; ours carries the place.
    fault: &'a RefCell<Option<Fault>>,
    target: Target<'a>,
    path: &'a Path<'a>,
    depth: usize,
}

impl<'a> Seed<'a> {
    fn fail<E: de::Error>(&self, fault: Fault) -> E {
        *self.fault.borrow_mut() = Some(fault);
        E::custom("refused")
    }

    fn not<E: de::Error>(&self, found: &str) -> E {
        let expected = match self.target {
            Target::Document => "JSON",
            Target::Shape(shape) => match shape.kind {
                Kind::Structure(_) => "a structure",
                Kind::List { .. } => "a list",
                Kind::Map { .. } => "a map",
                Kind::String => "a string",
                Kind::Integer => "an integer of 32 bits",
                Kind::Long => "an integer of 64 bits",
                Kind::Float | Kind::Double => "a number",
                Kind::Boolean => "true or false",
                Kind::Blob { .. } => "a string of base64",
                Kind::Timestamp { .. } => "a timestamp: seconds since 1970",
            },
        };
        if matches!(self.path, Path::Root) {
            return self.fail(Fault::body(format!("The body must be {expected}, not {found}.")));
        }
        self.fail(Fault::at(self.path, format!("must be {expected}, not {found}")))
    }

    /// A seed for what is inside, at `path`.
    fn within<'b>(&'b self, member: Option<&'b Member>, path: &'b Path<'b>) -> Seed<'b> {
        let target = member.map_or(Target::Document, |member| Target::of(self.cx, member.shape));
        Seed { cx: self.cx, fault: self.fault, target, path, depth: self.depth + 1 }
    }

    fn structure<'de, A: MapAccess<'de>>(
        &self,
        structure: &Structure,
        mut map: A,
    ) -> Result<Value, A::Error> {
        let mut members: Vec<(&'static str, Value)> = Vec::new();
        let mut next = 0;
        while let Some(found) = map.next_key_seed(Field { structure, next })? {
            let Some(at) = found else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            next = at + 1;
            let member = &structure.members[at];
            let path = Path::Member(self.path, member.name);
            let value = map.next_value_seed(self.within(Some(member), &path))?;
            if value.is_null() {
                continue;
            }
            // The last one wins, as with AWS's own parser.
            match members.iter_mut().find(|(name, _)| std::ptr::eq(*name, member.name)) {
                Some(earlier) => earlier.1 = value,
                None => members.push((member.name, value)),
            }
        }
        if structure.union && !structure.members.is_empty() && members.len() != 1 {
            return Err(self.fail(Fault::at(self.path, "must have exactly one of its members set")));
        }
        Ok(Value::Struct(members))
    }

    fn map<'de, A: MapAccess<'de>>(&self, inside: Option<&Member>, mut map: A) -> Result<Value, A::Error> {
        let mut entries: Vec<(String, Value)> = Vec::new();
        let mut places: HashMap<String, usize> = HashMap::new();
        while let Some(key) = map.next_key::<String>()? {
            let path = Path::Entry(self.path, &key);
            let value = map.next_value_seed(self.within(inside, &path))?;
            if value.is_null() && inside.is_some() {
                return Err(self.fail(Fault::at(&path, "must not be null")));
            }
            match places.entry(key.clone()) {
                hash_map::Entry::Occupied(place) => entries[*place.get()].1 = value,
                hash_map::Entry::Vacant(place) => {
                    place.insert(entries.len());
                    entries.push((key, value));
                }
            }
        }
        Ok(Value::Map(entries))
    }

    fn list<'de, A: SeqAccess<'de>>(&self, inside: Option<&Member>, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        loop {
            let path = Path::Item(self.path, items.len() + 1);
            let Some(value) = seq.next_element_seed(self.within(inside, &path))? else {
                return Ok(Value::List(items));
            };
            if value.is_null() && inside.is_some() {
                return Err(self.fail(Fault::at(&path, "must not be null")));
            }
            items.push(value);
        }
    }

    fn text<E: de::Error>(&self, text: Cow<'_, str>) -> Result<Value, E> {
        let Target::Shape(shape) = self.target else { return Ok(Value::String(text.into_owned())) };
        match shape.kind {
            Kind::String => Ok(Value::String(text.into_owned())),
            Kind::Blob { .. } => match scalar::base64_decode(&text, self.path) {
                Ok(bytes) => Ok(Value::Blob(bytes)),
                Err(fault) => Err(self.fail(fault)),
            },
            Kind::Timestamp { .. } => scalar::timestamp(&text)
                .map(Value::Timestamp)
                .ok_or_else(|| self.not("a string that is no time")),
            // JSON has no other way to write them.
            Kind::Float | Kind::Double => match &*text {
                "NaN" => Ok(Value::Float(f64::NAN)),
                "Infinity" => Ok(Value::Float(f64::INFINITY)),
                "-Infinity" => Ok(Value::Float(f64::NEG_INFINITY)),
                _ => Err(self.not("a string")),
            },
            _ => Err(self.not("a string")),
        }
    }

    fn integer<E: de::Error>(&self, number: i64) -> Result<Value, E> {
        let Target::Shape(shape) = self.target else { return Ok(Value::Int(number)) };
        match shape.kind {
            Kind::Long => Ok(Value::Int(number)),
            Kind::Integer if i32::try_from(number).is_ok() => Ok(Value::Int(number)),
            Kind::Integer => Err(self.not("a larger number")),
            Kind::Float | Kind::Double => Ok(Value::Float(number as f64)),
            Kind::Timestamp { .. } => Timestamp::from_second(number)
                .map(Value::Timestamp)
                .map_err(|_| self.not("a number beyond the year 9999")),
            _ => Err(self.not("a number")),
        }
    }
}

/// The place of a structure's member, by its name on the wire. `next` is where it most likely is.
struct Field<'a> {
    structure: &'a Structure,
    next: usize,
}

impl<'de> DeserializeSeed<'de> for Field<'_> {
    type Value = Option<usize>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_identifier(self)
    }
}

impl Visitor<'_> for Field<'_> {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a member's name")
    }

    fn visit_str<E: de::Error>(self, name: &str) -> Result<Self::Value, E> {
        let is = |member: &Member| {
            member.location.is_none() && member.location_name.unwrap_or(member.name) == name
        };
        let members = &self.structure.members;
        let next = self.next.min(members.len());
        let found = members[next..].iter().position(is).map(|at| at + next);
        Ok(found.or_else(|| members[..next].iter().position(is)))
    }
}

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        if let Err(fault) = self.cx.enter(self.depth, self.path) {
            return Err(self.fail(fault));
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Value, E> {
        if matches!(self.path, Path::Root) && matches!(self.target, Target::Shape(..)) {
            return Err(self.not("null"));
        }
        Ok(Value::Null)
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Value, E> {
        match self.target {
            Target::Document => Ok(Value::Bool(value)),
            Target::Shape(shape) if matches!(shape.kind, Kind::Boolean) => Ok(Value::Bool(value)),
            Target::Shape(..) => Err(self.not(if value { "true" } else { "false" })),
        }
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Value, E> {
        self.integer(number)
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Value, E> {
        match i64::try_from(number) {
            Ok(number) => self.integer(number),
            Err(_) => self.visit_f64(number as f64),
        }
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<Value, E> {
        let Target::Shape(shape) = self.target else { return Ok(Value::Float(number)) };
        match shape.kind {
            Kind::Float | Kind::Double => Ok(Value::Float(number)),
            Kind::Timestamp { .. } => scalar::epoch(number)
                .map(Value::Timestamp)
                .ok_or_else(|| self.not("a number beyond the year 9999")),
            // `5.0` is how some languages write 5.
            Kind::Integer | Kind::Long if number.fract() == 0.0 && number.abs() < 9.0e15 => {
                self.integer(number as i64)
            }
            Kind::Integer | Kind::Long => Err(self.not(&format!("{number}"))),
            _ => Err(self.not("a number")),
        }
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Value, E> {
        self.text(text.into())
    }

    fn visit_string<E: de::Error>(self, text: String) -> Result<Value, E> {
        self.text(text.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Value, A::Error> {
        match self.target {
            Target::Document => self.list(None, seq),
            Target::Shape(shape) => match &shape.kind {
                Kind::List { member, .. } => self.list(Some(member), seq),
                _ => Err(self.not("a list")),
            },
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Value, A::Error> {
        match self.target {
            Target::Document => self.map(None, map),
            Target::Shape(shape) => match &shape.kind {
                Kind::Structure(structure) => self.structure(structure, map),
                Kind::Map { value, .. } => self.map(Some(value), map),
                _ => Err(self.not("a structure")),
            },
        }
    }
}
