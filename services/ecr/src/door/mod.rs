//! The registry's door: the OCI distribution specification 1.1, over ECR's API.
//!
//! | what a client does | what the token's principal must be allowed |
//! |---|---|
//! | pull a manifest, by GET or HEAD | `ecr:BatchGetImage` |
//! | pull a blob | `ecr:GetDownloadUrlForLayer` |
//! | HEAD a blob, ask how far an upload is | `ecr:BatchCheckLayerAvailability` |
//! | push a blob | `ecr:InitiateLayerUpload`, `ecr:UploadLayerPart`, `ecr:CompleteLayerUpload` |
//! | mount a blob | the first and the last of these, and `ecr:GetDownloadUrlForLayer` where it comes from |
//! | push a manifest | `ecr:PutImage` |
//! | delete a manifest or a tag | `ecr:BatchDeleteImage` |
//! | list tags | `ecr:ListImages` |
//! | list referrers | `ecr:DescribeImages` |
//!
//! Each is that call, made through `Invoke`. As at AWS, a blob is not deleted by hand (405): it goes when no image
//! names it.

mod answer;
mod blobs;
mod manifests;
mod route;
mod uploads;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use ferrogate_api::{BoxFuture, Caller, Invoke, Principal, ecr};
use ferrogate_front::{Door, DoorBody};
use ferrogate_model::Clock;
use http::request::Parts;
use http::{HeaderMap, Method, Request, Response, header};
use hyper::body::Incoming;
use tokio::sync::Semaphore;

use crate::EcrService;
use crate::name::RegistryName;
use crate::state::Place;
use crate::token::{self, TokenError};
use answer::{Answer, Refusal};
use route::{Route, Target};

/// Of layer download URLs; no repository is called `-`.
pub(crate) const LAYERS_PATH: &str = "/v2/-/layers/";
/// Bodies being received, each with one part in memory.
const RECEIVING_MAX: usize = 16;

pub(crate) struct RegistryDoor {
    service: Arc<EcrService>,
    invoke: Arc<dyn Invoke>,
    clock: Arc<dyn Clock>,
    receiving: Semaphore,
}

/// One authenticated request.
struct Visit<'a> {
    door: &'a RegistryDoor,
    client: ecr::Client,
    principal: Arc<Principal>,
    place: Place,
    /// What stands before the repository's name in the paths of this request.
    prefix: String,
    name: String,
}

impl RegistryDoor {
    pub(crate) fn new(service: Arc<EcrService>, invoke: Arc<dyn Invoke>, clock: Arc<dyn Clock>) -> Self {
        Self { service, invoke, clock, receiving: Semaphore::new(RECEIVING_MAX) }
    }

    /// The registry a request is for: named by its host, by its path, or by neither.
    fn registry(&self, host: &str, in_path: Option<&str>) -> RegistryName {
        in_path.and_then(RegistryName::parse).or_else(|| RegistryName::parse(host)).unwrap_or_else(|| {
            RegistryName {
                account: self.service.options.account.clone(),
                region: self.service.options.default_region.clone(),
            }
        })
    }

    /// Who the `Authorization` header is.
    fn authenticate(&self, headers: &HeaderMap, realm: &str) -> Result<Arc<Principal>, Refusal> {
        let challenge = || Refusal::unauthorized(realm);
        let text =
            headers.get(header::AUTHORIZATION).ok_or_else(challenge)?.to_str().map_err(|_| challenge())?;
        let (scheme, encoded) = text.split_once(' ').ok_or_else(challenge)?;
        if !scheme.eq_ignore_ascii_case("basic") || encoded.len() > 2 * token::TOKEN_BYTES_MAX {
            return Err(challenge());
        }
        let decoded = BASE64.decode(encoded.trim()).map_err(|_| challenge())?;
        let decoded = String::from_utf8(decoded).map_err(|_| challenge())?;
        let password = decoded.strip_prefix("AWS:").ok_or_else(challenge)?;
        match token::holder(&self.service.sealer, password, self.clock.now()) {
            Ok(principal) => Ok(Arc::new(principal)),
            Err(TokenError::Expired) => {
                Err(Refusal::denied("Your authorization token has expired. Reauthenticate and try again."))
            }
            Err(TokenError::Invalid) => Err(challenge()),
        }
    }

