//! Registries that fail, lie, or want to be asked nicely.

mod common;

use std::io::{BufRead, Write};
use std::sync::Arc;
use std::time::Duration;

use common::fake::{Action, FakeRegistry, Request};
use common::{Built, Compression, Tar, config, files, image, layer, pull};
use ferrogate_image::{
    Auth, CauseKind, Config, Digest, ImageRef, ImageStore, Limits, Mirror, Platform, Timeouts,
};

/// Incompressible, so that it takes many reads.
fn noise(bytes: usize) -> String {
    let mut state = 1u64;
    let next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        char::from(b' ' + (state >> 58) as u8)
    };
    std::iter::repeat_with(next).take(bytes).collect()
}

fn two_layers() -> Built {
    let big = Tar::new().file("big", &noise(300_000)).bytes();
    image(&[layer(big, Compression::None), layer(Tar::new().file("small", "x").bytes(), Compression::Gzip)])
}

fn is_big(request: &Request, built: &Built) -> bool {
    built.blobs.iter().any(|(digest, bytes)| bytes.len() > 100_000 && request.path.ends_with(digest.as_str()))
}

struct World {
    registry: FakeRegistry,
    store: ImageStore,
    dir: tempfile::TempDir,
}

fn world(
    built: &Built,
    change: impl FnOnce(&mut Config),
    behaviour: impl Fn(&Request) -> Action + Send + Sync + 'static,
) -> World {
    let registry = FakeRegistry::start(behaviour);
    registry.add("latest", built);
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(&registry.address);
    change(&mut config);
    let store = ImageStore::open(dir.path(), config).unwrap();
    World { registry, store, dir }
}

impl World {
    fn assert_clean(&self) {
        self.wait_for_empty_tmp();
        assert_eq!(self.store.list(), vec![]);
    }

    /// Nothing half done stays, once a layer that was being unpacked beside the one that failed is through.
    fn wait_for_empty_tmp(&self) {
        wait_for_empty(&self.dir.path().join("tmp"));
    }
}

