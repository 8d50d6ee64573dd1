//! Comparisons of JSON and space-delimited patterns.

use regex::Regex;

use super::PatternError;
use super::scan::Scanner;

/// Regular expressions of one pattern ("There is a limit of 2 regex for each filter pattern").
pub(super) const REGEX_MAX: usize = 2;
/// A compiled expression may take so much memory; what AWS allows in 1,024 characters takes far less.
const REGEX_BYTES_MAX: usize = 1 << 20;
/// Parentheses within parentheses.
pub(super) const DEPTH_MAX: usize = 32;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operator {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Operator {
    pub(super) fn parse(scanner: &mut Scanner<'_>) -> Option<Self> {
        let table = [
            ("!=", Self::NotEqual),
            ("<=", Self::LessOrEqual),
            (">=", Self::GreaterOrEqual),
            ("=", Self::Equal),
            ("<", Self::Less),
            (">", Self::Greater),
        ];
        table.into_iter().find(|(token, _)| scanner.eat(token)).map(|(_, operator)| operator)
    }

    fn holds(self, left: f64, right: f64) -> bool {
        match self {
            Self::Equal => left == right,
            Self::NotEqual => left != right,
            Self::Less => left < right,
            Self::LessOrEqual => left <= right,
            Self::Greater => left > right,
            Self::GreaterOrEqual => left >= right,
        }
    }
}

#[derive(Clone, Debug)]
pub(super) enum Operand {
    /// A literal, with its value if it is a number that was not quoted.
    Text {
        text: Vec<Piece>,
        number: Option<f64>,
    },
    Regex(Regex),
}

/// Literal text with stars in it.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Piece {
    Literal(String),
    Star,
}

/// `operator operand`, applied to a value's text.
#[derive(Clone, Debug)]
pub(super) struct Comparison {
    operator: Operator,
    operand: Operand,
}

impl Comparison {
    /// Reads both; `bare` says what a value without quotes may have in it.
    pub(super) fn parse(
        scanner: &mut Scanner<'_>,
        regexes: &mut usize,
        bare: impl Fn(char) -> bool,
    ) -> Result<Self, PatternError> {
        let operator = Operator::parse(scanner).ok_or_else(|| scanner.unexpected("one of = != < <= > >="))?;
        scanner.skip_spaces();
        let operand = if scanner.eat("\"") {
            let text = scanner.quoted('"', |c| c == '"' || c == '\\')?;
            Operand::Text { text: pieces(&text), number: None }
        } else if scanner.eat("%") {
            Operand::Regex(regex(scanner, regexes)?)
        } else {
            let text = scanner.take_while(bare);
            if text.is_empty() {
                return Err(scanner.unexpected("a value"));
            }
            Operand::Text { text: pieces(text), number: number(text) }
        };
        let ordered = !matches!(operator, Operator::Equal | Operator::NotEqual);
        if ordered && !matches!(operand, Operand::Text { number: Some(_), .. }) {
            return Err(PatternError::new("< <= > >= compare with a number only"));
        }
        Ok(Self { operator, operand })
    }

    pub(super) fn holds(&self, value: &str) -> bool {
        let equal = match &self.operand {
            Operand::Regex(regex) => regex.is_match(value),
            Operand::Text { text, number: wanted } => {
                if let (Some(wanted), Some(found)) = (wanted, number(value)) {
                    return self.operator.holds(found, *wanted);
                }
                wildcard(text, value)
            }
        };
        match self.operator {
            Operator::Equal => equal,
            Operator::NotEqual => !equal,
            _ => false,
        }
    }
}

/// A regular expression up to its closing `%`, of the characters AWS allows.
pub(super) fn regex(scanner: &mut Scanner<'_>, regexes: &mut usize) -> Result<Regex, PatternError> {
    let mut text = String::new();
    loop {
        text.push_str(scanner.take_while(|c| c != '%' && c != '\\'));
        if scanner.eat("%") {
            break;
        }
        if !scanner.eat("\\") {
            return Err(PatternError::new(format!(
                "% is missing at the end of the regular expression '{text}'"
            )));
        }
        text.push('\\');
        if scanner.eat("%") {
            text.push('%');
        } else if scanner.eat("\\") {
            text.push('\\');
        }
    }
    let allowed =
        |c: char| c.is_ascii_alphanumeric() || "_#=@/;,-:^$?[]{}|\\*+.%".contains(c) || c.is_whitespace();
    if let Some(c) = text.chars().find(|c| !allowed(*c)) {
        return Err(PatternError::new(format!("'{c}' is not supported in the regular expression '{text}'")));
    }
    *regexes += 1;
    if *regexes > REGEX_MAX {
        return Err(PatternError::new(format!("no more than {REGEX_MAX} regular expressions are allowed")));
    }
    // `%` escaped is `%`; the expression's own syntax knows no such escape.
    regex::RegexBuilder::new(&text.replace("\\%", "%"))
        .size_limit(REGEX_BYTES_MAX)
        .build()
        .map_err(|_| PatternError::new(format!("'{text}' is not a regular expression")))
}

/// A number as patterns and JSON write it: no infinity, no NaN.
fn number(text: &str) -> Option<f64> {
    let plausible = text.starts_with(|c: char| c.is_ascii_digit() || c == '-' || c == '+' || c == '.');
    text.parse().ok().filter(|number: &f64| plausible && number.is_finite())
}

fn pieces(text: &str) -> Vec<Piece> {
    let mut pieces = Vec::new();
    for (place, literal) in text.split('*').enumerate() {
        if place > 0 && pieces.last() != Some(&Piece::Star) {
            pieces.push(Piece::Star);
        }
        if !literal.is_empty() {
            pieces.push(Piece::Literal(literal.to_owned()));
        }
    }
    pieces
}

/// Whether all of `text` matches.
fn wildcard(pieces: &[Piece], text: &str) -> bool {
    let mut rest = text;
    let mut anchored = true;
    for (place, piece) in pieces.iter().enumerate() {
        match piece {
            Piece::Star => anchored = false,
            Piece::Literal(literal) => {
                let last = place + 1 == pieces.len();
                rest = match (anchored, last) {
                    (true, _) => match rest.strip_prefix(literal.as_str()) {
                        Some(rest) => rest,
                        None => return false,
                    },
                    // What follows a star at the end has to be the end.
                    (false, true) => return rest.ends_with(literal.as_str()),
                    (false, false) => match rest.find(literal.as_str()) {
                        Some(at) => &rest[at + literal.len()..],
                        None => return false,
                    },
                };
                anchored = true;
            }
        }
    }
    !anchored || rest.is_empty()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn wildcards_as_everywhere(pattern in "[ab*]{0,8}", text in "[ab]{0,10}") {
            prop_assert_eq!(wildcard(&pieces(&pattern), &text), ferrogate_model::wildcard_match(&pattern, &text));
        }
    }
}
