//! The operations, one file per resource: validate, then one transaction.

/// What a caller is told when no node can take a task.
pub(crate) const NO_CAPACITY: &str =
    "Capacity is unavailable at this time. Please try again later or in a different availability zone";
