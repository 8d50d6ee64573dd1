//! The store's directory.
//!
//! ```text
//! lock                  held while the store is open
//! documents/<hex>       manifests, indexes and configs, by digest
//! images/<hex>.json     one record per image, by manifest digest: an image is here if its record is
//! layers/<hex>/fs       an unpacked layer, by diff id; there in full or not at all
//! layers/<hex>/layer.json
//! layers/<hex>/…        what others make of the layer, as disks for micro-VMs are: counts and goes with it
//! tmp/                  emptied at every open
//! ```

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{FlockOperation, Mode, OFlags};
use serde::{Deserialize, Serialize};

use crate::config::Limits;
use crate::digest::Digest;
use crate::error::{Cause, CauseKind, StoreError, local};
use crate::remove::remove_tree;
use crate::unpack::unpack;

const RECORD: &str = "layer.json";
/// … as it is about to be.
const RECORD_NEW: &str = "layer.json.new";
const ROOT: &str = "fs";
/// Whoever makes a file beside a layer gives it this end until it is whole.
const HALF_MADE: &str = ".new";

pub(crate) struct Disk {
    dir: PathBuf,
    /// Of the machine, since it was started.
    boot: String,
    /// Held while a layer goes, and while one's record is written anew: no file appears in what is being removed.
    changing: Arc<Mutex<()>>,
    _lock: File,
}

/// Of `st_blocks`.
const BLOCK_BYTES: u64 = 512;

/// What is kept about a layer, beside it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct LayerRecord {
    diff_id: Digest,
    /// Sum of the files' sizes.
    pub(crate) unpacked_bytes: u64,
    pub(crate) entries: u64,
    /// Nothing below this layer is seen.
    pub(crate) opaque_root: bool,
    /// The boot of this machine that unpacked it, until it is known to be on the disk: after another boot it may be
    /// anything.
    #[serde(default)]
    boot: Option<String>,
}

/// Unpacked and checked, not yet in its place.
pub(crate) struct PreparedLayer {
    staging: Staging,
    diff_id: Digest,
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
        let disk = Disk { dir: dir.to_owned(), boot: boot_id()?, changing: Arc::default(), _lock: lock };
        remove_tree(&disk.tmp()).map_err(StoreError::io("empty", disk.tmp()))?;
        for part in ["documents", "images", "layers", "tmp"] {
            make(&dir.join(part))?;
        }
        disk.drop_half_made()?;
        Ok(disk)
    }

    pub(crate) fn tmp(&self) -> PathBuf {
        self.dir.join("tmp")
    }

    pub(crate) fn layer(&self, diff_id: &Digest) -> PathBuf {
        self.dir.join("layers").join(diff_id.hex()).join(ROOT)
    }

    /// What a crash left beside layers.
    fn drop_half_made(&self) -> Result<(), StoreError> {
        for diff_id in self.layers()? {
            for (name, _) in self.beside(&diff_id) {
                if name.ends_with(HALF_MADE) {
                    let path = self.layer(&diff_id).with_file_name(name);
                    fs::remove_file(&path).map_err(StoreError::io("remove", &path))?;
                }
            }
        }
        Ok(())
    }

    /// On the disk, of what others made of the layer.
    pub(crate) fn derived_bytes(&self, diff_id: &Digest) -> u64 {
        let made = self.beside(diff_id).filter(|(name, _)| name != RECORD_NEW);
        made.map(|(_, meta)| meta.blocks() * BLOCK_BYTES).sum()
    }

    /// Files beside the layer that are not the store's own.
    fn beside(&self, diff_id: &Digest) -> impl Iterator<Item = (String, fs::Metadata)> + use<> {
        let entries = fs::read_dir(self.layer(diff_id).with_file_name("")).into_iter().flatten().flatten();
        entries.filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let meta = entry.metadata().ok()?;
            (meta.is_file() && name != RECORD && name != ROOT).then_some((name, meta))
        })
    }

    fn document_path(&self, digest: &Digest) -> PathBuf {
        self.dir.join("documents").join(digest.hex())
    }

    fn record_path(&self, manifest: &Digest) -> PathBuf {
        self.dir.join("images").join(format!("{}.json", manifest.hex()))
    }

    /// The layer's record, if the layer is here.
    pub(crate) fn layer_record(&self, diff_id: &Digest) -> Option<LayerRecord> {
        let bytes = fs::read(self.layer(diff_id).with_file_name(RECORD)).ok()?;
        let record = serde_json::from_slice::<LayerRecord>(&bytes).ok()?;
        let on_disk = record.boot.as_ref().is_none_or(|boot| *boot == self.boot);
        (on_disk && record.diff_id == *diff_id).then_some(record)
    }

    /// Unpacks a blob, beside the layers. Blocking.
    pub(crate) fn prepare_layer(
        &self,
        blob: impl Read + 'static,
        blob_bytes: u64,
        diff_id: &Digest,
        limits: &Limits,
    ) -> Result<PreparedLayer, Cause> {
        let failed = |error: std::io::Error| local("failed to extract layer", &error);
        let staging = Staging::new(&self.tmp()).map_err(failed)?;
        let (root, trash) = (staging.0.join(ROOT), staging.0.join("trash"));
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
            boot: Some(self.boot.clone()),
        };
        let bytes = serde_json::to_vec(&record).map_err(|error| failed(error.into()))?;
        fs::write(staging.0.join(RECORD), bytes).map_err(failed)?;
        Ok(PreparedLayer { staging, diff_id: diff_id.clone() })
    }

    /// The layer appears whole by one rename. Blocking.
    pub(crate) fn place_layer(&self, layer: PreparedLayer) -> Result<(), Cause> {
        let failed = |error: std::io::Error| local("failed to extract layer", &error);
        let PreparedLayer { staging, diff_id } = layer;
        let place = self.dir.join("layers").join(diff_id.hex());
        match fs::rename(&staging.0, &place) {
            Ok(()) => Ok(()),
            // One of us was cancelled and finished all the same: the same bytes.
            Err(_) if self.layer_record(&diff_id).is_some() => Ok(()),
            // One that cannot be read any more: it goes, and this one takes its place.
            Err(_) => {
                self.remove_layer(&diff_id)
                    .map_err(|error| Cause::new(CauseKind::Local, error.to_string()))?;
                fs::rename(&staging.0, &place).map_err(failed)
            }
        }
    }

    /// Where new layers are, for whoever syncs them.
    pub(crate) fn place(&self) -> DiskPlace {
        DiskPlace { dir: self.dir.clone(), boot: self.boot.clone(), changing: Arc::clone(&self.changing) }
    }

    /// A layer vanishes at once, its files after that. Blocking.
    pub(crate) fn remove_layer(&self, diff_id: &Digest) -> Result<(), StoreError> {
        let path = self.dir.join("layers").join(diff_id.hex());
        let staging = Staging::new(&self.tmp()).map_err(StoreError::io("create", self.tmp()))?;
        let renamed = {
            let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
            fs::rename(&path, staging.0.join("removed"))
        };
        match renamed {
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

    /// Old or new, never half, as long as the machine runs. After a power cut it may be empty: who reads it checks.
    fn replace(&self, path: &Path, bytes: &[u8]) -> std::io::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(self.tmp())?;
        file.write_all(bytes)?;
        file.persist(path)?;
        Ok(())
    }
}

