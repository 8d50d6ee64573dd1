//! [`ImageStore`]: what is here, and getting what is not.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::digest::Digest;
use crate::disk::Disk;
use crate::error::StoreError;
use crate::flights::{Flights, Slots};
use crate::image::{ConfigDocument, Image};
use crate::pins::Pins;
use crate::platform::Platform;
use crate::prefetch::Prefetch;
use crate::proofs::Proofs;
use crate::reference::ImageRef;
use crate::registry::Registry;
use crate::settle::Settling;
use crate::upkeep::InUse;

/// A use noted within this time is not written again.
const LAST_USED_GRAIN_SECONDS: u64 = 60;

/// The images of one machine. Cheap to clone; one process at a time has a directory open.
#[derive(Clone)]
pub struct ImageStore(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) disk: Disk,
    pub(crate) config: Config,
    pub(crate) registry: Registry,
    pub(crate) flights: Flights,
    pub(crate) proofs: Proofs,
    pub(crate) layer_slots: Slots,
    pub(crate) pins: Arc<Pins>,
    pub(crate) prefetch: Prefetch,
    pub(crate) settling: Settling,
    pub(crate) in_use: Mutex<Option<Arc<InUse>>>,
    records: Mutex<BTreeMap<Digest, Record>>,
}

/// An image that is here in full.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) manifest: Digest,
    pub(crate) config: Digest,
    pub(crate) architecture: String,
    /// Indexes that led here.
    pub(crate) indexes: BTreeSet<Digest>,
    /// What was asked for and what it resolved to, the last time.
    pub(crate) references: BTreeMap<String, Digest>,
    /// Diff ids, lowest first.
    pub(crate) layers: Vec<Digest>,
    pub(crate) size_bytes: u64,
    /// Seconds since 1970.
    pub(crate) last_used: u64,
}

/// One line of [`ImageStore::list`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageSummary {
    pub manifest_digest: Digest,
    pub config_digest: Digest,
    /// `docker.io/library/nginx:latest`, … as last resolved.
    pub references: Vec<String>,
    /// As the registry has it.
    pub size_bytes: u64,
    /// Seconds since 1970, to the minute.
    pub last_used: u64,
    pub in_use: bool,
}

impl Record {
    fn has(&self, digest: &Digest) -> bool {
        self.manifest == *digest || self.indexes.contains(digest)
    }
}

impl ImageStore {
    /// Opens or makes the store in `dir`. What a crash left half-way is removed. Blocking, but short.
    ///
    /// # Errors
    /// Another process has it open, a mirror makes no sense, or the directory cannot be used.
    pub fn open(dir: &Path, config: Config) -> Result<Self, StoreError> {
        let registry = Registry::new(&config)?;
        let disk = Disk::open(dir)?;
        let records = disk.records::<Record>()?.into_iter().map(|record| (record.manifest.clone(), record));
        let records = Mutex::new(records.collect());
        let layer_slots = Slots::new(config.layers_in_parallel.max(1));
        let (flights, pins) = (Flights::default(), Arc::default());
        let (prefetch, settling, in_use, proofs) = Default::default();
        let inner = Arc::new(Inner {
            disk,
            config,
            registry,
            flights,
            proofs,
            layer_slots,
            pins,
            prefetch,
            settling,
            in_use,
            records,
        });
        inner.settle_later();
        Ok(ImageStore(inner))
    }

    /// The image a reference last resolved to, from what is here; no network.
    pub fn get(&self, reference: &ImageRef, platform: Platform) -> Option<Image> {
        match reference.digest() {
            Some(digest) => self.get_digest(digest, platform),
            None => {
                let name = reference.to_string();
                let (record, digest) =
                    self.0.find(platform, |record| record.references.get(&name).cloned())?;
                self.0.image(&record, digest)
            }
        }
    }

    /// The image with this manifest or index digest, from what is here; no network. An agent that starts anew calls this
    /// for each running task, before the first [`ImageStore::collect`]: pins do not outlive a process.
    pub fn get_digest(&self, digest: &Digest, platform: Platform) -> Option<Image> {
        let (record, digest) = self.0.find(platform, |record| record.has(digest).then(|| digest.clone()))?;
        self.0.image(&record, digest)
    }

    /// Everything that is here.
    pub fn list(&self) -> Vec<ImageSummary> {
        let summary = |record: &Record| ImageSummary {
            manifest_digest: record.manifest.clone(),
            config_digest: record.config.clone(),
            references: record.references.keys().cloned().collect(),
            size_bytes: record.size_bytes,
            last_used: record.last_used,
            in_use: self.0.pins.count(&record.manifest) > 0,
        };
        self.0.records().values().map(summary).collect()
    }

