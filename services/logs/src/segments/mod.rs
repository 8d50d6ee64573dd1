//! Events on disk: `dir/<group id>/<stream id>/<number of the first event>.seg`, each a log of frames
//! (`frame.rs`). The ids are of the records in the store, so that a log group made anew under an old name never
//! shows what the old one held.
//!
//! A stream is looked at when it is first asked for. Kept in memory: per stream its statistics, and of each
//! 128 KiB of events where they lie and their first and last time (28 bytes); never an event.

mod frame;
mod read;
mod stream;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use tokio::sync::{OnceCell, Semaphore};

pub(crate) use frame::{EVENT_OVERHEAD_BYTES, encode};
pub(crate) use read::{Direction, Found, Key, PageRead, Query};
pub(crate) use stream::{Statistics, Stream};

/// KiB of puts that wait for the disk, all streams together; further ones wait before they are taken in.
const WAITING_KIB_MAX: u32 = 64 << 10;
/// Reads at work at once: each holds one block and one page of events.
const READS_MAX: usize = 16;

#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum SegmentsError {
    #[error("cannot {what} {}: {source}", path.display())]
    Io { what: &'static str, path: PathBuf, source: Arc<io::Error> },
    #[error("the log files {} are in use by another process", .0.display())]
    InUse(PathBuf),
    #[error("the log stream was deleted")]
    Gone,
    #[error("the log segment {} is damaged at byte {offset}", path.display())]
    Damaged { path: PathBuf, offset: u64 },
}

impl SegmentsError {
    fn io(what: &'static str, path: &Path, error: io::Error) -> Self {
        Self::Io { what, path: path.to_owned(), source: Arc::new(error) }
    }
}

type Slot = Arc<OnceCell<Arc<Stream>>>;

pub(crate) struct Segments {
    dir: PathBuf,
    streams: Mutex<HashMap<String, HashMap<String, Slot>>>,
    waiting: Arc<Semaphore>,
    reads: Arc<Semaphore>,
    /// Locked while this lives, so that two processes never write one file.
    _lock: File,
}

impl Segments {
    pub(crate) fn open(dir: PathBuf) -> Result<Self, SegmentsError> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&dir)
            .map_err(|error| SegmentsError::io("make the folder", &dir, error))?;
        let path = dir.join("lock");
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(|error| SegmentsError::io("open", &path, error))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Err(SegmentsError::InUse(dir)),
            Err(fs::TryLockError::Error(error)) => return Err(SegmentsError::io("lock", &path, error)),
        }
        Ok(Self {
            dir,
            streams: Mutex::default(),
            waiting: Arc::new(Semaphore::new(WAITING_KIB_MAX as usize)),
            reads: Arc::new(Semaphore::new(READS_MAX)),
            _lock: lock,
        })
    }

    /// The stream's files, which need not exist yet.
    pub(crate) async fn stream(&self, group: &str, stream: &str) -> Result<Arc<Stream>, SegmentsError> {
        let slot = {
            let mut groups = self.streams.lock().expect("segments lock");
            let streams = match groups.get_mut(group) {
                Some(streams) => streams,
                None => groups.entry(group.to_owned()).or_default(),
            };
            match streams.get(stream) {
                Some(slot) => Arc::clone(slot),
                None => Arc::clone(streams.entry(stream.to_owned()).or_default()),
            }
        };
        let folder = self.dir.join(group).join(stream);
        let found = slot.get_or_try_init(|| async {
            tokio::task::spawn_blocking(move || Stream::load(folder).map(Arc::new))
                .await
                .unwrap_or(Err(SegmentsError::Gone))
        });
        found.await.cloned()
    }

    /// Adds an encoded frame to the stream; durable when it returns. Gives the number of the next event.
    pub(crate) async fn append(&self, stream: &Arc<Stream>, frame: Vec<u8>) -> Result<u64, SegmentsError> {
        let kib = (frame.len() as u32).div_ceil(1024).min(WAITING_KIB_MAX);
        let permit =
            Arc::clone(&self.waiting).acquire_many_owned(kib).await.map_err(|_| SegmentsError::Gone)?;
        stream.append(frame, permit).await
    }

    pub(crate) async fn read(&self, query: Query) -> Result<PageRead, SegmentsError> {
        let permit = Arc::clone(&self.reads).acquire_owned().await.map_err(|_| SegmentsError::Gone)?;
        tokio::task::spawn_blocking(move || {
            let page = read::read(&query);
            drop(permit);
            page
        })
        .await
        .unwrap_or(Err(SegmentsError::Gone))
    }

    /// Bytes of the group's events as AWS counts them.
    pub(crate) async fn group_bytes(&self, group: &str) -> Result<u64, SegmentsError> {
        let mut bytes = 0;
        for stream in self.folders(group)? {
            bytes += self.stream(group, &stream).await?.statistics().bytes;
        }
        Ok(bytes)
    }

    /// The streams of the group that have files; for `""`, the groups.
    pub(crate) fn folders(&self, group: &str) -> Result<BTreeSet<String>, SegmentsError> {
        let path = self.dir.join(group);
        let fail = |error| SegmentsError::io("list", &path, error);
        let entries = match fs::read_dir(&path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
            Err(error) => return Err(fail(error)),
        };
        let mut names = BTreeSet::new();
        for entry in entries {
            let entry = entry.map_err(fail)?;
            if entry.file_type().map_err(fail)?.is_dir() {
                names.extend(entry.file_name().into_string());
            }
        }
        Ok(names)
    }

    pub(crate) async fn delete_stream(&self, group: &str, stream: &str) -> Result<(), SegmentsError> {
        self.stream(group, stream).await?.delete().await?;
        if let Some(streams) = self.streams.lock().expect("segments lock").get_mut(group) {
            streams.remove(stream);
        }
        Ok(())
    }

    pub(crate) async fn delete_group(&self, group: &str) -> Result<(), SegmentsError> {
        let known: Vec<Slot> = {
            let mut groups = self.streams.lock().expect("segments lock");
            groups.remove(group).map(|streams| streams.into_values().collect()).unwrap_or_default()
        };
        for slot in known {
            if let Some(stream) = slot.get() {
                stream.delete().await?;
            }
        }
        let folder = self.dir.join(group);
        tokio::task::spawn_blocking(move || stream::remove_folder(&folder))
            .await
            .unwrap_or(Err(SegmentsError::Gone))
    }
}
