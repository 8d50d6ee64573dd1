//! The models' patterns: Java regular expressions that have to match the whole value.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, RwLock};

use fancy_regex::{Regex, RegexBuilder};

use crate::limits::PATTERN_STEPS_MAX;

/// How Java's UTF-16 spells all that lies beyond the first plane, after its first `\uD800`.
const SURROGATE_RANGES: &str = r"\uDC00-\uDBFF\uDFFF";

/// `None`: it can not be compiled.
type Compiled = HashMap<&'static str, Option<Arc<Regex>>>;

/// Whether `text` matches. `None`: the pattern can not be compiled, which a test rules out for all we ship.
///
/// Compiled on first use and kept. A model lives as long as the program, so there are as many as it has.
pub(crate) fn matches(pattern: &'static str, text: &str) -> Option<bool> {
    static CACHE: LazyLock<RwLock<Compiled>> = LazyLock::new(RwLock::default);
    let known = CACHE.read().unwrap_or_else(|poisoned| poisoned.into_inner()).get(pattern).cloned();
    let regex = known.unwrap_or_else(|| {
        let compiled = compile(pattern).map(Arc::new);
        CACHE.write().unwrap_or_else(|poisoned| poisoned.into_inner()).insert(pattern, compiled.clone());
        compiled
    })?;
    // Too many steps: no value that is meant well needs them.
    Some(regex.is_match(text).unwrap_or(false))
}

fn compile(pattern: &str) -> Option<Regex> {
    let whole = format!(r"\A(?:{})\z", translate(pattern));
    RegexBuilder::new(&whole).backtrack_limit(PATTERN_STEPS_MAX).build().ok()
}

/// Java's dialect → Rust's: `\w`, `\d` and `\s` are ASCII; `\uXXXX`, also of five or six digits, as AWS writes
/// them; a bracket within a class that is plain text.
fn translate(pattern: &str) -> String {
    let chars: Vec<char> = pattern.chars().collect();
    let mut out = String::with_capacity(pattern.len() + 16);
    let mut in_class = false;
    // For each open group, whether it only looks around.
    let mut groups: Vec<bool> = Vec::new();
    let mut at = 0;
    while at < chars.len() {
        let c = chars[at];
        at += 1;
        match c {
            '\\' => {
                let Some(escaped) = chars.get(at).copied() else {
                    out.push_str("\\\\");
                    break;
                };
                at += 1;
                at += escape(escaped, &chars[at..], in_class, &mut out);
            }
            '[' if in_class => out.push_str("\\["),
            '[' => {
                in_class = true;
                out.push('[');
                if chars.get(at) == Some(&'^') {
                    out.push('^');
                    at += 1;
                }
                // A bracket that closes at once is meant as itself.
                if chars.get(at) == Some(&']') {
                    out.push_str("\\]");
                    at += 1;
                }
            }
            ']' => {
                in_class = false;
                out.push(']');
            }
            '(' if !in_class => {
                let rest = &chars[at..];
                let looks = [&['?', '!'][..], &['?', '='], &['?', '<', '!'], &['?', '<', '=']];
                groups.push(looks.iter().any(|look| rest.starts_with(look)));
                out.push('(');
            }
            ')' if !in_class => {
                out.push(')');
                // Looking twice sees the same: Java takes the repetition, Rust does not.
                if groups.pop() == Some(true) && chars.get(at) == Some(&'+') {
                    at += 1;
                }
            }
            // Doubled they are Rust's set operations.
            '&' | '~' if in_class => {
                out.push('\\');
                out.push(c);
            }
            '-' if in_class && (chars.get(at) == Some(&'-') || chars[..at - 1].last() == Some(&'-')) => {
                out.push_str("\\-");
            }
            c => out.push(c),
        }
    }
    out
}

