//! What the tests share: the registry behind a real HTTP listener.
#![allow(dead_code, unreachable_pub)]

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use ferrogate_api::ecr::*;
use ferrogate_api::{
    ApiError, BoxFuture, Call, Caller, Context, Handler, Invoke, Principal, PrincipalKind, Value,
};
use ferrogate_ecr::{EcrOptions, EcrService, Upstream};
use ferrogate_model::{Clock, ManualClock};
use ferrogate_store::{MemoryStore, Sealer, Store};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use jiff::Timestamp;
use reqwest::{Method, Response, StatusCode};
use serde_json::{Value as Json, json};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

pub const ACCOUNT: &str = "123456789012";
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

pub fn sha256(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(digest(&SHA256, bytes).as_ref()))
}

/// The front, as far as the door needs it: what is denied is denied, and what was called is known.
pub struct Inside {
    service: OnceLock<Arc<EcrService>>,
    clock: Arc<ManualClock>,
    pub denied: Mutex<BTreeSet<String>>,
    pub called: Mutex<Vec<String>>,
}

impl Invoke for Inside {
    fn invoke(&self, call: Call) -> BoxFuture<'_, Result<Value, ApiError>> {
        Box::pin(async move {
            let Caller::Visitor { principal, source_ip } = call.caller else {
                panic!("the door calls for its visitor")
            };
            assert!(source_ip.is_loopback(), "{source_ip} is not where the visitor is");
            let cx = Context { region: call.region, principal, ..context(self.clock.now()) };
            let server = Server(Arc::clone(self.service.get().unwrap()));
            self.called.lock().unwrap().push(call.operation.to_owned());
            for demand in server.demands(&cx, call.operation, &call.input) {
                if self.denied.lock().unwrap().contains(&demand.action) {
                    let message =
                        format!("User: {} is not authorized to perform: {}", cx.principal.arn, demand.action);
                    return Err(ApiError::new("AccessDeniedException", message));
                }
            }
            server.handle(&cx, call.operation, call.input).await
        })
    }
}

pub fn context(now: Timestamp) -> Context {
    let principal = Principal {
        arn: format!("arn:aws:iam::{ACCOUNT}:user/alice"),
        account: ACCOUNT.into(),
        user_id: "AIDAALICE".into(),
        kind: PrincipalKind::User { name: "alice".into() },
        tags: Vec::new(),
    };
    Context {
        account: ACCOUNT.into(),
        region: "us-east-1".into(),
        request_id: "r".into(),
        principal: Arc::new(principal),
        source_ip: None,
        host: None,
        user_agent: None,
        access_key_id: None,
        now,
    }
}

pub struct World {
    pub service: Arc<EcrService>,
    pub store: Arc<dyn Store>,
    pub clock: Arc<ManualClock>,
    pub inside: Arc<Inside>,
    pub address: SocketAddr,
    pub http: reqwest::Client,
    pub dir: TempDir,
    server: JoinHandle<()>,
}

impl Drop for World {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl World {
    /// With a repository `app`.
    pub async fn new() -> Self {
        let world = Self::with_upstreams(Vec::new()).await;
        world.create("app").await;
        world
    }

