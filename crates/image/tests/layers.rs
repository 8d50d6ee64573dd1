//! Layers that mean harm: refused, or harmless, but never outside their directory.

mod common;

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use common::fake::FakeRegistry;
use common::{Compression, Tar, config, files, image, layer, pull};
use ferrogate_image::{CauseKind, Image, ImageStore, Limits, PullError};
use proptest::prelude::*;

struct World {
    registry: FakeRegistry,
    dir: tempfile::TempDir,
    store: ImageStore,
}

impl World {
    fn new(limits: Limits) -> Self {
        let registry = FakeRegistry::good();
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("outside")).unwrap();
        std::fs::write(dir.path().join("outside/file"), "mine").unwrap();
        let config = ferrogate_image::Config { limits, ..config(&registry.address) };
        let store = ImageStore::open(&dir.path().join("store"), config).unwrap();
        World { registry, dir, store }
    }

    async fn unpack(&self, tar: Vec<u8>, compression: Compression) -> Result<Image, PullError> {
        self.registry.add("latest", &image(&[layer(tar, compression)]));
        pull(&self.store, "app").await
    }

    /// Only the store changed, and nothing half done is in it.
    fn assert_contained(&self) {
        assert_eq!(files(&self.dir.path().join("outside")), ["file"]);
        assert_eq!(std::fs::read_to_string(self.dir.path().join("outside/file")).unwrap(), "mine");
        assert_eq!(std::fs::metadata(self.dir.path().join("outside/file")).unwrap().nlink(), 1);
        assert_eq!(files(&self.dir.path().join("store/tmp")), Vec::<String>::new());
        let mut top: Vec<_> =
            std::fs::read_dir(self.dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        top.sort();
        assert_eq!(top, ["outside", "store"]);
    }
}

fn with_type(kind: u8) -> tar::Header {
    Tar::header(tar::EntryType::new(kind), 0o644)
}

