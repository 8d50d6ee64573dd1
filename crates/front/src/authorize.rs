//! Every right a call demands, held against everything that speaks about the caller. Deny by default.

use ferrogate_api::schema::{Model, Protocol};
use ferrogate_api::{ApiError, Context, Demand, Principal, PrincipalKind};
use ferrogate_policy::{self as policy, DocumentKind};
use jiff::Timestamp;

use crate::identity::{Identity, Role};
use crate::service_roles;

/// Refuses unless each demand is allowed. The error is AWS's, in the words of the service's protocol.
pub(crate) fn authorize(
    identity: &dyn Identity,
    cx: &Context,
    model: &Model,
    demands: &[Demand],
) -> Result<(), ApiError> {
    if demands.is_empty() {
        return Ok(());
    }
    let held = Held::of(identity, cx)?;
    let global = global_keys(cx);
    for demand in demands {
        let mut context = global.clone();
        for (key, values) in &demand.context {
            context.set_all(key, values.clone());
        }
        let resource = match &demand.resource_policy {
            Some(json) => Some(stored("resource policy", json, DocumentKind::Resource)?),
            None => None,
        };
        let request = policy::Request {
            principal: policy_principal(cx),
            action: &demand.action,
            resource: &demand.resource,
            resource_account: account_of(&demand.resource),
            context: &context,
        };
        let policies = policy::Policies {
            identity: &held.identity,
            boundary: held.boundary.as_ref(),
            session: held.session.as_deref(),
            resource: resource.as_ref(),
            service_control: &[],
        };
        let decision = policy::evaluate(&request, &policies);
        if !decision.is_allowed() {
            let protocol = model.protocols.first().copied().unwrap_or(Protocol::Query);
            return Err(denied(protocol, decision.message(&request)));
        }
    }
    Ok(())
}

/// Whether the caller may assume `role`: its trust policy, and the caller's own where the trust policy names only
/// the account. `context` holds what AssumeRole adds: `sts:ExternalId`, `sts:RoleSessionName`, request tags.
pub fn trusts(
    identity: &dyn Identity,
    cx: &Context,
    role: &Role,
    action: &str,
    context: &[(String, Vec<String>)],
) -> Result<(), ApiError> {
    let held = Held::of(identity, cx)?;
    let mut keys = global_keys(cx);
    for (key, values) in context {
        keys.set_all(key, values.clone());
    }
    let request = policy::Request {
        principal: policy_principal(cx),
        action,
        resource: &role.arn,
        resource_account: &role.account,
        context: &keys,
    };
    let policies = policy::Policies {
        identity: &held.identity,
        boundary: held.boundary.as_ref(),
        session: held.session.as_deref(),
        resource: Some(&role.trust),
        service_control: &[],
    };
    let decision = policy::evaluate_trust(&request, &policies);
    if decision.is_allowed() { Ok(()) } else { Err(denied(Protocol::Query, decision.message(&request))) }
}

/// The session a service gets when it assumes a customer's role: the role has to be there and trust the service.
pub fn session_for_service(
    identity: &dyn Identity,
    role_arn: &str,
    service: &str,
    session_name: &str,
    now: Timestamp,
) -> Result<Principal, ApiError> {
    let not_trusted = || {
        let message =
            format!("{service} is not authorized to perform: sts:AssumeRole on resource: {role_arn}");
        denied(Protocol::Query, message)
    };
    let role = identity.role(role_arn).ok_or_else(not_trusted)?;
    let mut keys = policy::Context::new();
    keys.set_time(now);
    keys.set("aws:SourceAccount", role.account.as_str());
    let request = policy::Request {
        principal: policy::Principal {
            arn: service,
            account: "",
            kind: policy::PrincipalKind::Service { name: service },
            id: service,
            tags: &[],
        },
        action: "sts:AssumeRole",
        resource: &role.arn,
        resource_account: &role.account,
        context: &keys,
    };
    let policies = policy::Policies { resource: Some(&role.trust), ..policy::Policies::default() };
    if policy::evaluate_trust(&request, &policies).is_allowed() {
        Ok(role.session(session_name, Vec::new(), Vec::new()))
    } else {
        Err(not_trusted())
    }
}

/// All that is attached to the caller.
#[derive(Default)]
struct Held {
    identity: Vec<policy::Named>,
    boundary: Option<policy::Named>,
    session: Option<Vec<policy::Named>>,
}

