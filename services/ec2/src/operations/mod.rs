//! One file per resource: validate → transaction.

pub(crate) mod absent;
pub(crate) mod addresses;
pub(crate) mod defaults;
pub(crate) mod internet_gateways;
pub(crate) mod network_acls;
pub(crate) mod network_interface_attributes;
pub(crate) mod network_interfaces;
pub(crate) mod region;
pub(crate) mod route_tables;
pub(crate) mod routes;
pub(crate) mod security_group_rules;
pub(crate) mod security_groups;
pub(crate) mod subnets;
pub(crate) mod tags;
pub(crate) mod vpc_attributes;
pub(crate) mod vpcs;
