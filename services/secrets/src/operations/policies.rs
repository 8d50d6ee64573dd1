//! Resource policies of secrets. They are judged with every call that names the secret (`demands.rs`).

use ferrogate_api::secretsmanager::*;
use ferrogate_api::{ApiError, Context};
use ferrogate_policy::{DocumentKind, Policy};

use crate::SecretsService;
use crate::errors;
use crate::state::{self, Change};

/// PutResourcePolicy, ResourcePolicy.
const POLICY_BYTES_MAX: usize = 20_480;

fn no_policy_name(name: Option<&str>) -> Result<(), ApiError> {
    if name.is_some() { Err(errors::unsupported("PolicyName")) } else { Ok(()) }
}

pub(crate) async fn get(
    service: &SecretsService,
    cx: &Context,
    input: GetResourcePolicyRequest,
) -> Result<GetResourcePolicyResponse, ApiError> {
    no_policy_name(input.policy_name.as_deref())?;
    let record = state::secret(service, cx, input.secret_id.as_deref())?.usable()?;
    Ok(GetResourcePolicyResponse {
        arn: Some(record.arn(cx)),
        name: Some(record.name),
        resource_policy: record.policy,
        policy_name: None,
    })
}

pub(crate) async fn put(
    service: &SecretsService,
    cx: &Context,
    input: PutResourcePolicyRequest,
) -> Result<PutResourcePolicyResponse, ApiError> {
    no_policy_name(input.policy_name.as_deref())?;
    let text = input.resource_policy.unwrap_or_default();
    check(&text)?;
    if input.block_public_policy == Some(true) && is_public(&text) {
        return Err(ApiError::new(
            "PublicPolicyException",
            "You can't attach the resource policy because it allows broad access to the secret. To attach it anyway, leave BlockPublicPolicy out.",
        ));
    }
    let record = state::change(service, cx, input.secret_id.as_deref(), |mut record| {
        record.policy = Some(text.clone());
        record.changed_at = cx.now;
        Ok(Some(Change::from(record)))
    })
    .await?;
    Ok(PutResourcePolicyResponse { arn: Some(record.arn(cx)), name: Some(record.name), policy_name: None })
}

fn check(text: &str) -> Result<(), ApiError> {
    if text.len() > POLICY_BYTES_MAX {
        return Err(errors::invalid_parameter(format!(
            "The resource policy has {} bytes; at most {POLICY_BYTES_MAX} are allowed.",
            text.len()
        )));
    }
    Policy::parse(text, DocumentKind::Resource).map(drop).map_err(|error| {
        let message = format!("This resource policy contains a syntax error: {error}");
        ApiError::new("MalformedPolicyDocumentException", message)
    })
}

pub(crate) async fn delete(
    service: &SecretsService,
    cx: &Context,
    input: DeleteResourcePolicyRequest,
) -> Result<DeleteResourcePolicyResponse, ApiError> {
    no_policy_name(input.policy_name.as_deref())?;
    let record = state::change(service, cx, input.secret_id.as_deref(), |mut record| {
        record.policy = None;
        record.changed_at = cx.now;
        Ok(Some(Change::from(record)))
    })
    .await?;
    Ok(DeleteResourcePolicyResponse { arn: Some(record.arn(cx)), name: Some(record.name), policy_name: None })
}

pub(crate) async fn validate(
    service: &SecretsService,
    cx: &Context,
    input: ValidateResourcePolicyRequest,
) -> Result<ValidateResourcePolicyResponse, ApiError> {
    if input.secret_id.is_some() {
        state::secret(service, cx, input.secret_id.as_deref())?.usable()?;
    }
    let text = input.resource_policy.unwrap_or_default();
    check(&text)?;
    let mut found = Vec::new();
    if is_public(&text) {
        found.push(ValidationErrorsEntry {
            check_name: Some("PUBLIC_POLICY".into()),
            error_message: Some("Resource policy grants broad access to the secret.".into()),
        });
    }
    Ok(ValidateResourcePolicyResponse {
        policy_validation_passed: Some(found.is_empty()),
        validation_errors: Some(found),
    })
}

/// Whether a statement allows everybody, without a condition that could narrow it.
fn is_public(text: &str) -> bool {
    let policy: serde_json::Value = serde_json::from_str(text).unwrap_or_default();
    let statements = match &policy["Statement"] {
        serde_json::Value::Array(many) => many.iter().collect(),
        one => vec![one],
    };
    let everybody = |principal: &serde_json::Value| {
        let is_star = |value: &serde_json::Value| match value {
            serde_json::Value::Array(many) => many.iter().any(|one| one == "*"),
            one => one == "*",
        };
        is_star(principal) || is_star(&principal["AWS"])
    };
    statements.into_iter().any(|statement| {
        let narrowed = statement["Condition"].as_object().is_some_and(|conditions| !conditions.is_empty());
        let open = everybody(&statement["Principal"]) || !statement["NotPrincipal"].is_null();
        statement["Effect"] == "Allow" && open && !narrowed
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_everybody() {
        let policy = |principal: &str, rest: &str| {
            format!(
                r#"{{"Version":"2012-10-17","Statement":{{"Effect":"Allow","Principal":{principal},"Action":"secretsmanager:*","Resource":"*"{rest}}}}}"#
            )
        };
        for open in [r#""*""#, r#"{"AWS":"*"}"#, r#"{"AWS":["arn:aws:iam::123456789012:root","*"]}"#] {
            assert!(is_public(&policy(open, "")), "{open}");
            let narrowed = r#","Condition":{"StringEquals":{"aws:PrincipalAccount":"123456789012"}}"#;
            assert!(!is_public(&policy(open, narrowed)), "{open}");
        }
        assert!(!is_public(&policy(r#"{"AWS":"arn:aws:iam::123456789012:root"}"#, "")));
    }
}
