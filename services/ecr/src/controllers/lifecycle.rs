//! Expires images as the repositories' lifecycle policies say. (AWS: within 24 hours of their time.)

use std::sync::Arc;
use std::time::Duration;

use ferrogate_control::{Activation, Controller};
use ferrogate_model::Clock;
use ferrogate_store::update_json;
use jiff::Timestamp;
use serde_json::json;

use crate::operations::{images, lifecycle};
use crate::plan::lifecycle::{Policy, expiries};
use crate::state::{self, Change, Place, RepositoryRecord};
use crate::{EcrService, errors};

const PERIOD: Duration = Duration::from_secs(15 * 60);

/// Records removed by one transaction; an image alone has up to a thousand tags.
const OPS_AT_ONCE_MAX: usize = 1000;

pub(crate) struct Lifecycle {
    pub(crate) service: Arc<EcrService>,
    pub(crate) clock: Arc<dyn Clock>,
}

#[async_trait::async_trait]
impl Controller for Lifecycle {
    fn name(&self) -> &'static str {
        "ecr-lifecycle"
    }

    /// None: a policy is applied in its time, as on AWS, so that a preview comes before it.
    fn prefixes(&self) -> Vec<String> {
        Vec::new()
    }

    fn period(&self) -> Duration {
        PERIOD
    }

    async fn activate(&self) -> Activation {
        let now = self.clock.now();
        let (mut evaluated, mut expired) = (0usize, 0usize);
        for (place, _, repositories) in state::everywhere(&*self.service.store, &self.service.options.account)
        {
            for repository in repositories {
                let Some(text) = &repository.lifecycle else { continue };
                match self.apply(&place, &repository, text, now).await {
                    Ok(count) => expired += count,
                    Err(why) => return Activation::failed(format!("{}: {why}", repository.name)),
                }
                evaluated += 1;
            }
        }
        Activation::done(json!({ "repositories": evaluated, "expired_images": expired }))
    }
}

impl Lifecycle {
    async fn apply(
        &self,
        place: &Place,
        record: &RepositoryRecord,
        text: &str,
        now: Timestamp,
    ) -> Result<usize, String> {
        let policy = Policy::parse(text).map_err(|error| error.to_string())?;
        let store = &*self.service.store;
        let gone = || errors::no_repository(&self.service.options.account, &record.name);
        let mut expired = 0;
        // Some at a time, each time judged by what is there when they go.
        loop {
            let removed = state::change_content(store, place, &record.name, gone, |repository| {
                if repository.record.lifecycle.as_deref() != Some(text) {
                    return Ok(Change::none(0));
                }
                let mut tags = repository.tags_by_digest();
                let mut change = Change::none(0);
                for expiry in expiries(&policy, &lifecycle::images(repository), now) {
                    let Some(image) = repository.image(&expiry.digest) else { continue };
                    let tags = tags.remove(&image.digest).unwrap_or_default();
                    if !change.ops.is_empty() && change.ops.len() + tags.len() >= OPS_AT_ONCE_MAX {
                        break;
                    }
                    change.ops.extend(images::remove(repository, &image, &tags, drop).ops);
                    change.result += 1;
                }
                Ok(change)
            });
            match removed.await {
                Ok(0) => break,
                Ok(count) => expired += count,
                Err(error) if error == gone() => return Ok(expired),
                Err(error) => return Err(error.to_string()),
            }
        }
        let key = place.repository(&record.name);
        let noted = update_json(store, &key, |found: Option<RepositoryRecord>| {
            let noted = found.map(|mut found| {
                if found.lifecycle.as_deref() == Some(text) {
                    found.lifecycle_evaluated_at = Some(now);
                }
                found
            });
            Ok::<_, std::convert::Infallible>(noted)
        });
        noted.await.map_err(|error| error.to_string())?;
        Ok(expired)
    }
}
