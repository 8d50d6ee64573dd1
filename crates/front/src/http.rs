//! HTTP in, HTTP out. Which codec, whose signature, which call: then [`Front::call`].

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};

use bytes::{Bytes, BytesMut};
use ferrogate_api::schema::{Model, Protocol};
use ferrogate_api::{ApiError, Principal, PrincipalKind};
use ferrogate_sigv4::{self as sigv4, Family, Payload, Presented, SigError};
use ferrogate_wire as wire;
use http::request::Parts;
use http::{HeaderValue, Response, Uri, Version, header};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Incoming};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::dispatch::{Front, request_id};
use crate::door::Sending;
use crate::identity::CredentialError;
use crate::listener::UnderWay;

/// An unsigned call names no region; this one answers.
const UNSIGNED_REGION: &str = "us-east-1";

/// What the front has made of a request's head: the signature as presented, and the path the signature covers.
struct Asked {
    parts: Parts,
    presented: Result<Presented, SigError>,
}

impl Asked {
    fn new(mut parts: Parts) -> Self {
        let request = sigv4::Request {
            method: parts.method.as_str(),
            path_raw: parts.uri.path(),
            query_raw: parts.uri.query().unwrap_or_default(),
            headers: &parts.headers,
        };
        let presented = sigv4::parse(&request).and_then(|presented| {
            route_on(&mut parts, &presented.path)?;
            Ok(presented)
        });
        Self { parts, presented }
    }

    fn route(&self, body: &[u8]) -> Result<wire::Route, wire::WireError> {
        let signing_name = self.presented.as_ref().ok().map(|presented| presented.scope.service.as_str());
        wire::detect(&self.parts, body, signing_name)
    }

    /// How to say that the body was not read: as well as it can be told from the head.
    fn unread(&self, refused: Unread) -> Refusal {
        let (model, protocol) = match self.route(b"") {
            Ok(route) => (Some(route.model), route.protocol),
            Err(error) => (error.model, error.protocol),
        };
        Refusal { model, protocol, error: refused.error(protocol) }
    }
}

/// A refusal before or after a codec is known.
struct Refusal {
    model: Option<&'static Model>,
    protocol: Protocol,
    error: ApiError,
}

/// Why a body was not taken.
#[derive(Clone, Copy)]
enum Unread {
    TooLarge {
        max: usize,
    },
    TooSlow,
    /// All memory for bodies is in use.
    Busy,
    /// The client went away in the middle.
    Broken,
}

impl Unread {
    fn error(self, protocol: Protocol) -> ApiError {
        let (code, status, message) = match self {
            Self::TooLarge { max } => {
                ("RequestEntityTooLarge", 413, format!("The body is larger than {max} bytes."))
            }
            Self::TooSlow => ("RequestTimeout", 408, "The body did not come in time.".to_owned()),
            Self::Busy => (
                "ServiceUnavailable",
                503,
                "Too many requests are being read; try again in a moment.".to_owned(),
            ),
            Self::Broken => ("IncompleteBody", 400, "The body did not come as its head said.".to_owned()),
        };
        let exception = matches!(
            protocol,
            Protocol::Json10 | Protocol::Json11 | Protocol::RestJson | Protocol::RpcV2Cbor
        );
        let code = if exception { format!("{code}Exception") } else { code.to_owned() };
        ApiError::new(code, message).with_status(status)
    }
}

/// A body, and its share of the memory for bodies.
struct Taken {
    bytes: Bytes,
    _share: Option<OwnedSemaphorePermit>,
}

