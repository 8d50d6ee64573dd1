//! Pure decisions.

pub(crate) mod attributes;
pub(crate) mod discover;
pub(crate) mod endpoints;
pub(crate) mod records;
