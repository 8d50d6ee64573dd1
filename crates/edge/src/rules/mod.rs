//! Listener rules (ELB user guide, "Listener rules"): which one a request meets. Pure: compiled once per configuration,
//! evaluated without allocation.

mod condition;
mod pattern;
mod redirect;
mod transform;

pub use condition::{Conditions, RequestView};
pub use pattern::{Case, Pattern};
pub use redirect::{Redirect, RedirectSource};
pub use transform::{TransformError, Transformed, Transforms};

/// A regular expression that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{regex:?}: {reason}")]
pub struct RegexError {
    pub regex: String,
    pub reason: String,
}

/// What a compiled expression may take; AWS allows 128 characters, which fit easily.
const REGEX_BYTES_MAX: usize = 1 << 20;

fn regex(text: &str, ignore_case: bool) -> Result<regex::Regex, RegexError> {
    regex::RegexBuilder::new(text)
        .case_insensitive(ignore_case)
        .size_limit(REGEX_BYTES_MAX)
        .dfa_size_limit(REGEX_BYTES_MAX)
        .build()
        .map_err(|error| RegexError { regex: text.to_owned(), reason: error.to_string() })
}
