//! Observe → plan → act.

pub(crate) mod drain;
pub(crate) mod interfaces;
pub(crate) mod logs;
pub(crate) mod publisher;
