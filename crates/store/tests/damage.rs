//! What may be found instead of a whole store: a clear error, never a panic, never a wrong value.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use ferrogate_store::{Kv, Listing, RedbStore, Store, StoreError, Txn};
use tempfile::TempDir;

const RECORDS: usize = 300;

/// A store's file, closed, and what is in it.
async fn store() -> (TempDir, Vec<u8>, Listing) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.redb");
    let store = RedbStore::open(&path).unwrap();
    let txn = (0..RECORDS)
        .fold(Txn::new(), |txn, n| txn.put(format!("/record/{n}"), vec![b'a' + (n % 26) as u8; n]));
    store.txn(txn).await.unwrap();
    store.txn(Txn::new().delete("/record/7")).await.unwrap();
    let listing = store.range("");
    drop(store);
    let bytes = fs::read(&path).unwrap();
    (folder, bytes, listing)
}

fn open(path: &Path, bytes: &[u8]) -> Result<(Vec<Kv>, u64), StoreError> {
    fs::write(path, bytes).unwrap();
    let store = RedbStore::open(path)?;
    let listing = store.range("");
    Ok((listing.kvs, listing.revision))
}

#[tokio::test]
async fn damage_anywhere_is_said_or_does_no_harm() {
    let (folder, whole, listing) = store().await;
    let path = folder.path().join("damaged.redb");
    let (mut said, mut seed) = (0, 0x9e37_79b9_7f4a_7c15_u64);
    for round in 0..150 {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let at = (seed >> 20) as usize % whole.len();
        // Half of the rounds near the beginning, where everything important is.
        let at = if round % 2 == 0 { at % 20_000 } else { at };
        let mut bytes = whole.clone();
        match round % 3 {
            0 => bytes[at] ^= 1 << (seed & 7),
            1 => bytes[at..].iter_mut().take(512).for_each(|byte| *byte = (seed >> 8) as u8),
            _ => bytes.truncate(at),
        }
        match open(&path, &bytes) {
            Ok((kvs, revision)) => {
                assert_eq!(
                    revision, listing.revision,
                    "round {round}, byte {at}: a commit is missing and nobody says so"
                );
                assert!(
                    kvs == listing.kvs,
                    "round {round}, byte {at}: a value is not what it was and nobody says so"
                );
            }
            Err(StoreError::Damaged { .. } | StoreError::Format { .. }) => said += 1,
            Err(other) => panic!("round {round}, byte {at}: {other}"),
        }
    }
    assert!(said > 40, "only {said} were noticed");
}

/// As a kill or a power failure leaves it. What a repair finds damaged was acknowledged: to go back to the commit
/// before, without a word, would lose it.
#[tokio::test]
async fn damage_in_a_store_that_was_not_closed_is_said_or_does_no_harm() {
    // Before the commit slots: that is what says which commit is the newest, and nothing says it twice.
    const HEAD_BYTES: usize = 64;
    const PLACES: usize = 300;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.redb");
    let store = RedbStore::open(&path).unwrap();
    for n in 0..30 {
        let put = |txn: Txn, k: usize| txn.put(format!("/record/{n}/{k}"), vec![b'a'; 60 * k]);
        store.txn((0..20).fold(Txn::new(), put)).await.unwrap();
    }
    // Nothing is at work, so that a copy is what the disk has.
    let (bytes, listing) = (fs::read(&path).unwrap(), store.range(""));
    let damaged = folder.path().join("damaged.redb");
    assert_eq!(
        open(&damaged, &bytes).unwrap(),
        (listing.kvs.clone(), listing.revision),
        "a kill does no harm"
    );
    let mut said = 0;
    for at in (HEAD_BYTES..bytes.len()).step_by(bytes.len() / PLACES) {
        let mut bytes = bytes.clone();
        bytes[at] ^= 0x10;
        match open(&damaged, &bytes) {
            Ok((kvs, revision)) => {
                assert_eq!(revision, listing.revision, "byte {at}: a commit is missing and nobody says so");
                assert!(kvs == listing.kvs, "byte {at}: a value is not what it was and nobody says so");
            }
            Err(StoreError::Damaged { .. } | StoreError::Format { .. }) => said += 1,
            Err(other) => panic!("byte {at}: {other}"),
        }
    }
    assert!(said > 20, "only {said} were noticed");
}

#[tokio::test]
async fn an_empty_or_foreign_file_is_not_taken_for_a_new_store() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.redb");
    for bytes in [&b""[..], b"{}", &[0; 1 << 16], &[0xff; 1 << 16]] {
        let error = open(&path, bytes).unwrap_err();
        assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
        assert!(error.to_string().contains("store.redb"), "{error}");
        assert_eq!(fs::read(&path).unwrap(), bytes, "the file is left as it was found");
    }
}

#[tokio::test]
async fn a_start_that_was_cut_short_is_begun_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.redb");
    fs::write(folder.path().join("store.redb.new"), b"half of a sto").unwrap();
    let store = RedbStore::open(&path).unwrap();
    assert!(store.txn(Txn::new().put("/a", *b"1")).await.unwrap().succeeded);
    assert!(!folder.path().join("store.redb.new").exists());
}

#[tokio::test]
async fn a_store_that_is_open_is_refused_with_the_name_of_who_has_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.redb");
    let store = Arc::new(RedbStore::open(&path).unwrap());
    let error = RedbStore::open(&path).err().unwrap();
    let StoreError::InUse { holder, .. } = &error else { panic!("{error}") };
    assert!(holder.starts_with(&format!("process {} (", std::process::id())), "{holder}");
    drop(store);
    RedbStore::open(&path).unwrap();
}

#[tokio::test]
async fn a_disk_too_full_to_name_the_holder_does_not_keep_the_store_shut() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.redb");
    // Every write there fails as on a full disk.
    std::os::unix::fs::symlink("/dev/full", folder.path().join("store.redb.lock")).unwrap();
    let store = RedbStore::open(&path).unwrap();
    assert!(store.txn(Txn::new().put("/a", *b"1")).await.unwrap().succeeded);
}

#[test]
fn a_folder_that_is_not_there_is_named() {
    let error = RedbStore::open(Path::new("/nonexistent/store.redb")).err().unwrap();
    assert!(
        matches!(error, StoreError::Open { .. }) && error.to_string().contains("/nonexistent"),
        "{error}"
    );
}