/// Where the codec of a request is kept for the answer to a panic.
type Codec = OnceLock<(&'static Model, Protocol)>;

impl Front {
    pub(crate) async fn answer(
        self: Arc<Self>,
        request: http::Request<Incoming>,
        peer: SocketAddr,
        under_way: UnderWay,
    ) -> Response<Sending> {
        let (mut parts, body) = request.into_parts();
        name_host(&mut parts);
        let door = self.doors.iter().find(|door| !is_signed(&parts) && door.takes(&parts));
        if let Some(door) = door {
            let response = Arc::clone(door).serve(http::Request::from_parts(parts, body), peer).await;
            return response.map(|body| Sending { body, under_way: Some(under_way) });
        }
        let response = self.answer_call(parts, body, peer).await;
        drop(under_way);
        response.map(|body| {
            let body = body.map_err(|never| match never {}).boxed_unsync();
            Sending { body, under_way: None }
        })
    }

    async fn answer_call(
        self: &Arc<Self>,
        parts: Parts,
        body: Incoming,
        peer: SocketAddr,
    ) -> Response<Full<Bytes>> {
        let (version, id) = (parts.version, request_id());
        let asked = Asked::new(parts);
        let limit = self.limits.receive_timeout;
        let body = tokio::time::timeout(limit, self.take(body)).await.unwrap_or(Err(Unread::TooSlow));
        let (response, whole) = match body {
            Ok(body) => (Arc::clone(self).answer_taken(asked, body, peer.ip(), &id).await, true),
            Err(unread) => {
                let refusal = asked.unread(unread);
                (wire::encode_error(refusal.model, refusal.protocol, &refusal.error, &id), false)
            }
        };
        let mut response = response.map(|body| Full::new(Bytes::from(body)));
        if !whole && version < Version::HTTP_2 {
            // What is left of the body must not be read as the next request.
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }

    /// Reads a body, no further than the limits allow.
    async fn take(&self, mut body: Incoming) -> Result<Taken, Unread> {
        let max = self.limits.body_bytes_max;
        let too_large = Unread::TooLarge { max };
        if body.size_hint().lower() > max as u64 {
            return Err(too_large);
        }
        let mut bytes = BytesMut::new();
        let mut share: Option<OwnedSemaphorePermit> = None;
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|_| Unread::Broken)?;
            let Ok(data) = frame.into_data() else { continue };
            if bytes.len() + data.len() > max {
                return Err(too_large);
            }
            let more = reserve(&self.bodies, data.len())?;
            match &mut share {
                Some(share) => share.merge(more),
                None => share = Some(more),
            }
            bytes.extend_from_slice(&data);
        }
        Ok(Taken { bytes: bytes.freeze(), _share: share })
    }

    /// In a task of its own: a client that hangs up stops no call half-way, and a panic ends nothing but the call.
    async fn answer_taken(
        self: Arc<Self>,
        asked: Asked,
        body: Taken,
        peer: IpAddr,
        id: &str,
    ) -> Response<Vec<u8>> {
        let codec = Arc::new(Codec::new());
        let task = tokio::spawn({
            let (id, codec) = (id.to_owned(), Arc::clone(&codec));
            async move { self.answer_body(asked, body, peer, &id, &codec).await }
        });
        let refusal = match task.await {
            Ok(Ok(response)) => return response,
            Ok(Err(refusal)) => refusal,
            Err(error) => {
                tracing::error!(%error, request_id = id, "a request ended in a panic");
                let (model, protocol) = match codec.get() {
                    Some((model, protocol)) => (Some(*model), *protocol),
                    None => (None, Protocol::RestJson),
                };
                Refusal { model, protocol, error: ApiError::internal() }
            }
        };
        wire::encode_error(refusal.model, refusal.protocol, &refusal.error, id)
    }

    async fn answer_body(
        &self,
        asked: Asked,
        body: Taken,
        peer: IpAddr,
        id: &str,
        codec: &Codec,
    ) -> Result<Response<Vec<u8>>, Refusal> {
        let wire::Route { model, protocol, operation } = asked
            .route(&body.bytes)
            .map_err(|error| Refusal { model: error.model, protocol: error.protocol, error: error.error })?;
        codec.get_or_init(|| (model, protocol));
        let refuse = |error| Refusal { model: Some(model), protocol, error };
        let unverified = |error: SigError| refuse(refused_signature(&error, model, protocol));

        let (mut cx, bytes) = match &asked.presented {
            Err(SigError::MissingAuthenticationToken) if operation.unsigned => {
                (self.context(Arc::new(anonymous()), UNSIGNED_REGION), body.bytes.clone())
            }
            Err(error) => return Err(unverified(error.clone())),
            Ok(presented) => {
                let (principal, bytes) =
                    self.verify(presented, model, body.bytes.clone()).map_err(unverified)?;
                let mut cx = self.context(principal, &presented.scope.region);
                cx.access_key_id = Some(presented.access_key_id.clone());
                (cx, bytes)
            }
        };
        cx.request_id = id.to_owned();
        cx.source_ip = Some(peer);
        cx.host = header_text(&asked.parts, header::HOST);
        cx.user_agent = header_text(&asked.parts, header::USER_AGENT);

        let input = wire::decode(model, protocol, operation, &asked.parts, &bytes).map_err(refuse)?;
        let output = self.call(&cx, model, operation, input).await.map_err(refuse)?;
        Ok(wire::encode(model, protocol, operation, &output, id))
    }

    /// The principal behind a signature that holds, and the body it covers.
    fn verify(
        &self,
        presented: &Presented,
        model: &Model,
        body: Bytes,
    ) -> Result<(Arc<Principal>, Bytes), SigError> {
        presented.require_scope(model.signing_name, None)?;
        let now = self.clock.now();
        let credential = self
            .identity
            .credential(&presented.access_key_id, presented.session_token.as_deref(), now)
            .map_err(|error| match error {
                CredentialError::Unknown => SigError::UnknownAccessKey,
                CredentialError::InvalidToken => SigError::InvalidSessionToken,
                CredentialError::Expired => SigError::ExpiredToken,
            })?;
        let hash = (!matches!(presented.payload, Payload::Unsigned | Payload::Streaming(_)))
            .then(|| sigv4::sha256_hex(&body));
        let verified =
            presented.verify_cached(credential.secret.expose(), hash.as_deref(), now, &self.signing_keys)?;
        if !self.is_there(&credential.principal) {
            return Err(SigError::UnknownAccessKey);
        }
        let body = match verified.chunk_decoder() {
            None => body,
            Some(mut decoder) => {
                let mut decoded = Vec::with_capacity(body.len());
                decoder.push(&body, &mut decoded)?;
                decoder.finish()?;
                decoded.into()
            }
        };
        Ok((credential.principal, body))
    }

    /// A session ends with its role: one of a role that is gone, or was made anew under the old name, is nobody's.
    fn is_there(&self, principal: &Principal) -> bool {
        let PrincipalKind::AssumedRole { role_arn, .. } = &principal.kind else { return true };
        let id = principal.user_id.split(':').next().unwrap_or_default();
        self.identity.role(role_arn).is_some_and(|role| role.role_id == id)
    }
}