    /// Removes the image with this manifest digest and the layers nothing else needs. False: it was not here.
    ///
    /// # Errors
    /// It is in use, or the disk fails.
    pub async fn remove(&self, manifest: &Digest) -> Result<bool, StoreError> {
        let (inner, manifest) = (Arc::clone(&self.0), manifest.clone());
        blocking(move || {
            let mut records = inner.records();
            let pins = inner.pins.count(&manifest);
            if pins > 0 {
                return Err(StoreError::InUse { digest: manifest.to_string(), pins });
            }
            if records.remove(&manifest).is_none() {
                return Ok(false);
            }
            inner.disk.remove_record(&manifest)?;
            inner.sweep(&records)?;
            Ok(true)
        })
        .await
    }
}

impl Inner {
    pub(crate) fn records(&self) -> MutexGuard<'_, BTreeMap<Digest, Record>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, platform: Platform, of: impl Fn(&Record) -> Option<Digest>) -> Option<(Record, Digest)> {
        let records = self.records();
        let mut fitting = records.values().filter(|record| record.architecture == platform.architecture());
        fitting.find_map(|record| of(record).map(|digest| (record.clone(), digest)))
    }

    /// The image of a record, pinned; `None` if somebody took parts of it away.
    pub(crate) fn image(self: &Arc<Self>, record: &Record, digest: Digest) -> Option<Image> {
        // Pinned first, then looked at: what is there then stays there.
        let keys = record.layers.iter().chain([&record.manifest]).cloned().collect();
        let pin = self.pins.pin(keys);
        let document: ConfigDocument = serde_json::from_slice(&self.disk.document(&record.config)?).ok()?;
        let mut layers = Vec::new();
        let mut unpacked_bytes = 0u64;
        for (at, diff_id) in record.layers.iter().enumerate() {
            let layer = self.disk.layer_record(diff_id)?;
            // overlayfs refuses a directory twice; all that the lower one shows, the upper one shows again.
            if record.layers[at + 1..].contains(diff_id) {
                continue;
            }
            unpacked_bytes = unpacked_bytes.saturating_add(layer.unpacked_bytes);
            if layer.opaque_root {
                layers.clear();
            }
            layers.push(self.disk.layer(diff_id));
        }
        let platform = [Platform::LinuxAmd64, Platform::LinuxArm64]
            .into_iter()
            .find(|platform| platform.architecture() == record.architecture)?;
        Some(Image {
            digest,
            manifest_digest: record.manifest.clone(),
            config_digest: record.config.clone(),
            platform,
            config: document.image_config(),
            layers,
            size_bytes: record.size_bytes,
            unpacked_bytes,
            _pin: pin,
        })
    }

    /// Notes that `reference` now means this image. Blocking.
    pub(crate) fn commit(
        &self,
        mut new: Record,
        reference: &str,
        digest: &Digest,
    ) -> std::io::Result<Record> {
        let mut records = self.records();
        for record in records.values_mut() {
            let moved = record.manifest != new.manifest
                && record.architecture == new.architecture
                && record.references.remove(reference).is_some();
            if moved {
                self.disk.add_record(&record.manifest, record)?;
            }
        }
        let old = records.get(&new.manifest);
        if let Some(old) = old {
            new.references.extend(old.references.clone());
            new.indexes.extend(old.indexes.clone());
        }
        new.references.insert(reference.to_owned(), digest.clone());
        if *digest != new.manifest {
            new.indexes.insert(digest.clone());
        }
        let same = old.is_some_and(|old| {
            let fresh = new.last_used < old.last_used + LAST_USED_GRAIN_SECONDS;
            fresh && Record { last_used: old.last_used, ..new.clone() } == *old
        });
        if !same {
            self.disk.add_record(&new.manifest, &new)?;
            records.insert(new.manifest.clone(), new.clone());
        }
        Ok(new)
    }

    /// The record for a resolved digest.
    pub(crate) fn record_of(&self, digest: &Digest, platform: Platform) -> Option<Record> {
        self.find(platform, |record| record.has(digest).then(|| digest.clone())).map(|(record, _)| record)
    }

    /// Of the layer as it is unpacked, and of what was made of it.
    pub(crate) fn layer_bytes(&self, diff_id: &Digest) -> u64 {
        self.disk
            .layer_record(diff_id)
            .map_or(0, |layer| layer.unpacked_bytes + self.disk.derived_bytes(diff_id))
    }

    /// Removes layers and documents that no record names and nobody holds. With the records locked, so that none is
    /// added meanwhile. Blocking.
    pub(crate) fn sweep(&self, records: &BTreeMap<Digest, Record>) -> Result<u64, StoreError> {
        let named = |digest: &Digest| {
            records.values().any(|record| {
                record.has(digest) || record.config == *digest || record.layers.contains(digest)
            })
        };
        let mut freed = 0;
        for diff_id in self.disk.layers()? {
            // A pull pins its layers before it looks for them.
            if !named(&diff_id) && self.pins.count(&diff_id) == 0 {
                freed += self.layer_bytes(&diff_id);
                self.disk.remove_layer(&diff_id)?;
            }
        }
        self.disk.retain_documents(|digest| named(digest) || self.pins.count(digest) > 0)?;
        Ok(freed)
    }
}

pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        // The runtime is going down, and whoever waits for this with it.
        Err(_) => std::future::pending().await,
    }
}
