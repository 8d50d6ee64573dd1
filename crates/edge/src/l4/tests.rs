//! Flows on loopback.

use std::net::SocketAddr;
use std::sync::Mutex;

use ferrogate_nodeapi::{
    BalancerAssignment, Listener, ListenerProtocol, TargetGroup, TargetProtocol, TargetState,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::fixture::{assignment, group, listener, target};
use super::*;
use crate::metrics::Metric;
use crate::state::Certificates;

/// A balancer in front of one target that the test plays.
pub(super) struct World {
    pub(super) edge: Arc<Edge>,
    pub(super) balancer: SocketAddr,
    pub(super) target: TcpListener,
    certificates: Mutex<Certificates>,
    health: watch::Sender<u64>,
    _tasks: JoinSet<()>,
}

impl World {
    pub(super) async fn new(change: impl FnOnce(&mut Listener, &mut TargetGroup)) -> Self {
        Self::with(Certificates::new(), HANDSHAKE_TIMEOUT, change).await
    }

    pub(super) async fn with(
        certificates: Certificates,
        handshake_timeout: Duration,
        change: impl FnOnce(&mut Listener, &mut TargetGroup),
    ) -> Self {
        let play = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let front = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let balancer = front.local_addr().unwrap();
        let mut group = group(TargetProtocol::Tcp, vec![target(play.local_addr().unwrap())]);
        let mut listener = listener(balancer.port(), ListenerProtocol::Tcp);
        change(&mut listener, &mut group);
        let edge = Edge::new(assignment(vec![listener], vec![group]), certificates.clone()).unwrap();
        edge.targets.all().iter().for_each(|entry| entry.set_health(TargetState::Healthy, None, None));
        let health = watch::Sender::new(0);
        let flows = Flows { handshake_timeout, ..Flows::new(Arc::clone(&edge), balancer.ip()) };
        let mut tasks = JoinSet::new();
        tasks.spawn(flows.clone().tcp(balancer.port(), front));
        tasks.spawn(flows.cut(health.subscribe()));
        let certificates = Mutex::new(certificates);
        Self { edge, balancer, target: play, certificates, health, _tasks: tasks }
    }

    pub(super) async fn connect(&self) -> (TcpStream, TcpStream) {
        let client = TcpStream::connect(self.balancer).await.unwrap();
        let (target, _) = self.target.accept().await.unwrap();
        (client, target)
    }

    /// A certificate that was imported again.
    pub(super) fn certify(&self, arn: &str, certificate: Arc<ferrogate_nodeapi::Certificate>) {
        self.certificates.lock().unwrap().insert(arn.to_owned(), certificate);
        self.put(|_| {});
    }

    /// The count comes with the flow's end, which the test sees first.
    pub(super) async fn counted(&self, metric: Metric, count: u64) {
        while self.edge.metrics.balancer.count(metric) < count {
            tokio::task::yield_now().await;
        }
        assert_eq!(self.edge.metrics.balancer.count(metric), count);
    }

    pub(super) fn put(&self, change: impl FnOnce(&mut BalancerAssignment)) {
        let mut assignment = BalancerAssignment::clone(&self.edge.live().assignment);
        assignment.generation += 1;
        change(&mut assignment);
        self.edge.apply(assignment, self.certificates.lock().unwrap().clone()).unwrap();
    }
}

/// Until the other side has ended; a reset is an error.
pub(super) async fn rest(stream: &mut (impl AsyncRead + Unpin)) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await.map(|_| bytes)
}

#[tokio::test]
async fn a_half_close_reaches_the_target_and_the_answer_comes_back() {
    let world = World::new(|_, _| {}).await;
    let (mut client, mut target) = world.connect().await;
    let much = vec![7; 1 << 20];
    let ask = async {
        client.write_all(&much).await.unwrap();
        client.shutdown().await.unwrap();
        rest(&mut client).await.unwrap()
    };
    let answer = async {
        assert_eq!(rest(&mut target).await.unwrap().len(), 1 << 20);
        target.write_all(b"taken").await.unwrap();
        target.shutdown().await.unwrap();
    };
    assert_eq!(tokio::join!(ask, answer).0, b"taken");
    let counters = &world.edge.metrics.balancer;
    // Counted when the flow has ended, which both sides may see first.
    while counters.count(Metric::ProcessedBytes) == 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(counters.count(Metric::ProcessedBytes), (1 << 20) + 5);
    assert_eq!(counters.count(Metric::NewFlowsTcp), 1);
    assert_eq!(counters.count(Metric::TcpElbResets), 0);
}

