//! The tables, and what is read and written there.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ::redb::{Builder, Database, DatabaseError, Error, ReadableDatabase, ReadableTable, TableDefinition};

use crate::state::State;
use crate::{Change, Kv, LeaseId, StoreError};

/// redb's page cache. All reads come from the snapshot, so that little is needed.
const CACHE_BYTES: usize = 4 << 20;

/// Key → (create, mod, version, lease or 0, value).
const KEYS: TableDefinition<&str, (u64, u64, u64, u64, &[u8])> = TableDefinition::new("keys");
/// (Revision, place in it) → (key, what was put: (create, version, lease or 0, value)). What watches that begin in
/// the past are given. Written in the same transaction as the keys.
const LOG: TableDefinition<(u64, u64), (&str, Option<Put<'static>>)> = TableDefinition::new("log");
/// Lease → its ttl in ms.
const LEASES: TableDefinition<u64, u64> = TableDefinition::new("leases");
const META: TableDefinition<&str, u64> = TableDefinition::new("meta");

type Put<'a> = (u64, u64, u64, &'a [u8]);

const REVISION: &str = "revision";
const LAST_LEASE: &str = "last lease";
/// Watches may begin after this revision.
const LOG_AFTER: &str = "log after";
const FORMAT: &str = "format";
const FORMAT_NOW: u64 = 2;

/// What one commit writes.
#[derive(Default)]
pub(crate) struct Commit<'a> {
    /// By revision, and not empty unless a lease is written.
    pub(crate) changes: &'a [Change],
    /// The log is dropped up to here.
    pub(crate) log_after: u64,
    pub(crate) lease: Option<LeaseChange>,
}

#[derive(Clone, Copy)]
pub(crate) enum LeaseChange {
    Granted(LeaseId, Duration),
    Ended(LeaseId),
}

/// What a start finds.
pub(crate) struct Kept {
    pub(crate) state: State,
    pub(crate) leases: Vec<(LeaseId, Duration)>,
    pub(crate) last_lease: u64,
}

type Reopen = Box<dyn Fn() -> Result<Database, DatabaseError> + Send>;

pub(crate) struct Disk {
    path: PathBuf,
    /// `None` only while it is being reopened, and after that failed.
    database: Option<Database>,
    reopen: Reopen,
    /// The log was dropped up to here.
    trimmed: u64,
}

