//! Typed shapes to and from [`Value`].

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use jiff::Timestamp;

use crate::Value;

/// A value did not have the type its place needs. The codecs check types before this; seeing it from a
/// request means a codec is wrong, from the store that a record is damaged.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected} but found {found}")]
pub struct ShapeError {
    pub expected: &'static str,
    pub found: &'static str,
}

impl ShapeError {
    fn new(expected: &'static str, found: &Value) -> Self {
        Self { expected, found: found.kind() }
    }
}

/// A type of the API. `From`/`Into` would do, were it not for the error.
pub trait Shape: Sized {
    fn to_value(&self) -> Value;
    fn from_value(value: Value) -> Result<Self, ShapeError>;
}

/// `Debug` of a generated structure. Of the `hidden` members it is shown whether they are there.
pub(crate) fn debug(
    f: &mut std::fmt::Formatter<'_>,
    name: &str,
    members: &[(&str, &dyn MaybeShown)],
    hidden: &[&str],
) -> std::fmt::Result {
    let mut shown = f.debug_struct(name);
    for (field, value) in members {
        let is_hidden = hidden.contains(field) && value.is_there();
        let value: &dyn std::fmt::Debug = if is_hidden { &Hidden } else { value.as_debug() };
        shown.field(field.trim_start_matches("r#"), value);
    }
    shown.finish()
}

/// A member of a structure, whatever its type.
pub(crate) trait MaybeShown {
    fn is_there(&self) -> bool;
    fn as_debug(&self) -> &dyn std::fmt::Debug;
}

impl<T: std::fmt::Debug> MaybeShown for Option<T> {
    fn is_there(&self) -> bool {
        self.is_some()
    }

    fn as_debug(&self) -> &dyn std::fmt::Debug {
        self
    }
}

struct Hidden;

impl std::fmt::Debug for Hidden {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Some(<sensitive>)")
    }
}

impl Shape for String {
    fn to_value(&self) -> Value {
        Value::String(self.clone())
    }

    fn from_value(value: Value) -> Result<Self, ShapeError> {
        if let Value::String(text) = value { Ok(text) } else { Err(ShapeError::new("string", &value)) }
    }
}

impl Shape for bool {
    fn to_value(&self) -> Value {
        Value::Bool(*self)
    }

    fn from_value(value: Value) -> Result<Self, ShapeError> {
        value.as_bool().ok_or(ShapeError::new("boolean", &value))
    }
}

impl Shape for i64 {
    fn to_value(&self) -> Value {
        Value::Int(*self)
    }

    fn from_value(value: Value) -> Result<Self, ShapeError> {
        value.as_i64().ok_or(ShapeError::new("integer", &value))
    }
}

impl Shape for i32 {
    fn to_value(&self) -> Value {
        Value::Int(i64::from(*self))
    }

    fn from_value(value: Value) -> Result<Self, ShapeError> {
        value
            .as_i64()
            .and_then(|number| i32::try_from(number).ok())
            .ok_or(ShapeError::new("32-bit integer", &value))
    }
}

impl Shape for f64 {
    fn to_value(&self) -> Value {
        Value::Float(*self)
    }

    fn from_value(value: Value) -> Result<Self, ShapeError> {
        match value {
            Value::Float(number) => Ok(number),
            Value::Int(number) => Ok(number as f64),
            // JSON has no NaN or infinity: AWS sends them as text.
            Value::String(ref text) => text.parse().map_err(|_| ShapeError::new("number", &value)),
            other => Err(ShapeError::new("number", &other)),
        }
    }
}

impl Shape for Vec<u8> {
    fn to_value(&self) -> Value {
        Value::Blob(self.clone())
    }

    fn from_value(value: Value) -> Result<Self, ShapeError> {
        match value {
            Value::Blob(bytes) => Ok(bytes),
            Value::String(ref text) => BASE64.decode(text).map_err(|_| ShapeError::new("blob", &value)),
            other => Err(ShapeError::new("blob", &other)),
        }
    }
}

impl Shape for Timestamp {
    fn to_value(&self) -> Value {
        Value::Timestamp(*self)
    }

    fn from_value(value: Value) -> Result<Self, ShapeError> {
        match value {
            Value::Timestamp(at) => Ok(at),
            Value::String(ref text) => text.parse().map_err(|_| ShapeError::new("timestamp", &value)),
            other => Err(ShapeError::new("timestamp", &other)),
        }
    }
}

