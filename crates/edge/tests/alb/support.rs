//! A balancer under test, targets that do what a test says, and a client that sends bytes.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ferrogate_edge::alb::Alb;
use ferrogate_edge::{Certificates, Edge, LogKind};
use ferrogate_nodeapi::*;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

pub(crate) const GROUP: &str = "arn:aws:elasticloadbalancing:us-east-1:000000000000:targetgroup/web/1";
/// Nothing under test takes this long; a test that waits for it has failed.
pub(crate) const TOO_LONG: Duration = Duration::from_secs(20);

pub(crate) fn target(address: SocketAddr) -> Target {
    Target {
        ip: address.ip(),
        port: address.port(),
        availability_zone: None,
        registered_at: jiff::Timestamp::UNIX_EPOCH,
        outside_vpc: false,
        draining_since: None,
    }
}

pub(crate) fn group(arn: &str, targets: Vec<Target>) -> TargetGroup {
    TargetGroup {
        target_group_arn: arn.to_owned(),
        name: "web".to_owned(),
        protocol: TargetProtocol::Http,
        protocol_version: ProtocolVersion::Http1,
        health_check: TargetHealthCheck {
            enabled: true,
            protocol: TargetProtocol::Http,
            port: None,
            path: "/".to_owned(),
            matcher: "200".to_owned(),
            interval_seconds: 30,
            timeout_seconds: 5,
            healthy_threshold: 5,
            unhealthy_threshold: 2,
        },
        deregistration_delay_seconds: 300,
        slow_start_seconds: 0,
        algorithm: Algorithm::RoundRobin,
        anomaly_mitigation: false,
        stickiness: None,
        proxy_protocol_v2: false,
        preserve_client_ip: false,
        connection_termination: false,
        terminate_unhealthy_connections: false,
        cross_zone: None,
        minimum_healthy_targets: 1,
        minimum_healthy_percent: None,
        targets,
    }
}

pub(crate) fn forward(arns: &[(&str, u32)]) -> Action {
    let weighted = |(arn, weight): &(&str, u32)| WeightedTargetGroup {
        target_group_arn: (*arn).to_owned(),
        weight: *weight,
    };
    Action::Forward { target_groups: arns.iter().map(weighted).collect(), stickiness_seconds: None }
}

pub(crate) fn fixed(status: u16, body: &str) -> Action {
    Action::FixedResponse { status, content_type: Some("text/plain".to_owned()), body: body.to_owned() }
}

pub(crate) fn rule(priority: u32, conditions: Vec<Condition>, action: Action) -> Rule {
    Rule { rule_arn: format!("rule/{priority}"), priority, conditions, action, transforms: vec![] }
}

pub(crate) fn path(pattern: &str) -> Condition {
    Condition::PathPattern { patterns: vec![pattern.to_owned()], regexes: vec![] }
}

pub(crate) fn assignment(port: u16, targets: Vec<Target>) -> BalancerAssignment {
    BalancerAssignment {
        load_balancer_arn:
            "arn:aws:elasticloadbalancing:us-east-1:000000000000:loadbalancer/app/web/50dc6c495c0c9188"
                .to_owned(),
        name: "web".to_owned(),
        account: "000000000000".to_owned(),
        region: "us-east-1".to_owned(),
        availability_zone: "us-east-1a".to_owned(),
        kind: BalancerKind::Application,
        dns_name: "web-1.us-east-1.elb.amazonaws.com".to_owned(),
        network: TaskNetwork {
            eni_id: "eni-1".to_owned(),
            vpc_id: "vpc-1".to_owned(),
            subnet_id: "subnet-1".to_owned(),
            mac: "02:00:00:00:00:01".to_owned(),
            private_ip: Ipv4Addr::LOCALHOST,
            subnet_cidr: "127.0.0.0/8".parse().unwrap(),
            gateway: Ipv4Addr::LOCALHOST,
            dns_servers: vec![],
            dns_search: vec![],
            hostname: "web".to_owned(),
        },
        public_ip: None,
        generation: 1,
        attributes: BalancerAttributes {
            access_logs: Some(LogDestination { bucket: "logs".to_owned(), prefix: String::new() }),
            connection_logs: Some(LogDestination { bucket: "logs".to_owned(), prefix: String::new() }),
            ..BalancerAttributes::default()
        },
        listeners: vec![listener(port)],
        target_groups: vec![group(GROUP, targets)],
    }
}