#[tokio::test]
async fn the_proxy_protocol_says_who_the_client_is() {
    let world = World::new(|_, group| group.proxy_protocol_v2 = true).await;
    let (mut client, mut target) = world.connect().await;
    client.write_all(b"hello").await.unwrap();
    client.shutdown().await.unwrap();
    let mut expected = proxy::header(client.local_addr().unwrap(), world.balancer);
    expected.extend(b"hello");
    assert_eq!(rest(&mut target).await.unwrap(), expected);
}

#[tokio::test]
async fn without_a_target_a_client_is_reset() {
    let world = World::new(|_, group| group.targets.clear()).await;
    // A listener's own doing: the group is empty.
    let mut client = TcpStream::connect(world.balancer).await.unwrap();
    assert!(rest(&mut client).await.is_err());
    assert_eq!(world.edge.metrics.balancer.count(Metric::TcpElbResets), 1);
}

#[tokio::test]
async fn a_target_that_refuses_resets_its_client() {
    let world = World::new(|_, _| {}).await;
    let World { balancer, edge, target, _tasks, .. } = world;
    drop(target);
    let mut client = TcpStream::connect(balancer).await.unwrap();
    assert!(rest(&mut client).await.is_err());
    assert_eq!(edge.metrics.balancer.count(Metric::TcpTargetResets), 1);
}

#[tokio::test]
async fn flows_of_a_target_that_is_no_longer_healthy_end() {
    let world = World::new(|_, _| {}).await;
    let (mut client, mut target) = world.connect().await;
    client.write_all(b"x").await.unwrap();
    assert_eq!(target.read_u8().await.unwrap(), b'x');
    world.edge.targets.all()[0].set_health(TargetState::Unhealthy, None, None);
    world.health.send_modify(|count| *count += 1);
    assert!(rest(&mut client).await.is_err());
    assert!(rest(&mut target).await.is_err());
}

#[tokio::test]
async fn flows_outlive_deregistration_unless_the_group_says_otherwise() {
    for terminates in [false, true] {
        let world = World::new(|_, group| {
            group.connection_termination = terminates;
            group.deregistration_delay_seconds = 0;
        })
        .await;
        let (mut client, mut target) = world.connect().await;
        client.write_all(b"x").await.unwrap();
        assert_eq!(target.read_u8().await.unwrap(), b'x');
        world.put(|assignment| {
            assignment.target_groups[0].targets[0].draining_since = Some(jiff::Timestamp::now());
        });
        world.put(|assignment| assignment.target_groups[0].targets.clear());
        if terminates {
            assert!(rest(&mut client).await.is_err());
        } else {
            // Nothing new is taken, so the cutter has seen it when a new client is turned away.
            let mut other = TcpStream::connect(world.balancer).await.unwrap();
            assert!(rest(&mut other).await.is_err());
            client.write_all(b"y").await.unwrap();
            assert_eq!(target.read_u8().await.unwrap(), b'y');
        }
    }
}

#[tokio::test]
async fn datagrams_go_to_one_target_and_back() {
    let echo = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let front = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let balancer = front.local_addr().unwrap();
    let group = group(TargetProtocol::Udp, vec![target(echo.local_addr().unwrap())]);
    let assignment = assignment(vec![listener(balancer.port(), ListenerProtocol::Udp)], vec![group]);
    let edge = Edge::new(assignment, Certificates::new()).unwrap();
    edge.targets.all()[0].set_health(TargetState::Healthy, None, None);
    let flows = Flows::new(Arc::clone(&edge), balancer.ip());
    let mut tasks = JoinSet::new();
    tasks.spawn(flows.udp(balancer.port(), front));
    let mut buffer = [0; 64];
    for client in 0..3u8 {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.connect(balancer).await.unwrap();
        for round in 0..2u8 {
            socket.send(&[client, round]).await.unwrap();
            let (length, from) = echo.recv_from(&mut buffer).await.unwrap();
            assert_eq!(buffer[..length], [client, round]);
            echo.send_to(&[round, client], from).await.unwrap();
            let length = socket.recv(&mut buffer).await.unwrap();
            assert_eq!(buffer[..length], [round, client]);
        }
    }
    assert_eq!(edge.metrics.balancer.count(Metric::NewFlowsUdp), 3);
    assert_eq!(edge.metrics.balancer.count(Metric::ProcessedBytesUdp), 3 * 2 * 4);
}

