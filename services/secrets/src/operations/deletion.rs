//! DeleteSecret and RestoreSecret. What is marked for deletion goes when its window is over (`controllers/`).

use ferrogate_api::secretsmanager::*;
use ferrogate_api::{ApiError, Context};
use ferrogate_store::{Txn, update_json};
use jiff::{SignedDuration, Timestamp};

use crate::SecretsService;
use crate::errors;
use crate::state::{self, SecretRecord, find, secret_arn, values_prefix};

const WINDOW_DAYS: std::ops::RangeInclusive<i64> = 7..=30;
const WINDOW_DAYS_DEFAULT: i64 = 30;

pub(crate) async fn delete(
    service: &SecretsService,
    cx: &Context,
    input: DeleteSecretRequest,
) -> Result<DeleteSecretResponse, ApiError> {
    let force = input.force_delete_without_recovery == Some(true);
    if force && input.recovery_window_in_days.is_some() {
        return Err(errors::invalid_parameter(
            "You can't use ForceDeleteWithoutRecovery in conjunction with RecoveryWindowInDays.",
        ));
    }
    let days = input.recovery_window_in_days.unwrap_or(WINDOW_DAYS_DEFAULT);
    if !WINDOW_DAYS.contains(&days) {
        return Err(errors::invalid_parameter(
            "The RecoveryWindowInDays value must be between 7 and 30 days (inclusive).",
        ));
    }
    let id = input.secret_id.unwrap_or_default();
    if force {
        return delete_now(service, cx, &id).await;
    }
    let at = cx.now + SignedDuration::from_hours(24 * days);
    let record = mark(service, cx, &id, |record| {
        if record.delete_at.is_some() {
            return Err(errors::invalid_request(
                "You can't perform this operation on the secret because it was already scheduled for deletion.",
            ));
        }
        record.delete_at = Some(at);
        Ok(())
    })
    .await?;
    Ok(answer(cx, record, at))
}

fn answer(cx: &Context, record: SecretRecord, at: Timestamp) -> DeleteSecretResponse {
    DeleteSecretResponse { arn: Some(record.arn(cx)), name: Some(record.name), deletion_date: Some(at) }
}

/// "If you forcibly delete an already deleted or nonexistent secret, the operation does not return
/// ResourceNotFoundException."
async fn delete_now(
    service: &SecretsService,
    cx: &Context,
    id: &str,
) -> Result<DeleteSecretResponse, ApiError> {
    while let Some(found) = find(service, cx, id) {
        let mut txn = Txn::new().when_revision(&*found.key, found.mod_revision).delete(&*found.key);
        if let Some(values) = values_prefix(&found.key, &found.record) {
            txn = txn.delete_prefix(values);
        }
        if service.store.txn(txn).await.map_err(errors::store)?.succeeded {
            return Ok(answer(cx, found.record, cx.now));
        }
    }
    let arn = if id.starts_with("arn:") { id.to_owned() } else { secret_arn(cx, id) };
    Ok(DeleteSecretResponse { arn: Some(arn), name: Some(id.to_owned()), deletion_date: Some(cx.now) })
}

pub(crate) async fn restore(
    service: &SecretsService,
    cx: &Context,
    input: RestoreSecretRequest,
) -> Result<RestoreSecretResponse, ApiError> {
    let record = mark(service, cx, input.secret_id.as_deref().unwrap_or_default(), |record| {
        record.delete_at = None;
        Ok(())
    })
    .await?;
    Ok(RestoreSecretResponse { arn: Some(record.arn(cx)), name: Some(record.name) })
}

async fn mark(
    service: &SecretsService,
    cx: &Context,
    id: &str,
    mut mark: impl FnMut(&mut SecretRecord) -> Result<(), ApiError>,
) -> Result<SecretRecord, ApiError> {
    let key = find(service, cx, id).ok_or_else(errors::no_secret)?.key;
    let marked = update_json(&*service.store, &key, |record: Option<SecretRecord>| {
        let mut record = record.ok_or_else(errors::no_secret)?;
        mark(&mut record)?;
        Ok(Some(record))
    });
    let marked = marked.await.map_err(errors::update)?;
    marked.map_or_else(|| state::secret(service, cx, Some(id)), Ok)
}
