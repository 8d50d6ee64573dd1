//! Patterns with `*`, `?` and `${variables}`.
//!
//! A pattern is cut into tokens when the document is parsed. A variable becomes one token, and its value is
//! matched as literal text: no `*` that a tag or a user name holds can ever match more than a `*`.

use std::borrow::Cow;

use crate::{context::lookup, error::MalformedPolicy, evaluate::Request};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Token {
    Literal(String),
    /// `*`
    Star,
    /// `?`
    One,
    /// `${key}` or `${key, 'default'}`
    Variable {
        key: String,
        default: Option<String>,
    },
}

/// A token once its variable has a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Element<'a> {
    Literal(&'a str),
    Star,
    One,
}

/// How a text is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Syntax {
    /// `*` and `?` are wildcards.
    Wildcards,
    /// They are themselves.
    Plain,
}

/// A pattern of `Resource` or of a condition.
#[derive(Debug)]
pub(crate) struct Pattern {
    tokens: Vec<Token>,
}

impl Pattern {
    /// `variables`: the document's version knows `${…}`.
    pub(crate) fn parse(text: &str, syntax: Syntax, variables: bool) -> Result<Self, MalformedPolicy> {
        let mut tokens = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some(c) = rest.chars().next() {
            if variables && let Some(inner) = rest.strip_prefix("${") {
                let (token, after) = variable(inner)?;
                match token {
                    Token::Literal(text) => literal.push_str(&text),
                    token => {
                        flush(&mut literal, &mut tokens);
                        tokens.push(token);
                    }
                }
                rest = after;
                continue;
            }
            match (c, syntax) {
                ('*', Syntax::Wildcards) => {
                    flush(&mut literal, &mut tokens);
                    if tokens.last() != Some(&Token::Star) {
                        tokens.push(Token::Star);
                    }
                }
                ('?', Syntax::Wildcards) => {
                    flush(&mut literal, &mut tokens);
                    tokens.push(Token::One);
                }
                _ => literal.push(c),
            }
            rest = &rest[c.len_utf8()..];
        }
        flush(&mut literal, &mut tokens);
        Ok(Self { tokens })
    }

    /// Puts in the variables' values; `None` when one has none. Free of charge for a pattern without variables.
    pub(crate) fn resolve<'a>(&'a self, request: &Request<'a>) -> Option<Resolved<'a>> {
        if self.variables().next().is_none() {
            return Some(Resolved::Fixed(&self.tokens));
        }
        let mut elements = Vec::with_capacity(self.tokens.len());
        for token in &self.tokens {
            elements.push(match token {
                Token::Variable { key, default } => {
                    // A key with several values has no one value to put in.
                    let value = lookup(request, key).and_then(|values| values.single());
                    Element::Literal(value.or(default.as_deref())?)
                }
                token => token.element(),
            });
        }
        Some(Resolved::Filled(elements))
    }

    pub(crate) fn variables(&self) -> impl Iterator<Item = &str> {
        self.tokens.iter().filter_map(|token| match token {
            Token::Variable { key, .. } => Some(key.as_str()),
            _ => None,
        })
    }
}

fn flush(literal: &mut String, tokens: &mut Vec<Token>) {
    if !literal.is_empty() {
        tokens.push(Token::Literal(std::mem::take(literal)));
    }
}

/// Reads what follows `${`.
fn variable(inner: &str) -> Result<(Token, &str), MalformedPolicy> {
    for special in ["*", "?", "$"] {
        if let Some(rest) = inner.strip_prefix(special).and_then(|rest| rest.strip_prefix('}')) {
            return Ok((Token::Literal(special.to_owned()), rest));
        }
    }
    let end = inner.find([',', '}']).ok_or_else(MalformedPolicy::syntax)?;
    let key = inner[..end].trim();
    if key.is_empty() || key.contains(['$', '{', '*', '?', '\'']) {
        return Err(MalformedPolicy::syntax());
    }
    let key = key.to_owned();
    if inner.as_bytes()[end] == b'}' {
        return Ok((Token::Variable { key, default: None }, &inner[end + 1..]));
    }
    let quoted = inner[end + 1..].trim_start().strip_prefix('\'').ok_or_else(MalformedPolicy::syntax)?;
    let (default, rest) = quoted.split_once('\'').ok_or_else(MalformedPolicy::syntax)?;
    let rest = rest.trim_start().strip_prefix('}').ok_or_else(MalformedPolicy::syntax)?;
    Ok((Token::Variable { key, default: Some(default.to_owned()) }, rest))
}

impl Token {
    /// The token as it is; a variable that nobody resolved is its own text.
    fn element(&self) -> Element<'_> {
        match self {
            Self::Literal(text) | Self::Variable { key: text, .. } => Element::Literal(text),
            Self::Star => Element::Star,
            Self::One => Element::One,
        }
    }
}

