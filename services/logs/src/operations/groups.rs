//! Log groups.

use ferrogate_api::logs::*;
use ferrogate_api::{ApiError, Context};
use ferrogate_model::{hex_id, paginate};
use ferrogate_store::{Txn, get_json, range_json, update_json};

use crate::LogsService;
use crate::errors;
use crate::operations::tags;
use crate::state::{self, GroupRecord, group_key, groups_prefix, streams_prefix};

const CLASS: &str = "STANDARD";
const PAGE_MAX: usize = 50;
/// ListLogGroups: "If you omit this parameter, the default is up to 50 log groups", and up to 1,000.
const LIST_MAX: usize = 1000;
/// PutRetentionPolicy, retentionInDays.
const RETENTION_DAYS: [i32; 22] =
    [1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922, 3288, 3653];

pub(crate) async fn create(
    service: &LogsService,
    cx: &Context,
    input: CreateLogGroupRequest,
) -> Result<CreateLogGroupNoOutput, ApiError> {
    let name = input.log_group_name.unwrap_or_default();
    if name.starts_with("aws/") {
        return Err(errors::invalid("Log groups starting with aws/ are reserved for AWS."));
    }
    if input.kms_key_id.is_some() {
        return Err(errors::unsupported("kmsKeyId"));
    }
    if input.log_group_class.as_deref().is_some_and(|class| class != CLASS) {
        return Err(errors::unsupported("a logGroupClass other than STANDARD"));
    }
    if input.deletion_protection_enabled == Some(true) {
        return Err(errors::unsupported("deletionProtectionEnabled"));
    }
    let tags = input.tags.unwrap_or_default();
    tags::check(&tags)?;
    let created_ms = cx.now.as_millisecond();
    let key = group_key(service, cx, &name);
    let record = GroupRecord { name, id: hex_id(), created_ms, retention_days: None, tags };
    let txn = Txn::new().when_absent(&key).put_json(&key, &record);
    let result = service.store.txn(txn).await.map_err(errors::store)?;
    if result.succeeded { Ok(CreateLogGroupNoOutput {}) } else { Err(errors::group_exists()) }
}

pub(crate) async fn delete(
    service: &LogsService,
    cx: &Context,
    input: DeleteLogGroupRequest,
) -> Result<DeleteLogGroupNoOutput, ApiError> {
    let key = group_key(service, cx, input.log_group_name.as_deref().unwrap_or_default());
    let found = get_json::<GroupRecord>(&*service.store, &key).ok_or_else(errors::no_group)?;
    let txn = Txn::new().when_revision(&key, found.mod_revision).delete(&key).delete_prefix(streams_prefix(
        service,
        &cx.region,
        &found.record,
    ));
    if !service.store.txn(txn).await.map_err(errors::store)?.succeeded {
        return Err(errors::aborted());
    }
    // The group is gone; should its files resist, the controller comes for them.
    if let Err(error) = service.segments.delete_group(&found.record.id).await {
        tracing::warn!(%error, "files of a deleted log group remain for now");
    }
    Ok(DeleteLogGroupNoOutput {})
}

pub(crate) async fn describe(
    service: &LogsService,
    cx: &Context,
    input: DescribeLogGroupsRequest,
) -> Result<DescribeLogGroupsResponse, ApiError> {
    own_account_only(cx, input.include_linked_accounts, input.account_identifiers.as_deref())?;
    let (prefix, pattern) = (input.log_group_name_prefix.as_deref(), input.log_group_name_pattern.as_deref());
    if prefix.is_some() && pattern.is_some() {
        return Err(errors::invalid(
            "LogGroup name prefix and LogGroup name pattern are mutually exclusive parameters.",
        ));
    }
    let mut groups: Vec<GroupRecord> = match &input.log_group_identifiers {
        Some(_) if prefix.is_some() || pattern.is_some() => {
            return Err(errors::invalid(
                "logGroupIdentifiers cannot be combined with logGroupNamePrefix or logGroupNamePattern.",
            ));
        }
        Some(identifiers) => {
            let names = identifiers.iter().filter_map(|identifier| state::group_name_of(cx, identifier));
            let mut found: Vec<_> = names.filter_map(|name| state::group(service, cx, name).ok()).collect();
            found.sort_by(|left, right| left.name.cmp(&right.name));
            found.dedup_by(|left, right| left.name == right.name);
            found
        }
        None => groups_below(service, cx, prefix.unwrap_or_default()),
    };
    groups.retain(|group| pattern.is_none_or(|pattern| group.name.contains(pattern)));
    if input.log_group_class.as_deref().is_some_and(|class| class != CLASS) {
        groups.clear();
    }
    let limit = input.limit.map_or(PAGE_MAX, |limit| limit as usize).clamp(1, PAGE_MAX);
    let page = paginate(groups, |group| &group.name, input.next_token.as_deref(), limit)
        .map_err(|_| errors::bad_token())?;
    let mut log_groups = Vec::with_capacity(page.items.len());
    for group in page.items {
        let bytes = service.segments.group_bytes(&group.id).await.map_err(errors::segments)?;
        log_groups.push(shape(cx, group, bytes));
    }
    Ok(DescribeLogGroupsResponse { log_groups: Some(log_groups), next_token: page.next_token })
}

