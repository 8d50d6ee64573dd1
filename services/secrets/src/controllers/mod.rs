//! The controllers.

mod deletion;

pub(crate) use deletion::Deletion;
