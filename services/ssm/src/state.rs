//! The records in the store.
//!
//! ```text
//! /ssm/<account>/<region>/parameter/<name>                       ParameterRecord
//! /ssm/<account>/<region>/value/<parameter id>/<version>         ValueRecord
//! ```
//!
//! The operations write all fields. A value is written once, in the transaction that enters its version into the
//! parameter's record, and goes with it.

use std::collections::{BTreeMap, BTreeSet};

use ferrogate_api::{ApiError, Context};
use ferrogate_model::Arn;
use ferrogate_store::{Json, get_json};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{SsmService, errors};

pub(crate) const SECURE: &str = "SecureString";
pub(crate) const DATA_TYPE: &str = "text";
/// The key that is there without being made; the only one for now.
pub(crate) const DEFAULT_KEY: &str = "alias/aws/ssm";

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ParameterRecord {
    pub(crate) name: String,
    /// Names its values' records; a parameter made anew has another.
    pub(crate) id: String,
    /// `String`, `StringList`, `SecureString`
    pub(crate) kind: String,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) tags: BTreeMap<String, String>,
    /// Never empty. The last one is the parameter as it is.
    pub(crate) versions: BTreeMap<i64, VersionRecord>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct VersionRecord {
    pub(crate) modified_at: Timestamp,
    /// ARN of a principal
    pub(crate) modified_by: String,
    /// `Standard`, `Advanced`
    pub(crate) tier: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) description: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) allowed_pattern: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(crate) labels: BTreeSet<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ValueRecord {
    pub(crate) sealed: String,
}

impl ParameterRecord {
    pub(crate) fn arn(&self, cx: &Context) -> String {
        parameter_arn(cx, &self.name)
    }

    /// The parameter as it is now, and its version's number.
    pub(crate) fn newest(&self) -> Option<(i64, &VersionRecord)> {
        self.versions.last_key_value().map(|(number, version)| (*number, version))
    }

    pub(crate) fn labeled(&self, label: &str) -> Option<i64> {
        self.versions.iter().find(|(_, version)| version.labels.contains(label)).map(|(number, _)| *number)
    }

    pub(crate) fn key_id(&self) -> Option<String> {
        (self.kind == SECURE).then(|| DEFAULT_KEY.to_owned())
    }
}

/// `…:parameter/a/b` of `/a/b`, and `…:parameter/a` of `a`.
pub(crate) fn parameter_arn(cx: &Context, name: &str) -> String {
    format!("arn:aws:ssm:{}:{}:parameter/{}", cx.region, cx.account, name.strip_prefix('/').unwrap_or(name))
}

fn prefix(cx: &Context) -> String {
    format!("/ssm/{}/{}/", cx.account, cx.region)
}

pub(crate) fn parameters_prefix(cx: &Context) -> String {
    prefix(cx) + "parameter/"
}

pub(crate) fn parameter_key(cx: &Context, name: &str) -> String {
    parameters_prefix(cx) + name
}

pub(crate) fn values_prefix(cx: &Context, parameter: &ParameterRecord) -> String {
    format!("{}value/{}/", prefix(cx), parameter.id)
}

pub(crate) fn value_key(cx: &Context, parameter: &ParameterRecord, version: i64) -> String {
    format!("{}{version}", values_prefix(cx, parameter))
}

/// Where a value belongs; it opens nowhere else.
fn place(cx: &Context, parameter: &ParameterRecord, version: i64) -> String {
    format!("{}/{}/{version}", parameter.arn(cx), parameter.id)
}

pub(crate) fn seal(
    service: &SsmService,
    cx: &Context,
    parameter: &ParameterRecord,
    version: i64,
    value: &str,
) -> ValueRecord {
    ValueRecord { sealed: service.sealer.seal(value.as_bytes(), &place(cx, parameter, version)) }
}

