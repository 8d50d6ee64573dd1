//! Removes what nobody can read any more: segments past their group's retention, files of deleted groups and
//! streams. Readers never depend on it: they hide expired events by themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use ferrogate_control::{Activation, Controller};
use ferrogate_model::Clock;
use ferrogate_store::range_json;
use jiff::Timestamp;
use serde::Serialize;

use crate::state::{GroupRecord, StreamRecord};
use crate::{LogsError, LogsService};

const PERIOD: Duration = Duration::from_secs(15 * 60);

/// What a sweep removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Swept {
    pub expired_segments: usize,
    pub deleted_groups: usize,
    pub deleted_streams: usize,
}

pub(crate) struct Retention {
    pub(crate) service: LogsService,
    pub(crate) clock: Arc<dyn Clock>,
}

#[async_trait::async_trait]
impl Controller for Retention {
    fn name(&self) -> &'static str {
        "logs-retention"
    }

    /// None: a deletion removes its own files, and expiry is a matter of time.
    fn prefixes(&self) -> Vec<String> {
        Vec::new()
    }

    fn period(&self) -> Duration {
        PERIOD
    }

    async fn activate(&self) -> Activation {
        match sweep(&self.service, self.clock.now()).await {
            Ok(swept) => Activation::done(serde_json::json!(swept)),
            Err(error) => Activation::failed(error.to_string()),
        }
    }
}

pub(crate) async fn sweep(service: &LogsService, now: Timestamp) -> Result<Swept, LogsError> {
    let mut swept = Swept::default();
    let segments = &service.segments;
    // The folders first: a record is there before its folder, so one that is missing afterwards is gone for good.
    let mut folders: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for group in segments.folders("")? {
        let streams = segments.folders(&group)?;
        folders.insert(group, streams);
    }
    let (groups, streams) = records(service);
    for (group, folders) in folders {
        let Some(record) = groups.get(&group) else {
            segments.delete_group(&group).await?;
            swept.deleted_groups += 1;
            continue;
        };
        let cutoff = record.cutoff_ms(now.as_millisecond());
        for stream in folders {
            if !streams.contains(&stream) {
                segments.delete_stream(&group, &stream).await?;
                swept.deleted_streams += 1;
            } else if cutoff > i64::MIN {
                swept.expired_segments += segments.stream(&group, &stream).await?.expire(cutoff).await?;
            }
        }
    }
    Ok(swept)
}

/// Every region's groups by id, and the ids of the streams.
fn records(service: &LogsService) -> (BTreeMap<String, GroupRecord>, BTreeSet<String>) {
    let prefix = format!("/logs/{}/", service.account);
    let (mut groups, mut streams) = (BTreeMap::new(), BTreeSet::new());
    let store = &*service.store;
    // The region is the next part of the key; each region's records are read as what they are.
    let mut last: Option<String> = None;
    while let Some(next) = store.range_from(&prefix, last.as_deref(), 1).first() {
        let Some(region) = next.key[prefix.len()..].split('/').next() else { break };
        let below = crate::state::region_prefix(service, region);
        for found in range_json::<GroupRecord>(store, &format!("{below}group/")) {
            groups.insert(found.record.id.clone(), found.record);
        }
        streams.extend(
            range_json::<StreamRecord>(store, &format!("{below}stream/")).into_iter().map(|s| s.record.id),
        );
        // Beyond every key of the region: '0' follows '/'.
        last = Some(format!("{prefix}{region}0"));
    }
    (groups, streams)
}
