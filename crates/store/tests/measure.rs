//! Figures, not assertions: `cargo nextest run -p ferrogate-store --run-ignored only --no-capture measure`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use ferrogate_store::{LOG_CHANGES_KEPT, RedbStore, Store, Txn};

/// Names the store to the child that opens it.
const STORE: &str = "FERROGATE_TEST_MEASURE_STORE";
const RECORDS: usize = 10_000;
const RECORD_BYTES: usize = 1024;
/// A whole number of them fits in a transaction.
const RECORDS_PER_TXN: usize = 1000;
const COMMITS: usize = 300;
const WRITERS: usize = 64;
const COMMITS_EACH: usize = 40;

async fn writers_per_second(store: &Arc<RedbStore>, writers: usize, each: usize) -> f64 {
    let begun = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for writer in 0..writers {
        let store = Arc::clone(store);
        tasks.spawn(async move {
            for n in 0..each {
                let value = format!("{{\"n\":{n}}}").into_bytes();
                store.txn(Txn::new().put(format!("/rate/{writer}"), value)).await.unwrap();
            }
        });
    }
    tasks.join_all().await;
    (writers * each) as f64 / begun.elapsed().as_secs_f64()
}

async fn rates(store: &Arc<RedbStore>, what: &str) {
    let alone = writers_per_second(store, 1, COMMITS).await;
    let together = writers_per_second(store, WRITERS, COMMITS_EACH).await;
    println!("{what}: {alone:.0} commits/s alone, {together:.0} by {WRITERS} writers");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "figures"]
async fn measure_commits() {
    let folder = tempfile::tempdir().unwrap();
    let store = Arc::new(RedbStore::open(&folder.path().join("store.redb")).unwrap());
    rates(&store, "empty log").await;
    while store.revision() < (COMMITS + WRITERS * COMMITS_EACH + LOG_CHANGES_KEPT / 512) as u64 {
        let txn = (0..512).fold(Txn::new(), |txn, n| txn.put(format!("/fill/{n}"), *b"{}"));
        store.txn(txn).await.unwrap();
    }
    rates(&store, "full log").await;
}

#[tokio::test]
#[ignore = "figures"]
async fn measure_open() {
    if let Some(path) = std::env::var_os(STORE) {
        return open(&PathBuf::from(path));
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.redb");
    let store = RedbStore::open(&path).unwrap();
    let value = format!("\"{}\"", "x".repeat(RECORD_BYTES - 2)).into_bytes();
    for first in (0..RECORDS).step_by(RECORDS_PER_TXN) {
        let put = |txn: Txn, n| txn.put(format!("/record/{n:05}"), value.clone());
        store.txn((first..first + RECORDS_PER_TXN).fold(Txn::new(), put)).await.unwrap();
    }
    drop(store);
    println!("{} KiB on disk", std::fs::metadata(&path).unwrap().len() / 1024);
    // In a process that did nothing else.
    for _ in 0..3 {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "measure_open", "--nocapture", "--ignored"])
            .env(STORE, &path)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&child.stdout);
        text.lines().filter(|line| line.contains("opened")).for_each(|line| println!("{line}"));
        assert!(child.status.success(), "{text}");
    }
}

fn open(path: &Path) {
    let (before, begun) = (resident_kib(), Instant::now());
    let store = RedbStore::open(path).unwrap();
    let took = begun.elapsed();
    println!(
        "opened {} records in {:.1} ms, {} KiB more resident",
        store.range("/record/").len(),
        took.as_secs_f64() * 1e3,
        resident_kib().saturating_sub(before)
    );
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}
