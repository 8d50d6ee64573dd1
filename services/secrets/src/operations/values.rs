//! Values and the versions that have them: GetSecretValue, PutSecretValue, UpdateSecretVersionStage.

use std::collections::BTreeSet;

use ferrogate_api::secretsmanager::*;
use ferrogate_api::{ApiError, Context};
use ferrogate_model::hex_id;
use ferrogate_store::{get_json, update_json};
use jiff::Timestamp;

use crate::SecretsService;
use crate::errors;
use crate::plan::stages::{VERSIONS_MAX, make_room, move_stage};
use crate::state::{
    self, CURRENT, Change, SecretRecord, ValueRecord, VersionRecord, place, secret_key, value_key,
};

/// Of text in UTF-8, or of bytes.
const VALUE_BYTES_MAX: usize = 65_536;
/// "Staging labels attached across all versions of a secret" of the quotas.
const STAGES_MAX: usize = 20;
const DAY_SECONDS: i64 = 24 * 60 * 60;

/// A value as a call gives it. It has no `Debug`: no value is ever printed.
pub(crate) struct Given {
    bytes: Vec<u8>,
    binary: bool,
}

impl Given {
    /// `None`: the call gives no value.
    pub(crate) fn of(text: Option<String>, binary: Option<Vec<u8>>) -> Result<Option<Self>, ApiError> {
        let given = match (text, binary) {
            (Some(_), Some(_)) => {
                return Err(errors::invalid_parameter(
                    "You can't specify both a binary secret value and a string secret value in the same secret.",
                ));
            }
            (Some(text), None) => Self { bytes: text.into_bytes(), binary: false },
            (None, Some(bytes)) => Self { bytes, binary: true },
            (None, None) => return Ok(None),
        };
        if given.bytes.is_empty() || given.bytes.len() > VALUE_BYTES_MAX {
            let of = if given.binary { "secretBinary" } else { "secretString" };
            let rule = if given.bytes.is_empty() {
                "greater than or equal to 1"
            } else {
                "less than or equal to 65536"
            };
            return Err(errors::invalid_parameter(format!(
                "1 validation error detected: Value at '{of}' failed to satisfy constraint: Member must have length {rule}"
            )));
        }
        Ok(Some(given))
    }

    pub(crate) fn seal(
        &self,
        service: &SecretsService,
        cx: &Context,
        secret: &SecretRecord,
        version_id: &str,
    ) -> ValueRecord {
        let sealed = service.sealer.seal(&self.bytes, &place(cx, secret, version_id));
        ValueRecord { sealed, binary: self.binary }
    }

    pub(crate) fn is_value_of(
        &self,
        service: &SecretsService,
        cx: &Context,
        secret: &SecretRecord,
        version_id: &str,
    ) -> Result<bool, ApiError> {
        let there = open(service, cx, secret, version_id)?;
        Ok(there.is_some_and(|there| there.binary == self.binary && there.bytes == self.bytes))
    }
}

/// The value of a version; `None`: a transaction has removed it meanwhile.
fn open(
    service: &SecretsService,
    cx: &Context,
    secret: &SecretRecord,
    version_id: &str,
) -> Result<Option<Given>, ApiError> {
    let Some(found) = get_json::<ValueRecord>(&*service.store, &value_key(cx, secret, version_id)) else {
        return Ok(None);
    };
    let bytes = service
        .sealer
        .unseal(&found.record.sealed, &place(cx, secret, version_id))
        .map_err(errors::sealed)?;
    Ok(Some(Given { bytes, binary: found.record.binary }))
}

/// The caller's token, or a UUID as the SDKs make them.
pub(crate) fn version_id(token: Option<String>) -> String {
    token.unwrap_or_else(|| {
        let id = hex_id();
        format!("{}-{}-4{}-a{}-{}", &id[..8], &id[8..12], &id[13..16], &id[17..20], &id[20..])
    })
}

pub(crate) fn version(cx: &Context, stages: impl IntoIterator<Item = String>) -> VersionRecord {
    VersionRecord { created_at: cx.now, accessed_on: None, stages: stages.into_iter().collect() }
}

