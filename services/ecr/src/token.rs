//! Tokens: what they say is sealed into them, so none is kept.
//!
//! A registry token is the principal who asked for it, for twelve hours; what it may do is asked of IAM on every
//! use. A layer token is one layer of one repository, for an hour, for whoever has it, as AWS's presigned URLs are.

use ferrogate_api::{Principal, PrincipalKind};
use ferrogate_store::Sealer;
use jiff::{SignedDuration, Timestamp};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

const REGISTRY: &str = "ecr-registry-token";
const LAYER: &str = "ecr-layer-token";
/// GetAuthorizationToken: "The authorization token is valid for 12 hours."
pub(crate) const REGISTRY_TOKEN_LIFE: SignedDuration = SignedDuration::from_hours(12);
const LAYER_TOKEN_LIFE: SignedDuration = SignedDuration::from_hours(1);
/// A longer text is no token; session policies make them long.
pub(crate) const TOKEN_BYTES_MAX: usize = 48 << 10;

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum TokenError {
    Invalid,
    Expired,
}

#[derive(Serialize, Deserialize)]
struct Holder {
    expires: Timestamp,
    arn: String,
    account: String,
    user_id: String,
    kind: HolderKind,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    tags: Vec<(String, String)>,
}

#[derive(Serialize, Deserialize)]
enum HolderKind {
    Root,
    User { name: String },
    Role { role_arn: String, session: String, policies: Vec<String> },
    Service { name: String },
}

pub(crate) fn for_registry(sealer: &Sealer, principal: &Principal, now: Timestamp) -> (String, Timestamp) {
    let expires = now + REGISTRY_TOKEN_LIFE;
    let holder = Holder {
        expires,
        arn: principal.arn.clone(),
        account: principal.account.clone(),
        user_id: principal.user_id.clone(),
        kind: match principal.kind.clone() {
            PrincipalKind::Root => HolderKind::Root,
            PrincipalKind::User { name } => HolderKind::User { name },
            PrincipalKind::AssumedRole { role_arn, session_name, session_policies } => {
                HolderKind::Role { role_arn, session: session_name, policies: session_policies }
            }
            PrincipalKind::Service { name } => HolderKind::Service { name },
        },
        tags: principal.tags.clone(),
    };
    (seal(sealer, &holder, REGISTRY), expires)
}

pub(crate) fn holder(sealer: &Sealer, token: &str, now: Timestamp) -> Result<Principal, TokenError> {
    let holder: Holder = unseal(sealer, token, REGISTRY)?;
    if holder.expires <= now {
        return Err(TokenError::Expired);
    }
    Ok(Principal {
        arn: holder.arn,
        account: holder.account,
        user_id: holder.user_id,
        kind: match holder.kind {
            HolderKind::Root => PrincipalKind::Root,
            HolderKind::User { name } => PrincipalKind::User { name },
            HolderKind::Role { role_arn, session, policies } => {
                PrincipalKind::AssumedRole { role_arn, session_name: session, session_policies: policies }
            }
            HolderKind::Service { name } => PrincipalKind::Service { name },
        },
        tags: holder.tags,
    })
}

/// One layer of one repository.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct LayerTicket {
    pub(crate) expires: Timestamp,
    pub(crate) region: String,
    pub(crate) repository: String,
    pub(crate) digest: String,
}

pub(crate) fn for_layer(
    sealer: &Sealer,
    region: &str,
    repository: &str,
    digest: &str,
    now: Timestamp,
) -> String {
    let ticket = LayerTicket {
        expires: now + LAYER_TOKEN_LIFE,
        region: region.to_owned(),
        repository: repository.to_owned(),
        digest: digest.to_owned(),
    };
    seal(sealer, &ticket, LAYER)
}

pub(crate) fn layer(sealer: &Sealer, token: &str, now: Timestamp) -> Result<LayerTicket, TokenError> {
    let ticket: LayerTicket = unseal(sealer, token, LAYER)?;
    if ticket.expires <= now { Err(TokenError::Expired) } else { Ok(ticket) }
}

fn seal(sealer: &Sealer, what: &impl Serialize, place: &str) -> String {
    // `aws ecr get-login-password` takes a password apart at colons; the sealed form has one, behind its version.
    sealer.seal(&serde_json::to_vec(what).expect("a token has a JSON form"), place).replacen(':', ".", 1)
}

fn unseal<T: DeserializeOwned>(sealer: &Sealer, token: &str, place: &str) -> Result<T, TokenError> {
    if token.len() > TOKEN_BYTES_MAX {
        return Err(TokenError::Invalid);
    }
    let json = sealer.unseal(&token.replacen('.', ":", 1), place).map_err(|_| TokenError::Invalid)?;
    serde_json::from_slice(&json).map_err(|_| TokenError::Invalid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_its_principal_until_it_ends() {
        let sealer = Sealer::ephemeral();
        let now: Timestamp = "2026-11-21T08:00:00Z".parse().unwrap();
        let principal = Principal {
            arn: "arn:aws:sts::123456789012:assumed-role/r/s".into(),
            account: "123456789012".into(),
            user_id: "AROAX:s".into(),
            kind: PrincipalKind::AssumedRole {
                role_arn: "arn:aws:iam::123456789012:role/r".into(),
                session_name: "s".into(),
                session_policies: vec!["{}".into()],
            },
            tags: vec![("k".into(), "v".into())],
        };
        let (token, expires) = for_registry(&sealer, &principal, now);
        assert_eq!(expires, now + SignedDuration::from_hours(12));
        assert!(!token.contains(':'), "{token}");
        assert_eq!(holder(&sealer, &token, expires - SignedDuration::from_secs(1)), Ok(principal));
        assert_eq!(holder(&sealer, &token, expires), Err(TokenError::Expired));
        assert_eq!(holder(&Sealer::ephemeral(), &token, now), Err(TokenError::Invalid));
        // One kind of token is not the other.
        assert_eq!(layer(&sealer, &token, now), Err(TokenError::Invalid));
        let ticket = for_layer(&sealer, "us-east-1", "app", "sha256:0", now);
        assert_eq!(holder(&sealer, &ticket, now), Err(TokenError::Invalid));
        assert_eq!(layer(&sealer, &ticket, now).unwrap().repository, "app");
    }
}
