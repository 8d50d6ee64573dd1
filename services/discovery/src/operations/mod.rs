//! One file per resource.

pub(crate) mod attributes;
pub(crate) mod discover;
pub(crate) mod health;
pub(crate) mod instances;
pub(crate) mod namespaces;
pub(crate) mod progress;
pub(crate) mod services;
pub(crate) mod tags;

use ferrogate_api::{ApiError, Context};

use crate::errors;

/// Attempts of a change; each one lost means that somebody else got through.
pub(crate) const ATTEMPTS_MAX: usize = 64;
const PAGE_MAX: usize = 100;

pub(crate) fn page_size(given: Option<i32>) -> usize {
    given.and_then(|size| usize::try_from(size).ok()).unwrap_or(PAGE_MAX).clamp(1, PAGE_MAX)
}

/// Namespaces are not shared between accounts here.
pub(crate) fn own_account(cx: &Context, owner: Option<&str>) -> Result<(), ApiError> {
    match owner {
        Some(owner) if owner != cx.account => {
            Err(errors::unsupported("namespaces of other accounts (OwnerAccount)"))
        }
        _ => Ok(()),
    }
}

/// A filter of a List: `EQ`, `IN`, `BEGINS_WITH`.
pub(crate) fn satisfies(value: &str, values: &[String], condition: Option<&str>) -> Result<bool, ApiError> {
    match (condition.unwrap_or("EQ"), values) {
        ("EQ", [one]) => Ok(value == one),
        ("BEGINS_WITH", [one]) => Ok(value.starts_with(one.as_str())),
        ("IN", values) if !values.is_empty() => Ok(values.iter().any(|one| one == value)),
        ("BETWEEN", [from, to]) => Ok(value >= from.as_str() && value <= to.as_str()),
        (condition, values) => {
            let count = values.len();
            Err(errors::invalid_input(format!(
                "The filter condition {condition} does not go with {count} values."
            )))
        }
    }
}
