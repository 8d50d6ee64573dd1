//! HTTP/1.1, HTTP/2 and gRPC through the proxy.

use std::sync::atomic::Ordering::SeqCst;

use bytes::Bytes;
use ferrogate_nodeapi::{AppProtocol, Split, TestTraffic};
use http::{Request, Response, StatusCode, Version, header};
use http_body_util::BodyExt;
use hyper::body::Frame;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::*;

#[tokio::test]
async fn one_instance_after_the_other() {
    let (one, other) = (Instance::says(200, "one").await, Instance::says(200, "other").await);
    let world = World::new(Called::by(AppProtocol::Http), &[one.address, other.address]);
    let mut heard = Vec::new();
    for _ in 0..6 {
        let answer = world.get("/").await;
        assert_eq!((answer.status, answer.whole), (200, true), "{answer:?}");
        heard.push(answer.body);
    }
    assert_eq!((one.count(), other.count()), (3, 3), "{heard:?}");
    assert!(heard.windows(2).all(|pair| pair[0] != pair[1]), "{heard:?}");
    // Connections to instances are kept.
    assert_eq!((one.connections.load(SeqCst), other.connections.load(SeqCst)), (1, 1));
}

#[tokio::test]
async fn a_request_arrives_as_it_was() {
    let instance = Instance::http(|request| async move {
        let (parts, body) = request.into_parts();
        let whole = body.collect().await.expect("a body").to_bytes();
        let of = |name: &str| parts.headers.get(name).map(|value| value.to_str().unwrap().to_owned());
        let seen = format!(
            "{} {} {:?} {:?} {:?} {:?} {}",
            parts.method,
            parts.uri,
            of("host"),
            of("x-own"),
            of("x-hop"),
            of("connection"),
            String::from_utf8_lossy(&whole)
        );
        Response::new(text(seen))
    })
    .await;
    let world = World::new(Called::by(AppProtocol::Http), &[instance.address]);
    let mut connection = TcpStream::connect(world.alias).await.unwrap();
    // Two on one connection; the first with a body in pieces.
    let requests = "POST /a?b=c HTTP/1.1\r\nHost: shop:8080\r\nX-Own: 1\r\nX-Hop: 2\r\nConnection: x-hop\r\n\
        Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\nGET / HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n";
    connection.write_all(requests.as_bytes()).await.unwrap();
    let mut heard = String::new();
    soon(connection.read_to_string(&mut heard)).await.unwrap();
    assert!(heard.contains(r#"POST /a?b=c Some("shop:8080") Some("1") None None hello"#), "{heard}");
    assert!(heard.contains(r#"GET / Some("shop") None None None "#), "{heard}");
    assert_eq!(instance.connections.load(SeqCst), 1);
}

#[tokio::test]
async fn http2_and_its_trailers() {
    let instance = Instance::http(|request| async move {
        assert_eq!(request.version(), Version::HTTP_2);
        assert_eq!(request.uri().authority().map(|authority| authority.as_str()), Some("shop"));
        assert_eq!(request.headers().get(header::TE).map(|te| te.as_bytes()), Some(&b"trailers"[..]));
        let (sender, body) = channel();
        tokio::spawn(async move {
            let said = request.into_body().collect().await.expect("a body").to_bytes();
            let _ = sender.send(Frame::data(said)).await;
            let _ = sender.send(Frame::trailers(grpc("0"))).await;
        });
        let mut response = Response::new(body);
        response.headers_mut().insert(header::CONTENT_TYPE, "application/grpc".parse().unwrap());
        response
    })
    .await;
    let world = World::new(Called::by(AppProtocol::Grpc), &[instance.address]);
    let mut client = world.http2().await;
    for _ in 0..3 {
        let request = Request::post("http://shop/pkg.Service/Method")
            .header(header::CONTENT_TYPE, "application/grpc")
            .header(header::TE, "trailers")
            .body(text("question"))
            .unwrap();
        let response = soon(client.send_request(request)).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        let whole = soon(response.into_body().collect()).await.unwrap();
        assert_eq!(whole.trailers().and_then(|trailers| trailers.get("grpc-status")).unwrap(), "0");
        assert_eq!(whole.to_bytes(), Bytes::from("question"));
    }
    assert_eq!((instance.count(), instance.connections.load(SeqCst)), (3, 1));
}

#[tokio::test]
async fn a_stream_both_ways_outlives_the_time_for_a_response() {
    // The time runs once the request is whole.
    let instance = Instance::http(|request| async move {
        let (sender, body) = channel();
        tokio::spawn(async move {
            let mut incoming = request.into_body();
            while let Some(Ok(frame)) = incoming.frame().await {
                if sender.send(frame).await.is_err() {
                    return;
                }
            }
        });
        Response::new(body)
    })
    .await;
    let called = Called { per_request_seconds: Some(1), ..Called::by(AppProtocol::Http2) };
    let world = World::new(called, &[instance.address]);
    let (sender, body) = channel();
    let request = Request::post("http://shop/").body(body).unwrap();
    let mut client = world.http2().await;
    sender.send(Frame::data("a".into())).await.unwrap();
    let response = soon(client.send_request(request)).await.unwrap();
    let mut echoed = response.into_body();
    for word in ["b", "c", "d"] {
        assert!(soon(echoed.frame()).await.unwrap().is_ok());
        // Together longer than the time.
        tokio::time::sleep(std::time::Duration::from_millis(400)).await;
        sender.send(Frame::data(word.into())).await.unwrap();
    }
    drop(sender);
    let rest = soon(echoed.collect()).await.unwrap().to_bytes();
    assert_eq!(rest, Bytes::from("d"));
}

#[tokio::test]
async fn an_http1_client_of_an_http2_service() {
    let instance = Instance::http(|request| async move {
        assert_eq!(request.version(), Version::HTTP_2);
        Response::new(text(format!("{}", request.uri())))
    })
    .await;
    let world = World::new(Called::by(AppProtocol::Http2), &[instance.address]);
    let answer = world.get("/a").await;
    assert_eq!((answer.status, answer.body.as_str()), (200, "http://shop/a"), "{answer:?}");
}

#[tokio::test]
async fn web_sockets() {
    let instance = Instance::http(|mut request| async move {
        assert_eq!(request.headers()[header::UPGRADE], "websocket");
        tokio::spawn(async move {
            let upgraded = hyper::upgrade::on(&mut request).await.expect("it is agreed on");
            let (mut reader, mut writer) = tokio::io::split(hyper_util::rt::TokioIo::new(upgraded));
            let _ = tokio::io::copy(&mut reader, &mut writer).await;
        });
        Response::builder()
            .status(StatusCode::SWITCHING_PROTOCOLS)
            .header(header::CONNECTION, "upgrade")
            .header(header::UPGRADE, "websocket")
            .body(text(""))
            .unwrap()
    })
    .await;
    let world = World::new(Called::by(AppProtocol::Http), &[instance.address]);
    let mut connection = TcpStream::connect(world.alias).await.unwrap();
    let ask = "GET / HTTP/1.1\r\nHost: shop\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    connection.write_all(ask.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(soon(connection.read_u8()).await.unwrap());
    }
    assert!(head.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&head));
    connection.write_all(b"anything").await.unwrap();
    let mut echo = [0; 8];
    soon(connection.read_exact(&mut echo)).await.unwrap();
    assert_eq!(&echo, b"anything");
}

#[tokio::test]
async fn instances_come_and_go() {
    let (slow, mut begun) = tokio::sync::mpsc::channel(1);
    let old = Instance::http(move |_| {
        let slow = slow.clone();
        async move {
            let (sender, body) = channel();
            sender.send(Frame::data("begin, ".into())).await.unwrap();
            slow.send(sender).await.unwrap();
            Response::new(body)
        }
    })
    .await;
    let new = Instance::says(200, "new").await;
    let mut world = World::new(Called::by(AppProtocol::Http), &[old.address]);
    let mut connection = TcpStream::connect(world.alias).await.unwrap();
    connection.write_all(b"GET / HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n").await.unwrap();
    let under_way = soon(begun.recv()).await.unwrap();
    world.instances(&[new.address]);
    for _ in 0..4 {
        assert_eq!(world.get("/").await.body, "new");
    }
    under_way.send(Frame::data("end".into())).await.unwrap();
    drop(under_way);
    let answer = Answer::read(&mut connection).await;
    assert!(answer.whole && answer.body.contains("begin, ") && answer.body.contains("end"), "{answer:?}");
    world.instances(&[]);
    assert_eq!(world.get("/").await.status, 503);
    world.instances(&[new.address]);
    assert_eq!(world.get("/").await.body, "new");
}

#[tokio::test]
async fn a_task_is_called_through_its_proxy() {
    let container = Instance::says(200, "own").await;
    let world = World::server(AppProtocol::Http, container.address);
    assert_eq!(world.get("/").await.body, "own");
    let nothing = World::server(AppProtocol::Http, nobody().await);
    assert_eq!(nothing.get("/").await.status, 503);
}

fn shares(blue: u32, green: u32) -> Split {
    let production = [("blue".to_owned(), blue), ("green".to_owned(), green)].into();
    let test = TestTraffic { revision: "green".into(), header: "x-test".into(), value: Some("yes".into()) };
    Split { production, test: Some(test) }
}

#[tokio::test]
async fn a_revision_gets_its_share_and_its_tests() {
    let (blue, green) = (Instance::says(200, "blue").await, Instance::says(200, "green").await);
    let mut world = World::new(Called::by(AppProtocol::Http), &[]);
    let both = [(blue.address, "blue"), (green.address, "green")];
    world.split(&both, shares(1000, 0));
    for _ in 0..4 {
        assert_eq!(world.get("/").await.body, "blue");
        assert_eq!(world.ask_with("X-Test: yes\r\n", "GET", "/", "").await.body, "green");
        assert_eq!(world.ask_with("X-Test: no\r\n", "GET", "/", "").await.body, "blue");
    }
    // By shares; a half each of a hundred is never none of them.
    world.split(&both, shares(500, 500));
    let before = (blue.count(), green.count());
    for _ in 0..100 {
        assert_eq!(world.get("/").await.status, 200);
    }
    let (to_blue, to_green) = (blue.count() - before.0, green.count() - before.1);
    assert!(to_blue > 10 && to_green > 10, "{to_blue} {to_green}");
    // A revision without an instance loses nothing to nobody; one without traffic takes nothing over.
    world.split(&[(blue.address, "blue")], shares(1000, 0));
    assert_eq!(world.ask_with("X-Test: yes\r\n", "GET", "/", "").await.body, "blue");
    world.split(&[(green.address, "green")], shares(1000, 0));
    assert_eq!(world.get("/").await.status, 503);
    world.split(&both, shares(0, 1000));
    for _ in 0..4 {
        assert_eq!(world.get("/").await.body, "green");
    }
}
