//! Filter patterns, as `fuzz/` reaches them.

use crate::pattern::Pattern;

/// Parses the pattern and holds it against the message.
pub fn filter(pattern: &str, message: &str) {
    match Pattern::parse(pattern) {
        Ok(pattern) => {
            pattern.matches(message);
            pattern.extract(message);
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}
