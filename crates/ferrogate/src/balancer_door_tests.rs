use ferrogate_nodeapi::{Action, BalancerAttributes, BalancerKind, Listener, TaskNetwork};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

fn listener(port: u16, protocol: ListenerProtocol) -> Listener {
    Listener {
        listener_arn: format!("listener/{port}"),
        port,
        protocol,
        ssl_policy: None,
        certificate_arns: Vec::new(),
        alpn_policy: None,
        mtls_passthrough: false,
        tcp_idle_timeout_seconds: 350,
        header_attributes: Vec::new(),
        rules: Vec::new(),
        default_action: Action::FixedResponse { status: 200, content_type: None, body: String::new() },
    }
}

fn balancer(
    name: &str,
    region: &str,
    public_ip: Option<Ipv4Addr>,
    listeners: Vec<Listener>,
) -> BalancerAssignment {
    BalancerAssignment {
        load_balancer_arn: format!("arn:{region}:{name}"),
        name: name.into(),
        account: "123456789012".into(),
        region: region.into(),
        availability_zone: format!("{region}a"),
        kind: BalancerKind::Application,
        dns_name: format!("{name}-1234567890.{region}.elb.amazonaws.com"),
        network: TaskNetwork {
            eni_id: "eni-1".into(),
            vpc_id: "vpc-1".into(),
            subnet_id: "subnet-1".into(),
            mac: "0a:00:00:00:00:01".into(),
            private_ip: Ipv4Addr::new(172, 31, 0, 9),
            subnet_cidr: "172.31.0.0/20".parse().unwrap(),
            gateway: Ipv4Addr::new(172, 31, 0, 1),
            dns_servers: Vec::new(),
            dns_search: Vec::new(),
            hostname: String::new(),
        },
        public_ip,
        generation: 1,
        attributes: BalancerAttributes::default(),
        listeners,
        target_groups: Vec::new(),
    }
}

const PUBLIC: Ipv4Addr = Ipv4Addr::new(127, 64, 0, 9);

fn web(region: &str) -> BalancerAssignment {
    let listeners = vec![
        listener(443, ListenerProtocol::Https),
        listener(80, ListenerProtocol::Http),
        listener(8080, ListenerProtocol::Http),
    ];
    balancer("web", region, Some(PUBLIC), listeners)
}

#[test]
fn by_short_and_by_whole_name() {
    let all = [web("us-east-1")];
    for host in ["web.elb.localhost", "web-1234567890.us-east-1.elb.amazonaws.com"] {
        assert_eq!(target(&all, host).unwrap(), "127.64.0.9:80".parse().unwrap());
    }
    let failure = target(&all, "wob.elb.localhost").unwrap_err();
    assert_eq!(failure.status, StatusCode::NOT_FOUND);
    assert!(failure.why.contains("there are web"), "{}", failure.why);
}

#[test]
fn a_name_of_two_regions_is_told_apart_by_the_whole_one() {
    let all = [web("us-east-1"), web("eu-west-1")];
    assert_eq!(target(&all, "web.elb.localhost").unwrap_err().status, StatusCode::MISDIRECTED_REQUEST);
    assert!(target(&all, "web-1234567890.eu-west-1.elb.amazonaws.com").is_ok());
}

#[test]
fn internal_balancers_stay_inside() {
    let all = [balancer("inner", "us-east-1", None, vec![listener(80, ListenerProtocol::Http)])];
    assert_eq!(target(&all, "inner.elb.localhost").unwrap_err().status, StatusCode::FORBIDDEN);
}

#[test]
fn port_80_or_the_only_plain_one() {
    let of = |listeners| port(&balancer("b", "us-east-1", Some(PUBLIC), listeners));
    let http = |port| listener(port, ListenerProtocol::Http);
    assert_eq!(of(vec![http(8080)]), Some(8080));
    assert_eq!(of(vec![http(8080), listener(443, ListenerProtocol::Https)]), Some(8080));
    assert_eq!(of(vec![http(8080), http(8081)]), None);
    assert_eq!(of(vec![http(8080), http(80)]), Some(80));
    assert_eq!(of(vec![listener(443, ListenerProtocol::Https)]), None);
    assert_eq!(of(vec![]), None);
    let failure = no_port(&balancer("b", "us-east-1", Some(PUBLIC), vec![http(1), http(2)]), PUBLIC);
    assert!(failure.why.contains("127.64.0.9, port 1 or 2"), "{}", failure.why);
}

