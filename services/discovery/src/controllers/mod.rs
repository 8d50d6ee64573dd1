//! What carries operations out.

pub(crate) mod publish;
mod zone;
