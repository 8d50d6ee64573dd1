//! What came out, and how AWS says it.

use std::sync::Arc;

use crate::evaluate::Request;

/// Whether the request may go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Allow,
    /// A statement with `"Effect": "Deny"` applies.
    ExplicitDeny,
    /// Nothing that has to allow it does.
    ImplicitDeny,
}

/// What a policy is attached to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PolicyKind {
    Identity,
    Boundary,
    Session,
    Resource,
    /// A role's trust policy.
    Trust,
    ServiceControl,
}

/// The statement that decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Match {
    pub kind: PolicyKind,
    /// The policy's ARN or inline name, as given in [`crate::Named`].
    pub policy: Arc<str>,
    /// Index in the document, from 0.
    pub statement: usize,
    pub sid: Option<Arc<str>>,
}

/// The answer to one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    pub outcome: Outcome,
    /// The statement that allowed or explicitly denied. `None` for an implicit denial, and where the root user
    /// needs no policy.
    pub matched: Option<Match>,
    /// For an implicit denial: the kind of policy that would have had to allow.
    pub missing: Option<PolicyKind>,
}

impl Decision {
    pub fn is_allowed(&self) -> bool {
        self.outcome == Outcome::Allow
    }

    /// AWS's message for the denial of `request` ("Troubleshoot access denied error messages", IAM User Guide).
    /// Meaningless when allowed.
    pub fn message(&self, request: &Request<'_>) -> String {
        let action = request.action;
        let mut words = format!("User: {} is not authorized to perform: {action}", request.principal.arn);
        if !request.resource.is_empty() {
            words.push_str(" on resource: ");
            words.push_str(request.resource);
        }
        match (self.outcome, &self.matched, self.missing) {
            (Outcome::ExplicitDeny, Some(matched), _) => {
                words.push_str(match matched.kind {
                    PolicyKind::Identity => " with an explicit deny in an identity-based policy",
                    PolicyKind::Boundary => " with an explicit deny in a permissions boundary",
                    PolicyKind::Session => " with an explicit deny in a session policy",
                    PolicyKind::Resource => " with an explicit deny in a resource-based policy",
                    PolicyKind::Trust => " with an explicit deny in the role trust policy",
                    PolicyKind::ServiceControl => " with an explicit deny in a service control policy",
                });
            }
            (Outcome::ImplicitDeny, _, Some(missing)) => {
                let kind = match missing {
                    PolicyKind::Identity => "identity-based policy",
                    PolicyKind::Boundary => "permissions boundary",
                    PolicyKind::Session => "session policy",
                    PolicyKind::Resource => "resource-based policy",
                    PolicyKind::Trust => "role trust policy",
                    PolicyKind::ServiceControl => "service control policy",
                };
                words.push_str(&format!(" because no {kind} allows the {action} action"));
            }
            _ => {}
        }
        words
    }
}
