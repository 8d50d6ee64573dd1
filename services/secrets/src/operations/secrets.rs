//! The secrets themselves: CreateSecret, UpdateSecret, DescribeSecret.

use std::collections::BTreeMap;

use ferrogate_api::secretsmanager::*;
use ferrogate_api::{ApiError, Context};
use ferrogate_model::hex_id;
use ferrogate_store::{Txn, get_json};

use crate::SecretsService;
use crate::errors;
use crate::operations::{tags, values};
use crate::state::{self, CURRENT, Change, SecretRecord, secret_key, value_key};

/// The key that is there without being made; the only one for now.
const DEFAULT_KEY_ALIAS: &str = "alias/aws/secretsmanager";
const SUFFIX_ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
const DESCRIPTION_CHARACTERS_MAX: usize = 2048;

pub(crate) async fn create(
    service: &SecretsService,
    cx: &Context,
    input: CreateSecretRequest,
) -> Result<CreateSecretResponse, ApiError> {
    if input.add_replica_regions.as_ref().is_some_and(|regions| !regions.is_empty()) {
        return Err(errors::unsupported("AddReplicaRegions"));
    }
    if input.force_overwrite_replica_secret == Some(true) {
        return Err(errors::unsupported("ForceOverwriteReplicaSecret"));
    }
    not_here("Type", input.r#type.as_deref())?;
    not_here("CrossAccountPrimaryARN", input.cross_account_primary_arn.as_deref())?;
    check_key(cx, input.kms_key_id.as_deref())?;
    check_description(input.description.as_deref())?;
    let name = input.name.unwrap_or_default();
    check_name(&name)?;
    let tags = tags::of_request(input.tags, BTreeMap::new())?;
    let given = values::Given::of(input.secret_string, input.secret_binary)?;
    let version_id = values::version_id(input.client_request_token);

    let key = secret_key(cx, &name);
    let mut record = SecretRecord {
        name,
        id: hex_id(),
        suffix: suffix(),
        description: input.description,
        kms_key_id: input.kms_key_id,
        created_at: cx.now,
        changed_at: cx.now,
        accessed_on: None,
        delete_at: None,
        tags,
        policy: None,
        versions: BTreeMap::new(),
    };
    let mut txn = Txn::new().when_absent(&key);
    if let Some(given) = &given {
        record.versions.insert(version_id.clone(), values::version(cx, [CURRENT.to_owned()]));
        txn =
            txn.put_json(value_key(cx, &record, &version_id), &given.seal(service, cx, &record, &version_id));
    }
    let txn = txn.put_json(&key, &record);
    if service.store.txn(txn).await.map_err(errors::store)?.succeeded {
        return Ok(created(cx, record, given.map(|_| version_id)));
    }
    let there =
        get_json::<SecretRecord>(&*service.store, &key).ok_or_else(|| errors::exists(&record.name))?.record;
    if there.delete_at.is_some() {
        return Err(errors::invalid_request(
            "You can't create this secret because a secret with this name is already scheduled for deletion.",
        ));
    }
    // The same call once more.
    match given {
        Some(given) if there.versions.contains_key(&version_id) => {
            if given.is_value_of(service, cx, &there, &version_id)? {
                Ok(created(cx, there, Some(version_id)))
            } else {
                Err(errors::token_in_use(&version_id, &there.arn(cx)))
            }
        }
        _ => Err(errors::exists(&there.name)),
    }
}

fn created(cx: &Context, record: SecretRecord, version_id: Option<String>) -> CreateSecretResponse {
    CreateSecretResponse {
        arn: Some(record.arn(cx)),
        name: Some(record.name),
        version_id,
        replication_status: None,
    }
}

fn suffix() -> String {
    let mut bytes = [0u8; 32];
    aws_lc_rs::rand::fill(&mut bytes).expect("the operating system gives random bytes");
    let count = SUFFIX_ALPHABET.len();
    // Bytes of an incomplete last round are left out, so that no character is likelier. That so few are left that six
    // cannot be had happens once in many lifetimes; repeated characters then do no harm.
    let fair = bytes.iter().filter(|&&byte| usize::from(byte) < 256 / count * count);
    fair.chain(&bytes).take(6).map(|&byte| char::from(SUFFIX_ALPHABET[usize::from(byte) % count])).collect()
}

fn check_name(name: &str) -> Result<(), ApiError> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-/_+=.@!".contains(c);
    if name.chars().all(allowed) {
        return Ok(());
    }
    let words = "Invalid name. Must be a valid name containing alphanumeric characters, or any of the following: -/_+=.@!";
    Err(ApiError::new("ValidationException", words))
}

fn not_here(parameter: &str, value: Option<&str>) -> Result<(), ApiError> {
    if value.is_some() { Err(errors::unsupported(parameter)) } else { Ok(()) }
}

fn check_key(cx: &Context, key: Option<&str>) -> Result<(), ApiError> {
    let arn = format!("arn:aws:kms:{}:{}:{DEFAULT_KEY_ALIAS}", cx.region, cx.account);
    match key {
        Some(key) if key != DEFAULT_KEY_ALIAS && key != "aws/secretsmanager" && key != arn => {
            Err(errors::unsupported(&format!("the KmsKeyId '{key}' (only {DEFAULT_KEY_ALIAS})")))
        }
        _ => Ok(()),
    }
}

fn check_description(description: Option<&str>) -> Result<(), ApiError> {
    match description {
        Some(text) if text.chars().count() > DESCRIPTION_CHARACTERS_MAX => Err(errors::invalid_parameter(
            format!("The description must be at most {DESCRIPTION_CHARACTERS_MAX} characters long."),
        )),
        _ => Ok(()),
    }
}

pub(crate) async fn update(
    service: &SecretsService,
    cx: &Context,
    input: UpdateSecretRequest,
) -> Result<UpdateSecretResponse, ApiError> {
    not_here("Type", input.r#type.as_deref())?;
    check_key(cx, input.kms_key_id.as_deref())?;
    check_description(input.description.as_deref())?;
    let given = values::Given::of(input.secret_string, input.secret_binary)?;
    let version_id = values::version_id(input.client_request_token);
    let record = state::change(service, cx, input.secret_id.as_deref(), |mut record| {
        if let Some(description) = &input.description {
            record.description = Some(description.clone()).filter(|text| !text.is_empty());
        }
        if let Some(key) = &input.kms_key_id {
            record.kms_key_id = Some(key.clone());
        }
        record.changed_at = cx.now;
        match &given {
            Some(given) => values::enter(service, cx, record, &version_id, given, &[]),
            None => Ok(Some(Change::from(record))),
        }
    })
    .await?;
    Ok(UpdateSecretResponse {
        arn: Some(record.arn(cx)),
        name: Some(record.name),
        version_id: given.map(|_| version_id),
    })
}

pub(crate) async fn describe(
    service: &SecretsService,
    cx: &Context,
    input: DescribeSecretRequest,
) -> Result<DescribeSecretResponse, ApiError> {
    let record = state::secret(service, cx, input.secret_id.as_deref())?;
    Ok(DescribeSecretResponse {
        arn: Some(record.arn(cx)),
        version_ids_to_stages: record.versions_to_stages(),
        name: Some(record.name),
        description: record.description,
        kms_key_id: record.kms_key_id,
        last_changed_date: Some(record.changed_at),
        last_accessed_date: record.accessed_on,
        deleted_date: record.delete_at,
        tags: (!record.tags.is_empty()).then(|| tags::shapes(record.tags)),
        created_date: Some(record.created_at),
        ..Default::default()
    })
}