/// The value of a version. `decrypted`: else a SecureString's is shown as it is sealed, as AWS shows it encrypted.
/// `None`: a transaction has removed it meanwhile.
pub(crate) fn value(
    service: &SsmService,
    cx: &Context,
    parameter: &ParameterRecord,
    version: i64,
    decrypted: bool,
) -> Result<Option<String>, ApiError> {
    let key = value_key(cx, parameter, version);
    let Some(found) = get_json::<ValueRecord>(&*service.store, &key) else { return Ok(None) };
    if parameter.kind == SECURE && !decrypted {
        return Ok(Some(found.record.sealed));
    }
    let opened = service.sealer.unseal(&found.record.sealed, &place(cx, parameter, version));
    let bytes = opened.map_err(errors::sealed)?;
    String::from_utf8(bytes).map(Some).map_err(|_| errors::sealed(ferrogate_store::SealError::Open))
}

/// The names a parameter may have that a call means by a name or an ARN; an ARN does not tell `/a` from `a`.
fn names(cx: &Context, given: &str) -> Vec<String> {
    if !given.starts_with("arn:") {
        return vec![given.to_owned()];
    }
    let Ok(arn) = given.parse::<Arn>() else { return Vec::new() };
    let ours = arn.service == "ssm" && arn.region == cx.region && arn.account == cx.account;
    match arn.resource.strip_prefix("parameter/").filter(|_| ours) {
        Some(name) if name.contains('/') => vec![format!("/{name}")],
        Some(name) => vec![name.to_owned(), format!("/{name}")],
        None => Vec::new(),
    }
}

/// By name or ARN, without a selector.
pub(crate) fn find(service: &SsmService, cx: &Context, given: &str) -> Option<Json<ParameterRecord>> {
    let names = names(cx, given);
    names.iter().find_map(|name| get_json(&*service.store, &parameter_key(cx, name)))
}

/// What a call means by `name`, `name:3`, `name:label` or an ARN with or without them.
#[derive(Debug)]
pub(crate) struct Chosen {
    pub(crate) record: ParameterRecord,
    pub(crate) version: i64,
    /// `:3`, `:label`
    pub(crate) selector: Option<String>,
}

/// # Errors
/// ParameterNotFound, or ParameterVersionNotFound when it is there without that version.
pub(crate) fn choose(service: &SsmService, cx: &Context, given: &str) -> Result<Chosen, ApiError> {
    let (name, selector) = split_selector(given);
    let record = find(service, cx, name).ok_or_else(errors::no_parameter)?.record;
    let newest = record.newest().map(|(number, _)| number).ok_or_else(errors::no_parameter)?;
    let Some(selector) = selector else { return Ok(Chosen { record, version: newest, selector: None }) };
    let version = match selector.parse::<i64>() {
        Ok(number) => Some(number).filter(|number| record.versions.contains_key(number)),
        Err(_) => record.labeled(selector),
    };
    let version = version.ok_or_else(|| errors::no_version(selector, name))?;
    Ok(Chosen { record, version, selector: Some(format!(":{selector}")) })
}

/// The name or ARN, and what stands behind its `:`.
pub(crate) fn split_selector(given: &str) -> (&str, Option<&str>) {
    const COLONS_OF_AN_ARN: usize = 5;
    let start = if given.starts_with("arn:") {
        given.match_indices(':').nth(COLONS_OF_AN_ARN - 1).map_or(given.len(), |(at, _)| at + 1)
    } else {
        0
    };
    match given[start..].split_once(':') {
        Some((name, selector)) => (&given[..start + name.len()], Some(selector)),
        None => (given, None),
    }
}

#[cfg(test)]
mod tests {
    use super::split_selector;

    #[test]
    fn selectors() {
        let arn = "arn:aws:ssm:us-east-1:123456789012:parameter/a/b";
        for name in ["a", "/a/b", arn] {
            assert_eq!(split_selector(name), (name, None));
            assert_eq!(split_selector(&format!("{name}:3")), (name, Some("3")));
            assert_eq!(split_selector(&format!("{name}:blue")), (name, Some("blue")));
        }
        assert_eq!(split_selector("arn:aws"), ("arn:aws", None));
    }
}
