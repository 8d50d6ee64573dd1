//! Failures in containerd's words, and images of unusual make.

mod common;

use std::collections::HashMap;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::process::{Child, Command, Stdio};

use common::fake::{Action, FakeRegistry};
use common::real::RealRegistry;
use common::{Built, Compression, DOCKER_MANIFEST, OCI_INDEX, Tar, config, image, image_for, layer, pull};
use ferrogate_image::{
    Auth, CauseKind, Config, Digest, ImageRef, ImageStore, Mirror, Platform, PullError, Retry,
};
use serde_json::{Value, json};

struct World {
    _dir: tempfile::TempDir,
    store: ImageStore,
}

fn world(config: Config) -> World {
    let dir = tempfile::tempdir().unwrap();
    let store = ImageStore::open(dir.path(), config).unwrap();
    World { _dir: dir, store }
}

/// All of docker.io at this URL.
fn at(url: &str) -> Config {
    let mirror = Mirror::parse(&format!("docker.io/*={url}/*")).unwrap();
    Config { mirrors: vec![mirror], ..config("127.0.0.1:1") }
}

/// `openssl s_server` with a certificate of its own making.
struct Tls {
    child: Child,
    port: u16,
    _dir: tempfile::TempDir,
}

impl Tls {
    fn start(name: &str, days: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).display().to_string();
        let made = Command::new("openssl")
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"])
            .args(["-keyout", &path("key"), "-out", &path("cert"), "-days", days, "-subj"])
            .args([&format!("/CN={name}"), "-addext", &format!("subjectAltName=DNS:{name}")])
            .stderr(Stdio::null())
            .status();
        assert!(made.is_ok_and(|status| status.success()), "openssl: scripts/deps test");
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "openssl", "s_server", "-quiet", "-www", "-accept"])
            .args([&format!("127.0.0.1:{port}"), "-key", &path("key"), "-cert", &path("cert")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let until = std::time::Instant::now() + std::time::Duration::from_secs(30);
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(std::time::Instant::now() < until, "openssl s_server does not listen");
            std::thread::yield_now();
        }
        Tls { child, port, _dir: dir }
    }
}

