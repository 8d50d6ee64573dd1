//! What is decided without a clock, a store or chance.

pub(crate) mod actions;
pub(crate) mod assignment;
pub(crate) mod attributes;
pub(crate) mod conditions;
pub(crate) mod health;
pub(crate) mod health_check;
pub(crate) mod index;
pub(crate) mod interfaces;
pub(crate) mod logs;
pub(crate) mod ssl;
