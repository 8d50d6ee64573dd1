//! Load balancers by name from this host: `http://<name>.elb.localhost:<port of the API>`, or with a balancer's whole
//! DNS name as Host.
//!
//! A request goes on, as it is, to the balancer's public address: by the same way, from the same source and under the same
//! security groups as if the client had called that address itself, so `X-Forwarded-For` says the same. It goes to the
//! balancer's listener on port 80, else to its only one that speaks plain HTTP. An internal balancer has no public
//! address and is not reached here, as on AWS: what runs in a browser on this host can name a door, and a security
//! group that lets in a VPC does not mean the web. A task in the VPC reaches it, `ferrogate exec` for one.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ferrogate_api::BoxFuture;
use ferrogate_front::{Door, DoorBody};
use ferrogate_nodeapi::{BalancerAssignment, ListenerProtocol};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Uri, Version, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, watch};

const SUFFIX: &str = ".elb.localhost";
const HTTP_PORT: u16 = 80;
/// Requests on their way, all balancers together.
const REQUESTS_MAX: usize = 1024;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Of one connection, not of the next (RFC 9110, 7.6.1).
const HOP_BY_HOP: [HeaderName; 4] = [
    header::CONNECTION,
    header::TRANSFER_ENCODING,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

/// Balancers as the node runs them: those of other zones have the same name and answer as well.
type Balancers = watch::Receiver<Arc<Vec<BalancerAssignment>>>;

pub(crate) struct BalancerDoor {
    balancers: Balancers,
    places: Arc<Semaphore>,
}

impl BalancerDoor {
    pub(crate) fn new(balancers: Balancers) -> Self {
        Self { balancers, places: Arc::new(Semaphore::new(REQUESTS_MAX)) }
    }

    async fn relay(&self, mut request: Request<Incoming>) -> Result<Response<DoorBody>, Failure> {
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            return Err(Failure::new(
                StatusCode::SERVICE_UNAVAILABLE,
                format!("{REQUESTS_MAX} requests to load balancers are under way already"),
            ));
        };
        let host = host(request.uri(), request.headers()).unwrap_or_default();
        let target = target(&self.balancers.borrow(), &host)?;
        let connecting = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(target));
        let stream = match connecting.await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(unreachable(&host, target, &error.to_string())),
            Err(_) => {
                let why = format!("no answer within {} s", CONNECT_TIMEOUT.as_secs());
                return Err(unreachable(&host, target, &why));
            }
        };
        let _ = stream.set_nodelay(true);
        let broken = |error: hyper::Error| {
            Failure::new(StatusCode::BAD_GATEWAY, format!("{host} ({target}) broke off: {error}"))
        };
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        tokio::spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "a load balancer's connection ended early");
            }
            drop(place);
        });
        let client = hyper::upgrade::on(&mut request);
        let mut response = sender.send_request(forwarded(request, &host)).await.map_err(broken)?;
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            let balancer = hyper::upgrade::on(&mut response);
            tokio::spawn(switched(client, balancer));
        } else {
            strip(response.headers_mut());
        }
        Ok(response.map(|body| body.map_err(io::Error::other).boxed_unsync()))
    }
}

impl Door for BalancerDoor {
    fn takes(&self, head: &Parts) -> bool {
        let Some(host) = host(&head.uri, &head.headers) else { return false };
        host.ends_with(SUFFIX)
            || self.balancers.borrow().iter().any(|b| b.dns_name.eq_ignore_ascii_case(&host))
    }

    fn serve(
        self: Arc<Self>,
        request: Request<Incoming>,
        _peer: SocketAddr,
    ) -> BoxFuture<'static, Response<DoorBody>> {
        Box::pin(async move { self.relay(request).await.unwrap_or_else(Failure::response) })
    }
}

/// What a person at the door is told.
#[derive(Debug)]
struct Failure {
    status: StatusCode,
    why: String,
}

impl Failure {
    fn new(status: StatusCode, why: String) -> Self {
        Self { status, why }
    }

    fn response(self) -> Response<DoorBody> {
        let text = format!("ferrogate: {}\n", self.why);
        let body = Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed_unsync();
        let mut response = Response::new(body);
        *response.status_mut() = self.status;
        let plain = HeaderValue::from_static("text/plain; charset=utf-8");
        response.headers_mut().insert(header::CONTENT_TYPE, plain);
        response
    }
}

fn unreachable(host: &str, target: SocketAddr, why: &str) -> Failure {
    let words = format!(
        "{host} does not take a connection at {target}: {why}. Its security group has to let this host in ({} is its \
         address inside the fabric), and its listener has to be active.",
        ferrogate_vpc::HOST_WIRE
    );
    Failure::new(StatusCode::BAD_GATEWAY, words)
}

