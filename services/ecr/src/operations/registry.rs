//! The registry's own: its token, its policy, its settings.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use ferrogate_api::ecr::*;
use ferrogate_api::{ApiError, Context};
use ferrogate_policy::{DocumentKind, Policy};
use ferrogate_store::{get_json, update_json};

use crate::name::RegistryName;
use crate::state::{self, Place, RegistryRecord};
use crate::{EcrService, errors, token};

const POLICY_BYTES_MAX: usize = 10_240;
/// Registries one GetAuthorizationToken may name.
const REGISTRIES_MAX: usize = 10;

const SCAN_TYPE: &str = "BASIC_SCAN_TYPE_VERSION";
const POLICY_SCOPE: &str = "REGISTRY_POLICY_SCOPE";
const BLOB_MOUNTING: &str = "BLOB_MOUNTING";

/// Setting, values it may have, value it has.
const SETTINGS: [(&str, &[&str], &str); 3] = [
    (SCAN_TYPE, &["AWS_NATIVE", "CLAIR"], "AWS_NATIVE"),
    (POLICY_SCOPE, &["V1"], "V1"),
    (BLOB_MOUNTING, &["ENABLED", "DISABLED"], "ENABLED"),
];

pub(crate) fn record(service: &EcrService, cx: &Context) -> RegistryRecord {
    record_at(service, &Place::of(cx))
}

fn record_at(service: &EcrService, place: &Place) -> RegistryRecord {
    get_json(&*service.store, &place.registry()).map(|found| found.record).unwrap_or_default()
}

/// Whether a layer of another repository may be taken over without sending it.
pub(crate) fn mounts_blobs(service: &EcrService, place: &Place) -> bool {
    record_at(service, place).settings.get(BLOB_MOUNTING).is_none_or(|value| value == "ENABLED")
}

pub(crate) async fn change(
    service: &EcrService,
    cx: &Context,
    mut change: impl FnMut(&mut RegistryRecord) -> Result<(), ApiError>,
) -> Result<RegistryRecord, ApiError> {
    let key = Place::of(cx).registry();
    let changed = update_json(&*service.store, &key, |record: Option<RegistryRecord>| {
        let mut record = record.unwrap_or_default();
        change(&mut record)?;
        Ok(Some(record))
    });
    Ok(changed.await.map_err(errors::update)?.unwrap_or_default())
}

pub(crate) async fn authorization_token(
    service: &EcrService,
    cx: &Context,
    input: GetAuthorizationTokenRequest,
) -> Result<GetAuthorizationTokenResponse, ApiError> {
    let registries = input.registry_ids.unwrap_or_default();
    if registries.len() > REGISTRIES_MAX {
        return Err(errors::constraint("registryIds", &format!("up to {REGISTRIES_MAX} registries")));
    }
    for registry in &registries {
        state::own_registry(cx, Some(registry))?;
    }
    let (token, expires_at) = token::for_registry(&service.sealer, &cx.principal, cx.now);
    let name = RegistryName { account: cx.account.clone(), region: cx.region.clone() };
    let scheme = if service.options.domain == "amazonaws.com" { "https" } else { "http" };
    let data = AuthorizationData {
        authorization_token: Some(BASE64.encode(format!("AWS:{token}"))),
        expires_at: Some(expires_at),
        proxy_endpoint: Some(format!("{scheme}://{}", name.under(&service.options.domain))),
    };
    Ok(GetAuthorizationTokenResponse { authorization_data: Some(vec![data]) })
}

pub(crate) async fn describe(
    _: &EcrService,
    cx: &Context,
    _: DescribeRegistryRequest,
) -> Result<DescribeRegistryResponse, ApiError> {
    Ok(DescribeRegistryResponse {
        registry_id: Some(cx.account.clone()),
        replication_configuration: Some(ReplicationConfiguration { rules: Some(Vec::new()) }),
    })
}

