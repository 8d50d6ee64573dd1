//! Pure planners: no clock, no store, no chance.

pub(crate) mod assignment;
pub(crate) mod placement;
pub(crate) mod provision;
