//! What the front asks on every call.

use std::sync::Arc;

use ferrogate_api::{Principal, PrincipalKind};
use ferrogate_front::{Credential, CredentialError, PrincipalPolicies, Role, Secret};
use ferrogate_policy::{DocumentKind, Named, Policy, managed};
use ferrogate_store::get_json;

use crate::IamService;
use crate::state::{
    AccessKeyRecord, GroupRecord, Held, Holder, PolicyRecord, RoleRecord, UserRecord, access_key_key, key,
};

/// Parsed documents kept; beyond that all are parsed anew.
const PARSED_MAX: usize = 4096;

impl IamService {
    /// A user's long-term access key.
    pub fn credential(
        &self,
        access_key_id: &str,
        session_token: Option<&str>,
    ) -> Result<Credential, CredentialError> {
        let record: AccessKeyRecord = get_json(&*self.store, &access_key_key(&self.account, access_key_id))
            .ok_or(CredentialError::Unknown)?
            .record;
        if session_token.is_some() {
            return Err(CredentialError::InvalidToken);
        }
        if !record.active {
            return Err(CredentialError::Unknown);
        }
        let user: UserRecord = self.holder(&record.user).ok_or(CredentialError::Unknown)?;
        let secret = self.sealer.unseal(&record.secret, &place(&record.id)).map_err(|error| {
            tracing::error!(%error, access_key_id, "a secret access key cannot be unsealed");
            CredentialError::Unknown
        })?;
        let secret = String::from_utf8(secret).map_err(|_| CredentialError::Unknown)?;
        let principal = Principal {
            arn: user.arn(&self.account),
            account: self.account.clone(),
            user_id: user.held.id.clone(),
            kind: PrincipalKind::User { name: user.held.name.clone() },
            tags: user.held.tags.into_iter().collect(),
        };
        Ok(Credential { secret: Secret::new(secret), principal: Arc::new(principal) })
    }

    /// What is attached to a principal, by itself or by its groups; nothing, if it is gone.
    pub fn policies(&self, principal: &Principal) -> PrincipalPolicies {
        // A role or user of the same name that was made later is somebody else.
        let id = principal.user_id.split(':').next().unwrap_or_default();
        let (sourced, boundary) = match &principal.kind {
            PrincipalKind::User { name } => match self.holder::<UserRecord>(name) {
                Some(user) if user.held.id == id => (self.user_policies(&user), user.held.boundary),
                _ => return PrincipalPolicies::default(),
            },
            PrincipalKind::AssumedRole { role_arn, .. } => {
                let name = role_arn.rsplit('/').next().unwrap_or_default();
                match self.holder::<RoleRecord>(name) {
                    Some(role) if role.held.id == id => (self.held_policies(&role), role.held.boundary),
                    _ => return PrincipalPolicies::default(),
                }
            }
            PrincipalKind::Root | PrincipalKind::Service { .. } => return PrincipalPolicies::default(),
        };
        PrincipalPolicies {
            identity: sourced.into_iter().map(|sourced| sourced.named).collect(),
            boundary: boundary.map(|arn| self.managed(&arn)),
        }
    }

    /// The role, as whoever assumes it must know it.
    pub fn role(&self, role_arn: &str) -> Option<Role> {
        let name = role_arn.rsplit('/').next()?;
        let role: RoleRecord = self.holder(name)?;
        let arn = role.arn(&self.account);
        if arn != role_arn {
            return None;
        }
        let trust = self.parse(&role.trust, DocumentKind::Trust)?;
        Some(Role {
            arn,
            name: role.held.name,
            role_id: role.held.id,
            account: self.account.clone(),
            trust: Named { name: "trust policy".into(), policy: trust },
            max_session_seconds: role.max_session_seconds,
            tags: role.held.tags.into_iter().collect(),
        })
    }

    pub(crate) fn holder<T: Holder>(&self, name: &str) -> Option<T> {
        get_json(&*self.store, &key(&self.account, T::KIND, name)).map(|found| found.record)
    }

    /// The user's own policies and those of its groups.
    pub(crate) fn user_policies(&self, user: &UserRecord) -> Vec<Sourced> {
        let mut policies = self.held_policies(user);
        for name in &user.groups {
            match self.holder::<GroupRecord>(name) {
                Some(group) => policies.extend(self.held_policies(&group)),
                None => policies.push(Sourced { source: "group", named: allows_nothing(name) }),
            }
        }
        policies
    }

    /// What hangs on this very user, group or role.
    pub(crate) fn held_policies<T: Holder>(&self, holder: &T) -> Vec<Sourced> {
        let Held { inline, attached, .. } = holder.held();
        let inline = inline.iter().map(|(name, document)| {
            let parsed = self.parse(document, DocumentKind::Identity);
            let named = parsed.map(|policy| Named { name: name.as_str().into(), policy });
            Sourced { source: T::KIND, named: named.unwrap_or_else(|| allows_nothing(name)) }
        });
        let attached = attached.iter().map(|arn| {
            let source = if arn.starts_with("arn:aws:iam::aws:") { "aws-managed" } else { "user-managed" };
            Sourced { source, named: self.managed(arn) }
        });
        inline.chain(attached).collect()
    }

    /// A managed policy, AWS's or the customer's, in its default version. One that cannot be read may have been
    /// there to deny, so it allows nothing.
    pub(crate) fn managed(&self, arn: &str) -> Named {
        let document = self.managed_document(arn);
        let policy = document.and_then(|document| self.parse(&document, DocumentKind::Identity));
        policy.map_or_else(|| allows_nothing(arn), |policy| Named { name: arn.into(), policy })
    }

    pub(crate) fn managed_document(&self, arn: &str) -> Option<String> {
        if let Some(known) = managed(arn) {
            return Some(known.document.to_owned());
        }
        let name = arn.rsplit('/').next()?;
        let found = get_json::<PolicyRecord>(&*self.store, &key(&self.account, "policy", name))?.record;
        (found.arn(&self.account) == arn).then(|| found.default_version().document.clone())
    }

    fn parse(&self, document: &str, kind: DocumentKind) -> Option<Arc<Policy>> {
        let mut parsed = self.parsed.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(policy) = parsed.get(document) {
            return Some(Arc::clone(policy));
        }
        match Policy::parse(document, kind) {
            Ok(policy) => {
                if parsed.len() >= PARSED_MAX {
                    parsed.clear();
                }
                parsed.insert(document.to_owned(), Arc::clone(&policy));
                Some(policy)
            }
            Err(error) => {
                tracing::error!(%error, "a stored policy does not parse");
                None
            }
        }
    }
}

/// A policy and what it hangs on, in the simulator's words.
pub(crate) struct Sourced {
    /// `user`, `group`, `role`, `aws-managed`, `user-managed`
    pub(crate) source: &'static str,
    pub(crate) named: Named,
}

/// Where an access key's secret is sealed for.
pub(crate) fn place(access_key_id: &str) -> String {
    format!("access-key/{access_key_id}")
}

fn allows_nothing(name: &str) -> Named {
    const NOTHING: &str =
        r#"{"Version":"2012-10-17","Statement":[{"Effect":"Deny","Action":"*","Resource":"*"}]}"#;
    let policy = Policy::parse(NOTHING, DocumentKind::Identity).expect("a constant policy parses");
    Named { name: name.into(), policy }
}