fn wait_for_empty(dir: &std::path::Path) {
    let until = std::time::Instant::now() + Duration::from_secs(30);
    while !files(dir).is_empty() {
        assert!(std::time::Instant::now() < until, "{:?}", files(dir));
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn twenty_pulls_at_once_fetch_each_thing_once() {
    let built = two_layers();
    let world = world(&built, |_| {}, |_| Action::Serve);
    let pulls: Vec<_> = (0..20)
        .map(|_| {
            let store = world.store.clone();
            tokio::spawn(async move { pull(&store, "app").await.unwrap().layers })
        })
        .collect();
    let mut layers = Vec::new();
    for pull in pulls {
        layers.push(pull.await.unwrap());
    }
    assert!(layers.iter().all(|other| *other == layers[0]));
    let mut gets: Vec<String> =
        world.registry.take_requests().into_iter().filter(|request| request.starts_with("GET")).collect();
    let all = gets.len();
    gets.sort();
    gets.dedup();
    // The manifest, the config, two layers.
    assert_eq!((all, gets.len()), (4, 4));

    pull(&world.store, "app").await.unwrap();
    assert_eq!(world.registry.take_requests(), ["HEAD /v2/library/app/manifests/latest"]);
}

#[tokio::test]
async fn a_broken_download_goes_on_where_it_stopped() {
    let built = Arc::new(two_layers());
    let known = Arc::clone(&built);
    let world = world(
        &built,
        |_| {},
        move |request| match request.before {
            0..3 if is_big(request, &known) => Action::Truncate(70_000),
            _ => Action::Serve,
        },
    );
    let image = pull(&world.store, "app").await.unwrap();
    assert_eq!(std::fs::read_to_string(image.layers[0].join("big")).unwrap(), noise(300_000));
    let requests = world.registry.requests();
    let starts: Vec<_> =
        requests.iter().filter(|request| is_big(request, &built)).map(Request::range_start).collect();
    assert_eq!(starts, [None, Some(70_000), Some(140_000), Some(210_000)]);
}

#[tokio::test]
async fn a_registry_without_ranges_starts_again() {
    let built = Arc::new(two_layers());
    let known = Arc::clone(&built);
    let world = world(
        &built,
        |_| {},
        move |request| match request.before {
            0 if is_big(request, &known) => Action::Truncate(70_000),
            _ => Action::ServeWhole,
        },
    );
    let image = pull(&world.store, "app").await.unwrap();
    assert_eq!(std::fs::read_to_string(image.layers[0].join("big")).unwrap(), noise(300_000));
}

#[tokio::test]
async fn a_download_that_always_breaks_ends() {
    let built = Arc::new(two_layers());
    let known = Arc::clone(&built);
    let world = world(
        &built,
        |_| {},
        move |request| match is_big(request, &known) {
            true => Action::Close,
            false => Action::Serve,
        },
    );
    let error = pull(&world.store, "app").await.unwrap_err();
    assert_eq!(error.kind(), CauseKind::Unreachable);
    let text = error.to_string();
    assert!(
        text.starts_with(
            "CannotPullContainerError: ref pull has been retried 5 time(s): failed to do request: Get"
        ),
        "{text}"
    );
    world.assert_clean();
}

#[tokio::test]
async fn errors_that_pass_are_waited_out_and_said_in_awss_words() {
    let built = Arc::new(two_layers());
    let error_body = br#"{"errors":[{"code":"UNAVAILABLE","message":"try later"}]}"#;
    let recovering = world(
        &built,
        |_| {},
        move |request| match request.before {
            0..3 => Action::Answer(503, String::new(), error_body.to_vec()),
            _ => Action::Serve,
        },
    );
    pull(&recovering.store, "app").await.unwrap();

    let known = Arc::clone(&built);
    let dead = world(
        &built,
        |_| {},
        move |request| match is_big(request, &known) {
            true => Action::Answer(503, String::new(), error_body.to_vec()),
            false => Action::Serve,
        },
    );
    let error = pull(&dead.store, "app").await.unwrap_err().to_string();
    let digest = built.blobs.iter().find(|(_, bytes)| bytes.len() > 100_000).unwrap().0;
    let text = format!(
        "CannotPullContainerError: ref pull has been retried 5 time(s): failed to copy: httpReaderSeeker: failed open: \
         unexpected status code http://{}/v2/library/app/blobs/{digest}: 503 Service Unavailable - Server message: \
         unavailable: try later",
        dead.registry.address
    );
    assert_eq!(error, text);
    dead.assert_clean();

    let limited = world(&built, |_| {}, |_| Action::Answer(429, String::new(), vec![]));
    let error = pull(&limited.store, "app").await.unwrap_err();
    assert_eq!(error.kind(), CauseKind::RateLimited);
    let text = format!(
        "CannotPullContainerError: pull image manifest has been retried 5 time(s): failed to resolve ref \
         docker.io/library/app:latest: unexpected status from HEAD request to \
         http://{}/v2/library/app/manifests/latest: 429 Too Many Requests",
        limited.registry.address
    );
    assert_eq!(error.to_string(), text);
}

#[tokio::test]
async fn no_registry_at_all() {
    // Bound and not listening: refused for as long as it lives.
    let socket =
        rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::STREAM, None).unwrap();
    rustix::net::bind(&socket, &"127.0.0.1:0".parse::<std::net::SocketAddrV4>().unwrap()).unwrap();
    let address = std::net::SocketAddr::try_from(rustix::net::getsockname(&socket).unwrap()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let store = ImageStore::open(dir.path(), config(&address.to_string())).unwrap();
    let error = pull(&store, "nginx").await.unwrap_err().to_string();
    let text = format!(
        "CannotPullContainerError: pull image manifest has been retried 5 time(s): failed to resolve ref \
         docker.io/library/nginx:latest: failed to do request: Head \
         \"http://{address}/v2/library/nginx/manifests/latest\": dial tcp {address}: connect: connection refused"
    );
    assert_eq!(error, text);
}

#[tokio::test]
async fn silence_ends_at_the_deadline() {
    let short = |config: &mut Config| {
        config.retry.attempts_max = 2;
        config.timeouts = Timeouts {
            idle: Duration::from_millis(50),
            document: Duration::from_millis(100),
            ..Timeouts::default()
        };
    };
    let built = Arc::new(two_layers());
    for what in ["/manifests/latest", "/blobs/"] {
        let world =
            world(
                &built,
                short,
                move |request| {
                    if request.path.contains(what) { Action::Hang } else { Action::Serve }
                },
            );
        let error = pull(&world.store, "app").await.unwrap_err();
        assert_eq!(error.kind(), CauseKind::Unreachable, "{error}");
        world.assert_clean();
    }
    let world = world(&built, |config| config.timeouts.pull = Duration::from_millis(100), |_| Action::Hang);
    let error = pull(&world.store, "app").await.unwrap_err().to_string();
    assert!(error.contains("context deadline exceeded"), "{error}");
}

#[tokio::test]
async fn lies_are_found_out() {
    let built = Arc::new(two_layers());
    let other = Digest::of(b"other");

    // Another layer than promised, of the right size.
    let known = Arc::clone(&built);
    let wrong = world(
        &built,
        |_| {},
        move |request| match is_big(request, &known) {
            true => {
                let size = known.blobs.values().map(Vec::len).max().unwrap();
                Action::Answer(200, String::new(), vec![b'x'; size])
            }
            false => Action::Serve,
        },
    );
    let error = pull(&wrong.store, "app").await.unwrap_err();
    assert_eq!(error.kind(), CauseKind::Corrupt);
    assert!(error.to_string().contains("unexpected commit digest sha256:"), "{error}");
    assert!(error.to_string().contains("has been retried 2 time(s)"), "{error}");
    wrong.assert_clean();

    // More than promised, without end.
    let known = Arc::clone(&built);
    let endless = world(
        &built,
        |_| {},
        move |request| match is_big(request, &known) {
            true => Action::Endless,
            false => Action::Serve,
        },
    );
    let error = pull(&endless.store, "app").await.unwrap_err().to_string();
    assert!(error.contains("failed size validation: more than"), "{error}");
    endless.assert_clean();

    // A digest in the header that the manifest does not have.
    let served = built.manifest.clone();
    let header = world(
        &built,
        |_| {},
        move |request| match request.method.as_str() {
            "HEAD" => Action::Answer(200, format!("Docker-Content-Digest: {other}\r\n"), vec![]),
            _ if request.path.contains("/manifests/") => Action::Answer(200, String::new(), served.clone()),
            _ => Action::Serve,
        },
    );
    let error = pull(&header.store, "app").await.unwrap_err();
    assert_eq!(error.kind(), CauseKind::Corrupt, "{error}");
    header.assert_clean();

    // A manifest without end, a config without end.
    for part in ["/manifests/sha256", "/blobs/"] {
        let endless = world(
            &built,
            |config| config.retry.attempts_max = 1,
            move |request| {
                if request.method == "GET" && request.path.contains(part) {
                    Action::Endless
                } else {
                    Action::Serve
                }
            },
        );
        let error = pull(&endless.store, "app").await.unwrap_err();
        assert_eq!(error.kind(), CauseKind::TooLarge, "{error}");
        endless.assert_clean();
    }

    // A diff id that is not the layer's.
    let mut built = layer(Tar::new().file("a", "b").bytes(), Compression::Gzip);
    built.diff_id = Digest::of(b"something else");
    let world = world(&image(&[built]), |_| {}, |_| Action::Serve);
    let error = pull(&world.store, "app").await.unwrap_err();
    assert!(error.to_string().contains("unexpected diff id"), "{error}");
    world.assert_clean();
    assert_eq!(files(&world.dir.path().join("layers")), Vec::<String>::new());
}

#[tokio::test]
async fn a_digest_header_is_optional_and_hangs_do_not_block_others() {
    let built = Arc::new(two_layers());
    let manifest = built.manifest.clone();
    let plain = world(
        &built,
        |_| {},
        move |request| match request.path.contains("/manifests/") {
            true => Action::Answer(200, String::new(), manifest.clone()),
            false => Action::Serve,
        },
    );
    assert_eq!(pull(&plain.store, "app").await.unwrap().digest, built.digest());
}

#[tokio::test]
async fn limits_are_kept() {
    let built = two_layers();
    for limits in [
        Limits { layers_max: 1, ..Limits::default() },
        Limits { layer_bytes_max: 1000, ..Limits::default() },
        Limits { unpacked_bytes_max: 1000, ..Limits::default() },
        Limits { manifest_bytes_max: 100, ..Limits::default() },
        Limits { config_bytes_max: 10, ..Limits::default() },
    ] {
        let world = world(&built, |config| config.limits = limits, |_| Action::Serve);
        let error = pull(&world.store, "app").await.unwrap_err();
        assert_eq!(error.kind(), CauseKind::TooLarge, "{limits:?}: {error}");
        world.assert_clean();
    }
}

#[tokio::test]
async fn a_cancelled_pull_is_taken_over() {
    let built = Arc::new(two_layers());
    let known = Arc::clone(&built);
    let (reached, mut wait) = tokio::sync::mpsc::unbounded_channel();
    let world = world(
        &built,
        |_| {},
        move |request| match request.before {
            0 if is_big(request, &known) => {
                let _ = reached.send(());
                Action::Hang
            }
            _ => Action::Serve,
        },
    );
    let store = world.store.clone();
    let first = tokio::spawn(async move { pull(&store, "app").await });
    wait.recv().await.unwrap();
    let store = world.store.clone();
    let second = tokio::spawn(async move { pull(&store, "app").await });
    first.abort();
    assert_eq!(second.await.unwrap().unwrap().digest, built.digest());
    world.wait_for_empty_tmp();
}

#[tokio::test]
async fn tokens_and_passwords() {
    let built = two_layers();
    let listener = FakeRegistry::start(|request| {
        let sent = request.headers.get("authorization").map_or("", String::as_str);
        // user:secret
        match sent {
            "Basic dXNlcjpzZWNyZXQ=" => {
                Action::Answer(200, String::new(), br#"{"token":"good","expires_in":300}"#.to_vec())
            }
            _ => Action::Answer(401, String::new(), vec![]),
        }
    });
    let realm = format!("http://{}/token", listener.address);
    let challenge = format!(
        "WWW-Authenticate: Bearer realm=\"{realm}\",service=\"here\",scope=\"repository:library/app:pull\"\r\n"
    );
    let private = world(
        &built,
        |_| {},
        move |request| match request.headers.get("authorization") {
            Some(token) if token == "Bearer good" => Action::Serve,
            _ => Action::Answer(401, challenge.clone(), vec![]),
        },
    );
    let reference = ImageRef::parse("app").unwrap();
    let auth = |password: &str| Auth::Basic { user: "user".into(), password: password.into() };
    for (who, times) in [(Auth::Anonymous, 1), (auth("wrong"), 2)] {
        let error = private.store.pull(&reference, who, Platform::LinuxAmd64, |_| {}).await.unwrap_err();
        assert_eq!(error.kind(), CauseKind::Denied);
        let text = "CannotPullContainerError: pull image manifest has been retried 1 time(s): failed to resolve ref \
                    docker.io/library/app:latest: pull access denied, repository does not exist or may require \
                    authorization: authorization failed: failed to fetch oauth token";
        assert!(error.to_string().starts_with(text), "{error}");
        assert!(!error.to_string().contains("wrong"));
        assert_eq!(listener.requests().len(), times);
    }
    private.store.pull(&reference, auth("secret"), Platform::LinuxAmd64, |_| {}).await.unwrap();
    private.store.pull(&reference, auth("secret"), Platform::LinuxAmd64, |_| {}).await.unwrap();
    let tokens = listener.requests();
    assert_eq!(tokens.len(), 3, "a token is used until it runs out");
    assert_eq!(tokens[2].path, "/token?service=here&scope=repository%3Alibrary%2Fapp%3Apull");
    // The image is here, but who may not read it there may not have it from here.
    assert!(private.store.pull(&reference, Auth::Anonymous, Platform::LinuxAmd64, |_| {}).await.is_err());

    let basic = world(
        &built,
        |_| {},
        |request| match request.headers.get("authorization") {
            Some(token) if token == "Basic dXNlcjpzZWNyZXQ=" => Action::Serve,
            _ => Action::Answer(401, "WWW-Authenticate: Basic realm=\"x\"\r\n".into(), vec![]),
        },
    );
    let error = pull(&basic.store, "app").await.unwrap_err().to_string();
    assert!(error.ends_with("authorization: authorization failed: no basic auth credentials"), "{error}");
    basic.store.pull(&reference, auth("secret"), Platform::LinuxAmd64, |_| {}).await.unwrap();
}

#[tokio::test]
async fn a_redirect_is_followed_without_the_credentials() {
    let built = two_layers();
    let elsewhere = FakeRegistry::good();
    elsewhere.add("latest", &built);
    let to = elsewhere.address.clone();
    let here = world(
        &built,
        |_| {},
        move |request| match request.headers.get("authorization") {
            None => Action::Answer(401, "WWW-Authenticate: Basic realm=\"x\"\r\n".into(), vec![]),
            Some(_) if request.path.contains("/blobs/") => {
                Action::Answer(307, format!("Location: http://{to}{}\r\n", request.path), vec![])
            }
            Some(_) => Action::Serve,
        },
    );
    let auth = Auth::Basic { user: "user".into(), password: "secret".into() };
    let reference = ImageRef::parse("app").unwrap();
    here.store.pull(&reference, auth, Platform::LinuxAmd64, |_| {}).await.unwrap();
    let seen = elsewhere.requests();
    assert_eq!(seen.len(), 3);
    assert!(seen.iter().all(|request| !request.headers.contains_key("authorization")));
}

#[tokio::test]
async fn credentials_do_not_travel_in_the_clear() {
    let dir = tempfile::tempdir().unwrap();
    let mut mirror = Mirror::parse("docker.io/*=http://192.0.2.1:5000/*").unwrap();
    mirror.insecure = true;
    let store = ImageStore::open(dir.path(), Config { mirrors: vec![mirror], ..Config::default() }).unwrap();
    let auth = Auth::Basic { user: "user".into(), password: "secret".into() };
    let reference = ImageRef::parse("app").unwrap();
    let error = store.pull(&reference, auth, Platform::LinuxAmd64, |_| {}).await.unwrap_err();
    assert!(error.to_string().contains("credentials are not sent there"), "{error}");
    assert!(!error.to_string().contains("secret"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_is_said_and_leaves_nothing() {
    // A mount namespace of its own, so that nothing stays whatever happens.
    let built = two_layers();
    let registry = FakeRegistry::good();
    registry.add("latest", &built);
    let dir = tempfile::tempdir().unwrap();
    let script = r#"mount -t tmpfs -o size=200k tmpfs "$1" && exec "$2" --exact inside_a_full_disk --ignored --nocapture"#;
    let output = std::process::Command::new("unshare")
        .args(["-m", "sh", "-c", script, "sh"])
        .arg(dir.path())
        .arg(std::env::current_exe().unwrap())
        .env("FULL_DISK", dir.path())
        .env("FULL_DISK_REGISTRY", &registry.address)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stdout.lines().map_while(Result::ok).any(|line| line.contains("1 passed")), "{text}");
    std::io::stdout().flush().unwrap();
}

#[tokio::test]
#[ignore = "run by a_full_disk_is_said_and_leaves_nothing"]
async fn inside_a_full_disk() {
    let dir = std::path::PathBuf::from(std::env::var("FULL_DISK").unwrap());
    let store = ImageStore::open(&dir, config(&std::env::var("FULL_DISK_REGISTRY").unwrap())).unwrap();
    let error = pull(&store, "app").await.unwrap_err();
    assert_eq!(error.kind(), CauseKind::DiskFull, "{error}");
    assert!(error.to_string().ends_with("no space left on device"), "{error}");
    wait_for_empty(&dir.join("tmp"));
}