impl Disk {
    pub(crate) fn open(path: &Path) -> Result<Self, StoreError> {
        let here = path.to_owned();
        let reopen: Reopen = Box::new(move || builder().open(&here));
        match fs::metadata(path) {
            Ok(_) => Self::with(path, reopen),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let disk = create(path).map_err(|why| StoreError::Open { path: path.to_owned(), why })?;
                Ok(Self { path: path.to_owned(), database: Some(disk), reopen, trimmed: 0 })
            }
            Err(error) => Err(StoreError::Open { path: path.to_owned(), why: error.to_string() }),
        }
    }

    /// Opens what is there and checks every page of it.
    fn with(path: &Path, reopen: Reopen) -> Result<Self, StoreError> {
        let database = guarded(path, || {
            let mut database = reopen().map_err(|error| classify(path, error))?;
            let before = revision(&database).map_err(|error| classify(path, error))?;
            let whole = database.check_integrity().map_err(|error| classify(path, error))?;
            let after = revision(&database).map_err(|error| classify(path, error))?;
            if !whole && before != after {
                let why = format!(
                    "revision {before} was unreadable and is gone; the next start goes on from {after}"
                );
                return Err(StoreError::Damaged { path: path.to_owned(), why });
            }
            Ok(database)
        })?;
        Ok(Self { path: path.to_owned(), database: Some(database), reopen, trimmed: 0 })
    }

    /// A store on something else than a file.
    #[cfg(test)]
    pub(crate) fn on(
        reopen: impl Fn() -> Result<Database, DatabaseError> + Send + 'static,
    ) -> Result<Self, StoreError> {
        let path = Path::new("memory");
        make_tables(&reopen().map_err(|error| classify(path, error))?)
            .map_err(|error| classify(path, error))?;
        Self::with(path, Box::new(reopen))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    fn database(&self) -> Result<&Database, Error> {
        self.database.as_ref().ok_or(Error::DatabaseClosed)
    }

    pub(crate) fn load(&self) -> Result<Kept, StoreError> {
        guarded(&self.path, || {
            let database = self.database().map_err(|error| classify(&self.path, error))?;
            let kept = read(database).map_err(|error| classify(&self.path, error))?;
            let newest = kept.state.keys.values().map(|kv| kv.mod_revision).max().unwrap_or(0);
            let logged = kept.state.log.back().map_or(0, |change| change.revision);
            if newest.max(logged) > kept.state.revision {
                let why = format!(
                    "it holds revision {} but says its last is {}",
                    newest.max(logged),
                    kept.state.revision
                );
                return Err(StoreError::Damaged { path: self.path.clone(), why });
            }
            Ok(kept)
        })
    }

    /// The revision on disk.
    pub(crate) fn revision(&self) -> Result<u64, Error> {
        revision(self.database()?)
    }

    /// Whether the last [`Disk::reopen`] failed.
    pub(crate) fn is_closed(&self) -> bool {
        self.database.is_none()
    }

    /// After a failed write redb takes no more: begins again with what is on disk.
    pub(crate) fn reopen(&mut self) -> Result<(), Error> {
        // Closed first: redb locks the file.
        drop(self.database.take());
        self.database = Some((self.reopen)()?);
        Ok(())
    }

    /// Durable when it returns; when it fails, on disk or not.
    pub(crate) fn write(&mut self, commit: &Commit<'_>) -> Result<(), Error> {
        let mut write = self.database()?.begin_write()?;
        // In one phase, after a kill, a damaged commit looks like one that was never finished: redb would go back to the
        // one before and say nothing, though this one was acknowledged. It costs a second flush.
        write.set_two_phase_commit(true);
        {
            let mut keys = write.open_table(KEYS)?;
            let mut log = write.open_table(LOG)?;
            let mut meta = write.open_table(META)?;
            for (place, change) in commit.changes.iter().enumerate() {
                let put = change.kv.as_ref().map(|kv| (kv, kv.lease.map_or(0, |lease| lease.0)));
                match put {
                    Some((kv, lease)) => keys.insert(
                        &*change.key,
                        (kv.create_revision, kv.mod_revision, kv.version, lease, &*kv.value),
                    )?,
                    None => keys.remove(&*change.key)?,
                };
                let put = put.map(|(kv, lease)| (kv.create_revision, kv.version, lease, &*kv.value));
                log.insert((change.revision, place as u64), (&*change.key, put))?;
            }
            if commit.log_after > self.trimmed {
                log.retain_in(..(commit.log_after + 1, 0), |_, _| false)?;
                meta.insert(LOG_AFTER, commit.log_after)?;
            }
            if let Some(last) = commit.changes.last() {
                meta.insert(REVISION, last.revision)?;
            }
            match commit.lease {
                Some(LeaseChange::Granted(id, ttl)) => {
                    let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
                    write.open_table(LEASES)?.insert(id.0, ttl_ms)?;
                    meta.insert(LAST_LEASE, id.0)?;
                }
                Some(LeaseChange::Ended(id)) => drop(write.open_table(LEASES)?.remove(id.0)?),
                None => {}
            }
        }
        write.commit()?;
        self.trimmed = self.trimmed.max(commit.log_after);
        Ok(())
    }
}

fn builder() -> Builder {
    let mut builder = Builder::new();
    builder.set_cache_size(CACHE_BYTES);
    builder
}

/// A store that is there is whole: it gets its name only when its tables are on disk. An empty file under that name is
/// therefore damage, not a beginning.
fn create(path: &Path) -> Result<Database, String> {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let new = PathBuf::from(name);
    let make = || -> Result<Database, Error> {
        match fs::remove_file(&new) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        let database = builder().create(&new)?;
        make_tables(&database)?;
        fs::rename(&new, path)?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder)?.sync_all()?;
        Ok(database)
    };
    make().map_err(|error| error.to_string())
}

