//! The records in the store.
//!
//! ```text
//! /logs/<account>/<region>/group/<name>                  GroupRecord
//! /logs/<account>/<region>/stream/<group id>/<name>      StreamRecord
//! ```
//!
//! The operations write all fields. What changes with every PutLogEvents (times, bytes) is in no record: the
//! events' files tell it.

use std::collections::BTreeMap;

use ferrogate_api::{ApiError, Context};
use ferrogate_model::Arn;
use ferrogate_store::{KEY_BYTES_MAX, get_json};
use serde::{Deserialize, Serialize};

use crate::LogsService;
use crate::errors;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct GroupRecord {
    pub(crate) name: String,
    /// Names its files and its streams' records; a group made anew has another.
    pub(crate) id: String,
    /// Milliseconds since the epoch.
    pub(crate) created_ms: i64,
    /// `None`: events never expire.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) retention_days: Option<i32>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) tags: BTreeMap<String, String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct StreamRecord {
    pub(crate) name: String,
    pub(crate) id: String,
    pub(crate) created_ms: i64,
}

pub(crate) const DAY_MS: i64 = 24 * 60 * 60 * 1000;

impl GroupRecord {
    /// `…:log-group:NAME`, the form without `:*`.
    pub(crate) fn arn(&self, cx: &Context) -> String {
        group_arn(cx, &self.name)
    }

    /// Events before this are gone, whether their files are or not.
    pub(crate) fn cutoff_ms(&self, now_ms: i64) -> i64 {
        self.retention_days.map_or(i64::MIN, |days| now_ms - i64::from(days) * DAY_MS)
    }
}

impl StreamRecord {
    /// Tells the streams of a group apart where one number has to: 60 of the id's bits.
    pub(crate) fn number(&self) -> u64 {
        self.id.get(..15).and_then(|digits| u64::from_str_radix(digits, 16).ok()).unwrap_or_default()
    }
}

pub(crate) fn group_arn(cx: &Context, name: &str) -> String {
    format!("arn:aws:logs:{}:{}:log-group:{name}", cx.region, cx.account)
}

pub(crate) fn region_prefix(service: &LogsService, region: &str) -> String {
    format!("/logs/{}/{region}/", service.account)
}

pub(crate) fn groups_prefix(service: &LogsService, cx: &Context) -> String {
    format!("{}group/", region_prefix(service, &cx.region))
}

pub(crate) fn group_key(service: &LogsService, cx: &Context, name: &str) -> String {
    groups_prefix(service, cx) + name
}

pub(crate) fn streams_prefix(service: &LogsService, region: &str, group: &GroupRecord) -> String {
    format!("{}stream/{}/", region_prefix(service, region), group.id)
}

/// The key of a stream, if a stream of that name can be.
pub(crate) fn stream_key(
    service: &LogsService,
    cx: &Context,
    group: &GroupRecord,
    name: &str,
) -> Result<String, ApiError> {
    let key = streams_prefix(service, &cx.region, group) + name;
    if key.len() > KEY_BYTES_MAX {
        return Err(errors::invalid(format!(
            "Value at 'logStreamName' is {} bytes of UTF-8, more than Ferrogate's limit of {} for this log group.",
            name.len(),
            KEY_BYTES_MAX - (key.len() - name.len()),
        )));
    }
    Ok(key)
}

pub(crate) fn group(service: &LogsService, cx: &Context, name: &str) -> Result<GroupRecord, ApiError> {
    let key = group_key(service, cx, name);
    get_json(&*service.store, &key).map(|found| found.record).ok_or_else(errors::no_group)
}

pub(crate) fn stream(
    service: &LogsService,
    cx: &Context,
    group: &GroupRecord,
    name: &str,
) -> Result<StreamRecord, ApiError> {
    let key = stream_key(service, cx, group, name).map_err(|_| errors::no_stream())?;
    get_json(&*service.store, &key).map(|found| found.record).ok_or_else(errors::no_stream)
}

/// The group's name, of a name or of an ARN with or without `:*`; `None`: an ARN of something else.
pub(crate) fn group_name_of<'a>(cx: &Context, identifier: &'a str) -> Option<&'a str> {
    if !identifier.starts_with("arn:") {
        return Some(identifier);
    }
    let arn: Arn = identifier.parse().ok()?;
    let ours = arn.service == "logs" && arn.region == cx.region && arn.account == cx.account;
    let name = &identifier[identifier.len() - arn.resource.len()..];
    let name = name.strip_prefix("log-group:").filter(|_| ours)?;
    let name = name.strip_suffix(":*").unwrap_or(name);
    (!name.is_empty() && !name.contains(':')).then_some(name)
}

/// The group a call means by name or by identifier: exactly one of them has to be given.
pub(crate) fn named_group(
    service: &LogsService,
    cx: &Context,
    name: Option<&str>,
    identifier: Option<&str>,
) -> Result<GroupRecord, ApiError> {
    match (name, identifier) {
        (Some(name), None) => group(service, cx, name),
        (None, Some(identifier)) => {
            group(service, cx, group_name_of(cx, identifier).ok_or_else(errors::no_group)?)
        }
        _ => Err(errors::invalid("Exactly one of logGroupName and logGroupIdentifier must be specified.")),
    }
}
