//! `*` and `?`, as EC2 filters and IAM patterns use them.

/// Whether all of `text` matches: `*` any run, `?` one character, `\` takes the next one literally.
pub fn wildcard_match(pattern: &str, text: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let text: Vec<char> = text.chars().collect();
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        let literal = pattern.get(p) == Some(&'\\') && p + 1 < pattern.len();
        let wanted = if literal { pattern.get(p + 1) } else { pattern.get(p) };
        match wanted {
            Some('*') if !literal => {
                star = Some((p, t));
                p += 1;
            }
            Some('?') if !literal => (p, t) = (p + 1, t + 1),
            Some(c) if *c == text[t] => (p, t) = (p + 1 + usize::from(literal), t + 1),
            _ => match star {
                // Give the last star one character more and try from there.
                Some((at, taken)) => {
                    star = Some((at, taken + 1));
                    (p, t) = (at + 1, taken + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use super::wildcard_match;

    #[test]
    fn table() {
        for (pattern, text, matches) in [
            ("", "", true),
            ("*", "", true),
            ("*", "anything", true),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("a*c*e", "abcde", true),
            ("a*c*e", "abcdf", false),
            ("**b", "aab", true),
            ("a\\*b", "a*b", true),
            ("a\\*b", "axb", false),
            ("A", "a", false),
        ] {
            assert_eq!(wildcard_match(pattern, text), matches, "{pattern} {text}");
        }
    }
}