/// The store's directory; does not keep the store open.
pub(crate) struct DiskPlace {
    dir: PathBuf,
    boot: String,
    changing: Arc<Mutex<()>>,
}

impl DiskPlace {
    /// Brings layers that this boot of the machine unpacked to the disk, and notes that they are there. Blocking,
    /// perhaps for seconds.
    pub(crate) fn settle(&self) -> Result<(), StoreError> {
        let layers = self.dir.join("layers");
        let mut new = Vec::new();
        for entry in fs::read_dir(&layers).map_err(StoreError::io("read", &layers))?.map_while(Result::ok) {
            // Opened before it is read: whatever takes its place meanwhile is not noted as synced.
            let path = entry.path();
            let Ok(layer) = File::open(&path) else { continue };
            let Ok(bytes) = fs::read(entry.path().join(RECORD)) else { continue };
            let Ok(record) = serde_json::from_slice::<LayerRecord>(&bytes) else { continue };
            if record.boot.as_ref() == Some(&self.boot) {
                new.push((path, layer, LayerRecord { boot: None, ..record }));
            }
        }
        if new.is_empty() {
            return Ok(());
        }
        let failed = |error: std::io::Error| StoreError::io("sync", &self.dir)(error);
        let dir = File::open(&self.dir).map_err(failed)?;
        rustix::fs::syncfs(&dir).map_err(|errno| failed(errno.into()))?;
        for (path, layer, record) in &new {
            let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
            if same_directory(path, layer) {
                write_record(layer, record).map_err(failed)?;
            }
        }
        Ok(())
    }
}

/// False: it was removed, and perhaps another one is there.
fn same_directory(path: &Path, open: &File) -> bool {
    let at = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
    let (Ok(there), Ok(open)) = (fs::metadata(path), open.metadata()) else { return false };
    at(there) == at(open)
}

fn write_record(dir: &File, record: &LayerRecord) -> std::io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(dir, RECORD_NEW, flags, Mode::from_raw_mode(0o600))?;
    File::from(file).write_all(&serde_json::to_vec(record)?)?;
    Ok(rustix::fs::renameat(dir, RECORD_NEW, dir, RECORD)?)
}

/// Another one after every start of the machine.
fn boot_id() -> Result<String, StoreError> {
    let path = Path::new("/proc/sys/kernel/random/boot_id");
    let text = fs::read_to_string(path).map_err(StoreError::io("read", path))?;
    Ok(text.trim().to_owned())
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
