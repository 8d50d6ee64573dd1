//! Images from Debian's own registry, as overlayfs will see them.

mod common;

use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;

use common::real::RealRegistry;
use common::{Built, Compression, DOCKER_MANIFEST, OCI_INDEX, Tar, config, image, image_for, layer, pull};
use ferrogate_image::{Auth, Digest, ImageRef, ImageStore, Platform, Progress};
use serde_json::json;

fn xattr(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = vec![0; 256];
    let length = rustix::fs::lgetxattr(path, name, &mut value).ok()?;
    value.truncate(length);
    Some(value)
}

/// `cap_net_bind_service=ep`, revision 2.
const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

#[tokio::test]
async fn three_layers_become_three_lowerdirs() {
    let registry = RealRegistry::start();
    let long = format!("deep/{}", "n".repeat(200));
    let mut suid = Tar::header(tar::EntryType::Regular, 0o4755);
    suid.set_uid(33);
    suid.set_gid(3_000_000);
    suid.set_size(1);
    let base = Tar::new()
        .dir("etc")
        .file("etc/passwd", "root")
        .file("etc/gone", "x")
        .dir("var/cache")
        .file("var/cache/old", "x")
        .entry(suid, b"bin/su", b"", b"s")
        .hard_link("bin/sudo", "bin/su")
        .symlink("lib", "usr/lib")
        .symlink("abs", "/etc/passwd")
        .dir("usr/lib")
        .file("lib/through", "a link")
        .file(&long, "long")
        .entry(Tar::header(tar::EntryType::Fifo, 0o640), b"pipe", b"", b"");
    let middle = Tar::new()
        .file("etc/.wh.gone", "")
        .file("var/cache/.wh..wh..opq", "")
        .file("var/cache/new", "y")
        .pax(&[("SCHILY.xattr.security.capability", &CAPABILITY), ("SCHILY.xattr.user.note", b"hello")])
        .file("bin/ping", "p")
        .pax(&[("mtime", b"1600000000.25"), ("path", "pax/ü".as_bytes())])
        .file("ignored", "z");
    // Sparse, PAX 1.0: 3 bytes at 4096 of 10,000.
    let mut data = b"1\n4096\n3\n".to_vec();
    data.resize(512, 0);
    data.extend(b"abc");
    let mut sparse = Tar::header(tar::EntryType::Regular, 0o600);
    sparse.set_size(data.len() as u64);
    let top = Tar::new()
        .pax(&[
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.name", b"holes"),
            ("GNU.sparse.realsize", b"10000"),
        ])
        .entry(sparse, b"GNUSparseFile.0/holes", b"", &data)
        .file("after", "the sparse one");
    let built = image_for(
        "amd64",
        json!({"Entrypoint": ["/entry"], "Cmd": ["a", "b"], "Env": ["A=1"], "User": "33", "WorkingDir": "/srv",
            "StopSignal": "SIGQUIT", "ExposedPorts": {"80/tcp": {}}, "Volumes": {"/data": {}}, "Labels": {"k": "v"}}),
        &[
            layer(base.bytes(), Compression::Gzip),
            layer(middle.bytes(), Compression::Zstd),
            layer(top.bytes(), Compression::None),
        ],
    );
    registry.push("library/web", "1", &built);

    let dir = tempfile::tempdir().unwrap();
    let store = ImageStore::open(dir.path(), config(&registry.address)).unwrap();
    let seen = Mutex::new(Vec::new());
    let reference = ImageRef::parse("web:1").unwrap();
    let progress = |event| seen.lock().unwrap().push(event);
    let image = store.pull(&reference, Auth::Anonymous, Platform::LinuxAmd64, progress).await.unwrap();

    assert_eq!((&image.digest, &image.manifest_digest), (&built.digest(), &built.digest()));
    assert_eq!(
        (image.config.entrypoint, image.config.cmd),
        (vec!["/entry".to_owned()], vec!["a".into(), "b".into()])
    );
    assert_eq!((image.config.user.as_str(), image.config.working_dir.as_str()), ("33", "/srv"));
    assert_eq!(image.config.stop_signal.as_deref(), Some("SIGQUIT"));
    assert_eq!(
        (image.config.exposed_ports, image.config.volumes),
        (vec!["80/tcp".into()], vec!["/data".into()])
    );
    assert_eq!((image.config.env, image.config.labels["k"].as_str()), (vec!["A=1".into()], "v"));
    assert!(seen.lock().unwrap().contains(&Progress::Resolved { digest: built.digest(), cached: false }));
    assert_eq!(
        seen.into_inner().unwrap().iter().filter(|event| matches!(event, Progress::Ready { .. })).count(),
        3
    );

    let [base, middle, top] = &image.layers[..] else { panic!("{:?}", image.layers) };
    let su = base.join("bin/su").metadata().unwrap();
    assert_eq!((su.mode() & 0o7777, su.uid(), su.gid(), su.mtime()), (0o4755, 33, 3_000_000, 1_700_000_000));
    assert_eq!(su.ino(), base.join("bin/sudo").metadata().unwrap().ino());
    assert_eq!(std::fs::read_link(base.join("abs")).unwrap(), Path::new("/etc/passwd"));
    assert_eq!(std::fs::read_to_string(base.join("usr/lib/through")).unwrap(), "a link");
    assert_eq!(std::fs::read_to_string(base.join(&long)).unwrap(), "long");
    assert!(base.join("pipe").symlink_metadata().unwrap().file_type().is_fifo());
    assert_eq!(base.metadata().unwrap().permissions().mode() & 0o7777, 0o755);
    assert_eq!(base.join("etc").metadata().unwrap().mtime(), 1_700_000_000);
    let gone = middle.join("etc/gone").symlink_metadata().unwrap();
    assert!(gone.file_type().is_char_device() && gone.rdev() == 0);
    assert_eq!(xattr(&middle.join("var/cache"), "trusted.overlay.opaque").unwrap(), b"y");
    assert_eq!(xattr(&middle.join("bin/ping"), "security.capability").unwrap(), CAPABILITY);
    assert_eq!(xattr(&middle.join("bin/ping"), "user.note").unwrap(), b"hello");
    assert_eq!(middle.join("pax/ü").metadata().unwrap().mtime_nsec(), 250_000_000);
    let holes = std::fs::read(top.join("holes")).unwrap();
    assert_eq!(
        (holes.len(), &holes[4096..4099], holes.iter().filter(|b| **b != 0).count()),
        (10_000, &b"abc"[..], 3)
    );
    assert!(top.join("after").exists());

    // The kernel agrees.
    let lower: Vec<_> = image.layers.iter().rev().map(|path| path.display().to_string()).collect();
    let script = r#"mkdir "$1/m" && mount -t overlay -o "lowerdir=$2" overlay "$1/m" && cd "$1/m" &&
        cat etc/passwd after && ls etc var/cache"#;
    let scratch = tempfile::tempdir().unwrap();
    let merged = Command::new("unshare")
        .args(["-m", "sh", "-c", script, "sh"])
        .arg(scratch.path())
        .arg(lower.join(":"))
        .output()
        .unwrap();
    assert!(merged.status.success(), "{}", String::from_utf8_lossy(&merged.stderr));
    assert_eq!(
        String::from_utf8_lossy(&merged.stdout),
        "rootthe sparse oneetc:\npasswd\n\nvar/cache:\nnew\n"
    );
}

