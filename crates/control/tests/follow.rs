//! What a view is told of, and when it publishes. The runtime has one thread: between two `await`s that wait for
//! something, nobody else runs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ferrogate_control::{CHANGES_PER_PUBLISH_MAX, Follower, Index, Published, View};
use ferrogate_store::{LOG_BYTES_KEPT, MemoryStore, Store, TXN_OPS_MAX, Txn, VALUE_BYTES_MAX};

/// What was published: revision and records.
type Told = Arc<Mutex<Vec<(u64, BTreeMap<String, u64>)>>>;

/// Numbers below `/a/n/`.
#[derive(Default)]
struct Numbers {
    numbers: BTreeMap<String, u64>,
    published: Told,
}

impl View for Numbers {
    fn concerns(&self, key: &str) -> bool {
        key.starts_with("/a/n/")
    }

    fn clear(&mut self) {
        self.numbers.clear();
    }

    fn put(&mut self, key: &str, value: &[u8]) -> Result<(), serde_json::Error> {
        assert!(self.concerns(key), "{key}");
        self.numbers.insert(key.to_owned(), serde_json::from_slice(value)?);
        Ok(())
    }

    fn delete(&mut self, key: &str) {
        assert!(self.concerns(key), "{key}");
        self.numbers.remove(key);
    }

    fn publish(&mut self, revision: u64) {
        let numbers = self.numbers.clone();
        self.published.lock().unwrap_or_else(PoisonError::into_inner).push((revision, numbers));
    }
}

struct Stage {
    store: Arc<MemoryStore>,
    published: Told,
    follower: Option<Follower>,
}

impl Stage {
    fn new() -> Self {
        Self { store: Arc::new(MemoryStore::new()), published: Told::default(), follower: None }
    }

    fn start(&mut self) {
        let view = Numbers { published: Arc::clone(&self.published), ..Numbers::default() };
        let store: Arc<dyn Store> = Arc::<MemoryStore>::clone(&self.store);
        self.follower = Some(Follower::start(store, "/a/", "the numbers", view));
    }

    async fn commit(&self, txn: Txn) {
        assert!(self.store.txn(txn).await.unwrap().succeeded);
    }

    /// What is new since it was asked last: revision, and how many records.
    fn taken(&self) -> Vec<(u64, usize)> {
        let published = std::mem::take(&mut *self.published.lock().unwrap());
        published.into_iter().map(|(revision, numbers)| (revision, numbers.len())).collect()
    }

    async fn settled(&self) -> Vec<(u64, usize)> {
        tokio::time::sleep(Duration::from_millis(1)).await;
        self.taken()
    }
}

fn many(from: usize, count: usize) -> Txn {
    (from..from + count).fold(Txn::new(), |txn, n| txn.put(format!("/a/n/{n:05}"), *b"1"))
}

#[tokio::test(start_paused = true)]
async fn what_is_there_is_published_before_it_returns_and_then_each_change() {
    let mut stage = Stage::new();
    stage.commit(many(0, 2).put("/a/other", *b"no number").put("/b/n/1", *b"1")).await;
    stage.start();
    assert_eq!(stage.taken(), [(1, 2)]);
    assert_eq!(stage.settled().await, [], "nothing changed");

    stage.commit(many(2, 1)).await;
    assert_eq!(stage.settled().await, [(2, 3)]);
    stage.commit(Txn::new().delete("/a/n/00000")).await;
    assert_eq!(stage.settled().await, [(3, 2)]);
    stage.commit(Txn::new().put("/a/other", *b"2").put("/b/n/1", *b"2")).await;
    assert_eq!(stage.settled().await, [], "not its business");
    stage.commit(many(3, 1)).await;
    stage.commit(many(4, 1)).await;
    assert_eq!(stage.settled().await, [(6, 4)], "a burst is one");
}

