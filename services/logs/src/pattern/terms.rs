//! `ERROR "exact phrase" -without`, `?either ?or`, `%regex%`

use regex::Regex;

use super::PatternError;
use super::compare::regex;
use super::scan::Scanner;

#[derive(Clone, Debug, Default)]
pub(crate) struct Terms {
    all: Vec<Term>,
    none: Vec<Term>,
    any: Vec<Term>,
}

#[derive(Clone, Debug)]
enum Term {
    Text(String),
    Regex(Regex),
}

impl Term {
    fn found_in(&self, message: &str) -> bool {
        match self {
            Self::Text(text) => message.contains(text.as_str()),
            Self::Regex(regex) => regex.is_match(message),
        }
    }
}

impl Terms {
    pub(super) fn parse(text: &str) -> Result<Self, PatternError> {
        let mut terms = Self::default();
        let (mut scanner, mut regexes) = (Scanner::new(text), 0);
        loop {
            scanner.skip_spaces();
            if scanner.peek().is_none() {
                break;
            }
            let kind = if scanner.eat("-") {
                &mut terms.none
            } else if scanner.eat("?") {
                &mut terms.any
            } else {
                &mut terms.all
            };
            kind.push(term(&mut scanner, &mut regexes)?);
        }
        // "If you combine ? with other terms, CloudWatch Logs ignores the ? terms."
        if !terms.all.is_empty() || !terms.none.is_empty() {
            terms.any.clear();
        }
        Ok(terms)
    }

    pub(super) fn matches(&self, message: &str) -> bool {
        self.all.iter().all(|term| term.found_in(message))
            && !self.none.iter().any(|term| term.found_in(message))
            && (self.any.is_empty() || self.any.iter().any(|term| term.found_in(message)))
    }
}

fn term(scanner: &mut Scanner<'_>, regexes: &mut usize) -> Result<Term, PatternError> {
    if scanner.eat("\"") {
        return scanner.quoted('"', |c| c == '"' || c == '\\').map(Term::Text);
    }
    if scanner.eat("%") {
        return regex(scanner, regexes).map(Term::Regex);
    }
    let word = scanner.take_while(|c| !c.is_whitespace());
    if word.is_empty() {
        return Err(scanner.unexpected("a term"));
    }
    if !word.chars().all(|c| c.is_alphanumeric() || c == '_') {
        // AWS's own words.
        return Err(PatternError(format!("Invalid character(s) in term '{word}'")));
    }
    Ok(Term::Text(word.to_owned()))
}
