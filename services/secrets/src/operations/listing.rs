//! ListSecrets and ListSecretVersionIds.

use ferrogate_api::secretsmanager::*;
use ferrogate_api::{ApiError, Context};
use ferrogate_model::paginate;
use ferrogate_store::range_json;
use jiff::Timestamp;

use crate::SecretsService;
use crate::errors;
use crate::operations::tags;
use crate::state::{self, SecretRecord, VersionRecord, secrets_prefix};

const PAGE_MAX: usize = 100;

pub(crate) async fn secrets(
    service: &SecretsService,
    cx: &Context,
    input: ListSecretsRequest,
) -> Result<ListSecretsResponse, ApiError> {
    let filters = input.filters.unwrap_or_default();
    let found = matching(service, cx, &filters, input.include_planned_deletion == Some(true))?;
    let by = input.sort_by.unwrap_or_default();
    let descending = input.sort_order.as_deref() == Some("desc");
    let mut sorted: Vec<(String, SecretRecord)> =
        found.into_iter().map(|record| (sort_key(&record, &by, descending), record)).collect();
    sorted.sort_by(|left, right| left.0.cmp(&right.0));
    let limit = input.max_results.map_or(PAGE_MAX, |limit| limit as usize).clamp(1, PAGE_MAX);
    let page = paginate(sorted, |(key, _)| key, input.next_token.as_deref(), limit)
        .map_err(|_| errors::bad_token())?;
    let secret_list = page.items.into_iter().map(|(_, record)| shape(cx, record)).collect();
    Ok(ListSecretsResponse { secret_list: Some(secret_list), next_token: page.next_token })
}

fn shape(cx: &Context, record: SecretRecord) -> SecretListEntry {
    SecretListEntry {
        arn: Some(record.arn(cx)),
        secret_versions_to_stages: record.versions_to_stages(),
        name: Some(record.name),
        description: record.description,
        kms_key_id: record.kms_key_id,
        last_changed_date: Some(record.changed_at),
        last_accessed_date: record.accessed_on,
        deleted_date: record.delete_at,
        tags: (!record.tags.is_empty()).then(|| tags::shapes(record.tags)),
        created_date: Some(record.created_at),
        ..Default::default()
    }
}

/// Text that sorts as asked; the name makes it unique.
fn sort_key(record: &SecretRecord, by: &str, descending: bool) -> String {
    let time = |at: Option<Timestamp>| at.map_or(0, |at| at.as_millisecond().max(0));
    let time = match by {
        "name" => 0,
        "last-accessed-date" => time(record.accessed_on),
        "last-changed-date" => time(Some(record.changed_at)),
        _ => time(Some(record.created_at)),
    };
    let key = format!("{time:020}/{}", record.name);
    if !descending {
        return key;
    }
    // Every byte turned round, as digits, with an end that sorts behind all digits.
    hex::encode(key.bytes().map(|byte| !byte).collect::<Vec<_>>()) + "~"
}

/// The secrets that satisfy every filter.
pub(crate) fn matching(
    service: &SecretsService,
    cx: &Context,
    filters: &[Filter],
    with_deleted: bool,
) -> Result<Vec<SecretRecord>, ApiError> {
    let found = range_json::<SecretRecord>(&*service.store, &secrets_prefix(cx));
    let found = found.into_iter().map(|found| found.record);
    let mut found: Vec<_> = found.filter(|record| with_deleted || record.delete_at.is_none()).collect();
    for filter in filters {
        let key = filter.key.as_deref().unwrap_or_default();
        let values = filter.values.as_deref().unwrap_or_default();
        if values.is_empty() {
            return Err(errors::invalid_parameter(format!("The filter {key} must have at least one value.")));
        }
        found.retain(|record| values.iter().any(|value| satisfies(record, key, value)));
    }
    Ok(found)
}

/// `!` in front of a value: those it does not match.
fn satisfies(record: &SecretRecord, key: &str, value: &str) -> bool {
    match value.strip_prefix('!') {
        Some(value) => !fits(record, key, value),
        None => fits(record, key, value),
    }
}

/// Prefixes, case-sensitive but for descriptions ("Filter", API reference). No secret here is replicated or of another
/// service.
fn fits(record: &SecretRecord, key: &str, value: &str) -> bool {
    let lower = value.to_lowercase();
    match key {
        "name" => record.name.starts_with(value),
        "description" => {
            record.description.as_ref().is_some_and(|text| text.to_lowercase().starts_with(&lower))
        }
        "tag-key" => record.tags.keys().any(|key| key.starts_with(value)),
        "tag-value" => record.tags.values().any(|text| text.starts_with(value)),
        "all" => lower.split_whitespace().all(|word| anywhere(record, word)),
        _ => false,
    }
}

fn anywhere(record: &SecretRecord, word: &str) -> bool {
    let tags = record.tags.iter().flat_map(|(key, value)| [key, value]);
    let mut texts = tags.chain([&record.name]).chain(record.description.as_ref());
    texts.any(|text| text.to_lowercase().contains(word))
}

pub(crate) async fn versions(
    service: &SecretsService,
    cx: &Context,
    input: ListSecretVersionIdsRequest,
) -> Result<ListSecretVersionIdsResponse, ApiError> {
    let record = state::secret(service, cx, input.secret_id.as_deref())?;
    let all = input.include_deprecated == Some(true);
    let arn = record.arn(cx);
    let versions = record.versions.into_iter().filter(|(_, version)| all || !version.stages.is_empty());
    let limit = input.max_results.map_or(PAGE_MAX, |limit| limit as usize).clamp(1, PAGE_MAX);
    let page = paginate(versions, |(id, _)| id, input.next_token.as_deref(), limit)
        .map_err(|_| errors::bad_token())?;
    let shape = |(id, version): (String, VersionRecord)| SecretVersionsListEntry {
        version_id: Some(id),
        version_stages: Some(version.stages.into_iter().collect::<Vec<_>>()).filter(|s| !s.is_empty()),
        last_accessed_date: version.accessed_on,
        created_date: Some(version.created_at),
        kms_key_ids: Some(vec!["DefaultEncryptionKey".into()]),
    };
    Ok(ListSecretVersionIdsResponse {
        versions: Some(page.items.into_iter().map(shape).collect()),
        next_token: page.next_token,
        arn: Some(arn),
        name: Some(record.name),
    })
}
