//! Why a request could not be decoded, and where in it.

use std::cell::Cell;
use std::fmt;

use ferrogate_api::ApiError;
use ferrogate_api::schema::{Model, Protocol};

use crate::limits::{DEPTH_MAX, VALUE_TOLD_CHARS_MAX, VALUES_MAX};

/// A place in a request. Lives on the stack and costs nothing until an error names it.
#[derive(Clone, Copy)]
pub(crate) enum Path<'a> {
    Root,
    Member(&'a Path<'a>, &'static str),
    /// Counted from one, as AWS does.
    Item(&'a Path<'a>, usize),
    Entry(&'a Path<'a>, &'a str),
}

/// AWS's form: `containerDefinitions.1.member.memory`.
impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dotted = |f: &mut fmt::Formatter<'_>, parent: &Path<'_>| match parent {
            Path::Root => Ok(()),
            parent => write!(f, "{parent}."),
        };
        match self {
            Path::Root => Ok(()),
            Path::Member(parent, name) => {
                dotted(f, parent)?;
                f.write_str(name)
            }
            Path::Item(parent, number) => {
                dotted(f, parent)?;
                write!(f, "{number}.member")
            }
            Path::Entry(parent, key) => {
                dotted(f, parent)?;
                write!(f, "{key}.member")
            }
        }
    }
}

/// What is wrong with a request's form. [`Fault::into_error`] gives it the protocol's own code.
#[derive(Debug)]
pub(crate) struct Fault {
    kind: Kind,
    at: String,
    found: Option<String>,
    problem: String,
}

#[derive(Debug, PartialEq)]
enum Kind {
    Malformed,
    TooLarge,
}

impl Fault {
    /// `problem` goes on after the member's name: `must be an integer, not a string`.
    pub(crate) fn at(path: &Path<'_>, problem: impl Into<String>) -> Self {
        Self { kind: Kind::Malformed, at: path.to_string(), found: None, problem: problem.into() }
    }

    /// The same, for text that does not read as what it should be.
    pub(crate) fn text(path: &Path<'_>, found: &str, expected: &str) -> Self {
        let fault = Self::at(path, format!("must be {expected}"));
        Self { found: Some(found.chars().take(VALUE_TOLD_CHARS_MAX).collect()), ..fault }
    }

    /// The body as a whole.
    pub(crate) fn body(problem: impl Into<String>) -> Self {
        Self { kind: Kind::Malformed, at: String::new(), found: None, problem: problem.into() }
    }

    pub(crate) fn too_large(problem: impl Into<String>) -> Self {
        Self { kind: Kind::TooLarge, at: String::new(), found: None, problem: problem.into() }
    }

    pub(crate) fn into_error(self, model: &Model, protocol: Protocol) -> ApiError {
        if self.kind == Kind::TooLarge {
            let code = match protocol {
                Protocol::RestXml if model.service == "s3" => "EntityTooLarge",
                Protocol::Query | Protocol::Ec2 => "RequestEntityTooLarge",
                _ => "RequestEntityTooLargeException",
            };
            return ApiError::new(code, self.problem).with_status(413);
        }
        let code = match protocol {
            Protocol::Query => "MalformedInput",
            Protocol::Ec2 if self.at.is_empty() => "MalformedQueryString",
            Protocol::Ec2 => "InvalidParameterValue",
            Protocol::RestXml if model.service == "s3" => "MalformedXML",
            Protocol::RestXml => "InvalidInput",
            _ => "SerializationException",
        };
        ApiError::new(code, self.message(protocol)).with_status(400)
    }

    fn message(&self, protocol: Protocol) -> String {
        let Self { at, found, problem, .. } = self;
        match (at.as_str(), found) {
            ("", Some(found)) => format!("The body {problem}, but is '{found}'."),
            ("", None) => problem.clone(),
            (at, Some(found)) if protocol == Protocol::Ec2 => {
                format!("Value ({found}) for parameter {at} is invalid. It {problem}.")
            }
            (at, Some(found)) => format!("Member '{at}' {problem}, but is '{found}'."),
            (at, None) => format!("Member '{at}' {problem}."),
        }
    }
}

/// What a decoder carries along: the model, and how much more the request may hold.
pub(crate) struct Cx<'m> {
    pub(crate) model: &'m Model,
    values: Cell<usize>,
}

impl<'m> Cx<'m> {
    pub(crate) fn new(model: &'m Model) -> Self {
        Self { model, values: Cell::new(0) }
    }

    /// Counts one more value at `depth`.
    pub(crate) fn enter(&self, depth: usize, path: &Path<'_>) -> Result<(), Fault> {
        let values = self.values.get() + 1;
        self.values.set(values);
        if values > VALUES_MAX {
            return Err(Fault::too_large(format!("The request holds more than {VALUES_MAX} values.")));
        }
        if depth > DEPTH_MAX {
            return Err(Fault::at(path, format!("is nested more than {DEPTH_MAX} levels deep")));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_reads_as_on_aws() {
        let root = Path::Root;
        let list = Path::Member(&root, "tags");
        let item = Path::Item(&list, 2);
        assert_eq!(Path::Member(&item, "key").to_string(), "tags.2.member.key");
        let map = Path::Member(&root, "options");
        assert_eq!(Path::Member(&Path::Entry(&map, "a"), "b").to_string(), "options.a.member.b");
    }
}