#[tokio::test]
async fn an_index_gives_the_platforms_image() {
    let registry = RealRegistry::start();
    let parts = ["amd64", "arm64"].map(|architecture| {
        let tar = Tar::new().file("arch", architecture).bytes();
        image_for(architecture, json!({}), &[layer(tar, Compression::Gzip)])
    });
    for part in &parts {
        registry.push("library/multi", part.digest().as_str(), part);
    }
    let entries: Vec<_> = ["amd64", "arm64"]
        .iter()
        .zip(&parts)
        .map(|(architecture, part)| {
            json!({"mediaType": part.media_type, "digest": part.digest(), "size": part.manifest.len(),
                "platform": {"os": "linux", "architecture": architecture}})
        })
        .collect();
    let index = |entries: &[serde_json::Value]| Built {
        manifest: serde_json::to_vec(
            &json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}),
        )
        .unwrap(),
        media_type: OCI_INDEX.to_owned(),
        ..Built::default()
    };
    registry.push("library/multi", "latest", &index(&entries));
    registry.push("library/multi", "intel", &index(&entries[..1]));

    let dir = tempfile::tempdir().unwrap();
    let store = ImageStore::open(dir.path(), config(&registry.address)).unwrap();
    for (platform, part, name) in
        [(Platform::LinuxAmd64, &parts[0], "amd64"), (Platform::LinuxArm64, &parts[1], "arm64")]
    {
        let reference = ImageRef::parse("multi").unwrap();
        let image = store.pull(&reference, Auth::Anonymous, platform, |_| {}).await.unwrap();
        assert_eq!((&image.digest, &image.manifest_digest), (&index(&entries).digest(), &part.digest()));
        assert_eq!(std::fs::read_to_string(image.layers[0].join("arch")).unwrap(), name);
        assert_eq!(store.get(&reference, platform).unwrap().manifest_digest, part.digest());
    }
    let text = "CannotPullContainerError: pull image manifest has been retried 1 time(s): image Manifest does not contain \
                descriptor matching platform 'linux/arm64'";
    for name in ["multi:intel", &format!("multi@{}", parts[0].digest())] {
        let reference = ImageRef::parse(name).unwrap();
        let error = store.pull(&reference, Auth::Anonymous, Platform::LinuxArm64, |_| {}).await.unwrap_err();
        assert_eq!(error.to_string(), text);
    }
}

