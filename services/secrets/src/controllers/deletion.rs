//! Deletes secrets whose recovery window is over, values first to last in the same transaction.

use std::sync::Arc;
use std::time::Duration;

use ferrogate_control::{Activation, Controller};
use ferrogate_model::Clock;
use ferrogate_store::{Json, Store, Txn};
use jiff::Timestamp;

use crate::state::{SecretRecord, values_prefix};

const PERIOD: Duration = Duration::from_secs(10 * 60);
const ROOT: &str = "/secretsmanager/";

pub(crate) struct Deletion {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) clock: Arc<dyn Clock>,
}

#[async_trait::async_trait]
impl Controller for Deletion {
    fn name(&self) -> &'static str {
        "secretsmanager-deletion"
    }

    /// None: a window's end is a matter of time, and the shortest is a week.
    fn prefixes(&self) -> Vec<String> {
        Vec::new()
    }

    fn period(&self) -> Duration {
        PERIOD
    }

    async fn activate(&self) -> Activation {
        let due = due(&*self.store, self.clock.now());
        let mut deleted = 0;
        for found in due {
            let mut txn = Txn::new().when_revision(&*found.key, found.mod_revision).delete(&*found.key);
            if let Some(values) = values_prefix(&found.key, &found.record) {
                txn = txn.delete_prefix(values);
            }
            match self.store.txn(txn).await {
                // Else somebody restored it meanwhile.
                Ok(result) => deleted += usize::from(result.succeeded),
                Err(error) => return Activation::failed(error.to_string()),
            }
        }
        Activation::done(serde_json::json!({ "deleted": deleted }))
    }
}

/// In all accounts and regions.
fn due(store: &dyn Store, now: Timestamp) -> Vec<Json<SecretRecord>> {
    let is_secret = |key: &str| {
        let mut parts = key[ROOT.len()..].splitn(4, '/');
        parts.nth(2) == Some("secret")
    };
    let listing = store.range(ROOT);
    let secrets = listing.iter().filter(|kv| is_secret(&kv.key)).filter_map(Json::<SecretRecord>::parse);
    secrets.filter(|found| found.record.delete_at.is_some_and(|at| at <= now)).collect()
}
