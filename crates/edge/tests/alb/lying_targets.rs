//! Targets that hang, reset, or say what is not so.

use ferrogate_nodeapi::*;

use crate::support::*;

fn page(status: u16, title: &str) -> String {
    format!(
        "<html>\r\n<head><title>{status} {title}</title></head>\r\n<body>\r\n<center><h1>{status} {title}</h1></center>\r\n</body>\r\n</html>\r\n"
    )
}

#[tokio::test]
async fn what_cannot_be_had_from_a_target_is_502() {
    for act in [
        || Act::Reset,
        || Act::SendAndClose(vec![]),
        || Act::SendAndClose(b"HTTP/1.1 200 OK\r\nContent-Le".to_vec()),
        || Act::Send(b"ICY 200 OK\r\n\r\n".to_vec()),
        || Act::Send(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx".to_vec()),
        || Act::Send(b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n".to_vec()),
        || Act::Send(format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "a".repeat(200_000)).into_bytes()),
        || {
            Act::Send(
                b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n".to_vec(),
            )
        },
    ] {
        let backend = Backend::new(move |_| act()).await;
        let balancer = Balancer::start(&[&backend], |_| {});
        let reply = balancer.get("/").await;
        assert_eq!((reply.status, reply.text()), (502, &*page(502, "Bad Gateway")));
        assert_eq!(backend.seen().len(), 1, "it is asked once");
    }
    let nobody = Backend::refusing().await;
    let balancer = Balancer::start(&[&nobody], |_| {});
    assert_eq!(balancer.get("/").await.status, 502);
    let metrics = balancer.edge.metrics.drain();
    let sum = |name: &str, arn: Option<&str>| {
        let found = metrics.iter().find(|it| it.name == name && it.target_group_arn.as_deref() == arn);
        found.map_or(0.0, |metric| metric.sum)
    };
    assert_eq!(sum("TargetConnectionErrorCount", None), 1.0);
    assert_eq!(sum("TargetConnectionErrorCount", Some(GROUP)), 1.0);
    assert_eq!(sum("HTTPCode_ELB_502_Count", None), 1.0);
    assert_eq!(sum("RequestCount", Some(GROUP)), 1.0);
}

#[tokio::test]
async fn a_target_that_hangs_is_504_after_the_idle_timeout() {
    let backend = Backend::new(|_| Act::Hang).await;
    let balancer = Balancer::start(&[&backend], |assignment| assignment.attributes.idle_timeout_seconds = 1);
    let reply = balancer.get("/").await;
    assert_eq!((reply.status, reply.text()), (504, &*page(504, "Gateway Time-out")));
    assert_eq!(balancer.edge.targets.all()[0].outstanding(), 0);
}

#[tokio::test]
async fn no_target_is_503_and_no_healthy_one_is_all_of_them() {
    let balancer = Balancer::start(&[], |_| {});
    let reply = balancer.get("/").await;
    assert_eq!((reply.status, reply.text()), (503, &*page(503, "Service Temporarily Unavailable")));
    assert_eq!(reply.header("content-type"), Some("text/html"));
    let (one, two) = (Backend::named("1").await, Backend::named("2").await);
    let balancer = Balancer::start(&[&one, &two], |_| {});
    let by_address = |address| {
        let all = balancer.edge.targets.all();
        all.into_iter().find(|target| target.address() == address).unwrap()
    };
    by_address(one.address).set_health(TargetState::Unhealthy, None, None);
    for _ in 0..4 {
        assert_eq!(balancer.get("/").await.text(), "2");
    }
    by_address(two.address).set_health(TargetState::Unhealthy, None, None);
    for _ in 0..4 {
        balancer.get("/").await;
    }
    assert_eq!(one.seen().len(), 2, "fail-open goes to all");
}

#[tokio::test]
async fn a_response_that_ends_early_ends_early_for_the_client() {
    let backend = Backend::new(|request| match request.path() {
        "/length" => Act::SendAndClose(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this".to_vec()),
        _ => {
            Act::SendAndClose(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n".to_vec())
        }
    })
    .await;
    let balancer = Balancer::start(&[&backend], |_| {});
    for path in ["/length", "/chunked"] {
        let mut client = balancer.connect().await;
        client.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")).await;
        let got = String::from_utf8(client.rest().await).unwrap();
        assert!(got.starts_with("HTTP/1.1 200 OK"), "{got}");
        assert!(!got.ends_with("0\r\n\r\n"), "an end was made up: {got}");
    }
}

#[tokio::test]
async fn what_follows_a_response_never_reaches_another_client() {
    // More than the length says: a response queued for the next request.
    let evil =
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil";
    let backend = Backend::new(|_| Act::Send(evil.to_vec())).await;
    let balancer = Balancer::start(&[&backend], |_| {});
    let mut client = balancer.connect().await;
    for _ in 0..5 {
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let reply = client.reply().await;
        assert!(reply.status == 502 || reply.text() == "ok", "{reply:?}");
        if reply.header("connection") == Some("close") {
            client = balancer.connect().await;
        }
    }
}

#[tokio::test]
async fn a_response_before_the_end_of_the_request_is_relayed() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let early = target(listener.local_addr().unwrap());
    let server = tokio::spawn(async move {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut some = [0; 64];
        stream.read_exact(&mut some).await.unwrap();
        stream.write_all(b"HTTP/1.1 413 Payload Too Large\r\nContent-Length: 3\r\n\r\nbig").await.unwrap();
        // It goes on taking what comes, as a polite server does.
        tokio::io::copy(&mut stream, &mut tokio::io::sink()).await.ok();
    });
    let balancer = Balancer::start(&[], |assignment| assignment.target_groups[0].targets = vec![early]);
    let mut client = balancer.connect().await;
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nbegin").await;
    let reply = client.reply().await;
    assert_eq!((reply.status, reply.text()), (413, "big"));
    server.abort();
}

#[tokio::test]
async fn a_connection_that_the_target_closed_meanwhile_costs_no_get_but_is_not_tried_twice_for_a_post() {
    // The first request of each connection is answered; the second one meets a close.
    let backend = Backend::new({
        let seen = std::sync::Mutex::new(std::collections::HashSet::new());
        move |request| {
            if seen.lock().unwrap().insert(request.connection) { ok("first") } else { Act::Reset }
        }
    })
    .await;
    let balancer = Balancer::start(&[&backend], |_| {});
    let mut client = balancer.connect().await;
    for _ in 0..6 {
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert_eq!(client.reply().await.text(), "first");
    }
    let before = backend.seen().iter().filter(|request| request.line().starts_with("POST")).count();
    assert_eq!(before, 0);
    client.send("POST /once HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx").await;
    let reply = client.reply().await;
    let posts = backend.seen().iter().filter(|request| request.line().starts_with("POST")).count();
    assert_eq!(posts, 1, "a POST left once, whatever came of it: {}", reply.status);
}
