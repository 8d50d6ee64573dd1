//! Pure decisions.

pub(crate) mod batch;
pub(crate) mod names;
pub(crate) mod set;
