//! When controllers are activated and what is seen of them. Time is paused: it goes on only when nothing can be done,
//! so that [`settle`] means "when all that follows has happened".

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ferrogate_control::{Activation, Controller, Driver, FAILED_PAUSE, Handle, Outcome, Status};
use ferrogate_store::{LOG_BYTES_KEPT, MemoryStore, Store, Txn, VALUE_BYTES_MAX};
use serde_json::json;
use tokio::sync::Semaphore;

const PERIOD: Duration = Duration::from_secs(60);

/// Does what it is told, once it is let.
struct Puppet {
    name: &'static str,
    prefixes: &'static [&'static str],
    act: Mutex<Box<dyn FnMut() -> Activation + Send>>,
    /// Each activation takes a permit.
    let_go: Semaphore,
}

impl Puppet {
    /// Not held back.
    fn new(act: impl FnMut() -> Activation + Send + 'static) -> Self {
        let let_go = Semaphore::new(Semaphore::MAX_PERMITS);
        Self { name: "puppet", prefixes: &["/a/", "/b/"], act: Mutex::new(Box::new(act)), let_go }
    }

    fn held() -> Self {
        Self { let_go: Semaphore::new(0), ..Self::new(|| Activation::done(json!({ "seen": 1 }))) }
    }
}

#[async_trait::async_trait]
impl Controller for Puppet {
    fn name(&self) -> &'static str {
        self.name
    }

    fn prefixes(&self) -> Vec<String> {
        self.prefixes.iter().map(|prefix| (*prefix).to_owned()).collect()
    }

    fn period(&self) -> Duration {
        PERIOD
    }

    async fn activate(&self) -> Activation {
        self.let_go.acquire().await.unwrap().forget();
        (self.act.lock().unwrap_or_else(std::sync::PoisonError::into_inner))()
    }
}

struct Stage {
    store: Arc<dyn Store>,
    driver: Driver,
    puppet: Arc<Puppet>,
    handle: Handle,
}

/// A driver with the puppet at rest, after what its start has caused.
async fn stage(puppet: Puppet) -> Stage {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let driver = Driver::new(Arc::clone(&store));
    let puppet = Arc::new(puppet);
    let handle = driver.spawn(Arc::<Puppet>::clone(&puppet));
    settle().await;
    Stage { store, driver, puppet, handle }
}

impl Stage {
    /// Activations since the last time it was asked.
    async fn activations(&self, known: &mut u64) -> u64 {
        settle().await;
        let now = self.handle.status().activations;
        let fresh = now - *known;
        *known = now;
        fresh
    }

    async fn put(&self, key: &str) {
        self.store.txn(Txn::new().put(key, *b"1")).await.unwrap();
    }
}

async fn settle() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}

#[tokio::test(start_paused = true)]
async fn it_is_activated_at_once_by_each_prefix_by_its_handle_and_by_its_period() {
    let stage = stage(Puppet::new(|| Activation::done(json!(null)))).await;
    let mut known = 0;
    assert!(stage.activations(&mut known).await >= 1);
    assert_eq!(stage.activations(&mut known).await, 0, "nothing has changed");
    for key in ["/a/1", "/b/1"] {
        stage.put(key).await;
        assert_eq!(stage.activations(&mut known).await, 1, "{key}");
    }
    stage.put("/c/1").await;
    assert_eq!(stage.activations(&mut known).await, 0, "not its business");
    stage.store.txn(Txn::new().delete("/a/1")).await.unwrap();
    assert_eq!(stage.activations(&mut known).await, 1, "a deletion is a change");
    stage.handle.wake();
    assert_eq!(stage.activations(&mut known).await, 1);
    assert!(stage.driver.wake("puppet") && !stage.driver.wake("nobody"));
    assert_eq!(stage.activations(&mut known).await, 1);
    tokio::time::sleep(PERIOD / 2).await;
    assert_eq!(stage.activations(&mut known).await, 0);
    tokio::time::sleep(PERIOD * 3).await;
    assert_eq!(stage.activations(&mut known).await, 3);
}

