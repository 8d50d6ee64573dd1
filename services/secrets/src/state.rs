//! The records in the store.
//!
//! ```text
//! /secretsmanager/<account>/<region>/secret/<name>                     SecretRecord
//! /secretsmanager/<account>/<region>/value/<secret id>/<version id>    ValueRecord
//! ```
//!
//! The operations write all fields; the deletion controller deletes records whose `delete_at` is past. A value is
//! written once, in the transaction that enters its version into the secret's record, and goes with it.

use std::collections::{BTreeMap, BTreeSet};

use ferrogate_api::{ApiError, Context};
use ferrogate_model::Arn;
use ferrogate_store::{Json, get_json};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{SecretsService, errors};

/// Attempts of a change; each one lost means that somebody else got through.
const CHANGE_ATTEMPTS_MAX: usize = 64;
/// `-` and six letters or digits at the end of an ARN.
const SUFFIX_CHARACTERS: usize = 7;
pub(crate) const CURRENT: &str = "AWSCURRENT";
pub(crate) const PREVIOUS: &str = "AWSPREVIOUS";

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct SecretRecord {
    pub(crate) name: String,
    /// Names its values' records; a secret made anew has another.
    pub(crate) id: String,
    /// Six letters or digits: a secret made anew has another ARN.
    pub(crate) suffix: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) description: Option<String>,
    /// As given; the key is always `aws/secretsmanager`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) kms_key_id: Option<String>,
    pub(crate) created_at: Timestamp,
    pub(crate) changed_at: Timestamp,
    /// Midnight of the day (UTC) somebody last got a value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) accessed_on: Option<Timestamp>,
    /// Marked for deletion, which comes then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) delete_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) tags: BTreeMap<String, String>,
    /// The resource policy, as given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) policy: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) versions: BTreeMap<String, VersionRecord>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct VersionRecord {
    pub(crate) created_at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) accessed_on: Option<Timestamp>,
    /// None: deprecated; it goes when there are too many.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(crate) stages: BTreeSet<String>,
}

/// The value of one version. What is sealed is the text, or the bytes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ValueRecord {
    pub(crate) sealed: String,
    pub(crate) binary: bool,
}

impl SecretRecord {
    pub(crate) fn arn(&self, cx: &Context) -> String {
        secret_arn(cx, &format!("{}-{}", self.name, self.suffix))
    }

    /// The version that has the stage.
    pub(crate) fn staged(&self, stage: &str) -> Option<&str> {
        let found = self.versions.iter().find(|(_, version)| version.stages.contains(stage));
        found.map(|(id, _)| id.as_str())
    }

    pub(crate) fn stages_of(&self, version_id: &str) -> Vec<String> {
        let version = self.versions.get(version_id);
        version.map(|version| version.stages.iter().cloned().collect()).unwrap_or_default()
    }

    /// Versions that have a stage, as DescribeSecret and ListSecrets show them.
    pub(crate) fn versions_to_stages(&self) -> Option<BTreeMap<String, Vec<String>>> {
        let staged = self.versions.iter().filter(|(_, version)| !version.stages.is_empty());
        let map: BTreeMap<_, _> = staged.map(|(id, _)| (id.clone(), self.stages_of(id))).collect();
        (!map.is_empty()).then_some(map)
    }

    pub(crate) fn usable(self) -> Result<Self, ApiError> {
        if self.delete_at.is_some() { Err(errors::marked_for_deletion()) } else { Ok(self) }
    }
}

pub(crate) fn secret_arn(cx: &Context, rest: &str) -> String {
    format!("arn:aws:secretsmanager:{}:{}:secret:{rest}", cx.region, cx.account)
}

fn prefix(cx: &Context) -> String {
    format!("/secretsmanager/{}/{}/", cx.account, cx.region)
}

pub(crate) fn secrets_prefix(cx: &Context) -> String {
    prefix(cx) + "secret/"
}

pub(crate) fn secret_key(cx: &Context, name: &str) -> String {
    secrets_prefix(cx) + name
}

pub(crate) fn value_key(cx: &Context, secret: &SecretRecord, version_id: &str) -> String {
    format!("{}value/{}/{version_id}", prefix(cx), secret.id)
}

/// All values of the secret whose record has this key.
pub(crate) fn values_prefix(secret_key: &str, secret: &SecretRecord) -> Option<String> {
    let (prefix, _) = secret_key.split_once("/secret/")?;
    Some(format!("{prefix}/value/{}/", secret.id))
}

/// Where a value belongs; it opens nowhere else.
pub(crate) fn place(cx: &Context, secret: &SecretRecord, version_id: &str) -> String {
    format!("{}/{version_id}", secret.arn(cx))
}

/// By name, by ARN, or by an ARN without its last seven characters.
pub(crate) fn find(service: &SecretsService, cx: &Context, id: &str) -> Option<Json<SecretRecord>> {
    let by_name = |name: &str| get_json::<SecretRecord>(&*service.store, &secret_key(cx, name));
    if !id.starts_with("arn:") {
        return by_name(id);
    }
    let arn: Arn = id.parse().ok()?;
    let ours = arn.service == "secretsmanager" && arn.region == cx.region && arn.account == cx.account;
    let rest = arn.resource.strip_prefix("secret:").filter(|_| ours)?;
    let whole = rest.len().checked_sub(SUFFIX_CHARACTERS).and_then(|at| rest.split_at_checked(at));
    let exact = whole.and_then(|(name, suffix)| {
        by_name(name).filter(|found| suffix.strip_prefix('-') == Some(found.record.suffix.as_str()))
    });
    exact.or_else(|| by_name(rest))
}

/// The secret a call means.
pub(crate) fn secret(
    service: &SecretsService,
    cx: &Context,
    id: Option<&str>,
) -> Result<SecretRecord, ApiError> {
    find(service, cx, id.unwrap_or_default()).map(|found| found.record).ok_or_else(errors::no_secret)
}

/// What a change of a secret leads to.
pub(crate) struct Change {
    pub(crate) record: SecretRecord,
    /// A new version's value.
    pub(crate) value: Option<(String, ValueRecord)>,
    /// Versions that are no more.
    pub(crate) dropped: Vec<String>,
}

impl From<SecretRecord> for Change {
    fn from(record: SecretRecord) -> Self {
        Self { record, value: None, dropped: Vec::new() }
    }
}

/// Changes a secret that is there and not marked for deletion, again if somebody else was quicker. `None`: it is to
/// stay as it is. Returns it as it is then.
pub(crate) async fn change(
    service: &SecretsService,
    cx: &Context,
    id: Option<&str>,
    mut change: impl FnMut(SecretRecord) -> Result<Option<Change>, ApiError>,
) -> Result<SecretRecord, ApiError> {
    let id = id.unwrap_or_default();
    for _ in 0..CHANGE_ATTEMPTS_MAX {
        let found = find(service, cx, id).ok_or_else(errors::no_secret)?;
        let record = found.record.usable()?;
        let Some(wanted) = change(record.clone())? else { return Ok(record) };
        let mut txn = ferrogate_store::Txn::new()
            .when_revision(&*found.key, found.mod_revision)
            .put_json(&*found.key, &wanted.record);
        if let Some((version_id, value)) = &wanted.value {
            txn = txn.put_json(value_key(cx, &wanted.record, version_id), value);
        }
        for version_id in &wanted.dropped {
            txn = txn.delete(value_key(cx, &wanted.record, version_id));
        }
        if service.store.txn(txn).await.map_err(errors::store)?.succeeded {
            return Ok(wanted.record);
        }
    }
    Err(errors::contended(id))
}
