//! Room made by itself, images fetched ahead, and what a machine that went down leaves.

mod common;

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::fake::{Action, FakeRegistry, Request};
use common::{Built, Compression, Layer, Tar, config, image, layer, pull};
use ferrogate_image::{Auth, Config, Digest, ImageRef, ImageStore, Platform, Upkeep};

const SIZE: u64 = 10_000;

fn part(name: &str) -> Layer {
    layer(Tar::new().file(name, &"x".repeat(SIZE as usize)).bytes(), Compression::Gzip)
}

fn built(name: &str) -> Built {
    image(&[part(name)])
}

struct World {
    registry: FakeRegistry,
    dir: tempfile::TempDir,
    store: ImageStore,
}

fn world(
    names: &[&str],
    change: impl FnOnce(&mut Config),
    behaviour: impl Fn(&Request) -> Action + Send + Sync + 'static,
) -> World {
    let registry = FakeRegistry::start(behaviour);
    for name in names {
        registry.add(name, &built(name));
    }
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(&registry.address);
    // Whatever else fills this machine's disk.
    config.upkeep.disk_high_percent = 100;
    change(&mut config);
    let store = ImageStore::open(dir.path(), config).unwrap();
    World { registry, dir, store }
}

impl World {
    async fn pull(&self, tag: &str) -> ferrogate_image::Image {
        pull(&self.store, &format!("app:{tag}")).await.unwrap()
    }

    /// Tags of what is here.
    fn here(&self) -> Vec<String> {
        let tag = |name: &String| name.rsplit(':').next().unwrap().to_owned();
        let mut tags: Vec<_> =
            self.store.list().iter().flat_map(|image| image.references.iter().map(tag)).collect();
        tags.sort();
        tags
    }

    /// As if it had been used last so long ago.
    fn age(&self, tag: &str, seconds: u64) {
        let path = self.dir.path().join("images").join(format!("{}.json", built(tag).digest().hex()));
        let mut record: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        record["last_used"] = (record["last_used"].as_u64().unwrap() - seconds).into();
        std::fs::write(path, serde_json::to_vec(&record).unwrap()).unwrap();
    }

    fn reopen(self, change: impl FnOnce(&mut Config)) -> Self {
        let World { registry, dir, store } = self;
        drop(store);
        let mut config = config(&registry.address);
        config.upkeep.disk_high_percent = 100;
        change(&mut config);
        let store = open(dir.path(), config);
        World { registry, dir, store }
    }
}

/// Once whoever looks at the old one's layers has let go of it.
fn open(dir: &std::path::Path, config: Config) -> ImageStore {
    let until = Instant::now() + Duration::from_secs(30);
    loop {
        match ImageStore::open(dir, config.clone()) {
            Err(ferrogate_image::StoreError::Locked { .. }) if Instant::now() < until => {
                std::thread::yield_now()
            }
            other => return other.unwrap(),
        }
    }
}

fn max(bytes: u64) -> impl FnOnce(&mut Config) {
    move |config| config.upkeep.max_bytes = Some(bytes)
}

fn serve(_: &Request) -> Action {
    Action::Serve
}