#[test]
fn the_host_of_a_request() {
    let of = |uri: &'static str, header: &'static str| {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, HeaderValue::from_static(header));
        host(&Uri::from_static(uri), &headers)
    };
    assert_eq!(of("/", "Web.elb.localhost:4566").as_deref(), Some("web.elb.localhost"));
    assert_eq!(of("/", "web.elb.localhost.").as_deref(), Some("web.elb.localhost"));
    assert_eq!(of("http://a.elb.localhost:1/x", "b").as_deref(), Some("a.elb.localhost"));
}

/// A door, served as the front serves it, to a target on loopback that the test plays.
async fn served(target: SocketAddr) -> SocketAddr {
    let SocketAddr::V4(target) = target else { panic!("{target}") };
    let listeners = vec![listener(target.port(), ListenerProtocol::Http)];
    let all = Arc::new(vec![balancer("web", "us-east-1", Some(*target.ip()), listeners)]);
    let (publisher, balancers) = watch::channel(all);
    let door = Arc::new(BalancerDoor::new(balancers));
    let front = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = front.local_addr().unwrap();
    tokio::spawn(async move {
        let _publisher = publisher;
        let (stream, peer) = front.accept().await.unwrap();
        let service = hyper::service::service_fn(move |request: Request<Incoming>| {
            let door = Arc::clone(&door);
            async move {
                let (parts, body) = request.into_parts();
                assert!(door.takes(&parts));
                Ok::<_, io::Error>(door.serve(Request::from_parts(parts, body), peer).await)
            }
        });
        let server = hyper::server::conn::http1::Builder::new();
        // The test's client ends when it has seen enough.
        let _ = server.serve_connection(TokioIo::new(stream), service).with_upgrades().await;
    });
    address
}

async fn head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap().to_lowercase()
}

#[tokio::test]
async fn a_request_goes_on_as_it_came_and_its_body_is_streamed() {
    let target = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut client = TcpStream::connect(served(target.local_addr().unwrap()).await).await.unwrap();
    let request = "POST /a%20b?c=d HTTP/1.1\r\nHost: web.elb.localhost:4566\r\nX-Forwarded-For: 192.0.2.1\r\n\
                   Transfer-Encoding: chunked\r\n\r\n3\r\none\r\n";
    client.write_all(request.as_bytes()).await.unwrap();
    let (mut balancer, _) = target.accept().await.unwrap();
    let seen = head(&mut balancer).await;
    assert!(seen.starts_with("post /a%20b?c=d http/1.1\r\n"), "{seen}");
    assert!(seen.contains("host: web.elb.localhost:4566\r\n"), "{seen}");
    // The balancer is the one that adds to it.
    assert!(seen.contains("x-forwarded-for: 192.0.2.1\r\n"), "{seen}");
    let mut chunk = [0; 8];
    balancer.read_exact(&mut chunk).await.unwrap();
    assert_eq!(&chunk, b"3\r\none\r\n", "before the client has sent the rest");
    balancer.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\ntwo\r\n").await.unwrap();
    let answer = head(&mut client).await;
    assert!(answer.starts_with("http/1.1 200 ok\r\n"), "{answer}");
    client.read_exact(&mut chunk).await.unwrap();
    assert_eq!(&chunk, b"3\r\ntwo\r\n", "before the balancer has sent the rest");
}

#[tokio::test]
async fn a_connection_that_is_upgraded_is_the_clients_and_the_balancers() {
    let target = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut client = TcpStream::connect(served(target.local_addr().unwrap()).await).await.unwrap();
    let request =
        "GET /chat HTTP/1.1\r\nHost: web.elb.localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    client.write_all(request.as_bytes()).await.unwrap();
    let (mut balancer, _) = target.accept().await.unwrap();
    let seen = head(&mut balancer).await;
    assert!(seen.contains("upgrade: websocket\r\n") && seen.contains("connection: upgrade\r\n"), "{seen}");
    let answer = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    balancer.write_all(answer).await.unwrap();
    let answer = head(&mut client).await;
    assert!(answer.starts_with("http/1.1 101 "), "{answer}");
    assert!(answer.contains("upgrade: websocket\r\n"), "{answer}");
    let mut heard = [0; 4];
    client.write_all(b"ping").await.unwrap();
    balancer.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"ping");
    balancer.write_all(b"pong").await.unwrap();
    client.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"pong");
}

#[tokio::test]
async fn a_balancer_that_does_not_answer_is_told_with_what_to_look_at() {
    let gone = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = gone.local_addr().unwrap();
    drop(gone);
    let mut client = TcpStream::connect(served(address).await).await.unwrap();
    let request = "GET / HTTP/1.1\r\nHost: web.elb.localhost\r\nConnection: close\r\n\r\n";
    client.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
    assert!(answer.contains("security group"), "{answer}");
}