fn make_tables(database: &Database) -> Result<(), Error> {
    let write = database.begin_write()?;
    write.open_table(KEYS)?;
    write.open_table(LOG)?;
    write.open_table(LEASES)?;
    write.open_table(META)?.insert(FORMAT, FORMAT_NOW)?;
    write.commit()?;
    Ok(())
}

fn revision(database: &Database) -> Result<u64, Error> {
    let read = database.begin_read()?;
    let meta = read.open_table(META)?;
    let format = meta.get(FORMAT)?.map_or(0, |value| value.value());
    if format != FORMAT_NOW {
        return Err(Error::UpgradeRequired(u8::try_from(format).unwrap_or(u8::MAX)));
    }
    Ok(meta.get(REVISION)?.map_or(0, |value| value.value()))
}

fn read(database: &Database) -> Result<Kept, Error> {
    let read = database.begin_read()?;
    let meta = read.open_table(META)?;
    let number = |name| Ok::<_, Error>(meta.get(name)?.map_or(0, |value| value.value()));
    let mut state = State::at(number(REVISION)?, number(LOG_AFTER)?);
    for entry in read.open_table(KEYS)?.iter()? {
        let (key, value) = entry?;
        let (create_revision, mod_revision, version, lease, value) = value.value();
        let key: Arc<str> = key.value().into();
        let kv = Kv {
            key: Arc::clone(&key),
            value: value.into(),
            create_revision,
            mod_revision,
            version,
            lease: named(lease),
        };
        state.keys.insert(key, kv);
    }
    for entry in read.open_table(LOG)?.iter()? {
        let (place, change) = entry?;
        let (revision, _) = place.value();
        let (key, put) = change.value();
        // What is still so is not held twice.
        let now = state.keys.get(key).filter(|kv| kv.mod_revision == revision);
        let key: Arc<str> = now.map_or_else(|| key.into(), |kv| Arc::clone(&kv.key));
        let kv = put.map(|(create_revision, version, lease, value)| {
            let value = now.map_or_else(|| value.into(), |kv| Arc::clone(&kv.value));
            Kv {
                key: Arc::clone(&key),
                value,
                create_revision,
                mod_revision: revision,
                version,
                lease: named(lease),
            }
        });
        state.push_log(Change { revision, key, kv });
    }
    state.trim_log();
    let mut leases = Vec::new();
    for entry in read.open_table(LEASES)?.iter()? {
        let (id, ttl_ms) = entry?;
        leases.push((LeaseId(id.value()), Duration::from_millis(ttl_ms.value())));
    }
    Ok(Kept { state, leases, last_lease: number(LAST_LEASE)? })
}

fn named(lease: u64) -> Option<LeaseId> {
    (lease != 0).then_some(LeaseId(lease))
}

/// A damaged file can send redb anywhere; that is the file's fault and no reason to end the program.
fn guarded<T>(path: &Path, open: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
    catch_unwind(AssertUnwindSafe(open)).unwrap_or_else(|panic| {
        let why = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let why = why.or_else(|| panic.downcast_ref::<String>().cloned());
        Err(StoreError::Damaged {
            path: path.to_owned(),
            why: why.unwrap_or_else(|| "its pages make no sense".into()),
        })
    })
}

fn classify(path: &Path, error: impl Into<Error>) -> StoreError {
    let path = path.to_owned();
    match error.into() {
        Error::DatabaseAlreadyOpen => StoreError::InUse { path, holder: "another process".into() },
        Error::UpgradeRequired(found) => StoreError::Format { path, found: found.into(), reads: FORMAT_NOW },
        // A file that ends before its pages do is damage; one that may not be read is not.
        Error::Io(error) if !matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::InvalidData) => {
            StoreError::Open { path, why: error.to_string() }
        }
        other => StoreError::Damaged { path, why: other.to_string() },
    }
}

/// Whether nothing is wrong with the disk but that it is full.
pub(crate) fn is_full(error: &Error) -> bool {
    let full = |error: &io::Error| matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded);
    matches!(error, Error::Io(error) if full(error))
}
