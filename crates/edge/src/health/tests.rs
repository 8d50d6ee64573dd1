//! Checks of targets on loopback, which the tests play.

use std::net::SocketAddr;

use ferrogate_nodeapi::{ListenerProtocol, TargetProtocol, TargetState};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::l4::fixture::{assignment, group, listener, target};
use crate::state::Certificates;

/// Answers every connection with these bytes, once a request's head has come.
async fn play(answer: &'static str) -> (SocketAddr, watch::Receiver<String>, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (asked, seen) = watch::channel(String::new());
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.windows(4).any(|end| end == b"\r\n\r\n") {
                match stream.read_buf(&mut head).await {
                    Ok(0) | Err(_) => break,
                    Ok(_) => {}
                }
            }
            asked.send_replace(String::from_utf8_lossy(&head).into_owned());
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    (address, seen, tasks)
}

struct World {
    edge: Arc<Edge>,
    changed: watch::Receiver<u64>,
    _tasks: JoinSet<()>,
}

impl World {
    fn new(address: SocketAddr, change: impl FnOnce(&mut TargetGroup)) -> Self {
        let mut group = group(TargetProtocol::Http, vec![target(address)]);
        group.health_check.interval_seconds = 1;
        group.health_check.timeout_seconds = 1;
        change(&mut group);
        let assignment = assignment(vec![listener(80, ListenerProtocol::Tcp)], vec![group]);
        let edge = Edge::new(assignment, Certificates::new()).unwrap();
        let changes = watch::Sender::new(0);
        let changed = changes.subscribe();
        let mut tasks = JoinSet::new();
        tasks.spawn(Health::new(Arc::clone(&edge), changes).run());
        Self { edge, changed, _tasks: tasks }
    }

    /// What is reported once the target is in that state.
    async fn comes_to(&mut self, state: TargetState) -> TargetObservation {
        loop {
            self.changed.borrow_and_update();
            let seen = observations(&self.edge.live());
            if seen[0].state == state {
                return seen[0].clone();
            }
            self.changed.changed().await.unwrap();
        }
    }
}

#[tokio::test]
async fn one_success_is_enough_and_the_request_is_elbs() {
    let (address, seen, _tasks) = play("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    let mut world = World::new(address, |group| group.health_check.path = "/health?deep=1".into());
    let observed = world.comes_to(TargetState::Healthy).await;
    assert_eq!((observed.reason, observed.description), (None, None));
    let head = seen.borrow().to_lowercase();
    assert!(head.starts_with("get /health?deep=1 http/1.1\r\n"), "{head}");
    assert!(head.contains(&format!("host: {address}\r\n")), "{head}");
    assert!(head.contains("user-agent: elb-healthchecker/2.0\r\n"), "{head}");
}

#[tokio::test]
async fn a_wrong_code_is_told() {
    let (address, _seen, _tasks) = play("HTTP/1.1 502 Bad\r\nContent-Length: 0\r\n\r\n").await;
    let mut world = World::new(address, |_| {});
    let observed = world.comes_to(TargetState::Unhealthy).await;
    assert_eq!(observed.reason.as_deref(), Some("Target.ResponseCodeMismatch"));
    assert_eq!(observed.description.as_deref(), Some("Health checks failed with these codes: [502]"));
}

#[tokio::test]
async fn a_code_of_the_matcher_is_a_success() {
    let (address, _seen, _tasks) = play("HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n").await;
    let mut world = World::new(address, |group| group.health_check.matcher = "200-299,404".into());
    world.comes_to(TargetState::Healthy).await;
}

#[tokio::test]
async fn a_target_that_does_not_answer_has_timed_out() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut world = World::new(silent.local_addr().unwrap(), |_| {});
    let observed = world.comes_to(TargetState::Unhealthy).await;
    assert_eq!(observed.reason.as_deref(), Some("Target.Timeout"));
    assert_eq!(observed.description.as_deref(), Some("Request timed out"));
}

#[tokio::test]
async fn nobody_there_has_failed() {
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = gone.local_addr().unwrap();
    drop(gone);
    for protocol in [TargetProtocol::Http, TargetProtocol::Tcp] {
        let mut world = World::new(address, |group| group.health_check.protocol = protocol);
        let observed = world.comes_to(TargetState::Unhealthy).await;
        assert_eq!(observed.reason.as_deref(), Some("Target.FailedHealthChecks"), "{protocol:?}");
        assert_eq!(observed.description.as_deref(), Some("Health checks failed"));
    }
}

