//! Account settings. What a value would change that is not there yet is refused.

use ferrogate_api::{ApiError, Context, PrincipalKind, ecs};
use ferrogate_store::{Json, Store, get_json};

use super::page;
use crate::call::Call;
use crate::errors::{invalid, unsupported};
use crate::state::{Scope, SettingRecord};

struct Setting {
    name: &'static str,
    /// The default first.
    served: &'static [&'static str],
    later: &'static [&'static str],
}

const SETTINGS: &[Setting] = &[
    // Of EC2 instances: nothing here looks at it.
    Setting { name: "awsvpcTrunking", served: &["disabled", "enabled"], later: &[] },
    Setting { name: "containerInsights", served: &["disabled"], later: &["enabled", "enhanced"] },
    // ARNs have one format only, the long one.
    Setting { name: "containerInstanceLongArnFormat", served: &["enabled"], later: &["disabled"] },
    Setting { name: DEFAULT_LOG_DRIVER_MODE, served: &["non-blocking", "blocking"], later: &[] },
    Setting { name: "fargateEventWindows", served: &["disabled"], later: &["enabled"] },
    Setting { name: "fargateFIPSMode", served: &["disabled"], later: &["enabled"] },
    // Tasks are never retired here.
    Setting { name: "fargateTaskRetirementWaitPeriod", served: &["7", "0", "14"], later: &[] },
    Setting { name: "guardDutyActivate", served: &["off"], later: &["on"] },
    Setting { name: "serviceLongArnFormat", served: &["enabled"], later: &["disabled"] },
    Setting { name: TAG_RESOURCE_AUTHORIZATION, served: &["on", "off"], later: &[] },
    Setting { name: "taskLongArnFormat", served: &["enabled"], later: &["disabled"] },
];

/// What containers do whose log configuration names no mode.
pub(crate) const DEFAULT_LOG_DRIVER_MODE: &str = "defaultLogDriverMode";
/// Whether a call that makes something with tags needs `ecs:TagResource`.
pub(crate) const TAG_RESOURCE_AUTHORIZATION: &str = "tagResourceAuthorization";

fn setting(name: Option<&str>) -> Result<&'static Setting, ApiError> {
    let name = name.unwrap_or_default();
    SETTINGS
        .iter()
        .find(|setting| setting.name == name)
        .ok_or_else(|| invalid(format!("Invalid setting name '{name}'.")))
}

/// The account's default is what its root user has set.
fn root(scope: &Scope) -> String {
    format!("arn:aws:iam::{}:root", scope.account)
}

/// Whose settings a caller has: a session has its role's.
pub(crate) fn principal(cx: &Context) -> &str {
    match &cx.principal.kind {
        PrincipalKind::AssumedRole { role_arn, .. } => role_arn,
        _ => &cx.principal.arn,
    }
}

/// What holds for the caller.
pub(crate) fn effective(store: &dyn Store, cx: &Context, name: &str) -> String {
    effective_of(store, &Scope::of(cx), principal(cx), name)
}

fn effective_of(store: &dyn Store, scope: &Scope, principal: &str, name: &str) -> String {
    let get = |principal: &str| {
        get_json::<SettingRecord>(store, &scope.setting(name, principal)).map(|found| found.record.value)
    };
    let built_in =
        || SETTINGS.iter().find(|setting| setting.name == name).map_or("", |setting| setting.served[0]);
    get(principal).or_else(|| get(&root(scope))).unwrap_or_else(|| built_in().to_owned())
}

fn shape(name: &str, value: &str, principal: &str) -> ecs::Setting {
    let kind = if name == "guardDutyActivate" { "aws_managed" } else { "user" };
    ecs::Setting {
        name: Some(name.to_owned()),
        value: Some(value.to_owned()),
        principal_arn: Some(principal.to_owned()),
        r#type: Some(kind.to_owned()),
    }
}