    pub async fn with_upstreams(upstreams: Vec<Upstream>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
        let clock = Arc::new(ManualClock::new("2026-11-21T08:00:00Z".parse().unwrap()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut options = EcrOptions::new(ACCOUNT, &format!("http://{address}"), "us-east-1");
        options.upstreams = upstreams;
        options.layer_grace = Duration::from_secs(3600);
        let sealer = Arc::new(Sealer::ephemeral());
        let service = EcrService::open(options, Arc::clone(&store), sealer, dir.path().join("ecr")).unwrap();
        let service = Arc::new(service);
        let inside = Arc::new(Inside {
            service: OnceLock::new(),
            clock: Arc::clone(&clock),
            denied: Mutex::default(),
            called: Mutex::default(),
        });
        assert!(inside.service.set(Arc::clone(&service)).is_ok());
        let as_clock: Arc<dyn Clock> = Arc::<ManualClock>::clone(&clock);
        let door = service.door(Arc::<Inside>::clone(&inside), as_clock);
        let server = tokio::spawn(async move {
            loop {
                let (stream, peer) = listener.accept().await.unwrap();
                let door = Arc::clone(&door);
                tokio::spawn(async move {
                    let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
                        let door = Arc::clone(&door);
                        async move {
                            let (head, body) = request.into_parts();
                            assert!(door.takes(&head), "{}", head.uri);
                            let request = http::Request::from_parts(head, body);
                            Ok::<_, std::convert::Infallible>(door.serve(request, peer).await)
                        }
                    });
                    let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                    let _ = builder.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        Self { service, store, clock, inside, address, http, dir, server }
    }

    pub fn cx(&self) -> Context {
        context(self.clock.now())
    }

    pub async fn create(&self, name: &str) -> Repository {
        let input = CreateRepositoryRequest { repository_name: Some(name.into()), ..Default::default() };
        self.service.create_repository(&self.cx(), input).await.unwrap().repository.unwrap()
    }

    pub async fn token(&self) -> String {
        let answer = self.service.get_authorization_token(&self.cx(), Default::default()).await.unwrap();
        let encoded = answer.authorization_data.unwrap().remove(0).authorization_token.unwrap();
        let decoded = String::from_utf8(BASE64.decode(encoded).unwrap()).unwrap();
        decoded.strip_prefix("AWS:").unwrap().to_owned()
    }

    pub fn url(&self, path: &str) -> String {
        if path.starts_with("http:") { path.to_owned() } else { format!("http://{}{path}", self.address) }
    }

    pub async fn request(&self, method: &str, path: &str) -> reqwest::RequestBuilder {
        let method: Method = method.parse().unwrap();
        self.http.request(method, self.url(path)).basic_auth("AWS", Some(self.token().await))
    }

    pub async fn ask(&self, method: &str, path: &str) -> Response {
        self.request(method, path).await.send().await.unwrap()
    }

    pub async fn get(&self, path: &str) -> Response {
        self.ask("GET", path).await
    }

    /// A blob by one POST.
    pub async fn blob(&self, repository: &str, bytes: &[u8]) -> String {
        let digest = sha256(bytes);
        let path = format!("/v2/{repository}/blobs/uploads/?digest={digest}");
        let response = self.request("POST", &path).await.body(bytes.to_vec()).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::CREATED, "{}", response.text().await.unwrap());
        digest
    }

    /// An image of one layer, which is `content`; gives its digest.
    pub async fn image(&self, repository: &str, tag: &str, content: &str) -> String {
        let manifest = self.manifest_of(repository, content).await;
        let response = self.put_manifest(repository, tag, OCI_MANIFEST, &manifest).await;
        assert_eq!(response.status(), StatusCode::CREATED, "{}", response.text().await.unwrap());
        sha256(manifest.to_string().as_bytes())
    }

    /// … without the last step.
    pub async fn manifest_of(&self, repository: &str, content: &str) -> Json {
        let config = json!({ "architecture": "amd64", "os": "linux", "comment": content }).to_string();
        let layer = self.blob(repository, content.as_bytes()).await;
        let config_digest = self.blob(repository, config.as_bytes()).await;
        json!({
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": { "mediaType": "application/vnd.oci.image.config.v1+json", "digest": config_digest, "size": config.len() },
            "layers": [{ "mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": layer, "size": content.len() }],
        })
    }

    pub async fn put_manifest(
        &self,
        repository: &str,
        reference: &str,
        media_type: &str,
        manifest: &Json,
    ) -> Response {
        let request = self.request("PUT", &format!("/v2/{repository}/manifests/{reference}")).await;
        request.header("content-type", media_type).body(manifest.to_string()).send().await.unwrap()
    }

    /// One activation of a controller.
    pub async fn activate(&self, name: &str) {
        let clock: Arc<dyn Clock> = Arc::<ManualClock>::clone(&self.clock);
        let controller = self.service.controllers(&clock).into_iter().find(|one| one.name() == name).unwrap();
        let activation = controller.activate().await;
        assert_eq!(activation.outcome, Ok(()), "{:?}", activation.detail);
    }

    /// Files of blobs on disk.
    pub fn files(&self) -> usize {
        fn count(dir: &std::path::Path) -> usize {
            let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
            entries.map(|path| if path.is_dir() { count(&path) } else { 1 }).sum()
        }
        count(&self.dir.path().join("ecr"))
    }
}

/// The specification's error code.
pub async fn code(response: Response) -> (StatusCode, String) {
    let status = response.status();
    let body: Json = serde_json::from_str(&response.text().await.unwrap()).unwrap();
    (status, body["errors"][0]["code"].as_str().unwrap().to_owned())
}

pub fn header<'a>(response: &'a Response, name: &str) -> &'a str {
    response.headers().get(name).map_or("", |value| value.to_str().unwrap())
}
