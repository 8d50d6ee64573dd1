//! `$ECS_AGENT_URI/task-protection/v1/state`: GetTaskProtection and UpdateTaskProtection, as the task role.
//!
//! Answers are the ECS agent's: one of `protection`, `failure` and `error`.
//! Source: ECS developer guide, "Task scale-in protection endpoint".

use std::time::Duration;

use ferrogate_nodeapi::{ControlPlane, ControlPlaneError, Protection, ProtectionChange, TaskAssignment};
use http::StatusCode;
use serde_json::{Value, json};

/// As the agent's.
const CALL_TIMEOUT: Duration = Duration::from_secs(4);

/// A PUT's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Asked {
    enabled: Option<bool>,
    expires_in_minutes: Option<i32>,
}

/// `None`: it cannot be decoded. Names in any case; no name but the two.
pub(super) fn asked(body: &[u8]) -> Option<Asked> {
    let Value::Object(members) = serde_json::from_slice(body).ok()? else { return None };
    let mut asked = Asked { enabled: None, expires_in_minutes: None };
    for (name, value) in members {
        match (name.to_ascii_lowercase().as_str(), value) {
            ("protectionenabled" | "expiresinminutes", Value::Null) => {}
            ("protectionenabled", Value::Bool(enabled)) => asked.enabled = Some(enabled),
            ("expiresinminutes", Value::Number(minutes)) => {
                asked.expires_in_minutes = Some(i32::try_from(minutes.as_i64()?).ok()?);
            }
            _ => return None,
        }
    }
    Some(asked)
}

fn error(status: StatusCode, arn: Option<&str>, code: &str, message: &str) -> (StatusCode, Value) {
    let error = super::without_nulls(json!({ "Arn": arn, "Code": code, "Message": message }));
    (status, json!({ "error": error }))
}

pub(super) fn undecodable() -> (StatusCode, Value) {
    let message = "UpdateTaskProtection: failed to decode request";
    error(StatusCode::BAD_REQUEST, None, "InvalidParameterException", message)
}

/// `task` is `None` when the id in the path is not one of the task's; `asked` is `None` for a GET.
pub(super) async fn answer(
    control: &dyn ControlPlane,
    task: Option<&TaskAssignment>,
    asked: Option<Asked>,
) -> (StatusCode, Value) {
    let Some(task) = task else {
        let message = "Failed to find a task for the request";
        return error(StatusCode::NOT_FOUND, None, "ResourceNotFoundException", message);
    };
    let arn = Some(task.task_arn.as_str());
    let change = match asked {
        None => None,
        Some(Asked { enabled: Some(enabled), expires_in_minutes }) => {
            Some(ProtectionChange { enabled, expires_in_minutes })
        }
        Some(_) => {
            let message = "Invalid request: does not contain 'ProtectionEnabled' field";
            return error(StatusCode::BAD_REQUEST, arn, "InvalidParameterException", message);
        }
    };
    if !task.has_task_role {
        let message = "Invalid Request: no task IAM role credentials available for task";
        return error(StatusCode::FORBIDDEN, arn, "AccessDeniedException", message);
    }
    match tokio::time::timeout(CALL_TIMEOUT, control.task_protection(&task.task_arn, change)).await {
        Ok(Ok(protection)) => (StatusCode::OK, shown(&task.task_arn, protection)),
        Ok(Err(ControlPlaneError::Refused { code, message })) if is_reason(&code) => {
            let detail = (!message.is_empty()).then_some(message);
            (StatusCode::OK, json!({ "failure": { "Arn": arn, "Detail": detail, "Reason": code } }))
        }
        Ok(Err(ControlPlaneError::Refused { code, message })) => {
            error(StatusCode::BAD_REQUEST, arn, &code, &message)
        }
        Ok(Err(other @ ControlPlaneError::Unavailable(_))) => {
            error(StatusCode::INTERNAL_SERVER_ERROR, arn, "ServerException", &other.to_string())
        }
        Err(_) => {
            let message = "Timed out calling ECS Task Protection API";
            error(StatusCode::GATEWAY_TIMEOUT, arn, "RequestCanceled", message)
        }
    }
}

/// A failure's `reason` (`TASK_NOT_VALID`) is written unlike an exception's name (`AccessDeniedException`).
fn is_reason(code: &str) -> bool {
    code.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_')
}

fn shown(task_arn: &str, protection: Protection) -> Value {
    let expires = protection.expires_at.map(|at| at.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string());
    json!({ "protection": {
        "ExpirationDate": expires, "ProtectionEnabled": protection.enabled, "TaskArn": task_arn,
    }})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies() {
        let both = Asked { enabled: Some(true), expires_in_minutes: Some(60) };
        assert_eq!(asked(br#"{"ProtectionEnabled":true,"ExpiresInMinutes":60}"#), Some(both));
        assert_eq!(asked(br#"{"protectionenabled":true,"EXPIRESINMINUTES":60}"#), Some(both));
        assert_eq!(asked(b"{}"), Some(Asked { enabled: None, expires_in_minutes: None }));
        for bad in [
            &b""[..],
            b"true",
            b"[]",
            br#"{"ProtectionEnabled":"true"}"#,
            br#"{"ProtectionEnabled":true,"Other":1}"#,
            br#"{"ProtectionEnabled":true,"ExpiresInMinutes":1.5}"#,
            br#"{"ProtectionEnabled":true,"ExpiresInMinutes":99999999999}"#,
        ] {
            assert_eq!(asked(bad), None, "{}", String::from_utf8_lossy(bad));
        }
    }
}
