//! A parsed document, ready to be evaluated.

use std::{collections::BTreeSet, sync::Arc};

use crate::{
    condition::Condition,
    error::MalformedPolicy,
    evaluate::Request,
    parse,
    pattern::{ActionPattern, Pattern},
    principal::{Grant, PrincipalSpec},
};

/// The longest document read, in bytes: IAM's limit for the parameter. The quotas of each kind of policy are
/// smaller and count without white space: [`size_without_whitespace`].
pub const MAX_DOCUMENT_BYTES: usize = 131_072;
/// The deepest nesting a document may have: the language itself needs six levels.
pub const MAX_DEPTH: usize = 12;
/// The most statements in one document.
pub const MAX_STATEMENTS: usize = 1000;

/// Where a document is to be attached; it decides which elements it must and must not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DocumentKind {
    /// Managed and inline policies of users, groups and roles, boundaries, session policies, service control
    /// policies: no `Principal`.
    Identity,
    /// A role's trust policy: `Principal`, no `Resource`.
    Trust,
    /// Policies on resources (ECR repositories, secrets, keys, buckets): `Principal`; `Resource` may be left out
    /// where the resource is clear.
    Resource,
}

/// A parsed policy document.
#[derive(Debug)]
pub struct Policy {
    pub(crate) kind: DocumentKind,
    pub(crate) statements: Vec<Statement>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effect {
    Allow,
    Deny,
}

/// A list that must match, or must not (`NotAction`, `NotResource`).
#[derive(Debug)]
pub(crate) struct Set<T> {
    pub(crate) negated: bool,
    pub(crate) items: Vec<T>,
}

#[derive(Debug)]
pub(crate) struct Statement {
    pub(crate) sid: Option<Arc<str>>,
    pub(crate) effect: Effect,
    pub(crate) principal: Option<PrincipalSpec>,
    pub(crate) actions: Set<ActionPattern>,
    /// `None`: the resource the policy is attached to.
    pub(crate) resources: Option<Set<Pattern>>,
    pub(crate) conditions: Vec<Condition>,
}

/// What one policy says to one request.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    /// The first statement that denies.
    pub(crate) denied: Option<usize>,
    /// The first of the statements that allow most directly.
    pub(crate) allowed: Option<(usize, Grant)>,
}

impl Policy {
    /// Parses a document as it is to be attached.
    ///
    /// # Errors
    /// [`MalformedPolicy`] with AWS's message.
    pub fn parse(text: &str, kind: DocumentKind) -> Result<Arc<Self>, MalformedPolicy> {
        parse::policy(text, kind).map(Arc::new)
    }

    /// Every condition key and variable the document names, as written: `iam:GetContextKeysForCustomPolicy`.
    pub fn context_keys(&self) -> BTreeSet<&str> {
        let mut keys = BTreeSet::new();
        for statement in &self.statements {
            for pattern in statement.resources.iter().flat_map(|set| &set.items) {
                keys.extend(pattern.variables());
            }
            for condition in &statement.conditions {
                condition.context_keys(&mut keys);
            }
        }
        keys
    }

    pub(crate) fn judge(&self, request: &Request<'_>) -> Verdict {
        let mut verdict = Verdict::default();
        for (index, statement) in self.statements.iter().enumerate() {
            let Some(grant) = statement.applies(request) else { continue };
            match statement.effect {
                Effect::Deny => {
                    verdict.denied = Some(index);
                    break;
                }
                Effect::Allow if verdict.allowed.is_none_or(|(_, best)| grant > best) => {
                    verdict.allowed = Some((index, grant));
                }
                Effect::Allow => {}
            }
        }
        verdict
    }
}

impl Statement {
    /// Whether the statement is about this request, and how closely it names the principal. Cheapest test first.
    fn applies(&self, request: &Request<'_>) -> Option<Grant> {
        let action = self.actions.items.iter().any(|pattern| pattern.matches(request.action));
        if action == self.actions.negated {
            return None;
        }
        let grant = match &self.principal {
            Some(spec) => spec.matches(&request.principal)?,
            None => Grant::Direct,
        };
        if let Some(resources) = &self.resources
            && !self.covers(resources, request)
        {
            return None;
        }
        self.conditions.iter().all(|condition| condition.holds(request)).then_some(grant)
    }

    fn covers(&self, resources: &Set<Pattern>, request: &Request<'_>) -> bool {
        let named = resources.items.iter().any(|pattern| {
            match pattern.resolve(request) {
                Some(resolved) => resolved.matches(request.resource),
                // A variable without a value is like nothing. Under `Allow` + `NotResource` "like nothing" would
                // grant everything, so there it counts as named.
                None => resources.negated && self.effect == Effect::Allow,
            }
        });
        named != resources.negated
    }
}

/// The size that IAM's quotas count: characters other than white space.
pub fn size_without_whitespace(text: &str) -> usize {
    text.chars().filter(|c| !c.is_whitespace()).count()
}
