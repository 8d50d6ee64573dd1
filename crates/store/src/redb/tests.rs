//! What a disk can do to the writer, on a disk made for it.

use std::io::{self, ErrorKind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use ::redb::{Builder, StorageBackend};

use super::disk::Disk;
use super::*;

/// A disk in memory that can be full, break, and lose power; it is still there when its store is reopened.
#[derive(Clone, Debug, Default)]
struct FakeDisk {
    platter: Arc<Mutex<Platter>>,
    full: Arc<AtomicBool>,
    broken: Arc<AtomicBool>,
    flushes: Arc<AtomicU64>,
}

#[derive(Debug, Default)]
struct Platter {
    /// What reads show.
    bytes: Vec<u8>,
    /// What a flush has made sure of.
    flushed: Vec<u8>,
    /// Since the last flush.
    writes: Vec<(usize, Vec<u8>)>,
}

impl FakeDisk {
    fn platter(&self) -> MutexGuard<'_, Platter> {
        self.platter.lock().unwrap()
    }

    fn open(&self) -> Result<RedbStore, StoreError> {
        let disk = self.clone();
        RedbStore::start(Disk::on(move || Builder::new().create_with_backend(disk.clone()))?, None)
    }

    fn store(&self) -> RedbStore {
        self.open().unwrap()
    }

    /// The disk as it may be found after the power failed now: of what was not flushed some sectors, in no order.
    fn without_power(&self, chance: &mut Chance) -> Self {
        let platter = self.platter();
        let mut bytes = platter.flushed.clone();
        for (offset, data) in &platter.writes {
            for (at, sector) in data.chunks(512).enumerate().filter(|_| chance.below(2) == 0) {
                let from = offset + at * 512;
                bytes.resize(bytes.len().max(from + sector.len()), 0);
                bytes[from..from + sector.len()].copy_from_slice(sector);
            }
        }
        let platter = Platter { flushed: bytes.clone(), bytes, writes: Vec::new() };
        Self { platter: Arc::new(Mutex::new(platter)), ..Self::default() }
    }
}

/// Random numbers from a seed (xorshift).
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

impl StorageBackend for FakeDisk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.platter().bytes.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let platter = self.platter();
        let from = platter
            .bytes
            .get(offset as usize..offset as usize + out.len())
            .ok_or(ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(from);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.platter().bytes.resize(len as usize, 0);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        if self.broken.load(Ordering::Relaxed) {
            return Err(io::Error::other("the disk is broken"));
        }
        let mut platter = self.platter();
        platter.flushed = platter.bytes.clone();
        platter.writes.clear();
        self.flushes.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        if self.full.load(Ordering::Relaxed) {
            return Err(ErrorKind::StorageFull.into());
        }
        let (offset, mut platter) = (offset as usize, self.platter());
        platter.bytes[offset..offset + data.len()].copy_from_slice(data);
        platter.writes.push((offset, data.to_vec()));
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_power_failure_loses_nothing_acknowledged_and_leaves_nothing_half_done() {
    const ROUNDS: u64 = 40;
    let mut chance = Chance(0x5eed);
    let mut disk = FakeDisk::default();
    for round in 0..ROUNDS {
        let store = Arc::new(disk.store());
        let writer = tokio::spawn({
            let store = Arc::clone(&store);
            async move {
                for n in 0..40_u32 {
                    let value = format!("{round}.{n}.{}", "x".repeat(n as usize * 300));
                    let txn = Txn::new().put("a", value.clone().into_bytes()).put("b", value.into_bytes());
                    store.txn(txn).await.unwrap();
                }
            }
        });
        // The acknowledged first, then the disk: what was acknowledged meanwhile is only more.
        let wanted = store.revision() + 1 + chance.below(38);
        let mut watch = store.watch("a", store.revision()).unwrap();
        let acknowledged = loop {
            let change = watch.next().await.unwrap();
            if change.revision >= wanted {
                break change.revision;
            }
        };
        let after = disk.without_power(&mut chance);
        writer.await.unwrap();
        drop(store);

        disk = after;
        let found = disk.store();
        let (a, b) = (found.get("a").unwrap(), found.get("b").unwrap());
        assert!(found.revision() >= acknowledged, "round {round}: {} < {acknowledged}", found.revision());
        assert_eq!((&a.value, a.mod_revision), (&b.value, b.mod_revision), "round {round}");
        assert_eq!(a.mod_revision, found.revision());
    }
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
    let held = disk.platter();
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
