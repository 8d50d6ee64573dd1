//! One pull: resolve, manifest, config, layers, commit.

use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::Arc;

use futures_util::future::try_join_all;

use crate::config::Auth;
use crate::digest::Digest;
use crate::download::{Broken, download};
use crate::error::{Cause, CauseKind, PullError, local};
use crate::flights::Failure;
use crate::image::{ConfigDocument, Image};
use crate::manifest::{Descriptor, ImageManifest, Manifest, select};
use crate::pins::Pin;
use crate::pipe::pipe;
use crate::platform::Platform;
use crate::reference::ImageRef;
use crate::registry::Source;
use crate::retry::Attempts;
use crate::store::{ImageStore, Inner, Record, blocking, now};

/// Manifests and indexes read on the way to one image.
const INDEXES_MAX: usize = 16;

/// What a pull is doing, for people who watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// `cached`: nothing is to be fetched.
    Resolved {
        digest: Digest,
        cached: bool,
    },
    /// How much there is, as the registry has it.
    Planned {
        layers: usize,
        bytes: u64,
    },
    /// Of the layer with this blob digest, so far. Only from the pull that does the work where several wait for it.
    Downloaded {
        layer: Digest,
        bytes: u64,
        bytes_total: u64,
    },
    Unpacking {
        layer: Digest,
    },
    Ready {
        layer: Digest,
    },
}

#[derive(Clone, Copy)]
enum Document {
    Manifest,
    Config { size: u64 },
}

impl ImageStore {
    /// Resolves the reference at its registry and makes the image complete here. What is here already is not fetched
    /// again; concurrent pulls fetch each thing once. May be dropped at any point.
    ///
    /// # Errors
    /// In AWS's words for a task's stoppedReason; [`PullError::kind`] for programs.
    pub async fn pull(
        &self,
        reference: &ImageRef,
        auth: Auth,
        platform: Platform,
        progress: impl Fn(Progress) + Send + Sync,
    ) -> Result<Image, PullError> {
        self.pull_within(reference, auth, platform, false, &progress).await
    }

    /// … while nobody waits for it.
    pub(crate) async fn pull_ahead(
        &self,
        reference: &ImageRef,
        auth: Auth,
        platform: Platform,
    ) -> Result<Image, PullError> {
        self.pull_within(reference, auth, platform, true, &|_| {}).await
    }

    async fn pull_within(
        &self,
        reference: &ImageRef,
        auth: Auth,
        platform: Platform,
        ahead: bool,
        progress: &(dyn Fn(Progress) + Send + Sync),
    ) -> Result<Image, PullError> {
        let after = self.0.config.timeouts.pull;
        let pull = Pull { inner: &self.0, reference, platform, ahead, progress };
        let running = Box::pin(pull.run(auth));
        match tokio::time::timeout(after, running).await {
            Ok(result) => result,
            Err(_) => Err(PullError::Deadline { reference: reference.to_string(), after }),
        }
    }
}

struct Pull<'a> {
    inner: &'a Arc<Inner>,
    reference: &'a ImageRef,
    platform: Platform,
    /// Nobody waits for it.
    ahead: bool,
    progress: &'a (dyn Fn(Progress) + Send + Sync),
}

