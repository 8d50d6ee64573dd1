//! The model's constraints, held against an input. Once, here, and in no handler.

use ferrogate_api::schema::{Kind, Member, Model, Operation, ShapeModel, Structure};
use ferrogate_api::{ApiError, Value};

use crate::fault::Path;
use crate::limits::DEPTH_MAX;
use crate::pattern;
use crate::scalar;
use crate::wording::{Constraint, Rule, Violation, Wording, capital};

/// Holds required, lengths, ranges, patterns and enums of the model against `input`.
///
/// # Errors
/// The service's own error and words, telling of every violation: ValidationException, ValidationError,
/// InvalidParameterException, MissingParameter.
pub fn validate(model: &Model, operation: &Operation, input: &Value) -> Result<(), ApiError> {
    let Some(shape) = operation.input.map(|id| model.shape(id)) else { return Ok(()) };
    let mut checker = Checker { model, wording: Wording::of(model), violations: Vec::new(), broken: false };
    if let Kind::Structure(structure) = &shape.kind {
        checker.structure(shape.name, structure, input, &Path::Root, 0);
    }
    if checker.broken {
        return Err(ApiError::internal());
    }
    if checker.violations.is_empty() {
        return Ok(());
    }
    Err(checker.wording.error(operation, &checker.violations))
}

/// Where a value stands, for what is said about it.
#[derive(Clone, Copy)]
struct Place<'a> {
    path: &'a Path<'a>,
    member: &'static str,
    structure: &'static str,
    parameter: &'static str,
}

struct Checker<'m> {
    model: &'m Model,
    wording: Wording,
    violations: Vec<Violation<'m>>,
    /// A pattern could not be compiled, or a value from inside the program is too deep: nothing the caller did.
    broken: bool,
}

impl<'m> Checker<'m> {
    fn structure(
        &mut self,
        name: &'static str,
        of: &Structure,
        value: &Value,
        path: &Path<'_>,
        depth: usize,
    ) {
        if of.document {
            return;
        }
        if depth > DEPTH_MAX {
            self.broken = true;
            return;
        }
        for member in of.members.iter().filter(|member| member.required) {
            if value.get(member.name).is_none() {
                let list = matches!(self.model.shape(member.shape).kind, Kind::List { .. });
                let path = Path::Member(path, member.name);
                self.tell(place(&path, name, member), None, Constraint::NotNull { list });
            }
        }
        for (member, value) in scalar::members(of, value) {
            let path = Path::Member(path, member.name);
            self.value(member, value, place(&path, name, member), depth + 1);
        }
    }

    fn value(&mut self, member: &Member, value: &Value, place: Place<'_>, depth: usize) {
        let model = self.model;
        let shape = model.shape(member.shape);
        for rule in self.violated(shape, value) {
            let told = (!shape.sensitive).then(|| java_text(value));
            self.tell(place, told, Constraint::Rule(rule));
        }
        match (&shape.kind, value) {
            (Kind::Structure(structure), value) => {
                self.structure(shape.name, structure, value, place.path, depth);
            }
            (Kind::List { member: item, .. }, Value::List(items)) => {
                self.items(item, value, items, place, depth)
            }
            (Kind::Map { key, value: inside, .. }, Value::Map(entries)) => {
                self.entries(key, inside, value, entries, place, depth);
            }
            _ => {}
        }
    }

    fn items(&mut self, item: &Member, whole: &Value, items: &[Value], place: Place<'_>, depth: usize) {
        let shape = self.model.shape(item.shape);
        if is_nested(shape) {
            for (at, value) in items.iter().enumerate() {
                let path = Path::Item(place.path, at + 1);
                self.value(item, value, Place { path: &path, ..place }, depth + 1);
            }
        } else if self.any_violated(shape, items.iter()) {
            let told = (!shape.sensitive).then(|| java_text(whole));
            self.tell(place, told, Constraint::Within("Member", self.rules(shape).collect()));
        }
    }

    fn entries(
        &mut self,
        key: &Member,
        inside: &Member,
        whole: &Value,
        entries: &[(String, Value)],
        place: Place<'_>,
        depth: usize,
    ) {
        let (key_shape, shape) = (self.model.shape(key.shape), self.model.shape(inside.shape));
        let told = |shape: &ShapeModel| (!shape.sensitive).then(|| java_text(whole));
        if constrained(key_shape) {
            let keys: Vec<Value> = entries.iter().map(|(key, _)| Value::String(key.clone())).collect();
            if self.any_violated(key_shape, keys.iter()) {
                self.tell(
                    place,
                    told(shape),
                    Constraint::Within("Map keys", self.rules(key_shape).collect()),
                );
            }
        }
        if is_nested(shape) {
            for (key, value) in entries {
                let path = Path::Entry(place.path, key);
                self.value(inside, value, Place { path: &path, ..place }, depth + 1);
            }
        } else if self.any_violated(shape, entries.iter().map(|(_, value)| value)) {
            self.tell(place, told(shape), Constraint::Within("Map value", self.rules(shape).collect()));
        }
    }

