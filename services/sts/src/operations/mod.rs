//! The operations.

use ferrogate_api::sts::*;
use ferrogate_api::{ApiError, Context, Demand, PrincipalKind, Value};
use ferrogate_front::trusts;
use ferrogate_policy::{DocumentKind, Policy};

use crate::{StsService, session};

const SESSION_SECONDS_DEFAULT: i32 = 3600;
/// Role chaining: credentials got with credentials of a role.
const CHAINED_SECONDS_MAX: i32 = 3600;
/// IAM's own limit.
const ROLE_NAME_CHARACTERS_MAX: usize = 64;
/// What session policies may take, plain.
const SESSION_POLICY_CHARACTERS_MAX: usize = 2048;

impl Sts for StsService {
    /// GetCallerIdentity needs no permission, and AssumeRole is judged by the role's trust policy together with the
    /// caller's own policies: both inside the operation.
    fn demands(&self, _cx: &Context, operation: &'static str, _input: &Value) -> Vec<Demand> {
        match operation {
            "GetCallerIdentity" | "AssumeRole" | "AssumeRoleWithWebIdentity" | "AssumeRoleWithSAML" => {
                Vec::new()
            }
            _ => vec![Demand::new(format!("sts:{operation}"), "*")],
        }
    }

    async fn get_caller_identity(
        &self,
        cx: &Context,
        _input: GetCallerIdentityRequest,
    ) -> Result<GetCallerIdentityResponse, ApiError> {
        Ok(GetCallerIdentityResponse {
            user_id: Some(cx.principal.user_id.clone()),
            account: Some(cx.principal.account.clone()),
            arn: Some(cx.principal.arn.clone()),
        })
    }

    /// Of the account's own long-term keys. A temporary key is known by its session token alone.
    async fn get_access_key_info(
        &self,
        cx: &Context,
        input: GetAccessKeyInfoRequest,
    ) -> Result<GetAccessKeyInfoResponse, ApiError> {
        let id = input.access_key_id.unwrap_or_default();
        if self.identity.credential(&id, None, cx.now).is_err() {
            return Err(ApiError::new(
                "InvalidClientTokenId",
                "The security token included in the request is invalid.",
            )
            .with_status(403));
        }
        Ok(GetAccessKeyInfoResponse { account: Some(self.account.clone()) })
    }

    async fn assume_role(
        &self,
        cx: &Context,
        input: AssumeRoleRequest,
    ) -> Result<AssumeRoleResponse, ApiError> {
        refuse_unsupported(&input)?;
        let role_arn = input.role_arn.clone().unwrap_or_default();
        let name = input.role_session_name.clone().unwrap_or_default();
        if !is_role_arn(&role_arn) {
            return Err(ApiError::new("ValidationError", "Request ARN is invalid"));
        }
        let denied = || {
            let message = format!(
                "User: {} is not authorized to perform: sts:AssumeRole on resource: {role_arn}",
                cx.principal.arn
            );
            ApiError::new("AccessDenied", message).with_status(403)
        };
        if cx.principal.kind == PrincipalKind::Root {
            return Err(
                ApiError::new("AccessDenied", "Roles may not be assumed by root accounts.").with_status(403)
            );
        }
        let role = self.identity.role(&role_arn).ok_or_else(denied)?;
        let tags = session_tags(&input)?;
        let mut context = vec![("sts:RoleSessionName".to_owned(), vec![name.clone()])];
        for (key, value) in &role.tags {
            for prefix in ["aws:ResourceTag", "iam:ResourceTag"] {
                context.push((format!("{prefix}/{key}"), vec![value.clone()]));
            }
        }
        if let Some(id) = &input.external_id {
            context.push(("sts:ExternalId".into(), vec![id.clone()]));
        }
        if !tags.is_empty() {
            context.push(("aws:TagKeys".into(), tags.iter().map(|(key, _)| key.clone()).collect()));
            context.extend(
                tags.iter().map(|(key, value)| (format!("aws:RequestTag/{key}"), vec![value.clone()])),
            );
            trusts(&*self.identity, cx, &role, "sts:TagSession", &context)?;
        }
        trusts(&*self.identity, cx, &role, "sts:AssumeRole", &context)?;
        let seconds = self.duration(cx, &input, role.max_session_seconds)?;
        let policies = session_policies(&input)?;
        let packed: usize = policies.iter().map(String::len).sum();
        let principal = role.session(&name, policies, tags);
        let issued =
            session::issue(&self.sealer, &principal, cx.now, seconds).ok_or_else(ApiError::internal)?;
        Ok(AssumeRoleResponse {
            credentials: Some(Credentials {
                access_key_id: Some(issued.access_key_id),
                secret_access_key: Some(issued.secret_access_key),
                session_token: Some(issued.session_token),
                expiration: Some(issued.expiration),
            }),
            assumed_role_user: Some(AssumedRoleUser {
                assumed_role_id: Some(principal.user_id.clone()),
                arn: Some(principal.arn.clone()),
            }),
            packed_policy_size: (packed > 0)
                .then(|| i32::try_from(packed * 100 / SESSION_POLICY_CHARACTERS_MAX).unwrap_or(100).max(1)),
            ..AssumeRoleResponse::default()
        })
    }
}