#[tokio::test]
async fn malicious_layers_are_refused() {
    let world = World::new(Limits::default());
    let outside = world.dir.path().join("outside");
    let outside = outside.to_str().unwrap();
    let up = format!("../../../../../../../../../..{outside}");
    let nul = Tar::new().pax(&[("path", b"a\0b")]).file("x", "y");
    let xattr = |name: &str| Tar::new().pax(&[(name, b"y".as_slice())]).dir("d");
    let cases: Vec<(&str, Tar)> = vec![
        ("a name with ..", Tar::new().file(&format!("{up}/evil"), "x")),
        ("a .. in the middle", Tar::new().dir("a").file("a/../../evil", "x")),
        ("an absolute name", Tar::new().file(&format!("{outside}/evil"), "x")),
        (
            "an absolute PAX name",
            Tar::new().pax(&[("path", format!("{outside}/evil").as_bytes())]).file("x", "x"),
        ),
        ("a PAX name with ..", Tar::new().pax(&[("path", b"../evil")]).file("x", "x")),
        ("a directory that is ..", Tar::new().dir("..")),
        ("through an absolute link", Tar::new().symlink("l", outside).file("l/evil", "x")),
        ("through a climbing link", Tar::new().symlink("l", &up).file("l/evil", "x")),
        ("through two links", Tar::new().symlink("l", &up).symlink("m", "l").file("m/evil", "x")),
        ("a directory through a link", Tar::new().symlink("l", outside).dir("l/evil")),
        ("a link through a link", Tar::new().symlink("l", outside).symlink("l/evil", "x")),
        ("a whiteout through a link", Tar::new().symlink("l", outside).file("l/.wh.file", "")),
        ("an opaque mark through a link", Tar::new().symlink("l", outside).file("l/.wh..wh..opq", "")),
        ("a whiteout of ..", Tar::new().dir("a").file("a/.wh...", "")),
        ("a whiteout of .", Tar::new().file(".wh..", "")),
        ("a whiteout of nothing", Tar::new().file("a/.wh.", "")),
        ("a hard link with ..", Tar::new().hard_link("h", "../../outside/file")),
        ("an absolute hard link", Tar::new().hard_link("h", &format!("{outside}/file"))),
        ("a hard link through a link", Tar::new().symlink("l", outside).hard_link("h", "l/file")),
        ("a hard link through a climbing link", Tar::new().symlink("l", &up).hard_link("h", "l/file")),
        ("a hard link to a directory", Tar::new().dir("d").hard_link("h", "d")),
        ("a hard link to a whiteout", Tar::new().file(".wh.w", "").hard_link("h", "w")),
        ("a hard link to the root", Tar::new().hard_link("h", ".")),
        ("a hard link to nothing", Tar::new().hard_link("h", "nothing")),
        ("a character device", Tar::new().entry(with_type(b'3'), b"null", b"", b"")),
        ("a block device", Tar::new().entry(with_type(b'4'), b"sda", b"", b"")),
        ("a file as the root", Tar::new().file("./", "").file(".", "x")),
        ("a file below a file", Tar::new().file("f", "x").file("f/g", "x")),
        ("a link loop", Tar::new().symlink("a", "b").symlink("b", "a").file("a/x", "x")),
        ("a zero byte in a name", nul),
        ("a name of 300 bytes", Tar::new().file(&format!("d/{}", "n".repeat(300)), "x")),
        ("overlay's opaque mark as an attribute", xattr("SCHILY.xattr.trusted.overlay.opaque")),
        ("overlay's redirect", xattr("SCHILY.xattr.trusted.overlay.redirect")),
        ("overlay's user marks", xattr("SCHILY.xattr.user.overlay.opaque")),
        ("magic links", Tar::new().symlink("l", "/proc/self/root").file("l/evil", "x")),
    ];
    for (name, tar) in cases {
        let error = world.unpack(tar.bytes(), Compression::Gzip).await.expect_err(name);
        assert_eq!(error.kind(), CauseKind::Hostile, "{name}: {error}");
        assert!(
            error.to_string().contains("retried 1 time(s): failed to extract layer sha256:"),
            "{name}: {error}"
        );
        world.assert_contained();
        assert_eq!(files(&world.dir.path().join("store/layers")), Vec::<String>::new(), "{name}");
    }
}

#[tokio::test]
async fn broken_layers_are_refused() {
    let world = World::new(Limits::default());
    let whole = Tar::new().file("a", &"x".repeat(2000)).bytes();
    let mut sparse = with_type(b'S');
    sparse.set_size(3);
    let gnu = sparse.as_gnu_mut().unwrap();
    gnu.set_real_size(2);
    gnu.sparse[0].set_offset(1);
    gnu.sparse[0].set_length(3);
    let mut checksum = whole.clone();
    checksum[0] = b'b';
    let gzip = |bytes: &[u8]| layer(bytes.to_vec(), Compression::Gzip).blob;
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("no archive", b"hello, this is text, not tar".repeat(40)),
        ("ends inside data", whole[..1000].to_vec()),
        ("ends inside a header", whole[..300].to_vec()),
        ("a wrong checksum", checksum),
        ("a broken gzip stream", gzip(&whole)[..60].to_vec()),
        ("an unknown type", Tar::new().entry(with_type(b'Z'), b"x", b"", b"").bytes()),
        ("a broken PAX record", {
            let mut header = with_type(b'x');
            header.set_size(10);
            Tar::new().entry(header, b"x", b"", b"99 path=x\n").file("a", "x").bytes()
        }),
        ("a sparse file longer than itself", Tar::new().entry(sparse, b"s", b"", b"abc").bytes()),
        ("headers without an entry", {
            (0..20).fold(Tar::new(), |tar, _| tar.pax(&[("path", b"x")])).file("a", "x").bytes()
        }),
    ];
    for (name, bytes) in cases {
        let error = world.unpack(bytes, Compression::None).await.expect_err(name);
        assert_eq!(error.kind(), CauseKind::Malformed, "{name}: {error}");
        world.assert_contained();
    }
}

