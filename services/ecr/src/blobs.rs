//! Layers, configs and manifests as files, named by what they are; and the uploads they come from.
//!
//! ```text
//! <dir>/blobs/<first two digits>/<sha256>     whole and verified: they appear by a rename after a sync
//! <dir>/uploads/<upload id>                   what has come so far; its length is the upload's offset
//! <dir>/incoming/…                            being written; what a crash leaves goes at the next open
//! ```
//!
//! One file serves all repositories and regions; which repository has which layer is in the store. A file is made
//! and its record committed under [`Blobs::hold`], and removed under [`Blobs::exclusive`] after a last look at the
//! records: so no record is left without its file.

use std::collections::HashMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use aws_lc_rs::digest::{Context, SHA256};
use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

const COPY_BYTES: usize = 256 << 10;
const HEX_DIGITS: usize = 64;

/// The registry's files cannot be made, read or removed.
#[derive(Debug, thiserror::Error)]
#[error("the registry's file {path} cannot be {verb}")]
pub struct BlobsError {
    verb: &'static str,
    path: PathBuf,
    #[source]
    source: io::Error,
}

fn failed(verb: &'static str, path: &Path) -> impl FnOnce(io::Error) -> BlobsError {
    let path = path.to_owned();
    move |source| BlobsError { verb, path, source }
}

/// `sha256:` and 64 lower-case digits, and nothing else: safe in a path.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Digest(String);

impl Digest {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let hex = text.strip_prefix("sha256:")?;
        let fits =
            hex.len() == HEX_DIGITS && hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        fits.then(|| Self(text.to_owned()))
    }

    pub(crate) fn of(bytes: &[u8]) -> Self {
        let mut context = Context::new(&SHA256);
        context.update(bytes);
        Self::finish(context)
    }

    fn finish(context: Context) -> Self {
        Self(format!("sha256:{}", hex::encode(context.finish().as_ref())))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    fn hex(&self) -> &str {
        &self.0["sha256:".len()..]
    }
}

impl std::fmt::Display for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

pub(crate) enum Appended {
    /// The upload's length now.
    To(u64),
    /// The part does not follow what is there.
    Gap {
        length: u64,
    },
    TooLarge,
    Unknown,
}

pub(crate) enum Finished {
    Blob {
        digest: Digest,
        size: u64,
    },
    /// What came is not what was said; the upload stays.
    Differs {
        digest: Digest,
    },
    Empty,
    Unknown,
}

pub(crate) struct Blobs {
    dir: PathBuf,
    gate: RwLock<()>,
    /// One writer per upload or fetch.
    busy: Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>,
}

