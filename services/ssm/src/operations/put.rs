//! PutParameter.

use std::collections::{BTreeMap, BTreeSet};

use ferrogate_api::ssm::*;
use ferrogate_api::{ApiError, Context};
use ferrogate_model::hex_id;
use ferrogate_store::{Txn, get_json};
use regex::RegexBuilder;

use crate::SsmService;
use crate::errors;
use crate::operations::tags;
use crate::plan::rules;
use crate::state::{
    DATA_TYPE, DEFAULT_KEY, ParameterRecord, SECURE, VersionRecord, parameter_arn, parameter_key, seal,
    value_key,
};

const ATTEMPTS_MAX: usize = 64;
/// "Maximum number of past versions" of the quotas.
const VERSIONS_MAX: usize = 100;
/// Compiled, of a pattern somebody else wrote.
const PATTERN_BYTES_MAX: usize = 1 << 20;

pub(crate) async fn put(
    service: &SsmService,
    cx: &Context,
    input: PutParameterRequest,
) -> Result<PutParameterResult, ApiError> {
    let name = given_name(cx, input.name.as_deref().unwrap_or_default())?;
    check_supported(cx, &input)?;
    let overwrite = input.overwrite == Some(true);
    let has_tags = input.tags.as_ref().is_some_and(|tags| !tags.is_empty());
    if overwrite && has_tags {
        return Err(errors::validation(
            "Invalid request: tags and overwrite can't be used together. To create a parameter with tags, please remove \
             overwrite flag. To update tags for an existing parameter, please use AddTagsToResource or RemoveTagsFromResource.",
        ));
    }
    let value = input.value.as_deref().unwrap_or_default();
    if value.is_empty() {
        return Err(errors::validation(
            "1 validation error detected: Value at 'value' failed to satisfy constraint: Member must have length greater than or equal to 1.",
        ));
    }
    let tags = tags::merged(BTreeMap::new(), input.tags.clone())?;

    let key = parameter_key(cx, &name);
    for _ in 0..ATTEMPTS_MAX {
        let found = get_json::<ParameterRecord>(&*service.store, &key);
        let revision = found.as_ref().map_or(0, |found| found.mod_revision);
        let (mut record, was) = match found {
            Some(_) if !overwrite => return Err(errors::exists()),
            Some(found) => {
                let was = found.record.newest().map(|(_, version)| version.clone());
                (found.record, was)
            }
            None => (made(&name, &input, tags.clone())?, None),
        };
        check_kind(&record, &input, value)?;
        // What a new version does not say stays as it was; the pattern that is shown is the one that holds.
        let (description, pattern) =
            was.as_ref().map_or((None, None), |was| (was.description.clone(), was.allowed_pattern.clone()));
        let description = input.description.clone().or(description);
        let allowed_pattern = input.allowed_pattern.clone().or(pattern).filter(|pattern| !pattern.is_empty());
        check_pattern(allowed_pattern.as_deref(), value)?;
        let tier = rules::tier(input.tier.as_deref(), was.as_ref().map(|was| was.tier.as_str()), value)?;
        let number = record.newest().map_or(0, |(number, _)| number) + 1;
        let dropped = make_room(&mut record, number)?;
        let version = VersionRecord {
            modified_at: cx.now,
            modified_by: cx.principal.arn.clone(),
            tier: tier.to_owned(),
            description,
            allowed_pattern,
            labels: BTreeSet::new(),
        };
        record.versions.insert(number, version);
        let mut txn = Txn::new()
            .when_revision(&key, revision)
            .put_json(&key, &record)
            .put_json(value_key(cx, &record, number), &seal(service, cx, &record, number, value));
        for old in dropped {
            txn = txn.delete(value_key(cx, &record, old));
        }
        if service.store.txn(txn).await.map_err(errors::store)?.succeeded {
            return Ok(PutParameterResult { version: Some(number), tier: Some(tier.to_owned()) });
        }
    }
    Err(errors::too_many_updates())
}

/// An ARN may stand for the name; a parameter of another account or region cannot be put.
fn given_name(cx: &Context, given: &str) -> Result<String, ApiError> {
    let name = match given.strip_prefix(&parameter_arn(cx, "")) {
        Some(name) if name.contains('/') => format!("/{name}"),
        Some(name) => name.to_owned(),
        None => given.to_owned(),
    };
    rules::name(&name)?;
    let characters = parameter_arn(cx, &name).len();
    if characters > rules::ARN_CHARACTERS_MAX {
        return Err(errors::validation(format!(
            "The parameter's ARN would have {characters} characters; at most {} are allowed. Choose a shorter name.",
            rules::ARN_CHARACTERS_MAX
        )));
    }
    Ok(name)
}