pub(crate) fn listener(port: u16) -> Listener {
    Listener {
        listener_arn: format!("listener/app/web/1/{port}"),
        port,
        protocol: ListenerProtocol::Http,
        ssl_policy: None,
        certificate_arns: vec![],
        alpn_policy: None,
        mtls_passthrough: false,
        tcp_idle_timeout_seconds: 350,
        header_attributes: vec![],
        rules: vec![],
        default_action: forward(&[(GROUP, 1)]),
    }
}

/// Ends with the test.
pub(crate) struct Balancer {
    pub(crate) edge: Arc<Edge>,
    pub(crate) alb: Option<Alb>,
    pub(crate) address: SocketAddr,
    pub(crate) certificates: Certificates,
}

impl Balancer {
    pub(crate) fn start(targets: &[&Backend], change: impl FnOnce(&mut BalancerAssignment)) -> Balancer {
        Balancer::with_certificates(Certificates::new(), targets, change)
    }

    pub(crate) fn with_certificates(
        certificates: Certificates,
        targets: &[&Backend],
        change: impl FnOnce(&mut BalancerAssignment),
    ) -> Balancer {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let targets = targets.iter().map(|backend| target(backend.address)).collect();
        let mut assignment = assignment(address.port(), targets);
        change(&mut assignment);
        let edge = Edge::new(assignment, certificates.clone()).unwrap();
        let alb = Alb::start(&edge, 2).unwrap();
        alb.listen(address.port(), vec![socket]).unwrap();
        let balancer = Balancer { edge, alb: Some(alb), address, certificates };
        balancer.all_healthy();
        balancer
    }

    pub(crate) fn all_healthy(&self) {
        for target in self.edge.targets.all() {
            target.set_health(TargetState::Healthy, None, None);
        }
    }

    /// Puts a changed configuration in force.
    pub(crate) fn change(&self, change: impl FnOnce(&mut BalancerAssignment)) {
        let mut assignment = BalancerAssignment::clone(&self.edge.live().assignment);
        assignment.generation += 1;
        change(&mut assignment);
        self.edge.apply(assignment, self.certificates.clone()).unwrap();
        self.all_healthy();
    }

    pub(crate) async fn connect(&self) -> Client<TcpStream> {
        Client::new(TcpStream::connect(self.address).await.unwrap())
    }

    /// One request on a connection of its own.
    pub(crate) async fn ask(&self, request: &str) -> Reply {
        let mut client = self.connect().await;
        client.send(request).await;
        client.reply().await
    }

    pub(crate) async fn get(&self, path: &str) -> Reply {
        self.ask(&format!("GET {path} HTTP/1.1\r\nHost: web.example.com\r\n\r\n")).await
    }

    /// Access log lines, once there are so many.
    pub(crate) async fn log(&self, count: usize) -> Vec<String> {
        self.lines(LogKind::Access, count).await
    }

    pub(crate) async fn lines(&self, kind: LogKind, count: usize) -> Vec<String> {
        let mut lines = Vec::new();
        let waiting = async {
            loop {
                lines.extend(self.edge.logs.take(kind));
                if lines.len() >= count {
                    return;
                }
                self.edge.logs.arrived().await;
            }
        };
        tokio::time::timeout(TOO_LONG, waiting).await.expect("log lines come");
        lines
    }
}

pub(crate) struct Client<S> {
    stream: S,
    pending: Vec<u8>,
}