/// Signed by itself.
pub(super) fn certificate(name: &str) -> Arc<ferrogate_nodeapi::Certificate> {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| dir.path().join(name).to_string_lossy().into_owned();
    let made = std::process::Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            "2",
        ])
        .args(["-subj", "/CN=test", "-addext", &format!("subjectAltName=DNS:{name}")])
        .args(["-keyout", &file("key"), "-out", &file("pem")])
        .output()
        .expect("openssl");
    assert!(made.status.success(), "{made:?}");
    let read = |name: &str| std::fs::read_to_string(file(name)).unwrap();
    Arc::new(ferrogate_nodeapi::Certificate { chain_pem: read("pem"), private_key_pem: read("key") })
}

#[tokio::test]
async fn tls_ends_here_with_the_listeners_alpn_and_may_begin_anew_towards_the_target() {
    let certificates: Certificates =
        [("arn".to_owned(), certificate("door.example.com"))].into_iter().collect();
    for to in [TargetProtocol::Tcp, TargetProtocol::Tls] {
        let play = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let front = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let balancer = front.local_addr().unwrap();
        let group = group(to, vec![target(play.local_addr().unwrap())]);
        let mut listener = listener(balancer.port(), ListenerProtocol::Tls);
        listener.certificate_arns = vec!["arn".into()];
        listener.alpn_policy = Some("HTTP2Preferred".into());
        let assignment = assignment(vec![listener], vec![group]);
        check(&assignment, &certificates).unwrap();
        assert!(check(&assignment, &Certificates::new()).is_err());
        let edge = Edge::new(assignment, certificates.clone()).unwrap();
        edge.targets.all()[0].set_health(TargetState::Healthy, None, None);
        let mut tasks = JoinSet::new();
        tasks.spawn(Flows::new(Arc::clone(&edge), balancer.ip()).tcp(balancer.port(), front));
        let listener = edge.live().assignment.listeners[0].clone();
        let alpn: &[&[u8]] = &[b"h2"];
        let server = TlsListener::new(&listener, &certificates, alpn).unwrap().config;
        let answer = async {
            let (mut stream, _) = play.accept().await.unwrap();
            let mut heard = [0; 5];
            if to == TargetProtocol::Tcp {
                stream.read_exact(&mut heard).await.unwrap();
                stream.write_all(b"world").await.unwrap();
                return (heard, None);
            }
            let mut stream = tokio_rustls::TlsAcceptor::from(server).accept(stream).await.unwrap();
            stream.read_exact(&mut heard).await.unwrap();
            stream.write_all(b"world").await.unwrap();
            stream.flush().await.unwrap();
            let spoken = stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
            (heard, spoken)
        };
        let ask = async {
            let connector =
                tokio_rustls::TlsConnector::from(Arc::new(tls::unverified(&[b"http/1.1", b"h2"])));
            let stream = TcpStream::connect(balancer).await.unwrap();
            let name = "door.example.com".try_into().unwrap();
            let mut stream = connector.connect(name, stream).await.unwrap();
            assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
            stream.write_all(b"hello").await.unwrap();
            let mut heard = [0; 5];
            stream.read_exact(&mut heard).await.unwrap();
            heard
        };
        let ((asked, spoken), answered) = tokio::join!(answer, ask);
        assert_eq!((&asked, &answered), (b"hello", b"world"));
        // What the client speaks, the target is asked to speak.
        assert_eq!(spoken, (to == TargetProtocol::Tls).then(|| b"h2".to_vec()));
        assert_eq!(edge.metrics.balancer.count(Metric::NewFlowsTls), 1);
    }
}
