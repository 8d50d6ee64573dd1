use ferrogate_nodeapi::*;

use crate::support::*;

#[tokio::test]
async fn a_request_reaches_its_target_with_what_alb_adds() {
    let backend = Backend::named("hello").await;
    let balancer = Balancer::start(&[&backend], |_| {});
    let request = "GET /a/b?c=d HTTP/1.1\r\nHost: web.example.com\r\nX-Forwarded-For: 203.0.113.9\r\n\
                   X-Forwarded-Proto: gopher\r\nConnection: keep-alive, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: 5\r\nTE: gzip\r\n\r\n";
    let reply = balancer.ask(request).await;
    assert_eq!((reply.status, reply.text()), (200, "hello"));
    assert!(reply.header("date").is_some());
    let got = backend.last();
    assert_eq!(got.line(), "GET /a/b?c=d HTTP/1.1");
    let port = balancer.address.port();
    assert_eq!(got.header("host"), Some(&*format!("web.example.com:{port}")));
    assert_eq!(got.header("x-forwarded-for"), Some("203.0.113.9, 127.0.0.1"));
    assert_eq!(got.header("x-forwarded-proto"), Some("http"));
    assert_eq!(got.header("x-forwarded-port"), Some(&*port.to_string()));
    assert!(got.header("x-amzn-trace-id").unwrap().starts_with("Root=1-"));
    for hop in ["connection", "x-hop", "keep-alive", "te", "transfer-encoding", "content-length"] {
        assert_eq!(got.header(hop), None, "{hop}");
    }
}

#[tokio::test]
async fn attributes_change_the_headers() {
    let backend =
        Backend::new(|_| Act::Send(b"HTTP/1.1 200 OK\r\nServer: mine\r\nContent-Length: 0\r\n\r\n".to_vec()))
            .await;
    let balancer = Balancer::start(&[&backend], |assignment| {
        assignment.attributes.preserve_host_header = true;
        assignment.attributes.xff_header_processing = XffProcessing::Preserve;
        assignment.attributes.drop_invalid_header_fields = true;
        assignment.listeners[0].header_attributes = vec![
            ("routing.http.response.server.enabled".into(), "false".into()),
            ("routing.http.response.x_frame_options.header_value".into(), "DENY".into()),
        ];
    });
    let request = "GET / HTTP/1.1\r\nHost: Web.Example.Com\r\nX-Forwarded-For: a\r\nx_under: 1\r\n\r\n";
    let reply = balancer.ask(request).await;
    assert_eq!((reply.header("server"), reply.header("x-frame-options")), (None, Some("DENY")));
    let got = backend.last();
    assert_eq!(got.header("host"), Some("Web.Example.Com"));
    assert_eq!((got.header("x-forwarded-for"), got.header("x_under")), (Some("a"), None));
    balancer.change(|assignment| {
        assignment.attributes.xff_header_processing = XffProcessing::Remove;
        assignment.attributes.drop_invalid_header_fields = false;
    });
    balancer.ask(request).await;
    let got = backend.last();
    assert_eq!((got.header("x-forwarded-for"), got.header("x_under")), (None, Some("1")));
    balancer.change(|assignment| {
        assignment.attributes.xff_header_processing = XffProcessing::Append;
        assignment.attributes.xff_client_port = true;
    });
    balancer.ask(request).await;
    assert!(backend.last().header("x-forwarded-for").unwrap().starts_with("a, 127.0.0.1:"));
}