/// Without its port, in lower case.
fn host(uri: &Uri, headers: &HeaderMap) -> Option<String> {
    let named = match uri.host() {
        Some(host) => host,
        None => headers.get(header::HOST)?.to_str().ok()?,
    };
    let is_port = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let name = named.rsplit_once(':').filter(|(_, port)| is_port(port)).map_or(named, |(name, _)| name);
    Some(name.trim_end_matches('.').to_ascii_lowercase())
}

/// Where a request for that host goes.
fn target(balancers: &[BalancerAssignment], host: &str) -> Result<SocketAddr, Failure> {
    let named = |balancer: &&BalancerAssignment| match host.strip_suffix(SUFFIX) {
        Some(name) => balancer.name.eq_ignore_ascii_case(name),
        None => balancer.dns_name.eq_ignore_ascii_case(host),
    };
    let found: Vec<&BalancerAssignment> = balancers.iter().filter(named).collect();
    let Some(first) = found.first() else {
        let names = balancers.iter().map(|balancer| balancer.name.as_str());
        let names: std::collections::BTreeSet<&str> = names.collect();
        let here = if names.is_empty() {
            "there is none yet: `aws elbv2 create-load-balancer` makes one".to_owned()
        } else {
            format!("there are {}", names.into_iter().collect::<Vec<_>>().join(", "))
        };
        return Err(Failure::new(
            StatusCode::NOT_FOUND,
            format!("no load balancer is called {host}; {here}"),
        ));
    };
    if found.iter().any(|balancer| balancer.load_balancer_arn != first.load_balancer_arn) {
        let names: Vec<&str> = found.iter().map(|balancer| balancer.dns_name.as_str()).collect();
        let why = format!(
            "several load balancers are called that; send one of these as Host: {}",
            names.join(", ")
        );
        return Err(Failure::new(StatusCode::MISDIRECTED_REQUEST, why));
    }
    let Some(address) = found.iter().find_map(|balancer| balancer.public_ip) else {
        let why = format!(
            "{} is an internal load balancer: it is reached from inside its VPC, by {}",
            first.name, first.dns_name
        );
        return Err(Failure::new(StatusCode::FORBIDDEN, why));
    };
    let port = port(first).ok_or_else(|| no_port(first, address))?;
    Ok((address, port).into())
}

/// Port 80, or the only one that speaks plain HTTP (or whatever the client does).
fn port(balancer: &BalancerAssignment) -> Option<u16> {
    let plain = |protocol: ListenerProtocol| {
        matches!(protocol, ListenerProtocol::Http | ListenerProtocol::Tcp | ListenerProtocol::TcpUdp)
    };
    let ports: Vec<u16> =
        balancer.listeners.iter().filter(|listener| plain(listener.protocol)).map(|l| l.port).collect();
    match ports[..] {
        [only] => Some(only),
        _ => ports.contains(&HTTP_PORT).then_some(HTTP_PORT),
    }
}

fn no_port(balancer: &BalancerAssignment, address: Ipv4Addr) -> Failure {
    let ports: Vec<String> = balancer.listeners.iter().map(|listener| listener.port.to_string()).collect();
    let here = if ports.is_empty() {
        "it has no listener".to_owned()
    } else {
        format!("call the one you mean at its address: {address}, port {}", ports.join(" or "))
    };
    let why = format!(
        "{} has neither a listener on port 80 nor a single one for plain HTTP; {here}",
        balancer.name
    );
    Failure::new(StatusCode::NOT_FOUND, why)
}

/// As it came; what is of the client's connection only is not said.
fn forwarded(request: Request<Incoming>, host: &str) -> Request<Incoming> {
    let (mut parts, body) = request.into_parts();
    let upgrade = parts.headers.get(header::UPGRADE).cloned();
    // HTTP/2 has the host elsewhere.
    if parts.version == Version::HTTP_2 && !parts.headers.contains_key(header::HOST) {
        let authority = parts.uri.authority().map_or(host, |authority| authority.as_str());
        if let Ok(authority) = HeaderValue::from_str(authority) {
            parts.headers.insert(header::HOST, authority);
        }
    }
    strip(&mut parts.headers);
    if upgrade.is_some() {
        parts.headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    }
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    parts.uri = path.parse().unwrap_or_else(|_| Uri::from_static("/"));
    parts.version = Version::HTTP_11;
    Request::from_parts(parts, body)
}

fn strip(headers: &mut HeaderMap) {
    for name in &HOP_BY_HOP {
        headers.remove(name);
    }
}

async fn switched(client: OnUpgrade, balancer: OnUpgrade) {
    let (Ok(client), Ok(balancer)) = tokio::join!(client, balancer) else { return };
    let (mut client, mut balancer) = (TokioIo::new(client), TokioIo::new(balancer));
    // Either may end without a word.
    let _ = tokio::io::copy_bidirectional(&mut client, &mut balancer).await;
}

#[cfg(test)]
#[path = "balancer_door_tests.rs"]
mod tests;
