//! What a disk can do to the writer, on a disk made for it.

use std::io::{self, ErrorKind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use ::redb::{Builder, StorageBackend};

use super::disk::Disk;
use super::*;

/// A disk in memory that can be full or broken, and is still there when its store is reopened.
#[derive(Clone, Debug, Default)]
struct FakeDisk {
    bytes: Arc<Mutex<Vec<u8>>>,
    full: Arc<AtomicBool>,
    broken: Arc<AtomicBool>,
    flushes: Arc<AtomicU64>,
}

impl FakeDisk {
    fn bytes(&self) -> MutexGuard<'_, Vec<u8>> {
        self.bytes.lock().unwrap()
    }

    fn store(&self) -> RedbStore {
        let disk = self.clone();
        RedbStore::start(Disk::on(move || Builder::new().create_with_backend(disk.clone())).unwrap(), None).unwrap()
    }
}

impl StorageBackend for FakeDisk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.bytes().len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let bytes = self.bytes();
        let from = bytes.get(offset as usize..offset as usize + out.len()).ok_or(ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(from);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.bytes().resize(len as usize, 0);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.flushes.fetch_add(1, Ordering::Relaxed);
        if self.broken.load(Ordering::Relaxed) { Err(io::Error::from_raw_os_error(libc_eio())) } else { Ok(()) }
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        if self.full.load(Ordering::Relaxed) {
            return Err(ErrorKind::StorageFull.into());
        }
        self.bytes()[offset as usize..offset as usize + data.len()].copy_from_slice(data);
        Ok(())
    }
}

/// EIO on Linux.
fn libc_eio() -> i32 {
    5
}

#[tokio::test]
async fn a_full_disk_keeps_nothing_of_a_transaction_and_the_store_goes_on_when_there_is_room() {
    let disk = FakeDisk::default();
    let store = disk.store();
    let first = store.txn(Txn::new().put("a", *b"1")).await.unwrap();
    let lease = store.lease_grant(Duration::from_secs(60)).await.unwrap();

    disk.full.store(true, Ordering::Relaxed);
    for _ in 0..3 {
        let error = store.txn(Txn::new().put("a", *b"2")).await.unwrap_err();
        assert!(matches!(error, StoreError::Write { .. } | StoreError::Failed { .. }), "{error}");
        assert_eq!(store.get("a").unwrap().mod_revision, first.revision);
    }
    store.lease_revoke(lease).await.unwrap_err();

    disk.full.store(false, Ordering::Relaxed);
    let next = store.txn(Txn::new().when_revision("a", first.revision).put("a", *b"3")).await.unwrap();
    assert_eq!(next, TxnResult { succeeded: true, revision: first.revision + 1 });
    drop(store);
    assert_eq!(*disk.store().get("a").unwrap().value, *b"3");
}

#[tokio::test]
async fn after_a_broken_flush_nothing_is_acknowledged_any_more() {
    let disk = FakeDisk::default();
    let store = disk.store();
    store.txn(Txn::new().put("a", *b"1")).await.unwrap();
    disk.broken.store(true, Ordering::Relaxed);
    let put = || store.txn(Txn::new().put("a", *b"2"));
    assert!(matches!(put().await, Err(StoreError::Failed { .. })));
    disk.broken.store(false, Ordering::Relaxed);
    assert!(matches!(put().await, Err(StoreError::Failed { .. })), "what the disk has is not known");
    assert_eq!(*store.get("a").unwrap().value, *b"1", "reads go on");
    let unchanged = store.txn(Txn::new().when_absent("a").put("a", *b"2")).await.unwrap();
    assert!(!unchanged.succeeded, "what changes nothing needs no disk");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transactions_that_wait_share_a_flush() {
    const TXNS: u64 = 512;
    let disk = FakeDisk::default();
    let store = Arc::new(disk.store());
    let before = disk.flushes.load(Ordering::Relaxed);
    // The disk is held until all of them wait.
    let held = disk.bytes.lock().unwrap();
    let mut calls = tokio::task::JoinSet::new();
    for at in 0..TXNS {
        let store = Arc::clone(&store);
        calls.spawn(async move { store.txn(Txn::new().put(format!("k{at}"), *b"{}")).await.unwrap() });
    }
    wait_for_queue(&store, TXNS as usize);
    drop(held);
    calls.join_all().await;
    let flushes = disk.flushes.load(Ordering::Relaxed) - before;
    assert!(flushes <= 16, "{TXNS} transactions took {flushes} flushes");
    assert_eq!(store.revision(), TXNS);
}

/// Until no more than one batch is out of the queue.
fn wait_for_queue(store: &RedbStore, sent: usize) {
    let queue = store.queue.as_ref().unwrap();
    while queue.max_capacity() - queue.capacity() + 256 < sent {
        std::thread::yield_now();
    }
}