#[tokio::test]
async fn rules_choose_by_priority_and_actions_answer() {
    let (auth, other) = (Backend::named("auth").await, Backend::named("other").await);
    let balancer = Balancer::start(&[&other], |assignment| {
        assignment.target_groups.push(group("tg/auth", vec![target(auth.address)]));
        let redirect = Action::Redirect {
            protocol: "HTTPS".into(),
            host: "#{host}".into(),
            port: "443".into(),
            path: "/new/#{path}".into(),
            query: "#{query}".into(),
            status: 301,
        };
        assignment.listeners[0].rules = vec![
            rule(30, vec![path("/auth/old*")], fixed(503, "never")),
            rule(10, vec![path("/auth/old*")], redirect),
            rule(20, vec![path("/auth/*")], forward(&[("tg/auth", 1)])),
            rule(40, vec![path("/down")], fixed(503, "we are down")),
        ];
    });
    assert_eq!(balancer.get("/auth/login").await.text(), "auth");
    assert_eq!(balancer.get("/").await.text(), "other");
    let reply = balancer.get("/auth/old?x=1").await;
    assert_eq!(
        (reply.status, reply.header("location")),
        (301, Some("https://web.example.com:443/new/auth/old?x=1"))
    );
    assert!(reply.text().contains("<center><h1>301 Moved Permanently</h1></center>"));
    let reply = balancer.get("/down").await;
    assert_eq!((reply.status, reply.text()), (503, "we are down"));
    assert_eq!(reply.header("content-type"), Some("text/plain; charset=utf-8"));
    assert_eq!(reply.header("server"), Some("awselb/2.0"));
    let lines = balancer.log(4).await;
    assert!(
        lines[2].contains(" 10 ")
            && lines[2].contains("\"redirect\" \"https://web.example.com:443/new/auth/old?x=1\""),
        "{}",
        lines[2]
    );
    assert!(lines[1].contains(" 0 ") && lines[1].contains("\"forward\""), "{}", lines[1]);
}

#[tokio::test]
async fn a_transform_rewrites_what_the_target_sees() {
    let backend = Backend::named("x").await;
    let balancer = Balancer::start(&[&backend], |assignment| {
        let mut rewriting = rule(1, vec![path("/api/*")], forward(&[(GROUP, 1)]));
        rewriting.transforms = vec![
            Transform::UrlRewrite { regex: "^/api/(.*)$".into(), replace: "/v1/$1".into() },
            Transform::HostHeaderRewrite {
                regex: "^(.*)\\.example\\.com$".into(),
                replace: "$1.internal".into(),
            },
        ];
        assignment.listeners[0].rules.push(rewriting);
    });
    balancer.get("/api/users?id=1").await;
    assert_eq!(backend.last().line(), "GET /v1/users?id=1 HTTP/1.1");
    assert_eq!(backend.last().header("host"), Some("web.internal"));
    let line = balancer.log(1).await.remove(0);
    assert!(line.ends_with("\"web.internal\" \"/v1/users?id=1\" \"TransformSuccess\""), "{line}");
}

#[tokio::test]
async fn round_robin_is_even_over_connections_and_workers() {
    let (one, two, three) = (Backend::named("1").await, Backend::named("2").await, Backend::named("3").await);
    let balancer = Balancer::start(&[&one, &two, &three], |_| {});
    for _ in 0..30 {
        assert_eq!(balancer.get("/").await.status, 200);
    }
    for backend in [&one, &two, &three] {
        assert_eq!(backend.seen().len(), 10);
    }
}

#[tokio::test]
async fn connections_to_a_target_are_used_again() {
    let backend = Backend::named("x").await;
    let balancer = Balancer::start(&[&backend], |_| {});
    let mut client = balancer.connect().await;
    for _ in 0..20 {
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert_eq!(client.reply().await.text(), "x");
    }
    assert_eq!(backend.seen().len(), 20);
    assert!(backend.last().connection <= 1, "{} connections for one client", backend.last().connection + 1);
}

