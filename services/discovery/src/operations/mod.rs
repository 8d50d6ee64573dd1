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
use crate::state::bare_id;

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

/// A filter of a List.
pub(crate) struct Filter {
    pub name: String,
    pub condition: String,
    pub values: Vec<String>,
}

/// The filters of a List: three shapes with the same members.
macro_rules! filters {
    ($input:ident) => {
        $input.filters.unwrap_or_default().into_iter().map(|filter| $crate::operations::Filter {
            name: filter.name.unwrap_or_default(),
            condition: filter.condition.unwrap_or_else(|| "EQ".to_owned()),
            values: filter.values.unwrap_or_default(),
        })
    };
}
pub(crate) use filters;

/// The records that satisfy all filters. `value`: what a record has of a name; `None`: the List has no such filter.
pub(crate) fn filtered<R>(
    mut records: Vec<R>,
    filters: impl Iterator<Item = Filter>,
    value: impl Fn(&R, &str) -> Option<String>,
) -> Result<Vec<R>, ApiError> {
    for filter in filters {
        let mut kept = Vec::new();
        for record in records {
            let value = value(&record, &filter.name)
                .ok_or_else(|| errors::invalid_input(format!("There is no filter named {}.", filter.name)))?;
            if satisfies(&value, &filter)? {
                kept.push(record);
            }
        }
        records = kept;
    }
    Ok(records)
}

fn satisfies(value: &str, Filter { name, condition, values }: &Filter) -> Result<bool, ApiError> {
    let number = |text: &str| text.parse::<f64>().ok();
    match (condition.as_str(), values.as_slice()) {
        ("EQ", [one]) => return Ok(value == bare_id(one)),
        ("BEGINS_WITH", [one]) => return Ok(value.starts_with(one.as_str())),
        ("IN", values) if !values.is_empty() => return Ok(values.iter().any(|one| bare_id(one) == value)),
        // Of dates, in Unix time.
        ("BETWEEN", [from, to]) if name == "UPDATE_DATE" => {
            if let (Some(value), Some(from), Some(to)) = (number(value), number(from), number(to)) {
                return Ok((from..=to).contains(&value));
            }
        }
        _ => {}
    }
    let values = values.join(", ");
    Err(errors::invalid_input(format!(
        "The condition {condition} of the filter {name} does not go with '{values}'."
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(name: &str, condition: &str, values: &[&str]) -> Result<Vec<&'static str>, String> {
        let values = values.iter().map(|value| (*value).to_owned()).collect();
        let filter = Filter { name: name.into(), condition: condition.into(), values };
        let value =
            |record: &&str, name: &str| matches!(name, "ID" | "UPDATE_DATE").then(|| (*record).to_owned());
        filtered(vec!["9", "10", "11.5"], [filter].into_iter(), value).map_err(|error| error.message)
    }

    #[test]
    fn conditions() {
        assert_eq!(kept("ID", "EQ", &["10"]).unwrap(), ["10"]);
        assert_eq!(kept("ID", "EQ", &["arn:aws:servicediscovery:x:1:service/9"]).unwrap(), ["9"]);
        assert_eq!(kept("ID", "IN", &["9", "11.5", "12"]).unwrap(), ["9", "11.5"]);
        assert_eq!(kept("ID", "BEGINS_WITH", &["1"]).unwrap(), ["10", "11.5"]);
        assert_eq!(kept("UPDATE_DATE", "BETWEEN", &["9.5", "11"]).unwrap(), ["10"]);
        for (name, condition, values) in [
            ("ID", "EQ", &["1", "2"][..]),
            ("ID", "IN", &[]),
            ("ID", "BETWEEN", &["1", "2"]),
            ("UPDATE_DATE", "BETWEEN", &["yesterday", "2"]),
            ("UPDATE_DATE", "BETWEEN", &["1"]),
            ("SIZE", "EQ", &["1"]),
        ] {
            assert!(kept(name, condition, values).unwrap_err().contains(name));
        }
    }
}
