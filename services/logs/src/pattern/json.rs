//! `{ $.a = "x*" && ($.b[0].c > 3 || $.d IS NULL) }`; `&&` binds tighter than `||`.

use std::collections::BTreeMap;

use serde_json::Value;

use super::PatternError;
use super::compare::{Comparison, DEPTH_MAX};
use super::scan::Scanner;

#[derive(Clone, Debug)]
pub(crate) struct JsonPattern {
    condition: Condition,
}

#[derive(Clone, Debug)]
enum Condition {
    All(Vec<Condition>),
    Any(Vec<Condition>),
    Test(Selector, Test),
}

#[derive(Clone, Debug)]
enum Test {
    Compare(Comparison),
    IsNull,
    Is(bool),
    NotExists,
}

#[derive(Clone, Debug)]
struct Selector {
    /// As written, `$.a[0].b`.
    text: String,
    steps: Vec<Step>,
}

#[derive(Clone, Debug)]
enum Step {
    Member(String),
    Index(usize),
    /// `[*]`, `.*`
    Every,
}

impl JsonPattern {
    pub(super) fn parse(text: &str) -> Result<Self, PatternError> {
        let mut parser = Parser { scanner: Scanner::new(text), regexes: 0 };
        parser.scanner.expect("{")?;
        let condition = parser.any(0)?;
        parser.scanner.expect("}")?;
        parser.scanner.skip_spaces();
        if parser.scanner.peek().is_some() {
            return Err(parser.scanner.unexpected("the end"));
        }
        Ok(Self { condition })
    }

    pub(super) fn matches(&self, message: &str) -> bool {
        object(message).is_some_and(|event| self.condition.holds(&event))
    }

    pub(super) fn extract(&self, message: &str) -> BTreeMap<String, String> {
        let mut values = BTreeMap::new();
        if let Some(event) = object(message) {
            self.condition.extract(&event, &mut values);
        }
        values
    }
}

fn object(message: &str) -> Option<Value> {
    // Most lines of most logs are no objects: do not parse them.
    let plausible = message.trim_start().starts_with('{');
    plausible.then(|| serde_json::from_str(message).ok()).flatten()
}

impl Condition {
    fn holds(&self, event: &Value) -> bool {
        match self {
            Self::All(conditions) => conditions.iter().all(|condition| condition.holds(event)),
            Self::Any(conditions) => conditions.iter().any(|condition| condition.holds(event)),
            Self::Test(selector, test) => {
                let mut found = Vec::new();
                select(&selector.steps, event, &mut found);
                match test {
                    Test::NotExists => found.is_empty(),
                    Test::IsNull => found.iter().any(|value| value.is_null()),
                    Test::Is(wanted) => found.iter().any(|value| value.as_bool() == Some(*wanted)),
                    Test::Compare(comparison) => {
                        found.iter().filter_map(|value| scalar(value)).any(|value| comparison.holds(&value))
                    }
                }
            }
        }
    }

    fn extract(&self, event: &Value, values: &mut BTreeMap<String, String>) {
        match self {
            Self::All(conditions) | Self::Any(conditions) => {
                conditions.iter().for_each(|condition| condition.extract(event, values));
            }
            Self::Test(selector, _) => {
                let mut found = Vec::new();
                select(&selector.steps, event, &mut found);
                if let Some(value) = found.first() {
                    values.insert(selector.text.clone(), scalar(value).unwrap_or_else(|| value.to_string()));
                }
            }
        }
    }
}

fn select<'a>(steps: &[Step], value: &'a Value, found: &mut Vec<&'a Value>) {
    let Some((step, rest)) = steps.split_first() else {
        found.push(value);
        return;
    };
    match (step, value) {
        (Step::Member(name), Value::Object(members)) => {
            members.get(name).into_iter().for_each(|value| select(rest, value, found));
        }
        (Step::Index(index), Value::Array(items)) => {
            items.get(*index).into_iter().for_each(|value| select(rest, value, found));
        }
        (Step::Every, Value::Array(items)) => items.iter().for_each(|value| select(rest, value, found)),
        (Step::Every, Value::Object(members)) => {
            members.values().for_each(|value| select(rest, value, found))
        }
        _ => {}
    }
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(value) => Some(value.to_string()),
        _ => None,
    }
}

struct Parser<'a> {
    scanner: Scanner<'a>,
    regexes: usize,
}

impl Parser<'_> {
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
            let selector = self.selector()?;
            Condition::Test(selector, self.test()?)
        };
        self.scanner.skip_spaces();
        Ok(condition)
    }

    fn selector(&mut self) -> Result<Selector, PatternError> {
        let start = self.scanner.rest();
        self.scanner.expect("$")?;
        let mut steps = Vec::new();
        loop {
            if self.scanner.eat(".") {
                if self.scanner.eat("*") {
                    steps.push(Step::Every);
                } else if self.scanner.peek() != Some('[') {
                    let name = self.scanner.take_while(|c| c.is_alphanumeric() || "_-@/:#".contains(c));
                    if name.is_empty() {
                        return Err(self.scanner.unexpected("a property's name"));
                    }
                    steps.push(Step::Member(name.to_owned()));
                }
            } else if self.scanner.eat("[") {
                steps.push(self.bracket()?);
                self.scanner.expect("]")?;
            } else {
                break;
            }
        }
        if steps.is_empty() {
            return Err(self.scanner.unexpected("a property, as in $.name,"));
        }
        let text = start[..start.len() - self.scanner.rest().len()].to_owned();
        self.scanner.skip_spaces();
        Ok(Selector { text, steps })
    }

    fn bracket(&mut self) -> Result<Step, PatternError> {
        for (token, quote) in [("'", '\''), ("\"", '"')] {
            if self.scanner.eat(token) {
                return self.scanner.quoted(quote, |c| c == quote || c == '\\').map(Step::Member);
            }
        }
        if self.scanner.eat("*") {
            return Ok(Step::Every);
        }
        let digits = self.scanner.take_while(|c| c.is_ascii_digit());
        digits.parse().map(Step::Index).map_err(|_| self.scanner.unexpected("an index, * or a quoted name"))
    }

    fn test(&mut self) -> Result<Test, PatternError> {
        if self.scanner.eat_word("IS") {
            self.scanner.skip_spaces();
            return match () {
                () if self.scanner.eat_word("NULL") => Ok(Test::IsNull),
                () if self.scanner.eat_word("TRUE") => Ok(Test::Is(true)),
                () if self.scanner.eat_word("FALSE") => Ok(Test::Is(false)),
                () => Err(self.scanner.unexpected("NULL, TRUE or FALSE")),
            };
        }
        if self.scanner.eat_word("NOT") {
            self.scanner.skip_spaces();
            let exists = self.scanner.eat_word("EXISTS");
            return if exists { Ok(Test::NotExists) } else { Err(self.scanner.unexpected("EXISTS")) };
        }
        let bare = |c: char| !c.is_whitespace() && !"(){}\"&|=<>!,".contains(c);
        Comparison::parse(&mut self.scanner, &mut self.regexes, bare).map(Test::Compare)
    }
}
