//! A proxy under test, instances that do what a test says, and clients.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener as StdListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use bytes::Bytes;
use ferrogate_edge::connect::{ConnectConfiguration, Proxy};
use ferrogate_nodeapi::{
    AppProtocol, Connect, ConnectClient, ConnectServer, ConnectTimeouts, Endpoint, Endpoints, Split,
};
use http::{HeaderMap, Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// Nothing under test takes this long; a test that waits for it has failed.
pub(crate) const TOO_LONG: Duration = Duration::from_secs(20);

pub(crate) type Body = BoxBody<Bytes, Infallible>;

pub(crate) async fn soon<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(TOO_LONG, work).await.expect("it takes too long")
}

pub(crate) fn text(body: impl Into<Bytes>) -> Body {
    Full::new(body.into()).boxed()
}

/// A body of what is sent; it ends with the sender.
pub(crate) fn channel() -> (mpsc::Sender<Frame<Bytes>>, Body) {
    let (sender, mut receiver) = mpsc::channel(16);
    let frames = futures_util::stream::poll_fn(move |cx| receiver.poll_recv(cx).map(|frame| frame.map(Ok)));
    (sender, BodyExt::boxed(StreamBody::new(frames)))
}

/// What a service is called, and how.
pub(crate) struct Called {
    pub(crate) protocol: AppProtocol,
    pub(crate) idle_seconds: Option<u32>,
    pub(crate) per_request_seconds: Option<u32>,
}

impl Called {
    pub(crate) fn by(protocol: AppProtocol) -> Self {
        Self { protocol, idle_seconds: None, per_request_seconds: None }
    }
}

/// One proxy with one alias, `shop`, of the service `srv-shop`.
pub(crate) struct World {
    pub(crate) proxy: Arc<Proxy>,
    pub(crate) alias: SocketAddrV4,
    configuration: ConnectConfiguration,
    /// By port.
    revisions: BTreeMap<u16, String>,
    split: Option<Split>,
}

impl World {
    pub(crate) fn new(called: Called, instances: &[SocketAddr]) -> Self {
        let listener = StdListener::bind("127.255.0.1:0").expect("loopback");
        let SocketAddr::V4(alias) = listener.local_addr().expect("it is bound") else { unreachable!() };
        let timeouts = ConnectTimeouts {
            idle_seconds: called.idle_seconds,
            per_request_seconds: called.per_request_seconds,
        };
        let client = ConnectClient {
            service_id: "srv-shop".into(),
            discovery_name: "shop".into(),
            dns_name: "shop".into(),
            port: alias.port(),
            protocol: called.protocol,
            timeouts,
        };
        let connect = Connect { clients: vec![client], ..Connect::default() };
        Self::of(connect, listener, alias, instances)
    }

    /// A port of the task itself, called from outside.
    pub(crate) fn server(protocol: AppProtocol, container: SocketAddr) -> Self {
        let listener = StdListener::bind("127.0.0.1:0").expect("loopback");
        let SocketAddr::V4(at) = listener.local_addr().expect("it is bound") else { unreachable!() };
        let server = ConnectServer {
            discovery_name: "shop".into(),
            ingress_port: at.port(),
            container_port: container.port(),
            protocol,
            timeouts: ConnectTimeouts::default(),
        };
        let connect = Connect { servers: vec![server], ..Connect::default() };
        Self::of(connect, listener, at, &[])
    }

    fn of(connect: Connect, listener: StdListener, alias: SocketAddrV4, instances: &[SocketAddr]) -> Self {
        listener.set_nonblocking(true).expect("a socket");
        let proxy = Proxy::new(vec![listener]).expect("a runtime");
        let configuration = ConnectConfiguration {
            connect,
            address: Ipv4Addr::LOCALHOST,
            containers: Ipv4Addr::LOCALHOST,
            endpoints: None,
        };
        let mut world = Self { proxy, alias, configuration, revisions: BTreeMap::new(), split: None };
        world.instances(instances);
        world
    }

    /// These and no others, from now on.
    pub(crate) fn instances(&mut self, instances: &[SocketAddr]) {
        let endpoint = |address: &SocketAddr| match address {
            SocketAddr::V4(at) => {
                let service_revision = self.revisions.get(&at.port()).cloned();
                Endpoint { instance_id: at.to_string(), address: *at.ip(), port: at.port(), service_revision }
            }
            SocketAddr::V6(_) => unreachable!("loopback is IPv4"),
        };
        let endpoints = instances.iter().map(endpoint).collect();
        let services = BTreeMap::from([("srv-shop".to_owned(), endpoints)]);
        let splits = self.split.clone().map(|split| ("srv-shop".to_owned(), split)).into_iter().collect();
        self.configuration.endpoints = Some(Endpoints { revision: 1, services, splits });
        self.proxy.apply(&self.configuration);
    }

