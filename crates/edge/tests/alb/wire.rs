//! HTTP/1 to targets, down to the byte: what they may say that is unusual and right, and clients that say no more.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::support::*;

const REQUEST: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

#[tokio::test]
async fn informational_responses_are_passed_over() {
    let backend = Backend::new(|request| {
        let count = if request.path() == "/endless" { 100 } else { 3 };
        let hints = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n".repeat(count);
        Act::Send(format!("{hints}HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").into_bytes())
    })
    .await;
    let balancer = Balancer::start(&[&backend], |_| {});
    let reply = balancer.get("/").await;
    assert_eq!((reply.status, reply.text(), reply.header("link")), (200, "ok", None));
    assert_eq!(balancer.get("/endless").await.status, 502);
}

#[tokio::test]
async fn old_servers_are_understood() {
    let backend = Backend::new(|request| match request.path() {
        "/old" => Act::SendAndClose(b"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\nall there is".to_vec()),
        "/lines" => Act::Send(b"HTTP/1.1 200 OK\nContent-Length: 5\n\nlines".to_vec()),
        _ => Act::Send(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4  \r\nwiki\r\n3;a=b\r\nped\r\n0\r\nT: v\r\n\r\n".to_vec(),
        ),
    })
    .await;
    let balancer = Balancer::start(&[&backend], |_| {});
    let mut client = balancer.connect().await;
    for (path, text) in
        [("/padded", "wikiped"), ("/lines", "lines"), ("/old", "all there is"), ("/lines", "lines")]
    {
        client.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")).await;
        let reply = client.reply().await;
        assert_eq!((reply.status, reply.text()), (200, text), "{path}");
    }
    let connections: Vec<usize> = backend.seen().iter().map(|request| request.connection).collect();
    let [first, second, third, fourth] = connections[..] else { panic!("{connections:?}") };
    assert!(first == second && second == third && third != fourth, "{connections:?}");
}

