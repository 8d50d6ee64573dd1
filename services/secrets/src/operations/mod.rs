//! The operations, a file per resource.

pub(crate) mod batch;
pub(crate) mod deletion;
pub(crate) mod listing;
pub(crate) mod password;
pub(crate) mod policies;
pub(crate) mod secrets;
pub(crate) mod tags;
pub(crate) mod values;
