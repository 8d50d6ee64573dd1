//! "Policy evaluation logic" (IAM User Guide): which policies have a say, and in which order.
//!
//! ```text
//!  an explicit deny anywhere ───────────────────────────────────────────────▶ ExplicitDeny
//!  every level of service control policies allows?  no ─────────────────────▶ ImplicitDeny
//!  same account:   resource policy allows this very user or session ────────▶ Allow
//!                  resource policy OR identity policy allows,
//!                  AND boundary, AND session policy ────────────────────────▶ Allow
//!  other account:  resource policy AND identity policy AND boundary AND session
//!  a service, a web identity, nobody: the resource policy alone
//! ```

use std::sync::Arc;

use crate::{
    context::Context,
    decision::{Decision, Match, Outcome, PolicyKind},
    document::{DocumentKind, Policy, Verdict},
    principal::{Grant, Principal, PrincipalKind},
};

/// Who wants to do what with what.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    pub principal: Principal<'a>,
    /// `ecs:RunTask`
    pub action: &'a str,
    /// The ARN; `*` for an action that has no resource.
    pub resource: &'a str,
    /// The account that owns the resource; empty where there is none, which counts as the caller's own.
    pub resource_account: &'a str,
    pub context: &'a Context,
}

/// A policy and what to call it in a decision: its ARN, or its name when inline.
#[derive(Debug, Clone)]
pub struct Named {
    pub name: Arc<str>,
    pub policy: Arc<Policy>,
}

/// All that has a say on one request. What is left empty does not limit, save where a grant has to come from it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Policies<'a> {
    /// Those of the user and its groups, or of the role.
    pub identity: &'a [Named],
    pub boundary: Option<&'a Named>,
    /// Session policies given to AssumeRole; `Some(&[])` allows nothing. A federated user always has `Some`.
    pub session: Option<&'a [Named]>,
    /// The resource's own policy, or the role's trust policy for [`evaluate_trust`].
    pub resource: Option<&'a Named>,
    /// One list for each level from the organization's root down to the account.
    pub service_control: &'a [Vec<Named>],
}

/// Decides on a request for a resource whose own policy may grant but need not exist.
pub fn evaluate(request: &Request<'_>, policies: &Policies<'_>) -> Decision {
    decide(request, policies, PolicyKind::Resource)
}

/// Decides on assuming a role: [`Policies::resource`] is its trust policy, which has to allow even when the
/// caller's own policies do. Where the trust policy names only the account, the caller's policies have to as well.
pub fn evaluate_trust(request: &Request<'_>, policies: &Policies<'_>) -> Decision {
    decide(request, policies, PolicyKind::Trust)
}

/// What all policies of one kind say together.
struct Say<'a> {
    kind: PolicyKind,
    denied: Option<(&'a Named, usize)>,
    allowed: Option<(&'a Named, usize, Grant)>,
}

impl<'a> Say<'a> {
    fn of(kind: PolicyKind, policies: &'a [Named], request: &Request<'_>) -> Self {
        let mut say = Self { kind, denied: None, allowed: None };
        for named in policies {
            let Verdict { denied, allowed } = named.policy.judge(request);
            if let Some(statement) = denied {
                say.denied = Some((named, statement));
                break;
            }
            // A document without principals grants to nobody in particular: on a resource, to nobody.
            let misplaced = matches!(kind, PolicyKind::Resource | PolicyKind::Trust)
                && named.policy.kind == DocumentKind::Identity;
            if let Some((statement, grant)) = allowed
                && !misplaced
                && say.allowed.is_none_or(|(_, _, best)| grant > best)
            {
                say.allowed = Some((named, statement, grant));
            }
        }
        say
    }

    fn deny(&self) -> Option<Decision> {
        let (named, statement) = self.denied?;
        let matched = Some(self.matched(named, statement));
        Some(Decision { outcome: Outcome::ExplicitDeny, matched, missing: None })
    }

    fn matched(&self, named: &Named, statement: usize) -> Match {
        Match {
            kind: self.kind,
            policy: named.name.clone(),
            statement,
            sid: named.policy.statements[statement].sid.clone(),
        }
    }

    fn allow(&self) -> Decision {
        let matched = self.allowed.map(|(named, statement, _)| self.matched(named, statement));
        Decision { outcome: Outcome::Allow, matched, missing: None }
    }

    fn grant(&self) -> Option<Grant> {
        self.allowed.map(|(_, _, grant)| grant)
    }
}

fn implicit(missing: PolicyKind) -> Decision {
    Decision { outcome: Outcome::ImplicitDeny, matched: None, missing: Some(missing) }
}

fn decide(request: &Request<'_>, policies: &Policies<'_>, guard: PolicyKind) -> Decision {
    let mut uncontrolled = false;
    for level in policies.service_control {
        let say = Say::of(PolicyKind::ServiceControl, level, request);
        if let Some(denied) = say.deny() {
            return denied;
        }
        uncontrolled |= say.allowed.is_none();
    }
    let resource = Say::of(guard, policies.resource.map_or(&[], std::slice::from_ref), request);
    if let Some(denied) = resource.deny() {
        return denied;
    }
    let identity = Say::of(PolicyKind::Identity, policies.identity, request);
    if let Some(denied) = identity.deny() {
        return denied;
    }
    let boundary =
        Say::of(PolicyKind::Boundary, policies.boundary.map_or(&[], std::slice::from_ref), request);
    if let Some(denied) = boundary.deny() {
        return denied;
    }
    let session = Say::of(PolicyKind::Session, policies.session.unwrap_or_default(), request);
    if let Some(denied) = session.deny() {
        return denied;
    }
    if uncontrolled {
        return implicit(PolicyKind::ServiceControl);
    }
    grant(request, policies, guard, &resource, &identity, &boundary, &session)
}

/// Nothing denies: does everything allow that has to?
fn grant(
    request: &Request<'_>,
    policies: &Policies<'_>,
    guard: PolicyKind,
    resource: &Say<'_>,
    identity: &Say<'_>,
    boundary: &Say<'_>,
    session: &Say<'_>,
) -> Decision {
    let from_resource = resource.grant();
    let principal = &request.principal;
    let has_identity = !matches!(
        principal.kind,
        PrincipalKind::Service { .. } | PrincipalKind::WebIdentity { .. } | PrincipalKind::Anonymous
    );
    if !has_identity {
        return if from_resource.is_some() { resource.allow() } else { implicit(guard) };
    }
    let same_account = request.resource_account.is_empty() || request.resource_account == principal.account;
    if from_resource.is_none() && (!same_account || guard == PolicyKind::Trust) {
        return implicit(guard);
    }
    if same_account && from_resource == Some(Grant::Direct) {
        return resource.allow();
    }
    let is_root = principal.kind == PrincipalKind::Root;
    let granted_here = same_account && from_resource == Some(Grant::Indirect);
    if !is_root && !granted_here && identity.allowed.is_none() {
        return implicit(PolicyKind::Identity);
    }
    if policies.boundary.is_some() && boundary.allowed.is_none() {
        return implicit(PolicyKind::Boundary);
    }
    if policies.session.is_some() && session.allowed.is_none() {
        return implicit(PolicyKind::Session);
    }
    if identity.allowed.is_some() { identity.allow() } else { resource.allow() }
}

#[cfg(test)]
#[path = "evaluate_tests.rs"]
mod tests;
