//! `*` is any number of characters, `?` is exactly one.

/// Whether `A` and `a` are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Case {
    Sensitive,
    Ignored,
}

/// A pattern of a condition, ready to match.
#[derive(Clone, Debug)]
pub struct Pattern {
    case: Case,
    shape: Shape,
}

/// Most patterns are one of the simple ones.
#[derive(Clone, Debug)]
enum Shape {
    Any,
    Exact(Box<[u8]>),
    /// `/auth/*`
    Prefix(Box<[u8]>),
    /// `*.example.com`
    Suffix(Box<[u8]>),
    Tokens(Box<[Token]>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    Byte(u8),
    One,
    Many,
}

impl Pattern {
    /// With `escapes`, a backslash makes `*`, `?` and itself literal (header and query-string values).
    pub fn new(text: &str, case: Case, escapes: bool) -> Pattern {
        let mut tokens = Vec::with_capacity(text.len());
        let mut bytes = text.bytes();
        while let Some(byte) = bytes.next() {
            let token = match byte {
                b'*' => Token::Many,
                b'?' => Token::One,
                b'\\' if escapes => Token::Byte(bytes.next().unwrap_or(b'\\')),
                other => Token::Byte(other),
            };
            // Two stars are one; without this, a pattern of stars costs time for nothing.
            if token != Token::Many || tokens.last() != Some(&Token::Many) {
                tokens.push(token);
            }
        }
        if case == Case::Ignored {
            for token in &mut tokens {
                if let Token::Byte(byte) = token {
                    byte.make_ascii_lowercase();
                }
            }
        }
        Pattern { case, shape: shape(tokens) }
    }

    pub fn matches(&self, text: &[u8]) -> bool {
        match &self.shape {
            Shape::Any => true,
            Shape::Exact(exact) => self.same(text, exact),
            Shape::Prefix(prefix) => text.get(..prefix.len()).is_some_and(|start| self.same(start, prefix)),
            Shape::Suffix(suffix) => {
                text.len().checked_sub(suffix.len()).is_some_and(|start| self.same(&text[start..], suffix))
            }
            Shape::Tokens(tokens) => self.tokens_match(tokens, text),
        }
    }

    fn same(&self, text: &[u8], pattern: &[u8]) -> bool {
        match self.case {
            Case::Sensitive => text == pattern,
            Case::Ignored => text.eq_ignore_ascii_case(pattern),
        }
    }

    /// Goes back to the last star only: at worst text × pattern, never exponential.
    fn tokens_match(&self, tokens: &[Token], text: &[u8]) -> bool {
        let (mut token, mut at) = (0, 0);
        let mut star: Option<(usize, usize)> = None;
        while at < text.len() {
            let byte = match self.case {
                Case::Sensitive => text[at],
                Case::Ignored => text[at].to_ascii_lowercase(),
            };
            match tokens.get(token) {
                Some(Token::Many) => {
                    star = Some((token, at));
                    token += 1;
                    continue;
                }
                Some(Token::One) => {
                    token += 1;
                    at += 1;
                    continue;
                }
                Some(Token::Byte(wanted)) if *wanted == byte => {
                    token += 1;
                    at += 1;
                    continue;
                }
                _ => {}
            }
            let Some((star_token, star_at)) = star else { return false };
            star = Some((star_token, star_at + 1));
            token = star_token + 1;
            at = star_at + 1;
        }
        tokens[token..].iter().all(|token| *token == Token::Many)
    }
}

fn shape(tokens: Vec<Token>) -> Shape {
    let literal = |tokens: &[Token]| -> Option<Box<[u8]>> {
        let byte = |token: &Token| match token {
            Token::Byte(byte) => Some(*byte),
            _ => None,
        };
        tokens.iter().map(byte).collect()
    };
    if tokens == [Token::Many] {
        return Shape::Any;
    }
    if let Some(exact) = literal(&tokens) {
        return Shape::Exact(exact);
    }
    if let [start @ .., Token::Many] = &tokens[..]
        && let Some(prefix) = literal(start)
    {
        return Shape::Prefix(prefix);
    }
    if let [Token::Many, end @ ..] = &tokens[..]
        && let Some(suffix) = literal(end)
    {
        return Shape::Suffix(suffix);
    }
    Shape::Tokens(tokens.into())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As simple as the rule's own words.
    fn naive(pattern: &[u8], text: &[u8]) -> bool {
        match (pattern.split_first(), text.split_first()) {
            (None, None) => true,
            (Some((b'*', rest)), _) => naive(rest, text) || (!text.is_empty() && naive(pattern, &text[1..])),
            (Some((b'?', rest)), Some((_, text))) => naive(rest, text),
            (Some((byte, rest)), Some((first, text))) => byte == first && naive(rest, text),
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn matches_as_the_naive_one_does(pattern in "[ab*?/]{0,9}", text in "[ab/]{0,12}") {
            let ours = Pattern::new(&pattern, Case::Sensitive, false).matches(text.as_bytes());
            prop_assert_eq!(ours, naive(pattern.as_bytes(), text.as_bytes()), "{} on {}", pattern, text);
        }

        #[test]
        fn case_is_ignored_where_it_says_so(pattern in "[aAbB*?]{0,8}", text in "[aAbB]{0,10}") {
            let ours = Pattern::new(&pattern, Case::Ignored, false).matches(text.as_bytes());
            let (pattern, text) = (pattern.to_lowercase(), text.to_lowercase());
            prop_assert_eq!(ours, naive(pattern.as_bytes(), text.as_bytes()));
        }

        #[test]
        fn any_pattern_is_taken(pattern in ".{0,40}", text in ".{0,60}", escapes in any::<bool>()) {
            Pattern::new(&pattern, Case::Ignored, escapes).matches(text.as_bytes());
        }
    }

    #[test]
    fn examples_of_the_user_guide() {
        let path = |pattern: &str, text: &str| {
            Pattern::new(pattern, Case::Sensitive, false).matches(text.as_bytes())
        };
        assert!(
            path("/img/*", "/img/picture.jpg")
                && !path("/img/*", "/Img/picture.jpg")
                && !path("/img/*", "/img")
        );
        assert!(
            path("/*/pics", "/a/b/pics")
                && path("/img/?.png", "/img/1.png")
                && !path("/img/?.png", "/img/12.png")
        );
        let host =
            |pattern: &str, text: &str| Pattern::new(pattern, Case::Ignored, false).matches(text.as_bytes());
        assert!(host("*.Example.com", "api.EXAMPLE.com") && !host("*.example.com", "example.com"));
        let query =
            |pattern: &str, text: &str| Pattern::new(pattern, Case::Ignored, true).matches(text.as_bytes());
        assert!(query("1\\*", "1*") && !query("1\\*", "12") && query("\\?", "?"));
    }

    #[test]
    fn many_stars_cost_no_more_than_text_times_pattern() {
        let pattern = Pattern::new(&"*a".repeat(64), Case::Sensitive, false);
        assert!(!pattern.matches("b".repeat(16_000).as_bytes()));
    }
}