/// A pattern whose variables have their values.
#[derive(Debug)]
pub(crate) enum Resolved<'a> {
    Fixed(&'a [Token]),
    Filled(Vec<Element<'a>>),
}

impl<'a> Resolved<'a> {
    fn get(&self, index: usize) -> Option<Element<'_>> {
        match self {
            Self::Fixed(tokens) => tokens.get(index).map(Token::element),
            Self::Filled(elements) => elements.get(index).copied(),
        }
    }

    fn elements(&self) -> impl Iterator<Item = Element<'_>> {
        (0..).map_while(|index| self.get(index))
    }

    /// The whole of `text`; `*` also crosses `:` and `/`.
    pub(crate) fn matches(&self, text: &str) -> bool {
        glob(|index| self.get(index), text, |a, b| a == b)
    }

    /// As an ARN: each of the six fields by itself, so that a `*` in one does not reach into the next. A lone
    /// `*` is any ARN.
    pub(crate) fn matches_arn(&self, arn: &str) -> bool {
        let fields: Vec<&str> = arn.splitn(6, ':').collect();
        if fields.len() != 6 {
            return false;
        }
        if self.get(0) == Some(Element::Star) && self.get(1).is_none() {
            return true;
        }
        let mut patterns: Vec<Vec<Element<'_>>> = Vec::with_capacity(6);
        let mut current = Vec::new();
        for element in self.elements() {
            let Element::Literal(mut text) = element else {
                current.push(element);
                continue;
            };
            while patterns.len() < 5
                && let Some((before, after)) = text.split_once(':')
            {
                current.push(Element::Literal(before));
                patterns.push(std::mem::take(&mut current));
                text = after;
            }
            current.push(Element::Literal(text));
        }
        patterns.push(current);
        patterns.len() == 6
            && patterns
                .iter()
                .zip(fields)
                .all(|(pattern, field)| glob(|index| pattern.get(index).copied(), field, |a, b| a == b))
    }

    /// The text, of a pattern read as [`Syntax::Plain`].
    pub(crate) fn text(&self) -> Cow<'_, str> {
        let plain = |element| match element {
            Element::Literal(text) => text,
            Element::Star => "*",
            Element::One => "?",
        };
        match (self.get(0), self.get(1)) {
            (None, _) => Cow::Borrowed(""),
            (Some(only), None) => Cow::Borrowed(plain(only)),
            _ => self.elements().map(plain).collect(),
        }
    }
}

/// Wildcard matching: on a mismatch the last `*` takes one character more. Time is at most the product of the
/// two lengths, and nothing is allocated.
fn glob<'a>(
    elements: impl Fn(usize) -> Option<Element<'a>>,
    text: &str,
    same: impl Fn(&[u8], &[u8]) -> bool,
) -> bool {
    let bytes = text.as_bytes();
    let (mut element, mut at) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    loop {
        let step = match elements(element) {
            Some(Element::Star) => {
                retry = Some((element + 1, at));
                element += 1;
                continue;
            }
            Some(Element::One) => char_len(bytes, at),
            Some(Element::Literal(literal)) => bytes
                .get(at..at + literal.len())
                .is_some_and(|here| same(here, literal.as_bytes()))
                .then_some(literal.len()),
            None if at == bytes.len() => return true,
            None => None,
        };
        if let Some(step) = step {
            at += step;
            element += 1;
            continue;
        }
        let Some((after_star, from)) = retry else { return false };
        let Some(step) = char_len(bytes, from) else { return false };
        retry = Some((after_star, from + step));
        (element, at) = (after_star, from + step);
    }
}

/// The length in bytes of the character at `at`; `None` at the end.
fn char_len(bytes: &[u8], at: usize) -> Option<usize> {
    let first = *bytes.get(at)?;
    Some(match first {
        0..0xc0 => 1,
        0xc0..0xe0 => 2,
        0xe0..0xf0 => 3,
        _ => 4,
    })
}

/// `service:Action` with wildcards; neither half has a case.
#[derive(Debug)]
pub(crate) enum ActionPattern {
    All,
    Exact(String),
    Wild(Pattern),
}

impl ActionPattern {
    pub(crate) fn parse(text: &str) -> Result<Self, MalformedPolicy> {
        if text == "*" {
            return Ok(Self::All);
        }
        if !text.contains(['*', '?']) {
            return Ok(Self::Exact(text.to_owned()));
        }
        Pattern::parse(text, Syntax::Wildcards, false).map(Self::Wild)
    }

    pub(crate) fn matches(&self, action: &str) -> bool {
        match self {
            Self::All => true,
            Self::Exact(text) => text.eq_ignore_ascii_case(action),
            Self::Wild(pattern) => {
                // No variables here: every token is an element as it is.
                glob(
                    |index| pattern.tokens.get(index).map(Token::element),
                    action,
                    <[u8]>::eq_ignore_ascii_case,
                )
            }
        }
    }
}

#[cfg(test)]
#[path = "pattern_tests.rs"]
mod tests;
