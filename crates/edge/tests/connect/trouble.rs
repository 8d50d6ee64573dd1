//! Instances that fail: what is tried again, what is left alone, what takes too long.

use std::time::Duration;

use ferrogate_nodeapi::AppProtocol;
use http::{Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use hyper::body::Frame;
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::*;

#[tokio::test]
async fn nobody_is_there() {
    let world = World::new(Called::by(AppProtocol::Http), &[]);
    let answer = world.get("/").await;
    assert_eq!((answer.status, answer.whole), (503, true));
    assert!(answer.body.contains("no healthy upstream") && answer.body.contains("shop"), "{answer:?}");
    let world = World::new(Called::by(AppProtocol::Grpc), &[]);
    let request = Request::post("http://shop/a.B/C").header(header::CONTENT_TYPE, "application/grpc");
    let response = soon(world.http2().await.send_request(request.body(text("")).unwrap())).await.unwrap();
    assert_eq!(
        (response.status(), &response.headers()["grpc-status"]),
        (StatusCode::OK, &"14".parse().unwrap())
    );
    assert!(response.headers()["grpc-message"].to_str().unwrap().contains("no healthy upstream"));
}

#[tokio::test]
async fn an_instance_that_takes_no_connection_is_gone_around() {
    let there = Instance::http(|request| async move {
        let body = request.into_body().collect().await.expect("a body").to_bytes();
        Response::new(text(body))
    })
    .await;
    let world = World::new(Called::by(AppProtocol::Http), &[nobody().await, there.address, nobody().await]);
    for number in 0..6 {
        // Nothing of it has left: it may be anything.
        let body = format!("order {number}");
        let answer = world.ask("POST", "/", &body).await;
        assert_eq!((answer.status, answer.body), (200, body));
    }
    assert_eq!(there.count(), 6);
    // And three times is all.
    let world = World::new(Called::by(AppProtocol::Http), &[nobody().await]);
    let answer = world.get("/").await;
    assert_eq!(answer.status, 503);
    assert!(answer.body.contains("took the connection"), "{answer:?}");
}

#[tokio::test]
async fn what_may_have_been_done_is_not_done_twice() {
    let (ill, well) = (Instance::says(503, "ill").await, Instance::says(200, "well").await);
    let world = World::new(Called::by(AppProtocol::Http), &[ill.address, well.address]);
    for _ in 0..2 {
        assert_eq!(world.get("/").await.body, "well");
    }
    let mut said = Vec::new();
    for _ in 0..4 {
        said.push(world.ask("POST", "/", "order").await.body);
    }
    said.sort();
    assert_eq!(said, ["ill", "ill", "well", "well"]);
    // Three times is all.
    let ill = Instance::says(503, "ill").await;
    let world = World::new(Called::by(AppProtocol::Http), &[ill.address]);
    let answer = world.get("/").await;
    assert_eq!((answer.status, answer.body.as_str(), ill.count()), (503, "ill", 3));
}

#[tokio::test]
async fn a_connection_that_is_reset_before_the_response() {
    let ill = Instance::raw(|mut connection| async move {
        let mut some = [0; 16];
        let _ = connection.read(&mut some).await;
        let _ = SockRef::from(&connection).set_linger(Some(Duration::ZERO));
    })
    .await;
    let well = Instance::says(200, "well").await;
    let world = World::new(Called::by(AppProtocol::Http), &[ill.address, well.address]);
    assert_eq!(world.get("/").await.body, "well");
    assert_eq!(world.ask("DELETE", "/", "").await.body, "well");
    let mut statuses = Vec::new();
    for _ in 0..2 {
        statuses.push(world.ask("POST", "/", "order").await.status);
    }
    statuses.sort();
    assert_eq!(statuses, [200, 503]);
}

#[tokio::test]
async fn one_that_fails_is_left_alone() {
    let (ill, well) = (Instance::says(500, "ill").await, Instance::says(200, "well").await);
    let world = World::new(Called::by(AppProtocol::Http), &[ill.address, well.address]);
    for _ in 0..30 {
        world.get("/").await;
    }
    assert_eq!((ill.count(), well.count()), (5, 25));
    // Never the last one.
    let alone = World::new(Called::by(AppProtocol::Http), &[ill.address]);
    for _ in 0..10 {
        assert_eq!(alone.get("/").await.status, 500);
    }
}

#[tokio::test]
async fn grpc_says_at_the_end_that_it_failed() {
    let answers = |status: &'static str| {
        Instance::http(move |_| async move {
            let (sender, body) = channel();
            sender.send(Frame::data("part".into())).await.unwrap();
            sender.send(Frame::trailers(grpc(status))).await.unwrap();
            let mut response = Response::new(body);
            response.headers_mut().insert(header::CONTENT_TYPE, "application/grpc".parse().unwrap());
            response
        })
    };
    // NOT_FOUND is an answer, UNAVAILABLE is none.
    let (ill, well) = (answers("14").await, answers("5").await);
    let world = World::new(Called::by(AppProtocol::Grpc), &[ill.address, well.address]);
    let mut client = world.http2().await;
    for _ in 0..30 {
        let request = Request::post("http://shop/a.B/C").header(header::CONTENT_TYPE, "application/grpc");
        let response = soon(client.send_request(request.body(text("")).unwrap())).await.unwrap();
        let whole = soon(response.into_body().collect()).await.unwrap();
        assert!(whole.trailers().is_some_and(|trailers| trailers.contains_key("grpc-status")));
    }
    assert_eq!((ill.count(), well.count()), (5, 25));
}

