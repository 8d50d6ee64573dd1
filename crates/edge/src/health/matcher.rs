//! Which codes are a success: `200`, `200-299`, `200,202`, and so for gRPC's 0 to 99.

use std::ops::RangeInclusive;

/// Codes that are a success. What cannot be read matches nothing: ELB's API lets none of that in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Matcher(Vec<RangeInclusive<u16>>);

impl Matcher {
    pub(crate) fn new(text: &str) -> Self {
        let one = |part: &str| {
            let (from, to) = part.split_once('-').unwrap_or((part, part));
            Some(from.trim().parse().ok()?..=to.trim().parse().ok()?)
        };
        Self(text.split(',').filter_map(one).collect())
    }

    pub(crate) fn matches(&self, code: u16) -> bool {
        self.0.iter().any(|range| range.contains(&code))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_lists_and_ranges() {
        let matcher = Matcher::new("200,301-302, 404");
        let seen: Vec<u16> = (100..600).filter(|code| matcher.matches(*code)).collect();
        assert_eq!(seen, [200, 301, 302, 404]);
        assert!(Matcher::new("0-99").matches(12));
        assert!(!Matcher::new("any").matches(200));
    }
}