#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers(name).next()
    }

    pub(crate) fn headers(&self, name: &str) -> impl Iterator<Item = &str> {
        header_lines(&self.head, name)
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

pub(crate) fn header_lines<'a>(head: &'a str, name: &str) -> impl Iterator<Item = &'a str> {
    head.lines().skip(1).filter_map(move |line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then_some(value.trim())
    })
}

impl<S: AsyncRead + tokio::io::AsyncWrite + Unpin> Client<S> {
    pub(crate) fn new(stream: S) -> Client<S> {
        Client { stream, pending: Vec::new() }
    }

    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).await.unwrap();
        self.stream.flush().await.unwrap();
    }

    pub(crate) async fn reply(&mut self) -> Reply {
        self.try_reply(false).await.expect("a whole response")
    }

    pub(crate) async fn reply_to_head(&mut self) -> Reply {
        self.try_reply(true).await.expect("a whole response")
    }

    pub(crate) async fn try_reply(&mut self, no_body: bool) -> io::Result<Reply> {
        let reading = async {
            let head = String::from_utf8(read_head(&mut self.stream, &mut self.pending).await?).unwrap();
            let status = head.split(' ').nth(1).unwrap().parse().unwrap();
            let bodiless = no_body || status == 101 || status == 100 || status == 304 || status == 204;
            let body = if bodiless {
                Vec::new()
            } else {
                read_body(&mut self.stream, &mut self.pending, &head).await?
            };
            Ok(Reply { status, head, body })
        };
        tokio::time::timeout(TOO_LONG, reading).await.expect("a response comes")
    }

    pub(crate) async fn some(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = std::mem::take(&mut self.pending);
        while bytes.len() < count {
            let more = tokio::time::timeout(TOO_LONG, self.stream.read_buf(&mut bytes)).await;
            assert_ne!(more.expect("bytes come").unwrap(), 0, "the stream ended after {} bytes", bytes.len());
        }
        self.pending = bytes.split_off(count);
        bytes
    }

    /// Everything until the other side closes.
    pub(crate) async fn rest(&mut self) -> Vec<u8> {
        let mut bytes = std::mem::take(&mut self.pending);
        let reading = self.stream.read_to_end(&mut bytes);
        // A reset is an end as well.
        tokio::time::timeout(TOO_LONG, reading).await.expect("the connection is closed").ok();
        bytes
    }

    pub(crate) async fn shut(&mut self) {
        self.stream.shutdown().await.unwrap();
    }
}

