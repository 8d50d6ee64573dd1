//! CBOR bytes → `Value`, guided by the schema.

use std::collections::{HashMap, hash_map};

use ferrogate_api::Value;
use ferrogate_api::schema::{Kind, Member, ShapeId, Structure};
use minicbor::Decoder;
use minicbor::data::Type;

use crate::fault::{Cx, Fault, Path};
use crate::scalar;

/// CBOR's tag for seconds since 1970 (RFC 8949, 3.4.2).
const EPOCH_TAG: u64 = 1;

/// The value of `shape` that `body` holds. An empty body is an empty structure.
pub(crate) fn decode(cx: &Cx<'_>, shape: ShapeId, body: &[u8]) -> Result<Value, Fault> {
    if body.is_empty() {
        return Ok(Value::Struct(Vec::new()));
    }
    let mut reader = Reader { cx, cbor: Decoder::new(body) };
    let value = reader.value(shape, &Path::Root, 0)?;
    if reader.cbor.position() != body.len() {
        return Err(Fault::body("The body goes on after its CBOR value ended."));
    }
    if value.is_null() {
        return Err(Fault::body("The body must be a CBOR map, not null."));
    }
    Ok(value)
}

struct Reader<'a> {
    cx: &'a Cx<'a>,
    cbor: Decoder<'a>,
}

fn broken(error: minicbor::decode::Error) -> Fault {
    Fault::body(format!("The body is not CBOR that can be read: {error}."))
}

