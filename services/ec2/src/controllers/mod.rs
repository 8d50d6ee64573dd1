//! What goes on between the calls.

pub(crate) mod fabric;
