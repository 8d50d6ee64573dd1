//! Filters and pages of the Describe operations.
//!
//! A filter looks at the answer's own shape, so it can never see anything else than the caller does.

use std::fmt::Display;

use ferrogate_api::ApiError;
use ferrogate_api::ec2::{Filter, Tag};
use ferrogate_model::{Page, paginate, wildcard_match};

use crate::errors::invalid_value;

/// EC2 API reference, error codes: FilterLimitExceeded.
const FILTER_VALUES_MAX: usize = 200;
/// The page when the caller names no size.
const PAGE_SIZE_DEFAULT: usize = 1000;

/// A shape that Describe answers with.
pub(crate) trait Described {
    /// Every filter AWS documents for it, without `tag:…` and `tag-key`, which all have that have tags.
    const FILTERS: &'static [&'static str];
    const TAGGED: bool = true;

    fn id(&self) -> &str;
    fn tags(&self) -> &[Tag];
    /// The values of the property that the filter looks at: any one of them may match.
    fn values(&self, filter: &str) -> Values;
}

/// Collects what a filter compares with; absent members leave nothing.
#[derive(Debug, Default)]
pub(crate) struct Values(Vec<String>);

impl Values {
    pub(crate) fn none() -> Self {
        Self::default()
    }

    pub(crate) fn one(value: &Option<impl Display>) -> Self {
        Self(value.iter().map(ToString::to_string).collect())
    }

    pub(crate) fn text(value: impl Display) -> Self {
        Self(vec![value.to_string()])
    }

    pub(crate) fn each<T>(items: &Option<Vec<T>>, of: impl Fn(&T) -> Option<String>) -> Self {
        Self(items.iter().flatten().filter_map(of).collect())
    }

    pub(crate) fn and(mut self, other: Self) -> Self {
        self.0.extend(other.0);
        self
    }
}

/// The filters of one call, checked.
#[derive(Debug, Default)]
pub(crate) struct Filters(Vec<(String, Vec<String>)>);

impl Filters {
    pub(crate) fn new<T: Described>(filters: Option<Vec<Filter>>) -> Result<Self, ApiError> {
        let mut checked = Vec::new();
        for filter in filters.unwrap_or_default() {
            let name = filter.name.unwrap_or_default();
            let of_tags = T::TAGGED && (name == "tag-key" || name == "tag-value" || name.starts_with("tag:"));
            if !of_tags && !T::FILTERS.contains(&name.as_str()) {
                return Err(invalid_value(format!("The filter '{name}' is invalid")));
            }
            let values = filter.values.unwrap_or_default();
            if values.is_empty() {
                return Err(invalid_value(format!("The filter '{name}' must have at least one value")));
            }
            if values.len() > FILTER_VALUES_MAX {
                let message = format!(
                    "The maximum number of filter values specified on a single call is {FILTER_VALUES_MAX}"
                );
                return Err(ApiError::new("FilterLimitExceeded", message));
            }
            checked.push((name, values));
        }
        Ok(Self(checked))
    }

    /// All filters must match, each by one of its values.
    pub(crate) fn match_all<T: Described>(&self, item: &T) -> bool {
        self.0.iter().all(|(name, wanted)| {
            let matches = |value: &str| wanted.iter().any(|pattern| wildcard_match(pattern, value));
            if let Some(key) = name.strip_prefix("tag:").filter(|_| T::TAGGED) {
                let tag = item.tags().iter().find(|tag| tag.key.as_deref() == Some(key));
                return tag.is_some_and(|tag| matches(tag.value.as_deref().unwrap_or_default()));
            }
            match name.as_str() {
                "tag-key" if T::TAGGED => {
                    item.tags().iter().filter_map(|tag| tag.key.as_deref()).any(matches)
                }
                "tag-value" if T::TAGGED => {
                    item.tags().iter().filter_map(|tag| tag.value.as_deref()).any(matches)
                }
                name => item.values(name).0.iter().any(|value| matches(value)),
            }
        })
    }
}

/// One page of `items`, in the order of their ids.
pub(crate) fn page<T: Described>(
    items: impl IntoIterator<Item = T>,
    filters: &Filters,
    max_results: Option<i32>,
    next_token: Option<&str>,
) -> Result<Page<T>, ApiError> {
    let mut items: Vec<T> = items.into_iter().filter(|item| filters.match_all(item)).collect();
    items.sort_by(|a, b| a.id().cmp(b.id()));
    let limit = max_results.map_or(PAGE_SIZE_DEFAULT, |limit| usize::try_from(limit).unwrap_or(1).max(1));
    paginate(items, |item| item.id(), next_token, limit)
        .map_err(|_| ApiError::new("InvalidNextToken", "The specified nextToken is not valid."))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Thing(&'static str, Vec<Tag>);

    impl Described for Thing {
        const FILTERS: &'static [&'static str] = &["thing-id"];

        fn id(&self) -> &str {
            self.0
        }

        fn tags(&self) -> &[Tag] {
            &self.1
        }

        fn values(&self, filter: &str) -> Values {
            match filter {
                "thing-id" => Values::text(self.0),
                _ => Values::none(),
            }
        }
    }

    fn filters(given: &[(&str, &[&str])]) -> Result<Filters, ApiError> {
        let given = given.iter().map(|(name, values)| Filter {
            name: Some((*name).to_owned()),
            values: Some(values.iter().map(|value| (*value).to_owned()).collect()),
        });
        Filters::new::<Thing>(Some(given.collect()))
    }

    #[test]
    fn filters_match_as_documented() {
        let tag = Tag { key: Some("Name".into()), value: Some("web-1".into()) };
        let thing = Thing("t-1", vec![tag]);
        for (given, expected) in [
            (&[("thing-id", &["t-*"][..])][..], true),
            (&[("thing-id", &["x", "t-?"])], true),
            (&[("thing-id", &["t"])], false),
            (&[("tag:Name", &["web-*"])], true),
            (&[("tag:name", &["web-*"])], false),
            (&[("tag-key", &["Name"]), ("thing-id", &["t-1"])], true),
            (&[("tag-key", &["Name"]), ("thing-id", &["t-2"])], false),
        ] {
            assert_eq!(filters(given).unwrap().match_all(&thing), expected, "{given:?}");
        }
    }

    #[test]
    fn unknown_filters_are_refused_with_or_without_items() {
        let error = filters(&[("Thing-Id", &["x"])]).unwrap_err();
        assert_eq!(
            (error.code.as_str(), error.message.as_str()),
            ("InvalidParameterValue", "The filter 'Thing-Id' is invalid")
        );
    }

    #[test]
    fn pages() {
        let all = || ["c", "a", "b"].map(|id| Thing(id, Vec::new()));
        let first = page(all(), &Filters::default(), Some(2), None).unwrap();
        assert_eq!(first.items.iter().map(Described::id).collect::<Vec<_>>(), ["a", "b"]);
        let second = page(all(), &Filters::default(), Some(2), first.next_token.as_deref()).unwrap();
        assert_eq!(second.items.iter().map(Described::id).collect::<Vec<_>>(), ["c"]);
        assert_eq!(second.next_token, None);
        assert_eq!(page(all(), &Filters::default(), None, Some("?")).err().unwrap().code, "InvalidNextToken");
    }
}