/// Enters a new version with these stages (none: AWSCURRENT). The version with its value there already: nothing to do.
pub(crate) fn enter(
    service: &SecretsService,
    cx: &Context,
    mut record: SecretRecord,
    version_id: &str,
    given: &Given,
    stages: &[String],
) -> Result<Option<Change>, ApiError> {
    if record.versions.contains_key(version_id) {
        return if given.is_value_of(service, cx, &record, version_id)? {
            Ok(None)
        } else {
            Err(errors::token_in_use(version_id, &record.arn(cx)))
        };
    }
    let first = record.versions.is_empty();
    let dropped = make_room(&mut record.versions, cx.now).ok_or_else(|| {
        errors::limit(format!(
            "The secret {} has {VERSIONS_MAX} versions, and none of them is without a staging label and older than 24 hours.",
            record.arn(cx)
        ))
    })?;
    record.versions.insert(version_id.to_owned(), version(cx, []));
    if stages.is_empty() || first {
        move_stage(&mut record.versions, CURRENT, version_id);
    }
    for stage in stages {
        move_stage(&mut record.versions, stage, version_id);
    }
    check_stages(&record)?;
    record.changed_at = cx.now;
    let value = given.seal(service, cx, &record, version_id);
    Ok(Some(Change { record, value: Some((version_id.to_owned(), value)), dropped }))
}

fn check_stages(record: &SecretRecord) -> Result<(), ApiError> {
    let stages: usize = record.versions.values().map(|version| version.stages.len()).sum();
    if stages > STAGES_MAX {
        return Err(errors::limit(format!(
            "The secret would have {stages} staging labels; at most {STAGES_MAX} are allowed across all its versions."
        )));
    }
    Ok(())
}

pub(crate) async fn put(
    service: &SecretsService,
    cx: &Context,
    input: PutSecretValueRequest,
) -> Result<PutSecretValueResponse, ApiError> {
    if input.rotation_token.is_some() {
        return Err(errors::unsupported("RotationToken"));
    }
    let given = Given::of(input.secret_string, input.secret_binary)?
        .ok_or_else(|| errors::invalid_request("You must provide either SecretString or SecretBinary."))?;
    let version_id = version_id(input.client_request_token);
    let stages = input.version_stages.unwrap_or_default();
    let record = state::change(service, cx, input.secret_id.as_deref(), |record| {
        enter(service, cx, record, &version_id, &given, &stages)
    })
    .await?;
    Ok(PutSecretValueResponse {
        arn: Some(record.arn(cx)),
        version_stages: Some(record.stages_of(&version_id)),
        name: Some(record.name),
        version_id: Some(version_id),
    })
}

pub(crate) async fn get(
    service: &SecretsService,
    cx: &Context,
    input: GetSecretValueRequest,
) -> Result<GetSecretValueResponse, ApiError> {
    let record = state::secret(service, cx, input.secret_id.as_deref())?.usable()?;
    let version_id = chosen(&record, input.version_id.as_deref(), input.version_stage.as_deref())?;
    let value = open(service, cx, &record, &version_id)?.ok_or_else(|| errors::no_version(&version_id))?;
    let created = record.versions.get(&version_id).map(|version| version.created_at);
    note_access(service, cx, &record, &version_id).await;
    let (text, binary) = if value.binary {
        (None, Some(value.bytes))
    } else {
        let text =
            String::from_utf8(value.bytes).map_err(|_| errors::sealed(ferrogate_store::SealError::Open))?;
        (Some(text), None)
    };
    Ok(GetSecretValueResponse {
        arn: Some(record.arn(cx)),
        version_stages: Some(record.stages_of(&version_id)).filter(|stages| !stages.is_empty()),
        name: Some(record.name),
        version_id: Some(version_id),
        secret_binary: binary,
        secret_string: text,
        created_date: created,
    })
}

