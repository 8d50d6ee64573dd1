//! The records, and who writes them: operations only.
//!
//! ```text
//! /iam/<account>/user/<name>         UserRecord
//! /iam/<account>/group/<name>        GroupRecord
//! /iam/<account>/role/<name>         RoleRecord
//! /iam/<account>/policy/<name>       PolicyRecord (customer managed)
//! /iam/<account>/access-key/<id>     AccessKeyRecord
//! /iam/<account>/server-certificate/<name>  ServerCertificateRecord
//! /certificate-use/<certificate ARN>/…      written by ELB with a listener: the ARN of its load balancer
//! ```
//! Names are unique without case, so keys hold them in lower case. A membership is in the user's record and in the
//! group's, written together: whoever deletes one of them sees the other in the record that is deleted.
//!
//! Whoever attaches a customer managed policy puts the policy's record again as it is, so that its deletion, which
//! compares the revision, and an attachment at the same time exclude each other.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Where service-linked roles are.
pub(crate) const SERVICE_ROLE_PATH: &str = "/aws-service-role/";

/// What users, groups and roles have in common. (Groups have no tags and no boundary.)
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Held {
    pub(crate) name: String,
    /// `/` or `/a/b/`
    pub(crate) path: String,
    /// `AIDA…`, `AGPA…`, `AROA…`
    pub(crate) id: String,
    pub(crate) created: Timestamp,
    #[serde(default)]
    pub(crate) tags: BTreeMap<String, String>,
    /// Documents by policy name.
    #[serde(default)]
    pub(crate) inline: BTreeMap<String, String>,
    /// ARNs of managed policies.
    #[serde(default)]
    pub(crate) attached: BTreeSet<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) boundary: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct UserRecord {
    #[serde(flatten)]
    pub(crate) held: Held,
    #[serde(default)]
    pub(crate) access_keys: BTreeSet<String>,
    /// Names of the groups in lower case, as in their keys.
    #[serde(default)]
    pub(crate) groups: BTreeSet<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct GroupRecord {
    #[serde(flatten)]
    pub(crate) held: Held,
    /// Names of the users in lower case, as in their keys.
    #[serde(default)]
    pub(crate) members: BTreeSet<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct RoleRecord {
    #[serde(flatten)]
    pub(crate) held: Held,
    pub(crate) trust: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) description: Option<String>,
    pub(crate) max_session_seconds: i32,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct AccessKeyRecord {
    pub(crate) id: String,
    pub(crate) user: String,
    /// Sealed for the place `access-key/<id>`.
    pub(crate) secret: String,
    pub(crate) active: bool,
    pub(crate) created: Timestamp,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ServerCertificateRecord {
    pub(crate) name: String,
    pub(crate) path: String,
    /// `ASCA…`
    pub(crate) id: String,
    /// PEM, as it came.
    pub(crate) certificate: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) chain: Option<String>,
    /// Sealed for the place `server-certificate/<id>`.
    pub(crate) private_key: String,
    pub(crate) uploaded: Timestamp,
    pub(crate) expires: Timestamp,
    #[serde(default)]
    pub(crate) tags: BTreeMap<String, String>,
}

impl ServerCertificateRecord {
    pub(crate) fn arn(&self, account: &str) -> String {
        format!("arn:aws:iam::{account}:server-certificate{}{}", self.path, self.name)
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct PolicyRecord {
    pub(crate) name: String,
    pub(crate) path: String,
    /// `ANPA…`
    pub(crate) id: String,
    pub(crate) created: Timestamp,
    pub(crate) updated: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) description: Option<String>,
    #[serde(default)]
    pub(crate) tags: BTreeMap<String, String>,
    pub(crate) versions: Vec<PolicyVersionRecord>,
    /// Version numbers are not used twice.
    pub(crate) last_version: u32,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct PolicyVersionRecord {
    pub(crate) number: u32,
    pub(crate) document: String,
    pub(crate) default: bool,
    pub(crate) created: Timestamp,
}

impl PolicyRecord {
    pub(crate) fn arn(&self, account: &str) -> String {
        format!("arn:aws:iam::{account}:policy{}{}", self.path, self.name)
    }

    /// There always is one: the first version is made default, and a default cannot be deleted.
    pub(crate) fn default_version(&self) -> &PolicyVersionRecord {
        self.versions.iter().find(|version| version.default).unwrap_or(&self.versions[0])
    }
}

/// A user, a group or a role, so that what is the same for all is written once.
pub(crate) trait Holder: serde::Serialize + serde::de::DeserializeOwned + Clone {
    /// As AWS's messages name it: `user`, `group`, `role`.
    const KIND: &'static str;
    /// Characters of all inline policies together.
    const INLINE_CHARACTERS_MAX: usize;
    /// What the quota of attached policies is called.
    const ATTACHED_QUOTA: &'static str;

    fn held(&self) -> &Held;
    fn held_mut(&mut self) -> &mut Held;

    /// A service-linked role, which only its service may change.
    fn is_protected(&self) -> bool {
        false
    }

    fn arn(&self, account: &str) -> String {
        format!("arn:aws:iam::{account}:{}{}{}", Self::KIND, self.held().path, self.held().name)
    }
}

impl Holder for UserRecord {
    const KIND: &'static str = "user";
    const INLINE_CHARACTERS_MAX: usize = 2_048;
    const ATTACHED_QUOTA: &'static str = "PoliciesPerUser";

    fn held(&self) -> &Held {
        &self.held
    }

    fn held_mut(&mut self) -> &mut Held {
        &mut self.held
    }
}

impl Holder for GroupRecord {
    const KIND: &'static str = "group";
    const INLINE_CHARACTERS_MAX: usize = 5_120;
    const ATTACHED_QUOTA: &'static str = "PoliciesPerGroup";

    fn held(&self) -> &Held {
        &self.held
    }

    fn held_mut(&mut self) -> &mut Held {
        &mut self.held
    }
}

impl Holder for RoleRecord {
    const KIND: &'static str = "role";
    const INLINE_CHARACTERS_MAX: usize = 10_240;
    const ATTACHED_QUOTA: &'static str = "PoliciesPerRole";

    fn is_protected(&self) -> bool {
        self.held.path.starts_with(SERVICE_ROLE_PATH)
    }

    fn held(&self) -> &Held {
        &self.held
    }

    fn held_mut(&mut self) -> &mut Held {
        &mut self.held
    }
}

pub(crate) fn prefix(account: &str, kind: &str) -> String {
    format!("/iam/{account}/{kind}/")
}

pub(crate) fn key(account: &str, kind: &str, name: &str) -> String {
    format!("/iam/{account}/{kind}/{}", name.to_lowercase())
}

pub(crate) fn access_key_key(account: &str, id: &str) -> String {
    format!("/iam/{account}/access-key/{id}")
}