async fn put_for(
    call: &Call<'_>,
    principal: &str,
    name: Option<&str>,
    value: Option<String>,
) -> Result<ecs::Setting, ApiError> {
    let setting = setting(name)?;
    let value = value.unwrap_or_default();
    if setting.later.contains(&value.as_str()) {
        return Err(unsupported(&format!("the account setting '{}={value}'", setting.name)));
    }
    if !setting.served.contains(&value.as_str()) {
        let message = format!(
            "Invalid value '{value}' for the setting {}. Must be one of [{}]",
            setting.name,
            setting.served.join(",")
        );
        return Err(invalid(message));
    }
    let record = SettingRecord { name: setting.name.into(), value, principal_arn: principal.to_owned() };
    call.update::<SettingRecord>(&call.scope.setting(setting.name, principal), |_| Ok(Some(record.clone())))
        .await?;
    Ok(shape(setting.name, &record.value, principal))
}

pub(crate) async fn put(
    call: &Call<'_>,
    input: ecs::PutAccountSettingRequest,
) -> Result<ecs::PutAccountSettingResponse, ApiError> {
    let principal = whose(call, input.principal_arn)?;
    let setting = put_for(call, &principal, input.name.as_deref(), input.value).await?;
    Ok(ecs::PutAccountSettingResponse { setting: Some(setting) })
}

pub(crate) async fn put_default(
    call: &Call<'_>,
    input: ecs::PutAccountSettingDefaultRequest,
) -> Result<ecs::PutAccountSettingDefaultResponse, ApiError> {
    let setting = put_for(call, &root(&call.scope), input.name.as_deref(), input.value).await?;
    Ok(ecs::PutAccountSettingDefaultResponse { setting: Some(setting) })
}

pub(crate) async fn delete(
    call: &Call<'_>,
    input: ecs::DeleteAccountSettingRequest,
) -> Result<ecs::DeleteAccountSettingResponse, ApiError> {
    let principal = whose(call, input.principal_arn)?;
    let setting = setting(input.name.as_deref())?;
    call.update::<SettingRecord>(&call.scope.setting(setting.name, &principal), |_| Ok(None)).await?;
    let value = effective_of(&*call.service.store, &call.scope, &principal, setting.name);
    Ok(ecs::DeleteAccountSettingResponse { setting: Some(shape(setting.name, &value, &principal)) })
}

/// A user, a role or root of this account; the caller, where none is named.
fn whose(call: &Call<'_>, principal_arn: Option<String>) -> Result<String, ApiError> {
    let Some(arn) = principal_arn.filter(|arn| !arn.is_empty()) else {
        return Ok(principal(call.cx).to_owned());
    };
    if arn.starts_with(&format!("arn:aws:iam::{}:", call.scope.account)) {
        return Ok(arn);
    }
    Err(invalid(format!(
        "Invalid principal '{arn}': name a user, a role or the root user of account {}.",
        call.scope.account
    )))
}

pub(crate) fn list(
    call: &Call<'_>,
    input: ecs::ListAccountSettingsRequest,
) -> Result<ecs::ListAccountSettingsResponse, ApiError> {
    let principal = whose(call, input.principal_arn)?;
    let name = input.name.as_deref().map(|name| setting(Some(name))).transpose()?.map(|setting| setting.name);
    let all: Vec<ecs::Setting> = if input.effective_settings == Some(true) {
        let value = |name: &str| effective_of(&*call.service.store, &call.scope, &principal, name);
        SETTINGS.iter().map(|setting| shape(setting.name, &value(setting.name), &principal)).collect()
    } else {
        let own: Vec<Json<SettingRecord>> = call.range(&call.scope.settings());
        let own = own.iter().filter(|found| found.record.principal_arn == principal);
        own.map(|found| shape(&found.record.name, &found.record.value, &principal)).collect()
    };
    let wanted = all.into_iter().filter(|one| {
        name.is_none_or(|name| one.name.as_deref() == Some(name))
            && input.value.as_ref().is_none_or(|value| one.value.as_ref() == Some(value))
    });
    let key = |one: &ecs::Setting| one.name.clone().unwrap_or_default();
    let keyed: Vec<(String, ecs::Setting)> = wanted.map(|one| (key(&one), one)).collect();
    let max_results = input.max_results.map(|count| count.min(10));
    let page = page(keyed, |(key, _)| key, input.next_token.as_deref(), max_results)?;
    Ok(ecs::ListAccountSettingsResponse {
        settings: Some(page.items.into_iter().map(|(_, one)| one).collect()),
        next_token: page.next_token,
    })
}