#[tokio::test]
async fn an_answer_that_does_not_come() {
    let silent = Instance::http(|_| async { std::future::pending().await }).await;
    let called = Called { per_request_seconds: Some(1), ..Called::by(AppProtocol::Http) };
    let world = World::new(called, &[silent.address]);
    let answer = world.get("/").await;
    assert_eq!((answer.status, silent.count()), (504, 1));
    assert!(answer.body.contains("upstream request timeout"), "{answer:?}");
    // Without that time it is the idle one.
    let called =
        Called { per_request_seconds: Some(0), idle_seconds: Some(1), ..Called::by(AppProtocol::Http) };
    let world = World::new(called, &[silent.address]);
    assert_eq!(world.get("/").await.status, 504);
}

#[tokio::test]
async fn an_answer_that_does_not_end() {
    let (kept, mut keep) = tokio::sync::mpsc::unbounded_channel();
    let endless = Instance::http(move |_| {
        let kept = kept.clone();
        async move {
            let (sender, body) = channel();
            sender.send(Frame::data("begin".into())).await.unwrap();
            kept.send(sender).unwrap();
            Response::new(body)
        }
    })
    .await;
    let called = Called { per_request_seconds: Some(1), ..Called::by(AppProtocol::Http) };
    let world = World::new(called, &[endless.address]);
    let answer = world.get("/").await;
    assert!(answer.status == 200 && answer.body.contains("begin") && !answer.whole, "{answer:?}");
    assert!(keep.recv().await.is_some());
}

#[tokio::test]
async fn a_client_that_says_nothing_more() {
    let instance = Instance::says(200, "well").await;
    let called = Called { idle_seconds: Some(1), ..Called::by(AppProtocol::Http) };
    let world = World::new(called, &[instance.address]);
    let mut connection = TcpStream::connect(world.alias).await.unwrap();
    connection.write_all(b"GET / HTTP/1.1\r\nHost: shop\r\n\r\n").await.unwrap();
    // It is not asked to close.
    let answer = Answer::read(&mut connection).await;
    assert_eq!((answer.status, answer.body.as_str()), (200, "well"));
}

#[tokio::test]
async fn a_kept_connection_that_the_instance_closed() {
    // It answers once a connection, and closes without a word of it.
    let instance = Instance::raw(|mut connection| async move {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let Ok(byte) = connection.read_u8().await else { return };
            head.push(byte);
        }
        let _ = connection.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nwell").await;
    })
    .await;
    let world = World::new(Called::by(AppProtocol::Http), &[instance.address]);
    for _ in 0..20 {
        assert_eq!(world.get("/").await.body, "well");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_at_once_while_instances_come_go_and_fail() {
    const CLIENTS: usize = 40;
    const REQUESTS: usize = 40;
    let (one, other) = (Instance::says(200, "well").await, Instance::says(200, "well").await);
    let ill = Instance::raw(|mut connection| async move {
        let mut some = [0; 16];
        let _ = connection.read(&mut some).await;
        let _ = SockRef::from(&connection).set_linger(Some(Duration::ZERO));
    })
    .await;
    let mut world = World::new(Called::by(AppProtocol::Http), &[one.address, other.address, ill.address]);
    let alias = world.alias;
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..CLIENTS {
        clients.spawn(async move {
            let mut connection = TcpStream::connect(alias).await.unwrap();
            for _ in 0..REQUESTS {
                connection.write_all(b"GET / HTTP/1.1\r\nHost: shop\r\n\r\n").await.unwrap();
                let mut answer = Vec::new();
                while !answer.ends_with(b"\r\n\r\nwell") {
                    let read = soon(connection.read_buf(&mut answer)).await.unwrap();
                    assert!(read > 0, "{}", String::from_utf8_lossy(&answer));
                }
                assert!(answer.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&answer));
            }
        });
    }
    let lists = [
        vec![one.address, ill.address],
        vec![ill.address, other.address],
        vec![other.address, one.address],
        vec![one.address, ill.address, other.address],
    ];
    for list in lists.iter().cycle() {
        tokio::select! {
            ended = clients.join_next() => match ended {
                Some(ended) => ended.unwrap(),
                None => break,
            },
            () = tokio::task::yield_now() => world.instances(list),
        }
    }
    assert!(one.count() + other.count() >= CLIENTS * REQUESTS);
}