impl StsService {
    fn duration(&self, cx: &Context, input: &AssumeRoleRequest, role_max: i32) -> Result<i32, ApiError> {
        let chained = matches!(cx.principal.kind, PrincipalKind::AssumedRole { .. });
        let asked = input.duration_seconds.unwrap_or(SESSION_SECONDS_DEFAULT.min(role_max));
        if chained && asked > CHAINED_SECONDS_MAX {
            return Err(ApiError::new(
                "ValidationError",
                "The requested DurationSeconds exceeds the 1 hour session limit for roles assumed by role chaining.",
            ));
        }
        if asked > role_max {
            return Err(ApiError::new(
                "ValidationError",
                "The requested DurationSeconds exceeds the MaxSessionDuration set for this role.",
            ));
        }
        Ok(asked)
    }
}

/// `arn:<partition>:iam::<account>:role/<path><name>`
fn is_role_arn(text: &str) -> bool {
    let parts: Vec<&str> = text.splitn(6, ':').collect();
    let [arn, partition, service, region, account, resource] = parts[..] else { return false };
    let is_account = account.len() == 12 && account.bytes().all(|byte| byte.is_ascii_digit());
    let is_name = |name: &str| {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"+=,.@_-".contains(&byte);
        !name.is_empty() && name.len() <= ROLE_NAME_CHARACTERS_MAX && name.bytes().all(fits)
    };
    let name = resource.strip_prefix("role/").and_then(|rest| rest.rsplit('/').next());
    (arn, service, region) == ("arn", "iam", "")
        && !partition.is_empty()
        && is_account
        && name.is_some_and(is_name)
}

/// What would be ignored otherwise.
fn refuse_unsupported(input: &AssumeRoleRequest) -> Result<(), ApiError> {
    let given = [
        ("SerialNumber", input.serial_number.is_some()),
        ("TokenCode", input.token_code.is_some()),
        ("SourceIdentity", input.source_identity.is_some()),
        ("ProvidedContexts", input.provided_contexts.as_ref().is_some_and(|list| !list.is_empty())),
        ("TransitiveTagKeys", input.transitive_tag_keys.as_ref().is_some_and(|list| !list.is_empty())),
        ("PolicyArns", input.policy_arns.as_ref().is_some_and(|list| !list.is_empty())),
        ("MinimumSessionTokenSize", input.minimum_session_token_size.is_some()),
    ];
    match given.iter().find(|(_, given)| *given) {
        None => Ok(()),
        Some((name, _)) => Err(ApiError::new(
            "ValidationError",
            format!("{name} is not supported by Ferrogate's AssumeRole yet: leave it out"),
        )),
    }
}

fn session_policies(input: &AssumeRoleRequest) -> Result<Vec<String>, ApiError> {
    let Some(text) = &input.policy else { return Ok(Vec::new()) };
    Policy::parse(text, DocumentKind::Identity)
        .map_err(|error| ApiError::new("MalformedPolicyDocument", error.to_string()))?;
    let characters = text.chars().count();
    if characters > SESSION_POLICY_CHARACTERS_MAX {
        return Err(ApiError::new(
            "PackedPolicyTooLarge",
            format!(
                "The session policy has {characters} characters; at most {SESSION_POLICY_CHARACTERS_MAX} are allowed"
            ),
        ));
    }
    Ok(vec![text.clone()])
}

fn session_tags(input: &AssumeRoleRequest) -> Result<Vec<(String, String)>, ApiError> {
    let mut tags: Vec<(String, String)> = Vec::new();
    for tag in input.tags.iter().flatten() {
        let (key, value) = (tag.key.clone().unwrap_or_default(), tag.value.clone().unwrap_or_default());
        if tags.iter().any(|(known, _)| known.eq_ignore_ascii_case(&key)) {
            return Err(ApiError::new(
                "InvalidParameterValue",
                "Duplicate tag keys found. Please note that Tag keys are case insensitive.",
            ));
        }
        tags.push((key, value));
    }
    Ok(tags)
}

impl StsService {
    /// What a task is handed at its credentials endpoint: its task role's session, by the service's own right.
    pub fn session_for(
        &self,
        principal: &ferrogate_api::Principal,
        now: jiff::Timestamp,
        seconds: i32,
    ) -> Option<session::Issued> {
        session::issue(&self.sealer, principal, now, seconds)
    }
}