    async fn answer(&self, request: Request<Incoming>, source_ip: IpAddr) -> Result<Answer, Refusal> {
        let (head, body) = request.into_parts();
        let path = head.uri.path();
        if let Some(ticket) = path.strip_prefix(LAYERS_PATH) {
            return blobs::download(self, &head, ticket).await;
        }
        let host = host_of(&head).unwrap_or_default();
        let realm = format!("http://{host}/");
        let principal = self.authenticate(&head.headers, &realm)?;
        let Route { registry: in_path, target } = route::parse(path).ok_or_else(Refusal::no_such_path)?;
        let registry = self.registry(host, in_path);
        if registry.account != self.service.options.account {
            return Err(Refusal::name_unknown(format!(
                "The registry with id '{}' is not served here; this one is '{}'",
                registry.account, self.service.options.account
            )));
        }
        let Target::In { name, what } = target else { return Ok(answer::base()) };
        let caller = Caller::Visitor { principal: Arc::clone(&principal), source_ip };
        let visit = Visit {
            door: self,
            client: ecr::Client::new(Arc::clone(&self.invoke), caller, registry.region.as_str()),
            principal,
            place: Place::new(&registry.account, &registry.region),
            prefix: in_path.map_or_else(|| "/v2/".to_owned(), |registry| format!("/v2/{registry}/")),
            name: name.to_owned(),
        };
        visit.go(what, &head, body).await
    }
}

impl Visit<'_> {
    async fn go(&self, what: route::What<'_>, head: &Parts, body: Incoming) -> Result<Answer, Refusal> {
        use route::What;
        match (&head.method, what) {
            (&Method::GET | &Method::HEAD, What::Manifest(reference)) => {
                self.manifest(reference, head.method == Method::HEAD).await
            }
            (&Method::PUT, What::Manifest(reference)) => self.put_manifest(reference, head, body).await,
            (&Method::DELETE, What::Manifest(reference)) => self.delete_manifest(reference).await,
            (&Method::GET, What::Blob(digest)) => self.blob(digest, head).await,
            (&Method::HEAD, What::Blob(digest)) => self.head_blob(digest).await,
            (&Method::POST, What::Uploads) => self.begin_upload(head, body).await,
            (&Method::GET, What::Upload(id)) => self.upload_status(id).await,
            (&Method::PATCH, What::Upload(id)) => self.upload_chunk(id, head, body).await,
            (&Method::PUT, What::Upload(id)) => self.finish_upload(id, head, body).await,
            (&Method::DELETE, What::Upload(id)) => self.cancel_upload(id).await,
            (&Method::GET, What::Tags) => self.tags(head).await,
            (&Method::GET, What::Referrers(digest)) => self.referrers(digest, head).await,
            _ => Err(Refusal::unsupported()),
        }
    }

    /// A path of this registry, in the form the client uses.
    fn path(&self, rest: &str) -> String {
        format!("{}{}/{rest}", self.prefix, self.name)
    }

    /// Without a principal: what the service itself does on the way.
    fn service(&self) -> &EcrService {
        &self.door.service
    }
}

/// `Host`, or HTTP/2's authority.
fn host_of(head: &Parts) -> Option<&str> {
    let named = head.headers.get(header::HOST).and_then(|host| host.to_str().ok());
    named.or_else(|| head.uri.authority().map(http::uri::Authority::as_str))
}

/// A parameter of the query.
fn parameter(head: &Parts, name: &str) -> Option<String> {
    let query = head.uri.query().unwrap_or_default();
    let mut pairs = form_urlencoded::parse(query.as_bytes());
    pairs.find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
}

impl Door for RegistryDoor {
    fn takes(&self, head: &Parts) -> bool {
        let path = head.uri.path();
        path == "/v2" || path.starts_with("/v2/")
    }

    fn serve(
        self: Arc<Self>,
        request: Request<Incoming>,
        peer: SocketAddr,
    ) -> BoxFuture<'static, Response<DoorBody>> {
        Box::pin(async move {
            let is_head = request.method() == Method::HEAD;
            let answered = Box::pin(self.answer(request, peer.ip())).await;
            answer::response(answered, is_head)
        })
    }
}