impl Drop for Tls {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const RESOLVE: &str = "failed to resolve ref docker.io/library/nginx:latest: failed to do request: Head";

fn manifest_error(times: u32, url: &str, what: &str) -> String {
    format!(
        "CannotPullContainerError: pull image manifest has been retried {times} time(s): {RESOLVE} \
         \"{url}/v2/library/nginx/manifests/latest\": {what}"
    )
}

#[tokio::test]
async fn certificates_that_prove_nothing_are_not_asked_twice() {
    let tls = Tls::start("localhost", "2");
    let url = format!("https://127.0.0.1:{}", tls.port);
    let world = world(at(&url));
    let error = pull(&world.store, "nginx").await.unwrap_err();
    assert_eq!(error.kind(), CauseKind::Untrusted, "{error}");
    let what = "tls: failed to verify certificate: x509: certificate signed by unknown authority";
    assert_eq!(error.to_string(), manifest_error(1, &url, what));
}

#[tokio::test]
async fn plain_http_where_tls_was_meant() {
    let registry = RealRegistry::start();
    let url = format!("https://{}", registry.address);
    let world = world(at(&url));
    let error = pull(&world.store, "nginx").await.unwrap_err();
    let what = "http: server gave HTTP response to HTTPS client";
    assert_eq!(error.to_string(), manifest_error(1, &url, what));
}

#[tokio::test]
async fn names_nobody_has() {
    // RFC 6761: never resolved.
    let world = world(at("https://registry.invalid"));
    let error = pull(&world.store, "nginx").await.unwrap_err();
    assert_eq!(error.kind(), CauseKind::Unreachable);
    let text = error.to_string();
    let what = |why: &str| {
        manifest_error(5, "https://registry.invalid", &format!("dial tcp: lookup registry.invalid: {why}"))
    };
    // Without a resolver to ask the answer is another.
    assert!(text == what("no such host") || text == what("server misbehaving"), "{text}");
}

#[tokio::test]
async fn a_network_that_swallows_is_a_timeout() {
    let hanging = FakeRegistry::start(|_| Action::Hang);
    let mut config = config(&hanging.address);
    config.retry = Retry { attempts_max: 5, ..config.retry };
    config.timeouts.idle = std::time::Duration::from_millis(20);
    let world = world(config);
    let error = pull(&world.store, "nginx").await.unwrap_err();
    let url = format!("http://{}", hanging.address);
    assert_eq!(error.to_string(), manifest_error(5, &url, "i/o timeout"));
    assert_eq!(hanging.requests().len(), 5, "N is how often it was asked");
}

#[tokio::test]
async fn what_a_task_s_own_network_cannot_reach() {
    let error = PullError::no_way(&ImageRef::parse("nginx").unwrap(), 5);
    assert_eq!(error.to_string(), manifest_error(5, "https://registry-1.docker.io", "dial tcp: i/o timeout"));
}

#[tokio::test]
async fn what_cannot_get_better_is_asked_once() {
    let registry = FakeRegistry::good();
    let world = world(config(&registry.address));
    let error = pull(&world.store, "nope:1").await.unwrap_err().to_string();
    let text = "CannotPullContainerError: pull image manifest has been retried 1 time(s): failed to resolve ref \
                docker.io/library/nope:1: docker.io/library/nope:1: not found";
    assert_eq!(error, text);
    assert_eq!(registry.requests().len(), 1);

    // A manifest that names a layer nobody has.
    let mut built = image(&[layer(Tar::new().file("a", "b").bytes(), Compression::Gzip)]);
    let blob = layer(Tar::new().file("a", "b").bytes(), Compression::Gzip).blob;
    let digest = Digest::of(&blob);
    built.blobs.remove(&digest);
    registry.add("holes", &built);
    let error = pull(&world.store, "app:holes").await.unwrap_err().to_string();
    let start = "CannotPullContainerError: ref pull has been retried 1 time(s): failed to copy: httpReaderSeeker: failed open:";
    assert!(error.starts_with(start) && error.ends_with("not found: not found"), "{error}");
}

/// An index, and what it leads to, by digest.
fn index(entries: &[Value]) -> Built {
    let manifest = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries});
    Built {
        manifest: serde_json::to_vec(&manifest).unwrap(),
        media_type: OCI_INDEX.to_owned(),
        blobs: HashMap::new(),
    }
}

fn entry(of: &Built, platform: Option<(&str, &str)>) -> Value {
    let mut entry = json!({"mediaType": of.media_type, "digest": of.digest(), "size": of.manifest.len()});
    if let Some((os, architecture)) = platform {
        entry["platform"] = json!({"os": os, "architecture": architecture});
    }
    entry
}

#[tokio::test]
async fn indexes_of_indexes() {
    let registry = FakeRegistry::good();
    let of = |architecture: &str| {
        let tar = Tar::new().file("arch", architecture).bytes();
        image_for(architecture, json!({}), &[layer(tar, Compression::Gzip)])
    };
    let (amd64, arm64) = (of("amd64"), of("arm64"));
    let inner = index(&[entry(&arm64, Some(("linux", "arm64")))]);
    let middle = index(&[entry(&inner, None)]);
    let attestation = entry(&amd64, Some(("unknown", "unknown")));
    let outer = index(&[attestation, entry(&middle, None), entry(&amd64, Some(("linux", "amd64")))]);
    for part in [&amd64, &arm64, &inner, &middle] {
        registry.add(part.digest().as_str(), part);
    }
    registry.add("latest", &outer);
    let world = world(config(&registry.address));
    let reference = ImageRef::parse("app").unwrap();
    for (platform, name, part) in
        [(Platform::LinuxAmd64, "amd64", &amd64), (Platform::LinuxArm64, "arm64", &arm64)]
    {
        let image = world.store.pull(&reference, Auth::Anonymous, platform, |_| {}).await.unwrap();
        assert_eq!(std::fs::read_to_string(image.layers[0].join("arch")).unwrap(), name);
        assert_eq!((&image.digest, &image.manifest_digest), (&outer.digest(), &part.digest()));
        assert_eq!(world.store.get_digest(&outer.digest(), platform).unwrap().manifest_digest, part.digest());
    }

    // A chain without end in sight is given up.
    let mut deep = of("amd64");
    for _ in 0..20 {
        registry.add(deep.digest().as_str(), &deep);
        deep = index(&[entry(&deep, None)]);
    }
    registry.add("deep", &deep);
    registry.take_requests();
    let error = pull(&world.store, "app:deep").await.unwrap_err().to_string();
    let text = "CannotPullContainerError: pull image manifest has been retried 1 time(s): image Manifest does not \
                contain descriptor matching platform 'linux/amd64'";
    assert_eq!(error, text);
    assert!(registry.take_requests().len() < 20);
}