fn reserve(bodies: &Arc<Semaphore>, bytes: usize) -> Result<OwnedSemaphorePermit, Unread> {
    let bytes = u32::try_from(bytes).map_err(|_| Unread::Busy)?;
    Arc::clone(bodies).try_acquire_many_owned(bytes).map_err(|_| Unread::Busy)
}

/// HTTP/2 has `:authority` where a signature covers `host`.
fn name_host(parts: &mut Parts) {
    if parts.headers.contains_key(header::HOST) {
        return;
    }
    if let Some(authority) = parts.uri.authority()
        && let Ok(host) = authority.as_str().parse()
    {
        parts.headers.insert(header::HOST, host);
    }
}

/// A signed call is never a door's.
fn is_signed(parts: &Parts) -> bool {
    let authorization = parts.headers.get(header::AUTHORIZATION);
    authorization.is_some_and(|value| value.as_bytes().starts_with(b"AWS4-"))
        || parts.uri.query().is_some_and(|query| query.contains("X-Amz-Algorithm="))
}

/// A signature over `/b` must not let a request for `/a/../b` be read as anything else.
fn route_on(parts: &mut Parts, path: &str) -> Result<(), SigError> {
    if parts.uri.path() == path {
        return Ok(());
    }
    let uri: Result<Uri, _> = match parts.uri.query() {
        Some(query) => format!("{path}?{query}").parse(),
        None => path.parse(),
    };
    parts.uri = uri.map_err(|_| SigError::Mismatch)?;
    Ok(())
}

fn header_text(parts: &Parts, name: header::HeaderName) -> Option<String> {
    parts.headers.get(name)?.to_str().ok().map(str::to_owned)
}

fn anonymous() -> Principal {
    Principal {
        arn: "anonymous".into(),
        account: String::new(),
        user_id: "anonymous".into(),
        kind: PrincipalKind::User { name: "anonymous".into() },
        tags: Vec::new(),
    }
}

fn refused_signature(error: &SigError, model: &Model, protocol: Protocol) -> ApiError {
    let family = match protocol {
        Protocol::Json10 | Protocol::Json11 | Protocol::RpcV2Cbor => Family::Json,
        Protocol::RestJson => Family::RestJson,
        Protocol::Query => Family::Query,
        Protocol::Ec2 => Family::Ec2,
        Protocol::RestXml if model.service == "s3" => Family::S3,
        Protocol::RestXml => Family::Query,
    };
    ApiError::new(error.code_for(family), error.message_for(family)).with_status(error.status_for(family))
}
