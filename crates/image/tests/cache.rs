//! What is kept, what goes, and what a crash leaves.

mod common;

use std::collections::HashSet;

use common::fake::{Action, FakeRegistry};
use common::{Built, Compression, Layer, Tar, config, files, image, layer, pull};
use ferrogate_image::{Digest, Image, ImageRef, ImageStore, Platform, StoreError, Watermarks};

const SIZE: u64 = 10_000;

fn part(name: &str) -> Layer {
    layer(Tar::new().file(name, &"x".repeat(SIZE as usize)).bytes(), Compression::Gzip)
}

/// A layer of its own over a common one.
fn built(name: &str) -> Built {
    image(&[part("common"), part(name)])
}

struct World {
    registry: FakeRegistry,
    dir: tempfile::TempDir,
    store: ImageStore,
}

impl World {
    fn new(names: &[&str]) -> Self {
        let registry = FakeRegistry::good();
        for name in names {
            registry.add(name, &built(name));
        }
        let dir = tempfile::tempdir().unwrap();
        let store = ImageStore::open(dir.path(), config(&registry.address)).unwrap();
        World { registry, dir, store }
    }

    async fn pull(&self, tag: &str) -> Image {
        pull(&self.store, &format!("app:{tag}")).await.unwrap()
    }

    fn count(&self, part: &str) -> usize {
        std::fs::read_dir(self.dir.path().join(part)).unwrap().count()
    }

    fn reopen(self) -> Self {
        let World { registry, dir, store } = self;
        drop(store);
        let store = ImageStore::open(dir.path(), config(&registry.address)).unwrap();
        World { registry, dir, store }
    }
}

const ALL: Watermarks = Watermarks { high_bytes: 0, low_bytes: 0 };

#[tokio::test]
async fn what_was_pulled_is_found_without_network_also_after_a_restart() {
    let world = World::new(&["one"]);
    let image = world.pull("one").await;
    assert_eq!((image.layers.len(), image.unpacked_bytes), (2, 2 * SIZE));
    let listed = world.store.list();
    assert_eq!((listed.len(), listed[0].in_use), (1, true));
    assert_eq!(listed[0].references, ["docker.io/library/app:one"]);
    let layers = image.layers.clone();
    drop(image);
    let world = world.reopen();
    world.registry.take_requests();
    let reference = ImageRef::parse("app:one").unwrap();
    let found = world.store.get(&reference, Platform::LinuxAmd64).unwrap();
    assert_eq!((found.digest.clone(), found.layers.clone()), (built("one").digest(), layers));
    assert!(world.store.get_digest(&found.digest, Platform::LinuxAmd64).is_some());
    assert!(world.store.get(&reference, Platform::LinuxArm64).is_none());
    assert!(world.store.get(&ImageRef::parse("app:two").unwrap(), Platform::LinuxAmd64).is_none());
    assert!(world.registry.take_requests().is_empty());
}

#[tokio::test]
async fn removing_leaves_what_others_need() {
    let world = World::new(&["one", "two"]);
    let (one, two) = (world.pull("one").await, world.pull("two").await);
    assert_eq!((world.count("layers"), &one.layers[0]), (3, &two.layers[0]));
    assert!(matches!(world.store.remove(&one.manifest_digest).await, Err(StoreError::InUse { pins: 1, .. })));
    let digest = one.manifest_digest.clone();
    drop(one);
    assert!(world.store.remove(&digest).await.unwrap());
    assert!(!world.store.remove(&digest).await.unwrap());
    assert_eq!((world.count("layers"), world.count("images"), world.count("documents")), (2, 1, 2));
    assert!(two.layers.iter().all(|layer| layer.exists()));
}

#[tokio::test]
async fn collection_spares_pins_and_the_kept() {
    let world = World::new(&["one", "two", "three"]);
    let (one, two, three) = (world.pull("one").await, world.pull("two").await, world.pull("three").await);
    let digests: Vec<Digest> = [&one, &two, &three].map(|image| image.manifest_digest.clone()).to_vec();
    drop((two, three));

    // Under the high mark nothing happens.
    let marks = Watermarks { high_bytes: 4 * SIZE, low_bytes: 0 };
    let nothing = world.store.collect(&HashSet::new(), marks).await.unwrap();
    assert_eq!((nothing.removed, nothing.freed_bytes, nothing.left_bytes), (vec![], 0, 4 * SIZE));

    // Above it, until the low one.
    let marks = Watermarks { high_bytes: 4 * SIZE - 1, low_bytes: 3 * SIZE };
    let keep = HashSet::from([digests[1].clone()]);
    let collected = world.store.collect(&keep, marks).await.unwrap();
    assert_eq!((collected.removed, collected.freed_bytes), (vec![digests[2].clone()], SIZE));

    let rest = world.store.collect(&HashSet::new(), ALL).await.unwrap();
    assert_eq!((rest.removed, rest.left_bytes), (vec![digests[1].clone()], 2 * SIZE));
    assert!(one.layers.iter().all(|layer| layer.exists()));
    drop(one);
    assert_eq!(world.store.collect(&HashSet::new(), ALL).await.unwrap().left_bytes, 0);
    assert_eq!((world.count("layers"), world.count("images"), world.count("documents")), (0, 0, 0));
    assert_eq!(world.pull("one").await.layers.len(), 2);
}

