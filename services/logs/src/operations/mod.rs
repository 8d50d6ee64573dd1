//! One file per resource or kind of call: validate, then a transaction or a write of events.

pub(crate) mod filter;
pub(crate) mod get;
pub(crate) mod groups;
pub(crate) mod put;
pub(crate) mod streams;
pub(crate) mod tags;

/// "As many log events as can fit in a response size of 1 MB (up to 10,000 log events)" (GetLogEvents).
const PAGE_EVENTS_MAX: usize = 10_000;
const PAGE_BYTES_MAX: usize = 1 << 20;