    fn any_violated<'v>(
        &mut self,
        shape: &'m ShapeModel,
        mut values: impl Iterator<Item = &'v Value>,
    ) -> bool {
        constrained(shape) && values.any(|value| !self.violated(shape, value).is_empty())
    }

    /// The rules of `shape` that `value` breaks.
    fn violated(&mut self, shape: &'m ShapeModel, value: &Value) -> Vec<Rule<'m>> {
        if !constrained(shape) {
            return Vec::new();
        }
        let mut broken = Vec::new();
        for rule in self.rules(shape) {
            let holds = match (&rule, value) {
                (Rule::LengthMin(min), value) => length(value).is_none_or(|length| length >= *min),
                (Rule::LengthMax(max), value) => length(value).is_none_or(|length| length <= *max),
                (Rule::ValueMin(min), value) => number(value).is_none_or(|number| number >= *min),
                (Rule::ValueMax(max), value) => number(value).is_none_or(|number| number <= *max),
                (Rule::OneOf(values), Value::String(text)) => values.contains(&text.as_str()),
                (Rule::Pattern(pattern), Value::String(text)) => pattern::matches(pattern, text)
                    .unwrap_or_else(|| {
                        self.broken = true;
                        true
                    }),
                (Rule::OneOf(_) | Rule::Pattern(_), _) => true,
            };
            if !holds {
                broken.push(rule);
            }
        }
        broken
    }

    /// All rules `shape` has for its own value, in the order AWS tells them.
    fn rules(&self, shape: &'m ShapeModel) -> impl Iterator<Item = Rule<'m>> + use<'m> {
        let sized =
            matches!(shape.kind, Kind::String | Kind::Blob { .. } | Kind::List { .. } | Kind::Map { .. });
        let (max, min) = if sized {
            (shape.max.map(Rule::LengthMax), shape.min.map(Rule::LengthMin))
        } else {
            (shape.max.map(Rule::ValueMax), shape.min.map(Rule::ValueMin))
        };
        let allowed = !shape.allowed.is_empty() && self.wording.has_enums();
        let one_of = allowed.then_some(Rule::OneOf(&shape.allowed));
        [max, min, shape.pattern.map(Rule::Pattern), one_of].into_iter().flatten()
    }

    fn tell(&mut self, place: Place<'_>, value: Option<String>, constraint: Constraint<'m>) {
        self.violations.push(Violation {
            at: small(&place.path.to_string()),
            member: place.member,
            structure: place.structure,
            parameter: capital(place.parameter),
            value,
            constraint,
        });
    }
}

fn place<'a>(path: &'a Path<'a>, structure: &'static str, member: &Member) -> Place<'a> {
    let parameter = member.query_name.or(member.location_name).unwrap_or(member.name);
    Place { path, member: member.name, structure, parameter }
}

fn is_nested(shape: &ShapeModel) -> bool {
    matches!(shape.kind, Kind::Structure(_) | Kind::List { .. } | Kind::Map { .. })
}

fn constrained(shape: &ShapeModel) -> bool {
    shape.min.is_some() || shape.max.is_some() || shape.pattern.is_some() || !shape.allowed.is_empty()
}

fn length(value: &Value) -> Option<f64> {
    let length = match value {
        Value::String(text) => text.chars().count(),
        Value::Blob(bytes) => bytes.len(),
        Value::List(items) => items.len(),
        Value::Map(entries) => entries.len(),
        _ => return None,
    };
    Some(length as f64)
}

fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Int(number) => Some(*number as f64),
        Value::Float(number) => Some(*number),
        _ => None,
    }
}

/// Members begin with a small letter in AWS's messages, whatever the model says: `userName`, `tags.1.member.key`.
fn small(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    let mut first = true;
    for c in path.chars() {
        out.push(if first { c.to_ascii_lowercase() } else { c });
        first = c == '.';
    }
    out
}

/// A value as AWS repeats it: `[a, b]`, `{k=v}`, `Tag(key=a, value=b)` without its name.
fn java_text(value: &Value) -> String {
    let joined = |parts: Vec<String>| parts.join(", ");
    match value {
        Value::Null => "null".into(),
        Value::Bool(value) => value.to_string(),
        Value::Int(number) => number.to_string(),
        Value::Float(number) => scalar::float(*number),
        Value::String(text) => text.clone(),
        Value::Blob(bytes) => format!("java.nio.HeapByteBuffer[pos=0 lim={0} cap={0}]", bytes.len()),
        Value::Timestamp(at) => at.to_string(),
        Value::List(items) => format!("[{}]", joined(items.iter().map(java_text).collect())),
        Value::Map(entries) => {
            format!(
                "{{{}}}",
                joined(entries.iter().map(|(key, value)| format!("{key}={}", java_text(value))).collect())
            )
        }
        Value::Struct(members) => {
            format!(
                "({})",
                joined(members.iter().map(|(name, value)| format!("{name}={}", java_text(value))).collect())
            )
        }
    }
}