#[tokio::test(start_paused = true)]
async fn changes_while_it_is_at_work_are_one_more_activation() {
    let stage = stage(Puppet::held()).await;
    let mut known = 0;
    assert_eq!(stage.activations(&mut known).await, 1, "held in its first");
    for n in 0..100 {
        stage.put(&format!("/a/{n}")).await;
        settle().await;
    }
    stage.handle.wake();
    assert_eq!(stage.activations(&mut known).await, 0);
    stage.puppet.let_go.add_permits(1);
    assert_eq!(stage.activations(&mut known).await, 1);
    stage.puppet.let_go.add_permits(1);
    assert_eq!(stage.activations(&mut known).await, 0, "all of them were one");
}

#[tokio::test(start_paused = true)]
async fn more_changes_than_the_store_remembers_wake_it_all_the_same() {
    let stage = stage(Puppet::new(|| Activation::done(json!(null)))).await;
    let mut known = 0;
    stage.activations(&mut known).await;
    // Without a pause, so that the watch has no chance to keep up; the last of it is not below a prefix.
    stage.put("/a/1").await;
    for _ in 0..2 * LOG_BYTES_KEPT / VALUE_BYTES_MAX {
        stage.store.txn(Txn::new().put("/c", vec![b'1'; VALUE_BYTES_MAX])).await.unwrap();
    }
    assert!(stage.activations(&mut known).await >= 1);
    stage.put("/b/1").await;
    assert_eq!(stage.activations(&mut known).await, 1, "and it goes on");
}

