//! `[ip, user, ..., status = 4* || status = 500, bytes > 1000]`
//!
//! A message is fields between spaces; what is within `[ ]` or `" "` is one field.

use std::collections::{BTreeMap, BTreeSet};

use super::PatternError;
use super::compare::{Comparison, DEPTH_MAX};
use super::scan::Scanner;

#[derive(Clone, Debug)]
pub(crate) struct Columns {
    /// Before the `...`, or all of them.
    head: Vec<Column>,
    /// After the `...`; `None`: there is none, and the number of fields has to be that of the columns.
    tail: Option<Vec<Column>>,
}

#[derive(Clone, Debug, Default)]
struct Column {
    name: Option<String>,
    condition: Option<Condition>,
}

#[derive(Clone, Debug)]
enum Condition {
    All(Vec<Condition>),
    Any(Vec<Condition>),
    Compare(Comparison),
}

impl Condition {
    fn holds(&self, field: &str) -> bool {
        match self {
            Self::All(conditions) => conditions.iter().all(|condition| condition.holds(field)),
            Self::Any(conditions) => conditions.iter().any(|condition| condition.holds(field)),
            Self::Compare(comparison) => comparison.holds(field),
        }
    }
}

impl Columns {
    pub(super) fn parse(text: &str) -> Result<Self, PatternError> {
        let mut parser = Parser { scanner: Scanner::new(text), regexes: 0, name: None };
        parser.scanner.expect("[")?;
        let (mut head, mut tail) = (Vec::new(), None::<Vec<Column>>);
        let mut names = BTreeSet::new();
        loop {
            parser.scanner.skip_spaces();
            // `[]` has no column; after a comma, nothing is a column without a name.
            if head.is_empty() && tail.is_none() && parser.scanner.eat("]") {
                break;
            }
            if parser.scanner.eat("...") {
                if tail.replace(Vec::new()).is_some() {
                    return Err(PatternError::new("'...' may be there once only"));
                }
            } else {
                let column = parser.column()?;
                if let Some(name) = column.name.as_ref().filter(|name| !names.insert((*name).clone())) {
                    return Err(PatternError::new(format!("there are two columns named '{name}'")));
                }
                tail.as_mut().unwrap_or(&mut head).push(column);
            }
            parser.scanner.skip_spaces();
            if !parser.scanner.eat(",") {
                parser.scanner.expect("]")?;
                break;
            }
        }
        parser.scanner.skip_spaces();
        if parser.scanner.peek().is_some() {
            return Err(parser.scanner.unexpected("the end"));
        }
        Ok(Self { head, tail })
    }

    pub(super) fn matches(&self, message: &str) -> bool {
        let fields = fields(message);
        self.places(fields.len()).is_some_and(|places| {
            places.iter().zip(&fields).all(|(column, field)| {
                column
                    .and_then(|column| column.condition.as_ref())
                    .is_none_or(|condition| condition.holds(field))
            })
        })
    }

    /// `$name` of each column, `$3` of one that has no name.
    pub(super) fn extract(&self, message: &str) -> BTreeMap<String, String> {
        let fields = fields(message);
        let places = self.places(fields.len()).unwrap_or_default();
        let named = places.iter().zip(&fields).enumerate().map(|(place, (column, field))| {
            let name =
                column.and_then(|column| column.name.clone()).unwrap_or_else(|| (place + 1).to_string());
            (format!("${name}"), (*field).to_owned())
        });
        named.collect()
    }

    /// The column of each of `count` fields; `None`: the number does not fit.
    fn places(&self, count: usize) -> Option<Vec<Option<&Column>>> {
        let skipped = count.checked_sub(self.head.len() + self.tail.as_ref().map_or(0, Vec::len))?;
        if self.tail.is_none() && skipped > 0 {
            return None;
        }
        let head = self.head.iter().map(Some);
        let tail = self.tail.iter().flatten().map(Some);
        Some(head.chain(std::iter::repeat_n(None, skipped)).chain(tail).collect())
    }
}

fn fields(message: &str) -> Vec<&str> {
    let mut fields = Vec::new();
    let mut rest = message.trim_start();
    while let Some(first) = rest.chars().next() {
        let close = match first {
            '[' => Some(']'),
            '"' => Some('"'),
            _ => None,
        };
        // A bracket that is never closed is a character like others.
        let closed = close.and_then(|close| rest[1..].find(close));
        let (field, after) = match closed {
            Some(end) => (&rest[1..=end], &rest[end + 2..]),
            None => rest.split_at(rest.find(char::is_whitespace).unwrap_or(rest.len())),
        };
        fields.push(field);
        rest = after.trim_start();
    }
    fields
}

struct Parser<'a> {
    scanner: Scanner<'a>,
    regexes: usize,
    /// Of the column that is being read.
    name: Option<&'a str>,
}

impl Parser<'_> {
    fn column(&mut self) -> Result<Column, PatternError> {
        self.name = None;
        let mut ahead = self.scanner;
        let name = ahead.take_while(|c| c.is_alphanumeric() || c == '_');
        ahead.skip_spaces();
        if matches!(ahead.peek(), Some(',' | ']')) {
            self.scanner = ahead;
            return Ok(Column { name: (!name.is_empty()).then(|| name.to_owned()), condition: None });
        }
        let condition = self.any(0)?;
        Ok(Column { name: self.name.map(str::to_owned), condition: Some(condition) })
    }

    fn any(&mut self, depth: usize) -> Result<Condition, PatternError> {
        let mut conditions = vec![self.all(depth)?];
        while self.scanner.eat("||") {
            conditions.push(self.all(depth)?);
        }
        Ok(Condition::Any(conditions))
    }

    fn all(&mut self, depth: usize) -> Result<Condition, PatternError> {
        let mut conditions = vec![self.one(depth)?];
        while self.scanner.eat("&&") {
            conditions.push(self.one(depth)?);
        }
        Ok(Condition::All(conditions))
    }

    fn one(&mut self, depth: usize) -> Result<Condition, PatternError> {
        self.scanner.skip_spaces();
        let condition = if self.scanner.eat("(") {
            if depth >= DEPTH_MAX {
                return Err(PatternError::new(format!(
                    "more than {DEPTH_MAX} parentheses within each other"
                )));
            }
            let condition = self.any(depth + 1)?;
            self.scanner.expect(")")?;
            condition
        } else {
            let name = self.scanner.take_while(|c| c.is_alphanumeric() || c == '_');
            if name.is_empty() {
                return Err(self.scanner.unexpected("a column's name"));
            }
            if *self.name.get_or_insert(name) != name {
                return Err(PatternError::new(format!(
                    "the condition on '{name}' has to be in its own column"
                )));
            }
            self.scanner.skip_spaces();
            let bare = |c: char| !c.is_whitespace() && !"()[]\"&|=<>!,".contains(c);
            Condition::Compare(Comparison::parse(&mut self.scanner, &mut self.regexes, bare)?)
        };
        self.scanner.skip_spaces();
        Ok(condition)
    }
}
