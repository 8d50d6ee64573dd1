//! Pure: what names, values and labels may be, and which parameters a filter means.

pub(crate) mod filter;
pub(crate) mod rules;
