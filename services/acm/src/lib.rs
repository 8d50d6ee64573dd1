//! AWS Certificate Manager: certificates that were imported.
//!
//! A certificate is checked for real when it comes: it parses, it is valid now, the private key is its own, and each
//! certificate of the chain issued the one before it. Private keys are kept sealed and leave by
//! [`AcmService::certificate`] only, for the listeners of load balancers. Which listeners use a certificate is read
//! from what ELB writes with its listeners (`/certificate-use/`): such a certificate cannot be deleted.
//!
//! Not here: requested certificates (nobody here can issue one that the world trusts), private CAs, renewal, export.

mod demands;
mod errors;
mod operations;
mod state;

use std::sync::Arc;

use ferrogate_nodeapi::Certificate;
use ferrogate_store::{Sealer, Store, get_json};

use state::CertificateRecord;

/// The ACM API over a store; [`ferrogate_api::acm::Acm`] is implemented for it.
pub struct AcmService {
    store: Arc<dyn Store>,
    sealer: Arc<Sealer>,
}

impl AcmService {
    pub fn new(store: Arc<dyn Store>, sealer: Arc<Sealer>) -> Self {
        Self { store, sealer }
    }

    /// A certificate with its chain and key, in PEM; `None`: there is none of that ARN.
    pub fn certificate(&self, arn: &str) -> Option<Certificate> {
        let record = get_json::<CertificateRecord>(&*self.store, &state::key_of(arn)?)?.record;
        let key = self.sealer.unseal(&record.private_key, &state::place(arn));
        let key =
            key.inspect_err(|error| tracing::error!(%error, arn, "a private key cannot be opened")).ok()?;
        Some(Certificate { chain_pem: record.whole_chain(), private_key_pem: String::from_utf8(key).ok()? })
    }
}
