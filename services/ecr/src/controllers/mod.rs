//! The controllers.

mod lifecycle;
mod sweep;

pub(crate) use lifecycle::Lifecycle;
pub(crate) use sweep::Sweep;
