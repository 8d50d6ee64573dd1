//! The controllers.

mod retention;

pub use retention::Swept;
pub(crate) use retention::{Retention, sweep};
