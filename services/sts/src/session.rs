//! Sessions, sealed into their tokens.

use std::sync::Arc;

use ferrogate_api::{Principal, PrincipalKind};
use ferrogate_front::{Credential, CredentialError, Secret};
use ferrogate_model::{hex_id, unique_id};
use ferrogate_store::Sealer;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

/// Where tokens are sealed for.
const PLACE: &str = "sts-session";

#[derive(Serialize, Deserialize)]
struct Session {
    key: String,
    secret: String,
    expires: Timestamp,
    arn: String,
    account: String,
    user_id: String,
    role_arn: String,
    name: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    policies: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    tags: Vec<(String, String)>,
}

/// Credentials as they are handed out.
pub struct Issued {
    pub access_key_id: String,
    pub secret_access_key: String,
    pub session_token: String,
    pub expiration: Timestamp,
}

/// Temporary credentials of an assumed-role session; `None` for a principal that is none.
pub(crate) fn issue(sealer: &Sealer, principal: &Principal, now: Timestamp, seconds: i32) -> Option<Issued> {
    let PrincipalKind::AssumedRole { role_arn, session_name, session_policies } = &principal.kind else {
        return None;
    };
    let session = Session {
        key: unique_id("ASIA"),
        secret: format!("{}{}", hex_id(), &hex_id()[..8]),
        expires: now + SignedDuration::from_secs(i64::from(seconds)),
        arn: principal.arn.clone(),
        account: principal.account.clone(),
        user_id: principal.user_id.clone(),
        role_arn: role_arn.clone(),
        name: session_name.clone(),
        policies: session_policies.clone(),
        tags: principal.tags.clone(),
    };
    let json = serde_json::to_vec(&session).expect("a session has a JSON form");
    Some(Issued {
        session_token: sealer.seal(&json, PLACE),
        access_key_id: session.key,
        secret_access_key: session.secret,
        expiration: session.expires,
    })
}

pub(crate) fn open(
    sealer: &Sealer,
    access_key_id: &str,
    session_token: Option<&str>,
    now: Timestamp,
) -> Result<Credential, CredentialError> {
    let token = session_token.ok_or(CredentialError::InvalidToken)?;
    let json = sealer.unseal(token, PLACE).map_err(|_| CredentialError::InvalidToken)?;
    let session: Session = serde_json::from_slice(&json).map_err(|_| CredentialError::InvalidToken)?;
    if session.key != access_key_id {
        return Err(CredentialError::InvalidToken);
    }
    if session.expires <= now {
        return Err(CredentialError::Expired);
    }
    let principal = Principal {
        arn: session.arn,
        account: session.account,
        user_id: session.user_id,
        kind: PrincipalKind::AssumedRole {
            role_arn: session.role_arn,
            session_name: session.name,
            session_policies: session.policies,
        },
        tags: session.tags,
    };
    Ok(Credential { secret: Secret::new(session.secret), principal: Arc::new(principal) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn principal() -> Principal {
        Principal {
            arn: "arn:aws:sts::123456789012:assumed-role/r/s".into(),
            account: "123456789012".into(),
            user_id: "AROAEXAMPLE:s".into(),
            kind: PrincipalKind::AssumedRole {
                role_arn: "arn:aws:iam::123456789012:role/r".into(),
                session_name: "s".into(),
                session_policies: vec!["{}".into()],
            },
            tags: vec![("k".into(), "v".into())],
        }
    }

    #[test]
    fn a_token_is_its_session_and_only_with_its_key() {
        let sealer = Sealer::ephemeral();
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let issued = issue(&sealer, &principal(), now, 900).unwrap();
        let at = |seconds| now + SignedDuration::from_secs(seconds);
        let found = open(&sealer, &issued.access_key_id, Some(&issued.session_token), at(899)).unwrap();
        assert_eq!(
            (&*found.principal, found.secret.expose()),
            (&principal(), issued.secret_access_key.as_str())
        );
        let error = |key: &str, token: Option<&str>, now| open(&sealer, key, token, now).unwrap_err();
        assert_eq!(
            error(&issued.access_key_id, Some(&issued.session_token), at(900)),
            CredentialError::Expired
        );
        assert_eq!(error(&issued.access_key_id, None, now), CredentialError::InvalidToken);
        assert_eq!(error("ASIAANOTHER", Some(&issued.session_token), now), CredentialError::InvalidToken);
        let mut changed = issued.session_token.clone().into_bytes();
        changed[20] ^= 1;
        let changed = String::from_utf8(changed).unwrap_or_default();
        assert_eq!(error(&issued.access_key_id, Some(&changed), now), CredentialError::InvalidToken);
    }
}