/// What stands for `\` and `c`; returns how many of the characters behind are used up.
fn escape(c: char, rest: &[char], in_class: bool, out: &mut String) -> usize {
    let class = |inside: &str, out: &mut String, negated: bool| match (in_class, negated) {
        (true, false) => out.push_str(inside),
        (_, true) => out.push_str(&format!("[^{inside}]")),
        (false, false) => out.push_str(&format!("[{inside}]")),
    };
    match c {
        'w' | 'W' | 'd' | 'D' | 's' | 'S' => {
            let inside = match c.to_ascii_lowercase() {
                'w' => "A-Za-z0-9_",
                'd' => "0-9",
                _ => r" \t\n\x0B\f\r",
            };
            class(inside, out, c.is_ascii_uppercase());
            0
        }
        'u' => {
            let digits = rest.iter().take(6).take_while(|c| c.is_ascii_hexdigit()).count();
            let wide: String = rest[..digits].iter().collect();
            let plane = |text: &str| u32::from_str_radix(text, 16).ok().filter(|code| *code <= 0x0010_FFFF);
            // `\u10000-\u10FFFF`: five or six digits are meant as one character.
            for used in [6, 5] {
                if digits >= used
                    && let Some(code) = plane(&wide[..used]).filter(|code| *code >= 0x1_0000)
                {
                    out.push_str(&format!("\\x{{{code:X}}}"));
                    return used;
                }
            }
            let code = wide.get(..4).and_then(plane).unwrap_or_default();
            let spelled: String = rest.iter().skip(4).take(SURROGATE_RANGES.len()).collect();
            if code == 0xD800 && spelled.eq_ignore_ascii_case(SURROGATE_RANGES) {
                out.push_str(r"\x{10000}-\x{10FFFF}");
                return 4 + SURROGATE_RANGES.len();
            }
            surrogate_or(code, out);
            4.min(rest.len())
        }
        c if c.is_ascii_alphanumeric() || c.is_ascii_punctuation() => {
            out.push('\\');
            out.push(c);
            0
        }
        c => {
            out.push(c);
            0
        }
    }
}

/// Rust's text has no surrogates: a range that begins or ends with one begins or ends beside them.
fn surrogate_or(code: u32, out: &mut String) {
    let code = match code {
        0xD800..=0xDBFF => 0x1_0000,
        0xDC00..=0xDFFF => 0x10_FFFF,
        code => code,
    };
    out.push_str(&format!("\\x{{{code:X}}}"));
}

#[cfg(test)]
mod tests {
    use ferrogate_api::schema;

    use super::*;

    #[test]
    fn every_pattern_shipped_compiles() {
        for service in schema::models() {
            let model = schema::model(service).unwrap();
            for shape in &model.shapes {
                if let Some(pattern) = shape.pattern {
                    assert!(
                        compile(pattern).is_some(),
                        "{service}.{}: {pattern} → {}",
                        shape.name,
                        translate(pattern)
                    );
                }
            }
        }
    }

    #[test]
    fn patterns_match_as_in_java() {
        for (pattern, text, expected) in [
            (r"[\w+=,.@-]+", "a_b+c", true),
            (r"[\w+=,.@-]+", "é", false),
            (r"[a-z]+", "abc1", false),
            (r"[\u0009\u000A\u000D\u0020-\uD7FF\uE000-\uFFFD\u10000-\u10FFFF]+", "a😀", true),
            (r"[\u0020-\uD7FF\uE000-\uFFFD\uD800\uDC00-\uDBFF\uDFFF\r\n\t]*", "a😀\n", true),
            (r"^[a-z0-9]([a-z0-9]|-(?!-)){1,61}[a-z0-9]$", "a-b-c", true),
            (r"^[a-z0-9]([a-z0-9]|-(?!-)){1,61}[a-z0-9]$", "a--c", false),
            (r"[\S\s]*", "\u{0}é\n", true),
            (r"\d{12}", "123456789012", true),
            (r"[\p{L}\p{Z}]+", "é a", true),
            (r"[^[:]+", "ab", true),
            (r"(\/(?!\.)+[a-z.]+)+", "/a/b", true),
            (r"(\/(?!\.)+[a-z.]+)+", "/a/.b", false),
        ] {
            assert_eq!(
                matches(pattern, text),
                Some(expected),
                "{pattern} on {text:?}: {}",
                translate(pattern)
            );
        }
    }
}
