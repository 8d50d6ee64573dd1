//! The operations, a file per thing that is done.

pub(crate) mod delete;
pub(crate) mod describe;
pub(crate) mod get;
pub(crate) mod labels;
pub(crate) mod put;
pub(crate) mod sessions;
pub(crate) mod tags;