impl Blobs {
    /// `dir` belongs to the registry alone; it is made if it is not there.
    pub(crate) fn open(dir: PathBuf) -> Result<Self, BlobsError> {
        let incoming = dir.join("incoming");
        match fs::remove_dir_all(&incoming) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(failed("removed", &incoming)(error));
            }
            _ => {}
        }
        for folder in [dir.join("blobs"), dir.join("uploads"), incoming] {
            DirBuilder::new().recursive(true).mode(0o700).create(&folder).map_err(failed("made", &folder))?;
        }
        Ok(Self { dir, gate: RwLock::new(()), busy: Mutex::default() })
    }

    /// Held from when a file gets its name until its record is committed.
    pub(crate) async fn hold(&self) -> RwLockReadGuard<'_, ()> {
        self.gate.read().await
    }

    /// Nobody is between a file and its record.
    pub(crate) async fn exclusive(&self) -> RwLockWriteGuard<'_, ()> {
        self.gate.write().await
    }

    /// The lock of one upload or fetch, by name.
    pub(crate) fn lock_of(&self, name: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lock) = busy.get(name).and_then(Weak::upgrade) {
            return lock;
        }
        busy.retain(|_, lock| lock.strong_count() > 0);
        let lock = Arc::new(tokio::sync::Mutex::new(()));
        busy.insert(name.to_owned(), Arc::downgrade(&lock));
        lock
    }

    pub(crate) fn path(&self, digest: &Digest) -> PathBuf {
        let hex = digest.hex();
        self.dir.join("blobs").join(&hex[..2]).join(hex)
    }

    fn upload_path(&self, id: &str) -> PathBuf {
        self.dir.join("uploads").join(id)
    }

    /// The size of a blob that is here.
    pub(crate) fn size(&self, digest: &Digest) -> Option<u64> {
        fs::metadata(self.path(digest)).ok().map(|meta| meta.len())
    }

    /// A small blob, whole: a manifest.
    pub(crate) async fn read(&self, digest: &Digest) -> Result<Vec<u8>, BlobsError> {
        let path = self.path(digest);
        tokio::fs::read(&path).await.map_err(failed("read", &path))
    }

    /// Keeps a small blob: a manifest.
    pub(crate) async fn keep(&self, bytes: Vec<u8>) -> Result<Digest, BlobsError> {
        let incoming = self.dir.join("incoming");
        let digest = Digest::of(&bytes);
        let path = self.path(&digest);
        blocking(move || {
            if path.exists() {
                return Ok(());
            }
            let mut file = tempfile::NamedTempFile::new_in(&incoming).map_err(failed("made", &incoming))?;
            file.write_all(&bytes).map_err(failed("written", file.path()))?;
            file.as_file().sync_all().map_err(failed("written", file.path()))?;
            let file = file.into_temp_path();
            name(&file, &path)
        })
        .await?;
        Ok(digest)
    }

    /// A file to write a blob into, from somewhere else than an upload.
    pub(crate) fn incoming(&self) -> Result<tempfile::NamedTempFile, BlobsError> {
        let incoming = self.dir.join("incoming");
        tempfile::NamedTempFile::new_in(&incoming).map_err(failed("made", &incoming))
    }

    /// Whether a file of [`Self::incoming`] is what it should be, with its size; it is on disk then.
    pub(crate) async fn verify(
        &self,
        file: tempfile::NamedTempFile,
        expected: &Digest,
    ) -> Result<Option<(tempfile::TempPath, u64)>, BlobsError> {
        let expected = expected.clone();
        blocking(move || {
            let (digest, size) = hash(file.path())?;
            if digest != expected {
                return Ok(None);
            }
            file.as_file().sync_all().map_err(failed("written", file.path()))?;
            Ok(Some((file.into_temp_path(), size)))
        })
        .await
    }

    /// Gives a verified file its name. Its caller holds the gate.
    pub(crate) async fn adopt(&self, file: tempfile::TempPath, digest: &Digest) -> Result<(), BlobsError> {
        let path = self.path(digest);
        blocking(move || name(&file, &path)).await
    }

    pub(crate) async fn begin_upload(&self, id: &str) -> Result<(), BlobsError> {
        let path = self.upload_path(id);
        blocking(move || {
            OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&path)
                .map(drop)
                .map_err(failed("made", &path))
        })
        .await
    }

    /// What has come so far, in bytes.
    pub(crate) fn upload_length(&self, id: &str) -> Option<u64> {
        fs::metadata(self.upload_path(id)).ok().map(|meta| meta.len())
    }

    /// The next part. Its caller holds the upload's lock.
    pub(crate) async fn append(
        &self,
        id: &str,
        first: u64,
        bytes: Vec<u8>,
        max: u64,
    ) -> Result<Appended, BlobsError> {
        let path = self.upload_path(id);
        blocking(move || {
            let mut file = match OpenOptions::new().append(true).open(&path) {
                Ok(file) => file,
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Appended::Unknown),
                Err(error) => return Err(failed("opened", &path)(error)),
            };
            let length = file.metadata().map_err(failed("read", &path))?.len();
            if first != length {
                return Ok(Appended::Gap { length });
            }
            if length + bytes.len() as u64 > max {
                return Ok(Appended::TooLarge);
            }
            if let Err(error) = file.write_all(&bytes) {
                // A full disk: half a part must not count as received.
                let _ = file.set_len(length);
                return Err(failed("written", &path)(error));
            }
            Ok(Appended::To(length + bytes.len() as u64))
        })
        .await
    }

    /// Whether an upload is what it should be; it is on disk then. Its caller holds the upload's lock, and not the
    /// gate: this reads all of it.
    pub(crate) async fn verify_upload(
        &self,
        id: &str,
        expected: Digest,
        empty_is_fine: bool,
    ) -> Result<Finished, BlobsError> {
        let upload = self.upload_path(id);
        blocking(move || {
            let file = match File::open(&upload) {
                Ok(file) => file,
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Finished::Unknown),
                Err(error) => return Err(failed("opened", &upload)(error)),
            };
            let (digest, size) = hash(&upload)?;
            if size == 0 && !empty_is_fine {
                return Ok(Finished::Empty);
            }
            if digest != expected {
                return Ok(Finished::Differs { digest });
            }
            file.sync_all().map_err(failed("written", &upload))?;
            Ok(Finished::Blob { digest, size })
        })
        .await
    }

    /// Makes a verified upload a blob. Its caller still holds the upload's lock, and the gate.
    pub(crate) async fn name_upload(&self, id: &str, digest: &Digest) -> Result<(), BlobsError> {
        let (upload, target) = (self.upload_path(id), self.path(digest));
        blocking(move || name(&upload, &target)).await
    }

    /// Makes a blob that is here what an upload has received, without a copy. Nobody has been told of the upload:
    /// the file is the blob's own, and must not be appended to.
    pub(crate) async fn link_upload(&self, id: &str, digest: &Digest) -> Result<(), BlobsError> {
        let (upload, blob) = (self.upload_path(id), self.path(digest));
        blocking(move || {
            fs::remove_file(&upload).map_err(failed("removed", &upload))?;
            fs::hard_link(&blob, &upload).map_err(failed("linked", &upload))
        })
        .await
    }

    pub(crate) async fn drop_upload(&self, id: &str) -> Result<(), BlobsError> {
        remove(self.upload_path(id)).await
    }

    /// Removes a blob. Its caller holds [`Self::exclusive`] and knows that no record names it.
    pub(crate) async fn remove(&self, digest: &Digest) -> Result<(), BlobsError> {
        remove(self.path(digest)).await
    }

    /// The uploads there are.
    pub(crate) async fn uploads(&self) -> Result<Vec<String>, BlobsError> {
        let folder = self.dir.join("uploads");
        blocking(move || names(&folder)).await
    }

    /// The blobs there are, with their sizes.
    pub(crate) async fn all(&self) -> Result<Vec<(Digest, u64)>, BlobsError> {
        let folder = self.dir.join("blobs");
        blocking(move || {
            let mut found = Vec::new();
            for shelf in names(&folder)? {
                for name in names(&folder.join(&shelf))? {
                    let path = folder.join(&shelf).join(&name);
                    let size = fs::metadata(&path).map_err(failed("read", &path))?.len();
                    found.extend(Digest::parse(&format!("sha256:{name}")).map(|digest| (digest, size)));
                }
            }
            Ok(found)
        })
        .await
    }
}

