//! HTTP in, HTTP out. Which codec, whose signature, which call: then [`Front::call`].

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ferrogate_api::schema::{Model, Operation, Protocol};
use ferrogate_api::{ApiError, Context, Principal, PrincipalKind, Value};
use ferrogate_sigv4::{self as sigv4, Family, Payload, SigError};
use ferrogate_wire as wire;
use http::request::Parts;
use http::{Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};

use crate::dispatch::{Front, request_id};
use crate::identity::CredentialError;

/// What one client may take of us.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub body_bytes_max: usize,
    pub connections_max: usize,
    /// For the request head, and again for the body.
    pub receive_timeout: Duration,
    /// Signatures for another region than these are still good: any region may be named.
    pub call_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body_bytes_max: 32 << 20,
            connections_max: 4096,
            receive_timeout: Duration::from_secs(30),
            call_timeout: Duration::from_secs(60),
        }
    }
}

/// A refusal before or after a codec is known.
struct Refusal {
    model: Option<&'static Model>,
    protocol: Protocol,
    error: ApiError,
}

impl Front {
    /// Serves until `stop` says so; calls under way are finished.
    pub async fn serve(self: Arc<Self>, listener: TcpListener, mut stop: watch::Receiver<bool>) {
        let slots = Arc::new(Semaphore::new(self.limits.connections_max));
        let graceful = hyper_util::server::graceful::GracefulShutdown::new();
        loop {
            let slot = tokio::select! {
                slot = Arc::clone(&slots).acquire_owned() => slot.expect("the semaphore is never closed"),
                () = stopped(&mut stop) => break,
            };
            let (stream, peer) = tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok(accepted) => accepted,
                    Err(error) => {
                        // Out of descriptors, most likely: others have to close first.
                        tracing::warn!(%error, "no connection could be taken");
                        tokio::time::sleep(Duration::from_millis(50)).await;
                        continue;
                    }
                },
                () = stopped(&mut stop) => break,
            };
            let _ = stream.set_nodelay(true);
            let front = Arc::clone(&self);
            let service = hyper::service::service_fn(move |request| {
                let front = Arc::clone(&front);
                async move { Ok::<_, std::convert::Infallible>(front.answer(request, peer).await) }
            });
            let mut builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
            builder.http1().timer(TokioTimer::new()).header_read_timeout(self.limits.receive_timeout);
            let connection = builder.serve_connection(TokioIo::new(stream), service).into_owned();
            let connection = graceful.watch(connection);
            tokio::spawn(async move {
                if let Err(error) = connection.await {
                    tracing::debug!(%error, %peer, "a connection ended early");
                }
                drop(slot);
            });
        }
        drop(listener);
        tokio::select! {
            () = graceful.shutdown() => {}
            () = tokio::time::sleep(Duration::from_secs(5)) => {}
        }
    }

    async fn answer(&self, request: http::Request<Incoming>, peer: SocketAddr) -> Response<Full<Bytes>> {
        let (mut parts, body) = request.into_parts();
        name_host(&mut parts);
        let body = Limited::new(body, self.limits.body_bytes_max).collect();
        let body = match tokio::time::timeout(self.limits.receive_timeout, body).await {
            Ok(Ok(body)) => body.to_bytes(),
            Ok(Err(_)) => return plain(StatusCode::PAYLOAD_TOO_LARGE),
            Err(_) => return plain(StatusCode::REQUEST_TIMEOUT),
        };
        let id = request_id();
        let response = match self.answer_body(&parts, body, peer.ip(), &id).await {
            Ok(response) => response,
            Err(refusal) => wire::encode_error(refusal.model, refusal.protocol, &refusal.error, &id),
        };
        response.map(|body| Full::new(Bytes::from(body)))
    }

    async fn answer_body(
        &self,
        parts: &Parts,
        body: Bytes,
        peer: IpAddr,
        id: &str,
    ) -> Result<Response<Vec<u8>>, Refusal> {
        let request = sigv4::Request {
            method: parts.method.as_str(),
            path_raw: parts.uri.path(),
            query_raw: parts.uri.query().unwrap_or_default(),
            headers: &parts.headers,
        };
        let presented = sigv4::parse(&request);
        let signing_name = presented.as_ref().ok().map(|presented| presented.scope.service.as_str());
        let route = wire::detect(parts, &body, signing_name).map_err(|error| Refusal {
            model: error.model,
            protocol: error.protocol,
            error: error.error,
        })?;
        let wire::Route { model, protocol, operation } = route;
        let refuse = |error| Refusal { model: Some(model), protocol, error };

        let caller = match presented {
            Err(SigError::MissingAuthenticationToken) if operation.unsigned => None,
            Err(error) => return Err(refuse(unsigned(&error, model, protocol))),
            Ok(presented) => Some(presented),
        };
        let (mut cx, body) = match caller {
            None => (self.context(Arc::new(anonymous()), parts_region(parts)), body),
            Some(presented) => {
                let (principal, body) = self
                    .verify(&presented, model, body)
                    .map_err(|error| refuse(unsigned(&error, model, protocol)))?;
                let mut cx = self.context(principal, &presented.scope.region);
                cx.access_key_id = Some(presented.access_key_id);
                (cx, body)
            }
        };
        cx.request_id = id.to_owned();
        cx.source_ip = Some(peer);
        cx.user_agent = header_text(parts, header::USER_AGENT);

        let input = wire::decode(model, protocol, operation, parts, &body).map_err(refuse)?;
        let output = self.call_in_time(&cx, model, operation, input).await.map_err(refuse)?;
        Ok(wire::encode(model, protocol, operation, &output, id))
    }

    async fn call_in_time(
        &self,
        cx: &Context,
        model: &'static Model,
        operation: &'static Operation,
        input: Value,
    ) -> Result<Value, ApiError> {
        match tokio::time::timeout(self.limits.call_timeout, self.call(cx, model, operation, input)).await {
            Ok(result) => result,
            Err(_) => {
                tracing::error!(operation = operation.name, "a call took too long and was given up");
                Err(ApiError::internal())
            }
        }
    }

    /// The principal behind a signature that holds, and the body it covers.
    fn verify(
        &self,
        presented: &sigv4::Presented,
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
}

/// The guard that `wait_for` gives must not live across an await.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
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

fn plain(status: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONNECTION, http::HeaderValue::from_static("close"));
    response
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

/// An unsigned call names no region; the default one answers.
fn parts_region(_parts: &Parts) -> &'static str {
    "us-east-1"
}

fn unsigned(error: &SigError, model: &Model, protocol: Protocol) -> ApiError {
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
