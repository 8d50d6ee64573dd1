//! The records in the store. Route 53 is a global service: no region in its keys.
//!
//! ```text
//! /route53/<account>/zone/<zone id>                                ZoneRecord
//! /route53/<account>/set/<zone id>/<name>/<type>/<set identifier>  SetRecord
//! /route53/<account>/change/<change id>                            ChangeRecord
//! /route53/<account>/reference/<caller reference>                  zone id
//! /route53/<account>/seat/<vpc id>/<zone name>                     zone id (operations/vpcs.rs)
//! ```
//!
//! The operations write all fields. Every change of a zone's record sets writes its `ZoneRecord` too, so that one batch
//! after the other goes through.

use std::collections::BTreeMap;

use ferrogate_api::{ApiError, Context};
use ferrogate_store::{Json, Txn, get_json, range_json};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{Route53Service, errors};

/// Attempts of a change; each one lost means that somebody else got through.
const ATTEMPTS_MAX: usize = 64;
/// Changes that GetChange knows of an account; older ones are forgotten.
const CHANGES_MAX: usize = 500;
pub(crate) const PREFIX: &str = "/route53/";

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ZoneRecord {
    /// `Z…`
    pub id: String,
    /// Normal form: lower case, no dot at the end.
    pub name: String,
    pub caller_reference: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    pub private: bool,
    /// Of a private zone; never empty there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub vpcs: Vec<VpcRecord>,
    /// The service that made it, `servicediscovery.amazonaws.com`, and alone changes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub linked_service: Option<String>,
    /// Of a public zone: its four.
    pub name_servers: Vec<String>,
    pub record_count: u32,
    /// How many record sets are aliases of others in the zone. `None`: not counted yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inner_aliases: Option<u32>,
    pub created_at: Timestamp,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct VpcRecord {
    pub vpc_id: String,
    pub region: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct SetRecord {
    /// Normal form.
    pub name: String,
    pub kind: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub set_identifier: Option<String>,
    /// `None`: an alias.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_seconds: Option<u32>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alias: Option<AliasRecord>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u8>,
    #[serde(default)]
    pub multivalue: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct AliasRecord {
    pub zone_id: String,
    /// Normal form.
    pub name: String,
    pub evaluate_target_health: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ChangeRecord {
    pub submitted_at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
}

/// What makes a set one of its own: (name, type, set identifier).
pub(crate) type SetId = (String, String, Option<String>);

impl SetRecord {
    pub(crate) fn id(&self) -> SetId {
        (self.name.clone(), self.kind.clone(), self.set_identifier.clone())
    }
}

impl ZoneRecord {
    /// What may not be deleted: the NS and SOA of the zone itself.
    pub(crate) fn required(&self, set: &SetRecord) -> bool {
        set.name == self.name && (set.kind == "NS" || set.kind == "SOA")
    }
}

pub(crate) fn account_prefix(account: &str) -> String {
    format!("{PREFIX}{account}/")
}

pub(crate) fn zone_key(account: &str, id: &str) -> String {
    format!("{PREFIX}{account}/zone/{id}")
}

pub(crate) fn reference_key(account: &str, reference: &str) -> String {
    format!("{PREFIX}{account}/reference/{reference}")
}

pub(crate) fn sets_prefix(account: &str, zone_id: &str) -> String {
    format!("{PREFIX}{account}/set/{zone_id}/")
}

pub(crate) fn set_key(account: &str, zone_id: &str, (name, kind, identifier): &SetId) -> String {
    // A slash in an identifier or a name changes no other key: the type between them has none.
    format!("{}{name}/{kind}/{}", sets_prefix(account, zone_id), identifier.as_deref().unwrap_or_default())
}

pub(crate) fn change_key(account: &str, id: &str) -> String {
    format!("{PREFIX}{account}/change/{id}")
}

/// `/hostedzone/Z123` and `Z123` are the same.
pub(crate) fn bare_id(id: &str) -> &str {
    id.rsplit('/').next().unwrap_or(id)
}

impl Route53Service {
    pub(crate) fn zones(&self, cx: &Context) -> Vec<ZoneRecord> {
        let prefix = account_prefix(&cx.account) + "zone/";
        range_json::<ZoneRecord>(&*self.store, &prefix).into_iter().map(|found| found.record).collect()
    }

    pub(crate) fn find_zone(&self, cx: &Context, id: &str) -> Option<Json<ZoneRecord>> {
        get_json(&*self.store, &zone_key(&cx.account, bare_id(id)))
    }

    pub(crate) fn zone(&self, cx: &Context, id: Option<&str>) -> Result<Json<ZoneRecord>, ApiError> {
        let id = bare_id(id.unwrap_or_default());
        self.find_zone(cx, id).ok_or_else(|| errors::no_zone(id))
    }

    pub(crate) fn sets(&self, cx: &Context, zone_id: &str) -> Vec<SetRecord> {
        let found = range_json::<SetRecord>(&*self.store, &sets_prefix(&cx.account, zone_id));
        found.into_iter().map(|found| found.record).collect()
    }

    /// Decides on a change of a zone and commits it; again if somebody else was quicker. Returns the change's id.
    pub(crate) async fn change_zone(
        &self,
        cx: &Context,
        id: Option<&str>,
        comment: Option<String>,
        mut decide: impl FnMut(&ZoneRecord, Txn) -> Result<(Option<ZoneRecord>, Txn), ApiError>,
    ) -> Result<String, ApiError> {
        for _ in 0..ATTEMPTS_MAX {
            let found = self.zone(cx, id)?;
            let txn = Txn::new().when_revision(&*found.key, found.mod_revision);
            let (zone, txn) = decide(&found.record, txn)?;
            let txn = match &zone {
                Some(zone) => txn.put_json(&*found.key, zone),
                None => txn.delete(&*found.key),
            };
            let (change_id, txn) = self.record_change(cx, comment.clone(), txn);
            if self.store.txn(txn).await.map_err(errors::store)?.succeeded {
                return Ok(change_id);
            }
        }
        Err(errors::contended())
    }

    /// With the record of the change, whose revision says when resolvers have it.
    pub(crate) fn record_change(&self, cx: &Context, comment: Option<String>, mut txn: Txn) -> (String, Txn) {
        let change_id = ferrogate_model::unique_id("C");
        let known = self.store.range(&(account_prefix(&cx.account) + "change/"));
        if known.len() >= CHANGES_MAX {
            let mut oldest: Vec<_> = known.iter().map(|kv| (kv.create_revision, &kv.key)).collect();
            oldest.sort_unstable();
            for (_, key) in oldest.iter().take(known.len() + 1 - CHANGES_MAX) {
                txn = txn.delete(&***key);
            }
        }
        let record = ChangeRecord { submitted_at: cx.now, comment };
        (change_id.clone(), txn.put_json(change_key(&cx.account, &change_id), &record))
    }
}
