//! The records, and who writes them: operations only.
//!
//! ```text
//! /iam/<account>/user/<name>         UserRecord
//! /iam/<account>/role/<name>         RoleRecord
//! /iam/<account>/policy/<name>       PolicyRecord (customer managed)
//! /iam/<account>/access-key/<id>     AccessKeyRecord
//! ```
//! Names are unique without case, so keys hold them in lower case.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// What users and roles have in common.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Held {
    pub(crate) name: String,
    /// `/` or `/a/b/`
    pub(crate) path: String,
    /// `AIDA…`, `AROA…`
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

/// A user or a role, so that what is the same for both is written once.
pub(crate) trait Holder: serde::Serialize + serde::de::DeserializeOwned + Clone {
    /// As AWS's messages name it: `user`, `role`.
    const KIND: &'static str;

    fn held(&self) -> &Held;
    fn held_mut(&mut self) -> &mut Held;

    fn arn(&self, account: &str) -> String {
        format!("arn:aws:iam::{account}:{}{}{}", Self::KIND, self.held().path, self.held().name)
    }
}

impl Holder for UserRecord {
    const KIND: &'static str = "user";

    fn held(&self) -> &Held {
        &self.held
    }

    fn held_mut(&mut self) -> &mut Held {
        &mut self.held
    }
}

impl Holder for RoleRecord {
    const KIND: &'static str = "role";

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