#[tokio::test]
async fn bodies_are_streamed_both_ways() {
    let backend = Backend::new(|request| {
        let mut response = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
        for chunk in request.body.chunks(10_000) {
            response.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
            response.extend_from_slice(chunk);
            response.extend_from_slice(b"\r\n");
        }
        response.extend_from_slice(b"0\r\n\r\n");
        Act::Send(response)
    })
    .await;
    let balancer = Balancer::start(&[&backend], |_| {});
    let body: Vec<u8> = (0..3_000_000_u32).map(|at| (at % 251) as u8).collect();
    let mut client = balancer.connect().await;
    client.send(format!("POST /len HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len())).await;
    client.send(&body).await;
    assert!(client.reply().await.body == body);
    assert_eq!(backend.last().header("content-length"), Some("3000000"));
    client.send("POST /chunks HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    for chunk in body.chunks(100_000) {
        client.send(format!("{:x};ext=1\r\n", chunk.len())).await;
        client.send(chunk).await;
        client.send("\r\n").await;
    }
    client.send("0\r\nTrailer: x\r\n\r\n").await;
    assert!(client.reply().await.body == body);
    assert_eq!(backend.last().header("transfer-encoding"), Some("chunked"));
}

#[tokio::test]
async fn head_204_304_and_empty_posts_keep_their_framing() {
    let backend = Backend::new(|request| match request.path() {
        "/204" => Act::Send(b"HTTP/1.1 204 No Content\r\n\r\n".to_vec()),
        "/304" => Act::Send(b"HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\n\r\n".to_vec()),
        "/head" => Act::Send(b"HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n".to_vec()),
        _ => ok("end"),
    })
    .await;
    let balancer = Balancer::start(&[&backend], |_| {});
    let mut client = balancer.connect().await;
    client.send("HEAD /head HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let reply = client.reply_to_head().await;
    assert_eq!((reply.status, reply.header("content-length")), (200, Some("1234")));
    for status in [204, 304] {
        client.send(format!("GET /{status} HTTP/1.1\r\nHost: a\r\n\r\n")).await;
        assert_eq!(client.reply().await.status, status);
    }
    client.send("POST /post HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n").await;
    assert_eq!(client.reply().await.text(), "end");
    assert_eq!(backend.last().header("content-length"), Some("0"));
}

#[tokio::test]
async fn expect_continue_is_answered_here() {
    let backend = Backend::named("got it").await;
    let balancer = Balancer::start(&[&backend], |_| {});
    let mut client = balancer.connect().await;
    client.send("POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n").await;
    assert_eq!(client.reply().await.status, 100);
    client.send("body").await;
    assert_eq!(client.reply().await.text(), "got it");
    assert_eq!((backend.last().header("expect"), &backend.last().body[..]), (None, &b"body"[..]));
}

#[tokio::test]
async fn a_websocket_is_two_streams() {
    let backend = Backend::new(|_| {
        Act::Echo(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: x\r\n\r\n".to_vec())
    })
    .await;
    let balancer = Balancer::start(&[&backend], |_| {});
    let mut client = balancer.connect().await;
    client.send("GET /ws HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: k\r\n\r\n").await;
    let reply = client.reply().await;
    assert_eq!(
        (reply.status, reply.header("upgrade"), reply.header("sec-websocket-accept")),
        (101, Some("websocket"), Some("x"))
    );
    assert_eq!(backend.last().header("connection"), Some("Upgrade"));
    // Bytes that are no HTTP at all.
    for frame in [&b"\x81\x05hello\r\n\r\n"[..], &[0; 70_000]] {
        client.send(frame).await;
        assert!(client.some(frame.len()).await == frame);
    }
    client.shut().await;
    assert_eq!(client.rest().await, b"");
    let line = balancer.log(1).await.remove(0);
    assert!(line.starts_with("ws ") && line.contains(" 101 101 "), "{line}");
}

#[tokio::test]
async fn an_upgrade_that_is_refused_leaves_http() {
    let backend = Backend::named("no").await;
    let balancer = Balancer::start(&[&backend], |_| {});
    let mut client = balancer.connect().await;
    for _ in 0..2 {
        client.send("GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n").await;
        assert_eq!(client.reply().await.text(), "no");
    }
}
