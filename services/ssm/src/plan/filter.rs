//! Filters of DescribeParameters and GetParametersByPath.

use ferrogate_api::ApiError;
use ferrogate_api::ssm::ParameterStringFilter;
use ferrogate_model::Arn;

use crate::state::{DATA_TYPE, ParameterRecord};

/// Which call the filters are of: what they may say differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Of {
    Describe,
    ByPath,
}

const BY_PATH_KEYS: &[&str] = &["Type", "KeyId", "Label"];
const DESCRIBE_KEYS: &[&str] = &["DataType", "KeyId", "Name", "Path", "Tier", "Type", "Label"];

pub(crate) fn check(of: Of, filters: &[ParameterStringFilter]) -> Result<(), ApiError> {
    for (at, filter) in filters.iter().enumerate() {
        let key = filter.key.as_deref().unwrap_or_default();
        let keys = if of == Of::ByPath { BY_PATH_KEYS } else { DESCRIBE_KEYS };
        let is_tag = of == Of::Describe && key.starts_with("tag:");
        if !is_tag && !keys.contains(&key) {
            let words = format!(
                "The following filter key is not valid: {key}. Valid filter keys include: [{}]",
                keys.join(", ")
            );
            return Err(ApiError::new("InvalidFilterKey", words));
        }
        if filters[..at].iter().any(|other| other.key == filter.key) {
            let words = format!(
                "The following filter is duplicated in the request: {key}. A request can contain only one occurrence of a specific filter."
            );
            return Err(ApiError::new("InvalidFilterKey", words));
        }
        check_option(of, key, filter.option.as_deref())?;
        if !is_tag && filter.values.as_ref().is_none_or(Vec::is_empty) {
            let words = format!("The following filter values are missing : null for filter key {key}");
            return Err(ApiError::new("InvalidFilterValue", words));
        }
    }
    Ok(())
}

fn check_option(of: Of, key: &str, option: Option<&str>) -> Result<(), ApiError> {
    let options: &[&str] = match (of, key) {
        (_, "Path") => &["Recursive", "OneLevel"],
        (Of::Describe, "Name") => &["Equals", "BeginsWith", "Contains"],
        (Of::ByPath, _) => &["Equals", "BeginsWith"],
        _ => &["Equals"],
    };
    match option {
        Some(option) if !options.contains(&option) => {
            let words = format!(
                "The following filter option is not valid: {option}. Valid options include: [{}]",
                options.join(", ")
            );
            Err(ApiError::new("InvalidFilterOption", words))
        }
        _ => Ok(()),
    }
}

/// Whether the parameter satisfies all of them.
pub(crate) fn fits(record: &ParameterRecord, filters: &[ParameterStringFilter]) -> bool {
    filters.iter().all(|filter| fits_one(record, filter))
}

fn fits_one(record: &ParameterRecord, filter: &ParameterStringFilter) -> bool {
    let key = filter.key.as_deref().unwrap_or_default();
    let values = filter.values.as_deref().unwrap_or_default();
    let begins = filter.option.as_deref() == Some("BeginsWith");
    let same = |text: &str| {
        values.iter().any(|value| if begins { text.starts_with(value.as_str()) } else { text == value })
    };
    if let Some(tag) = key.strip_prefix("tag:") {
        return record.tags.get(tag).is_some_and(|text| values.is_empty() || same(text));
    }
    let newest = record.newest().map(|(_, version)| version);
    match key {
        "Type" => same(&record.kind),
        "KeyId" => record.key_id().is_some_and(|id| same(&id)),
        "Tier" => newest.is_some_and(|version| same(&version.tier)),
        "DataType" => same(DATA_TYPE),
        // Of any version: labels stay where they were put.
        "Label" => record.versions.values().flat_map(|version| &version.labels).any(|label| same(label)),
        "Name" => values.iter().any(|value| is_named(&record.name, value, filter.option.as_deref())),
        "Path" => {
            let recursive = filter.option.as_deref() == Some("Recursive");
            values.iter().any(|path| is_below(&record.name, path, recursive))
        }
        _ => false,
    }
}

fn is_named(name: &str, value: &str, option: Option<&str>) -> bool {
    // A full ARN may stand for the name.
    let of_arn =
        value.parse::<Arn>().ok().and_then(|arn| arn.resource.strip_prefix("parameter").map(str::to_owned));
    let value = of_arn.as_deref().unwrap_or(value);
    // `/a` and `a` name the same on the top level.
    let bare = |text: &str| text.strip_prefix('/').unwrap_or(text).to_owned();
    match option {
        Some("Contains") => name.contains(value),
        Some("BeginsWith") => bare(name).starts_with(&bare(value)),
        _ => bare(name) == bare(value),
    }
}

/// Whether the name is below the path: anywhere, or on the next level.
pub(crate) fn is_below(name: &str, path: &str, recursive: bool) -> bool {
    let name = name.strip_prefix('/').unwrap_or(name);
    let path = path.trim_matches('/');
    let rest = if path.is_empty() {
        Some(name)
    } else {
        name.strip_prefix(path).and_then(|rest| rest.strip_prefix('/'))
    };
    rest.is_some_and(|rest| recursive || !rest.contains('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn below() {
        for (name, path, one_level, deep) in [
            ("/a/b", "/a", true, true),
            ("/a/b", "/a/", true, true),
            ("/a/b/c", "/a", false, true),
            ("/ab/c", "/a", false, false),
            ("/a", "/a", false, false),
            ("a", "/", true, true),
            ("/a/b", "/", false, true),
        ] {
            assert_eq!(is_below(name, path, false), one_level, "{name} {path}");
            assert_eq!(is_below(name, path, true), deep, "{name} {path}");
        }
    }

    #[test]
    fn filters_that_make_no_sense_are_refused() {
        let filter = |key: &str, option: Option<&str>, values: &[&str]| ParameterStringFilter {
            key: Some(key.into()),
            option: option.map(str::to_owned),
            values: Some(values.iter().map(|&value| value.to_owned()).collect()),
        };
        let code = |of, filters: &[ParameterStringFilter]| check(of, filters).unwrap_err().code;
        assert_eq!(code(Of::ByPath, &[filter("Name", None, &["x"])]), "InvalidFilterKey");
        assert_eq!(code(Of::Describe, &[filter("Type", Some("Recursive"), &["x"])]), "InvalidFilterOption");
        assert_eq!(code(Of::Describe, &[filter("Type", None, &[])]), "InvalidFilterValue");
        let twice = [filter("Type", None, &["String"]), filter("Type", None, &["StringList"])];
        assert_eq!(code(Of::Describe, &twice), "InvalidFilterKey");
        assert!(
            check(Of::Describe, &[filter("tag:a", None, &[]), filter("Path", Some("Recursive"), &["/"])])
                .is_ok()
        );
    }
}