fn shape(cx: &Context, group: GroupRecord, bytes: u64) -> LogGroup {
    let arn = group.arn(cx);
    LogGroup {
        log_group_name: Some(group.name),
        creation_time: Some(group.created_ms),
        retention_in_days: group.retention_days,
        metric_filter_count: Some(0),
        arn: Some(format!("{arn}:*")),
        stored_bytes: Some(bytes as i64),
        log_group_class: Some(CLASS.into()),
        log_group_arn: Some(arn),
        deletion_protection_enabled: Some(false),
        ..LogGroup::default()
    }
}

pub(crate) fn list(
    service: &LogsService,
    cx: &Context,
    input: ListLogGroupsRequest,
) -> Result<ListLogGroupsResponse, ApiError> {
    own_account_only(cx, input.include_linked_accounts, input.account_identifiers.as_deref())?;
    if input.data_sources.is_some_and(|sources| !sources.is_empty()) {
        return Err(errors::unsupported("dataSources"));
    }
    if input.field_index_names.is_some_and(|names| !names.is_empty()) {
        return Err(errors::unsupported("fieldIndexNames"));
    }
    let mut groups = groups_below(service, cx, "");
    if let Some(pattern) = &input.log_group_name_pattern {
        groups.retain(|group| pattern.split('|').any(|pattern| name_matches(pattern, &group.name)));
    }
    for filter in input.log_group_tags.unwrap_or_default() {
        let (key, values) = (filter.key.unwrap_or_default(), filter.values.unwrap_or_default());
        groups.retain(|group| {
            group.tags.get(&key).is_some_and(|tag| values.is_empty() || values.contains(tag))
        });
    }
    if input.log_group_class.as_deref().is_some_and(|class| class != CLASS) {
        groups.clear();
    }
    let limit = input.limit.map_or(PAGE_MAX, |limit| limit as usize).clamp(1, LIST_MAX);
    let page = paginate(groups, |group| &group.name, input.next_token.as_deref(), limit)
        .map_err(|_| errors::bad_token())?;
    let summary = |group: GroupRecord| LogGroupSummary {
        log_group_arn: Some(group.arn(cx)),
        log_group_name: Some(group.name),
        log_group_class: Some(CLASS.into()),
    };
    let log_groups = page.items.into_iter().map(summary).collect();
    Ok(ListLogGroupsResponse { log_groups: Some(log_groups), next_token: page.next_token })
}

/// `^/aws/` or `part`: all of the regular expressions that the parameter's own pattern lets through.
fn name_matches(pattern: &str, name: &str) -> bool {
    match pattern.strip_prefix('^') {
        Some(prefix) => name.starts_with(prefix),
        None => name.contains(pattern),
    }
}

fn groups_below(service: &LogsService, cx: &Context, name_prefix: &str) -> Vec<GroupRecord> {
    let found = range_json::<GroupRecord>(&*service.store, &(groups_prefix(service, cx) + name_prefix));
    found.into_iter().map(|found| found.record).collect()
}

fn own_account_only(cx: &Context, linked: Option<bool>, accounts: Option<&[String]>) -> Result<(), ApiError> {
    if linked == Some(true) {
        return Err(errors::unsupported("includeLinkedAccounts"));
    }
    if accounts.unwrap_or_default().iter().any(|account| *account != cx.account) {
        return Err(errors::unsupported("accountIdentifiers of other accounts"));
    }
    Ok(())
}

pub(crate) async fn put_retention(
    service: &LogsService,
    cx: &Context,
    input: PutRetentionPolicyRequest,
) -> Result<PutRetentionPolicyNoOutput, ApiError> {
    let days = input.retention_in_days.unwrap_or_default();
    if !RETENTION_DAYS.contains(&days) {
        return Err(errors::invalid(format!(
            "1 validation error detected: Value '{days}' at 'retentionInDays' failed to satisfy constraint: \
             Member must satisfy enum value set: {RETENTION_DAYS:?}"
        )));
    }
    change(service, cx, input.log_group_name.as_deref(), |group| {
        group.retention_days = Some(days);
        Ok(())
    })
    .await?;
    Ok(PutRetentionPolicyNoOutput {})
}

pub(crate) async fn delete_retention(
    service: &LogsService,
    cx: &Context,
    input: DeleteRetentionPolicyRequest,
) -> Result<DeleteRetentionPolicyNoOutput, ApiError> {
    change(service, cx, input.log_group_name.as_deref(), |group| {
        group.retention_days = None;
        Ok(())
    })
    .await?;
    Ok(DeleteRetentionPolicyNoOutput {})
}

/// Changes a group's record, which has to be there.
pub(crate) async fn change(
    service: &LogsService,
    cx: &Context,
    name: Option<&str>,
    mut change: impl FnMut(&mut GroupRecord) -> Result<(), ApiError>,
) -> Result<(), ApiError> {
    let key = group_key(service, cx, name.unwrap_or_default());
    let changed = update_json(&*service.store, &key, |group: Option<GroupRecord>| {
        let mut group = group.ok_or_else(errors::no_group)?;
        change(&mut group)?;
        Ok(Some(group))
    });
    changed.await.map_err(errors::update)?;
    Ok(())
}