#[tokio::test]
async fn no_layers_empty_layers_and_the_same_one_again() {
    let registry = FakeRegistry::good();
    let world = world(config(&registry.address));
    registry.add("none", &image(&[]));
    let none = pull(&world.store, "app:none").await.unwrap();
    assert_eq!((none.layers.len(), none.unpacked_bytes), (0, 0));
    assert!(none.size_bytes > 0, "the config is something");

    // Docker's layer for a step that changed nothing, an archive of nothing, and no bytes at all.
    let empty = |compression| layer(vec![0; 1024], compression);
    let parts = [
        empty(Compression::Gzip),
        layer(Tar::new().file("a", "b").bytes(), Compression::Zstd),
        layer(Vec::new(), Compression::None),
        layer(Tar::new().file("c", "d").bytes(), Compression::None),
        empty(Compression::Zstd),
    ];
    let size: usize = parts.iter().map(|part| part.blob.len()).sum();
    registry.add("empty", &image(&parts));
    let image = pull(&world.store, "app:empty").await.unwrap();
    assert_eq!(image.unpacked_bytes, 2);
    assert!(image.size_bytes > size as u64);
    let found = |name: &str| image.layers.iter().any(|layer| layer.join(name).exists());
    assert!(found("a") && found("c"));
}

#[tokio::test]
async fn a_layer_its_registry_may_not_distribute() {
    let registry = FakeRegistry::good();
    let part = layer(Tar::new().file("a", "b").bytes(), Compression::Gzip);
    let digest = Digest::of(&part.blob);
    let foreign = |urls: Value| {
        let mut built = image(std::slice::from_ref(&part));
        let mut manifest: Value = serde_json::from_slice(&built.manifest).unwrap();
        manifest["mediaType"] = DOCKER_MANIFEST.into();
        manifest["layers"][0]["mediaType"] =
            "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip".into();
        manifest["layers"][0]["urls"] = urls;
        built.manifest = serde_json::to_vec(&manifest).unwrap();
        built.media_type = DOCKER_MANIFEST.to_owned();
        built.blobs.remove(&digest);
        built
    };
    // Elsewhere on the same host.
    let mut holder = Built { manifest: b"{}".to_vec(), ..Built::default() };
    holder.blobs.insert(digest.clone(), part.blob.clone());
    let world = world(config(&registry.address));
    let url = format!("http://{}/elsewhere/{digest}", registry.address);
    // Nowhere inside, and not in the clear.
    let inside = FakeRegistry::good();
    inside.add("x", &holder);
    let refused = json!([
        format!("http://{}/v2/x/blobs/{digest}", inside.address),
        "https://10.0.0.1/x",
        "https://[::1]/x",
        "https://localhost/x",
        "not a url"
    ]);
    registry.add("latest", &foreign(refused));
    let error = pull(&world.store, "app").await.unwrap_err();
    assert_eq!(error.kind(), CauseKind::NotFound, "{error}");
    assert!(inside.requests().is_empty());

    let hidden = FakeRegistry::start({
        let blob = part.blob.clone();
        move |request| match request.path.starts_with("/elsewhere/") {
            true => Action::Answer(200, String::new(), blob.clone()),
            false => Action::Serve,
        }
    });
    let url = url.replace(&registry.address, &hidden.address);
    hidden.add("latest", &foreign(json!([url])));
    let there = self::world(config(&hidden.address));
    let image = pull(&there.store, "app").await.unwrap();
    assert_eq!(std::fs::read_to_string(image.layers[0].join("a")).unwrap(), "b");
}

