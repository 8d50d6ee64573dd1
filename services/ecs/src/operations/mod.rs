//! The operations, one file per resource: validate, then one transaction.

pub(crate) mod absent;
pub(crate) mod capacity_providers;
pub(crate) mod clusters;
pub(crate) mod definitions;
pub(crate) mod exec_logging;
pub(crate) mod execute_command;
pub(crate) mod launch;
pub(crate) mod namespaces;
pub(crate) mod network;
pub(crate) mod new_task;
pub(crate) mod overrides;
pub(crate) mod protection;
pub(crate) mod run_task;
pub(crate) mod services;
pub(crate) mod settings;
pub(crate) mod shape;
pub(crate) mod tags;
pub(crate) mod tasks;

use ferrogate_api::ApiError;
use ferrogate_model::{Page, paginate};

use crate::errors::{bad_token, invalid};

/// What a caller is told when no node can take a task.
pub(crate) const NO_CAPACITY: &str =
    "Capacity is unavailable at this time. Please try again later or in a different availability zone";
/// Items of one page, and of one Describe.
pub(crate) const PAGE_MAX: usize = 100;

/// A page of items sorted by `key`, ECS's way.
fn page<T>(
    items: impl IntoIterator<Item = T>,
    key: impl Fn(&T) -> &str,
    next_token: Option<&str>,
    max_results: Option<i32>,
) -> Result<Page<T>, ApiError> {
    let limit = match max_results {
        None => PAGE_MAX,
        Some(count) => usize::try_from(count)
            .ok()
            .filter(|count| (1..=PAGE_MAX).contains(count))
            .ok_or_else(|| invalid(format!("maxResults should be between 1 and {PAGE_MAX}.")))?,
    };
    paginate(items, key, next_token.filter(|token| !token.is_empty()), limit).map_err(|_| bad_token())
}

/// Of the parameters of a call, to know it again.
fn digest<T: serde::Serialize>(parameters: &T) -> Result<String, ApiError> {
    let json = serde_json::to_vec(parameters).map_err(|_| ApiError::internal())?;
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &json);
    Ok(digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Refuses a value that ECS does not know.
fn one_of(what: &str, value: Option<&str>, all: &[&str]) -> Result<(), ApiError> {
    match value {
        Some(value) if !all.contains(&value) => {
            Err(invalid(format!("Invalid {what} '{value}'. Must be one of [{}]", all.join(","))))
        }
        _ => Ok(()),
    }
}

/// Refuses a Describe of nothing or of too much.
fn check_count(what: &str, count: usize) -> Result<(), ApiError> {
    match count {
        0 => Err(invalid(format!("{what} cannot be empty."))),
        1..=PAGE_MAX => Ok(()),
        _ => Err(invalid(format!("{what} can have at most {PAGE_MAX} items."))),
    }
}
