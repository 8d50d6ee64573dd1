//! Reading a pattern's text from left to right.

use super::PatternError;

#[derive(Clone, Copy, Debug)]
pub(super) struct Scanner<'a> {
    rest: &'a str,
}

impl<'a> Scanner<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { rest: text }
    }

    pub(super) fn rest(&self) -> &'a str {
        self.rest
    }

    pub(super) fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    pub(super) fn skip_spaces(&mut self) {
        self.rest = self.rest.trim_start();
    }

    /// Takes `token` if it is next.
    pub(super) fn eat(&mut self, token: &str) -> bool {
        match self.rest.strip_prefix(token) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    pub(super) fn expect(&mut self, token: &str) -> Result<(), PatternError> {
        if self.eat(token) { Ok(()) } else { Err(self.unexpected(&format!("'{token}'"))) }
    }

    /// Takes `word` if it is next and ends there.
    pub(super) fn eat_word(&mut self, word: &str) -> bool {
        let mut ahead = *self;
        let eaten = ahead.eat(word) && !ahead.peek().is_some_and(|c| c.is_alphanumeric() || c == '_');
        if eaten {
            *self = ahead;
        }
        eaten
    }

    pub(super) fn take_while(&mut self, wanted: impl Fn(char) -> bool) -> &'a str {
        let end = self.rest.find(|c| !wanted(c)).unwrap_or(self.rest.len());
        let (taken, rest) = self.rest.split_at(end);
        self.rest = rest;
        taken
    }

    /// The text up to `close`, whose opening has been taken; `\` takes the next character literally when
    /// `unescape` says so of it.
    pub(super) fn quoted(
        &mut self,
        close: char,
        unescape: impl Fn(char) -> bool,
    ) -> Result<String, PatternError> {
        let mut text = String::new();
        let mut chars = self.rest.char_indices().peekable();
        while let Some((at, c)) = chars.next() {
            if c == close {
                self.rest = &self.rest[at + c.len_utf8()..];
                return Ok(text);
            }
            match chars.peek() {
                Some((_, next)) if c == '\\' && unescape(*next) => {
                    text.push(*next);
                    chars.next();
                }
                _ => text.push(c),
            }
        }
        Err(PatternError::new(format!("{close} is missing at the end of '{text}'")))
    }

    pub(super) fn unexpected(&self, wanted: &str) -> PatternError {
        match self.peek() {
            Some(c) => PatternError::new(format!("{wanted} expected, but '{c}' found")),
            None => PatternError::new(format!("{wanted} expected, but the pattern ends")),
        }
    }
}
