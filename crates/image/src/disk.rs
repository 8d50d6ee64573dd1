//! The store's directory.
//!
//! ```text
//! lock                  held while the store is open
//! documents/<hex>       manifests, indexes and configs, by digest
//! images/<hex>.json     one record per image, by manifest digest: an image is here if its record is
//! layers/<hex>/fs       an unpacked layer, by diff id; there in full or not at all
//! layers/<hex>/layer.json
//! tmp/                  emptied at every open
//! ```

use std::fs::{self, File};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags};
use serde::{Deserialize, Serialize};

use crate::config::Limits;
use crate::digest::Digest;
use crate::error::{Cause, CauseKind, StoreError, local};
use crate::remove::remove_tree;
use crate::unpack::unpack;

pub(crate) struct Disk {
    dir: PathBuf,
    _lock: File,
}

/// What is kept about a layer, beside it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct LayerRecord {
    diff_id: Digest,
    /// Sum of the files' sizes.
    pub(crate) unpacked_bytes: u64,
    pub(crate) entries: u64,
    /// Nothing below this layer is seen.
    pub(crate) opaque_root: bool,
}

impl Disk {
    pub(crate) fn open(dir: &Path) -> Result<Self, StoreError> {
        let make = |path: &Path| {
            // Images bring set-uid programs: nobody but root may reach them.
            let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
            made.map_err(StoreError::io("create", path))
        };
        make(dir)?;
        let path = dir.join("lock");
        let lock = File::create(&path).map_err(StoreError::io("create", &path))?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(StoreError::Locked { path: dir.to_owned() }),
            Err(errno) => return Err(StoreError::io("lock", &path)(errno.into())),
        }
        let disk = Disk { dir: dir.to_owned(), _lock: lock };
        remove_tree(&disk.tmp()).map_err(StoreError::io("empty", disk.tmp()))?;
        for part in ["documents", "images", "layers", "tmp"] {
            make(&dir.join(part))?;
        }
        Ok(disk)
    }

    pub(crate) fn tmp(&self) -> PathBuf {
        self.dir.join("tmp")
    }

    pub(crate) fn layer(&self, diff_id: &Digest) -> PathBuf {
        self.dir.join("layers").join(diff_id.hex()).join("fs")
    }

    fn document_path(&self, digest: &Digest) -> PathBuf {
        self.dir.join("documents").join(digest.hex())
    }

    fn record_path(&self, manifest: &Digest) -> PathBuf {
        self.dir.join("images").join(format!("{}.json", manifest.hex()))
    }

    /// The layer's record, if the layer is here.
    pub(crate) fn layer_record(&self, diff_id: &Digest) -> Option<LayerRecord> {
        let bytes = fs::read(self.layer(diff_id).with_file_name("layer.json")).ok()?;
        serde_json::from_slice::<LayerRecord>(&bytes).ok().filter(|record| record.diff_id == *diff_id)
    }

    /// Unpacks a verified blob. The layer appears whole by one rename, after everything is on the disk. Blocking.
    pub(crate) fn add_layer(
        &self,
        blob: File,
        blob_bytes: u64,
        diff_id: &Digest,
        limits: &Limits,
    ) -> Result<(), Cause> {
        let failed = |error: std::io::Error| local("failed to extract layer", &error);
        let staging = Staging::new(&self.tmp()).map_err(failed)?;
        let (root, trash) = (staging.0.join("fs"), staging.0.join("trash"));
        let build = |path: &Path, mode| -> std::io::Result<OwnedFd> {
            fs::create_dir(path)?;
            // Whatever the umask says: this is what containers see as the mode of `/`.
            fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode))?;
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            Ok(rustix::fs::open(path, flags, Mode::empty())?)
        };
        let root = build(&root, 0o755).map_err(failed)?;
        let trash_dir = build(&trash, 0o700).map_err(failed)?;
        let unpacked = unpack(blob, blob_bytes, diff_id, root, trash_dir, limits)
            .map_err(|error| error.cause().during(&format!("failed to extract layer {diff_id}")))?;
        remove_tree(&trash).map_err(failed)?;
        let record = LayerRecord {
            diff_id: diff_id.clone(),
            unpacked_bytes: unpacked.bytes,
            entries: unpacked.entries,
            opaque_root: unpacked.opaque_root,
        };
        let bytes = serde_json::to_vec(&record).map_err(|error| failed(error.into()))?;
        let mut file = File::create(staging.0.join("layer.json")).map_err(failed)?;
        file.write_all(&bytes).and_then(|()| file.sync_all()).map_err(failed)?;
        sync_dir(&staging.0).map_err(failed)?;
        let layers = self.dir.join("layers");
        match fs::rename(&staging.0, layers.join(diff_id.hex())) {
            Ok(()) => sync_dir(&layers).map_err(failed),
            // One of us was cancelled and finished all the same: the same bytes.
            Err(_) if self.layer_record(diff_id).is_some() => Ok(()),
            // One that cannot be read any more: it goes, and this one takes its place.
            Err(_) => {
                self.remove_layer(diff_id)
                    .map_err(|error| Cause::new(CauseKind::Local, error.to_string()))?;
                fs::rename(&staging.0, layers.join(diff_id.hex())).map_err(failed)?;
                sync_dir(&layers).map_err(failed)
            }
        }
    }

    /// A layer vanishes at once, its files after that. Blocking.
    pub(crate) fn remove_layer(&self, diff_id: &Digest) -> Result<(), StoreError> {
        let path = self.dir.join("layers").join(diff_id.hex());
        let staging = Staging::new(&self.tmp()).map_err(StoreError::io("create", self.tmp()))?;
        match fs::rename(&path, staging.0.join("removed")) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            other => other.map_err(StoreError::io("remove", &path)),
        }
    }

    /// Every layer that is here.
    pub(crate) fn layers(&self) -> Result<Vec<Digest>, StoreError> {
        let path = self.dir.join("layers");
        let failed = StoreError::io("read", &path);
        let names = fs::read_dir(&path).and_then(Iterator::collect::<Result<Vec<_>, _>>).map_err(failed)?;
        let digest =
            |entry: &fs::DirEntry| Digest::parse(&format!("sha256:{}", entry.file_name().to_str()?)).ok();
        Ok(names.iter().filter_map(digest).collect())
    }

    /// Documents of no image any more.
    pub(crate) fn retain_documents(&self, keep: impl Fn(&Digest) -> bool) -> Result<(), StoreError> {
        let path = self.dir.join("documents");
        for entry in fs::read_dir(&path).map_err(StoreError::io("read", &path))? {
            let entry = entry.map_err(StoreError::io("read", &path))?;
            let digest =
                entry.file_name().to_str().and_then(|hex| Digest::parse(&format!("sha256:{hex}")).ok());
            if !digest.is_some_and(|digest| keep(&digest)) {
                fs::remove_file(entry.path()).map_err(StoreError::io("remove", entry.path()))?;
            }
        }
        Ok(())
    }

    pub(crate) fn document(&self, digest: &Digest) -> Option<Vec<u8>> {
        // Small: hashing it again is cheaper than trusting the disk.
        fs::read(self.document_path(digest)).ok().filter(|bytes| Digest::of(bytes) == *digest)
    }

    pub(crate) fn add_document(&self, digest: &Digest, bytes: &[u8]) -> std::io::Result<()> {
        self.replace(&self.document_path(digest), bytes)
    }

    pub(crate) fn records<T: for<'de> Deserialize<'de>>(&self) -> Result<Vec<T>, StoreError> {
        let path = self.dir.join("images");
        let mut records = Vec::new();
        for entry in fs::read_dir(&path).map_err(StoreError::io("read", &path))? {
            let path = entry.map_err(StoreError::io("read", &path))?.path();
            let bytes = fs::read(&path).map_err(StoreError::io("read", &path))?;
            match serde_json::from_slice(&bytes) {
                Ok(record) => records.push(record),
                // Only a cache: what cannot be read is fetched anew.
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "dropping an unreadable image record");
                    fs::remove_file(&path).map_err(StoreError::io("remove", &path))?;
                }
            }
        }
        Ok(records)
    }

    pub(crate) fn add_record(&self, manifest: &Digest, record: &impl Serialize) -> std::io::Result<()> {
        self.replace(&self.record_path(manifest), &serde_json::to_vec_pretty(record)?)
    }

    pub(crate) fn remove_record(&self, manifest: &Digest) -> Result<(), StoreError> {
        let path = self.record_path(manifest);
        match fs::remove_file(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            other => other.map_err(StoreError::io("remove", &path)),
        }
    }

    /// Old or new, never half.
    fn replace(&self, path: &Path, bytes: &[u8]) -> std::io::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(self.tmp())?;
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        path.parent().map_or(Ok(()), sync_dir)
    }
}

fn sync_dir(path: &Path) -> std::io::Result<()> {
    File::open(path)?.sync_all()
}

/// A directory below `tmp` that goes with its value, unless it was renamed away.
struct Staging(PathBuf);

impl Staging {
    fn new(tmp: &Path) -> std::io::Result<Self> {
        Ok(Staging(tempfile::Builder::new().prefix("layer-").tempdir_in(tmp)?.keep()))
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if let Err(error) = remove_tree(&self.0) {
            tracing::warn!(path = %self.0.display(), %error, "cannot remove a temporary directory; the next start will");
        }
    }
}
