//! kill -9 at any moment: nothing acknowledged is lost, nothing is half there, revisions go on.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use ferrogate_store::{RedbStore, Store, StoreError, Txn};

/// Names the store to the child; without it the child's test does nothing.
const STORE: &str = "FERROGATE_TEST_CRASH_STORE";
const ROUNDS: u64 = 36;
const WRITERS: usize = 4;
/// Acknowledgements after which the child is killed, at most.
const ACKS_MAX: u64 = 60;
/// Time after which it is killed in other rounds, at most: about as long as it takes to start, recover and begin.
const DELAY_MAX: Duration = Duration::from_millis(60);

/// When the child is killed.
#[derive(Clone, Copy, Debug)]
enum When {
    Acknowledged(u64),
    /// Whatever it does then: make the store, recover it, write.
    After(Duration),
}

/// Killed and reaped, however the test ends.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Not a test of its own: the process that is killed. Each writer counts up, in two keys at a time, and says so when
/// it is told that it is done.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_process_that_is_killed() {
    let Some(path) = std::env::var_os(STORE) else { return };
    let store = Arc::new(RedbStore::open(&PathBuf::from(path)).unwrap());
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..WRITERS {
        let store = Arc::clone(&store);
        writers.spawn(async move {
            let (left, right) = pair(writer);
            let mut n = number(&*store, &left).0;
            // Ends by a signal; the bound is there for the case that nobody sends it.
            for _ in 0..100_000 {
                n += 1;
                // Some over many pages.
                let value =
                    format!("{n} {}", "x".repeat(if n.is_multiple_of(7) { 50_000 } else { 10 })).into_bytes();
                let revision = store.get(&left).map_or(0, |kv| kv.mod_revision);
                let txn =
                    Txn::new().when_revision(&*left, revision).put(&*left, value.clone()).put(&*right, value);
                let result = store.txn(txn).await.unwrap();
                assert!(result.succeeded);
                // One write: lines of several writers do not mix.
                let line = format!("ack {writer} {n} {}\n", result.revision);
                std::io::stdout().lock().write_all(line.as_bytes()).unwrap();
            }
        });
    }
    writers.join_all().await;
}

fn pair(writer: usize) -> (String, String) {
    (format!("/left/{writer}"), format!("/right/{writer}"))
}

/// A writer's number and the revision that wrote it; 0: none yet.
fn number(store: &dyn Store, key: &str) -> (u64, u64) {
    let Some(kv) = store.get(key) else { return (0, 0) };
    let text = std::str::from_utf8(&kv.value).unwrap();
    (text.split(' ').next().unwrap().parse().unwrap(), kv.mod_revision)
}

#[tokio::test]
async fn nothing_acknowledged_is_lost_by_kill_9() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.redb");
    let (mut acknowledged, mut revision) = ([(0, 0); WRITERS], 0);
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    for round in 0..ROUNDS {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let chance = seed >> 33;
        let when = match round % 3 {
            0 => When::After(DELAY_MAX.mul_f64((chance % 1000) as f64 / 1000.0)),
            _ => When::Acknowledged(chance % ACKS_MAX),
        };
        run_and_kill(&path, when, &mut acknowledged);

        let store = RedbStore::open(&path).unwrap();
        for (writer, (acked, acked_at)) in acknowledged.iter_mut().enumerate() {
            let (left, right) = pair(writer);
            let (n, at) = number(&store, &left);
            assert_eq!((n, at), number(&store, &right), "round {round}: half of a transaction");
            assert!(
                n == *acked && at == *acked_at || n == *acked + 1,
                "round {round}: {n} found, {acked} acknowledged"
            );
            assert!(at >= *acked_at);
            (*acked, *acked_at) = (n, at);
        }
        let newest = acknowledged.iter().map(|(_, at)| *at).max().unwrap();
        assert!(
            store.revision() >= newest && store.revision() >= revision,
            "round {round}: revisions went back"
        );
        // The log has each revision since the last round, once, both of its keys together.
        let mut watch = store.watch("/", revision).unwrap();
        let mut seen = Vec::new();
        while let Some(change) = watch.try_next().unwrap() {
            seen.push(change.revision);
        }
        let expected: Vec<u64> =
            (revision + 1..=store.revision()).flat_map(|revision| [revision; 2]).collect();
        assert_eq!(seen, expected, "round {round}");
        revision = store.revision();
    }
    assert!(revision > ROUNDS, "too little was written to prove anything: {revision}");
}

/// The moments in which a store is made: there is none yet, or a whole one.
#[tokio::test]
async fn a_store_that_is_made_while_it_is_killed_can_be_opened() {
    const MAKINGS: u32 = 24;
    const MAKING_MAX: Duration = Duration::from_millis(12);
    for making in 0..MAKINGS {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.redb");
        let mut acknowledged = [(0, 0); WRITERS];
        run_and_kill(&path, When::After(MAKING_MAX * making / MAKINGS), &mut acknowledged);
        let store = RedbStore::open(&path).unwrap_or_else(|error| panic!("making {making}: {error}"));
        let newest = acknowledged.iter().map(|(_, at)| *at).max().unwrap();
        assert!(store.revision() >= newest, "making {making}");
        assert!(store.txn(Txn::new().put("/next", *b"1")).await.unwrap().revision > newest);
    }
}

/// Starts the child and kills it; notes every acknowledgement that it gave.
fn run_and_kill(path: &Path, when: When, acknowledged: &mut [(u64, u64); WRITERS]) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "the_process_that_is_killed", "--nocapture"])
        .env(STORE, path)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut child = Killed(child);
    let mut acks = match when {
        When::Acknowledged(acks) => Some(acks),
        When::After(delay) => {
            // Not to wait for something: the moment is what is random.
            std::thread::sleep(delay);
            child.0.kill().unwrap();
            None
        }
    };
    let mut first = acks.is_some();
    // What is in the pipe when it is killed was acknowledged, too: the loop goes on to its end.
    for line in lines {
        let line = line.unwrap();
        // The test harness may have written on the same line before.
        let Some((_, ack)) = line.split_once("ack ") else { continue };
        let numbers: Vec<u64> = ack.split(' ').map(|number| number.parse().unwrap()).collect();
        let [writer, n, revision] = numbers[..] else { panic!("{line}") };
        let before = &mut acknowledged[writer as usize];
        assert!(revision > before.1, "a revision was given twice, or they went back: {line}");
        *before = (n, revision);
        if std::mem::take(&mut first) {
            assert_in_use(path, child.0.id());
        }
        acks = match acks {
            Some(0) => {
                child.0.kill().unwrap();
                None
            }
            acks => acks.map(|acks| acks - 1),
        };
    }
    assert!(!child.0.wait().unwrap().success(), "the child ended by itself");
}

fn assert_in_use(path: &Path, by: u32) {
    let error = RedbStore::open(path).err().expect("the child has it");
    let StoreError::InUse { holder, .. } = &error else { panic!("{error}") };
    assert!(holder.starts_with(&format!("process {by} (")), "{error}");
    assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
}
