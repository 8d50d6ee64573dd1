//! GetRandomPassword: which characters, and from random numbers the password.

use std::collections::BTreeSet;

const LOWERCASE: &str = "abcdefghijklmnopqrstuvwxyz";
const UPPERCASE: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZ";
const NUMBERS: &str = "0123456789";
const PUNCTUATION: &str = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~";

/// What a password may be made of, a set per type of character; a type that is left out has none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Alphabet(Vec<Vec<char>>);

#[derive(Clone, Debug, Default)]
pub(crate) struct Wanted<'a> {
    pub(crate) no_lowercase: bool,
    pub(crate) no_uppercase: bool,
    pub(crate) no_numbers: bool,
    pub(crate) no_punctuation: bool,
    pub(crate) space: bool,
    pub(crate) excluded: &'a str,
}

impl Alphabet {
    pub(crate) fn new(wanted: &Wanted<'_>) -> Self {
        let excluded: BTreeSet<char> = wanted.excluded.chars().collect();
        let types = [
            (!wanted.no_lowercase, LOWERCASE),
            (!wanted.no_uppercase, UPPERCASE),
            (!wanted.no_numbers, NUMBERS),
            (!wanted.no_punctuation, PUNCTUATION),
            (wanted.space, " "),
        ];
        let sets = types.into_iter().filter(|(included, _)| *included);
        let sets = sets.map(|(_, set)| set.chars().filter(|c| !excluded.contains(c)).collect::<Vec<_>>());
        Self(sets.filter(|set| !set.is_empty()).collect())
    }

    /// How many types of characters there are; 0: no password can be made.
    pub(crate) fn types(&self) -> usize {
        self.0.len()
    }

    /// `below(n)`: a random number below n. `each`: at least one of each type; the length has to allow it.
    pub(crate) fn password(
        &self,
        length: usize,
        each: bool,
        mut below: impl FnMut(usize) -> usize,
    ) -> String {
        let all: Vec<char> = self.0.concat();
        let mut password: Vec<char> = Vec::with_capacity(length);
        if each {
            for set in self.0.iter().take(length) {
                password.push(set[below(set.len())]);
            }
        }
        while password.len() < length {
            password.push(all[below(all.len())]);
        }
        // The ones of each type must not always stand in front (Fisher and Yates).
        for last in (1..password.len()).rev() {
            password.swap(last, below(last + 1));
        }
        password.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn each_type_is_there_and_nothing_else(length in 5usize..200, numbers in prop::collection::vec(0usize..1 << 20, 500)) {
            let wanted = Wanted { space: true, excluded: "aA0!", ..Wanted::default() };
            let mut numbers = numbers.into_iter().cycle();
            let password = Alphabet::new(&wanted).password(length, true, |n| numbers.next().unwrap() % n);
            prop_assert_eq!(password.chars().count(), length);
            prop_assert!(!password.contains(['a', 'A', '0', '!']));
            for set in [LOWERCASE, UPPERCASE, NUMBERS, PUNCTUATION, " "] {
                prop_assert!(password.contains(|c| set.contains(c)), "{} has none of {}", password, set);
            }
        }
    }

    #[test]
    fn a_type_whose_characters_are_all_excluded_is_none() {
        let wanted = Wanted { excluded: NUMBERS, no_punctuation: true, ..Wanted::default() };
        assert_eq!(Alphabet::new(&wanted).types(), 2);
        let nothing = Wanted { no_lowercase: true, no_uppercase: true, no_numbers: true, ..wanted };
        assert_eq!(Alphabet::new(&nothing).types(), 0);
    }
}