fn check_supported(cx: &Context, input: &PutParameterRequest) -> Result<(), ApiError> {
    if input.policies.as_ref().is_some_and(|policies| !policies.is_empty() && policies.trim() != "[]") {
        return Err(errors::unsupported("Policies"));
    }
    if input.data_type.as_deref().is_some_and(|kind| kind != DATA_TYPE) {
        return Err(errors::unsupported("a DataType other than text"));
    }
    let Some(key) = input.key_id.as_deref() else { return Ok(()) };
    let arn = format!("arn:aws:kms:{}:{}:{DEFAULT_KEY}", cx.region, cx.account);
    if input.r#type.as_deref().is_some_and(|kind| kind != SECURE) {
        return Err(key_of_plain());
    }
    if key != DEFAULT_KEY && key != arn {
        let words =
            format!("Ferrogate does not support the KeyId '{key}' yet; leave it out, or use {DEFAULT_KEY}.");
        return Err(ApiError::new("InvalidKeyId", words));
    }
    Ok(())
}

fn key_of_plain() -> ApiError {
    errors::validation("KeyId is required for SecureString type parameter only.")
}

fn check_pattern(pattern: Option<&str>, value: &str) -> Result<(), ApiError> {
    let Some(pattern) = pattern else { return Ok(()) };
    // The whole value has to match, as Java's `matches` has it.
    let compiled = RegexBuilder::new(&format!("^(?:{pattern})$")).size_limit(PATTERN_BYTES_MAX).build();
    let compiled = compiled.map_err(|_| {
        let words = format!("The request does not meet the regular expression requirement: {pattern} is not a valid regular expression.");
        ApiError::new("InvalidAllowedPatternException", words)
    })?;
    if compiled.is_match(value) {
        return Ok(());
    }
    let words = format!("Parameter value, cannot be validated against allowedPattern: {pattern}");
    Err(ApiError::new("ParameterPatternMismatchException", words))
}

fn made(
    name: &str,
    input: &PutParameterRequest,
    tags: BTreeMap<String, String>,
) -> Result<ParameterRecord, ApiError> {
    let kind = input
        .r#type
        .clone()
        .ok_or_else(|| errors::validation("A parameter type is required when you create a parameter."))?;
    Ok(ParameterRecord { name: name.to_owned(), id: hex_id(), kind, tags, versions: BTreeMap::new() })
}

fn check_kind(record: &ParameterRecord, input: &PutParameterRequest, value: &str) -> Result<(), ApiError> {
    if input.r#type.as_ref().is_some_and(|kind| *kind != record.kind) {
        return Err(ApiError::new(
            "HierarchyTypeMismatchException",
            "Parameter Store doesn't support changing a parameter type in a hierarchy. For example, you can't change a \
             parameter from a String type to a SecureString type. You must create a new, unique parameter.",
        ));
    }
    if input.key_id.is_some() && record.kind != SECURE {
        return Err(key_of_plain());
    }
    if record.kind == "StringList" && value.split(',').any(str::is_empty) {
        return Err(errors::validation("The StringList value must not have empty items between its commas."));
    }
    Ok(())
}

/// The oldest version goes when there are too many, unless it has a label.
fn make_room(record: &mut ParameterRecord, number: i64) -> Result<Vec<i64>, ApiError> {
    let mut dropped = Vec::new();
    while record.versions.len() >= VERSIONS_MAX {
        let Some((oldest, version)) = record.versions.first_key_value() else { break };
        if !version.labels.is_empty() {
            let words = format!(
                "You attempted to create a new version of {} by calling the PutParameter API with the overwrite flag. Version \
                 {oldest}, the oldest version, can't be deleted because it has a label associated with it. Move the label to \
                 another version of the parameter, and try again.",
                record.name
            );
            return Err(ApiError::new("ParameterMaxVersionLimitExceeded", words));
        }
        let oldest = *oldest;
        record.versions.remove(&oldest);
        dropped.push(oldest);
    }
    debug_assert!(!record.versions.contains_key(&number));
    Ok(dropped)
}
