//! AWS Security Token Service: temporary credentials.
//!
//! Credentials are not stored. The session token is the session itself, sealed: the key pair, the principal and
//! the end of it. Whoever presents a token that unseals, with a signature by the key inside, is that session; a
//! session of a role that is gone (or was made anew) has no rights left, since policies are looked up on every call.
//!
//! Not here: SAML, web identity (it comes with EKS), federation tokens, session tokens for users.

mod operations;
mod session;

use std::sync::Arc;

use ferrogate_front::{Credential, CredentialError, Identity};
use ferrogate_store::Sealer;
use jiff::Timestamp;

pub use session::Issued;

pub struct StsService {
    account: String,
    identity: Arc<dyn Identity>,
    sealer: Arc<Sealer>,
}

impl StsService {
    /// `identity` answers for roles and for what is attached to callers.
    pub fn new(account: impl Into<String>, identity: Arc<dyn Identity>, sealer: Arc<Sealer>) -> Self {
        Self { account: account.into(), identity, sealer }
    }
}

/// Temporary access keys, `ASIA…`, with their token.
pub fn credential(
    sealer: &Sealer,
    access_key_id: &str,
    session_token: Option<&str>,
    now: Timestamp,
) -> Result<Credential, CredentialError> {
    session::open(sealer, access_key_id, session_token, now)
}
