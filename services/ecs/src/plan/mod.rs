//! Pure planners: no clock, no store, no chance.

pub(crate) mod assignment;
pub(crate) mod connect;
pub(crate) mod placement;
pub(crate) mod provision;
pub(crate) mod service;
#[cfg(test)]
mod service_properties;
#[cfg(test)]
mod service_simulation;
#[cfg(test)]
mod service_tests;