/// What a target says of itself goes through as it came; what it says of its hop does not.
#[tokio::test]
async fn fields_of_a_response_go_through() {
    let backend = Backend::new(|request| match request.path() {
        "/named" => Act::Send(
            b"HTTP/1.1 200 Fine\r\nETag: \"x\"\r\nSet-Cookie: a=1\r\nset-cookie:b=2\r\nX-Hop: 1\r\nX-Empty:\r\nKeep-Alive: timeout=5\r\n\
              Connection: keep-alive, x-hop, Content-Length\r\nProxy-Connection: a\r\nContent-Length: 2\r\n\r\nok"
                .to_vec(),
        ),
        "/dated" => Act::Send(
            b"HTTP/1.1 200 OK\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\nServer: mine\r\nContent-Length: 0\r\n\r\n".to_vec(),
        ),
        _ => Act::Send(b"HTTP/1.1 204 No Content\r\nContent-Length: 3\r\n\r\n".to_vec()),
    })
    .await;
    let balancer = Balancer::start(&[&backend], |_| {});
    let mut client = balancer.connect().await;
    client.send("GET /named HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let reply = client.reply().await;
    assert_eq!(reply.text(), "ok");
    assert!(reply.head.starts_with("HTTP/1.1 200 Fine\r\n"), "{}", reply.head);
    for line in ["ETag: \"x\"\r\n", "Set-Cookie: a=1\r\n", "set-cookie: b=2\r\n", "X-Empty: \r\n", "Date: "] {
        assert!(reply.head.contains(line), "{line}: {}", reply.head);
    }
    for name in ["x-hop", "connection", "keep-alive", "proxy-connection"] {
        assert_eq!(reply.header(name), None, "{}", reply.head);
    }
    client.send("GET /dated HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let reply = client.reply().await;
    assert_eq!(reply.header("date"), Some("Sun, 06 Nov 1994 08:49:37 GMT"));
    assert_eq!((reply.header("server"), reply.head.matches("Date").count()), (Some("mine"), 1));
    client.send("GET /none HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let reply = client.reply().await;
    assert_eq!((reply.status, reply.header("content-length")), (204, None));
}

#[tokio::test]
async fn old_clients_are_understood() {
    let backend = Backend::new(|request| match request.path() {
        "/chunks" => {
            Act::Send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nwiki\r\n0\r\n\r\n".to_vec())
        }
        _ => ok("whole"),
    })
    .await;
    let balancer = Balancer::start(&[&backend], |_| {});
    let mut client = balancer.connect().await;
    client.send("GET /whole HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n").await;
    let reply = client.reply().await;
    assert_eq!((reply.text(), reply.header("connection")), ("whole", Some("keep-alive")));
    assert!(reply.head.starts_with("HTTP/1.0 200 OK\r\n"), "{}", reply.head);
    // One that knows no chunks is told the end by the end.
    client.send("GET /chunks HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n").await;
    let rest = String::from_utf8(client.rest().await).unwrap();
    assert!(rest.starts_with("HTTP/1.0 200 OK\r\n") && rest.ends_with("\r\n\r\nwiki"), "{rest}");
    assert!(!rest.to_ascii_lowercase().contains("transfer-encoding"), "{rest}");
}

/// Long ones are not copied on their way.
#[tokio::test]
async fn a_long_body_comes_whole() {
    let body: Vec<u8> = (0..2_000_000_u32).map(|at| (at % 251) as u8).collect();
    let (sent, chunk) = (body.clone(), body.len() / 2);
    let backend = Backend::new(move |request| {
        let mut response = b"HTTP/1.1 200 OK\r\n".to_vec();
        if request.path() == "/chunks" {
            response.extend_from_slice(b"Transfer-Encoding: chunked\r\n\r\n");
            for half in sent.chunks(chunk) {
                response.extend_from_slice(format!("{:x}\r\n", half.len()).as_bytes());
                response.extend_from_slice(half);
                response.extend_from_slice(b"\r\n");
            }
            response.extend_from_slice(b"0\r\n\r\n");
        } else {
            response.extend_from_slice(format!("Content-Length: {}\r\n\r\n", sent.len()).as_bytes());
            response.extend_from_slice(&sent);
        }
        Act::Send(response)
    })
    .await;
    let balancer = Balancer::start(&[&backend], |_| {});
    let mut client = balancer.connect().await;
    for path in ["/chunks", "/length", "/chunks"] {
        client.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")).await;
        assert!(client.reply().await.body == body, "{path}");
    }
}

/// It closes with a reset, since it read nothing of the body; what it said before that is its answer.
#[tokio::test]
async fn a_target_that_refuses_a_body_unread_has_answered() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = target(listener.local_addr().unwrap());
    let serving = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        // Something of the body is there, and stays unread.
        stream.peek(&mut [0]).await.unwrap();
        stream.write_all(b"HTTP/1.1 413 Payload Too Large\r\nContent-Length: 3\r\n\r\nbig").await.unwrap();
    });
    let balancer = Balancer::start(&[], |assignment| assignment.target_groups[0].targets = vec![at]);
    let mut client = balancer.connect().await;
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nbegin").await;
    let reply = client.reply().await;
    assert_eq!((reply.status, reply.text()), (413, "big"));
    serving.await.unwrap();
}

/// Its request is whole; what it has closed is the side it says no more on.
#[tokio::test]
async fn a_client_that_closes_its_half_gets_its_answers() {
    let backend = Backend::named("fine").await;
    let balancer = Balancer::start(&[&backend], |_| {});
    let mut client = balancer.connect().await;
    client.send(format!("{REQUEST}POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc")).await;
    client.shut().await;
    for _ in 0..2 {
        let reply = client.reply().await;
        assert_eq!((reply.status, reply.text()), (200, "fine"));
    }
    assert_eq!(client.rest().await, b"");
    for line in balancer.log(2).await {
        assert!(line.contains(" 200 200 "), "{line}");
    }
}

/// It does not differ from one that went away, and is not waited for for long.
#[tokio::test]
async fn a_client_that_closes_its_half_and_is_not_answered_soon_is_460() {
    let backend = Backend::new(|_| Act::Hang).await;
    let balancer = Balancer::start(&[&backend], |_| {});
    let mut client = balancer.connect().await;
    client.send(REQUEST).await;
    client.shut().await;
    assert_eq!(client.rest().await, b"");
    let line = balancer.log(1).await.remove(0);
    assert!(line.contains(" 460 - "), "{line}");
    assert_eq!(balancer.edge.targets.all()[0].outstanding(), 0);
}
