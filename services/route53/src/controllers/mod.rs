//! What runs beside the operations.

pub(crate) mod names;
