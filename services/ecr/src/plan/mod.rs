//! What is decided without looking at anything but what is given.

pub(crate) mod lifecycle;
