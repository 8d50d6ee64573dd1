#![no_main]
//! Conditions, transforms and redirects of listener rules, each tried on a request. The first line as a pattern matches
//! the second one as it does by the rule's own words.

use ferrogate_edge::rules::{Case, Pattern};

const PATTERN_BYTES_MAX: usize = 128;
const TEXT_BYTES_MAX: usize = 256;

/// Which beginnings of the text each beginning of the pattern matches, one after the other.
fn matches(pattern: &[u8], text: &[u8], case: Case) -> bool {
    let mut reached = vec![false; text.len() + 1];
    reached[0] = true;
    for wanted in pattern {
        let mut next = vec![false; text.len() + 1];
        for (at, &is_reached) in reached.iter().enumerate() {
            match (wanted, text.get(at)) {
                _ if !is_reached => {}
                (b'*', _) => next[at..].fill(true),
                (b'?', Some(_)) => next[at + 1] = true,
                (wanted, Some(byte)) => {
                    let same = if case == Case::Ignored {
                        wanted.eq_ignore_ascii_case(byte)
                    } else {
                        wanted == byte
                    };
                    next[at + 1] |= same;
                }
                (_, None) => {}
            }
        }
        reached = next;
    }
    reached[text.len()]
}

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    ferrogate_edge::fuzz::rules(input);
    let (pattern, text) = ferrogate_fuzz::line(input);
    let text = &text[..text.len().min(TEXT_BYTES_MAX)];
    let Ok(pattern) = std::str::from_utf8(pattern) else { return };
    if pattern.len() > PATTERN_BYTES_MAX {
        return;
    }
    for case in [Case::Sensitive, Case::Ignored] {
        let expected = matches(pattern.as_bytes(), text, case);
        assert_eq!(Pattern::new(pattern, case, false).matches(text), expected, "{case:?}");
    }
});
