//! Pull through cache: images come from the upstream when they are first asked for, and stay.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use common::{OCI_MANIFEST, World, code, sha256};
use ferrogate_api::ecr::*;
use ferrogate_ecr::Upstream;
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use jiff::SignedDuration;
use reqwest::StatusCode;
use serde_json::{Value as Json, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

const LAYER: &[u8] = b"a layer from elsewhere";
const CONFIG: &[u8] = b"{}";

fn manifest() -> String {
    json!({
        "schemaVersion": 2, "mediaType": OCI_MANIFEST,
        "config": { "mediaType": "application/vnd.oci.image.config.v1+json", "digest": sha256(CONFIG), "size": CONFIG.len() },
        "layers": [{ "mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": sha256(LAYER), "size": LAYER.len() }],
    })
    .to_string()
}

/// A registry that wants a token, as public ones do, and has `mirror/org/tool:1`.
struct Elsewhere {
    address: std::net::SocketAddr,
    asked: Arc<AtomicUsize>,
    /// Answers 503 when set.
    down: Arc<AtomicUsize>,
    server: JoinHandle<()>,
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Elsewhere {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (asked, down) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (counted, is_down) = (Arc::clone(&asked), Arc::clone(&down));
        let server = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (counted, is_down) = (Arc::clone(&counted), Arc::clone(&is_down));
                tokio::spawn(async move {
                    let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
                        let down = is_down.load(Ordering::SeqCst) == 1;
                        let response = answer(&request, address, down, &counted);
                        async move { Ok::<_, std::convert::Infallible>(response) }
                    });
                    let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                    let _ = builder.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self { address, asked, down, server }
    }

    async fn world(&self) -> World {
        let target = format!("http://{}/mirror/*", self.address);
        let world = World::with_upstreams(vec![Upstream { prefix: "quay.io/*".into(), target }]).await;
        let input = CreatePullThroughCacheRuleRequest {
            ecr_repository_prefix: Some("quay".into()),
            upstream_registry_url: Some("quay.io".into()),
            ..Default::default()
        };
        let made = world.service.create_pull_through_cache_rule(&world.cx(), input).await.unwrap();
        assert_eq!(made.upstream_registry.as_deref(), Some("quay"));
        world
    }
}

fn answer(
    request: &http::Request<hyper::body::Incoming>,
    address: std::net::SocketAddr,
    down: bool,
    counted: &AtomicUsize,
) -> http::Response<Full<Bytes>> {
    let plain = |status: u16, body: &[u8]| {
        http::Response::builder().status(status).body(Full::new(Bytes::copy_from_slice(body))).unwrap()
    };
    let path = request.uri().path();
    if down {
        return plain(503, b"");
    }
    if path == "/token" {
        assert_eq!(request.uri().query(), Some("service=here&scope=repository%3Amirror%2Forg%2Ftool%3Apull"));
        return plain(200, br#"{"token":"t0ken"}"#);
    }
    let authorized = request.headers().get("authorization").is_some_and(|value| value == "Bearer t0ken");
    if !authorized {
        let challenge = format!("Bearer realm=\"http://{address}/token\",service=\"here\"");
        let mut response = plain(401, b"");
        response.headers_mut().insert("www-authenticate", challenge.parse().unwrap());
        return response;
    }
    counted.fetch_add(1, Ordering::SeqCst);
    let blob = |bytes: &[u8]| path == format!("/v2/mirror/org/tool/blobs/{}", sha256(bytes));
    if path == "/v2/mirror/org/tool/manifests/1" {
        let mut response = plain(200, manifest().as_bytes());
        response.headers_mut().insert("content-type", OCI_MANIFEST.parse().unwrap());
        response
    } else if blob(LAYER) {
        plain(200, LAYER)
    } else if blob(CONFIG) {
        plain(200, b"[]")
    } else {
        plain(404, b"")
    }
}

#[tokio::test]
async fn an_image_comes_once_and_stays() {
    let elsewhere = Elsewhere::start().await;
    let world = elsewhere.world().await;
    let pull = async || {
        let response = world.get("/v2/quay/org/tool/manifests/1").await;
        assert_eq!(response.status(), StatusCode::OK, "{}", response.text().await.unwrap());
        assert_eq!(response.text().await.unwrap(), manifest());
        let layer = format!("/v2/quay/org/tool/blobs/{}", sha256(LAYER));
        assert_eq!(world.ask("HEAD", &layer).await.status(), 200);
        assert_eq!(world.get(&layer).await.bytes().await.unwrap(), LAYER);
    };
    pull().await;
    pull().await;
    assert_eq!(elsewhere.asked.load(Ordering::SeqCst), 2, "a manifest and a layer, once each");
    let input = DescribeImagesRequest { repository_name: Some("quay/org/tool".into()), ..Default::default() };
    let images = world.service.describe_images(&world.cx(), input).await.unwrap().image_details.unwrap();
    assert_eq!(images[0].image_tags.as_deref(), Some(&["1".to_owned()][..]));
    // The upstream lies about its config: it is not kept, and not served.
    let config = world.get(&format!("/v2/quay/org/tool/blobs/{}", sha256(CONFIG))).await;
    assert_eq!(config.status(), StatusCode::BAD_GATEWAY);

    // A day later the upstream is asked again; while it is away, what is here is served.
    world.clock.advance(SignedDuration::from_hours(24));
    elsewhere.down.store(1, Ordering::SeqCst);
    pull().await;
    elsewhere.down.store(0, Ordering::SeqCst);
    pull().await;
    assert_eq!(elsewhere.asked.load(Ordering::SeqCst), 4, "the config once, the manifest again");
    world.activate("ecr-sweep").await;
    pull().await;
}

#[tokio::test]
async fn it_takes_rights_to_have_one_come() {
    let elsewhere = Elsewhere::start().await;
    let world = elsewhere.world().await;
    for action in ["ecr:BatchImportUpstreamImage", "ecr:CreateRepository"] {
        *world.inside.denied.lock().unwrap() = [action.to_owned()].into();
        let response = world.get("/v2/quay/org/tool/manifests/1").await;
        let text = response.text().await.unwrap();
        assert!(text.contains(&format!("is not authorized to perform: {action}")), "{text}");
    }
    assert_eq!(elsewhere.asked.load(Ordering::SeqCst), 0);
    world.inside.denied.lock().unwrap().clear();
    assert_eq!(world.get("/v2/quay/org/tool/manifests/1").await.status(), 200);
    // What is here takes none of them.
    world.inside.denied.lock().unwrap().insert("ecr:BatchImportUpstreamImage".into());
    assert_eq!(world.get("/v2/quay/org/tool/manifests/1").await.status(), 200);
}

#[tokio::test]
async fn what_cannot_be_had() {
    let elsewhere = Elsewhere::start().await;
    let world = elsewhere.world().await;
    let missing = world.get("/v2/quay/org/tool/manifests/2").await;
    assert_eq!(missing.status(), 404);
    let body: Json = missing.text().await.unwrap().parse().unwrap();
    assert_eq!(body["errors"][0]["code"], "NAME_UNKNOWN");
    elsewhere.down.store(1, Ordering::SeqCst);
    assert_eq!(code(world.get("/v2/quay/org/tool/manifests/1").await).await.0, StatusCode::BAD_GATEWAY);
    assert_eq!(world.get("/v2/other/org/tool/manifests/1").await.status(), 404);
    let validate = || ValidatePullThroughCacheRuleRequest {
        ecr_repository_prefix: Some("quay".into()),
        registry_id: None,
    };
    let answer = world.service.validate_pull_through_cache_rule(&world.cx(), validate()).await.unwrap();
    assert_eq!((answer.is_valid, answer.failure.is_some()), (Some(false), true));
    elsewhere.down.store(0, Ordering::SeqCst);
    let answer = world.service.validate_pull_through_cache_rule(&world.cx(), validate()).await.unwrap();
    assert_eq!((answer.is_valid, answer.failure), (Some(true), None));
}

#[tokio::test]
async fn rules() {
    let elsewhere = Elsewhere::start().await;
    let world = elsewhere.world().await;
    let (service, cx) = (&world.service, world.cx());
    let create = |prefix: &str, url: &str| CreatePullThroughCacheRuleRequest {
        ecr_repository_prefix: Some(prefix.into()),
        upstream_registry_url: Some(url.into()),
        ..Default::default()
    };
    for (prefix, url, expected) in [
        ("quay", "quay.io", "PullThroughCacheRuleAlreadyExistsException"),
        ("x1", "127.0.0.1:5000", "UnsupportedUpstreamRegistryException"),
        ("x2", "quay.io.example", "UnsupportedUpstreamRegistryException"),
    ] {
        let error = service.create_pull_through_cache_rule(&cx, create(prefix, url)).await.unwrap_err();
        assert_eq!(error.code, expected, "{url}");
    }
    service.create_pull_through_cache_rule(&cx, create("hub", "registry-1.docker.io")).await.unwrap();
    let all = service.describe_pull_through_cache_rules(&cx, Default::default()).await.unwrap();
    let prefixes: Vec<_> = all
        .pull_through_cache_rules
        .unwrap()
        .into_iter()
        .map(|rule| rule.ecr_repository_prefix.unwrap())
        .collect();
    assert_eq!(prefixes, ["hub", "quay"]);
    let delete =
        || DeletePullThroughCacheRuleRequest { ecr_repository_prefix: Some("hub".into()), registry_id: None };
    service.delete_pull_through_cache_rule(&cx, delete()).await.unwrap();
    let error = service.delete_pull_through_cache_rule(&cx, delete()).await.unwrap_err();
    assert_eq!(error.code, "PullThroughCacheRuleNotFoundException");
}
