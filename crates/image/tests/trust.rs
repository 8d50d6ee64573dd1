//! What is here is used only for who may have it, and a registry that is too slow is one that failed.

mod common;

use std::collections::HashMap;
use std::time::Duration;

use common::fake::{Action, FakeRegistry};
use common::{Built, Compression, OCI_INDEX, Tar, config, image, layer, pull};
use ferrogate_image::{Auth, CauseKind, Config, ImageRef, ImageStore, Mirror, Platform, PullError, Slowest};
use serde_json::json;

fn private() -> Built {
    image(&[layer(Tar::new().file("secret", "of one customer").bytes(), Compression::Gzip)])
}

/// Of this one manifest, which it does not bring.
fn index(of: &Built) -> Built {
    let manifest = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [{
        "mediaType": of.media_type, "digest": of.digest(), "size": of.manifest.len(),
        "platform": {"os": "linux", "architecture": "amd64"},
    }]});
    let manifest = serde_json::to_vec(&manifest).unwrap();
    Built { manifest, media_type: OCI_INDEX.to_owned(), blobs: HashMap::new() }
}

/// A store that knows two registries.
fn store(dir: &std::path::Path, honest: &FakeRegistry, other: &FakeRegistry) -> ImageStore {
    let mirror = |name: &str, registry: &FakeRegistry| {
        Mirror::parse(&format!("{name}.test/*=http://{}/*", registry.address)).unwrap()
    };
    let mirrors = vec![mirror("honest", honest), mirror("other", other)];
    ImageStore::open(dir, Config { mirrors, ..config("127.0.0.1:1") }).unwrap()
}

/// Claims by HEAD to have the image, and then has nothing, or something else.
fn liar(of: &Built) -> FakeRegistry {
    let (digest, media_type) = (of.digest(), of.media_type.clone());
    FakeRegistry::start(move |request| match &*request.method {
        "HEAD" => {
            let headers = format!("Content-Type: {media_type}\r\nDocker-Content-Digest: {digest}\r\n");
            Action::Answer(200, headers, Vec::new())
        }
        _ if request.path.contains("wrong") => Action::Answer(200, String::new(), b"{}".to_vec()),
        _ => Action::Serve,
    })
}

#[tokio::test]
async fn who_only_claims_a_digest_gets_nothing_by_it() {
    let (honest, built) = (FakeRegistry::good(), private());
    honest.add("1", &built);
    let lying = liar(&built);
    let dir = tempfile::tempdir().unwrap();
    let images = store(dir.path(), &honest, &lying);
    pull(&images, "honest.test/app:1").await.unwrap();
    let by_digest = format!("other.test/app@{}", built.digest());
    for (reference, kind) in [
        ("other.test/app:1", CauseKind::NotFound),
        (&by_digest, CauseKind::NotFound),
        ("other.test/wrong:1", CauseKind::Corrupt),
    ] {
        let error = pull(&images, reference).await.expect_err(reference);
        assert_eq!(error.kind(), kind, "{reference}: {error}");
        assert!(
            error.to_string().starts_with("CannotPullContainerError: pull image manifest has been retried ")
        );
    }

    // An index of their own that names the other's manifest leads nowhere either.
    let (index, owner) = (index(&built), FakeRegistry::good());
    owner.add("1", &index);
    let images = {
        drop(images);
        store(dir.path(), &honest, &owner)
    };
    let error = pull(&images, "other.test/app:1").await.expect_err("a manifest it does not have");
    assert_eq!(error.kind(), CauseKind::NotFound, "{error}");
    // Neither does a manifest of their own with the other's config.
    let manifest = [&built.manifest[..], b" "].concat();
    owner.add("2", &Built { manifest, media_type: built.media_type.clone(), blobs: HashMap::new() });
    let error = pull(&images, "other.test/app:2").await.expect_err("a config it does not have");
    assert_eq!(error.kind(), CauseKind::NotFound, "{error}");
}

#[tokio::test]
async fn who_has_the_manifest_shares_what_is_here_and_is_asked_once() {
    let (honest, other, built) = (FakeRegistry::good(), FakeRegistry::good(), private());
    honest.add("1", &built);
    other.add("1", &built);
    let dir = tempfile::tempdir().unwrap();
    let images = store(dir.path(), &honest, &other);
    pull(&images, "honest.test/app:1").await.unwrap();
    let head = "HEAD /v2/app/manifests/1".to_owned();
    let get = format!("GET /v2/app/manifests/{}", built.digest());
    for expected in [vec![head.clone(), get.clone()], vec![head.clone()]] {
        pull(&images, "other.test/app:1").await.unwrap();
        assert_eq!(other.take_requests(), expected);
    }
    // Somebody else at the same place has to show it anew.
    let auth = Auth::Basic { user: "u".into(), password: "p".into() };
    let reference = ImageRef::parse("other.test/app:1").unwrap();
    images.pull(&reference, auth, Platform::LinuxAmd64, |_| {}).await.unwrap();
    assert_eq!(other.take_requests(), [head, get]);
}

#[tokio::test]
async fn a_registry_that_dribbles_is_given_up() {
    let content = "x".repeat(20_000);
    let built = image(&[layer(Tar::new().file("file", &content).bytes(), Compression::None)]);
    let is_layer = built.blobs.iter().find(|(_, bytes)| bytes.len() > 20_000).unwrap().0.to_string();
    let pull_with = async |slowest: Slowest, piece: usize| {
        let name = is_layer.clone();
        let registry = FakeRegistry::start(move |request| match request.path.ends_with(&name) {
            true => Action::Dribble(piece, Duration::from_millis(5)),
            false => Action::Serve,
        });
        registry.add("1", &built);
        let dir = tempfile::tempdir().unwrap();
        let mut settings = config(&registry.address);
        settings.timeouts.slowest = slowest;
        // What is slow is not what is silent.
        settings.timeouts.idle = Duration::from_secs(60);
        let images = ImageStore::open(dir.path(), settings).unwrap();
        pull(&images, "app:1").await.map(|image| image.size_bytes)
    };
    let window = Duration::from_millis(100);
    let error = pull_with(Slowest { bytes: 10_000, window }, 10).await.expect_err("too slow");
    let text = error.to_string();
    assert!(matches!(error, PullError::Layer { .. }) && error.kind() == CauseKind::Unreachable, "{text}");
    assert!(
        text.starts_with("CannotPullContainerError: ref pull has been retried 5 time(s): failed to copy: ")
            && text.contains("at least 10000 are expected"),
        "{text}"
    );
    // Slow, but not too slow: it takes several windows.
    pull_with(Slowest { bytes: 1, window }, 100).await.expect("it comes");
}
