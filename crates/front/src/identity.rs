//! Who a caller is: what the front asks IAM and STS on every call.

use std::fmt;
use std::sync::Arc;

use ferrogate_api::{Principal, PrincipalKind};
use ferrogate_policy::Named;
use jiff::Timestamp;

/// A secret access key. It is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn new(secret: impl Into<String>) -> Self {
        Self(secret.into())
    }

    /// The key itself, for computing signatures.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// An access key that may be used now.
#[derive(Clone, Debug)]
pub struct Credential {
    pub secret: Secret,
    pub principal: Arc<Principal>,
}

/// Why an access key may not be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CredentialError {
    /// There is none, it is inactive, or its owner is gone.
    Unknown,
    /// The session token is missing, or not the key's.
    InvalidToken,
    Expired,
}

/// A role as whoever assumes it must know it.
#[derive(Clone, Debug)]
pub struct Role {
    pub arn: String,
    pub name: String,
    /// `AROA…`
    pub role_id: String,
    pub account: String,
    pub trust: Named,
    pub max_session_seconds: i32,
    pub tags: Vec<(String, String)>,
}

impl Role {
    /// The principal of a session of this role.
    pub fn session(
        &self,
        session_name: &str,
        session_policies: Vec<String>,
        tags: Vec<(String, String)>,
    ) -> Principal {
        let mut all: Vec<(String, String)> = tags;
        for (key, value) in &self.tags {
            if !all.iter().any(|(known, _)| known.eq_ignore_ascii_case(key)) {
                all.push((key.clone(), value.clone()));
            }
        }
        Principal {
            arn: format!("arn:aws:sts::{}:assumed-role/{}/{session_name}", self.account, self.name),
            account: self.account.clone(),
            user_id: format!("{}:{session_name}", self.role_id),
            kind: PrincipalKind::AssumedRole {
                role_arn: self.arn.clone(),
                session_name: session_name.to_owned(),
                session_policies,
            },
            tags: all,
        }
    }
}

/// The policies that are attached to a principal. Session policies travel in the principal itself.
#[derive(Clone, Debug, Default)]
pub struct PrincipalPolicies {
    pub identity: Vec<Named>,
    pub boundary: Option<Named>,
}

/// Answers from the in-memory snapshot of the store: these are on the path of every call.
pub trait Identity: Send + Sync + 'static {
    /// The credential behind an access key, which for a temporary one comes with its session token.
    fn credential(
        &self,
        access_key_id: &str,
        session_token: Option<&str>,
        now: Timestamp,
    ) -> Result<Credential, CredentialError>;

    /// What is attached to a user, or to the role of an assumed-role session. A principal that is gone, or
    /// whose role was made anew under the old name, has nothing attached.
    fn policies(&self, principal: &Principal) -> PrincipalPolicies;

    /// The role, if there is one.
    fn role(&self, role_arn: &str) -> Option<Role>;
}
