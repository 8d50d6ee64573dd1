//! Pure: how stages move, and what passwords are made of.

pub(crate) mod password;
pub(crate) mod stages;