/// Disks of micro-VMs are such.
#[tokio::test]
async fn what_was_made_of_a_layer_counts_with_it_and_goes_with_it() {
    const DISK: u64 = 64 << 10;
    let world = World::new(&["one", "two"]);
    let (one, two) = (world.pull("one").await, world.pull("two").await);
    let beside = |image: &Image, name: &str| image.layers[1].with_file_name(name);
    for image in [&one, &two] {
        std::fs::write(beside(image, "fs.erofs"), vec![1; DISK as usize]).unwrap();
    }
    // A crash left it.
    std::fs::write(beside(&one, "fs.erofs.new"), "half").unwrap();
    let (disks, half) = ([beside(&one, "fs.erofs"), beside(&two, "fs.erofs")], beside(&one, "fs.erofs.new"));
    let settling = beside(&one, "layer.json.new");
    drop((one, two));
    let world = world.reopen();
    // The store's own, at any moment.
    std::fs::write(settling, "{").unwrap();
    assert!(!half.exists() && disks.iter().all(|disk| disk.exists()));

    let all = 3 * SIZE + 2 * DISK;
    let marks = |high_bytes, low_bytes| Watermarks { high_bytes, low_bytes };
    let nothing = world.store.collect(&HashSet::new(), marks(all, 0)).await.unwrap();
    assert_eq!((nothing.removed.len(), nothing.left_bytes), (0, all));
    let one = world.store.collect(&HashSet::new(), marks(all - 1, all - 1)).await.unwrap();
    assert_eq!((one.removed.len(), one.freed_bytes, one.left_bytes), (1, SIZE + DISK, all - SIZE - DISK));
    assert_eq!(disks.iter().filter(|disk| disk.exists()).count(), 1);
}

#[tokio::test]
async fn a_tag_that_moves_leaves_the_old_image_without_a_name() {
    let world = World::new(&["one"]);
    let old = world.pull("one").await;
    world.registry.add("one", &built("other"));
    let new = world.pull("one").await;
    assert_ne!(old.digest, new.digest);
    let world = world.reopen();
    let names: Vec<_> =
        world.store.list().into_iter().map(|image| (image.manifest_digest, image.references.len())).collect();
    let mut expected = vec![(old.digest, 0), (new.digest, 1)];
    expected.sort();
    assert_eq!(names, expected);
}

#[tokio::test]
async fn a_directory_has_one_owner() {
    let world = World::new(&[]);
    let error = ImageStore::open(world.dir.path(), config("127.0.0.1:1")).err().unwrap();
    assert!(matches!(error, StoreError::Locked { .. }), "{error}");
    assert!(error.to_string().contains("another process has it open"));
}

#[tokio::test]
async fn what_a_crash_leaves_is_cleaned_and_not_believed() {
    let world = World::new(&["one"]);
    let image = world.pull("one").await;
    let layer = image.layers[1].parent().unwrap().to_owned();
    let record = world.dir.path().join("images").join(format!("{}.json", image.manifest_digest.hex()));
    drop(image);
    let dir = world.dir.path().to_owned();
    // Or its being synced is noted over what is written here.
    while std::fs::read_to_string(layer.join("layer.json")).unwrap().contains("\"boot\":\"") {
        std::thread::yield_now();
    }
    // In the middle of unpacking; in the middle of everything else, as a broken disk may leave it.
    std::fs::create_dir_all(dir.join("tmp/layer-x/fs/etc")).unwrap();
    std::fs::write(dir.join("tmp/layer-x/fs/etc/passwd"), "half").unwrap();
    std::fs::write(layer.join("layer.json"), "{").unwrap();
    let world = world.reopen();
    assert_eq!(files(&dir.join("tmp")), Vec::<String>::new());
    assert!(world.store.get(&ImageRef::parse("app:one").unwrap(), Platform::LinuxAmd64).is_none());
    let error = pull(&world.store, "app:one").await;
    assert!(error.is_ok(), "{error:?}");
    drop(error);

    std::fs::write(&record, "{").unwrap();
    let world = world.reopen();
    assert_eq!(world.store.list(), vec![]);
    assert!(!record.exists());
    world.registry.take_requests();
    world.pull("one").await;
    let config: Digest = world.store.list()[0].config_digest.clone();
    let mut blobs = world.registry.take_requests();
    blobs.retain(|request| request.contains("/blobs/"));
    // That the registry has the image is shown anew.
    assert_eq!(blobs, [format!("GET /v2/library/app/blobs/{config}")], "layers were still good");

    // A document that rotted is fetched again.
    std::fs::write(dir.join("documents").join(config.hex()), "rot").unwrap();
    world.pull("one").await;
    assert_eq!(world.registry.take_requests().len(), 2);
}

#[tokio::test]
async fn collecting_while_pulling_takes_nothing_away() {
    let slow = built("one");
    let (reached, mut wait) = tokio::sync::mpsc::unbounded_channel();
    let (go, gate) = std::sync::mpsc::channel::<()>();
    let gate = std::sync::Mutex::new(gate);
    let last = Digest::of(&part("one").blob);
    let registry = FakeRegistry::start(move |request| {
        if request.path.ends_with(last.as_str()) {
            reached.send(()).unwrap();
            gate.lock().unwrap().recv().unwrap();
        }
        Action::Serve
    });
    registry.add("one", &slow);
    let dir = tempfile::tempdir().unwrap();
    let mut one_by_one = config(&registry.address);
    one_by_one.layers_in_parallel = 1;
    let store = ImageStore::open(dir.path(), one_by_one).unwrap();
    let pulling = {
        let store = store.clone();
        tokio::spawn(async move { pull(&store, "app:one").await })
    };
    wait.recv().await.unwrap();
    assert_eq!(store.collect(&HashSet::new(), ALL).await.unwrap().freed_bytes, 0);
    go.send(()).unwrap();
    let image = pulling.await.unwrap().unwrap();
    assert!(image.layers.iter().all(|layer| layer.exists()));
}