impl Held {
    fn of(identity: &dyn Identity, cx: &Context) -> Result<Self, ApiError> {
        let mut held = Self::default();
        match &cx.principal.kind {
            PrincipalKind::Root => {}
            PrincipalKind::Service { name } => held.identity.extend(service_roles::policy(name)),
            PrincipalKind::User { .. } | PrincipalKind::AssumedRole { .. } => {
                let attached = identity.policies(&cx.principal);
                held.identity = attached.identity;
                held.boundary = attached.boundary;
            }
        }
        if let PrincipalKind::AssumedRole { session_policies, .. } = &cx.principal.kind
            && !session_policies.is_empty()
        {
            let parsed =
                session_policies.iter().map(|json| stored("session policy", json, DocumentKind::Identity));
            held.session = Some(parsed.collect::<Result<_, _>>()?);
        }
        Ok(held)
    }
}

/// A stored policy that does not parse must never read as "nothing is denied".
fn stored(name: &str, json: &str, kind: DocumentKind) -> Result<policy::Named, ApiError> {
    let policy = policy::Policy::parse(json, kind).map_err(|error| {
        tracing::error!(%error, name, "a stored policy does not parse");
        ApiError::internal()
    })?;
    Ok(policy::Named { name: name.into(), policy })
}

fn policy_principal(cx: &Context) -> policy::Principal<'_> {
    let principal = &*cx.principal;
    policy::Principal {
        arn: &principal.arn,
        account: &principal.account,
        id: &principal.user_id,
        kind: match &principal.kind {
            PrincipalKind::Root => policy::PrincipalKind::Root,
            PrincipalKind::User { name } => policy::PrincipalKind::User { name },
            PrincipalKind::AssumedRole { role_arn, .. } => policy::PrincipalKind::AssumedRole { role_arn },
            // In an account a service is the session of its service-linked role, whose policy limits it.
            PrincipalKind::Service { .. } => policy::PrincipalKind::AssumedRole { role_arn: &principal.arn },
        },
        tags: &principal.tags,
    }
}

/// The condition keys every request has ("AWS global condition context keys", IAM User Guide), beyond those
/// that follow from the principal.
fn global_keys(cx: &Context) -> policy::Context {
    let mut keys = policy::Context::new();
    keys.set_time(cx.now);
    keys.set("aws:RequestedRegion", cx.region.as_str());
    // The API's listener is plain HTTP on loopback; TLS will say true here.
    keys.set("aws:SecureTransport", "false");
    // From inside come the services themselves, callers they act on behalf of, and roles that are assumed by them.
    let inside = cx.source_ip.is_none() && !matches!(cx.principal.kind, PrincipalKind::AssumedRole { .. });
    keys.set("aws:ViaAWSService", if inside { "true" } else { "false" });
    if let Some(ip) = cx.source_ip {
        keys.set("aws:SourceIp", ip.to_string());
    }
    if let Some(agent) = &cx.user_agent {
        keys.set("aws:UserAgent", agent.as_str());
    }
    keys
}

/// Empty where the ARN names no account: the resource counts as the caller's own. (AWS's managed policies are in the
/// account `aws`, which is nobody's.)
pub(crate) fn account_of(resource: &str) -> &str {
    let account = resource.split(':').nth(4).unwrap_or_default();
    let is_account = account.len() == 12 && account.bytes().all(|byte| byte.is_ascii_digit());
    if is_account { account } else { "" }
}

/// Each family of services has its own code and status for the same refusal.
fn denied(protocol: Protocol, message: String) -> ApiError {
    match protocol {
        Protocol::Ec2 => {
            let message = format!("You are not authorized to perform this operation. {message}");
            ApiError::new("UnauthorizedOperation", message).with_status(403)
        }
        Protocol::Query | Protocol::RestXml => ApiError::new("AccessDenied", message).with_status(403),
        Protocol::RestJson => ApiError::new("AccessDeniedException", message).with_status(403),
        Protocol::Json10 | Protocol::Json11 | Protocol::RpcV2Cbor => {
            ApiError::new("AccessDeniedException", message).with_status(400)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_account_of_a_resource() {
        assert_eq!(account_of("arn:aws:ecs:us-east-1:123456789012:cluster/default"), "123456789012");
        for nobody in
            ["*", "", "arn:aws:s3:::bucket", "arn:aws:iam::aws:policy/AdministratorAccess", "arn:a:b:c:12:d"]
        {
            assert_eq!(account_of(nobody), "", "{nobody}");
        }
    }

    #[test]
    fn one_refusal_in_each_family() {
        let codes = [Protocol::Json11, Protocol::RestJson, Protocol::Query, Protocol::Ec2, Protocol::RestXml]
            .map(|protocol| denied(protocol, "no".into()))
            .map(|error| (error.code, error.status));
        let expected = [
            ("AccessDeniedException", 400),
            ("AccessDeniedException", 403),
            ("AccessDenied", 403),
            ("UnauthorizedOperation", 403),
            ("AccessDenied", 403),
        ];
        assert_eq!(codes, expected.map(|(code, status)| (code.to_owned(), Some(status))));
    }
}
