//! AWS Identity and Access Management: users, groups, access keys, roles, managed and inline policies, the policy
//! simulator, server certificates.
//!
//! Two faces: the API ([`ferrogate_api::iam::Iam`]), which writes the records of [`state`], and what the front asks
//! on every call ([`IamService::credential`], [`IamService::policies`], [`IamService::role`]), answered from the
//! store's snapshot. Secret access keys are kept sealed; they leave once, in CreateAccessKey's answer.
//!
//! Not here yet: instance profiles, login profiles, OpenID Connect providers, account aliases.

mod demands;
mod identity;
mod operations;
mod state;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use ferrogate_policy::Policy;
use ferrogate_store::{Sealer, Store};

pub struct IamService {
    account: String,
    store: Arc<dyn Store>,
    sealer: Arc<Sealer>,
    /// Parsed documents by their text: the same few are evaluated on every call.
    parsed: Mutex<HashMap<String, Arc<Policy>>>,
}

impl IamService {
    pub fn new(account: impl Into<String>, store: Arc<dyn Store>, sealer: Arc<Sealer>) -> Self {
        Self { account: account.into(), store, sealer, parsed: Mutex::default() }
    }
}
