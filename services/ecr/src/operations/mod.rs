//! The operations, one file per resource.

pub(crate) mod cache_rules;
pub(crate) mod images;
pub(crate) mod layers;
pub(crate) mod lifecycle;
pub(crate) mod listing;
pub(crate) mod registry;
pub(crate) mod repositories;
pub(crate) mod scanning;
pub(crate) mod tags;

/// How many a page has when the caller does not say, and the most it may have.
const PAGE_DEFAULT: usize = 100;
const PAGE_MAX: usize = 1000;

fn page_size(max_results: Option<i32>) -> usize {
    max_results.map_or(PAGE_DEFAULT, |wanted| usize::try_from(wanted).unwrap_or(1)).clamp(1, PAGE_MAX)
}