impl Pull<'_> {
    async fn run(&self, auth: Auth) -> Result<Image, PullError> {
        let inner = self.inner;
        let at_once = |cause| self.manifest_error(Failure { attempts: 1, cause });
        let source = &inner.registry.source(self.reference, auth).map_err(at_once)?;
        let digest = self.resolve(source).await.map_err(|failure| self.manifest_error(failure))?;

        let _top = inner.pins.pin(vec![digest.clone()]);
        self.prove(source, &digest).await.map_err(|failure| self.manifest_error(failure))?;
        if let Some(record) = inner.record_of(&digest, self.platform)
            && let Some(image) = inner.image(&record, digest.clone())
        {
            (self.progress)(Progress::Resolved { digest: digest.clone(), cached: true });
            self.commit(Record { last_used: now(), ..record }, &digest).await?;
            return Ok(image);
        }
        (self.progress)(Progress::Resolved { digest: digest.clone(), cached: false });
        let _first = (!self.ahead).then(|| inner.prefetch.pulling());

        let (manifest_digest, manifest, _documents) = self.manifest(source, &digest).await?;
        let _config = inner.pins.pin(vec![manifest.config.digest.clone()]);
        let config_bytes = self.config(source, &manifest.config).await?;
        let config = self.check_config(&manifest, &config_bytes)?;
        let layers: Vec<Digest> = config.rootfs.diff_ids.clone();
        // From here on nothing of this image is collected, and `image` below finds what was fetched.
        let _pin = inner.pins.pin(layers.clone());
        (self.progress)(Progress::Planned { layers: layers.len(), bytes: manifest.bytes() });
        self.make_room(&manifest, &layers).await?;
        let mut fetching = Vec::new();
        for (blob, diff_id) in manifest.layers.iter().zip(&layers) {
            fetching.push(self.layer(source, blob, diff_id));
        }
        try_join_all(fetching).await?;
        inner.settle_later();

        let record = Record {
            manifest: manifest_digest,
            config: manifest.config.digest.clone(),
            architecture: self.platform.architecture().to_owned(),
            indexes: BTreeSet::new(),
            references: Default::default(),
            layers,
            size_bytes: manifest.bytes(),
            last_used: now(),
        };
        let record = self.commit(record, &digest).await?;
        inner.image(&record, digest).ok_or_else(|| {
            let text = "the image store lost a layer or config while it was pulled";
            self.layer_error(Failure { attempts: 1, cause: Cause::new(CauseKind::Local, text) })
        })
    }

    async fn resolve(&self, source: &Source) -> Result<Digest, Failure> {
        let mut attempts = Attempts::new(self.inner.config.retry);
        loop {
            match self.inner.registry.resolve(source).await {
                Ok(digest) => return Ok(digest),
                Err(cause) => attempts.failed(cause).await?,
            }
        }
    }

    /// The platform's manifest behind a digest, through indexes of indexes. The pins keep the documents.
    async fn manifest(
        &self,
        source: &Source,
        digest: &Digest,
    ) -> Result<(Digest, ImageManifest, Vec<Pin>), PullError> {
        let mut pins = Vec::new();
        // Depth first, in the index's order.
        let mut waiting = vec![digest.clone()];
        for _ in 0..INDEXES_MAX {
            let Some(digest) = waiting.pop() else { break };
            pins.push(self.inner.pins.pin(vec![digest.clone()]));
            match self.read_manifest(source, &digest).await? {
                Manifest::Image(manifest) => return Ok((digest, manifest, pins)),
                Manifest::Index(entries) => {
                    let chosen: Vec<_> =
                        select(&entries, self.platform).map(|of| of.digest.clone()).collect();
                    waiting.extend(chosen.into_iter().rev());
                }
            }
        }
        Err(self.no_platform())
    }

    /// Before layers that would not fit beside what is here.
    async fn make_room(&self, manifest: &ImageManifest, layers: &[Digest]) -> Result<(), PullError> {
        let disk = &self.inner.disk;
        let missing = manifest.layers.iter().zip(layers);
        let missing = missing.filter(|(_, diff_id)| disk.layer_record(diff_id).is_none());
        let coming = missing.fold(0u64, |sum, (blob, _)| sum.saturating_add(blob.size));
        let (inner, ahead) = (Arc::clone(self.inner), self.ahead);
        let failed = |kind, text| self.layer_error(Failure { attempts: 1, cause: Cause::new(kind, text) });
        let roomy = blocking(move || {
            // What nobody waits for drives nothing out.
            if ahead { inner.has_room(coming) } else { inner.make_room(coming).map(|_| true) }
        });
        match roomy.await {
            Ok(true) => Ok(()),
            Ok(false) => {
                Err(failed(CauseKind::DiskFull, "no room beside the images that are here".to_owned()))
            }
            Err(error) => Err(failed(CauseKind::Local, error.to_string())),
        }
    }

    async fn read_manifest(&self, source: &Source, digest: &Digest) -> Result<Manifest, PullError> {
        let failed = |failure| self.manifest_error(failure);
        let bytes = self.document(source, digest, Document::Manifest).await.map_err(failed)?;
        Manifest::parse(&bytes, &self.inner.config.limits)
            .map_err(|cause| failed(Failure { attempts: 1, cause }))
    }

    async fn config(&self, source: &Source, config: &Descriptor) -> Result<Vec<u8>, PullError> {
        let document = Document::Config { size: config.size };
        self.document(source, &config.digest, document).await.map_err(|failure| self.layer_error(failure))
    }

    /// This caller may have what is here of this manifest: its source has it, and gave it.
    async fn prove(&self, source: &Source, digest: &Digest) -> Result<(), Failure> {
        if self.inner.proofs.has(&source.proof_of(digest)) {
            return Ok(());
        }
        self.document(source, digest, Document::Manifest).await.map(drop)
    }

    /// A document from the disk, or fetched once and kept. From the disk only if this source has given it before.
    async fn document(
        &self,
        source: &Source,
        digest: &Digest,
        document: Document,
    ) -> Result<Vec<u8>, Failure> {
        let (disk, proofs, proof) = (&self.inner.disk, &self.inner.proofs, source.proof_of(digest));
        if let Some(lead) = self.inner.flights.enter(digest, source.id()).await? {
            let result = match proofs.has(&proof) && disk.document(digest).is_some() {
                true => Ok(()),
                false => self.fetch_document(source, digest, document).await,
            };
            if result.is_ok() {
                proofs.add(proof);
            }
            lead.end(result)?;
        }
        disk.document(digest).ok_or_else(|| Failure {
            attempts: 1,
            cause: Cause::new(CauseKind::Local, format!("the image store lost document {digest}")),
        })
    }

    async fn fetch_document(
        &self,
        source: &Source,
        digest: &Digest,
        document: Document,
    ) -> Result<(), Failure> {
        let registry = &self.inner.registry;
        let mut attempts = Attempts::new(self.inner.config.retry);
        loop {
            let result = match document {
                Document::Manifest => registry.manifest(source, digest).await,
                Document::Config { size } => registry.document(source, digest, size).await,
            };
            match result {
                Ok(bytes) => {
                    return self.inner.disk.add_document(digest, &bytes).map_err(|error| Failure {
                        attempts: attempts.made + 1,
                        cause: local("write manifest", &error),
                    });
                }
                Err(cause) => attempts.failed(cause).await?,
            }
        }
    }

    fn check_config(&self, manifest: &ImageManifest, bytes: &[u8]) -> Result<ConfigDocument, PullError> {
        let malformed = |text: String| {
            let cause =
                Cause::new(CauseKind::Malformed, format!("config {}: {text}", manifest.config.digest));
            self.layer_error(Failure { attempts: 1, cause })
        };
        let config: ConfigDocument =
            serde_json::from_slice(bytes).map_err(|error| malformed(error.to_string()))?;
        if !self.platform.is(&config.os, &config.architecture) {
            return Err(self.no_platform());
        }
        let (layers, diff_ids) = (manifest.layers.len(), config.rootfs.diff_ids.len());
        if config.rootfs.kind != "layers" || layers != diff_ids {
            return Err(malformed(format!("{diff_ids} diff_ids for {layers} layers")));
        }
        Ok(config)
    }

    async fn layer(&self, source: &Source, blob: &Descriptor, diff_id: &Digest) -> Result<(), PullError> {
        let inner = self.inner;
        let failed = |failure| self.layer_error(failure);
        if let Some(lead) = inner.flights.enter(diff_id, source.id()).await.map_err(failed)? {
            let result = match inner.disk.layer_record(diff_id) {
                Some(_) => Ok(()),
                None => Box::pin(self.fetch_layer(source, blob, diff_id)).await,
            };
            lead.end(result).map_err(failed)?;
        }
        (self.progress)(Progress::Ready { layer: blob.digest.clone() });
        Ok(())
    }

    /// Unpacked while it is downloaded; in its place only once every digest was right.
    async fn fetch_layer(&self, source: &Source, blob: &Descriptor, diff_id: &Digest) -> Result<(), Failure> {
        let (inner, layer) = (self.inner, &blob.digest);
        let slots = inner.layer_slots.of(source.id());
        let _slot = slots.acquire().await;
        let progress = |bytes| {
            (self.progress)(Progress::Downloaded { layer: layer.clone(), bytes, bytes_total: blob.size });
        };
        let mut attempts = Attempts::new(inner.config.retry);
        loop {
            let (inlet, outlet) = pipe();
            let (owned, wanted, bytes) = (Arc::clone(inner), diff_id.clone(), blob.size);
            let unpacking =
                blocking(move || owned.disk.prepare_layer(outlet, bytes, &wanted, &owned.config.limits));
            let (downloaded, prepared) = {
                let downloading = download(&inner.registry, source, blob, &mut attempts, inlet, &progress);
                let (mut unpacking, mut downloading) = (pin!(unpacking), pin!(downloading));
                tokio::select! {
                    downloaded = &mut downloading => {
                        (self.progress)(Progress::Unpacking { layer: layer.clone() });
                        (downloaded, unpacking.await)
                    }
                    prepared = &mut unpacking => match prepared {
                        // Whatever the rest of the bytes is, there is no room for it.
                        Err(cause) if matches!(cause.kind, CauseKind::DiskFull | CauseKind::Local) => {
                            (Ok(()), Err(cause))
                        }
                        prepared => (downloading.await, prepared),
                    },
                }
            };
            let made = attempts.made + 1;
            match downloaded {
                Ok(()) => {
                    let owned = Arc::clone(inner);
                    let placed = match prepared {
                        Ok(layer) => blocking(move || owned.disk.place_layer(layer)).await,
                        Err(cause) => Err(cause),
                    };
                    return placed.map_err(|cause| Failure { attempts: made, cause });
                }
                Err(Broken::Corrupt(cause)) => attempts.failed(cause).await?,
                Err(Broken::Over(failure)) => return Err(failure),
            }
        }
    }

    async fn commit(&self, record: Record, digest: &Digest) -> Result<Record, PullError> {
        let (inner, name, digest) = (Arc::clone(self.inner), self.reference.to_string(), digest.clone());
        blocking(move || inner.commit(record, &name, &digest)).await.map_err(|error| {
            self.layer_error(Failure { attempts: 1, cause: local("write image record", &error) })
        })
    }

    fn manifest_error(&self, failure: Failure) -> PullError {
        let Failure { attempts, cause } = failure;
        PullError::Manifest { reference: self.reference.to_string(), attempts, cause }
    }

    fn layer_error(&self, failure: Failure) -> PullError {
        let Failure { attempts, cause } = failure;
        PullError::Layer { reference: self.reference.to_string(), attempts, cause }
    }

    fn no_platform(&self) -> PullError {
        PullError::Platform { reference: self.reference.to_string(), attempts: 1, platform: self.platform }
    }
}
