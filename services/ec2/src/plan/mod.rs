//! What EC2 decides without touching anything: addresses, blocks, rules, and the fabric that follows from the records.

pub(crate) mod addresses;
pub(crate) mod cidr;
pub(crate) mod fabric;
pub(crate) mod rules;
pub(crate) mod zones;
