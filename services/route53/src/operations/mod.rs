//! One file per resource.

pub(crate) mod balancers;
pub(crate) mod changes;
pub(crate) mod listing;
pub(crate) mod records;
pub(crate) mod tags;
pub(crate) mod vpcs;
pub(crate) mod zones;

use ferrogate_api::ApiError;

use crate::errors;

/// Route 53's paging takes its numbers as text.
pub(crate) fn page_size(given: Option<&str>, most: usize) -> Result<usize, ApiError> {
    let Some(given) = given else { return Ok(most) };
    match given.parse::<usize>() {
        Ok(0) | Err(_) => Err(errors::invalid_input(format!("'{given}' is no valid value for maxitems"))),
        Ok(size) => Ok(size.min(most)),
    }
}
