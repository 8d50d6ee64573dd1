//! The task role's credentials: kept, and renewed long before they end.

use ferrogate_nodeapi::{ControlPlane, ControlPlaneError, RoleCredentials};
use http::StatusCode;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use tokio::sync::Mutex;

use crate::record::Record;

/// Credentials that end sooner than this are replaced; SDKs ask anew a quarter of an hour before the end, so that
/// what they are given is always new by then.
const RENEWED_BEFORE_END: SignedDuration = SignedDuration::from_hours(1);
/// After a renewal that failed the old credentials are given out for so long before it is tried again.
const RETRY_AFTER: SignedDuration = SignedDuration::from_secs(10);

#[derive(Default)]
pub(super) struct Keeper {
    /// Locked while they are got, so that many who ask make one call.
    held: Mutex<Option<Held>>,
}

struct Held {
    credentials: RoleCredentials,
    taken_at: Timestamp,
    failed_at: Option<Timestamp>,
}

/// `{"code", "message", "HTTPErrorCode"}`
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) body: Value,
}

impl Keeper {
    /// The body of the answer; the agent's field names.
    pub(super) async fn answer(
        &self,
        control: &dyn ControlPlane,
        record: &Record,
        version: u8,
        id: &str,
        now: Timestamp,
    ) -> Result<Value, Refusal> {
        let refused = |status: StatusCode, code: &str, message: String| Refusal {
            status,
            body: json!({
                "code": code,
                "message": format!("CredentialsV{version}Request: {message}"),
                "HTTPErrorCode": status.as_u16(),
            }),
        };
        if id.is_empty() {
            let message = "No Credential ID in the request".to_owned();
            return Err(refused(StatusCode::BAD_REQUEST, "NoIdInRequest", message));
        }
        if id != record.credentials_id {
            let message = "Credentials not found".to_owned();
            return Err(refused(StatusCode::BAD_REQUEST, "InvalidIdInRequest", message));
        }
        if !record.assignment.has_task_role {
            let message = "No credentials are associated with the task".to_owned();
            return Err(refused(StatusCode::BAD_REQUEST, "NoCredentialsAssociated", message));
        }
        match self.get(control, &record.assignment.task_arn, now).await {
            Ok(Some(credentials)) => Ok(shown(&credentials)),
            Ok(None) => {
                let message = "No credentials are associated with the task".to_owned();
                Err(refused(StatusCode::BAD_REQUEST, "NoCredentialsAssociated", message))
            }
            Err(error) => {
                let message = format!("Credentials uninitialized for ID: {error}");
                Err(refused(StatusCode::SERVICE_UNAVAILABLE, "CredentialsUninitialized", message))
            }
        }
    }

    async fn get(
        &self,
        control: &dyn ControlPlane,
        task_arn: &str,
        now: Timestamp,
    ) -> Result<Option<RoleCredentials>, ControlPlaneError> {
        let mut held = self.held.lock().await;
        if let Some(held) = &*held
            && !held.is_due(now)
        {
            return Ok(Some(held.credentials.clone()));
        }
        match control.task_role_credentials(task_arn).await {
            Ok(Some(credentials)) => {
                *held = Some(Held { credentials: credentials.clone(), taken_at: now, failed_at: None });
                Ok(Some(credentials))
            }
            Ok(None) => Ok(None),
            Err(error) => match &mut *held {
                Some(held) if held.credentials.expiration > now => {
                    tracing::warn!(%error, task_arn, "the task role's credentials could not be renewed; the old ones are still good");
                    held.failed_at = Some(now);
                    Ok(Some(held.credentials.clone()))
                }
                _ => Err(error),
            },
        }
    }
}

impl Held {
    fn is_due(&self, now: Timestamp) -> bool {
        let end = self.credentials.expiration;
        let lifetime = end.duration_since(self.taken_at);
        let before = RENEWED_BEFORE_END.min(lifetime / 2);
        let waits = self.failed_at.is_some_and(|at| now.duration_since(at) < RETRY_AFTER);
        end <= now || (end.duration_since(now) <= before && !waits)
    }
}

fn shown(credentials: &RoleCredentials) -> Value {
    json!({
        "RoleArn": credentials.role_arn,
        "AccessKeyId": credentials.access_key_id,
        "SecretAccessKey": credentials.secret_access_key,
        "Token": credentials.token,
        "Expiration": credentials.expiration.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
    })
}