async fn remove(path: PathBuf) -> Result<(), BlobsError> {
    match tokio::fs::remove_file(&path).await {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(failed("removed", &path)(error)),
        _ => Ok(()),
    }
}

/// Under its final name, durably. Who comes second replaces the file by the same bytes.
fn name(from: &Path, to: &Path) -> Result<(), BlobsError> {
    let shelf = to.parent().expect("a blob lies in a folder");
    DirBuilder::new().recursive(true).mode(0o700).create(shelf).map_err(failed("made", shelf))?;
    fs::rename(from, to).map_err(failed("named", to))?;
    let sync = |folder: &Path| File::open(folder).and_then(|folder| folder.sync_all());
    sync(shelf).map_err(failed("named", to))?;
    shelf.parent().map_or(Ok(()), sync).map_err(failed("named", to))
}

fn hash(path: &Path) -> Result<(Digest, u64), BlobsError> {
    let mut file = File::open(path).map_err(failed("opened", path))?;
    let (mut context, mut size) = (Context::new(&SHA256), 0);
    let mut buffer = vec![0; COPY_BYTES];
    loop {
        let count = file.read(&mut buffer).map_err(failed("read", path))?;
        if count == 0 {
            return Ok((Digest::finish(context), size));
        }
        context.update(&buffer[..count]);
        size += count as u64;
    }
}

fn names(folder: &Path) -> Result<Vec<String>, BlobsError> {
    let entries = fs::read_dir(folder).map_err(failed("read", folder))?;
    let mut found = Vec::new();
    for entry in entries {
        found.extend(entry.map_err(failed("read", folder))?.file_name().into_string().ok());
    }
    Ok(found)
}

/// File work goes to the threads for it.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, BlobsError> + Send + 'static,
) -> Result<T, BlobsError> {
    tokio::task::spawn_blocking(work).await.expect("work on files does not panic")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_sha256_is_a_digest() {
        let good = Digest::of(b"x");
        assert_eq!(Digest::parse(good.as_str()).as_ref(), Some(&good));
        let hex = &good.as_str()[7..];
        for bad in [
            "",
            "sha256:",
            "sha256:../../etc/passwd",
            hex,
            &format!("sha512:{hex}"),
            &good.as_str().to_uppercase(),
        ] {
            assert_eq!(Digest::parse(bad), None, "{bad}");
        }
    }

    #[tokio::test]
    async fn an_upload_is_a_blob_only_when_it_is_what_was_said() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(dir.path().join("ecr")).unwrap();
        blobs.begin_upload("u").await.unwrap();
        assert!(matches!(blobs.append("u", 0, b"hello ".to_vec(), 100).await.unwrap(), Appended::To(6)));
        assert!(matches!(
            blobs.append("u", 0, b"x".to_vec(), 100).await.unwrap(),
            Appended::Gap { length: 6 }
        ));
        assert!(matches!(blobs.append("u", 6, vec![0; 100], 100).await.unwrap(), Appended::TooLarge));
        assert!(matches!(blobs.append("u", 6, b"you".to_vec(), 100).await.unwrap(), Appended::To(9)));
        let (right, wrong) = (Digest::of(b"hello you"), Digest::of(b"other"));
        assert!(matches!(blobs.verify_upload("u", wrong, false).await.unwrap(), Finished::Differs { .. }));
        let finished = blobs.verify_upload("u", right.clone(), false).await.unwrap();
        assert!(matches!(finished, Finished::Blob { size: 9, .. }));
        assert_eq!(blobs.size(&right), None);
        blobs.name_upload("u", &right).await.unwrap();
        assert_eq!(blobs.read(&right).await.unwrap(), b"hello you");
        assert!(matches!(blobs.verify_upload("u", right.clone(), false).await.unwrap(), Finished::Unknown));
        assert_eq!(blobs.all().await.unwrap(), [(right, 9)]);
    }
}