async fn read_head<S: AsyncRead + Unpin>(stream: &mut S, pending: &mut Vec<u8>) -> io::Result<Vec<u8>> {
    loop {
        if let Some(at) = pending.windows(4).position(|window| window == b"\r\n\r\n") {
            let rest = pending.split_off(at + 4);
            return Ok(std::mem::replace(pending, rest));
        }
        if stream.read_buf(pending).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// By length, by chunks, else none for a request and all that comes for a response.
async fn read_body<S: AsyncRead + Unpin>(
    stream: &mut S,
    pending: &mut Vec<u8>,
    head: &str,
) -> io::Result<Vec<u8>> {
    if header_lines(head, "transfer-encoding").any(|value| value.eq_ignore_ascii_case("chunked")) {
        let mut body = Vec::new();
        loop {
            let line = read_line(stream, pending).await?;
            let size = usize::from_str_radix(line.split(';').next().unwrap().trim(), 16).unwrap();
            let data = read_exact(stream, pending, size).await?;
            body.extend_from_slice(&data);
            if size == 0 {
                // Trailers, if any.
                while !read_line(stream, pending).await?.is_empty() {}
                return Ok(body);
            }
            assert_eq!(read_line(stream, pending).await?, "");
        }
    }
    match header_lines(head, "content-length").next() {
        Some(length) => read_exact(stream, pending, length.parse().unwrap()).await,
        None if head.starts_with("HTTP/") => {
            stream.read_to_end(pending).await?;
            Ok(std::mem::take(pending))
        }
        None => Ok(Vec::new()),
    }
}

async fn read_line<S: AsyncRead + Unpin>(stream: &mut S, pending: &mut Vec<u8>) -> io::Result<String> {
    loop {
        if let Some(at) = pending.windows(2).position(|window| window == b"\r\n") {
            let rest = pending.split_off(at + 2);
            let line = std::mem::replace(pending, rest);
            return Ok(String::from_utf8(line[..at].to_vec()).unwrap());
        }
        if stream.read_buf(pending).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

async fn read_exact<S: AsyncRead + Unpin>(
    stream: &mut S,
    pending: &mut Vec<u8>,
    count: usize,
) -> io::Result<Vec<u8>> {
    while pending.len() < count {
        if stream.read_buf(pending).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    let rest = pending.split_off(count);
    Ok(std::mem::replace(pending, rest))
}

/// What a target got.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
    /// Which of its connections, from 0.
    pub(crate) connection: usize,
}

impl Request {
    pub(crate) fn line(&self) -> &str {
        self.head.lines().next().unwrap()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        header_lines(&self.head, name).next()
    }

    pub(crate) fn path(&self) -> &str {
        self.line().split(' ').nth(1).unwrap()
    }
}

/// What a target does about a request.
pub(crate) enum Act {
    /// These bytes, and the connection goes on.
    Send(Vec<u8>),
    /// These bytes, then close.
    SendAndClose(Vec<u8>),
    /// Nothing, and the connection stays open.
    Hang,
    /// Closed with a reset.
    Reset,
    /// These bytes, then whatever comes is sent back.
    Echo(Vec<u8>),
}

pub(crate) fn ok(body: &str) -> Act {
    Act::Send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes())
}

/// A target; it ends with the test.
pub(crate) struct Backend {
    pub(crate) address: SocketAddr,
    seen: Arc<Mutex<Vec<Request>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Backend {
    pub(crate) async fn new(act: impl Fn(&Request) -> Act + Send + Sync + 'static) -> Backend {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen: Arc<Mutex<Vec<Request>>> = Arc::default();
        let act = Arc::new(act);
        let log = seen.clone();
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            for number in 0.. {
                let Ok((stream, _)) = listener.accept().await else { return };
                let (act, log) = (act.clone(), log.clone());
                connections.spawn(async move {
                    // A balancer that closes is what many tests are about.
                    talk(stream, number, &*act, &log).await.ok();
                });
            }
        });
        Backend { address, seen, task }
    }

    /// Says its name.
    pub(crate) async fn named(name: &'static str) -> Backend {
        Backend::new(move |_| ok(name)).await
    }

    /// Nobody listens there.
    pub(crate) async fn refusing() -> Backend {
        let backend = Backend::named("gone").await;
        backend.task.abort();
        while !backend.task.is_finished() {
            tokio::task::yield_now().await;
        }
        backend
    }

    pub(crate) fn seen(&self) -> Vec<Request> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn last(&self) -> Request {
        self.seen().pop().expect("the target got a request")
    }
}

async fn talk(
    mut stream: TcpStream,
    connection: usize,
    act: &(impl Fn(&Request) -> Act + ?Sized),
    log: &Mutex<Vec<Request>>,
) -> io::Result<()> {
    let mut pending = Vec::new();
    loop {
        let head = String::from_utf8(read_head(&mut stream, &mut pending).await?).unwrap();
        let body = read_body(&mut stream, &mut pending, &head).await?;
        let request = Request { head, body, connection };
        log.lock().unwrap_or_else(PoisonError::into_inner).push(request.clone());
        match act(&request) {
            Act::Send(bytes) => stream.write_all(&bytes).await?,
            Act::SendAndClose(bytes) => {
                stream.write_all(&bytes).await?;
                return stream.shutdown().await;
            }
            Act::Hang => std::future::pending().await,
            Act::Reset => return stream.set_zero_linger(),
            Act::Echo(bytes) => {
                stream.write_all(&bytes).await?;
                stream.write_all(&pending).await?;
                let (mut read, mut write) = stream.split();
                tokio::io::copy(&mut read, &mut write).await?;
                return Ok(());
            }
        }
    }
}