#[tokio::test]
async fn bombs_are_refused() {
    let limits = Limits {
        unpacked_bytes_max: 8 << 20,
        entries_max: 100,
        path_bytes_max: 1000,
        ratio_max: 50,
        ratio_free_bytes: 1 << 20,
        ..Limits::default()
    };
    let world = World::new(limits);
    let zeros = |bytes: usize| Tar::new().file("zeros", &"\0".repeat(bytes)).bytes();
    let mut hole = with_type(b'S');
    hole.as_gnu_mut().unwrap().set_real_size(1 << 33);
    let mut huge_name = with_type(b'L');
    huge_name.set_size(3 << 20);
    let huge_name = Tar::new().entry(huge_name, b"x", b"", &vec![b'n'; 3 << 20]).file("a", "x").bytes();
    let mut huge_pax = with_type(b'x');
    huge_pax.set_size(2 << 20);
    let huge_pax = Tar::new().entry(huge_pax, b"x", b"", &vec![b'n'; 2 << 20]).file("a", "x").bytes();
    let many = (0..200).fold(Tar::new(), |tar, number| tar.file(&format!("f{number}"), "")).bytes();
    let mut trailing = Tar::new().file("a", "x").bytes();
    trailing.resize(20 << 20, 0);
    let mut frames = zeros(100);
    frames.resize(9 << 20, 0);
    let cases: Vec<(&str, Vec<u8>, Compression)> = vec![
        ("a gzip bomb by ratio", zeros(4 << 20), Compression::Gzip),
        ("a zstd bomb by size", zeros(20 << 20), Compression::Zstd),
        ("a plain one", zeros(9 << 20), Compression::None),
        ("after the end mark", trailing, Compression::Zstd),
        ("a hole of 8 GiB", Tar::new().entry(hole, b"hole", b"", b"").bytes(), Compression::None),
        ("a name of 3 MiB", huge_name, Compression::None),
        ("a PAX header of 2 MiB", huge_pax, Compression::None),
        ("a long path", Tar::new().file(&"d/".repeat(600), "").bytes(), Compression::None),
        ("many entries", many, Compression::Gzip),
        ("padding", frames, Compression::None),
    ];
    for (name, tar, compression) in cases {
        let error = world.unpack(tar, compression).await.expect_err(name);
        assert_eq!(error.kind(), CauseKind::TooLarge, "{name}: {error}");
        world.assert_contained();
    }
    assert!(world.unpack(zeros(500_000), Compression::Gzip).await.is_ok());
}

#[tokio::test]
async fn odd_but_honest_layers_work() {
    let world = World::new(Limits::default());
    let deep = format!("{}end", "d/".repeat(1500));
    let tar = Tar::new()
        // Later entries replace earlier ones, whatever they are.
        .dir("a/b/c")
        .file("a/b/c/deep", "x")
        .file("a", "now a file")
        .file("b", "x")
        .dir("b")
        .symlink("s", "nowhere")
        .file("s", "now a file")
        .file("again", "1")
        .file("again", "2")
        // A link to itself is one file.
        .file("self", "x")
        .hard_link("self", "self")
        // Removed below and made anew here, in both orders.
        .file(".wh.fresh", "")
        .file("fresh/x", "y")
        .dir("fresh")
        .dir("other")
        .file(".wh.other", "")
        .file("./dotted/./x", "x")
        .symlink("up", "../../../..")
        .file("up/inside", "the root's root is the root")
        .symlink("absolute", "/dotted")
        .file("absolute/y", "y")
        .file(&deep, "x")
        // Leftovers of aufs.
        .file(".wh..wh.plnk", "")
        .entry(Tar::header(tar::EntryType::Directory, 0o1777), b"./", b"", b"");
    let image = world.unpack(tar.bytes(), Compression::Gzip).await.unwrap();
    let root = &image.layers[0];
    let read = |path: &str| std::fs::read_to_string(root.join(path)).unwrap();
    assert_eq!(
        (read("a"), read("s"), read("again"), read("self")),
        ("now a file".into(), "now a file".into(), "2".into(), "x".into())
    );
    assert!(root.join("b").is_dir());
    assert_eq!((read("inside"), read("dotted/y")), ("the root's root is the root".into(), "y".into()));
    assert_eq!(root.metadata().unwrap().mode() & 0o7777, 0o1777);
    assert!(!root.join("plnk").exists());
    for name in ["fresh", "other"] {
        let mut value = [0; 1];
        assert_eq!(
            rustix::fs::lgetxattr(root.join(name), "trusted.overlay.opaque", &mut value),
            Ok(1),
            "{name}"
        );
        assert!(!root.join(name).symlink_metadata().unwrap().file_type().is_char_device());
    }
    world.assert_contained();
    // A tree deeper than a process may have files open goes as well.
    let digest = image.manifest_digest.clone();
    drop(image);
    assert!(world.store.remove(&digest).await.unwrap());
    assert_eq!(files(&world.dir.path().join("store/layers")), Vec::<String>::new());
}