pub(crate) async fn put_replication(
    _: &EcrService,
    _: &Context,
    input: PutReplicationConfigurationRequest,
) -> Result<PutReplicationConfigurationResponse, ApiError> {
    let configuration = input.replication_configuration.unwrap_or_default();
    if configuration.rules.as_ref().is_some_and(|rules| !rules.is_empty()) {
        return Err(errors::unsupported("replicationConfiguration.rules"));
    }
    Ok(PutReplicationConfigurationResponse { replication_configuration: Some(configuration) })
}

pub(crate) async fn get_policy(
    service: &EcrService,
    cx: &Context,
    _: GetRegistryPolicyRequest,
) -> Result<GetRegistryPolicyResponse, ApiError> {
    let text = record(service, cx).policy.ok_or_else(|| errors::no_registry_policy(cx))?;
    Ok(GetRegistryPolicyResponse { registry_id: Some(cx.account.clone()), policy_text: Some(text) })
}

pub(crate) async fn put_policy(
    service: &EcrService,
    cx: &Context,
    input: PutRegistryPolicyRequest,
) -> Result<PutRegistryPolicyResponse, ApiError> {
    let text = input.policy_text.unwrap_or_default();
    if text.len() > POLICY_BYTES_MAX {
        return Err(errors::constraint("PolicyText", &format!("up to {POLICY_BYTES_MAX} bytes")));
    }
    Policy::parse(&text, DocumentKind::Resource).map_err(|error| {
        errors::constraint("PolicyText", &format!("Invalid registry policy provided: {error}"))
    })?;
    change(service, cx, |record| {
        record.policy = Some(text.clone());
        Ok(())
    })
    .await?;
    Ok(PutRegistryPolicyResponse { registry_id: Some(cx.account.clone()), policy_text: Some(text) })
}

pub(crate) async fn delete_policy(
    service: &EcrService,
    cx: &Context,
    _: DeleteRegistryPolicyRequest,
) -> Result<DeleteRegistryPolicyResponse, ApiError> {
    let mut text = None;
    change(service, cx, |record| {
        text = record.policy.take();
        if text.is_some() { Ok(()) } else { Err(errors::no_registry_policy(cx)) }
    })
    .await?;
    Ok(DeleteRegistryPolicyResponse { registry_id: Some(cx.account.clone()), policy_text: text })
}

fn setting(name: &str) -> Result<&'static (&'static str, &'static [&'static str], &'static str), ApiError> {
    SETTINGS.iter().find(|(known, ..)| *known == name).ok_or_else(|| {
        let known = SETTINGS.map(|(name, ..)| name).join(", ");
        errors::constraint("name", &format!("Member must satisfy enum value set: [{known}]"))
    })
}

pub(crate) async fn get_setting(
    service: &EcrService,
    cx: &Context,
    input: GetAccountSettingRequest,
) -> Result<GetAccountSettingResponse, ApiError> {
    let (name, _, default) = setting(input.name.as_deref().unwrap_or_default())?;
    let value = record(service, cx).settings.remove(*name).unwrap_or_else(|| (*default).to_owned());
    Ok(GetAccountSettingResponse { name: Some((*name).to_owned()), value: Some(value) })
}

pub(crate) async fn put_setting(
    service: &EcrService,
    cx: &Context,
    input: PutAccountSettingRequest,
) -> Result<PutAccountSettingResponse, ApiError> {
    let (name, values, _) = setting(input.name.as_deref().unwrap_or_default())?;
    let value = input.value.unwrap_or_default();
    if *name == POLICY_SCOPE && value == "V2" {
        return Err(errors::unsupported("REGISTRY_POLICY_SCOPE V2"));
    }
    if !values.contains(&value.as_str()) {
        let known = values.join(", ");
        return Err(errors::constraint("value", &format!("Member must satisfy enum value set: [{known}]")));
    }
    change(service, cx, |record| {
        record.settings.insert((*name).to_owned(), value.clone());
        Ok(())
    })
    .await?;
    Ok(PutAccountSettingResponse { name: Some((*name).to_owned()), value: Some(value) })
}