#[tokio::test]
async fn docker_manifests_digests_moved_tags_and_missing_ones() {
    let registry = RealRegistry::start();
    let make = |content: &str| {
        let mut built = image(&[layer(Tar::new().file("v", content).bytes(), Compression::Gzip)]);
        let mut manifest: serde_json::Value = serde_json::from_slice(&built.manifest).unwrap();
        manifest["mediaType"] = DOCKER_MANIFEST.into();
        manifest["config"]["mediaType"] = "application/vnd.docker.container.image.v1+json".into();
        manifest["layers"][0]["mediaType"] = "application/vnd.docker.image.rootfs.diff.tar.gzip".into();
        built.manifest = serde_json::to_vec(&manifest).unwrap();
        built.media_type = DOCKER_MANIFEST.to_owned();
        built
    };
    let (one, two) = (make("1"), make("2"));
    registry.push("team/app", "latest", &one);
    let dir = tempfile::tempdir().unwrap();
    let store = ImageStore::open(dir.path(), config(&registry.address)).unwrap();
    // Loopback needs no mirror.
    let direct = pull(&store, &format!("{}/team/app", registry.address)).await.unwrap();
    assert_eq!(direct.digest, one.digest());
    assert_eq!(pull(&store, "team/app").await.unwrap().layers, direct.layers);

    registry.push("team/app", "latest", &two);
    let moved = pull(&store, "team/app").await.unwrap();
    assert_eq!(
        (moved.digest, std::fs::read_to_string(moved.layers[0].join("v")).unwrap()),
        (two.digest(), "2".into())
    );
    let pinned = pull(&store, &format!("team/app@{}", one.digest())).await.unwrap();
    assert_eq!((pinned.digest, pinned.layers), (one.digest(), direct.layers.clone()));

    let error = pull(&store, "team/app:nope").await.unwrap_err();
    let text = "CannotPullContainerError: pull image manifest has been retried 1 time(s): failed to resolve ref \
                docker.io/team/app:nope: docker.io/team/app:nope: not found";
    assert_eq!(error.to_string(), text);
    let missing = Digest::of(b"missing");
    assert!(
        pull(&store, &format!("team/app@{missing}")).await.unwrap_err().to_string().ends_with(": not found")
    );
}