/// u::rw-, u:33:r--, g::r--, m::r--, o::---: as the kernel stores it.
fn posix_acl() -> Vec<u8> {
    let mut bytes = 2u32.to_le_bytes().to_vec();
    for (tag, perm, id) in
        [(1u16, 6u16, u32::MAX), (2, 4, 33), (4, 4, u32::MAX), (16, 4, u32::MAX), (32, 0, u32::MAX)]
    {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(perm.to_le_bytes());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

#[tokio::test]
async fn links_attributes_and_what_one_layer_does_to_another() {
    let registry = FakeRegistry::good();
    let world = world(config(&registry.address));
    let acl = posix_acl();
    let below = Tar::new().dir("a").file("a/one", "1").file("a/two", "2").dir("b").file("b/old", "x");
    let above = Tar::new()
        // Across directories, to a file, to a link, to a link's own name.
        .dir("x/y")
        .file("x/y/file", "shared")
        .hard_link("z/deep/linked", "x/y/file")
        .hard_link("z/again", "z/deep/linked")
        .symlink("x/sym", "nowhere")
        .hard_link("z/sym", "x/sym")
        // A whiteout, then the same name anew; a file, then its whiteout in the same layer.
        .file("a/.wh.one", "")
        .file("a/one", "anew")
        .file("a/here", "kept")
        .file("a/.wh.here", "")
        // Replaced while linked: the other name keeps the content.
        .file("x/y/file", "other")
        .file("a/.wh.two", "")
        .file("b/.wh..wh..opq", "")
        .file("b/new", "y")
        .pax(&[
            ("SCHILY.xattr.system.posix_acl_access", &acl),
            ("SCHILY.xattr.security.selinux", b"label\0"),
            ("SCHILY.xattr.trusted.other", b"x"),
        ])
        .file("acl", "x");
    let parts = [layer(below.bytes(), Compression::Gzip), layer(above.bytes(), Compression::Zstd)];
    registry.add("latest", &image(&parts));
    let image = pull(&world.store, "app").await.unwrap();
    let top = &image.layers[1];
    let read = |path: &str| std::fs::read_to_string(top.join(path)).unwrap();
    let inode = |path: &str| top.join(path).symlink_metadata().unwrap().ino();
    assert_eq!(
        (read("z/deep/linked"), read("z/again"), read("x/y/file")),
        ("shared".into(), "shared".into(), "other".into())
    );
    assert_eq!(inode("z/deep/linked"), inode("z/again"));
    assert_eq!(inode("x/sym"), inode("z/sym"));
    assert_eq!((read("a/one"), read("a/here")), ("anew".into(), "kept".into()));
    assert!(top.join("a/two").symlink_metadata().unwrap().file_type().is_char_device());
    let has = |path: &str, name: &str| rustix::fs::lgetxattr(top.join(path), name, &mut [0; 256]).is_ok();
    assert!(has("acl", "system.posix_acl_access") && !has("acl", "trusted.other"));
    assert!(!has("acl", "security.selinux"));
    assert!(has("b", "trusted.overlay.opaque"));

    // A hard link to what only a layer below has, or to what this one has taken away, has nothing to link to.
    for tar in [
        Tar::new().hard_link("h", "a/one"),
        Tar::new().file("a/.wh.one", "").hard_link("h", "a/one"),
        Tar::new().file("f", "x").hard_link("g", "f").file("f", "").dir("f").hard_link("h", "f"),
    ] {
        registry.add("bad", &common::image(&[layer(tar.bytes(), Compression::Gzip)]));
        let error = pull(&world.store, "app:bad").await.unwrap_err();
        assert_eq!(error.kind(), CauseKind::Hostile, "{error}");
    }
}
