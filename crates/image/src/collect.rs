//! Making room: images nobody uses go, longest unused first.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use crate::digest::Digest;
use crate::error::StoreError;
use crate::store::{ImageStore, Inner, Record, blocking};

/// When to begin and where to stop, in bytes of unpacked layers and what was made of them.
#[derive(Clone, Copy, Debug)]
pub struct Watermarks {
    pub high_bytes: u64,
    pub low_bytes: u64,
}

/// What a collection did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// Manifest digests.
    pub removed: Vec<Digest>,
    /// Of unpacked layers, and what was made of them.
    pub freed_bytes: u64,
    pub left_bytes: u64,
}

impl ImageStore {
    /// Above the high mark, removes images until the low one, longest unused first; never one that is pinned by an
    /// [`crate::Image`] or whose manifest or index digest is in `keep`. Layers of no image go always.
    ///
    /// # Errors
    /// The disk fails.
    pub async fn collect(&self, keep: &HashSet<Digest>, marks: Watermarks) -> Result<Collected, StoreError> {
        let (inner, keep) = (Arc::clone(&self.0), keep.clone());
        blocking(move || inner.collect(&keep, marks)).await
    }
}

impl Inner {
    /// Blocking.
    pub(crate) fn collect(&self, keep: &HashSet<Digest>, marks: Watermarks) -> Result<Collected, StoreError> {
        let mut records = self.records();
        let mut collected = Collected { freed_bytes: self.sweep(&records)?, ..Collected::default() };
        let mut left = bytes(self, &records);
        if left > marks.high_bytes {
            let mut order: Vec<Record> = records
                .values()
                .filter(|record| {
                    !keep.contains(&record.manifest)
                        && !record.indexes.iter().any(|index| keep.contains(index))
                })
                .cloned()
                .collect();
            order.sort_by_key(|record| record.last_used);
            for record in order {
                if left <= marks.low_bytes {
                    break;
                }
                if self.pins.count(&record.manifest) > 0 {
                    continue;
                }
                self.disk.remove_record(&record.manifest)?;
                records.remove(&record.manifest);
                collected.removed.push(record.manifest);
                left = bytes(self, &records);
            }
            collected.freed_bytes += self.sweep(&records)?;
        }
        collected.left_bytes = left;
        Ok(collected)
    }

    /// Unpacked layers of all images, and what was made of them.
    pub(crate) fn held_bytes(&self) -> u64 {
        bytes(self, &self.records())
    }
}

fn bytes(inner: &Inner, records: &BTreeMap<Digest, Record>) -> u64 {
    let layers: BTreeSet<&Digest> = records.values().flat_map(|record| &record.layers).collect();
    layers.into_iter().map(|diff_id| inner.layer_bytes(diff_id)).sum()
}
