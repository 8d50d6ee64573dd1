//! One check.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ferrogate_nodeapi::{ProtocolVersion, TargetHealthCheck, TargetProtocol};
use http::{HeaderMap, HeaderValue, Method, Request, Uri, Version, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::machine::Failure;
use super::matcher::Matcher;
use crate::l4::tls::{server_name, unverified};

/// Of an answer's body, read so that the target is not reset in the middle of it.
const BODY_BYTES_MAX: usize = 64 << 10;
/// And no longer: a target that never ends its answer is no worse for it.
const BODY_PATIENCE: Duration = Duration::from_secs(1);
/// Of an answer's head.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// gRPC: a message without compression, of no bytes, as the health service's empty request is.
const GRPC_EMPTY: &[u8] = &[0, 0, 0, 0, 0];
const USER_AGENT: &str = "ELB-HealthChecker/2.0";

/// Sends all it has to say and ends the connection.
pub(super) async fn probe(
    target: SocketAddr,
    check: &TargetHealthCheck,
    version: ProtocolVersion,
) -> Result<(), Failure> {
    let stream = TcpStream::connect(target).await.map_err(|_| Failure::Failed)?;
    let _ = stream.set_nodelay(true);
    match check.protocol {
        // Nobody checks by UDP; ELB's API lets none of that in.
        TargetProtocol::Tcp | TargetProtocol::Udp | TargetProtocol::TcpUdp => Ok(()),
        TargetProtocol::Tls => handshake(stream, target, &[]).await.map(drop),
        TargetProtocol::Http => ask(stream, target, check, version).await,
        TargetProtocol::Https => {
            let alpn: &[&[u8]] = match version {
                ProtocolVersion::Http1 => &[b"http/1.1"],
                ProtocolVersion::Http2 | ProtocolVersion::Grpc => &[b"h2"],
            };
            let stream = handshake(stream, target, alpn).await?;
            ask(stream, target, check, version).await
        }
    }
}

async fn handshake(
    stream: TcpStream,
    target: SocketAddr,
    alpn: &[&[u8]],
) -> Result<tokio_rustls::client::TlsStream<TcpStream>, Failure> {
    let connector = TlsConnector::from(Arc::new(unverified(alpn)));
    connector.connect(server_name(target.ip()), stream).await.map_err(|_| Failure::Failed)
}

async fn ask<S>(
    stream: S,
    target: SocketAddr,
    check: &TargetHealthCheck,
    version: ProtocolVersion,
) -> Result<(), Failure>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let request = request(target, check, version).ok_or(Failure::Failed)?;
    let io = TokioIo::new(stream);
    let code = match version {
        ProtocolVersion::Http1 => {
            let (mut sender, connection) =
                http1::Builder::new().max_buf_size(HEAD_BYTES_MAX).handshake(io).await.map_err(malformed)?;
            let _driver = Driver::start(connection);
            let response = sender.send_request(request).await.map_err(malformed)?;
            let code = response.status().as_u16();
            let _ = tokio::time::timeout(BODY_PATIENCE, read_some(response.into_body())).await;
            code
        }
        ProtocolVersion::Http2 | ProtocolVersion::Grpc => {
            let (mut sender, connection) = http2::Builder::new(TokioExecutor::new())
                .max_header_list_size(HEAD_BYTES_MAX as u32)
                .handshake(io)
                .await
                .map_err(malformed)?;
            let _driver = Driver::start(connection);
            let response = sender.send_request(request).await.map_err(malformed)?;
            if version == ProtocolVersion::Grpc {
                // A gRPC status says it; what has none is no gRPC.
                let status = grpc_status(response.headers());
                match status {
                    Some(status) => status,
                    None => {
                        let trailers = read_some(response.into_body()).await;
                        trailers.as_ref().and_then(grpc_status).ok_or(Failure::Failed)?
                    }
                }
            } else {
                let code = response.status().as_u16();
                let _ = tokio::time::timeout(BODY_PATIENCE, read_some(response.into_body())).await;
                code
            }
        }
    };
    if Matcher::new(&check.matcher).matches(code) { Ok(()) } else { Err(Failure::Code(code)) }
}

/// `None`: the path is none.
fn request(
    target: SocketAddr,
    check: &TargetHealthCheck,
    version: ProtocolVersion,
) -> Option<Request<Full<Bytes>>> {
    let path = check.path.parse::<Uri>().ok()?;
    let path = path.path_and_query()?.as_str();
    let scheme = if check.protocol == TargetProtocol::Https { "https" } else { "http" };
    let mut request = Request::new(Full::default());
    let headers = request.headers_mut();
    headers.insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
    match version {
        ProtocolVersion::Http1 => {
            headers.insert(header::HOST, target.to_string().parse().ok()?);
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
            headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("gzip, compressed"));
            *request.uri_mut() = path.parse().ok()?;
        }
        ProtocolVersion::Http2 | ProtocolVersion::Grpc => {
            *request.version_mut() = Version::HTTP_2;
            *request.uri_mut() = format!("{scheme}://{target}{path}").parse().ok()?;
        }
    }
    if version == ProtocolVersion::Grpc {
        let headers = request.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
        *request.method_mut() = Method::POST;
        *request.body_mut() = Full::new(Bytes::from_static(GRPC_EMPTY));
    }
    Some(request)
}

fn grpc_status(headers: &HeaderMap) -> Option<u16> {
    headers.get("grpc-status")?.to_str().ok()?.trim().parse().ok()
}

/// The body is of no interest but for its trailers.
async fn read_some(mut body: Incoming) -> Option<HeaderMap> {
    let mut read = 0;
    while let Some(Ok(frame)) = body.frame().await {
        match frame.into_data() {
            Ok(data) => read += data.len(),
            Err(frame) => return frame.into_trailers().ok(),
        }
        if read > BODY_BYTES_MAX {
            return None;
        }
    }
    None
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn malformed(error: hyper::Error) -> Failure {
    tracing::debug!(%error, "a health check had no answer");
    Failure::Failed
}

/// Moves the connection's bytes until the check is over.
struct Driver(tokio::task::JoinHandle<()>);

impl Driver {
    fn start<E>(connection: impl Future<Output = Result<(), E>> + Send + 'static) -> Self
    where
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        Self(tokio::spawn(async move {
            let _ = connection.await.map_err(io::Error::other);
        }))
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}