#[tokio::test(start_paused = true)]
async fn a_burst_ends_with_a_revision() {
    const OPS: usize = 600;
    assert!(OPS <= TXN_OPS_MAX && (OPS + 1..2 * OPS).contains(&CHANGES_PER_PUBLISH_MAX));
    let mut stage = Stage::new();
    stage.start();
    assert_eq!(stage.taken(), [(0, 0)]);
    for n in 0..5 {
        stage.commit(many(n * OPS, OPS)).await;
    }
    assert_eq!(stage.settled().await, [(2, 2 * OPS), (4, 4 * OPS), (5, 5 * OPS)]);
}

#[tokio::test(start_paused = true)]
async fn what_was_known_of_a_record_that_cannot_be_read_stays() {
    let mut stage = Stage::new();
    stage.commit(many(0, 1).put("/a/n/1", *b"one")).await;
    stage.start();
    assert_eq!(stage.taken(), [(1, 1)]);
    stage.commit(many(2, 1).put("/a/n/00000", *b"none")).await;
    assert_eq!(stage.settled().await, [(2, 2)], "the others are read");
    stage.commit(Txn::new().delete("/a/n/1").delete("/a/n/00000")).await;
    assert_eq!(stage.settled().await, [(3, 1)]);
}

#[tokio::test(start_paused = true)]
async fn all_is_read_again_when_the_store_has_forgotten_changes() {
    let mut stage = Stage::new();
    stage.commit(many(0, 3)).await;
    stage.start();
    assert_eq!(stage.settled().await, [(1, 3)]);
    stage.commit(Txn::new().delete("/a/n/00000").delete("/a/n/00001")).await;
    for _ in 0..2 * LOG_BYTES_KEPT / VALUE_BYTES_MAX {
        stage.commit(Txn::new().put("/b", vec![b'1'; VALUE_BYTES_MAX])).await;
    }
    let revision = stage.store.revision();
    assert_eq!(stage.settled().await, [(revision, 1)], "what is gone is gone");
    stage.commit(many(7, 1)).await;
    assert_eq!(stage.settled().await, [(revision + 1, 2)], "and it goes on");
}

#[tokio::test(start_paused = true)]
async fn it_ends_with_its_owner() {
    let mut stage = Stage::new();
    stage.start();
    assert_eq!(stage.settled().await, [(0, 0)]);
    stage.follower = None;
    stage.commit(many(0, 1)).await;
    assert_eq!(stage.settled().await, []);
    assert_eq!(Arc::strong_count(&stage.store), 1, "nothing of it is left");
}

/// How many numbers there are.
#[derive(Default)]
struct Count(BTreeSet<String>);

impl Index for Count {
    type Value = (u64, usize);

    fn concerns(key: &str) -> bool {
        key.starts_with("/a/n/")
    }

    fn put(&mut self, key: &str, _: &[u8]) -> Result<(), serde_json::Error> {
        self.0.insert(key.to_owned());
        Ok(())
    }

    fn delete(&mut self, key: &str) {
        self.0.remove(key);
    }

    fn plan(&self, revision: u64) -> (u64, usize) {
        (revision, self.0.len())
    }

    fn is_news(before: &(u64, usize), after: &(u64, usize)) -> bool {
        before.1 != after.1
    }
}

#[tokio::test(start_paused = true)]
async fn a_value_is_told_when_it_is_news() {
    let stage = Stage::new();
    stage.commit(many(0, 2)).await;
    let count = Published::<Count>::start(Arc::<MemoryStore>::clone(&stage.store), "/a/", "the count");
    let mut told = count.subscribe();
    assert_eq!((**told.borrow_and_update(), *count.current()), ((1, 2), (1, 2)), "at once");
    stage.commit(many(0, 2)).await;
    stage.settled().await;
    assert!(!told.has_changed().unwrap(), "as many as before");
    stage.commit(many(5, 1)).await;
    told.changed().await.unwrap();
    assert_eq!(**told.borrow_and_update(), (3, 3));
    drop(count);
    assert!(told.changed().await.is_err(), "it ends with its owner");
}