/// A document: any JSON.
impl Shape for Value {
    fn to_value(&self) -> Value {
        self.clone()
    }

    fn from_value(value: Value) -> Result<Self, ShapeError> {
        Ok(value)
    }
}

impl<T: Shape> Shape for Box<T> {
    fn to_value(&self) -> Value {
        (**self).to_value()
    }

    fn from_value(value: Value) -> Result<Self, ShapeError> {
        T::from_value(value).map(Box::new)
    }
}

/// A list of shapes. A newtype is not needed: `Vec<u8>` is the blob, no list has byte items.
pub trait ListItem: Shape {}

impl ListItem for String {}
impl ListItem for bool {}
impl ListItem for i64 {}
impl ListItem for i32 {}
impl ListItem for f64 {}
impl ListItem for Timestamp {}
impl ListItem for Value {}
impl<T: ListItem> ListItem for Vec<T> {}
impl<T: Shape> ListItem for BTreeMap<String, T> {}

impl<T: ListItem> Shape for Vec<T> {
    fn to_value(&self) -> Value {
        Value::List(self.iter().map(Shape::to_value).collect())
    }

    fn from_value(value: Value) -> Result<Self, ShapeError> {
        match value {
            Value::List(items) => items.into_iter().map(T::from_value).collect(),
            other => Err(ShapeError::new("list", &other)),
        }
    }
}

impl<T: Shape> Shape for BTreeMap<String, T> {
    fn to_value(&self) -> Value {
        Value::Map(self.iter().map(|(key, value)| (key.clone(), value.to_value())).collect())
    }

    fn from_value(value: Value) -> Result<Self, ShapeError> {
        match value {
            Value::Map(entries) => {
                entries.into_iter().map(|(key, value)| Ok((key, T::from_value(value)?))).collect()
            }
            other => Err(ShapeError::new("map", &other)),
        }
    }
}

/// Puts a present member into a structure. Here and not in the macro, so that it is compiled once per type.
pub(crate) fn put<T: Shape>(
    members: &mut Vec<(&'static str, Value)>,
    name: &'static str,
    member: &Option<T>,
) {
    if let Some(value) = member {
        members.push((name, value.to_value()));
    }
}

/// Hands each member that is not null to `set`, whether the structure came from a codec or from the store.
pub(crate) fn each_member(
    value: Value,
    mut set: impl FnMut(&str, Value) -> Result<(), ShapeError>,
) -> Result<(), ShapeError> {
    match value {
        Value::Struct(members) => {
            for (name, value) in members {
                if !value.is_null() {
                    set(name, value)?;
                }
            }
        }
        Value::Map(entries) => {
            for (name, value) in entries {
                if !value.is_null() {
                    set(&name, value)?;
                }
            }
        }
        other => return Err(ShapeError::new("structure", &other)),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::{secretsmanager, ssm, sts};

    #[test]
    fn what_is_sensitive_is_not_in_debug() {
        let secret = Some("hunter2".to_owned());
        let parameter =
            ssm::Parameter { name: Some("/a".into()), value: secret.clone(), ..Default::default() };
        let put = secretsmanager::PutSecretValueRequest {
            secret_id: Some("id".into()),
            secret_string: secret.clone(),
            secret_binary: Some(b"hunter2".to_vec()),
            ..Default::default()
        };
        let keys = sts::Credentials {
            access_key_id: Some("ASIA1".into()),
            secret_access_key: secret,
            ..Default::default()
        };
        let shown = format!("{parameter:?} {:?} {keys:#?}", vec![put]);
        assert!(!shown.contains("hunter2") && !shown.contains("104"), "{shown}");
        let parts = [
            "name: Some(\"/a\"), r#type: None",
            "value: Some(<sensitive>)",
            "secret_string: Some(<sensitive>)",
            "secret_binary: Some(<sensitive>)",
            "secret_access_key: Some(<sensitive>)",
        ];
        // Names are as in Rust without its marks; what is not there is said to be not there.
        for part in parts.map(|part| part.replace("r#", "")) {
            assert!(shown.contains(&part), "no {part:?} in {shown}");
        }
        let none = format!("{:?}", ssm::Parameter::default());
        assert!(none.contains("value: None"), "{none}");
    }
}