    /// Each of these is of a revision; they share the service so.
    pub(crate) fn split(&mut self, instances: &[(SocketAddr, &str)], split: Split) {
        self.revisions = instances.iter().map(|(at, of)| (at.port(), (*of).to_owned())).collect();
        self.split = Some(split);
        let instances: Vec<SocketAddr> = instances.iter().map(|(at, _)| *at).collect();
        self.instances(&instances);
    }

    /// One request on a connection of its own.
    pub(crate) async fn ask(&self, method: &str, path: &str, body: &str) -> Answer {
        self.ask_with("", method, path, body).await
    }

    /// `headers`: whole lines.
    pub(crate) async fn ask_with(&self, headers: &str, method: &str, path: &str, body: &str) -> Answer {
        let (mut connection, length) =
            (TcpStream::connect(self.alias).await.expect("it listens"), body.len());
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n{headers}Content-Length: {length}\r\n\r\n{body}"
        );
        connection.write_all(request.as_bytes()).await.expect("it reads");
        Answer::read(&mut connection).await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, "").await
    }

    pub(crate) async fn http2(&self) -> hyper::client::conn::http2::SendRequest<Body> {
        let connection = TcpStream::connect(self.alias).await.expect("it listens");
        let builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
        let (sender, connection) = soon(builder.handshake(TokioIo::new(connection))).await.expect("HTTP/2");
        tokio::spawn(connection);
        sender
    }
}

/// A response as far as it came, to the end of its connection.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: String,
    /// As long as it said.
    pub(crate) whole: bool,
}

impl Answer {
    pub(crate) async fn read(connection: &mut TcpStream) -> Self {
        let mut bytes = Vec::new();
        // A reset ends it as well.
        let _ = soon(connection.read_to_end(&mut bytes)).await;
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        let head = head.to_ascii_lowercase();
        let length: Option<usize> =
            head.lines().find_map(|line| line.strip_prefix("content-length: ")?.trim().parse().ok());
        let whole = match length {
            Some(length) => body.len() == length,
            None => body.ends_with("0\r\n\r\n") || body.is_empty(),
        };
        Self { status, body: body.to_owned(), whole }
    }
}

/// An instance; it ends with the test.
pub(crate) struct Instance {
    pub(crate) address: SocketAddr,
    pub(crate) connections: Arc<AtomicUsize>,
    pub(crate) requests: Arc<AtomicUsize>,
    _serving: JoinSet<()>,
}

impl Instance {
    /// HTTP/1.1 and HTTP/2, as the client begins.
    pub(crate) async fn http<F, A>(answer: F) -> Self
    where
        F: Fn(Request<Incoming>) -> A + Clone + Send + 'static,
        A: Future<Output = Response<Body>> + Send + 'static,
    {
        let requests = Arc::<AtomicUsize>::default();
        let seen = Arc::clone(&requests);
        let instance = Self::raw(move |connection| {
            let (answer, seen) = (answer.clone(), Arc::clone(&seen));
            let service = service_fn(move |request| {
                seen.fetch_add(1, SeqCst);
                let answered = answer(request);
                async move { Ok::<_, Infallible>(answered.await) }
            });
            async move {
                let builder = auto::Builder::new(TokioExecutor::new());
                let _ = builder.serve_connection_with_upgrades(TokioIo::new(connection), service).await;
            }
        });
        let instance = instance.await;
        Self { requests, ..instance }
    }

    /// Says this to everybody.
    pub(crate) async fn says(status: u16, words: &'static str) -> Self {
        Self::http(move |_| async move {
            let mut response = Response::new(text(words));
            *response.status_mut() = http::StatusCode::from_u16(status).expect("a status");
            response
        })
        .await
    }

    pub(crate) async fn raw<F, A>(serve: F) -> Self
    where
        F: Fn(TcpStream) -> A + Send + 'static,
        A: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
        let address = listener.local_addr().expect("it is bound");
        let connections = Arc::<AtomicUsize>::default();
        let (seen, mut serving) = (Arc::clone(&connections), JoinSet::new());
        serving.spawn(async move {
            let mut under_way = JoinSet::new();
            while let Ok((connection, _)) = listener.accept().await {
                seen.fetch_add(1, SeqCst);
                under_way.spawn(serve(connection));
            }
        });
        Self { address, connections, requests: Arc::default(), _serving: serving }
    }

    pub(crate) fn count(&self) -> usize {
        self.requests.load(SeqCst)
    }
}

/// Where nobody listens.
pub(crate) async fn nobody() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
    listener.local_addr().expect("it is bound")
}

/// `grpc-status` as trailers have it.
pub(crate) fn grpc(status: &'static str) -> HeaderMap {
    HeaderMap::from_iter([("grpc-status".parse().expect("a name"), http::HeaderValue::from_static(status))])
}
