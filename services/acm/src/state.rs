//! The records, written by operations only.
//!
//! ```text
//! /acm/<account>/<region>/certificate/<id>         CertificateRecord
//! /certificate-use/<certificate ARN>/<listener id> written by ELB with the listener: the ARN of its load balancer
//! ```

use std::collections::BTreeMap;

use ferrogate_store::Store;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct CertificateRecord {
    pub(crate) arn: String,
    /// PEM, as it came.
    pub(crate) certificate: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) chain: Option<String>,
    /// Sealed for [`place`].
    pub(crate) private_key: String,
    pub(crate) created: Timestamp,
    pub(crate) imported: Timestamp,
    pub(crate) domain_name: String,
    pub(crate) names: Vec<String>,
    pub(crate) subject: String,
    pub(crate) issuer: String,
    pub(crate) serial: String,
    pub(crate) not_before: Timestamp,
    pub(crate) not_after: Timestamp,
    pub(crate) key_algorithm: String,
    pub(crate) signature_algorithm: String,
    pub(crate) key_usages: Vec<String>,
    /// (name, OID)
    pub(crate) extended_key_usages: Vec<(String, String)>,
    #[serde(default)]
    pub(crate) tags: BTreeMap<String, String>,
}

impl CertificateRecord {
    /// The leaf first.
    pub(crate) fn whole_chain(&self) -> String {
        let chain = self.chain.as_deref().unwrap_or_default();
        format!("{}\n{chain}", self.certificate.trim_end())
    }
}

pub(crate) fn prefix(account: &str, region: &str) -> String {
    format!("/acm/{account}/{region}/certificate/")
}

/// The key of an ARN's record; `None`: it is no certificate's ARN.
pub(crate) fn key_of(arn: &str) -> Option<String> {
    let arn: ferrogate_model::Arn = arn.parse().ok()?;
    let id = arn.resource.strip_prefix("certificate/").filter(|id| !id.is_empty() && !id.contains('/'))?;
    (arn.service == "acm").then(|| format!("{}{id}", prefix(&arn.account, &arn.region)))
}

/// What a private key is sealed for.
pub(crate) fn place(arn: &str) -> String {
    format!("certificate/{arn}")
}

/// The load balancers whose listeners use a certificate.
pub(crate) fn in_use_by(store: &dyn Store, arn: &str) -> Vec<String> {
    let uses = store.range(&format!("/certificate-use/{arn}/"));
    let mut arns: Vec<String> =
        uses.iter().map(|kv| String::from_utf8_lossy(&kv.value).into_owned()).collect();
    arns.sort();
    arns.dedup();
    arns
}
