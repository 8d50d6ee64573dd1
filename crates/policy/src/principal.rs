//! Who asks, and who a policy names.

/// What kind of identity signed the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PrincipalKind<'a> {
    /// The account's root user: allowed everything in its own account that nothing denies.
    Root,
    /// An IAM user.
    User { name: &'a str },
    /// A session of this role (`arn:aws:iam::…:role/…`); [`Principal::arn`] is the session's.
    AssumedRole { role_arn: &'a str },
    /// A session of `sts:GetFederationToken`.
    FederatedUser,
    /// Somebody vouched for by this identity provider: `accounts.google.com`, `arn:aws:iam::…:oidc-provider/…`.
    /// Only a trust policy's `Federated` names it.
    WebIdentity { provider: &'a str },
    /// An AWS service acting for itself: `ecs-tasks.amazonaws.com`.
    Service { name: &'a str },
    /// An unsigned request.
    Anonymous,
}

/// The identity that signed the request.
#[derive(Debug, Clone, Copy)]
pub struct Principal<'a> {
    /// As `sts:GetCallerIdentity` returns it; for a service its name, for nobody `anonymous`.
    pub arn: &'a str,
    /// Twelve digits; empty for a service and for nobody.
    pub account: &'a str,
    pub kind: PrincipalKind<'a>,
    /// `aws:userid`: `AIDA…` of a user, `AROA…:session` of a role session, the account id of root.
    pub id: &'a str,
    /// The principal's tags, session tags included: `aws:PrincipalTag/…`.
    pub tags: &'a [(String, String)],
}

/// How closely a policy names the principal it matches. It decides what else has to allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Grant {
    /// By its account: in that account the grant is only a delegation to identity policies.
    Account,
    /// By `*`, `NotPrincipal`, a role behind a session, a service or a provider.
    Indirect,
    /// By the ARN of the very user or session: boundary and session policy do not limit it.
    Direct,
}

/// One entry under `Principal.AWS`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum AwsEntry {
    Account(String),
    Arn(String),
    /// `AIDA…` or `AROA…`, as AWS rewrites the ARN of a principal that was deleted.
    UniqueId(String),
}

/// The value of `Principal` or `NotPrincipal`.
#[derive(Debug, Default)]
pub(crate) struct PrincipalSpec {
    /// `"*"` or `{"AWS": "*"}`, which mean the same: everybody, services and requests that nobody signed included.
    pub(crate) everybody: bool,
    pub(crate) aws: Vec<AwsEntry>,
    pub(crate) services: Vec<String>,
    pub(crate) federated: Vec<String>,
    /// The whole is a `NotPrincipal`.
    pub(crate) negated: bool,
}

impl PrincipalSpec {
    /// The closest way in which this names `principal`.
    pub(crate) fn matches(&self, principal: &Principal<'_>) -> Option<Grant> {
        let named = self.named(principal);
        if self.negated {
            return named.is_none().then_some(Grant::Indirect);
        }
        named
    }

    fn named(&self, principal: &Principal<'_>) -> Option<Grant> {
        let everybody = self.everybody.then_some(Grant::Indirect);
        let closest = match principal.kind {
            PrincipalKind::Service { name } => {
                self.services.iter().any(|entry| entry.eq_ignore_ascii_case(name)).then_some(Grant::Indirect)
            }
            PrincipalKind::WebIdentity { provider } => {
                self.federated.iter().any(|entry| entry == provider).then_some(Grant::Indirect)
            }
            PrincipalKind::Anonymous => None,
            _ => self.aws.iter().filter_map(|entry| entry.names(principal)).max(),
        };
        closest.max(everybody)
    }
}

impl AwsEntry {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        if is_account_id(text) {
            return Some(Self::Account(text.to_owned()));
        }
        if (text.starts_with("AIDA") || text.starts_with("AROA"))
            && text.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit())
        {
            return Some(Self::UniqueId(text.to_owned()));
        }
        let fields: Vec<&str> = text.splitn(6, ':').collect();
        let ["arn", partition, service @ ("iam" | "sts"), "", account, resource] = fields[..] else {
            return None;
        };
        if partition.is_empty() || !is_account_id(account) || resource.is_empty() {
            return None;
        }
        // A wildcard stands for everybody or not at all: no part of an ARN may hold one.
        if resource.contains(['*', '?']) {
            return None;
        }
        if service == "iam" && resource == "root" {
            return Some(Self::Account(account.to_owned()));
        }
        Some(Self::Arn(text.to_owned()))
    }

    fn names(&self, principal: &Principal<'_>) -> Option<Grant> {
        match self {
            Self::Account(account) => (account == principal.account).then_some(Grant::Account),
            Self::Arn(arn) => match principal.kind {
                _ if arn == principal.arn => Some(Grant::Direct),
                PrincipalKind::AssumedRole { role_arn } => (arn == role_arn).then_some(Grant::Indirect),
                _ => None,
            },
            Self::UniqueId(id) => match principal.kind {
                PrincipalKind::User { .. } => (id == principal.id).then_some(Grant::Direct),
                PrincipalKind::AssumedRole { .. } => (principal.id.split_once(':').map(|(role, _)| role)
                    == Some(id))
                .then_some(Grant::Indirect),
                _ => None,
            },
        }
    }
}

pub(crate) fn is_account_id(text: &str) -> bool {
    text.len() == 12 && text.bytes().all(|b| b.is_ascii_digit())
}