/// The version a call means: by id, by stage, by both, or AWSCURRENT.
fn chosen(record: &SecretRecord, id: Option<&str>, stage: Option<&str>) -> Result<String, ApiError> {
    if let Some(id) = id {
        let version = record.versions.get(id).ok_or_else(|| errors::no_version(id))?;
        if stage.is_some_and(|stage| !version.stages.contains(stage)) {
            return Err(errors::invalid_request(
                "You provided a VersionStage that is not associated to the provided VersionId.",
            ));
        }
        return Ok(id.to_owned());
    }
    let stage = stage.unwrap_or(CURRENT);
    record.staged(stage).map(str::to_owned).ok_or_else(|| errors::no_stage(stage))
}

/// LastAccessedDate is a day: the first to get a value on a day writes, and nobody waits for a second try.
async fn note_access(service: &SecretsService, cx: &Context, record: &SecretRecord, version_id: &str) {
    let seconds = cx.now.as_second();
    let today = Timestamp::from_second(seconds - seconds.rem_euclid(DAY_SECONDS)).ok();
    let noted = record.versions.get(version_id).and_then(|version| version.accessed_on);
    if record.accessed_on == today && noted == today {
        return;
    }
    let note = |there: Option<SecretRecord>| -> Result<Option<SecretRecord>, ()> {
        let mut there = there.filter(|there| there.id == record.id).ok_or(())?;
        there.accessed_on = today;
        there.versions.get_mut(version_id).ok_or(())?.accessed_on = today;
        Ok(Some(there))
    };
    if update_json(&*service.store, &secret_key(cx, &record.name), note).await.is_err() {
        tracing::debug!(secret = record.name, "the day of an access was not noted");
    }
}

pub(crate) async fn update_stage(
    service: &SecretsService,
    cx: &Context,
    input: UpdateSecretVersionStageRequest,
) -> Result<UpdateSecretVersionStageResponse, ApiError> {
    let stage = input.version_stage.unwrap_or_default();
    let (from, to) = (input.remove_from_version_id, input.move_to_version_id);
    if from.is_none() && to.is_none() {
        return Err(errors::invalid_parameter(
            "You must specify MoveToVersionId, RemoveFromVersionId, or both.",
        ));
    }
    let record = state::change(service, cx, input.secret_id.as_deref(), |mut record| {
        for id in [&from, &to].into_iter().flatten() {
            if !record.versions.contains_key(id) {
                return Err(errors::no_version(id));
            }
        }
        let on = record.staged(&stage).map(str::to_owned);
        if on.is_some() && on == to {
            return Ok(None);
        }
        check_from(&stage, on.as_deref(), from.as_deref())?;
        match &to {
            Some(to) => move_stage(&mut record.versions, &stage, to),
            None if stage == CURRENT => {
                return Err(errors::invalid_parameter(
                    "You can only move staging label AWSCURRENT to a different secret version. It can't be completely removed.",
                ));
            }
            None => remove(&mut record, &stage),
        }
        check_stages(&record)?;
        record.changed_at = cx.now;
        Ok(Some(Change::from(record)))
    })
    .await?;
    Ok(UpdateSecretVersionStageResponse { arn: Some(record.arn(cx)), name: Some(record.name) })
}

fn remove(record: &mut SecretRecord, stage: &str) {
    for version in record.versions.values_mut() {
        let stages: &mut BTreeSet<String> = &mut version.stages;
        stages.remove(stage);
    }
}

/// Whoever moves a stage away has to say from where.
fn check_from(stage: &str, on: Option<&str>, from: Option<&str>) -> Result<(), ApiError> {
    match (on, from) {
        (Some(on), None) => Err(errors::invalid_parameter(format!(
            "The parameter RemoveFromVersionId can't be empty. Staging label {stage} is currently attached to version {on}, \
             so you must explicitly reference that version in RemoveFromVersionId."
        ))),
        (on, Some(from)) if on != Some(from) => Err(errors::invalid_parameter(format!(
            "The staging label {stage} isn't attached to version {from}, which RemoveFromVersionId names."
        ))),
        _ => Ok(()),
    }
}