#[tokio::test]
async fn a_tcp_check_needs_no_answer_and_may_have_a_port_of_its_own() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = silent.local_addr().unwrap().port();
    let mut world = World::new("127.0.0.1:1".parse().unwrap(), |group| {
        group.health_check.protocol = TargetProtocol::Tcp;
        group.health_check.port = Some(port);
    });
    world.comes_to(TargetState::Healthy).await;
}

#[tokio::test]
async fn without_checks_a_target_is_unavailable_and_used() {
    let mut world = World::new("127.0.0.1:1".parse().unwrap(), |group| group.health_check.enabled = false);
    let observed = world.comes_to(TargetState::Unavailable).await;
    assert_eq!(observed.reason.as_deref(), Some("Target.HealthCheckDisabled"));
    assert!(world.edge.targets.all()[0].is_healthy());
}

#[tokio::test]
async fn draining_and_other_zones_targets_are_not_checked() {
    let (address, seen, _tasks) = play("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    let mut world =
        World::new(address, |group| group.targets[0].draining_since = Some(jiff::Timestamp::UNIX_EPOCH));
    let observed = world.comes_to(TargetState::Draining).await;
    assert_eq!(observed.reason.as_deref(), Some("Target.DeregistrationInProgress"));
    let elsewhere = World::new(address, |group| {
        group.targets[0].availability_zone = Some("us-east-1b".into());
    });
    assert_eq!(observations(&elsewhere.edge.live()), []);
    assert_eq!(*seen.borrow(), "");
}

#[tokio::test]
async fn a_target_whose_answers_fail_is_told_apart_from_one_that_is_not_well() {
    for (mitigates, expected) in [(false, Anomaly::Seen), (true, Anomaly::Mitigated)] {
        let world = World::new("127.0.0.1:1".parse().unwrap(), |group| {
            group.health_check.enabled = false;
            group.anomaly_mitigation = mitigates;
        });
        let anomaly = || observations(&world.edge.live())[0].anomaly;
        assert_eq!(anomaly(), Anomaly::None);
        (0..20).for_each(|_| world.edge.targets.all()[0].answered(true));
        assert_eq!(anomaly(), expected);
        (0..400).for_each(|_| world.edge.targets.all()[0].answered(false));
        assert_eq!(anomaly(), Anomaly::None);
    }
}

#[tokio::test]
async fn grpc_has_codes_of_its_own() {
    use http_body_util::{BodyExt, StreamBody};
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let service =
                hyper::service::service_fn(|request: http::Request<hyper::body::Incoming>| async move {
                    assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
                    assert_eq!(request.method(), http::Method::POST);
                    let asked = request.into_body().collect().await.unwrap().to_bytes();
                    assert_eq!(asked[..], [0, 0, 0, 0, 0]);
                    let mut trailers = http::HeaderMap::new();
                    trailers.insert("grpc-status", http::HeaderValue::from_static("12"));
                    let frames =
                        [Ok::<_, std::io::Error>(hyper::body::Frame::<bytes::Bytes>::trailers(trailers))];
                    let body = StreamBody::new(futures_util::stream::iter(frames));
                    Ok::<_, std::io::Error>(http::Response::new(body))
                });
            let io = hyper_util::rt::TokioIo::new(stream);
            let executor = hyper_util::rt::TokioExecutor::new();
            tokio::spawn(hyper::server::conn::http2::Builder::new(executor).serve_connection(io, service));
        }
    });
    let check = |matcher: &'static str| {
        move |group: &mut TargetGroup| {
            group.protocol_version = ProtocolVersion::Grpc;
            group.health_check.path = "/grpc.health.v1.Health/Check".into();
            group.health_check.matcher = matcher.into();
        }
    };
    World::new(address, check("0-12")).comes_to(TargetState::Healthy).await;
    let observed = World::new(address, check("0")).comes_to(TargetState::Unhealthy).await;
    assert_eq!(observed.description.as_deref(), Some("Health checks failed with these codes: [12]"));
}