#[tokio::test]
async fn an_opaque_root_hides_the_layers_below() {
    let world = World::new(Limits::default());
    let below = layer(Tar::new().file("old", "x").bytes(), Compression::Gzip);
    let above = layer(Tar::new().file(".wh..wh..opq", "").file("new", "x").bytes(), Compression::Gzip);
    world.registry.add("latest", &image(&[below, above]));
    let image = pull(&world.store, "app").await.unwrap();
    assert_eq!(image.layers.len(), 1);
    assert!(image.layers[0].join("new").exists());
}

#[tokio::test]
async fn a_layer_that_comes_twice_is_one_lowerdir() {
    let world = World::new(Limits::default());
    let same = || layer(Tar::new().file("same", "x").bytes(), Compression::Gzip);
    let other = layer(Tar::new().file("other", "x").bytes(), Compression::Gzip);
    world.registry.add("latest", &image(&[same(), other, same()]));
    let image = pull(&world.store, "app").await.unwrap();
    assert_eq!(image.layers.len(), 2);
    assert!(image.layers[0].join("other").exists() && image.layers[1].join("same").exists());
}

/// Names made to hurt, mixed with any.
fn name() -> impl Strategy<Value = Vec<u8>> {
    let part = prop_oneof![
        Just(b"..".to_vec()),
        Just(b".".to_vec()),
        Just(b"".to_vec()),
        Just(b"l".to_vec()),
        Just(b"d".to_vec()),
        Just(b"outside".to_vec()),
        Just(b".wh.l".to_vec()),
        Just(b".wh..wh..opq".to_vec()),
        proptest::collection::vec(any::<u8>(), 1..6),
    ];
    proptest::collection::vec(part, 1..6).prop_map(|parts| parts.join(&b'/'))
}

fn entry(outside: &Path) -> impl Strategy<Value = (u8, Vec<u8>, Vec<u8>)> + use<> {
    let outside = outside.as_os_str().as_encoded_bytes().to_vec();
    let target = prop_oneof![
        name(),
        Just(outside.clone()),
        Just([b"../../../../../../../..".as_slice(), &outside].concat())
    ];
    (prop_oneof![Just(b'0'), Just(b'1'), Just(b'2'), Just(b'2'), Just(b'5'), any::<u8>()], name(), target)
}

#[test]
fn random_archives_never_escape() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let world = World::new(Limits::default());
    let strategy = proptest::collection::vec(entry(&world.dir.path().join("outside")), 1..12);
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(300));
    runner
        .run(&strategy, |entries| {
            let tar = entries.into_iter().fold(Tar::new(), |tar, (kind, path, link)| {
                let mut header = with_type(kind);
                let data = if kind == b'0' { b"evil".as_slice() } else { b"" };
                header.set_size(data.len() as u64);
                tar.entry(header, &path, &link, data)
            });
            let result = runtime.block_on(world.unpack(tar.bytes(), Compression::None));
            world.assert_contained();
            if let Ok(image) = result {
                let digest = image.manifest_digest.clone();
                drop(image);
                runtime.block_on(world.store.remove(&digest)).unwrap();
            }
            Ok(())
        })
        .unwrap();
}