async fn eventually(what: &str, mut is: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(60);
    while !is() {
        assert!(Instant::now() < until, "{what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn the_longest_unused_goes_also_after_a_restart() {
    let world = world(&["one", "two", "three"], |_| {}, serve);
    for tag in ["one", "two", "three"] {
        world.pull(tag).await;
    }
    world.age("two", 1000);
    world.age("one", 500);
    // Room for two and a half; down to two.
    let world = world.reopen(max(SIZE * 5 / 2));
    let collected = world.store.look_after().await.unwrap();
    assert_eq!(collected.removed, [built("two").digest()]);
    assert_eq!((collected.freed_bytes, collected.left_bytes), (SIZE, 2 * SIZE));
    assert_eq!(world.here(), ["one", "three"]);
    assert_eq!(world.store.look_after().await.unwrap().removed, []);
}

#[tokio::test]
async fn what_tasks_use_stays_whoever_pulled_it() {
    let world = world(&["one", "two", "three"], |_| {}, serve);
    for tag in ["one", "two", "three"] {
        world.pull(tag).await;
    }
    world.age("one", 1000);
    world.age("two", 1000);
    let world = world.reopen(max(0));
    // A former agent's task, not asked for yet; and one that holds its image.
    let in_use = HashSet::from([built("one").digest()]);
    world.store.set_in_use(move || in_use.clone());
    let held = world.store.get(&ImageRef::parse("app:two").unwrap(), Platform::LinuxAmd64).unwrap();
    let collected = world.store.look_after().await.unwrap();
    assert_eq!(collected.removed, [built("three").digest()]);
    assert_eq!(world.here(), ["one", "two"]);
    assert!(held.layers.iter().all(|layer| layer.exists()));
    // In use now is used last now.
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    assert!(world.store.list().iter().all(|image| image.last_used + 100 > now));
}

#[tokio::test]
async fn the_loop_looks_by_itself() {
    let change = |config: &mut Config| {
        config.upkeep = Upkeep { interval: Duration::from_millis(1), max_bytes: Some(0), ..config.upkeep };
    };
    let world = world(&["one"], change, serve);
    let store = world.store.clone();
    let keeping = tokio::spawn(async move { store.keep_up().await });
    let image = world.pull("one").await;
    tokio::task::yield_now().await;
    assert_eq!(world.here(), ["one"]);
    drop(image);
    eventually("it is collected", || world.here().is_empty()).await;
    keeping.abort();
}

#[tokio::test]
async fn a_pull_makes_the_room_it_needs() {
    let world = world(&["one", "two", "three"], max(SIZE * 5 / 2), serve);
    let one = world.pull("one").await;
    drop(world.pull("two").await);
    let three = world.pull("three").await;
    drop(three);
    // Small as the layers are on the wire, the fourth is what goes over.
    world.registry.add(
        "four",
        &image(&[layer(Tar::new().file("n", &noise(SIZE as usize)).bytes(), Compression::None)]),
    );
    world.pull("four").await;
    assert!(world.here().contains(&"one".to_owned()) && world.here().contains(&"four".to_owned()));
    assert!(!world.here().contains(&"two".to_owned()), "{:?}", world.here());
    assert!(one.layers.iter().all(|layer| layer.exists()));
}

fn noise(bytes: usize) -> String {
    let mut state = 1u64;
    let next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        char::from(b' ' + (state >> 58) as u8)
    };
    std::iter::repeat_with(next).take(bytes).collect()
}

fn reference(tag: &str) -> ImageRef {
    ImageRef::parse(&format!("app:{tag}")).unwrap()
}

fn prefetch(world: &World, tag: &str) -> bool {
    world.store.prefetch(reference(tag), Auth::Anonymous, Platform::LinuxAmd64).is_ok()
}

#[tokio::test]
async fn fetched_ahead_it_is_here_when_it_is_wanted() {
    let world = world(&["one", "two"], |_| {}, serve);
    assert!(prefetch(&world, "nope") && prefetch(&world, "one") && prefetch(&world, "two"));
    eventually("both are here", || world.here() == ["one", "two"]).await;
    world.registry.take_requests();
    world.pull("one").await;
    assert_eq!(world.registry.take_requests(), ["HEAD /v2/library/app/manifests/one"]);
    // It may be asked for again.
    assert!(prefetch(&world, "one"));
    eventually("it looks again", || !world.registry.requests().is_empty()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_fetched_ahead_waits_for_tasks_and_its_queue_ends() {
    let wanted = Digest::of(&part("wanted").blob);
    let go = Arc::new(AtomicBool::new(false));
    let (order, gate) = (Arc::new(Mutex::new(Vec::new())), Arc::clone(&go));
    let seen = Arc::clone(&order);
    let world = world(
        &["wanted", "ahead"],
        |_| {},
        move |request| {
            if request.path.contains("/blobs/") {
                seen.lock().unwrap().push(request.path.clone());
            }
            if request.path.ends_with(wanted.as_str()) {
                while !gate.load(Ordering::SeqCst) {
                    std::thread::yield_now();
                }
            }
            Action::Serve
        },
    );
    let store = world.store.clone();
    let pulling = tokio::spawn(async move { pull(&store, "app:wanted").await });
    eventually("the task's pull is at its layer", || order.lock().unwrap().len() >= 2).await;
    assert!(prefetch(&world, "ahead"));
    let mut taken = 0;
    while prefetch(&world, &format!("more{taken}")) {
        taken += 1;
        assert!(taken < 1000, "a queue without end");
    }
    assert!(taken >= 63, "{taken}");
    assert_eq!(world.here(), Vec::<String>::new());
    assert_eq!(order.lock().unwrap().len(), 2, "nothing ahead of the task's");
    go.store(true, Ordering::SeqCst);
    pulling.await.unwrap().unwrap();
    eventually("then the other", || world.here() == ["ahead", "wanted"]).await;
}

#[tokio::test]
async fn what_is_fetched_ahead_drives_nothing_out() {
    let world = world(&["one"], max(SIZE), serve);
    drop(world.pull("one").await);
    let big = image(&[layer(Tar::new().file("n", &noise(SIZE as usize)).bytes(), Compression::None)]);
    world.registry.add("big", &big);
    assert!(prefetch(&world, "big"));
    let config_of_big = |request: &Request| request.path.contains("/blobs/") && request.before == 0;
    eventually("it has looked", || {
        world.registry.requests().iter().filter(|r| config_of_big(r)).count() >= 3
    })
    .await;
    // A second one comes after the first was given up.
    assert!(prefetch(&world, "nope"));
    eventually("the next", || world.registry.requests().iter().any(|r| r.path.ends_with("/nope"))).await;
    assert_eq!(world.here(), ["one"]);
}

/// The record beside a layer, as the machine's next start finds it.
#[tokio::test]
async fn layers_that_were_not_synced_are_not_believed_after_a_crash_of_the_machine() {
    let world = world(&["one"], |_| {}, serve);
    let layer = world.pull("one").await.layers[0].clone();
    let record = layer.with_file_name("layer.json");
    let read = || serde_json::from_slice::<serde_json::Value>(&std::fs::read(&record).unwrap()).unwrap();
    eventually("it is synced", || read()["boot"].is_null()).await;

    // Synced: whatever happened since.
    let world = world.reopen(|_| {});
    assert!(world.store.get(&reference("one"), Platform::LinuxAmd64).is_some());

    let mut unsynced = read();
    unsynced["boot"] = "another".into();
    std::fs::write(&record, unsynced.to_string()).unwrap();
    std::fs::write(layer.join("one"), "").unwrap();
    let world = world.reopen(|_| {});
    assert!(world.store.get(&reference("one"), Platform::LinuxAmd64).is_none());
    let image = world.pull("one").await;
    assert_eq!(std::fs::read(image.layers[0].join("one")).unwrap().len() as u64, SIZE);
}