impl Reader<'_> {
    fn value(&mut self, shape: ShapeId, path: &Path<'_>, depth: usize) -> Result<Value, Fault> {
        self.cx.enter(depth, path)?;
        let found = self.cbor.datatype().map_err(broken)?;
        if matches!(found, Type::Null | Type::Undefined) {
            self.cbor.skip().map_err(broken)?;
            return Ok(Value::Null);
        }
        let model = self.cx.model;
        match &model.shape(shape).kind {
            Kind::Structure(structure) if structure.document => self.any(path, depth),
            Kind::Structure(structure) => self.structure(structure, found, path, depth),
            Kind::List { member, .. } => self.list(Some(member), found, path, depth),
            Kind::Map { value, .. } => self.map(Some(value), found, path, depth),
            Kind::String => match found {
                Type::String | Type::StringIndef => self.text().map(Value::String),
                _ => Err(not(path, "a string", found)),
            },
            Kind::Blob { .. } => match found {
                Type::Bytes | Type::BytesIndef => self.bytes().map(Value::Blob),
                _ => Err(not(path, "a byte string", found)),
            },
            Kind::Boolean => match found {
                Type::Bool => self.cbor.bool().map(Value::Bool).map_err(broken),
                _ => Err(not(path, "true or false", found)),
            },
            Kind::Integer => match self.integer(found, path)? {
                number if i32::try_from(number).is_ok() => Ok(Value::Int(number)),
                _ => Err(not(path, "an integer of 32 bits", found)),
            },
            Kind::Long => self.integer(found, path).map(Value::Int),
            Kind::Float | Kind::Double => self.number(found, path).map(Value::Float),
            Kind::Timestamp { .. } => self.timestamp(found, path),
        }
    }

    fn structure(
        &mut self,
        structure: &Structure,
        found: Type,
        path: &Path<'_>,
        depth: usize,
    ) -> Result<Value, Fault> {
        let mut left = self.map_head(found, "a structure", path)?;
        let mut members: Vec<(&'static str, Value)> = Vec::new();
        while self.goes_on(&mut left)? {
            let name = self.text()?;
            let Some(member) = structure.members.iter().find(|member| member.name == name) else {
                self.cbor.skip().map_err(broken)?;
                continue;
            };
            let value = self.value(member.shape, &Path::Member(path, member.name), depth + 1)?;
            if value.is_null() {
                continue;
            }
            match members.iter_mut().find(|(name, _)| std::ptr::eq(*name, member.name)) {
                Some(earlier) => earlier.1 = value,
                None => members.push((member.name, value)),
            }
        }
        if structure.union && members.len() != 1 {
            return Err(Fault::at(path, "must have exactly one of its members set"));
        }
        Ok(Value::Struct(members))
    }

    fn list(
        &mut self,
        item: Option<&Member>,
        found: Type,
        path: &Path<'_>,
        depth: usize,
    ) -> Result<Value, Fault> {
        if !matches!(found, Type::Array | Type::ArrayIndef) {
            return Err(not(path, "a list", found));
        }
        let mut left = self.cbor.array().map_err(broken)?;
        let mut items = Vec::new();
        while self.goes_on(&mut left)? {
            let path = Path::Item(path, items.len() + 1);
            let value = match item {
                Some(item) => self.value(item.shape, &path, depth + 1)?,
                None => self.any(&path, depth + 1)?,
            };
            if value.is_null() && item.is_some() {
                return Err(Fault::at(&path, "must not be null"));
            }
            items.push(value);
        }
        Ok(Value::List(items))
    }

    fn map(
        &mut self,
        inside: Option<&Member>,
        found: Type,
        path: &Path<'_>,
        depth: usize,
    ) -> Result<Value, Fault> {
        let mut left = self.map_head(found, "a map", path)?;
        let mut entries: Vec<(String, Value)> = Vec::new();
        let mut places: HashMap<String, usize> = HashMap::new();
        while self.goes_on(&mut left)? {
            let key = self.text()?;
            let path = Path::Entry(path, &key);
            let value = match inside {
                Some(inside) => self.value(inside.shape, &path, depth + 1)?,
                None => self.any(&path, depth + 1)?,
            };
            if value.is_null() && inside.is_some() {
                return Err(Fault::at(&path, "must not be null"));
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

    /// A document: whatever stands there.
    fn any(&mut self, path: &Path<'_>, depth: usize) -> Result<Value, Fault> {
        self.cx.enter(depth, path)?;
        let found = self.cbor.datatype().map_err(broken)?;
        match found {
            Type::Map | Type::MapIndef => self.map(None, found, path, depth),
            Type::Array | Type::ArrayIndef => self.list(None, found, path, depth),
            Type::String | Type::StringIndef => self.text().map(Value::String),
            Type::Bytes | Type::BytesIndef => self.bytes().map(Value::Blob),
            Type::Bool => self.cbor.bool().map(Value::Bool).map_err(broken),
            Type::F16 | Type::F32 | Type::F64 => self.number(found, path).map(Value::Float),
            Type::Tag => self.timestamp(found, path),
            Type::Null | Type::Undefined => {
                self.cbor.skip().map_err(broken)?;
                Ok(Value::Null)
            }
            _ => self.integer(found, path).map(Value::Int),
        }
    }

    fn timestamp(&mut self, found: Type, path: &Path<'_>) -> Result<Value, Fault> {
        let mut found = found;
        if found == Type::Tag {
            let tag = self.cbor.tag().map_err(broken)?.as_u64();
            if tag != EPOCH_TAG {
                return Err(Fault::at(path, format!("must have the tag {EPOCH_TAG}, not {tag}")));
            }
            found = self.cbor.datatype().map_err(broken)?;
        }
        let seconds = self.number(found, path)?;
        let at = scalar::epoch(seconds)
            .ok_or_else(|| Fault::at(path, format!("must be a time, not {seconds}")))?;
        Ok(Value::Timestamp(at))
    }

    fn integer(&mut self, found: Type, path: &Path<'_>) -> Result<i64, Fault> {
        match found {
            Type::U8
            | Type::U16
            | Type::U32
            | Type::U64
            | Type::I8
            | Type::I16
            | Type::I32
            | Type::I64
            | Type::Int => self.cbor.i64().map_err(|_| not(path, "an integer of 64 bits", found)),
            // `5.0` is how some languages write 5.
            Type::F16 | Type::F32 | Type::F64 => {
                let number = self.number(found, path)?;
                if number.fract() == 0.0 && number.abs() < 9.0e15 {
                    Ok(number as i64)
                } else {
                    Err(Fault::at(path, format!("must be an integer, not {number}")))
                }
            }
            _ => Err(not(path, "an integer", found)),
        }
    }

    fn number(&mut self, found: Type, path: &Path<'_>) -> Result<f64, Fault> {
        match found {
            Type::F16 => self.cbor.f16().map(f64::from).map_err(broken),
            Type::F32 => self.cbor.f32().map(f64::from).map_err(broken),
            Type::F64 => self.cbor.f64().map_err(broken),
            Type::U8
            | Type::U16
            | Type::U32
            | Type::U64
            | Type::I8
            | Type::I16
            | Type::I32
            | Type::I64
            | Type::Int => self.integer(found, path).map(|number| number as f64),
            _ => Err(not(path, "a number", found)),
        }
    }

    /// Text in one piece or in several.
    fn text(&mut self) -> Result<String, Fault> {
        self.cbor.str_iter().map_err(broken)?.collect::<Result<String, _>>().map_err(broken)
    }

    fn bytes(&mut self) -> Result<Vec<u8>, Fault> {
        let mut bytes = Vec::new();
        for piece in self.cbor.bytes_iter().map_err(broken)? {
            bytes.extend_from_slice(piece.map_err(broken)?);
        }
        Ok(bytes)
    }

    fn map_head(&mut self, found: Type, expected: &str, path: &Path<'_>) -> Result<Option<u64>, Fault> {
        match found {
            Type::Map | Type::MapIndef => self.cbor.map().map_err(broken),
            _ => Err(not(path, expected, found)),
        }
    }

    /// Whether one more item follows. `left` is `None` where a break ends them.
    fn goes_on(&mut self, left: &mut Option<u64>) -> Result<bool, Fault> {
        match left {
            Some(0) => Ok(false),
            Some(left) => {
                *left -= 1;
                Ok(true)
            }
            None if self.cbor.datatype().map_err(broken)? == Type::Break => {
                self.cbor.skip().map_err(broken)?;
                Ok(false)
            }
            None => Ok(true),
        }
    }
}

fn not(path: &Path<'_>, expected: &str, found: Type) -> Fault {
    match path {
        Path::Root => Fault::body(format!("The body must be {expected}, not {found}.")),
        path => Fault::at(path, format!("must be {expected}, not {found}")),
    }
}