#[tokio::test(start_paused = true)]
async fn a_panic_is_a_failed_activation_and_the_controller_goes_on() {
    let mut count = 0;
    let act = move || {
        count += 1;
        if count == 1 {
            panic!("the plan has no end");
        }
        Activation::done(json!({ "count": count }))
    };
    let stage = stage(Puppet { prefixes: &[], ..Puppet::new(act) }).await;
    let status = stage.handle.status();
    assert_eq!(status.outcome, Outcome::Failed("the activation panicked: the plan has no end".into()));
    assert_eq!((status.activations, status.errors, status.running), (1, 1, false));

    stage.handle.wake();
    tokio::time::sleep(FAILED_PAUSE).await;
    settle().await;
    let status = stage.handle.status();
    assert_eq!((status.outcome, status.detail), (Outcome::Done, json!({ "count": 2 })));
    assert_eq!((status.activations, status.errors), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn a_failure_that_repeats_does_not_spin() {
    const CHANGES: u32 = 50;
    let stage =
        stage(Puppet { prefixes: &["/a/"], ..Puppet::new(|| Activation::failed("no such subnet")) }).await;
    let mut known = 0;
    stage.activations(&mut known).await;
    for n in 0..CHANGES {
        stage.put(&format!("/a/{n}")).await;
        tokio::time::sleep(FAILED_PAUSE / 10).await;
    }
    let activations = stage.activations(&mut known).await;
    assert!(activations > 1 && activations <= u64::from(CHANGES / 10 + 1), "{activations}");
    let status = stage.handle.status();
    assert_eq!(status.outcome, Outcome::Failed("no such subnet".into()));
    assert_eq!(status.errors, status.activations);
}

#[tokio::test(start_paused = true)]
async fn it_comes_again_when_it_asked_to_and_never_later_than_its_period() {
    let mut again = vec![PERIOD * 10, Duration::from_secs(5)];
    let act = move || match again.pop() {
        Some(delay) => Activation::done(json!(null)).again_in(delay),
        None => Activation::done(json!(null)),
    };
    let stage = stage(Puppet { prefixes: &[], ..Puppet::new(act) }).await;
    let mut known = 0;
    assert_eq!(stage.activations(&mut known).await, 1);
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(stage.activations(&mut known).await, 0);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(stage.activations(&mut known).await, 1);
    tokio::time::sleep(PERIOD - Duration::from_secs(1)).await;
    assert_eq!(stage.activations(&mut known).await, 0);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(stage.activations(&mut known).await, 1);
}

#[tokio::test(start_paused = true)]
async fn what_it_does_is_seen_while_it_does_it_and_after() {
    let stage = stage(Puppet { prefixes: &[], ..Puppet::held() }).await;
    let status = stage.driver.statuses().remove("puppet").unwrap();
    assert_eq!((status.outcome, status.running, status.activations), (Outcome::NotYet, true, 1));
    assert!(status.started.is_some() && status.duration_ms.is_none() && status.next.is_none());

    tokio::time::sleep(Duration::from_millis(99)).await;
    stage.puppet.let_go.add_permits(1);
    settle().await;
    let status = stage.driver.statuses().remove("puppet").unwrap();
    assert_eq!((&status.outcome, status.running), (&Outcome::Done, false));
    assert_eq!(status.detail, json!({ "seen": 1 }));
    assert_eq!(status.duration_ms, Some(100.0));
    assert!(status.next > status.started);

    let text = serde_json::to_value(&status).unwrap();
    assert_eq!((&text["outcome"], &text["activations"]), (&json!({ "result": "done" }), &json!(1)));
    assert_eq!(serde_json::from_value::<Status>(text).unwrap(), status);
    let failed = serde_json::to_value(Outcome::Failed("why".into())).unwrap();
    assert_eq!(failed, json!({ "result": "failed", "why": "why" }));
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_lets_an_activation_finish_and_begins_none() {
    let stage = stage(Puppet::held()).await;
    stage.handle.wake();
    let driver = Arc::new(stage.driver);
    let shutdown = tokio::spawn({
        let driver = Arc::clone(&driver);
        async move { driver.shut_down(PERIOD).await }
    });
    settle().await;
    assert!(!shutdown.is_finished());
    stage.puppet.let_go.add_permits(10);
    shutdown.await.unwrap();
    let status = stage.handle.status();
    assert_eq!((status.outcome, status.running, status.activations), (Outcome::Done, false, 1));

    let late = driver.spawn(Arc::new(Puppet { name: "late", ..Puppet::held() }));
    settle().await;
    assert_eq!(late.status(), Status::default());
    assert_eq!(Arc::strong_count(&stage.puppet), 1, "nothing of it is left");
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_does_not_wait_for_ever() {
    let stage = stage(Puppet::held()).await;
    let before = tokio::time::Instant::now();
    stage.driver.shut_down(PERIOD).await;
    assert_eq!(before.elapsed().as_secs(), PERIOD.as_secs());
    assert_eq!(Arc::strong_count(&stage.puppet), 1, "it is cut short");
    let status = stage.handle.status();
    assert_eq!((status.running, status.outcome, status.activations), (false, Outcome::NotYet, 1));
}

#[tokio::test(start_paused = true)]
async fn two_of_one_name_are_a_mistake_and_the_first_goes_on() {
    let stage = stage(Puppet { prefixes: &[], ..Puppet::new(|| Activation::done(json!(null))) }).await;
    let again = AssertUnwindSafe(|| stage.driver.spawn(Arc::new(Puppet::held())));
    let panic = catch_unwind(again).err().unwrap();
    assert_eq!(panic.downcast_ref::<String>().unwrap(), "two controllers are named puppet");
    let mut known = 0;
    stage.activations(&mut known).await;
    assert!(stage.driver.wake("puppet"));
    assert_eq!(stage.activations(&mut known).await, 1, "the name is still the first one's");
    assert_eq!(stage.driver.statuses()["puppet"], stage.handle.status());
}

#[tokio::test(start_paused = true)]
async fn each_is_woken_by_its_own_and_all_are_waited_for() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let driver = Driver::new(Arc::clone(&store));
    let quick =
        |name, prefixes| Arc::new(Puppet { name, prefixes, ..Puppet::new(|| Activation::done(json!(null))) });
    let (a, b) = (driver.spawn(quick("a", &["/a/"])), driver.spawn(quick("b", &["/b/"])));
    settle().await;
    let count = || (a.status().activations, b.status().activations);
    let before = count();
    store.txn(Txn::new().put("/a/1", *b"1")).await.unwrap();
    settle().await;
    assert_eq!(count(), (before.0 + 1, before.1));
    assert!(driver.wake("b"));
    settle().await;
    assert_eq!(count(), (before.0 + 1, before.1 + 1));
    assert_eq!(driver.statuses().into_keys().collect::<Vec<_>>(), ["a", "b"]);
    driver.shut_down(PERIOD).await;
    store.txn(Txn::new().put("/a/2", *b"1").put("/b/2", *b"1")).await.unwrap();
    a.wake();
    tokio::time::sleep(PERIOD * 2).await;
    assert_eq!(count(), (before.0 + 1, before.1 + 1), "nothing begins after a shutdown");
}
