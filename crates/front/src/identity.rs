//! Who a caller is: what the front asks IAM and STS on every call.

use std::fmt;
use std::sync::Arc;

use ferrogate_api::{ApiError, Principal};
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
    /// Temporary credentials: the token that must come with the key.
    pub session_token: Option<String>,
    pub expires: Option<Timestamp>,
    pub principal: Arc<Principal>,
}

/// The policies that are attached to a principal. Session policies travel in the principal itself.
#[derive(Clone, Debug, Default)]
pub struct PrincipalPolicies {
    pub identity: Vec<Named>,
    pub boundary: Option<Named>,
}

/// Answers from the in-memory snapshot of the store: these are on the path of every call.
pub trait Identity: Send + Sync + 'static {
    /// The credential behind an access key; `None` when there is none, it is inactive, or its owner is gone.
    fn credential(&self, access_key_id: &str) -> Option<Credential>;

    /// What is attached to a user, or to the role of an assumed-role session. A principal that is gone has
    /// nothing attached.
    fn policies(&self, principal: &Principal) -> PrincipalPolicies;

    /// The session a service gets when it assumes a customer's role. Refused with AccessDenied unless the
    /// role exists and its trust policy names the service.
    fn assume_for_service(
        &self,
        role_arn: &str,
        service: &str,
        session_name: &str,
    ) -> Result<Arc<Principal>, ApiError>;
}
